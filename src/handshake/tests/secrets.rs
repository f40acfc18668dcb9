//! What the secrets of a session come from, and what is not enough to compute them.

use rand::{CryptoRng, RngCore};

use super::super::kem::{self, KemPrivateKey};
use super::super::noise::{NoiseHandshake, Psk2, Secrets, psk2};
use super::vectors::Scripted;
use super::*;
use crate::limits::{KEM_CIPHERTEXT_LEN, KEY_LEN};
use crate::wire::{
    Initiation, InitiationPayload, RESPONSE_NOISE_LEN, RESPONSE_PAYLOAD_LEN, Response,
    ResponsePayload,
};

/// Everything that a handshake is made of.
#[derive(Clone)]
struct Inputs {
    client_static: [u8; KEY_LEN],
    server_static: [u8; KEY_LEN],
    preshared: [u8; KEY_LEN],
    client_ephemeral: [u8; KEY_LEN],
    server_ephemeral: [u8; KEY_LEN],
    kem_key_seed: [u8; 64],
    kem_encapsulation_seed: [u8; 32],
}

/// A handshake as somebody between the two ends records it, and what the ends have of it.
struct Recorded {
    initiation: Vec<u8>,
    response: Vec<u8>,
    session: Established,
}

impl Inputs {
    fn new() -> Self {
        Self {
            client_static: [1; KEY_LEN],
            server_static: [2; KEY_LEN],
            preshared: [3; KEY_LEN],
            client_ephemeral: [4; KEY_LEN],
            server_ephemeral: [5; KEY_LEN],
            kem_key_seed: [6; 64],
            kem_encapsulation_seed: [7; 32],
        }
    }

    fn client(&self) -> LocalIdentity {
        LocalIdentity::new(PrivateKey::new(self.client_static))
    }

    fn server(&self) -> Arc<LocalIdentity> {
        Arc::new(LocalIdentity::new(PrivateKey::new(self.server_static)))
    }

    fn start(&self) -> (PendingInitiation, Vec<u8>) {
        PendingInitiation::start(
            &self.client(),
            self.server().public(),
            CLIENT_PARAMS,
            CLIENT_INDEX,
            Timestamp::from_unix(Duration::from_secs(1_700_000_000)),
            None,
            &mut Scripted::new(&[&self.client_ephemeral, &self.kem_key_seed]),
        )
        .unwrap()
    }

    fn run(&self) -> Recorded {
        let (mut pending, initiation) = self.start();
        let Pair { now, mut rng, .. } = Pair::new();
        let mut responder = Responder::new(self.server(), now, &mut rng);
        let ephemeral = &mut Scripted::new(&[&self.server_ephemeral]);
        let outcome = responder.consume_initiation(now, source(1), &initiation, ephemeral);
        let InitiationOutcome::Accepted(accepted) = outcome else { panic!("{outcome:?}") };
        let preshared = PresharedKey::new(self.preshared);
        let seed = &mut Scripted::new(&[&self.kem_encapsulation_seed]);
        let (response, session) =
            accepted.respond(SERVER_INDEX, &preshared, SERVER_PARAMS, seed).unwrap();
        let client = pending.consume_response(&response, &preshared).unwrap();
        assert_eq!(client.send_secret.expose(), session.receive_secret.expose());
        assert_eq!(client.receive_secret.expose(), session.send_secret.expose());
        Recorded { initiation, response, session }
    }
}

impl Recorded {
    fn secrets(&self) -> [[u8; KEY_LEN]; 2] {
        [&self.session.receive_secret, &self.session.send_secret].map(|secret| *secret.expose())
    }
}

fn exposed(secrets: &Secrets) -> [[u8; KEY_LEN]; 2] {
    let Secrets { initiator_to_responder, responder_to_initiator } = secrets;
    [initiator_to_responder, responder_to_initiator].map(|secret| *secret.expose())
}

/// The payload of the recorded response, of which nothing is secret.
fn payload() -> [u8; RESPONSE_PAYLOAD_LEN] {
    let ResponderParams { workers, base, features } = SERVER_PARAMS;
    ResponsePayload { workers, base, features }.emit()
}

