use super::*;

/// Calls `check` with (N_s, N_c, base) for everything a server may grant.
fn for_every_plan(mut check: impl FnMut(u8, u8, u8)) {
    for server_workers in 1..=WORKERS_MAX as u8 {
        for client_workers in 1..=WORKERS_MAX as u8 {
            for base in 0..WORKERS_MAX as u8 {
                if is_granted(server_workers, client_workers, base) {
                    check(server_workers, client_workers, base);
                }
            }
        }
    }
}

/// The rule of the specification, spelled apart from the code.
fn is_granted(server_workers: u8, client_workers: u8, base: u8) -> bool {
    if client_workers >= server_workers {
        return base == 0;
    }
    base.is_multiple_of(client_workers) && base + client_workers <= server_workers
}

fn both_sides(server_workers: u8, client_workers: u8, base: u8) -> (LanePlan, LanePlan) {
    let plan = |role| LanePlan::new(role, server_workers, client_workers, base).unwrap();
    (plan(Role::Server), plan(Role::Client))
}

/// The one worker of `plan`'s side that receives `lane`; panics if there is none or another.
fn receiver(plan: &LanePlan, lane: u8) -> usize {
    let mut receivers =
        (0..usize::from(plan.own_workers())).filter(|worker| plan.receives(*worker, lane));
    let receiver = receivers.next().expect("a sent lane is received");
    assert_eq!(receivers.next(), None, "lane {lane} has two receivers in {plan:?}");
    receiver
}

/// Which far worker receives what each worker of `from` sends, having checked that no two workers
/// send on one lane and that both sides name the same path.
fn deliveries(from: &LanePlan, to: &LanePlan) -> Vec<usize> {
    let mut taken = [false; 256];
    (0..usize::from(from.own_workers()))
        .map(|worker| {
            let lane = from.send_lane(worker);
            assert!(usize::from(lane) < WORKERS_MAX);
            assert!(!taken[usize::from(lane)], "lane {lane} has two senders in {from:?}");
            taken[usize::from(lane)] = true;
            assert_eq!(from.send_path(worker), to.path_of_received_lane(lane));
            receiver(to, lane)
        })
        .collect()
}

#[test]
fn every_lane_has_one_sender_and_one_receiver_and_flows_settle_after_one_move() {
    for_every_plan(|server_workers, client_workers, base| {
        let (server, client) = both_sides(server_workers, client_workers, base);
        let to_server = deliveries(&client, &server);
        let to_client = deliveries(&server, &client);
        // On the server a flow has a worker for good, whichever that is. The first of its packets
        // moves the flow to the client's worker that receives it, and all that the client sends
        // then reaches one worker: the same, where the client has as many or more.
        for (own, far) in to_client.iter().enumerate() {
            let back = to_server[*far];
            let expected = match client_workers >= server_workers {
                true => own,
                false => usize::from(base) + own % usize::from(client_workers),
            };
            assert_eq!(back, expected, "server worker {own} of {server:?}");
        }
        // On a path, the client's worker is the path.
        for (worker, path_owner) in to_client.iter().enumerate() {
            assert_eq!(usize::from(server.send_path(worker)), *path_owner);
        }
    });
}

#[test]
fn lanes_that_nobody_sends_on_are_not_received() {
    for_every_plan(|server_workers, client_workers, base| {
        let (server, client) = both_sides(server_workers, client_workers, base);
        let end = base + client_workers;
        for lane in [base.wrapping_sub(1), end, 127, 128, 255] {
            if !(base..end).contains(&lane) {
                let received = (0..server_workers.into()).any(|j| server.receives(j, lane));
                assert!(!received, "lane {lane} by {server:?}");
            }
        }
        for lane in [server_workers, 128, 255] {
            let received = (0..client_workers.into()).any(|w| client.receives(w, lane));
            assert!(!received, "lane {lane} by {client:?}");
        }
    });
}

