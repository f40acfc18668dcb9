//! The replay window: which counters of a lane have been seen.
//!
//! RFC 6479: a ring of 64-bit words in which moving the window clears whole words, so nothing is
//! ever shifted. One word more than the usable window keeps the word that is being filled apart
//! from the oldest one that still counts.

use crate::limits::{REPLAY_WINDOW_PACKETS, REPLAY_WINDOW_USABLE};

const WORD_BITS: u64 = u64::BITS as u64;
const WORDS: u64 = REPLAY_WINDOW_PACKETS / WORD_BITS;

/// Remembers the counters accepted on one lane.
///
/// A counter is checked before its packet is opened and committed after the packet has proved
/// authentic, so a forged packet never moves the window.
#[derive(Clone, Debug)]
pub struct ReplayWindow {
    highest: u64,
    seen: [u64; WORDS as usize],
}

impl Default for ReplayWindow {
    fn default() -> Self {
        Self::new()
    }
}

impl ReplayWindow {
    /// A window that has seen nothing.
    pub const fn new() -> Self {
        Self { highest: 0, seen: [0; WORDS as usize] }
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
        self.highest - counter <= REPLAY_WINDOW_USABLE
            && self.seen[Self::word(counter)] & Self::bit(counter) == 0
    }

    /// Marks `counter` as seen. It must have passed [`ReplayWindow::check`] since the last commit.
    #[inline]
    pub fn commit(&mut self, counter: u64) {
        if counter > self.highest {
            let filling = self.highest / WORD_BITS;
            let fresh = (counter / WORD_BITS - filling).min(WORDS);
            for step in 1..=fresh {
                self.seen[((filling + step) % WORDS) as usize] = 0;
            }
            self.highest = counter;
        }
        self.seen[Self::word(counter)] |= Self::bit(counter);
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
