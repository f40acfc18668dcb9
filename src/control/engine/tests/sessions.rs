//! Rekeying, expiry, replays, clocks.

use std::net::IpAddr;

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::connecting::{current_session, find, nearly_used};
use super::*;
use crate::dataplane::messages::{Endpoint, WorkerEvent};
use crate::handshake::keys::PrivateKey;
use crate::handshake::{Cookie, InitiatorParams, LocalIdentity, PendingInitiation, Timestamp};
use crate::limits::{
    HANDSHAKES_PER_SOURCE_BURST, PEER_WARNING_EVERY, REJECT_AFTER, REKEY_AFTER, REKEY_AFTER_MIN,
    REKEY_JITTER_MAX, SESSION_HANDOVER,
};
use crate::telemetry::drops::DropReason;
use crate::wire::{Features, MessageType, PathMessage, SessionIndex};

#[test]
fn rekeying_by_time_loses_no_packet() {
    for (server, client) in [(1, 1), (2, 3), (4, 2)] {
        let mut world = World::connected(server, client);
        world.traffic = Some(ms(21));
        world.weather.latency_step = ms(25);
        world.run_for(REKEY_AFTER * 5);
        world.traffic = None;
        world.run_for(SECOND);
        assert!((4..=5).contains(&world.client_status().rekeys), "{server}:{client}");
        assert_eq!(world.client_status().rekeys, world.server_status().rekeys);
        assert_eq!(world.client.sent, world.server.received);
        assert_eq!(world.server.sent, world.client.received);
        assert_eq!((world.server.unknown(), world.client.unknown()), (0, 0));
        assert_eq!((world.server.connects(), world.client.connects()), (1, 1));
        assert!(world.server.sessions() <= 2 && world.client.sessions() <= 2);
    }
}

#[test]
fn a_session_is_replaced_at_its_age_give_or_take_the_jitter() {
    let mut world = World::connected(1, 1);
    let before = REKEY_AFTER - REKEY_JITTER_MAX - SECOND;
    world.run_for(before - ms(1));
    assert_eq!(world.client_status().rekeys, 0);
    world.run_for(REKEY_JITTER_MAX + ms(50));
    assert_eq!(world.client_status().rekeys, 1);
}

#[test]
fn a_client_may_replace_its_sessions_sooner_and_change_that_while_it_runs() {
    let mut world = World::connected(2, 2);
    world.traffic = Some(ms(7));
    let options = ClientOptions { rekey_after: REKEY_AFTER_MIN, ..world.options.clone() };
    world.client.engine.reload(Reload::Client(options));
    world.run_for(REKEY_AFTER_MIN - SECOND + ms(50));
    assert_eq!(world.client_status().rekeys, 1, "the session in use is included");
    world.run_for(REKEY_AFTER_MIN * 19);
    assert!((20..=25).contains(&world.client_status().rekeys));

    let options = world.options.clone();
    world.client.engine.reload(Reload::Client(options));
    let rekeys = world.client_status().rekeys;
    world.run_for(REKEY_AFTER - REKEY_JITTER_MAX - REKEY_AFTER_MIN);
    assert_eq!(world.client_status().rekeys, rekeys);

    world.traffic = None;
    world.run_for(SECOND);
    assert_eq!(world.client.sent, world.server.received);
    assert_eq!(world.server.sent, world.client.received);
    assert_eq!((world.server.connects(), world.client.connects()), (1, 1));
}

#[test]
fn a_key_that_is_nearly_used_is_replaced_at_once() {
    let mut world = World::connected(2, 2);
    let used = current_session(&world);
    nearly_used(&mut world);
    nearly_used(&mut world);
    world.run_for(ms(100));
    assert_eq!(world.client_status().rekeys, 1);
    assert_ne!(current_session(&world), used);
    let late = WorkerEvent::KeyNearlyUsed { worker: 1, session: used };
    let now = Now { monotonic: world.now, unix: SECOND };
    world.client.engine.handle_worker_event(now, late);
    world.run_for(SECOND);
    assert_eq!(world.client_status().rekeys, 1, "news about a replaced session is no news");
}

#[test]
fn a_rekey_survives_loss_because_the_old_session_stays_in_use() {
    let mut world = World::connected(2, 2);
    world.traffic = Some(ms(50));
    let begin = REKEY_AFTER - REKEY_JITTER_MAX;
    world.filter = Box::new(move |at, packet| {
        !packet.is(MessageType::Data) && at >= begin && at < begin + SECOND * 30
    });
    world.run_for(SECOND * 170);
    world.traffic = None;
    world.run_for(SECOND);
    assert_eq!(world.client_status().rekeys, 1);
    assert_eq!(world.client.sent, world.server.received);
    assert_eq!(world.server.sent, world.client.received);
}

