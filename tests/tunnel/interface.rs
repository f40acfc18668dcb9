//! Somebody else lays hands on the TUN device while the daemon runs.

use std::net::IpAddr;
use std::os::fd::AsRawFd;

use corelane::exit::ExitCode;
use corelane::lab::{Host, LINK, wait_until};

use crate::daemon::Daemon;
use crate::harness::{
    CLIENT_V4, CLIENT_V6, Options, PATIENCE, SERVER_V4, SERVER_V6, TUN, Tunnel, capture,
};
use crate::routing::{FAR_V4, FAR_V6, assert_only_the_tunnel_left, full_tunnel};
use crate::tools::{attempt, echo, ping, run};

/// Addresses, routes and rules of a host as far as its TUN device is concerned.
fn belongings(host: &Host) -> [String; 4] {
    ["-4 address", "-6 address", "-4 route show table all", "-6 route show table all"].map(|what| {
        let shown = run(host, &format!("ip -oneline {what}"));
        let lines = shown.lines().filter(|line| line.contains(TUN)).map(str::trim_end);
        let mut lines: Vec<_> = lines.collect();
        lines.sort_unstable();
        lines.join("\n")
    })
}

/// Sets the device of one side down and up, and waits until all is as it was.
#[track_caller]
fn flap(daemon: &Daemon, host: &Host) {
    let before = belongings(host);
    run(host, &format!("ip link set {TUN} down"));
    daemon.await_log(&format!("somebody set {TUN} down"));
    assert_ne!(belongings(host), before, "the kernel forgets");
    run(host, &format!("ip link set {TUN} up"));
    let restored = || (belongings(host) == before).then_some(());
    if wait_until(PATIENCE, "everything to be put back", restored).is_err() {
        panic!("{:#?} is not {before:#?}", belongings(host));
    }
    daemon.await_log(&format!("somebody changed {TUN}: put back"));
}

#[test]
fn an_interface_that_was_set_down_and_up_by_hand_gets_back_what_it_lost() {
    let tunnel = Tunnel::start(Options {
        routes: vec!["203.0.113.0/24".to_owned(), "2001:db8:ff::/48".to_owned()],
        ..Options::default()
    });
    flap(&tunnel.client, tunnel.lab.client());
    tunnel.await_echoes();
    flap(&tunnel.server, tunnel.lab.server());
    for address in [IpAddr::from(CLIENT_V4), IpAddr::from(CLIENT_V6)] {
        ping(tunnel.lab.server(), address, "-c 3 -i 0.01");
    }
    let error = tunnel.client.status().last_error;
    assert!(error.as_ref().is_some_and(|error| error.contains("put back")), "{error:?}");
}

#[test]
fn an_address_or_rule_that_somebody_removes_is_put_back_ever_more_slowly() {
    let mut tunnel = full_tunnel();
    tunnel.start_server();
    tunnel.start_client();
    let client = tunnel.lab.client();
    let put_back = || tunnel.client.log().matches("put back").count();
    let await_put_back = |count| {
        let enough = || (put_back() >= count).then_some(());
        wait_until(PATIENCE, "what was removed to be put back", enough).unwrap();
    };
    run(client, "ip rule del priority 32765");
    await_put_back(1);
    assert!(run(client, "ip rule").contains("fwmark 0xc1"));
    run(client, &format!("ip address del {CLIENT_V4}/24 dev {TUN}"));
    await_put_back(2);
    assert!(run(client, "ip address").contains(&CLIENT_V4.to_string()));
    let log = tunnel.client.log();
    for pause in ["1s", "2s"] {
        assert!(log.contains(&format!("look again after {pause}")), "{pause}: {log}");
    }
    tunnel.await_echoes();
}

#[test]
fn while_its_interface_is_down_a_full_tunnel_lets_nothing_out_in_the_clear() {
    let mut tunnel = full_tunnel();
    tunnel.start_server();
    tunnel.start_client();
    tunnel.await_echoes();
    let client = tunnel.lab.client();
    let mut link = capture(client, LINK);
    run(client, &format!("ip link set {TUN} down"));
    for address in [IpAddr::from(FAR_V4), IpAddr::from(FAR_V6)] {
        let refused = attempt(client, &format!("ping -n -c 1 -W 1 {address}"));
        let text = format!("{}{}", refused.stdout, refused.stderr).to_lowercase();
        assert!(!refused.status.success() && text.contains("no route to host"), "{text}");
    }
    run(client, &format!("ip link set {TUN} up"));
    for address in [IpAddr::from(FAR_V4), IpAddr::from(FAR_V6)] {
        let answered = || echo(client, address).then_some(());
        wait_until(PATIENCE, "an echo from afar", answered).unwrap();
    }
    assert_only_the_tunnel_left(&mut link);
}

/// The daemon must end by itself, say why, and have undone everything else.
#[track_caller]
fn assert_ends_for_want_of_its_device(daemon: &mut Daemon) {
    let status = daemon.await_end();
    assert_eq!(status.code(), Some(ExitCode::DeviceGone as i32), "{status}");
    let log = daemon.log();
    let error = format!("the TUN device {TUN} is gone");
    assert!(log.contains(&error) && log.contains("systemctl restart corelane-"), "{log}");
    assert_eq!(log.matches(" is gone (").count(), 2, "one worker speaks for all: {log}");
    assert!(!daemon.status_socket().exists());
}

#[test]
fn a_client_whose_interface_is_deleted_says_so_and_undoes_the_rest() {
    let mut tunnel = full_tunnel();
    tunnel.start_server();
    tunnel.start_client();
    tunnel.await_echoes();
    run(tunnel.lab.client(), &format!("ip link delete {TUN}"));
    assert_ends_for_want_of_its_device(&mut tunnel.client);
    for family in ["-4", "-6"] {
        let rules = run(tunnel.lab.client(), &format!("ip {family} rule"));
        assert!(!rules.contains("fwmark"), "{rules}");
    }
    tunnel.start_client();
    tunnel.await_echoes();
}

#[test]
fn a_server_whose_interface_is_deleted_says_so_and_can_be_started_again() {
    let mut tunnel = Tunnel::start(Options { workers: (2, 1), ..Options::default() });
    run(tunnel.lab.server(), &format!("ip link delete {TUN}"));
    assert_ends_for_want_of_its_device(&mut tunnel.server);
    tunnel.start_server();
    tunnel.await_paths();
    tunnel.await_echoes();
}

/// As one does to give a tunnel to a container.
#[test]
fn an_interface_that_was_moved_to_another_namespace_still_carries_packets() {
    let tunnel = Tunnel::start(Options::default());
    let inside = Host::create("inside").unwrap();
    let descriptor = inside.namespace().as_raw_fd();
    let namespace = format!("/proc/{}/fd/{descriptor}", std::process::id());
    run(tunnel.lab.client(), &format!("ip link set {TUN} netns {namespace}"));
    tunnel.client.await_log("is gone from this network namespace");
    run(&inside, &format!("ip address add {CLIENT_V4}/24 dev {TUN}"));
    run(&inside, &format!("ip -6 address add {CLIENT_V6}/64 dev {TUN} nodad"));
    run(&inside, &format!("ip link set {TUN} up"));
    ping(&inside, SERVER_V4, "-c 3 -i 0.01");
    ping(&inside, SERVER_V6, "-c 3 -i 0.01");
}
