//! Measures what policy costs: the throughput of a tunnel whose client has logged in and whose
//! server applies rules, rate limits and isolation to it and counts what it moves, beside that of a
//! tunnel between configured peers. Prints a table and writes `policy.json` and `policy.md`. See
//! `perf/README.md`.
//!
//! ```text
//! cargo build --release && cargo run --release --example policy -- [--quick] [--out DIR]
//! ```

mod bed;
#[path = "../runner/figures.rs"]
#[allow(dead_code, reason = "this measurement has a table of its own")]
mod figures;
#[path = "../runner/load.rs"]
mod load;
#[path = "../runner/machine.rs"]
mod machine;
mod plan;
#[path = "../runner/process.rs"]
#[allow(dead_code, reason = "this measurement waits for the end of no program")]
mod process;
mod report;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use clap::builder::ArgPredicate;
use corelane::bench::StopFlag;
use corelane::lab;
use corelane::sys::clock;
use signal_hook::consts::{SIGINT, SIGTERM};

use bed::Bed;
use figures::conclude;
use machine::Machine;
use plan::{Setup, Workload};
use report::{Report, Results};

/// Why something could not be measured, for people.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Measures what policy costs.
#[derive(Parser)]
struct Args {
    /// One round of 1 s tests: to see that everything works, not to quote
    #[arg(long)]
    quick: bool,
    /// How often everything is measured; medians are over the rounds
    #[arg(long, value_name = "N", default_value = "7",
          default_value_if("quick", ArgPredicate::Equals("true".into()), "1"),
          value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How long each test takes, in seconds
    #[arg(long, value_name = "S", default_value = "2",
          default_value_if("quick", ArgPredicate::Equals("true".into()), "1"),
          value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    /// Directory for policy.json and policy.md
    #[arg(long, value_name = "DIR", default_value = "perf/results")]
    out: PathBuf,
}

fn main() -> ExitCode {
    conclude("policy", || run(&Args::parse()))
}

/// Whether every figure is within its bound.
fn run(args: &Args) -> Result<bool, Failure> {
    if lab::ensure_privileges()? {
        eprintln!("policy: not root: socket buffers stay small, so figures may be lower");
    }
    let machine = Machine::describe(clock::unix_time(), BTreeMap::new());
    let stop = StopFlag::new();
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, stop.shared())?;
    }
    let mut without = Bed::set_up(Setup::Without)?;
    let mut with = Bed::set_up(Setup::With)?;
    with.ensure_rules_hold()?;
    let mut results = Results::default();
    for round in 0..args.rounds {
        eprintln!("policy: round {} of {}", round + 1, args.rounds);
        for (place, workload) in (0..).zip(Workload::ALL) {
            let mut pair = [&mut without, &mut with];
            // Neither is always the first.
            if (round + place) % 2 == 1 {
                pair.reverse();
            }
            for bed in pair {
                let sample = bed
                    .measure(&workload.test(args.seconds), &stop)
                    .map_err(|failure| format!("{}: {failure}", workload.title()))?;
                results.add(workload, bed.setup(), sample);
            }
        }
    }
    with.ensure_usage_is_counted()?;
    Report::new(machine, args.rounds, args.seconds, &results).publish(&args.out)
}

#[cfg(test)]
mod tests {
    use super::{Args, Parser};

    #[test]
    fn a_quick_run_is_shorter_than_an_ordinary_one() {
        let ordinary = Args::parse_from(["policy"]);
        assert_eq!((ordinary.rounds, ordinary.seconds), (7, 2));
        let quick = Args::parse_from(["policy", "--quick"]);
        assert_eq!((quick.rounds, quick.seconds), (1, 1));
    }
}
