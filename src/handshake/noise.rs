//! Noise IKpsk2, by the `snow` crate, narrowed to what the handshake needs.
//!
//! Snow gets its randomness from the caller, one ephemeral key per handshake, and an X25519 that
//! refuses public keys of low order: with those the shared secret would be all zeros whatever the
//! private key (RFC 7748 section 6.1), so an attacker who knows no key could impersonate one.

use curve25519_dalek::montgomery::MontgomeryPoint;
use rand::CryptoRng;
use ring::digest::{SHA256, digest};
use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::{Cipher, Dh, Hash, Random};
use snow::{Builder, HandshakeState};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::limits::{KEM_CIPHERTEXT_LEN, KEY_LEN};
use crate::session::keys::LaneSecret;
use crate::wire::{
    INITIATION_NOISE_LEN, INITIATION_PAYLOAD_LEN, RESPONSE_NOISE_LEN, RESPONSE_PAYLOAD_LEN,
};

use super::Flaw;
use super::identity::LocalIdentity;
use super::kdf::hkdf;
use super::keys::{PresharedKey, PublicKey};

/// The Noise protocol name.
const PROTOCOL: &str = "Noise_IKpsk2_25519_AESGCM_SHA256";
/// Protocol name and version, agreed on before the first byte.
const PROLOGUE: &[u8] = b"corelane v1";
const PSK2_LABEL: &[u8] = b"corelane v1 psk2";
/// The place of the pre-shared key: after the tokens of message 2.
const PSK_SLOT: usize = 2;

/// The last pre-shared key of the pattern: what makes the session hybrid.
pub(super) type Psk2 = Zeroizing<[u8; KEY_LEN]>;

/// Mixes the ML-KEM secret, the ciphertext that carried it, and the configured pre-shared key.
pub(super) fn psk2(
    preshared: &PresharedKey,
    kem_secret: &[u8; KEY_LEN],
    kem_ciphertext: &[u8; KEM_CIPHERTEXT_LEN],
) -> Psk2 {
    let ciphertext_hash = digest(&SHA256, kem_ciphertext);
    hkdf(preshared.expose(), kem_secret, &[PSK2_LABEL, ciphertext_hash.as_ref()])
}

/// The secrets of a session by direction.
pub(super) struct Secrets {
    pub(super) initiator_to_responder: LaneSecret,
    pub(super) responder_to_initiator: LaneSecret,
}

/// One run of the handshake pattern, on either side.
pub(super) struct NoiseHandshake(HandshakeState);

impl NoiseHandshake {
    /// The initiating side, towards the owner of `responder`.
    pub(super) fn initiator(
        identity: &LocalIdentity,
        responder: &PublicKey,
        rng: &mut dyn CryptoRng,
    ) -> Result<Self, Flaw> {
        Self::build(identity, rng, |builder| {
            builder.remote_public_key(&responder.0)?.build_initiator()
        })
    }

    /// The responding side.
    pub(super) fn responder(
        identity: &LocalIdentity,
        rng: &mut dyn CryptoRng,
    ) -> Result<Self, Flaw> {
        Self::build(identity, rng, Builder::build_responder)
    }

    fn build<'a>(
        identity: &'a LocalIdentity,
        rng: &mut dyn CryptoRng,
        finish: impl FnOnce(Builder<'a>) -> Result<HandshakeState, snow::Error>,
    ) -> Result<Self, Flaw> {
        let mut ephemeral = Zeroizing::new([0; KEY_LEN]);
        rng.fill_bytes(&mut *ephemeral);
        let build = || {
            let resolver = Box::new(Resolver { ephemeral, static_public: *identity.public() });
            let builder = Builder::with_resolver(PROTOCOL.parse()?, resolver)
                .prologue(PROLOGUE)?
                .local_private_key(identity.private().expose())?;
            finish(builder)
        };
        build().map(Self).map_err(|_| Flaw::Authentication)
    }

    /// Makes message 1.
    pub(super) fn write_initiation(
        &mut self,
        payload: &[u8],
    ) -> Result<[u8; INITIATION_NOISE_LEN], Flaw> {
        self.write(payload)
    }

    /// Reads message 1: its payload and who sent it.
    pub(super) fn read_initiation(
        &mut self,
        message: &[u8; INITIATION_NOISE_LEN],
    ) -> Result<([u8; INITIATION_PAYLOAD_LEN], PublicKey), Flaw> {
        let payload = self.read(message)?;
        let sender = self.0.get_remote_static().and_then(|key| key.try_into().ok());
        Ok((payload, PublicKey(sender.ok_or(Flaw::Authentication)?)))
    }

