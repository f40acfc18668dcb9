//! Measures how throughput grows with the number of workers, beside the plain link and the ceiling
//! program under the same load. Prints tables and writes `cores.json` and `cores.md`. See
//! `perf/README.md`.
//!
//! ```text
//! cargo run --release --example cores -- [--quick] [--workers 1,2,4] [--pin yes,no] [--out DIR]
//! ```
//!
//! It needs no other program than `corelane` in the directory above its own and `ceiling` beside
//! it: the load is Corelane's own traffic generator.

mod bed;
#[path = "../runner/load.rs"]
mod load;
#[path = "../runner/machine.rs"]
mod machine;
mod plan;
#[path = "../runner/process.rs"]
#[allow(dead_code, reason = "this measurement waits for the end of no program")]
mod process;
mod report;

use std::fs::{self, OpenOptions};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::Parser;
use clap::builder::ArgPredicate;
use corelane::bench::StopFlag;
use corelane::lab;
use corelane::sys::clock;
use signal_hook::consts::{SIGINT, SIGTERM};

use bed::Bed;
use machine::Machine;
use plan::{Pin, Plan, Variant, Workload};
use report::Results;

/// Why something could not be measured, for people.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Measures how throughput grows with the number of workers.
#[derive(Parser)]
struct Args {
    /// One round of short tests: to see that everything works, not to quote
    #[arg(long)]
    quick: bool,
    /// How often everything is measured; medians are over the rounds
    #[arg(long, value_name = "N", default_value = "3",
          default_value_if("quick", ArgPredicate::Equals("true".into()), "1"),
          value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How long each test takes, in seconds
    #[arg(long, value_name = "S", default_value = "2",
          default_value_if("quick", ArgPredicate::Equals("true".into()), "1"),
          value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    /// Workers on each side [default: 1, 2 and, where both sides have CPUs of their own, 4, 8]
    #[arg(long, value_name = "N,...", value_delimiter = ',',
          value_parser = clap::value_parser!(u16).range(1..=128))]
    workers: Vec<u16>,
    /// Whether Corelane's workers are pinned to CPUs
    #[arg(long, value_name = "PIN,...", value_delimiter = ',', default_value = "yes,no")]
    pin: Vec<Pin>,
    /// Directory for cores.json and cores.md
    #[arg(long, value_name = "DIR", default_value = "perf/results")]
    out: PathBuf,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("cores: not everything could be measured");
            ExitCode::FAILURE
        }
        Err(failure) => {
            eprintln!("cores: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Whether everything could be measured.
fn run(args: &Args) -> Result<bool, Failure> {
    if cfg!(debug_assertions) {
        return Err("figures of unoptimised programs mean nothing: add --release".into());
    }
    let release = find_programs()?;
    ensure_tun()?;
    let machine = Machine::describe(
        clock::unix_time(),
        [("corelane", env!("CARGO_PKG_VERSION").to_owned())].into(),
    );
    let workers = match &args.workers[..] {
        [] => plan::workers_for(machine.cores),
        some => some.iter().copied().map(usize::from).collect(),
    };
    let plan = Plan::new(args.rounds, f64::from(args.seconds), &workers, &args.pin);
    if lab::ensure_privileges()? {
        eprintln!("cores: not root: socket buffers stay small, so figures may be lower");
    }
    let stop = StopFlag::new();
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, stop.shared())?;
    }
    eprintln!("cores: workers {workers:?}, this takes about {:.0} s", plan.estimate());
    let began = clock::now();
    let mut results = Results::default();
    for round in 1..=plan.rounds {
        // Nobody is always the first.
        let mut variants = plan.variants.clone();
        let first = (round as usize - 1) % variants.len().max(1);
        variants.rotate_left(first);
        for variant in variants {
            let (title, workers) = (variant.carrier.title(), variant.workers);
            let name = format!("round {round} of {}, {workers} workers, {title}", plan.rounds);
            eprintln!("cores: {name}");
            if let Err(failure) = measure(variant, &plan, &release, &stop, &mut results) {
                if stop.is_raised() {
                    return Err("interrupted".into());
                }
                eprintln!("cores: failed: {failure}");
                results.failures.push(format!("{name}: {failure}").replace('\n', " "));
            }
        }
        // After every round, so that a run that is cut short leaves something.
        write_report(&args.out, &results, &machine, &plan)?;
    }
    println!("{}", results.report(&machine, &plan).markdown());
    let took = (clock::now() - began).as_secs_f64();
    eprintln!("cores: took {took:.0} s, written to {}", args.out.display());
    Ok(results.failures.is_empty())
}

