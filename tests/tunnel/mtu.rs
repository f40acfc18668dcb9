//! Networks that carry less than their first link, and do not say so.

use std::net::IpAddr;
use std::time::Duration;

use corelane::lab::wait_until;
use corelane::limits::{PATH_MTU_CONFIRM_EVERY, PATH_MTU_RAISE_FIRST, TUN_MTU_MIN};
use corelane::sys::clock;

use crate::harness::{CLIENT_V4, Options, PATIENCE, PORT, SERVER_V4, SERVER_V6, Tunnel};
use crate::tools::{attempt, echo, ping, run};

/// The MTU of every link, and what a packet of that size may be told on the way.
const LINK_MTU: usize = 1500;
/// Data header, tag and UDP header.
const OVERHEAD: usize = 32 + 8;
/// How long a mebibyte may take, the search for what the path carries included.
const TRANSFER_WITHIN: Duration = Duration::from_secs(10);

/// Lets the router forward packets of at most `mtu` bytes.
fn narrow(tunnel: &Tunnel, mtu: usize) {
    let router = tunnel.lab.router();
    for (link, v4, v6) in
        [("to-server", "192.0.2", "2001:db8:"), ("to-client", "198.51.100", "2001:db8:1:")]
    {
        run(router, &format!("ip route replace {v4}.0/24 dev {link} src {v4}.254 mtu lock {mtu}"));
        run(router, &format!("ip -6 route replace {v6}:/64 dev {link} mtu lock {mtu}"));
        run(router, &format!("ip -6 route del {v6}:/64 dev {link} proto kernel"));
    }
}

/// Lets the router say nothing of what it drops.
fn silence(tunnel: &Tunnel) {
    let router = tunnel.lab.router();
    run(router, "nft add table inet silence");
    run(router, "nft add chain inet silence out { type filter hook output priority 0 ; }");
    run(router, "nft add rule inet silence out icmp type destination-unreachable drop");
    run(router, "nft add rule inet silence out icmpv6 type packet-too-big drop");
}

/// Waits until both ends have found that each path carries `carries` bytes. Probes that are lost
/// beside the transfers refute a size, which is asked about again soon, while there is traffic.
fn await_size(tunnel: &Tunnel, carries: usize) {
    let patience = PATIENCE + PATH_MTU_RAISE_FIRST + PATH_MTU_CONFIRM_EVERY;
    wait_until(patience, "both ends to find what the path carries", || {
        echo(tunnel.lab.client(), SERVER_V4);
        let paths = [tunnel.client_session().paths, tunnel.server_session().paths];
        paths.iter().flatten().all(|path| path.plaintext_max == carries).then_some(())
    })
    .unwrap_or_else(|timeout| panic!("{timeout}: {carries}, {:?}", tunnel.client_session()));
}

