//! What stands between a datagram of type 1 and the public-key work it asks for.

use super::*;
use crate::limits::{
    COOKIE_SECRET_LIFE, HANDSHAKES_PER_SOURCE_BURST as BURST, HANDSHAKES_PER_SOURCE_PPS as PPS,
    HANDSHAKES_READ_BURST, HANDSHAKES_READ_PPS, HANDSHAKES_UNPROVED_BURST, HANDSHAKES_UNPROVED_PPS,
};
use crate::wire::{COOKIE_REPLY_LEN, INITIATION_LEN};

impl Pair {
    /// Sends initiations until the source is challenged; returns the state and the reply.
    fn outrun(&mut self, from: SocketAddr) -> (PendingInitiation, Vec<u8>) {
        for _ in 0..BURST {
            let (_, initiation) = self.initiate(None);
            assert!(matches!(self.deliver(from, &initiation), InitiationOutcome::Accepted(_)));
        }
        let (pending, initiation) = self.initiate(None);
        match self.deliver(from, &initiation) {
            InitiationOutcome::Reply(reply) => (pending, reply),
            other => panic!("source was not challenged: {other:?}"),
        }
    }

    /// Whether an initiation with `cookie` from a source that has used up its free share gets in.
    fn gets_in(&mut self, from: SocketAddr, cookie: &Cookie) -> bool {
        let (_, initiation) = self.initiate(Some(cookie));
        match self.deliver(from, &initiation) {
            InitiationOutcome::Accepted(_) => true,
            InitiationOutcome::Reply(_) => false,
            InitiationOutcome::Drop(error) => panic!("dropped: {error}"),
        }
    }

    fn use_up_free_share(&mut self, from: SocketAddr) {
        let (_, initiation) = self.initiate(None);
        for _ in 0..BURST {
            self.deliver(from, &initiation);
        }
    }
}

#[test]
fn an_initiation_for_another_key_is_dropped_by_its_mac() {
    let mut pair = Pair::new();
    let (_, initiation) = pair.initiate(None);
    let stranger = Arc::new(LocalIdentity::new(PrivateKey::generate(&mut pair.rng)));
    let mut responder = Responder::new(stranger, pair.now, &mut pair.rng);
    let outcome = responder.consume_initiation(pair.now, source(1), &initiation, &mut pair.rng);
    assert!(matches!(outcome, InitiationOutcome::Drop(HandshakeError::MacInvalid)));
}

/// Every byte counts: without the right mac1 none passes, with it only the index may differ.
#[test]
fn changed_initiations_are_refused() {
    let mut pair = Pair::new();
    let (_, initiation) = pair.initiate(None);
    for position in 8..INITIATION_LEN - MAC_LEN {
        let mut changed = initiation.clone();
        changed[position] ^= 0x20;
        assert_eq!(pair.refuse(source(1), &changed), HandshakeError::MacInvalid);
        // Not faster than initiations are read.
        pair.now += Duration::from_secs(1) / HANDSHAKES_READ_PPS;
    }
    for position in (8..INITIATION_LEN - 2 * MAC_LEN).step_by(3) {
        let mut changed = initiation.clone();
        changed[position] ^= 0x20;
        stamp(&mut changed, pair.server.public());
        // Not faster than unproved sources may be altogether.
        pair.now += Duration::from_secs(1) / HANDSHAKES_UNPROVED_PPS;
        let from = SocketAddr::from(([10, 9, (position >> 8) as u8, position as u8], 1));
        let expected = HandshakeError::Invalid(Flaw::Authentication);
        assert_eq!(pair.refuse(from, &changed), expected, "byte {position}");
    }
}

#[test]
fn datagrams_of_another_layout_are_dropped_as_such() {
    let mut pair = Pair::new();
    let (_, initiation) = pair.initiate(None);
    let dropped = pair.refuse(source(1), &initiation[..100]);
    assert!(matches!(dropped, HandshakeError::Datagram(WireError::Truncated { .. })));
    let mut long = initiation.clone();
    long.push(0);
    let dropped = pair.refuse(source(1), &long);
    assert!(matches!(dropped, HandshakeError::Datagram(WireError::TooLong { .. })));
    let mut other_version = initiation;
    other_version[1] = 2;
    let dropped = pair.refuse(source(1), &other_version);
    assert_eq!(dropped, HandshakeError::Datagram(WireError::UnknownVersion(2)));
}

/// A datagram that fails its mac costs the named source nothing: anyone can forge an address.
#[test]
fn junk_does_not_use_up_a_sources_share() {
    let mut pair = Pair::new();
    let (_, initiation) = pair.initiate(None);
    let mut junk = initiation.clone();
    junk[100] ^= 1;
    for _ in 0..1000 {
        assert_eq!(pair.refuse(source(1), &junk), HandshakeError::MacInvalid);
    }
    assert!(matches!(pair.deliver(source(1), &initiation), InitiationOutcome::Accepted(_)));
}

