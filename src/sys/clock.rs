//! The clocks, read in one place: everywhere else time is an argument.

use std::mem::MaybeUninit;
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The clock that timers and the ages of sessions go by. It runs evenly, and goes on while the
/// machine is suspended (`CLOCK_BOOTTIME`, clock_gettime(2)), so that what was too old before a
/// laptop's lid was opened is too old at once. [`Instant::now`] stands still meanwhile
/// (`CLOCK_MONOTONIC`), so a time of the one is not to be compared with a time of the other.
#[inline]
#[must_use]
#[allow(clippy::disallowed_methods)]
pub fn now() -> Instant {
    static ORIGIN: OnceLock<(Instant, Duration)> = OnceLock::new();
    let (instant, at_origin) = *ORIGIN.get_or_init(|| (Instant::now(), since_boot()));
    instant + since_boot().saturating_sub(at_origin)
}

/// Time since the machine was booted, suspensions included. The kernel answers from the process's
/// own memory (vdso(7)), as for `CLOCK_MONOTONIC`.
#[inline]
fn since_boot() -> Duration {
    let mut time = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: the pointer leads to room for one timespec.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, time.as_mut_ptr()) };
    assert_eq!(result, 0, "every Linux since 2.6.39 has CLOCK_BOOTTIME");
    // SAFETY: the call has succeeded, so it has written the whole timespec.
    let time = unsafe { time.assume_init() };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The wall clock: time since 1970-01-01 UTC, zero for a clock that stands before it.
#[inline]
#[must_use]
#[allow(clippy::disallowed_methods)]
pub fn unix_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests;
