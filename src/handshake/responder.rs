//! The server's half of the handshake.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use rand::CryptoRng;

use crate::limits::{KEM_PUBLIC_KEY_LEN, MAC_LEN, WORKERS_MAX};
use crate::session::lanes::{LanePlan, PlanError, Role};
use crate::wire::{Initiation, InitiationPayload, Response, ResponsePayload, SessionIndex};

use super::admission::{Admission, SourceLimiter};
use super::cookie::CookieJar;
use super::gate::Gate;
use super::identity::LocalIdentity;
use super::kem;
use super::keys::{PresharedKey, PublicKey};
use super::macs::{self, MacKey};
use super::noise::{NoiseHandshake, psk2};
use super::source::Origin;
use super::timestamp::Timestamp;
use super::{Established, HandshakeError, InitiatorParams, ResponderParams};

/// Takes initiations in.
pub struct Responder {
    identity: Arc<LocalIdentity>,
    cookies: CookieJar,
    /// For initiations that claim to prove their address.
    claims: Gate,
    /// For those that do not.
    plain: Gate,
    limiter: SourceLimiter,
}

impl fmt::Debug for Responder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Responder").field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// What became of an initiation.
#[derive(Debug)]
pub enum InitiationOutcome {
    /// It was not looked at: send this cookie reply back and count a cookie demanded.
    Reply(Vec<u8>),
    /// It is dropped.
    Drop(HandshakeError),
    /// It is authentic: look the peer up, check the timestamp, then
    /// [respond](AcceptedInitiation::respond).
    Accepted(Box<AcceptedInitiation>),
}

impl Responder {
    /// A responder with fresh cookie secrets and no sources known.
    pub fn new(identity: Arc<LocalIdentity>, now: Instant, rng: &mut dyn CryptoRng) -> Self {
        Self {
            identity,
            cookies: CookieJar::new(now, rng),
            claims: Gate::new(now, rng),
            plain: Gate::new(now, rng),
            limiter: SourceLimiter::new(now),
        }
    }

    /// Judges a datagram of type 1 that came from `from`.
    ///
    /// The checks stand in order of cost: layout, the gate, `mac1`, the source's rate and, once
    /// that or what all unproved sources share is used up, proof of its address. Only then come the
    /// two X25519 operations of Noise message 1.
    pub fn consume_initiation(
        &mut self,
        now: Instant,
        from: SocketAddr,
        datagram: &[u8],
        rng: &mut dyn CryptoRng,
    ) -> InitiationOutcome {
        let initiation = match Initiation::parse(datagram) {
            Ok(initiation) => initiation,
            Err(error) => return InitiationOutcome::Drop(error.into()),
        };
        let claims = *initiation.mac2 != [0; MAC_LEN];
        let gate = if claims { &mut self.claims } else { &mut self.plain };
        if !gate.lets_in(now, from.ip()) {
            return InitiationOutcome::Drop(HandshakeError::Overload);
        }
        if !self.identity.mac_key().verify(initiation.covered_by_mac1(), initiation.mac1) {
            return InitiationOutcome::Drop(HandshakeError::MacInvalid);
        }
        self.cookies.refresh(now, rng);
        let proves_address =
            || self.cookies.verify(from, initiation.covered_by_mac2(), initiation.mac2);
        match self.limiter.admit(now, from, proves_address) {
            Admission::Admit => (),
            Admission::Refuse => return InitiationOutcome::Drop(HandshakeError::RateLimited),
            Admission::Challenge => {
                let public = self.identity.public();
                let (receiver, mac1) = (initiation.sender, initiation.mac1);
                return InitiationOutcome::Reply(
                    self.cookies.reply(public, from, receiver, mac1, rng),
                );
            }
        }
        match AcceptedInitiation::read(&self.identity, &initiation, rng) {
            Ok(accepted) => InitiationOutcome::Accepted(Box::new(accepted)),
            Err(error) => InitiationOutcome::Drop(error),
        }
    }

    /// A peer was granted the session that it asked for from `origin`: whoever else comes from
    /// nearby, it may ask for the next one from there. The caller keeps one for each peer, and
    /// [takes it back](Self::remove_regular) when it has another or the peer is gone.
    pub fn add_regular(&mut self, now: Instant, origin: Origin) {
        self.limiter.add_regular(now, origin);
    }

    /// Takes back what was added.
    pub fn remove_regular(&mut self, origin: Origin) {
        self.limiter.remove_regular(origin);
    }
}

/// An initiation whose sender has proved to own its static key.
///
/// It may still be a replay, or come from a key that nobody has admitted: the caller judges both
/// before it responds.
pub struct AcceptedInitiation {
    /// Who sent it.
    pub peer: PublicKey,
    /// When, by the sender's clock; must be newer than the last from the same peer.
    pub timestamp: Timestamp,
    /// What the sender calls the session.
    pub remote: SessionIndex,
    /// What the sender tells about itself.
    pub params: InitiatorParams,
    noise: NoiseHandshake,
    pub(super) kem_public_key: [u8; KEM_PUBLIC_KEY_LEN],
}

impl fmt::Debug for AcceptedInitiation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AcceptedInitiation")
            .field("peer", &self.peer)
            .field("remote", &self.remote)
            .finish_non_exhaustive()
    }
}

impl AcceptedInitiation {
    fn read(
        identity: &LocalIdentity,
        initiation: &Initiation<'_>,
        rng: &mut dyn CryptoRng,
    ) -> Result<Self, HandshakeError> {
        let mut noise = NoiseHandshake::responder(identity, rng)?;
        let (payload, peer) = noise.read_initiation(initiation.noise)?;
        let payload = InitiationPayload::parse(&payload)?;
        if payload.workers == 0 || usize::from(payload.workers) > WORKERS_MAX {
            return Err(PlanError::Workers(payload.workers).into());
        }
        Ok(Self {
            peer,
            timestamp: Timestamp::from_bytes(*payload.timestamp),
            remote: initiation.sender,
            params: InitiatorParams { workers: payload.workers, features: payload.features },
            noise,
            kem_public_key: *payload.kem_public_key,
        })
    }

    /// Grants the session, which this side will call `local`: the datagram to send back, and the
    /// session. It is confirmed by the first packet that arrives on it; until then the initiator
    /// may not have the response, so an earlier session stays in use.
    ///
    /// # Errors
    /// [`HandshakeError::Invalid`] if the sender's ML-KEM key is malformed, or `params` and the
    /// sender's workers make no lane plan.
    pub fn respond(
        mut self,
        local: SessionIndex,
        preshared: &PresharedKey,
        params: ResponderParams,
        rng: &mut dyn CryptoRng,
    ) -> Result<(Vec<u8>, Established), HandshakeError> {
        let plan = LanePlan::new(Role::Server, params.workers, self.params.workers, params.base)?;
        let (kem_ciphertext, kem_secret) = kem::encapsulate_to(&self.kem_public_key, rng)?;
        let psk2 = psk2(preshared, &kem_secret, &kem_ciphertext);
        let payload = ResponsePayload {
            workers: params.workers,
            base: params.base,
            features: params.features,
        };
        let (message, secrets) = self.noise.write_response(&psk2, &payload.emit())?;

        let mut datagram = Response::emit(local, self.remote, &kem_ciphertext, &message);
        macs::append(&mut datagram, &MacKey::of_receiver(&self.peer), None);
        let established = Established {
            remote_static: self.peer,
            local,
            remote: self.remote,
            send_secret: secrets.responder_to_initiator,
            receive_secret: secrets.initiator_to_responder,
            plan,
            features: self.params.features,
        };
        Ok((datagram, established))
    }
}
