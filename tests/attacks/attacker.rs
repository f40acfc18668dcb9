//! A host that is on nobody's side: it reaches both ends of a tunnel through the router between
//! them and sends what it likes, from its own address or in somebody else's name.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsFd;

use corelane::host::netlink::{Netlink, VethEnd};
use corelane::lab::{Host, LINK, wait_until};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::harness::PATIENCE;
use crate::tools::{echo, run};

/// Its address.
pub(crate) const ATTACKER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
const ROUTER_SIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 254);
/// Addresses it can send from and receive at, one in a million.
pub(crate) const MANY: &str = "100.64.0.0/10";
const TO_ATTACKER: &str = "to-attacker";

pub(crate) struct Attacker {
    pub(crate) host: Host,
    /// A socket of its own, to send from and to be answered at.
    pub(crate) socket: UdpSocket,
    raw: Socket,
}

impl Attacker {
    /// Joins a new host to the router by a link of `mtu` bytes.
    pub(crate) fn join(router: &Host, mtu: u32) -> Self {
        let host = Host::create("attacker").unwrap();
        let near = VethEnd { name: LINK, namespace: host.namespace().as_fd() };
        let far = VethEnd { name: TO_ATTACKER, namespace: router.namespace().as_fd() };
        host.run(|| Netlink::open().unwrap().create_veth(near, far, mtu)).unwrap().unwrap();
        // Nobody keeps it from using any address it likes.
        run(router, "sysctl -w net.ipv4.conf.all.rp_filter=0");
        run(router, &format!("sysctl -w net.ipv4.conf.{TO_ATTACKER}.rp_filter=0"));
        run(router, &format!("ip address add {ROUTER_SIDE}/24 dev {TO_ATTACKER}"));
        run(router, &format!("ip link set {TO_ATTACKER} up"));
        run(router, &format!("ip route add {MANY} via {ATTACKER}"));
        run(&host, &format!("ip address add {ATTACKER}/24 dev {LINK}"));
        run(&host, &format!("ip link set {LINK} up"));
        run(&host, &format!("ip route add default via {ROUTER_SIDE}"));
        run(&host, &format!("ip route add local {MANY} dev lo"));
        let reached = || echo(&host, ROUTER_SIDE).then_some(());
        wait_until(PATIENCE, "the attacker's link to come up", reached).unwrap();

        let socket = host.run(|| UdpSocket::bind((ATTACKER, 0))).unwrap().unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        // IPPROTO_RAW: what is sent begins with an IP header (raw(7)).
        let raw = host.run(|| {
            let kind = Some(Protocol::from(255));
            Socket::new(Domain::IPV4, Type::RAW, kind)
        });
        Self { host, socket, raw: raw.unwrap().unwrap() }
    }

    /// Sends a datagram from its own address.
    pub(crate) fn send(&self, to: SocketAddr, datagram: &[u8]) {
        assert_eq!(self.socket.send_to(datagram, to).unwrap(), datagram.len());
    }

    /// Sends a datagram in the name of `from`.
    pub(crate) fn send_as(&self, from: SocketAddrV4, to: SocketAddrV4, datagram: &[u8]) {
        let packet = udp_packet(from, to, datagram);
        let sent = self.raw.send_to(&packet, &SockAddr::from(to)).unwrap();
        assert_eq!(sent, packet.len());
    }
}

/// An IPv4 packet. The kernel fills in what is zero: length, identification and checksum of the IP
/// header; a UDP checksum of zero is none (RFC 768).
fn udp_packet(from: SocketAddrV4, to: SocketAddrV4, datagram: &[u8]) -> Vec<u8> {
    const HEADERS_LEN: usize = 28;
    let udp_len = u16::try_from(datagram.len() + 8).unwrap();
    let mut packet = Vec::with_capacity(HEADERS_LEN + datagram.len());
    packet.extend([0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0]);
    packet.extend(from.ip().octets());
    packet.extend(to.ip().octets());
    for word in [from.port(), to.port(), udp_len, 0] {
        packet.extend(word.to_be_bytes());
    }
    packet.extend(datagram);
    packet
}
