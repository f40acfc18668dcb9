//! Packets whose source is not their sender's: all dropped, all counted.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use corelane::lab::{LINK, wait_until};
use corelane::packet::Parsed;
use corelane::sys::capture::Capture;

use crate::harness::{
    CLIENT_V4, CLIENT_V6, Options, PATIENCE, Peer, SERVER_V4, SERVER_V6, TUN, Tunnel, capture,
};
use crate::tools::{echo, ping, run};

/// A network that the client owns but for one address of either family.
const NETWORKS: [&str; 2] = ["10.99.0.0/16", "fd99::/32"];
const OWN_V4: Ipv4Addr = Ipv4Addr::new(10, 99, 2, 2);
const OWN_V6: Ipv6Addr = Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 2);
/// Owned by another peer, with longer prefixes.
const FOREIGN_V4: Ipv4Addr = Ipv4Addr::new(10, 99, 1, 1);
const FOREIGN_V6: Ipv6Addr = Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 1);
/// An experimental protocol (RFC 3692), which the receiving host answers at most by ICMP.
const PROTOCOL: u8 = 253;
/// What the packets carry.
const PAYLOAD: &[u8; 16] = b"nobody's payload";

/// A packet of [`PROTOCOL`] with these addresses, which are of one family.
fn packet(source: IpAddr, destination: IpAddr) -> Vec<u8> {
    let mut packet = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut header = [0; 20];
            (header[0], header[3]) = (0x45, (20 + PAYLOAD.len()) as u8);
            (header[8], header[9]) = (64, PROTOCOL);
            header[12..16].copy_from_slice(&source.octets());
            header[16..].copy_from_slice(&destination.octets());
            let sum: u32 =
                header.chunks(2).map(|it| u32::from(u16::from_be_bytes([it[0], it[1]]))).sum();
            let folded = (sum & 0xffff) + (sum >> 16);
            header[10..12].copy_from_slice(&(!(folded as u16)).to_be_bytes());
            header.to_vec()
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let mut header = [0; 40];
            (header[0], header[5]) = (0x60, PAYLOAD.len() as u8);
            (header[6], header[7]) = (PROTOCOL, 64);
            header[8..24].copy_from_slice(&source.octets());
            header[24..].copy_from_slice(&destination.octets());
            header.to_vec()
        }
        mixed => panic!("{mixed:?}"),
    };
    packet.extend_from_slice(PAYLOAD);
    packet
}

/// The sources of the packets of [`PROTOCOL`] that have come out of a TUN device.
fn delivered(tun: &mut Capture) -> Vec<IpAddr> {
    let mut sources = Vec::new();
    while let Some(captured) = tun.receive().unwrap() {
        let parsed = Parsed::parse(captured.packet).unwrap();
        if parsed.protocol == PROTOCOL && !captured.outgoing {
            sources.push(parsed.source);
        }
    }
    sources
}

/// A tunnel whose client owns [`NETWORKS`], but for what another peer owns.
fn with_a_network() -> Tunnel {
    let mut tunnel = Tunnel::prepare(Options::default());
    tunnel.peers[0].allowed_ips.extend(NETWORKS.map(str::to_owned));
    let (_, mut other) = tunnel
        .another_client(Ipv4Addr::new(10, 77, 0, 3), Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 3));
    other.allowed_ips.extend([format!("{FOREIGN_V4}/32"), format!("{FOREIGN_V6}/128")]);
    tunnel.peers.push(other);
    tunnel.write_server_config();
    tunnel.start_server();
    tunnel.start_client();
    tunnel.await_echoes();
    tunnel
}

/// Waits until the server has dropped `count` packets for their source.
#[track_caller]
fn await_drops(tunnel: &Tunnel, count: u64) {
    let expected = BTreeMap::from([("inner_source_not_allowed".to_owned(), count)]);
    wait_until(PATIENCE, "every drop to be counted", || {
        (tunnel.drops()[0] == expected).then_some(())
    })
    .unwrap_or_else(|timeout| panic!("{timeout}: {expected:?}, {:?}", tunnel.drops()));
}

