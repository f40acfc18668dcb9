//! Passes: what lets somebody use the proxy gateway.
//!
//! A client of the proxy shows a user and a password, or a token, with every connection, and can be
//! asked for nothing more. So a password is enough only where it would be enough for the tunnel: a
//! user with a secret for codes, and everybody at a server that wants more than a password, needs a
//! token that was made for the proxy. Such a token also goes in the place of the password, for
//! clients that know no other.
//!
//! A pass is good until what it rests on changes. Whoever holds one can see that at any time; a
//! [`Notice`](super::Notice) tells that connections are to be closed.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use rand::CryptoRng;

use crate::accounts::book::Book;
use crate::accounts::change::Change;
use crate::accounts::credentials::backoff::{Claimant, LoginSource};
use crate::accounts::credentials::demand::{LoginPolicy, Proof};
use crate::accounts::credentials::token;
use crate::accounts::model::{Id, Token, TokenScope, UnixMs, User};
use crate::accounts::names::Name;
use crate::accounts::refusal::Refusal;
use crate::accounts::secret::Secret;
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
    /// When it ends by itself, with the token that it rests on.
    pub expires: Option<Instant>,
    has_ended: AtomicBool,
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
        self.has_ended.load(Ordering::Acquire)
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
        let PassProof::Password { user: claimed, password } = &attempt.proof else {
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
    let by_name = |name: &str| name.parse().ok().and_then(|name| book.user_named(&name));
    let (user, basis) = match (proof, password) {
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
    };
    why_not(book, policy, user, &basis, now).map_or(Ok((user, basis)), Err)
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
    match basis {
        Basis::Password(hash) => {
            let is_enough = policy
                .within_reach(&[Proof::Password].into())
                .any(|alternative| !alternative.contains(Proof::Totp));
            if user.password.as_ref() != Some(hash) {
                return Some("wrong password");
            }
            (user.totp_secret.is_some() || !is_enough)
                .then_some("a password alone, where a code or more is needed: use a token")
        }
        Basis::Token(id) => {
            let Some(token) = book.token(*id).filter(|token| token.user == user.id) else {
                return Some("unknown token");
            };
            if token.scope != TokenScope::Proxy {
                return Some("token that is not for the proxy");
            }
            token.expires.is_some_and(|expires| expires <= now).then_some("expired token")
        }
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
        let mut expires = None;
        if let Basis::Token(token) = basis {
            changes.push(Change::TokenUsed { token, at: now.unix });
            let until = self.book.token(token).and_then(|token| token.expires);
            expires = until.map(|until| {
                let lasts_ms = u64::try_from(until.0.saturating_sub(now.unix.0)).unwrap_or(0);
                now.instant + std::time::Duration::from_millis(lasts_ms)
            });
        }
        let pass = Arc::new(Pass {
            id: Id::generate(rng),
            user: user.id,
            name: user.name.clone(),
            expires,
            has_ended: AtomicBool::new(false),
            terms: Mutex::new(Arc::new(terms)),
        });
        self.passes.insert(pass.id, LivePass { pass: Arc::downgrade(&pass), basis });
        (pass, changes)
    }

    /// A password that was hashed anew is still the same password.
    pub(super) fn follow_rehash(&mut self, change: &Change) {
        let Change::PasswordRehashed { user, hashes } = change else { return };
        let was = Basis::Password(hashes.was.clone());
        for live in self.passes.values_mut() {
            if live.basis == was && live.pass.upgrade().is_some_and(|pass| pass.user == *user) {
                live.basis = Basis::Password(hashes.is.clone());
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
            if !self.is_good(policy, &pass, &live.basis, now) {
                pass.has_ended.store(true, Ordering::Release);
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

    fn is_good(&self, policy: &LoginPolicy, pass: &Pass, basis: &Basis, now: Moment) -> bool {
        let Some(user) = self.book.user(pass.user) else { return false };
        let (bounds, _) = self.book.policy_of(user);
        let pending = self.unwritten_of(user.id);
        why_not(&self.book, policy, user, basis, now.unix).is_none()
            && !self.quota_exceeded(user.id, &bounds, pending, now.unix)
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
