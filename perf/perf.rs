//! Measures Corelane beside what there is without it, what there could be at best, and what others
//! offer: plain veth, the ceiling program, Corelane with one and two workers and the userspace VPNs
//! that are installed, each between two hosts of its own, in one interleaved run. Writes
//! `results.json`, `results.md` and a plot per kind of link. See `perf/README.md`.
//!
//! ```text
//! cargo run --release --example perf -- [--quick] [--only tcp1,rtt] [--out DIR]
//! ```

mod runner;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::Parser;
use clap::builder::ArgPredicate;
use corelane::bench::StopFlag;
use corelane::{lab, sys::clock};
use signal_hook::consts::{SIGINT, SIGTERM};

use runner::Failure;
use runner::bed::Bed;
use runner::machine::Machine;
use runner::plan::{Contender, Links, Metric, Workload};
use runner::programs::{CEILING, CORELANE, Programs};
use runner::results::{FailureNote, Plan, Results};
use runner::workload::Effort;
use runner::{markdown, plot};

/// Measures Corelane beside the plain link, the ceiling program and other VPNs, in one interleaved
/// run.
#[derive(Parser)]
struct Args {
    /// One short round over whole links: to see that everything works, not to quote
    #[arg(long)]
    quick: bool,
    /// How often everything is measured; medians are over the rounds
    #[arg(long, value_name = "N", default_value = "3",
          default_value_if("quick", ArgPredicate::Equals("true".into()), "1"),
          value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How long each throughput test takes, in seconds
    #[arg(long, value_name = "S", default_value = "2",
          default_value_if("quick", ArgPredicate::Equals("true".into()), "1"),
          value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    /// Directory for results.json, results.md and the plots
    #[arg(long, value_name = "DIR", default_value = "perf/results")]
    out: PathBuf,
    /// Where `perf/install-contenders` has put what it built [default: perf-contenders in cargo's
    /// target directory]
    #[arg(long, value_name = "DIR")]
    tools: Option<PathBuf>,
    /// Only the workloads whose names begin so: tcp1-up, tcp1-down, tcp4-up, tcp4-down, udp-gso,
    /// udp-1300, udp-64, rtt-idle, rtt-chain, rtt-loaded
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    only: Vec<String>,
    /// Who is measured, if installed
    #[arg(
        long,
        value_name = "NAME,...",
        value_delimiter = ',',
        default_value = "veth,ceiling,corelane1,corelane2,wireguard-go,boringtun,openvpn,nebula,\
                         quincy"
    )]
    contenders: Vec<Contender>,
    /// What the link between the hosts does with super-packets
    #[arg(
        long,
        value_name = "NAME,...",
        value_delimiter = ',',
        default_value = "whole,cut",
        default_value_if("quick", ArgPredicate::Equals("true".into()), "whole")
    )]
    links: Vec<Links>,
}

impl Args {
    fn effort(&self) -> Effort {
        let (tries, try_ms) = if self.quick { (4, 300) } else { (8, 500) };
        Effort { seconds: self.seconds, tries, try_ms }
    }
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            eprintln!("perf: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Whether everything could be measured.
fn run(args: &Args) -> Result<bool, Failure> {
    if cfg!(debug_assertions) {
        return Err("figures of unoptimised programs mean nothing: add --release".into());
    }
    let workloads = Workload::select(&args.only)?;
    let programs = find_programs(args.tools.as_deref())?;
    let absent: Vec<_> =
        args.contenders.iter().filter_map(|&contender| programs.absent(contender)).collect();
    for one in &absent {
        let (title, missing) = (one.contender.title(), one.programs.join(", "));
        eprintln!("perf: {title} is left out: {missing} not installed: `{}`", one.install);
    }
    let mut contenders = args.contenders.clone();
    contenders.retain(|contender| absent.iter().all(|one| one.contender != *contender));
    let machine = Machine::describe(clock::unix_time(), programs.versions(&contenders));
    let plan = Plan {
        rounds: args.rounds,
        effort: args.effort(),
        workloads,
        contenders,
        links: args.links.clone(),
        absent,
    };
    if lab::ensure_privileges()? {
        eprintln!("perf: not root: socket buffers stay small, so figures may be lower");
    }
    let stop = StopFlag::new();
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, stop.shared())?;
    }
    let mut results = Results::default();
    for round in 1..=plan.rounds {
        for &links in &plan.links {
            Round { number: round, links, plan: &plan, programs: &programs, stop: &stop }
                .run(&mut results)?;
        }
        // After every round, so that a run that is cut short leaves something.
        write_report(&args.out, &results, &machine, &plan)?;
    }
    println!("{}", markdown::render(&results.report(&machine, &plan)));
    eprintln!("perf: written to {}", args.out.display());
    Ok(results.failures().is_empty())
}

