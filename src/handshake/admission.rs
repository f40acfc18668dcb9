//! Who gets public-key work done, judged per source and never by one counter for all.
//!
//! Each source (an IPv4 address, an IPv6 /64) has a token bucket for initiations whose address is
//! not proved. A source that outruns it, perhaps because someone else forges its address, is asked
//! for a cookie; with one it draws on a second bucket that forgers cannot reach. Both tables are
//! bounded: when the first is full, a source it does not know must bring a cookie at once.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::limits::{
    HANDSHAKE_SOURCES_MAX, HANDSHAKE_SOURCES_SWEEP_EVERY, HANDSHAKES_PER_SOURCE_BURST,
    HANDSHAKES_PER_SOURCE_PPS,
};

/// How long one token takes to come back.
const TOKEN: Duration = Duration::from_nanos(1_000_000_000 / HANDSHAKES_PER_SOURCE_PPS as u64);
/// How long an empty bucket takes to fill.
const FILL: Duration =
    Duration::from_nanos(TOKEN.as_nanos() as u64 * HANDSHAKES_PER_SOURCE_BURST as u64);

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
    proved: BucketTable,
}

impl SourceLimiter {
    pub(super) fn new() -> Self {
        Self::with_room_for(HANDSHAKE_SOURCES_MAX)
    }

    fn with_room_for(sources_max: usize) -> Self {
        Self { unproved: BucketTable::new(sources_max), proved: BucketTable::new(sources_max) }
    }

    /// Judges an initiation. `proves_address` checks its `mac2` and is asked only if it matters.
    pub(super) fn admit(
        &mut self,
        now: Instant,
        source: Source,
        proves_address: impl FnOnce() -> bool,
    ) -> Admission {
        if self.unproved.take(now, source) {
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
        let full_at_then = (*full_at).max(now) + TOKEN;
        if full_at_then - now > FILL {
            return false;
        }
        *full_at = full_at_then;
        true
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
