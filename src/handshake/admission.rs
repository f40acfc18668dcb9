//! Who gets public-key work done.
//!
//! Each source (an IPv4 address, an IPv6 /64) has a token bucket for initiations whose address is
//! not proved. A source that outruns it, perhaps because someone else forges its address, is asked
//! for a cookie; with one it draws on a second bucket that forgers cannot reach.
//!
//! Whoever forges many addresses has many first buckets. So all of them together draw on a budget,
//! and once that is used up a source must prove its address at once. Load is still judged per
//! source: a source draws on the budget only with a token of its own, so that ten of them flooding
//! do not use it up; and when it is used up nobody is refused, those without a cookie get one and
//! are a round trip later, while those with a cookie never needed the budget.
//!
//! Whoever owns many addresses has many second buckets. So the sources of a network (an IPv4 /24,
//! an IPv6 /48) share one more. A peer that already has a session needs none of these, as long as
//! it asks from where it asked for that session and proves it: neighbours cannot lock it out.
//!
//! All tables are bounded, and large enough not to fill: what the gate lets in is less than what
//! lapses in them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Instant;

use crate::limits::{
    HANDSHAKE_SOURCES_MAX, HANDSHAKES_PER_NETWORK_BURST, HANDSHAKES_PER_NETWORK_PPS,
    HANDSHAKES_PER_SOURCE_BURST, HANDSHAKES_PER_SOURCE_PPS, HANDSHAKES_UNPROVED_BURST,
    HANDSHAKES_UNPROVED_PPS,
};
use crate::rate::Rate;

use super::source::{Network, Origin, Source};

/// Of each bucket of one source, and of a peer's own.
const PER_SOURCE: Rate = Rate::new(HANDSHAKES_PER_SOURCE_PPS, HANDSHAKES_PER_SOURCE_BURST);
/// Of each bucket of one network.
const PER_NETWORK: Rate = Rate::new(HANDSHAKES_PER_NETWORK_PPS, HANDSHAKES_PER_NETWORK_BURST);
/// Of the budget of all unproved sources.
const UNPROVED: Rate = Rate::new(HANDSHAKES_UNPROVED_PPS, HANDSHAKES_UNPROVED_BURST);

/// What to do with an initiation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// Look at it.
    Admit,
    /// Answer with a cookie and forget it.
    Challenge,
    /// Drop it: its source is proved and over its rate.
    Refuse,
}

/// The token buckets of all sources.
#[derive(Debug)]
pub(super) struct SourceLimiter {
    unproved: BucketTable<Source>,
    /// When the budget of the unproved sources will be full.
    budget_full_at: Instant,
    proved: BucketTable<Source>,
    networks: BucketTable<Network>,
    regulars: Regulars,
}

impl SourceLimiter {
    /// With every bucket full.
    pub(super) fn new(now: Instant) -> Self {
        Self::with_room_for(HANDSHAKE_SOURCES_MAX, now)
    }

    fn with_room_for(keys_max: usize, now: Instant) -> Self {
        Self {
            unproved: BucketTable::new(PER_SOURCE, keys_max),
            budget_full_at: now,
            proved: BucketTable::new(PER_SOURCE, keys_max),
            networks: BucketTable::new(PER_NETWORK, keys_max),
            regulars: Regulars::default(),
        }
    }

    /// Judges an initiation. `proves_address` checks its `mac2` and is asked only if it matters.
    pub(super) fn admit(
        &mut self,
        now: Instant,
        from: SocketAddr,
        proves_address: impl FnOnce() -> bool,
    ) -> Admission {
        let source = Source::from(from.ip());
        // The budget is looked at first, so that a flood of new sources leaves no trace without it.
        let budget = UNPROVED.take(now, self.budget_full_at);
        if let Some(budget_full_at) = budget
            && self.unproved.take(now, source)
        {
            self.budget_full_at = budget_full_at;
            Admission::Admit
        } else if !proves_address() {
            Admission::Challenge
        } else if self.regulars.take(now, from.into()) || self.takes_from_proved(now, source) {
            Admission::Admit
        } else {
            Admission::Refuse
        }
    }

    /// The source comes first: one alone cannot use up what its network has.
    fn takes_from_proved(&mut self, now: Instant, source: Source) -> bool {
        self.proved.take(now, source) && self.networks.take(now, source.into())
    }

    /// A peer has a session that it asked for from `origin`.
    pub(super) fn add_regular(&mut self, now: Instant, origin: Origin) {
        self.regulars.add(now, origin);
    }

    /// The same peer has asked for a newer one from elsewhere, or is gone.
    pub(super) fn remove_regular(&mut self, origin: Origin) {
        self.regulars.remove(origin);
    }
}

/// Where peers have asked for their sessions from, with a bucket for each: no more of them than
/// there are peers.
#[derive(Debug, Default)]
struct Regulars(BTreeMap<Origin, Regular>);

#[derive(Debug)]
struct Regular {
    full_at: Instant,
    /// A port may pass from one peer to another before the first has asked again.
    peers: u32,
}

impl Regulars {
    fn take(&mut self, now: Instant, origin: Origin) -> bool {
        let Some(regular) = self.0.get_mut(&origin) else { return false };
        let taken = PER_SOURCE.take(now, regular.full_at);
        regular.full_at = taken.unwrap_or(regular.full_at);
        taken.is_some()
    }

    fn add(&mut self, now: Instant, origin: Origin) {
        self.0.entry(origin).or_insert(Regular { full_at: now, peers: 0 }).peers += 1;
    }

    fn remove(&mut self, origin: Origin) {
        let Some(regular) = self.0.get_mut(&origin) else { return };
        regular.peers = regular.peers.saturating_sub(1);
        if regular.peers == 0 {
            self.0.remove(&origin);
        }
    }
}

/// One token bucket per key, for a bounded number of keys.
#[derive(Debug)]
struct BucketTable<K> {
    rate: Rate,
    /// When each bucket will be full again. A key without an entry has a full bucket, so an entry
    /// goes as soon as that time has come.
    full_at: BTreeMap<K, Instant>,
    /// The same, by time.
    lapses: BTreeSet<(Instant, K)>,
    keys_max: usize,
}

impl<K: Copy + Ord> BucketTable<K> {
    fn new(rate: Rate, keys_max: usize) -> Self {
        Self { rate, full_at: BTreeMap::new(), lapses: BTreeSet::new(), keys_max }
    }

    /// Takes a token from the bucket of `key`. False if it is empty, or if the key is new and there
    /// is no room for it.
    fn take(&mut self, now: Instant, key: K) -> bool {
        self.forget_full(now);
        let before = self.full_at.get(&key).copied();
        if before.is_none() && self.full_at.len() >= self.keys_max {
            return false;
        }
        let Some(full_at) = self.rate.take(now, before.unwrap_or(now)) else { return false };
        if let Some(before) = before {
            self.lapses.remove(&(before, key));
        }
        self.full_at.insert(key, full_at);
        self.lapses.insert((full_at, key));
        true
    }

    /// As many as were put in, over time, so no call has much to do for long.
    fn forget_full(&mut self, now: Instant) {
        while let Some((full_at, key)) = self.lapses.first().copied()
            && full_at <= now
        {
            self.lapses.pop_first();
            self.full_at.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests;
