//! Timers of many connections: setting one costs a few instructions, and nothing is ever moved or
//! taken out. Who sets a timer sooner than one that runs remembers that, and lets the other pass.

use std::time::{Duration, Instant};

use crate::limits::{PROXY_TICK, PROXY_TICKS};

/// Items by the time they are due, in ticks. One that is due beyond the last tick comes earlier
/// than it should, to be set again.
#[derive(Debug)]
pub(super) struct Wheel<T> {
    slots: Vec<Vec<T>>,
    /// A bit for each slot that has something in it.
    occupied: Vec<u64>,
    origin: Instant,
    /// The tick that is looked at next; those before it are empty.
    next: u64,
}

impl<T> Wheel<T> {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            slots: (0..PROXY_TICKS).map(|_| Vec::new()).collect(),
            occupied: vec![0; PROXY_TICKS / 64],
            origin: now,
            next: 0,
        }
    }

    /// Sets a timer.
    pub(super) fn insert(&mut self, at: Instant, item: T) {
        let since = at.saturating_duration_since(self.origin);
        let tick = since.as_nanos().div_ceil(PROXY_TICK.as_nanos());
        let tick = u64::try_from(tick).unwrap_or(u64::MAX);
        let tick = tick.clamp(self.next, self.next + PROXY_TICKS as u64 - 1);
        let slot = (tick % PROXY_TICKS as u64) as usize;
        if let (Some(items), Some(word)) =
            (self.slots.get_mut(slot), self.occupied.get_mut(slot / 64))
        {
            items.push(item);
            *word |= 1 << (slot % 64);
        }
    }

    /// When something may be due.
    pub(super) fn due(&self) -> Option<Instant> {
        let first = (self.next % PROXY_TICKS as u64) as usize;
        let words = self.occupied.len();
        // The word of the first slot comes twice: its high bits first, its low bits last.
        for step in 0..=words {
            let index = (first / 64 + step) % words;
            let mask = match step {
                0 => u64::MAX << (first % 64),
                _ if step == words => !(u64::MAX << (first % 64)),
                _ => u64::MAX,
            };
            let word = self.occupied.get(index).copied().unwrap_or_default() & mask;
            if word != 0 {
                let slot = index * 64 + word.trailing_zeros() as usize;
                let ahead = (slot + PROXY_TICKS - first) % PROXY_TICKS;
                return Some(self.time_of(self.next + ahead as u64));
            }
        }
        None
    }

    /// Moves what is due by `now` to `out`.
    pub(super) fn expire(&mut self, now: Instant, out: &mut Vec<T>) {
        while let Some(due) = self.due().filter(|due| *due <= now) {
            let tick = (due.duration_since(self.origin).as_nanos() / PROXY_TICK.as_nanos()) as u64;
            let slot = (tick % PROXY_TICKS as u64) as usize;
            if let (Some(items), Some(word)) =
                (self.slots.get_mut(slot), self.occupied.get_mut(slot / 64))
            {
                out.append(items);
                *word &= !(1 << (slot % 64));
            }
            self.next = tick + 1;
        }
        let passed = now.saturating_duration_since(self.origin).as_nanos() / PROXY_TICK.as_nanos();
        self.next = self.next.max(u64::try_from(passed).unwrap_or(u64::MAX));
    }

    fn time_of(&self, tick: u64) -> Instant {
        let nanoseconds = PROXY_TICK.as_nanos() as u64;
        self.origin + Duration::from_nanos(nanoseconds.saturating_mul(tick))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const HORIZON: Duration = PROXY_TICK.saturating_mul(PROXY_TICKS as u32 - 1);

    proptest! {
        /// Against a sorted map: nothing comes before its time unless that lies beyond the
        /// horizon, nothing comes more than a tick late, nothing comes twice or never.
        #[test]
        fn everything_comes_when_it_is_due(
            steps in prop::collection::vec((0_u64..90_000, 0_u64..20_000), 1..60),
        ) {
            let mut now = crate::sys::clock::now();
            let mut wheel = Wheel::new(now);
            let mut waiting = BTreeMap::new();
            let mut out = Vec::new();
            for (number, (ahead_ms, pass_ms)) in steps.into_iter().enumerate() {
                let at = now + Duration::from_millis(ahead_ms);
                wheel.insert(at, number);
                waiting.insert(number, (now, at));
                let until = now + Duration::from_millis(pass_ms);
                while let Some(due) = wheel.due().filter(|due| *due <= until) {
                    now = due.max(now);
                    wheel.expire(now, &mut out);
                    for number in out.drain(..) {
                        let (set, at) = waiting.remove(&number).expect("comes once");
                        prop_assert!(now < at + 2 * PROXY_TICK, "late");
                        prop_assert!(now >= at || now + PROXY_TICK >= set + HORIZON, "early");
                    }
                }
                now = until;
                wheel.expire(now, &mut out);
                prop_assert!(out.is_empty());
                for (_, at) in waiting.values() {
                    prop_assert!(*at + PROXY_TICK > now, "late");
                }
            }
            wheel.expire(now + 2 * HORIZON, &mut out);
            prop_assert_eq!(out.len(), waiting.len());
            prop_assert_eq!(wheel.due(), None);
        }
    }
}
