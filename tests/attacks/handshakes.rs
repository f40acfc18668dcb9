//! Handshake messages, changed, repeated, forged and from strangers.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::thread;
use std::time::Duration;

use corelane::handshake::keys::PrivateKey;
use corelane::limits::{HANDSHAKES_READ_PPS, MAC_LEN};
use corelane::sys::clock;
use corelane::telemetry::drops::DropReason::{
    self, DatagramTooLong, DatagramUnknownType, HandshakeInvalid, HandshakeMacInvalid,
    HandshakePeerUnknown, HandshakeReplayed, HandshakeUnexpected,
};
use corelane::wire::{INITIATION_LEN, INITIATION_NOISE_LEN, MessageType, RESPONSE_LEN};

use crate::flooder::correct_mac1;
use crate::insider;
use crate::stage::{SERVER, Side, Stage};
use crate::wiretap::{Seen, Wall, Wiretap};

/// An initiation of the client that the server has never seen; the client runs, and waits.
fn withheld_initiation(stage: &mut Stage) -> Seen {
    stage.tunnel.start_server();
    let (router, client) = (stage.tunnel.lab.router(), stage.tunnel.lab.client());
    let mut tap = Wiretap::open(router);
    let _wall = Wall::before(Side::Server, router);
    stage.tunnel.client.start(client);
    tap.await_datagram(|seen| seen.is(MessageType::Initiation))
}

/// A source that no other call with another number has.
fn source(number: usize) -> SocketAddrV4 {
    let [_, _, high, low] = (number as u32).to_be_bytes();
    SocketAddrV4::new(Ipv4Addr::new(100, 64, high, low), 40_000)
}

#[test]
fn no_bit_of_an_initiation_can_be_changed() {
    let mut stage = Stage::prepare(Default::default());
    let Seen { from, datagram, .. } = withheld_initiation(&mut stage);
    assert_eq!(datagram.len(), INITIATION_LEN);
    let before = stage.drops(Side::Server);
    let mut expected: BTreeMap<&str, (DropReason, u64)> = BTreeMap::new();
    // `mac2` is looked at under load only, and is all zeros here: whatever stands there, the
    // message is the client's own.
    for at in 0..INITIATION_LEN - MAC_LEN {
        for bit in 0..8 {
            let mut changed = datagram.clone();
            changed[at] ^= 1 << bit;
            let reason = match (at, changed[0]) {
                (0, 3) => HandshakeUnexpected,
                (0..4, _) => DatagramUnknownType,
                _ => HandshakeMacInvalid,
            };
            expected.entry(reason.name()).or_insert((reason, 0)).1 += 1;
            stage.attacker.send_as(from, SERVER, &changed);
        }
        // Faster, it would be a flood, of which a server does not read all.
        thread::sleep(Duration::from_secs(1) * 2 * 8 / HANDSHAKES_READ_PPS);
        // Nor does it read what its socket has no room for while it does not run.
        if at % 32 == 31 {
            stage.await_added(Side::Server, &before, (at as u64 + 1) * 8);
        }
    }
    let expected: Vec<_> = expected.into_values().collect();
    stage.assert_added(Side::Server, &before, &expected);
    // None of that has kept the client from connecting.
    stage.tunnel.await_paths();
    stage.tunnel.await_echoes();
}

#[test]
fn an_initiation_whose_macs_were_made_to_fit_is_invalid_all_the_same() {
    let mut stage = Stage::prepare(Default::default());
    let Seen { datagram, .. } = withheld_initiation(&mut stage);
    let before = stage.drops(Side::Server);
    let mut count = 0;
    for at in (8..8 + INITIATION_NOISE_LEN).step_by(16) {
        let mut changed = datagram.clone();
        changed[at] ^= 0x10;
        correct_mac1(&mut changed, &stage.tunnel.server_key);
        // Each from a source of its own, or the sources' rates would be what stops them.
        stage.attacker.send_as(source(at), SERVER, &changed);
        count += 1;
    }
    assert!(count > 70);
    stage.assert_added(Side::Server, &before, &[(HandshakeInvalid, count)]);
    stage.tunnel.await_paths();
    stage.tunnel.await_echoes();
}