#[test]
fn a_challenged_client_gets_in_with_the_cookie() {
    let mut pair = Pair::new();
    let (pending, reply) = pair.outrun(source(1));
    assert_eq!(reply.len(), COOKIE_REPLY_LEN);
    let cookie = pending.consume_cookie_reply(&reply).unwrap();
    assert!(pair.gets_in(source(1), &cookie));
}

#[test]
fn a_proved_source_has_a_rate_too() {
    let mut pair = Pair::new();
    let (pending, reply) = pair.outrun(source(1));
    let cookie = pending.consume_cookie_reply(&reply).unwrap();
    for _ in 0..BURST {
        assert!(pair.gets_in(source(1), &cookie));
    }
    let (_, initiation) = pair.initiate(Some(&cookie));
    assert_eq!(pair.refuse(source(1), &initiation), HandshakeError::RateLimited);
    // One token later there is one free and one proved handshake again.
    pair.now += Duration::from_secs(1) / PPS;
    assert!(pair.gets_in(source(1), &cookie) && pair.gets_in(source(1), &cookie));
    let (_, initiation) = pair.initiate(Some(&cookie));
    assert_eq!(pair.refuse(source(1), &initiation), HandshakeError::RateLimited);
}

/// Someone who forges the address of a victim brings it under challenge, no more: with a cookie the
/// victim draws on a bucket that the forger cannot reach. Others notice nothing.
#[test]
fn a_flood_under_a_forged_address_does_not_lock_its_owner_out() {
    let mut pair = Pair::new();
    let (pending, reply) = pair.outrun(source(1));
    let (_, flood) = pair.initiate(None);
    for _ in 0..1000 {
        assert!(matches!(pair.deliver(source(1), &flood), InitiationOutcome::Reply(_)));
    }
    let cookie = pending.consume_cookie_reply(&reply).unwrap();
    assert!(pair.gets_in(source(1), &cookie));
    assert!(matches!(pair.deliver(source(2), &flood), InitiationOutcome::Accepted(_)));
}

/// Forged addresses have a bucket each; what they share bounds the public-key work they get, and
/// the gate bounds the rest.
#[test]
fn a_flood_from_forged_addresses_costs_bounded_work_and_keeps_nobody_out() {
    const SECONDS: u32 = 2;
    const FLOOD: u32 = 200_000;
    let mut pair = Pair::new();
    let (_, initiation) = pair.initiate(None);
    let (mut worked, mut challenged) = (0, 0);
    let mut flood = |pair: &mut Pair, numbers: std::ops::Range<u32>| {
        for number in numbers {
            pair.now += Duration::from_secs(SECONDS.into()) / FLOOD;
            let from = SocketAddr::from(((0x0a00_0000 + number).to_be_bytes(), 51820));
            match pair.deliver(from, &initiation) {
                InitiationOutcome::Accepted(_) => worked += 1,
                InitiationOutcome::Reply(reply) => {
                    assert_eq!(reply.len(), COOKIE_REPLY_LEN);
                    challenged += 1;
                }
                InitiationOutcome::Drop(error) => assert_eq!(error, HandshakeError::Overload),
            }
        }
    };
    flood(&mut pair, 0..FLOOD / 2);

    // A client in the midst of it: unread, challenged, let in.
    let (_, initiation) = pair.initiate(None);
    assert_eq!(pair.refuse(source(1), &initiation), HandshakeError::Overload);
    flood(&mut pair, FLOOD / 2..FLOOD / 2 + 1000);
    let (pending, initiation) = pair.initiate(None);
    let InitiationOutcome::Reply(reply) = pair.deliver(source(1), &initiation) else {
        panic!("it should be challenged at the second try");
    };
    let cookie = pending.consume_cookie_reply(&reply).unwrap();
    assert!(pair.gets_in(source(1), &cookie), "and get in at the third");

    flood(&mut pair, FLOOD / 2 + 1000..FLOOD);
    let share = HANDSHAKES_UNPROVED_BURST + SECONDS * HANDSHAKES_UNPROVED_PPS;
    assert!((share - 2..=share).contains(&worked), "{worked}");
    let share = HANDSHAKES_READ_BURST + SECONDS * HANDSHAKES_READ_PPS;
    // A few share place and tag with one that has come before.
    let read = worked + challenged;
    assert!((share - 9..=share + 20).contains(&read), "{worked} and {challenged}");

    pair.now += Duration::from_secs(1);
    let (_, initiation) = pair.initiate(None);
    assert!(matches!(pair.deliver(source(2), &initiation), InitiationOutcome::Accepted(_)));
}

