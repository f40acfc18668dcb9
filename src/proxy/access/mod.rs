//! Who may use the gateway, and what they may do there.
//!
//! A client shows who it is; the accounts decide, on threads of theirs, and the answer comes to the
//! worker like that to any other question. What was decided is remembered for a while under a keyed
//! hash of what was shown and the source that showed it, so that a page of a hundred pictures costs
//! one hash of a password. The accounts mark a pass that is no longer good, which is looked at each
//! time; a thread of the gateway has connections closed that rest on it.

mod cache;
mod member;
mod permit;
mod watch;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use crossbeam_channel::Receiver;
use ipnet::IpNet;
use rand::TryRngCore as _;
use rand::rngs::OsRng;
use ring::hmac;

use crate::accounts::model::Id;
use crate::accounts::names::Name;
use crate::accounts::refusal::Refusal;
use crate::accounts::service::{Accounts, DestinationMoved, Notice, Pass, PassAttempt, PassProof};
use crate::handshake::Source;
use crate::limits::KEY_LEN;
use crate::policy::{Defaults, PeerPolicy, SharedPolicies};
use crate::sys::clock;

use cache::{Cache, Found, Key};
pub use member::{Member, MemberSeat, TooMany};
pub use permit::Permit;
pub(super) use watch::Watch;

/// What a gateway needs of a server that has accounts.
#[derive(Clone)]
pub struct AccessOptions {
    /// They decide.
    pub accounts: Accounts,
    /// Those of the tunnel, so that a user has one rate for both.
    pub policies: SharedPolicies<Name>,
    /// What holds where no rule matches.
    pub defaults: Defaults,
    /// The inner addresses of the tunnel's clients, who are kept apart.
    pub pools: Vec<IpNet>,
}

/// What became of showing who one is.
pub type Outcome = Result<Arc<Permit>, Refusal>;

/// What somebody has shown, and from where, in a form that tells nobody what it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown(Key);

/// Where people show who they are. Cheap to clone.
#[derive(Clone)]
pub struct Access {
    accounts: Accounts,
    shared: Arc<Shared>,
}

/// Without the accounts: their threads hold this, and must not be the last to hold them.
struct Shared {
    /// So that what is remembered is of no use to whoever reads the memory.
    key: hmac::Key,
    cache: Mutex<Cache>,
    permits: Mutex<HashMap<Id, Weak<Permit>>>,
    members: Mutex<HashMap<Id, Arc<Member>>>,
    policies: SharedPolicies<Name>,
    defaults: Defaults,
    pools: Arc<[IpNet]>,
}

