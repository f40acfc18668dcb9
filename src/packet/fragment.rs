//! IPv4 fragmentation (RFC 791 section 3.2) of packets that do not fit and allow it.

use super::checksum;
use super::field::{get_u16, ipv4, len_u16, put_u16};
use super::parse::{IpVersion, Parsed};
use crate::limits::PACKET_LEN_MAX;

const OPTION_END: u8 = 0;
const OPTION_NOP: u8 = 1;
/// The bit of an option's type that has it copied into every fragment.
const OPTION_COPIED: u8 = 0x80;
/// The longest IPv4 header.
const HEADER_LEN_MAX: usize = 60;

/// A packet seen as the fragments it is to be sent as.
#[derive(Clone, Copy, Debug)]
pub struct Fragments<'a> {
    packet: &'a [u8],
    header_len: usize,
    /// The header of every fragment but the first: options that are not copied are left out.
    later_header: [u8; HEADER_LEN_MAX],
    later_header_len: usize,
    /// Bytes of payload in every fragment but the last, a multiple of 8.
    payload_len: usize,
}

impl<'a> Fragments<'a> {
    /// Plan the fragments of `packet` for a path that carries packets of `mtu` bytes. `None` if
    /// there is nothing to do or nothing that may be done: it fits, has DF set, is IPv6, reaches
    /// beyond the end of the longest packet, or `mtu` is too small for any payload. A fragment may
    /// be fragmented again.
    ///
    /// The checksum above the IP layer must be complete: it covers what fragments have only
    /// together.
    pub fn new(packet: &'a [u8], parsed: &Parsed, mtu: usize) -> Option<Self> {
        let packet = packet.get(..parsed.total_len)?;
        let header_len = parsed.transport_offset;
        let payload_len = mtu.checked_sub(header_len)? & !7;
        if parsed.version != IpVersion::V4
            || parsed.dont_fragment
            || packet.len() <= mtu
            || payload_len == 0
        {
            return None;
        }
        let offset = usize::from(get_u16(packet, ipv4::FRAGMENT) & ipv4::OFFSET_MASK) * 8;
        if offset + packet.len() > PACKET_LEN_MAX {
            return None;
        }
        let (later_header, later_header_len) = later_header(&packet[..header_len]);
        Some(Self { packet, header_len, later_header, later_header_len, payload_len })
    }

    /// How many fragments there are, at least 2.
    pub fn count(&self) -> usize {
        (self.packet.len() - self.header_len).div_ceil(self.payload_len)
    }

    /// Bytes of fragment `index`, header included.
    pub fn fragment_len(&self, index: usize) -> usize {
        let header_len = if index == 0 { self.header_len } else { self.later_header_len };
        let left = self.packet.len() - self.header_len - index * self.payload_len;
        header_len + left.min(self.payload_len)
    }

    /// Write fragment `index` to the front of `out` and return its length, at most the MTU that was
    /// asked for.
    ///
    /// # Panics
    ///
    /// If `index` is not below [`Fragments::count`] or the fragment does not fit `out`.
    pub fn write(&self, index: usize, out: &mut [u8]) -> usize {
        let header = match index {
            0 => &self.packet[..self.header_len],
            _ => &self.later_header[..self.later_header_len],
        };
        let before = index * self.payload_len;
        let payload = &self.packet[self.header_len + before..];
        let is_last = payload.len() <= self.payload_len;
        let payload = &payload[..payload.len().min(self.payload_len)];
        let len = header.len() + payload.len();
        let (header_out, payload_out) = out[..len].split_at_mut(header.len());
        payload_out.copy_from_slice(payload);
        header_out.copy_from_slice(header);

        // The packet may be a fragment itself: its own offset counts, and so does its own "more".
        let original = get_u16(self.packet, ipv4::FRAGMENT);
        let more = if is_last { original & ipv4::MORE_FRAGMENTS } else { ipv4::MORE_FRAGMENTS };
        let offset = (original & ipv4::OFFSET_MASK) + len_u16(before / 8);
        put_u16(header_out, ipv4::FRAGMENT, more | offset);
        put_u16(header_out, ipv4::TOTAL_LEN, len_u16(len));
        put_u16(header_out, ipv4::CHECKSUM, 0);
        let checksum = !checksum::sum(header_out);
        put_u16(header_out, ipv4::CHECKSUM, checksum);
        len
    }
}

