//! What a handshake leaves on both sides, and what makes it fail.

use super::*;
use crate::limits::TIMESTAMP_LEN;
use crate::session::lanes::Role;
use crate::wire::{INITIATION_LEN, RESPONSE_LEN};

#[test]
fn both_sides_end_with_the_same_session() {
    let mut pair = Pair::new();
    let psk = PresharedKey::generate(&mut pair.rng);
    let (mut pending, initiation) = pair.initiate(None);
    assert_eq!(initiation.len(), INITIATION_LEN);
    assert_eq!((pending.local(), pending.server()), (CLIENT_INDEX, pair.server.public()));

    let accepted = pair.accept(&initiation);
    assert_eq!(accepted.peer, *pair.client.public());
    assert_eq!(accepted.remote, CLIENT_INDEX);
    assert_eq!(accepted.params, CLIENT_PARAMS);
    assert_eq!(accepted.timestamp, Timestamp::from_unix(Duration::from_secs(1_700_000_000)));

    let (response, server) =
        accepted.respond(SERVER_INDEX, &psk, SERVER_PARAMS, &mut pair.rng).unwrap();
    assert_eq!(response.len(), RESPONSE_LEN);
    let client = pending.consume_response(&response, &psk).unwrap();

    assert_eq!(client.send_secret.expose(), server.receive_secret.expose());
    assert_eq!(client.receive_secret.expose(), server.send_secret.expose());
    assert_ne!(client.send_secret.expose(), client.receive_secret.expose());
    assert_eq!((client.local, client.remote), (CLIENT_INDEX, SERVER_INDEX));
    assert_eq!((server.local, server.remote), (SERVER_INDEX, CLIENT_INDEX));
    assert_eq!(client.remote_static, *pair.server.public());
    assert_eq!(server.remote_static, *pair.client.public());
    assert_eq!(client.plan, LanePlan::new(Role::Client, 4, 2, 2).unwrap());
    assert_eq!(server.plan, LanePlan::new(Role::Server, 4, 2, 2).unwrap());
    // Each side learns what the other takes.
    assert_eq!(client.features, SERVER_PARAMS.features);
    assert_eq!(server.features, CLIENT_PARAMS.features);
}

#[test]
fn no_two_handshakes_share_a_secret() {
    let mut pair = Pair::new();
    let psk = PresharedKey::default();
    let mut secrets = std::collections::BTreeSet::new();
    for _ in 0..3 {
        let (_, initiation) = pair.initiate(None);
        // The same initiation answered twice makes two sessions.
        for _ in 0..2 {
            let (_, session) = pair.respond(&initiation, &psk);
            secrets.insert(*session.send_secret.expose());
            secrets.insert(*session.receive_secret.expose());
        }
    }
    assert_eq!(secrets.len(), 12);
}

#[test]
fn a_session_needs_the_same_preshared_key_on_both_sides() {
    let mut pair = Pair::new();
    let psk = PresharedKey::generate(&mut pair.rng);
    let (mut pending, initiation) = pair.initiate(None);
    let (response, _) = pair.respond(&initiation, &psk);
    let authentication = Err(HandshakeError::Invalid(Flaw::Authentication));
    for wrong in [PresharedKey::default(), PresharedKey::generate(&mut pair.rng)] {
        assert_eq!(pending.consume_response(&response, &wrong).map(drop), authentication);
    }
    assert!(pending.consume_response(&response, &psk).is_ok());
}

#[test]
fn a_response_counts_once() {
    let mut pair = Pair::new();
    let psk = PresharedKey::default();
    let (mut pending, initiation) = pair.initiate(None);
    let (response, _) = pair.respond(&initiation, &psk);
    let (second, _) = pair.respond(&initiation, &psk);
    assert!(pending.consume_response(&response, &psk).is_ok());
    for late in [&response, &second] {
        let consumed = pending.consume_response(late, &psk).map(drop);
        assert_eq!(consumed, Err(HandshakeError::Unexpected));
    }
}

#[test]
fn an_answer_to_another_initiation_is_unexpected() {
    let mut pair = Pair::new();
    let psk = PresharedKey::default();
    let (_, initiation) = pair.initiate(None);
    let (response, _) = pair.respond(&initiation, &psk);
    let (mut other, _) = pair.initiate(None);
    // Same index, other ephemeral keys.
    let consumed = other.consume_response(&response, &psk).map(drop);
    assert_eq!(consumed, Err(HandshakeError::Invalid(Flaw::Authentication)));
    let mut renamed = response;
    renamed[8] ^= 1;
    stamp(&mut renamed, pair.client.public());
    let consumed = other.consume_response(&renamed, &psk).map(drop);
    assert_eq!(consumed, Err(HandshakeError::Unexpected));
}

