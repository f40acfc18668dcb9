//! What a peer may do: whom it may talk to, and how fast.

use std::time::Instant;

use super::*;
use crate::limits::{HELD_BLOCKS, LIMIT_CREDIT, LIMIT_QUEUE};
use crate::packet::Parsed;
use crate::policy::bounds::Bounds;
use crate::policy::{Defaults, PeerPolicy, Policies};
use crate::sys::allocations::allocations_in;

pub(super) const OTHER_CLIENT: Ipv4Addr = Ipv4Addr::new(10, 8, 0, 3);
const OTHER_PEER: PeerId = PeerId(8);
const MS: Duration = Duration::from_millis(1);

fn policy(now: Instant, rules: &[&str], bounds: Bounds) -> Arc<PeerPolicy> {
    let rules: Vec<_> = rules.iter().map(|rule| rule.parse().unwrap()).collect();
    Policies::default().compile(now, &"ada", &bounds, &rules, Defaults::default())
}

fn set_policy(server: &mut Side, rules: &[&str], bounds: Bounds) {
    let policy = Some(policy(server.now, rules, bounds));
    server.command(WorkerCommand::SetPolicy { peer: PEER, policy });
}

/// A client and a server, which knows of another client and does as a policy says.
pub(super) fn pair_under(rules: &[&str], bounds: Bounds) -> (Side, Side) {
    let (client, mut server) = pair();
    let others = (IpAddr::from(OTHER_CLIENT).into(), OTHER_PEER);
    let table = PrefixTable::from_entries([(IpAddr::from(CLIENT).into(), PEER), others]);
    server.command(WorkerCommand::SetPrefixes(Arc::new(table)));
    set_policy(&mut server, rules, bounds);
    // Long enough for all the credit that there can be.
    server.now += LIMIT_CREDIT;
    (client, server)
}

fn down(bps: u64) -> Bounds {
    Bounds { down_bps: Some(bps), ..Bounds::default() }
}

fn up(bps: u64) -> Bounds {
    Bounds { up_bps: Some(bps), ..Bounds::default() }
}

/// A packet whose far end, the server's side, has this port.
fn packet_at(port: u16, from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    let mut packet = udp_packet(from, to, 100);
    let at = if from == CLIENT { 22 } else { 20 };
    packet[at..at + 2].copy_from_slice(&port.to_be_bytes());
    frame(&packet)
}

/// Whether packets pass from the client to a far end, and back.
fn passes(client: &mut Side, server: &mut Side, address: Ipv4Addr, port: u16) -> (bool, bool) {
    let sealed = client.encapsulate(packet_at(port, CLIENT, address));
    assert_eq!(sealed.len(), 1);
    let there = server.decapsulate(&sealed, 1000, 0).len();
    let back = server.encapsulate(packet_at(port, address, CLIENT)).len();
    (there == 1, back == 1)
}

#[test]
fn rules_hold_in_both_directions_and_change_at_once() {
    let (mut client, mut server) = pair_under(&["allow 10.8.0.1 53/udp"], Bounds::default());
    for _ in 0..2 {
        assert_eq!(passes(&mut client, &mut server, SERVER, 53), (true, true));
        assert_eq!(passes(&mut client, &mut server, SERVER, 54), (false, false));
        assert_eq!(
            passes(&mut client, &mut server, Ipv4Addr::new(10, 8, 0, 4), 53),
            (false, false)
        );
    }
    server.assert_only_drop(DropReason::AclDenied, 8);
    set_policy(&mut server, &["deny any 53/udp", "allow any"], Bounds::default());
    assert_eq!(passes(&mut client, &mut server, SERVER, 53), (false, false));
    assert_eq!(passes(&mut client, &mut server, SERVER, 54), (true, true));
    server.command(WorkerCommand::SetPolicy { peer: PEER, policy: None });
    assert_eq!(passes(&mut client, &mut server, SERVER, 53), (true, true));
}

