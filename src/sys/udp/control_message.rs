//! Control messages (cmsg(3)), encoded and decoded as bytes, without a pointer.
//!
//! The kernel's layout: a header of length, level and type, the data, padding to the size of a
//! pointer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::send::SendTarget;

/// Alignment of every control message.
const ALIGN: usize = size_of::<usize>();
/// Length, level and type, padded to the alignment.
const HEADER_LEN: usize =
    (size_of::<usize>() + 2 * size_of::<libc::c_int>()).next_multiple_of(ALIGN);

/// The room that a control message with `data_len` bytes takes up (`CMSG_SPACE`).
const fn space(data_len: usize) -> usize {
    HEADER_LEN + data_len.next_multiple_of(ALIGN)
}

/// What a message to send carries at most: source address, traffic class, segment size.
pub(super) const SEND_SPACE: usize = space(size_of::<libc::in6_pktinfo>()) + space(4) + space(2);
/// What a received message carries at most: a mapped and an IPv4 destination, both traffic
/// classes, the segment size, and as much again for options that somebody adds to the socket.
pub(super) const RECEIVE_SPACE: usize = 256;

/// Room for the control messages of one message, aligned as the kernel wants it.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub(super) struct Space<const LEN: usize>(pub(super) [u8; LEN]);

impl<const LEN: usize> Space<LEN> {
    pub(super) const fn empty() -> Self {
        Self([0; LEN])
    }
}

/// Writes the control messages for one message to send and returns the length in use, 0 for none.
pub(super) fn encode(
    space: &mut Space<SEND_SPACE>,
    target: &SendTarget,
    segment_size: Option<u16>,
    tos: u8,
) -> usize {
    let mut writer = Writer { bytes: &mut space.0, len: 0 };
    if let Some(size) = segment_size {
        writer.push(libc::SOL_UDP, libc::UDP_SEGMENT, &size.to_ne_bytes());
    }
    if let Some(local) = target.local {
        writer.push_source(local, target.remote);
    }
    if tos != 0 {
        // The family of the destination decides, also on a dual-stack socket.
        let class = libc::c_int::from(tos).to_ne_bytes();
        match target.remote.ip().to_canonical() {
            IpAddr::V4(_) => writer.push(libc::IPPROTO_IP, libc::IP_TOS, &class),
            IpAddr::V6(_) => writer.push(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &class),
        }
    }
    writer.len
}

struct Writer<'a> {
    bytes: &'a mut [u8],
    len: usize,
}

impl Writer<'_> {
    /// Appends a control message; `SEND_SPACE` has room for all that [`encode`] appends.
    fn push(&mut self, level: libc::c_int, kind: libc::c_int, data: &[u8]) {
        let end = self.len + space(data.len());
        let (header, room) = self.bytes[self.len..end].split_at_mut(HEADER_LEN);
        let (len, rest) = header.split_at_mut(ALIGN);
        len.copy_from_slice(&(HEADER_LEN + data.len()).to_ne_bytes());
        rest[..4].copy_from_slice(&level.to_ne_bytes());
        rest[4..8].copy_from_slice(&kind.to_ne_bytes());
        room[..data.len()].copy_from_slice(data);
        room[data.len()..].fill(0);
        self.len = end;
    }

    /// The source address to send from. A family other than the destination's is left to the
    /// kernel to choose.
    fn push_source(&mut self, local: IpAddr, remote: SocketAddr) {
        match (local.to_canonical(), remote.ip().to_canonical()) {
            (IpAddr::V4(local), IpAddr::V4(_)) => {
                // struct in_pktinfo: interface, source, destination (unused on sending).
                let mut info = [0; size_of::<libc::in_pktinfo>()];
                info[4..8].copy_from_slice(&local.octets());
                self.push(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
            }
            (IpAddr::V6(local), IpAddr::V6(_)) => {
                // struct in6_pktinfo: source, interface. A link-local source needs its interface,
                // which is the one that the link-local destination names.
                let mut info = [0; size_of::<libc::in6_pktinfo>()];
                info[..16].copy_from_slice(&local.octets());
                if let (true, SocketAddr::V6(remote)) = (local.is_unicast_link_local(), remote) {
                    info[16..20].copy_from_slice(&remote.scope_id().to_ne_bytes());
                }
                self.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
            }
            _ => {}
        }
    }
}

/// What the control messages of a received message say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Received {
    /// Our address that it was sent to.
    pub(super) local: Option<IpAddr>,
    /// The ECN bits of the outer header.
    pub(super) ecn: u8,
    /// The length of all datagrams but the last, if it is an aggregate.
    pub(super) segment_size: Option<usize>,
}

/// Reads control messages until they end or make no sense.
pub(super) fn decode(mut bytes: &[u8]) -> Received {
    let mut received = Received::default();
    while let Some((len, rest)) = bytes.split_first_chunk::<{ size_of::<usize>() }>() {
        let len = usize::from_ne_bytes(*len);
        let (Some(level), Some(kind)) = (int_at(rest, 0), int_at(rest, 4)) else { break };
        let Some(data) = bytes.get(HEADER_LEN..len) else { break };
        received.note(level, kind, data);
        bytes = bytes.get(len.next_multiple_of(ALIGN)..).unwrap_or_default();
    }
    received
}