/// A tunnel to `server`, over an IP header of `ip_header` bytes and a path that is narrow. If the
/// router is silent, the path is a black hole.
fn passes(server: &str, ip_header: usize, mtu: usize, is_silent: bool) {
    let address: IpAddr = server.parse().unwrap();
    let endpoint = std::net::SocketAddr::new(address, PORT).to_string();
    let mut tunnel =
        Tunnel::prepare(Options { routed: true, workers: (2, 2), ..Options::at(endpoint) });
    narrow(&tunnel, mtu);
    if is_silent {
        silence(&tunnel);
    }
    // The harness itself: what fits passes, what does not vanishes without a word.
    let client = tunnel.lab.client();
    let icmp_fits = mtu - ip_header - 8;
    ping(client, address, &format!("-c 1 -M do -s {icmp_fits}"));
    if mtu < LINK_MTU {
        let too_big =
            attempt(client, &format!("ping -n -c 1 -W 0.3 -M do -s {} {address}", icmp_fits + 1));
        assert!(!too_big.status.success());
        assert_eq!(too_big.stdout.contains("From "), !is_silent, "{too_big:#?}");
    }

    tunnel.start_server();
    tunnel.start_client();
    tunnel.await_echoes();
    // Both ends find what the path carries, in whole blocks, and never more than was asked for.
    let carries = ((mtu - ip_header - OVERHEAD) / 16 * 16).min(1408);
    for address in [IpAddr::from(SERVER_V4), IpAddr::from(SERVER_V6)] {
        if address.is_ipv6() && carries < usize::from(TUN_MTU_MIN) {
            // An IPv6 host heeds no size below this one, which every link has to carry (RFC 8200
            // section 5): its connections fit if they begin when the size is known.
            await_size(&tunnel, carries);
        }
        let started = clock::now();
        tunnel.transfer_both_ways(address, 1 << 20);
        let took = clock::now().duration_since(started);
        assert!(took < TRANSFER_WITHIN, "{took:?}");
    }
    await_size(&tunnel, carries);
    // While they searched, senders were told of less, which their kernels believe for minutes.
    for host in [tunnel.lab.client(), tunnel.lab.server()] {
        run(host, "ip route flush cache");
    }
    // What fits goes whole; what does not is answered, or goes in fragments where it may.
    for (host, address) in [(tunnel.lab.client(), SERVER_V4), (tunnel.lab.server(), CLIENT_V4)] {
        ping(host, address, &format!("-c 3 -i 0.01 -M do -s {}", carries - 28));
        ping(host, address, "-c 3 -i 0.01 -M dont -s 3000");
    }
    if carries < 1408 {
        let answer = attempt(
            tunnel.lab.client(),
            &format!("ping -n -c 2 -i 0.2 -W 1 -M do -s {} {SERVER_V4}", carries - 27),
        );
        let text = format!("{}{}", answer.stdout, answer.stderr).to_lowercase();
        assert!(text.contains("frag needed") || text.contains("too long"), "{text}");
    }
}

#[test]
fn an_ipv4_path_of_1280_bytes() {
    passes("192.0.2.1", 20, 1280, true);
}

#[test]
fn an_ipv4_path_of_1400_bytes() {
    passes("192.0.2.1", 20, 1400, true);
}

#[test]
fn an_ipv4_path_of_1500_bytes() {
    passes("192.0.2.1", 20, LINK_MTU, true);
}

/// An initiation does not fit; the kernel makes fragments of it once it has heard of the size.
#[test]
fn an_ipv6_path_of_1280_bytes() {
    passes("2001:db8::1", 40, 1280, false);
}

#[test]
fn an_ipv6_path_of_1400_bytes() {
    passes("2001:db8::1", 40, 1400, true);
}

#[test]
fn an_ipv6_path_of_1500_bytes() {
    passes("2001:db8::1", 40, LINK_MTU, true);
}

#[test]
fn padding_makes_no_packet_larger_than_its_path_carries() {
    // 1300 bytes make 1312 with padding, and 1372 with all headers; 1296 make 1356.
    let flags = ["--set", "tun.mtu=1300"].map(str::to_owned).to_vec();
    let mut tunnel = Tunnel::prepare(Options {
        routed: true,
        server_flags: flags.clone(),
        client_flags: flags,
        ..Options::default()
    });
    narrow(&tunnel, 1359);
    silence(&tunnel);
    tunnel.start_server();
    tunnel.start_client();
    tunnel.await_echoes();
    let client = tunnel.lab.client();
    wait_until(PATIENCE, "both ends to find the largest packet", || {
        let paths = [tunnel.client_session().paths, tunnel.server_session().paths];
        paths.iter().flatten().all(|path| path.plaintext_max == 1296).then_some(())
    })
    .unwrap();
    run(client, "ip route flush cache");
    ping(client, SERVER_V4, "-c 3 -i 0.01 -M do -s 1268");
    ping(client, SERVER_V4, "-c 3 -i 0.01 -M dont -s 1272");
    assert!(echo(client, SERVER_V6));
}
