//! What limits one direction of a relay or an exchange: bits per second, which it may share with
//! others of its user and with the tunnel.

use std::sync::Arc;
use std::time::Instant;

use crate::limits::{
    PROXY_BUFFER_LEN, PROXY_LIMIT_RETRY, PROXY_LIMIT_STEP, PROXY_LIMIT_STEP_LEN_MIN,
};
use crate::policy::bucket::{Bucket, Charge};

/// A bucket, and how it stands with it. Bytes are charged when they are taken in, and pass at once:
/// what has to wait is taking in more, until the queue of the bucket is short.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Limit {
    bucket: Option<Arc<Bucket>>,
    /// Bytes that passed and could not be charged yet.
    owed: usize,
    resumes_at: Option<Instant>,
}

/// Whether a datagram of `len` bytes may pass now; it is charged if so. It has no queue to wait in,
/// and takes no more of what the user may have than a relay would.
pub(in crate::proxy) fn admits(bucket: Option<&Bucket>, now: Instant, len: usize) -> bool {
    let Some(bucket) = bucket else { return true };
    match bucket.charge(now, 0, true) {
        Charge::Now | Charge::At { congested: false, .. } => {
            bucket.charge(now, len, true) != Charge::Refused
        }
        Charge::At { congested: true, .. } | Charge::Refused => false,
    }
}

impl Limit {
    /// From here on this limits it. Of what is `pending` nothing was charged if nothing did before.
    pub(in crate::proxy) fn set(&mut self, bucket: Option<Arc<Bucket>>, pending: usize) {
        self.owed = match (&self.bucket, &bucket) {
            (_, None) => 0,
            (Some(_), Some(_)) => self.owed,
            (None, Some(_)) => pending,
        };
        (self.bucket, self.resumes_at) = (bucket, None);
    }

    /// When more may be taken in, while it has to wait.
    pub(in crate::proxy) fn resumes_at(&self) -> Option<Instant> {
        self.resumes_at
    }

    /// How much may be taken in; `None` if that has to wait.
    pub(in crate::proxy) fn room(&mut self, now: Instant) -> Option<usize> {
        let Some(bucket) = &self.bucket else { return Some(usize::MAX) };
        let charge = bucket.charge(now, self.owed, true);
        if charge != Charge::Refused {
            self.owed = 0;
        }
        // What was owed may be what makes it wait.
        let charge = if self.owed == 0 { bucket.charge(now, 0, true) } else { charge };
        self.resumes_at = match charge {
            Charge::Now | Charge::At { congested: false, .. } => None,
            // By then the queue is half as long, which is short enough, and not empty.
            Charge::At { time, congested: true } => {
                Some(now + time.saturating_duration_since(now) / 2)
            }
            Charge::Refused => Some(now + PROXY_LIMIT_RETRY),
        };
        if self.resumes_at.is_some() {
            return None;
        }
        let bytes_per_s = u128::from(bucket.bits_per_second() / 8);
        let step = bytes_per_s * PROXY_LIMIT_STEP.as_millis() / 1000;
        let step = usize::try_from(step).unwrap_or(usize::MAX);
        Some(step.clamp(PROXY_LIMIT_STEP_LEN_MIN, PROXY_BUFFER_LEN))
    }

    /// So much was taken in.
    pub(in crate::proxy) fn charge(&mut self, now: Instant, len: usize) {
        if let Some(bucket) = &self.bucket
            && bucket.charge(now, len, true) == Charge::Refused
        {
            self.owed = self.owed.saturating_add(len);
        }
    }
}
