//! What a filter asks of a packet: between which addresses and ports, over which protocol.
//!
//! What cannot be told is said to be unknown rather than guessed: the ports of a fragment, the
//! protocol behind extension headers that are too many, cut off, or hide it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::field::{get_u16, ipv4, ipv6, protocol, udp};
use super::icmp::ICMP_HEADER_LEN;
use super::parse::{IpVersion, Parsed};

/// What is above IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Upper {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP in IPv4, ICMPv6 in IPv6.
    Icmp,
    /// Something else that is known to be no header of IP itself.
    Other,
    /// It cannot be told.
    Unknown,
}

impl Upper {
    /// What `number` stands for in the header of a packet.
    #[inline]
    fn of(version: IpVersion, number: u8) -> Self {
        match (version, number) {
            (_, protocol::TCP) => Self::Tcp,
            (_, protocol::UDP) => Self::Udp,
            (IpVersion::V4, protocol::ICMP) | (IpVersion::V6, protocol::ICMPV6) => Self::Icmp,
            (IpVersion::V4, protocol::AUTHENTICATION) => Self::Unknown,
            (IpVersion::V6, number) if is_extension_header(number) => Self::Unknown,
            _ => Self::Other,
        }
    }
}

/// IANA "IPv6 Extension Header Types", but for ESP, behind which nobody can look.
#[inline]
const fn is_extension_header(number: u8) -> bool {
    matches!(number, 0 | 43 | 44 | 51 | 60 | 135 | 139 | 140 | 253 | 254)
}

/// The two ends of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// What is above IP.
    pub upper: Upper,
    /// Source and destination port of TCP or UDP, unless they cannot be told.
    pub ports: Option<(u16, u16)>,
}

impl Ends {
    /// The ends of `packet`, of which `parsed` was told.
    #[inline]
    pub fn of(packet: &[u8], parsed: &Parsed) -> Self {
        // The next header of a later fragment is what its sender likes: the first one's counts
        // (RFC 8200 section 4.5).
        let upper = match parsed.version {
            IpVersion::V6 if parsed.is_later_fragment => Upper::Unknown,
            version => Upper::of(version, parsed.protocol),
        };
        let ports = parsed.transport.and_then(|_| ports_at(packet, parsed.transport_offset));
        Self { source: parsed.source, destination: parsed.destination, upper, ports }
    }

    /// The ends of the packet that `packet` is an ICMP error about, as far as it quotes it; `None`
    /// if it is no such error (RFC 792: destination unreachable, time exceeded, parameter problem;
    /// RFC 4443: types 1 to 4).
    pub fn quoted(packet: &[u8], parsed: &Parsed) -> Option<Self> {
        let upper = Upper::of(parsed.version, parsed.protocol);
        if upper != Upper::Icmp || parsed.is_fragment {
            return None;
        }
        let message = packet.get(parsed.transport_offset..parsed.total_len)?;
        let (kind, quote) = (*message.first()?, message.get(ICMP_HEADER_LEN..)?);
        match (parsed.version, kind) {
            (IpVersion::V4, 3 | 11 | 12) => Self::quoted_v4(quote),
            (IpVersion::V6, 1..=4) => Self::quoted_v6(quote),
            _ => None,
        }
    }

    /// The packet itself may be cut off.
    fn quoted_v4(quote: &[u8]) -> Option<Self> {
        let header = quote.first_chunk::<{ ipv4::HEADER_LEN }>()?;
        let header_len = usize::from(header[0] & 0x0f) * 4;
        if header[0] >> 4 != 4 || header_len < ipv4::HEADER_LEN {
            return None;
        }
        let address = |at: usize| -> Option<IpAddr> {
            Some(Ipv4Addr::from(*header.get(at..)?.first_chunk::<4>()?).into())
        };
        let is_later = get_u16(header, ipv4::FRAGMENT) & ipv4::OFFSET_MASK != 0;
        let upper = Upper::of(IpVersion::V4, header[ipv4::PROTOCOL]);
        let has_ports = matches!(upper, Upper::Tcp | Upper::Udp) && !is_later;
        Some(Self {
            source: address(ipv4::SOURCE)?,
            destination: address(ipv4::DESTINATION)?,
            upper,
            ports: ports_at(quote, header_len).filter(|_| has_ports),
        })
    }