/// Every workload over one variant, which is gone afterwards.
fn measure(
    variant: Variant,
    plan: &Plan,
    release: &Path,
    stop: &StopFlag,
    results: &mut Results,
) -> Result<(), Failure> {
    let mut bed = Bed::set_up(variant, release)?;
    for workload in Workload::ALL {
        let sample = bed
            .measure(&plan.test(variant, workload), stop)
            .map_err(|failure| format!("{}: {failure}", workload.title()))?;
        results.samples.entry((workload, variant)).or_default().push(sample);
    }
    Ok(())
}

/// The directory of this project's programs. Under `cargo run` they are brought up to date first:
/// cargo builds only the example that it runs.
fn find_programs() -> Result<PathBuf, Failure> {
    if let Some(cargo) = std::env::var_os("CARGO") {
        let mut build = Command::new(cargo);
        build.args(["build", "--release", "--quiet", "--bin", "corelane", "--example", "ceiling"]);
        if !build.current_dir(env!("CARGO_MANIFEST_DIR")).status()?.success() {
            return Err("the programs to measure cannot be built".into());
        }
    }
    let here = std::env::current_exe()?;
    let release = here.ancestors().nth(2).ok_or("this program is nowhere")?;
    for program in ["corelane", "examples/ceiling"].map(|name| release.join(name)) {
        if !program.is_file() {
            let missing = program.display();
            let mend = "cargo build --release --bins --examples";
            return Err(format!("{missing} is missing: `{mend}`, or copy it there").into());
        }
    }
    Ok(release.to_owned())
}

/// Says what mends it if there can be no tunnel.
fn ensure_tun() -> Result<(), Failure> {
    let Err(error) = OpenOptions::new().read(true).write(true).open("/dev/net/tun") else {
        return Ok(());
    };
    let mend = match error.kind() {
        ErrorKind::NotFound => {
            "if `grep tun /proc/misc` finds the driver, \
             `mkdir -p /dev/net && mknod -m 666 /dev/net/tun c 10 200` makes the device; if not, \
             `modprobe tun`; in a container, start it with `--device /dev/net/tun`"
        }
        ErrorKind::PermissionDenied => {
            "run this as root; in a container, start it with `--device /dev/net/tun`"
        }
        _ => "`modprobe tun`: the kernel has no driver for it",
    };
    Err(format!("/dev/net/tun cannot be opened ({error}): {mend}").into())
}

fn write_report(
    directory: &Path,
    results: &Results,
    machine: &Machine,
    plan: &Plan,
) -> Result<(), Failure> {
    let report = results.report(machine, plan);
    fs::create_dir_all(directory)?;
    fs::write(directory.join("cores.json"), serde_json::to_string_pretty(&report)? + "\n")?;
    fs::write(directory.join("cores.md"), report.markdown())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Args, Parser};

    #[test]
    fn a_quick_run_is_shorter_than_an_ordinary_one() {
        let ordinary = Args::parse_from(["cores"]);
        assert_eq!((ordinary.rounds, ordinary.seconds), (3, 2));
        let quick = Args::parse_from(["cores", "--quick"]);
        assert_eq!((quick.rounds, quick.seconds), (1, 1));
    }
}
