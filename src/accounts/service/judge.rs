//! Whether somebody is who they claim to be.
//!
//! A function of what was shown and what is known; passwords have been hashed before. Whoever
//! cannot prove who he is gets [`denied`], which is the same for everybody, and only the audit log
//! is told more.

use std::collections::{BTreeSet, HashMap};

use subtle::ConstantTimeEq as _;

use crate::accounts::book::Book;
use crate::accounts::credentials::demand::{LoginPolicy, Proof, ProofSet};
use crate::accounts::credentials::{recovery, token, totp};
use crate::accounts::model::{Id, SessionEnd, TokenScope, UnixMs, User};
use crate::accounts::refusal::{Refusal, RefusalCode};
use crate::accounts::service::attempt::{LoginAttempt, ShownCertificate};
use crate::accounts::service::claims::Claim;
use crate::accounts::service::desk::refusal_of;
use crate::accounts::store::{Claimed, OneTime};
use crate::limits::{BUSY_RETRY_AFTER, TOTP_DRIFT_STEPS, TOTP_STEP_S};

/// What became of the password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PasswordCheck {
    /// None was shown.
    NotShown,
    /// It is not the user's, or there is no such user.
    Wrong,
    /// It is the one that this hash was made of.
    Right {
        /// The hash, as the user had it when it was checked.
        hash: String,
        /// Another of the same password, if new passwords cost more by now.
        anew: Option<String>,
    },
}

/// Somebody who has proved who they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identified {
    /// Who.
    pub(super) user: Id,
    /// The token that was shown.
    pub(super) token: Option<Id>,
    /// The certificate that was shown.
    pub(super) certificate: Option<ShownCertificate>,
    /// The code that is used up by this.
    pub(super) code: Option<UsedCode>,
}

/// A code that is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UsedCode {
    /// The time-based code of a step.
    Totp(i64),
    /// The recovery code with this hash.
    Recovery([u8; 32]),
}

/// Why somebody was not let in: what they are told, and what the audit log is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NotProved {
    /// For them.
    pub(super) refusal: Refusal,
    /// For the administrator.
    pub(super) reason: &'static str,
}

/// What everybody is told who cannot prove who they are.
pub(super) fn denied() -> Refusal {
    Refusal::new(
        RefusalCode::Denied,
        "the login was refused: user name, password, code, token or certificate are wrong, or the \
         account is not in use (the server's audit log says which)",
    )
}

fn not_proved(reason: &'static str) -> NotProved {
    NotProved { refusal: denied(), reason }
}

/// Whether what was shown, right or wrong, can be enough at all. It does not depend on who the
/// user is.
pub(super) fn ensure_enough(
    policy: &LoginPolicy,
    shown: &BTreeSet<Proof>,
) -> Result<(), NotProved> {
    if policy.within_reach(shown).next().is_some() {
        return Ok(());
    }
    let (code, reason) = match policy.wants_certificate(shown) {
        true => (RefusalCode::CertificateNeeded, "no certificate"),
        false => (RefusalCode::Denied, "too few proofs"),
    };
    let message = format!("the login has shown too little: this server wants {policy}");
    Err(NotProved { refusal: Refusal::new(code, message), reason })
}

/// What a login is judged by.
#[derive(Clone, Copy)]
pub(super) struct Case<'a> {
    pub(super) book: &'a Book,
    /// Time steps of the last codes that were used at this server.
    pub(super) codes_used: &'a HashMap<Id, i64>,
    pub(super) policy: &'a LoginPolicy,
}

/// Decides on a login whose password has been checked.
pub(super) fn judge(
    case: &Case<'_>,
    attempt: &LoginAttempt,
    password: &PasswordCheck,
    now: UnixMs,
) -> Result<Identified, NotProved> {
    let Case { book, policy, .. } = *case;
    ensure_enough(policy, &attempt.shown())?;
    let user = claimed_user(book, attempt)?;
    // Each proof that was shown has to be right, also one that is not needed.
    let certificate = check_certificate(book, attempt, user, now)?;
    let token = check_token(book, attempt, user, now)?;
    match password {
        PasswordCheck::NotShown => {}
        PasswordCheck::Right { hash, .. } if user.password.as_ref() == Some(hash) => {}
        PasswordCheck::Wrong | PasswordCheck::Right { .. } => {
            return Err(not_proved("wrong password"));
        }
    }
    if user.disabled {
        return Err(not_proved("disabled user"));
    }
    let code = check_code(case, attempt, user, now)?;
    Ok(Identified { user: user.id, token, certificate, code })
}

