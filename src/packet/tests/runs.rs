//! When a packet continues the run before it: the sender's tracker and the receiver's compare.

use super::super::flags::FLAG_PARTIAL_CHECKSUM;
use super::super::run::RunTracker;
use super::*;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const URG: u8 = 0x20;
const ECE: u8 = 0x40;
const CWR: u8 = 0x80;

fn first(build: Build) -> Build {
    Build { payload: vec![1; 100], ..build }.partial()
}

/// The packet that follows `build` in its flow.
fn next(build: &Build) -> Build {
    Build {
        id: build.id.wrapping_add(1),
        sequence: build.sequence.wrapping_add(build.payload.len() as u32),
        ..build.clone()
    }
}

/// Whether the tracker lets each packet but the first continue.
fn tracked(packets: &[Build]) -> Vec<bool> {
    let mut tracker = RunTracker::new();
    let answers = packets.iter().map(|build| {
        let packet = build.packet();
        tracker.continues(&Split::new(&partial_vnet(build), &packet, true).unwrap())
    });
    answers.skip(1).collect()
}

/// Whether the coalescer appends each packet but the first, when all claim to continue.
fn appended(packets: &[Build]) -> Vec<bool> {
    let packets: Vec<_> = packets.iter().map(|build| flagged(FLAGS, build.packet())).collect();
    coalesce(&packets).iter().flat_map(|run| (0..run.packets).map(|at| at > 0)).skip(1).collect()
}

fn assert_both(packets: &[Build], expected: &[bool]) {
    assert_eq!(tracked(packets), expected, "tracker: {packets:?}");
    assert_eq!(appended(packets), expected, "coalescer: {packets:?}");
}

#[test]
fn packets_in_sequence_make_a_run_and_a_shorter_one_ends_it() {
    for build in [Build::tcp_v4(), Build::tcp_v6(), Build::udp_v4(), Build::udp_v6()] {
        let a = first(build);
        let b = next(&a);
        let short = Build { payload: vec![2; 60], ..next(&b) };
        let after = Build { payload: vec![2; 60], ..next(&short) };
        assert_both(&[a, b, short, after], &[true, true, false]);
    }
}

#[test]
fn a_longer_packet_begins_a_new_run() {
    for build in [Build::tcp_v4(), Build::udp_v6()] {
        let a = first(build);
        let longer = Build { payload: vec![2; 101], ..next(&a) };
        let b = next(&longer);
        assert_both(&[a, longer, b], &[false, true]);
    }
}

#[test]
fn an_empty_payload_is_never_part_of_a_run() {
    for build in [Build::tcp_v4(), Build::udp_v4()] {
        let a = first(build);
        let empty = Build { payload: vec![], ..next(&a) };
        assert_both(&[a.clone(), empty.clone()], &[false]);
        assert_both(&[empty.clone(), empty], &[false]);
    }
}

#[test]
fn every_other_header_field_must_agree() {
    type Change = fn(&mut Build);
    let any: [Change; 5] = [
        |build| build.tos = 4,
        |build| build.ttl = 63,
        |build| build.ports.0 = 1,
        |build| build.ports.1 = 1,
        |build| build.upper = if build.upper == Upper::Tcp { Upper::Udp } else { Upper::Tcp },
    ];
    let v4: [Change; 4] = [
        |build| build.source = "10.0.0.3".parse().unwrap(),
        |build| build.destination = "10.0.0.3".parse().unwrap(),
        |build| build.dont_fragment = !build.dont_fragment,
        |build| build.ip_options = vec![1, 1, 1, 0],
    ];
    let v6: [Change; 4] = [
        |build| build.source = "fd00::3".parse().unwrap(),
        |build| build.destination = "fd00::3".parse().unwrap(),
        |build| build.flow_label = 0x12345,
        |build| build.extensions = vec![(60, vec![0, 0, 1, 4, 0, 0, 0, 0])],
    ];
    let tcp: [Change; 8] = [
        |build| build.sequence = build.sequence.wrapping_add(1),
        |build| build.sequence = build.sequence.wrapping_sub(100),
        |build| build.acknowledgement += 1,
        |build| build.window += 1,
        |build| build.urgent = 1,
        |build| build.tcp_options = vec![1, 1, 1, 1],
        |build| build.tcp_flags |= ECE,
        |build| build.tcp_flags &= !ACK,
    ];
    for base in [Build::tcp_v4(), Build::tcp_v6(), Build::udp_v4(), Build::udp_v6()] {
        let own = if base.version() == IpVersion::V4 { &v4 } else { &v6 };
        let tcp = if base.upper == Upper::Tcp { &tcp[..] } else { &[] };
        for (number, change) in any.iter().chain(own).chain(tcp).enumerate() {
            let a = first(base.clone());
            let mut b = next(&a);
            change(&mut b);
            assert_eq!(tracked(&[a.clone(), b.clone()]), [false], "tracker, change {number}");
            assert_eq!(appended(&[a, b]), [false], "coalescer, change {number}");
        }
    }
}

#[test]
fn tcp_options_must_be_the_same_bytes() {
    let a =
        first(Build { tcp_options: vec![1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2], ..Build::tcp_v4() });
    let same = next(&a);
    let mut other = next(&a);
    other.tcp_options[7] = 2;
    assert_both(&[a.clone(), same], &[true]);
    assert_both(&[a, other], &[false]);
}

