//! How many clients there are, in all and of each source.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::handshake::Source;
use crate::rate::Rate;

use super::counters::Refusal;
use super::settings::Rules;

/// Parts of the table, each with a lock of its own, so that workers seldom wait for each other.
const SHARDS: usize = 64;
/// Sources of a part that are not looked through for those that may be forgotten.
const SOURCES_MIN: usize = 64;

/// The clients of one entrance, over all workers. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Crowd(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    all: AtomicUsize,
    /// Those of them that have not asked for anything yet.
    asking: AtomicUsize,
    hasher: RandomState,
    shards: [Mutex<Shard>; SHARDS],
}

impl Default for Shared {
    fn default() -> Self {
        let shards = std::array::from_fn(|_| Mutex::default());
        let (all, asking) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Self { all, asking, hasher: RandomState::new(), shards }
    }
}

#[derive(Debug, Default)]
struct Shard {
    sources: HashMap<Source, Presence>,
    /// How many sources there have to be for it to be looked which may be forgotten.
    tidy_at: usize,
}

/// What is known of a source.
#[derive(Debug, Default)]
struct Presence {
    /// Its connections.
    count: usize,
    /// When its bucket of new ones is full again.
    full_at: Option<Instant>,
}

impl Presence {
    /// When its bucket is full again if one more is let in, where there is a bound on how fast they
    /// come.
    fn judge(
        &self,
        rules: &Rules,
        per_second: Option<u32>,
        now: Instant,
    ) -> Result<Option<Instant>, Refusal> {
        if self.count >= rules.connections_per_source_max {
            return Err(Refusal::SourceFull);
        }
        let Some(per_second) = per_second.filter(|per_second| *per_second > 0) else {
            return Ok(None);
        };
        let rate = Rate::new(per_second, per_second.saturating_mul(10));
        let full_at = rate.take(now, self.full_at.unwrap_or(now));
        full_at.map(Some).ok_or(Refusal::SourceTooFast)
    }
}