/// Every byte of a response but its sender index is authenticated, and no forgery disturbs the
/// initiation that waits.
#[test]
fn forged_responses_are_refused_and_leave_the_initiation_pending() {
    let mut pair = Pair::new();
    let psk = PresharedKey::default();
    let (mut pending, initiation) = pair.initiate(None);
    let (response, session) = pair.respond(&initiation, &psk);
    for position in 0..RESPONSE_LEN - MAC_LEN {
        let mut forged = response.clone();
        forged[position] ^= 0x40;
        let unstamped = pending.consume_response(&forged, &psk).map(drop);
        let mac_covers = (12..RESPONSE_LEN - 2 * MAC_LEN).contains(&position);
        if mac_covers {
            assert_eq!(unstamped, Err(HandshakeError::MacInvalid), "byte {position}");
        }
        // One in eight with a mac made right again, which costs two X25519 operations each.
        if mac_covers && (position % 8 == 0 || position >= 12 + 1088) {
            stamp(&mut forged, pair.client.public());
            let stamped = pending.consume_response(&forged, &psk).map(drop);
            let expected = Err(HandshakeError::Invalid(Flaw::Authentication));
            assert_eq!(stamped, expected, "byte {position}");
        }
        assert!(unstamped.is_err(), "byte {position}");
    }
    let client = pending.consume_response(&response, &psk).unwrap();
    assert_eq!(client.send_secret.expose(), session.receive_secret.expose());
}

/// The seven encodings of points of order 1, 2, 4 and 8 on the curve or its twist, as listed by
/// "May the Fourth Be With You" (Genkin, Valenta, Yarom; 2017), section 2.
const LOW_ORDER_POINTS: [&str; 7] = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
];

fn low_order_points() -> impl Iterator<Item = [u8; 32]> {
    let byte = |hex: &str, i: usize| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap();
    LOW_ORDER_POINTS.into_iter().flat_map(move |hex| {
        let point: [u8; 32] = std::array::from_fn(|i| byte(hex, i));
        // The top bit is ignored (RFC 7748 section 5), so each has a twin.
        let mut twin = point;
        twin[31] |= 0x80;
        [point, twin]
    })
}

#[test]
fn a_server_key_of_low_order_is_refused() {
    let mut pair = Pair::new();
    assert!(!pair.server.public().is_low_order());
    for point in low_order_points() {
        assert!(PublicKey(point).is_low_order());
        let started = PendingInitiation::start(
            &pair.client,
            &PublicKey(point),
            CLIENT_PARAMS,
            CLIENT_INDEX,
            Timestamp::from_unix(Duration::ZERO),
            None,
            &mut pair.rng,
        );
        assert_eq!(started.map(drop), Err(HandshakeError::Invalid(Flaw::Authentication)));
    }
}

#[test]
fn an_ephemeral_key_of_low_order_is_refused_by_both_sides() {
    let mut pair = Pair::new();
    let psk = PresharedKey::default();
    let (mut pending, initiation) = pair.initiate(None);
    let (response, _) = pair.respond(&initiation, &psk);
    let authentication = HandshakeError::Invalid(Flaw::Authentication);
    for (number, point) in (0..).zip(low_order_points()) {
        let mut forged = initiation.clone();
        forged[8..40].copy_from_slice(&point);
        stamp(&mut forged, pair.server.public());
        assert_eq!(pair.refuse(source(number), &forged), authentication);

        let mut forged = response.clone();
        forged[12 + 1088..][..32].copy_from_slice(&point);
        stamp(&mut forged, pair.client.public());
        assert_eq!(pending.consume_response(&forged, &psk).map(drop), Err(authentication));
    }
}

#[test]
fn a_malformed_kem_key_is_refused() {
    let mut pair = Pair::new();
    let (_, initiation) = pair.initiate(None);
    let mut accepted = pair.accept(&initiation);
    // Two coefficients of 12 bits that are not below q = 3329 (FIPS 203 section 7.2).
    accepted.kem_public_key[..3].fill(0xff);
    let answer =
        accepted.respond(SERVER_INDEX, &PresharedKey::default(), SERVER_PARAMS, &mut pair.rng);
    assert_eq!(answer.map(drop), Err(HandshakeError::Invalid(Flaw::KemKey)));
}

#[test]
fn worker_counts_that_make_no_plan_are_refused() {
    let mut pair = Pair::new();
    for workers in [0, 129, 255] {
        let (_, initiation) =
            pair.initiate_with(InitiatorParams { workers, ..CLIENT_PARAMS }, None);
        let expected = HandshakeError::Invalid(Flaw::Lanes(PlanError::Workers(workers)));
        assert_eq!(pair.refuse(source(workers), &initiation), expected);
    }
    let (_, initiation) = pair.initiate(None);
    let accepted = pair.accept(&initiation);
    let wrong_base = ResponderParams { base: 1, ..SERVER_PARAMS };
    let answer =
        accepted.respond(SERVER_INDEX, &PresharedKey::default(), wrong_base, &mut pair.rng);
    assert!(matches!(
        answer.map(drop),
        Err(HandshakeError::Invalid(Flaw::Lanes(PlanError::Base { base: 1, .. })))
    ));
}

#[test]
fn nothing_secret_or_constant_shows_in_two_initiations() {
    let mut pair = Pair::new();
    let (_, first) = pair.initiate(None);
    let (_, second) = pair.initiate(None);
    let client_key = pair.client.public().0;
    assert!(!first.windows(32).any(|window| window == client_key), "identity is hidden");
    // Beyond the header and the empty mac2 the two have nothing in common.
    let repeated = first[8..INITIATION_LEN - MAC_LEN]
        .windows(TIMESTAMP_LEN)
        .zip(second[8..INITIATION_LEN - MAC_LEN].windows(TIMESTAMP_LEN))
        .filter(|(a, b)| a == b)
        .count();
    assert_eq!(repeated, 0);
}
