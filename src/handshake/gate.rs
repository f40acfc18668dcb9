//! Which initiations are read, when more of them come than can be.
//!
//! To read one is to check its `mac1`, and then its `mac2` or to answer with a cookie: microseconds
//! spent on somebody of whom nothing is known, in which a flood of any size would use up the
//! control thread. So there is a rate up to which all are read, first come, first served. Beyond it
//! only those are read whose sender has asked before: a client that gets no answer asks again, and
//! who forges ever new addresses never does. That has a rate, too, for those who forge each twice;
//! and each sender has one, for those who forge few, or send from what is theirs.
//!
//! Nothing here is proved, so nothing here may be used up in somebody else's name for good: who
//! asks too often is left with what all have, the chance to come first.

use std::hash::{DefaultHasher, Hasher as _};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use rand::CryptoRng;

use crate::limits::{
    HANDSHAKE_SENDERS_SEEN, HANDSHAKES_READ_AGAIN_BURST, HANDSHAKES_READ_AGAIN_PPS,
    HANDSHAKES_READ_BURST, HANDSHAKES_READ_PPS,
};
use crate::rate::Rate;

/// Of initiations that are read whoever sends them.
const ANYBODY: Rate = Rate::new(HANDSHAKES_READ_PPS, HANDSHAKES_READ_BURST);
/// Of those that are read because their sender has asked before.
const AGAIN: Rate = Rate::new(HANDSHAKES_READ_AGAIN_PPS, HANDSHAKES_READ_AGAIN_BURST);
/// The time for which a sender's initiations are counted.
const TICK: Duration = Duration::from_millis(128);
/// How many initiations of one sender are read in a tick because it has asked before.
const PER_TICK: u8 = 4;

/// One kind of initiation waits at each gate.
pub(super) struct Gate {
    anybody_full_at: Instant,
    again_full_at: Instant,
    seen: Seen,
}

impl Gate {
    /// A gate that nobody has come to.
    pub(super) fn new(now: Instant, rng: &mut dyn CryptoRng) -> Self {
        Self { anybody_full_at: now, again_full_at: now, seen: Seen::new(now, rng) }
    }

    /// Whether an initiation from `from` is to be read.
    pub(super) fn lets_in(&mut self, now: Instant, from: IpAddr) -> bool {
        if let Some(full_at) = ANYBODY.take(now, self.anybody_full_at) {
            self.anybody_full_at = full_at;
            return true;
        }
        if !self.seen.again(now, from) {
            return false;
        }
        let taken = AGAIN.take(now, self.again_full_at);
        self.again_full_at = taken.unwrap_or(self.again_full_at);
        taken.is_some()
    }
}

/// Senders that have come to a closed gate: an IPv4 address each, or an IPv6 /48, since whoever has
/// that has 65,536 /64s to ask from twice.
///
/// A sender has one place in the table, which the next one whose place it is takes over.
struct Seen {
    /// None before the gate is closed for the first time. A place holds two bytes of the sender's
    /// hash, a tick, and how many initiations were read in it.
    places: Vec<u32>,
    /// Keeps a forger from knowing who shares a place.
    secret: [u8; 16],
    began: Instant,
}

impl Seen {
    fn new(now: Instant, rng: &mut dyn CryptoRng) -> Self {
        let mut secret = [0; 16];
        rng.fill_bytes(&mut secret);
        Self { places: Vec::new(), secret, began: now }
    }

    /// Whether `from` has come before and not too often; it is remembered in any case.
    fn again(&mut self, now: Instant, from: IpAddr) -> bool {
        if self.places.is_empty() {
            self.places = vec![0; HANDSHAKE_SENDERS_SEEN];
        }
        let hash = self.hash(from);
        // Nobody's is 0, which stands in places that nobody has taken.
        let [high, low] = ((hash >> 48) as u16 | 1).to_be_bytes();
        let elapsed = now.saturating_duration_since(self.began);
        let tick = (elapsed.as_millis() / TICK.as_millis()) as u8;
        let Some(place) = self.places.get_mut(hash as usize % HANDSHAKE_SENDERS_SEEN) else {
            return false;
        };
        let [found_high, found_low, found_tick, found_read] = place.to_be_bytes();
        let has_come = (found_high, found_low) == (high, low);
        let read = if has_come && found_tick == tick { found_read } else { 0 };
        let again = has_come && read < PER_TICK;
        *place = u32::from_be_bytes([high, low, tick, read + u8::from(again)]);
        again
    }

    fn hash(&self, from: IpAddr) -> u64 {
        let mut hasher = DefaultHasher::new();
        hasher.write(&self.secret);
        match from.to_canonical() {
            IpAddr::V4(address) => hasher.write(&address.octets()),
            IpAddr::V6(address) => hasher.write(&address.octets()[..6]),
        }
        hasher.finish()
    }
}

#[cfg(test)]
mod tests;
