//! How many log lines others may cause.
//!
//! What a far side does at will must not fill a disk, nor push what matters out of sight. What is
//! left out is counted, and told.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::limits::{
    LOG_LEFT_OUT_AFTER, LOG_LINES_BURST, LOG_LINES_PER_PEER_BURST, LOG_LINES_PER_PEER_EVERY,
    LOG_LINES_PPS,
};
use crate::rate::Rate;

/// The lines about one.
const SHARE: Rate = Rate::every(LOG_LINES_PER_PEER_EVERY, LOG_LINES_PER_PEER_BURST);
/// The lines about all together.
const ALL: Rate = Rate::new(LOG_LINES_PPS, LOG_LINES_BURST);
/// Shares that may be kept before it is looked which are whole again.
const SHARES_MIN: usize = 64;

/// The budget of one kind of line. Each whom a line may be about has a share of its own, far
/// smaller than the whole, so that nobody can hide the lines about others behind its own.
#[derive(Debug)]
pub struct LineBudget<Who> {
    shares: BTreeMap<Who, Share>,
    /// How many shares there may be before those are dropped that are whole again.
    tidy_at: usize,
    full_at: Option<Instant>,
    /// Lines left out that were about nobody in particular.
    left_out: u64,
    /// When to tell what was left out.
    tell_at: Option<Instant>,
}

#[derive(Debug)]
struct Share {
    full_at: Instant,
    left_out: u64,
}

/// Lines that were not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeftOut<Who> {
    /// How many.
    pub lines: u64,
    /// Whom most of them were about, if about anybody.
    pub most_about: Option<Who>,
}

impl<Who> Default for LineBudget<Who> {
    fn default() -> Self {
        Self {
            shares: BTreeMap::new(),
            tidy_at: SHARES_MIN,
            full_at: None,
            left_out: 0,
            tell_at: None,
        }
    }
}

impl<Who: Ord + Copy> LineBudget<Who> {
    /// Whether a line about `who` may be written now. One that may not is counted.
    pub fn admits(&mut self, now: Instant, who: Who) -> bool {
        if self.shares.len() >= self.tidy_at {
            self.tidy(now);
        }
        let whole = Share { full_at: now, left_out: 0 };
        let share = self.shares.entry(who).or_insert(whole);
        let taken = SHARE.take(now, share.full_at);
        let taken = taken.zip(ALL.take(now, self.full_at.unwrap_or(now)));
        if let Some((share_full_at, full_at)) = taken {
            (share.full_at, self.full_at) = (share_full_at, Some(full_at));
            return true;
        }
        share.left_out += 1;
        self.tell_at.get_or_insert(now + LOG_LEFT_OUT_AFTER);
        false
    }

    /// The same of a line about nobody in particular, or about one for whom the caller sees to it
    /// that lines come slowly.
    pub fn admits_any(&mut self, now: Instant) -> bool {
        if let Some(full_at) = ALL.take(now, self.full_at.unwrap_or(now)) {
            self.full_at = Some(full_at);
            return true;
        }
        self.left_out += 1;
        self.tell_at.get_or_insert(now + LOG_LEFT_OUT_AFTER);
        false
    }

    /// When [`take_left_out`](Self::take_left_out) has something to tell.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.tell_at
    }

    /// What was left out, once it is time to tell.
    pub fn take_left_out(&mut self, now: Instant) -> Option<LeftOut<Who>> {
        self.tell_at.take_if(|at| now >= *at)?;
        let mut left_out = LeftOut { lines: self.left_out, most_about: None };
        let mut most = std::mem::take(&mut self.left_out);
        for (who, share) in &mut self.shares {
            let lines = std::mem::take(&mut share.left_out);
            left_out.lines += lines;
            if lines > most {
                (most, left_out.most_about) = (lines, Some(*who));
            }
        }
        self.tidy(now);
        Some(left_out)
    }

    /// Forgets shares that are as if they had never been.
    fn tidy(&mut self, now: Instant) {
        self.shares.retain(|_, share| share.full_at > now || share.left_out > 0);
        self.tidy_at = (self.shares.len() * 2).max(SHARES_MIN);
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "an arbitrary origin for virtual time")]
mod tests {
    use std::time::Duration;

    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const BURST: u64 = LOG_LINES_PER_PEER_BURST as u64;

    #[test]
    fn one_who_causes_lines_without_end_gets_a_few_and_is_told_of() {
        let start = Instant::now();
        let mut budget = LineBudget::default();
        let (mut written, mut told) = (0, Vec::new());
        // A hundred a second for a minute, then silence.
        for step in 0..10_000 {
            let now = start + MS * 10 * step;
            written += u64::from(step < 6000 && budget.admits(now, "flooder"));
            told.extend(budget.take_left_out(now));
        }
        // One comes back every ten seconds.
        assert_eq!(written, BURST + 5);
        assert_eq!(told.iter().map(|left_out| left_out.lines).sum::<u64>(), 6000 - written);
        assert!((6..=7).contains(&told.len()), "once in ten seconds: {told:?}");
        assert!(told.iter().all(|left_out| left_out.most_about == Some("flooder")));
        assert_eq!(budget.poll_timeout(), None);
    }

    #[test]
    fn nobody_hides_the_lines_about_another() {
        let start = Instant::now();
        let mut budget = LineBudget::default();
        for step in 0..100_000 {
            budget.admits(start + MS * step, 1);
        }
        assert!(budget.admits(start + MS * 100_000, 2));
        assert_eq!(budget.take_left_out(start + MS * 100_000).unwrap().most_about, Some(1));
    }

    #[test]
    fn all_together_are_bounded_too() {
        let start = Instant::now();
        let mut budget = LineBudget::default();
        let written = |budget: &mut LineBudget<u32>, now, from: u32| {
            (from..from + 5000).filter(|who| budget.admits(now, *who)).count() as u32
        };
        assert_eq!(written(&mut budget, start, 0), LOG_LINES_BURST);
        let later = start + Duration::from_secs(1);
        assert_eq!(written(&mut budget, later, 5000), LOG_LINES_PPS);
        let left_out = budget.take_left_out(start + LOG_LEFT_OUT_AFTER).unwrap();
        assert_eq!(left_out.lines, u64::from(10_000 - LOG_LINES_BURST - LOG_LINES_PPS));
    }

    #[test]
    fn lines_about_nobody_are_bounded_by_the_whole_alone() {
        let start = Instant::now();
        let mut budget = LineBudget::<u32>::default();
        let written = (0..5000).filter(|_| budget.admits_any(start)).count() as u32;
        assert_eq!(written, LOG_LINES_BURST);
        let left_out = budget.take_left_out(start + LOG_LEFT_OUT_AFTER);
        let lines = u64::from(5000 - LOG_LINES_BURST);
        assert_eq!(left_out, Some(LeftOut { lines, most_about: None }));
    }

    #[test]
    fn who_has_been_quiet_for_long_enough_is_forgotten() {
        let start = Instant::now();
        let mut budget = LineBudget::default();
        for who in 0..10_000 {
            budget.admits(start + SHARE.fill * who, who);
            assert!(budget.shares.len() <= SHARES_MIN);
        }
    }

    #[test]
    fn lines_that_come_slowly_are_all_written() {
        let start = Instant::now();
        let mut budget = LineBudget::default();
        for step in 0..1000 {
            assert!(budget.admits(start + LOG_LINES_PER_PEER_EVERY * step, 1));
        }
        assert_eq!(budget.poll_timeout(), None);
    }
}
