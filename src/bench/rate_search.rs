//! The highest rate at which no more than a given share of the datagrams is lost.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::client::run_test;
use super::error::BenchError;
use super::protocol::TestSpec;
use super::report::{BENCH_SCHEMA, TestReport};
use super::stop::StopFlag;

/// Tests of one search, the first of them at full speed.
const ATTEMPTS_MAX: usize = 8;
/// The search ends once the bounds are this close to each other.
const CLOSE_ENOUGH: f64 = 1.03;

/// One test of a search.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// The rate asked for, in payload bits per second; absent for full speed.
    pub rate_bps: Option<u64>,
    /// Payload bits per second that the sender managed.
    pub sent_bps: f64,
    /// Payload bits per second that arrived.
    pub received_bps: f64,
    /// Datagrams lost, in percent.
    pub loss_percent: f64,
}

/// What a search found: what `corelane bench run -u --loss-target --json` prints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SearchReport {
    /// [`BENCH_SCHEMA`].
    pub schema: u32,
    /// The loss allowed, in percent.
    pub loss_target_percent: f64,
    /// The fastest test that kept to it, if any did.
    pub best: Option<TestReport>,
    /// Every test, in order.
    pub attempts: Vec<Attempt>,
}

/// The search itself, without the tests: say what [`RateSearch::next_rate`] came to with
/// [`RateSearch::record`] until it has no further question.
#[derive(Clone, Debug)]
pub(crate) struct RateSearch {
    loss_target_percent: f64,
    attempts: usize,
    /// The highest rate known to be good, and the lowest known to be bad.
    good_bps: f64,
    bad_bps: Option<f64>,
    /// What arrived when a rate was too high: the first guess at what can arrive.
    guess_bps: Option<f64>,
    done: bool,
}

impl RateSearch {
    pub(crate) fn new(loss_target_percent: f64) -> Self {
        Self {
            loss_target_percent,
            attempts: 0,
            good_bps: 0.0,
            bad_bps: None,
            guess_bps: None,
            done: false,
        }
    }

    /// The rate to try next: `Some(None)` is full speed, `None` the end of the search.
    pub(crate) fn next_rate(&self) -> Option<Option<u64>> {
        if self.done || self.attempts >= ATTEMPTS_MAX {
            return None;
        }
        let Some(bad) = self.bad_bps else { return Some(None) };
        if bad <= 1.0 || self.good_bps * CLOSE_ENOUGH >= bad {
            return None;
        }
        let middle = f64::midpoint(self.good_bps, bad);
        let inside = |guess: &f64| *guess > self.good_bps && *guess * CLOSE_ENOUGH < bad;
        let rate = self.guess_bps.filter(inside).unwrap_or(middle);
        Some(Some((rate as u64).max(1)))
    }

    /// Notes what the rate last asked for came to. Returns whether it kept to the target.
    pub(crate) fn record(&mut self, attempt: &Attempt) -> bool {
        self.attempts += 1;
        let good = attempt.loss_percent <= self.loss_target_percent;
        if good {
            // A sender that cannot keep up has shown all it can do.
            self.done = attempt.rate_bps.is_none();
            self.good_bps =
                self.good_bps.max(attempt.rate_bps.map_or(attempt.sent_bps, |rate| rate as f64));
            self.guess_bps = None;
        } else {
            let rate = attempt.rate_bps.map_or(attempt.sent_bps, |rate| rate as f64);
            let rate = rate.min(attempt.sent_bps);
            self.bad_bps = Some(self.bad_bps.map_or(rate, |bad| bad.min(rate)));
            self.guess_bps = Some(attempt.received_bps);
        }
        good
    }
}

/// Searches for the highest rate of `spec` (whose own rate is ignored) with a loss of at most
/// `loss_target_percent`. Each test takes `spec`'s duration. `on_attempt` is called after each.
pub fn search_rate(
    server: SocketAddr,
    spec: &TestSpec,
    loss_target_percent: f64,
    stop: &StopFlag,
    on_attempt: &mut dyn FnMut(&Attempt),
) -> Result<SearchReport, BenchError> {
    let mut search = RateSearch::new(loss_target_percent);
    let mut best: Option<TestReport> = None;
    let mut attempts = Vec::with_capacity(ATTEMPTS_MAX);
    while let Some(rate_bps) = search.next_rate() {
        let spec = TestSpec { rate_bps, ..spec.clone() };
        let report = run_test(server, &spec, stop, &mut |_| {})?;
        let attempt = Attempt {
            rate_bps,
            sent_bps: report.sender.bits_per_second,
            received_bps: report.receiver.bits_per_second,
            loss_percent: report.loss_percent(),
        };
        on_attempt(&attempt);
        attempts.push(attempt);
        let faster = best
            .as_ref()
            .is_none_or(|best| report.receiver.bits_per_second > best.receiver.bits_per_second);
        if search.record(&attempt) && faster {
            best = Some(report);
        }
    }
    Ok(SearchReport { schema: BENCH_SCHEMA, loss_target_percent, best, attempts })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{ATTEMPTS_MAX, Attempt, RateSearch};

    /// Runs a search against a link that carries `link_bps` and a sender that manages
    /// `sender_bps`; returns the best rate that kept to the target and the number of tests.
    fn search(link_bps: f64, sender_bps: f64, target: f64) -> (Option<f64>, usize) {
        let mut search = RateSearch::new(target);
        let (mut best, mut attempts) = (None, 0);
        while let Some(rate_bps) = search.next_rate() {
            attempts += 1;
            let sent_bps = rate_bps.map_or(sender_bps, |rate| (rate as f64).min(sender_bps));
            let received_bps = sent_bps.min(link_bps);
            let loss_percent = (sent_bps - received_bps) / sent_bps * 100.0;
            let attempt = Attempt { rate_bps, sent_bps, received_bps, loss_percent };
            if search.record(&attempt) && best < Some(received_bps) {
                best = Some(received_bps);
            }
        }
        (best, attempts)
    }

    #[test]
    fn a_link_faster_than_the_sender_needs_one_test() {
        assert_eq!(search(10e9, 1e9, 0.1), (Some(1e9), 1));
    }

    #[test]
    fn what_arrived_is_tried_before_halving() {
        let (best, attempts) = search(4e9, 10e9, 0.1);
        assert_eq!(best, Some(4e9));
        assert!(attempts <= ATTEMPTS_MAX);
    }

    #[test]
    fn a_link_that_always_loses_is_given_up() {
        let mut search = RateSearch::new(0.0);
        let mut attempts = 0;
        while let Some(rate_bps) = search.next_rate() {
            attempts += 1;
            let sent_bps = rate_bps.map_or(1e9, |rate| rate as f64);
            search.record(&Attempt {
                rate_bps,
                sent_bps,
                received_bps: sent_bps / 2.0,
                loss_percent: 50.0,
            });
        }
        assert!(attempts <= ATTEMPTS_MAX);
    }

    proptest! {
        #[test]
        fn comes_close_to_the_link_from_below(link in 1e5..1e11_f64, sender in 1e5..1e11_f64) {
            let (best, attempts) = search(link, sender, 0.1);
            prop_assert!(attempts <= ATTEMPTS_MAX);
            let best = best.unwrap();
            prop_assert!(best <= link.min(sender) * 1.002);
            prop_assert!(best >= link.min(sender) * 0.95, "{best} of {}", link.min(sender));
        }
    }
}
