//! Who gets public-key work done.
//!
//! Each source (an IPv4 address, an IPv6 /64) has a token bucket for initiations whose address is
//! not proved. A source that outruns it, perhaps because someone else forges its address, is asked
//! for a cookie; with one it draws on a second bucket that forgers cannot reach. Both tables are
//! bounded: when one is full it has no token for a source it does not know.
//!
//! Whoever forges many addresses has many first buckets. So all of them together draw on a budget,
//! and once that is used up a source must prove its address at once. Load is still judged per
//! source: a source draws on the budget only with a token of its own, so that ten of them flooding
//! do not use it up; and when it is used up nobody is refused, those without a cookie get one and
//! are a round trip later, while those with a cookie never needed the budget.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::limits::{
    HANDSHAKE_SOURCES_MAX, HANDSHAKE_SOURCES_SWEEP_EVERY, HANDSHAKES_PER_SOURCE_BURST,
    HANDSHAKES_PER_SOURCE_PPS, HANDSHAKES_UNPROVED_BURST, HANDSHAKES_UNPROVED_PPS,
};

/// Of each bucket of one source.
const PER_SOURCE: Rate = Rate::new(HANDSHAKES_PER_SOURCE_PPS, HANDSHAKES_PER_SOURCE_BURST);
/// Of the budget of all unproved sources.
const UNPROVED: Rate = Rate::new(HANDSHAKES_UNPROVED_PPS, HANDSHAKES_UNPROVED_BURST);

/// How fast a token bucket fills. All that is kept of the bucket itself is when it will be full.
struct Rate {
    /// How long one token takes to come back.
    token: Duration,
    /// How long an empty bucket takes to fill.
    fill: Duration,
}

impl Rate {
    const fn new(per_second: u32, burst: u32) -> Self {
        let token_ns = 1_000_000_000 / per_second as u64;
        Self {
            token: Duration::from_nanos(token_ns),
            fill: Duration::from_nanos(token_ns * burst as u64),
        }
    }

    /// Takes a token from a bucket that would be full at `full_at`: when it will be full then, or
    /// `None` if it is empty.
    fn take(&self, now: Instant, full_at: Instant) -> Option<Instant> {
        let full_at = full_at.max(now) + self.token;
        (full_at - now <= self.fill).then_some(full_at)
    }
}

/// What counts as one sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    /// One address.
    V4([u8; 4]),
    /// A /64, the least that one subscriber gets.
    V6([u8; 8]),
}

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.octets()),
            IpAddr::V6(address) => {
                let [a, b, c, d, e, f, g, h, ..] = address.octets();
                Self::V6([a, b, c, d, e, f, g, h])
            }
        }
    }
}

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
    unproved: BucketTable,
    /// When the budget of the unproved sources will be full.
    budget_full_at: Instant,
    proved: BucketTable,
}

impl SourceLimiter {
    /// With every bucket full.
    pub(super) fn new(now: Instant) -> Self {
        Self::with_room_for(HANDSHAKE_SOURCES_MAX, now)
    }

    fn with_room_for(sources_max: usize, now: Instant) -> Self {
        Self {
            unproved: BucketTable::new(sources_max),
            budget_full_at: now,
            proved: BucketTable::new(sources_max),
        }
    }

    /// Judges an initiation. `proves_address` checks its `mac2` and is asked only if it matters.
    pub(super) fn admit(
        &mut self,
        now: Instant,
        source: Source,
        proves_address: impl FnOnce() -> bool,
    ) -> Admission {
        // The budget is looked at first, so that a flood of new sources leaves no trace without it.
        let budget = UNPROVED.take(now, self.budget_full_at);
        if let Some(budget_full_at) = budget
            && self.unproved.take(now, source)
        {
            self.budget_full_at = budget_full_at;
            Admission::Admit
        } else if !proves_address() {
            Admission::Challenge
        } else if self.proved.take(now, source) {
            Admission::Admit
        } else {
            Admission::Refuse
        }
    }
}

/// One token bucket per source, for a bounded number of sources.
#[derive(Debug)]
struct BucketTable {
    /// When each bucket will be full again. A source without an entry has a full bucket, so an
    /// entry means nothing once that time has come.
    full_at: BTreeMap<Source, Instant>,
    sources_max: usize,
    swept: Option<Instant>,
}

impl BucketTable {
    fn new(sources_max: usize) -> Self {
        Self { full_at: BTreeMap::new(), sources_max, swept: None }
    }

    /// Takes a token from the bucket of `source`. False if it is empty, or if the source is new and
    /// there is no room for it.
    fn take(&mut self, now: Instant, source: Source) -> bool {
        if !self.full_at.contains_key(&source) {
            self.make_room(now);
            if self.full_at.len() >= self.sources_max {
                return false;
            }
        }
        let full_at = self.full_at.entry(source).or_insert(now);
        let taken = PER_SOURCE.take(now, *full_at);
        *full_at = taken.unwrap_or(*full_at);
        taken.is_some()
    }

    /// Forgets full buckets if the table is full, but not so often that a flood of new sources
    /// could make it the main work.
    fn make_room(&mut self, now: Instant) {
        let rested = self.swept.is_none_or(|swept| {
            now.saturating_duration_since(swept) >= HANDSHAKE_SOURCES_SWEEP_EVERY
        });
        if self.full_at.len() >= self.sources_max && rested {
            self.full_at.retain(|_, full_at| *full_at > now);
            self.swept = Some(now);
        }
    }
}

#[cfg(test)]
mod tests;
