//! From the first initiation to the first confirmed path.

use super::*;
use crate::control::simulator::side::peer;
use crate::dataplane::messages::{Endpoint, WorkerEvent};
use crate::handshake::keys::{PresharedKey, PublicKey};
use crate::limits::{HANDSHAKE_RETRY_FIRST, HANDSHAKES_UNPROVED_BURST, RECONNECT_PAUSE_MAX};
use crate::telemetry::drops::DropReason;
use crate::wire::{MessageType, SessionIndex};

#[test]
fn every_pair_of_worker_counts_connects_with_one_handshake() {
    for (server, client) in [(1, 1), (1, 2), (2, 1), (2, 2), (2, 3), (3, 2), (4, 2), (1, 8), (8, 3)]
    {
        let world = World::connected(server, client);
        let handshakes = world.captured.iter().filter(|(_, p)| !p.is(MessageType::Data)).count();
        assert_eq!(handshakes, 2, "{server}:{client}");
        let status = world.client_status();
        assert_eq!(status.paths.len(), usize::from(client));
        assert!(status.paths.iter().all(|path| path.state == "up"), "{server}:{client} {status:?}");
        assert_eq!(status.lanes_in_use.sending.len(), usize::from(client));
        assert_eq!(status.handshake_ms, Some(20.0));
        assert_eq!(status.rtt_ms, Some(20.0));
        let status = world.server_status();
        assert!(status.connected && status.paths.iter().all(|path| path.endpoint.is_some()));
        assert_eq!((world.server.connects(), world.client.connects()), (1, 1));
        assert_eq!((world.server.unknown(), world.client.unknown()), (0, 0));
    }
}

#[test]
fn a_session_is_in_the_workers_queues_before_the_response_leaves() {
    let mut world = World::new(2, 1);
    let now = Now { monotonic: world.now, unix: SECOND };
    world.client.engine.start(now);
    world.server.engine.start(now);
    while world.client.engine.poll_command().is_some() {}
    while world.server.engine.poll_command().is_some() {}
    let (to, initiation) = world.client.engine.poll_transmit().unwrap();
    world.server.engine.handle_datagram(now, to, &initiation);
    let (target, command) = world.server.engine.poll_command().unwrap();
    assert_eq!(target, Target::All);
    assert!(matches!(command, WorkerCommand::InstallSession(_)));
    assert!(world.server.engine.poll_command().is_none());
    assert!(world.server.engine.poll_transmit().is_some());
}

#[test]
fn lost_initiations_and_responses_are_made_up_for() {
    for lost in [MessageType::Initiation, MessageType::Response] {
        let mut world = World::new(2, 2);
        let mut losses = 2;
        world.filter = Box::new(move |_, packet| {
            let lose = packet.is(lost) && losses > 0;
            losses -= u32::from(lose);
            lose
        });
        world.begin();
        let took = world.run_until(SECOND * 5, |world| world.client.connects() == 1).unwrap();
        assert!(took >= HANDSHAKE_RETRY_FIRST * 3 / 2 && took < SECOND, "{lost:?}: {took:?}");
        assert!(world.server.sessions() <= 3, "unanswered grants are superseded");
    }
}

/// An answer that takes longer than the wait for it teaches the client to wait.
#[test]
fn a_client_connects_over_a_long_way_without_asking_for_ever() {
    // (one way in milliseconds, initiations at most, round trips until the session at most)
    for (latency, initiations, round_trips) in
        [(50, 1, 1), (130, 2, 2), (300, 5, 3), (900, 7, 3), (1400, 8, 3)]
    {
        let mut world = World::new(1, 1);
        world.weather.latency = ms(latency);
        world.begin();
        let took = world.run_until(SECOND * 30, |world| world.client.connects() == 1);
        let took = took.unwrap_or_else(|| panic!("{latency} ms: not connected"));
        // One more round trip tells that the session works.
        assert!(took <= ms(2 * latency) * (round_trips + 1), "{latency} ms: {took:?}");
        let asked = world.captured.iter().filter(|it| it.1.is(MessageType::Initiation)).count();
        assert!(asked <= initiations, "{latency} ms: asked {asked} times");
    }
}

/// The demand for a cookie comes when the client has already asked again.
#[test]
fn a_cookie_that_comes_late_is_used_all_the_same() {
    let mut world = World::connected(1, 1);
    world.weather.latency = ms(200);
    let forged = find(&world, MessageType::Initiation);
    world.restart_client();
    let began = world.elapsed();
    while world.client.connects() == 0 {
        let mut forged = forged.clone();
        forged.from.set_ip([10, 0, 0, 1].into());
        for number in 0..HANDSHAKES_UNPROVED_BURST {
            forged.from.set_ip((0x0a00_0000 + number).to_be_bytes().into());
            world.deliver(forged.clone());
        }
        world.run_for(ms(100));
        let took = world.elapsed() - began;
        // For the cookie, the response and the first answer on the path.
        assert!(took <= ms(3 * 400 + 100), "{took:?}");
    }
}

