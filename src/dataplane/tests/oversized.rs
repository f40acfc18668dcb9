//! Packets that do not fit their path: fragments, or word back to the sender.

use std::time::Duration;

use super::{CLIENT, CLIENT_INDEX, SERVER, Side, frame, pair, udp_packet};
use crate::dataplane::messages::WorkerCommand;
use crate::limits::{TOO_BIG_ANSWERS_BURST, TOO_BIG_ANSWERS_PPS, VIRTIO_HEADER_LEN};
use crate::packet::checksum;
use crate::telemetry::drops::DropReason;

const PATH: usize = 1280;

/// A client whose path carries packets of [`PATH`] bytes, and its server.
fn narrow_pair() -> (Side, Side) {
    let (mut client, server) = pair();
    let (session, path) = (CLIENT_INDEX, 0);
    client.command(WorkerCommand::SetPathPlaintextMax { session, path, plaintext_max: PATH });
    client.wire.ecn.clear();
    (client, server)
}

/// An IPv4 UDP packet that routers may fragment, marked ECT(0).
fn fragmentable(payload: usize) -> Vec<u8> {
    let mut packet = udp_packet(CLIENT, SERVER, payload);
    packet[1] = 0b10;
    packet[6] = 0;
    packet[10..12].fill(0);
    let sum = !checksum::sum(&packet[..20]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// The same as a super-packet of datagrams with `segment` bytes, checksum left to hardware.
pub(super) fn fragmentable_train(payload: usize, segment: u16) -> Vec<u8> {
    let mut packet = fragmentable(payload);
    let upper_len = packet.len() - 20;
    let sum = checksum::pseudo_header(CLIENT.into(), SERVER.into(), 17, upper_len);
    packet[26..28].copy_from_slice(&sum.to_be_bytes());
    let mut header = vec![1, 5];
    for field in [28, segment, 20, 6] {
        header.extend(field.to_ne_bytes());
    }
    [header, packet].concat()
}

#[test]
fn a_packet_that_may_be_fragmented_is_and_its_congestion_marks_go_along() {
    let (mut client, mut server) = narrow_pair();
    let sealed = client.encapsulate(frame(&fragmentable(1300)));
    assert_eq!(sealed.len(), 2);
    assert_eq!(client.wire.ecn, [0b10; 2], "RFC 6040: each outer header copies the inner mark");
    let fragments = server.decapsulate(&sealed, 1000, 0b11);
    let bytes: usize = fragments.iter().map(|it| it.len() - VIRTIO_HEADER_LEN - 20).sum();
    assert_eq!(bytes, 1308);
    assert!(fragments.iter().all(|fragment| fragment[VIRTIO_HEADER_LEN + 1] == 0b11));
    assert_eq!(client.dropped_in_all() + server.dropped_in_all(), 0);
}

#[test]
fn of_a_train_that_does_not_fit_the_datagrams_that_fit_leave_whole() {
    let (mut client, mut server) = narrow_pair();
    let sealed = client.encapsulate(fragmentable_train(2 * 1300 + 100, 1300));
    assert_eq!(sealed.len(), 2 + 2 + 1, "two fragments each, and the short last datagram");
    let written = server.decapsulate(&sealed, 1000, 0);
    let last = &written.last().unwrap()[VIRTIO_HEADER_LEN..];
    assert_eq!(last.len(), 128);
    assert_eq!(last[6..8], [0, 0], "no fragment");
    let sum = checksum::pseudo_header(CLIENT.into(), SERVER.into(), 17, 108);
    assert_eq!(checksum::add(sum, checksum::sum(&last[20..])), 0xffff);
    assert_eq!(client.dropped_in_all() + server.dropped_in_all(), 0);
}

#[test]
fn a_sender_that_heeds_no_answer_is_answered_at_a_bounded_rate() {
    let (mut client, _) = narrow_pair();
    let (burst, rate) = (TOO_BIG_ANSWERS_BURST as usize, TOO_BIG_ANSWERS_PPS as usize);
    let mut answers = |packets, waited| {
        client.now += waited;
        for _ in 0..packets {
            client.encapsulate(frame(&udp_packet(CLIENT, SERVER, 1300)));
        }
        std::mem::take(&mut client.tun.frames).len()
    };
    assert_eq!(answers(3 * burst, Duration::ZERO), burst);
    assert_eq!(answers(10, Duration::ZERO), 0);
    let millis = (0..100).map(|_| answers(3, Duration::from_millis(1)));
    assert_eq!(millis.sum::<usize>(), rate / 10);
    let unanswered = client.dropped(DropReason::PacketTooBigUnanswered) as usize;
    let answered = client.dropped(DropReason::PacketTooBig) as usize;
    assert_eq!((answered, unanswered), (burst + rate / 10, 2 * burst + 10 + 200));
    assert_eq!(client.counters.too_big_sent.get() as usize, answered);
}

#[test]
fn what_need_not_be_answered_uses_up_no_answer() {
    let (mut client, _) = narrow_pair();
    let mut nobody = udp_packet(CLIENT, SERVER, 1300);
    nobody[12..16].fill(0);
    for _ in 0..10 * TOO_BIG_ANSWERS_BURST {
        client.encapsulate(frame(&nobody));
    }
    client.encapsulate(frame(&udp_packet(CLIENT, SERVER, 1300)));
    assert_eq!(client.tun.frames.len(), 1);
    assert_eq!(client.dropped(DropReason::PacketTooBigUnanswered), 0);
}
