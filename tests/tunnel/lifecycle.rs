//! Starts, ends and what remains: processes, descriptors, memory, the host's settings.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;

use corelane::handshake::keys::PrivateKey;
use corelane::lab::{Host, wait_until};

use crate::daemon::{Daemon, WITH_AN_OPEN_TUN};
use crate::harness::{CLIENT_V4, Options, PATIENCE, SERVER_V4, SERVER_V6, TUN, Tunnel};
use crate::tools::{echo, ping, run};

/// How often a client comes and goes, unless this variable of the environment says otherwise.
const ROUNDS: usize = 50;
const ROUNDS_VARIABLE: &str = "CORELANE_TEST_ROUNDS";
/// What a server may keep of clients that came and went, in bytes.
const MEMORY_GROWTH_MAX: u64 = 4 << 20;
/// An ordinary user: nobody, on Debian and elsewhere.
const ORDINARY_USER: u32 = 65534;

/// What a process holds.
#[derive(Debug)]
struct Holdings {
    descriptors: usize,
    threads: usize,
}

impl Holdings {
    fn of(daemon: &Daemon) -> Self {
        let count = |what: &str| {
            let directory = format!("/proc/{}/{what}", daemon.pid());
            fs::read_dir(directory).unwrap().count()
        };
        Self { descriptors: count("fd"), threads: count("task") }
    }
}

/// Resident memory of a process, in bytes.
fn resident_bytes(daemon: &Daemon) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
fn clients_that_come_and_go_leave_nothing_behind() {
    let rounds = std::env::var(ROUNDS_VARIABLE);
    let rounds = rounds.map_or(ROUNDS, |rounds| rounds.parse().unwrap());
    let mut tunnel = Tunnel::prepare(Options { workers: (2, 2), ..Options::default() });
    tunnel.start_server();
    let mut memory = 0;
    let idle = Holdings::of(&tunnel.server);
    for round in 1..=rounds {
        tunnel.start_client();
        // The first echo is answered, be it that the session of a killed client is still there.
        ping(tunnel.lab.client(), SERVER_V4, "-c 1");
        ping(tunnel.lab.client(), SERVER_V6, "-c 1");
        // Killed every other time: then the server keeps the session until the next replaces it.
        if round % 2 == 0 {
            tunnel.client.kill();
            continue;
        }
        assert_eq!(tunnel.client.terminate().code(), Some(0));
        let alone = |it: &corelane::telemetry::status::StatusReport| !it.peers[0].connected;
        tunnel.server.await_status(PATIENCE, "the client to be gone", alone);
        if memory == 0 {
            memory = resident_bytes(&tunnel.server);
        }
    }
    // A connection of whoever asked for the status may have been counted the first time.
    let holds = || Holdings::of(&tunnel.server);
    let restored = || {
        let now = holds();
        (now.descriptors <= idle.descriptors && now.threads == idle.threads).then_some(())
    };
    wait_until(PATIENCE, "the server to hold what it held", restored)
        .unwrap_or_else(|timeout| panic!("{timeout}: {idle:?}, {:?}", holds()));
    let grown = resident_bytes(&tunnel.server).saturating_sub(memory);
    assert!(grown < MEMORY_GROWTH_MAX, "{grown} bytes more than after the first client");
}

/// Every setting of a host's network but for those of an interface that comes and goes, and the
/// kernel's own accounts.
fn settings(host: &Host) -> BTreeSet<String> {
    let is_setting = |line: &&str| {
        let own = line.contains(&format!(".{TUN}."));
        let account = ["_count =", ".random.", "_bytes =", "dentry", "inode"];
        !own && !account.iter().any(|it| line.contains(it))
    };
    let all = run(host, "sysctl -a -e -r ^net[.](core|ipv4|ipv6|netfilter)[.]");
    assert!(all.lines().count() > 100, "{all}");
    all.lines().filter(is_setting).map(str::to_owned).collect()
}

