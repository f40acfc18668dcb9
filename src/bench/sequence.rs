//! Which datagrams of a stream arrived, how often and in what order.

use crate::limits::BENCH_SEQUENCE_WINDOW;

const WORDS: usize = (BENCH_SEQUENCE_WINDOW / 64) as usize;

/// Counts the datagrams of one stream by their sequence numbers. It remembers the last
/// [`BENCH_SEQUENCE_WINDOW`] numbers: an older one is taken for late, never for a duplicate.
#[derive(Clone, Debug)]
pub(crate) struct SequenceTracker {
    seen: Box<[u64]>,
    /// The highest number seen, plus one.
    next: u64,
    received: u64,
    reordered: u64,
    duplicates: u64,
}

impl SequenceTracker {
    pub(crate) fn new() -> Self {
        Self {
            seen: vec![0; WORDS].into_boxed_slice(),
            next: 0,
            received: 0,
            reordered: 0,
            duplicates: 0,
        }
    }

    /// Notes the arrival of number `sequence`, which is not `u64::MAX`. Returns whether it came
    /// for the first time.
    pub(crate) fn observe(&mut self, sequence: u64) -> bool {
        if sequence >= self.next {
            let skipped = (sequence - self.next).min(BENCH_SEQUENCE_WINDOW);
            for number in sequence - skipped..sequence {
                self.mark(number, false);
            }
            self.next = sequence.saturating_add(1);
        } else if self.next - sequence <= BENCH_SEQUENCE_WINDOW && self.is_marked(sequence) {
            self.duplicates += 1;
            return false;
        } else {
            self.reordered += 1;
            if self.next - sequence > BENCH_SEQUENCE_WINDOW {
                self.received += 1;
                return true;
            }
        }
        self.mark(sequence, true);
        self.received += 1;
        true
    }

    /// Datagrams received, each counted once.
    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    /// Datagrams received behind a later one.
    pub(crate) fn reordered(&self) -> u64 {
        self.reordered
    }

    /// Datagrams received again.
    pub(crate) fn duplicates(&self) -> u64 {
        self.duplicates
    }

    fn slot(sequence: u64) -> (usize, u64) {
        let position = sequence % BENCH_SEQUENCE_WINDOW;
        ((position / 64) as usize, 1 << (position % 64))
    }

    fn is_marked(&self, sequence: u64) -> bool {
        let (word, bit) = Self::slot(sequence);
        self.seen.get(word).is_some_and(|seen| seen & bit != 0)
    }

    fn mark(&mut self, sequence: u64, as_seen: bool) {
        let (word, bit) = Self::slot(sequence);
        if let Some(seen) = self.seen.get_mut(word) {
            *seen = if as_seen { *seen | bit } else { *seen & !bit };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::SequenceTracker;
    use crate::limits::BENCH_SEQUENCE_WINDOW as W;

    /// Feeds `sequences` and returns (received, reordered, duplicates).
    fn count(sequences: impl IntoIterator<Item = u64>) -> (u64, u64, u64) {
        let mut tracker = SequenceTracker::new();
        for sequence in sequences {
            tracker.observe(sequence);
        }
        (tracker.received(), tracker.reordered(), tracker.duplicates())
    }

    #[test]
    fn order_loss_repetition_and_age() {
        /* in order            */
        assert_eq!(count(0..100), (100, 0, 0));
        /* with a gap          */
        assert_eq!(count([0, 1, 5, 6]), (4, 0, 0));
        /* late, then filled   */
        assert_eq!(count([0, 3, 1, 2, 4]), (5, 2, 0));
        /* repeated at once    */
        assert_eq!(count([0, 1, 1, 2]), (3, 0, 1));
        /* repeated late       */
        assert_eq!(count([0, 2, 1, 1]), (3, 1, 1));
        /* first one late      */
        assert_eq!(count([7, 0]), (2, 1, 0));
        /* a jump over all     */
        assert_eq!(count([0, 3 * W, 3 * W - 1]), (3, 1, 0));
        /* oldest remembered   */
        assert_eq!(count([0, W - 1, 0]), (2, 0, 1));
        /* one older: late     */
        assert_eq!(count([0, W, 0]), (3, 1, 0));
        /* a slot used again   */
        assert_eq!(count([0, W, W]), (2, 0, 1));
        /* the last there is   */
        assert_eq!(count([u64::MAX - 1, u64::MAX - 1]), (1, 0, 1));
    }

    proptest! {
        #[test]
        fn agrees_with_a_set_within_the_window(sequences in prop::collection::vec(0..W, 0..500)) {
            let (mut set, mut highest, mut reordered) = (HashSet::new(), None, 0);
            for &sequence in &sequences {
                if set.insert(sequence) && highest > Some(sequence) {
                    reordered += 1;
                }
                highest = highest.max(Some(sequence));
            }
            let received = set.len() as u64;
            let expected = (received, reordered, sequences.len() as u64 - received);
            prop_assert_eq!(count(sequences), expected);
        }
    }
}