impl Shard {
    /// Forgets sources that are as if they had never come. Those that stay have connections, or had
    /// some in the last seconds.
    fn tidy(&mut self, now: Instant) {
        if self.sources.len() > self.tidy_at.max(SOURCES_MIN) {
            self.sources.retain(|_, presence| {
                presence.count > 0 || presence.full_at.is_some_and(|full_at| full_at > now)
            });
            self.tidy_at = 2 * self.sources.len();
        }
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
    /// There are too many, or they come too fast.
    pub(super) fn enter(&self, from: IpAddr, rules: &Rules, now: Instant) -> Result<Seat, Refusal> {
        let all = &self.0.all;
        let source = Source::from(from);
        // A load balancer brings those of others, who are not known yet.
        let per_second = match rules.expects_header_from(from) {
            true => None,
            false => rules.connections_per_source_per_s,
        };
        if all.fetch_add(1, Relaxed) >= rules.connections_max {
            all.fetch_sub(1, Relaxed);
            // Nobody is to make room for one that would not be let in all the same.
            let shard = self.shard(source);
            let presence = shard.sources.get(&source);
            let judged = presence.map_or(Ok(None), |it| it.judge(rules, per_second, now));
            return Err(judged.err().unwrap_or(Refusal::Full));
        }
        if let Err(refusal) = self.count(source, rules, per_second, now) {
            all.fetch_sub(1, Relaxed);
            return Err(refusal);
        }
        Ok(Seat { crowd: self.clone(), source })
    }

    /// One has come, and has not asked for anything yet.
    pub(super) fn begin_asking(&self) {
        self.0.asking.fetch_add(1, Relaxed);
    }

    /// One has asked for something, or is gone.
    pub(super) fn end_asking(&self) {
        self.0.asking.fetch_sub(1, Relaxed);
    }

    /// Whether more than three quarters of the places are taken.
    pub(super) fn is_crowded(&self, rules: &Rules) -> bool {
        self.0.all.load(Relaxed) > rules.connections_max - rules.connections_max / 4
    }

    /// Whether those who have asked for something take every place, so that nobody could make room.
    pub(super) fn is_served_out(&self, rules: &Rules) -> bool {
        let asking = self.0.asking.load(Relaxed);
        self.0.all.load(Relaxed).saturating_sub(asking) >= rules.connections_max
    }

    /// Whether there is one that has not asked for anything yet, at whichever worker.
    pub(super) fn has_asking(&self) -> bool {
        self.0.asking.load(Relaxed) > 0
    }

    fn count(
        &self,
        source: Source,
        rules: &Rules,
        per_second: Option<u32>,
        now: Instant,
    ) -> Result<(), Refusal> {
        let mut shard = self.shard(source);
        shard.tidy(now);
        let presence = shard.sources.entry(source).or_default();
        if let Some(full_at) = presence.judge(rules, per_second, now)? {
            presence.full_at = Some(full_at);
        }
        presence.count += 1;
        Ok(())
    }

    fn discount(&self, source: Source) {
        let mut shard = self.shard(source);
        if let Some(presence) = shard.sources.get_mut(&source) {
            presence.count -= 1;
            // Of a source that comes and goes it is remembered how often.
            if presence.count == 0 && presence.full_at.is_none() {
                shard.sources.remove(&source);
            }
        }
    }

    fn shard(&self, source: Source) -> MutexGuard<'_, Shard> {
        let index = self.0.hasher.hash_one(source) as usize % SHARDS;
        // In bounds: it is a remainder.
        self.0.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// It turns out that the client is another one.
    ///
    /// # Errors
    /// There are too many of that source, or they come too fast.
    pub(super) fn pass_on(
        &mut self,
        to: IpAddr,
        rules: &Rules,
        now: Instant,
    ) -> Result<(), Refusal> {
        let to = Source::from(to);
        self.crowd.count(to, rules, rules.connections_per_source_per_s, now)?;
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
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use super::*;
    use crate::sys::clock;

    #[test]
    fn a_source_and_all_together_have_their_bounds_and_seats_are_free_again() {
        let crowd = Crowd::default();
        let rules = Rules { connections_max: 5, connections_per_source_max: 2, ..Rules::default() };
        let now = clock::now();
        let enter = |text: &str| crowd.enter(text.parse().unwrap(), &rules, now);
        let first = enter("192.0.2.1").unwrap();
        let _second = enter("::ffff:192.0.2.1").unwrap();
        assert_eq!(enter("192.0.2.1").unwrap_err(), Refusal::SourceFull);
        let _six = [enter("2001:db8::1").unwrap(), enter("2001:db8::2").unwrap()];
        assert_eq!(enter("2001:db8::3").unwrap_err(), Refusal::SourceFull, "one subscriber");
        let _fifth = enter("192.0.2.2").unwrap();
        assert_eq!(enter("192.0.2.3").unwrap_err(), Refusal::Full);
        drop(first);
        let mut passed = enter("192.0.2.9").unwrap();
        passed.pass_on("192.0.2.1".parse().unwrap(), &rules, now).unwrap();
        assert_eq!(enter("192.0.2.1").unwrap_err(), Refusal::SourceFull, "room is no help");
        assert_eq!(enter("192.0.2.3").unwrap_err(), Refusal::Full);
        let full = passed.pass_on("2001:db8::3".parse().unwrap(), &rules, now);
        assert_eq!(full.unwrap_err(), Refusal::SourceFull);
        drop(passed);
        let _again = enter("192.0.2.1").unwrap();
        assert_eq!(crowd.0.all.load(Relaxed), 5);
        drop((_second, _six, _fifth, _again));
        assert_eq!(crowd.0.all.load(Relaxed), 0);
        let is_empty = |shard: &Mutex<Shard>| shard.lock().unwrap().sources.is_empty();
        assert!(crowd.0.shards.iter().all(is_empty));
    }

    #[test]
    fn a_source_opens_no_more_than_so_many_each_second_whether_they_stay_or_not() {
        let crowd = Crowd::default();
        let rules = Rules {
            connections_per_source_per_s: Some(2),
            proxy_protocol_from: vec!["198.51.100.0/24".parse().unwrap()],
            ..Rules::default()
        };
        let now = clock::now();
        let enter = |text: &str, now| crowd.enter(text.parse().unwrap(), &rules, now);
        for _ in 0..20 {
            drop(enter("192.0.2.1", now).unwrap());
        }
        assert_eq!(enter("192.0.2.1", now).map(drop), Err(Refusal::SourceTooFast));
        assert_eq!(crowd.0.all.load(Relaxed), 0, "who is refused holds no place");
        drop(enter("192.0.2.2", now).unwrap());
        let later = now + Duration::from_millis(500);
        drop(enter("192.0.2.1", later).unwrap());
        assert_eq!(enter("192.0.2.1", later).map(drop), Err(Refusal::SourceTooFast));
        // Of a load balancer those count whom it names.
        for number in 0..50 {
            let mut seat = enter("198.51.100.1", now).unwrap();
            let source = Ipv4Addr::from(u32::from(Ipv4Addr::new(203, 0, 113, 0)) + number);
            seat.pass_on(source.into(), &rules, now).unwrap();
        }
        let mut seat = enter("198.51.100.1", now).unwrap();
        let too_fast = seat.pass_on("192.0.2.1".parse().unwrap(), &rules, now);
        assert_eq!(too_fast, Err(Refusal::SourceTooFast));
    }

    #[test]
    fn sources_that_have_been_quiet_are_forgotten() {
        let crowd = Crowd::default();
        let rules = Rules { connections_per_source_per_s: Some(1), ..Rules::default() };
        let start = clock::now();
        for number in 0..50_000_u32 {
            // A thousand each second, each for the first and last time.
            let now = start + Duration::from_millis(number.into());
            drop(crowd.enter(Ipv4Addr::from(number).into(), &rules, now).unwrap());
        }
        let known: usize =
            crowd.0.shards.iter().map(|shard| shard.lock().unwrap().sources.len()).sum();
        assert!(known <= SHARDS * (SOURCES_MIN + 1), "{known}");
    }
}
