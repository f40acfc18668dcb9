//! Passes: what lets somebody use the proxy gateway.
//!
//! A client of the proxy shows a user and a password, or a token, with every connection, and can be
//! asked for nothing more. So a password is enough only where it would be enough for the tunnel: a
//! user with a secret for codes, and everybody at a server that wants more than a password, needs a
//! token that was made for the proxy. Such a token also goes in the place of the password, for
//! clients that know no other.
//!
//! A certificate that was issued to a user and is listed here shows by itself who the client is.
//! Whether it is enough is what the server wants to see of logins; where it wants a password as
//! well, both are shown. Any other certificate proves nothing: whoever made it may be asked for one
//! by the gateway, but not for who somebody is.
//!
//! A pass is good until what it rests on changes. Whoever holds one can see that at any time; a
//! [`Notice`](super::Notice) tells that connections are to be closed.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Instant;

use rand::CryptoRng;
use subtle::ConstantTimeEq as _;

use crate::accounts::book::Book;
use crate::accounts::change::Change;
use crate::accounts::credentials::backoff::{Claimant, LoginSource};
use crate::accounts::credentials::demand::{LoginPolicy, Proof, ProofSet};
use crate::accounts::credentials::token;
use crate::accounts::model::{Certificate, Id, SessionEnd, Token, TokenScope, UnixMs, User};
use crate::accounts::names::Name;
use crate::accounts::refusal::Refusal;
use crate::accounts::secret::Secret;
use crate::accounts::service::attempt::ShownCertificate;
use crate::accounts::service::calendar::Moment;
use crate::accounts::service::judge::PasswordCheck;
use crate::accounts::service::state::State;
use crate::policy::acl::AclRule;
use crate::policy::bounds::Bounds;

/// Somebody wants to use the proxy.
#[derive(Clone, Debug)]
pub struct PassAttempt {
    /// From where.
    pub from: IpAddr,
    /// What shows who it is.
    pub proof: PassProof,
}

/// What a client of the proxy can show.
#[derive(Clone, Debug)]
pub enum PassProof {
    /// A user, and a password or a token.
    Password {
        /// Who it claims to be.
        user: String,
        /// What is to prove it.
        password: Secret,
    },
    /// A token, which says by itself whose it is.
    Token(Secret),
    /// A client certificate that TLS has verified.
    Certificate {
        /// The certificate.
        shown: Box<ShownCertificate>,
        /// One of the others, if that was shown, too.
        with: Option<Box<Self>>,
    },
}

impl PassProof {
    /// The certificate, if one was shown.
    pub(super) fn certificate(&self) -> Option<&ShownCertificate> {
        match self {
            Self::Certificate { shown, .. } => Some(shown),
            Self::Password { .. } | Self::Token(_) => None,
        }
    }

    /// What else was shown.
    pub(super) fn secret(&self) -> Option<&Self> {
        match self {
            Self::Certificate { with, .. } => with.as_deref(),
            secret => Some(secret),
        }
    }

    /// Who that is said to be, if it says so by itself.
    pub(super) fn claimed(&self) -> Option<&str> {
        match self.secret() {
            Some(Self::Password { user, .. }) => Some(user),
            _ => self.certificate().map(|shown| shown.user.as_str()),
        }
    }
}

/// Where the outcome goes. It is called once, from a thread of the accounts, and is not to block.
pub type PassAnswer = Box<dyn FnOnce(Result<Arc<Pass>, Refusal>) + Send>;

/// Somebody may use the proxy, for as long as the pass has not ended.
#[derive(Debug)]
pub struct Pass {
    /// Which.
    pub id: Id,
    /// Whose.
    pub user: Id,
    /// What people call that user.
    pub name: Name,
    /// When it ends by itself, with the token or the certificate that it rests on.
    pub expires: Option<Instant>,
    end: OnceLock<SessionEnd>,
    terms: Mutex<Arc<PassTerms>>,
}

/// What holds for whoever has a pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassTerms {
    /// How fast, how much, how many.
    pub bounds: Bounds,
    /// What may be reached.
    pub acl: Vec<AclRule>,
    /// The groups that the user is in.
    pub groups: Vec<Name>,
}

impl Pass {
    /// Whether it is no longer good.
    pub fn has_ended(&self) -> bool {
        self.end.get().is_some()
    }

    /// Why it is no longer good, if it is not.
    pub fn end(&self) -> Option<SessionEnd> {
        self.end.get().copied()
    }

