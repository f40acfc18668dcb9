//! What is measured: how many workers, who carries the packets, what is carried, for how long.

use std::time::Duration;

use clap::ValueEnum;
use corelane::bench::{Direction, TestSpec};
use corelane::limits::BENCH_STREAMS_MAX;
use serde::Serialize;

/// Workers on each side, as far as the machine goes.
const WORKERS: [usize; 4] = [1, 2, 4, 8];
/// These run even where both sides have to share the CPUs.
const ALWAYS: usize = 2;
/// Streams for every worker.
const STREAMS_EACH: usize = 4;
/// Datagrams of a train.
const TRAIN: u16 = 40;
/// What plain link and ceiling get of the time of a test, and at least how much. They are there to
/// be compared with, and not what is looked at.
const REFERENCE_SHARE: f64 = 0.25;
const REFERENCE_SECONDS_MIN: f64 = 0.5;
/// Roughly what setting up and taking down take besides the tests, for the announcement.
const BESIDES_SECONDS: f64 = 1.0;

/// Whether Corelane pins its workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Pin {
    /// To CPUs of their own, where there are enough.
    Yes,
    /// The kernel decides where they run.
    No,
}

/// Who carries the packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Carrier {
    Veth,
    Ceiling,
    Pinned,
    Unpinned,
}

impl Carrier {
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Veth => "plain veth",
            Self::Ceiling => "ceiling, one thread",
            Self::Pinned => "Corelane, pinned",
            Self::Unpinned => "Corelane, not pinned",
        }
    }
}

/// A carrier, and the number of workers: those that it has, if it is Corelane, and in any case
/// those that the load is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Variant {
    pub(crate) workers: usize,
    pub(crate) carrier: Carrier,
}

impl Variant {
    pub(crate) fn streams(self) -> u16 {
        u16::try_from(self.workers * STREAMS_EACH)
            .map_or(BENCH_STREAMS_MAX, |streams| streams.min(BENCH_STREAMS_MAX))
    }
}

/// What is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Workload {
    TcpUp,
    TcpDown,
    UdpUp,
}

impl Workload {
    pub(crate) const ALL: [Self; 3] = [Self::TcpUp, Self::TcpDown, Self::UdpUp];

    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::TcpUp => "TCP, client to server",
            Self::TcpDown => "TCP, server to client",
            Self::UdpUp => "UDP, 1300 B in trains of 40, client to server, flat out",
        }
    }
}

/// Everything that is to be measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Plan {
    pub(crate) rounds: u32,
    pub(crate) seconds: f64,
    pub(crate) reference_seconds: f64,
    pub(crate) variants: Vec<Variant>,
}

impl Plan {
    /// Each number of workers with everybody who can carry for it.
    pub(crate) fn new(rounds: u32, seconds: f64, workers: &[usize], pins: &[Pin]) -> Self {
        let corelane = |pin: &Pin| match pin {
            Pin::Yes => Carrier::Pinned,
            Pin::No => Carrier::Unpinned,
        };
        let carriers: Vec<_> = [Carrier::Veth, Carrier::Ceiling]
            .into_iter()
            .chain(pins.iter().map(corelane))
            .collect();
        let with_carriers = |&workers| {
            carriers.iter().map(move |&carrier| Variant { workers, carrier }).collect::<Vec<_>>()
        };
        let variants = workers.iter().flat_map(with_carriers).collect();
        let reference_seconds = (seconds * REFERENCE_SHARE).max(REFERENCE_SECONDS_MIN);
        Self { rounds, seconds, reference_seconds, variants }
    }

    /// The test that puts a variant to a workload.
    pub(crate) fn test(&self, variant: Variant, workload: Workload) -> TestSpec {
        let duration = Duration::from_secs_f64(self.seconds_of(variant.carrier));
        let mut spec = match workload {
            Workload::TcpUp => TestSpec::tcp(duration),
            Workload::TcpDown => {
                TestSpec { direction: Direction::Reverse, ..TestSpec::tcp(duration) }
            }
            Workload::UdpUp => {
                TestSpec { gso: true, gso_segments: Some(TRAIN), ..TestSpec::udp(duration) }
            }
        };
        spec.streams = variant.streams();
        spec
    }

    /// About how long it all takes, in seconds.
    pub(crate) fn estimate(&self) -> f64 {
        let of = |variant: &Variant| {
            self.seconds_of(variant.carrier) * Workload::ALL.len() as f64 + BESIDES_SECONDS
        };
        self.variants.iter().map(of).sum::<f64>() * f64::from(self.rounds)
    }

    fn seconds_of(&self, carrier: Carrier) -> f64 {
        match carrier {
            Carrier::Veth | Carrier::Ceiling => self.reference_seconds,
            Carrier::Pinned | Carrier::Unpinned => self.seconds,
        }
    }
}

/// The numbers of workers that a machine with so many CPUs is measured with.
pub(crate) fn workers_for(cpus: usize) -> Vec<usize> {
    WORKERS.into_iter().filter(|&workers| workers <= ALWAYS || 2 * workers <= cpus).collect()
}

/// The CPUs of the server's workers and of the client's: different ones, if there are enough. If
/// not, they take them from opposite sides. `None` if not even one side has enough.
pub(crate) fn placement(cpus: &[usize], workers: usize) -> Option<[Vec<usize>; 2]> {
    let server = cpus.get(..workers)?.to_vec();
    let client = match cpus.get(workers..2 * workers) {
        Some(own) => own.to_vec(),
        None => cpus.iter().rev().take(workers).copied().collect(),
    };
    Some([server, client])
}

#[cfg(test)]
mod tests {
    use super::{Carrier, Pin, Plan, Variant, Workload, placement, workers_for};

    #[test]
    fn workers_grow_as_far_as_both_sides_have_cpus_of_their_own() {
        for (cpus, workers) in
            [(1, &[1, 2][..]), (4, &[1, 2]), (8, &[1, 2, 4]), (16, &[1, 2, 4, 8])]
        {
            assert_eq!(workers_for(cpus), workers);
        }
    }

    #[test]
    fn the_sides_share_cpus_only_where_they_have_to() {
        assert_eq!(placement(&[2, 3, 5, 7], 2), Some([vec![2, 3], vec![5, 7]]));
        assert_eq!(placement(&[0, 1, 2], 2), Some([vec![0, 1], vec![2, 1]]));
        assert_eq!(placement(&[0], 2), None);
    }

    #[test]
    fn the_whole_of_sixteen_cpus_takes_less_than_four_minutes() {
        let pins = [Pin::Yes, Pin::No];
        let plan = Plan::new(3, 2.0, &workers_for(16), &pins);
        assert_eq!(plan.variants.len(), 16);
        assert!(plan.estimate() < 240.0, "{}", plan.estimate());
        let quick = Plan::new(1, 1.0, &workers_for(16), &pins);
        assert!(quick.estimate() < 60.0, "{}", quick.estimate());
    }

    #[test]
    fn everybody_gets_the_same_streams_and_every_test_is_allowed() {
        let plan = Plan::new(1, 3.0, &[1, 128], &[Pin::Yes]);
        for (workers, streams) in [(1, 4), (128, 128)] {
            for carrier in [Carrier::Veth, Carrier::Pinned] {
                for workload in Workload::ALL {
                    let test = plan.test(Variant { workers, carrier }, workload);
                    assert_eq!(test.streams, streams);
                    test.validate().unwrap();
                }
            }
        }
    }
}
