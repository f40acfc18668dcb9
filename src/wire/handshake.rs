//! Handshake messages (types 1 to 3) and what is encrypted inside them.
//!
//! A parsed message borrows the datagram. The two macs at the end of an initiation or response each
//! cover everything in front of them, so `emit` writes the part without macs and the caller appends
//! both.

use crate::limits::{
    COOKIE_LEN, COOKIE_NONCE_LEN, KEM_CIPHERTEXT_LEN, KEM_PUBLIC_KEY_LEN, KEY_LEN, MAC_LEN,
    TAG_LEN, TIMESTAMP_LEN,
};

use super::fields::Fields;
use super::{Features, MessageType, SessionIndex, WireError};

/// The version of the protocol that this program speaks.
pub const PROTOCOL_VERSION: u8 = 1;

/// Bytes of the plaintext inside Noise message 1: timestamp, workers, features, KEM key.
pub const INITIATION_PAYLOAD_LEN: usize = TIMESTAMP_LEN + 1 + 4 + KEM_PUBLIC_KEY_LEN;
/// Bytes of Noise message 1: ephemeral key, sealed static key, sealed payload.
pub const INITIATION_NOISE_LEN: usize =
    KEY_LEN + (KEY_LEN + TAG_LEN) + (INITIATION_PAYLOAD_LEN + TAG_LEN);
/// Bytes of a handshake initiation.
pub const INITIATION_LEN: usize = 8 + INITIATION_NOISE_LEN + 2 * MAC_LEN;

/// Bytes of the plaintext inside Noise message 2: workers, base lane, features.
pub const RESPONSE_PAYLOAD_LEN: usize = 1 + 1 + 4;
/// Bytes of Noise message 2: ephemeral key, sealed payload.
pub const RESPONSE_NOISE_LEN: usize = KEY_LEN + (RESPONSE_PAYLOAD_LEN + TAG_LEN);
/// Bytes of a handshake response.
pub const RESPONSE_LEN: usize = 12 + KEM_CIPHERTEXT_LEN + RESPONSE_NOISE_LEN + 2 * MAC_LEN;

/// Bytes of a cookie reply.
pub const COOKIE_REPLY_LEN: usize = 8 + COOKIE_NONCE_LEN + COOKIE_LEN + TAG_LEN;

const _: () = {
    assert!(RESPONSE_LEN <= INITIATION_LEN, "no amplification");
    assert!(COOKIE_REPLY_LEN <= INITIATION_LEN, "no amplification");
    assert!(INITIATION_LEN + 40 + 8 <= 1500, "an initiation fits an outer IPv6 packet");
};

/// A handshake initiation, type 1.
#[derive(Clone, Copy, Debug)]
pub struct Initiation<'a> {
    /// What the initiator calls the session to be.
    pub sender: SessionIndex,
    /// Noise message 1.
    pub noise: &'a [u8; INITIATION_NOISE_LEN],
    /// Proof that the sender knows whom it talks to.
    pub mac1: &'a [u8; MAC_LEN],
    /// Proof that the sender owns its address, or zeros.
    pub mac2: &'a [u8; MAC_LEN],
    covered_by_mac1: &'a [u8],
    covered_by_mac2: &'a [u8],
}

impl<'a> Initiation<'a> {
    /// Reads an initiation.
    ///
    /// # Errors
    /// If its length, type, version or reserved bytes are wrong.
    pub fn parse(datagram: &'a [u8]) -> Result<Self, WireError> {
        let mut fields = Fields::exactly::<INITIATION_LEN>(datagram)?;
        fields.message_type(MessageType::Initiation as u8)?;
        match fields.byte()? {
            PROTOCOL_VERSION => (),
            other => return Err(WireError::UnknownVersion(other)),
        }
        fields.reserved::<2>()?;
        Ok(Self {
            sender: SessionIndex(fields.u32()?),
            noise: fields.take()?,
            mac1: fields.take()?,
            mac2: fields.take()?,
            covered_by_mac1: &datagram[..INITIATION_LEN - 2 * MAC_LEN],
            covered_by_mac2: &datagram[..INITIATION_LEN - MAC_LEN],
        })
    }

    /// The bytes in front of `mac1`.
    pub fn covered_by_mac1(&self) -> &'a [u8] {
        self.covered_by_mac1
    }

    /// The bytes in front of `mac2`.
    pub fn covered_by_mac2(&self) -> &'a [u8] {
        self.covered_by_mac2
    }

    /// Writes an initiation up to where the macs begin.
    pub fn emit(sender: SessionIndex, noise: &[u8; INITIATION_NOISE_LEN]) -> Vec<u8> {
        let mut out = Vec::with_capacity(INITIATION_LEN);
        out.extend([MessageType::Initiation as u8, PROTOCOL_VERSION, 0, 0]);
        out.extend(sender.0.to_be_bytes());
        out.extend(noise);
        out
    }
}

/// A handshake response, type 2.
#[derive(Clone, Copy, Debug)]
pub struct Response<'a> {
    /// What the responder calls the session.
    pub sender: SessionIndex,
    /// What the initiator calls it.
    pub receiver: SessionIndex,
    /// The ML-KEM-768 ciphertext for the key inside the initiation.
    pub kem_ciphertext: &'a [u8; KEM_CIPHERTEXT_LEN],
    /// Noise message 2.
    pub noise: &'a [u8; RESPONSE_NOISE_LEN],
    /// Proof that the sender knows whom it talks to.
    pub mac1: &'a [u8; MAC_LEN],
    /// Reserved for an initiator under load; written as zeros and not looked at.
    pub mac2: &'a [u8; MAC_LEN],
    covered_by_mac1: &'a [u8],
}

