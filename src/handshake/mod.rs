//! The handshake, without any I/O: two messages that make a session.
//!
//! `Noise_IKpsk2_25519_AESGCM_SHA256` authenticates both sides by their static X25519 keys; an
//! ML-KEM-768 exchange inside it feeds the pre-shared key slot, so a session stays secret unless
//! both X25519 and ML-KEM fall. Around Noise stand four cheaper checks: a gate that reads no more
//! than a server can (the sender asks again), `mac1` (the sender knows whom it talks to), a token
//! bucket per source with a cookie for those that outrun it (the sender owns its address), and a
//! timestamp (the initiation is not a replay; judged by the caller, who knows the peer).
//! `docs/protocol.md` specifies every byte.
//!
//! The initiator calls [`PendingInitiation::start`], then feeds answers to
//! [`consume_response`](PendingInitiation::consume_response) and
//! [`Request::consume_cookie_reply`]. The responder calls
//! [`Responder::consume_initiation`] and, once it has looked the peer up,
//! [`AcceptedInitiation::respond`]. Time and randomness are arguments throughout. What is to be a
//! secret is drawn as bytes (`fill_bytes`), what need not be one as numbers, so that the caller may
//! take them from different sources.

mod admission;
mod cookie;
#[doc(hidden)]
pub mod fuzz;
mod gate;
mod identity;
mod initiator;
mod kdf;
mod kem;
/// Private, public and pre-shared keys.
pub mod keys;
mod macs;
mod noise;
mod responder;
mod source;
mod timestamp;

#[cfg(test)]
mod tests;

use thiserror::Error;

use crate::session::keys::LaneSecret;
use crate::session::lanes::{LanePlan, PlanError};
use crate::wire::{Features, SessionIndex, WireError};

pub use cookie::Cookie;
pub use identity::LocalIdentity;
pub use initiator::{PendingInitiation, Request};
pub use responder::{AcceptedInitiation, InitiationOutcome, Responder};
pub use source::{Origin, Source};
pub use timestamp::{Timestamp, TimestampClock};

use keys::PublicKey;

/// What an initiator tells about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InitiatorParams {
    /// Its workers, which are also its paths; 1 to [`WORKERS_MAX`](crate::limits::WORKERS_MAX).
    pub workers: u8,
    /// What it takes.
    pub features: Features,
}

/// What a responder grants and tells about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponderParams {
    /// Its workers; 1 to [`WORKERS_MAX`](crate::limits::WORKERS_MAX).
    pub workers: u8,
    /// The lane of the initiator's worker 0, from
    /// [`grant_base`](crate::session::lanes::grant_base).
    pub base: u8,
    /// What it takes.
    pub features: Features,
}

/// A session, as a completed handshake leaves it on one side.
#[derive(Debug)]
pub struct Established {
    /// Who is at the far end, proved.
    pub remote_static: PublicKey,
    /// What this side calls the session.
    pub local: SessionIndex,
    /// What the far side calls it.
    pub remote: SessionIndex,
    /// Secret of the lanes that this side sends on.
    pub send_secret: LaneSecret,
    /// Secret of the lanes that this side receives on.
    pub receive_secret: LaneSecret,
    /// Who sends and receives on which lane.
    pub plan: LanePlan,
    /// What the far end takes: each of these may be used towards it.
    pub features: Features,
}

/// Why a handshake message was refused. Each variant is one drop reason of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HandshakeError {
    /// The datagram has not the layout of its type.
    #[error(transparent)]
    Datagram(#[from] WireError),
    /// `mac1` is wrong: the message is meant for another key, or its sender does not know ours.
    #[error("message is not addressed to this key (mac1)")]
    MacInvalid,
    /// More initiations come than are read, and its sender had no claim to be among those.
    #[error("more handshakes come than are read")]
    Overload,
    /// The source proved its address and sends more than one source may.
    #[error("source sends handshakes faster than it may")]
    RateLimited,
    /// The message does not authenticate or says something impossible.
    #[error("handshake message is invalid: {0}")]
    Invalid(#[from] Flaw),
    /// No initiation of ours is waiting for this answer.
    #[error("answer matches no handshake in progress")]
    Unexpected,
    /// A cookie reply that the server did not make for this initiation.
    #[error("cookie reply does not authenticate")]
    CookieInvalid,
}

/// What makes a handshake message invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Flaw {
    /// Noise refused it: wrong keys, another protocol version, a changed byte, a different
    /// pre-shared key, or a public key that yields no secret.
    #[error("it does not authenticate (keys or pre-shared key differ?)")]
    Authentication,
    /// The ML-KEM-768 key inside is not one (FIPS 203 section 7.2).
    #[error("its ML-KEM key is malformed")]
    KemKey,
    /// Worker counts and base lane do not go together.
    #[error(transparent)]
    Lanes(#[from] PlanError),
}

impl From<PlanError> for HandshakeError {
    fn from(error: PlanError) -> Self {
        Self::Invalid(Flaw::Lanes(error))
    }
}
