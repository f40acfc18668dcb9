//! TAI64N timestamps: why a recorded initiation is of no use later.

use std::time::Duration;

use crate::limits::TIMESTAMP_LEN;

/// The TAI64 label of 1970-01-01 00:00:00 TAI, plus the 10 s by which TAI led UTC when leap seconds
/// began. Later leap seconds are left out: what counts is that values grow.
const UNIX_EPOCH_LABEL: u64 = (1 << 62) + 10;

/// A point in time as an initiation carries it: 8 bytes of seconds, 4 of nanoseconds, big endian,
/// so that byte order is time order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp([u8; TIMESTAMP_LEN]);

impl Timestamp {
    /// The time `since_epoch` after 1970-01-01 00:00:00 UTC.
    pub fn from_unix(since_epoch: Duration) -> Self {
        let seconds = UNIX_EPOCH_LABEL.saturating_add(since_epoch.as_secs());
        Self::from_parts(seconds, since_epoch.subsec_nanos())
    }

    /// Takes over what a message carries. Any value is a timestamp; only their order matters.
    pub fn from_bytes(bytes: [u8; TIMESTAMP_LEN]) -> Self {
        Self(bytes)
    }

    /// What a message carries.
    pub fn as_bytes(&self) -> &[u8; TIMESTAMP_LEN] {
        &self.0
    }

    /// Whether an initiation with this timestamp is fresh, when `last` is the newest that the same
    /// peer has used so far.
    pub fn is_newer_than(&self, last: Option<&Self>) -> bool {
        last.is_none_or(|last| self > last)
    }

    fn from_parts(seconds: u64, nanoseconds: u32) -> Self {
        let [a, b, c, d, e, f, g, h] = seconds.to_be_bytes();
        let [i, j, k, l] = nanoseconds.to_be_bytes();
        Self([a, b, c, d, e, f, g, h, i, j, k, l])
    }

    /// The next nanosecond.
    fn successor(self) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = self.0;
        let seconds = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
        match u32::from_be_bytes([i, j, k, l]).saturating_add(1) {
            nanoseconds if nanoseconds < 1_000_000_000 => Self::from_parts(seconds, nanoseconds),
            _ => Self::from_parts(seconds.saturating_add(1), 0),
        }
    }
}

/// Gives out timestamps that always grow, even if the system clock stands still or jumps back.
#[derive(Clone, Copy, Debug, Default)]
pub struct TimestampClock {
    last: Option<Timestamp>,
}

impl TimestampClock {
    /// The timestamp of an initiation sent when the system clock shows `since_epoch`.
    pub fn next(&mut self, since_epoch: Duration) -> Timestamp {
        let by_clock = Timestamp::from_unix(since_epoch);
        let next = self.last.map_or(by_clock, |last| by_clock.max(last.successor()));
        self.last = Some(next);
        next
    }
}

#[cfg(test)]
mod tests {
    use super::{Timestamp, TimestampClock};
    use std::time::Duration;

    #[test]
    fn layout_is_tai64n() {
        let timestamp = Timestamp::from_unix(Duration::new(1, 2));
        assert_eq!(timestamp.as_bytes(), &[0x40, 0, 0, 0, 0, 0, 0, 0x0b, 0, 0, 0, 2]);
    }

    /// (clock shows, expected timestamp), in this order.
    #[test]
    fn a_clock_that_stands_still_or_jumps_back_still_yields_growing_timestamps() {
        let table = [
            /* 1: first           */ (Duration::new(100, 5), Duration::new(100, 5)),
            /* 2: stands still    */ (Duration::new(100, 5), Duration::new(100, 6)),
            /* 3: moves less      */ (Duration::new(100, 6), Duration::new(100, 7)),
            /* 4: moves on        */ (Duration::new(100, 900), Duration::new(100, 900)),
            /* 5: jumps back      */ (Duration::new(7, 0), Duration::new(100, 901)),
            /* 6: at a full second*/
            (Duration::new(100, 999_999_999), Duration::new(100, 999_999_999)),
            /* 7: carries over    */ (Duration::new(50, 0), Duration::new(101, 0)),
            /* 8: clock is back   */ (Duration::new(200, 0), Duration::new(200, 0)),
        ];
        let mut clock = TimestampClock::default();
        let mut last = None;
        for (number, (shown, expected)) in (1..).zip(table) {
            let timestamp = clock.next(shown);
            assert_eq!(timestamp, Timestamp::from_unix(expected), "row {number}");
            assert!(timestamp.is_newer_than(last.as_ref()), "row {number}");
            assert!(!timestamp.is_newer_than(Some(&timestamp)), "row {number}");
            last = Some(timestamp);
        }
    }
}
