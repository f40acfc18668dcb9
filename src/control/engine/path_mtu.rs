//! The largest plaintext a path carries: packetization layer path MTU discovery (RFC 8899).
//!
//! Sizes are plaintext lengths, whole AES blocks, because that is what workers compare packets
//! with. A path is taken to carry the wanted size until shown otherwise, since most links do. The
//! first probe asks for exactly that size; if it is refuted, the size in use drops to the base and
//! a binary search raises it again.
//!
//! 1. *Probe timer*: an answer is awaited for [`PATH_MTU_PROBE_WAIT`]. Each probe travels with a
//!    second one of the base size, and a missing answer speaks against the size only if the base
//!    was answered meanwhile: an outage says nothing about the MTU.
//! 2. *Confirmation timer*: while the path carries traffic, the size in use is probed every
//!    [`PATH_MTU_CONFIRM_EVERY`], so a route that shrank is found (a black hole, section 4.3).
//! 3. *Raise timer*: a size that was refuted is asked about again, since a load beside the probes
//!    may have been to blame: after [`PATH_MTU_RAISE_FIRST`] and, while that fails, ever more
//!    rarely.

use std::time::{Duration, Instant};

use crate::limits::{
    PADDING_LEN, PATH_MTU_CONFIRM_EVERY, PATH_MTU_PROBE_WAIT, PATH_MTU_PROBES_MAX,
    PATH_MTU_RAISE_FIRST, PATH_MTU_RAISE_MAX, PATH_PLAINTEXT_BASE, padded_len,
};

/// The search on one path.
///
/// Call [`poll_probe`](Self::poll_probe) whenever [`poll_timeout`](Self::poll_timeout) has passed
/// and after every other call, send what it asks for, and tell workers what
/// [`take_change`](Self::take_change) returns.
#[derive(Debug)]
pub(super) struct PathMtu {
    /// The size that is wanted: the padded MTU of the TUN device.
    ceiling: usize,
    /// The largest size that was answered, or the base.
    low: usize,
    /// The largest size that is not refuted.
    high: usize,
    /// What workers go by.
    in_use: usize,
    /// What workers were told last.
    told: usize,
    attempt: Option<Attempt>,
    confirm_at: Instant,
    raise_at: Option<Instant>,
    /// How often that has failed in a row.
    raises_failed: u8,
}

/// One size being probed.
#[derive(Debug)]
struct Attempt {
    len: usize,
    /// Probes that went unanswered although the base was answered.
    refusals: u32,
    /// Probes during which not even the base was answered.
    silences: u32,
    base_answered: bool,
    /// When the probe on its way counts as unanswered; `None`: nothing was sent yet.
    expires: Option<Instant>,
}

impl Attempt {
    fn new(len: usize) -> Self {
        Self { len, refusals: 0, silences: 0, base_answered: false, expires: None }
    }
}

impl PathMtu {
    /// A search for `wanted` bytes of plaintext that begins with the next
    /// [`poll_probe`](Self::poll_probe).
    pub(super) fn new(now: Instant, wanted: usize) -> Self {
        let ceiling = padded_len(wanted).max(PATH_PLAINTEXT_BASE);
        Self {
            ceiling,
            low: PATH_PLAINTEXT_BASE,
            high: ceiling,
            in_use: ceiling,
            told: ceiling,
            attempt: Some(Attempt::new(ceiling)),
            confirm_at: now,
            raise_at: None,
            raises_failed: 0,
        }
    }

    /// Begins again: the far end has moved, so what was learned may be wrong.
    pub(super) fn restart(&mut self, now: Instant) {
        *self = Self { told: self.told, ..Self::new(now, self.ceiling) };
    }

    /// Begins again with another size that is wanted.
    pub(super) fn want(&mut self, now: Instant, wanted: usize) {
        *self = Self { told: self.told, ..Self::new(now, wanted) };
    }

    /// The largest plaintext to send, in bytes.
    pub(super) fn plaintext_max(&self) -> usize {
        self.in_use
    }

    /// The new size, once after each change.
    pub(super) fn take_change(&mut self) -> Option<usize> {
        (self.in_use != self.told).then(|| {
            self.told = self.in_use;
            self.in_use
        })
    }

    /// When [`poll_probe`](Self::poll_probe) has something to do next.
    pub(super) fn poll_timeout(&self) -> Instant {
        match &self.attempt {
            Some(attempt) => attempt.expires.unwrap_or(self.confirm_at),
            None => self.confirm_at,
        }
    }

