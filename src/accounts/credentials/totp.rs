//! Time-based one-time passwords (RFC 6238, with HMAC-SHA-1 as every authenticator expects).

use rand::{CryptoRng, Rng as _};
use totp_rs::{Algorithm, Builder, Totp};
use zeroize::Zeroizing;

use crate::accounts::names::Name;
use crate::accounts::secret::Secret;
use crate::limits::{TOTP_DIGITS, TOTP_DRIFT_STEPS, TOTP_SECRET_LEN, TOTP_STEP_S};

/// What authenticators show beside the user's name.
const ISSUER: &str = "Corelane";

/// A new random secret.
pub fn generate_secret(rng: &mut impl CryptoRng) -> Vec<u8> {
    rng.random::<[u8; TOTP_SECRET_LEN]>().to_vec()
}

/// The time step whose code `code` is, if it is one that is good at `unix_s` and was not used:
/// later than `last_step`, and at most one step before or after the present one. Of codes that are
/// the same by chance the latest step counts.
pub fn accept(secret: &[u8], code: &str, unix_s: u64, last_step: i64) -> Option<i64> {
    let code: Zeroizing<String> =
        code.chars().filter(|char| *char != ' ').collect::<String>().into();
    let plausible =
        code.len() == usize::from(TOTP_DIGITS) && code.bytes().all(|byte| byte.is_ascii_digit());
    if !plausible {
        return None;
    }
    let totp = totp(secret);
    let present = unix_s / TOTP_STEP_S;
    let steps = present.saturating_sub(TOTP_DRIFT_STEPS)..=present + TOTP_DRIFT_STEPS;
    let mut accepted = None;
    for step in steps {
        let is_right = totp.check(&code, step.saturating_mul(TOTP_STEP_S)).is_some();
        let step = i64::try_from(step).unwrap_or(i64::MAX);
        if is_right && step > last_step {
            accepted = Some(step);
        }
    }
    accepted
}

/// The code of the step that `unix_s` is in, as an authenticator shows it.
pub fn code_at(secret: &[u8], unix_s: u64) -> String {
    totp(secret).generate(unix_s).to_string()
}

/// The address that authenticators read from a QR code (`otpauth://`), with the secret in it.
pub fn address(user: &Name, secret: &[u8]) -> Secret {
    let totp = builder(secret).with_issuer(Some(ISSUER)).with_account_name(user.as_str());
    // A name has no colon and is not empty: nothing that the address cannot have.
    Secret::new(totp.build_noncompliant().to_url().unwrap_or_default())
}

fn totp(secret: &[u8]) -> Totp {
    builder(secret).build_noncompliant()
}

fn builder(secret: &[u8]) -> Builder {
    // Drift is decided step by step, so that the step that was used is known.
    Builder::new()
        .with_algorithm(Algorithm::SHA1)
        .with_digits(TOTP_DIGITS)
        .with_skew(0)
        .with_step_duration(TOTP_STEP_S)
        .with_secret(secret.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6238 appendix B, SHA-1, shortened to six digits.
    const RFC_SECRET: &[u8] = b"12345678901234567890";
    const RFC_CODES: [(u64, &str); 6] = [
        (59, "287082"),
        (1_111_111_109, "081804"),
        (1_111_111_111, "050471"),
        (1_234_567_890, "005924"),
        (2_000_000_000, "279037"),
        (20_000_000_000, "353130"),
    ];

    #[test]
    fn codes_are_those_of_rfc_6238() {
        for (unix_s, code) in RFC_CODES {
            assert_eq!(code_at(RFC_SECRET, unix_s), code);
            let step = (unix_s / TOTP_STEP_S) as i64;
            assert_eq!(accept(RFC_SECRET, code, unix_s, step - 1), Some(step));
        }
    }

    #[test]
    fn drift_and_reuse_truth_table() {
        const NOW: u64 = 1_111_111_111;
        let step = (NOW / TOTP_STEP_S) as i64;
        // (steps from now of the code, steps from now of the last code, accepted)
        let table = [
            /*  1: the present one    */ (0, -100, true),
            /*  2: one before         */ (-1, -100, true),
            /*  3: one after          */ (1, -100, true),
            /*  4: two before         */ (-2, -100, false),
            /*  5: two after          */ (2, -100, false),
            /*  6: the same again     */ (0, 0, false),
            /*  7: the one before it  */ (-1, 0, false),
            /*  8: the next           */ (1, 0, true),
            /*  9: the next again     */ (1, 1, false),
            /* 10: after the next     */ (0, 1, false),
            /* 11: the clock was set  */ (0, 1000, false),
        ];
        for (number, (of_code, of_last, accepted)) in (1..).zip(table) {
            let code = code_at(RFC_SECRET, (step + of_code) as u64 * TOTP_STEP_S);
            let outcome = accept(RFC_SECRET, &code, NOW, step + of_last);
            assert_eq!(outcome, accepted.then_some(step + of_code), "row {number}");
        }
    }

    #[test]
    fn what_is_no_code_is_refused() {
        for text in ["", "28708", "2870820", "+87082", "287o82", "٢٨٧٠٨٢", &"9".repeat(1000)]
        {
            assert_eq!(accept(RFC_SECRET, text, 59, 0), None, "{text}");
        }
        assert_eq!(accept(RFC_SECRET, "287 082", 59, 0), Some(1));
        assert_eq!(accept(&[], "287082", 59, 0), None);
        assert_eq!(accept(RFC_SECRET, "287082", u64::MAX, 0), None);
    }

    #[test]
    fn the_address_is_what_authenticators_read() {
        let address = address(&"j.doe@example.org".parse().unwrap(), RFC_SECRET);
        let text = address.expose();
        assert!(text.starts_with("otpauth://totp/Corelane:j.doe%40example.org?"), "{text}");
        assert!(text.contains("secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"), "{text}");
        assert!(text.contains("issuer=Corelane"), "{text}");
    }
}