    /// What holds now.
    pub fn terms(&self) -> Arc<PassTerms> {
        Arc::clone(&self.terms.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A pass as the accounts keep it: for as long as somebody else does.
#[derive(Debug)]
pub(super) struct LivePass {
    pass: Weak<Pass>,
    basis: Basis,
}

/// What a pass rests on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Basis {
    /// The password that this is the hash of.
    Password(String),
    /// This token.
    Token(Id),
    /// This certificate.
    Certificate {
        shown: ShownCertificate,
        /// And this.
        with: Option<Box<Self>>,
    },
}

impl Basis {
    fn certificate(&self) -> Option<&ShownCertificate> {
        match self {
            Self::Certificate { shown, .. } => Some(shown),
            Self::Password(_) | Self::Token(_) => None,
        }
    }

    /// What it rests on besides a certificate.
    fn secret(&self) -> Option<&Self> {
        match self {
            Self::Certificate { with, .. } => with.as_deref(),
            secret => Some(secret),
        }
    }

    fn token(&self) -> Option<Id> {
        match self.secret() {
            Some(Self::Token(token)) => Some(*token),
            _ => None,
        }
    }

    /// The password has another hash from now on.
    fn follow_rehash(&mut self, was: &str, is: &str) {
        match self {
            Self::Password(hash) if hash == was => is.clone_into(hash),
            Self::Certificate { with: Some(with), .. } => with.follow_rehash(was, is),
            _ => {}
        }
    }
}

/// What became of the passes of some users.
#[derive(Debug)]
pub(super) enum PassFate {
    /// One is no longer good.
    Ended,
    /// Other terms hold.
    Changed,
}

/// What somebody has shown, of which nothing is said yet of whether it is right.
pub(super) struct Shown {
    /// Whom failures are charged to.
    pub(super) claimant: Claimant,
    /// A password, unless it is a token, and the hash to check it against, unless there is none.
    pub(super) password: Option<(Secret, Option<String>)>,
}

impl Shown {
    pub(super) fn of(state: &State, attempt: &PassAttempt) -> Self {
        let source = LoginSource::from(attempt.from);
        let mut claimant = Claimant { source, user: None, known_device: None, known_source: false };
        let Some(PassProof::Password { user: claimed, password }) = attempt.proof.secret() else {
            return Self { claimant, password: None };
        };
        if state.book.token_with_hash(&token::hash(password.expose())).is_some() {
            return Self { claimant, password: None };
        }
        let name = claimed.parse::<Name>().ok();
        let user = name.as_ref().and_then(|name| state.book.user_named(name));
        claimant.known_source = user.is_some_and(|it| state.familiar.contains(it.id, source));
        let hash = user.and_then(|user| user.password.clone());
        claimant.user = name;
        Self { claimant, password: Some((password.clone(), hash)) }
    }
}

/// Decides whether a proof, the password of which has been checked, is good. The error is for the
/// audit log alone.
pub(super) fn judge<'a>(
    book: &'a Book,
    policy: &LoginPolicy,
    proof: &PassProof,
    password: &PasswordCheck,
    now: UnixMs,
) -> Result<(&'a User, Basis), &'static str> {
    let by_secret =
        proof.secret().map(|secret| judge_secret(book, secret, password)).transpose()?;
    let listed = proof.certificate().and_then(|shown| Some((shown, listed(book, shown)?)));
    let (user, basis) = match (by_secret, listed) {
        (None, None) => return Err(UNLISTED_CERTIFICATE),
        (Some(found), None) => found,
        (by_secret, Some((shown, listed))) => {
            let owner = book.user_named(&listed.user).ok_or("unknown user")?;
            if by_secret.as_ref().is_some_and(|(user, _)| user.id != owner.id) {
                return Err("proofs of two users");
            }
            let with = by_secret.map(|(_, basis)| Box::new(basis));
            (owner, Basis::Certificate { shown: shown.clone(), with })
        }
    };
    why_not(book, policy, user, &basis, now).map_or(Ok((user, basis)), Err)
}

/// A certificate that the accounts do not know.
const UNLISTED_CERTIFICATE: &str = "unlisted certificate";
/// A certificate where more than that is wanted.
const CERTIFICATE_ALONE: &str = "a certificate alone, where more is needed";

/// Whether the audit log is to tell that nobody got in for this reason. Nobody has failed who shows
/// a certificate that does not do alone: the client is asked for more.
pub(super) fn is_noted(reason: &str) -> bool {
    ![UNLISTED_CERTIFICATE, CERTIFICATE_ALONE].contains(&reason)
}

/// The same certificate as the accounts list it, if they do.
fn listed<'a>(book: &'a Book, shown: &ShownCertificate) -> Option<&'a Certificate> {
    let listed = book.certificate(&shown.serial)?;
    let is_same: bool = listed.fingerprint.ct_eq(&shown.fingerprint).into();
    (is_same && listed.user.as_str() == shown.user).then_some(listed)
}