    /// The size to probe now, if any: send one probe of [`PATH_PLAINTEXT_BASE`], then one of this
    /// size. `active` tells whether the path carried traffic lately; an idle
    /// path is left alone.
    pub(super) fn poll_probe(&mut self, now: Instant, active: bool) -> Option<usize> {
        if now < self.poll_timeout() {
            return None;
        }
        if self.attempt.as_ref().is_some_and(|attempt| attempt.expires.is_some()) {
            self.judge_unanswered(now);
        }
        if self.attempt.is_none() && now >= self.confirm_at {
            self.confirm_at = now + PATH_MTU_CONFIRM_EVERY;
            if active {
                self.begin_confirmation(now);
            }
        }
        let attempt = self.attempt.as_mut()?;
        attempt.base_answered = false;
        attempt.expires = Some(now + PATH_MTU_PROBE_WAIT);
        Some(attempt.len)
    }

    /// A probe of `len` bytes was answered.
    pub(super) fn handle_answer(&mut self, now: Instant, len: usize) {
        let len = len.min(self.ceiling) / PADDING_LEN * PADDING_LEN;
        if len < PATH_PLAINTEXT_BASE {
            return;
        }
        self.low = self.low.max(len);
        self.high = self.high.max(len);
        self.in_use = self.in_use.max(self.low);
        if let Some(attempt) = &mut self.attempt {
            attempt.base_answered = true;
            if attempt.len <= len {
                self.search_on(now);
            }
        }
    }

    /// The kernel refused to send a datagram with `len` bytes of plaintext: nothing needs to be
    /// lost to learn that they do not fit.
    pub(super) fn handle_refusal(&mut self, now: Instant, len: usize) {
        if len <= self.high {
            self.refute(now, padded_len(len));
        }
    }

    /// The probe on its way has timed out.
    fn judge_unanswered(&mut self, now: Instant) {
        let Some(attempt) = &mut self.attempt else { return };
        if attempt.base_answered {
            attempt.refusals += 1;
        } else {
            attempt.silences += 1;
        }
        if attempt.refusals >= PATH_MTU_PROBES_MAX {
            let len = attempt.len;
            self.refute(now, len);
        } else if attempt.silences >= PATH_MTU_PROBES_MAX {
            // The path is down, not small. The search resumes when there is traffic again.
            self.attempt = None;
            self.confirm_at = now + PATH_MTU_CONFIRM_EVERY;
        }
    }

    fn refute(&mut self, now: Instant, len: usize) {
        self.high = len.saturating_sub(PADDING_LEN).max(PADDING_LEN);
        if self.low > self.high {
            self.low = self.high.min(PATH_PLAINTEXT_BASE);
            // It was carried before, so this is news, and may pass as it has come.
            self.raises_failed = 0;
        }
        self.in_use = self.in_use.min(self.low);
        self.raise_at = Some(now + self.raise_wait());
        self.search_on(now);
    }

    /// How long a size that is refuted now rests before the wanted one is tried again.
    fn raise_wait(&self) -> Duration {
        let doubled = 1_u32.checked_shl(self.raises_failed.into()).unwrap_or(u32::MAX);
        PATH_MTU_RAISE_FIRST.saturating_mul(doubled).min(PATH_MTU_RAISE_MAX)
    }

    /// Halves the interval that is still open, or rests.
    fn search_on(&mut self, now: Instant) {
        if self.low < self.high {
            let step = ((self.high - self.low) / 2).next_multiple_of(PADDING_LEN);
            self.attempt = Some(Attempt::new(self.low + step));
            self.confirm_at = now;
        } else {
            self.attempt = None;
            self.confirm_at = now + PATH_MTU_CONFIRM_EVERY;
            if self.low >= self.ceiling {
                self.raise_at = None;
                self.raises_failed = 0;
            }
        }
    }

    fn begin_confirmation(&mut self, now: Instant) {
        if self.raise_at.is_some_and(|at| now >= at) {
            self.raises_failed = self.raises_failed.saturating_add(1);
            self.raise_at = Some(now + self.raise_wait());
            self.high = self.ceiling;
        }
        // An interrupted search goes on where it was; a finished one confirms its result.
        self.attempt = Some(Attempt::new(self.high));
    }
}

#[cfg(test)]
mod tests;
