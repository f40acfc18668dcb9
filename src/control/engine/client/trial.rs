//! Whether UDP gets through again, asked while a carrier is in use.
//!
//! A round of inquiries goes straight to the server, one on each path that can have an answer.
//! Rounds that fail come ever more rarely. Once one succeeds they come quickly, and when they have
//! succeeded for long enough the carrier is given up.

use std::time::{Duration, Instant};

use crate::limits::{UDP_TRIAL_EVERY, UDP_TRIAL_FIRST, UDP_TRIAL_MAX};

/// The trials of UDP while a carrier is in use.
#[derive(Debug)]
pub(super) struct Trial {
    /// Of the round on its way, if there was one.
    round: Option<Round>,
    /// Since when all rounds have succeeded.
    good_since: Option<Instant>,
    /// For how long they must.
    hold: Duration,
    wait: Duration,
    next_at: Instant,
}

#[derive(Debug)]
struct Round {
    token: u64,
    /// Paths that have not answered.
    awaited: Vec<u8>,
}

impl Trial {
    /// Trials that begin soon; UDP must answer for as long as `hold`.
    pub(super) fn new(now: Instant, hold: Duration) -> Self {
        let (wait, next_at) = (UDP_TRIAL_FIRST, now + UDP_TRIAL_FIRST);
        Self { round: None, good_since: None, hold, wait, next_at }
    }

    /// When the next round is due.
    pub(super) const fn poll_timeout(&self) -> Instant {
        self.next_at
    }

    /// A round on `paths` begins now, whose inquiries carry `token`. The one before is judged:
    /// what has not been answered by now, where answers take `rtt`, will not be.
    pub(super) fn begin_round(&mut self, now: Instant, rtt: Duration, token: u64, paths: Vec<u8>) {
        let was_answered = self.round.as_ref().map(|round| round.awaited.is_empty());
        match was_answered {
            Some(false) if self.good_since.take().is_some() => self.wait = UDP_TRIAL_FIRST,
            Some(false) => self.wait = (self.wait * 2).min(UDP_TRIAL_MAX),
            Some(true) | None => {}
        }
        let every = UDP_TRIAL_EVERY.max(rtt * 2);
        self.next_at = now + if self.good_since.is_some() { every } else { self.wait.max(every) };
        self.round = (!paths.is_empty()).then_some(Round { token, awaited: paths });
    }

    /// An inquiry was answered. Whether UDP has got through for long enough.
    pub(super) fn handle_answer(&mut self, now: Instant, path: u8, token: u64) -> bool {
        let Some(round) = self.round.as_mut().filter(|round| round.token == token) else {
            return false;
        };
        round.awaited.retain(|awaited| *awaited != path);
        if !round.awaited.is_empty() {
            return false;
        }
        if self.good_since.is_none() {
            self.next_at = self.next_at.min(now + UDP_TRIAL_EVERY);
        }
        let since = *self.good_since.get_or_insert(now);
        now.saturating_duration_since(since) >= self.hold
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::UDP_HOLD_FIRST;
    use crate::sys::clock;

    const RTT: Duration = Duration::from_millis(20);

    /// Runs trials of two paths; `answers` tells which rounds are answered. When UDP was found to
    /// get through, and the times of the rounds, in milliseconds.
    fn run(answers: impl Fn(u64) -> bool, limit: Duration) -> (Option<u64>, Vec<u64>) {
        let start = clock::now();
        let mut trial = Trial::new(start, UDP_HOLD_FIRST);
        let mut rounds = Vec::new();
        while trial.poll_timeout() < start + limit {
            let now = trial.poll_timeout();
            let at = (now - start).as_millis() as u64;
            rounds.push(at);
            trial.begin_round(now, RTT, at, vec![0, 1]);
            if answers(at) {
                assert!(!trial.handle_answer(now + RTT, 0, at));
                assert!(!trial.handle_answer(now + RTT, 1, at + 1), "an older token");
                if trial.handle_answer(now + RTT, 1, at) {
                    return (Some(at), rounds);
                }
            }
        }
        (None, rounds)
    }

    #[test]
    fn udp_must_answer_for_a_while() {
        let (found, rounds) = run(|_| true, Duration::from_secs(60));
        let found = found.unwrap();
        assert!((4000..5000).contains(&found), "{found}");
        assert!(rounds.len() >= 6, "{rounds:?}");
    }

    #[test]
    fn failing_rounds_come_ever_more_rarely() {
        let (found, rounds) = run(|_| false, Duration::from_secs(60));
        assert_eq!(found, None);
        assert_eq!(rounds[..5], [1000, 2000, 4000, 8000, 16_000]);
        let longest = rounds.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
        assert_eq!(Duration::from_millis(longest), UDP_TRIAL_MAX);
    }

    #[test]
    fn one_round_that_fails_begins_the_wait_anew() {
        let (steady, _) = run(|_| true, Duration::from_secs(60));
        let (found, _) = run(|at| !(3000..=4000).contains(&at), Duration::from_secs(60));
        assert!(found.unwrap() > steady.unwrap() + 2000, "{found:?}");
    }

    #[test]
    fn a_round_without_paths_finds_nothing() {
        let start = clock::now();
        let mut trial = Trial::new(start, Duration::ZERO);
        trial.begin_round(start, RTT, 7, Vec::new());
        assert!(!trial.handle_answer(start, 0, 7));
    }
}
