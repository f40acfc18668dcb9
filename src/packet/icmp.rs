//! ICMP "too big": telling a sender that its packet does not fit the path (RFC 1191, RFC 8201).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::checksum;
use super::field::{ipv4, ipv6, len_u16, protocol, put_u16, put_u32};
use super::parse::{IpVersion, Parsed};
use crate::limits::TUN_MTU_MIN;

/// Bytes of ICMP header in front of the quoted packet, in both versions.
pub(super) const ICMP_HEADER_LEN: usize = 8;
/// "The ICMP datagram SHOULD contain as much of the original datagram as possible without the
/// length of the ICMP datagram exceeding 576 bytes" (RFC 1812 section 4.3.2.3).
const V4_LEN_MAX: usize = 576;
/// "as much of invoking packet as possible without the ICMPv6 packet exceeding the minimum IPv6
/// MTU" (RFC 4443 section 3.2).
const V6_LEN_MAX: usize = TUN_MTU_MIN as usize;
const HOP_LIMIT: u8 = 64;
/// Precedence "internetwork control" (RFC 1812 section 4.3.2.5).
const TOS: u8 = 0xc0;

/// The most bytes that [`too_big`] writes.
pub const TOO_BIG_LEN_MAX: usize = V6_LEN_MAX;

/// Write the ICMP message that tells the source of `packet` that packets of at most `mtu` bytes
/// fit, and return its length; `None` if such a message must not be sent: the packet may be
/// fragmented, is itself an ICMP error, a later fragment, or its addresses are not those of two
/// hosts (RFC 1122 section 3.2.2, RFC 4443 section 2.4 (e)).
///
/// The message comes from `local`, or, without it, from the packet's destination: a host drops what
/// arrives on an interface from one of its own addresses, so where the message goes back into the
/// TUN device of the host that has `local`, only the destination works.
///
/// # Panics
///
/// If `out` is shorter than [`TOO_BIG_LEN_MAX`].
pub fn too_big(
    packet: &[u8],
    parsed: &Parsed,
    mtu: usize,
    local: Option<IpAddr>,
    out: &mut [u8],
) -> Option<usize> {
    if parsed.is_later_fragment || !parsed.dont_fragment || is_icmp_error(packet, parsed) {
        return None;
    }
    let quoted = &packet[..parsed.total_len];
    match (parsed.source, parsed.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let from = match local {
                Some(IpAddr::V4(local)) => local,
                _ => destination,
            };
            (is_host_v4(source) && is_host_v4(destination))
                .then(|| too_big_v4(quoted, mtu, from, source, out))
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let from = match local {
                Some(IpAddr::V6(local)) => local,
                _ => destination,
            };
            (is_host_v6(source) && is_host_v6(destination))
                .then(|| too_big_v6(quoted, mtu, from, source, out))
        }
        _ => None,
    }
}

/// Destination unreachable, fragmentation needed and DF set (RFC 792, RFC 1191 section 4).
fn too_big_v4(quoted: &[u8], mtu: usize, from: Ipv4Addr, to: Ipv4Addr, out: &mut [u8]) -> usize {
    let quoted_len = quoted.len().min(V4_LEN_MAX - ipv4::HEADER_LEN - ICMP_HEADER_LEN);
    let len = ipv4::HEADER_LEN + ICMP_HEADER_LEN + quoted_len;
    let (ip, icmp) = out[..len].split_at_mut(ipv4::HEADER_LEN);
    ip.fill(0);
    ip[0] = 0x45;
    ip[ipv4::TOS] = TOS;
    put_u16(ip, ipv4::TOTAL_LEN, len_u16(len));
    put_u16(ip, ipv4::FRAGMENT, ipv4::DONT_FRAGMENT);
    ip[ipv4::TTL] = HOP_LIMIT;
    ip[ipv4::PROTOCOL] = protocol::ICMP;
    put_u32(ip, ipv4::SOURCE, from.to_bits());
    put_u32(ip, ipv4::DESTINATION, to.to_bits());
    let checksum = !checksum::sum(ip);
    put_u16(ip, ipv4::CHECKSUM, checksum);

    icmp[..ICMP_HEADER_LEN].fill(0);
    icmp[0] = 3;
    icmp[1] = 4;
    put_u16(icmp, 6, u16::try_from(mtu).unwrap_or(u16::MAX));
    icmp[ICMP_HEADER_LEN..].copy_from_slice(&quoted[..quoted_len]);
    let checksum = !checksum::sum(icmp);
    put_u16(icmp, 2, checksum);
    len
}