/// The one user that everything that was shown speaks of.
pub(super) fn claimed_user<'a>(
    book: &'a Book,
    attempt: &LoginAttempt,
) -> Result<&'a User, NotProved> {
    let by_name = |name: &str| name.parse().ok().and_then(|name| book.user_named(&name));
    let by_token = |secret: &str| {
        book.token_with_hash(&token::hash(secret)).and_then(|token| book.user(token.user))
    };
    let claims = [
        (attempt.user.as_deref().map(by_name), "unknown user"),
        (attempt.certificate.as_ref().map(|shown| by_name(&shown.user)), "unknown user"),
        (attempt.token.as_ref().map(|token| by_token(token.expose())), "unknown token"),
    ];
    let mut user: Option<&User> = None;
    for (claim, reason) in claims.into_iter().filter_map(|(claim, why)| Some((claim?, why))) {
        let claimed = claim.ok_or_else(|| not_proved(reason))?;
        if user.is_some_and(|user| user.id != claimed.id) {
            return Err(not_proved("proofs of two users"));
        }
        user = Some(claimed);
    }
    user.ok_or_else(|| not_proved("no user"))
}

fn check_certificate(
    book: &Book,
    attempt: &LoginAttempt,
    user: &User,
    now: UnixMs,
) -> Result<Option<ShownCertificate>, NotProved> {
    let Some(shown) = &attempt.certificate else { return Ok(None) };
    // TLS has verified that the CA issued it. One that is not listed was issued elsewhere.
    let known = book.certificate(&shown.serial);
    if let Some(known) = known {
        let is_the_same: bool = known.fingerprint.ct_eq(&shown.fingerprint).into();
        if !is_the_same || known.user != user.name {
            return Err(not_proved("another certificate with that serial number"));
        }
        if known.revoked.is_some() {
            return Err(not_proved("revoked certificate"));
        }
    }
    let expires = known.map_or(shown.not_after, |known| known.expires.min(shown.not_after));
    // TLS has looked when the connection was made, which may be a while ago.
    if expires <= now {
        let refusal = refusal_of(SessionEnd::CertificateExpired);
        return Err(NotProved { refusal, reason: "expired certificate" });
    }
    Ok(Some(shown.clone()))
}

fn check_token(
    book: &Book,
    attempt: &LoginAttempt,
    user: &User,
    now: UnixMs,
) -> Result<Option<Id>, NotProved> {
    let Some(shown) = &attempt.token else { return Ok(None) };
    let known = book.token_with_hash(&token::hash(shown.expose()));
    let known =
        known.filter(|token| token.user == user.id).ok_or_else(|| not_proved("unknown token"))?;
    if known.expires.is_some_and(|expires| expires <= now) {
        return Err(not_proved("expired token"));
    }
    let device = known.device.and_then(|device| book.device(device));
    match known.scope {
        TokenScope::Tunnel | TokenScope::Invite => {}
        TokenScope::Device => {
            if device.is_none_or(|device| device.public_key != attempt.device_key) {
                return Err(not_proved("token of another device"));
            }
        }
        TokenScope::Proxy => return Err(not_proved("token for the proxy only")),
    }
    Ok(Some(known.id))
}