/// Who invents a `mac2` is read no sooner for it and takes nothing from those who have a true one.
#[test]
fn initiations_with_an_invented_cookie_have_a_gate_of_their_own() {
    let mut pair = Pair::new();
    let (pending, reply) = pair.outrun(source(1));
    let cookie = pending.consume_cookie_reply(&reply).unwrap();
    let (_, mut invented) = pair.initiate(None);
    *invented.last_mut().unwrap() = 1;
    let mut overloaded = 0;
    for number in 0..2 * HANDSHAKES_READ_BURST {
        let from = SocketAddr::from(((0x0a00_0000 + number).to_be_bytes(), 51820));
        let outcome = pair.deliver(from, &invented);
        overloaded +=
            u32::from(matches!(outcome, InitiationOutcome::Drop(HandshakeError::Overload)));
    }
    assert_eq!(overloaded, HANDSHAKES_READ_BURST);
    let (_, plain) = pair.initiate(None);
    assert!(matches!(pair.deliver(source(3), &plain), InitiationOutcome::Reply(_)));
    let (_, claiming) = pair.initiate(Some(&cookie));
    assert_eq!(pair.refuse(source(1), &claiming), HandshakeError::Overload);
    assert!(pair.gets_in(source(1), &cookie), "a true cookie, at the second try");
}

/// A peer that has a session is let in from where it asked for it, whatever its neighbours do.
#[test]
fn a_regular_is_not_refused_for_its_neighbours() {
    let mut pair = Pair::new();
    let (pending, reply) = pair.outrun(source(1));
    let cookie = pending.consume_cookie_reply(&reply).unwrap();
    for _ in 0..BURST {
        assert!(pair.gets_in(source(1), &cookie));
    }
    let (_, initiation) = pair.initiate(Some(&cookie));
    assert_eq!(pair.refuse(source(1), &initiation), HandshakeError::RateLimited);
    let now = pair.now;
    pair.responder.add_regular(now, source(1).into());
    assert!(pair.gets_in(source(1), &cookie));
    pair.responder.remove_regular(source(1).into());
    let (_, initiation) = pair.initiate(Some(&cookie));
    assert_eq!(pair.refuse(source(1), &initiation), HandshakeError::RateLimited);
}

#[test]
fn a_cookie_is_good_for_its_address_and_port_only() {
    let mut pair = Pair::new();
    let (pending, reply) = pair.outrun(source(1));
    let cookie = pending.consume_cookie_reply(&reply).unwrap();
    let other_port = SocketAddr::new(source(1).ip(), 51821);
    assert!(!pair.gets_in(other_port, &cookie));
    pair.use_up_free_share(source(2));
    assert!(!pair.gets_in(source(2), &cookie));
    let mapped = SocketAddr::new("::ffff:192.0.2.1".parse().unwrap(), 51820);
    assert!(pair.gets_in(mapped, &cookie), "the same address in IPv6 clothing");
}

#[test]
fn a_cookie_outlives_one_change_of_secrets_and_not_two() {
    let just_under = COOKIE_SECRET_LIFE - Duration::from_millis(1);
    // (waits between attempts, still good after the last)
    let table: &[(&[Duration], bool)] = &[
        /* 1 */ (&[just_under], true),
        /* 2 */ (&[COOKIE_SECRET_LIFE], true),
        /* 3 */ (&[COOKIE_SECRET_LIFE, just_under], true),
        /* 4 */ (&[COOKIE_SECRET_LIFE, COOKIE_SECRET_LIFE], false),
        /* 5 */ (&[2 * COOKIE_SECRET_LIFE], false),
        /* 6 */ (&[100 * COOKIE_SECRET_LIFE], false),
    ];
    for (number, (waits, still_good)) in (1..).zip(table) {
        let mut pair = Pair::new();
        let (pending, reply) = pair.outrun(source(1));
        let cookie = pending.consume_cookie_reply(&reply).unwrap();
        for wait in *waits {
            pair.now += *wait;
            pair.use_up_free_share(source(1));
        }
        assert_eq!(pair.gets_in(source(1), &cookie), *still_good, "row {number}");
    }
}

#[test]
fn a_cookie_reply_counts_only_for_the_initiation_it_answers() {
    let mut pair = Pair::new();
    let (pending, reply) = pair.outrun(source(1));
    let (other, _) = pair.initiate(None);
    let consumed =
        |pending: &PendingInitiation, reply: &[u8]| pending.consume_cookie_reply(reply).map(drop);
    assert_eq!(consumed(&other, &reply), Err(HandshakeError::CookieInvalid));
    for position in 8..COOKIE_REPLY_LEN {
        let mut forged = reply.clone();
        forged[position] ^= 1;
        assert_eq!(consumed(&pending, &forged), Err(HandshakeError::CookieInvalid));
    }
    let mut misdirected = reply.clone();
    misdirected[7] ^= 1;
    assert_eq!(consumed(&pending, &misdirected), Err(HandshakeError::Unexpected));
    assert_eq!(consumed(&pending, &reply), Ok(()));
}

#[test]
fn no_two_cookie_replies_share_a_key() {
    let mut pair = Pair::new();
    let (_, first) = pair.outrun(source(1));
    let (_, flood) = pair.initiate(None);
    let mut nonces = std::collections::BTreeSet::from([first[8..40].to_vec()]);
    for _ in 0..100 {
        let InitiationOutcome::Reply(reply) = pair.deliver(source(1), &flood) else {
            panic!("source was not challenged");
        };
        assert!(nonces.insert(reply[8..40].to_vec()));
    }
}