#[test]
fn flags_that_end_a_run_may_stand_on_its_last_packet_only() {
    // (flags of the first, flags of the second, continues)
    let table = [
        (ACK, ACK, true),
        (ACK, ACK | PSH, true),
        (ACK, ACK | FIN, true),
        (ACK, ACK | FIN | PSH, true),
        (ACK | ECE, ACK | ECE, true),
        (ACK | PSH, ACK, false),
        (ACK | PSH, ACK | PSH, false),
        (ACK | FIN, ACK, false),
        (SYN, SYN, false),
        (ACK | RST, ACK | RST, false),
        (ACK | URG, ACK | URG, false),
        (ACK, ACK | SYN, false),
        (ACK, ACK | RST, false),
        (ACK, ACK | URG, false),
        (ACK, ACK | CWR, false),
        (ACK | CWR, ACK | CWR, false),
    ];
    for (flags_a, flags_b, continues) in table {
        let a = first(Build { tcp_flags: flags_a, ..Build::tcp_v6() });
        let b = Build { tcp_flags: flags_b, ..next(&a) };
        // A third packet never follows FIN or PSH.
        let c = Build { tcp_flags: ACK, ..next(&b) };
        let third = continues && flags_b & (FIN | PSH) == 0 && flags_b == ACK;
        assert_eq!(tracked(&[a.clone(), b.clone()]), [continues], "{flags_a:#x} {flags_b:#x}");
        assert_eq!(appended(&[a.clone(), b.clone()]), [continues], "{flags_a:#x} {flags_b:#x}");
        if continues {
            assert_both(&[a, b, c], &[true, third]);
        }
    }
}

#[test]
fn cwr_on_the_first_packet_is_joined_only_where_the_kernel_had_split_it() {
    let a = first(Build { tcp_flags: ACK | CWR, ..Build::tcp_v4() });
    let b = Build { tcp_flags: ACK, ..next(&a) };
    assert_eq!(tracked(&[a.clone(), b.clone()]), [false], "AccECN may be counting");
    let packets = [flagged(FLAG_PARTIAL_CHECKSUM, a.packet()), flagged(FLAGS, b.packet())];
    let written = coalesce(&packets);
    assert_eq!(written.len(), 1, "the sender's word that it was one super-packet is taken");
    assert_eq!(written[0].vnet.gso_type, GSO_TCPV4 | GSO_ECN);
}

#[test]
fn identifications_count_without_df_and_mean_nothing_with_it() {
    // (DF, step, continues)
    for (dont_fragment, step, continues) in [
        (false, 1, true),
        (false, 0, false),
        (false, 2, false),
        (false, 0xffff, false),
        (true, 1, true),
        (true, 0, true),
        (true, 77, true),
    ] {
        for build in [Build::tcp_v4(), Build::udp_v4()] {
            let a = first(Build { dont_fragment, ..build });
            let b = Build { id: a.id.wrapping_add(step), ..next(&a) };
            assert_both(&[a, b], &[continues]);
        }
    }
}

#[test]
fn only_partial_checksums_make_runs() {
    let a = first(Build::tcp_v4());
    let b = next(&a);
    let mut tracker = RunTracker::new();
    for build in [&a, &b] {
        let packet = build.packet();
        let split = Split::new(&partial_vnet(build), &packet, false).unwrap();
        assert!(!tracker.continues(&split));
    }
    let whole = |build: &Build| {
        let checksum = super::super::testing::Checksum::Whole;
        Build { checksum, ..build.clone() }.packet()
    };
    let written = coalesce(&[whole(&a), flagged(0x10, whole(&b))]);
    assert_eq!(written.len(), 2);
    assert_eq!(written[1].packet, whole(&b));
    assert_eq!(written[1].vnet, VirtioHeader::default());
}

#[test]
fn reset_forgets_the_run() {
    let a = first(Build::udp_v4());
    let b = next(&a);
    let (packet_a, packet_b) = (a.packet(), b.packet());
    let split = |packet| Split::new(&partial_vnet(&a), packet, true).unwrap();
    let mut tracker = RunTracker::new();
    assert!(!tracker.continues(&split(&packet_a)));
    tracker.reset();
    assert!(!tracker.continues(&split(&packet_b)));
}

#[test]
fn packets_and_super_packets_continue_each_other() {
    let a = first(Build { dont_fragment: false, ..Build::tcp_v4() });
    let b = Build { payload: vec![2; 300], ..next(&a) };
    let c = Build { id: b.id + 3, ..next(&b) };
    let c = Build { payload: vec![3; 40], tcp_flags: ACK | PSH, ..c };
    let mut tracker = RunTracker::new();
    let mut packets = Vec::new();
    for (build, vnet) in [(&a, partial_vnet(&a)), (&b, super_vnet(&b, 100)), (&c, partial_vnet(&c))]
    {
        let packet = build.packet();
        let mut split = Split::new(&vnet, &packet, true).unwrap();
        split.set_continues_run(tracker.continues(&split));
        packets.extend(segments(&split));
    }
    let written = coalesce(&packets);
    assert_eq!(written.len(), 1);
    let payload = [a.payload.clone(), b.payload, c.payload].concat();
    assert_eq!(written[0].packet, Build { payload, tcp_flags: ACK | PSH, ..a }.packet());
    assert_eq!(written[0].packets, 5);
}

#[test]
fn a_super_packet_of_another_segment_size_begins_a_new_run() {
    let a = first(Build::tcp_v4());
    let b = Build { payload: vec![2; 150], ..next(&a) };
    let mut tracker = RunTracker::new();
    let (packet_a, packet_b) = (a.packet(), b.packet());
    assert!(!tracker.continues(&Split::new(&partial_vnet(&a), &packet_a, true).unwrap()));
    assert!(!tracker.continues(&Split::new(&super_vnet(&b, 50), &packet_b, true).unwrap()));
    let c = Build { id: b.id + 3, payload: vec![3; 50], ..next(&b) };
    let packet_c = c.packet();
    assert!(tracker.continues(&Split::new(&partial_vnet(&c), &packet_c, true).unwrap()));
}
