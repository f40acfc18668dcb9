//! The client's half of the handshake.

use std::fmt;

use rand::CryptoRng;

use crate::limits::MAC_LEN;
use crate::session::lanes::{LanePlan, Role};
use crate::wire::{
    CookieReply, Initiation, InitiationPayload, Response, ResponsePayload, SessionIndex,
};

use super::cookie::{self, Cookie};
use super::identity::LocalIdentity;
use super::kem::KemPrivateKey;
use super::keys::{PresharedKey, PublicKey};
use super::macs::{self, MacKey};
use super::noise::{NoiseHandshake, psk2};
use super::timestamp::Timestamp;
use super::{Established, HandshakeError, InitiatorParams};

/// An initiation that has been sent and may be answered.
///
/// To send another one, because the answer is late or a cookie has come, start afresh: each has its
/// own ephemeral keys and its own, newer timestamp.
pub struct PendingInitiation {
    noise: NoiseHandshake,
    kem: KemPrivateKey,
    params: InitiatorParams,
    request: Request,
    /// The key of `mac1` in messages to this side.
    mac_key: MacKey,
}

/// What of an initiation is worth keeping when another one has taken its place: it grants no
/// session any more, but an answer to it is still known for one, and a cookie in it is still good.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    server: PublicKey,
    local: SessionIndex,
    mac1: [u8; MAC_LEN],
}

impl Request {
    /// What this side called the session to be.
    pub fn local(&self) -> SessionIndex {
        self.local
    }

    /// Reads a cookie reply to the initiation. The next initiation from the same address to the
    /// same server should carry the cookie.
    ///
    /// # Errors
    /// If the datagram is no cookie reply, answers something else, or is not authentic.
    pub fn consume_cookie_reply(&self, datagram: &[u8]) -> Result<Cookie, HandshakeError> {
        let reply = CookieReply::parse(datagram)?;
        if reply.receiver != self.local {
            return Err(HandshakeError::Unexpected);
        }
        cookie::open(&self.server, &self.mac1, &reply)
    }
}

impl fmt::Debug for PendingInitiation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingInitiation").field("request", &self.request).finish_non_exhaustive()
    }
}

impl PendingInitiation {
    /// Begins a handshake with `server`: the state that waits for its answer, and the datagram to
    /// send. `cookie` is the latest that the server gave for the address it is sent from.
    ///
    /// # Errors
    /// [`HandshakeError::Invalid`] if `server` is not a usable public key.
    pub fn start(
        identity: &LocalIdentity,
        server: &PublicKey,
        params: InitiatorParams,
        local: SessionIndex,
        timestamp: Timestamp,
        cookie: Option<&Cookie>,
        rng: &mut dyn CryptoRng,
    ) -> Result<(Self, Vec<u8>), HandshakeError> {
        let mut noise = NoiseHandshake::initiator(identity, server, rng)?;
        let (kem, kem_public_key) = KemPrivateKey::generate(rng);
        let payload = InitiationPayload {
            timestamp: timestamp.as_bytes(),
            workers: params.workers,
            features: params.features,
            kem_public_key: &kem_public_key,
        };
        let message = noise.write_initiation(&payload.emit())?;

        let mut datagram = Initiation::emit(local, &message);
        let mac1 = macs::append(&mut datagram, &MacKey::of_receiver(server), cookie);
        let mac_key = identity.mac_key().clone();
        let request = Request { server: *server, local, mac1 };
        Ok((Self { noise, kem, params, request, mac_key }, datagram))
    }

    /// What this side calls the session to be.
    pub fn local(&self) -> SessionIndex {
        self.request.local
    }

    /// What to know its answers by later.
    pub fn request(&self) -> Request {
        self.request
    }

    /// Whom the initiation went to.
    pub fn server(&self) -> &PublicKey {
        &self.request.server
    }

    /// Reads the server's response and completes the handshake.
    ///
    /// # Errors
    /// If the datagram is no response, answers something else, or is not authentic. The initiation
    /// stays pending then, so a forged response cannot spoil it. What answers something else was at
    /// least made by somebody who knows this side's public key.
    pub fn consume_response(
        &mut self,
        datagram: &[u8],
        preshared: &PresharedKey,
    ) -> Result<Established, HandshakeError> {
        let response = Response::parse(datagram)?;
        if !self.mac_key.verify(response.covered_by_mac1(), response.mac1) {
            return Err(HandshakeError::MacInvalid);
        }
        if response.receiver != self.request.local || self.noise.is_finished() {
            return Err(HandshakeError::Unexpected);
        }
        let kem_secret = self.kem.decapsulate(response.kem_ciphertext);
        let psk2 = psk2(preshared, &kem_secret, response.kem_ciphertext);
        let (payload, secrets) = self.noise.read_response(&psk2, response.noise)?;
        let payload = ResponsePayload::parse(&payload)?;
        let plan = LanePlan::new(Role::Client, payload.workers, self.params.workers, payload.base)?;
        Ok(Established {
            remote_static: self.request.server,
            local: self.request.local,
            remote: response.sender,
            send_secret: secrets.initiator_to_responder,
            receive_secret: secrets.responder_to_initiator,
            plan,
            features: payload.features,
        })
    }

    /// Reads a cookie reply to it, see [`Request::consume_cookie_reply`].
    ///
    /// # Errors
    /// As there.
    pub fn consume_cookie_reply(&self, datagram: &[u8]) -> Result<Cookie, HandshakeError> {
        self.request.consume_cookie_reply(datagram)
    }
}
