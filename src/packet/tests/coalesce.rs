//! What comes out of a coalescer, packet by packet.

use super::super::flags::{FLAG_CONTINUES_RUN, FLAG_PARTIAL_CHECKSUM};
use super::super::testing::Checksum;
use super::*;

/// Datagrams of one flow, with `len` bytes of payload each.
fn datagrams(count: usize, len: usize) -> Vec<Vec<u8>> {
    let build = Build { payload: vec![9; len], ..Build::udp_v4() }.partial();
    (0..count)
        .map(|at| {
            let packet = Build { id: build.id.wrapping_add(at as u16), ..build.clone() }.packet();
            flagged(if at > 0 { FLAGS } else { FLAG_PARTIAL_CHECKSUM }, packet)
        })
        .collect()
}

fn packets_of(written: &[Written]) -> Vec<usize> {
    written.iter().map(|run| run.packets).collect()
}

#[test]
fn a_partial_packet_by_itself_leaves_its_checksum_to_the_kernel() {
    let builds = [
        Build::tcp_v4(),
        Build { tcp_options: vec![1; 12], ..Build::tcp_v6() },
        Build { ip_options: vec![1, 1, 1, 0], ..Build::udp_v4() },
        Build { extensions: vec![(60, vec![0, 0, 1, 4, 0, 0, 0, 0])], ..Build::udp_v6() },
    ];
    for build in builds {
        let packet = build.clone().partial().packet();
        let written = coalesce(&[flagged(FLAG_PARTIAL_CHECKSUM, packet.clone())]);
        assert_eq!(written.len(), 1);
        assert_eq!(written[0].vnet, partial_vnet(&build));
        assert_eq!(written[0].packet, packet);
        assert_eq!(written[0].singles, [build.packet()], "completed in software");
    }
}

#[test]
fn a_complete_packet_passes_unchanged() {
    let mut later_fragment = Build::udp_v4().packet();
    later_fragment[7] = 9;
    let no_checksum = Build { checksum: Checksum::Zero, ..Build::udp_v4() }.packet();
    let packets =
        [Build::tcp_v6().packet(), Build::raw_v4(47, &[1]).packet(), later_fragment, no_checksum];
    for flags in [0, FLAG_CONTINUES_RUN] {
        let written = coalesce(&packets.clone().map(|packet| flagged(flags, packet)));
        assert_eq!(written.len(), packets.len());
        for (run, packet) in written.iter().zip(&packets) {
            assert_eq!(run.vnet, VirtioHeader::default());
            assert_eq!(&run.packet, packet);
            assert_eq!(run.singles, std::slice::from_ref(packet));
        }
    }
}

#[test]
fn runs_have_at_most_as_many_packets_as_asked() {
    for (segments_max, expected) in
        [(1, vec![1; 7]), (2, vec![2, 2, 2, 1]), (3, vec![3, 3, 1]), (7, vec![7]), (64, vec![7])]
    {
        let written = coalesce_with(CoalesceOptions::ALL, segments_max, &datagrams(7, 100));
        assert_eq!(packets_of(&written), expected);
    }
}

#[test]
fn runs_stay_within_the_longest_packet() {
    let written = coalesce(&datagrams(20, 9000));
    assert_eq!(packets_of(&written), [7, 7, 6]);
    assert!(written.iter().all(|run| run.packet.len() <= PACKET_LEN_MAX));
}

#[test]
fn each_switch_turns_its_protocol_off() {
    let udp = datagrams(3, 100);
    let tcp = Build { payload: vec![1; 300], ..Build::tcp_v6() }.partial();
    let tcp_packet = tcp.packet();
    let tcp = segments(&Split::new(&super_vnet(&tcp, 100), &tcp_packet, true).unwrap());
    let all = CoalesceOptions::ALL;
    let table = [
        (all, vec![3], vec![3]),
        (CoalesceOptions { udp: false, ..all }, vec![1; 3], vec![3]),
        (CoalesceOptions { tcp: false, ..all }, vec![3], vec![1; 3]),
        (CoalesceOptions { checksum_offload: false, ..all }, vec![1; 3], vec![1; 3]),
    ];
    for (options, udp_runs, tcp_runs) in table {
        assert_eq!(packets_of(&coalesce_with(options, 64, &udp)), udp_runs, "{options:?}");
        assert_eq!(packets_of(&coalesce_with(options, 64, &tcp)), tcp_runs, "{options:?}");
    }
}

#[test]
fn the_first_packet_may_claim_to_continue_what_never_arrived() {
    let mut packets = datagrams(3, 100);
    packets.remove(0);
    assert_eq!(packets_of(&coalesce(&packets)), [2]);
}

