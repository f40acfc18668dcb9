//! Keys as people handle them: 32 bytes, written in base64 as WireGuard's tools do.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use curve25519_dalek::montgomery::MontgomeryPoint;
use rand::CryptoRng;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::limits::KEY_LEN;

/// Why a text is not a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum KeyParseError {
    /// Not base64.
    #[error("key is not base64; it is printed by `corelane key`, 44 characters that end in `=`")]
    NotBase64,
    /// Base64 of another number of bytes.
    #[error("key has {0} bytes instead of {KEY_LEN}; it is printed by `corelane key`")]
    Length(usize),
}

/// A static X25519 public key: who a peer is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey(pub [u8; KEY_LEN]);

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl FromStr for PublicKey {
    type Err = KeyParseError;

    fn from_str(text: &str) -> Result<Self, KeyParseError> {
        parse(text).map(|key| Self(**key))
    }
}

impl TryFrom<String> for PublicKey {
    type Error = KeyParseError;

    fn try_from(text: String) -> Result<Self, KeyParseError> {
        text.parse()
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> Self {
        key.to_string()
    }
}

impl PublicKey {
    /// Whether the shared secret with it is all zeros whatever the private key (RFC 7748
    /// section 6.1). Private keys are multiples of the cofactor, so one of them tells.
    pub fn is_low_order(&self) -> bool {
        MontgomeryPoint(self.0).mul_clamped([0; KEY_LEN]).to_bytes() == [0; KEY_LEN]
    }
}

/// 32 bytes that are wiped when dropped. They lie on the heap, and stay where they are when their
/// owner moves: a move would leave what was moved behind on the stack.
type Wiped = Box<Zeroizing<[u8; KEY_LEN]>>;

/// A static X25519 private key. Wiped from memory when dropped, never printed by `Debug`.
pub struct PrivateKey(Wiped);

impl PrivateKey {
    /// Takes 32 random bytes as a key. X25519 clamps them itself (RFC 7748 section 5).
    pub fn new(key: [u8; KEY_LEN]) -> Self {
        Self(Wiped::new(key.into()))
    }

    /// A new random key.
    pub fn generate(rng: &mut dyn CryptoRng) -> Self {
        let mut key = Wiped::default();
        rng.fill_bytes(&mut **key);
        Self(key)
    }

    /// The public key that belongs to it.
    pub fn public(&self) -> PublicKey {
        PublicKey(MontgomeryPoint::mul_base_clamped(**self.0).to_bytes())
    }

    /// The key in base64, to be written to a file that only its owner can read.
    pub fn to_base64(&self) -> Zeroizing<String> {
        Zeroizing::new(BASE64.encode(self.expose()))
    }

    pub(super) fn expose(&self) -> &[u8; KEY_LEN] {
        &self.0
    }
}

/// A secret that two sides share beforehand, mixed into the handshake. All zeros means none.
/// Wiped from memory when dropped, never printed by `Debug`.
#[derive(Default)]
pub struct PresharedKey(Wiped);

impl PresharedKey {
    /// Takes over 32 secret bytes.
    pub fn new(key: [u8; KEY_LEN]) -> Self {
        Self(Wiped::new(key.into()))
    }

    /// A new random key.
    pub fn generate(rng: &mut dyn CryptoRng) -> Self {
        let mut key = Wiped::default();
        rng.fill_bytes(&mut **key);
        Self(key)
    }

    /// The key in base64, to be written to a file that only its owner can read.
    pub fn to_base64(&self) -> Zeroizing<String> {
        Zeroizing::new(BASE64.encode(self.expose()))
    }

    pub(super) fn expose(&self) -> &[u8; KEY_LEN] {
        &self.0
    }
}

macro_rules! secret_key_traits {
    ($($name:ident),*) => {$(
        impl Clone for $name {
            fn clone(&self) -> Self {
                let mut key = Wiped::default();
                key.copy_from_slice(self.expose());
                Self(key)
            }
        }

        impl PartialEq for $name {
            /// Compares in constant time.
            fn eq(&self, other: &Self) -> bool {
                self.0.ct_eq(&**other.0).into()
            }
        }

        impl Eq for $name {}

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(..)"))
            }
        }

        impl FromStr for $name {
            type Err = KeyParseError;

            fn from_str(text: &str) -> Result<Self, KeyParseError> {
                parse(text).map(Self)
            }
        }
    )*};
}

secret_key_traits!(PrivateKey, PresharedKey);

/// The key that `text` spells, surrounding white space ignored.
fn parse(text: &str) -> Result<Wiped, KeyParseError> {
    let bytes = BASE64.decode(text.trim()).map_err(|_| KeyParseError::NotBase64)?;
    let bytes = Zeroizing::new(bytes);
    if bytes.len() != KEY_LEN {
        return Err(KeyParseError::Length(bytes.len()));
    }
    let mut key = Wiped::default();
    key.copy_from_slice(&bytes);
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::{KeyParseError, PresharedKey, PrivateKey, PublicKey};

    /// RFC 7748 section 6.1, Alice's key pair.
    #[test]
    fn a_public_key_is_what_rfc_7748_says() {
        let private = PrivateKey::new([
            0x77, 0x07, 0x6d, 0x0a, 0x73, 0x18, 0xa5, 0x7d, 0x3c, 0x16, 0xc1, 0x72, 0x51, 0xb2,
            0x66, 0x45, 0xdf, 0x4c, 0x2f, 0x87, 0xeb, 0xc0, 0x99, 0x2a, 0xb1, 0x77, 0xfb, 0xa5,
            0x1d, 0xb9, 0x2c, 0x2a,
        ]);
        let text = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";
        assert_eq!(private.public().to_string(), text);
        assert_eq!(text.parse(), Ok(private.public()));
    }

    #[test]
    fn keys_survive_base64() {
        let mut rng = rand::rng();
        let private = PrivateKey::generate(&mut rng);
        assert_eq!(private.to_base64().parse(), Ok(private));
        let preshared = PresharedKey::generate(&mut rng);
        assert_eq!(format!(" {}\n", *preshared.to_base64()).parse(), Ok(preshared));
    }

    #[test]
    fn texts_that_are_not_keys_are_refused() {
        let refused = |text: &str| text.parse::<PublicKey>().unwrap_err();
        assert_eq!(refused("not a key"), KeyParseError::NotBase64);
        assert_eq!(refused("AAAA"), KeyParseError::Length(3));
        assert_eq!(refused(""), KeyParseError::Length(0));
        let without_padding = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo";
        assert_eq!(refused(without_padding), KeyParseError::NotBase64);
    }

    #[test]
    fn secrets_do_not_show_in_debug_output() {
        assert_eq!(format!("{:?}", PrivateKey::new([7; 32])), "PrivateKey(..)");
        assert_eq!(format!("{:?}", PresharedKey::new([7; 32])), "PresharedKey(..)");
    }
}
