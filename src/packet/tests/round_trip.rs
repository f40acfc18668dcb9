//! Split, then coalesce: the original comes back.

use super::super::field::{get_u16, ipv4};
use super::super::flags::{FLAG_CONTINUES_RUN, FLAG_PARTIAL_CHECKSUM};
use super::super::testing::{ip_checksum_is_right, transport_checksum_is_right_at};
use super::*;

proptest! {
    #[test]
    fn a_super_packet_comes_back_byte_for_byte((build, gso_size) in any_super()) {
        let packet = build.packet();
        let vnet = super_vnet(&build, gso_size);
        let split = Split::new(&vnet, &packet, true).unwrap();
        let segments = segments(&split);
        prop_assert_eq!(segments.len(), build.payload.len().div_ceil(gso_size));
        let written = coalesce(&segments);
        prop_assert_eq!(written.len(), 1);
        prop_assert_eq!(&written[0].packet, &packet);
        prop_assert_eq!(written[0].packets, segments.len());
        let expected = if segments.len() > 1 { vnet } else { partial_vnet(&build) };
        prop_assert_eq!(written[0].vnet, expected);
    }

    #[test]
    fn every_segment_is_a_packet_of_its_own((build, gso_size) in any_super()) {
        let packet = build.packet();
        let vnet = super_vnet(&build, gso_size);
        let whole = Parsed::parse(&packet).unwrap();
        let partial = segments(&Split::new(&vnet, &packet, true).unwrap());
        let complete = segments(&Split::new(&vnet, &packet, false).unwrap());
        let mut payload = Vec::new();
        for (index, (partial, complete)) in partial.iter().zip(&complete).enumerate() {
            let continues = if index > 0 { FLAG_CONTINUES_RUN } else { 0 };
            prop_assert_eq!(partial[0] & FLAGS, FLAG_PARTIAL_CHECKSUM | continues);
            prop_assert_eq!(complete[0] & FLAGS, continues);
            let (partial, complete) = (unflagged(partial.clone()), unflagged(complete.clone()));
            let parsed = Parsed::parse(&complete).unwrap();
            prop_assert_eq!(parsed.total_len, complete.len());
            prop_assert_eq!(parsed.payload_offset, whole.payload_offset);
            prop_assert!(ip_checksum_is_right(&complete));
            prop_assert!(transport_checksum_is_right_at(&complete, parsed.transport_offset));
            // The segment as the test's own builder makes it.
            let segment = expected_segment(&build, gso_size, index);
            prop_assert_eq!(&complete, &segment.clone().packet());
            prop_assert_eq!(partial, segment.partial().packet());
            payload.extend_from_slice(&complete[parsed.payload_offset..]);
        }
        prop_assert_eq!(payload, build.payload);
    }

    #[test]
    fn a_refused_run_is_written_as_the_segments_it_came_from((build, gso_size) in any_super()) {
        let packet = build.packet();
        let vnet = super_vnet(&build, gso_size);
        let partial = segments(&Split::new(&vnet, &packet, true).unwrap());
        let complete = segments(&Split::new(&vnet, &packet, false).unwrap());
        let complete: Vec<_> = complete.into_iter().map(unflagged).collect();
        let written = coalesce(&partial);
        prop_assert_eq!(&written[0].singles, &complete);
        // A device without offloads gets the same packets straight away.
        let plain = coalesce_with(CoalesceOptions::NONE, 64, &partial);
        prop_assert!(plain.iter().all(|run| run.vnet == VirtioHeader::default()));
        prop_assert_eq!(plain.into_iter().map(|run| run.packet).collect::<Vec<_>>(), complete);
    }

    #[test]
    fn interleaved_super_packets_keep_every_byte_in_order(
        supers in prop::collection::vec(any_super(), 1..5),
    ) {
        let mut packets = Vec::new();
        for (build, gso_size) in &supers {
            let packet = build.packet();
            let split = Split::new(&super_vnet(build, *gso_size), &packet, true).unwrap();
            packets.extend(segments(&split));
        }
        let written = coalesce(&packets);
        let singles: Vec<_> = written.into_iter().flat_map(|run| run.singles).collect();
        let expected: Vec<_> = coalesce_with(CoalesceOptions::NONE, 64, &packets)
            .into_iter()
            .map(|run| run.packet)
            .collect();
        prop_assert_eq!(singles, expected);
    }
}

/// Segment `index` of `build`, with a complete checksum, by the rules of `tcp_gso_segment`.
fn expected_segment(build: &Build, gso_size: usize, index: usize) -> Build {
    let before = index * gso_size;
    let is_last = before + gso_size >= build.payload.len();
    let payload = &build.payload[before..build.payload.len().min(before + gso_size)];
    let mut flags = build.tcp_flags;
    if index > 0 {
        flags &= !0x80;
    }
    if !is_last {
        flags &= !0x09;
    }
    Build {
        payload: payload.to_vec(),
        tcp_flags: flags,
        sequence: build.sequence.wrapping_add(before as u32),
        id: build.id.wrapping_add(index as u16),
        checksum: super::super::testing::Checksum::Whole,
        ..build.clone()
    }
}

#[test]
fn the_largest_super_packets_come_back() {
    for (build, gso_size) in [
        (Build::tcp_v4(), 1348),
        (Build::tcp_v6(), 1348),
        (Build::udp_v4(), 1380),
        (Build::udp_v6(), 1360),
    ] {
        let payload = vec![0x5a; PACKET_LEN_MAX - build.headers_len()];
        let build = Build { payload, ..build }.partial();
        let packet = build.packet();
        assert_eq!(packet.len(), PACKET_LEN_MAX);
        let split = Split::new(&super_vnet(&build, gso_size), &packet, true).unwrap();
        let written = coalesce(&segments(&split));
        assert_eq!(written.len(), 1);
        assert_eq!(written[0].packet, packet);
    }
}

#[test]
fn super_packets_captured_from_a_kernel_come_back() {
    let captured: [(&[u8], usize); 2] = [
        (include_bytes!("../../../fuzz/corpus/packet_split/kernel_tcp_v4"), 5),
        (include_bytes!("../../../fuzz/corpus/packet_split/kernel_udp_v4"), 10),
    ];
    for (read, count) in captured {
        let (vnet, packet) = read.split_first_chunk::<VIRTIO_HEADER_LEN>().unwrap();
        let vnet = VirtioHeader::parse(vnet);
        let split = Split::new(&vnet, packet, true).unwrap();
        assert_eq!(split.segments(), count);
        let written = coalesce(&segments(&split));
        assert_eq!(written.len(), 1);
        assert_eq!(written[0].packet, packet);
        assert_eq!(written[0].vnet, vnet);
        for single in &written[0].singles {
            assert!(ip_checksum_is_right(single) && transport_checksum_is_right_at(single, 20));
        }
    }
}

#[test]
fn identifications_count_up_and_wrap() {
    let build = Build { id: 0xfffe, payload: vec![0; 40], dont_fragment: false, ..Build::tcp_v4() };
    let packet = build.clone().partial().packet();
    let split = Split::new(&super_vnet(&build, 10), &packet, true).unwrap();
    let segments = segments(&split);
    let ids: Vec<_> = segments.iter().map(|segment| get_u16(segment, ipv4::ID)).collect();
    assert_eq!(ids, [0xfffe, 0xffff, 0, 1]);
    assert_eq!(coalesce(&segments)[0].packet, packet);
}