#[test]
fn daemons_that_were_killed_and_started_again_leave_every_setting_as_it_was() {
    let mut tunnel = Tunnel::prepare(Options {
        workers: (2, 2),
        routes: vec!["0.0.0.0/0".to_owned(), "::/0".to_owned()],
        ..Options::default()
    });
    let before = [settings(tunnel.lab.server()), settings(tunnel.lab.client())];
    for _ in 0..2 {
        tunnel.start_server();
        tunnel.start_client();
        tunnel.await_echoes();
        tunnel.client.kill();
        tunnel.server.kill();
    }
    tunnel.start_server();
    tunnel.start_client();
    tunnel.await_echoes();
    assert_eq!(tunnel.client.terminate().code(), Some(0));
    assert_eq!(tunnel.server.terminate().code(), Some(0));
    for (host, before) in [tunnel.lab.server(), tunnel.lab.client()].into_iter().zip(before) {
        let after = settings(host);
        let changed: Vec<_> = after.symmetric_difference(&before).collect();
        assert!(changed.is_empty(), "{}: {changed:#?}", host.name());
    }
}

#[test]
fn a_client_with_a_new_key_is_served_at_once() {
    let mut tunnel = Tunnel::start(Options::default());
    let key = PrivateKey::generate(&mut rand::rng());
    fs::write(tunnel.client.key_file(), key.to_base64()).unwrap();
    tunnel.peers[0].key = key.public();
    tunnel.write_server_config();
    let reload = tunnel.server.ask(&["reload"]);
    assert!(reload.status.success(), "{reload:?}");
    // The old key is not known any more: that client is cut off while it still runs.
    tunnel.client.await_status(PATIENCE, "the old key to be refused", |it| it.state != "up");
    assert!(!echo(tunnel.lab.client(), SERVER_V4));
    let refused = || tunnel.drops()[0].get("handshake_peer_unknown").copied();
    wait_until(PATIENCE, "a handshake with the old key", refused).unwrap();

    assert_eq!(tunnel.client.terminate().code(), Some(0));
    tunnel.start_client();
    ping(tunnel.lab.client(), SERVER_V4, "-c 3 -i 0.01");
    ping(tunnel.lab.server(), CLIENT_V4, "-c 3 -i 0.01");
}

/// Hands a file or directory, and all that is in it, to [`ORDINARY_USER`].
fn hand_over(path: &Path) {
    chown(path, Some(ORDINARY_USER), Some(ORDINARY_USER)).unwrap();
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            hand_over(&entry.unwrap().path());
        }
    }
}

#[test]
fn one_capability_is_all_that_an_ordinary_user_needs() {
    let mut tunnel = Tunnel::prepare(Options {
        workers: (2, 2),
        routes: vec!["203.0.113.0/24".to_owned(), "2001:db8:ff::/48".to_owned()],
        ..Options::default()
    });
    // The program may lie where an ordinary user cannot go.
    let program = tunnel.directory.path().join("corelane");
    fs::copy(crate::daemon::CORELANE, &program).unwrap();
    let setpriv = format!(
        "setpriv --reuid {ORDINARY_USER} --regid {ORDINARY_USER} --clear-groups \
         --no-new-privs --pdeathsig KILL \
         --inh-caps -all,+net_admin --ambient-caps -all,+net_admin --bounding-set -all,+net_admin"
    );
    let wrapper: Vec<_> =
        WITH_AN_OPEN_TUN.into_iter().chain(setpriv.split(' ')).map(str::to_owned).collect();
    for daemon in [&mut tunnel.server, &mut tunnel.client] {
        daemon.program.clone_from(&program);
        daemon.wrapper.clone_from(&wrapper);
    }
    hand_over(tunnel.directory.path());
    tunnel.start_server();
    tunnel.start_client();
    tunnel.await_echoes();
    for daemon in [&tunnel.server, &tunnel.client] {
        let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
        let uid = format!("Uid:\t{ORDINARY_USER}\t{ORDINARY_USER}\t{ORDINARY_USER}");
        assert!(status.contains(&uid), "{status}");
        assert!(!daemon.log().contains("WARN"), "{}", daemon.log());
    }
    ping(tunnel.lab.client(), SERVER_V4, "-i 0 -c 10");
    tunnel.transfer_both_ways(SERVER_V6, 1 << 20);
    // Routes are touched after the start, too.
    tunnel.options.routes.pop();
    tunnel.write_client_config();
    let reload = tunnel.client.ask(&["reload"]);
    assert!(reload.status.success(), "{reload:?}");
    assert!(!run(tunnel.lab.client(), "ip -6 route").contains("2001:db8:ff::/48"));
}
