//! Whether UDP still gets through, found out fast enough that a carrier takes over before inner
//! connections notice much.
//!
//! Traffic that goes unanswered, or stops all at once, may have an innocent cause. So the server is
//! asked for a sign of life before it is judged: [`UDP_ASKS_MAX`] probes without an answer and UDP
//! is silent. Where nothing is carried nothing is asked.

use std::time::{Duration, Instant};

use crate::limits::{UDP_ASK_EVERY, UDP_ASKS_MAX, UDP_QUIET_MAX, UDP_SILENT_AGAIN};

/// The watch over all paths of a session.
#[derive(Debug)]
pub(super) struct Watch {
    /// Counters of the session as last seen: packets received, inner bytes in both directions.
    packets: u64,
    bytes: u64,
    heard: Instant,
    /// Since when something has been carried of which it is not known whether it was the last.
    pending_since: Option<Instant>,
    asked: u32,
    ask_at: Instant,
    /// When it was said last that UDP is silent.
    told: Option<Instant>,
}

/// What the watch has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// Nothing to do.
    Nothing,
    /// Probe every path.
    Ask,
    /// Nothing gets through.
    Silent,
}

impl Watch {
    /// A watch over a session that has carried nothing yet.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            packets: 0,
            bytes: 0,
            heard: now,
            pending_since: None,
            asked: 0,
            ask_at: now,
            told: None,
        }
    }

    /// Begins again, on another way, with what the session has carried so far: it is to be found
    /// out at once whether anything comes back.
    pub(super) fn restart(&mut self, now: Instant, packets: u64, bytes: u64) {
        *self = Self { packets, bytes, pending_since: Some(now), ..Self::new(now) };
    }

    /// Looks at the counters.
    pub(super) fn observe(&mut self, now: Instant, packets: u64, bytes: u64) {
        let heard = packets != self.packets;
        let carried = bytes != self.bytes;
        (self.packets, self.bytes) = (packets, bytes);
        if carried {
            self.pending_since.get_or_insert(now);
        } else if heard && self.asked > 0 {
            // The answer, and nothing else goes on.
            self.pending_since = None;
        }
        if heard {
            self.heard = now;
            self.asked = 0;
            self.told = None;
        }
    }

    /// Judges what was observed, on paths whose answers take `rtt`.
    pub(super) fn judge(&mut self, now: Instant, rtt: Duration) -> Finding {
        if self.poll_timeout(rtt).is_none_or(|due| now < due) {
            return Finding::Nothing;
        }
        if self.asked < UDP_ASKS_MAX {
            self.asked += 1;
            self.ask_at = now + UDP_ASK_EVERY.max(rtt / 2);
            return Finding::Ask;
        }
        self.told = Some(now);
        Finding::Silent
    }

    /// When there is something to be found, as long as nothing is heard; `None` if nothing has
    /// been carried that leaves anything to be found out.
    pub(super) fn poll_timeout(&self, rtt: Duration) -> Option<Instant> {
        let since = self.pending_since?;
        Some(match self.told {
            Some(told) => told + UDP_SILENT_AGAIN,
            None if self.asked > 0 => self.ask_at,
            None => since.max(self.heard) + UDP_QUIET_MAX + rtt,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::clock;

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    /// Looks every 10 ms until `until`, with counters that stay; what was found, and when.
    fn findings(watch: &mut Watch, start: Instant, from: u64, until: u64) -> Vec<(u64, Finding)> {
        let times = (from..=until).step_by(10);
        times
            .map(|at| (at, watch.judge(start + ms(at), ms(20))))
            .filter(|(_, finding)| *finding != Finding::Nothing)
            .collect()
    }

    #[test]
    fn traffic_without_an_echo_is_asked_after_and_then_judged() {
        let start = clock::now();
        let mut watch = Watch::new(start);
        watch.observe(start, 0, 1000);
        let found = findings(&mut watch, start, 0, 1000);
        let expected =
            [(320, Finding::Ask), (470, Finding::Ask), (620, Finding::Ask), (770, Finding::Silent)];
        assert_eq!(found, expected);
        // It is told again, in case nothing could be done about it.
        assert_eq!(findings(&mut watch, start, 1000, 6000), [(5770, Finding::Silent)]);
    }

    #[test]
    fn traffic_that_stops_is_asked_after_once() {
        let start = clock::now();
        let mut watch = Watch::new(start);
        watch.observe(start, 9, 1000);
        assert_eq!(findings(&mut watch, start, 0, 330), [(320, Finding::Ask)]);
        // The answer carries nothing.
        watch.observe(start + ms(340), 10, 1000);
        assert_eq!(watch.poll_timeout(ms(20)), None);
        assert_eq!(findings(&mut watch, start, 340, 60_000), []);
    }

    #[test]
    fn traffic_that_goes_on_is_left_alone() {
        let start = clock::now();
        let mut watch = Watch::new(start);
        for at in 0..100 {
            watch.observe(start + ms(at * 100), at, at * 1000);
            assert_eq!(watch.judge(start + ms(at * 100), ms(20)), Finding::Nothing);
        }
        assert!(watch.poll_timeout(ms(20)).is_some());
    }

    #[test]
    fn nothing_carried_is_nothing_asked() {
        let start = clock::now();
        let mut watch = Watch::new(start);
        for at in 0..100 {
            watch.observe(start + ms(at * 1000), at, 0);
            assert_eq!(watch.judge(start + ms(at * 1000), ms(20)), Finding::Nothing);
        }
    }

    #[test]
    fn slow_answers_are_waited_for() {
        let start = clock::now();
        let mut watch = Watch::new(start);
        watch.observe(start, 0, 1000);
        let silent = (0..5000_u64)
            .find(|at| watch.judge(start + ms(*at), ms(600)) == Finding::Silent)
            .unwrap();
        assert!((1700..2000).contains(&silent), "{silent}");
    }
}
