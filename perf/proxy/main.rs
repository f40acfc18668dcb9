//! Measures the proxy gateway beside other proxies: throughput and what it costs, new connections,
//! latency, idle connections. Prints tables and writes `proxy.json` and `proxy.md`. See
//! `perf/README.md`.
//!
//! ```text
//! cargo build --release && cargo run --release --example proxy -- [--quick] [--out DIR]
//! ```

mod contenders;
mod family;
mod load;
#[path = "../runner/machine.rs"]
mod machine;
mod origin;
mod report;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::builder::ArgPredicate;
use clap::{Parser, ValueEnum};
use corelane::bench::statistics::percentile;
use corelane::lab::{self, Host};
use corelane::sys::{clock, process};

use contenders::{Contender, Protocol, Running};
use load::{Span, Way};
use machine::Machine;
use origin::Origins;
use report::{Effort, Metric, Report, Results};

/// Why something could not be measured, for people.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Descriptors of a process beside those of the connections that it holds.
const DESCRIPTORS_SPARE: usize = 200;
const IDLE_CONNECTIONS_MAX: usize = 10_000;

/// Measures the proxy gateway beside other proxies.
#[derive(Parser)]
struct Args {
    /// One round of short tests, also of unoptimised programs: to see that everything works
    #[arg(long)]
    quick: bool,
    /// How often everything is measured; medians are over the rounds
    #[arg(long, value_name = "N", default_value = "5",
          default_value_if("quick", ArgPredicate::Equals("true".into()), "1"),
          value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How long each test takes, in seconds
    #[arg(long, value_name = "S", default_value = "2",
          default_value_if("quick", ArgPredicate::Equals("true".into()), "0.3"))]
    seconds: f64,
    /// Connections that move bytes at the same time
    #[arg(long, value_name = "N", default_value = "4")]
    streams: usize,
    /// What is measured [default: all that are installed]
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    contenders: Vec<Contender>,
    /// Directory for proxy.json and proxy.md
    #[arg(long, value_name = "DIR", default_value = "perf/results")]
    out: PathBuf,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if cfg!(debug_assertions) && !args.quick {
        eprintln!("proxy: figures of unoptimised programs mean nothing: add --release");
        return ExitCode::FAILURE;
    }
    match run(&args) {
        Ok(true) => return ExitCode::SUCCESS,
        Ok(false) => eprintln!("proxy: not everything is reached"),
        Err(failure) => eprintln!("proxy: {failure}"),
    }
    ExitCode::FAILURE
}

/// Whether everything that can be told is reached.
fn run(args: &Args) -> Result<bool, Failure> {
    lab::ensure_privileges()?;
    let machine = Machine::describe(clock::unix_time(), BTreeMap::new());
    // Both ends of a connection are in this process, and in a proxy.
    let descriptors = usize::try_from(process::raise_open_files_limit()?)?;
    let idle_connections = (descriptors.saturating_sub(DESCRIPTORS_SPARE) / 2).min(if args.quick {
        500
    } else {
        IDLE_CONNECTIONS_MAX
    });
    let effort = Effort {
        rounds: args.rounds,
        seconds: args.seconds,
        streams: args.streams,
        idle_connections,
    };
    let host = Host::create("proxies")?;
    let results = host.run(|| measure(args, effort, &host))??;
    Report::new(machine, effort, results).publish(&args.out)
}

/// On the host where everything takes place.
fn measure(args: &Args, effort: Effort, host: &Host) -> Result<Results, Failure> {
    let mut results = Results::default();
    let everybody = Contender::value_variants().iter().copied();
    let wanted: Vec<_> =
        everybody.filter(|it| args.contenders.is_empty() || args.contenders.contains(it)).collect();
    let test = Test { origins: Origins::open()?, effort };
    for round in 0..effort.rounds {
        eprintln!("proxy: round {} of {}", round + 1, effort.rounds);
        let mut running = Vec::new();
        for contender in &wanted {
            match Running::start(*contender, host) {
                Ok(proxy) => running.push(proxy),
                Err(failure) => results.fail(format!("{}: {failure}", contender.title())),
            }
        }
        for protocol in Protocol::ALL {
            for workload in Workload::of(protocol) {
                for proxy in running.iter_mut().filter(|it| it.contender.speaks(protocol)) {
                    let outcome = test.measure(*workload, proxy, protocol);
                    let name = proxy.contender.title();
                    match outcome {
                        Ok(values) => {
                            for (metric, value) in values {
                                results.add(protocol, metric, proxy.contender, value);
                            }
                        }
                        Err(failure) => results
                            .fail(format!("{name}, {}, {workload:?}: {failure}", protocol.title())),
                    }
                }
                // Nobody is always the first.
                let everybody = running.len();
                running.rotate_left(usize::from(everybody > 1));
            }
        }
    }
    Ok(results)
}

/// What is done to a proxy. Idle connections come first, while its memory is fresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Workload {
    Idle,
    Down,
    Up,
    DownFromLines,
    UpFromLines,
    Connections,
    RoundTrips,
    Requests,
}

