//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).
//!
//! Sums are folded to 16 bits and not complemented unless a function says so. The sum of anything
//! that is not all zeros folds to 1..=0xffff, never to 0, so subtracting by adding a complement
//! gives the very value that a fresh sum would have given.

use std::net::IpAddr;

/// The folded one's complement sum of `data` as big-endian 16-bit words, an odd last byte padded
/// with zero (RFC 1071 section 1).
#[inline]
pub fn sum(data: &[u8]) -> u16 {
    // The sum does not depend on byte order but for a final swap (RFC 1071 section 2 (B)), so words
    // are added as the machine loads them, 32 bits at a time into lanes that cannot overflow.
    let mut lanes = [0u64; 4];
    let (chunks, rest) = data.as_chunks::<16>();
    for chunk in chunks {
        add_chunk(&mut lanes, chunk);
    }
    let mut last = [0u8; 16];
    last[..rest.len()].copy_from_slice(rest);
    add_chunk(&mut lanes, &last);
    u16::from_be(fold(lanes.iter().sum()))
}

#[inline(always)]
fn add_chunk(lanes: &mut [u64; 4], chunk: &[u8; 16]) {
    let (words, _) = chunk.as_chunks::<4>();
    for (lane, word) in lanes.iter_mut().zip(words) {
        *lane += u64::from(u32::from_ne_bytes(*word));
    }
}

/// Fold a sum of 16-bit or 32-bit words to 16 bits.
#[inline]
pub fn fold(sum: u64) -> u16 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    ((sum >> 16) + (sum & 0xffff)) as u16
}

/// One's complement addition.
#[inline]
pub fn add(a: u16, b: u16) -> u16 {
    let (sum, carry) = a.overflowing_add(b);
    sum + u16::from(carry)
}

/// One's complement subtraction of `b`, which must have been part of `a`.
#[inline]
pub fn subtract(a: u16, b: u16) -> u16 {
    add(a, !b)
}

/// The checksum (complemented) after a 16-bit word it covers changed from `old` to `new`
/// (RFC 1624 equation 3).
#[inline]
pub fn update(checksum: u16, old: u16, new: u16) -> u16 {
    !add(add(!checksum, !old), new)
}

/// The sum of a TCP or UDP pseudo-header: addresses, protocol and upper-layer length (RFC 9293
/// section 3.1, RFC 8200 section 8.1).
#[inline]
pub fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, upper_len: usize) -> u16 {
    let addresses = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            u64::from(source.to_bits()) + u64::from(destination.to_bits())
        }
        (source, destination) => sum_of_address(source) + sum_of_address(destination),
    };
    fold(addresses + u64::from(protocol) + upper_len as u64)
}

#[inline]
fn sum_of_address(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(address) => u64::from(address.to_bits()),
        IpAddr::V6(address) => {
            let bits = address.to_bits();
            (0..4).map(|word| u64::from((bits >> (32 * word)) as u32)).sum()
        }
    }
}

/// Complete the checksum of a packet whose checksum field at `field` holds a pseudo-header sum,
/// over everything from `start` to the end of the packet.
///
/// A result of 0 is stored as 0xffff, which means the same to every protocol and keeps UDP's 0 for
/// "no checksum" (RFC 768); Linux does so too (`skb_checksum_help`).
#[inline]
pub fn complete(packet: &mut [u8], start: usize, field: usize) {
    let checksum = match !sum(&packet[start..]) {
        0 => 0xffff,
        checksum => checksum,
    };
    super::field::put_u16(packet, field, checksum);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::packet::testing::reference_sum;

    #[test]
    fn sums_the_example_of_rfc_1071_section_3() {
        assert_eq!(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
    }

    #[test]
    fn updates_the_example_of_rfc_1624_section_4() {
        assert_eq!(update(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    #[test]
    fn the_longest_packet_of_ones_does_not_overflow() {
        let data = vec![0xff; 65535];
        assert_eq!(sum(&data), reference_sum(&data));
        assert_eq!(fold(u64::MAX), 0xffff);
        assert_eq!(fold(0), 0);
    }

    #[test]
    fn a_checksum_of_zero_is_stored_as_ones() {
        // The sum of everything but the field is 0xffff.
        let mut packet = [0xff, 0xff, 0, 0];
        complete(&mut packet, 0, 2);
        assert_eq!(packet, [0xff, 0xff, 0xff, 0xff]);
    }

    proptest! {
        #[test]
        fn sum_is_the_reference_sum(data in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(sum(&data), reference_sum(&data));
        }

        #[test]
        fn update_is_a_fresh_sum(
            mut data in proptest::collection::vec(any::<u8>(), 2..60),
            new: u16,
            at: prop::sample::Index,
        ) {
            // A word that never changes keeps the sum from being that of nothing but zeros.
            data.extend_from_slice(&[1, if data.len() % 2 == 0 { 1 } else { 0 }, 1]);
            let at = at.index((data.len() - 3) / 2) * 2;
            let before = !sum(&data);
            let old = u16::from_be_bytes([data[at], data[at + 1]]);
            data[at..at + 2].copy_from_slice(&new.to_be_bytes());
            prop_assert_eq!(update(before, old, new), !sum(&data));
        }

        #[test]
        fn pseudo_header_is_the_sum_of_its_bytes(
            source: [u8; 16], destination: [u8; 16], protocol: u8, len in 0usize..65536,
        ) {
            let mut bytes = [source, destination].concat();
            bytes.extend_from_slice(&(len as u32).to_be_bytes());
            bytes.extend_from_slice(&[0, 0, 0, protocol]);
            prop_assert_eq!(
                pseudo_header(IpAddr::from(source), IpAddr::from(destination), protocol, len),
                reference_sum(&bytes)
            );
            let v4 = |octets: [u8; 16]| [octets[0], octets[1], octets[2], octets[3]];
            let mut bytes = [v4(source), v4(destination)].concat();
            bytes.extend_from_slice(&[0, protocol]);
            bytes.extend_from_slice(&(len as u16).to_be_bytes());
            prop_assert_eq!(
                pseudo_header(v4(source).into(), v4(destination).into(), protocol, len),
                reference_sum(&bytes)
            );
        }
    }
}