/// A recorded initiation is of no use once it was answered: the timestamp in it is spent.
#[test]
fn an_initiation_cannot_be_replayed() {
    let mut stage = Stage::prepare(Default::default());
    stage.expect_warning("is not newer than the last");
    let mut tap = Wiretap::open(stage.tunnel.lab.router());
    stage.start();
    let initiation = tap.await_datagram(|seen| seen.is(MessageType::Initiation));
    let response = tap.await_datagram(|seen| seen.is(MessageType::Response));
    assert_eq!(response.datagram.len(), RESPONSE_LEN);
    assert!(response.datagram.len() <= initiation.datagram.len(), "nothing is amplified");

    let before = stage.drops(Side::Server);
    tap.forget();
    for number in 0..20 {
        stage.attacker.send_as(source(number), SERVER, &initiation.datagram);
    }
    stage.attacker.send_as(initiation.from, SERVER, &initiation.datagram);
    stage.assert_added(Side::Server, &before, &[(HandshakeReplayed, 21)]);
    let log = stage.tunnel.server.log();
    assert_eq!(log.matches("is not newer than the last").count(), 1, "one warning a minute");

    // Its answer, at the client, answers nothing any more.
    let before = stage.drops(Side::Client);
    for _ in 0..20 {
        stage.attacker.send_as(response.from, response.to, &response.datagram);
    }
    stage.assert_added(Side::Client, &before, &[(HandshakeUnexpected, 20)]);
    stage.assert_unharmed();
}

/// The client is waiting for an answer; what it gets is not that.
#[test]
fn no_bit_of_a_response_can_be_changed() {
    let mut stage = Stage::prepare(Default::default());
    stage.tunnel.start_server();
    let mut tap = Wiretap::open(stage.tunnel.lab.router());
    let response = {
        let _wall = Wall::before(Side::Client, stage.tunnel.lab.router());
        stage.tunnel.client.start(stage.tunnel.lab.client());
        tap.await_datagram(|seen| seen.is(MessageType::Response))
    };
    let before = stage.drops(Side::Client);
    for at in 0..RESPONSE_LEN {
        let mut changed = response.datagram.clone();
        changed[at] ^= 1;
        stage.attacker.send_as(response.from, response.to, &changed);
    }
    stage.tunnel.await_paths();
    stage.tunnel.await_echoes();
    // Which of the reasons depends on which initiation of the client is the latest by then.
    // `mac2` is not looked at by a client.
    stage.await_added(Side::Client, &before, (RESPONSE_LEN - MAC_LEN) as u64);
    for reason in stage.drops(Side::Client).keys() {
        let reasons =
            [HandshakeMacInvalid, HandshakeUnexpected, DatagramUnknownType, DatagramTooLong];
        assert!(reasons.iter().any(|known| known.name() == reason), "{reason}");
    }
}

#[test]
fn a_stranger_gets_no_answer() {
    let stage = Stage::build();
    let stranger = PrivateKey::generate(&mut rand::rng());
    let before = stage.drops(Side::Server);
    let server = stage.tunnel.server_key;
    let socket = &stage.attacker.socket;
    socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    for _ in 0..3 {
        let answer = insider::ask_for_session(socket, &stranger, &server, clock::unix_time());
        assert!(answer.is_none());
    }
    stage.assert_added(Side::Server, &before, &[(HandshakePeerUnknown, 3)]);
    stage.assert_unharmed();
}

/// Every answer to what has proved nothing is shorter than what provoked it.
#[test]
fn nobody_is_answered_with_more_than_they_sent() {
    let stage = Stage::build();
    let stranger = PrivateKey::generate(&mut rand::rng());
    let socket = &stage.attacker.socket;
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut sent = 0;
    for _ in 0..40 {
        let (_, initiation) =
            insider::initiation(&stranger, &stage.tunnel.server_key, clock::unix_time());
        stage.attacker.send(SERVER.into(), &initiation);
        sent += initiation.len();
    }
    let (mut received, mut answers) = (0, 0);
    let mut datagram = [0; 2048];
    while let Ok(len) = socket.recv(&mut datagram) {
        assert_eq!(MessageType::of(&datagram), Some(MessageType::CookieReply));
        assert!(len * 10 < INITIATION_LEN, "{len} bytes");
        received += len;
        answers += 1;
    }
    assert!(answers > 10, "{answers} cookies");
    assert!(received * 10 < sent, "{received} bytes for {sent}");
    stage.assert_unharmed();
}