#[test]
fn a_session_that_is_installed_later_has_the_policy_it_comes_with() {
    let (mut client, mut server) = pair_under(&[], Bounds::default());
    let later = |role| {
        let [up, down] = [[3; 32], [4; 32]].map(|bytes| Arc::new(LaneSecret::new(bytes)));
        let (local, remote) = (SessionIndex(21), SessionIndex(22));
        match role {
            Role::Client => SessionInstall {
                local,
                remote,
                send_secret: up,
                receive_secret: down,
                ..install(role, 1, 1)
            },
            Role::Server => SessionInstall {
                local: remote,
                remote: local,
                send_secret: down,
                receive_secret: up,
                policy: Some(policy(clock::now(), &["deny any"], Bounds::default())),
                ..install(role, 1, 1)
            },
        }
    };
    assert_eq!(passes(&mut client, &mut server, SERVER, 53), (true, true));
    for (side, role) in [(&mut client, Role::Client), (&mut server, Role::Server)] {
        side.command(WorkerCommand::InstallSession(Box::new(later(role))));
    }
    assert_eq!(passes(&mut client, &mut server, SERVER, 53), (false, false));
}

#[test]
fn peers_are_kept_apart_until_a_rule_names_the_other_or_it_moves() {
    let (mut client, mut server) = pair_under(&["allow any"], Bounds::default());
    assert_eq!(passes(&mut client, &mut server, OTHER_CLIENT, 53), (false, false));
    assert_eq!(passes(&mut client, &mut server, SERVER, 53), (true, true));
    set_policy(&mut server, &["allow 10.8.0.3 53/udp"], Bounds::default());
    assert_eq!(passes(&mut client, &mut server, OTHER_CLIENT, 53), (true, true));
    assert_eq!(passes(&mut client, &mut server, OTHER_CLIENT, 54), (false, false));

    set_policy(&mut server, &[], Bounds::default());
    let far = Ipv4Addr::new(10, 8, 0, 9);
    assert_eq!(passes(&mut client, &mut server, far, 53), (true, true));
    let entries = [(IpAddr::from(CLIENT).into(), PEER), (IpAddr::from(far).into(), OTHER_PEER)];
    let table = Arc::new(PrefixTable::from_entries(entries));
    server.command(WorkerCommand::SetPrefixes(table));
    assert_eq!(passes(&mut client, &mut server, far, 53), (false, false), "it is a peer's now");
    assert_eq!(passes(&mut client, &mut server, OTHER_CLIENT, 53), (true, true));
}

/// A packet of 1000 bytes, 1 ms at 8 Mbit/s.
fn kilobyte(from: Ipv4Addr, to: Ipv4Addr, number: u8) -> Vec<u8> {
    let mut packet = udp_packet(from, to, 972);
    packet[28] = number;
    frame(&packet)
}

#[test]
fn packets_to_a_peer_wait_for_their_turn_and_keep_their_order() {
    let (mut client, mut server) = pair_under(&[], down(8_000_000));
    let burst = LIMIT_CREDIT.as_millis() as u8 + 1;
    let (mut at_once, mut later) = (0, 0);
    let queue = LIMIT_QUEUE.as_millis() as u8;
    for number in 0..200 {
        let sealed = server.encapsulate(kilobyte(SERVER, CLIENT, number));
        at_once += sealed.len() as u8;
        later += client.decapsulate(&sealed, 4500, 0).len();
    }
    // The bucket was full: the workers' clock has run for longer than the credit.
    assert_eq!((at_once, later), (burst, usize::from(burst)));
    server.assert_only_drop(DropReason::RateExceeded, u64::from(200 - burst - queue));
    let start = server.now;
    for ms in 1..=queue {
        server.now = start + u32::from(ms) * MS - MS / 10;
        assert!(server.release().0.is_empty(), "{ms}: too early");
        server.now = start + u32::from(ms) * MS;
        let (sealed, _) = server.release();
        let expected = kilobyte(SERVER, CLIENT, ms + burst - 1);
        assert_eq!(client.decapsulate(&sealed, 4500, 0), [expected]);
        assert_eq!(server.forwarder.next_release(true), None, "the socket has no room");
    }
    assert_eq!(server.forwarder.next_release(false), None);
    let session = server.forwarder.tables.session(SERVER_INDEX).unwrap();
    assert_eq!(session.usage.totals().sent_bytes, 1000 * u64::from(burst + queue));
}

