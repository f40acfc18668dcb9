//! Tries that fail make the next one wait.
//!
//! Every try is charged before it is judged, so that many at once gain nothing, and what it was
//! charged is given back if it succeeds. Who is charged depends on what is known of the one who
//! tries, so that nobody can lock a user out by failing in the user's name:
//!
//! 1. A device that the user has registered is charged by itself, whatever others do from the same
//!    source or in the same name. Its key is not public; whoever has it is still charged.
//! 2. A source that this user has logged in from before is charged, and the user at that source.
//! 3. Everybody else is charged as a source, and in the name of the user.
//!
//! A user whom many sources attack and who comes with a new device from a new source waits like the
//! attackers; an invite, which cannot be guessed and so charges the source alone, lets her in.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use crate::accounts::names::Name;
use crate::handshake::keys::PublicKey;
use crate::limits::{
    FAILURE_FORGOTTEN_AFTER, FAILURE_PAUSE_FIRST, FAILURE_PAUSE_MAX, FAILURES_FREE,
    FAILURES_REMEMBERED,
};

/// Where a try comes from: an IPv4 address, or the /64 of an IPv6 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LoginSource(IpAddr);

impl From<IpAddr> for LoginSource {
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(address) => address.into(),
            IpAddr::V6(address) => {
                let prefix = u128::from(address) & !u128::from(u64::MAX);
                Ipv6Addr::from(prefix).into()
            }
        })
    }
}

/// Who tries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimant {
    /// From where.
    pub source: LoginSource,
    /// In whose name, whether there is such a user or not; `None` if nothing that can be guessed
    /// is tried, as with a token.
    pub user: Option<Name>,
    /// The device, if that user has registered it.
    pub known_device: Option<PublicKey>,
    /// Whether that user has logged in from this source before.
    pub known_source: bool,
}

/// Whose failures are counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Account {
    Source(LoginSource),
    User(Name),
    UserAtSource(Name, LoginSource),
    Device(PublicKey),
}

/// What a try was charged to; nothing by default.
#[derive(Debug, Default)]
#[must_use]
pub struct Charge(Vec<Account>);

/// Failures of one account.
#[derive(Clone, Copy, Debug)]
struct Failures {
    count: u32,
    last: Instant,
}

impl Failures {
    /// As many as are not forgotten at `now`.
    fn at(self, now: Instant) -> u32 {
        let elapsed = now.saturating_duration_since(self.last);
        let forgotten = elapsed.as_secs() / FAILURE_FORGOTTEN_AFTER.as_secs();
        self.count.saturating_sub(u32::try_from(forgotten).unwrap_or(u32::MAX))
    }

    /// How long the next try has to wait from `now` on.
    fn wait(self, now: Instant) -> Duration {
        pause_after(self.at(now)).saturating_sub(now.saturating_duration_since(self.last))
    }
}

/// The pause that the last of `failures` brings with it.
fn pause_after(failures: u32) -> Duration {
    match failures.checked_sub(FAILURES_FREE) {
        None => Duration::ZERO,
        Some(doublings) => {
            let factor = 1u32.checked_shl(doublings).unwrap_or(u32::MAX);
            FAILURE_PAUSE_FIRST.saturating_mul(factor).min(FAILURE_PAUSE_MAX)
        }
    }
}

/// Failures of all accounts. It never holds more than twice [`FAILURES_REMEMBERED`] of each kind.
#[derive(Debug, Default)]
pub struct Backoff {
    sources: Table,
    users: Table,
    devices: Table,
}

impl Backoff {
    /// Charges a try.
    ///
    /// # Errors
    /// How long to wait, if there were too many failures; nothing is charged then.
    pub fn begin(&mut self, claimant: &Claimant, now: Instant) -> Result<Charge, Duration> {
        let accounts = accounts_of(claimant);
        let wait = accounts.iter().map(|account| self.table(account).wait(account, now)).max();
        match wait {
            Some(wait) if !wait.is_zero() => return Err(wait),
            _ => {}
        }
        for account in &accounts {
            self.table(account).charge(account, now);
        }
        Ok(Charge(accounts))
    }

    /// Gives back what was charged: the try was none, or did not fail.
    pub fn give_back(&mut self, charge: Charge) {
        for account in charge.0 {
            self.table(&account).give_back(&account);
        }
    }

    fn table(&mut self, account: &Account) -> &mut Table {
        match account {
            Account::Source(_) => &mut self.sources,
            Account::User(_) | Account::UserAtSource(..) => &mut self.users,
            Account::Device(_) => &mut self.devices,
        }
    }
}

fn accounts_of(claimant: &Claimant) -> Vec<Account> {
    let source = claimant.source;
    match (&claimant.user, claimant.known_device) {
        (_, Some(device)) => vec![Account::Device(device)],
        (None, None) => vec![Account::Source(source)],
        (Some(user), None) => {
            let user = match claimant.known_source {
                true => Account::UserAtSource(user.clone(), source),
                false => Account::User(user.clone()),
            };
            vec![Account::Source(source), user]
        }
    }
}

/// Two generations of entries: when the younger one is full it becomes the older one, which goes.
#[derive(Debug, Default)]
struct Table {
    younger: HashMap<Account, Failures>,
    older: HashMap<Account, Failures>,
}

impl Table {
    fn find(&self, account: &Account) -> Option<Failures> {
        self.younger.get(account).or_else(|| self.older.get(account)).copied()
    }

    fn wait(&self, account: &Account, now: Instant) -> Duration {
        self.find(account).map_or(Duration::ZERO, |failures| failures.wait(now))
    }

    fn charge(&mut self, account: &Account, now: Instant) {
        let before = self.find(account).map_or(0, |failures| failures.at(now));
        if self.younger.len() >= FAILURES_REMEMBERED && !self.younger.contains_key(account) {
            self.older = std::mem::take(&mut self.younger);
        }
        let failures = Failures { count: before.saturating_add(1), last: now };
        self.younger.insert(account.clone(), failures);
    }

    fn give_back(&mut self, account: &Account) {
        if let Some(failures) = self.find(account) {
            self.older.remove(account);
            let count = failures.count.saturating_sub(1);
            match count {
                0 => self.younger.remove(account),
                _ => self.younger.insert(account.clone(), Failures { count, ..failures }),
            };
        }
    }
}

#[cfg(test)]
mod tests;
