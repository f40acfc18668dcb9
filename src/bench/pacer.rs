//! Sending at a given rate.

use std::time::{Duration, Instant};

/// How far behind its schedule a sender may catch up in one burst. Longer stalls are forgiven:
/// making up for them would send a burst no queue is meant to hold.
const CATCH_UP_MAX: Duration = Duration::from_millis(10);

/// Tells a sender when the next bytes may go.
#[derive(Clone, Debug)]
pub(crate) struct Pacer {
    rate_bps: u64,
    next: Instant,
}

impl Pacer {
    /// Allows `rate_bps` bits per second from `start` on.
    pub(crate) fn new(rate_bps: u64, start: Instant) -> Self {
        Self { rate_bps: rate_bps.max(1), next: start }
    }

    /// How long to wait before more may be sent; zero when it may go at once.
    pub(crate) fn due_in(&mut self, now: Instant) -> Duration {
        if let Some(oldest) = now.checked_sub(CATCH_UP_MAX) {
            self.next = self.next.max(oldest);
        }
        self.next.saturating_duration_since(now)
    }

    /// Notes that `bytes` were sent.
    pub(crate) fn sent(&mut self, bytes: usize) {
        let nanos = bytes as u128 * 8 * 1_000_000_000 / u128::from(self.rate_bps);
        self.next += Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
    }

    /// How many messages of `len` bytes are worth sending in one go: a millisecond's worth, at
    /// least one, at most `max`.
    pub(crate) fn burst(&self, len: usize, max: usize) -> usize {
        let per_ms = self.rate_bps / 8 / 1000 / (len.max(1) as u64);
        usize::try_from(per_ms).unwrap_or(max).clamp(1, max.max(1))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Pacer;
    use crate::sys::clock;

    #[test]
    fn keeps_to_the_rate_however_the_caller_is_late() {
        let start = clock::now();
        let mut pacer = Pacer::new(8_000_000, start);
        let (mut now, mut sent) = (start, 0_usize);
        while now < start + Duration::from_secs(2) {
            let wait = pacer.due_in(now);
            if wait.is_zero() {
                pacer.sent(1000);
                sent += 1000;
            }
            // Every step is 70 microseconds longer than asked for.
            now += wait + Duration::from_micros(70);
        }
        assert!((1_990_000..=2_010_000).contains(&sent), "{sent}");
    }

    #[test]
    fn a_stall_is_not_made_up_for() {
        let start = clock::now();
        let mut pacer = Pacer::new(8_000_000, start);
        let late = start + Duration::from_secs(5);
        let mut burst = 0;
        while pacer.due_in(late).is_zero() {
            pacer.sent(1000);
            burst += 1;
        }
        assert!(burst <= 11, "10 ms at 1 kB per ms, not 5 s: {burst}");
    }

    #[test]
    fn bursts_are_a_millisecond_long_and_bounded() {
        let now = clock::now();
        assert_eq!(Pacer::new(80_000_000, now).burst(1000, 64), 10);
        assert_eq!(Pacer::new(1, now).burst(1000, 64), 1);
        assert_eq!(Pacer::new(u64::MAX, now).burst(64, 64), 64);
    }
}
