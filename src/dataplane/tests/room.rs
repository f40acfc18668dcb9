//! A batch that is full in the middle of a packet: it is sent, and what that brings to light noted.

use super::oversized::fragmentable_train;
use super::{CLIENT_INDEX, Side, pair, tcp_super_packet};
use crate::dataplane::messages::{WorkerCommand, WorkerEvent};
use crate::limits::{
    DATA_OVERHEAD_LEN, PADDING_LEN, PATH_PLAINTEXT_BASE, SEGMENT_PAYLOAD_SMALL, SEND_ARENA_LEN,
    SEND_TRAINS_DUE, SEND_TRAINS_MAX, padded_len,
};
use crate::telemetry::drops::DropReason;
use crate::wire::{PATH_MESSAGE_LEN, PathMessage};

/// Datagrams of a super-packet, each with 1000 bytes of payload, and how many of them make a batch
/// full.
const SUPER_PACKET: usize = 65;
const FULL: usize = SEND_ARENA_LEN / (padded_len(1040) + DATA_OVERHEAD_LEN);
/// The most segments that a super-packet is expected to stand for.
const SHORT_SEGMENTS: usize = 65_000 / SEGMENT_PAYLOAD_SMALL;
/// Super-packets that are more than a batch takes.
const TOO_MANY: usize = FULL / SUPER_PACKET + 1;

fn client() -> Side {
    let (mut client, _) = pair();
    client.wire.datagrams.clear();
    client
}

/// Hands too many super-packets over, but sends nothing that need not be.
fn fill(client: &mut Side) {
    for _ in 0..TOO_MANY {
        let mut frame = tcp_super_packet(SUPER_PACKET * 1000);
        client.forwarder.encapsulate(&mut frame, &mut client.wire, &mut client.tun);
    }
}

#[track_caller]
fn assert_told_too_big(client: &Side, full: usize) {
    assert_eq!(client.wire.datagrams.len(), full, "room had to be made");
    let event = client.events.try_recv().unwrap();
    assert!(
        matches!(event, WorkerEvent::PathTooBig { session: CLIENT_INDEX, plaintext_len: 999, .. }),
        "{event:?}"
    );
}

#[test]
fn a_datagram_too_big_is_told_also_if_it_left_to_make_room() {
    let mut client = client();
    client.wire.outcome.too_big = Some((CLIENT_INDEX, 999));
    fill(&mut client);
    assert_told_too_big(&client, FULL);
    client.forwarder.flush(&mut client.wire);
    assert_eq!(client.wire.datagrams.len(), TOO_MANY * SUPER_PACKET);
    assert_eq!(client.dropped_in_all(), 0);
}

#[test]
fn the_same_if_a_path_message_needed_the_room() {
    let mut client = client();
    client.wire.outcome.too_big = Some((CLIENT_INDEX, 999));
    let session = CLIENT_INDEX;
    // Each longer than the one before, so that none continues a train.
    for number in 0..=SEND_TRAINS_MAX {
        let message = PathMessage::Probe { path: 0, token: number as u64 };
        let plaintext_len = PATH_MESSAGE_LEN + number;
        client.command(WorkerCommand::SendPathMessage { session, message, plaintext_len });
    }
    assert_told_too_big(&client, SEND_TRAINS_MAX);
}

#[test]
fn a_source_that_is_gone_is_forgotten_also_then() {
    let mut client = client();
    let gone = [192, 0, 2, 2].into();
    let endpoint = &mut client.forwarder.tables.session(CLIENT_INDEX).unwrap().send_endpoint;
    endpoint.as_mut().unwrap().local = Some(gone);
    client.wire.outcome.source_gone = Some((CLIENT_INDEX, gone));
    fill(&mut client);
    let session = client.forwarder.tables.session(CLIENT_INDEX).unwrap();
    assert_eq!(session.send_endpoint.unwrap().local, None);
}

#[test]
fn where_no_room_can_be_made_the_rest_of_a_packet_is_dropped_and_counted() {
    let mut client = client();
    client.wire.blocked = true;
    fill(&mut client);
    assert!(client.forwarder.is_due(), "TUN is not read until the batch has left");
    client.assert_only_drop(DropReason::SendFailed, (TOO_MANY * SUPER_PACKET - FULL) as u64);
    client.wire.blocked = false;
    client.forwarder.flush(&mut client.wire);
    assert_eq!(client.wire.datagrams.len(), FULL, "what was sealed leaves later");
}

/// A worker reads TUN while the batch is not due, whatever waits there, and the socket may be full.
#[test]
fn behind_a_batch_that_is_not_due_a_whole_super_packet_fits() {
    let long = tcp_super_packet(SUPER_PACKET * 1000);
    let mut short = tcp_super_packet(SEGMENT_PAYLOAD_SMALL * SHORT_SEGMENTS);
    short[4..6].copy_from_slice(&(SEGMENT_PAYLOAD_SMALL as u16).to_ne_bytes());
    // Each of these does not fit its path, and becomes two fragments.
    let fragments = fragmentable_train(57 * 1140, 1140);
    for (packet, datagrams) in [(long, SUPER_PACKET), (short, SHORT_SEGMENTS), (fragments, 114)] {
        let mut client = client();
        let (session, path, plaintext_max) = (CLIENT_INDEX, 0, PATH_PLAINTEXT_BASE);
        client.command(WorkerCommand::SetPathPlaintextMax { session, path, plaintext_max });
        client.wire.blocked = true;
        let singles = SEND_TRAINS_DUE - 1;
        let mut hand_over = |mut frame: Vec<u8>| {
            assert!(!client.forwarder.is_due());
            client.forwarder.encapsulate(&mut frame, &mut client.wire, &mut client.tun);
        };
        for single in 0..singles {
            // Longer than the one before, so that it does not continue its train.
            hand_over(tcp_super_packet(500 + single * PADDING_LEN));
        }
        hand_over(packet);
        client.wire.blocked = false;
        client.forwarder.flush(&mut client.wire);
        assert_eq!(client.wire.datagrams.len(), singles + datagrams);
        assert_eq!(client.dropped_in_all(), 0);
    }
}
