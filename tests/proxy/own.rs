//! The addresses that the kernel delivers to the gateway's host itself, whether an interface has
//! them or not.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::thread;

use corelane::lab::{Host, LabOptions, TwoHosts, addresses};

use crate::datagrams::{Client, Echo, LOCALHOST, udp_echo};
use crate::harness::{Gateway, LONG, await_that, leave_descriptors, read_exactly};

/// In the network that the kernel takes for this host's own without any interface having it
/// ("AnyIP", as load balancers use it).
const ANY_IP: &str = "198.51.100.7";
/// Runs a command of many words on a host.
fn run(host: &Host, command: &str) {
    let mut words = command.split(' ');
    let mut program = host.command(words.next().unwrap()).unwrap();
    assert!(program.args(words).status().unwrap().success(), "{command}");
}

/// What SOCKS5 replies on a host to a request for an origin: 2 if it may not be reached.
fn reply(host: &Host, gateway: &Gateway, origin: SocketAddr) -> u8 {
    host.run(|| gateway.reply_to(&origin.to_string())).unwrap()
}

fn await_reply(host: &Host, gateway: &Gateway, origin: SocketAddr, expected: u8) {
    await_that("the reply", || match reply(host, gateway, origin) {
        reply if reply == expected => Ok(()),
        other => Err(format!("{other}")),
    });
}

/// A service at every IPv4 address of a host, and what it is asked for at.
fn service(host: &Host) -> SocketAddr {
    let listener = host.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap()).unwrap();
    let port = listener.local_addr().unwrap().port();
    // Whoever asks again and again does not fill its queue.
    thread::spawn(move || listener.incoming().for_each(drop));
    SocketAddr::new(ANY_IP.parse().unwrap(), port)
}

/// Whether a datagram for the service of `echo` at `to` gets there, which is asked for at loopback,
/// too: that one is behind it on the same way.
fn comes(client: &Client, echo: &Echo, to: IpAddr) -> bool {
    let port = echo.address.port();
    client.send(SocketAddr::new(to, port), b"hello");
    client.send(SocketAddr::new(LOCALHOST, port), b"");
    let first = echo.seen.recv_timeout(LONG).unwrap().1;
    if first > 0 {
        assert_eq!(echo.seen.recv_timeout(LONG).unwrap().1, 0);
    }
    first > 0
}

#[test]
fn networks_that_are_local_without_an_interface_are_the_hosts_own() {
    let host = Host::create("gateway").unwrap();
    run(&host, "ip route add local 198.51.100.0/24 dev lo");
    let origin = service(&host);
    let echo = host.run(|| udp_echo(Ipv4Addr::UNSPECIFIED.into())).unwrap();
    for (allowed, expected) in [("192.0.2.1", 2), ("198.51.100.0/24", 2), (ANY_IP, 0), ("own", 0)] {
        let gateway = Gateway::start_on(&host, &["--allow", "127.0.0.1", "--allow", allowed]);
        assert_eq!(reply(&host, &gateway, origin), expected, "{allowed}");
        let client = host.run(|| Client::start(&gateway)).unwrap();
        assert_eq!(comes(&client, &echo, origin.ip()), expected == 0, "{allowed}");
        // Whoever may come to a port is judged by the same.
        let bind = host.run(|| bind_for(&gateway, origin)).unwrap();
        assert_eq!(bind, expected, "{allowed}");
    }
}

/// What SOCKS5 replies to a request for a port (BIND) to which `peer` may come.
fn bind_for(gateway: &Gateway, peer: SocketAddr) -> u8 {
    let IpAddr::V4(ip) = peer.ip() else { panic!("{peer}") };
    let mut client = gateway.connect();
    let port = peer.port().to_be_bytes();
    client.write_all(&[&[5, 1, 0, 5, 2, 0, 1][..], &ip.octets(), &port].concat()).unwrap();
    assert_eq!(read_exactly(&mut client, 2), [5, 0]);
    read_exactly(&mut client, 2)[1]
}