#[test]
fn packets_may_lie_in_the_arena_in_any_order() {
    let packets = datagrams(4, 100);
    let in_order = coalesce(&packets);
    let placed: Vec<_> = packets.iter().rev().cloned().collect();
    let (mut arena, ranges) = lay_out(&placed);
    let mut coalescer = Coalescer::new(CoalesceOptions::ALL, 4);
    let mut written = Vec::new();
    for range in ranges.into_iter().rev() {
        let parsed = Parsed::parse_plaintext(&arena[range.clone()]).unwrap();
        let finished =
            |arena: &mut [u8], run: &FinishedRun<'_>| written.push(Written::copy(arena, run));
        coalescer.push(&mut arena, range, &parsed, finished).unwrap();
    }
    assert_eq!(written, in_order);
}

#[test]
fn a_flush_ends_the_run() {
    let (mut arena, ranges) = lay_out(&datagrams(2, 100));
    let mut coalescer = Coalescer::new(CoalesceOptions::ALL, 64);
    let mut packets = Vec::new();
    for range in ranges {
        let parsed = Parsed::parse_plaintext(&arena[range.clone()]).unwrap();
        let mut finished = |_: &mut [u8], run: &FinishedRun<'_>| packets.push(run.packets);
        coalescer.push(&mut arena, range, &parsed, &mut finished).unwrap();
        coalescer.flush(&mut arena, &mut finished);
        coalescer.flush(&mut arena, &mut finished);
    }
    assert_eq!(packets, [1, 1]);
}

#[test]
fn options_may_change_between_batches() {
    let mut coalescer = Coalescer::new(CoalesceOptions::ALL, 64);
    coalescer.set_options(CoalesceOptions::NONE);
    assert_eq!(coalescer.options(), CoalesceOptions::NONE);
}

#[test]
fn nothing_outside_the_packets_and_the_room_in_front_is_touched() {
    let packets = datagrams(3, 100);
    let (mut arena, ranges) = lay_out(&packets);
    let before = arena.clone();
    let mut coalescer = Coalescer::new(CoalesceOptions::ALL, 64);
    for range in ranges.clone() {
        let parsed = Parsed::parse_plaintext(&arena[range.clone()]).unwrap();
        coalescer.push(&mut arena, range, &parsed, |_, _| {}).unwrap();
    }
    coalescer.flush(&mut arena, |_, _| {});
    let changed: Vec<_> = (0..arena.len()).filter(|&at| arena[at] != before[at]).collect();
    let may_change = |at: usize| {
        let first = ranges[0].start;
        (first - VIRTIO_HEADER_LEN..first + 28).contains(&at)
            || ranges.iter().any(|range| range.start == at)
    };
    assert!(!changed.is_empty() && changed.into_iter().all(may_change));
}

#[test]
fn an_illegal_claim_drops_the_packet_and_leaves_the_run_open() {
    let mut packets = datagrams(2, 100);
    let mut fragment = packets[0].clone();
    fragment[6] = 0x20;
    let icmp = flagged(FLAGS, Build::raw_v4(1, &[8, 0, 0, 0]).packet());
    packets.insert(1, fragment);
    packets.insert(1, icmp);
    let (mut arena, ranges) = lay_out(&packets);
    let mut coalescer = Coalescer::new(CoalesceOptions::ALL, 64);
    let mut runs = Vec::new();
    let mut outcomes = Vec::new();
    for range in ranges {
        let parsed = Parsed::parse_plaintext(&arena[range.clone()]).unwrap();
        outcomes.push(coalescer.push(&mut arena, range, &parsed, |_, run| runs.push(run.packets)));
    }
    coalescer.flush(&mut arena, |_, run| runs.push(run.packets));
    let illegal = Err(PacketError::PartialChecksum);
    assert_eq!(outcomes, [Ok(()), illegal, illegal, Ok(())]);
    assert_eq!(runs, [2]);
}

#[test]
fn a_packet_without_room_in_front_or_beyond_its_arena_is_refused() {
    let packet = Build::tcp_v4().packet();
    let parsed = Parsed::parse(&packet).unwrap();
    let mut coalescer = Coalescer::new(CoalesceOptions::ALL, 64);
    let mut arena = [&[0; 10][..], &packet].concat();
    let end = arena.len();
    for range in [9..end, 10..end - 1, 10..end + 1, 11..end] {
        let outcome = coalescer.push(&mut arena, range, &parsed, |_, _| unreachable!());
        assert_eq!(outcome, Err(PacketError::Room));
    }
    let mut written = 0;
    assert_eq!(coalescer.push(&mut arena, 10..end, &parsed, |_, _| written += 1), Ok(()));
    assert_eq!(written, 1);
}

#[test]
fn a_transport_at_another_place_than_the_first_packet_has_it_is_no_continuation() {
    let plain = Build { payload: vec![1; 100], ..Build::udp_v6() }.partial();
    let extended = Build { extensions: vec![(60, vec![0, 0, 1, 4, 0, 0, 0, 0])], ..plain.clone() };
    let written = coalesce(&[flagged(FLAGS, plain.packet()), flagged(FLAGS, extended.packet())]);
    assert_eq!(packets_of(&written), [1, 1]);
    assert_eq!(written[1].vnet.csum_start, 48);
    assert_eq!(Parsed::parse(&written[1].packet).unwrap().transport, Some(Transport::Udp));
}
