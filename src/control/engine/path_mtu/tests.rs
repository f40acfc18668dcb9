//! The search against links of real sizes, in virtual time.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::limits::DATA_OVERHEAD_LEN;

/// Outer IPv4 and UDP headers.
const OUTER_LEN: usize = 28;

/// A link that silently loses what does not fit, and answers the rest after a round trip.
struct Link {
    mtu: usize,
    up: bool,
    rtt: Duration,
}

struct Simulation {
    now: Instant,
    link: Link,
    path: PathMtu,
    active: bool,
    in_use: usize,
    /// Sizes beyond this are refused by the kernel instead of getting lost.
    device_mtu: usize,
    in_flight: Vec<(Instant, usize)>,
    probes: u32,
    /// When the size that is wanted was probed.
    wanted_probes: Vec<Instant>,
}

impl Simulation {
    #[allow(clippy::disallowed_methods, reason = "an arbitrary origin for virtual time")]
    fn new(wanted: usize, mtu: usize) -> Self {
        let now = Instant::now();
        Self {
            now,
            link: Link { mtu, up: true, rtt: Duration::from_millis(20) },
            path: PathMtu::new(now, wanted),
            active: true,
            in_use: padded_len(wanted),
            device_mtu: usize::MAX,
            in_flight: Vec::new(),
            probes: 0,
            wanted_probes: Vec::new(),
        }
    }

    fn send(&mut self, len: usize) {
        self.probes += 1;
        if len == self.path.ceiling {
            self.wanted_probes.push(self.now);
        }
        let datagram_len = len + DATA_OVERHEAD_LEN + OUTER_LEN;
        if datagram_len > self.device_mtu {
            self.path.handle_refusal(self.now, len);
        } else if self.link.up && datagram_len <= self.link.mtu {
            self.in_flight.push((self.now + self.link.rtt, len));
        }
    }

    fn run_for(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            let answer = self.in_flight.iter().map(|(at, _)| *at).min();
            let next = answer.into_iter().fold(self.path.poll_timeout(), Instant::min);
            if next > end {
                self.now = end;
                return;
            }
            self.now = self.now.max(next);
            let due = |(at, _): &mut (Instant, usize)| *at <= self.now;
            for (_, len) in self.in_flight.extract_if(.., due) {
                self.path.handle_answer(self.now, len);
            }
            if let Some(len) = self.path.poll_probe(self.now, self.active) {
                self.send(len);
                self.send(PATH_PLAINTEXT_BASE);
            }
            self.in_use = self.path.take_change().unwrap_or(self.in_use);
            assert_eq!(self.in_use, self.path.plaintext_max());
        }
    }

    fn seconds(&mut self, seconds: u64) {
        self.run_for(Duration::from_secs(seconds));
    }

    /// The largest plaintext that fits the link, but no more than is wanted.
    fn best(&self) -> usize {
        let fits = (self.link.mtu - DATA_OVERHEAD_LEN - OUTER_LEN) / PADDING_LEN * PADDING_LEN;
        fits.min(self.path.ceiling)
    }
}

#[test]
fn the_usual_sizes_are_found() {
    for (wanted, mtu, expected) in [
        (1408, 1500, 1408),
        (1408, 1400, 1328),
        (1408, 1280, 1216),
        (1400, 1500, 1408),
        (8928, 9000, 8928),
        (8928, 1500, 1440),
        (65408, 9000, 8928),
        (65408, 65535, 65408),
        (1280, 1280, 1216),
    ] {
        let mut simulation = Simulation::new(wanted, mtu);
        simulation.seconds(30);
        assert_eq!(simulation.in_use, expected, "wanted {wanted}, link {mtu}");
        assert_eq!(simulation.in_use, simulation.best());
    }
}

#[test]
fn a_link_that_carries_the_wanted_size_is_confirmed_by_one_probe_pair() {
    let mut simulation = Simulation::new(1408, 1500);
    simulation.seconds(5);
    assert_eq!(simulation.probes, 2);
    assert_eq!(simulation.path.take_change(), None, "workers assumed it already");
}

