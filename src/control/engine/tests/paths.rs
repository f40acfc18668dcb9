//! Several paths: confirmation, fall-back, roaming, MTU, keepalives.

use std::net::Ipv4Addr;

use super::connecting::{current_session, find};
use super::*;
use crate::dataplane::messages::WorkerEvent;
use crate::limits::{PATH_CONFIRM_WITHIN, PATHS_RETRY_FIRST, PATHS_RETRY_MAX};
use crate::wire::{MessageType, PathMessage};

fn states(world: &World) -> Vec<String> {
    world.client_status().paths.into_iter().map(|path| path.state).collect()
}

fn detached(world: &World) -> Vec<bool> {
    world.client.workers.iter().map(|worker| worker.detached).collect()
}

#[test]
fn a_lost_first_probe_is_sent_again() {
    let mut world = World::new(2, 2);
    world.filter = Box::new(|at, packet| packet.path() == Some(1) && at < ms(500));
    world.begin();
    world.run_for(SECOND);
    assert_eq!(states(&world), ["up", "up"]);
    assert_eq!(detached(&world), [false, false]);
}

#[test]
fn a_path_that_never_answers_is_done_without() {
    let mut world = World::new(2, 3);
    world.traffic = Some(ms(50));
    world.filter = Box::new(|_, packet| packet.path() == Some(1));
    world.begin();
    world.run_for(SECOND);
    assert_eq!(states(&world), ["up", "unconfirmed", "up"]);
    world.run_for(PATH_CONFIRM_WITHIN);
    assert_eq!(states(&world), ["up"]);
    assert_eq!(detached(&world), [false, true, true]);
    assert!(world.client.has_event(|event| {
        matches!(event, EngineEvent::PathsReduced { silent, .. } if silent == &[1])
    }));
    assert_eq!(world.client.connects(), 1, "connected throughout");
    let (sent, received) = (world.client.sent, world.server.received);
    world.run_for(SECOND * 10);
    let (sent, received) = (world.client.sent - sent, world.server.received - received);
    assert!(sent > 100 && received + 1 >= sent, "{received} of {sent}");
}

#[test]
fn all_paths_are_tried_again_later_without_disturbing_the_one_in_use() {
    let mut world = World::new(2, 2);
    world.traffic = Some(ms(50));
    world.filter = Box::new(|at, packet| packet.path() == Some(1) && at < SECOND * 1000);
    world.begin();
    world.run_for(SECOND * 10);
    assert_eq!(detached(&world), [false, true]);
    world.traffic = None;
    world.run_for(SECOND);
    // The first trials fail; a later one succeeds.
    let (sent, received) = (world.client.sent, world.server.received);
    let (sent_back, received_back) = (world.server.sent, world.client.received);
    world.traffic = Some(ms(50));
    world.run_for(PATHS_RETRY_MAX * 3);
    world.traffic = None;
    world.run_for(SECOND);
    assert_eq!(detached(&world), [false, false]);
    assert_eq!(states(&world), ["up", "up"]);
    assert!(world.client.has_event(|e| matches!(e, EngineEvent::PathsRestored { .. })));
    assert_eq!(world.client.connects(), 1);
    assert_eq!(world.client.sent - sent, world.server.received - received);
    assert_eq!(world.server.sent - sent_back, world.client.received - received_back);
    let reductions = world.client.events.iter();
    let reductions =
        reductions.filter(|(_, event)| matches!(event, EngineEvent::PathsReduced { .. }));
    assert_eq!(reductions.count(), 1, "a failed trial is not news");
}

#[test]
fn a_trial_of_all_paths_that_fails_loses_nothing() {
    let mut world = World::new(2, 2);
    world.filter = Box::new(|_, packet| packet.path() == Some(1));
    world.begin();
    world.run_for(PATHS_RETRY_FIRST);
    assert_eq!(states(&world), ["up"]);
    world.traffic = Some(ms(3));
    world.run_for(ms(100));
    let first = world.oracle.next_number();
    let trial = world.run_until(SECOND * 5, |world| states(world).len() == 2);
    assert!(trial.is_some(), "it begins by itself");
    world.run_for(SECOND);
    assert_eq!(states(&world), ["up", "unconfirmed"], "the trial is on");
    world.run_for(PATH_CONFIRM_WITHIN);
    assert_eq!(states(&world), ["up"], "and over");
    world.traffic = None;
    world.run_for(SECOND);
    assert_eq!(world.oracle.undelivered_since(first), [0; 0]);
}