    /// Makes message 2, which completes the handshake.
    pub(super) fn write_response(
        &mut self,
        psk2: &Psk2,
        payload: &[u8; RESPONSE_PAYLOAD_LEN],
    ) -> Result<([u8; RESPONSE_NOISE_LEN], Secrets), Flaw> {
        self.0.set_psk(PSK_SLOT, &**psk2).map_err(|_| Flaw::Authentication)?;
        Ok((self.write(payload)?, self.split()))
    }

    /// Reads message 2, which completes the handshake. After an error another message may be
    /// tried: snow takes back what a message that failed had changed.
    pub(super) fn read_response(
        &mut self,
        psk2: &Psk2,
        message: &[u8; RESPONSE_NOISE_LEN],
    ) -> Result<([u8; RESPONSE_PAYLOAD_LEN], Secrets), Flaw> {
        self.0.set_psk(PSK_SLOT, &**psk2).map_err(|_| Flaw::Authentication)?;
        Ok((self.read(message)?, self.split()))
    }

    /// Whether both messages are done.
    pub(super) fn is_finished(&self) -> bool {
        self.0.is_handshake_finished()
    }

    fn write<const LEN: usize>(&mut self, payload: &[u8]) -> Result<[u8; LEN], Flaw> {
        let mut message = [0; LEN];
        match self.0.write_message(payload, &mut message) {
            Ok(len) if len == LEN => Ok(message),
            _ => Err(Flaw::Authentication),
        }
    }

    fn read<const LEN: usize>(&mut self, message: &[u8]) -> Result<[u8; LEN], Flaw> {
        let mut payload = [0; LEN];
        match self.0.read_message(message, &mut payload) {
            Ok(len) if len == LEN => Ok(payload),
            _ => Err(Flaw::Authentication),
        }
    }

    fn split(&mut self) -> Secrets {
        let (mut first, mut second) = self.0.dangerously_get_raw_split();
        Secrets {
            initiator_to_responder: LaneSecret::take(&mut first),
            responder_to_initiator: LaneSecret::take(&mut second),
        }
    }
}

/// Hands snow its primitives.
struct Resolver {
    ephemeral: Zeroizing<[u8; KEY_LEN]>,
    static_public: PublicKey,
}

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(OneKey(Some(self.ephemeral.clone()))))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        match choice {
            DHChoice::Curve25519 => {
                let private = Zeroizing::default();
                Some(Box::new(X25519 { private, public: self.static_public.0 }))
            }
            _ => None,
        }
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}

/// The randomness of one handshake: good for one ephemeral key, then spent.
struct OneKey(Option<Zeroizing<[u8; KEY_LEN]>>);

impl Random for OneKey {
    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), snow::Error> {
        let key = self.0.take().filter(|key| key.len() == out.len()).ok_or(snow::Error::Rng)?;
        out.copy_from_slice(&*key);
        Ok(())
    }
}

/// X25519 that wipes its private key and refuses shared secrets of zeros.
struct X25519 {
    private: Zeroizing<[u8; KEY_LEN]>,
    public: [u8; KEY_LEN],
}

impl Dh for X25519 {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        KEY_LEN
    }

    fn priv_len(&self) -> usize {
        KEY_LEN
    }

    /// Snow sets the static key and nothing else. Its public half is there from the start: to
    /// compute it anew would make up a tenth of the handshake.
    fn set(&mut self, private: &[u8]) {
        self.private.copy_from_slice(private);
    }

    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), snow::Error> {
        rng.try_fill_bytes(&mut *self.private)?;
        self.public = MontgomeryPoint::mul_base_clamped(*self.private).to_bytes();
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        &self.public
    }

    fn privkey(&self) -> &[u8] {
        &*self.private
    }

    fn dh(&self, public: &[u8], out: &mut [u8]) -> Result<(), snow::Error> {
        // Snow's key buffers fit its longest curve: the key is the first 32 bytes.
        let public = public.first_chunk::<KEY_LEN>().ok_or(snow::Error::Dh)?;
        let out = out.first_chunk_mut::<KEY_LEN>().ok_or(snow::Error::Dh)?;
        let shared = MontgomeryPoint(*public).mul_clamped(*self.private).to_bytes();
        let shared = Zeroizing::new(shared);
        if shared.ct_eq(&[0; KEY_LEN]).into() {
            return Err(snow::Error::Dh);
        }
        out.copy_from_slice(&*shared);
        Ok(())
    }
}