#[test]
fn a_size_that_does_not_fit_is_abandoned_after_three_refusals() {
    let mut simulation = Simulation::new(1408, 1400);
    simulation.run_for(PATH_MTU_PROBE_WAIT * PATH_MTU_PROBES_MAX - Duration::from_millis(1));
    assert_eq!(simulation.in_use, 1408);
    simulation.run_for(Duration::from_millis(1));
    assert_eq!(simulation.in_use, PATH_PLAINTEXT_BASE);
}

#[test]
fn an_outage_says_nothing_about_the_size() {
    let mut simulation = Simulation::new(1408, 1500);
    simulation.seconds(5);
    simulation.link.up = false;
    simulation.seconds(120);
    assert_eq!(simulation.in_use, 1408);
}

#[test]
fn a_path_that_is_down_at_first_is_measured_later() {
    let mut simulation = Simulation::new(1408, 1400);
    simulation.link.up = false;
    simulation.seconds(60);
    assert_eq!(simulation.in_use, 1408);
    simulation.link.up = true;
    simulation.seconds(30);
    assert_eq!(simulation.in_use, 1328);
}

#[test]
fn a_route_that_shrinks_is_noticed_and_one_that_grows_is_used_again() {
    let mut simulation = Simulation::new(1408, 1500);
    simulation.seconds(15);
    simulation.link.mtu = 1300;
    simulation.seconds(20);
    assert_eq!(simulation.in_use, simulation.best());
    simulation.seconds(3600);
    simulation.link.mtu = 1500;
    simulation.run_for(PATH_MTU_RAISE_MAX + PATH_MTU_CONFIRM_EVERY);
    assert_eq!(simulation.in_use, 1408);
}

/// Three probes in a row that a load has pushed out of some queue look as if they were too large.
#[test]
fn a_size_that_was_refuted_beside_a_load_is_in_use_again_soon() {
    let mut simulation = Simulation::new(1408, 1500);
    simulation.seconds(15);
    for _ in 0..5 {
        simulation.link.mtu = 1300;
        simulation.run_for(PATH_MTU_CONFIRM_EVERY + PATH_MTU_PROBE_WAIT * PATH_MTU_PROBES_MAX);
        assert!(simulation.in_use < 1300, "{}", simulation.in_use);
        simulation.link.mtu = 1500;
        simulation.run_for(PATH_MTU_RAISE_FIRST + PATH_MTU_CONFIRM_EVERY);
        assert_eq!(simulation.in_use, 1408, "however often that happens");
    }
}

#[test]
fn a_size_that_never_fits_is_asked_about_ever_more_rarely() {
    let mut simulation = Simulation::new(1408, 1400);
    let (began, mut asked) = (simulation.now, Vec::new());
    simulation.seconds(3600);
    for at in simulation.wanted_probes.drain(..) {
        let at = (at - began).as_secs();
        // A size is asked about three times before it is refuted.
        if asked.last().is_none_or(|last| at > last + 5) {
            asked.push(at);
        }
    }
    assert_eq!(simulation.in_use, 1328);
    // By the confirmation timer, which runs every ten seconds, after a search that takes as long.
    let waits: Vec<_> = asked.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let expected = [20, 40, 80, 160, 320, 600, 600, 600, 600];
    assert_eq!(waits.len(), expected.len(), "{waits:?}");
    for (wait, expected) in waits.iter().zip(expected) {
        assert!((expected..=expected + 25).contains(wait), "{waits:?}");
    }
    // Two for each confirmation, and thirty for each search.
    let probes = simulation.probes;
    assert!(probes < 2 * 3600 / 10 + 30 * 10, "{probes}");
}

