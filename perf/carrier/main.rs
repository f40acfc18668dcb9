//! Measures what is left of the throughput where datagrams go over TLS instead of UDP. Prints a
//! table and writes `carrier.json` and `carrier.md`. See `perf/README.md`.
//!
//! ```text
//! cargo build --release && cargo run --release --example carrier -- [--quick] [--out DIR]
//! ```

#[path = "../runner/figures.rs"]
#[allow(dead_code, reason = "nothing here has an upper bound")]
mod figures;
#[path = "../runner/machine.rs"]
mod machine;
#[path = "../runner/people.rs"]
mod people;
#[path = "../runner/process.rs"]
#[allow(dead_code, reason = "this measurement waits for the end of no program")]
mod process;
mod scene;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use corelane::bench::statistics::median;
use corelane::bench::{Direction, TestSpec};
use corelane::lab;
use corelane::sys::clock;

use figures::{Bound, Figure, Report, conclude};
use machine::Machine;
use scene::{Scene, Way};

/// Why there are no figures.
type Failure = Box<dyn std::error::Error + Send + Sync>;

const TLS_GBPS_MIN: f64 = 1.0;

/// Measures what is left of the throughput where datagrams go over TLS instead of UDP.
#[derive(Parser)]
struct Args {
    /// One short round, to see that everything works
    #[arg(long)]
    quick: bool,
    /// Directory for carrier.json and carrier.md
    #[arg(long, value_name = "DIR", default_value = "perf/results")]
    out: PathBuf,
}

/// One load.
#[derive(Clone, Copy)]
struct Load {
    streams: u16,
    direction: Direction,
}

impl Load {
    const ALL: [Self; 4] = [
        Self { streams: 1, direction: Direction::Forward },
        Self { streams: 1, direction: Direction::Reverse },
        Self { streams: 4, direction: Direction::Forward },
        Self { streams: 4, direction: Direction::Reverse },
    ];

    fn name(self) -> String {
        let direction = match self.direction {
            Direction::Forward => "up",
            Direction::Reverse => "down",
        };
        match self.streams {
            1 => format!("one TCP stream {direction}"),
            streams => format!("{streams} TCP streams {direction}"),
        }
    }
}

/// What came of a load on each way, in bits per second, one sample a round.
#[derive(Default)]
struct Samples {
    udp: Vec<f64>,
    tls: Vec<f64>,
}

fn main() -> ExitCode {
    conclude("carrier", || run(&Args::parse()))
}

/// Whether every figure is within its bound.
fn run(args: &Args) -> Result<bool, Failure> {
    lab::ensure_privileges()?;
    let machine = Machine::describe(clock::unix_time(), BTreeMap::new());
    let (rounds, lasts) = if args.quick { (1, 0.5) } else { (5, 2.0) };
    let scene = Scene::build()?;
    let mut samples = Load::ALL.map(|load| (load, Samples::default()));
    for round in 0..rounds {
        // Neither way is always the first.
        let ways = if round % 2 == 0 { [Way::Udp, Way::Tls] } else { [Way::Tls, Way::Udp] };
        for way in ways {
            let client = scene.start_client(way)?;
            for (load, samples) in &mut samples {
                let test = TestSpec {
                    streams: load.streams,
                    direction: load.direction,
                    ..TestSpec::tcp(Duration::from_secs_f64(lasts))
                };
                let rate = scene.throughput(&test)?;
                match way {
                    Way::Udp => samples.udp.push(rate),
                    Way::Tls => samples.tls.push(rate),
                }
            }
            scene.ensure_way(way)?;
            drop(client);
        }
    }
    let figures = samples.iter().flat_map(|(load, samples)| figures_of(*load, samples)).collect();
    Report { schema: 1, machine, figures }.publish(&args.out, "carrier")
}

fn figures_of(load: Load, samples: &Samples) -> [Figure; 3] {
    let [udp, tls] = [&samples.udp, &samples.tls].map(|rates| median(rates).unwrap_or(f64::NAN));
    let figure = |what: String, value, unit| Figure { what, value, unit, bound: None };
    let name = load.name();
    let bound = Some(Bound::AtLeast(TLS_GBPS_MIN));
    [
        figure(format!("{name}, over UDP"), udp / 1e9, "Gbit/s"),
        Figure { bound, ..figure(format!("{name}, over TLS"), tls / 1e9, "Gbit/s") },
        figure(format!("{name}, TLS to UDP"), 100.0 * tls / udp, "%"),
    ]
}

#[cfg(test)]
mod tests {
    use super::{Direction, Load, Samples, figures_of};

    #[test]
    fn the_ratio_is_that_of_the_medians() {
        let samples = Samples { udp: vec![1e9, 4e9, 9e9], tls: vec![3e9, 1e9, 2e9] };
        let load = Load { streams: 1, direction: Direction::Forward };
        assert_eq!(figures_of(load, &samples).map(|figure| figure.value), [4.0, 2.0, 50.0]);
    }
}
