//! What the fuzz targets call: arbitrary bytes in, promises checked.
//!
//! Each function panics if a promise of this room is broken, and only then. The corpora under
//! `fuzz/corpus/packet_*` are replayed by ordinary tests.

use std::ops::Range;

use super::coalesce::{CoalesceOptions, Coalescer, FinishedRun};
use super::field::put_u16;
use super::flags::FLAGS;
use super::fragment::Fragments;
use super::icmp::{ICMP_HEADER_LEN, TOO_BIG_LEN_MAX, too_big};
use super::parse::{IpVersion, Parsed, Transport};
use super::split::Split;
use super::virtio::{GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, NEEDS_CSUM, VirtioHeader};
use super::{checksum, ecn, mss};
use crate::limits::{DATA_HEADER_LEN, PACKET_LEN_MAX, RUN_PACKETS_MAX, VIRTIO_HEADER_LEN};

/// Segments written per packet: enough to meet the first, the last and those between.
const SEGMENTS_MAX: usize = 1024;

/// Parse `data` and apply everything that works on one packet.
pub fn parse(data: &[u8]) {
    if let Ok(parsed) = Parsed::parse_plaintext(data) {
        check_parsed(&parsed, data);
    }
    let Ok(parsed) = Parsed::parse(data) else { return };
    check_parsed(&parsed, data);
    let mut packet = data.to_vec();
    for mtu in [0, 68, 576, 1280] {
        let residue = transport_residue(&packet, &parsed);
        mss::clamp(&mut packet, &parsed, mtu, false);
        assert_eq!(transport_residue(&packet, &parsed), residue, "a checksum was not mended");
        let mut out = [0; TOO_BIG_LEN_MAX];
        if let Some(len) = too_big(data, &parsed, mtu, None, &mut out) {
            check_too_big(&out[..len], data, &parsed);
        }
        if let Some(fragments) = Fragments::new(data, &parsed, mtu) {
            let mut out = [0; 1280];
            for index in 0..fragments.count() {
                let len = fragments.write(index, &mut out);
                assert!(len <= mtu);
                assert!(Parsed::parse(&out[..len]).is_ok_and(|fragment| fragment.is_fragment));
            }
        }
    }
    let header = ip_residue(&packet, &parsed);
    ecn::set(&mut packet, parsed.version, ecn::CE);
    assert!(Parsed::parse(&packet).is_ok_and(|marked| marked.ecn == ecn::CE));
    assert_eq!(ip_residue(&packet, &parsed), header, "a header checksum was not mended");
}

/// What an IPv4 header sums up to: 0xffff if its checksum is right, and else by how much it is
/// wrong, which no incremental update changes.
fn ip_residue(packet: &[u8], parsed: &Parsed) -> u16 {
    match parsed.version {
        IpVersion::V4 => checksum::sum(&packet[..usize::from(packet[0] & 0xf) * 4]),
        IpVersion::V6 => 0,
    }
}

/// The same for a TCP segment and its pseudo-header.
fn transport_residue(packet: &[u8], parsed: &Parsed) -> u16 {
    let upper = &packet[parsed.transport_offset..parsed.total_len];
    checksum::add(pseudo_sum(parsed), checksum::sum(upper))
}

/// The sum of the pseudo-header of a packet that is no super-packet.
fn pseudo_sum(parsed: &Parsed) -> u16 {
    let upper_len = parsed.total_len - parsed.transport_offset;
    checksum::pseudo_header(parsed.source, parsed.destination, parsed.protocol, upper_len)
}

/// An answer is a whole packet from the one that was addressed to the one that sent, with right
/// checksums, and quotes the offending packet from its start.
fn check_too_big(answer: &[u8], offending: &[u8], about: &Parsed) {
    let parsed = Parsed::parse(answer);
    assert!(parsed.is_ok(), "the answer is no packet");
    let Ok(parsed) = parsed else { return };
    assert_eq!(parsed.total_len, answer.len());
    assert_eq!((parsed.source, parsed.destination), (about.destination, about.source));
    let icmp = &answer[parsed.transport_offset..];
    let sum = match parsed.version {
        IpVersion::V4 => {
            assert_eq!(ip_residue(answer, &parsed), 0xffff);
            checksum::sum(icmp)
        }
        IpVersion::V6 => checksum::add(pseudo_sum(&parsed), checksum::sum(icmp)),
    };
    assert_eq!(sum, 0xffff, "the checksum of the answer is wrong");
    let quoted = &icmp[ICMP_HEADER_LEN..];
    assert_eq!(quoted, &offending[..quoted.len()]);
}

