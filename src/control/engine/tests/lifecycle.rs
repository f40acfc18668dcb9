//! Restarts, farewells, silence, reloads.

use super::connecting::current_session;
use super::*;
use crate::control::simulator::side::peer;
use crate::handshake::keys::{PresharedKey, PublicKey};
use crate::limits::{REJECT_AFTER, REKEY_AFTER};
use crate::routing::PeerId;
use crate::telemetry::drops::DropReason;

fn disconnected(reason: DisconnectReason) -> impl Fn(&EngineEvent) -> bool {
    move |event| matches!(event, EngineEvent::Disconnected { reason: r, .. } if *r == reason)
}

#[test]
fn a_killed_server_is_noticed_by_probes_and_connected_to_again() {
    let mut world = World::connected(2, 2);
    world.traffic = Some(ms(20));
    world.run_for(SECOND);
    world.restart_server();
    let took = world.run_until(SECOND * 10, |world| world.client.connects() == 2).unwrap();
    assert!(took >= ms(2500) && took <= ms(3600), "{took:?}");
    assert!(world.client.has_event(disconnected(DisconnectReason::Silent)));
    world.run_for(SECOND);
    let received = world.server.received;
    world.run_for(SECOND);
    assert!(world.server.received > received);
}

#[test]
fn idle_paths_are_probed_with_a_silent_one_to_tell_a_dead_server_from_a_dead_path() {
    let mut world = World::connected(2, 3);
    world.one_flow = true;
    world.traffic = Some(ms(20));
    world.run_for(SECOND);
    world.restart_server();
    let took = world.run_until(SECOND * 10, |world| world.client.connects() == 2).unwrap();
    assert!(took <= ms(3600), "{took:?}");
    assert!(!world.client.has_event(|event| matches!(event, EngineEvent::PathsReduced { .. })));
}

#[test]
fn an_outage_shorter_than_the_patience_costs_no_session() {
    let mut world = World::connected(2, 2);
    world.traffic = Some(ms(50));
    let session = current_session(&world);
    world.filter = Box::new(|at, _| at >= SECOND * 10 && at < SECOND * 12);
    world.run_for(SECOND * 30);
    assert_eq!(current_session(&world), session);
    assert!(world.client_status().paths.iter().all(|path| path.state == "up"));
}

#[test]
fn a_server_that_stops_says_goodbye_and_its_client_returns_soon() {
    let mut world = World::connected(2, 3);
    world.server.engine.request_close();
    world.pump();
    assert_eq!(world.server.engine.state(), EngineState::Stopping);
    world.run_for(ms(11));
    assert!(world.client.has_event(disconnected(DisconnectReason::Closed)));
    assert_eq!(world.client.sessions(), 0);
    assert_eq!(world.client.engine.state(), EngineState::Connecting);
    world.restart_server();
    let took = world.run_until(SECOND * 10, |world| world.client.connects() == 2).unwrap();
    assert!(took <= SECOND * 4, "{took:?}");
}

#[test]
fn a_client_that_stops_says_goodbye_and_is_forgotten_at_once() {
    let mut world = World::connected(2, 2);
    world.client.engine.request_close();
    world.pump();
    assert_eq!(world.client.engine.poll_timeout(), None);
    world.run_for(ms(11));
    assert!(world.server.has_event(disconnected(DisconnectReason::Closed)));
    assert_eq!(world.server.sessions(), 0);
    assert!(!world.server_status().connected);
    world.restart_client();
    world.run_for(SECOND);
    assert_eq!(world.client.engine.state(), EngineState::Up);
    assert_eq!(world.server.connects(), 2);
}

#[test]
fn a_killed_client_returns_at_once_and_its_old_session_fades() {
    let mut world = World::connected(2, 2);
    world.restart_client();
    world.run_for(SECOND);
    assert_eq!(world.client.engine.state(), EngineState::Up);
    assert_eq!(world.server.sessions(), 2);
    world.run_for(REJECT_AFTER);
    assert!(world.server.sessions() <= 2);
}

#[test]
fn a_goodbye_to_an_old_session_spares_the_new_one() {
    let mut world = World::connected(1, 1);
    let old = current_session(&world);
    // What the client would have sent, had it stopped.
    let message = crate::wire::PathMessage::Close { reason: 0 };
    let command = WorkerCommand::SendPathMessage { session: old, message, plaintext_len: 0 };
    world.filter = Box::new(|_, _| true);
    world.command(Who::Client, 0, command);
    world.filter = Box::new(|_, _| false);
    let goodbye = world.captured.last().unwrap().1.clone();
    assert_eq!(goodbye.message, Some(message));
    world.run_for(REKEY_AFTER);
    assert_ne!(current_session(&world), old);
    world.deliver(goodbye);
    assert_eq!(world.server.sessions(), 1);
    assert!(world.server_status().connected);
    assert!(!world.server.has_event(disconnected(DisconnectReason::Closed)));
}

#[test]
fn a_client_that_vanishes_is_forgotten_when_its_session_expires() {
    let mut world = World::connected(1, 1);
    world.filter = Box::new(|_, _| true);
    world.run_for(REJECT_AFTER + SECOND);
    assert!(world.server.has_event(disconnected(DisconnectReason::Expired)));
    assert_eq!(world.server.sessions(), 0);
    assert_eq!(world.server.engine.poll_timeout(), None, "nothing is left to do");
}

