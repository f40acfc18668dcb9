//! How much of what takes a client's way is lost, asked while there is traffic.
//!
//! Small probes go out evenly, on one path after another, and the share of the last
//! [`LOSS_WINDOW`] of them that was not answered in time is the loss of the way there and back. A
//! way on which nothing is carried is not asked, and what was found out long ago is forgotten. Its
//! timers:
//! - *Ask*: every [`LOSS_ASK_EVERY`] until [`LOSS_LINGER`] after something was carried: connections
//!   that loss has brought to a crawl still send now and then.
//! - *Answer*: a probe is lost [`LOSS_ANSWER_WITHIN`] and a round trip after it was sent.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::limits::{
    LOSS_ANSWER_WITHIN, LOSS_ASK_EVERY, LOSS_LINGER, LOSS_LOOK_LATE_MAX, LOSS_MEMORY, LOSS_WINDOW,
    LOSSY_PERCENT,
};

/// What is known of the loss of the way in use.
#[derive(Debug)]
pub(super) struct Loss {
    /// Inner bytes of the session as last seen, in both directions.
    bytes: u64,
    /// Until when it is asked, since something was carried.
    busy_until: Option<Instant>,
    ask_at: Instant,
    /// How often it was asked, which tells whose turn it is.
    turn: usize,
    /// Probes without an answer so far, oldest first, and when they count as lost.
    awaited: VecDeque<(u64, Instant)>,
    /// The last probes whose fate is known: when it became known, and whether they were lost.
    fates: VecDeque<(Instant, bool)>,
}

