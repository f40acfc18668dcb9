//! Datagrams of a live session, seen on their way, changed, repeated and held back.

use std::net::IpAddr;

use corelane::lab::wait_until;
use corelane::limits::{DATA_HEADER_LEN, DATA_OVERHEAD_LEN, REJECT_AFTER_PACKETS};
use corelane::telemetry::drops::DropReason::{
    AuthenticationFailed, DatagramUnknownType, KeyExhausted, LaneWrong, Replayed, SessionUnknown,
};
use corelane::wire::MessageType;

use crate::harness::{PATIENCE, SERVER_V4};
use crate::stage::{SERVER, Side, Stage};
use crate::tools::{attempt, ping, start};
use crate::wiretap::{Seen, Wall, Wiretap};

/// Bytes of a data message with an echo of ping in it, and of one whose echo has 100 bytes to
/// carry; no probe of a path is as long as either.
const ECHO_LEN: usize = (56 + 28usize).next_multiple_of(16) + DATA_OVERHEAD_LEN;
const WITHHELD_LEN: usize = (100 + 28usize).next_multiple_of(16) + DATA_OVERHEAD_LEN;

/// A data message with a packet in it that was sent but did not arrive: nothing like it has been
/// seen by the side that it is for.
fn withheld(stage: &Stage, side: Side) -> Seen {
    let router = stage.tunnel.lab.router();
    let mut tap = Wiretap::open(router);
    let _wall = Wall::before(side, router);
    attempt(stage.tunnel.lab.client(), &format!("ping -n -c 1 -W 0.05 -s 100 {SERVER_V4}"));
    tap.await_datagram(|seen| seen.is_for(side) && seen.datagram.len() == WITHHELD_LEN)
}

/// Changes every bit of a data message, one at a time. Only the sender's key makes a message, so
/// none passes, and none leaves anything behind: the original passes afterwards.
#[track_caller]
fn no_bit_can_be_changed(side: Side) {
    let stage = Stage::build();
    let Seen { from, to, datagram } = withheld(&stage, side);
    let before = stage.drops(side);
    let mut changed = datagram.clone();
    for at in 0..datagram.len() {
        for bit in 0..8 {
            changed[at] ^= 1 << bit;
            // From an address that nobody knows and, in turn, in the name of the far side.
            match bit % 2 {
                0 => stage.attacker.send(to.into(), &changed),
                _ => stage.attacker.send_as(from, to, &changed),
            }
            changed[at] ^= 1 << bit;
        }
    }
    let above_limit = u64::from(REJECT_AFTER_PACKETS.leading_zeros()) + 1;
    let sealed = (datagram.len() - DATA_HEADER_LEN) as u64;
    // A changed counter is one that was used, or one whose message would look different.
    let all = |stage: &Stage| {
        let mut drops = stage.drops(side);
        let replayed = drops.remove(Replayed.name()).unwrap_or_default();
        *drops.entry(AuthenticationFailed.name().to_owned()).or_default() += replayed;
        drops
    };
    let expected = [
        (DatagramUnknownType, 8 + 2 * 8),
        (LaneWrong, 8),
        (SessionUnknown, 4 * 8),
        (KeyExhausted, above_limit),
        (AuthenticationFailed, 64 - above_limit + 8 * sealed),
    ];
    stage.await_added(side, &before, 8 * datagram.len() as u64);
    let counted = all(&stage);
    for (reason, count) in expected {
        let before = before.get(reason.name()).copied().unwrap_or_default();
        assert_eq!(counted[reason.name()], before + count, "{}: {counted:#?}", reason.name());
    }
    assert_eq!(stage.added(side, &before), 8 * datagram.len() as u64);

    let mut tap = Wiretap::open(stage.tunnel.lab.router());
    stage.attacker.send_as(from, to, &datagram);
    if side == Side::Server {
        tap.await_datagram(|seen| seen.is_for(Side::Client) && seen.datagram.len() == WITHHELD_LEN);
    }
    stage.attacker.send_as(from, to, &datagram);
    let before_replay = before.get(Replayed.name()).copied().unwrap_or_default();
    let refused = || {
        let replayed = stage.drops(side).get(Replayed.name()).copied().unwrap_or_default();
        (replayed > before_replay).then_some(())
    };
    wait_until(PATIENCE, "the original to count as used", refused).unwrap();
    stage.assert_unharmed();
}

#[test]
fn no_bit_of_a_message_to_the_server_can_be_changed() {
    no_bit_can_be_changed(Side::Server);
}

#[test]
fn no_bit_of_a_message_to_the_client_can_be_changed() {
    no_bit_can_be_changed(Side::Client);
}