#[test]
fn a_direction_that_failed_for_a_moment_is_asked_about_again_soon() {
    for to_server in [true, false] {
        let mut world = World::new(2, 2);
        world.traffic = Some(ms(50));
        world.filter = Box::new(move |at, packet| {
            at < SECOND * 5 && packet.path() == Some(1) && packet.to_server() == to_server
        });
        world.begin();
        world.run_for(SECOND * 6);
        assert_eq!(detached(&world), [false, true], "to the server: {to_server}");
        world.run_for(PATHS_RETRY_FIRST);
        assert_eq!(detached(&world), [false, false], "to the server: {to_server}");
        assert_eq!(states(&world), ["up", "up"]);
        assert_eq!((world.client.connects(), world.server.connects()), (1, 1));
    }
}

#[test]
fn a_path_that_stays_silent_is_asked_about_ever_more_rarely() {
    let mut world = World::connected(2, 2);
    world.traffic = Some(SECOND);
    world.filter = Box::new(|at, packet| packet.path() == Some(1) && at > SECOND * 5);
    world.captures = false;
    world.run_for(SECOND * 10);
    // When there was a session with both paths.
    let (mut trials, mut paths) = (Vec::new(), 1);
    for second in 0..3600 {
        world.run_for(SECOND);
        let before = std::mem::replace(&mut paths, states(&world).len());
        if (before, paths) == (1, 2) {
            trials.push(second);
        }
    }
    let waits: Vec<u64> = trials.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let expected = [60, 120, 240, 480, 600, 600, 600, 600];
    assert_eq!(waits.len(), expected.len(), "{trials:?}");
    for (wait, expected) in waits.iter().zip(expected) {
        // A trial takes three seconds.
        assert!((expected..expected + 6).contains(wait), "{trials:?}");
    }
    assert_eq!(detached(&world), [false, true]);
    assert_eq!(world.client.connects(), 1);
}

#[test]
fn a_path_that_falls_silent_later_is_done_without() {
    let mut world = World::connected(2, 2);
    world.traffic = Some(ms(50));
    world.filter = Box::new(|at, packet| packet.path() == Some(1) && at > SECOND * 5);
    world.run_for(SECOND * 8);
    assert_eq!(world.client.connects(), 1);
    assert_eq!(states(&world), ["up"]);
    assert_eq!(detached(&world), [false, true]);
    let (sent, received) = (world.server.sent, world.client.received);
    world.run_for(SECOND * 10);
    assert!(world.client.received - received + 2 >= world.server.sent - sent);
}

/// Runs for a while with traffic, of which nothing may be lost.
#[track_caller]
fn assert_nothing_is_lost(world: &mut World) {
    world.traffic = None;
    world.run_for(SECOND);
    let before =
        [world.client.sent, world.server.received, world.server.sent, world.client.received];
    world.traffic = Some(ms(50));
    world.run_for(SECOND * 30);
    world.traffic = None;
    world.run_for(SECOND);
    let after =
        [world.client.sent, world.server.received, world.server.sent, world.client.received];
    let [sent, received, sent_back, received_back] = [0, 1, 2, 3].map(|at| after[at] - before[at]);
    assert!(sent > 500 && sent_back > 500, "{sent} {sent_back}");
    assert_eq!((received, received_back), (sent, sent_back));
}

#[test]
fn whichever_path_gets_through_is_gone_on_with() {
    for alive in 0..3 {
        let mut world = World::new(3, 3);
        world.traffic = Some(ms(50));
        world.filter = Box::new(move |_, packet| packet.path().is_some_and(|path| path != alive));
        world.begin();
        world.run_for(SECOND * 5);
        assert_eq!(states(&world), ["up"], "path {alive}");
        assert_eq!(detached(&world), [0, 1, 2].map(|worker| worker != alive));
        assert_nothing_is_lost(&mut world);
        assert_eq!(world.client.connects(), 1, "connected throughout");
    }
}

