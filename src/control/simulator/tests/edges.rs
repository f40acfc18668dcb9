//! Limits of time and number, a millisecond or a packet to either side of each.
//!
//! The network becomes a black hole, and what it has swallowed is handed over just before and just
//! after the moment from which on it must not count.

use std::time::Duration;

use crate::control::engine::{DisconnectReason, EngineEvent, EngineState};
use crate::control::simulator::network::SERVER;
use crate::control::simulator::oracle::Purpose;
use crate::control::simulator::{Packet, Who, World};
use crate::limits::{
    ACTIVITY_SCAN_EVERY, DEAD_PEER_PROBE_AFTER, DEAD_PEER_PROBE_EVERY, DEAD_PEER_PROBES_MAX,
    HANDSHAKE_RETRY_FIRST, PATH_CONFIRM_WITHIN, REJECT_AFTER, REJECT_AFTER_PACKETS, REKEY_AFTER,
    REKEY_AFTER_PACKETS, REKEY_JITTER_MAX,
};
use crate::telemetry::drops::DropReason;
use crate::wire::MessageType;

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

fn run_to(world: &mut World, at: Duration) {
    let left = at.checked_sub(world.elapsed()).expect("it is in the future");
    world.run_for(left);
}

/// When packets of a kind were sent.
fn sent(world: &World, kind: MessageType) -> Vec<Duration> {
    let packets = world.captured.iter().filter(|(_, packet)| packet.is(kind));
    packets.map(|(at, _)| *at).collect()
}

/// The last packet of a kind that was sent, to the server or from it.
fn last(world: &World, kind: MessageType, to_server: bool) -> Packet {
    let mut packets = world.captured.iter().rev().map(|(_, packet)| packet);
    packets.find(|packet| packet.is(kind) && packet.to_server() == to_server).unwrap().clone()
}

fn silent_at(world: &World) -> Option<Duration> {
    let silent = |event: &EngineEvent| {
        matches!(event, EngineEvent::Disconnected { reason: DisconnectReason::Silent, .. })
    };
    world.client.events.iter().find(|(_, event)| silent(event)).map(|(at, _)| *at)
}

#[test]
fn a_silent_server_is_given_up_at_the_verdict_and_not_before() {
    let silence_begins = SECOND * 3;
    let blackhole = || {
        let mut world = World::connected(1, 1);
        world.traffic = Some(MS * 20);
        world.filter = Box::new(move |at, _| at >= silence_begins);
        world
    };
    let mut world = blackhole();
    world.run_for(SECOND * 10);
    let verdict = silent_at(&world).unwrap();
    let patience = DEAD_PEER_PROBE_AFTER + DEAD_PEER_PROBE_EVERY * DEAD_PEER_PROBES_MAX;
    // What was on its way still arrives; the scan after that may be the one that sees a sign of
    // life last.
    let earliest = silence_begins + patience;
    assert!(verdict >= earliest, "{verdict:?}");
    assert!(verdict <= earliest + world.weather.latency + ACTIVITY_SCAN_EVERY * 2, "{verdict:?}");

    let sign_of_life_at = |at: Duration| {
        let mut world = blackhole();
        run_to(&mut world, at);
        let lost = last(&world, MessageType::Data, false);
        world.deliver(lost);
        run_to(&mut world, verdict + MS * 2);
        silent_at(&world)
    };
    assert_eq!(sign_of_life_at(verdict - MS), None);
    assert_eq!(sign_of_life_at(verdict + MS), Some(verdict));
}

#[test]
fn an_initiation_can_be_answered_until_the_next_one_leaves() {
    let deaf = || {
        let mut world = World::new(1, 1);
        world.filter = Box::new(|_, packet| packet.is(MessageType::Response));
        world.begin();
        world
    };
    let mut world = deaf();
    world.run_for(SECOND);
    let retry = sent(&world, MessageType::Initiation)[1];
    assert!(retry >= HANDSHAKE_RETRY_FIRST * 3 / 4 && retry <= HANDSHAKE_RETRY_FIRST, "{retry:?}");

    let answered_at = |at: Duration| {
        let mut world = deaf();
        run_to(&mut world, at);
        let (_, response) =
            world.captured.iter().find(|(_, packet)| packet.is(MessageType::Response)).unwrap();
        let response = response.clone();
        world.deliver(response);
        run_to(&mut world, retry + MS * 25);
        let refused = world.client.drops(DropReason::HandshakeUnexpected);
        (sent(&world, MessageType::Initiation).len(), refused, world.client.connects())
    };
    assert_eq!(answered_at(retry - MS), (1, 0, 1));
    assert_eq!(answered_at(retry + MS), (2, 1, 0));
}

#[test]
fn a_path_can_be_confirmed_until_its_deadline() {
    let deaf = || {
        let mut world = World::new(1, 1);
        world.filter = Box::new(|_, packet| packet.is(MessageType::Data) && !packet.to_server());
        world.begin();
        world
    };
    let world = deaf();
    let deadline = world.weather.latency * 2 + PATH_CONFIRM_WITHIN;
    let answered_at = |at: Duration| {
        let mut world = deaf();
        run_to(&mut world, at);
        let lost = last(&world, MessageType::Data, false);
        world.deliver(lost);
        run_to(&mut world, deadline + MS * 2);
        world.client.engine.state()
    };
    assert_eq!(answered_at(deadline - MS), EngineState::Up);
    assert_eq!(answered_at(deadline + MS), EngineState::Connecting);
}