#[test]
fn packets_from_a_peer_wait_for_their_turn_as_super_packets() {
    let (mut client, mut server) = pair_under(&[], up(8_000_000));
    let mut whole = Vec::new();
    for number in 0..8 {
        let sealed = client.encapsulate(tcp_super_packet(10_000));
        let written = server.decapsulate(&sealed, 1000, 0);
        assert_eq!(written.len(), usize::from(number == 0), "{number}");
        whole.extend(written.into_iter().flatten());
    }
    assert_eq!(whole.len(), tcp_super_packet(10_000).len());
    let session = server.forwarder.tables.session(SERVER_INDEX).unwrap();
    let used = session.usage.totals().received_bytes;
    let headers = (whole.len() - VIRTIO_HEADER_LEN - 10_000) as u64;
    let packets = session.usage.totals().received_packets / 8;
    let each = 10_000 + headers * packets;
    assert!(packets > 7);
    // One at once; then those whose turn comes within the queue, begun with the credit.
    let taken = 1 + (LIMIT_QUEUE + LIMIT_CREDIT).as_micros() as u64 / each;
    assert_eq!(used, taken * each);
    server.assert_only_drop(DropReason::RateExceeded, (8 - taken) * packets);
    let start = server.now;
    let paid = |count: u64| Duration::from_micros(count * each) - LIMIT_CREDIT;
    for count in 1..taken {
        server.now = start + paid(count) - MS / 100;
        assert!(server.release().1.is_empty(), "{count}");
        server.now = start + paid(count) + MS / 100;
        assert_eq!(server.release().1, [whole.clone()], "{count}");
    }
}

#[test]
fn a_super_packet_that_has_waited_is_split_if_the_device_refuses_it() {
    let (mut client, mut server) = pair_under(&[], up(8_000_000));
    let whole = tcp_super_packet(10_000);
    for _ in 0..2 {
        let sealed = client.encapsulate(whole.clone());
        server.decapsulate(&sealed, 1000, 0);
    }
    server.tun.refuse_super_packets = true;
    server.now += LIMIT_QUEUE;
    let (_, singles) = server.release();
    assert_eq!((singles.len(), server.counters.tun_fallbacks.get()), (10, 1));
    let payload: Vec<u8> = singles.iter().flat_map(|it| it[50..].iter().copied()).collect();
    assert_eq!(payload, whole[50..], "all of it, in order");
    for single in &singles {
        let parsed = Parsed::parse(&single[VIRTIO_HEADER_LEN..]).unwrap();
        assert_eq!((parsed.payload_len(), &single[..VIRTIO_HEADER_LEN]), (1000, &[0; 10][..]));
    }
    assert!(!server.forwarder.coalescer.options().tcp, "it is not asked again");
}

#[test]
fn a_long_queue_is_told_to_those_who_listen() {
    let (mut client, mut server) = pair_under(&[], down(8_000_000));
    let mut marks = Vec::new();
    let start = server.now;
    for number in 0..50 {
        let mut packet = kilobyte(SERVER, CLIENT, number);
        crate::packet::ecn::set(
            &mut packet[VIRTIO_HEADER_LEN..],
            crate::packet::IpVersion::V4,
            crate::packet::ecn::ECT_0,
        );
        server.encapsulate(packet);
    }
    server.wire.ecn.clear();
    for ms in 1..=44 {
        server.now = start + ms * MS;
        let (sealed, _) = server.release();
        marks.append(&mut server.wire.ecn);
        assert_eq!(client.decapsulate(&sealed, 4500, 0).len(), 1);
    }
    let half = LIMIT_QUEUE.as_millis() as usize / 2;
    assert!(marks[..half].iter().all(|mark| *mark == 2), "{marks:?}");
    assert!(marks[half..].iter().all(|mark| *mark == 3), "{marks:?}");
    assert_eq!(client.dropped_in_all(), 0);
}

