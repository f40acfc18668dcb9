//! To the wire: one read from a TUN device becomes packets that are ready to seal.
//!
//! A super-packet becomes segments of its segment size; anything else is one segment. The
//! transport checksum of each is either left as the sum of its pseudo-header, marked for a peer
//! that passes it on as offload metadata, or completed in software.

use super::checksum;
use super::error::PacketError;
use super::field::{get_u16, len_u16};
use super::flags::{FLAG_CONTINUES_RUN, FLAG_PARTIAL_CHECKSUM};
use super::parse::{IpVersion, Parsed, Transport};
use super::segment::{SegmentPlace, SegmentTemplate};
use super::virtio::{GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, VirtioHeader};

/// A packet read from a TUN device, seen as the segments it stands for.
#[derive(Clone, Copy, Debug)]
pub struct Split<'a> {
    packet: &'a [u8],
    parsed: Parsed,
    shape: Shape<'a>,
    checksums: Checksums,
    /// Whether even the first segment continues the run before it.
    continues_run: bool,
}

/// One packet or many.
#[derive(Clone, Copy, Debug)]
enum Shape<'a> {
    Single,
    Super { template: SegmentTemplate<'a>, segment_size: usize, segments: usize },
}

/// What is to be done about the checksum above the IP layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Checksums {
    /// Nothing: it is complete, or there is none.
    Whole,
    /// Leave the pseudo-header sum and say so.
    Partial,
    /// Complete it: the sum from `start` on goes to `field`.
    Complete { start: usize, field: usize },
}

impl<'a> Split<'a> {
    /// Parse `packet` and plan its segments. See [`Split::with_parsed`].
    ///
    /// # Errors
    ///
    /// As [`Parsed::parse`] and [`Split::with_parsed`].
    #[inline]
    pub fn new(
        vnet: &VirtioHeader,
        packet: &'a [u8],
        partial_checksums: bool,
    ) -> Result<Self, PacketError> {
        let parsed = Parsed::parse(packet)?;
        Self::with_parsed(vnet, packet, parsed, partial_checksums)
    }

    /// Plan the segments of `packet`, whose headers have been looked at already. `vnet` is the
    /// virtio header it was read with. `partial_checksums` says whether the peer takes packets
    /// whose checksum is only begun.
    ///
    /// # Errors
    ///
    /// [`PacketError`] if the virtio header asks for a segmentation or a checksum that the packet's
    /// own headers do not bear out.
    #[inline]
    pub fn with_parsed(
        vnet: &VirtioHeader,
        packet: &'a [u8],
        parsed: Parsed,
        partial_checksums: bool,
    ) -> Result<Self, PacketError> {
        let packet = packet
            .get(..parsed.total_len)
            .ok_or(PacketError::Truncated { need: parsed.total_len, have: packet.len() })?;
        let (shape, checksums) = match vnet.gso_type & !GSO_ECN {
            GSO_NONE => (Shape::Single, single_checksum(vnet, packet, &parsed, partial_checksums)?),
            _ => plan_super(vnet, packet, &parsed, partial_checksums)?,
        };
        Ok(Self { packet, parsed, shape, checksums, continues_run: false })
    }

    /// What the packet's headers say; for a super-packet, as it was read.
    #[inline]
    pub fn parsed(&self) -> &Parsed {
        &self.parsed
    }

    /// The packet as it was read.
    #[inline]
    pub fn packet(&self) -> &'a [u8] {
        self.packet
    }

    /// How many segments there are, at least 1.
    #[inline]
    pub fn segments(&self) -> usize {
        match self.shape {
            Shape::Single => 1,
            Shape::Super { segments, .. } => segments,
        }
    }

    /// Bytes of segment `index`, headers included.
    #[inline]
    pub fn segment_len(&self, index: usize) -> usize {
        match &self.shape {
            Shape::Single => self.packet.len(),
            Shape::Super { template, segment_size, .. } => {
                let before = index * segment_size;
                template.header_len() + (self.parsed.payload_len() - before).min(*segment_size)
            }
        }
    }

    /// Bytes of all segments together, headers included.
    #[inline]
    pub fn segments_len(&self) -> usize {
        match &self.shape {
            Shape::Single => self.packet.len(),
            Shape::Super { template, segments, .. } => {
                self.packet.len() + (segments - 1) * template.header_len()
            }
        }
    }

    /// Bytes of the longest segment: the first.
    #[inline]
    pub fn largest_segment_len(&self) -> usize {
        self.segment_len(0)
    }

    /// Bytes of payload in segment `index`: all of it behind the transport header.
    #[inline]
    pub(super) fn payload_len(&self, index: usize) -> usize {
        self.segment_len(index) - self.parsed.payload_offset
    }

    /// Whether segments leave with [`FLAG_PARTIAL_CHECKSUM`].
    #[inline]
    pub fn is_partial(&self) -> bool {
        self.checksums == Checksums::Partial
    }

    /// Let the first segment, too, carry [`FLAG_CONTINUES_RUN`] ([`super::RunTracker`] decides).
    #[inline]
    pub fn set_continues_run(&mut self, continues_run: bool) {
        self.continues_run = continues_run;
    }

    /// Write segment `index` to the front of `out`, wire flags included, and return its length.
    ///
    /// # Panics
    ///
    /// If `index` is not below [`Split::segments`] or `out` is shorter than [`Split::segment_len`].
    #[inline]
    pub fn write_segment(&self, index: usize, out: &mut [u8]) -> usize {
        let len = self.segment_len(index);
        let out = &mut out[..len];
        match &self.shape {
            Shape::Single => out.copy_from_slice(self.packet),
            Shape::Super { template, segment_size, segments } => {
                let header_len = template.header_len();
                let place = SegmentPlace {
                    index,
                    payload_before: index * segment_size,
                    payload_len: len - header_len,
                    is_last: index + 1 == *segments,
                };
                template.stamp(place, out);
                let payload = header_len + place.payload_before;
                let payload = &self.packet[payload..payload + place.payload_len];
                out[header_len..].copy_from_slice(payload);
            }
        }
        let mut flags = if index > 0 || self.continues_run { FLAG_CONTINUES_RUN } else { 0 };
        match self.checksums {
            Checksums::Whole => {}
            Checksums::Partial => flags |= FLAG_PARTIAL_CHECKSUM,
            Checksums::Complete { start, field } => checksum::complete(out, start, field),
        }
        out[0] |= flags;
        len
    }
}

