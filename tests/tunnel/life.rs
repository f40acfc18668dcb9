//! What happens to a tunnel in its life: it is rekeyed, its ends restart and reload.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use corelane::lab::wait_until;

use crate::harness::{CLIENT_V6, Options, PATIENCE, SERVER_V4, SERVER_V6, TUN, Tunnel};
use crate::load::{Datagrams, Fate, await_progress};
use crate::tools::{echo, found_no_room, ping};

/// A tunnel whose sessions are replaced as often as may be.
fn rekeyed_every_five_seconds() -> Tunnel {
    let client_flags = vec!["--set".to_owned(), "client.rekey_after_s=5".to_owned()];
    Tunnel::start(Options { workers: (2, 2), client_flags, ..Options::default() })
}

fn rekeys(tunnel: &Tunnel) -> u64 {
    tunnel.client_session().rekeys.min(tunnel.server_session().rekeys)
}

#[test]
fn rekeying_under_a_stream_loses_nothing() {
    let tunnel = rekeyed_every_five_seconds();
    let before = rekeys(&tunnel);
    let report = tunnel.iperf(SERVER_V4, "-t 12");
    assert!(report.received_bytes() > 1 << 20);
    assert!(rekeys(&tunnel) >= before + 2, "{:?}", tunnel.client_session());
    assert_eq!(tunnel.drops(), [BTreeMap::new(), BTreeMap::new()]);
}

/// So slow that queues of the kernel are hardly ever full; where they are, on a machine that stands
/// still for a second, nothing is known of rekeys, and the test is done again.
#[test]
fn rekeying_under_datagrams_loses_none_and_reorders_none() {
    const TRIES: u32 = 3;
    let tunnel = rekeyed_every_five_seconds();
    let hosts = [tunnel.lab.server(), tunnel.lab.client()];
    let found_no_room = || hosts.iter().map(|host| found_no_room(host, TUN)).sum::<u64>();
    let is_proved = (0..TRIES).any(|_| {
        let before = found_no_room();
        let fates = fates_of_datagrams_across_rekeys(&tunnel);
        assert!(fates.iter().all(|it| it.reordered == 0), "{fates:?}");
        let lost: u64 = fates.iter().map(Fate::lost).sum();
        assert!(lost == 0 || found_no_room() > before, "{fates:?}");
        lost == 0
    });
    assert!(is_proved, "the kernel had no room for datagrams in any of {TRIES} tries");
    assert_eq!(tunnel.drops(), [BTreeMap::new(), BTreeMap::new()]);
}

/// Sends datagrams both ways, over both families, while the session is replaced three times.
#[track_caller]
fn fates_of_datagrams_across_rekeys(tunnel: &Tunnel) -> [Fate; 2] {
    const REKEYS: u64 = 3;
    let (server, client) = (tunnel.lab.server(), tunnel.lab.client());
    let pause = Duration::from_millis(1);
    let loads = [
        Datagrams::start(client, server, SERVER_V4, 1200, pause),
        Datagrams::start(server, client, CLIENT_V6, 200, pause),
    ];
    for load in &loads {
        await_progress("datagrams to flow", 100, || load.sent());
    }
    let sent_before = loads.each_ref().map(Datagrams::sent);
    let before = rekeys(tunnel);
    let rekeyed = || (rekeys(tunnel) >= before + REKEYS).then_some(());
    wait_until(PATIENCE * 3, "the session to be replaced a few times", rekeyed).unwrap();
    let sent_after = loads.each_ref().map(Datagrams::sent);
    for (before, after) in sent_before.iter().zip(sent_after) {
        assert!(after - before >= 1000, "{} datagrams in {REKEYS} sessions", after - before);
    }
    loads.map(Datagrams::finish)
}

#[test]
fn a_client_finds_its_server_again_however_that_was_stopped() {
    let mut tunnel = Tunnel::start(Options::default());
    assert_eq!(tunnel.server.terminate().code(), Some(0));
    tunnel.start_server();
    tunnel.await_paths();
    tunnel.await_echoes();
    tunnel.server.kill();
    tunnel.start_server();
    // The client notices by silence: it must have something to say.
    let answered = || echo(tunnel.lab.client(), SERVER_V4).then_some(());
    wait_until(PATIENCE, "an echo from the new server", answered).unwrap();
}

#[test]
fn a_client_that_was_killed_connects_at_once_when_started_again() {
    let mut tunnel = Tunnel::start(Options::default());
    tunnel.client.kill();
    tunnel.start_client();
    tunnel.await_echoes();
    ping(tunnel.lab.client(), SERVER_V6, "-i 0 -c 10");
}

#[test]
fn a_reload_adds_and_removes_peers_and_leaves_the_others_alone() {
    let mut tunnel = Tunnel::start(Options::default());
    let (v4, v6) = (Ipv4Addr::new(10, 77, 0, 3), Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 3));
    let (mut other, peer) = tunnel.another_client(v4, v6);
    other.flags = ["--tun", "other0"].map(str::to_owned).into();
    let traffic = tunnel.start_iperf(SERVER_V4, "-t 3");

    tunnel.peers.push(peer);
    tunnel.write_server_config();
    tunnel.server.signal("HUP");
    other.start(tunnel.lab.client());
    other.await_status(PATIENCE, "the new peer to connect", |it| it.state == "up");

    tunnel.peers.pop();
    tunnel.write_server_config();
    tunnel.server.signal("HUP");
    other.await_status(PATIENCE, "the removed peer to be cut off", |it| it.state != "up");
    assert_eq!(other.terminate().code(), Some(0));

    assert!(traffic.finish().received_bytes() > 1 << 20);
    assert_eq!(tunnel.client_session().rekeys, 0);
    assert!(tunnel.client_session().session_age_s > Some(2.0), "the session was not disturbed");
}

#[test]
fn a_broken_configuration_changes_nothing() {
    let tunnel = Tunnel::start(Options::default());
    let sound = fs::read_to_string(tunnel.server.config_file()).unwrap();
    fs::write(tunnel.server.config_file(), "[server]\nlisen = 3\n").unwrap();
    tunnel.server.signal("HUP");
    tunnel.server.await_log("configuration not applied");
    ping(tunnel.lab.client(), SERVER_V4, "-i 0 -c 10");
    fs::write(tunnel.server.config_file(), sound).unwrap();
}
