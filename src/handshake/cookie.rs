//! Cookies: how a sender proves that it receives at the address it sends from.
//!
//! A cookie is a MAC of the sender's address and port under a secret that the responder replaces
//! every [`COOKIE_SECRET_LIFE`]; making or checking one needs no memory of the sender. It travels
//! sealed under a key that only holders of the responder's public key can derive, from a fresh
//! random salt each time, so no key meets its (constant) nonce twice however many replies leave.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use rand::CryptoRng;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::limits::{COOKIE_LEN, COOKIE_NONCE_LEN, COOKIE_SECRET_LIFE, KEY_LEN, MAC_LEN, TAG_LEN};
use crate::wire::{CookieReply, SessionIndex};

use super::HandshakeError;
use super::kdf::hkdf;
use super::keys::PublicKey;
use super::macs::MacKey;

const COOKIE_KEY_LABEL: &[u8] = b"corelane v1 cookie";

/// Proof of an address: the key of `mac2` in initiations sent from it.
///
/// Good for at least [`COOKIE_SECRET_LIFE`] after it was made. A stale one does no harm, it brings
/// a new cookie reply.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Cookie([u8; COOKIE_LEN]);

impl Cookie {
    pub(super) fn mac_key(&self) -> MacKey {
        MacKey::new(&self.0)
    }
}

impl fmt::Debug for Cookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cookie(..)")
    }
}

/// The responder's secrets: the one that makes cookies and the one before it, still honoured.
pub(super) struct CookieJar {
    current: Zeroizing<[u8; KEY_LEN]>,
    previous: Zeroizing<[u8; KEY_LEN]>,
    made: Instant,
}

impl CookieJar {
    /// A jar with fresh secrets.
    pub(super) fn new(now: Instant, rng: &mut dyn CryptoRng) -> Self {
        Self { current: random_secret(rng), previous: random_secret(rng), made: now }
    }

    /// Replaces secrets that are too old.
    pub(super) fn refresh(&mut self, now: Instant, rng: &mut dyn CryptoRng) {
        let age = now.saturating_duration_since(self.made);
        if age < COOKIE_SECRET_LIFE {
            return;
        }
        let fresh = random_secret(rng);
        self.previous = std::mem::replace(&mut self.current, fresh);
        if age >= 2 * COOKIE_SECRET_LIFE {
            self.previous = random_secret(rng);
        }
        self.made = now;
    }

    /// The cookie of a sender.
    fn cookie(&self, from: SocketAddr) -> Cookie {
        cookie_under(&self.current, from)
    }

    /// Whether `mac2` over `covered` was made with a cookie that this jar gave to `from`.
    pub(super) fn verify(&self, from: SocketAddr, covered: &[u8], mac2: &[u8; MAC_LEN]) -> bool {
        // Both are always computed, so timing does not tell which secret made the cookie.
        let [current, previous] = [&self.current, &self.previous]
            .map(|secret| cookie_under(secret, from).mac_key().verify(covered, mac2));
        current | previous
    }

    /// The cookie reply to an initiation from `from` that carried `mac1`.
    pub(super) fn reply(
        &self,
        own: &PublicKey,
        from: SocketAddr,
        receiver: SessionIndex,
        mac1: &[u8; MAC_LEN],
        rng: &mut dyn CryptoRng,
    ) -> Vec<u8> {
        let mut nonce = [0; COOKIE_NONCE_LEN];
        for word in nonce.as_chunks_mut().0 {
            *word = rng.next_u64().to_le_bytes();
        }
        let sealed = seal(own, &nonce, mac1, &self.cookie(from));
        CookieReply { receiver, nonce: &nonce, sealed: &sealed }.emit()
    }
}

/// Opens the cookie in a reply from `responder` to an initiation that carried `mac1`.
///
/// # Errors
/// [`HandshakeError::CookieInvalid`] if it was not made for that initiation.
pub(super) fn open(
    responder: &PublicKey,
    mac1: &[u8; MAC_LEN],
    reply: &CookieReply<'_>,
) -> Result<Cookie, HandshakeError> {
    let mut sealed = *reply.sealed;
    let cookie = reply_key(responder, reply.nonce)
        .open_in_place(zero_nonce(), Aad::from(mac1), &mut sealed)
        .map_err(|_| HandshakeError::CookieInvalid)?;
    let cookie = <[u8; COOKIE_LEN]>::try_from(&*cookie);
    sealed.zeroize();
    cookie.map(Cookie).map_err(|_| HandshakeError::CookieInvalid)
}

fn seal(
    own: &PublicKey,
    nonce: &[u8; COOKIE_NONCE_LEN],
    mac1: &[u8; MAC_LEN],
    cookie: &Cookie,
) -> [u8; COOKIE_LEN + TAG_LEN] {
    let mut sealed = [0; COOKIE_LEN + TAG_LEN];
    let (text, tag) = sealed.split_at_mut(COOKIE_LEN);
    text.copy_from_slice(&cookie.0);
    #[expect(clippy::expect_used, reason = "AES-GCM seals up to 64 GiB")]
    let computed = reply_key(own, nonce)
        .seal_in_place_separate_tag(zero_nonce(), Aad::from(mac1), text)
        .expect("16 bytes seal");
    tag.copy_from_slice(computed.as_ref());
    sealed
}

fn reply_key(responder: &PublicKey, nonce: &[u8; COOKIE_NONCE_LEN]) -> LessSafeKey {
    let key = hkdf(nonce, &responder.0, &[COOKIE_KEY_LABEL]);
    #[expect(clippy::expect_used, reason = "an AES-256 key has 32 bytes")]
    let key = UnboundKey::new(&AES_256_GCM, &*key).expect("key of 32 bytes");
    LessSafeKey::new(key)
}

/// Each key of a cookie reply seals once, so its nonce may be constant.
fn zero_nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; NONCE_LEN])
}

/// HMAC-SHA256-128 of the address (4 or 16 bytes) and the port (2 bytes).
fn cookie_under(secret: &[u8; KEY_LEN], from: SocketAddr) -> Cookie {
    let mut source = Vec::with_capacity(18);
    match from.ip().to_canonical() {
        IpAddr::V4(address) => source.extend(address.octets()),
        IpAddr::V6(address) => source.extend(address.octets()),
    }
    source.extend(from.port().to_be_bytes());
    Cookie(MacKey::new(secret).mac(&source))
}

fn random_secret(rng: &mut dyn CryptoRng) -> Zeroizing<[u8; KEY_LEN]> {
    let mut secret = Zeroizing::new([0; KEY_LEN]);
    rng.fill_bytes(&mut *secret);
    secret
}
