//! Passwords, kept as argon2id hashes (RFC 9106).
//!
//! A hash is a PHC string that names its own cost, so that old ones stay good when the cost is
//! raised. Hashing takes some 20 ms and the memory of its cost: never on the control thread.

use argon2::password_hash::phc::PasswordHash;
use argon2::{Argon2, Params, PasswordHasher as _, PasswordVerifier as _};
use rand::{CryptoRng, Rng as _};
use thiserror::Error;

use crate::accounts::secret::Secret;
use crate::limits::{
    ARGON2_MEMORY_KIB, ARGON2_PASSES, KEY_LEN, PASSWORD_LEN_MAX, PASSWORD_LEN_MIN,
};

/// Bytes of the random salt of each hash (RFC 9106 section 3.1).
const SALT_LEN: usize = 16;
/// Characters of a generated password: 20 of 32 are 100 bits.
const GENERATED_LEN: usize = 20;
/// Characters that are not taken for one another, in one case.
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

/// What one hash costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashCost {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over the memory.
    pub passes: u32,
}

impl HashCost {
    /// What new passwords are hashed with.
    pub const DEFAULT: Self = Self { memory_kib: ARGON2_MEMORY_KIB, passes: ARGON2_PASSES };
}

/// Why a text cannot be a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BadPassword {
    /// Guessed too soon.
    #[error("a password has at least {PASSWORD_LEN_MIN} characters")]
    TooShort,
    /// More than is looked at.
    #[error("a password has at most {PASSWORD_LEN_MAX} bytes")]
    TooLong,
    /// The cost that was asked for is none that argon2 knows.
    #[error("argon2 does not work with that cost")]
    Cost,
}

/// Whether `password` may be set.
///
/// # Errors
/// It is too short or too long.
pub fn check(password: &str) -> Result<(), BadPassword> {
    if password.chars().count() < PASSWORD_LEN_MIN {
        return Err(BadPassword::TooShort);
    }
    if password.len() > PASSWORD_LEN_MAX {
        return Err(BadPassword::TooLong);
    }
    Ok(())
}

/// The hash of `password` as a PHC string.
///
/// # Errors
/// `password` is too long, or `cost` is out of the bounds of RFC 9106 section 3.1.
pub fn hash(
    password: &str,
    cost: HashCost,
    rng: &mut impl CryptoRng,
) -> Result<String, BadPassword> {
    if password.len() > PASSWORD_LEN_MAX {
        return Err(BadPassword::TooLong);
    }
    let salt: [u8; SALT_LEN] = rng.random();
    let params = Params::new(cost.memory_kib, cost.passes, 1, Some(KEY_LEN));
    let argon2 = Argon2::from(params.map_err(|_| BadPassword::Cost)?);
    let hash = argon2.hash_password_with_salt(password.as_bytes(), &salt);
    hash.map(|hash| hash.to_string()).map_err(|_| BadPassword::Cost)
}

/// Whether `password` is the one that `hash` was made of. It takes as long for a wrong one.
pub fn is_right(password: &str, hash: &str) -> bool {
    // What is longer than any password has its first bytes hashed all the same, for equal times.
    let is_acceptable = password.len() <= PASSWORD_LEN_MAX;
    let looked_at = password.as_bytes().get(..PASSWORD_LEN_MAX).unwrap_or(password.as_bytes());
    let Ok(hash) = PasswordHash::new(hash) else { return false };
    Argon2::default().verify_password(looked_at, &hash).is_ok() && is_acceptable
}

/// Whether `hash` was made at a lower cost than `cost`, so that its password is to be hashed anew.
pub fn is_cheaper(hash: &str, cost: HashCost) -> bool {
    let params = PasswordHash::new(hash).ok().and_then(|hash| Params::try_from(&hash).ok());
    params.is_some_and(|it| it.m_cost() < cost.memory_kib || it.t_cost() < cost.passes)
}

/// A new random password, in groups that can be read out.
pub fn generate(rng: &mut impl CryptoRng) -> Secret {
    Secret::new(random_text(GENERATED_LEN, rng))
}

/// `len` random characters that are not taken for one another, with a dash after each five.
pub(super) fn random_text(len: usize, rng: &mut impl CryptoRng) -> String {
    let mut text = String::with_capacity(len + len / 5);
    for position in 0..len {
        if position > 0 && position.is_multiple_of(5) {
            text.push('-');
        }
        let letter = ALPHABET.get(rng.random_range(0..ALPHABET.len())).copied().unwrap_or(b'a');
        text.push(char::from(letter));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As small as argon2 allows, for tests.
    const CHEAP: HashCost = HashCost { memory_kib: 8, passes: 1 };

    #[test]
    fn a_hash_knows_its_password_its_cost_and_no_other_password() {
        let hash = hash("correct horse", CHEAP, &mut rand::rng()).unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=8,t=1,p=1$"), "{hash}");
        assert!(is_right("correct horse", &hash));
        for wrong in ["", "correct hors", "correct horse ", "Correct horse", &"x".repeat(300)] {
            assert!(!is_right(wrong, &hash), "{wrong}");
        }
        for damaged in ["", "x", "$argon2id$v=19$m=8,t=1,p=1$", "$2b$10$abc", "$argon2id$$$$$"] {
            assert!(!is_right("correct horse", damaged), "{damaged}");
        }
    }

    #[test]
    fn two_hashes_of_one_password_differ() {
        let mut rng = rand::rng();
        assert_ne!(hash("p", CHEAP, &mut rng).unwrap(), hash("p", CHEAP, &mut rng).unwrap());
    }

    #[test]
    fn what_is_longer_than_a_password_is_none_even_if_it_begins_with_one() {
        let longest = "p".repeat(PASSWORD_LEN_MAX);
        let hash_of_longest = hash(&longest, CHEAP, &mut rand::rng()).unwrap();
        assert!(is_right(&longest, &hash_of_longest));
        assert!(!is_right(&format!("{longest}p"), &hash_of_longest));
        assert_eq!(check(&format!("{longest}p")), Err(BadPassword::TooLong));
        let too_long = hash(&format!("{longest}p"), CHEAP, &mut rand::rng());
        assert_eq!(too_long, Err(BadPassword::TooLong));
    }

    #[test]
    fn generated_passwords_are_acceptable_and_differ() {
        let mut rng = rand::rng();
        let (one, other) = (generate(&mut rng), generate(&mut rng));
        assert_eq!(one.expose().len(), GENERATED_LEN + 3);
        assert_eq!(check(one.expose()), Ok(()));
        assert_ne!(one.expose(), other.expose());
        assert_eq!(check("élode12"), Err(BadPassword::TooShort));
    }

    #[test]
    fn the_cost_in_force_is_one_that_argon2_takes() {
        let hash = hash("correct horse", HashCost::DEFAULT, &mut rand::rng()).unwrap();
        assert!(hash.contains("$m=19456,t=2,p=1$"), "{hash}");
        assert!(is_right("correct horse", &hash));
    }

    #[test]
    fn a_hash_knows_whether_it_is_cheaper() {
        let cost = |memory_kib, passes| HashCost { memory_kib, passes };
        let made = hash("correct horse", cost(16, 2), &mut rand::rng()).unwrap();
        for (other, expected) in [
            (cost(16, 2), false),
            (cost(8, 1), false),
            (cost(17, 2), true),
            (cost(16, 3), true),
            (cost(8, 3), true),
        ] {
            assert_eq!(is_cheaper(&made, other), expected, "{other:?}");
        }
        assert!(!is_cheaper("no hash", cost(8, 1)), "nobody logs in by it");
    }
}
