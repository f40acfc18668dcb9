//! Tests of the parts together: what is split is coalesced again, and stays right on the way.

mod coalesce;
mod corpus;
mod parse;
mod round_trip;
mod runs;
mod split;

use std::ops::Range;

use proptest::prelude::*;

use super::coalesce::{CoalesceOptions, Coalescer, FinishedRun};
use super::error::PacketError;
use super::flags::FLAGS;
use super::parse::{IpVersion, Parsed, Transport};
use super::split::Split;
use super::testing::{Build, Upper};
use super::virtio::{GSO_ECN, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, NEEDS_CSUM, VirtioHeader};
use crate::limits::{DATA_HEADER_LEN, PACKET_LEN_MAX, VIRTIO_HEADER_LEN, padded_len};

/// The virtio header that the kernel gives `build`, a packet with a partial checksum.
fn partial_vnet(build: &Build) -> VirtioHeader {
    VirtioHeader {
        flags: NEEDS_CSUM,
        csum_start: build.transport_offset() as u16,
        csum_offset: build.transport().map_or(0, |transport| transport.checksum_offset() as u16),
        ..VirtioHeader::default()
    }
}

/// The virtio header of `build` as a super-packet, as this program writes it.
fn super_vnet(build: &Build, gso_size: usize) -> VirtioHeader {
    let gso_type = match (build.upper, build.version()) {
        (Upper::Tcp, IpVersion::V4) => GSO_TCPV4,
        (Upper::Tcp, IpVersion::V6) => GSO_TCPV6,
        _ => GSO_UDP_L4,
    };
    let has_cwr = build.upper == Upper::Tcp && build.tcp_flags & 0x80 != 0;
    VirtioHeader {
        gso_type: gso_type | if has_cwr { GSO_ECN } else { 0 },
        hdr_len: build.headers_len() as u16,
        gso_size: gso_size as u16,
        ..partial_vnet(build)
    }
}

/// All segments, as they would be sealed.
fn segments(split: &Split<'_>) -> Vec<Vec<u8>> {
    let segment = |index| {
        let mut out = vec![0xee; split.segment_len(index)];
        assert_eq!(split.write_segment(index, &mut out), out.len());
        out
    };
    (0..split.segments()).map(segment).collect()
}

/// Packets laid out as they lie after decryption: each behind a spent header, padded, before a tag.
fn lay_out(packets: &[Vec<u8>]) -> (Vec<u8>, Vec<Range<usize>>) {
    let (mut arena, mut ranges) = (Vec::new(), Vec::new());
    for packet in packets {
        arena.extend_from_slice(&[0xaa; DATA_HEADER_LEN]);
        let start = arena.len();
        arena.extend_from_slice(packet);
        arena.resize(start + padded_len(packet.len()), 0);
        ranges.push(start..arena.len());
        arena.extend_from_slice(&[0xbb; 16]);
    }
    (arena, ranges)
}

/// A finished run, copied out.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Written {
    vnet: VirtioHeader,
    packet: Vec<u8>,
    packets: usize,
    /// The same as single packets with complete checksums.
    singles: Vec<Vec<u8>>,
}

impl Written {
    fn copy(arena: &[u8], run: &FinishedRun<'_>) -> Self {
        let mut bytes = arena[run.head.clone()].to_vec();
        for tail in run.tails {
            bytes.extend_from_slice(&arena[tail.clone()]);
        }
        let (vnet, packet) = bytes.split_first_chunk::<VIRTIO_HEADER_LEN>().unwrap();
        assert_eq!(run.bytes, packet.len());
        assert_eq!(run.is_super(), run.packets > 1);
        let mut singles = Vec::new();
        let mut scratch = vec![0xcc; VIRTIO_HEADER_LEN + PACKET_LEN_MAX];
        run.for_each_single(arena, &mut scratch, |single| {
            assert_eq!(single[..VIRTIO_HEADER_LEN], [0; VIRTIO_HEADER_LEN]);
            singles.push(single[VIRTIO_HEADER_LEN..].to_vec());
        });
        Self {
            vnet: VirtioHeader::parse(vnet),
            packet: packet.to_vec(),
            packets: run.packets,
            singles,
        }
    }
}

/// Push `packets` through a coalescer, one batch.
fn coalesce_with(
    options: CoalesceOptions,
    segments_max: usize,
    packets: &[Vec<u8>],
) -> Vec<Written> {
    let (mut arena, ranges) = lay_out(packets);
    let mut coalescer = Coalescer::new(options, segments_max);
    let mut written = Vec::new();
    let mut finished =
        |arena: &mut [u8], run: &FinishedRun<'_>| written.push(Written::copy(arena, run));
    for range in ranges {
        let parsed = Parsed::parse_plaintext(&arena[range.clone()]).unwrap();
        coalescer.push(&mut arena, range, &parsed, &mut finished).unwrap();
    }
    coalescer.flush(&mut arena, &mut finished);
    written
}

fn coalesce(packets: &[Vec<u8>]) -> Vec<Written> {
    coalesce_with(CoalesceOptions::ALL, 64, packets)
}

/// `packet` with these wire flags.
fn flagged(flags: u8, mut packet: Vec<u8>) -> Vec<u8> {
    packet[0] |= flags;
    packet
}

/// `packet` without wire flags.
fn unflagged(mut packet: Vec<u8>) -> Vec<u8> {
    packet[0] &= !FLAGS;
    packet
}

/// A super-packet and its segment size.
fn any_super() -> impl Strategy<Value = (Build, usize)> {
    let kind = prop::sample::select(vec![
        Build::tcp_v4(),
        Build::tcp_v6(),
        Build::udp_v4(),
        Build::udp_v6(),
    ]);
    let ip = (any::<u8>(), 1u8.., any::<u16>(), any::<bool>(), 0u32..1 << 20);
    // ACK always, any of FIN, PSH, ECE and CWR.
    let flags = any::<u8>().prop_map(|flags| 0x10 | flags & 0xc9);
    let options =
        (0usize..=10).prop_flat_map(|words| prop::collection::vec(any::<u8>(), words * 4));
    let tcp = (any::<u32>(), any::<u32>(), flags, any::<u16>(), options);
    let sizes = (1usize..=9000, 1usize..=64, any::<prop::sample::Index>());
    (kind, ip, tcp, any::<(u16, u16)>(), sizes, any::<u8>()).prop_map(
        |(kind, (tos, ttl, id, dont_fragment, flow_label), tcp, ports, sizes, seed)| {
            let (sequence, acknowledgement, tcp_flags, window, tcp_options) = tcp;
            let mut build = Build {
                tos,
                ttl,
                id,
                dont_fragment,
                flow_label,
                ports,
                sequence,
                acknowledgement,
                tcp_flags,
                window,
                tcp_options,
                ..kind
            }
            .partial();
            let (gso_size, segments, last) = sizes;
            let whole =
                (gso_size * (segments - 1)).min(PACKET_LEN_MAX - build.headers_len() - gso_size);
            let len = whole / gso_size * gso_size + 1 + last.index(gso_size);
            build.payload = (0..len).map(|at| (at * 31) as u8 ^ seed).collect();
            (build, gso_size)
        },
    )
}
