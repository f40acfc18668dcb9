//! Whether a server does its work, as far as the attempts tell.

use std::time::{Duration, Instant};

use crate::limits::{
    PROXY_UPSTREAM_FAILURES_MAX, PROXY_UPSTREAM_OUT_FIRST, PROXY_UPSTREAM_OUT_MAX,
};

/// What the last attempts with a server say of it. After [`PROXY_UPSTREAM_FAILURES_MAX`] failures
/// in a row it is out for [`PROXY_UPSTREAM_OUT_FIRST`], after each further one for twice as long as
/// before, up to [`PROXY_UPSTREAM_OUT_MAX`]. One success makes up for all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    failures: u32,
    outages: u32,
    out_until: Option<Instant>,
}

impl Health {
    /// It has done what it was asked.
    pub fn succeed(&mut self) {
        *self = Self::default();
    }

    /// It has failed. Returns for how long it is out, if that begins now.
    pub fn fail(&mut self, now: Instant) -> Option<Duration> {
        self.failures = self.failures.saturating_add(1);
        if self.failures < PROXY_UPSTREAM_FAILURES_MAX || self.out_for(now).is_some() {
            return None;
        }
        let factor = 2_u32.saturating_pow(self.outages);
        let wait = PROXY_UPSTREAM_OUT_FIRST.saturating_mul(factor).min(PROXY_UPSTREAM_OUT_MAX);
        self.outages = self.outages.saturating_add(1);
        self.out_until = Some(now + wait);
        Some(wait)
    }

    /// For how long it is out yet, if it is.
    pub fn out_for(&self, now: Instant) -> Option<Duration> {
        let left = self.out_until?.saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }

    /// Failures since the last success.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::clock;

    #[test]
    fn failures_in_a_row_take_a_server_out_for_longer_and_longer() {
        let mut now = clock::now();
        let mut health = Health::default();
        for _ in 1..PROXY_UPSTREAM_FAILURES_MAX {
            assert_eq!(health.fail(now), None);
            assert_eq!(health.out_for(now), None);
        }
        let mut expected = PROXY_UPSTREAM_OUT_FIRST;
        for _ in 0..20 {
            assert_eq!(health.fail(now), Some(expected));
            assert_eq!(health.fail(now), None, "what was under way already prolongs nothing");
            assert_eq!(health.out_for(now), Some(expected));
            now += expected;
            assert_eq!(health.out_for(now), None);
            expected = (expected * 2).min(PROXY_UPSTREAM_OUT_MAX);
        }
        assert_eq!(expected, PROXY_UPSTREAM_OUT_MAX);
        health.succeed();
        assert_eq!((health.fail(now), health.failures()), (None, 1), "it begins anew");
    }

    #[test]
    fn a_success_in_between_makes_up_for_failures() {
        let now = clock::now();
        let mut health = Health::default();
        for _ in 0..10 {
            for _ in 1..PROXY_UPSTREAM_FAILURES_MAX {
                assert_eq!(health.fail(now), None);
            }
            health.succeed();
        }
    }
}