#[test]
fn a_plan_is_made_exactly_for_the_bases_that_may_be_granted() {
    for server_workers in 0..=130 {
        for client_workers in 0..=130 {
            for base in [0, 1, 2, 3, 4, 6, 60, 64, 96, 126, 127, 128, 255] {
                let plan = LanePlan::new(Role::Server, server_workers, client_workers, base);
                let possible = |workers| (1..=128).contains(&workers);
                let expected = possible(server_workers)
                    && possible(client_workers)
                    && base < 128
                    && is_granted(server_workers, client_workers, base);
                assert_eq!(plan.is_ok(), expected, "{server_workers} {client_workers} {base}");
            }
        }
    }
}

#[test]
fn receive_lanes_lists_what_receives_says() {
    let (server, client) = both_sides(2, 3, 0);
    assert_eq!(server.receive_lanes(0).collect::<Vec<_>>(), [0, 2]);
    assert_eq!(server.receive_lanes(1).collect::<Vec<_>>(), [1]);
    assert_eq!(client.receive_lanes(1).collect::<Vec<_>>(), [1]);
    assert_eq!(client.receive_lanes(2).count(), 0);
    let (server, client) = both_sides(8, 2, 4);
    assert_eq!(server.receive_lanes(4).collect::<Vec<_>>(), [4]);
    assert_eq!(server.receive_lanes(6).count(), 0);
    assert_eq!(client.receive_lanes(1).collect::<Vec<_>>(), [1, 3, 5, 7]);
    assert_eq!((client.send_lane(0), client.send_lane(1)), (4, 5));
    assert_eq!((client.own_workers(), client.far_workers()), (2, 8));
    assert_eq!((server.own_workers(), server.far_workers()), (8, 2));
}

#[test]
fn the_base_goes_to_the_least_loaded_workers() {
    // (N_s, N_c, load, base)
    let table: &[(u8, u8, &[u32], u8)] = &[
        /*  1: nothing known   */ (4, 1, &[], 0),
        /*  2: all the same    */ (4, 1, &[3, 3, 3, 3], 0),
        /*  3: one idle        */ (4, 1, &[3, 3, 0, 3], 2),
        /*  4: lowest of equal */ (4, 1, &[2, 1, 1, 1], 1),
        /*  5: sum of a group  */ (4, 2, &[0, 9, 4, 4], 2),
        /*  6: no half group   */ (5, 2, &[9, 9, 8, 9, 0], 2),
        /*  7: as many clients */ (4, 4, &[9, 0, 0, 0], 0),
        /*  8: more clients    */ (2, 3, &[9, 0], 0),
        /*  9: missing are 0   */ (4, 1, &[1, 1], 2),
        /* 10: sums may be big */ (4, 2, &[u32::MAX, u32::MAX, u32::MAX, 0], 2),
    ];
    for (number, (server_workers, client_workers, load, base)) in (1..).zip(table) {
        let granted = grant_base(*server_workers, *client_workers, load);
        assert_eq!(granted, *base, "row {number}");
    }
}

#[test]
fn sessions_granted_one_after_another_spread_over_all_workers() {
    let mut load = [0; 7];
    for _ in 0..30 {
        let base = usize::from(grant_base(7, 2, &load));
        load[base] += 1;
        load[base + 1] += 1;
    }
    assert_eq!(load, [10, 10, 10, 10, 10, 10, 0], "the odd worker has no whole group");
}

#[test]
fn later_workers_of_a_client_may_take_the_parts_and_the_server_sees_no_difference() {
    for_every_plan(|server_workers, client_workers, base| {
        let (server, client) = both_sides(server_workers, client_workers, base);
        let last = WORKERS_MAX as u8 - client_workers;
        for first in [1, last / 2, last] {
            let moved = client.beginning_at(first);
            let first = usize::from(first);
            assert_eq!(moved.participants(), first..first + usize::from(client_workers));
            for (worker, own) in moved.participants().zip(client.participants()) {
                assert_eq!(moved.send_lane(worker), client.send_lane(own));
                assert_eq!(moved.send_path(worker), client.send_path(own));
                for lane in [0, base, server_workers - 1, server_workers, 127, 255] {
                    assert_eq!(moved.receives(worker, lane), client.receives(own, lane));
                }
            }
            if let Some(bystander) = first.checked_sub(1) {
                assert_eq!(moved.receive_lanes(bystander).count(), 0, "{moved:?}");
            }
        }
        assert_eq!(server.beginning_at(1), server, "the kernel hands it lanes by their number");
    });
}