#[test]
fn a_session_without_rekey_is_used_by_neither_side_past_its_last_age() {
    let mut world = World::connected(1, 1);
    world.traffic = Some(ms(100));
    world.filter = Box::new(|_, packet| !packet.is(MessageType::Data));
    world.run_for(REJECT_AFTER - SECOND * 2);
    assert_eq!(world.client.engine.state(), EngineState::Up);
    world.run_for(SECOND * 2);
    assert_eq!(world.client.engine.state(), EngineState::Connecting);
    assert_eq!((world.client.sessions(), world.server.sessions()), (0, 0));
    assert_eq!(world.server.unknown(), 0, "the client stops first");
    assert!(world.server.has_event(|event| {
        matches!(event, EngineEvent::Disconnected { reason: DisconnectReason::Expired, .. })
    }));
    assert!(world.server_status().sent_bytes > 0, "what it carried is remembered");
}

#[test]
fn a_replayed_initiation_changes_nothing() {
    let mut world = World::connected(1, 1);
    let initiation = find(&world, MessageType::Initiation);
    let sessions = world.server.sessions();
    for _ in 0..3 {
        world.deliver(initiation.clone());
    }
    assert_eq!(world.server.drops(DropReason::HandshakeReplayed), 3);
    assert_eq!(world.server.sessions(), sessions);
    let warned =
        world.server.events.iter().filter(
            |(_, event)| matches!(event, EngineEvent::Warning(text) if text.contains("clock")),
        );
    assert_eq!(warned.count(), 1);
}

#[test]
fn an_initiation_replayed_to_a_restarted_server_displaces_nobody() {
    let mut world = World::connected(1, 1);
    let initiation = find(&world, MessageType::Initiation);
    world.restart_server();
    world.deliver(initiation);
    assert_eq!(world.server.sessions(), 1, "it cannot be told from a first contact");
    assert!(!world.server_status().connected, "but it is never confirmed");
    world.traffic = Some(ms(100));
    world.run_for(SECOND * 10);
    assert!(world.server_status().connected, "and the client gets its own");
    world.traffic = None;
    world.run_for(REJECT_AFTER + SECOND);
    assert!(world.server.sessions() <= 2);
}

/// Probes that the client has sealed for its session and that are still on their way.
fn sealed_probes(world: &mut World, count: usize) -> Vec<Packet> {
    let session = current_session(world);
    let message = PathMessage::Probe { path: 0, token: 77 };
    world.filter = Box::new(|_, _| true);
    for _ in 0..count {
        let command = WorkerCommand::SendPathMessage { session, message, plaintext_len: 16 };
        world.command(Who::Client, 0, command);
    }
    world.filter = Box::new(|_, _| false);
    let last = world.captured.len() - count;
    world.captured[last..].iter().map(|(_, packet)| packet.clone()).collect()
}

/// A client leaves a session behind for good. Whoever probes it later has the same key and is
/// somebody else, who would think itself served for as long as it is answered.
#[test]
fn a_machine_with_the_same_key_is_not_kept_waiting_and_is_told_of() {
    let mut world = World::connected(1, 1);
    let left_behind = world.server.workers[0].newest().unwrap();
    let mut probes = sealed_probes(&mut world, 8).into_iter();
    let mut probe = |world: &mut World| {
        let answers = |world: &World| {
            let ack = PathMessage::ProbeAck { path: 0, token: 77, plaintext_len: 16 };
            world.captured.iter().filter(|(_, packet)| packet.message == Some(ack)).count()
        };
        let before = answers(world);
        world.deliver(probes.next().unwrap());
        world.pump();
        answers(world) - before
    };
    let warnings = |world: &World| {
        let texts = world.server.events.iter().filter_map(|(_, event)| match event {
            EngineEvent::Warning(text) => Some(text),
            _ => None,
        });
        texts.filter(|text| text.contains("two machines")).count()
    };
    assert_eq!(probe(&mut world), 1, "the session in use");
    world.restart_client();
    world.run_for(SECOND);
    assert_ne!(world.server.workers[0].newest(), Some(left_behind));
    assert_eq!(probe(&mut world), 1, "it may have been on its way");
    world.run_for(SESSION_HANDOVER);
    for _ in 0..5 {
        assert_eq!(probe(&mut world), 0);
    }
    assert_eq!(warnings(&world), 1);
    world.run_for(PEER_WARNING_EVERY);
    assert_eq!(probe(&mut world), 0);
    assert_eq!(warnings(&world), 2);
}

#[test]
fn a_clock_that_jumps_on_either_side_does_no_harm() {
    for jump in [-3600, 3600, -100_000_000] {
        let mut world = World::connected(1, 1);
        world.client.clock_ahead = jump;
        world.run_for(REKEY_AFTER * 2);
        world.server.clock_ahead = -jump;
        world.run_for(REKEY_AFTER * 2);
        world.client.clock_ahead = 0;
        world.run_for(REKEY_AFTER * 2);
        assert!(world.client_status().rekeys >= 5, "{jump}");
        assert_eq!(world.server.drops(DropReason::HandshakeReplayed), 0);
        assert_eq!(world.client.connects(), 1);
    }
}

