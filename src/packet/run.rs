//! When a packet continues the run of the packet before it.
//!
//! A run is what a super-packet stands for: packets of one flow, each next in sequence, all of one
//! size but the last, which may be shorter, equal in every header field that a super-packet keeps
//! only once. The rules are those of Linux GRO (`inet_gro_receive`, `ipv6_gro_receive`,
//! `tcp_gro_receive`, `udp_gro_receive_segment`), narrowed to what segmentation gives back exactly:
//!
//! - No IPv4 options, IPv6 extension headers or fragments; equal TOS or traffic class, TTL or hop
//!   limit, flow label and DF bit.
//! - IPv4 identification: without DF, each one above the one before, as segmentation will count
//!   again. With DF it means nothing (RFC 6864 section 4.1) and is not looked at.
//! - TCP: equal acknowledgement, window, urgent pointer, options and flags, but for CWR, which only
//!   the first packet may carry, and FIN and PSH, which only the last may. Never SYN, RST or URG.
//! - UDP: equal ports. An empty payload never belongs to a run.

use super::field::{get_u16, get_u32, ipv4, ipv6, tcp};
use super::parse::{IpVersion, Parsed, Transport};
use super::split::Split;

/// TCP flags that a packet in front of another one of its run may not carry.
const TCP_RUN_ENDS: u8 = tcp::FIN | tcp::PSH | tcp::SYN | tcp::RST | tcp::URG;
/// TCP flags in which the packets of one run may differ.
const TCP_MAY_DIFFER: u8 = tcp::FIN | tcp::PSH | tcp::CWR;
/// The most bytes of headers that a packet in a run has.
const HEADERS_LEN_MAX: usize = ipv6::HEADER_LEN + tcp::HEADER_LEN_MAX;

/// A run that another packet may continue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    version: IpVersion,
    pub(super) transport: Transport,
    transport_offset: usize,
    pub(super) payload_offset: usize,
    /// Bytes of payload in each packet but perhaps the last.
    pub(super) segment_size: usize,
    dont_fragment: bool,
    next_id: u16,
    next_sequence: u32,
}

impl Run {
    /// A run of packets with `segment_size` bytes of payload, about to begin with `packet`, or
    /// `None` if such a packet never belongs to a run. Of a super-packet, the first segment is
    /// meant.
    #[inline]
    pub(super) fn open(packet: &[u8], parsed: &Parsed, segment_size: usize) -> Option<Self> {
        let transport = parsed.transport?;
        if parsed.has_options || segment_size == 0 {
            return None;
        }
        Some(Self {
            version: parsed.version,
            transport,
            transport_offset: parsed.transport_offset,
            payload_offset: parsed.payload_offset,
            segment_size,
            dont_fragment: parsed.dont_fragment,
            next_id: match parsed.version {
                IpVersion::V4 => get_u16(packet, ipv4::ID),
                IpVersion::V6 => 0,
            },
            next_sequence: match transport {
                Transport::Tcp => get_u32(packet, parsed.transport_offset + tcp::SEQUENCE),
                Transport::Udp => 0,
            },
        })
    }

    /// Whether `packet` continues the run whose first packet has the headers `first`. Of a
    /// super-packet, the first segment is meant. The first bytes may carry wire flags.
    #[inline]
    pub(super) fn accepts(
        &self,
        first: &[u8],
        packet: &[u8],
        parsed: &Parsed,
        payload_len: usize,
    ) -> bool {
        parsed.transport == Some(self.transport)
            && parsed.version == self.version
            && parsed.transport_offset == self.transport_offset
            && parsed.payload_offset == self.payload_offset
            && !parsed.has_options
            && (1..=self.segment_size).contains(&payload_len)
            && self.ip_agrees(first, packet)
            && self.transport_agrees(
                &first[self.transport_offset..self.payload_offset],
                &packet[self.transport_offset..self.payload_offset],
            )
    }

    /// Count in `packets` accepted packets with `payload_len` bytes of payload together.
    #[inline]
    pub(super) fn advance(&mut self, packets: usize, payload_len: usize) {
        self.next_id = self.next_id.wrapping_add(packets as u16);
        self.next_sequence = self.next_sequence.wrapping_add(payload_len as u32);
    }

    /// Whether a packet with `payload_len` bytes of payload, accepted into the run, is its last.
    #[inline]
    pub(super) fn ends_with(&self, packet: &[u8], payload_len: usize) -> bool {
        payload_len < self.segment_size
            || (self.transport == Transport::Tcp
                && packet[self.transport_offset + tcp::FLAGS] & TCP_RUN_ENDS != 0)
    }

