//! Drives a contender and measures it.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use corelane::bench::statistics::{median, percentile};
use corelane::bench::{self, BenchServer, StopFlag, TestReport, TestSpec};

use super::Failure;
use super::bed::Bed;
use super::iperf::{TcpTest, Way};
use super::ping::PingTest;
use super::plan::{Metric, Workload};

/// The most datagrams that may be lost of those that count as carried, in percent.
const LOSS_MAX_PERCENT: f64 = 1.0;
/// How long each try of a search for the highest rate takes.
const SEARCH_TRY: Duration = Duration::from_secs(1);
/// Echo requests of an idle link.
const IDLE_PINGS: PingTest = PingTest { count: 500, interval: Duration::from_millis(2) };
/// The pause between echo requests of a loaded link.
const LOADED_PING_INTERVAL: Duration = Duration::from_millis(5);
/// Time a stream gets to fill the queues before pings begin.
const LOAD_FIRST: Duration = Duration::from_millis(500);

/// A figure and what it came to.
pub(crate) type Sample = (Metric, f64);

impl Workload {
    /// Runs it once; throughput is measured over `seconds`.
    pub(crate) fn run(
        self,
        bed: &mut Bed,
        seconds: u32,
        stop: &StopFlag,
    ) -> Result<Vec<Sample>, Failure> {
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
                let best = search_udp(1300, bed, stop)?;
                Ok(vec![
                    (Metric::Udp1300, best.receiver.bits_per_second / 1e9),
                    (Metric::Udp1300Reordered, reordered(&best)),
                ])
            }
            Self::Udp64 => {
                let best = search_udp(64, bed, stop)?;
                Ok(vec![
                    (Metric::Udp64, best.receiver.packets_per_second / 1e3),
                    (Metric::Udp64Reordered, reordered(&best)),
                ])
            }
            Self::RttIdle => {
                let round_trips = IDLE_PINGS.run(&bed.lab.client, bed.target, stop)?;
                Ok(summary(&round_trips, Metric::RttIdle, Metric::RttIdleP99))
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
    let spec = TestSpec { gso: true, ..TestSpec::udp(duration) };
    let report =
        with_bench_server(bed, |server| Ok(bench::run_test(server, &spec, stop, &mut |_| {})?))?;
    Ok(vec![(Metric::UdpGso, report.receiver.bits_per_second / 1e9)])
}

/// The fastest test with datagrams of `length` bytes that lost no more than is allowed.
fn search_udp(length: u32, bed: &Bed, stop: &StopFlag) -> Result<TestReport, Failure> {
    let spec = TestSpec { length, ..TestSpec::udp(SEARCH_TRY) };
    let report = with_bench_server(bed, |server| {
        Ok(bench::search_rate(server, &spec, LOSS_MAX_PERCENT, stop, &mut |_| {})?)
    })?;
    report.best.ok_or_else(|| {
        let tries = report.attempts.len();
        format!("no rate kept to a loss of {LOSS_MAX_PERCENT} % in {tries} tries").into()
    })
}

fn reordered(report: &TestReport) -> f64 {
    report.datagrams.map_or(0.0, |datagrams| datagrams.reordered as f64)
}

/// Runs `client` on the client host against a traffic generator on the server host.
fn with_bench_server<T: Send>(
    bed: &Bed,
    client: impl FnOnce(SocketAddr) -> Result<T, Failure> + Send,
) -> Result<T, Failure> {
    let over = StopFlag::new();
    let address = SocketAddr::from((bed.target, 0));
    let server = bed.lab.server.run(|| BenchServer::bind(address, over.clone()))??;
    let address = server.local_address()?;
    thread::scope(|scope| {
        let serving = scope.spawn(|| bed.lab.server.run(|| server.serve(false)));
        let outcome = bed.lab.client.run(|| client(address));
        over.raise();
        let served = serving.join().map_err(|_| "the traffic generator panicked")?;
        let outcome = outcome??;
        served??;
        Ok(outcome)
    })
}

fn run_rtt_loaded(bed: &Bed, seconds: u32, stop: &StopFlag) -> Result<Vec<Sample>, Failure> {
    // The stream runs a second longer, so that it is there for every ping.
    let test = TcpTest { streams: 1, way: Way::Up, seconds: seconds + 1 };
    let stream = test.start(&bed.lab, bed.target)?;
    thread::sleep(LOAD_FIRST);
    let count = Duration::from_secs(u64::from(seconds)).div_duration_f64(LOADED_PING_INTERVAL);
    let pings = PingTest { count: count as u32, interval: LOADED_PING_INTERVAL };
    let round_trips = pings.run(&bed.lab.client, bed.target, stop)?;
    stream.finish(stop)?;
    Ok(summary(&round_trips, Metric::RttLoaded, Metric::RttLoadedP99))
}

fn summary(round_trips_us: &[f64], middle: Metric, p99: Metric) -> Vec<Sample> {
    let figures = [(middle, median(round_trips_us)), (p99, percentile(round_trips_us, 0.99))];
    figures.into_iter().filter_map(|(metric, value)| Some((metric, value?))).collect()
}