/// The header of later fragments, with its length: that of the packet without the options that
/// belong to the first fragment only.
fn later_header(header: &[u8]) -> ([u8; HEADER_LEN_MAX], usize) {
    let mut out = [OPTION_END; HEADER_LEN_MAX];
    out[..ipv4::HEADER_LEN].copy_from_slice(&header[..ipv4::HEADER_LEN]);
    let mut len = ipv4::HEADER_LEN;
    let mut rest = &header[ipv4::HEADER_LEN..];
    while let Some((&kind, after)) = rest.split_first() {
        if kind == OPTION_END {
            break;
        }
        if kind == OPTION_NOP {
            rest = after;
            continue;
        }
        let option_len = after.first().copied().map_or(0, usize::from);
        let Some((option, behind)) = rest.split_at_checked(option_len) else { break };
        if option_len < 2 {
            break;
        }
        if kind & OPTION_COPIED != 0 {
            out[len..len + option_len].copy_from_slice(option);
            len += option_len;
        }
        rest = behind;
    }
    let len = len.next_multiple_of(4);
    out[0] = 0x40 | (len / 4) as u8;
    (out, len)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::packet::testing::{Build, ip_checksum_is_right};

    fn fragments(packet: &[u8], mtu: usize) -> Option<Vec<Vec<u8>>> {
        let parsed = Parsed::parse(packet).unwrap();
        let plan = Fragments::new(packet, &parsed, mtu)?;
        let write = |index| {
            let mut out = vec![0; mtu];
            let len = plan.write(index, &mut out);
            out.truncate(len);
            out
        };
        Some((0..plan.count()).map(write).collect())
    }

    /// The payload of the packet that `fragments` came from, by their offsets; checks every header.
    fn reassemble(fragments: &[Vec<u8>]) -> Vec<u8> {
        let mut payload = Vec::new();
        for (index, fragment) in fragments.iter().enumerate() {
            let parsed = Parsed::parse(fragment).unwrap();
            let word = get_u16(fragment, ipv4::FRAGMENT);
            assert!(parsed.is_fragment && ip_checksum_is_right(fragment));
            assert_eq!(parsed.total_len, fragment.len());
            assert_eq!(usize::from(word & ipv4::OFFSET_MASK) * 8, payload.len());
            assert_eq!(word & ipv4::MORE_FRAGMENTS != 0, index + 1 < fragments.len());
            payload.extend_from_slice(&fragment[parsed.transport_offset..]);
        }
        payload
    }

    proptest! {
        #[test]
        fn fragments_give_the_packet_back(len in 600usize..9000, mtu in 68usize..600, id: u16) {
            let build = Build {
                payload: (0..len).map(|byte| byte as u8).collect(),
                dont_fragment: false,
                id,
                ..Build::udp_v4()
            };
            let packet = build.packet();
            let fragments = fragments(&packet, mtu).unwrap();
            prop_assert!(fragments.iter().all(|fragment| fragment.len() <= mtu));
            prop_assert!(fragments.iter().all(|fragment| get_u16(fragment, ipv4::ID) == id));
            prop_assert_eq!(reassemble(&fragments), &packet[20..]);
        }
    }

    #[test]
    fn a_fragment_is_fragmented_again_into_the_same_packet() {
        let build = Build { payload: vec![9; 3000], dont_fragment: false, ..Build::udp_v4() };
        let packet = build.packet();
        let coarse = fragments(&packet, 1400).unwrap();
        let fine: Vec<_> = coarse
            .iter()
            .flat_map(|fragment| fragments(fragment, 500).unwrap_or_else(|| vec![fragment.clone()]))
            .collect();
        assert!(fine.len() > coarse.len());
        assert_eq!(reassemble(&fine), packet[20..]);
    }

    #[test]
    fn only_copied_options_reach_later_fragments() {
        // Record route (7), not copied; no-operation; router alert (0x94), copied; end.
        let options = [7, 3, 4, 1, 0x94, 4, 0, 0, 0, 0, 0, 0];
        let build = Build {
            payload: vec![1; 1000],
            dont_fragment: false,
            ip_options: options.to_vec(),
            ..Build::udp_v4()
        };
        let fragments = fragments(&build.packet(), 576).unwrap();
        assert_eq!(fragments[0][20..32], options);
        assert_eq!(fragments[1][0], 0x46);
        assert_eq!(fragments[1][20..24], [0x94, 4, 0, 0]);
        assert_eq!(reassemble(&fragments), build.packet()[32..]);
    }

    #[test]
    fn what_need_not_or_may_not_be_fragmented_is_not() {
        let large = Build { payload: vec![1; 1000], dont_fragment: false, ..Build::udp_v4() };
        assert!(fragments(&large.packet(), 1028).is_none(), "fits exactly");
        assert!(fragments(&large.packet(), 1027).is_some());
        assert!(fragments(&large.packet(), 27).is_none(), "no room for 8 bytes");
        assert!(fragments(&Build { dont_fragment: true, ..large.clone() }.packet(), 500).is_none());
        let mut beyond_the_end = large.packet();
        beyond_the_end[6..8].copy_from_slice(&0x1fff_u16.to_be_bytes());
        assert!(fragments(&beyond_the_end, 500).is_none());
        let v6 = Build { payload: vec![1; 1000], ..Build::udp_v6() };
        assert!(fragments(&v6.packet(), 500).is_none());
    }

    #[test]
    fn damaged_options_do_not_reach_later_fragments() {
        for options in [[0x94, 0, 0, 0], [0x94, 1, 0, 0], [0x94, 9, 0, 0], [1, 1, 1, 0x94]] {
            let build = Build {
                payload: vec![1; 100],
                dont_fragment: false,
                ip_options: options.to_vec(),
                ..Build::udp_v4()
            };
            let fragments = fragments(&build.packet(), 68).unwrap();
            assert_eq!(fragments[1][0], 0x45);
            assert_eq!(reassemble(&fragments), build.packet()[24..]);
        }
    }
}
