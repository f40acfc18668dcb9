//! Sockets that are bound to an interface, and packets that are routed anew since somebody changed
//! their mark.

use std::net::IpAddr;

use corelane::lab::{Host, LINK};
use corelane::packet::Parsed;

use crate::harness::{CLIENT_V4, CLIENT_V6, Options, SERVER_V4, SERVER_V6, TUN, Tunnel, capture};
use crate::routing::{FAR_V4, FAR_V6, assert_only_the_tunnel_left, full_tunnel};
use crate::tools::{end_table, ping, run};

/// Has a host mark what it sends, of those packets that `which` names (for nft): each is then
/// routed a second time. All of these are counted.
fn mark_what_leaves(host: &Host, which: &str) {
    run(host, "nft add table inet marks");
    run(host, "nft add chain inet marks out { type route hook output priority mangle ; }");
    run(host, &format!("nft add rule inet marks out {which} counter meta mark set 1"));
}

/// Ends that, and returns how many packets were marked.
fn marked(host: &Host) -> u64 {
    end_table(host, "marks")
}

#[test]
fn a_bound_socket_is_served_also_where_every_mark_changes() {
    let tunnel = Tunnel::start(Options { workers: (2, 2), ..Options::default() });
    let (server, client) = (tunnel.lab.server(), tunnel.lab.client());
    let serves = || {
        for bound in ["", "-I corelane0"] {
            for (host, v4, v6) in [(client, SERVER_V4, SERVER_V6), (server, CLIENT_V4, CLIENT_V6)] {
                ping(host, v4, &format!("-c 3 -i 0.01 {bound}"));
                ping(host, v6, &format!("-c 3 -i 0.01 {bound}"));
            }
        }
    };
    assert_eq!(TUN, "corelane0");
    serves();
    // Echoes inside and the datagrams that carry them.
    for host in [client, server] {
        mark_what_leaves(host, "");
    }
    serves();
    tunnel.transfer_both_ways(SERVER_V4, 1 << 20);
    for host in [client, server] {
        assert!(marked(host) > 48, "too few packets were routed anew");
    }
}

/// How many echo requests to `to` a link has seen in the clear.
fn bare_echoes(link: &mut corelane::sys::capture::Capture, to: IpAddr) -> usize {
    let mut echoes = 0;
    while let Some(captured) = link.receive().unwrap() {
        let Ok(parsed) = Parsed::parse(captured.packet) else { continue };
        let is_echo = [8, 128].contains(&captured.packet[parsed.transport_offset]);
        let is_icmp = [1, 58].contains(&parsed.protocol);
        echoes += usize::from(captured.outgoing && is_icmp && is_echo && parsed.destination == to);
    }
    echoes
}

#[test]
fn the_interface_that_a_socket_is_bound_to_decides_and_not_the_routes() {
    let mut tunnel = full_tunnel();
    tunnel.start_server();
    tunnel.start_client();
    tunnel.await_echoes();
    let client = tunnel.lab.client();
    let mut link = capture(client, LINK);
    for far in [IpAddr::from(FAR_V4), IpAddr::from(FAR_V6)] {
        ping(client, far, &format!("-c 3 -i 0.01 -I {TUN}"));
        assert!(assert_only_the_tunnel_left(&mut link) >= 3);
        ping(client, far, &format!("-c 3 -i 0.01 -I {LINK}"));
        assert_eq!(bare_echoes(&mut link, far), 3, "who asks for the link gets it");
    }

    // A mark that leads outside: who is bound to the tunnel stays in it.
    for family in ["-4", "-6"] {
        run(client, &format!("ip {family} rule add fwmark 1 priority 50 lookup main"));
    }
    mark_what_leaves(client, "meta l4proto { icmp, ipv6-icmp }");
    for far in [IpAddr::from(FAR_V4), IpAddr::from(FAR_V6)] {
        assert!(run(client, &format!("ip route get {far} mark 1")).contains(LINK));
        ping(client, far, &format!("-c 3 -i 0.01 -I {TUN}"));
        assert!(assert_only_the_tunnel_left(&mut link) >= 3);
    }
    assert!(marked(client) >= 6);
    for family in ["-4", "-6"] {
        run(client, &format!("ip {family} rule del fwmark 1 priority 50 lookup main"));
    }
}
