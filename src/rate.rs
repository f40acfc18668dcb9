//! Token buckets that are one timestamp each.

use std::time::{Duration, Instant};

/// How many tokens a bucket holds, and how fast they come back. Of the bucket itself only the time
/// is kept at which it will be full again, so one that has come to that time need not be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate {
    /// How long one token takes to come back.
    pub(crate) token: Duration,
    /// How long an empty bucket takes to fill.
    pub(crate) fill: Duration,
}

impl Rate {
    /// Buckets of `burst` tokens, of which `per_second` come back in a second; neither is 0.
    pub(crate) const fn new(per_second: u32, burst: u32) -> Self {
        Self::every(Duration::from_nanos(1_000_000_000 / per_second as u64), burst)
    }

    /// Buckets of `burst` tokens, of which one comes back every `token`; neither is 0.
    pub(crate) const fn every(token: Duration, burst: u32) -> Self {
        Self { token, fill: token.saturating_mul(burst) }
    }

    /// Takes a token from the bucket that would be full at `full_at`, and returns when it will be
    /// full then; `None` if it is empty.
    pub(crate) fn take(&self, now: Instant, full_at: Instant) -> Option<Instant> {
        let full_at = full_at.max(now) + self.token;
        (full_at - now <= self.fill).then_some(full_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::clock;

    #[test]
    fn bucket_truth_table() {
        // (milliseconds since the start, a token was there), of 20 a second and 5 at once
        let table = [
            /*  1 */ (0, true),
            /*  2 */ (0, true),
            /*  3 */ (0, true),
            /*  4 */ (0, true),
            /*  5: the burst      */ (0, true),
            /*  6: and no more    */ (0, false),
            /*  7: not yet        */ (49, false),
            /*  8: one came back  */ (50, true),
            /*  9 */ (50, false),
            /* 10: and another    */ (100, true),
            /* 11 */ (149, false),
            /* 12: two came back  */ (200, true),
            /* 13 */ (200, true),
            /* 14 */ (200, false),
            /* 15: clock went back*/ (100, false),
            /* 16: never over full*/ (60_000, true),
            /* 17 */ (60_000, true),
            /* 18 */ (60_000, true),
            /* 19 */ (60_000, true),
            /* 20 */ (60_000, true),
            /* 21 */ (60_000, false),
            /* 22 */ (60_249, true),
            /* 23 */ (60_249, true),
            /* 24 */ (60_249, true),
            /* 25 */ (60_249, true),
            /* 26: four in 249 ms */ (60_249, false),
        ];
        let rate = Rate::new(20, 5);
        assert_eq!(rate.token, Duration::from_millis(50));
        assert_eq!(rate.fill, Duration::from_millis(250));
        let origin = clock::now();
        let mut full_at = origin;
        for (number, (at_ms, granted)) in (1..).zip(table) {
            let taken = rate.take(origin + Duration::from_millis(at_ms), full_at);
            assert_eq!(taken.is_some(), granted, "row {number}");
            full_at = taken.unwrap_or(full_at);
        }
    }
}