/// Whose a password or a token is.
fn judge_secret<'a>(
    book: &'a Book,
    proof: &PassProof,
    password: &PasswordCheck,
) -> Result<(&'a User, Basis), &'static str> {
    let by_name = |name: &str| name.parse().ok().and_then(|name| book.user_named(&name));
    Ok(match (proof, password) {
        (PassProof::Password { user, .. }, PasswordCheck::Right { hash, .. }) => {
            let user = by_name(user).ok_or("unknown user")?;
            if user.password.as_ref() != Some(hash) {
                return Err("wrong password");
            }
            (user, Basis::Password(hash.clone()))
        }
        (PassProof::Password { .. }, PasswordCheck::Wrong) => return Err("wrong password"),
        (PassProof::Password { user, password: secret }, PasswordCheck::NotShown) => {
            let (token, owner) = owner_of(book, secret)?;
            if by_name(user).is_none_or(|user| user.id != owner.id) {
                return Err("token of another user");
            }
            (owner, Basis::Token(token.id))
        }
        (PassProof::Token(secret), _) => {
            let (token, owner) = owner_of(book, secret)?;
            (owner, Basis::Token(token.id))
        }
        // Neither of the two.
        (PassProof::Certificate { .. }, _) => return Err(UNLISTED_CERTIFICATE),
    })
}

fn owner_of<'a>(book: &'a Book, secret: &Secret) -> Result<(&'a Token, &'a User), &'static str> {
    let token = book.token_with_hash(&token::hash(secret.expose())).ok_or("unknown token")?;
    let owner = book.user(token.user).ok_or("unknown token")?;
    Ok((token, owner))
}

/// Why a pass of `user` that rests on `basis` is not good, if it is not.
fn why_not(
    book: &Book,
    policy: &LoginPolicy,
    user: &User,
    basis: &Basis,
    now: UnixMs,
) -> Option<&'static str> {
    if user.disabled {
        return Some("disabled user");
    }
    let wrong = basis.secret().and_then(|secret| why_not_secret(book, user, secret, now));
    let certificate = || why_not_certificate(book, basis.certificate()?, now);
    let too_little = || (!is_enough(policy, user, basis)).then(|| what_is_missing(basis));
    wrong.or_else(certificate).or_else(too_little)
}

fn why_not_secret(book: &Book, user: &User, basis: &Basis, now: UnixMs) -> Option<&'static str> {
    match basis {
        Basis::Password(hash) => (user.password.as_ref() != Some(hash)).then_some("wrong password"),
        Basis::Token(id) => {
            let Some(token) = book.token(*id).filter(|token| token.user == user.id) else {
                return Some("unknown token");
            };
            if token.scope != TokenScope::Proxy {
                return Some("token that is not for the proxy");
            }
            token.expires.is_some_and(|expires| expires <= now).then_some("expired token")
        }
        Basis::Certificate { .. } => None,
    }
}

fn why_not_certificate(book: &Book, shown: &ShownCertificate, now: UnixMs) -> Option<&'static str> {
    let Some(listed) = listed(book, shown) else { return Some(UNLISTED_CERTIFICATE) };
    if listed.revoked.is_some() {
        return Some("revoked certificate");
    }
    // TLS has looked when the connection was made, which may be a while ago.
    (listed.expires.min(shown.not_after) <= now).then_some("expired certificate")
}

/// Whether it is what the server wants to see. A token that was made for the proxy always is; a
/// code can be asked for nowhere.
fn is_enough(policy: &LoginPolicy, user: &User, basis: &Basis) -> bool {
    let mut shown = BTreeSet::new();
    shown.extend(basis.certificate().map(|_| Proof::Certificate));
    match basis.secret() {
        Some(Basis::Token(_)) => return true,
        Some(_) => drop(shown.insert(Proof::Password)),
        None => {}
    }
    let has_codes = user.totp_secret.is_some();
    let needs_code = |alternative: &ProofSet| {
        alternative.contains(Proof::Totp) || (has_codes && alternative.contains(Proof::Password))
    };
    policy.within_reach(&shown).any(|alternative| !needs_code(alternative))
}

