//! What holds for one peer, compiled, and shared by all workers.

use std::collections::{BTreeMap, HashSet};
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use super::acl::AclRule;
use super::bounds::Bounds;
use super::bucket::Bucket;
use super::judge::{Defaults, Judge};

/// What a peer may reach, and how fast. Peers without one may do as they like.
#[derive(Clone, Debug)]
pub struct PeerPolicy {
    /// Who may talk to whom.
    pub judge: Arc<Judge>,
    /// What limits packets from the peer, shared with the other devices of its user.
    pub up: Option<Arc<Bucket>>,
    /// What limits packets to the peer.
    pub down: Option<Arc<Bucket>>,
}

/// Makes policies, and has those share what they must (the rates of one user) or may (equal
/// rules).
#[derive(Debug)]
pub struct Policies<User> {
    rates: BTreeMap<User, Rates>,
    judges: HashSet<Shared>,
    /// How many of each there may be before those are dropped that nobody uses.
    tidy_at: usize,
}

#[derive(Debug, Default)]
struct Rates {
    up: Weak<Bucket>,
    down: Weak<Bucket>,
}

/// Rules that are found by what they say.
#[derive(Debug)]
struct Shared(Arc<Judge>);

impl Deref for Shared {
    type Target = Judge;

    fn deref(&self) -> &Judge {
        &self.0
    }
}

impl std::borrow::Borrow<Judge> for Shared {
    fn borrow(&self) -> &Judge {
        self
    }
}

impl Hash for Shared {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl PartialEq for Shared {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for Shared {}

/// Entries that may be kept before it is looked which are still in use.
const TIDY_MIN: usize = 64;

impl<User: Ord + Clone> Default for Policies<User> {
    fn default() -> Self {
        Self { rates: BTreeMap::new(), judges: HashSet::new(), tidy_at: TIDY_MIN }
    }
}

impl<User: Ord + Clone> Policies<User> {
    /// The policy of a device of `user`, who has `bounds` and `rules`. All devices of a user share
    /// its rates as long as these stay the same; when they change, give each of them a new policy.
    pub fn compile(
        &mut self,
        now: Instant,
        user: &User,
        bounds: &Bounds,
        rules: &[AclRule],
        defaults: Defaults,
    ) -> Arc<PeerPolicy> {
        if self.rates.len().max(self.judges.len()) >= self.tidy_at {
            self.tidy();
        }
        let judge = Judge::new(rules, defaults);
        let judge = match self.judges.get(&judge) {
            Some(Shared(shared)) => Arc::clone(shared),
            None => {
                let judge = Arc::new(judge);
                self.judges.insert(Shared(Arc::clone(&judge)));
                judge
            }
        };
        let mut policy = PeerPolicy { judge, up: None, down: None };
        if bounds.up_bps.is_some() || bounds.down_bps.is_some() {
            let rates = self.rates.entry(user.clone()).or_default();
            policy.up = shared_bucket(&mut rates.up, now, bounds.up_bps);
            policy.down = shared_bucket(&mut rates.down, now, bounds.down_bps);
        }
        Arc::new(policy)
    }

    /// Forgets what nobody uses any more.
    fn tidy(&mut self) {
        self.rates.retain(|_, rates| rates.up.strong_count() + rates.down.strong_count() > 0);
        self.judges.retain(|Shared(judge)| Arc::strong_count(judge) > 1);
        self.tidy_at = (2 * self.rates.len().max(self.judges.len())).max(TIDY_MIN);
    }
}

/// Policies that several have made: those who move packets, and those who move bytes. Cheap to
/// clone.
#[derive(Clone, Debug)]
pub struct SharedPolicies<User>(Arc<Mutex<Policies<User>>>);

impl<User: Ord + Clone> Default for SharedPolicies<User> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<User: Ord + Clone> SharedPolicies<User> {
    /// See [`Policies::compile`].
    pub fn compile(
        &self,
        now: Instant,
        user: &User,
        bounds: &Bounds,
        rules: &[AclRule],
        defaults: Defaults,
    ) -> Arc<PeerPolicy> {
        // No code that holds the lock leaves it half-changed.
        let mut policies = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        policies.compile(now, user, bounds, rules, defaults)
    }
}

/// The bucket in use, if it has the rate that is wanted, or a new one.
fn shared_bucket(
    shared: &mut Weak<Bucket>,
    now: Instant,
    bits_per_second: Option<u64>,
) -> Option<Arc<Bucket>> {
    let wanted = bits_per_second?;
    let in_use = shared.upgrade().filter(|it| it.bits_per_second() == wanted.max(1));
    Some(in_use.unwrap_or_else(|| {
        let bucket = Arc::new(Bucket::new(wanted, now));
        *shared = Arc::downgrade(&bucket);
        bucket
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::clock;

    fn rules(texts: &[&str]) -> Vec<AclRule> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn bounds(up: u64, down: Option<u64>) -> Bounds {
        Bounds { up_bps: Some(up), down_bps: down, ..Bounds::default() }
    }

    #[test]
    fn devices_of_one_user_share_its_rates_and_equal_rules_are_kept_once() {
        let now = clock::now();
        let mut policies = Policies::default();
        let mut compile = |user, bounds, texts: &[&str]| {
            policies.compile(now, &user, &bounds, &rules(texts), Defaults::default())
        };
        let laptop = compile("ada", bounds(1000, None), &["allow any"]);
        let phone = compile("ada", bounds(1000, None), &["allow any"]);
        let other = compile("bob", bounds(1000, Some(5)), &["allow any"]);
        let same = |one: &Option<Arc<Bucket>>, two: &Option<Arc<Bucket>>| {
            Arc::ptr_eq(one.as_ref().unwrap(), two.as_ref().unwrap())
        };
        assert!(same(&laptop.up, &phone.up) && laptop.down.is_none());
        assert!(!same(&laptop.up, &other.up) && other.down.is_some());
        assert!(Arc::ptr_eq(&laptop.judge, &other.judge));

        let slower = compile("ada", bounds(10, None), &["deny any"]);
        let phone_slower = compile("ada", bounds(10, None), &["deny any"]);
        assert!(!same(&laptop.up, &slower.up) && same(&slower.up, &phone_slower.up));
        assert!(!Arc::ptr_eq(&laptop.judge, &slower.judge));
        let free = compile("ada", Bounds::default(), &[]);
        assert!(free.up.is_none() && free.down.is_none());
    }

    #[test]
    fn what_nobody_uses_is_forgotten() {
        let now = clock::now();
        let mut policies = Policies::default();
        let kept: Vec<_> = (0..20_000)
            .map(|user: u32| {
                let rules = rules(&[&format!("allow any {}/tcp", user % 10_000)]);
                policies.compile(now, &user, &bounds(1, None), &rules, Defaults::default())
            })
            .filter(|policy| policy.judge.rules() == 0)
            .collect();
        assert!(kept.is_empty());
        assert!(policies.rates.len() <= TIDY_MIN && policies.judges.len() <= TIDY_MIN);
    }
}