impl Loss {
    /// Nothing is known of a session that has carried nothing.
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            bytes: 0,
            busy_until: None,
            ask_at: now,
            turn: 0,
            awaited: VecDeque::new(),
            fates: VecDeque::new(),
        }
    }

    /// The way is another one: nothing is known of it.
    pub(super) fn forget(&mut self) {
        self.awaited = VecDeque::new();
        self.fates = VecDeque::new();
    }

    /// Another session counts what is carried on the same way, from 0 on.
    pub(super) fn count_anew(&mut self) {
        self.bytes = 0;
    }

    /// Looks at what the session has carried.
    pub(super) fn observe(&mut self, now: Instant, bytes: u64) {
        if std::mem::replace(&mut self.bytes, bytes) != bytes {
            self.busy_until = Some(now + LOSS_LINGER);
        }
        self.busy_until.take_if(|until| now >= *until);
    }

    /// The number of the probe to send now, if it is time for one.
    pub(super) fn take_turn(&mut self, now: Instant) -> Option<usize> {
        self.busy_until?;
        if now < self.ask_at {
            return None;
        }
        self.ask_at = now + LOSS_ASK_EVERY;
        self.turn = self.turn.wrapping_add(1);
        Some(self.turn)
    }

    /// The probe with `token` was sent, on a path whose answers take `rtt`.
    pub(super) fn asked(&mut self, now: Instant, token: u64, rtt: Duration) {
        if self.awaited.len() >= LOSS_WINDOW {
            self.awaited.pop_front();
        }
        self.awaited.push_back((token, now + LOSS_ANSWER_WITHIN + rtt));
    }

    /// A probe was answered, perhaps one of these.
    pub(super) fn handle_answer(&mut self, now: Instant, token: u64) {
        if let Some(position) = self.awaited.iter().position(|(awaited, _)| *awaited == token) {
            self.awaited.remove(position);
            self.learn(now, false);
        }
    }

    /// The share that is lost, in percent, if it is too much.
    pub(super) fn judge(&mut self, now: Instant) -> Option<u8> {
        while let Some((_, due)) = self.awaited.front().copied()
            && now >= due
        {
            self.awaited.pop_front();
            // Of a look that comes very late it is not known what nobody was there to hear.
            if now < due + LOSS_LOOK_LATE_MAX {
                self.learn(now, true);
            }
        }
        while self.fates.front().is_some_and(|(at, _)| now >= *at + LOSS_MEMORY) {
            self.fates.pop_front();
        }
        if self.fates.len() < LOSS_WINDOW {
            return None;
        }
        let lost = self.fates.iter().filter(|(_, lost)| *lost).count();
        let percent = (100 * lost / self.fates.len()) as u8;
        (percent >= LOSSY_PERCENT).then_some(percent)
    }

    /// When to look again at the latest; `None` while nothing is carried.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let ask = self.busy_until.map(|_| self.ask_at);
        let awaited = self.awaited.front().map(|(_, due)| *due);
        ask.into_iter().chain(awaited).min()
    }

    fn learn(&mut self, now: Instant, lost: bool) {
        if self.fates.len() >= LOSS_WINDOW {
            self.fates.pop_front();
        }
        self.fates.push_back((now, lost));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::clock;

    const RTT: Duration = Duration::from_millis(20);

    /// Ten looks in each interval of asking, for `span`, with traffic all the time; `answered`
    /// tells which probes are. When the loss was first found too high, and the share.
    fn run(
        loss: &mut Loss,
        start: Instant,
        span: Duration,
        answered: impl Fn(u64) -> bool,
    ) -> Option<(Duration, u8)> {
        let mut now = start;
        let mut token = 0;
        while now < start + span {
            loss.observe(now, (now - start).as_millis() as u64 + 1);
            if loss.take_turn(now).is_some() {
                token += 1;
                loss.asked(now, token, RTT);
            }
            // What was sent a round trip ago.
            if answered(token) {
                loss.handle_answer(now + RTT, token);
            }
            if let Some(percent) = loss.judge(now) {
                return Some((now - start, percent));
            }
            now += LOSS_ASK_EVERY / 10;
        }
        None
    }

    #[test]
    fn what_counts_as_too_much() {
        // Of ten probes so many are lost; whether that is too much.
        let table = [(0, false), (1, false), (2, false), (3, true), (5, true), (10, true)];
        for (lost, expected) in table {
            let start = clock::now();
            let mut loss = Loss::new(start);
            let span = Duration::from_secs(60);
            let found = run(&mut loss, start, span, |token| token % 10 >= lost);
            assert_eq!(found.is_some(), expected, "{lost} of 10: {found:?}");
            let Some((took, percent)) = found else { continue };
            assert!(u64::from(percent).abs_diff(10 * lost) <= 10, "{lost} of 10: {percent} %");
            assert!(took >= LOSS_ASK_EVERY * (LOSS_WINDOW as u32 - 1), "too soon: {took:?}");
            assert!(took < Duration::from_secs(10), "too late: {took:?}");
        }
    }

    #[test]
    fn a_short_outage_is_not_loss() {
        let start = clock::now();
        let mut loss = Loss::new(start);
        let outage = 80..80 + 10;
        let found =
            run(&mut loss, start, Duration::from_secs(60), |token| !outage.contains(&token));
        assert_eq!(found, None);
    }

    #[test]
    fn loss_that_ends_is_forgotten_by_what_follows() {
        let start = clock::now();
        let mut loss = Loss::new(start);
        // Just not too much in a window, again and again.
        let found = run(&mut loss, start, Duration::from_secs(120), |token| {
            token % LOSS_WINDOW as u64 >= LOSS_WINDOW as u64 * u64::from(LOSSY_PERCENT) / 100 - 1
        });
        assert_eq!(found, None);
    }

    #[test]
    fn a_way_that_carries_nothing_is_not_asked() {
        let start = clock::now();
        let mut loss = Loss::new(start);
        loss.observe(start, 0);
        assert_eq!((loss.take_turn(start), loss.poll_timeout()), (None, None));
        loss.observe(start, 1000);
        assert!(loss.take_turn(start).is_some());
        let later = start + LOSS_LINGER;
        loss.observe(later, 1000);
        assert_eq!((loss.take_turn(later), loss.poll_timeout()), (None, None));
    }

    #[test]
    fn what_was_found_out_long_ago_counts_no_more() {
        let start = clock::now();
        let mut loss = Loss::new(start);
        let span = LOSS_ASK_EVERY * (LOSS_WINDOW as u32 / 2);
        assert_eq!(run(&mut loss, start, span, |_| false), None);
        // All of it is lost, but the halves lie far apart.
        let much_later = start + span + LOSS_MEMORY + LOSS_ANSWER_WITHIN;
        assert_eq!(run(&mut loss, much_later, span, |_| false), None);
    }

    #[test]
    fn who_slept_blames_nobody() {
        let start = clock::now();
        let mut loss = Loss::new(start);
        for token in 0..LOSS_WINDOW as u64 {
            loss.asked(start, token, RTT);
        }
        let awake = start + Duration::from_secs(3600);
        assert_eq!(loss.judge(awake), None);
        assert_eq!((loss.awaited.len(), loss.fates.len()), (0, 0));
    }

    #[test]
    fn another_way_begins_with_nothing() {
        let start = clock::now();
        let mut loss = Loss::new(start);
        let (took, _) = run(&mut loss, start, Duration::from_secs(60), |_| false).unwrap();
        loss.forget();
        assert_eq!(loss.judge(start + took), None);
        // An answer to a probe of the way before.
        loss.handle_answer(start + took, 1);
        assert_eq!(loss.fates.len(), 0);
    }
}
