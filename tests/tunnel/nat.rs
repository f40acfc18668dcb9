//! Address translators with short memories, and errors that come back through them.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::thread;
use std::time::Duration;

use corelane::lab::{Host, LINK, addresses, wait_until};

use crate::harness::{CLIENT_V4, CLIENT_V6, Options, PATIENCE, PORT, SERVER_V4, SERVER_V6, Tunnel};
use crate::tools::{attempt, echo, ping, run};

/// How long the translator remembers a flow that is silent, in seconds.
const MEMORY_S: u64 = 2;

/// A client behind a translator of both families that forgets quickly.
fn behind_a_forgetful_nat(server: &str, keepalive_s: u16) -> Tunnel {
    let mut tunnel = Tunnel::prepare(Options {
        routed: true,
        workers: (2, 2),
        client_flags: vec![format!("--keepalive={keepalive_s}")],
        ..Options::at(server)
    });
    let router = tunnel.lab.router();
    run(router, "nft add table inet nat");
    run(router, "nft add chain inet nat out { type nat hook postrouting priority 100 ; }");
    run(router, &format!("nft add rule inet nat out udp dport {PORT} masquerade"));
    for state in ["timeout", "timeout_stream"] {
        run(router, &format!("sysctl -w net.netfilter.nf_conntrack_udp_{state}={MEMORY_S}"));
    }
    tunnel.start_server();
    tunnel.start_client();
    tunnel.await_echoes();
    let translated = tunnel.server_session().paths.into_iter().all(|path| {
        let endpoint: SocketAddr = path.endpoint.unwrap().parse().unwrap();
        let router_address = [
            IpAddr::from(addresses::ROUTER_SERVER_SIDE_V4),
            IpAddr::from(addresses::ROUTER_SERVER_SIDE_V6),
        ];
        router_address.contains(&endpoint.ip())
    });
    assert!(translated, "no address was translated: {:?}", tunnel.server_session());
    tunnel
}

/// Lets more time pass than the translator remembers.
fn outlast_the_memory() {
    thread::sleep(Duration::from_secs(MEMORY_S + 1));
}

#[test]
fn a_keepalive_holds_a_mapping_that_lasts_two_seconds_over_ipv4() {
    let tunnel = behind_a_forgetful_nat(&format!("192.0.2.1:{PORT}"), 1);
    let before = tunnel.server_session();
    outlast_the_memory();
    ping(tunnel.lab.server(), CLIENT_V4, "-c 3 -i 0.01");
    ping(tunnel.lab.server(), CLIENT_V6, "-c 3 -i 0.01");
    let endpoints = |session: &corelane::telemetry::status::PeerStatus| {
        session.paths.iter().map(|path| path.endpoint.clone()).collect::<Vec<_>>()
    };
    assert_eq!(endpoints(&tunnel.server_session()), endpoints(&before), "no mapping was lost");
    assert_eq!(tunnel.client_session().rekeys, 0);
}

#[test]
fn a_keepalive_holds_a_mapping_that_lasts_two_seconds_over_ipv6() {
    let tunnel = behind_a_forgetful_nat(&format!("[2001:db8::1]:{PORT}"), 1);
    outlast_the_memory();
    ping(tunnel.lab.server(), CLIENT_V4, "-c 3 -i 0.01");
    ping(tunnel.lab.server(), CLIENT_V6, "-c 3 -i 0.01");
}

#[test]
fn without_a_keepalive_the_client_must_speak_first() {
    let tunnel = behind_a_forgetful_nat(&format!("192.0.2.1:{PORT}"), 0);
    // The search for the path's MTU keeps the mapping alive until it rests.
    wait_until(PATIENCE, "the mapping to be forgotten", || {
        outlast_the_memory();
        (!echo(tunnel.lab.server(), CLIENT_V4)).then_some(())
    })
    .unwrap();
    ping(tunnel.lab.client(), SERVER_V4, "-c 3 -i 0.01");
    ping(tunnel.lab.server(), CLIENT_V4, "-c 3 -i 0.01");
    ping(tunnel.lab.client(), SERVER_V6, "-c 3 -i 0.01");
}

/// Sends a datagram that nobody waits for; whether an ICMP error comes back to its socket.
fn is_refused(host: &Host, from: impl Into<IpAddr>, to: impl Into<IpAddr>) -> bool {
    let (from, to) = (SocketAddr::new(from.into(), 0), SocketAddr::new(to.into(), 9));
    host.run(|| {
        let socket = UdpSocket::bind(from).unwrap();
        socket.connect(to).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.send(b"nobody is there").unwrap();
        let error = socket.recv(&mut [0; 64]).unwrap_err();
        error.kind() == ErrorKind::ConnectionRefused
    })
    .unwrap()
}

#[test]
fn icmp_errors_come_back_through_the_tunnel_to_who_caused_them() {
    let mut tunnel = Tunnel::prepare(Options {
        routed: true,
        workers: (2, 2),
        routes: vec!["0.0.0.0/0".to_owned(), "::/0".to_owned()],
        ..Options::default()
    });
    let server = tunnel.lab.server();
    run(server, "sysctl -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
    run(server, "sysctl -w net.ipv4.icmp_ratelimit=0 net.ipv6.icmp.ratelimit=0");
    run(server, "nft add table inet gateway");
    run(server, "nft add chain inet gateway out { type nat hook postrouting priority 100 ; }");
    run(server, &format!("nft add rule inet gateway out oifname {LINK} masquerade"));
    let (far_v4, far_v6) = (addresses::ROUTER_SERVER_SIDE_V4, addresses::ROUTER_SERVER_SIDE_V6);
    for (far, mtu) in [(IpAddr::from(far_v4), 1300), (IpAddr::from(far_v6), 1300)] {
        run(server, &format!("ip route add {far} dev {LINK} mtu lock {mtu}"));
    }
    tunnel.remember_hosts();
    tunnel.start_server();
    tunnel.start_client();
    tunnel.await_echoes();
    let client = tunnel.lab.client();

    // From the gateway itself, either way.
    assert!(is_refused(client, CLIENT_V4, SERVER_V4));
    assert!(is_refused(client, CLIENT_V6, SERVER_V6));
    assert!(is_refused(tunnel.lab.server(), SERVER_V4, CLIENT_V4));
    assert!(is_refused(tunnel.lab.server(), SERVER_V6, CLIENT_V6));
    // From a host behind the gateway, which knows its translated address only.
    assert!(is_refused(client, CLIENT_V4, far_v4));
    assert!(is_refused(client, CLIENT_V6, far_v6));
    // A packet that has used up its hops, as traceroute sends it.
    for (far, gateway) in
        [(IpAddr::from(far_v4), IpAddr::from(SERVER_V4)), (far_v6.into(), SERVER_V6.into())]
    {
        let answer = attempt(client, &format!("ping -n -c 1 -t 1 -W 5 {far}"));
        let text = answer.stdout.to_lowercase();
        let said = text.contains("time to live exceeded") || text.contains("time exceeded");
        assert!(said && text.contains(&format!("from {gateway}")), "{answer:#?}");
    }
    // A packet that does not fit a link behind the gateway.
    for far in [IpAddr::from(far_v4), IpAddr::from(far_v6)] {
        let answer = attempt(client, &format!("ping -n -c 2 -i 0.2 -W 5 -M do -s 1340 {far}"));
        let text = format!("{}{}", answer.stdout, answer.stderr).to_lowercase();
        assert!(text.contains("mtu = 1300") || text.contains("mtu=1300"), "{answer:#?}");
    }
    ping(client, far_v4, "-i 0 -c 100");
    ping(client, far_v6, "-i 0 -c 100");
}
