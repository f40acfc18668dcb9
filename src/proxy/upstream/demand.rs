//! How many connections to a server are kept ready, and when they are made. Without a socket.

use std::time::{Duration, Instant};

use crate::limits::{
    PROXY_READY_LOOK_EVERY, PROXY_READY_REFUSED_FOR, PROXY_READY_RETRY_FIRST, PROXY_READY_RETRY_MAX,
};

/// What one worker wants of one server.
///
/// It begins with one. Whoever finds none ready has another one kept from then on, up to the most
/// that there may be; those that nobody has needed for [`PROXY_READY_LOOK_EVERY`] are given up, but
/// for the first. Each failure makes the next try wait for twice as long as the one before, and a
/// connection that was used, or has proven good later, makes up for all, but for a pause of
/// [`PROXY_READY_RETRY_FIRST`].
#[derive(Debug)]
pub struct Demand {
    max: usize,
    wanted: usize,
    /// The fewest that were there at the same time since the last look.
    fewest: usize,
    look_at: Instant,
    failures: u32,
    /// Whether one has been ready since the last failure.
    is_proven: bool,
    /// Whether the server has shown that it does not do this, whatever else it does.
    is_unable: bool,
    /// When the last try has failed.
    failed_at: Option<Instant>,
    /// No try begins before.
    not_before: Option<Instant>,
}

impl Demand {
    /// One for at most `max`.
    pub fn new(max: usize, now: Instant) -> Self {
        Self {
            max,
            wanted: max.min(1),
            fewest: 0,
            look_at: now + PROXY_READY_LOOK_EVERY,
            failures: 0,
            is_proven: false,
            is_unable: false,
            failed_at: None,
            not_before: None,
        }
    }

    /// How many are to be begun now, where so many are there or on their way.
    pub fn missing(&self, there: usize, now: Instant) -> usize {
        match self.not_before {
            Some(at) if now < at => 0,
            // Until one has shown that it works, one is enough to find out.
            _ if self.failures > 0 || !self.is_proven => usize::from(there == 0 && self.wanted > 0),
            _ => self.wanted.saturating_sub(there),
        }
    }

    /// Whether one of so many is more than are wanted.
    pub fn has_excess(&self, there: usize) -> bool {
        there > self.wanted
    }

    /// Somebody needs one, and so many are ready. More of them are no help while none can be made.
    pub fn take(&mut self, ready: usize) {
        if ready == 0 && self.failures == 0 {
            self.wanted = (self.wanted + 1).min(self.max);
        }
        self.fewest = self.fewest.min(ready.saturating_sub(1));
    }

    /// Gives up those that nobody has needed; to be called when [`Demand::due`] says so. So many
    /// are ready.
    pub fn look(&mut self, ready: usize, now: Instant) {
        if now >= self.look_at {
            self.wanted = self.wanted.saturating_sub(self.fewest.div_ceil(2)).max(self.max.min(1));
            self.fewest = ready;
            self.look_at = now + PROXY_READY_LOOK_EVERY;
        }
    }

    /// The server does its work, whoever has found that out.
    pub fn succeed(&mut self) {
        if !self.is_unable {
            self.failures = 0;
            // Those who are dialled get through all the time where none can be made ready.
            self.not_before = self.failed_at.map(|at| at + PROXY_READY_RETRY_FIRST);
        }
    }

    /// One is ready.
    pub fn stand_ready(&mut self) {
        self.is_proven = true;
        self.is_unable = false;
    }

    /// One could not be made, or was closed at the other end. What was under way at the same time
    /// counts as the same failure.
    pub fn fail(&mut self, now: Instant) {
        if self.not_before.is_some_and(|at| now < at) {
            return;
        }
        let factor = 2_u32.saturating_pow(self.failures);
        let wait = PROXY_READY_RETRY_FIRST.saturating_mul(factor).min(PROXY_READY_RETRY_MAX);
        self.failures = self.failures.saturating_add(1);
        self.wait(wait, now);
    }

    /// The server does not let this client in, or at least does not do this, whatever else it does,
    /// if it `is_unable`: it will hardly change its mind.
    pub fn be_refused(&mut self, is_unable: bool, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        self.is_unable = is_unable;
        self.wait(PROXY_READY_REFUSED_FOR, now);
    }

    fn wait(&mut self, wait: Duration, now: Instant) {
        self.is_proven = false;
        self.failed_at = Some(now);
        self.not_before = Some(now + wait);
    }

