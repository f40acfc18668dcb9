//! Ends that stop, start again, sleep, have a wrong clock, or are there twice.

use std::fs;
use std::thread;
use std::time::Duration;

use corelane::lab::wait_until;
use corelane::sys::clock;
use corelane::telemetry::drops::DropReason::HandshakeReplayed;

use crate::harness::{CLIENT_V4, CLIENT_V6, Options, PATIENCE, SERVER_V4};
use crate::insider::{ask_for_session, credentials};
use crate::stage::{Side, Stage};
use crate::tools::echo;

const HOUR: Duration = Duration::from_secs(3600);
/// How long an answer is awaited that must not come.
const SILENCE: Duration = Duration::from_millis(300);

/// An initiation is no replay if its timestamp is newer than the last; nothing else about the
/// clock of a client matters, and that of a server not at all.
#[test]
fn a_clock_that_jumps_costs_at_most_new_sessions_and_says_so() {
    let mut stage = Stage::prepare(Options::default());
    stage.expect_warning("is not newer than the last");
    let (key, peer) = credentials();
    stage.tunnel.peers.push(peer);
    stage.tunnel.write_server_config();
    stage.start();
    let socket = &stage.attacker.socket;
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let now = clock::unix_time();
    let server = stage.tunnel.server_key;
    let ask = |at: Duration| ask_for_session(socket, &key, &server, at).is_some();
    // From the beginning of time, then right, then an hour ahead, which nobody can know.
    assert!(ask(Duration::ZERO) && ask(now) && ask(now + HOUR));
    let before = stage.drops(Side::Server);
    socket.set_read_timeout(Some(SILENCE)).unwrap();
    assert!(!ask(now + Duration::from_secs(1)), "set back: it might be a replay");
    stage.assert_added(Side::Server, &before, &[(HandshakeReplayed, 1)]);
    let log = stage.tunnel.server.log();
    assert!(log.contains("the peer's clock was set back (set it right"), "{log}");
    stage.assert_unharmed();

    // The mending command: a server that starts again has forgotten.
    assert_eq!(stage.tunnel.server.terminate().code(), Some(0));
    stage.tunnel.start_server();
    stage.attacker.socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let again = ask_for_session(&stage.attacker.socket, &key, &server, clock::unix_time());
    assert!(again.is_some());
    stage.tunnel.await_paths();
}

#[test]
fn both_ends_restart_in_any_way_and_find_each_other() {
    let mut stage = Stage::build();
    for round in 0..4 {
        let tunnel = &mut stage.tunnel;
        match round {
            0 => {
                tunnel.server.kill();
                tunnel.client.kill();
            }
            1 => {
                assert_eq!(tunnel.server.terminate().code(), Some(0));
                tunnel.client.kill();
            }
            2 => {
                tunnel.client.kill();
                assert_eq!(tunnel.server.terminate().code(), Some(0));
            }
            _ => {
                assert_eq!(tunnel.client.terminate().code(), Some(0));
                assert_eq!(tunnel.server.terminate().code(), Some(0));
            }
        }
        // The client first: it must wait for a server that is not there yet.
        tunnel.client.start(tunnel.lab.client());
        tunnel.client.await_log("connecting to");
        tunnel.start_server();
        tunnel.await_paths();
        tunnel.await_echoes();
    }
    assert!(stage.drops(Side::Server).is_empty(), "{:?}", stage.drops(Side::Server));
    stage.assert_healthy();
}

/// As by the lid of a laptop. Timers run on by the clock; who has missed one catches up.
#[test]
fn an_end_that_sleeps_for_longer_than_the_session_lives_wakes_up_to_a_new_one() {
    let mut stage = Stage::build();
    stage.expect_warning("has not answered");
    for side in [Side::Client, Side::Server] {
        stage.daemon(side).signal("STOP");
        // Somebody has to notice: silence means nothing to who has nothing to say.
        let asked = clock::now();
        while clock::now() - asked < Duration::from_secs(5) {
            echo(stage.tunnel.lab.client(), SERVER_V4);
            thread::sleep(Duration::from_millis(100));
        }
        stage.daemon(side).signal("CONT");
        let answered = || echo(stage.tunnel.lab.client(), SERVER_V4).then_some(());
        wait_until(PATIENCE, "an echo", answered).unwrap();
    }
    stage.assert_healthy();
}

/// Two machines with one key, as when one was made from a copy of the other's disk. The server
/// cannot tell them apart: who came last has the session. Each takes it back once it has noticed,
/// so they take turns, slowly, and the log tells why.
#[test]
fn a_key_that_is_used_twice_makes_its_owners_take_turns() {
    const WATCHED_FOR: Duration = Duration::from_secs(12);
    let mut stage = Stage::build();
    stage.expect_warning("its key is used by two machines at once");
    let (mut twin, _) = stage.tunnel.another_client(CLIENT_V4, CLIENT_V6);
    fs::copy(stage.tunnel.client.key_file(), twin.key_file()).unwrap();
    twin.start(&stage.attacker.host);
    twin.await_status(PATIENCE, "the twin to connect", |it| it.state == "up");
    let began = clock::now();
    let mut served = [0, 0];
    while clock::now() - began < WATCHED_FOR {
        let hosts = [stage.tunnel.lab.client(), &stage.attacker.host];
        for (served, host) in served.iter_mut().zip(hosts) {
            *served += u32::from(echo(host, SERVER_V4));
        }
    }
    let log = stage.tunnel.server.log();
    assert_eq!(log.matches("its key is used by two machines at once").count(), 1, "{log}");
    assert!(served.iter().all(|&echoes| echoes > 0), "{served:?}");
    let turns = stage.tunnel.server_session().rekeys;
    assert!((1..=12).contains(&turns), "{turns} sessions in {WATCHED_FOR:?}");
    assert_eq!(twin.terminate().code(), Some(0));
    stage.tunnel.await_paths();
    stage.tunnel.await_echoes();
    stage.assert_healthy();
}
