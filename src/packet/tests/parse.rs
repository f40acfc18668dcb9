//! What a packet's headers say, and what is refused.

use super::super::flags::{FLAG_CONTINUES_RUN, FLAG_PARTIAL_CHECKSUM};
use super::*;

const DESTINATION_OPTIONS: [u8; 8] = [0, 0, 1, 4, 0, 0, 0, 0];

/// An IPv6 fragment header: offset in units of 8 bytes, and the "more" flag.
fn fragment_header(offset: u16, more: bool) -> (u8, Vec<u8>) {
    let [high, low] = (offset << 3 | u16::from(more)).to_be_bytes();
    (44, vec![0, 0, high, low, 0, 0, 0, 1])
}

fn parse(build: &Build) -> Parsed {
    Parsed::parse(&build.packet()).unwrap()
}

#[test]
fn every_field_is_read() {
    let builds = [
        Build { tcp_options: vec![1; 40], ..Build::tcp_v4() },
        Build { ip_options: vec![1; 40], tos: 0xfd, ..Build::udp_v4() },
        Build { dont_fragment: false, ..Build::tcp_v4() },
        Build { tos: 0xfe, flow_label: 0xfffff, ..Build::tcp_v6() },
        Build::udp_v6(),
        Build::raw_v4(132, &[1; 12]),
        Build::raw_v6(58, &[128, 0, 0, 0]),
    ];
    for build in builds {
        let parsed = parse(&build);
        let upper = match build.upper {
            Upper::Tcp => 6,
            Upper::Udp => 17,
            Upper::Raw(protocol) => protocol,
        };
        let expected = Parsed {
            flags: 0,
            version: build.version(),
            source: build.source,
            destination: build.destination,
            total_len: build.packet().len(),
            protocol: upper,
            transport: build.transport(),
            transport_offset: build.transport_offset(),
            payload_offset: build.headers_len(),
            ecn: build.tos & 3,
            traffic_class: build.tos,
            is_fragment: false,
            is_later_fragment: false,
            dont_fragment: build.dont_fragment,
            has_options: !build.ip_options.is_empty(),
        };
        assert_eq!(parsed, expected);
        assert_eq!(parsed.payload_len(), build.payload.len());
    }
}

#[test]
fn wire_flags_are_taken_from_a_plaintext_only() {
    for build in [Build::tcp_v4(), Build::tcp_v6()] {
        for flags in [0, FLAG_PARTIAL_CHECKSUM, FLAG_CONTINUES_RUN, FLAGS] {
            let packet = flagged(flags, build.packet());
            let parsed = Parsed::parse_plaintext(&packet).unwrap();
            assert_eq!(parsed, Parsed { flags, ..parse(&build) });
            assert_eq!(parsed.has_partial_checksum(), flags & FLAG_PARTIAL_CHECKSUM != 0);
            assert_eq!(parsed.continues_run(), flags & FLAG_CONTINUES_RUN != 0);
            assert_eq!(Parsed::parse(&packet).is_ok(), flags == 0, "flags {flags:#x}");
        }
    }
}

#[test]
fn padding_is_left_out() {
    for build in [Build::udp_v4(), Build::tcp_v6()] {
        let packet = build.packet();
        let padded = [&packet[..], &[0; 15]].concat();
        assert_eq!(Parsed::parse(&padded).unwrap(), parse(&build));
    }
}

#[test]
fn every_cut_of_a_packet_is_refused() {
    for build in [Build::tcp_v4(), Build::udp_v6()] {
        let packet = build.packet();
        for len in 0..packet.len() {
            let outcome = Parsed::parse(&packet[..len]);
            assert!(matches!(outcome, Err(PacketError::Truncated { have, .. }) if have == len));
        }
    }
}

#[test]
fn malformed_ip_headers_are_refused() {
    let v4 = Build::tcp_v4().packet();
    let with = |at: usize, value: u8| {
        let mut packet = v4.clone();
        packet[at] = value;
        Parsed::parse(&packet)
    };
    assert_eq!(with(0, 0x55), Err(PacketError::Version(5)));
    assert_eq!(with(0, 0x05), Err(PacketError::Version(0)));
    assert_eq!(with(0, 0x44), Err(PacketError::HeaderLength(16)));
    assert_eq!(with(0, 0x4f), Err(PacketError::HeaderLength(60)));
    assert_eq!(with(3, 19), Err(PacketError::HeaderLength(20)));
    assert!(matches!(with(2, 1), Err(PacketError::Truncated { .. })));
    let mut v6 = Build::tcp_v6().packet();
    v6[4..6].copy_from_slice(&65496_u16.to_be_bytes());
    v6.resize(65536, 0);
    assert_eq!(Parsed::parse(&v6), Err(PacketError::TooLong(65536)));
}

#[test]
fn damaged_transport_headers_make_a_packet_opaque_not_wrong() {
    type Damage = fn(&mut [u8]);
    let damage: [(Build, Damage); 5] = [
        (Build::tcp_v4(), |tcp| tcp[12] = 0x40), // Data offset below 20 bytes.
        (Build::tcp_v4(), |tcp| tcp[12] = 0xf0), // Beyond the packet.
        (Build::udp_v6(), |udp| udp[5] -= 1),    // Length short of the packet's.
        (Build::udp_v4(), |udp| udp[5] += 1),    // Beyond it.
        (Build::udp_v4(), |udp| udp[4..6].fill(0)),
    ];
    for (build, damage) in damage {
        let mut packet = build.packet();
        damage(&mut packet[build.transport_offset()..]);
        let parsed = Parsed::parse(&packet).unwrap();
        assert_eq!(parsed.transport, None);
        assert_eq!(parsed.payload_offset, parsed.transport_offset);
    }
    for short in [Build::raw_v4(6, &[0; 19]), Build::raw_v6(17, &[0; 7]), Build::raw_v4(17, &[])] {
        assert_eq!(parse(&short).transport, None);
    }
}