#[test]
fn another_path_takes_over_when_the_only_one_falls_silent() {
    let mut world = World::connected(2, 2);
    world.traffic = Some(ms(50));
    let down = |path, from: u64, to: u64| {
        move |at: Duration, packet: &Packet| {
            packet.path() == Some(path) && (SECOND * from as u32..SECOND * to as u32).contains(&at)
        }
    };
    let (first, second) = (down(0, 5, 70), down(1, 70, 999));
    world.filter = Box::new(move |at, packet| first(at, packet) || second(at, packet));
    world.run_for(SECOND * 30);
    assert_eq!(detached(&world), [true, false]);
    assert_nothing_is_lost(&mut world);
    world.traffic = Some(ms(50));
    world.run_for(SECOND * 40);
    assert_eq!(detached(&world), [false, true]);
    assert_eq!(states(&world), ["up"]);
    assert_nothing_is_lost(&mut world);
}

#[test]
fn where_no_path_gets_through_among_others_each_is_tried_alone() {
    let mut world = World::new(2, 3);
    // The last path, and only in a session that has no other, so that its number is 0.
    world.filter = Box::new(|_, packet| match (packet.message, packet.path()) {
        (Some(PathMessage::Probe { path, .. }), socket) => (path, socket) != (0, Some(2)),
        (_, socket) => socket.is_some_and(|socket| socket != 2),
    });
    world.begin();
    world.run_for(SECOND * 60);
    assert_eq!(world.client.engine.state(), EngineState::Up);
    assert_eq!(detached(&world), [true, true, false]);
    assert_nothing_is_lost(&mut world);
    // Trials of all paths go on failing, and the one in use is gone back to each time.
    world.run_for(PATHS_RETRY_MAX);
    assert_eq!(world.client.connects(), 1);
    assert_eq!(detached(&world), [true, true, false]);
    assert_nothing_is_lost(&mut world);
}

#[test]
fn with_no_path_at_all_the_client_keeps_trying_ever_more_slowly() {
    let mut world = World::new(2, 2);
    world.filter = Box::new(|at, packet| packet.is(MessageType::Data) && at < SECOND * 300);
    world.begin();
    world.run_for(SECOND * 300);
    assert_eq!(world.client.connects(), 0);
    assert_eq!(world.client.engine.state(), EngineState::Connecting);
    let initiations =
        world.captured.iter().filter(|(_, packet)| packet.is(MessageType::Initiation)).count();
    assert!((20..=60).contains(&initiations), "{initiations}");
    world.run_for(SECOND * 30);
    assert_eq!(world.client.connects(), 1);
}

#[test]
fn a_client_that_roams_keeps_its_session() {
    let mut world = World::connected(2, 2);
    world.traffic = Some(ms(50));
    let session = current_session(&world);
    world.roam(Ipv4Addr::new(192, 0, 2, 200));
    world.run_for(SECOND * 5);
    assert_eq!(current_session(&world), session);
    let paths = world.server_status().paths;
    assert!(paths.iter().all(|path| path.endpoint.as_ref().unwrap().starts_with("192.0.2.200:")));
    let moves = world.server.events.iter();
    let moves = moves.filter(|(_, event)| matches!(event, EngineEvent::PeerMoved { .. }));
    assert_eq!(moves.count(), 2, "one for each path");
    let (sent, received) = (world.server.sent, world.client.received);
    world.run_for(SECOND);
    assert_eq!(world.client.received - received, world.server.sent - sent);
}

#[test]
fn a_client_that_hears_of_another_network_shows_itself_though_it_has_nothing_to_say() {
    let mut world = World::connected(2, 2);
    let session = current_session(&world);
    world.roam(Ipv4Addr::new(192, 0, 2, 200));
    let now = world.clocks(Who::Client);
    world.client.engine.network_changed(now);
    world.pump();
    world.run_for(ms(100));
    let paths = world.server_status().paths;
    assert!(paths.iter().all(|path| path.endpoint.as_ref().unwrap().starts_with("192.0.2.200:")));
    assert_eq!(current_session(&world), session);
}

