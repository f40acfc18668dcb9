//! Drives a contender and measures it.

use std::thread;
use std::time::Duration;

use corelane::bench::statistics::{median, percentile};
use corelane::bench::{self, StopFlag, TestReport, TestSpec};
use serde::Serialize;

use super::Failure;
use super::bed::Bed;
use super::iperf::{TcpTest, Way};
use super::load;
use super::ping::{Pace, PingTest};
use super::plan::{Metric, Workload};
use super::search::{Rate, Search, Try};

/// The most datagrams that may be lost of those that count as carried, in percent: as many as is
/// usually allowed, and fewer.
const LOSS_MAX_PERCENT: f64 = 1.0;
const LOSS_MAX_PERCENT_STRICT: f64 = 0.5;
/// Datagrams of a train.
const TRAIN: u16 = 40;
/// Echo requests of an idle link.
const IDLE_PINGS: PingTest = PingTest { count: 500, pace: Pace::Every(Duration::from_millis(2)) };
/// Echo requests of which each waits for the answer to the one before.
const CHAINED_PINGS: PingTest = PingTest { count: 5000, pace: Pace::Chained };
/// The pause between echo requests of a loaded link.
const LOADED_PING_INTERVAL: Duration = Duration::from_millis(5);
/// Time a stream gets to fill the queues before pings begin.
const LOAD_FIRST: Duration = Duration::from_millis(500);

/// A figure and what it came to.
pub(crate) type Sample = (Metric, f64);

/// How much time goes into a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Effort {
    /// Length of each throughput test, in seconds.
    pub(crate) seconds: u32,
    /// Tries of each search for the highest rate.
    pub(crate) tries: usize,
    /// Length of each try, in milliseconds.
    pub(crate) try_ms: u64,
}

impl Workload {
    /// Runs it once.
    pub(crate) fn run(
        self,
        bed: &mut Bed,
        effort: Effort,
        stop: &StopFlag,
    ) -> Result<Vec<Sample>, Failure> {
        let seconds = effort.seconds;
        let tcp = |streams, way| TcpTest { streams, way, seconds };
        let samples = match self {
            Self::Tcp1Up => {
                run_tcp(tcp(1, Way::Up), (Metric::Tcp1Up, Metric::Tcp1UpCpu), bed, stop)
            }
            Self::Tcp1Down => {
                run_tcp(tcp(1, Way::Down), (Metric::Tcp1Down, Metric::Tcp1DownCpu), bed, stop)
            }
            Self::Tcp4Up => {
                run_tcp(tcp(4, Way::Up), (Metric::Tcp4Up, Metric::Tcp4UpCpu), bed, stop)
            }
            Self::Tcp4Down => {
                run_tcp(tcp(4, Way::Down), (Metric::Tcp4Down, Metric::Tcp4DownCpu), bed, stop)
            }
            Self::UdpGso => run_udp_gso(bed, seconds, stop),
            Self::Udp1300 => {
                let found = search_udp(1300, bed, effort, stop)?;
                Ok(found.samples(
                    |one| one.received_bps / 1e9,
                    [Metric::Udp1300, Metric::Udp1300Strict, Metric::Udp1300Flat],
                    Metric::Udp1300Reordered,
                ))
            }
            Self::Udp64 => {
                let found = search_udp(64, bed, effort, stop)?;
                Ok(found.samples(
                    |one| one.received_bps / (64.0 * 8.0) / 1e3,
                    [Metric::Udp64, Metric::Udp64Strict, Metric::Udp64Flat],
                    Metric::Udp64Reordered,
                ))
            }
            Self::RttIdle => {
                let round_trips = IDLE_PINGS.run(&bed.lab.client, bed.target, stop)?;
                Ok(summary(&round_trips, Metric::RttIdle, Metric::RttIdleP99))
            }
            Self::RttChain => {
                let round_trips = CHAINED_PINGS.run(&bed.lab.client, bed.target, stop)?;
                Ok(median(&round_trips).map(|it| (Metric::RttChain, it)).into_iter().collect())
            }
            Self::RttLoaded => run_rtt_loaded(bed, seconds, stop),
        };
        // Figures of a tunnel that died on the way are worth nothing.
        bed.tunnel.as_mut().map_or(Ok(()), |tunnel| tunnel.ensure_alive())?;
        samples
    }
}

fn run_tcp(
    test: TcpTest,
    (rate, cpu): (Metric, Metric),
    bed: &Bed,
    stop: &StopFlag,
) -> Result<Vec<Sample>, Failure> {
    let cpu_seconds = || bed.tunnel.as_ref().map(|tunnel| tunnel.cpu_seconds()).transpose();
    let before = cpu_seconds()?;
    let received = test.start(&bed.lab, bed.target)?.finish(stop)?;
    let after = cpu_seconds()?;
    let mut samples = vec![(rate, received.bits_per_second / 1e9)];
    if let (Some(before), Some(after)) = (before, after) {
        samples.push((cpu, (after - before) / (received.bytes / 1e9)));
    }
    Ok(samples)
}

