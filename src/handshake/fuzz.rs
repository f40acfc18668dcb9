//! What the fuzz targets call, and `tests/corpora.rs` with every file of their corpora.
//!
//! Random bytes end at the first mac, so each hook also goes behind it: it makes the macs of its
//! input right, and seals its input where the other side would find it after authentication.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::limits::MAC_LEN;
use crate::wire::{
    Features, INITIATION_LEN, INITIATION_PAYLOAD_LEN, Initiation, InitiationPayload, RESPONSE_LEN,
    RESPONSE_PAYLOAD_LEN, Response, SessionIndex,
};

use super::keys::{PresharedKey, PrivateKey, PublicKey};
use super::macs::{self, MacKey};
use super::noise::{NoiseHandshake, psk2};
use super::{
    HandshakeError, InitiationOutcome, InitiatorParams, LocalIdentity, PendingInitiation,
    Responder, ResponderParams, Timestamp, kem,
};

const LOCAL: SessionIndex = SessionIndex(1);

/// Both ends of a handshake, the same in every run.
struct Ends {
    rng: StdRng,
    client: LocalIdentity,
    server: Arc<LocalIdentity>,
}

impl Ends {
    fn new() -> Self {
        let counting = |first: u8| PrivateKey::new(std::array::from_fn(|i| first + i as u8));
        Self {
            rng: StdRng::seed_from_u64(0),
            client: LocalIdentity::new(counting(0x00)),
            server: Arc::new(LocalIdentity::new(counting(0x20))),
        }
    }

    fn initiate(&mut self) -> Result<(PendingInitiation, Vec<u8>), HandshakeError> {
        PendingInitiation::start(
            &self.client,
            self.server.public(),
            InitiatorParams { workers: 1, features: Features::empty() },
            LOCAL,
            Timestamp::from_unix(Duration::ZERO),
            None,
            &mut self.rng,
        )
    }

    /// An initiation that authenticates and carries `payload`.
    fn initiation_with(&mut self, payload: &[u8]) -> Result<Vec<u8>, HandshakeError> {
        let server = self.server.public();
        let mut noise = NoiseHandshake::initiator(&self.client, server, &mut self.rng)?;
        let mut datagram = Initiation::emit(LOCAL, &noise.write_initiation(payload)?);
        macs::append(&mut datagram, self.server.mac_key(), None);
        Ok(datagram)
    }

    /// A response to `initiation` that authenticates and carries `payload`.
    fn response_with(
        &mut self,
        initiation: &[u8],
        payload: &[u8; RESPONSE_PAYLOAD_LEN],
    ) -> Result<Vec<u8>, HandshakeError> {
        let mut noise = NoiseHandshake::responder(&self.server, &mut self.rng)?;
        let (client, _) = noise.read_initiation(Initiation::parse(initiation)?.noise)?;
        let kem_public_key = InitiationPayload::parse(&client)?.kem_public_key;
        let (ciphertext, secret) = kem::encapsulate_to(kem_public_key, &mut self.rng)?;
        let psk2 = psk2(&PresharedKey::default(), &secret, &ciphertext);
        let (message, _) = noise.write_response(&psk2, payload)?;
        let mut datagram = Response::emit(SessionIndex(2), LOCAL, &ciphertext, &message);
        macs::append(&mut datagram, self.client.mac_key(), None);
        Ok(datagram)
    }
}

/// `data` with the macs that its receiver expects.
fn stamped(data: &[u8], receiver: &MacKey) -> Vec<u8> {
    let mut datagram = data[..data.len().saturating_sub(2 * MAC_LEN)].to_vec();
    macs::append(&mut datagram, receiver, None);
    datagram
}

/// `data` with our index in the four bytes from `position` on, if it is that long.
fn addressed(data: &[u8], position: usize) -> Vec<u8> {
    let mut datagram = data.to_vec();
    if let Some(receiver) = datagram.get_mut(position..position + 4) {
        receiver.copy_from_slice(&LOCAL.0.to_be_bytes());
    }
    datagram
}

/// Feeds `data` to a responder, as a datagram and as the content of one.
pub fn initiation(now: Instant, data: &[u8]) {
    let mut ends = Ends::new();
    let mut payload = data.to_vec();
    payload.resize(INITIATION_PAYLOAD_LEN, 0);
    let genuine = ends.initiation_with(&payload).unwrap_or_default();
    let restamped = stamped(data, ends.server.mac_key());

    let rng = &mut ends.rng;
    let mut responder = Responder::new(Arc::clone(&ends.server), now, rng);
    let from = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    for datagram in [data, &restamped, &genuine] {
        let outcome = responder.consume_initiation(now, from, datagram, rng);
        if let InitiationOutcome::Accepted(accepted) = outcome {
            assert_eq!(datagram.len(), INITIATION_LEN);
            let params = ResponderParams { workers: 1, base: 0, features: Features::empty() };
            // Fails if the ML-KEM key in the payload is not one.
            let answer = accepted.respond(LOCAL, &PresharedKey::default(), params, rng);
            assert!(answer.is_err() || answer.is_ok_and(|(sent, _)| sent.len() == RESPONSE_LEN));
        }
    }
}

/// Feeds `data` to an initiator, as a response and as the content of one.
pub fn response(data: &[u8]) {
    let mut ends = Ends::new();
    let Ok((mut pending, initiation)) = ends.initiate() else { return };
    let preshared = PresharedKey::default();
    let restamped = stamped(&addressed(data, 8), ends.client.mac_key());
    for datagram in [data, &restamped] {
        assert!(pending.consume_response(datagram, &preshared).is_err());
    }
    let mut payload = [0; RESPONSE_PAYLOAD_LEN];
    for (byte, input) in payload.iter_mut().zip(data) {
        *byte = *input;
    }
    if let Ok(genuine) = ends.response_with(&initiation, &payload) {
        // Whether it is taken depends on whether worker counts and base lane go together.
        if let Ok(established) = pending.consume_response(&genuine, &preshared) {
            assert_eq!(established.plan.server_workers(), payload[0]);
            assert_eq!(established.plan.base(), payload[1]);
        }
    }
}

/// Feeds `data` to an initiator as a cookie reply, also with the index that it waits for.
pub fn cookie_reply(data: &[u8]) {
    let mut ends = Ends::new();
    let Ok((pending, _)) = ends.initiate() else { return };
    for datagram in [data, &addressed(data, 4)] {
        assert!(pending.consume_cookie_reply(datagram).is_err());
    }
}

/// Reads `data` as the content of a key file. What is a key is written as it was read, white space
/// apart, and stands for itself.
pub fn key_text(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let public = text.parse::<PublicKey>();
    let private = text.parse::<PrivateKey>();
    let preshared = text.parse::<PresharedKey>();
    assert_eq!(public.is_ok(), private.is_ok());
    assert_eq!(public.is_ok(), preshared.is_ok());
    let (Ok(public), Ok(private), Ok(preshared)) = (public, private, preshared) else { return };
    assert_eq!(public.to_string(), text.trim());
    assert_eq!(private.to_base64().as_str(), text.trim());
    assert_eq!(preshared.to_base64().as_str(), text.trim());
    assert_eq!(private.public().to_string().parse(), Ok(private.public()));
}