/// Whether one of the alternatives is fulfilled, if need be by the code, which is used up then. A
/// user with a secret for codes needs one with every password.
fn check_code(
    case: &Case<'_>,
    attempt: &LoginAttempt,
    user: &User,
    now: UnixMs,
) -> Result<Option<UsedCode>, NotProved> {
    let needs_code = |alternative: &ProofSet| {
        alternative.contains(Proof::Totp)
            || (alternative.contains(Proof::Password) && user.totp_secret.is_some())
    };
    if case.policy.within_reach(&attempt.shown()).any(|alternative| !needs_code(alternative)) {
        return Ok(None);
    }
    let Some(code) = &attempt.code else {
        let message = "a code is needed as well: the six digits of your authenticator, or a \
                       recovery code";
        let refusal = Refusal::new(RefusalCode::CodeNeeded, message);
        return Err(NotProved { refusal, reason: "no code" });
    };
    let unix_s = u64::try_from(now.0).unwrap_or(0) / 1000;
    let secret =
        user.totp_secret.as_ref().ok_or_else(|| not_proved("no secret for codes is set up"))?;
    let last_step = last_step(case, user, unix_s);
    if let Some(step) = totp::accept(secret, code.expose(), unix_s, last_step) {
        return Ok(Some(UsedCode::Totp(step)));
    }
    if let Some(hash) = recovery::find(code.expose(), &user.recovery_codes) {
        return Ok(Some(UsedCode::Recovery(hash)));
    }
    // A replay is worth telling apart from a mistake.
    match totp::accept(secret, code.expose(), unix_s, i64::MIN) {
        Some(_) => Err(not_proved("a code that was used before")),
        None => Err(not_proved("wrong code")),
    }
}

/// The time step up to which codes are used up. One that lies in the future was noted while a clock
/// was wrong: it would keep the user out until then, so what was used here since the start counts
/// instead.
fn last_step(case: &Case<'_>, user: &User, unix_s: u64) -> i64 {
    let newest = i64::try_from(unix_s / TOTP_STEP_S + TOTP_DRIFT_STEPS).unwrap_or(i64::MAX);
    let used_here = case.codes_used.get(&user.id).copied().filter(|step| *step <= newest);
    let stored = Some(user.totp_last_step).filter(|step| *step <= newest);
    used_here.max(stored).unwrap_or(i64::MIN)
}

/// What of a login is good once: it has to be claimed where servers share a database.
pub(super) fn one_time(book: &Book, who: &Identified) -> Option<OneTime> {
    let user = who.user;
    if let Some(code) = who.code {
        return Some(match code {
            UsedCode::Totp(step) => OneTime::Totp { user, step },
            UsedCode::Recovery(hash) => OneTime::RecoveryCode { user, hash },
        });
    }
    let token = who.token.and_then(|token| book.token(token))?;
    (token.scope == TokenScope::Invite).then_some(OneTime::Invite(token.id))
}

/// Whether a login may go on by what is good once, after the database has been asked about it.
///
/// While it is away, a time-based code lets in only a device that the user has registered: whoever
/// has seen the code uses it in vain at another server, without the private key of that device.
/// Invites and recovery codes, which stay good for long, have to wait.
pub(super) fn ensure_claimed(
    book: &Book,
    attempt: &LoginAttempt,
    who: &Identified,
    what: OneTime,
    claim: Claim,
) -> Result<(), NotProved> {
    match claim {
        Claim::Answered(Claimed::Ours) => return Ok(()),
        Claim::Answered(Claimed::Others) => {
            return Err(match what {
                OneTime::Invite(_) => not_proved("an invite that was used at another server"),
                _ => not_proved("a code that was used at another server"),
            });
        }
        Claim::Answered(Claimed::Unknown) | Claim::Away | Claim::NotAsked => {}
    }
    let device = book.device_with_key(&attempt.device_key);
    let is_registered = device.is_some_and(|device| device.user == who.user);
    if claim == Claim::Away && is_registered && matches!(what, OneTime::Totp { .. }) {
        return Ok(());
    }
    let what = match what {
        OneTime::Invite(_) => "an invite",
        OneTime::RecoveryCode { .. } => "a recovery code",
        OneTime::Totp { .. } => "a code from a new device",
    };
    let message = format!(
        "{what} cannot be taken while the server's database is away, since it could have been used \
         at another server: try again"
    );
    let refusal = Refusal::for_now(RefusalCode::Busy, message, BUSY_RETRY_AFTER);
    Err(NotProved { refusal, reason: "the database cannot be asked what was used elsewhere" })
}
