//! Explicit congestion notification across the tunnel (RFC 6040), in its normal mode.
//!
//! An ECN field is two bits: [`NOT_ECT`], [`ECT_1`], [`ECT_0`] or [`CE`] (RFC 3168 section 5).

use super::checksum;
use super::field::{get_u16, ipv4, put_u16};
use super::parse::IpVersion;

/// Not ECN-capable.
pub const NOT_ECT: u8 = 0;
/// ECN-capable, codepoint 01.
pub const ECT_1: u8 = 1;
/// ECN-capable, codepoint 10.
pub const ECT_0: u8 = 2;
/// Congestion experienced.
pub const CE: u8 = 3;

/// The ECN field of the outer packet that carries `inner` (RFC 6040 section 4.1: "the encapsulator
/// copies the inner ECN field to the outer header").
#[inline]
pub const fn encapsulate(inner: u8) -> u8 {
    inner & 3
}

/// The ECN field of an inner packet that arrived with `inner` inside a packet with `outer`, or
/// `None` if it must be dropped: it cannot carry the congestion mark it was given on the way (RFC
/// 6040 section 4.2, figure 4).
#[inline]
pub const fn decapsulate(inner: u8, outer: u8) -> Option<u8> {
    match (inner & 3, outer & 3) {
        (NOT_ECT, CE) => None,
        (NOT_ECT, _) => Some(NOT_ECT),
        (_, CE) => Some(CE),
        // ECT(1) may be a weaker congestion mark than CE (RFC 6660): it is carried over.
        (ECT_0, ECT_1) => Some(ECT_1),
        (inner, _) => Some(inner),
    }
}

/// Set the ECN field of a well-formed packet and mend its IPv4 header checksum. Wire flags in the
/// first byte stay as they are.
///
/// # Panics
///
/// If `packet` is shorter than an IP header.
#[inline]
pub fn set(packet: &mut [u8], version: IpVersion, ecn: u8) {
    match version {
        IpVersion::V4 => {
            let old = packet[ipv4::TOS];
            let new = (old & !3) | (ecn & 3);
            let checksum = get_u16(packet, ipv4::CHECKSUM);
            let checksum = checksum::update(checksum, u16::from(old), u16::from(new));
            packet[ipv4::TOS] = new;
            put_u16(packet, ipv4::CHECKSUM, checksum);
        }
        // The traffic class lies across the first two bytes, its low two bits in the second.
        IpVersion::V6 => packet[1] = (packet[1] & !0x30) | ((ecn & 3) << 4),
    }
}

/// Mark a packet as having met congestion on its way (RFC 3168), if its sender takes part in that.
/// What is no IP packet is left alone.
pub fn mark_congestion(packet: &mut [u8]) {
    let Some(header) = packet.first_chunk::<{ ipv4::HEADER_LEN }>() else { return };
    let (version, ecn) = match header[0] >> 4 {
        4 => (IpVersion::V4, header[ipv4::TOS] & 3),
        6 => (IpVersion::V6, (header[1] >> 4) & 3),
        _ => return,
    };
    if ecn == ECT_0 || ecn == ECT_1 {
        set(packet, version, CE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::testing::{Build, ip_checksum_is_right};

    #[test]
    fn decapsulation_is_figure_4_of_rfc_6040() {
        // (inner, outer, result)
        let table = [
            (NOT_ECT, NOT_ECT, Some(NOT_ECT)),
            (NOT_ECT, ECT_0, Some(NOT_ECT)),
            (NOT_ECT, ECT_1, Some(NOT_ECT)),
            (NOT_ECT, CE, None),
            (ECT_0, NOT_ECT, Some(ECT_0)),
            (ECT_0, ECT_0, Some(ECT_0)),
            (ECT_0, ECT_1, Some(ECT_1)),
            (ECT_0, CE, Some(CE)),
            (ECT_1, NOT_ECT, Some(ECT_1)),
            (ECT_1, ECT_0, Some(ECT_1)),
            (ECT_1, ECT_1, Some(ECT_1)),
            (ECT_1, CE, Some(CE)),
            (CE, NOT_ECT, Some(CE)),
            (CE, ECT_0, Some(CE)),
            (CE, ECT_1, Some(CE)),
            (CE, CE, Some(CE)),
        ];
        for (inner, outer, result) in table {
            assert_eq!(decapsulate(inner, outer), result, "inner {inner}, outer {outer}");
        }
    }

    #[test]
    fn encapsulation_copies_the_field() {
        for ecn in [NOT_ECT, ECT_1, ECT_0, CE] {
            assert_eq!(encapsulate(ecn), ecn);
        }
    }

    #[test]
    fn congestion_is_marked_on_packets_that_can_bear_it() {
        for build in [Build::tcp_v4(), Build::udp_v6()] {
            for (before, after) in [(NOT_ECT, NOT_ECT), (ECT_0, CE), (ECT_1, CE), (CE, CE)] {
                let mut packet = Build { tos: 0xb8 | before, ..build.clone() }.packet();
                mark_congestion(&mut packet);
                assert_eq!(packet, Build { tos: 0xb8 | after, ..build.clone() }.packet());
            }
        }
        mark_congestion(&mut [0x45; 10]);
        mark_congestion(&mut [0; 40]);
    }

    #[test]
    fn setting_the_field_changes_nothing_else_and_keeps_the_checksum_right() {
        for build in [Build::tcp_v4(), Build::tcp_v6()] {
            for flags in [0, 0x90] {
                for ecn in [CE, ECT_0, ECT_1, NOT_ECT] {
                    let before = Build { tos: 0xb8, ..build.clone() }.packet();
                    let mut after = before.clone();
                    after[0] |= flags;
                    set(&mut after, build.version(), ecn);
                    assert_eq!(after[0] & flags, flags);
                    after[0] &= !flags;
                    let expected = Build { tos: 0xb8 | ecn, ..build.clone() }.packet();
                    assert_eq!(after, expected);
                    assert!(ip_checksum_is_right(&after));
                }
            }
        }
    }
}