    #[inline]
    fn ip_agrees(&self, first: &[u8], packet: &[u8]) -> bool {
        match self.version {
            IpVersion::V4 => {
                first[ipv4::TOS] == packet[ipv4::TOS]
                    && first[ipv4::FRAGMENT..ipv4::CHECKSUM]
                        == packet[ipv4::FRAGMENT..ipv4::CHECKSUM]
                    && first[ipv4::SOURCE..ipv4::HEADER_LEN]
                        == packet[ipv4::SOURCE..ipv4::HEADER_LEN]
                    && (self.dont_fragment || get_u16(packet, ipv4::ID) == self.next_id)
            }
            IpVersion::V6 => {
                // Traffic class and flow label; the version nibble may carry wire flags.
                (get_u32(first, 0) ^ get_u32(packet, 0)) & 0x0fff_ffff == 0
                    && first[ipv6::NEXT_HEADER..ipv6::HEADER_LEN]
                        == packet[ipv6::NEXT_HEADER..ipv6::HEADER_LEN]
            }
        }
    }

    /// `first` and `packet` are transport headers, of equal length.
    #[inline]
    fn transport_agrees(&self, first: &[u8], packet: &[u8]) -> bool {
        // The ports of TCP and UDP.
        if get_u32(first, 0) != get_u32(packet, 0) {
            return false;
        }
        if self.transport == Transport::Udp {
            return true;
        }
        let flags = packet[tcp::FLAGS];
        get_u32(packet, tcp::SEQUENCE) == self.next_sequence
            && get_u32(first, tcp::ACKNOWLEDGEMENT) == get_u32(packet, tcp::ACKNOWLEDGEMENT)
            && first[tcp::DATA_OFFSET] == packet[tcp::DATA_OFFSET]
            && (first[tcp::FLAGS] ^ flags) & !TCP_MAY_DIFFER == 0
            && flags & tcp::CWR == 0
            && first[tcp::WINDOW..tcp::CHECKSUM] == packet[tcp::WINDOW..tcp::CHECKSUM]
            && first[tcp::URGENT..] == packet[tcp::URGENT..]
    }
}

/// The sending side of one lane: which packet leaves with the flag
/// [`super::flags::FLAG_CONTINUES_RUN`].
///
/// Only packets that leave with a partial checksum make runs, since only those are put together
/// again. The far side judges for itself; this merely spares it the comparison of strangers.
#[derive(Clone, Debug)]
pub struct RunTracker {
    run: Option<Run>,
    /// The headers of the first packet of the run.
    first: [u8; HEADERS_LEN_MAX],
}

impl Default for RunTracker {
    fn default() -> Self {
        Self::new()
    }
}

impl RunTracker {
    /// A tracker that has seen nothing.
    pub fn new() -> Self {
        Self { run: None, first: [0; HEADERS_LEN_MAX] }
    }

    /// Forget the run. Due whenever the lane changes, allowed at any time.
    #[inline]
    pub fn reset(&mut self) {
        self.run = None;
    }

    /// Note a packet that is about to leave on the lane, super-packet or not, and say whether its
    /// first segment continues the run of the packet noted before. The answer is for
    /// [`Split::set_continues_run`].
    #[inline]
    pub fn continues(&mut self, split: &Split<'_>) -> bool {
        if !split.is_partial() {
            self.run = None;
            return false;
        }
        let (packet, parsed) = (split.packet(), split.parsed());
        let payload_len = split.payload_len(0);
        let segments = split.segments();
        let continued = self.run.filter(|run| {
            run.accepts(&self.first, packet, parsed, payload_len)
                && (segments == 1 || payload_len == run.segment_size)
        });
        self.run = continued.or_else(|| self.begin(split)).and_then(|mut run| {
            run.advance(segments, parsed.payload_len());
            let is_over = run.ends_with(packet, split.payload_len(segments - 1));
            (!is_over).then_some(run)
        });
        continued.is_some()
    }

    #[inline]
    fn begin(&mut self, split: &Split<'_>) -> Option<Run> {
        let (packet, parsed) = (split.packet(), split.parsed());
        let run = Run::open(packet, parsed, split.payload_len(0))?;
        // Under AccECN (RFC 9768) CWR is one bit of a counter, which a run would not preserve. Only
        // the kernel's own segmentation tells that it is not.
        if split.segments() == 1
            && run.transport == Transport::Tcp
            && packet[parsed.transport_offset + tcp::FLAGS] & tcp::CWR != 0
        {
            return None;
        }
        self.first[..parsed.payload_offset].copy_from_slice(&packet[..parsed.payload_offset]);
        Some(run)
    }
}
