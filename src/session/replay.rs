//! The replay window: which counters of a lane have been seen.
//!
//! RFC 6479: a ring of 64-bit words in which moving the window clears whole words, so nothing is
//! ever shifted. One word more than the usable window keeps the word that is being filled apart
//! from the oldest one that still counts.
//!
//! Most lanes of a server with many peers are idle: they carry a handful of keepalives in the life
//! of their key. So the ring is made when a counter outgrows the first word, and a window that has
//! seen less is that word.

use crate::limits::{REPLAY_WINDOW_PACKETS, REPLAY_WINDOW_USABLE};

const WORD_BITS: u64 = u64::BITS as u64;
const WORDS: u64 = REPLAY_WINDOW_PACKETS / WORD_BITS;

/// Remembers the counters accepted on one lane.
///
/// A counter is checked before its packet is opened and committed after the packet has proved
/// authentic, so a forged packet never moves the window.
#[derive(Clone, Debug, Default)]
pub struct ReplayWindow {
    highest: u64,
    /// The counters below [`WORD_BITS`] while there is no ring.
    first: u64,
    ring: Option<Box<Ring>>,
}

type Ring = [u64; WORDS as usize];

impl ReplayWindow {
    /// A window that has seen nothing.
    pub const fn new() -> Self {
        Self { highest: 0, first: 0, ring: None }
    }

    /// The highest counter committed; 0 at first.
    #[inline]
    pub const fn highest(&self) -> u64 {
        self.highest
    }

    /// Whether `counter` is neither seen nor too old.
    #[inline]
    pub fn check(&self, counter: u64) -> bool {
        if counter > self.highest {
            return true;
        }
        let seen = match &self.ring {
            Some(ring) => ring[Self::word(counter)],
            None => self.first,
        };
        self.highest - counter <= REPLAY_WINDOW_USABLE && seen & Self::bit(counter) == 0
    }

    /// Marks `counter` as seen. It must have passed [`ReplayWindow::check`] since the last commit.
    #[inline]
    pub fn commit(&mut self, counter: u64) {
        let ring = match &mut self.ring {
            Some(ring) => ring,
            None if counter < WORD_BITS => {
                self.highest = self.highest.max(counter);
                self.first |= Self::bit(counter);
                return;
            }
            None => self.ring.insert(Self::ring_beginning_with(self.first)),
        };
        if counter > self.highest {
            let filling = self.highest / WORD_BITS;
            let fresh = (counter / WORD_BITS - filling).min(WORDS);
            for step in 1..=fresh {
                ring[((filling + step) % WORDS) as usize] = 0;
            }
            self.highest = counter;
        }
        ring[Self::word(counter)] |= Self::bit(counter);
    }

    #[cold]
    fn ring_beginning_with(first: u64) -> Box<Ring> {
        let mut ring = Box::new([0; WORDS as usize]);
        ring[0] = first;
        ring
    }

    #[inline]
    const fn word(counter: u64) -> usize {
        (counter / WORD_BITS % WORDS) as usize
    }

    #[inline]
    const fn bit(counter: u64) -> u64 {
        1 << (counter % WORD_BITS)
    }
}

#[cfg(test)]
mod tests;