fn run_udp_gso(bed: &Bed, seconds: u32, stop: &StopFlag) -> Result<Vec<Sample>, Failure> {
    let duration = Duration::from_secs(u64::from(seconds));
    let spec = TestSpec { gso: true, gso_segments: Some(TRAIN), ..TestSpec::udp(duration) };
    let outcome = outcome(&load::run_test(&bed.lab, bed.target, &spec, stop)?);
    Ok(vec![
        (Metric::UdpGso, outcome.received_bps / 1e9),
        (Metric::UdpGsoReordered, outcome.reordered as f64),
    ])
}

/// Looks for the highest rates of datagrams of `length` bytes: first for the usual loss, then, with
/// what is left of the tries, for less.
fn search_udp(length: u32, bed: &Bed, effort: Effort, stop: &StopFlag) -> Result<Search, Failure> {
    let spec = TestSpec { length, ..TestSpec::udp(Duration::from_millis(effort.try_ms)) };
    load::with_generator(&bed.lab, bed.target, |server| {
        let mut search = Search::default();
        let mut tries = 0..effort.tries;
        for loss_max in [LOSS_MAX_PERCENT, LOSS_MAX_PERCENT_STRICT] {
            while let Some(rate) = search.next_rate(loss_max) {
                if tries.next().is_none() {
                    break;
                }
                let rate_bps = match rate {
                    Rate::Flat => None,
                    Rate::Bps(bps) => Some(bps.get()),
                };
                let spec = TestSpec { rate_bps, ..spec.clone() };
                search.record(outcome(&bench::run_test(server, &spec, stop, &mut |_| {})?));
            }
        }
        Ok(search)
    })
}

impl Search {
    /// What was found, in the unit that `figure` makes: for the usual loss, for less, and flat out;
    /// and how many datagrams overtook others in the try that counts. A bound that no try kept to
    /// counts as a rate of nothing.
    fn samples(
        &self,
        figure: impl Fn(&Try) -> f64,
        [usual, strict, flat]: [Metric; 3],
        reordered: Metric,
    ) -> Vec<Sample> {
        let best = self.best(LOSS_MAX_PERCENT);
        let strict_best = self.best(LOSS_MAX_PERCENT_STRICT);
        let mut samples = vec![
            (usual, best.map_or(0.0, &figure)),
            (strict, strict_best.map_or(0.0, &figure)),
            (flat, self.flat().map_or(0.0, &figure)),
        ];
        samples.extend(best.map(|best| (reordered, best.reordered as f64)));
        samples
    }
}

fn outcome(report: &TestReport) -> Try {
    Try {
        sent_bps: report.sender.bits_per_second,
        received_bps: report.receiver.bits_per_second,
        loss_percent: report.loss_percent(),
        reordered: report.datagrams.map_or(0, |datagrams| datagrams.reordered),
    }
}

fn run_rtt_loaded(bed: &Bed, seconds: u32, stop: &StopFlag) -> Result<Vec<Sample>, Failure> {
    // The stream runs a second longer, so that it is there for every ping.
    let test = TcpTest { streams: 1, way: Way::Up, seconds: seconds + 1 };
    let stream = test.start(&bed.lab, bed.target)?;
    thread::sleep(LOAD_FIRST);
    let count = Duration::from_secs(u64::from(seconds)).div_duration_f64(LOADED_PING_INTERVAL);
    let pings = PingTest { count: count as u32, pace: Pace::Every(LOADED_PING_INTERVAL) };
    let round_trips = pings.run(&bed.lab.client, bed.target, stop)?;
    stream.finish(stop)?;
    Ok(summary(&round_trips, Metric::RttLoaded, Metric::RttLoadedP99))
}

fn summary(round_trips_us: &[f64], middle: Metric, p99: Metric) -> Vec<Sample> {
    let figures = [(middle, median(round_trips_us)), (p99, percentile(round_trips_us, 0.99))];
    figures.into_iter().filter_map(|(metric, value)| Some((metric, value?))).collect()
}

#[cfg(test)]
mod tests {
    use super::{Search, Try};
    use crate::runner::plan::Metric;

    #[test]
    fn a_search_comes_to_a_figure_for_each_bound() {
        let mut search = Search::default();
        for (received_bps, loss_percent, reordered) in
            [(9e8, 30.0, 7), (8e8, 0.9, 2), (7e8, 0.4, 1)]
        {
            search.record(Try { sent_bps: 1e9, received_bps, loss_percent, reordered });
        }
        let metrics = [Metric::Udp1300, Metric::Udp1300Strict, Metric::Udp1300Flat];
        let samples = search.samples(|one| one.received_bps, metrics, Metric::Udp1300Reordered);
        let late = (Metric::Udp1300Reordered, 2.0);
        assert_eq!(samples[..3], [(metrics[0], 8e8), (metrics[1], 7e8), (metrics[2], 9e8)]);
        assert_eq!(samples[3..], [late]);
    }
}