/// Packet too big (RFC 4443 section 3.2).
fn too_big_v6(quoted: &[u8], mtu: usize, from: Ipv6Addr, to: Ipv6Addr, out: &mut [u8]) -> usize {
    let quoted_len = quoted.len().min(V6_LEN_MAX - ipv6::HEADER_LEN - ICMP_HEADER_LEN);
    let upper_len = ICMP_HEADER_LEN + quoted_len;
    let len = ipv6::HEADER_LEN + upper_len;
    let (ip, icmp) = out[..len].split_at_mut(ipv6::HEADER_LEN);
    put_u32(ip, 0, 0x6000_0000);
    put_u16(ip, ipv6::PAYLOAD_LEN, len_u16(upper_len));
    ip[ipv6::NEXT_HEADER] = protocol::ICMPV6;
    ip[ipv6::HOP_LIMIT] = HOP_LIMIT;
    ip[ipv6::SOURCE..ipv6::DESTINATION].copy_from_slice(&from.octets());
    ip[ipv6::DESTINATION..].copy_from_slice(&to.octets());

    icmp[..ICMP_HEADER_LEN].fill(0);
    icmp[0] = 2;
    put_u32(icmp, 4, u32::try_from(mtu).unwrap_or(u32::MAX));
    icmp[ICMP_HEADER_LEN..].copy_from_slice(&quoted[..quoted_len]);
    let pseudo = checksum::pseudo_header(from.into(), to.into(), protocol::ICMPV6, upper_len);
    let checksum = !checksum::add(pseudo, checksum::sum(icmp));
    put_u16(icmp, 2, checksum);
    len
}

/// Whether the packet is an ICMP error, or cannot be told not to be one.
fn is_icmp_error(packet: &[u8], parsed: &Parsed) -> bool {
    let kind = packet[..parsed.total_len].get(parsed.transport_offset);
    match (parsed.version, parsed.protocol) {
        // Unreachable, source quench, redirect, time exceeded, parameter problem, and everything
        // beyond the types of RFC 792 and RFC 950.
        (IpVersion::V4, protocol::ICMP) => matches!(kind, None | Some(3 | 4 | 5 | 11 | 12 | 19..)),
        // Types below 128 are errors (RFC 4443 section 2.1); 137 is redirect.
        (IpVersion::V6, protocol::ICMPV6) => matches!(kind, None | Some(0..=127 | 137)),
        _ => false,
    }
}

fn is_host_v4(address: Ipv4Addr) -> bool {
    // 240.0.0.0/4 is reserved and ends in the limited broadcast address.
    !(address.is_unspecified()
        || address.is_loopback()
        || address.is_multicast()
        || address.octets()[0] >= 240)
}

