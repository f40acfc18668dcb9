//! Whether anything still comes back on a client's path.
//!
//! A path that sends and hears nothing for [`DEAD_PEER_PROBE_AFTER`] is probed every
//! [`DEAD_PEER_PROBE_EVERY`]; [`DEAD_PEER_PROBES_MAX`] probes without any sign of life and it is
//! gone. An idle path is never probed. A server needs none of this: it answers probes, and forgets
//! a silent client when the session expires. For the same reason nobody sends WireGuard's passive
//! keepalives: a client that wonders asks.

use std::time::Instant;

use crate::limits::{DEAD_PEER_PROBE_AFTER, DEAD_PEER_PROBE_EVERY, DEAD_PEER_PROBES_MAX};

/// The health of one path, fed by [`observe`](Self::observe) and [`heard`](Self::heard).
#[derive(Debug)]
pub(super) struct PathHealth {
    /// Packet counters of the worker as last seen.
    sent: u64,
    received: u64,
    /// Since when something that was sent has had no echo of any kind.
    waiting_since: Option<Instant>,
    probes: u32,
    probe_at: Instant,
    last_activity: Instant,
}

/// What to do about a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing.
    Fine,
    /// Send a probe. `first`: the path has just come under suspicion.
    Probe {
        /// No other probe went before.
        first: bool,
    },
    /// Give the path up.
    Gone,
}

impl PathHealth {
    /// A path whose counters start at 0.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            sent: 0,
            received: 0,
            waiting_since: None,
            probes: 0,
            probe_at: now,
            last_activity: now,
        }
    }

    /// Looks at the worker's packet counters. Returns whether something was received.
    pub(super) fn observe(&mut self, now: Instant, sent: u64, received: u64) -> bool {
        let has_sent = sent != self.sent;
        let has_received = received != self.received;
        (self.sent, self.received) = (sent, received);
        if has_received {
            self.heard(now);
        } else if has_sent {
            self.waiting_since.get_or_insert(now);
        }
        if has_sent {
            self.last_activity = now;
        }
        has_received
    }

    /// Something is about to be sent; the counters will show it later.
    pub(super) fn note_sent(&mut self, now: Instant) {
        self.last_activity = now;
    }

    /// The far side gave a sign of life on this path.
    pub(super) fn heard(&mut self, now: Instant) {
        self.waiting_since = None;
        self.probes = 0;
        self.last_activity = now;
    }

    /// Another path came under suspicion: this one is probed in step with it, to tell whether the
    /// path or the far side is gone. Returns whether to send a probe.
    pub(super) fn suspect(&mut self, now: Instant) -> bool {
        if self.probes > 0 {
            return false;
        }
        self.waiting_since.get_or_insert(now);
        self.probes = 1;
        self.probe_at = now + DEAD_PEER_PROBE_EVERY;
        true
    }

    /// What to do now.
    pub(super) fn judge(&mut self, now: Instant) -> Verdict {
        let Some(since) = self.waiting_since else { return Verdict::Fine };
        let due = if self.probes == 0 { since + DEAD_PEER_PROBE_AFTER } else { self.probe_at };
        if now < due {
            return Verdict::Fine;
        }
        if self.probes >= DEAD_PEER_PROBES_MAX {
            return Verdict::Gone;
        }
        self.probes += 1;
        self.probe_at = now + DEAD_PEER_PROBE_EVERY;
        Verdict::Probe { first: self.probes == 1 }
    }

    /// Whether a probe has gone unanswered.
    pub(super) fn is_silent(&self) -> bool {
        self.probes > 1
    }

    /// When something was last sent or received.
    pub(super) fn last_activity(&self) -> Instant {
        self.last_activity
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "an arbitrary origin for virtual time")]
mod tests {
    use super::*;
    use std::time::Duration;

    /// Runs `health` for `ms` milliseconds with fixed counters; the time of each verdict.
    fn verdicts(health: &mut PathHealth, start: Instant, ms: u64) -> Vec<(u64, Verdict)> {
        (0..=ms)
            .map(|ms| (ms, health.judge(start + Duration::from_millis(ms))))
            .filter(|(_, verdict)| *verdict != Verdict::Fine)
            .collect()
    }

    #[test]
    fn a_path_that_sends_and_hears_nothing_is_probed_then_given_up() {
        let start = Instant::now();
        let mut health = PathHealth::new(start);
        health.observe(start, 1, 0);
        assert_eq!(
            verdicts(&mut health, start, 3000),
            [
                (1500, Verdict::Probe { first: true }),
                (2000, Verdict::Probe { first: false }),
                (2500, Verdict::Probe { first: false }),
                (3000, Verdict::Gone),
            ]
        );
        assert!(health.is_silent());
    }

    #[test]
    fn an_idle_path_is_left_alone() {
        let start = Instant::now();
        let mut health = PathHealth::new(start);
        health.observe(start, 5, 0);
        health.observe(start, 5, 5);
        health.observe(start, 5, 5);
        assert_eq!(verdicts(&mut health, start, 60_000), []);
    }

    #[test]
    fn any_sign_of_life_ends_the_suspicion() {
        let start = Instant::now();
        let mut health = PathHealth::new(start);
        health.observe(start, 1, 0);
        assert_eq!(verdicts(&mut health, start, 2600).len(), 3);
        let later = start + Duration::from_millis(2600);
        health.heard(later);
        assert!(!health.is_silent());
        assert_eq!(verdicts(&mut health, later, 5000), []);
    }

    #[test]
    fn the_wait_begins_with_the_first_packet_after_silence() {
        let start = Instant::now();
        let mut health = PathHealth::new(start);
        let later = start + Duration::from_secs(3600);
        health.observe(later, 1, 0);
        health.observe(later + Duration::from_secs(1), 2, 0);
        assert_eq!(verdicts(&mut health, later, 1600)[0].0, 1500);
    }

    #[test]
    fn a_suspect_path_keeps_step_with_the_one_that_raised_it() {
        let start = Instant::now();
        let (mut first, mut second) = (PathHealth::new(start), PathHealth::new(start));
        first.observe(start, 1, 0);
        let at = start + DEAD_PEER_PROBE_AFTER;
        assert_eq!(first.judge(at), Verdict::Probe { first: true });
        assert!(second.suspect(at));
        assert!(!second.suspect(at));
        assert_eq!(verdicts(&mut first, at, 1500), verdicts(&mut second, at, 1500));
    }
}
