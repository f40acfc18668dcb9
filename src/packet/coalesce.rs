//! From the wire: packets become super-packets again, in place, one `writev` for each.
//!
//! The sender marks which packets continue the run of the packet before ([`super::flags`]); a
//! header compare confirms it. Nothing is copied and no payload is summed: the first packet's
//! headers are rewritten to stand for the whole run, a virtio header goes in front of it, where the
//! spent header of its data message lay, and the other packets lend their payload by range.
//!
//! A lane delivers in order, so one open run at a time is enough.

use std::ops::Range;

use super::checksum;
use super::error::PacketError;
use super::field::{get_u16, ipv4, ipv6, len_u16, put_u16, tcp, udp};
use super::flags::FLAGS;
use super::parse::{IpVersion, Parsed, Transport};
use super::run::Run;
use super::segment::{SegmentPlace, SegmentTemplate};
use super::virtio::{
    GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, NEEDS_CSUM, VirtioHeader,
};
use crate::limits::{PACKET_LEN_MAX, VIRTIO_HEADER_LEN};

/// What the TUN device behind a [`Coalescer`] takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoalesceOptions {
    /// TCP super-packets.
    pub tcp: bool,
    /// UDP super-packets.
    pub udp: bool,
    /// Packets whose checksum is only begun. Without it checksums are completed in software and
    /// every packet is written by itself.
    pub checksum_offload: bool,
}

impl CoalesceOptions {
    /// Everything on.
    pub const ALL: Self = Self { tcp: true, udp: true, checksum_offload: true };
    /// Everything off: single packets with complete checksums.
    pub const NONE: Self = Self { tcp: false, udp: false, checksum_offload: false };

    #[inline]
    fn allow(self, transport: Transport) -> bool {
        self.checksum_offload
            && match transport {
                Transport::Tcp => self.tcp,
                Transport::Udp => self.udp,
            }
    }
}

/// Puts runs of packets together.
///
/// [`Coalescer::push`] each packet in the order of arrival, [`Coalescer::flush`] at the end of the
/// batch, before the arena is used again. Finished runs are handed out from within both.
#[derive(Debug)]
pub struct Coalescer {
    options: CoalesceOptions,
    segments_max: usize,
    open: Option<OpenRun>,
    tails: Vec<Range<usize>>,
}

#[derive(Clone, Copy, Debug)]
struct OpenRun {
    run: Run,
    /// What the first packet's headers say.
    first: Parsed,
    /// Where the first packet starts in the arena.
    start: usize,
    /// Bytes of the super-packet so far.
    total_len: usize,
    /// TCP flags of the packet appended last.
    last_flags: u8,
}

/// A run that is ready to write: a super-packet, or one packet by itself.
#[derive(Debug)]
pub struct FinishedRun<'a> {
    /// The virtio header and the whole of the first packet, contiguous in the arena.
    pub head: Range<usize>,
    /// The payload of every further packet, in order; empty for a single packet.
    pub tails: &'a [Range<usize>],
    /// How many packets the run stands for.
    pub packets: usize,
    /// Bytes of the IP packet to be written, without the virtio header.
    pub bytes: usize,
    /// What the headers of the first packet say (its length before the run grew).
    first: Parsed,
    /// Whether the checksum is left for the kernel to complete.
    partial: bool,
}

impl Coalescer {
    /// A coalescer whose runs have at most `segments_max` packets. Linux refuses UDP super-packets
    /// of more than 64 segments (`UDP_MAX_SEGMENTS` before 6.9).
    pub fn new(options: CoalesceOptions, segments_max: usize) -> Self {
        Self { options, segments_max, open: None, tails: Vec::with_capacity(segments_max) }
    }

    /// What may be handed out.
    pub fn options(&self) -> CoalesceOptions {
        self.options
    }

    /// Change what may be handed out, between batches: an open run is finished as it was begun.
    pub fn set_options(&mut self, options: CoalesceOptions) {
        self.options = options;
    }