#[test]
fn v4_fragments_have_no_transport() {
    // (flags and offset, fragment, later)
    for (word, is_fragment, is_later) in [
        (0x4000, false, false),
        (0x8000, false, false),
        (0x2000, true, false),
        (0x2001, true, true),
        (1, true, true),
    ] {
        let mut packet = Build { payload: vec![0; 16], ..Build::udp_v4() }.packet();
        packet[6..8].copy_from_slice(&u16::to_be_bytes(word));
        let parsed = Parsed::parse(&packet).unwrap();
        assert_eq!((parsed.is_fragment, parsed.is_later_fragment), (is_fragment, is_later));
        assert_eq!(parsed.transport.is_none(), is_fragment);
        assert_eq!(parsed.protocol, 17);
    }
}

#[test]
fn v6_extension_headers_are_stepped_over() {
    let chain = vec![
        (0, DESTINATION_OPTIONS.to_vec()),
        (60, DESTINATION_OPTIONS.to_vec()),
        (43, [&[0, 1, 0, 0][..], &[0; 12]].concat()),
        fragment_header(0, false),
        (60, DESTINATION_OPTIONS.to_vec()),
    ];
    let build = Build { extensions: chain, ..Build::tcp_v6() };
    let parsed = parse(&build);
    assert_eq!(parsed.transport, Some(Transport::Tcp));
    assert_eq!(parsed.transport_offset, build.transport_offset());
    assert!(parsed.has_options && !parsed.is_fragment, "an atomic fragment is no fragment");
}

#[test]
fn v6_fragments_have_no_transport_and_nothing_behind_a_later_one_is_a_header() {
    let first = Build { extensions: vec![fragment_header(0, true)], ..Build::udp_v6() };
    let parsed = parse(&first);
    assert_eq!((parsed.is_fragment, parsed.is_later_fragment), (true, false));
    assert_eq!((parsed.transport, parsed.protocol), (None, 17));
    let chain = vec![fragment_header(3, false), (60, DESTINATION_OPTIONS.to_vec())];
    let parsed = parse(&Build { extensions: chain, ..Build::udp_v6() });
    assert_eq!((parsed.is_fragment, parsed.is_later_fragment), (true, true));
    assert_eq!((parsed.transport, parsed.protocol, parsed.transport_offset), (None, 60, 48));
}

#[test]
fn chains_that_are_cut_off_or_too_long_make_a_packet_opaque() {
    let long = vec![(60, DESTINATION_OPTIONS.to_vec()); 9];
    let parsed = parse(&Build { extensions: long, ..Build::udp_v6() });
    assert_eq!((parsed.transport, parsed.protocol, parsed.transport_offset), (None, 60, 104));
    let longest = vec![(60, DESTINATION_OPTIONS.to_vec()); 8];
    let parsed = parse(&Build { extensions: longest, ..Build::udp_v6() });
    assert_eq!(parsed.transport, Some(Transport::Udp));
    for cut in [&[][..], &[17, 0, 1], &[17, 1, 1, 4, 0, 0, 0, 0]] {
        let parsed = parse(&Build::raw_v6(60, cut));
        assert_eq!((parsed.transport, parsed.protocol, parsed.transport_offset), (None, 60, 40));
    }
}

/// `build` with at most 3000 bytes of payload.
fn shortened(mut build: Build) -> Build {
    build.payload.truncate(3000);
    build
}

proptest! {
    #[test]
    fn arbitrary_bytes_break_no_promise(data in prop::collection::vec(any::<u8>(), 0..200)) {
        super::super::fuzz::parse(&data);
        super::super::fuzz::split(&data);
        super::super::fuzz::coalesce(&data);
    }

    #[test]
    fn damaged_packets_break_no_promise(
        (build, gso_size) in any_super(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
    ) {
        let build = shortened(build);
        let mut vnet = [0; VIRTIO_HEADER_LEN];
        super_vnet(&build, gso_size).emit(&mut vnet);
        let mut data = [&vnet[..], &build.packet()].concat();
        let headers_len = VIRTIO_HEADER_LEN + build.headers_len();
        for (at, value) in damage {
            data[at.index(headers_len)] = value;
        }
        super::super::fuzz::parse(&data[VIRTIO_HEADER_LEN..]);
        super::super::fuzz::split(&data);
    }

    #[test]
    fn damaged_runs_break_no_promise(
        (build, gso_size) in any_super(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..20),
    ) {
        let build = shortened(build);
        let packet = build.packet();
        let vnet = super_vnet(&build, gso_size.max(200));
        let mut data = Vec::new();
        for segment in segments(&Split::new(&vnet, &packet, true).unwrap()) {
            data.extend_from_slice(&(segment.len() as u16).to_be_bytes());
            data.extend_from_slice(&segment);
        }
        for (at, value) in damage {
            let at = at.index(data.len());
            data[at] = value;
        }
        super::super::fuzz::coalesce(&data);
    }
}