#[test]
fn a_client_that_hears_of_another_network_does_not_wait_to_connect() {
    let mut world = World::new(1, 1);
    world.filter = Box::new(|at, _| at < SECOND * 60);
    world.begin();
    world.run_for(SECOND * 60);
    assert_eq!(world.client.connects(), 0);
    let now = world.clocks(Who::Client);
    world.client.engine.network_changed(now);
    world.pump();
    world.run_for(ms(100));
    assert_eq!(world.client.connects(), 1);
}

#[test]
fn handshake_messages_do_not_move_a_peer() {
    let mut world = World::connected(1, 1);
    let before = world.server_status().paths[0].endpoint.clone();
    let mut initiation = find(&world, MessageType::Initiation);
    initiation.from = "192.0.2.66:1".parse().unwrap();
    world.deliver(initiation);
    world.run_for(ms(100));
    assert_eq!(world.server_status().paths[0].endpoint, before);
}

#[test]
fn both_sides_measure_what_each_path_carries() {
    for (mtu, expected) in [(1500, 1408), (1400, 1328), (1280, 1216)] {
        let mut world = World::new(2, 2);
        world.weather.mtu = mtu;
        world.begin();
        world.run_for(SECOND * 30);
        for status in [world.client_status(), world.server_status()] {
            assert!(status.paths.iter().all(|path| path.plaintext_max == expected), "{status:?}");
        }
        if expected != 1408 {
            assert_eq!(world.client.workers[1].plaintext_max[&1], expected);
            assert_eq!(world.server.workers[0].plaintext_max[&1], expected);
        }
    }
}

#[test]
fn what_a_path_carries_is_remembered_across_a_rekey() {
    let mut world = World::new(1, 1);
    world.weather.mtu = 1400;
    world.begin();
    world.run_for(SECOND * 60);
    world.client.workers[0].plaintext_max.clear();
    world.server.workers[0].plaintext_max.clear();
    world.run_for(SECOND * 65);
    assert_eq!(world.client_status().rekeys, 1);
    assert_eq!(world.client.workers[0].plaintext_max[&0], 1328);
    assert_eq!(world.server.workers[0].plaintext_max[&0], 1328);
}

#[test]
fn a_refusal_by_the_kernel_reaches_all_workers() {
    let mut world = World::connected(2, 1);
    let session = world.server.workers[0].newest().unwrap();
    let event = WorkerEvent::PathTooBig { worker: 0, session, path: 0, plaintext_len: 1400 };
    let now = Now { monotonic: world.now, unix: SECOND };
    world.server.engine.handle_worker_event(now, event);
    world.pump();
    assert!(world.server.workers.iter().all(|worker| worker.plaintext_max[&0] == 1152));
}

#[test]
fn an_idle_tunnel_is_silent() {
    let mut world = World::connected(2, 2);
    world.run_for(SECOND * 5);
    let before = world.captured.len();
    world.run_for(SECOND * 100);
    assert_eq!(world.captured.len(), before);
}

#[test]
fn keepalives_are_sent_on_every_idle_path_and_find_a_dead_server() {
    let mut world = World::new(2, 2);
    world.options.keepalive = Some(SECOND * 10);
    let options = world.options.clone();
    world.client.engine.reload(Reload::Client(options));
    world.begin();
    world.run_for(SECOND * 5);
    let before = world.captured.len();
    world.run_for(SECOND * 30);
    let sent = &world.captured[before..];
    for path in [0, 1] {
        let empty = |packet: &Packet| packet.path() == Some(path) && packet.is_keepalive();
        let count = sent.iter().filter(|(_, packet)| empty(packet)).count();
        assert!((2..=3).contains(&count), "path {path}: {count}");
    }
    world.restart_server();
    world.run_for(SECOND * 20);
    assert_eq!(world.client.connects(), 2);
}

#[test]
fn a_one_way_stream_keeps_its_session() {
    let mut world = World::connected(1, 2);
    let session = current_session(&world);
    world.traffic = Some(ms(50));
    // What the server's TUN device sends does not exist, its control thread's answers do.
    world.filter = Box::new(|_, packet| !packet.to_server() && packet.is_traffic());
    world.run_for(SECOND * 60);
    assert_eq!(current_session(&world), session);
    assert_eq!(states(&world), ["up", "up"]);
}
