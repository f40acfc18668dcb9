//! The packets that travel inside: each has a number, and is what its number says.

use std::net::Ipv4Addr;

use crate::limits::VIRTIO_HEADER_LEN;

/// The client's address inside the tunnel.
pub(crate) const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 2);
/// An address behind the server.
pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

const IPV4_LEN: usize = 20;
const HEADERS_LEN: usize = IPV4_LEN + 8;
/// The shortest packet: headers and a number.
pub(crate) const LEN_MIN: usize = HEADERS_LEN + 8;

/// The number that a delivered frame carries, if it is a whole packet of the simulation.
pub(crate) fn number_of(frame: &[u8]) -> Option<u64> {
    let packet = frame.get(VIRTIO_HEADER_LEN..)?;
    let number = packet.get(HEADERS_LEN..LEN_MIN)?;
    Some(u64::from_be_bytes(number.try_into().ok()?))
}

/// The frame, as TUN hands it over, of packet `number` in one direction: `len` bytes of IPv4 and
/// UDP with "don't fragment" set, on a flow of its own for each worker. Every byte follows from the
/// arguments, so what arrives can be compared with what was sent.
pub(crate) fn frame(number: u64, to_server: bool, worker: usize, len: usize) -> Vec<u8> {
    let len = len.max(LEN_MIN);
    let (source, destination) = if to_server { (CLIENT, SERVER) } else { (SERVER, CLIENT) };
    let mut frame = Vec::with_capacity(VIRTIO_HEADER_LEN + len);
    frame.extend([0; VIRTIO_HEADER_LEN]);
    frame.extend([0x45, 0]);
    frame.extend((len as u16).to_be_bytes());
    frame.extend((number as u16).to_be_bytes());
    frame.extend([0x40, 0, 64, 17, 0, 0]);
    frame.extend(source.octets());
    frame.extend(destination.octets());
    frame.extend((4000 + worker as u16).to_be_bytes());
    frame.extend(5000_u16.to_be_bytes());
    frame.extend(((len - IPV4_LEN) as u16).to_be_bytes());
    frame.extend([0; 2]);
    frame.extend(number.to_be_bytes());
    frame.resize(VIRTIO_HEADER_LEN + len, number as u8 ^ 0x5a);
    let checksum = header_checksum(&frame[VIRTIO_HEADER_LEN..][..IPV4_LEN]);
    frame[VIRTIO_HEADER_LEN + 10..][..2].copy_from_slice(&checksum.to_be_bytes());
    frame
}

/// RFC 1071, the slow and obvious way.
fn header_checksum(header: &[u8]) -> u16 {
    let words = header.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