#[test]
fn what_waits_for_a_peer_that_is_gone_goes_nowhere() {
    for bounds in [up(8_000_000), down(8_000_000)] {
        let (mut client, mut server) = pair_under(&[], bounds);
        for number in 0..10 {
            let sealed = client.encapsulate(kilobyte(CLIENT, SERVER, number));
            server.decapsulate(&sealed, 1000, 0);
            server.encapsulate(kilobyte(SERVER, CLIENT, number));
        }
        server.command(WorkerCommand::RemoveSession { session: SERVER_INDEX });
        server.now += LIMIT_QUEUE;
        assert_eq!(server.release(), (vec![], vec![]));
        let reason = if bounds.up_bps.is_some() {
            DropReason::SessionUnknown
        } else {
            DropReason::NoSession
        };
        server.assert_only_drop(reason, 4);
        assert_eq!(server.forwarder.next_release(false), None);
    }
}

#[test]
fn all_workers_draw_on_one_limit() {
    let shared = policy(clock::now(), &[], down(8_000_000));
    let mut sent = 0;
    let mut workers: Vec<_> = (0..2)
        .map(|_| {
            let (_, mut server) = pair();
            let policy = Some(Arc::clone(&shared));
            server.command(WorkerCommand::SetPolicy { peer: PEER, policy });
            server
        })
        .collect();
    let now = workers[0].now + 10 * MS;
    for number in 0..100 {
        let worker = &mut workers[usize::from(number % 2)];
        worker.now = now;
        sent += worker.encapsulate(kilobyte(SERVER, CLIENT, number)).len();
    }
    for worker in &mut workers {
        worker.now = now + LIMIT_QUEUE;
        sent += worker.release().0.len();
    }
    assert_eq!(sent, LIMIT_CREDIT.as_millis() as usize + 1 + LIMIT_QUEUE.as_millis() as usize);
}

#[test]
fn memory_that_others_need_is_not_taken_by_tiny_packets() {
    let (_, mut server) = pair_under(&[], down(1_000_000_000));
    for _ in 0..2 * HELD_BLOCKS {
        server.encapsulate(frame(&udp_packet(SERVER, CLIENT, 1000)));
    }
    assert!(server.dropped(DropReason::WaitingRoomFull) > 0);
    let other = policy(server.now, &[], down(1_000_000));
    let room = server.forwarder.waiting.as_ref().unwrap();
    assert!(room.has_room(other.down.as_ref().unwrap(), 65_535));
}

#[test]
fn judging_waiting_and_leaving_allocate_nothing() {
    let bounds = Bounds { up_bps: Some(80_000_000), ..down(80_000_000) };
    let (mut client, mut server) = pair_under(&["allow any tcp", "allow any udp"], bounds);
    for _ in 0..100 {
        let sealed = client.encapsulate(ping(CLIENT, SERVER));
        server.decapsulate(&sealed, 1000, 0);
        server.encapsulate(ping(SERVER, CLIENT));
    }
    let mut whole = tcp_super_packet(60_000);
    whole[22..26].copy_from_slice(&SERVER.octets());
    whole[26..30].copy_from_slice(&CLIENT.octets());
    let mut waited = 0;
    for _ in 0..20 {
        let mut sink = crate::dataplane::testing::MemoryTun::default();
        server.wire.blocked = true;
        let Side { forwarder, wire, now, .. } = &mut server;
        *now += 5 * MS;
        forwarder.begin_turn(*now);
        let mut frames = [whole.clone(), ping(SERVER, CLIENT), ping(OTHER_CLIENT, CLIENT)];
        let allocated = allocations_in(|| {
            for frame in &mut frames {
                forwarder.encapsulate(frame, wire, &mut sink);
            }
            while forwarder.release_to_wire(wire, &mut sink) {
                waited += 1;
                forwarder.outbound[0].clear();
            }
            forwarder.outbound[0].clear();
        });
        assert_eq!(allocated, 0);
    }
    assert!(waited > 5);
}