/// What to do about the checksum of a packet that is not a super-packet.
#[inline]
fn single_checksum(
    vnet: &VirtioHeader,
    packet: &[u8],
    parsed: &Parsed,
    partial_checksums: bool,
) -> Result<Checksums, PacketError> {
    if !vnet.needs_checksum() {
        return Ok(Checksums::Whole);
    }
    if parsed.is_fragment {
        return Err(PacketError::PartialChecksum);
    }
    let (start, offset) = (usize::from(vnet.csum_start), usize::from(vnet.csum_offset));
    let field = start + offset;
    if start < parsed.transport_offset || field + 2 > packet.len() {
        return Err(PacketError::ChecksumPlace { start, offset });
    }
    let complete = Checksums::Complete { start, field };
    let Some(transport) = parsed.transport else { return Ok(complete) };
    if start != parsed.transport_offset || offset != transport.checksum_offset() {
        return Ok(complete);
    }
    // A pseudo-header sum is never 0, so this is a datagram that does without a checksum (RFC 768).
    if transport == Transport::Udp && get_u16(packet, field) == 0 {
        return Ok(Checksums::Whole);
    }
    Ok(if partial_checksums { Checksums::Partial } else { complete })
}

/// The shape of a super-packet, its virtio header held against its own headers.
#[inline]
fn plan_super<'a>(
    vnet: &VirtioHeader,
    packet: &'a [u8],
    parsed: &Parsed,
    partial_checksums: bool,
) -> Result<(Shape<'a>, Checksums), PacketError> {
    let kind = vnet.gso_type & !GSO_ECN;
    let transport = match (kind, parsed.version, parsed.transport) {
        (GSO_TCPV4, IpVersion::V4, Some(Transport::Tcp))
        | (GSO_TCPV6, IpVersion::V6, Some(Transport::Tcp)) => Transport::Tcp,
        (GSO_UDP_L4, _, Some(Transport::Udp)) => Transport::Udp,
        (GSO_TCPV4 | GSO_TCPV6 | GSO_UDP_L4, _, _) => {
            return Err(PacketError::SegmentationMismatch(kind));
        }
        _ => return Err(PacketError::SegmentationType(kind)),
    };
    let segment_size = usize::from(vnet.gso_size);
    if segment_size == 0 {
        return Err(PacketError::SegmentSize);
    }
    let pseudo_sum = super_pseudo_sum(vnet, packet, parsed, transport)?;
    let template = SegmentTemplate::new(packet, parsed, transport, pseudo_sum);
    let segments = parsed.payload_len().div_ceil(segment_size).max(1);
    let checksums = if partial_checksums {
        Checksums::Partial
    } else {
        let field = template.checksum_field();
        Checksums::Complete { start: template.transport_offset(), field }
    };
    Ok((Shape::Super { template, segment_size, segments }, checksums))
}

/// The sum of a super-packet's pseudo-header without the length.
///
/// What the kernel left in the checksum field is the truth, as in `tcp_gso_segment`: behind a
/// source route or a routing header the pseudo-header has the final destination, which the IP
/// header does not (RFC 8200 section 8.1). The addresses serve where the kernel had verified a
/// received super-packet and passes it on with its checksum complete (`netif_needs_gso` allows
/// that).
#[inline]
fn super_pseudo_sum(
    vnet: &VirtioHeader,
    packet: &[u8],
    parsed: &Parsed,
    transport: Transport,
) -> Result<u16, PacketError> {
    if !vnet.needs_checksum() {
        if parsed.has_options {
            return Err(PacketError::PartialChecksum);
        }
        let protocol = transport.protocol();
        return Ok(checksum::pseudo_header(parsed.source, parsed.destination, protocol, 0));
    }
    let (start, offset) = (usize::from(vnet.csum_start), usize::from(vnet.csum_offset));
    if start != parsed.transport_offset || offset != transport.checksum_offset() {
        return Err(PacketError::ChecksumPlace { start, offset });
    }
    let upper_len = len_u16(packet.len() - start);
    Ok(checksum::subtract(get_u16(packet, start + offset), upper_len))
}