    /// When there may be something to do, where so many are there or on their way.
    pub fn due(&self, there: usize) -> Instant {
        match self.not_before {
            Some(at) if self.missing(there, at) > 0 => at.min(self.look_at),
            _ => self.look_at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::clock;

    #[test]
    fn as_many_are_kept_as_were_needed_at_once_and_fewer_when_they_are_not() {
        let mut now = clock::now();
        let mut demand = Demand::new(8, now);
        assert_eq!(demand.missing(0, now), 1);
        assert_eq!(demand.missing(1, now), 0);
        demand.stand_ready();
        assert_eq!(demand.missing(1, now), 0);
        // Six at once: the first finds one.
        demand.take(1);
        for _ in 1..6 {
            demand.take(0);
        }
        assert_eq!(demand.missing(0, now), 6);
        assert_eq!(demand.missing(4, now), 2, "four are on their way");
        for ready in (1..=6).rev() {
            demand.take(ready);
        }
        assert_eq!(demand.missing(0, now), 6, "that was enough");
        for _ in 0..100 {
            demand.take(0);
        }
        assert_eq!(demand.missing(0, now), 8, "the most that there may be");
        assert!(!demand.has_excess(8) && demand.has_excess(9));
        // Nobody comes.
        let mut wanted = Vec::new();
        for _ in 0..8 {
            now = demand.due(8);
            demand.look(8, now);
            wanted.push(demand.missing(0, now));
        }
        assert_eq!(wanted[0], 8, "there was a time at which none was left");
        assert_eq!(wanted.last(), Some(&1));
        assert_eq!(Demand::new(0, now).missing(0, now), 0);
    }

    #[test]
    fn those_that_are_needed_now_and_then_stay() {
        let mut now = clock::now();
        let mut demand = Demand::new(8, now);
        demand.stand_ready();
        for _ in 0..4 {
            demand.take(0);
        }
        for _ in 0..20 {
            for ready in (1..=5).rev() {
                demand.take(ready);
            }
            now = demand.due(5);
            demand.look(5, now);
            assert_eq!(demand.missing(0, now), 5);
        }
    }

    #[test]
    fn a_server_that_is_away_is_not_asked_all_the_time_and_found_when_it_is_back() {
        let mut now = clock::now();
        let mut demand = Demand::new(8, now);
        demand.take(0);
        let mut tries = 0;
        let end = now + Duration::from_secs(3600);
        while now < end {
            demand.look(0, now);
            let missing = demand.missing(0, now);
            if missing > 0 {
                tries += 1;
                assert_eq!(missing, 1, "one finds out for all");
                demand.fail(now);
                demand.fail(now);
            }
            now = demand.due(0).max(now + Duration::from_millis(1));
        }
        assert!((60..=70).contains(&tries), "{tries} tries in an hour");
        demand.succeed();
        assert_eq!((demand.missing(0, now), demand.missing(1, now)), (1, 0));
        demand.stand_ready();
        assert_eq!(demand.missing(1, now), 1, "now there may be more of them");
    }

    #[test]
    fn a_server_that_refuses_is_left_alone_for_longer() {
        let now = clock::now();
        let mut demand = Demand::new(8, now);
        for is_unable in [false, true] {
            demand.be_refused(is_unable, now);
            assert_eq!(demand.missing(0, now + PROXY_READY_REFUSED_FOR / 2), 0);
            assert_eq!(demand.missing(0, now + PROXY_READY_REFUSED_FOR), 1);
            demand.succeed();
            assert_eq!(demand.missing(0, now), 0, "not at once");
            // That somebody was let in meanwhile says nothing of a server that does not do this.
            let soon = now + PROXY_READY_RETRY_FIRST;
            assert_eq!(demand.missing(0, soon), usize::from(!is_unable));
        }
        demand.stand_ready();
        demand.succeed();
        assert_eq!(demand.missing(0, now + PROXY_READY_RETRY_FIRST), 1);
    }

    #[test]
    fn what_is_dialled_meanwhile_neither_hurries_the_tries_nor_adds_to_them() {
        let start = clock::now();
        for is_away in [false, true] {
            let mut demand = Demand::new(8, start);
            demand.stand_ready();
            let mut tries = 0;
            for tenth in 0..100 {
                let now = start + Duration::from_millis(100) * tenth;
                let missing = demand.missing(0, now);
                tries += missing;
                match (missing, is_away) {
                    (0, _) => {}
                    (_, true) => demand.fail(now),
                    (_, false) => demand.be_refused(false, now),
                }
                demand.take(0);
                demand.succeed();
            }
            assert!((5..=10).contains(&tries), "{tries} tries in ten seconds");
        }
        let mut demand = Demand::new(8, start);
        demand.stand_ready();
        demand.take(0);
        assert_eq!(demand.missing(0, start), 2);
        demand.fail(start);
        for _ in 0..8 {
            demand.take(0);
        }
        demand.succeed();
        let soon = start + PROXY_READY_RETRY_FIRST;
        assert_eq!(demand.missing(0, soon), 1, "one finds out for all");
        demand.stand_ready();
        assert_eq!(demand.missing(0, soon), 2, "as many as before");
    }
}
