//! Which address of a host is tried when: Happy Eyeballs (RFC 8305), without a socket or a clock.
//!
//! The addresses come in the order of preference that the system's resolver has found (RFC 6724).
//! Families take turns, beginning with that of the first (section 4). While an attempt has no
//! answer, the next begins after a delay; one that fails lets the next begin at once (section 5).
//! The first connection that stands wins.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use crate::limits::{PROXY_ADDRESSES_MAX, PROXY_ATTEMPT_DELAY, PROXY_ATTEMPTS_MAX};

use super::failure::Failure;

/// The order of attempts at one host.
#[derive(Debug)]
pub struct Eyeballs {
    /// What is left to try, the next one last.
    addresses: Vec<SocketAddr>,
    /// Attempts without an answer yet.
    flying: usize,
    /// When the next one may begin beside them.
    next: Option<Instant>,
    failure: Failure,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Begin an attempt at this address.
    Connect(SocketAddr),
    /// Wait for an answer; if a time is given, ask again then.
    Wait(Option<Instant>),
    /// Every attempt has failed.
    Failed(Failure),
}

impl Eyeballs {
    /// Attempts at `port` of `addresses`, of which the first [`PROXY_ADDRESSES_MAX`] are tried
    /// once families take turns.
    pub fn new(addresses: &[IpAddr], port: u16) -> Self {
        let is_first = |address: &&IpAddr| {
            addresses.first().is_some_and(|first| first.is_ipv4() == address.is_ipv4())
        };
        let mut first = addresses.iter().filter(is_first);
        let mut second = addresses.iter().filter(|address| !is_first(address));
        let mut order = Vec::with_capacity(addresses.len().min(PROXY_ADDRESSES_MAX));
        loop {
            let pair = [first.next(), second.next()];
            let before = order.len();
            order.extend(pair.into_iter().flatten().map(|address| SocketAddr::new(*address, port)));
            if order.len() == before || order.len() >= PROXY_ADDRESSES_MAX {
                break;
            }
        }
        order.truncate(PROXY_ADDRESSES_MAX);
        order.reverse();
        Self { addresses: order, flying: 0, next: None, failure: Failure::NameNotFound }
    }

    /// What to do now. After `Connect` the attempt counts as begun.
    pub fn poll(&mut self, now: Instant) -> Step {
        let is_due = self.flying == 0 || self.next.is_none_or(|next| now >= next);
        if is_due
            && self.flying < PROXY_ATTEMPTS_MAX
            && let Some(address) = self.addresses.pop()
        {
            self.flying += 1;
            self.next = Some(now + PROXY_ATTEMPT_DELAY);
            return Step::Connect(address);
        }
        match self.flying {
            0 => Step::Failed(self.failure),
            _ if self.addresses.is_empty() || self.flying >= PROXY_ATTEMPTS_MAX => Step::Wait(None),
            _ => Step::Wait(self.next),
        }
    }

    /// An attempt has failed.
    pub fn fail(&mut self, failure: Failure) {
        self.flying = self.flying.saturating_sub(1);
        self.next = None;
        // Before the first attempt has failed, there is nothing to compare with.
        self.failure = match self.failure {
            Failure::NameNotFound => failure,
            before => before.min(failure),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::clock;
    use proptest::prelude::*;
    use std::time::Duration;

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn connect(text: &str) -> Step {
        Step::Connect(SocketAddr::new(text.parse().unwrap(), 80))
    }

    #[test]
    fn families_take_turns_and_the_first_keeps_its_lead() {
        let now = clock::now();
        let list = addresses(&["2001:db8::1", "2001:db8::2", "192.0.2.1", "192.0.2.2"]);
        let mut eyeballs = Eyeballs::new(&list, 80);
        for expected in ["2001:db8::1", "192.0.2.1", "2001:db8::2", "192.0.2.2"] {
            assert_eq!(eyeballs.poll(now), connect(expected));
            eyeballs.fail(Failure::Refused);
        }
        assert_eq!(eyeballs.poll(now), Step::Failed(Failure::Refused));
    }

    #[test]
    fn the_next_attempt_waits_for_its_delay_or_for_a_failure() {
        let start = clock::now();
        let mut eyeballs = Eyeballs::new(&addresses(&["192.0.2.1", "192.0.2.2", "::2"]), 80);
        assert_eq!(eyeballs.poll(start), connect("192.0.2.1"));
        let next = start + PROXY_ATTEMPT_DELAY;
        assert_eq!(eyeballs.poll(start), Step::Wait(Some(next)));
        assert_eq!(eyeballs.poll(next - Duration::from_millis(1)), Step::Wait(Some(next)));
        assert_eq!(eyeballs.poll(next), connect("::2"));
        eyeballs.fail(Failure::NetworkUnreachable);
        assert_eq!(eyeballs.poll(next), connect("192.0.2.2"));
        assert_eq!(eyeballs.poll(next), Step::Wait(None), "none is left to begin");
        eyeballs.fail(Failure::TimedOut);
        assert_eq!(eyeballs.poll(next), Step::Wait(None));
        eyeballs.fail(Failure::HostUnreachable);
        let failed = Step::Failed(Failure::TimedOut);
        assert_eq!(eyeballs.poll(next), failed, "the one that tells most");
    }

    #[test]
    fn a_thousand_addresses_are_not_all_tried() {
        let list: Vec<IpAddr> = (0..1000_u32).map(|n| IpAddr::from(n.to_be_bytes())).collect();
        let mut eyeballs = Eyeballs::new(&list, 80);
        let mut now = clock::now();
        let mut tried = 0;
        let mut flying = 0;
        loop {
            match eyeballs.poll(now) {
                Step::Connect(_) => (tried, flying) = (tried + 1, flying + 1),
                Step::Wait(Some(next)) => now = next,
                Step::Wait(None) => {
                    assert!(flying <= PROXY_ATTEMPTS_MAX);
                    flying -= 1;
                    eyeballs.fail(Failure::TimedOut);
                }
                Step::Failed(failure) => break assert_eq!(failure, Failure::TimedOut),
            }
        }
        assert_eq!(tried, PROXY_ADDRESSES_MAX);
        assert_eq!(Eyeballs::new(&[], 80).poll(now), Step::Failed(Failure::NameNotFound));
    }

    proptest! {
        /// However answers and time come: every address is tried once, unless one wins.
        #[test]
        fn it_always_ends(
            v4 in 0_usize..9, v6 in 0_usize..9, picks in prop::collection::vec(any::<bool>(), 99),
        ) {
            let mut list: Vec<IpAddr> =
                (0..v4).map(|n| IpAddr::from([192, 0, 2, n as u8])).collect();
            list.extend((0..v6).map(|n| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, n as u16])));
            let mut eyeballs = Eyeballs::new(&list, 1);
            let mut now = clock::now();
            let mut tried = Vec::new();
            for wait in picks {
                match eyeballs.poll(now) {
                    Step::Connect(address) => tried.push(address.ip()),
                    Step::Wait(Some(next)) if wait => now = next,
                    Step::Wait(_) => eyeballs.fail(Failure::Refused),
                    Step::Failed(_) => break,
                }
            }
            prop_assert!(matches!(eyeballs.poll(now), Step::Failed(_)));
            let mut expected = list.clone();
            expected.sort();
            tried.sort();
            prop_assert_eq!(tried, expected);
        }
    }
}
