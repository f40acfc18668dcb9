//! The headers of one segment, stamped from those of the super-packet it belongs to.
//!
//! The rules are those of Linux: `inet_gso_segment` (identification counts up), `tcp_gso_segment`
//! (CWR on the first segment only, FIN and PSH on the last only), `__udp_gso_segment`.

use super::checksum;
use super::field::{get_u16, get_u32, ipv4, ipv6, len_u16, put_u16, put_u32, tcp, udp};
use super::parse::{IpVersion, Parsed, Transport};

/// What all segments of one super-packet share.
#[derive(Clone, Copy, Debug)]
pub(super) struct SegmentTemplate<'a> {
    headers: &'a [u8],
    version: IpVersion,
    transport: Transport,
    transport_offset: usize,
    /// IPv4: sum of the header without length, identification and checksum.
    ip_sum: u16,
    /// IPv4: identification of the first segment.
    id: u16,
    /// Sum of the pseudo-header without the length.
    pseudo_sum: u16,
    /// TCP: sequence number of the first segment.
    sequence: u32,
}

/// Which segment to stamp.
#[derive(Clone, Copy, Debug)]
pub(super) struct SegmentPlace {
    /// 0 for the first.
    pub(super) index: usize,
    /// Bytes of payload in all segments before.
    pub(super) payload_before: usize,
    /// Bytes of payload in this one.
    pub(super) payload_len: usize,
    /// Whether no segment follows.
    pub(super) is_last: bool,
}

impl<'a> SegmentTemplate<'a> {
    /// The template for the super-packet `packet`, of which only the headers are looked at.
    /// `pseudo_sum` is the sum of its pseudo-header with an upper-layer length of 0.
    #[inline]
    pub(super) fn new(
        packet: &'a [u8],
        parsed: &Parsed,
        transport: Transport,
        pseudo_sum: u16,
    ) -> Self {
        let headers = &packet[..parsed.payload_offset];
        let (ip_sum, id) = match parsed.version {
            IpVersion::V4 => {
                let whole = checksum::sum(&headers[..parsed.transport_offset]);
                let id = get_u16(headers, ipv4::ID);
                let stamped =
                    [get_u16(headers, ipv4::TOTAL_LEN), id, get_u16(headers, ipv4::CHECKSUM)];
                (stamped.into_iter().fold(whole, checksum::subtract), id)
            }
            IpVersion::V6 => (0, 0),
        };
        let sequence = match transport {
            Transport::Tcp => get_u32(headers, parsed.transport_offset + tcp::SEQUENCE),
            Transport::Udp => 0,
        };
        Self {
            headers,
            version: parsed.version,
            transport,
            transport_offset: parsed.transport_offset,
            ip_sum,
            id,
            pseudo_sum,
            sequence,
        }
    }

    /// Bytes of headers in front of each segment's payload.
    #[inline]
    pub(super) fn header_len(&self) -> usize {
        self.headers.len()
    }

    /// Where the checksum field stands, from the start of the packet.
    #[inline]
    pub(super) fn checksum_field(&self) -> usize {
        self.transport_offset + self.transport.checksum_offset()
    }

    /// Where the transport header starts.
    #[inline]
    pub(super) fn transport_offset(&self) -> usize {
        self.transport_offset
    }

    /// Write the headers of one segment to the front of `out`, the transport's checksum field
    /// holding the sum of this segment's pseudo-header.
    #[inline]
    pub(super) fn stamp(&self, place: SegmentPlace, out: &mut [u8]) {
        let out = &mut out[..self.headers.len()];
        out.copy_from_slice(self.headers);
        let total_len = self.headers.len() + place.payload_len;
        match self.version {
            IpVersion::V4 => self.stamp_v4(place.index, total_len, out),
            IpVersion::V6 => put_u16(out, ipv6::PAYLOAD_LEN, len_u16(total_len - ipv6::HEADER_LEN)),
        }
        let upper = &mut out[self.transport_offset..];
        let upper_len = len_u16(total_len - self.transport_offset);
        match self.transport {
            Transport::Tcp => self.stamp_tcp(place, upper),
            Transport::Udp => put_u16(upper, udp::LEN, upper_len),
        }
        let sum = checksum::add(self.pseudo_sum, upper_len);
        put_u16(upper, self.transport.checksum_offset(), sum);
    }

    #[inline]
    fn stamp_v4(&self, index: usize, total_len: usize, out: &mut [u8]) {
        let total_len = len_u16(total_len);
        // The identification wraps (RFC 791: it only needs to differ within a packet's lifetime).
        let id = self.id.wrapping_add(index as u16);
        let sum = checksum::add(checksum::add(self.ip_sum, total_len), id);
        put_u16(out, ipv4::TOTAL_LEN, total_len);
        put_u16(out, ipv4::ID, id);
        put_u16(out, ipv4::CHECKSUM, !sum);
    }

    #[inline]
    fn stamp_tcp(&self, place: SegmentPlace, upper: &mut [u8]) {
        let sequence = self.sequence.wrapping_add(place.payload_before as u32);
        put_u32(upper, tcp::SEQUENCE, sequence);
        let not_first = if place.index == 0 { 0 } else { tcp::CWR };
        let not_last = if place.is_last { 0 } else { tcp::FIN | tcp::PSH };
        upper[tcp::FLAGS] &= !(not_first | not_last);
    }
}