#[test]
fn a_size_that_the_kernel_refused_is_asked_about_again_soon() {
    let mut simulation = Simulation::new(1408, 1500);
    simulation.seconds(5);
    simulation.path.handle_refusal(simulation.now, 1408);
    simulation.in_use = simulation.path.take_change().unwrap();
    assert_eq!(simulation.in_use, PATH_PLAINTEXT_BASE);
    simulation.run_for(PATH_MTU_RAISE_FIRST + PATH_MTU_CONFIRM_EVERY + Duration::from_secs(1));
    assert_eq!(simulation.in_use, 1408);
}

#[test]
fn an_idle_path_is_left_alone() {
    let mut simulation = Simulation::new(1408, 1500);
    simulation.seconds(5);
    simulation.active = false;
    let probes = simulation.probes;
    simulation.seconds(3600);
    assert_eq!(simulation.probes, probes);
}

#[test]
fn a_refusal_by_the_kernel_lowers_at_once_and_the_search_needs_no_timer() {
    let mut simulation = Simulation::new(1408, 1300);
    simulation.device_mtu = 1300;
    simulation.run_for(Duration::from_millis(200));
    assert_eq!(simulation.in_use, 1232);
    simulation.path.handle_refusal(simulation.now, 1408);
    assert_eq!(simulation.path.take_change(), None, "a size known not to fit is no news");
    simulation.seconds(60);
    assert_eq!(simulation.in_use, 1232);
}

#[test]
fn a_device_that_does_not_even_take_the_base_is_obeyed() {
    let mut simulation = Simulation::new(1408, 1500);
    for refused in [1408, 1152, 1136, 1120] {
        simulation.path.handle_refusal(simulation.now, refused);
    }
    assert_eq!(simulation.path.take_change(), Some(1104));
}

#[test]
fn answers_slower_than_the_probe_timer_still_count() {
    let mut simulation = Simulation::new(1408, 1500);
    simulation.link.rtt = Duration::from_millis(1900);
    simulation.seconds(60);
    assert_eq!(simulation.in_use, 1408);
    simulation.link.mtu = 1400;
    simulation.link.rtt = Duration::from_millis(700);
    simulation.seconds(60);
    assert_eq!(simulation.in_use, 1328);
}

#[test]
fn a_move_begins_the_search_again() {
    let mut simulation = Simulation::new(1408, 1280);
    simulation.seconds(20);
    assert_eq!(simulation.in_use, 1216);
    simulation.link.mtu = 1500;
    simulation.path.restart(simulation.now);
    assert_eq!(simulation.path.take_change(), Some(1408));
    simulation.in_use = 1408;
    simulation.seconds(1);
    assert_eq!(simulation.in_use, 1408);
}

proptest! {
    #[test]
    fn any_link_is_measured_exactly(wanted in 1280usize..=65408, mtu in 1280usize..=65535) {
        let mut simulation = Simulation::new(wanted, mtu);
        simulation.seconds(60);
        prop_assert_eq!(simulation.in_use, simulation.best());
    }

    #[test]
    fn no_sequence_of_inputs_leaves_the_bounds(
        inputs in prop::collection::vec((0u8..4, 0usize..70_000, 0u64..700), 0..200),
    ) {
        let mut simulation = Simulation::new(1408, 1500);
        for (kind, len, wait_ms) in inputs {
            simulation.now += Duration::from_millis(wait_ms);
            let now = simulation.now;
            match kind {
                0 => simulation.path.handle_answer(now, len),
                1 => simulation.path.handle_refusal(now, len),
                2 => simulation.path.restart(now),
                _ => drop(simulation.path.poll_probe(now, true)),
            }
            let path = &simulation.path;
            prop_assert!(path.plaintext_max() <= path.ceiling);
            prop_assert!(path.plaintext_max() >= PADDING_LEN);
            prop_assert!(path.low <= path.high && path.high <= path.ceiling);
            prop_assert!(path.plaintext_max().is_multiple_of(PADDING_LEN));
        }
    }
}
