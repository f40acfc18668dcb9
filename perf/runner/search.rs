//! The highest rates at which no more than given shares of the datagrams are lost, from one series
//! of tries: what was learnt for one share is known for the next.

use std::num::NonZeroU64;

/// Bounds this close to each other end a search.
const CLOSE_ENOUGH: f64 = 1.04;

/// One try: what was sent and what arrived.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Try {
    /// Payload bits per second that the sender managed.
    pub(crate) sent_bps: f64,
    /// Payload bits per second that arrived.
    pub(crate) received_bps: f64,
    /// Datagrams lost, in percent.
    pub(crate) loss_percent: f64,
    /// Datagrams that arrived behind a later one.
    pub(crate) reordered: u64,
}

/// The rate of a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rate {
    /// As fast as the sender can.
    Flat,
    /// So many payload bits per second.
    Bps(NonZeroU64),
}

/// The tries so far, the first of them flat out.
#[derive(Clone, Debug, Default)]
pub(crate) struct Search {
    tries: Vec<Try>,
}

impl Search {
    pub(crate) fn record(&mut self, outcome: Try) {
        self.tries.push(outcome);
    }

    /// The try flat out, once there was one.
    pub(crate) fn flat(&self) -> Option<&Try> {
        self.tries.first()
    }

    /// The try that brought most across with at most `loss_max` percent lost.
    pub(crate) fn best(&self, loss_max: f64) -> Option<&Try> {
        let good = self.tries.iter().filter(|one| one.loss_percent <= loss_max);
        good.max_by(|a, b| a.received_bps.total_cmp(&b.received_bps))
    }

    /// The rate to try next on the way to the highest with at most `loss_max` percent lost; `None`
    /// when it is known well enough.
    pub(crate) fn next_rate(&self, loss_max: f64) -> Option<Rate> {
        if self.tries.is_empty() {
            return Some(Rate::Flat);
        }
        let is_good = |one: &&Try| one.loss_percent <= loss_max;
        let good = self.tries.iter().filter(is_good).map(|one| one.sent_bps).fold(0.0, f64::max);
        // A rate that lost more by accident does not count below one that has been seen to work.
        let too_fast = self.tries.iter().filter(|one| !is_good(one) && one.sent_bps > good);
        let bad = too_fast.min_by(|a, b| a.sent_bps.total_cmp(&b.sent_bps))?;
        if good * CLOSE_ENOUGH >= bad.sent_bps {
            return None;
        }
        // What arrived of too much is the best guess at what can arrive, unless it is known to.
        // Otherwise the middle, by ratio: rates differ by magnitudes.
        let guess = bad.received_bps;
        let is_news = guess > good * CLOSE_ENOUGH && guess * CLOSE_ENOUGH < bad.sent_bps;
        let middle = if good > 0.0 { (good * bad.sent_bps).sqrt() } else { bad.sent_bps / 2.0 };
        let bps = if is_news { guess } else { middle };
        NonZeroU64::new(bps as u64).map(Rate::Bps)
    }
}

#[cfg(test)]
mod tests {
    use super::{Rate, Search, Try};

    /// A link that carries so much, and beyond that ever less.
    fn carry(link_bps: f64, collapse: f64, rate: Rate) -> Try {
        let sent_bps = match rate {
            Rate::Flat => 3e9,
            Rate::Bps(bps) => (bps.get() as f64).min(3e9),
        };
        let over = (sent_bps - link_bps).max(0.0);
        let received_bps = (sent_bps.min(link_bps) - collapse * over).max(0.0);
        let loss_percent = (sent_bps - received_bps) / sent_bps * 100.0;
        Try { sent_bps, received_bps, loss_percent, reordered: 0 }
    }

    /// The best rates for 1 and 0.5 percent, and the tries it took.
    fn search(link_bps: f64, collapse: f64, tries_max: usize) -> (Option<f64>, Option<f64>, usize) {
        let mut search = Search::default();
        for loss_max in [1.0, 0.5] {
            while let Some(rate) = search.next_rate(loss_max) {
                if search.tries.len() >= tries_max {
                    break;
                }
                search.record(carry(link_bps, collapse, rate));
            }
        }
        let best = |loss_max| search.best(loss_max).map(|one| one.received_bps);
        (best(1.0), best(0.5), search.tries.len())
    }

    #[test]
    fn a_link_faster_than_the_sender_needs_one_try() {
        assert_eq!(search(10e9, 0.0, 8), (Some(3e9), Some(3e9), 1));
    }

    #[test]
    fn links_of_every_speed_are_found_from_below() {
        for link_bps in [1e6, 3e7, 1e8, 1e9, 2.9e9] {
            for collapse in [0.0, 0.2, 1.0] {
                let (one, half, tries) = search(link_bps, collapse, 24);
                let (one, half) = (one.unwrap(), half.unwrap());
                assert!(one <= link_bps && one > link_bps * 0.95, "{one} of {link_bps}");
                assert!(half <= one && half > link_bps * 0.94, "{half} of {link_bps}");
                assert!(tries < 24, "{tries} tries for {link_bps}, {collapse}");
            }
        }
    }

    #[test]
    fn a_few_tries_come_close() {
        for link_bps in [2e8, 1e9, 2.9e9] {
            for collapse in [0.0, 0.2] {
                let (one, _, tries) = search(link_bps, collapse, 8);
                assert!(one.unwrap() > link_bps * 0.85, "{one:?} of {link_bps}, {collapse}");
                assert!(tries <= 8);
            }
        }
    }

    #[test]
    fn an_accident_below_a_rate_that_works_does_not_count() {
        let mut search = Search::default();
        search.record(carry(1e9, 0.0, Rate::Flat));
        search.record(Try { loss_percent: 2.0, ..carry(5e8, 0.0, Rate::Flat) });
        search.record(Try { sent_bps: 5e8, received_bps: 4e8, loss_percent: 20.0, reordered: 3 });
        search.record(Try { sent_bps: 9e8, received_bps: 9e8, loss_percent: 0.0, reordered: 1 });
        assert_eq!(search.best(1.0).unwrap().reordered, 1);
        let Some(Rate::Bps(next)) = search.next_rate(1.0) else { panic!("no further try") };
        assert!(next.get() > 900_000_000, "{next}");
    }

    #[test]
    fn the_stricter_bound_uses_what_is_known() {
        let mut search = Search::default();
        for (sent_bps, loss_percent) in [(3e9, 60.0), (1e9, 0.8), (9.7e8, 0.2)] {
            let received_bps = sent_bps * (1.0 - loss_percent / 100.0);
            search.record(Try { sent_bps, received_bps, loss_percent, reordered: 0 });
        }
        assert!(search.next_rate(1.0).is_some(), "1 % may go faster");
        assert_eq!(search.next_rate(0.5), None);
        assert_eq!(search.best(0.5).unwrap().sent_bps, 9.7e8);
        assert_eq!(search.best(0.1), None);
    }

    #[test]
    fn a_link_that_carries_nothing_is_given_up() {
        let (one, half, tries) = search(0.0, 0.0, 8);
        assert_eq!((one, half, tries), (None, None, 8));
    }
}