/// Whoever lacks one of them cannot compute the session from the others.
#[test]
fn each_input_of_a_handshake_alone_changes_both_secrets() {
    type Change = fn(&mut Inputs);
    let changes: [(&str, Change); 7] = [
        ("the client's static key", |inputs| inputs.client_static[9] ^= 1),
        ("the server's static key", |inputs| inputs.server_static[9] ^= 1),
        ("the pre-shared key", |inputs| inputs.preshared[9] ^= 1),
        ("the client's ephemeral key", |inputs| inputs.client_ephemeral[9] ^= 1),
        ("the server's ephemeral key", |inputs| inputs.server_ephemeral[9] ^= 1),
        ("the client's ML-KEM key", |inputs| inputs.kem_key_seed[9] ^= 1),
        ("the ML-KEM secret", |inputs| inputs.kem_encapsulation_seed[9] ^= 1),
    ];
    let original = Inputs::new().run().secrets();
    assert_eq!(Inputs::new().run().secrets(), original, "there is no other input");
    for (what, change) in changes {
        let mut inputs = Inputs::new();
        change(&mut inputs);
        let changed = inputs.run().secrets();
        assert!((0..2).all(|direction| changed[direction] != original[direction]), "{what}");
    }
}

#[test]
fn each_part_of_the_last_preshared_key_alone_changes_it() {
    let (preshared, secret, ciphertext) = ([1; KEY_LEN], [2; KEY_LEN], [3; KEM_CIPHERTEXT_LEN]);
    let of =
        |preshared, secret, ciphertext| *psk2(&PresharedKey::new(preshared), &secret, &ciphertext);
    let flipped = |key: [u8; KEY_LEN]| {
        let mut key = key;
        key[KEY_LEN - 1] ^= 0x80;
        key
    };
    let mut other = ciphertext;
    other[KEM_CIPHERTEXT_LEN - 1] ^= 0x80;
    let keys = [
        of(preshared, secret, ciphertext),
        of(flipped(preshared), secret, ciphertext),
        of(preshared, flipped(secret), ciphertext),
        of(preshared, secret, other),
    ];
    let distinct: std::collections::BTreeSet<_> = keys.iter().collect();
    assert_eq!(distinct.len(), keys.len());
}

/// A computer to come takes the private keys of X25519 out of the public ones, all four, and there
/// may be no pre-shared key. With them it repeats the server's part of a recorded handshake.
#[test]
fn every_private_key_of_x25519_is_not_enough_without_the_secret_of_ml_kem() {
    let inputs = Inputs { preshared: [0; KEY_LEN], ..Inputs::new() };
    let recorded = inputs.run();
    let response = Response::parse(&recorded.response).unwrap();
    let repeat = |psk2: &Psk2| -> ([u8; RESPONSE_NOISE_LEN], Secrets) {
        let ephemeral = &mut Scripted::new(&[&inputs.server_ephemeral]);
        let mut noise = NoiseHandshake::responder(&inputs.server(), ephemeral).unwrap();
        let initiation = Initiation::parse(&recorded.initiation).unwrap();
        noise.read_initiation(initiation.noise).unwrap();
        noise.write_response(psk2, &payload()).unwrap()
    };
    let none = PresharedKey::new([0; KEY_LEN]);
    let with_secret = |secret: &[u8; KEY_LEN]| psk2(&none, secret, response.kem_ciphertext);

    // Who has the secret gets all of it, to the byte: nothing else was missing.
    let seed = &mut Scripted::new(&[&inputs.kem_key_seed]);
    let (kem, _) = KemPrivateKey::generate(seed);
    let secret = kem.decapsulate(response.kem_ciphertext);
    let (message, secrets) = repeat(&with_secret(&secret));
    assert_eq!((&message, exposed(&secrets)), (response.noise, recorded.secrets()));

    let mut nearly = *secret;
    nearly[0] ^= 1;
    for guess in [[0; KEY_LEN], nearly] {
        let (message, secrets) = repeat(&with_secret(&guess));
        assert_ne!(&message, response.noise);
        let computed = exposed(&secrets);
        assert!((0..2).all(|direction| computed[direction] != recorded.secrets()[direction]));
    }
}