fn is_host_v6(address: Ipv6Addr) -> bool {
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::testing::{Build, ip_checksum_is_right, reference_sum};

    fn answer(packet: &[u8], mtu: usize, local: Option<IpAddr>) -> Option<Vec<u8>> {
        let parsed = Parsed::parse(packet).unwrap();
        let mut out = vec![0xaa; TOO_BIG_LEN_MAX];
        let len = too_big(packet, &parsed, mtu, local, &mut out)?;
        out.truncate(len);
        Some(out)
    }

    #[test]
    fn v4_says_fragmentation_needed_and_quotes_548_bytes() {
        let packet = Build { payload: vec![7; 1400], ..Build::tcp_v4() }.packet();
        let icmp = answer(&packet, 1280, None).unwrap();
        let parsed = Parsed::parse(&icmp).unwrap();
        let offending = Parsed::parse(&packet).unwrap();
        assert_eq!(icmp.len(), 576);
        assert_eq!(parsed.total_len, 576);
        assert_eq!(parsed.source, offending.destination);
        assert_eq!(parsed.destination, offending.source);
        assert_eq!(parsed.protocol, 1);
        assert!(ip_checksum_is_right(&icmp));
        assert_eq!(reference_sum(&icmp[20..]), 0xffff);
        assert_eq!(icmp[20..22], [3, 4]);
        assert_eq!(icmp[24..28], [0, 0, 5, 0]);
        assert_eq!(icmp[28..], packet[..548]);
    }

    #[test]
    fn v6_says_packet_too_big_and_stays_within_1280_bytes() {
        let packet = Build { payload: vec![7; 1400], ..Build::udp_v6() }.packet();
        let local = "fd00::1".parse().unwrap();
        let icmp = answer(&packet, 1400, Some(local)).unwrap();
        let parsed = Parsed::parse(&icmp).unwrap();
        assert_eq!(icmp.len(), 1280);
        assert_eq!(parsed.total_len, 1280);
        assert_eq!(parsed.source, local);
        assert_eq!(parsed.destination, Parsed::parse(&packet).unwrap().source);
        assert_eq!(icmp[40..42], [2, 0]);
        assert_eq!(icmp[44..48], [0, 0, 5, 0x78]);
        assert_eq!(icmp[48..], packet[..1232]);
        let mut summed = icmp[8..40].to_vec();
        summed.extend_from_slice(&[0, 0, 4, 0xd8, 0, 0, 0, 58]);
        summed.extend_from_slice(&icmp[40..]);
        assert_eq!(reference_sum(&summed), 0xffff);
    }

    #[test]
    fn a_short_packet_is_quoted_whole_and_a_local_address_of_the_other_family_ignored() {
        let packet = Build { payload: vec![1, 2, 3], ..Build::udp_v4() }.packet();
        let icmp = answer(&packet, 68, Some("fd00::1".parse().unwrap())).unwrap();
        assert_eq!(icmp[28..], packet);
        assert_eq!(icmp[12..16], packet[16..20]);
    }

    #[test]
    fn packets_that_must_not_be_answered_are_not() {
        let v4 = Build::raw_v4;
        let v6 = Build::raw_v6;
        for (kind, answered) in
            [(0, true), (8, true), (3, false), (5, false), (11, false), (12, false), (42, false)]
        {
            let packet = v4(1, &[kind, 0, 0, 0, 0, 0, 0, 0]).packet();
            assert_eq!(answer(&packet, 1280, None).is_some(), answered, "ICMP type {kind}");
        }
        for (kind, answered) in
            [(128, true), (129, true), (1, false), (2, false), (127, false), (137, false)]
        {
            let packet = v6(58, &[kind, 0, 0, 0, 0, 0, 0, 0]).packet();
            assert_eq!(answer(&packet, 1280, None).is_some(), answered, "ICMPv6 type {kind}");
        }
        assert_eq!(answer(&v4(1, &[]).packet(), 1280, None), None, "no room for a type");
        let may_fragment = Build { dont_fragment: false, ..Build::udp_v4() };
        assert_eq!(answer(&may_fragment.packet(), 1280, None), None);
        let mut later_fragment = Build::udp_v4().packet();
        later_fragment[7] = 1;
        assert_eq!(answer(&later_fragment, 1280, None), None);
    }

    #[test]
    fn only_hosts_are_answered() {
        for address in ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", "240.0.0.1"] {
            let address = address.parse().unwrap();
            let from = Build { source: address, ..Build::udp_v4() }.packet();
            let to = Build { destination: address, ..Build::udp_v4() }.packet();
            assert_eq!(answer(&from, 1280, None), None, "{address}");
            assert_eq!(answer(&to, 1280, None), None, "{address}");
        }
        for address in ["::", "::1", "ff02::1"] {
            let address = address.parse().unwrap();
            let from = Build { source: address, ..Build::udp_v6() }.packet();
            let to = Build { destination: address, ..Build::udp_v6() }.packet();
            assert_eq!(answer(&from, 1280, None), None, "{address}");
            assert_eq!(answer(&to, 1280, None), None, "{address}");
        }
    }
}