#[test]
fn a_session_is_replaced_within_the_jitter_before_its_age_and_never_outside() {
    for seed in 0..16 {
        let mut world = World::seeded(seed, 1, 1, REKEY_AFTER);
        world.begin();
        let [began] = sent(&world, MessageType::Initiation)[..] else { panic!("seed {seed}") };
        run_to(&mut world, began + REKEY_AFTER - REKEY_JITTER_MAX - MS);
        assert_eq!(sent(&world, MessageType::Initiation).len(), 1, "seed {seed}");
        run_to(&mut world, began + REKEY_AFTER + MS);
        let replaced = sent(&world, MessageType::Initiation);
        assert_eq!(replaced.len(), 2, "seed {seed}: {replaced:?}");
    }
}

#[test]
fn a_key_is_replaced_at_its_count_of_packets_and_not_one_before() {
    let mut world = World::connected(1, 1);
    world.spend_key(Who::Client, 0, REKEY_AFTER_PACKETS - 2);
    for initiations in [1, 2] {
        world.send_inner(Who::Client, 0, Purpose::Data, 100);
        assert_eq!(sent(&world, MessageType::Initiation).len(), initiations);
    }
    world.run_for(SECOND);
    assert_eq!(world.client_status().rekeys, 1);
    assert_eq!((world.client.sent, world.server.received), (2, 2));
}

#[test]
fn a_key_of_the_server_is_replaced_by_the_client_at_its_count() {
    let mut world = World::connected(1, 1);
    // The client learns of it by the first packet that bears that number.
    world.spend_key(Who::Server, 0, REKEY_AFTER_PACKETS - 1);
    for rekeys in [0, 1] {
        world.send_inner(Who::Server, 0, Purpose::Data, 100);
        world.run_for(SECOND);
        assert_eq!(world.client_status().rekeys, rekeys);
    }
    assert_eq!((world.server.sent, world.client.received), (2, 2));
}

#[test]
fn a_key_seals_its_last_packet_and_no_more() {
    let mut world = World::connected(1, 1);
    world.filter = Box::new(|_, packet| !packet.is(MessageType::Data));
    world.spend_key(Who::Client, 0, REJECT_AFTER_PACKETS - 1);
    for exhausted in [0, 1] {
        world.send_inner(Who::Client, 0, Purpose::Data, 100);
        let dropped = world.client.workers[0].real.dropped(DropReason::KeyExhausted);
        assert_eq!((world.client.sent, dropped), (1, exhausted));
    }
    world.run_for(SECOND);
    assert_eq!(world.server.received, 1);
}

/// A world whose session will not be replaced, and when that ends on the client and on the server.
fn without_rekey() -> (World, Duration, Duration) {
    let mut world = World::connected(1, 1);
    let began = sent(&world, MessageType::Initiation)[0];
    world.filter = Box::new(|_, packet| !packet.is(MessageType::Data));
    let ends = began + REJECT_AFTER;
    // A server counts from the arrival of the initiation, so that the client stops first.
    let ends_on_server = ends + world.weather.latency;
    (world, ends, ends_on_server)
}

#[test]
fn a_session_seals_until_its_last_age_and_no_longer() {
    let (mut world, client, server) = without_rekey();
    for (who, at, sealed) in [
        (Who::Client, client - MS, 1),
        (Who::Client, client + MS, 0),
        (Who::Server, server - MS, 1),
        (Who::Server, server + MS, 0),
    ] {
        run_to(&mut world, at);
        let before = world.side(who).sent;
        world.send_inner(who, 0, Purpose::Data, 100);
        assert_eq!(world.side(who).sent - before, sealed, "{who:?} at {at:?}");
    }
    world.run_for(SECOND);
    assert_eq!(world.server.received, 1, "what was sealed in time is opened in time");
    let refused = [&world.client, &world.server]
        .map(|side| side.workers[0].real.dropped(DropReason::NoSession));
    assert_eq!(refused, [1, 1]);
}

#[test]
fn a_session_opens_until_its_last_age_and_no_longer() {
    for (who, received) in [(Who::Server, 1), (Who::Client, 1)] {
        for (late, expected) in [(false, received), (true, 0)] {
            let (mut world, client, server) = without_rekey();
            let (ends, sender) =
                if who == Who::Server { (server, Who::Client) } else { (client, Who::Server) };
            world.filter = Box::new(|_, _| true);
            world.send_inner(sender, 0, Purpose::Data, 100);
            let lost = world.captured.last().unwrap().1.clone();
            assert_eq!(lost.to == SERVER, who == Who::Server);
            run_to(&mut world, if late { ends + MS } else { ends - MS });
            world.deliver(lost);
            let unknown = u64::from(late);
            assert_eq!(world.side(who).received, expected, "{who:?}, late: {late}");
            assert_eq!(world.side(who).unknown(), unknown, "{who:?}, late: {late}");
        }
    }
}