    fn quoted_v6(quote: &[u8]) -> Option<Self> {
        let header = quote.first_chunk::<{ ipv6::HEADER_LEN }>()?;
        if header[0] >> 4 != 6 {
            return None;
        }
        let address = |at: usize| -> Option<IpAddr> {
            Some(Ipv6Addr::from(*header.get(at..)?.first_chunk::<16>()?).into())
        };
        // A quote with extension headers is rare, and stays unknown.
        let upper = Upper::of(IpVersion::V6, header[ipv6::NEXT_HEADER]);
        let has_ports = matches!(upper, Upper::Tcp | Upper::Udp);
        Some(Self {
            source: address(ipv6::SOURCE)?,
            destination: address(ipv6::DESTINATION)?,
            upper,
            ports: ports_at(quote, ipv6::HEADER_LEN).filter(|_| has_ports),
        })
    }
}

/// Both ports of a TCP or UDP header at `offset`.
#[inline]
fn ports_at(packet: &[u8], offset: usize) -> Option<(u16, u16)> {
    let header = packet.get(offset..)?.first_chunk::<{ udp::LEN }>()?;
    Some((get_u16(header, 0), get_u16(header, 2)))
}

/// Whether a packet's sender has named hosts that it is to go by, so that its destination address
/// is not where it ends: source routes of IPv4 (RFC 791: options 131 and 137), routing headers of
/// IPv6, and chains of IPv6 headers that cannot be followed to their end.
#[inline]
pub fn is_source_routed(packet: &[u8], parsed: &Parsed) -> bool {
    parsed.has_options
        && match parsed.version {
            IpVersion::V4 => has_source_route_v4(packet, parsed),
            IpVersion::V6 => has_routing_header(packet, parsed),
        }
}

#[cold]
fn has_source_route_v4(packet: &[u8], parsed: &Parsed) -> bool {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    let mut options = packet.get(ipv4::HEADER_LEN..parsed.transport_offset).unwrap_or_default();
    while let Some((&kind, rest)) = options.split_first() {
        options = match kind {
            END => return false,
            NO_OPERATION => rest,
            131 | 137 => return true,
            // An option that is cut off leaves nothing behind it that could be told.
            _ => match rest.first().map(|len| usize::from(*len)) {
                Some(len) if len >= 2 && len <= options.len() => &options[len..],
                _ => return true,
            },
        };
    }
    false
}

