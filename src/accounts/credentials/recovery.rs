//! Recovery codes: each stands once for a time-based code that cannot be had.

use rand::CryptoRng;
use ring::digest::{SHA256, digest};
use subtle::{Choice, ConstantTimeEq as _};

use crate::accounts::credentials::password::random_text;
use crate::accounts::secret::Secret;
use crate::limits::RECOVERY_CODES;

/// Characters of a code: 20 of 32 are 100 bits, so that its hash needs no salt and no effort.
const LEN: usize = 20;

/// New codes, and their hashes in the same order.
pub fn generate(rng: &mut impl CryptoRng) -> (Vec<Secret>, Vec<[u8; 32]>) {
    let codes: Vec<_> = (0..RECOVERY_CODES).map(|_| random_text(LEN, rng)).collect();
    let hashes = codes.iter().map(|code| hash(code)).collect();
    (codes.into_iter().map(Secret::new).collect(), hashes)
}

/// The one of `hashes` that is that of `code`.
pub fn find(code: &str, hashes: &[[u8; 32]]) -> Option<[u8; 32]> {
    let hash = hash(code);
    let mut is_known = Choice::from(0);
    for known in hashes {
        is_known |= known.ct_eq(&hash);
    }
    bool::from(is_known).then_some(hash)
}

/// Dashes, blanks and the case do not count.
fn hash(code: &str) -> [u8; 32] {
    let counts = |char: &char| char.is_ascii_alphanumeric();
    let plain: zeroize::Zeroizing<String> = code
        .chars()
        .filter(counts)
        .map(|char| char.to_ascii_lowercase())
        .collect::<String>()
        .into();
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, plain.as_bytes()).as_ref());
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_found_however_it_is_typed() {
        let (codes, hashes) = generate(&mut rand::rng());
        assert_eq!((codes.len(), hashes.len()), (RECOVERY_CODES, RECOVERY_CODES));
        for (code, hash) in codes.iter().zip(&hashes) {
            let code = code.expose();
            assert_eq!(find(code, &hashes), Some(*hash));
            let typed = code.replace('-', " ").to_uppercase();
            assert_eq!(find(&typed, &hashes), Some(*hash));
            assert_eq!(find(&code[1..], &hashes), None);
        }
        assert_eq!(find("", &hashes), None);
    }
}