#[test]
fn a_forged_or_damaged_response_does_not_spoil_the_handshake() {
    let mut world = World::new(1, 1);
    world.filter = Box::new(|_, packet| packet.is(MessageType::Response));
    world.begin();
    world.run_for(ms(100));
    let (_, genuine) = world.captured.iter().find(|(_, p)| p.is(MessageType::Response)).unwrap();
    let genuine = genuine.clone();
    for byte in [2, 9, 100, 1100, 1150] {
        let mut forged = genuine.clone();
        forged.datagram[byte] ^= 1;
        world.deliver(forged);
    }
    assert_eq!(world.client.engine.state(), EngineState::Connecting);
    world.deliver(genuine);
    world.run_for(ms(100));
    assert_eq!(world.client.engine.state(), EngineState::Up);
}

#[test]
fn an_answer_to_an_older_initiation_is_not_taken() {
    let mut world = World::new(1, 1);
    world.weather.latency = ms(300);
    world.begin();
    world.run_for(SECOND * 10);
    assert!(world.client.drops(DropReason::HandshakeUnexpected) > 0);
    assert_eq!(world.client.connects(), 1);
    assert_eq!(world.client_status().paths[0].state, "up");
}

#[test]
fn unexpected_datagrams_are_counted_and_ignored() {
    let mut world = World::connected(1, 1);
    let response = find(&world, MessageType::Response);
    world.deliver(response);
    assert_eq!(world.client.drops(DropReason::HandshakeUnexpected), 1);
    for (first, reason) in [
        (2, DropReason::HandshakeUnexpected),
        (3, DropReason::HandshakeUnexpected),
        (4, DropReason::LaneWrong),
        (9, DropReason::DatagramUnknownType),
        (1, DropReason::DatagramTruncated),
    ] {
        let before = world.server.drops(reason);
        let now = world.clocks(Who::Server);
        let from = find(&world, MessageType::Initiation).from;
        let from = Endpoint { remote: from, local: None, listener: 0 };
        world.server.engine.handle_datagram(now, from, &[first; 40]);
        assert_eq!(world.server.drops(reason), before + 1, "{reason:?}");
    }
}

#[test]
fn a_flooded_server_asks_for_a_cookie_and_gets_it_at_once() {
    let mut world = World::connected(1, 1);
    let initiation = find(&world, MessageType::Initiation);
    for _ in 0..100 {
        world.deliver(initiation.clone());
    }
    assert!(world.server.drops(DropReason::HandshakeCookieRequired) > 0);
    nearly_used(&mut world);
    let took = world.run_until(SECOND, |world| world.client_status().rekeys == 1).unwrap();
    assert!(took <= ms(41), "two round trips, no retry timer: {took:?}");
}

/// Of what floods a server, one tenth over its rate and forty times as much.
#[test]
fn a_flood_from_forged_addresses_costs_a_client_one_round_trip_or_one_retry() {
    let round_trips = |world: &World| {
        // For the cookie, the response, and the first answer on the path.
        world.weather.latency * 6
    };
    let mut world = World::connected(1, 1);
    let took = connect_through_flood(&mut world, 3);
    assert_eq!(took, round_trips(&world));

    let mut world = World::connected(1, 1);
    let took = connect_through_flood(&mut world, 100);
    assert!(world.server.drops(DropReason::HandshakeOverload) > 10_000);
    let retry = took - round_trips(&world);
    assert!(retry >= HANDSHAKE_RETRY_FIRST * 3 / 4 && retry <= HANDSHAKE_RETRY_FIRST, "{retry:?}");
}