/// A thief has both static keys and the pre-shared key, and a recording of before.
#[test]
fn both_static_keys_and_a_recording_are_not_enough() {
    let inputs = Inputs::new();
    let recorded = inputs.run();
    let response = Response::parse(&recorded.response).unwrap();
    let thief = Inputs {
        client_ephemeral: [14; KEY_LEN],
        server_ephemeral: [15; KEY_LEN],
        kem_key_seed: [16; 64],
        kem_encapsulation_seed: [17; 32],
        ..inputs.clone()
    };

    // The server's key opens the initiation: who connected, and when. It has no key in it but the
    // public one of ML-KEM.
    let ephemeral = &mut Scripted::new(&[&thief.server_ephemeral]);
    let mut noise = NoiseHandshake::responder(&thief.server(), ephemeral).unwrap();
    let initiation = Initiation::parse(&recorded.initiation).unwrap();
    let (inside, client) = noise.read_initiation(initiation.noise).unwrap();
    assert_eq!(client, *inputs.client().public());
    let kem_public_key = *InitiationPayload::parse(&inside).unwrap().kem_public_key;

    // To repeat the server's part takes its ephemeral key, however well the rest is known.
    let seed = &mut Scripted::new(&[&inputs.kem_encapsulation_seed]);
    let (ciphertext, secret) = kem::encapsulate_to(&kem_public_key, seed).unwrap();
    assert_eq!(&ciphertext, response.kem_ciphertext);
    let psk2 = psk2(&PresharedKey::new(inputs.preshared), &secret, &ciphertext);
    let (message, secrets) = noise.write_response(&psk2, &payload()).unwrap();
    assert_ne!(&message, response.noise);
    let computed = exposed(&secrets);
    assert!((0..2).all(|direction| computed[direction] != recorded.secrets()[direction]));

    // To read the recorded response takes the client's.
    let (mut pending, _) = thief.start();
    let preshared = PresharedKey::new(inputs.preshared);
    let read = pending.consume_response(&recorded.response, &preshared).map(drop);
    assert_eq!(read, Err(HandshakeError::Invalid(Flaw::Authentication)));
    let (mut pending, _) = inputs.start();
    let read = pending.consume_response(&recorded.response, &preshared);
    assert_eq!(*read.unwrap().send_secret.expose(), recorded.secrets()[0]);
}

/// Yields either bytes or numbers and cannot stand to be asked for the other.
struct Only {
    rng: ChaCha20Rng,
    bytes: bool,
}

impl RngCore for Only {
    fn next_u32(&mut self) -> u32 {
        assert!(!self.bytes, "a secret is drawn as a number");
        self.rng.next_u32()
    }

    fn next_u64(&mut self) -> u64 {
        assert!(!self.bytes, "a secret is drawn as a number");
        self.rng.next_u64()
    }

    fn fill_bytes(&mut self, out: &mut [u8]) {
        assert!(self.bytes, "what need not be a secret is drawn as bytes");
        self.rng.fill_bytes(out);
    }
}

impl CryptoRng for Only {}

/// The caller takes bytes and numbers from different sources.
#[test]
fn secrets_are_drawn_as_bytes_and_nothing_else_is() {
    let Pair { now, client, server, .. } = Pair::new();
    let [mut secrets, mut numbers] =
        [true, false].map(|bytes| Only { rng: ChaCha20Rng::seed_from_u64(2), bytes });
    let mut responder = Responder::new(Arc::clone(&server), now, &mut secrets);
    let timestamp = Timestamp::from_unix(Duration::from_secs(1));
    let started = PendingInitiation::start(
        &client,
        server.public(),
        CLIENT_PARAMS,
        CLIENT_INDEX,
        timestamp,
        None,
        &mut secrets,
    );
    let (mut pending, initiation) = started.unwrap();
    let outcome = responder.consume_initiation(now, source(1), &initiation, &mut secrets);
    let InitiationOutcome::Accepted(accepted) = outcome else { panic!("{outcome:?}") };
    let psk = PresharedKey::generate(&mut secrets);
    let (response, _) = accepted.respond(SERVER_INDEX, &psk, SERVER_PARAMS, &mut secrets).unwrap();
    assert!(pending.consume_response(&response, &psk).is_ok());

    let mut rng = ChaCha20Rng::seed_from_u64(3);
    let mut deliver =
        |rng: &mut dyn CryptoRng| responder.consume_initiation(now, source(1), &initiation, rng);
    while !matches!(deliver(&mut rng), InitiationOutcome::Reply(_)) {}
    let reply = deliver(&mut numbers);
    assert!(matches!(reply, InitiationOutcome::Reply(_)), "{reply:?}");
}