/// What a user has moved since it was last asked.
struct Moved {
    user: Id,
    up: u64,
    down: u64,
    /// Of what is over, where that is kept.
    destinations: Vec<DestinationMoved>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code that holds one of these locks leaves it half-changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Access {
    /// Nobody has shown anything yet.
    ///
    /// # Errors
    /// The kernel has no random numbers.
    pub fn new(options: AccessOptions) -> std::io::Result<Self> {
        let mut key = zeroize::Zeroizing::new([0; KEY_LEN]);
        OsRng.try_fill_bytes(key.as_mut_slice()).map_err(std::io::Error::other)?;
        let shared = Shared {
            key: hmac::Key::new(hmac::HMAC_SHA256, key.as_slice()),
            cache: Mutex::default(),
            permits: Mutex::default(),
            members: Mutex::default(),
            policies: options.policies,
            defaults: options.defaults,
            pools: options.pools.into(),
        };
        Ok(Self { accounts: options.accounts, shared: Arc::new(shared) })
    }

    /// What becomes of passes from now on.
    pub(super) fn notices(&self) -> Receiver<Notice> {
        self.accounts.subscribe()
    }

    /// What was shown from there, to be compared with what was shown before.
    pub fn seal(&self, from: IpAddr, proof: &PassProof) -> Shown {
        Shown(self.shared.key_of(from, proof))
    }

    /// Says who somebody is, if that is known; otherwise `answer` is called with it later, from
    /// another thread or this one.
    pub fn ask(
        &self,
        now: Instant,
        from: IpAddr,
        proof: PassProof,
        answer: impl FnOnce(Outcome) + Send + 'static,
    ) -> Option<Arc<Permit>> {
        let key = self.shared.key_of(from, &proof);
        match lock(&self.shared.cache).find(key, now, Box::new(answer)) {
            Found::Known(permit) => return Some(permit),
            Found::Asked => return None,
            Found::Unknown => {}
        }
        let shared = Arc::clone(&self.shared);
        let settle = move |outcome| shared.settle(key, outcome);
        self.accounts.ask_for_pass(PassAttempt { from, proof }, Box::new(settle));
        None
    }
}

impl Shared {
    /// What was shown, and from where, in a form that tells nobody what it was. Lengths keep the
    /// parts apart.
    fn key_of(&self, from: IpAddr, proof: &PassProof) -> Key {
        let mut hash = hmac::Context::with_key(&self.key);
        let mut rest = Some(proof);
        while let Some(proof) = rest.take() {
            let (kind, user, secret) = match proof {
                PassProof::Password { user, password } => (0, user.as_str(), password),
                PassProof::Token(token) => (1, "", token),
                PassProof::Certificate { shown, with } => {
                    hash.update(&[2]);
                    hash.update(&shown.fingerprint);
                    rest = with.as_deref();
                    continue;
                }
            };
            hash.update(&[kind]);
            hash.update(&(user.len() as u64).to_be_bytes());
            hash.update(user.as_bytes());
            hash.update(secret.expose().as_bytes());
        }
        let mut shown = [0; 32];
        shown.copy_from_slice(hash.sign().as_ref());
        Key { source: Source::from(from), shown }
    }

    fn settle(&self, key: Key, outcome: Result<Arc<Pass>, Refusal>) {
        let outcome = outcome.map(|pass| self.permit_of(pass));
        let waiting = lock(&self.cache).settle(key, outcome.as_ref().ok(), clock::now());
        for answer in waiting {
            answer(outcome.clone());
        }
    }

    fn permit_of(&self, pass: Arc<Pass>) -> Arc<Permit> {
        let member = {
            let mut members = lock(&self.members);
            let new = || Arc::new(Member::new(pass.user, pass.name.clone()));
            Arc::clone(members.entry(pass.user).or_insert_with(new))
        };
        // Whoever is told of other terms meanwhile waits for this, and then finds the permit.
        let mut permits = lock(&self.permits);
        let policy = self.compile(&pass);
        let permit = Permit::new(pass, member, policy, Arc::clone(&self.pools));
        let permit = Arc::new(permit);
        permits.insert(permit.id(), Arc::downgrade(&permit));
        permit
    }

    fn compile(&self, pass: &Pass) -> Arc<PeerPolicy> {
        let terms = pass.terms();
        let (bounds, acl) = (&terms.bounds, &terms.acl);
        self.policies.compile(clock::now(), &pass.name, bounds, acl, self.defaults)
    }

    /// Other terms hold for a pass.
    fn renew(&self, pass: &Pass) {
        let permits = lock(&self.permits);
        if let Some(permit) = permits.get(&pass.id).and_then(Weak::upgrade) {
            permit.set_policy(self.compile(pass));
        }
    }

    /// Forgets what nobody needs any more. Returns what each member has moved.
    fn sweep(&self, now: Instant) -> Vec<Moved> {
        lock(&self.cache).sweep(now);
        lock(&self.permits).retain(|_, permit| permit.strong_count() > 0);
        let mut moved = Vec::new();
        lock(&self.members).retain(|user, member| {
            // Whoever is alone now stays alone: others come by way of this table. What it has moved
            // is looked at afterwards.
            let is_alone = Arc::strong_count(member) == 1;
            std::sync::atomic::fence(std::sync::atomic::Ordering::Acquire);
            let ((up, down), destinations) = (member.take_moved(), member.take_destinations());
            if (up, down) != (0, 0) || !destinations.is_empty() {
                moved.push(Moved { user: *user, up, down, destinations });
            }
            !is_alone
        });
        moved
    }
}

impl std::fmt::Debug for Access {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Access")
    }
}

#[cfg(test)]
mod tests;