/// How long a client that restarts takes to connect, with so many forged initiations in each
/// millisecond.
fn connect_through_flood(world: &mut World, per_ms: u32) -> Duration {
    let forged = find(world, MessageType::Initiation);
    let mut number = 0x0a00_0000_u32;
    let mut flood = |world: &mut World, count| {
        for _ in 0..count {
            let mut forged = forged.clone();
            number += 1;
            forged.from.set_ip(number.to_be_bytes().into());
            world.deliver(forged);
        }
    };
    flood(world, 1000);
    let read = world.server.drops(DropReason::HandshakeReplayed);
    assert_eq!(read, u64::from(HANDSHAKES_UNPROVED_BURST));
    assert_eq!(world.server.drops(DropReason::HandshakeCookieRequired), 1000 - read);
    flood(world, per_ms * 10);

    world.restart_client();
    let began = world.elapsed();
    let connected = |world: &World| {
        let mut events = world.client.events.iter();
        events.find(|(_, event)| matches!(event, EngineEvent::Connected { .. })).map(|it| it.0)
    };
    for _ in 0..2000 * per_ms {
        if let Some(connected) = connected(world) {
            return connected - began;
        }
        flood(world, 1);
        world.run_for(ms(1) / per_ms);
    }
    panic!("not connected within two seconds");
}

#[test]
fn a_stranger_gets_no_answer() {
    let mut world = World::new(1, 1);
    let reload = Reload::Server { peers: vec![peer(PublicKey([9; 32]), &["10.7.0.2/32"])] };
    world.server.engine.reload(reload);
    world.begin();
    world.run_for(SECOND * 5);
    assert!(world.server.drops(DropReason::HandshakePeerUnknown) > 3);
    assert!(world.captured.iter().all(|(_, packet)| packet.to_server()));
    assert_eq!(world.server.sessions(), 0);
}

#[test]
fn different_preshared_keys_connect_nobody_and_say_why() {
    let mut world = World::new(1, 1);
    world.options.preshared_key = PresharedKey::new([7; 32]);
    let options = world.options.clone();
    world.client.engine.reload(Reload::Client(options));
    world.begin();
    world.run_for(SECOND * 20);
    assert_eq!(world.client.connects() + world.server.connects(), 0);
    assert!(world.client.drops(DropReason::HandshakeInvalid) > 0);
    let warnings = world.client.events.iter().filter(
        |(_, event)| matches!(event, EngineEvent::Warning(text) if text.contains("pre-shared")),
    );
    assert_eq!(warnings.count(), 1, "once, not for every response");
    assert!(world.server.sessions() <= 1, "unconfirmed sessions do not pile up");
}

#[test]
fn an_absent_server_is_asked_ever_more_slowly_and_found_when_it_returns() {
    let mut world = World::new(1, 1);
    world.filter = Box::new(|at, _| at < SECOND * 600);
    world.begin();
    world.run_for(SECOND * 600);
    let asked = world.captured.len();
    assert!((45..=75).contains(&asked), "{asked} initiations in ten minutes");
    let complaints: Vec<u32> = world
        .client
        .events
        .iter()
        .filter_map(|(_, event)| match event {
            EngineEvent::NoAnswer { tries, .. } => Some(*tries),
            _ => None,
        })
        .collect();
    assert_eq!(complaints[..3], [5, 10, 15]);
    let limit = RECONNECT_PAUSE_MAX + SECOND;
    assert!(world.run_until(limit, |world| world.client.connects() == 1).is_some());
}

#[test]
fn a_server_that_moved_is_asked_at_its_new_address() {
    let mut world = World::new(1, 1);
    let elsewhere = "198.51.100.77:4444".parse().unwrap();
    world.client.engine.set_server(elsewhere);
    world.begin();
    world.run_for(SECOND);
    assert!(world.captured.iter().all(|(_, packet)| packet.to == elsewhere));
}

#[test]
fn equal_seeds_give_equal_runs() {
    let run = || {
        let mut world = World::new(3, 2);
        world.traffic = Some(ms(100));
        let mut count = 0u32;
        world.filter = Box::new(move |_, _| {
            count += 1;
            count.is_multiple_of(7)
        });
        world.begin();
        world.run_for(SECOND * 300);
        let trace = |side: &crate::control::simulator::side::Side| format!("{:?}", side.events);
        let packets: Vec<String> = world.captured.iter().map(|p| format!("{p:?}")).collect();
        (trace(&world.server), trace(&world.client), packets)
    };
    assert!(run() == run());
}

/// The first packet of a kind that was sent.
pub(super) fn find(world: &World, kind: MessageType) -> Packet {
    world.captured.iter().find(|(_, packet)| packet.is(kind)).unwrap().1.clone()
}

/// Tells the client that a lane of its session is nearly used up.
pub(super) fn nearly_used(world: &mut World) {
    let now = Now { monotonic: world.now, unix: SECOND };
    let session = current_session(world);
    let event = WorkerEvent::KeyNearlyUsed { worker: 0, session };
    world.client.engine.handle_worker_event(now, event);
    world.pump();
}

/// The newest session of the client.
pub(super) fn current_session(world: &World) -> SessionIndex {
    world.client.workers[0].newest().unwrap()
}
