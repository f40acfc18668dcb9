//! What the fuzz targets call: arbitrary bytes in, promises checked.
//!
//! Each function panics if a promise of this room is broken, and only then. The corpora under
//! `fuzz/corpus/packet_*` are replayed by ordinary tests.

use std::ops::Range;

use super::coalesce::{CoalesceOptions, Coalescer, FinishedRun};
use super::flags::FLAGS;
use super::fragment::Fragments;
use super::icmp::{TOO_BIG_LEN_MAX, too_big};
use super::parse::Parsed;
use super::split::Split;
use super::virtio::VirtioHeader;
use super::{ecn, mss};
use crate::limits::{DATA_HEADER_LEN, PACKET_LEN_MAX, VIRTIO_HEADER_LEN};

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
        mss::clamp(&mut packet, &parsed, mtu, false);
        let mut out = [0; TOO_BIG_LEN_MAX];
        if let Some(len) = too_big(data, &parsed, mtu, None, &mut out) {
            assert!(Parsed::parse(&out[..len]).is_ok_and(|answer| answer.total_len == len));
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
    ecn::set(&mut packet, parsed.version, ecn::CE);
    assert!(Parsed::parse(&packet).is_ok_and(|marked| marked.ecn == ecn::CE));
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
    let vnet = VirtioHeader::parse(vnet);
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