fn check_parsed(parsed: &Parsed, packet: &[u8]) {
    assert!(parsed.total_len <= packet.len().min(PACKET_LEN_MAX));
    assert!(parsed.transport_offset <= parsed.payload_offset);
    assert!(parsed.payload_offset <= parsed.total_len);
    assert!(parsed.transport.is_none() || !parsed.is_fragment);
    assert!(parsed.is_fragment || !parsed.is_later_fragment);
}

/// Split `data`: a virtio header, then a packet.
pub fn split(data: &[u8]) {
    let Some((vnet, packet)) = data.split_first_chunk::<VIRTIO_HEADER_LEN>() else { return };
    let vnet = parse_virtio(vnet);
    let mut out = vec![0; PACKET_LEN_MAX];
    for partial_checksums in [false, true] {
        let Ok(split) = Split::new(&vnet, packet, partial_checksums) else { continue };
        let segments = split.segments();
        let payload: usize = (0..segments).map(|index| split.payload_len(index)).sum();
        assert_eq!(payload, split.parsed().payload_len());
        let step = segments.div_ceil(SEGMENTS_MAX);
        for index in (0..segments).step_by(step) {
            let len = split.write_segment(index, &mut out);
            assert_eq!(len, split.segment_len(index));
            assert!(len <= split.largest_segment_len());
            out[0] &= !FLAGS;
            let segment = Parsed::parse(&out[..len]);
            assert!(segment.is_ok_and(|segment| segment.total_len == len));
        }
    }
}

/// A virtio header, which must come out as it went in.
fn parse_virtio(bytes: &[u8; VIRTIO_HEADER_LEN]) -> VirtioHeader {
    let header = VirtioHeader::parse(bytes);
    let mut emitted = [0; VIRTIO_HEADER_LEN];
    header.emit(&mut emitted);
    assert_eq!(emitted, *bytes);
    header
}

/// Split `data`, a super-packet as the kernel would have handed it over, and put the segments
/// together again: byte for byte the same packets, written as runs or one by one.
///
/// The bytes choose the headers; the segment size is their first two, and what the kernel promises
/// about the checksum field is made true.
pub fn round_trip(data: &[u8]) {
    let Some((segment_size, packet)) = data.split_first_chunk::<2>() else { return };
    let mut packet = packet.to_vec();
    let Ok(parsed) = Parsed::parse(&packet) else { return };
    let Some(transport) = parsed.transport.filter(|_| !parsed.has_options) else { return };
    packet.truncate(parsed.total_len);
    let field = parsed.transport_offset + transport.checksum_offset();
    put_u16(&mut packet, field, pseudo_sum(&parsed));
    let vnet = VirtioHeader {
        flags: NEEDS_CSUM,
        gso_type: match (transport, parsed.version) {
            (Transport::Tcp, IpVersion::V4) => GSO_TCPV4,
            (Transport::Tcp, IpVersion::V6) => GSO_TCPV6,
            (Transport::Udp, _) => GSO_UDP_L4,
        },
        hdr_len: 0,
        gso_size: u16::from_be_bytes(*segment_size),
        csum_start: parsed.transport_offset as u16,
        csum_offset: transport.checksum_offset() as u16,
    };
    let Ok(partial) = Split::new(&vnet, &packet, true) else { return };
    let Ok(complete) = Split::new(&vnet, &packet, false) else { return };
    if partial.segments() > SEGMENTS_MAX {
        return;
    }
    let expected = segments_of(&complete);
    assert_eq!(rejoined(&segments_of(&partial), CoalesceOptions::ALL), expected);
    assert_eq!(rejoined(&segments_of(&partial), CoalesceOptions::NONE), expected);
}

/// Every segment as it goes into its slot.
fn segments_of(split: &Split<'_>) -> Vec<Vec<u8>> {
    let mut out = vec![0; PACKET_LEN_MAX];
    let mut segment = |index| {
        let len = split.write_segment(index, &mut out);
        if !split.is_partial() {
            out[0] &= !FLAGS;
        }
        out[..len].to_vec()
    };
    (0..split.segments()).map(&mut segment).collect()
}