impl Workload {
    /// What is done by `protocol`.
    const fn of(protocol: Protocol) -> &'static [Self] {
        match protocol {
            Protocol::Socks5 | Protocol::Connect => &[
                Self::Idle,
                Self::Down,
                Self::Up,
                Self::DownFromLines,
                Self::UpFromLines,
                Self::Connections,
                Self::RoundTrips,
            ],
            Protocol::Forward => &[Self::Requests],
            Protocol::Tls => &[Self::Down, Self::Up],
        }
    }
}

struct Test {
    origins: Origins,
    effort: Effort,
}

impl Test {
    fn measure(
        &self,
        workload: Workload,
        proxy: &mut Running,
        protocol: Protocol,
    ) -> Result<Vec<(Metric, f64)>, Failure> {
        proxy.ensure_alive()?;
        let (road, origins) = (proxy.road(protocol), &self.origins);
        let lasts = Duration::from_secs_f64(self.effort.seconds);
        let cpu = || proxy.cpu_seconds();
        let (tls, streams) = (proxy.tls(protocol), self.effort.streams);
        let bulk = |way| load::bulk((road, tls), origins, way, streams, lasts, &cpu);
        Ok(match workload {
            Workload::Idle if proxy.contender == Contender::Direct => vec![],
            Workload::Idle => {
                let count = self.effort.idle_connections;
                let bytes = load::idle(road, origins, count, &|| proxy.memory_bytes())?;
                vec![(Metric::Idle, bytes as f64 / 1024.0 / count as f64)]
            }
            Workload::Down => throughput(bulk(Way::Down)?, Metric::Down, Metric::DownPerCpu),
            Workload::Up => throughput(bulk(Way::Up)?, Metric::Up, Metric::UpPerCpu),
            Workload::DownFromLines => {
                vec![(Metric::DownFromLines, gbit_per_s(bulk(Way::DownFromLines)?))]
            }
            Workload::UpFromLines => {
                vec![(Metric::UpFromLines, gbit_per_s(bulk(Way::UpFromLines)?))]
            }
            Workload::Connections => {
                let span = load::connections(road, origins, lasts, &cpu)?;
                events(span, Metric::Connections, Metric::ConnectionCpu)
            }
            Workload::Requests => {
                let span = load::requests(road, origins, lasts, &cpu)?;
                events(span, Metric::Requests, Metric::RequestCpu)
            }
            Workload::RoundTrips => {
                let took = load::round_trips(road, origins, lasts)?;
                let value = |share| percentile(&took, share).unwrap_or(f64::NAN);
                vec![(Metric::RoundTripP50, value(0.5)), (Metric::RoundTripP99, value(0.99))]
            }
        })
    }
}

fn gbit_per_s(span: Span) -> f64 {
    span.count as f64 * 8.0 / span.seconds / 1e9
}

fn throughput(span: Span, rate: Metric, per_cpu: Metric) -> Vec<(Metric, f64)> {
    let mut values = vec![(rate, gbit_per_s(span))];
    // The direct way uses no proxy's time.
    if span.cpu_seconds > 0.0 {
        values.push((per_cpu, span.count as f64 / 1e9 / span.cpu_seconds));
    }
    values
}

fn events(span: Span, rate: Metric, cost: Metric) -> Vec<(Metric, f64)> {
    let count = span.count as f64;
    let mut values = vec![(rate, count / span.seconds)];
    if span.cpu_seconds > 0.0 {
        values.push((cost, span.cpu_seconds * 1e6 / count));
    }
    values
}

#[cfg(test)]
mod tests {
    use super::{Args, Metric, Parser, Span, events, throughput};

    #[test]
    fn a_quick_run_is_shorter_than_an_ordinary_one() {
        let ordinary = Args::parse_from(["proxy"]);
        assert_eq!((ordinary.rounds, ordinary.seconds), (5, 2.0));
        let quick = Args::parse_from(["proxy", "--quick"]);
        assert_eq!((quick.rounds, quick.seconds), (1, 0.3));
    }

    #[test]
    fn what_happens_is_told_by_the_second_and_by_its_cost() {
        let span = Span { count: 500, seconds: 2.0, cpu_seconds: 0.25 };
        let (rate, cost) = (Metric::Requests, Metric::RequestCpu);
        assert_eq!(events(span, rate, cost), [(rate, 250.0), (cost, 500.0)]);
    }

    #[test]
    fn bytes_are_told_by_time_and_by_cpu_time() {
        let span = Span { count: 3_000_000_000, seconds: 2.0, cpu_seconds: 1.5 };
        let (rate, cost) = (Metric::Down, Metric::DownPerCpu);
        assert_eq!(throughput(span, rate, cost), [(rate, 12.0), (cost, 2.0)]);
        let free = Span { cpu_seconds: 0.0, ..span };
        assert_eq!(throughput(free, rate, cost), [(rate, 12.0)]);
    }
}
