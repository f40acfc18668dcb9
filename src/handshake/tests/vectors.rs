//! A whole handshake from fixed inputs, compared with `tests/vectors/handshake.json`.

use std::collections::VecDeque;

use rand::{CryptoRng, RngCore};
use serde_json::{Value, json};

use super::super::kem::KemPrivateKey;
use super::super::noise::psk2;
use super::*;
use crate::wire::Response;
use crate::wire::vectors::{check, counting, hex, hex_object};

/// Hands out the bytes it was given and panics when they run out, so a vector states every random
/// input by name.
pub(super) struct Scripted(VecDeque<u8>);

impl Scripted {
    pub(super) fn new(pieces: &[&[u8]]) -> Self {
        Self(pieces.concat().into())
    }
}

impl RngCore for Scripted {
    fn next_u32(&mut self) -> u32 {
        rand::rand_core::impls::next_u32_via_fill(self)
    }

    fn next_u64(&mut self) -> u64 {
        rand::rand_core::impls::next_u64_via_fill(self)
    }

    fn fill_bytes(&mut self, out: &mut [u8]) {
        for byte in out {
            *byte = self.0.pop_front().expect("the script is long enough");
        }
    }
}

impl CryptoRng for Scripted {}

/// Every input of the handshake.
struct Inputs {
    client_private: [u8; 32],
    server_private: [u8; 32],
    preshared: [u8; 32],
    client_ephemeral: [u8; 32],
    kem_key_seed: [u8; 64],
    server_ephemeral: [u8; 32],
    kem_encapsulation_seed: [u8; 32],
    cookie_secret: [u8; 32],
    cookie_reply_nonce: [u8; 32],
}

impl Inputs {
    fn fixed() -> Self {
        Self {
            client_private: counting(0x00),
            server_private: counting(0x20),
            preshared: counting(0x40),
            client_ephemeral: counting(0x60),
            kem_key_seed: std::array::from_fn(|i| 0x80 + i as u8),
            server_ephemeral: counting(0xc0),
            kem_encapsulation_seed: counting(0x10),
            cookie_secret: counting(0x30),
            cookie_reply_nonce: counting(0x50),
        }
    }

    fn to_json(&self) -> Value {
        hex_object(&[
            ("client_static_private", &self.client_private),
            ("server_static_private", &self.server_private),
            ("preshared_key", &self.preshared),
            ("client_ephemeral_private", &self.client_ephemeral),
            ("client_kem_key_seed_d_z", &self.kem_key_seed),
            ("server_ephemeral_private", &self.server_ephemeral),
            ("server_kem_encapsulation_seed_m", &self.kem_encapsulation_seed),
            ("cookie_secret", &self.cookie_secret),
            ("cookie_reply_nonce", &self.cookie_reply_nonce),
            ("client_index", &CLIENT_INDEX.0.to_be_bytes()),
            ("server_index", &SERVER_INDEX.0.to_be_bytes()),
            ("client_features", &CLIENT_PARAMS.features.bits().to_be_bytes()),
            ("server_features", &SERVER_PARAMS.features.bits().to_be_bytes()),
        ])
    }
}

const UNIX_TIME: Duration = Duration::new(1_700_000_000, 123_456_789);

#[test]
fn the_handshake_is_that_of_the_vectors() {
    let inputs = Inputs::fixed();
    let client = LocalIdentity::new(PrivateKey::new(inputs.client_private));
    let server = Arc::new(LocalIdentity::new(PrivateKey::new(inputs.server_private)));
    let psk = PresharedKey::new(inputs.preshared);
    let now = Pair::new().now;

    let initiate = |cookie: Option<&Cookie>| {
        let rng = &mut Scripted::new(&[&inputs.client_ephemeral, &inputs.kem_key_seed]);
        let timestamp = Timestamp::from_unix(UNIX_TIME);
        let public = server.public();
        PendingInitiation::start(
            &client,
            public,
            CLIENT_PARAMS,
            CLIENT_INDEX,
            timestamp,
            cookie,
            rng,
        )
        .unwrap()
    };
    let secrets = &mut Scripted::new(&[&inputs.cookie_secret, &[0; 32], &[0; 32]]);
    let mut responder = Responder::new(Arc::clone(&server), now, secrets);
    let (mut pending, initiation) = initiate(None);

    let mut deliver = |rng: &[u8]| {
        responder.consume_initiation(now, source(1), &initiation, &mut Scripted::new(&[rng]))
    };
    let InitiationOutcome::Accepted(accepted) = deliver(&inputs.server_ephemeral) else {
        panic!("the first initiation is accepted");
    };
    let rng = &mut Scripted::new(&[&inputs.kem_encapsulation_seed]);
    let (response, at_server) = accepted.respond(SERVER_INDEX, &psk, SERVER_PARAMS, rng).unwrap();
    let at_client = pending.consume_response(&response, &psk).unwrap();

    let mut outcome = deliver(&inputs.server_ephemeral);
    while !matches!(outcome, InitiationOutcome::Reply(_)) {
        outcome = deliver(&inputs.cookie_reply_nonce);
    }
    let InitiationOutcome::Reply(cookie_reply) = outcome else { unreachable!() };
    let cookie = pending.consume_cookie_reply(&cookie_reply).unwrap();
    let (_, initiation_with_cookie) = initiate(Some(&cookie));

    assert_eq!(at_client.send_secret.expose(), at_server.receive_secret.expose());
    assert_eq!(at_client.receive_secret.expose(), at_server.send_secret.expose());
    let computed = json!({
        "description": "one handshake and one cookie reply from fixed inputs, hexadecimal",
        "inputs": inputs.to_json(),
        "unix_time": { "seconds": UNIX_TIME.as_secs(), "nanoseconds": UNIX_TIME.subsec_nanos() },
        "client_source": source(1).to_string(),
        "client_workers": CLIENT_PARAMS.workers,
        "server_workers": SERVER_PARAMS.workers,
        "base": SERVER_PARAMS.base,
        "client_static_public": hex(&client.public().0),
        "server_static_public": hex(&server.public().0),
        "key_exchange": key_exchange(&inputs, &response),
        "initiation": hex(&initiation),
        "response": hex(&response),
        "client_to_server_secret": hex(at_client.send_secret.expose()),
        "server_to_client_secret": hex(at_client.receive_secret.expose()),
        "cookie_reply": hex(&cookie_reply),
        "initiation_with_cookie": hex(&initiation_with_cookie),
    });
    check("handshake.json", &computed);
}

/// The post-quantum half, step by step.
fn key_exchange(inputs: &Inputs, response: &[u8]) -> Value {
    let (kem, _) = KemPrivateKey::generate(&mut Scripted::new(&[&inputs.kem_key_seed]));
    let ciphertext = Response::parse(response).unwrap().kem_ciphertext;
    let secret = kem.decapsulate(ciphertext);
    let psk2 = psk2(&PresharedKey::new(inputs.preshared), &secret, ciphertext);
    hex_object(&[("kem_shared_secret", &*secret), ("psk2", &*psk2)])
}
