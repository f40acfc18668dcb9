//! What the daemons may do once they run, and whom they serve.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

use corelane::lab::wait_until;

use crate::harness::{Options, PATIENCE, SERVER_V4, TUN, Tunnel};
use crate::tools::{attempt, ping, run};

/// `CAP_NET_ADMIN` as a mask (linux/capability.h).
const NET_ADMIN: &str = "0000000000001000";
const NONE: &str = "0000000000000000";

#[test]
fn a_daemon_keeps_one_capability_and_its_workers_none() {
    let tunnel = Tunnel::start(Options { workers: (2, 2), ..Options::default() });
    for daemon in [&tunnel.server, &tunnel.client] {
        let pid = daemon.pid();
        for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
            let task = task.unwrap().path();
            let name = fs::read_to_string(task.join("comm")).unwrap();
            let status = fs::read_to_string(task.join("status")).unwrap();
            let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:\t"));
            let expected = if name.starts_with("tunnel-") { NONE } else { NET_ADMIN };
            assert_eq!(effective, Some(expected), "{name}");
        }
    }
}

#[test]
fn a_source_that_the_peer_does_not_own_is_dropped_and_counted() {
    let tunnel = Tunnel::start(Options::default());
    let client = tunnel.lab.client();
    run(client, &format!("ip address add 10.77.0.66/32 dev {TUN}"));
    let answer = attempt(client, &format!("ping -n -c 3 -i 0.2 -W 0.3 -I 10.77.0.66 {SERVER_V4}"));
    assert!(!answer.status.success());
    let counted = || {
        let drops = tunnel.drops();
        (drops[0].get("inner_source_not_allowed") == Some(&3)).then_some(())
    };
    wait_until(PATIENCE, "three drops", counted).unwrap();
}

#[test]
fn a_status_client_that_finds_no_descriptor_left_is_served_when_there_is_one() {
    let tunnel = Tunnel::start(Options::default());
    let limit_files = |limit: &str| {
        run(tunnel.lab.client(), &format!("prlimit --pid {} --nofile={limit}", tunnel.client.pid()))
    };
    // The soft limit alone: the hard one is not easily raised again.
    limit_files("3:");
    let mut stream = UnixStream::connect(tunnel.client.status_socket()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"{\"request\":\"status\"}\n").unwrap();
    tunnel.client.await_log("status socket, a client has to wait");
    ping(tunnel.lab.client(), SERVER_V4, "-i 0 -c 10");
    limit_files("1024:");
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).unwrap();
    assert!(answer.starts_with("{\"answer\":\"status\""), "{answer}");
}
