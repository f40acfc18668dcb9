//! ML-KEM-768 (FIPS 203): the post-quantum half of the handshake.

use libcrux_ml_kem::mlkem768::{
    MlKem768Ciphertext, MlKem768PrivateKey, MlKem768PublicKey, decapsulate, encapsulate,
    generate_key_pair, validate_public_key,
};
use rand::CryptoRng;
use zeroize::{Zeroize, Zeroizing};

use crate::limits::{KEM_CIPHERTEXT_LEN, KEM_PUBLIC_KEY_LEN, KEY_LEN};

use super::Flaw;

/// A decapsulation key, made for one handshake. Wiped from memory when dropped.
pub(super) struct KemPrivateKey(Box<MlKem768PrivateKey>);

impl Drop for KemPrivateKey {
    fn drop(&mut self) {
        self.0[0..MlKem768PrivateKey::len()].zeroize();
    }
}

impl KemPrivateKey {
    /// A new key pair.
    pub(super) fn generate(rng: &mut dyn CryptoRng) -> (Self, [u8; KEM_PUBLIC_KEY_LEN]) {
        let mut seed = Zeroizing::new([0; 64]);
        rng.fill_bytes(&mut *seed);
        let (private, public) = generate_key_pair(*seed).into_parts();
        (Self(Box::new(private)), public.into())
    }

    /// The secret inside `ciphertext`. A ciphertext made for another key yields a random secret
    /// instead of an error, so it fails where the secret is used (FIPS 203 section 6.3).
    pub(super) fn decapsulate(
        &self,
        ciphertext: &[u8; KEM_CIPHERTEXT_LEN],
    ) -> Zeroizing<[u8; KEY_LEN]> {
        Zeroizing::new(decapsulate(&self.0, &MlKem768Ciphertext::from(ciphertext)))
    }
}

/// A new secret, and the ciphertext that takes it to the owner of `public`.
///
/// # Errors
/// [`Flaw::KemKey`] if `public` is not a well-formed key.
pub(super) fn encapsulate_to(
    public: &[u8; KEM_PUBLIC_KEY_LEN],
    rng: &mut dyn CryptoRng,
) -> Result<([u8; KEM_CIPHERTEXT_LEN], Zeroizing<[u8; KEY_LEN]>), Flaw> {
    let public = MlKem768PublicKey::from(public);
    if !validate_public_key(&public) {
        return Err(Flaw::KemKey);
    }
    let mut seed = Zeroizing::new([0; 32]);
    rng.fill_bytes(&mut *seed);
    let (ciphertext, secret) = encapsulate(&public, *seed);
    Ok((ciphertext.into(), Zeroizing::new(secret)))
}
