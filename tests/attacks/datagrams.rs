//! Datagrams that are no messages, or not of this session, from an address that nobody knows.

use std::net::SocketAddr;

use corelane::limits::{DATA_OVERHEAD_LEN, REJECT_AFTER_PACKETS, UDP_PAYLOAD_MAX};
use corelane::telemetry::drops::DropReason::{self, *};
use corelane::wire::{COOKIE_REPLY_LEN, DataHeader, INITIATION_LEN, RESPONSE_LEN, SessionIndex};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::harness::Options;
use crate::stage::{SERVER, Side, Stage};

/// How often each is sent.
const TIMES: u64 = 5;
/// A session that nobody has, as good as certainly.
const NOBODY: SessionIndex = SessionIndex(0xdead_beef);

/// `len` bytes of which the first are given.
fn beginning(first: &[u8], len: usize) -> Vec<u8> {
    let mut datagram = vec![0xa5; len];
    datagram[..first.len()].copy_from_slice(first);
    datagram
}

fn data(receiver: SessionIndex, lane: u8, counter: u64, len: usize) -> Vec<u8> {
    let mut datagram = beginning(&[], len);
    let header = datagram.first_chunk_mut().unwrap();
    DataHeader { lane, receiver, counter }.emit(header);
    datagram
}

/// (what, datagram, what a server counts it as)
fn to_a_server(session: SessionIndex) -> Vec<(&'static str, Vec<u8>, DropReason)> {
    let lens = [0, 1, 3, 31, 32, 1400, UDP_PAYLOAD_MAX];
    let mut table = Vec::new();
    for kind in [0, 5, 6, 0x45, 0x80, 0xff] {
        for len in lens.into_iter().filter(|len| *len > 0) {
            table.push(("unknown type", beginning(&[kind], len), DatagramUnknownType));
        }
    }
    table.extend([
        ("nothing at all", Vec::new(), DatagramUnknownType),
        ("a type and nothing else", vec![4], LaneWrong),
        ("a lane and nothing else", vec![4, 0], DatagramTruncated),
        ("shorter than header and tag", data(NOBODY, 0, 0, 31), DatagramTruncated),
        ("reserved bytes", beginning(&[4, 0, 1], 64), DatagramUnknownType),
        ("reserved bytes", beginning(&[4, 0, 0, 0x80], 64), DatagramUnknownType),
        ("nobody's session", data(NOBODY, 0, 0, DATA_OVERHEAD_LEN), SessionUnknown),
        ("nobody's session", data(NOBODY, 0, 0, UDP_PAYLOAD_MAX), SessionUnknown),
        ("nobody's session, any lane", data(NOBODY, 255, 0, 100), SessionUnknown),
        ("a foreign lane", data(session, 1, 0, 100), LaneWrong),
        ("a foreign lane", data(session, 128, 1 << 20, 1400), LaneWrong),
        ("a foreign lane", data(session, 255, u64::MAX, UDP_PAYLOAD_MAX), LaneWrong),
        ("a wrong key", data(session, 0, 1 << 20, DATA_OVERHEAD_LEN), AuthenticationFailed),
        ("a wrong key", data(session, 0, 1 << 20, UDP_PAYLOAD_MAX), AuthenticationFailed),
        ("a used counter", data(session, 0, 0, 100), Replayed),
        ("no counter", data(session, 0, REJECT_AFTER_PACKETS, 100), KeyExhausted),
        ("no counter", data(session, 0, u64::MAX, 100), KeyExhausted),
        ("answers nothing", beginning(&[2, 0, 0, 0], RESPONSE_LEN), HandshakeUnexpected),
        ("answers nothing", beginning(&[3, 0, 0, 0], COOKIE_REPLY_LEN), HandshakeUnexpected),
        ("answers nothing", vec![2], HandshakeUnexpected),
        ("a cut initiation", vec![1], DatagramTruncated),
        ("a cut initiation", beginning(&[1, 1, 0, 0], INITIATION_LEN - 1), DatagramTruncated),
        ("a long initiation", beginning(&[1, 1, 0, 0], INITIATION_LEN + 1), DatagramTooLong),
        ("a long initiation", beginning(&[1, 1, 0, 0], UDP_PAYLOAD_MAX), DatagramTooLong),
        ("another version", beginning(&[1, 2, 0, 0], INITIATION_LEN), DatagramUnknownType),
        ("reserved bytes", beginning(&[1, 1, 0, 1], INITIATION_LEN), DatagramUnknownType),
        ("not for this key", beginning(&[1, 1, 0, 0], INITIATION_LEN), HandshakeMacInvalid),
    ]);
    table
}

