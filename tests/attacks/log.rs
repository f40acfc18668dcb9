//! What is logged of what a peer does at will: a few lines, and how many were left out.

use std::net::UdpSocket;
use std::thread;
use std::time::Duration;

use corelane::lab::wait_until;
use corelane::limits::{
    HANDSHAKES_PER_SOURCE_PPS, LANE_EVENTS_BURST, LOG_LEFT_OUT_AFTER, LOG_LINES_PER_PEER_BURST,
    LOG_LINES_PER_PEER_EVERY,
};
use corelane::sys::clock;
use corelane::wire::{PATH_MESSAGE_LEN, PathMessage};

use crate::harness::PATIENCE;
use crate::insider::{Insider, credentials};
use crate::stage::{SERVER, Side, Stage};

/// A stage whose server knows one more peer, and the peer's name in the log.
fn build() -> (Stage, impl Fn(&Stage) -> Insider, String) {
    let mut stage = Stage::prepare(Default::default());
    let (key, peer) = credentials();
    let name = peer.key.to_string();
    stage.tunnel.peers.push(peer);
    stage.tunnel.write_server_config();
    stage.start();
    let connect =
        move |stage: &Stage| Insider::connect(&stage.attacker.host, &key, &stage.tunnel.server_key);
    (stage, connect, name)
}

/// Of `done` things that `peer` has done, the log must have few lines with these `words`, and then
/// one that tells of the others.
#[track_caller]
fn assert_bounded(stage: &Stage, peer: &str, words: &str, topic: &str, done: u32) {
    let began = clock::now();
    let log = || stage.daemon(Side::Server).log();
    let told = || {
        let log = log();
        let line = log.lines().find(|it| it.contains("left out") && it.contains(topic))?;
        Some(line.to_owned())
    };
    let line = wait_until(LOG_LEFT_OUT_AFTER + PATIENCE, "the rest to be told of", told).unwrap();
    assert!(line.contains(peer), "{line}");
    let log = log();
    let lines = log.lines().filter(|it| it.contains(words) && it.contains(peer)).count() as u32;
    // One more for each time that a line came back.
    let waited = (clock::now() - began).as_secs() / LOG_LINES_PER_PEER_EVERY.as_secs();
    let most = LOG_LINES_PER_PEER_BURST + 2 + waited as u32;
    assert!(done > most, "the test does too little");
    assert!((LOG_LINES_PER_PEER_BURST..=most).contains(&lines), "{lines} lines:\n{log}");
}

#[test]
fn a_peer_that_moves_all_the_time_fills_no_log() {
    let (stage, connect, peer) = build();
    let mut insider = connect(&stage);
    let elsewhere = another_port(&insider, &stage);
    for _ in 0..LANE_EVENTS_BURST / 2 {
        let datagram = insider.seal(&[]);
        elsewhere.send_to(&datagram, SERVER).unwrap();
        insider.send(&[]);
    }
    assert_bounded(&stage, &peer, " moved from ", "paths that moved", LANE_EVENTS_BURST);
    insider.assert_served();
    stage.assert_unharmed();
}

/// Another port of the insider's host.
fn another_port(insider: &Insider, stage: &Stage) -> UdpSocket {
    let address = insider.socket.local_addr().unwrap().ip();
    stage.attacker.host.run(|| UdpSocket::bind((address, 0))).unwrap().unwrap()
}

#[test]
fn a_peer_that_comes_and_goes_all_the_time_fills_no_log() {
    const TURNS: u32 = 20;
    let (stage, connect, peer) = build();
    for _ in 0..TURNS {
        let mut insider = connect(&stage);
        let mut goodbye = [0; PATH_MESSAGE_LEN];
        PathMessage::Close { reason: 0 }.emit(&mut goodbye);
        insider.send(&goodbye);
        let gone = || {
            let peers = stage.status(Side::Server).peers;
            peers.iter().any(|it| it.public_key == peer && !it.connected).then_some(())
        };
        wait_until(PATIENCE, "the insider to be gone", gone).unwrap();
        // No faster than a source is given sessions without a cookie.
        thread::sleep(Duration::from_secs(1) / HANDSHAKES_PER_SOURCE_PPS);
    }
    assert_bounded(&stage, &peer, " connected", "peers that connected", TURNS);
    assert_bounded(&stage, &peer, " disconnected", "peers that disconnected", TURNS);
    stage.assert_unharmed();
}