#[test]
fn what_becomes_local_while_the_gateway_runs_is_own_and_only_for_so_long() {
    let host = Host::create("gateway").unwrap();
    let gateway = Gateway::start_on(&host, &[]);
    let origin = service(&host);
    assert_eq!(reply(&host, &gateway, origin), 3, "there is no way there");
    run(&host, "ip route add local 198.51.100.0/24 dev lo");
    await_reply(&host, &gateway, origin, 2);
    run(&host, "ip route del local 198.51.100.0/24 dev lo");
    await_reply(&host, &gateway, origin, 3);
    // A table that is asked about what this host sends counts like the one for local addresses.
    run(&host, "ip route add local 198.51.100.0/24 dev lo table 77");
    run(&host, "ip rule add lookup 77");
    await_reply(&host, &gateway, origin, 2);
}

#[test]
fn a_table_for_packets_of_others_makes_nothing_this_hosts_own() {
    // As for transparent proxies (Documentation/networking/tproxy.rst).
    let lab = TwoHosts::build(LabOptions::default()).unwrap();
    for family in ["-4", "-6"] {
        run(&lab.server, &format!("ip {family} rule add fwmark 1 lookup 77"));
        run(&lab.server, &format!("ip {family} rule add iif link0 lookup 77"));
        run(&lab.server, &format!("ip {family} route add local default dev lo table 77"));
    }
    let gateway = Gateway::start_on(&lab.server, &[]);
    for ip in [IpAddr::from(addresses::CLIENT_V4), addresses::CLIENT_V6.into()] {
        let listener = lab.client.run(|| TcpListener::bind((ip, 0)).unwrap()).unwrap();
        let origin = listener.local_addr().unwrap();
        let connected = lab.server.run(|| {
            let mut client = gateway.connect();
            let request = format!("CONNECT {origin} HTTP/1.1\r\nHost: {origin}\r\n\r\n");
            client.write_all(request.as_bytes()).unwrap();
            read_exactly(&mut client, 12)
        });
        assert_eq!(connected.unwrap(), b"HTTP/1.1 200", "{origin}");
    }
}

#[test]
fn the_anycast_address_of_a_subnet_that_is_routed_is_the_hosts_own() {
    let lab = TwoHosts::build(LabOptions::default()).unwrap();
    let host = &lab.server;
    run(host, "sysctl -qw net.ipv6.conf.all.forwarding=1");
    let echo = host.run(|| udp_echo(Ipv6Addr::UNSPECIFIED.into())).unwrap();
    let prefix = u128::from(addresses::SERVER_V6) >> 64 << 64;
    let anycast = Ipv6Addr::from(prefix);
    for (allowed, is_reached) in [
        ("192.0.2.1".to_owned(), false),
        (format!("{anycast}/64"), false),
        (anycast.to_string(), true),
    ] {
        let gateway = Gateway::start_on(host, &["--allow", "127.0.0.1", "--allow", &allowed]);
        let client = host.run(|| Client::start(&gateway)).unwrap();
        assert_eq!(comes(&client, &echo, anycast.into()), is_reached, "{allowed}");
    }
}

#[test]
fn addresses_are_listed_when_there_are_no_descriptors() {
    let host = Host::create("gateway").unwrap();
    let gateway = Gateway::start_on(&host, &["--allow", "127.0.0.1"]);
    let echo = host.run(|| udp_echo(Ipv4Addr::UNSPECIFIED.into())).unwrap();
    // The client's connection, and the two sockets of its association.
    leave_descriptors(&gateway, 3);
    let client = host.run(|| Client::start(&gateway)).unwrap();
    run(&host, &format!("ip address add {ANY_IP}/32 dev lo"));
    await_that("the address is denied", || {
        let comes = comes(&client, &echo, ANY_IP.parse().unwrap());
        if comes { Err("a datagram has come".to_owned()) } else { Ok(()) }
    });
}