#[cold]
fn has_routing_header(packet: &[u8], parsed: &Parsed) -> bool {
    let is_unfinished = matches!(
        parsed.protocol,
        protocol::HOP_BY_HOP
            | protocol::ROUTING
            | protocol::FRAGMENT
            | protocol::DESTINATION_OPTIONS
    );
    if is_unfinished && !parsed.is_later_fragment {
        return true;
    }
    let (mut next, mut at) = (packet[ipv6::NEXT_HEADER], ipv6::HEADER_LEN);
    while at < parsed.transport_offset {
        if next == protocol::ROUTING {
            return true;
        }
        let Some(&[following, len]) = packet.get(at..).and_then(|it| it.first_chunk::<2>()) else {
            return true;
        };
        at += if next == protocol::FRAGMENT { 8 } else { (usize::from(len) + 1) * 8 };
        next = following;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::icmp;
    use crate::packet::testing::Build;

    fn ends(packet: &[u8]) -> Ends {
        Ends::of(packet, &Parsed::parse(packet).unwrap())
    }

    #[test]
    fn the_ends_of_whole_packets_are_known() {
        for build in [Build::tcp_v4(), Build::tcp_v6(), Build::udp_v4(), Build::udp_v6()] {
            let packet = build.packet();
            let parsed = Parsed::parse(&packet).unwrap();
            let found = ends(&packet);
            let at = parsed.transport_offset;
            let ports = (get_u16(&packet, at), get_u16(&packet, at + 2));
            assert_eq!(found.ports, Some(ports));
            let is_udp = parsed.protocol == protocol::UDP;
            assert_eq!(found.upper, if is_udp { Upper::Udp } else { Upper::Tcp });
            assert!(!is_source_routed(&packet, &parsed));
        }
    }

    #[test]
    fn fragments_and_damaged_headers_have_no_ports() {
        let packet = Build::udp_v4().packet();
        for (flags, ports) in [(0x4000, true), (0x2000, false), (0x0001, false)] {
            let mut fragment = packet.clone();
            fragment[ipv4::FRAGMENT..ipv4::FRAGMENT + 2].copy_from_slice(&u16::to_be_bytes(flags));
            assert_eq!(ends(&fragment).ports.is_some(), ports, "{flags:x}");
            assert_eq!(ends(&fragment).upper, Upper::Udp);
        }
        let mut damaged = packet.clone();
        damaged[ipv4::HEADER_LEN + udp::LEN + 1] -= 1;
        assert_eq!((ends(&damaged).upper, ends(&damaged).ports), (Upper::Udp, None));
    }

    /// An IPv6 packet whose chain consists of `headers`, each of 8 bytes, and 8 bytes of UDP.
    fn chained(headers: &[u8]) -> Vec<u8> {
        let mut numbers = headers.to_vec();
        numbers.push(protocol::UDP);
        let mut packet = vec![0x60, 0, 0, 0, 0, 8 * numbers.len() as u8, numbers[0], 64];
        packet.extend([0xfd; 32]);
        for next in &numbers[1..] {
            packet.extend([*next, 0, 0, 0, 0, 0, 0, 0]);
        }
        packet.extend([0, 53, 0, 53, 0, 8, 0, 0]);
        packet
    }

    #[test]
    fn extension_headers_are_followed_or_said_to_hide_what_is_behind() {
        let destination_options = protocol::DESTINATION_OPTIONS;
        // (headers, what is above, whether the destination may be another one)
        let table: &[(&[u8], Upper, bool)] = &[
            /* 1 */ (&[], Upper::Udp, false),
            /* 2 */ (&[destination_options], Upper::Udp, false),
            /* 3 */ (&[protocol::HOP_BY_HOP, destination_options], Upper::Udp, false),
            /* 4 */ (&[protocol::ROUTING], Upper::Udp, true),
            /* 5: authentication */ (&[51], Upper::Unknown, false),
            /* 6: mobility */ (&[135], Upper::Unknown, false),
            /* 7: too many */ (&[destination_options; 9], Upper::Unknown, true),
            /* 8 */ (&[destination_options; 8], Upper::Udp, false),
        ];
        for (number, (headers, upper, routed)) in (1..).zip(table) {
            let packet = chained(headers);
            let parsed = Parsed::parse(&packet).unwrap();
            assert_eq!(Ends::of(&packet, &parsed).upper, *upper, "row {number}");
            assert_eq!(is_source_routed(&packet, &parsed), *routed, "row {number}");
        }
    }

    #[test]
    fn a_later_fragment_of_ipv6_may_claim_any_protocol() {
        let mut packet = chained(&[protocol::FRAGMENT]);
        packet[ipv6::HEADER_LEN + 3] = 8;
        assert_eq!((ends(&packet).upper, ends(&packet).ports), (Upper::Unknown, None));
        let parsed = Parsed::parse(&packet).unwrap();
        assert!(!is_source_routed(&packet, &parsed));
    }

    #[test]
    fn source_routes_of_ipv4_are_found_behind_other_options() {
        // (options, source routed)
        let table: &[(&[u8], bool)] = &[
            /* 1 */ (&[1, 1, 1, 1], false),
            /* 2 */ (&[7, 3, 4, 1], false),
            /* 3 */ (&[1, 131, 3, 4], true),
            /* 4 */ (&[7, 3, 4, 137, 3, 4, 0, 0], true),
            /* 5: behind the end */ (&[0, 131, 3, 4], false),
            /* 6: cut off */ (&[7, 9, 4, 1], true),
            /* 7: no length */ (&[7, 0, 4, 1], true),
        ];
        for (number, (options, routed)) in (1..).zip(table) {
            let mut packet = vec![0; ipv4::HEADER_LEN];
            packet[0] = 0x45 + (options.len() / 4) as u8;
            packet[ipv4::PROTOCOL] = 99;
            packet.extend(*options);
            packet[ipv4::TOTAL_LEN + 1] = packet.len() as u8;
            let parsed = Parsed::parse(&packet).unwrap();
            assert_eq!(is_source_routed(&packet, &parsed), *routed, "row {number}");
        }
    }

    #[test]
    fn icmp_errors_quote_the_packet_that_they_are_about() {
        for build in [Build::tcp_v4(), Build::tcp_v6(), Build::udp_v4(), Build::udp_v6()] {
            let packet = Build { payload: vec![7; 1200], ..build }.packet();
            let parsed = Parsed::parse(&packet).unwrap();
            let mut reply = [0; icmp::TOO_BIG_LEN_MAX];
            let len = icmp::too_big(&packet, &parsed, 600, None, &mut reply).unwrap();
            let error = &reply[..len];
            let parsed = Parsed::parse(error).unwrap();
            assert_eq!(Ends::quoted(error, &parsed), Some(ends(&packet)));
            assert_eq!(Ends::of(error, &parsed).upper, Upper::Icmp);
            for cut in parsed.transport_offset..len {
                let shorter = Parsed { total_len: cut, ..parsed };
                let found = Ends::quoted(error, &shorter);
                assert!(found.is_none_or(|it| it.ports.is_none() || it == ends(&packet)));
            }
            let mut echo = error.to_vec();
            echo[parsed.transport_offset] = 128;
            assert_eq!(Ends::quoted(&echo, &parsed), None);
            assert_eq!(Ends::quoted(&packet, &Parsed::parse(&packet).unwrap()), None);
        }
    }
}