/// One round over one kind of link.
struct Round<'a> {
    number: u32,
    links: Links,
    plan: &'a Plan,
    programs: &'a Programs,
    stop: &'a StopFlag,
}

impl Round<'_> {
    /// Puts every contender between hosts of its own, then lets all of them do each workload in
    /// turn, so that what disturbs the machine for a while disturbs all of them.
    fn run(&self, results: &mut Results) -> Result<(), Failure> {
        let mut beds = Vec::new();
        for &contender in &self.plan.contenders {
            match Bed::set_up(contender, self.links, self.programs, self.stop) {
                Ok(bed) => beds.push((contender, bed)),
                Err(failure) => self.note(results, contender, None, &failure)?,
            }
        }
        for (contender, bed) in &beds {
            if let Some(tunnel) = &bed.tunnel {
                let first_ping_ms = tunnel.first_ping_after.as_secs_f64() * 1e3;
                results.add(self.links, *contender, &[(Metric::FirstPing, first_ping_ms)]);
            }
        }
        for &workload in &self.plan.workloads {
            for (contender, bed) in &mut beds {
                self.progress(*contender, &workload.to_string());
                match workload.run(bed, self.plan.effort, self.stop) {
                    Ok(samples) => results.add(self.links, *contender, &samples),
                    Err(failure) => self.note(results, *contender, Some(workload), &failure)?,
                }
            }
            // Nobody is always the first after a change of workload.
            let first = beds.len().min(1);
            beds.rotate_left(first);
        }
        for (contender, bed) in &beds {
            if let Some(tunnel) = &bed.tunnel {
                let mib = tunnel.server.resident_mib_peak()?;
                results.add(self.links, *contender, &[(Metric::ServerMemory, mib)]);
            }
        }
        Ok(())
    }

    fn progress(&self, contender: Contender, doing: &str) {
        let (number, rounds, links) = (self.number, self.plan.rounds, self.links);
        let contender = contender.title();
        eprintln!("perf: round {number} of {rounds}, {links:?} link, {contender}: {doing}");
    }

    /// Notes what could not be measured; the rest goes on, unless somebody wants it to end.
    fn note(
        &self,
        results: &mut Results,
        contender: Contender,
        workload: Option<Workload>,
        failure: &Failure,
    ) -> Result<(), Failure> {
        if self.stop.is_raised() {
            return Err("interrupted".into());
        }
        self.progress(contender, &format!("failed: {failure}"));
        results.add_failure(FailureNote {
            round: self.number,
            links: self.links,
            contender,
            workload,
            reason: failure.to_string(),
        });
        Ok(())
    }
}

/// Finds the programs to measure. Under `cargo run` this project's own are brought up to date
/// first: cargo builds only the example that it runs.
fn find_programs(tools: Option<&Path>) -> Result<Programs, Failure> {
    if let Some(cargo) = std::env::var_os("CARGO") {
        let mut build = Command::new(cargo);
        build.args(["build", "--release", "--quiet", "--bin", "corelane", "--example", "ceiling"]);
        build.current_dir(env!("CARGO_MANIFEST_DIR"));
        if !build.status()?.success() {
            return Err("the programs to measure cannot be built".into());
        }
    }
    let here = std::env::current_exe()?;
    let release = here.ancestors().nth(2).ok_or("this program is nowhere")?;
    let target = release.parent().unwrap_or(release);
    let tools = tools.map_or_else(|| target.join("perf-contenders"), Path::to_owned);
    let programs = Programs::new(release, &tools);
    programs.path(CEILING)?;
    programs.path(CORELANE)?;
    Ok(programs)
}

fn write_report(
    directory: &Path,
    results: &Results,
    machine: &Machine,
    plan: &Plan,
) -> Result<(), Failure> {
    let report = results.report(machine, plan);
    fs::create_dir_all(directory)?;
    fs::write(directory.join("results.json"), report.to_json()?)?;
    fs::write(directory.join("results.md"), markdown::render(&report))?;
    for &links in &plan.links {
        let name = format!("plot-{}.svg", links.name());
        fs::write(directory.join(name), plot::render(&report, links))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Args, Links, Parser};

    #[test]
    fn a_quick_run_is_shorter_than_an_ordinary_one() {
        let ordinary = Args::parse_from(["perf"]);
        assert_eq!((ordinary.rounds, ordinary.seconds, ordinary.links.len()), (3, 2, 2));
        let quick = Args::parse_from(["perf", "--quick"]);
        assert_eq!((quick.rounds, quick.seconds, quick.links), (1, 1, vec![Links::Whole]));
        assert_eq!(Args::parse_from(["perf", "--quick", "--rounds", "2"]).rounds, 2);
    }
}
