//! Inner packets, sound ones to begin with.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use corelane::packet::checksum;

pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMPV6: u8 = 58;
/// A protocol that nobody speaks (RFC 3692).
pub(crate) const EXPERIMENT: u8 = 253;

/// An IPv4 packet with a right header checksum.
pub(crate) fn ipv4(source: Ipv4Addr, to: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    ipv4_with_options(source, to, protocol, &[], payload)
}

/// The same with options, a multiple of four bytes.
pub(crate) fn ipv4_with_options(
    source: Ipv4Addr,
    to: Ipv4Addr,
    protocol: u8,
    options: &[u8],
    payload: &[u8],
) -> Vec<u8> {
    let header_len = 20 + options.len();
    let total_len = u16::try_from(header_len + payload.len()).unwrap();
    let mut packet = vec![0x40 | (header_len / 4) as u8, 0];
    packet.extend(total_len.to_be_bytes());
    packet.extend([0x12, 0x34, 0, 0, 64, protocol, 0, 0]);
    packet.extend(source.octets());
    packet.extend(to.octets());
    packet.extend(options);
    correct_header(&mut packet);
    packet.extend(payload);
    packet
}

/// Puts the right checksum into an IPv4 header whose length is told by its first byte.
pub(crate) fn correct_header(packet: &mut [u8]) {
    let header_len = usize::from(packet[0] & 0xf) * 4;
    packet[10..12].fill(0);
    let sum = !checksum::sum(&packet[..header_len]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// An IPv6 packet.
pub(crate) fn ipv6(source: Ipv6Addr, to: Ipv6Addr, next_header: u8, payload: &[u8]) -> Vec<u8> {
    let payload_len = u16::try_from(payload.len()).unwrap();
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(payload_len.to_be_bytes());
    packet.extend([next_header, 64]);
    packet.extend(source.octets());
    packet.extend(to.octets());
    packet.extend(payload);
    packet
}

/// A TCP segment in the middle of a connection that nobody knows, with a right checksum.
pub(crate) fn tcp(
    (source, source_port): (IpAddr, u16),
    (to, port): (IpAddr, u16),
    sequence: u32,
    payload: &[u8],
) -> Vec<u8> {
    const ACK: u8 = 0x10;
    let mut segment = Vec::new();
    segment.extend(source_port.to_be_bytes());
    segment.extend(port.to_be_bytes());
    segment.extend(sequence.to_be_bytes());
    segment.extend([0, 0, 0, 1, 0x50, ACK, 0xff, 0xff, 0, 0, 0, 0]);
    segment.extend(payload);
    put_checksum(&mut segment, source, to, TCP, 16);
    segment
}

/// A UDP datagram with a right checksum.
pub(crate) fn udp(
    (source, source_port): (IpAddr, u16),
    (to, port): (IpAddr, u16),
    payload: &[u8],
) -> Vec<u8> {
    let len = u16::try_from(8 + payload.len()).unwrap();
    let mut datagram = Vec::new();
    for word in [source_port, port, len, 0] {
        datagram.extend(word.to_be_bytes());
    }
    datagram.extend(payload);
    put_checksum(&mut datagram, source, to, UDP, 6);
    datagram
}

/// An ICMP echo request.
pub(crate) fn echo_request(identifier: u16, sequence: u16) -> Vec<u8> {
    let mut message = vec![8, 0, 0, 0];
    message.extend(identifier.to_be_bytes());
    message.extend(sequence.to_be_bytes());
    message.extend([0; 24]);
    let sum = !checksum::sum(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

fn put_checksum(upper: &mut [u8], source: IpAddr, to: IpAddr, protocol: u8, at: usize) {
    let pseudo = checksum::pseudo_header(source, to, protocol, upper.len());
    let sum = !checksum::add(pseudo, checksum::sum(upper));
    upper[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}
