//! Days and months of quotas, in UTC.

use std::time::Instant;

use jiff::Span;
use jiff::civil::{Date, date};

use crate::accounts::model::UnixMs;
use crate::sys::clock;

/// The same moment by both clocks: one that runs evenly, and one that can be set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    /// For what is to last a certain time.
    pub(crate) instant: Instant,
    /// For what people read, and what outlives the process.
    pub(crate) unix: UnixMs,
}

impl Moment {
    /// The present.
    pub(crate) fn now() -> Self {
        let unix = i64::try_from(clock::unix_time().as_millis()).unwrap_or(i64::MAX);
        Self { instant: clock::now(), unix: UnixMs(unix) }
    }
}

/// Milliseconds of a day.
const DAY_MS: i64 = 24 * 3600 * 1000;

/// Days from 1970 to `moment`.
pub(crate) fn day_of(moment: UnixMs) -> i32 {
    i32::try_from(moment.0.div_euclid(DAY_MS)).unwrap_or(i32::MAX)
}

/// The first day of the month that `day` is in.
pub(crate) fn month_start(day: i32) -> i32 {
    date_of(day).map_or(day, |date| day.saturating_sub(i32::from(date.day()) - 1))
}

/// The day as people write it, such as `2026-11-30`.
pub(crate) fn day_text(day: i32) -> String {
    date_of(day).map_or_else(|| day.to_string(), |date| date.to_string())
}

fn date_of(day: i32) -> Option<Date> {
    let since = Span::new().try_days(day).ok()?;
    date(1970, 1, 1).checked_add(since).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_months_truth_table() {
        // (milliseconds, day, first of its month, text)
        let table = [
            (0, 0, 0, "1970-01-01"),
            (DAY_MS - 1, 0, 0, "1970-01-01"),
            (DAY_MS, 1, 0, "1970-01-02"),
            (-1, -1, -31, "1969-12-31"),
            (1_772_323_199_999, 20512, 20485, "2026-02-28"),
            (1_772_323_200_000, 20513, 20513, "2026-03-01"),
            (1_709_164_800_000, 19782, 19754, "2024-02-29"),
        ];
        for (ms, day, first, text) in table {
            assert_eq!(day_of(UnixMs(ms)), day);
            assert_eq!(month_start(day), first, "{text}");
            assert_eq!(day_text(day), text);
        }
        assert_eq!(month_start(i32::MAX), i32::MAX);
    }
}
