//! The clocks, read in one place: everywhere else time is an argument.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The monotonic clock (`CLOCK_MONOTONIC`).
#[inline]
#[must_use]
#[allow(clippy::disallowed_methods)]
pub fn now() -> Instant {
    Instant::now()
}

/// The wall clock: time since 1970-01-01 UTC, zero for a clock that stands before it.
#[inline]
#[must_use]
#[allow(clippy::disallowed_methods)]
pub fn unix_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{now, unix_time};
    use std::time::Duration;

    #[test]
    fn the_clocks_run_forwards_and_the_wall_clock_is_of_this_century() {
        let first = now();
        assert!(now() >= first);
        let year_2020 = Duration::from_secs(1_577_836_800);
        assert!(unix_time() > year_2020);
    }
}
