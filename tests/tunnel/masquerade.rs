//! A server that lets its clients out to the world by itself.

use std::net::IpAddr;

use corelane::lab::{Host, LINK, wait_until};

use crate::harness::{Options, PATIENCE, TUN, Tunnel};
use crate::routing::{FAR_V4, FAR_V6};
use crate::tools::{attempt, echo, ping, run};

/// Of the router, which knows the way to the hosts beside it and to no tunnel.
const FAR: [IpAddr; 2] = [IpAddr::V4(FAR_V4), IpAddr::V6(FAR_V6)];
const TABLE: &str = "corelane_corelane0";

/// A server that lets out a client, whose default routes lead into the tunnel.
fn prepare() -> Tunnel {
    let mut tunnel = Tunnel::prepare(Options {
        routed: true,
        routes: vec!["0.0.0.0/0".to_owned(), "::/0".to_owned()],
        server_flags: vec!["--set".to_owned(), "server.nat=masquerade".to_owned()],
        ..Options::default()
    });
    let server = tunnel.lab.server();
    // Others have tables, too, and what is on need not be on everywhere.
    run(server, "nft add table inet elsewhere");
    run(server, &format!("sysctl -w net.ipv6.conf.{LINK}.accept_ra=1"));
    tunnel.remember_hosts();
    tunnel
}

fn start() -> Tunnel {
    let mut tunnel = prepare();
    tunnel.start_server();
    tunnel.start_client();
    tunnel.await_echoes();
    tunnel
}

#[track_caller]
fn assert_online(tunnel: &Tunnel) {
    for far in FAR {
        ping(tunnel.lab.client(), far, "-c 3 -i 0.01");
    }
}

fn sysctl(host: &Host, name: &str) -> String {
    run(host, &format!("sysctl -n {name}")).trim().to_owned()
}

#[test]
fn clients_reach_the_world_and_the_world_only_answers() {
    let tunnel = start();
    assert_online(&tunnel);
    let (server, router) = (tunnel.lab.server(), tunnel.lab.router());
    assert_eq!(sysctl(server, &format!("net.ipv6.conf.{LINK}.accept_ra")), "2");
    // Somebody beside the server who finds out what networks are behind it.
    run(router, "ip route add 10.77.0.0/24 via 192.0.2.1");
    run(router, "ip route add fd77::/64 via 2001:db8::1");
    for inside in ["10.77.0.2", "fd77::2"] {
        assert!(!echo(router, inside.parse::<IpAddr>().unwrap()), "{inside}");
    }
    assert_online(&tunnel);
}

#[test]
fn what_another_program_flushes_is_back_at_once() {
    let tunnel = start();
    let server = tunnel.lab.server();
    for _ in 0..3 {
        run(server, "nft flush ruleset");
        let restored = || {
            let shown = attempt(server, &format!("nft list table inet {TABLE}"));
            shown.status.success().then_some(())
        };
        wait_until(PATIENCE, "the table to be back", restored).unwrap();
        assert_online(&tunnel);
    }
    tunnel.server.await_log("another program removed or changed");
    run(server, "nft add table inet elsewhere");
}

#[test]
fn what_a_killed_server_leaves_is_undone_by_the_next() {
    let mut tunnel = start();
    for nat in ["masquerade", "off"] {
        tunnel.server.kill();
        let server = tunnel.lab.server();
        assert_eq!(sysctl(server, "net.ipv4.ip_forward"), "1");
        assert!(run(server, "nft list tables").contains(TABLE));
        tunnel.server.flags = vec!["--set".to_owned(), format!("server.nat={nat}")];
        tunnel.start_server();
        tunnel.await_echoes();
        if nat == "masquerade" {
            assert_online(&tunnel);
        }
    }
    assert_eq!(sysctl(tunnel.lab.server(), "net.ipv4.ip_forward"), "0");
    assert_eq!(run(tunnel.lab.server(), "nft list tables"), "table inet elsewhere\n");
    assert_eq!(run(tunnel.lab.client(), "nft list tables"), "");
}

#[test]
fn a_chain_that_drops_is_told_of_with_what_lets_clients_pass() {
    let mut tunnel = prepare();
    let server = tunnel.lab.server();
    run(server, "nft add table ip filter");
    let policy = "{ type filter hook forward priority 0 ; policy drop ; }";
    run(server, &format!("nft add chain ip filter FORWARD {policy}"));
    tunnel.remember_hosts();
    tunnel.start_server();
    tunnel.server.await_log("the chain FORWARD of the table ip filter drops");
    for direction in [format!("iifname {TUN}"), format!("oifname {TUN} ct state established")] {
        let insert = "nft insert rule ip filter FORWARD";
        let log = tunnel.server.log();
        assert!(log.contains(&format!("{insert} {direction}")), "{log}");
        run(tunnel.lab.server(), &format!("{insert} {direction} accept"));
    }
    tunnel.start_client();
    tunnel.await_echoes();
    ping(tunnel.lab.client(), FAR_V4, "-c 3 -i 0.01");
    run(tunnel.lab.server(), "nft flush chain ip filter FORWARD");
}

#[test]
fn without_nft_the_start_says_what_to_install() {
    let mut tunnel = prepare();
    let hidden = tunnel.directory.path().join("hidden");
    std::fs::write(&hidden, "").unwrap();
    let hide = format!("mount --bind {} \"$(command -v nft)\" && exec \"$@\"", hidden.display());
    tunnel.server.wrapper =
        ["unshare", "--mount", "sh", "-c", &hide, "sh"].map(str::to_owned).into();
    tunnel.server.start(tunnel.lab.server());
    assert_eq!(tunnel.server.await_end().code(), Some(1));
    assert!(tunnel.server.log().contains("apt install nftables"), "{}", tunnel.server.log());
}
