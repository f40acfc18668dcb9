//! A client whose UDP loses much goes on by a carrier, if that does better, and comes back.

use super::carrier::{returns, told, use_carrier};
use super::connecting::current_session;
use super::*;
use crate::limits::{LOSS_LINGER, LOSSY_AGAIN_FIRST, UDP_HOLD_LOSSY, UDP_TRIAL_MAX};

/// How soon it is noticed that UDP loses too much, where connections do not fall silent.
const NOTICED_WITHIN: Duration = Duration::from_secs(12);

/// A world whose client watches UDP, and has traffic.
fn watched(server_workers: u8, client_workers: u8) -> World {
    let mut world = World::connected(server_workers, client_workers);
    let now = world.clocks(Who::Client);
    world.client.engine.watch_udp(now, true);
    world.traffic = Some(ms(20));
    world.run_for(SECOND * 3);
    world
}

fn losses(world: &World) -> usize {
    told(world, |event| matches!(event, EngineEvent::UdpLossy { .. }))
}

/// Runs on, with a carrier whenever one is wanted. How often that was.
fn run_with_carriage(world: &mut World, span: Duration) -> usize {
    let wishes = |world: &World| {
        told(world, |event| {
            matches!(event, EngineEvent::UdpLossy { .. } | EngineEvent::UdpSilent { .. })
        })
    };
    let (end, first) = (world.elapsed() + span, wishes(world));
    while world.elapsed() < end {
        let before = wishes(world);
        if world.run_until(end - world.elapsed(), |world| wishes(world) > before).is_some() {
            use_carrier(world, Some(RELAY));
        }
    }
    wishes(world) - first
}

#[test]
fn a_lossy_way_is_left_and_come_back_to() {
    for (server, client) in [(1, 1), (2, 2), (4, 2), (1, 3)] {
        let mut world = watched(server, client);
        let session = current_session(&world);
        world.weather.loss = 0.3;
        let took = world.run_until(NOTICED_WITHIN, |world| losses(world) == 1);
        assert!(took > Some(SECOND * 2), "{server} and {client} workers: {took:?}");
        use_carrier(&mut world, Some(RELAY));
        world.run_for(SECOND * 60);
        assert_eq!(world.client.engine.carrier(), Some(RELAY), "it stays there");
        assert_eq!(returns(&world), 0);
        world.weather.loss = 0.0;
        let within = UDP_TRIAL_MAX + UDP_HOLD_LOSSY + SECOND;
        let took = world.run_until(within, |world| returns(world) == 1);
        // A few trials have succeeded before.
        assert!(took >= Some(UDP_HOLD_LOSSY / 2), "{server} and {client} workers: {took:?}");
        assert_eq!(world.client.engine.carrier(), None);
        assert_eq!((current_session(&world), world.client.connects()), (session, 1));
    }
}

#[test]
fn little_loss_is_no_reason_to_leave() {
    for loss in [0.0, 0.01, 0.03] {
        let mut world = watched(2, 2);
        world.weather.loss = loss;
        world.run_for(SECOND * 600);
        assert_eq!(losses(&world), 0, "{loss}");
    }
}

#[test]
fn a_carrier_that_loses_as_much_is_given_up_ever_longer() {
    let mut world = watched(2, 2);
    world.weather.loss = 0.3;
    let mut wishes = Vec::new();
    for round in 1..=3 {
        let took = world.run_until(SECOND * 600, |world| losses(world) == round);
        wishes.push(took.unwrap());
        use_carrier(&mut world, Some(RELAY));
        // It works half of the time.
        let given_up = (0..300).any(|_| {
            world.carrier_works = !world.carrier_works;
            world.run_for(ms(70));
            world.client.engine.carrier().is_none()
        });
        assert!(given_up, "round {round}");
        world.carrier_works = true;
    }
    assert!(wishes[1] > LOSSY_AGAIN_FIRST && wishes[2] > wishes[1] + LOSSY_AGAIN_FIRST);
    assert_eq!(returns(&world), 0);
}

#[test]
fn loss_that_comes_and_goes_does_not_make_a_client_flap() {
    let mut world = watched(1, 1);
    let mut changes = 0;
    // Bad for ten seconds in each half minute, for half an hour.
    for _ in 0..60 {
        world.weather.loss = 0.5;
        changes += run_with_carriage(&mut world, SECOND * 10);
        world.weather.loss = 0.0;
        changes += run_with_carriage(&mut world, SECOND * 20);
    }
    assert!((1..=4).contains(&changes), "{changes} changes");
}

#[test]
fn loss_is_not_asked_after_where_nothing_is_carried() {
    let mut world = watched(2, 2);
    world.traffic = None;
    world.run_for(LOSS_LINGER + SECOND * 13);
    let before = world.captured.len();
    world.weather.loss = 0.5;
    world.run_for(SECOND * 60);
    assert_eq!(world.captured.len(), before);
    assert_eq!(losses(&world), 0);
}

#[test]
fn a_path_that_is_cut_is_no_loss_of_the_way() {
    let mut world = watched(2, 2);
    world.filter = Box::new(|_, packet| packet.path() == Some(1));
    world.run_for(SECOND * 25);
    assert_eq!(losses(&world), 0);
    assert!(told(&world, |event| matches!(event, EngineEvent::PathsReduced { .. })) > 0);
}

#[test]
fn a_client_that_lost_its_session_amid_traffic_rests_between_its_tries() {
    let mut world = watched(2, 2);
    // After a goodbye something was carried a moment ago.
    world.server.engine.request_close();
    world.pump();
    let lost = world.run_until(SECOND, |world| !world.client_status().connected);
    assert!(lost.is_some());
    world.filter = Box::new(|_, _| true);
    world.run_for(SECOND * 30);
    assert_eq!(world.oracle.objection(), None);
}