/// What comes out of a coalescer, as single packets with complete checksums.
fn rejoined(segments: &[Vec<u8>], options: CoalesceOptions) -> Vec<Vec<u8>> {
    let mut arena = Vec::new();
    let mut packets = Vec::new();
    for segment in segments {
        arena.extend_from_slice(&[0; DATA_HEADER_LEN]);
        packets.push(arena.len()..arena.len() + segment.len());
        arena.extend_from_slice(segment);
    }
    let mut coalescer = Coalescer::new(options, RUN_PACKETS_MAX);
    let mut scratch = vec![0; VIRTIO_HEADER_LEN + PACKET_LEN_MAX];
    let mut singles = Vec::new();
    let mut finished = |arena: &mut [u8], run: &FinishedRun<'_>| {
        check_run(arena, run, &mut scratch);
        run.for_each_single(arena, &mut scratch, |single| {
            singles.push(single[VIRTIO_HEADER_LEN..].to_vec());
        });
    };
    for range in packets {
        let parsed = Parsed::parse_plaintext(&arena[range.clone()]);
        assert!(parsed.is_ok(), "a segment is no packet");
        let Ok(parsed) = parsed else { continue };
        let outcome = coalescer.push(&mut arena, range, &parsed, &mut finished);
        assert_eq!(outcome, Ok(()));
    }
    coalescer.flush(&mut arena, &mut finished);
    singles
}

/// Coalesce `data`: plaintexts, each behind its length in two bytes.
pub fn coalesce(data: &[u8]) {
    for options in [CoalesceOptions::ALL, CoalesceOptions::NONE] {
        let (mut arena, packets) = lay_out(data);
        let mut coalescer = Coalescer::new(options, 64);
        let mut scratch = vec![0; VIRTIO_HEADER_LEN + PACKET_LEN_MAX];
        let (mut pushed, mut handed_out) = (0, 0);
        let mut finished = |arena: &mut [u8], run: &FinishedRun<'_>| {
            check_run(arena, run, &mut scratch);
            handed_out += run.packets;
        };
        for range in packets {
            let Ok(parsed) = Parsed::parse_plaintext(&arena[range.clone()]) else { continue };
            let outcome = coalescer.push(&mut arena, range, &parsed, &mut finished);
            pushed += usize::from(outcome.is_ok());
        }
        coalescer.flush(&mut arena, &mut finished);
        assert_eq!(pushed, handed_out);
    }
}

/// An arena with room in front of each packet, as the data plane receives them.
fn lay_out(mut data: &[u8]) -> (Vec<u8>, Vec<Range<usize>>) {
    let (mut arena, mut packets) = (Vec::new(), Vec::new());
    while let Some((len, rest)) = data.split_first_chunk::<2>() {
        let len = usize::from(u16::from_be_bytes(*len)).min(rest.len());
        let (packet, rest) = rest.split_at(len);
        arena.extend_from_slice(&[0; DATA_HEADER_LEN]);
        packets.push(arena.len()..arena.len() + len);
        arena.extend_from_slice(packet);
        data = rest;
    }
    (arena, packets)
}

fn check_run(arena: &[u8], run: &FinishedRun<'_>, scratch: &mut [u8]) {
    let mut whole = arena[run.head.clone()].to_vec();
    for tail in run.tails {
        whole.extend_from_slice(&arena[tail.clone()]);
    }
    let packet = &whole[VIRTIO_HEADER_LEN..];
    assert_eq!(packet.len(), run.bytes);
    assert_eq!(run.packets, run.tails.len() + 1);
    assert!(Parsed::parse(packet).is_ok_and(|parsed| parsed.total_len == packet.len()));
    let Some((vnet, _)) = whole.split_first_chunk::<VIRTIO_HEADER_LEN>() else { return };
    // What is written to one TUN device can be read from another.
    let split = Split::new(&VirtioHeader::parse(vnet), packet, false);
    assert!(split.is_ok_and(|split| split.segments() == run.packets));
    let mut singles = 0;
    run.for_each_single(arena, scratch, |single| {
        let packet = &single[VIRTIO_HEADER_LEN..];
        assert!(Parsed::parse(packet).is_ok_and(|parsed| parsed.total_len == packet.len()));
        singles += 1;
    });
    assert_eq!(singles, run.packets);
}
