use std::collections::BTreeSet;

use proptest::prelude::*;

use super::ReplayWindow;
use crate::limits::{REJECT_AFTER_PACKETS, REPLAY_WINDOW_PACKETS, REPLAY_WINDOW_USABLE};

impl ReplayWindow {
    /// Check, and commit what passes: a packet that is authentic.
    fn accept(&mut self, counter: u64) -> bool {
        let fresh = self.check(counter);
        if fresh {
            self.commit(counter);
        }
        fresh
    }
}

/// Feeds `rows` of (counter, accepted) to one window, in order.
fn run(rows: &[(u64, bool)]) {
    let mut window = ReplayWindow::new();
    for (number, (counter, accepted)) in (1..).zip(rows) {
        assert_eq!(window.accept(*counter), *accepted, "row {number}, counter {counter}");
    }
}

/// Counters still accepted behind the highest.
const W: u64 = REPLAY_WINDOW_USABLE;
/// The ring's size in packets.
const R: u64 = REPLAY_WINDOW_PACKETS;
/// The first counter that no lane uses.
const END: u64 = REJECT_AFTER_PACKETS;

#[test]
fn truth_table() {
    run(&[
        // The start.
        /*  1 */ (0, true),
        /*  2 */ (0, false),
        /*  3 */ (2, true),
        /*  4 */ (1, true),
        /*  5 */ (1, false),
        /*  6 */ (2, false),
        // Around the border of a word.
        /*  7 */ (64, true),
        /*  8 */ (63, true),
        /*  9 */ (65, true),
        /* 10 */ (63, false),
        /* 11 */ (64, false),
        // The far edge of the window: exactly W behind the highest is the oldest accepted.
        /* 12 */
        (W + 10, true),
        /* 13 */ (10, true),
        /* 14 */ (10, false),
        /* 15 */ (9, false),
        /* 16 */ (11, true),
        /* 17 */ (65, false),
        /* 18 */ (66, true),
        // One step more and the oldest falls out.
        /* 19 */ (W + 13, true),
        /* 20 */ (12, false),
        /* 21 */ (13, true),
        // A jump by exactly the ring, by one less, and by one more.
        /* 22 */
        (W + 13 + R, true),
        /* 23 */ (W + 13, false),
        /* 24 */ (13 + R, true),
        /* 25 */ (12 + R, false),
        /* 26 */ (W + 12 + 2 * R, true),
        /* 27 */ (W + 13 + R, false),
        /* 28 */ (12 + 2 * R, true),
        /* 29 */ (W + 13 + 3 * R, true),
        /* 30 */ (W + 12 + 2 * R, false),
        /* 31 */ (13 + 3 * R, true),
        /* 32 */ (12 + 3 * R, false),
        // A jump over many rings leaves nothing of the past behind.
        /* 33 */
        (100 * R + 77, true),
        /* 34 */ (100 * R + 77, false),
        /* 35 */ (100 * R + 77 - W, true),
        /* 36 */ (100 * R + 76 - W, false),
        /* 37 */ (100 * R + 13, true),
        // The last counters of a lane.
        /* 38 */ (END - 1, true),
        /* 39 */ (END - 1, false),
        /* 40 */ (END - 3, true),
        /* 41 */ (END - 2, true),
        /* 42 */ (END - 2, false),
        /* 43 */ (END - 1 - W, true),
        /* 44 */ (END - 2 - W, false),
        /* 45 */ (0, false),
        // The arithmetic holds to the end of the type.
        /* 46 */ (u64::MAX, true),
        /* 47 */ (u64::MAX, false),
        /* 48 */ (u64::MAX - W, true),
        /* 49 */ (u64::MAX - W - 1, false),
    ]);
}

#[test]
fn a_window_taken_in_rising_order_leaves_only_its_oldest_open() {
    let rising = (1..=W).map(|counter| (counter, true));
    run(&rising.chain([(0, true), (0, false)]).collect::<Vec<_>>());
    let shifted = (2..=W + 1).map(|counter| (counter, true));
    run(&shifted.chain([(1, true), (0, false)]).collect::<Vec<_>>());
}

#[test]
fn a_window_taken_in_falling_order_is_taken_whole() {
    let falling = (0..=W).rev().map(|counter| (counter, true));
    run(&falling.chain([(W, false), (0, false), (W + 1, true)]).collect::<Vec<_>>());
    let shifted = (1..=W + 1).rev().map(|counter| (counter, true));
    run(&shifted.chain([(0, false), (W + 1, false)]).collect::<Vec<_>>());
}

#[test]
fn a_check_without_commit_changes_nothing() {
    let mut window = ReplayWindow::new();
    assert!(window.accept(5));
    assert!(window.check(1_000_000));
    assert!(window.check(1_000_000) && window.check(4));
    assert_eq!(window.highest(), 5);
}

/// Counters that wander: mostly near the highest so far, sometimes far ahead or far behind.
fn wandering_counters() -> impl Strategy<Value = Vec<u64>> {
    let step = prop_oneof![
        6 => -80i64..80,
        3 => -(W as i64) - 70..W as i64 + 70,
        1 => 0..5 * R as i64,
    ];
    proptest::collection::vec(step, 1..600).prop_map(|steps| {
        let mut highest = 0;
        let mut counters = Vec::new();
        for step in steps {
            let counter = u64::try_from(highest + step).unwrap_or(0);
            highest = highest.max(counter as i64);
            counters.push(counter);
        }
        counters
    })
}

proptest! {
    /// The model keeps every counter it has seen.
    #[test]
    fn agrees_with_a_window_that_remembers_everything(counters in wandering_counters()) {
        let mut window = ReplayWindow::new();
        let mut seen = BTreeSet::new();
        for counter in counters {
            let highest = seen.last().copied().unwrap_or(0);
            let fresh = counter + W >= highest && seen.insert(counter);
            prop_assert_eq!(window.accept(counter), fresh, "counter {} of {}", counter, highest);
            prop_assert_eq!(window.highest(), highest.max(counter));
        }
    }
}