impl<'a> Response<'a> {
    /// Reads a response.
    ///
    /// # Errors
    /// If its length, type or reserved bytes are wrong.
    pub fn parse(datagram: &'a [u8]) -> Result<Self, WireError> {
        let mut fields = Fields::exactly::<RESPONSE_LEN>(datagram)?;
        fields.message_type(MessageType::Response as u8)?;
        fields.reserved::<3>()?;
        Ok(Self {
            sender: SessionIndex(fields.u32()?),
            receiver: SessionIndex(fields.u32()?),
            kem_ciphertext: fields.take()?,
            noise: fields.take()?,
            mac1: fields.take()?,
            mac2: fields.take()?,
            covered_by_mac1: &datagram[..RESPONSE_LEN - 2 * MAC_LEN],
        })
    }

    /// The bytes in front of `mac1`.
    pub fn covered_by_mac1(&self) -> &'a [u8] {
        self.covered_by_mac1
    }

    /// Writes a response up to where the macs begin.
    pub fn emit(
        sender: SessionIndex,
        receiver: SessionIndex,
        kem_ciphertext: &[u8; KEM_CIPHERTEXT_LEN],
        noise: &[u8; RESPONSE_NOISE_LEN],
    ) -> Vec<u8> {
        let mut out = Vec::with_capacity(RESPONSE_LEN);
        out.extend([MessageType::Response as u8, 0, 0, 0]);
        out.extend(sender.0.to_be_bytes());
        out.extend(receiver.0.to_be_bytes());
        out.extend(kem_ciphertext);
        out.extend(noise);
        out
    }
}

/// A cookie reply, type 3.
#[derive(Clone, Copy, Debug)]
pub struct CookieReply<'a> {
    /// The sender index of the initiation that it answers.
    pub receiver: SessionIndex,
    /// Salt of the key that seals the cookie.
    pub nonce: &'a [u8; COOKIE_NONCE_LEN],
    /// The cookie, sealed.
    pub sealed: &'a [u8; COOKIE_LEN + TAG_LEN],
}

impl<'a> CookieReply<'a> {
    /// Reads a cookie reply.
    ///
    /// # Errors
    /// If its length, type or reserved bytes are wrong.
    pub fn parse(datagram: &'a [u8]) -> Result<Self, WireError> {
        let mut fields = Fields::exactly::<COOKIE_REPLY_LEN>(datagram)?;
        fields.message_type(MessageType::CookieReply as u8)?;
        fields.reserved::<3>()?;
        Ok(Self {
            receiver: SessionIndex(fields.u32()?),
            nonce: fields.take()?,
            sealed: fields.take()?,
        })
    }

    /// Writes the reply.
    pub fn emit(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(COOKIE_REPLY_LEN);
        out.extend([MessageType::CookieReply as u8, 0, 0, 0]);
        out.extend(self.receiver.0.to_be_bytes());
        out.extend(self.nonce);
        out.extend(self.sealed);
        out
    }
}

/// What an initiation carries encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InitiationPayload<'a> {
    /// TAI64N time of sending, against replay.
    pub timestamp: &'a [u8; TIMESTAMP_LEN],
    /// The client's workers, which are also its paths.
    pub workers: u8,
    /// What the client takes.
    pub features: Features,
    /// The client's ML-KEM-768 encapsulation key, made for this handshake.
    pub kem_public_key: &'a [u8; KEM_PUBLIC_KEY_LEN],
}

impl<'a> InitiationPayload<'a> {
    /// Reads the payload. Values are not judged here.
    ///
    /// # Errors
    /// If its length is wrong.
    pub fn parse(payload: &'a [u8]) -> Result<Self, WireError> {
        let mut fields = Fields::exactly::<INITIATION_PAYLOAD_LEN>(payload)?;
        Ok(Self {
            timestamp: fields.take()?,
            workers: fields.byte()?,
            features: Features::from_bits_truncate(fields.u32()?),
            kem_public_key: fields.take()?,
        })
    }

    /// Writes the payload.
    pub fn emit(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(INITIATION_PAYLOAD_LEN);
        out.extend(self.timestamp);
        out.push(self.workers);
        out.extend(self.features.bits().to_be_bytes());
        out.extend(self.kem_public_key);
        out
    }
}

/// What a response carries encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponsePayload {
    /// The server's workers.
    pub workers: u8,
    /// The lane of the client's worker 0.
    pub base: u8,
    /// What the server takes.
    pub features: Features,
}

impl ResponsePayload {
    /// Reads the payload. Values are not judged here.
    ///
    /// # Errors
    /// If its length is wrong.
    pub fn parse(payload: &[u8]) -> Result<Self, WireError> {
        let mut fields = Fields::exactly::<RESPONSE_PAYLOAD_LEN>(payload)?;
        Ok(Self {
            workers: fields.byte()?,
            base: fields.byte()?,
            features: Features::from_bits_truncate(fields.u32()?),
        })
    }

    /// Writes the payload.
    pub fn emit(&self) -> [u8; RESPONSE_PAYLOAD_LEN] {
        let [f0, f1, f2, f3] = self.features.bits().to_be_bytes();
        [self.workers, self.base, f0, f1, f2, f3]
    }
}