/// (what, datagram, what a client counts it as on the port of its worker)
fn to_a_client(session: SessionIndex) -> Vec<(&'static str, Vec<u8>, DropReason)> {
    let mut table = Vec::new();
    for kind in [0, 1, 2, 3, 5, 0xff] {
        for (len, reason) in
            [(1, DatagramTruncated), (31, DatagramTruncated), (32, DatagramUnknownType)]
        {
            table.push(("no data message", beginning(&[kind], len), reason));
        }
        let longest = beginning(&[kind], UDP_PAYLOAD_MAX);
        table.push(("no data message", longest, DatagramUnknownType));
    }
    table.extend([
        ("nothing at all", Vec::new(), DatagramTruncated),
        ("a lane and nothing else", vec![4, 0], DatagramTruncated),
        ("reserved bytes", beginning(&[4, 0, 1], 64), DatagramUnknownType),
        ("nobody's session", data(NOBODY, 0, 0, UDP_PAYLOAD_MAX), SessionUnknown),
        ("a foreign lane", data(session, 1, 0, 100), LaneWrong),
        ("a wrong key", data(session, 0, 1 << 20, UDP_PAYLOAD_MAX), AuthenticationFailed),
        ("a used counter", data(session, 0, 0, 100), Replayed),
        ("no counter", data(session, 0, u64::MAX, 100), KeyExhausted),
    ]);
    table
}

#[track_caller]
fn send_each(
    stage: &Stage,
    side: Side,
    to: SocketAddr,
    table: Vec<(&'static str, Vec<u8>, DropReason)>,
) {
    for (what, datagram, reason) in table {
        let before = stage.drops(side);
        for _ in 0..TIMES {
            stage.attacker.send(to, &datagram);
        }
        eprintln!("{what}, {} bytes: {}", datagram.len(), reason.name());
        stage.assert_added(side, &before, &[(reason, TIMES)]);
    }
}

#[test]
fn a_server_counts_what_is_no_message_of_its_sessions_and_goes_on() {
    let stage = Stage::build();
    let session = stage.index_of_session(Side::Server);
    send_each(&stage, Side::Server, SERVER.into(), to_a_server(session));
    stage.assert_unharmed();
}

#[test]
fn a_client_counts_what_is_no_message_of_its_session_and_goes_on() {
    let stage = Stage::build();
    let session = stage.index_of_session(Side::Client);
    let client = stage.client_endpoint().into();
    send_each(&stage, Side::Client, client, to_a_client(session));
    stage.assert_unharmed();
}

/// With two workers, lanes are steered by the kernel, and each worker knows its own alone.
#[test]
fn any_mixture_is_counted_to_the_last_datagram() {
    const DATAGRAMS: u64 = 5000;
    let stage = Stage::with(Options { workers: (2, 2), ..Options::default() });
    let session = stage.index_of_session(Side::Server);
    let mut rng = ChaCha8Rng::seed_from_u64(20_443);
    let before = stage.drops(Side::Server);
    for number in 0..DATAGRAMS {
        let len = match rng.random_range(0..20) {
            0 => UDP_PAYLOAD_MAX,
            1 => INITIATION_LEN,
            2 => RESPONSE_LEN,
            3 => 0,
            _ => rng.random_range(1..=1400),
        };
        let mut datagram = vec![0; len];
        rng.fill(&mut datagram[..]);
        // Half of them look like messages for as long as can be.
        if rng.random() && len >= 16 {
            datagram[0] = rng.random_range(1..=5);
            datagram[1] = rng.random_range(0..=4);
            datagram[2..4].fill(0);
            datagram[4..8].copy_from_slice(&session.0.to_be_bytes());
            datagram[8..12].fill(0);
        }
        stage.attacker.send(SERVER.into(), &datagram);
        // The kernel's buffers are not what is tried here.
        if number % 100 == 99 {
            stage.await_added(Side::Server, &before, number + 1);
        }
    }
    stage.await_added(Side::Server, &before, DATAGRAMS);
    stage.assert_unharmed();
    assert_eq!(stage.added(Side::Server, &before), DATAGRAMS);
}
