//! Whether the server is still there: it is asked every so often, and has a while to answer.

use std::time::{Duration, Instant};

use crate::limits::{
    FULL_TUNNEL_HEARTBEAT_EVERY, HEARTBEAT_EVERY, HEARTBEAT_WITHIN, LOGIN_PING_EVERY,
};

/// How often a client with so many servers asks, whose host may have nothing but the tunnel. Where
/// something is sent, its silence is noticed sooner; this is for a host that waits to be called.
pub(super) fn beats_every(servers: usize, has_all: bool) -> Duration {
    match (servers, has_all) {
        (2.., _) => HEARTBEAT_EVERY,
        (_, true) => FULL_TUNNEL_HEARTBEAT_EVERY,
        (_, false) => LOGIN_PING_EVERY,
    }
}

/// Questions and answers.
#[derive(Debug)]
pub(super) struct Heart {
    every: Duration,
    ask_at: Instant,
    /// The question that waits for its answer, and since when.
    asked: Option<(u64, Instant)>,
    questions: u64,
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beat {
    /// Nothing.
    Rest,
    /// Ask, with this number.
    Ask(u64),
    /// Nothing has come back in time.
    Stopped,
}

impl Heart {
    /// A heart that beats so often, for the first time after that time.
    pub(super) fn new(now: Instant, every: Duration) -> Self {
        Self { every, ask_at: now + every, asked: None, questions: 0 }
    }

    /// There is a reason to doubt: asks at once.
    pub(super) fn doubt(&mut self, now: Instant) {
        self.ask_at = now;
    }

    /// An answer to question `nonce` has come.
    pub(super) fn heard(&mut self, nonce: u64) {
        self.asked.take_if(|(asked, _)| *asked == nonce);
    }

    pub(super) fn beat(&mut self, now: Instant) -> Beat {
        match self.asked {
            Some((_, since)) if now >= since + HEARTBEAT_WITHIN => Beat::Stopped,
            None if now >= self.ask_at => {
                self.questions += 1;
                self.asked = Some((self.questions, now));
                self.ask_at = now + self.every;
                Beat::Ask(self.questions)
            }
            _ => Beat::Rest,
        }
    }

    /// When to call [`Self::beat`] next.
    pub(super) fn due(&self) -> Instant {
        self.asked.map_or(self.ask_at, |(_, since)| since + HEARTBEAT_WITHIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::clock;

    const EVERY: Duration = Duration::from_secs(10);

    #[test]
    fn who_has_more_to_lose_asks_more_often() {
        let table = [
            (1, false, LOGIN_PING_EVERY),
            (1, true, FULL_TUNNEL_HEARTBEAT_EVERY),
            (2, false, HEARTBEAT_EVERY),
            (9, true, HEARTBEAT_EVERY),
        ];
        for (servers, has_all, expected) in table {
            assert_eq!(beats_every(servers, has_all), expected, "{servers} {has_all}");
        }
    }

    #[test]
    fn a_server_that_answers_is_asked_every_so_often() {
        let start = clock::now();
        let mut heart = Heart::new(start, EVERY);
        assert_eq!(heart.beat(start), Beat::Rest);
        for round in 1..5 {
            let now = start + EVERY * round;
            assert_eq!(heart.due(), now);
            assert_eq!(heart.beat(now), Beat::Ask(round.into()));
            assert_eq!(heart.beat(now), Beat::Rest);
            heart.heard(u64::from(round));
        }
    }

    #[test]
    fn silence_is_noticed_in_time_and_an_old_answer_is_none() {
        let start = clock::now();
        let mut heart = Heart::new(start, EVERY);
        let asked = start + EVERY;
        assert_eq!(heart.beat(asked), Beat::Ask(1));
        heart.heard(0);
        assert_eq!(heart.due(), asked + HEARTBEAT_WITHIN);
        assert_eq!(heart.beat(asked + HEARTBEAT_WITHIN / 2), Beat::Rest);
        assert_eq!(heart.beat(asked + HEARTBEAT_WITHIN), Beat::Stopped);
    }

    #[test]
    fn a_doubt_is_cleared_up_at_once() {
        let start = clock::now();
        let mut heart = Heart::new(start, EVERY);
        heart.doubt(start);
        assert_eq!(heart.beat(start), Beat::Ask(1));
        heart.doubt(start);
        assert_eq!(heart.beat(start), Beat::Rest, "one question at a time");
    }
}
