//! The secret of one direction of a session, and the lane keys derived from it.

use std::fmt;

use ring::aead::{AES_256_GCM, LessSafeKey, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Prk};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::limits::KEY_LEN;

/// Begins the HKDF-Expand info of a lane key; the lane number follows as one byte.
const LANE_KEY_LABEL: &[u8] = b"lane";

/// The secret from which every lane key of one direction of a session is derived.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct LaneSecret([u8; KEY_LEN]);

impl LaneSecret {
    /// Takes over a secret that a handshake has made.
    pub fn new(secret: [u8; KEY_LEN]) -> Self {
        Self(secret)
    }

    /// The AES-256-GCM key of `lane`: HKDF-Expand with SHA-256 (RFC 5869 section 2.3).
    pub fn derive(&self, lane: u8) -> LessSafeKey {
        let secret = Prk::new_less_safe(HKDF_SHA256, &self.0);
        let info = [LANE_KEY_LABEL, &[lane]];
        #[expect(clippy::expect_used, reason = "HKDF-SHA256 yields up to 8160 bytes")]
        let key = secret.expand(&info, &AES_256_GCM).expect("one key of 32 bytes");
        LessSafeKey::new(UnboundKey::from(key))
    }

    /// The secret itself, for tests that compare both ends.
    #[cfg(test)]
    pub(crate) fn expose(&self) -> &[u8; KEY_LEN] {
        &self.0
    }
}

impl fmt::Debug for LaneSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LaneSecret(..)")
    }
}
