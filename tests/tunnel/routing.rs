//! A tunnel that takes everything, and what is left of it.

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use corelane::lab::{Host, LINK, addresses};
use corelane::packet::{Parsed, Transport};
use corelane::sys::capture::Capture;

use crate::harness::{Options, PORT, SERVER_V4, SERVER_V6, TUN, Tunnel, capture};
use crate::tools::{attempt, echo, ping, run};

/// Addresses of the router that the client reaches by its default route only.
pub(crate) const FAR_V4: Ipv4Addr = addresses::ROUTER_SERVER_SIDE_V4;
pub(crate) const FAR_V6: Ipv6Addr = addresses::ROUTER_SERVER_SIDE_V6;

/// A client whose default routes lead into the tunnel, to a server that translates addresses.
pub(crate) fn full_tunnel() -> Tunnel {
    let mut tunnel = Tunnel::prepare(Options {
        routed: true,
        workers: (2, 2),
        routes: vec!["0.0.0.0/0".to_owned(), "::/0".to_owned()],
        ..Options::default()
    });
    let server = tunnel.lab.server();
    run(server, "sysctl -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
    run(server, "nft add table inet gateway");
    run(server, "nft add chain inet gateway out { type nat hook postrouting priority 100 ; }");
    run(server, &format!("nft add rule inet gateway out oifname {LINK} masquerade"));
    tunnel.remember_hosts();
    tunnel
}

#[track_caller]
fn assert_route(host: &Host, to: impl Display, device: &str) {
    let route = run(host, &format!("ip route get {to}"));
    assert!(route.contains(&format!(" dev {device} ")), "{to}: {route}");
}

#[track_caller]
fn assert_everything_goes_through(tunnel: &Tunnel) {
    let client = tunnel.lab.client();
    assert_route(client, "203.0.113.9", TUN);
    assert_route(client, "2001:db8:ffff::1", TUN);
    assert_route(client, FAR_V4, TUN);
    assert_route(client, FAR_V6, TUN);
    // The tunnel's own packets have the mark.
    assert_route(client, "192.0.2.1 mark 193", LINK);
    // More specific routes stay in force: the client's own network is not cut off.
    assert_route(client, "198.51.100.254", LINK);
    for inside in [IpAddr::from(SERVER_V4), IpAddr::from(SERVER_V6)] {
        ping(client, inside, "-c 3 -i 0.01");
    }
    ping(client, FAR_V4, "-c 3 -i 0.01");
    ping(client, FAR_V6, "-c 3 -i 0.01");
}

/// Whether a packet is neighbour discovery or multicast listener discovery.
fn is_housekeeping(packet: &[u8], parsed: &Parsed) -> bool {
    const MULTICAST_LISTENER_REPORT: u8 = 143;
    let icmp_type = packet.get(parsed.transport_offset);
    parsed.protocol == 58
        && icmp_type.is_some_and(|it| (133..=137).contains(it) || *it == MULTICAST_LISTENER_REPORT)
}

/// Everything that left must be a datagram of the tunnel; returns how many there were.
#[track_caller]
pub(crate) fn assert_only_the_tunnel_left(link: &mut Capture) -> usize {
    let mut datagrams = 0;
    while let Some(captured) = link.receive().unwrap() {
        if !captured.outgoing {
            continue;
        }
        // ARP is no IP.
        let Ok(parsed) = Parsed::parse(captured.packet) else { continue };
        if is_housekeeping(captured.packet, &parsed) {
            continue;
        }
        assert_eq!(parsed.transport, Some(Transport::Udp), "{parsed:?}");
        let destination_port = &captured.packet[parsed.transport_offset + 2..][..2];
        assert_eq!(destination_port, PORT.to_be_bytes(), "{parsed:?}");
        let train_len = parsed.payload_len().max(1);
        datagrams += train_len.div_ceil(captured.segment_len.unwrap_or(train_len));
    }
    assert_eq!(link.missed().unwrap(), 0);
    datagrams
}

#[test]
fn a_full_tunnel_takes_everything_but_its_own_packets() {
    let mut tunnel = full_tunnel();
    tunnel.start_server();
    assert_route(tunnel.lab.client(), "203.0.113.9", LINK);
    let mut link = capture(tunnel.lab.client(), LINK);
    tunnel.start_client();
    tunnel.await_echoes();
    assert_everything_goes_through(&tunnel);
    assert!(assert_only_the_tunnel_left(&mut link) > 20);
    tunnel.transfer_both_ways(SERVER_V4, 1 << 20);
}

#[test]
fn nothing_leaves_in_the_clear_while_the_server_does_not_answer() {
    let mut tunnel = full_tunnel();
    let mut link = capture(tunnel.lab.client(), LINK);
    tunnel.client.start(tunnel.lab.client());
    tunnel.client.await_log("connecting to");
    for address in [IpAddr::from(FAR_V4), IpAddr::from(FAR_V6)] {
        assert_route(tunnel.lab.client(), address, TUN);
        assert!(!echo(tunnel.lab.client(), address));
    }
    assert_only_the_tunnel_left(&mut link);
    tunnel.start_server();
    tunnel.await_paths();
    ping(tunnel.lab.client(), FAR_V4, "-c 3 -i 0.01");
}

#[test]
fn the_routes_of_a_killed_client_are_taken_over_by_the_next() {
    let mut tunnel = full_tunnel();
    tunnel.start_server();
    for _ in 0..2 {
        tunnel.start_client();
        tunnel.await_echoes();
        tunnel.client.kill();
        for family in ["-4", "-6"] {
            let rules = run(tunnel.lab.client(), &format!("ip {family} rule"));
            assert!(rules.contains("fwmark 0xc1"), "{rules}");
        }
        for address in [IpAddr::from(FAR_V4), IpAddr::from(FAR_V6)] {
            let route = attempt(tunnel.lab.client(), &format!("ip route get {address}"));
            assert!(!route.status.success(), "it stays shut: {route:?}");
        }
    }
    tunnel.start_client();
    tunnel.client.await_log("an earlier run left behind");
    tunnel.await_echoes();
    assert_everything_goes_through(&tunnel);
    // The two rules of each family are there once.
    for family in ["-4", "-6"] {
        let rules = run(tunnel.lab.client(), &format!("ip {family} rule"));
        assert_eq!(rules.matches("fwmark 0xc1").count(), 1, "{rules}");
        assert_eq!(rules.matches("suppress_prefixlength 0").count(), 1, "{rules}");
    }
    // A killed server leaves nothing that needs removing.
    tunnel.server.kill();
    tunnel.start_server();
}

#[test]
fn a_partial_route_leads_into_the_tunnel_and_the_rest_stays_outside() {
    let tunnel = Tunnel::start(Options {
        routed: true,
        routes: vec!["203.0.113.0/24".to_owned(), "2001:db8:ff::/48".to_owned()],
        ..Options::default()
    });
    let client = tunnel.lab.client();
    assert_route(client, "203.0.113.9", TUN);
    assert_route(client, "2001:db8:ff::9", TUN);
    assert_route(client, FAR_V4, LINK);
    assert_route(client, FAR_V6, LINK);
    ping(client, FAR_V4, "-c 1");
    ping(client, FAR_V6, "-c 1");
}

#[test]
fn a_full_tunnel_works_where_reverse_path_filtering_is_strict() {
    let mut tunnel = full_tunnel();
    let client = tunnel.lab.client();
    run(client, &format!("sysctl -w net.ipv4.conf.{LINK}.rp_filter=1"));
    tunnel.start_server();
    tunnel.start_client();
    tunnel.await_echoes();
    assert_everything_goes_through(&tunnel);
    let client = tunnel.lab.client();
    assert_route(client, format!("192.0.2.1 ipproto udp sport {PORT}"), LINK);
    assert_route(client, "192.0.2.1 ipproto udp dport 443", TUN);
    assert_route(client, format!("192.0.2.1 ipproto tcp sport {PORT}"), TUN);
}