    /// Take in the next packet: `packet` in `arena`, as decrypted, wire flags and padding included,
    /// with at least [`VIRTIO_HEADER_LEN`] bytes in front that may be overwritten. `parsed` is what
    /// [`Parsed::parse_plaintext`] said about it. Every run that this finishes goes to `finished`.
    ///
    /// Packets may lie in the arena in any order. It must not change where pushed packets lie until
    /// their run is finished.
    ///
    /// # Errors
    ///
    /// [`PacketError`] if the packet claims a partial checksum that it cannot have, or does not lie
    /// within the arena; it is then left out, and the open run stays open.
    #[inline]
    pub fn push(
        &mut self,
        arena: &mut [u8],
        packet: Range<usize>,
        parsed: &Parsed,
        mut finished: impl FnMut(&mut [u8], &FinishedRun<'_>),
    ) -> Result<(), PacketError> {
        let start = packet.start;
        let end = start + parsed.total_len;
        if start < VIRTIO_HEADER_LEN || end > packet.end || packet.end > arena.len() {
            return Err(PacketError::Room);
        }
        if parsed.has_partial_checksum() && parsed.transport.is_none() {
            return Err(PacketError::PartialChecksum);
        }
        arena[start] &= !FLAGS;
        let partial = parsed.has_partial_checksum();
        if partial && parsed.continues_run() && self.append(arena, start, parsed) {
            if self.tails.len() + 1 >= self.segments_max || self.is_over(&arena[start..end], parsed)
            {
                self.flush(arena, finished);
            }
            return Ok(());
        }
        self.flush(arena, &mut finished);
        if partial && let Some(open) = self.begin(&arena[start..end], start, parsed) {
            self.open = Some(open);
        } else {
            finish_single(arena, start, parsed, self.options.checksum_offload, finished);
        }
        Ok(())
    }

    /// Finish the open run, if any, and hand it out.
    #[inline]
    pub fn flush(
        &mut self,
        arena: &mut [u8],
        mut finished: impl FnMut(&mut [u8], &FinishedRun<'_>),
    ) {
        let Some(open) = self.open.take() else { return };
        if self.tails.is_empty() {
            finish_single(arena, open.start, &open.first, true, finished);
            return;
        }
        open.stamp(&mut arena[open.start - VIRTIO_HEADER_LEN..]);
        let run = FinishedRun {
            head: open.start - VIRTIO_HEADER_LEN..open.start + open.first.total_len,
            tails: &self.tails,
            packets: self.tails.len() + 1,
            bytes: open.total_len,
            first: open.first,
            partial: true,
        };
        finished(arena, &run);
        self.tails.clear();
    }

    /// Append the packet at `start` to the open run, if it belongs there and fits.
    #[inline]
    fn append(&mut self, arena: &[u8], start: usize, parsed: &Parsed) -> bool {
        let Some(open) = &mut self.open else { return false };
        let payload_len = parsed.payload_len();
        let packet = &arena[start..];
        if open.total_len + payload_len > PACKET_LEN_MAX
            || !open.run.accepts(&arena[open.start..], packet, parsed, payload_len)
        {
            return false;
        }
        open.run.advance(1, payload_len);
        open.total_len += payload_len;
        if open.run.transport == Transport::Tcp {
            open.last_flags = packet[parsed.transport_offset + tcp::FLAGS];
        }
        self.tails.push(start + parsed.payload_offset..start + parsed.total_len);
        true
    }

    /// Whether the packet just appended is the last that the open run can have.
    #[inline]
    fn is_over(&self, packet: &[u8], parsed: &Parsed) -> bool {
        self.open.is_some_and(|open| open.run.ends_with(packet, parsed.payload_len()))
    }

    /// A run that begins with `packet`, if another packet could continue it.
    #[inline]
    fn begin(&self, packet: &[u8], start: usize, parsed: &Parsed) -> Option<OpenRun> {
        let mut run = Run::open(packet, parsed, parsed.payload_len())?;
        if !self.options.allow(run.transport)
            || self.segments_max < 2
            || run.ends_with(packet, parsed.payload_len())
        {
            return None;
        }
        run.advance(1, parsed.payload_len());
        Some(OpenRun { run, first: *parsed, start, total_len: parsed.total_len, last_flags: 0 })
    }
}

impl OpenRun {
    /// Make the first packet's headers stand for the whole run and put a virtio header in front:
    /// `buffer` starts with the room for it.
    #[inline]
    fn stamp(&self, buffer: &mut [u8]) {
        let (room, packet) = buffer.split_at_mut(VIRTIO_HEADER_LEN);
        let total_len = len_u16(self.total_len);
        match self.first.version {
            IpVersion::V4 => {
                let old_len = get_u16(packet, ipv4::TOTAL_LEN);
                let checksum = get_u16(packet, ipv4::CHECKSUM);
                let checksum = checksum::update(checksum, old_len, total_len);
                put_u16(packet, ipv4::TOTAL_LEN, total_len);
                put_u16(packet, ipv4::CHECKSUM, checksum);
            }
            IpVersion::V6 => {
                put_u16(packet, ipv6::PAYLOAD_LEN, len_u16(self.total_len - ipv6::HEADER_LEN));
            }
        }
        let transport = self.run.transport;
        let upper_len = self.total_len - self.first.transport_offset;
        let upper = &mut packet[self.first.transport_offset..];
        let mut gso_type = match (transport, self.first.version) {
            (Transport::Tcp, IpVersion::V4) => GSO_TCPV4,
            (Transport::Tcp, IpVersion::V6) => GSO_TCPV6,
            (Transport::Udp, _) => GSO_UDP_L4,
        };
        match transport {
            Transport::Tcp => {
                upper[tcp::FLAGS] |= self.last_flags & (tcp::FIN | tcp::PSH);
                if upper[tcp::FLAGS] & tcp::CWR != 0 {
                    gso_type |= GSO_ECN;
                }
            }
            Transport::Udp => put_u16(upper, udp::LEN, len_u16(upper_len)),
        }
        let Parsed { source, destination, .. } = self.first;
        let sum = checksum::pseudo_header(source, destination, transport.protocol(), upper_len);
        put_u16(upper, transport.checksum_offset(), sum);
        let header = VirtioHeader {
            gso_type,
            hdr_len: len_u16(self.first.payload_offset),
            gso_size: len_u16(self.run.segment_size),
            ..partial_header(&self.first, transport)
        };
        put_header(room, &header);
    }
}

/// Hand out a packet by itself. A begun checksum is left to the kernel if `checksum_offload`,
/// completed otherwise.
#[inline]
fn finish_single(
    arena: &mut [u8],
    start: usize,
    parsed: &Parsed,
    checksum_offload: bool,
    mut finished: impl FnMut(&mut [u8], &FinishedRun<'_>),
) {
    let end = start + parsed.total_len;
    let head = start - VIRTIO_HEADER_LEN..end;
    let mut header = VirtioHeader::default();
    let mut partial = false;
    if parsed.has_partial_checksum()
        && let Some(transport) = parsed.transport
    {
        if checksum_offload {
            header = partial_header(parsed, transport);
            partial = true;
        } else {
            complete(&mut arena[start..end], parsed, transport);
        }
    }
    put_header(&mut arena[head.start..start], &header);
    let run = FinishedRun {
        head,
        tails: &[],
        packets: 1,
        bytes: parsed.total_len,
        first: *parsed,
        partial,
    };
    finished(arena, &run);
}

/// The virtio header of a packet whose checksum is left to the kernel.
#[inline]
fn partial_header(parsed: &Parsed, transport: Transport) -> VirtioHeader {
    VirtioHeader {
        flags: NEEDS_CSUM,
        gso_type: GSO_NONE,
        hdr_len: 0,
        gso_size: 0,
        csum_start: len_u16(parsed.transport_offset),
        csum_offset: len_u16(transport.checksum_offset()),
    }
}

#[inline]
fn put_header(room: &mut [u8], header: &VirtioHeader) {
    if let Some(room) = room.first_chunk_mut::<VIRTIO_HEADER_LEN>() {
        header.emit(room);
    }
}

#[inline]
fn complete(packet: &mut [u8], parsed: &Parsed, transport: Transport) {
    let field = parsed.transport_offset + transport.checksum_offset();
    checksum::complete(packet, parsed.transport_offset, field);
}

impl FinishedRun<'_> {
    /// Whether this is a super-packet.
    #[inline]
    pub fn is_super(&self) -> bool {
        !self.tails.is_empty()
    }

    /// Bytes of all packets that the run stands for, headers included.
    #[inline]
    pub fn packets_len(&self) -> usize {
        self.bytes + (self.packets - 1) * self.first.payload_offset
    }

    /// The transport of the first packet, and so of all.
    #[inline]
    pub fn transport(&self) -> Option<Transport> {
        self.first.transport
    }

    /// The run as single packets with complete checksums, for a TUN device that refused it: each is
    /// built in `scratch` with an all-zero virtio header in front and given to `write`. `arena` is
    /// as the run was handed out with.
    ///
    /// # Panics
    ///
    /// If `scratch` has no room for a virtio header and the longest packet of the run;
    /// [`VIRTIO_HEADER_LEN`] + [`PACKET_LEN_MAX`] bytes always do.
    pub fn for_each_single(&self, arena: &[u8], scratch: &mut [u8], mut write: impl FnMut(&[u8])) {
        let packet = &arena[self.head.start + VIRTIO_HEADER_LEN..self.head.end];
        let header_len = self.first.payload_offset;
        let transport = self.first.transport.filter(|_| self.partial);
        let template = transport.filter(|_| self.is_super()).map(|transport| {
            let Parsed { source, destination, .. } = self.first;
            let sum = checksum::pseudo_header(source, destination, transport.protocol(), 0);
            SegmentTemplate::new(packet, &self.first, transport, sum)
        });
        let mut payload_before = 0;
        scratch[..VIRTIO_HEADER_LEN].fill(0);
        for index in 0..self.packets {
            let payload = match index {
                0 => &packet[header_len..],
                _ => &arena[self.tails[index - 1].clone()],
            };
            let len = header_len + payload.len();
            let out = &mut scratch[VIRTIO_HEADER_LEN..VIRTIO_HEADER_LEN + len];
            out[..header_len].copy_from_slice(&packet[..header_len]);
            if let Some(template) = &template {
                let is_last = index + 1 == self.packets;
                let payload_len = payload.len();
                template.stamp(SegmentPlace { index, payload_before, payload_len, is_last }, out);
            }
            out[header_len..].copy_from_slice(payload);
            if let Some(transport) = transport {
                complete(out, &self.first, transport);
            }
            payload_before += payload.len();
            write(&scratch[..VIRTIO_HEADER_LEN + len]);
        }
    }
}