impl Received {
    fn note(&mut self, level: libc::c_int, kind: libc::c_int, data: &[u8]) {
        match (level, kind) {
            (libc::SOL_UDP, libc::UDP_GRO) => {
                self.segment_size =
                    int_at(data, 0).and_then(|size| usize::try_from(size).ok()).filter(|&s| s > 0);
            }
            // One byte from IPv4, an int from IPv6.
            (libc::IPPROTO_IP, libc::IP_TOS) => {
                self.ecn = data.first().map_or(0, |class| class & 0b11);
            }
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                self.ecn = int_at(data, 0).map_or(0, |class| (class & 0b11) as u8);
            }
            // The second member of in_pktinfo, ipi_spec_dst, is the address to answer from; the
            // third, the header's destination, may be a broadcast address.
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                if let Some(octets) = data.get(4..).and_then(<[u8]>::first_chunk::<4>) {
                    self.local = Some(Ipv4Addr::from(*octets).into());
                }
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                if let Some(octets) = data.first_chunk::<16>() {
                    self.local = Some(IpAddr::V6(Ipv6Addr::from(*octets)).to_canonical());
                }
            }
            _ => {}
        }
    }
}

fn int_at(bytes: &[u8], at: usize) -> Option<libc::c_int> {
    Some(libc::c_int::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::{RECEIVE_SPACE, Received, SEND_SPACE, Space, decode, encode};
    use crate::sys::udp::SendTarget;
    use proptest::prelude::*;
    use std::net::IpAddr;

    /// Level, type and data of every control message, found by libc's own macros.
    fn walk(space: &Space<SEND_SPACE>, len: usize) -> Vec<(i32, i32, Vec<u8>)> {
        // SAFETY: msghdr is a C structure of integers and pointers, for which zero is valid.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_control = space.0.as_ptr().cast_mut().cast();
        header.msg_controllen = len;
        let mut found = Vec::new();
        // SAFETY: `header` describes the live bytes of `space`, and the macros stay inside.
        unsafe {
            let mut message = libc::CMSG_FIRSTHDR(&raw const header);
            while !message.is_null() {
                let data_len = (*message).cmsg_len - libc::CMSG_LEN(0) as usize;
                let data = std::slice::from_raw_parts(libc::CMSG_DATA(message), data_len);
                found.push(((*message).cmsg_level, (*message).cmsg_type, data.to_vec()));
                message = libc::CMSG_NXTHDR(&raw const header, message);
            }
        }
        found
    }

    fn encoded(target: &SendTarget, segment: Option<u16>, ecn: u8) -> Vec<(i32, i32, Vec<u8>)> {
        let mut space = Space([0xff; SEND_SPACE]);
        let len = encode(&mut space, target, segment, ecn);
        walk(&space, len)
    }

    fn target(remote: &str, local: Option<&str>) -> SendTarget {
        SendTarget {
            remote: remote.parse().unwrap(),
            local: local.map(|ip| ip.parse::<IpAddr>().unwrap()),
        }
    }

    #[test]
    fn messages_stand_where_libc_looks_for_them() {
        let v4 = target("192.0.2.1:1", Some("192.0.2.9"));
        let v4_info = [[0; 4], [192, 0, 2, 9], [0; 4]].concat();
        let expected = vec![
            (libc::SOL_UDP, libc::UDP_SEGMENT, 1400_u16.to_ne_bytes().to_vec()),
            (libc::IPPROTO_IP, libc::IP_PKTINFO, v4_info),
            (libc::IPPROTO_IP, libc::IP_TOS, 2_i32.to_ne_bytes().to_vec()),
        ];
        assert_eq!(encoded(&v4, Some(1400), 2), expected);
        let mapped = target("[::ffff:192.0.2.1]:1", Some("::ffff:192.0.2.9"));
        assert_eq!(encoded(&mapped, Some(1400), 2), expected);

        let v6 = target("[2001:db8::1]:1", Some("2001:db8::9"));
        let mut v6_info = "2001:db8::9".parse::<std::net::Ipv6Addr>().unwrap().octets().to_vec();
        v6_info.extend_from_slice(&[0; 4]);
        let expected = vec![
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, v6_info),
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS, 1_i32.to_ne_bytes().to_vec()),
        ];
        assert_eq!(encoded(&v6, None, 1), expected);
    }

    #[test]
    fn a_link_local_source_names_its_interface() {
        let found = encoded(&target("[fe80::1%7]:1", Some("fe80::2")), None, 0);
        assert_eq!(found[0].2[16..], 7_u32.to_ne_bytes());
    }

    #[test]
    fn nothing_is_sent_that_need_not_be() {
        assert_eq!(encoded(&target("192.0.2.1:1", None), None, 0), []);
        assert_eq!(encoded(&target("192.0.2.1:1", Some("2001:db8::9")), None, 0), []);
        assert_eq!(encoded(&target("[2001:db8::1]:1", Some("192.0.2.9")), None, 0), []);
    }

    proptest! {
        #[test]
        fn any_bytes_can_be_decoded(bytes in prop::collection::vec(any::<u8>(), 0..RECEIVE_SPACE)) {
            decode(&bytes);
        }

        #[test]
        fn damaged_messages_can_be_decoded(at in 0..SEND_SPACE, byte: u8, len in 0..=SEND_SPACE) {
            let mut space = Space::empty();
            encode(&mut space, &target("[2001:db8::1]:1", Some("2001:db8::9")), Some(1), 3);
            space.0[at] = byte;
            decode(&space.0[..len]);
        }
    }

    #[test]
    fn a_segment_size_of_nothing_is_none() {
        let mut received = Received::default();
        for size in [0, -1, i32::MIN] {
            received.note(libc::SOL_UDP, libc::UDP_GRO, &i32::to_ne_bytes(size));
            assert_eq!(received.segment_size, None);
        }
        received.note(libc::SOL_UDP, libc::UDP_GRO, &[1]);
        assert_eq!(received, Received::default());
    }
}