#[test]
fn a_client_restarted_with_a_clock_set_back_is_refused_until_its_clock_catches_up() {
    let mut world = World::connected(1, 1);
    world.client.clock_ahead = -60;
    world.restart_client();
    world.run_for(SECOND * 50);
    assert_eq!(world.client.connects(), 0);
    assert!(world.server.drops(DropReason::HandshakeReplayed) > 0);
    world.run_for(SECOND * 30);
    assert_eq!(world.client.connects(), 1);
}

#[test]
fn flows_stay_on_their_lanes_across_a_rekey() {
    let mut world = World::connected(8, 2);
    let lanes = world.client_status().lanes_in_use;
    world.run_for(REKEY_AFTER * 4);
    assert_eq!(world.client_status().lanes_in_use, lanes);
}

#[test]
fn an_hour_of_traffic_is_a_matter_of_rekeys_and_nothing_else() {
    let mut world = World::connected(2, 2);
    world.traffic = Some(SECOND);
    world.run_for(SECOND * 3600);
    world.traffic = None;
    world.run_for(SECOND);
    assert!((29..=32).contains(&world.client_status().rekeys));
    assert_eq!((world.server.connects(), world.client.connects()), (1, 1));
    assert_eq!(world.client.sent, world.server.received);
    assert_eq!(world.server.sent, world.client.received);
    assert!(world.server.sessions() <= 2 && world.client.sessions() <= 2);
}

#[test]
fn session_indices_are_uniform() {
    let world = World::new(1, 1);
    let mut engine = world.server.engine;
    let taken = |index: SessionIndex| index.0.is_multiple_of(2);
    let mut buckets = [0u32; 16];
    for _ in 0..16_000 {
        let index = engine.core.unused_index(taken);
        assert!(!taken(index));
        buckets[(index.0 >> 28) as usize] += 1;
    }
    // 15 degrees of freedom: 37.7 is exceeded once in a thousand.
    let chi_square: f64 = buckets.iter().map(|n| (f64::from(*n) - 1000.0).powi(2) / 1000.0).sum();
    assert!(chi_square < 37.7, "{chi_square}");
}

/// Somebody without a session behind the same address as a peer, or in the same network.
struct Neighbour {
    identity: LocalIdentity,
    from: Endpoint,
    cookie: Option<Cookie>,
    rng: StdRng,
    asked: u32,
}

impl Neighbour {
    fn at(address: IpAddr) -> Self {
        let mut rng = StdRng::seed_from_u64(9);
        let identity = LocalIdentity::new(PrivateKey::generate(&mut rng));
        let from = Endpoint { remote: (address, 7).into(), local: None, listener: 0 };
        Self { identity, from, cookie: None, rng, asked: 0 }
    }

    /// Asks for a session and, once it has been challenged, proves its address.
    fn ask(&mut self, world: &mut World) {
        self.asked += 1;
        let params = InitiatorParams { workers: 1, features: Features::empty() };
        let (pending, initiation) = PendingInitiation::start(
            &self.identity,
            world.server.engine.public_key(),
            params,
            SessionIndex(self.asked),
            Timestamp::from_unix(SECOND * self.asked),
            self.cookie.as_ref(),
            &mut self.rng,
        )
        .unwrap();
        let now = world.clocks(Who::Server);
        world.server.engine.handle_datagram(now, self.from, &initiation);
        while let Some((to, answer)) = world.server.engine.poll_transmit() {
            assert_eq!(to, self.from);
            self.cookie = Some(pending.consume_cookie_reply(&answer).unwrap());
        }
    }
}

#[test]
fn a_peer_rekeys_whoever_uses_up_what_its_address_has() {
    let mut world = World::connected(1, 1);
    let mut neighbour = Neighbour::at(find(&world, MessageType::Initiation).from.ip());
    for _ in 0..20 {
        neighbour.ask(&mut world);
    }
    nearly_used(&mut world);
    let refused = world.server.drops(DropReason::HandshakeRateLimited);
    while world.client_status().rekeys == 0 {
        neighbour.ask(&mut world);
        world.run_for(ms(1));
        assert!(neighbour.asked < 100, "two round trips take 40 ms");
    }
    let asked = u64::from(neighbour.asked - 20);
    assert!(world.server.drops(DropReason::HandshakeRateLimited) - refused > asked / 2);
}

#[test]
fn a_peer_that_is_removed_leaves_no_right_behind() {
    let mut world = World::connected(1, 1);
    let from = find(&world, MessageType::Initiation).from;
    let reload = Reload::Server { peers: Vec::new() };
    world.server.engine.reload(reload);
    world.pump();
    // From the address and port that the peer had.
    let mut stranger = Neighbour::at(from.ip());
    stranger.from.remote = from;
    for _ in 0..30 {
        stranger.ask(&mut world);
    }
    let admitted = world.server.drops(DropReason::HandshakePeerUnknown);
    assert!(admitted <= 2 * u64::from(HANDSHAKES_PER_SOURCE_BURST), "{admitted}");
}
