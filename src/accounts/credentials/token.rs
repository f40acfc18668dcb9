//! Tokens: random secrets that stand for a user. Only their hashes are kept.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use rand::{CryptoRng, Rng as _};
use ring::digest::{SHA256, digest};
use zeroize::Zeroizing;

use crate::accounts::secret::Secret;
use crate::limits::KEY_LEN;

/// What a token begins with, so that scanners of repositories and logs know one.
const PREFIX: &str = "clane_";

/// A new token and its hash.
pub fn generate(rng: &mut impl CryptoRng) -> (Secret, [u8; 32]) {
    let bytes = Zeroizing::new(rng.random::<[u8; KEY_LEN]>());
    let text = format!("{PREFIX}{}", *Zeroizing::new(BASE64.encode(*bytes)));
    let hash = hash(&text);
    (Secret::new(text), hash)
}

/// What is kept of a token. The secret has 256 random bits, so that a plain hash cannot be
/// reversed, and its place in a table of hashes tells nothing.
pub fn hash(token: &str) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_random_and_its_hash_is_that_of_its_text() {
        let mut rng = rand::rng();
        let (one, one_hash) = generate(&mut rng);
        let (other, other_hash) = generate(&mut rng);
        assert!(one.expose().starts_with(PREFIX));
        assert_eq!(one.expose().len(), PREFIX.len() + 43);
        assert_eq!(hash(one.expose()), one_hash);
        assert_ne!(one.expose(), other.expose());
        assert_ne!(one_hash, other_hash);
    }
}
