//! How many clients there are, in all and of each source.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::handshake::Source;

use super::counters::Refusal;
use super::settings::Rules;

/// Parts of the table, each with a lock of its own, so that workers seldom wait for each other.
const SHARDS: usize = 64;

/// The clients of one entrance, over all workers. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Crowd(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    all: AtomicUsize,
    hasher: RandomState,
    shards: [Mutex<HashMap<Source, usize>>; SHARDS],
}

impl Default for Shared {
    fn default() -> Self {
        let shards = std::array::from_fn(|_| Mutex::default());
        Self { all: AtomicUsize::new(0), hasher: RandomState::new(), shards }
    }
}

/// A client's place among all; it is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    crowd: Crowd,
    source: Source,
}

impl Crowd {
    /// Lets a client in.
    ///
    /// # Errors
    /// There are too many.
    pub(super) fn enter(&self, from: IpAddr, rules: &Rules) -> Result<Seat, Refusal> {
        let all = &self.0.all;
        let source = Source::from(from);
        if all.fetch_add(1, Relaxed) >= rules.connections_max {
            all.fetch_sub(1, Relaxed);
            return Err(Refusal::Full);
        }
        if let Err(refusal) = self.count(source, rules) {
            all.fetch_sub(1, Relaxed);
            return Err(refusal);
        }
        Ok(Seat { crowd: self.clone(), source })
    }

    fn count(&self, source: Source, rules: &Rules) -> Result<(), Refusal> {
        let mut shard = self.shard(source);
        let count = shard.entry(source).or_default();
        if *count >= rules.connections_per_source_max {
            return Err(Refusal::SourceFull);
        }
        *count += 1;
        Ok(())
    }

    fn discount(&self, source: Source) {
        let mut shard = self.shard(source);
        if let Some(count) = shard.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                shard.remove(&source);
            }
        }
    }

    fn shard(&self, source: Source) -> MutexGuard<'_, HashMap<Source, usize>> {
        let index = self.0.hasher.hash_one(source) as usize % SHARDS;
        // In bounds: it is a remainder.
        self.0.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// It turns out that the client is another one.
    ///
    /// # Errors
    /// There are too many of that source.
    pub(super) fn pass_on(&mut self, to: IpAddr, rules: &Rules) -> Result<(), Refusal> {
        let to = Source::from(to);
        self.crowd.count(to, rules)?;
        self.crowd.discount(std::mem::replace(&mut self.source, to));
        Ok(())
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.crowd.discount(self.source);
        self.crowd.0.all.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_and_all_together_have_their_bounds_and_seats_are_free_again() {
        let crowd = Crowd::default();
        let rules = Rules { connections_max: 5, connections_per_source_max: 2, ..Rules::default() };
        let enter = |text: &str| crowd.enter(text.parse().unwrap(), &rules);
        let first = enter("192.0.2.1").unwrap();
        let _second = enter("::ffff:192.0.2.1").unwrap();
        assert_eq!(enter("192.0.2.1").unwrap_err(), Refusal::SourceFull);
        let _six = [enter("2001:db8::1").unwrap(), enter("2001:db8::2").unwrap()];
        assert_eq!(enter("2001:db8::3").unwrap_err(), Refusal::SourceFull, "one subscriber");
        let _fifth = enter("192.0.2.2").unwrap();
        assert_eq!(enter("192.0.2.3").unwrap_err(), Refusal::Full);
        drop(first);
        let mut passed = enter("192.0.2.9").unwrap();
        passed.pass_on("192.0.2.1".parse().unwrap(), &rules).unwrap();
        assert_eq!(enter("192.0.2.1").unwrap_err(), Refusal::Full);
        let full = passed.pass_on("2001:db8::3".parse().unwrap(), &rules);
        assert_eq!(full.unwrap_err(), Refusal::SourceFull);
        drop(passed);
        let _again = enter("192.0.2.1").unwrap();
        assert_eq!(crowd.0.all.load(Relaxed), 5);
        drop((_second, _six, _fifth, _again));
        assert_eq!(crowd.0.all.load(Relaxed), 0);
        assert!(crowd.0.shards.iter().all(|shard| shard.lock().unwrap().is_empty()));
    }
}
