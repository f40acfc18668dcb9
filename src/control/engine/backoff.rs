//! How long to wait before the next handshake initiation.

use std::time::Duration;

use rand::Rng;

use crate::limits::{
    HANDSHAKE_RETRIES_EVEN, HANDSHAKE_RETRY_FIRST, HANDSHAKE_RETRY_MAX,
    HANDSHAKE_TRIES_BEFORE_PAUSE, RECONNECT_PAUSE_MAX,
};

/// The wait after the initiation number `tries` (the first is 0): a few are equal, then it doubles
/// up to [`HANDSHAKE_RETRY_MAX`] and, once a server has not answered for a while, up to
/// [`RECONNECT_PAUSE_MAX`]. A random quarter is taken off, so that clients do not march in step.
pub(super) fn retry_wait(tries: u32, rng: &mut impl Rng) -> Duration {
    let ceiling = if tries < HANDSHAKE_TRIES_BEFORE_PAUSE {
        HANDSHAKE_RETRY_MAX
    } else {
        RECONNECT_PAUSE_MAX
    };
    let doublings = tries.saturating_sub(HANDSHAKE_RETRIES_EVEN - 1).min(16);
    let doubled = HANDSHAKE_RETRY_FIRST.saturating_mul(1 << doublings);
    doubled.min(ceiling).mul_f64(rng.random_range(0.75..=1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn waits_are_equal_then_double_then_pause_and_never_leave_their_bounds() {
        let mut rng = rand::rngs::StdRng::seed_from_u64(7);
        let full_ms =
            [250, 250, 250, 250, 500, 1000, 2000, 4000, 5000, 5000, 5000, 5000, 15000, 15000];
        for (tries, full_ms) in full_ms.into_iter().enumerate() {
            for _ in 0..100 {
                let wait = retry_wait(tries as u32, &mut rng);
                assert!(wait <= Duration::from_millis(full_ms), "try {tries}: {wait:?}");
                assert!(wait >= Duration::from_millis(full_ms * 3 / 4), "try {tries}: {wait:?}");
            }
        }
        assert!(retry_wait(u32::MAX, &mut rng) <= RECONNECT_PAUSE_MAX);
    }
}