/// Data messages that pass while the client pings, at least so many for each side.
fn recorded(stage: &Stage, count: usize) -> Vec<Seen> {
    let mut tap = Wiretap::open(stage.tunnel.lab.router());
    ping(stage.tunnel.lab.client(), SERVER_V4, &format!("-i 0 -c {count}"));
    let mut recorded = Vec::new();
    let mut missing = [(Side::Server, count), (Side::Client, count)];
    while missing.iter().any(|(_, count)| *count > 0) {
        let seen = tap.await_datagram(|seen| seen.is(MessageType::Data));
        for (side, count) in &mut missing {
            *count = count.saturating_sub(usize::from(seen.is_for(*side)));
        }
        recorded.push(seen);
    }
    recorded
}

#[test]
fn what_arrives_again_counts_as_replayed_wherever_it_comes_from() {
    const COUNT: usize = 200;
    let stage = Stage::build();
    let recorded = recorded(&stage, COUNT);
    let endpoint = stage.client_endpoint();
    let before = [Side::Server, Side::Client].map(|side| stage.drops(side));
    for seen in &recorded {
        stage.attacker.send(seen.to.into(), &seen.datagram);
        stage.attacker.send_as(seen.from, seen.to, &seen.datagram);
    }
    for (side, before) in [Side::Server, Side::Client].into_iter().zip(&before) {
        let replays = 2 * recorded.iter().filter(|seen| seen.is_for(side)).count() as u64;
        assert!(replays >= COUNT as u64);
        stage.assert_added(side, before, &[(Replayed, replays)]);
    }
    assert_eq!(stage.client_endpoint(), endpoint, "a replay moves nobody");
    stage.assert_unharmed();
}

/// Datagrams that were held back and come in any order, all of them late, are taken once each.
#[test]
fn what_arrives_late_and_in_disorder_is_taken_once() {
    const COUNT: usize = 50;
    let stage = Stage::build();
    let (router, client) = (stage.tunnel.lab.router(), stage.tunnel.lab.client());
    let mut held_back = Vec::new();
    {
        let mut tap = Wiretap::open(router);
        let _wall = Wall::before(Side::Server, router);
        let pings = start(client, &format!("ping -n -q -c {COUNT} -i 0.002 -W 1 {SERVER_V4}"));
        while held_back.len() < COUNT {
            let is_echo =
                |seen: &Seen| seen.is_for(Side::Server) && seen.datagram.len() == ECHO_LEN;
            held_back.push(tap.await_datagram(is_echo));
        }
        drop(pings);
    }
    ping(client, SERVER_V4, "-c 3 -i 0.01");
    let endpoint = stage.client_endpoint();
    let taken = |stage: &Stage| stage.status(Side::Server).workers[0].from_wire_packets;
    let (before, taken_before) = (stage.drops(Side::Server), taken(&stage));
    let reordered_before = stage.status(Side::Server).workers[0].reordered;
    // Every other one from the end, then the rest from the start, each from a stranger's address.
    let odd = held_back.iter().skip(1).step_by(2).rev();
    for seen in odd.chain(held_back.iter().step_by(2)) {
        stage.attacker.send(SERVER.into(), &seen.datagram);
    }
    let all = taken_before + COUNT as u64;
    let arrived = || (taken(&stage) >= all).then_some(());
    wait_until(PATIENCE, "every late packet to be taken", arrived).unwrap();
    stage.assert_added(Side::Server, &before, &[]);
    let reordered = stage.status(Side::Server).workers[0].reordered;
    assert_eq!(reordered, reordered_before + COUNT as u64);
    for seen in &held_back {
        stage.attacker.send(SERVER.into(), &seen.datagram);
    }
    stage.assert_added(Side::Server, &before, &[(Replayed, COUNT as u64)]);
    assert_eq!(stage.client_endpoint(), endpoint, "a straggler moves nobody");
    stage.assert_unharmed();
}

/// Who holds the newest datagram back and sends it from elsewhere is followed, as anybody who
/// relays is; the next datagram of the client ends that.
#[test]
fn a_peer_that_was_led_astray_is_back_with_its_next_packet() {
    let mut stage = Stage::build();
    stage.expect_warning("moved from");
    let endpoint = stage.client_endpoint();
    let newest = withheld(&stage, Side::Server);
    stage.attacker.send(SERVER.into(), &newest.datagram);
    let hijacker = stage.attacker.socket.local_addr().unwrap();
    let followed = || (IpAddr::from(*stage.client_endpoint().ip()) == hijacker.ip()).then_some(());
    wait_until(PATIENCE, "the server to follow", followed).unwrap();
    ping(stage.tunnel.lab.client(), SERVER_V4, "-c 3 -i 0.01");
    assert_eq!(stage.client_endpoint(), endpoint);
    let log = stage.tunnel.server.log();
    assert_eq!(log.matches(" moved from ").count(), 2, "there and back: {log}");
    stage.assert_unharmed();
}
