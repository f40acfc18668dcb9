//! Which packets are split how, and which are refused.

use super::super::flags::{FLAG_CONTINUES_RUN, FLAG_PARTIAL_CHECKSUM};
use super::super::testing::{
    Checksum, transport_checksum_is_right, transport_checksum_is_right_at,
};
use super::*;

const ROUTING_HEADER: [u8; 24] = {
    let mut bytes = [0; 24];
    bytes[1] = 2; // Length in units of 8 bytes after the first 8.
    bytes[2] = 2; // Type 2, one segment left.
    bytes[3] = 1;
    bytes
};

fn only_segment(vnet: &VirtioHeader, packet: &[u8], partial: bool) -> Vec<u8> {
    let split = Split::new(vnet, packet, partial).unwrap();
    assert_eq!(split.segments(), 1);
    segments(&split).remove(0)
}

#[test]
fn a_complete_packet_passes_unchanged() {
    for build in [Build::tcp_v4(), Build::udp_v6(), Build::raw_v4(1, &[8, 0, 0, 0])] {
        for partial in [false, true] {
            let packet = build.packet();
            assert_eq!(only_segment(&VirtioHeader::default(), &packet, partial), packet);
        }
    }
}

#[test]
fn bytes_behind_the_packet_are_left_out() {
    let packet = Build::tcp_v4().packet();
    let longer = [&packet[..], &[0; 7]].concat();
    assert_eq!(only_segment(&VirtioHeader::default(), &longer, true), packet);
}

#[test]
fn a_partial_checksum_is_flagged_for_a_peer_that_takes_it_and_completed_for_others() {
    for build in [Build::tcp_v4(), Build::tcp_v6(), Build::udp_v4(), Build::udp_v6()] {
        let packet = build.clone().partial().packet();
        let vnet = partial_vnet(&build);
        let flagged_packet = flagged(FLAG_PARTIAL_CHECKSUM, packet.clone());
        assert_eq!(only_segment(&vnet, &packet, true), flagged_packet);
        let complete = only_segment(&vnet, &packet, false);
        assert_eq!(complete, build.packet());
        assert!(transport_checksum_is_right(&complete));
    }
}

#[test]
fn a_udp_checksum_that_comes_out_as_zero_becomes_ones() {
    // The first payload word is chosen so that everything adds up to 0xffff.
    let mut build = Build { payload: vec![0, 0], ..Build::udp_v4() };
    let packet = build.packet();
    build.payload = packet[26..28].to_vec();
    assert_eq!(build.packet()[26..28], [0xff, 0xff], "the test's own builder agrees");
    let partial = build.clone().partial().packet();
    assert_eq!(only_segment(&partial_vnet(&build), &partial, false), build.packet());
}

#[test]
fn a_datagram_without_a_checksum_is_never_marked() {
    let build = Build { checksum: Checksum::Zero, ..Build::udp_v4() };
    for vnet in [VirtioHeader::default(), partial_vnet(&build)] {
        for partial in [false, true] {
            assert_eq!(only_segment(&vnet, &build.packet(), partial), build.packet());
        }
    }
}

#[test]
fn a_checksum_of_another_protocol_is_completed_where_the_kernel_says() {
    // ICMPv6 echo whose field holds the pseudo-header sum.
    let mut build = Build::raw_v6(58, &[128, 0, 0, 0, 0, 1, 0, 1, 42]);
    let pseudo = super::super::checksum::pseudo_header(build.source, build.destination, 58, 9);
    build.payload[2..4].copy_from_slice(&pseudo.to_be_bytes());
    let vnet =
        VirtioHeader { flags: NEEDS_CSUM, csum_start: 40, csum_offset: 2, ..Default::default() };
    let complete = only_segment(&vnet, &build.packet(), true);
    assert_eq!(complete[0] & FLAGS, 0);
    let mut summed = complete[8..40].to_vec();
    summed.extend_from_slice(&[0, 0, 0, 9, 0, 0, 0, 58]);
    summed.extend_from_slice(&complete[40..]);
    assert_eq!(super::super::testing::reference_sum(&summed), 0xffff);
}

#[test]
fn source_routed_super_packets_keep_the_pseudo_header_of_the_final_destination() {
    let final_destination: std::net::IpAddr = "fd00::99".parse().unwrap();
    let build = Build {
        extensions: vec![(43, ROUTING_HEADER.to_vec())],
        payload: vec![3; 250],
        ..Build::tcp_v6()
    };
    let mut packet = build.packet();
    let at = build.transport_offset() + 16;
    let upper_len = packet.len() - build.transport_offset();
    let pseudo =
        super::super::checksum::pseudo_header(build.source, final_destination, 6, upper_len);
    packet[at..at + 2].copy_from_slice(&pseudo.to_be_bytes());
    let split = Split::new(&super_vnet(&build, 100), &packet, false).unwrap();
    assert_eq!(split.segments(), 3);
    for mut segment in segments(&split) {
        segment[0] &= !FLAGS;
        // At the final destination the address has moved into the header.
        segment[24..40].copy_from_slice(&match final_destination {
            std::net::IpAddr::V6(address) => address.octets(),
            std::net::IpAddr::V4(_) => unreachable!(),
        });
        assert!(transport_checksum_is_right_at(&segment, build.transport_offset()));
    }
}

