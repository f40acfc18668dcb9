//! Which of several servers is the best, and how long to wait before the next try.

use std::time::Duration;

use rand::Rng;

use crate::limits::{RELOGIN_PAUSE_FIRST, RELOGIN_PAUSE_MAX};

/// What is known of a server that has answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Offer {
    /// It is only there for when the others are not.
    pub(super) is_backup: bool,
    /// How far away it is.
    pub(super) round_trip: Duration,
    /// How busy it is, in thousandths of what it can do.
    pub(super) load_permille: u16,
}

impl Offer {
    /// The less, the better. A server with half its capacity in use counts as half as far again,
    /// and one that is full as out of reach.
    fn cost(&self) -> (bool, bool, Duration) {
        let load = u32::from(self.load_permille.min(1000));
        let is_full = load == 1000;
        (self.is_backup, is_full, self.round_trip * 1000 / (1000 - load).max(1))
    }
}

/// The position of the best offer.
pub(super) fn best(offers: &[Offer]) -> Option<usize> {
    let costs = offers.iter().map(Offer::cost).enumerate();
    costs.min_by_key(|(_, cost)| *cost).map(|(position, _)| position)
}

/// How long to wait before the login number `tries` (the first is 0): longer each time, up to
/// [`RELOGIN_PAUSE_MAX`], and at random, since the clients of a server that restarts come together.
pub(super) fn pause(tries: u32, rng: &mut impl Rng) -> Duration {
    let longest = RELOGIN_PAUSE_FIRST.saturating_mul(1 << tries.min(16)).min(RELOGIN_PAUSE_MAX);
    longest.mul_f64(rng.random_range(0.25..=1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    fn offer(is_backup: bool, round_trip_ms: u64, load_permille: u16) -> Offer {
        Offer { is_backup, round_trip: Duration::from_millis(round_trip_ms), load_permille }
    }

    #[test]
    fn offers_truth_table() {
        let table: [(&[Offer], Option<usize>); 8] = [
            (&[], None),
            (&[offer(false, 50, 0)], Some(0)),
            (&[offer(false, 50, 0), offer(false, 20, 0)], Some(1)),
            // Twice as near, but nearly full.
            (&[offer(false, 50, 0), offer(false, 25, 900)], Some(0)),
            (&[offer(false, 50, 500), offer(false, 60, 500)], Some(0)),
            (&[offer(true, 1, 0), offer(false, 300, 800)], Some(1)),
            (&[offer(false, 1, 1000), offer(false, 300, 999)], Some(1)),
            (&[offer(false, 1, u16::MAX)], Some(0)),
        ];
        for (offers, expected) in table {
            assert_eq!(best(offers), expected, "{offers:?}");
        }
    }

    #[test]
    fn pauses_grow_to_their_bound_and_differ() {
        let mut rng = rand::rngs::StdRng::seed_from_u64(7);
        for tries in [0, 1, 5, 20, u32::MAX] {
            let pauses: Vec<_> = (0..100).map(|_| pause(tries, &mut rng)).collect();
            let bound = RELOGIN_PAUSE_FIRST * (1 << tries.min(16));
            assert!(pauses.iter().all(|pause| *pause <= bound.min(RELOGIN_PAUSE_MAX)), "{tries}");
            assert!(pauses.iter().min() < pauses.iter().max(), "{tries}");
        }
    }
}