#[test]
fn a_reload_spares_the_peers_that_stay() {
    let mut world = World::connected(2, 2);
    let session = current_session(&world);
    let other = PublicKey([9; 32]);
    let reload = |world: &mut World, allowed: &[&str]| {
        let mut kept = peer(world.keys.client(), allowed);
        kept.preshared_key = PresharedKey::new([7; 32]);
        let peers = vec![peer(other, &["10.8.0.0/16"]), kept];
        world.server.engine.reload(Reload::Server { peers });
        world.pump();
    };
    reload(&mut world, &["10.7.0.2/32", "10.7.0.9/32", "fd00::/64"]);
    world.traffic = Some(ms(50));
    world.run_for(SECOND);
    assert_eq!(current_session(&world), session);
    assert_eq!(world.client.sent, world.server.received + 2, "two are on their way");
    let status = world.server.engine.status(world.now);
    assert_eq!(status[0].public_key, other.to_string(), "in the order of the configuration");
    assert_eq!(status[1].allowed_ips, ["10.7.0.2/32", "10.7.0.9/32", "fd00::/64"]);

    reload(&mut world, &["10.7.0.9/32"]);
    let table = world.server.prefixes.clone().unwrap();
    assert_eq!(table.lookup("10.7.0.2".parse().unwrap()), None);
    assert_eq!(table.lookup("10.7.0.9".parse().unwrap()), Some(PeerId(0)));
    assert_eq!(table.lookup("10.8.1.1".parse().unwrap()), Some(PeerId(1)));
    world.run_for(SECOND);
    assert_eq!(current_session(&world), session);
    let dropped = world.server.workers[0].real.dropped(DropReason::InnerSourceNotAllowed);
    assert!(dropped > 0, "what a peer may send changes at once");
}

#[test]
fn a_new_preshared_key_takes_effect_with_the_next_handshake() {
    let mut world = World::connected(1, 1);
    let mut changed = peer(world.keys.client(), &["10.7.0.2/32"]);
    changed.preshared_key = PresharedKey::new([7; 32]);
    world.server.engine.reload(Reload::Server { peers: vec![changed] });
    world.options.preshared_key = PresharedKey::new([7; 32]);
    let options = world.options.clone();
    world.client.engine.reload(Reload::Client(options));
    world.pump();
    world.run_for(REKEY_AFTER);
    assert_eq!(world.client_status().rekeys, 1);
    assert_eq!(world.client.connects(), 1);
}

#[test]
fn a_peer_removed_by_a_reload_is_gone_at_once() {
    let mut world = World::connected(2, 2);
    world.server.engine.reload(Reload::Server { peers: Vec::new() });
    world.pump();
    assert_eq!(world.server.sessions(), 0);
    assert!(world.server.has_event(disconnected(DisconnectReason::Removed)));
    let table = world.server.prefixes.clone().unwrap();
    assert_eq!(table.lookup("10.7.0.2".parse().unwrap()), None);
    world.run_for(SECOND * 20);
    assert!(world.client.has_event(disconnected(DisconnectReason::Closed)));
    assert_eq!(world.client.engine.state(), EngineState::Connecting);
    let peers = vec![peer(world.keys.client(), &["10.7.0.2/32"])];
    world.server.engine.reload(Reload::Server { peers });
    world.pump();
    world.run_for(SECOND * 10);
    assert_eq!(world.client.engine.state(), EngineState::Up);
}

#[test]
fn a_prefix_named_twice_belongs_to_the_peer_named_last() {
    let mut world = World::new(1, 1);
    let (first, second) = (peer(PublicKey([8; 32]), &["10.0.0.0/8"]), PublicKey([9; 32]));
    let peers = vec![first.clone(), peer(second, &["10.0.0.0/8"])];
    world.server.engine.reload(Reload::Server { peers });
    world.pump();
    let owner = |world: &World| {
        let owner = world.server.prefixes.clone().unwrap().lookup("10.1.1.1".parse().unwrap());
        owner.unwrap()
    };
    let second_id = owner(&world);
    let peers = vec![peer(second, &["10.0.0.0/8"]), first];
    world.server.engine.reload(Reload::Server { peers });
    world.pump();
    assert_ne!(owner(&world), second_id);
}

#[test]
fn a_client_reload_changes_routes_and_keepalive_only() {
    let mut world = World::connected(1, 1);
    let session = current_session(&world);
    world.options.allowed = vec!["192.0.2.0/24".parse().unwrap()];
    world.options.keepalive = Some(SECOND * 5);
    let options = world.options.clone();
    world.client.engine.reload(Reload::Client(options));
    world.pump();
    let table = world.client.prefixes.clone().unwrap();
    assert_eq!(table.lookup("192.0.2.7".parse().unwrap()), Some(PeerId(0)));
    assert_eq!(table.lookup("10.0.0.1".parse().unwrap()), None);
    let before = world.captured.len();
    world.run_for(SECOND * 6);
    assert!(world.captured.len() > before);
    assert_eq!(current_session(&world), session);
}

#[test]
fn a_reload_for_the_other_role_is_refused() {
    let mut world = World::connected(1, 1);
    world.client.engine.reload(Reload::Server { peers: Vec::new() });
    world.pump();
    assert!(world.client.has_event(|event| matches!(event, EngineEvent::Warning(_))));
    assert_eq!(world.client.engine.state(), EngineState::Up);
}

#[test]
fn nothing_is_heard_from_an_engine_that_has_stopped() {
    let mut world = World::connected(1, 1);
    world.server.engine.request_close();
    world.client.engine.request_close();
    world.pump();
    let sent = world.captured.len();
    world.run_for(SECOND * 300);
    world.server.engine.request_close();
    world.pump();
    assert_eq!(world.captured.len(), sent);
}