#[test]
fn a_source_of_a_peer_with_a_longer_prefix_is_dropped_although_the_sender_is_followed() {
    let tunnel = with_a_network();
    let client = tunnel.lab.client();
    let endpoint = || tunnel.server_session().paths[0].endpoint.clone().unwrap();
    let inside = capture(client, TUN);
    let mut outside = capture(tunnel.lab.server(), TUN);
    assert!(endpoint().starts_with("192.0.2.2:"));
    run(client, &format!("ip address del 192.0.2.2/24 dev {LINK}"));
    run(client, &format!("ip address add 192.0.2.3/24 dev {LINK}"));
    // The first that the server hears from the new address.
    for (source, destination) in [
        (IpAddr::from(FOREIGN_V4), IpAddr::from(SERVER_V4)),
        (IpAddr::from(FOREIGN_V6), IpAddr::from(SERVER_V6)),
    ] {
        inside.inject(&packet(source, destination)).unwrap();
    }
    await_drops(&tunnel, 2);
    let moved = || endpoint().starts_with("192.0.2.3:").then_some(());
    wait_until(PATIENCE, "the server to follow", moved).unwrap();
    ping(tunnel.lab.server(), CLIENT_V4, "-c 3 -i 0.01");

    // What the sender does own out of the same network arrives.
    for (source, destination) in [
        (IpAddr::from(OWN_V4), IpAddr::from(SERVER_V4)),
        (IpAddr::from(OWN_V6), IpAddr::from(SERVER_V6)),
    ] {
        inside.inject(&packet(source, destination)).unwrap();
    }
    let mut arrived = Vec::new();
    wait_until(PATIENCE, "the honest packets", || {
        arrived.extend(delivered(&mut outside));
        (arrived == [IpAddr::from(OWN_V4), IpAddr::from(OWN_V6)]).then_some(())
    })
    .unwrap_or_else(|timeout| panic!("{timeout}: {arrived:?}"));
    await_drops(&tunnel, 2);
    run(client, &format!("ip address del 192.0.2.3/24 dev {LINK}"));
    run(client, &format!("ip address add 192.0.2.2/24 dev {LINK}"));
    assert!(echo(client, SERVER_V4));
}

#[test]
fn no_address_that_is_somebody_elses_or_nobodys_gets_through() {
    let tunnel = with_a_network();
    let inside = capture(tunnel.lab.client(), TUN);
    let mut outside = capture(tunnel.lab.server(), TUN);
    let forged_v4 = [
        SERVER_V4,
        FOREIGN_V4,
        Ipv4Addr::new(10, 77, 0, 3),
        Ipv4Addr::new(10, 77, 0, 255),
        Ipv4Addr::new(192, 0, 2, 1),
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::LOCALHOST,
        Ipv4Addr::BROADCAST,
        Ipv4Addr::new(169, 254, 169, 254),
        Ipv4Addr::new(224, 0, 0, 1),
        Ipv4Addr::new(240, 0, 0, 1),
    ];
    let forged_v6 = [
        SERVER_V6,
        FOREIGN_V6,
        Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 3),
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1),
        Ipv6Addr::UNSPECIFIED,
        Ipv6Addr::LOCALHOST,
        Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1),
        Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1),
        // The client's own, in disguise: mapped, compatible, and by 6to4.
        CLIENT_V4.to_ipv6_mapped(),
        CLIENT_V4.to_ipv6_compatible(),
        Ipv6Addr::new(0x2002, 0x0a4d, 2, 0, 0, 0, 0, 1),
    ];
    let forged = forged_v4.map(IpAddr::from).into_iter().chain(forged_v6.map(IpAddr::from));
    let honest = [
        (IpAddr::from(CLIENT_V4), IpAddr::from(SERVER_V4)),
        (IpAddr::from(CLIENT_V6), IpAddr::from(SERVER_V6)),
    ];
    let mut sent = 0;
    for source in forged {
        let to = if source.is_ipv4() { IpAddr::from(SERVER_V4) } else { SERVER_V6.into() };
        inside.inject(&packet(source, to)).unwrap();
        sent += 1;
    }
    for (source, to) in honest {
        inside.inject(&packet(source, to)).unwrap();
    }
    let mut arrived = Vec::new();
    wait_until(PATIENCE, "the honest packets, which were sent last", || {
        arrived.extend(delivered(&mut outside));
        honest.iter().all(|(source, _)| arrived.contains(source)).then_some(())
    })
    .unwrap();
    assert_eq!(arrived, honest.map(|(source, _)| source));
    await_drops(&tunnel, sent);
}

#[test]
fn a_prefix_moves_to_the_peer_that_is_named_last() {
    let mut tunnel = with_a_network();
    let inside = capture(tunnel.lab.client(), TUN);
    let mut outside = capture(tunnel.lab.server(), TUN);
    let forged = packet(OWN_V4.into(), SERVER_V4.into());
    inside.inject(&forged).unwrap();
    let arrived = || (delivered(&mut outside) == [IpAddr::from(OWN_V4)]).then_some(());
    wait_until(PATIENCE, "a packet of the first owner", arrived).unwrap();

    let Peer { allowed_ips, .. } = &mut tunnel.peers[1];
    allowed_ips.push(NETWORKS[0].to_owned());
    tunnel.write_server_config();
    let reload = tunnel.server.ask(&["reload"]);
    assert!(reload.status.success(), "{reload:?}");
    assert!(tunnel.server.log().contains("the last one has it"), "{}", tunnel.server.log());
    inside.inject(&forged).unwrap();
    await_drops(&tunnel, 1);
    assert!(delivered(&mut outside).is_empty());
    assert!(echo(tunnel.lab.client(), SERVER_V4), "its own addresses stay");
}
