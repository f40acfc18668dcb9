//! What a fuzz target calls, and `tests/corpora.rs` with every file of its corpus.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::SendTarget;
use super::control_message::{SEND_SPACE, Space, decode, encode};

/// Bytes of an IPv6 address.
const ADDRESS_LEN: usize = 16;
/// Bytes that spell a message to send: two addresses, port, segment size, traffic class, families.
const TARGET_LEN: usize = 2 * ADDRESS_LEN + 6;

/// Reads `data` as control messages from the kernel, then writes those of a message that `data`
/// describes and reads them back.
pub fn control_message(data: &[u8]) {
    let received = decode(data);
    assert!(received.ecn <= 0b11);
    assert!(received.segment_size != Some(0));

    let Some(description) = data.first_chunk::<TARGET_LEN>() else { return };
    let (addresses, rest) = description.split_at(2 * ADDRESS_LEN);
    let [port_high, port_low, size_high, size_low, tos, families] = rest else { return };
    let (remote, local) = addresses.split_at(ADDRESS_LEN);
    let target = SendTarget {
        remote: SocketAddr::new(
            address(remote, families & 1 != 0),
            u16::from_be_bytes([*port_high, *port_low]),
        ),
        local: (families & 4 != 0).then(|| address(local, families & 2 != 0)),
    };
    let segment_size = u16::from_be_bytes([*size_high, *size_low]);
    let mut space = Space([0xff; SEND_SPACE]);
    let len = encode(&mut space, &target, Some(segment_size), *tos);
    let written = decode(&space.0[..len]);
    assert_eq!(written.ecn, tos & 0b11);
    let same_family = |local: &IpAddr| {
        local.to_canonical().is_ipv4() == target.remote.ip().to_canonical().is_ipv4()
    };
    let source = target.local.map(|local| local.to_canonical()).filter(same_family);
    assert_eq!(written.local, source);
}

fn address(bytes: &[u8], is_v4: bool) -> IpAddr {
    match (bytes.first_chunk::<4>(), bytes.first_chunk::<ADDRESS_LEN>()) {
        (Some(octets), _) if is_v4 => Ipv4Addr::from(*octets).into(),
        (_, Some(octets)) => Ipv6Addr::from(*octets).into(),
        (_, None) => Ipv4Addr::UNSPECIFIED.into(),
    }
}
