//! A batch that is full in the middle of a packet: it is sent, and what that brings to light noted.

use super::{CLIENT_INDEX, Side, pair, tcp_super_packet};
use crate::dataplane::messages::{WorkerCommand, WorkerEvent};
use crate::dataplane::trains::TrainBuilder;
use crate::limits::SEND_MESSAGES_MAX;
use crate::telemetry::drops::DropReason;
use crate::wire::PathMessage;

/// A client all of whose datagrams leave alone, so that a super-packet fills the batch.
fn without_trains() -> Side {
    let (mut client, _) = pair();
    client.forwarder.outbound = vec![TrainBuilder::new(false)];
    client.wire.datagrams.clear();
    client
}

/// Hands a super-packet of 65 datagrams over, but sends nothing that need not be.
fn fill(client: &mut Side) {
    let mut frame = tcp_super_packet(65_000);
    client.forwarder.encapsulate(&mut frame, &mut client.wire, &mut client.tun);
}

#[track_caller]
fn assert_told_too_big(client: &Side) {
    assert_eq!(client.wire.datagrams.len(), SEND_MESSAGES_MAX, "room had to be made");
    let event = client.events.try_recv().unwrap();
    assert!(
        matches!(event, WorkerEvent::PathTooBig { session: CLIENT_INDEX, plaintext_len: 999, .. }),
        "{event:?}"
    );
}

#[test]
fn a_datagram_too_big_is_told_also_if_it_left_to_make_room() {
    let mut client = without_trains();
    client.wire.outcome.too_big = Some((CLIENT_INDEX, 999));
    fill(&mut client);
    assert_told_too_big(&client);
    client.forwarder.flush(&mut client.wire);
    assert_eq!(client.wire.datagrams.len(), 65);
    assert_eq!(client.dropped_in_all(), 0);
}

#[test]
fn the_same_if_a_path_message_needed_the_room() {
    let mut client = without_trains();
    client.wire.outcome.too_big = Some((CLIENT_INDEX, 999));
    let session = CLIENT_INDEX;
    for token in 0..=SEND_MESSAGES_MAX as u64 {
        let message = PathMessage::Probe { path: 0, token };
        client.command(WorkerCommand::SendPathMessage { session, message, plaintext_len: 0 });
    }
    assert_told_too_big(&client);
}

#[test]
fn a_source_that_is_gone_is_forgotten_also_then() {
    let mut client = without_trains();
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
    let mut client = without_trains();
    client.wire.blocked = true;
    fill(&mut client);
    assert!(client.forwarder.is_due(), "TUN is not read until the batch has left");
    client.assert_only_drop(DropReason::SendFailed, 1);
    client.wire.blocked = false;
    client.forwarder.flush(&mut client.wire);
    assert_eq!(client.wire.datagrams.len(), SEND_MESSAGES_MAX, "what was sealed leaves later");
}