#[test]
fn a_super_packet_with_its_checksum_complete_is_split_by_its_addresses() {
    let build = Build { payload: vec![7; 2500], ..Build::tcp_v4() };
    let vnet = VirtioHeader { flags: 0, ..super_vnet(&build, 1000) };
    let packet = build.packet();
    let partial = segments(&Split::new(&vnet, &packet, true).unwrap());
    assert_eq!(coalesce(&partial)[0].packet, build.clone().partial().packet());
    let complete = segments(&Split::new(&vnet, &packet, false).unwrap());
    assert!(complete.into_iter().map(unflagged).all(|packet| transport_checksum_is_right(&packet)));
}

#[test]
fn lengths_are_those_of_the_segments() {
    let build = Build { payload: vec![7; 2500], ..Build::udp_v6() };
    let packet = build.clone().partial().packet();
    let split = Split::new(&super_vnet(&build, 1000), &packet, true).unwrap();
    assert_eq!(split.segments(), 3);
    assert_eq!([0, 1, 2].map(|index| split.segment_len(index)), [1048, 1048, 548]);
    assert_eq!(split.largest_segment_len(), 1048);
}

#[test]
fn the_first_segment_continues_a_run_when_told_to() {
    let build = Build { payload: vec![7; 20], ..Build::tcp_v4() };
    let packet = build.clone().partial().packet();
    let mut split = Split::new(&super_vnet(&build, 10), &packet, true).unwrap();
    split.set_continues_run(true);
    for segment in segments(&split) {
        assert_eq!(segment[0] & FLAGS, FLAG_PARTIAL_CHECKSUM | FLAG_CONTINUES_RUN);
    }
}

#[test]
fn virtio_headers_that_the_packet_does_not_bear_out_are_refused() {
    let tcp = Build { payload: vec![7; 100], ..Build::tcp_v4() }.partial();
    let udp = Build { payload: vec![7; 100], ..Build::udp_v6() }.partial();
    let good = super_vnet(&tcp, 10);
    let place = |start, offset| PacketError::ChecksumPlace { start, offset };
    let with_type = |gso_type| VirtioHeader { gso_type, ..good };
    let with_place = |csum_start, csum_offset| VirtioHeader { csum_start, csum_offset, ..good };
    let single = |start, offset| VirtioHeader { gso_type: 0, ..with_place(start, offset) };
    let table = [
        (&tcp, with_type(3), PacketError::SegmentationType(3)),
        (&tcp, with_type(2), PacketError::SegmentationType(2)),
        (&tcp, with_type(GSO_TCPV6), PacketError::SegmentationMismatch(GSO_TCPV6)),
        (&tcp, with_type(GSO_UDP_L4), PacketError::SegmentationMismatch(GSO_UDP_L4)),
        (&udp, super_vnet(&tcp, 10), PacketError::SegmentationMismatch(GSO_TCPV4)),
        (&tcp, VirtioHeader { gso_size: 0, ..good }, PacketError::SegmentSize),
        (&tcp, with_place(24, 16), place(24, 16)),
        (&tcp, with_place(20, 6), place(20, 6)),
        (&tcp, single(0, 16), place(0, 16)),
        (&tcp, single(20, 119), place(20, 119)),
        (&tcp, single(65535, 65535), place(65535, 65535)),
    ];
    for (build, vnet, error) in table {
        let packet = build.packet();
        let outcome = Split::new(&vnet, &packet, true).map(|split| split.segments());
        assert_eq!(outcome, Err(error), "{vnet:?}");
    }
}

#[test]
fn fragments_pass_but_not_with_a_partial_checksum_or_as_super_packets() {
    let build = Build { payload: vec![7; 96], ..Build::udp_v4() }.partial();
    let mut packet = build.packet();
    packet[6] = 0x20;
    let refused = |vnet: VirtioHeader| {
        Split::new(&vnet, &packet, true).map(|split| split.segments()).unwrap_err()
    };
    assert_eq!(only_segment(&VirtioHeader::default(), &packet, true), packet);
    assert_eq!(refused(partial_vnet(&build)), PacketError::PartialChecksum);
    assert_eq!(refused(super_vnet(&build, 10)), PacketError::SegmentationMismatch(GSO_UDP_L4));
}

#[test]
fn a_source_routed_super_packet_with_a_complete_checksum_is_refused() {
    let build = Build {
        extensions: vec![(43, ROUTING_HEADER.to_vec())],
        payload: vec![3; 250],
        ..Build::tcp_v6()
    };
    let vnet = VirtioHeader { flags: 0, ..super_vnet(&build, 100) };
    let outcome = Split::new(&vnet, &build.packet(), true).map(|split| split.segments());
    assert_eq!(outcome, Err(PacketError::PartialChecksum));
}
