//! What is to happen to a world, drawn from one number.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::network::{CONTROL_SOCKET, Direction, Weather};
use super::side::Who;
use crate::limits::{REKEY_AFTER, REKEY_AFTER_MIN, REKEY_AFTER_PACKETS};

/// Workers of a side, at most.
const WORKERS_MAX: u8 = 4;
/// One plan in so many lasts for minutes, so that keys age.
const LONG_EVERY: u64 = 32;
/// In one plan of so many the client logs in.
const GUEST_EVERY: u64 = 6;

/// Something that befalls a machine or the network.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mishap {
    /// Nothing gets through in a direction, or of one socket of the client.
    Cut { direction: Direction, socket: Option<u16>, lasts: Duration },
    /// The network carries smaller packets from now on.
    Narrow { mtu: usize },
    /// The client is at another address.
    Roam { host: u8 },
    /// The translator forgets a port of the client, or all.
    Rebind { socket: Option<u16> },
    /// The wall clock is set.
    ClockSet { who: Who, ahead_s: i64 },
    /// Nothing happens on the machine: it is suspended, and its clock goes on all the same; or it
    /// is a virtual one that its host holds, and its clock stops.
    Suspend { who: Who, lasts: Duration, clock_stops: bool },
    /// The process ends, with a goodbye or without, and another one begins.
    Restart { who: Who, goodbye: bool },
    /// The client logs in anew; without effect unless it is one that logs in.
    LogIn,
    /// The server lets go of the client, which logs in again after so long; likewise.
    Dismiss { lasts: Duration },
    /// Another client with the same key begins.
    TwinBegins,
    /// It ends.
    TwinEnds { goodbye: bool },
    /// The lanes of one worker are about to reach the count at which keys are replaced.
    SpendKey { who: Who, worker: usize, packets_left: u64 },
}

/// A fault that breaks a rule on purpose, to see that the oracle objects. Each is made of hooks
/// that only tests have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sabotage {
    /// Lanes begin to count again.
    RepeatNonces,
    /// Replay windows forget what they have seen.
    ForgetCounters,
    /// Packets change on their way to TUN.
    AlterPackets,
    /// Packets vanish on their way to TUN.
    SwallowPackets,
    /// Workers are never told that a session is over.
    KeepSessions,
    /// Timers that are due are not served.
    DeadTimers,
    /// Workers do not look at the clock.
    StuckClocks,
    /// Peers that are dismissed stay.
    KeepGuests,
    /// The network does not recover.
    EndlessCut,
}

/// A whole run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) server_workers: u8,
    pub(crate) client_workers: u8,
    pub(crate) rekey_after: Duration,
    pub(crate) keepalive: Option<Duration>,
    pub(crate) thread_delay: Duration,
    pub(crate) lasts: Duration,
    pub(crate) traffic_every: Duration,
    pub(crate) traffic_len: usize,
    pub(crate) weather: Weather,
    /// Whether the client logs in, and is no configured peer.
    pub(crate) is_guest: bool,
    /// Mishaps and when they happen.
    pub(crate) mishaps: Vec<(Duration, Mishap)>,
}