fn what_is_missing(basis: &Basis) -> &'static str {
    match basis {
        Basis::Certificate { with: None, .. } => CERTIFICATE_ALONE,
        Basis::Certificate { .. } => {
            "a certificate and a password, where a code or more is needed: use a token"
        }
        _ => "a password alone, where a code or more is needed: use a token",
    }
}

impl State {
    /// Makes a pass for `user`, and what is to be written of it.
    pub(super) fn issue_pass(
        &mut self,
        user: &User,
        basis: Basis,
        now: Moment,
        rng: &mut impl CryptoRng,
    ) -> (Arc<Pass>, Vec<Change>) {
        let terms = self.terms_of(user);
        let mut changes = Vec::new();
        let mut expires = basis.certificate().map(|shown| {
            listed(&self.book, shown).map_or(shown.not_after, |it| it.expires.min(shown.not_after))
        });
        if let Some(token) = basis.token() {
            changes.push(Change::TokenUsed { token, at: now.unix });
            let until = self.book.token(token).and_then(|token| token.expires);
            expires = expires.into_iter().chain(until).min();
        }
        // What is further away than any clock tells of has no end.
        let expires = expires.and_then(|until| {
            let lasts_ms = u64::try_from(until.0.saturating_sub(now.unix.0)).unwrap_or(0);
            now.instant.checked_add(std::time::Duration::from_millis(lasts_ms))
        });
        let pass = Arc::new(Pass {
            id: Id::generate(rng),
            user: user.id,
            name: user.name.clone(),
            expires,
            end: OnceLock::new(),
            terms: Mutex::new(Arc::new(terms)),
        });
        self.passes.insert(pass.id, LivePass { pass: Arc::downgrade(&pass), basis });
        (pass, changes)
    }

    /// A password that was hashed anew is still the same password.
    pub(super) fn follow_rehash(&mut self, change: &Change) {
        let Change::PasswordRehashed { user, hashes } = change else { return };
        for live in self.passes.values_mut() {
            if live.pass.upgrade().is_some_and(|pass| pass.user == *user) {
                live.basis.follow_rehash(&hashes.was, &hashes.is);
            }
        }
    }

    /// Looks at the passes for which `concerns` holds: ends those that are no longer good, and has
    /// others get new terms. Those that nobody holds any more are forgotten.
    pub(super) fn review_passes(
        &mut self,
        policy: &LoginPolicy,
        now: Moment,
        concerns: impl Fn(&Pass) -> bool,
    ) -> Vec<(Arc<Pass>, PassFate)> {
        let mut fates = Vec::new();
        let mut passes = std::mem::take(&mut self.passes);
        passes.retain(|_, live| {
            let Some(pass) = live.pass.upgrade() else { return false };
            if !concerns(&pass) {
                return true;
            }
            if let Some(end) = self.end_of(policy, &pass, &live.basis, now) {
                // It is set here alone, and what has ended is looked at no more.
                let _ = pass.end.set(end);
                fates.push((pass, PassFate::Ended));
                return false;
            }
            if self.renew_terms(&pass) {
                fates.push((pass, PassFate::Changed));
            }
            true
        });
        self.passes = passes;
        fates
    }

    /// Why a pass is no longer good, if it is not.
    fn end_of(
        &self,
        policy: &LoginPolicy,
        pass: &Pass,
        basis: &Basis,
        now: Moment,
    ) -> Option<SessionEnd> {
        let Some(user) = self.book.user(pass.user) else { return Some(SessionEnd::Revoked) };
        if why_not(&self.book, policy, user, basis, now.unix).is_some() {
            return Some(SessionEnd::Revoked);
        }
        let (bounds, _) = self.book.policy_of(user);
        let is_used_up =
            self.quota_exceeded(user.id, &bounds, self.unwritten_of(user.id), now.unix);
        is_used_up.then_some(SessionEnd::QuotaExceeded)
    }

    /// What holds for a user.
    fn terms_of(&self, user: &User) -> PassTerms {
        let (bounds, acl) = self.book.policy_of(user);
        PassTerms { bounds, acl, groups: user.groups.iter().cloned().collect() }
    }

    /// Returns whether the terms are others now.
    fn renew_terms(&self, pass: &Pass) -> bool {
        let Some(user) = self.book.user(pass.user) else { return false };
        let now = self.terms_of(user);
        let mut terms = pass.terms.lock().unwrap_or_else(PoisonError::into_inner);
        let is_other = **terms != now;
        if is_other {
            *terms = Arc::new(now);
        }
        is_other
    }
}