impl Plan {
    /// The plan of a seed.
    pub(crate) fn of(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed ^ 0x706c_616e);
        let is_long = seed.is_multiple_of(LONG_EVERY);
        let (lasts_ms, every_ms) =
            if is_long { (150_000..400_000, 2000..9000) } else { (2000..9000, 150..900) };
        let lasts = Duration::from_millis(rng.random_range(lasts_ms));
        let client_workers = rng.random_range(1..=WORKERS_MAX);
        let mut plan = Self {
            seed,
            server_workers: rng.random_range(1..=WORKERS_MAX),
            client_workers,
            rekey_after: *[REKEY_AFTER_MIN, REKEY_AFTER_MIN * 4, REKEY_AFTER]
                .choose(&mut rng)
                .unwrap(),
            keepalive: rng.random_bool(0.3).then_some(Duration::from_secs(5)),
            thread_delay: Duration::from_micros(*[0, 100, 3000].choose(&mut rng).unwrap()),
            lasts,
            traffic_every: Duration::from_millis(rng.random_range(every_ms)),
            traffic_len: rng.random_range(36..=1408),
            weather: weather(&mut rng),
            is_guest: false,
            mishaps: Vec::new(),
        };
        let has_twin = rng.random_bool(0.1);
        if has_twin {
            plan.add_twin(&mut rng);
        }
        for _ in 0..rng.random_range(0..6) {
            let at = lasts.mul_f64(rng.random());
            let mishap = plan.mishap(is_long, &mut rng);
            plan.mishaps.push((at, mishap));
        }
        if !has_twin && seed % GUEST_EVERY == GUEST_EVERY - 1 {
            plan.add_logins(seed);
        }
        plan.mishaps.sort_by_key(|(at, _)| *at);
        plan
    }

    /// The client logs in now and then, and is dismissed once or twice. Drawn from numbers of their
    /// own, so that whatever else a seed means does not change.
    fn add_logins(&mut self, seed: u64) {
        let mut rng = StdRng::seed_from_u64(seed ^ 0x6775_6573);
        self.is_guest = true;
        for _ in 0..rng.random_range(0..4) {
            self.mishaps.push((self.lasts.mul_f64(rng.random()), Mishap::LogIn));
        }
        for _ in 0..rng.random_range(0..3) {
            let lasts = Duration::from_millis(rng.random_range(50..3000));
            self.mishaps.push((self.lasts.mul_f64(rng.random()), Mishap::Dismiss { lasts }));
        }
    }

    /// Whoever of two clients with one key was confirmed last gets what the server sends, so the
    /// other waits for its next rekey: that comes soon.
    fn add_twin(&mut self, rng: &mut StdRng) {
        self.rekey_after = REKEY_AFTER_MIN;
        let begins = self.lasts.mul_f64(rng.random());
        self.mishaps.push((begins, Mishap::TwinBegins));
        if rng.random_bool(0.5) {
            let ends = begins + (self.lasts - begins).mul_f64(rng.random());
            self.mishaps.push((ends, Mishap::TwinEnds { goodbye: rng.random() }));
        }
    }

    fn mishap(&self, is_long: bool, rng: &mut StdRng) -> Mishap {
        let who = if rng.random() { Who::Client } else { Who::Server };
        let socket = rng.random_bool(0.5).then(|| {
            let worker = rng.random_range(0..=u16::from(self.client_workers));
            if worker == u16::from(self.client_workers) { CONTROL_SOCKET } else { worker }
        });
        let lasts_max = if is_long { 200_000 } else { 6000 };
        let lasts = Duration::from_millis(rng.random_range(100..lasts_max));
        match rng.random_range(0..11) {
            0..=2 => {
                let directions = [Direction::Up, Direction::Down, Direction::Both];
                Mishap::Cut { direction: *directions.choose(rng).unwrap(), socket, lasts }
            }
            3 => Mishap::Narrow { mtu: *[1280, 1400, 1450].choose(rng).unwrap() },
            4 => Mishap::Roam { host: rng.random_range(10..90) },
            5 => Mishap::Rebind { socket },
            6 => Mishap::ClockSet { who, ahead_s: rng.random_range(-20..=20) },
            7 => Mishap::Suspend { who, lasts, clock_stops: rng.random() },
            8 | 9 => Mishap::Restart { who, goodbye: rng.random_bool(0.3) },
            _ => {
                let workers =
                    if who == Who::Server { self.server_workers } else { self.client_workers };
                let worker = rng.random_range(0..usize::from(workers));
                Mishap::SpendKey { who, worker, packets_left: rng.random_range(0..4) }
            }
        }
    }

    /// The counter of a lane with so many packets left before its key is replaced.
    pub(crate) const fn counter(packets_left: u64) -> u64 {
        REKEY_AFTER_PACKETS - packets_left
    }

    /// Whether two clients have the same key at some time.
    pub(crate) fn has_twin(&self) -> bool {
        self.mishaps.iter().any(|(_, mishap)| matches!(mishap, Mishap::TwinBegins))
    }
}

/// Weather of any kind, from none to foul.
fn weather(rng: &mut StdRng) -> Weather {
    let mut some = |max: f64| if rng.random_bool(0.5) { max * rng.random::<f64>() } else { 0.0 };
    let (loss, doubling, damage) = (some(0.3), some(0.2), some(0.1));
    let (replay, junk, jitter) = (some(0.2), some(0.1), some(0.1));
    Weather {
        latency: Duration::from_millis(rng.random_range(1..80)),
        latency_step: Duration::from_millis(rng.random_range(0..10)),
        jitter: Duration::from_secs_f64(jitter),
        mtu: 1500,
        loss,
        doubling,
        damage,
        replay,
        junk,
        cuts: Vec::new(),
    }
}
