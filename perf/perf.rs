//! Measures Corelane beside what there is without it and what there could be at best: plain veth,
//! the ceiling program and Corelane with one and two workers, each between two hosts of its own, in
//! one interleaved run. Writes `results.json` and `results.md`. See `perf/README.md`.
//!
//! ```text
//! cargo run --release --example perf -- [--rounds N] [--seconds S] [--only tcp1,rtt] [--out DIR]
//! ```

mod runner;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::Parser;
use corelane::bench::StopFlag;
use corelane::{lab, sys::clock};
use signal_hook::consts::{SIGINT, SIGTERM};

use runner::Failure;
use runner::bed::{Bed, Programs};
use runner::machine::Machine;
use runner::plan::{Contender, Links, Metric, Workload};
use runner::results::{FailureNote, Plan, Results};

/// Measures Corelane beside plain veth and the ceiling program, in one interleaved run.
#[derive(Parser)]
struct Args {
    /// How often everything is measured; medians are over the rounds
    #[arg(long, value_name = "N", default_value_t = 3,
          value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How long each throughput test takes, in seconds
    #[arg(long, value_name = "S", default_value_t = 3,
          value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    /// Directory for results.json and results.md
    #[arg(long, value_name = "DIR", default_value = "perf/results")]
    out: PathBuf,
    /// Only the workloads whose names begin so: tcp1-up, tcp1-down, tcp4-up, tcp4-down, udp-gso,
    /// udp-1300, udp-64, rtt-idle, rtt-loaded
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    only: Vec<String>,
    /// Who is measured
    #[arg(
        long,
        value_name = "NAME,...",
        value_delimiter = ',',
        default_value = "veth,ceiling,corelane1,corelane2"
    )]
    contenders: Vec<Contender>,
    /// What the link between the hosts does with super-packets
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', default_value = "whole,cut")]
    links: Vec<Links>,
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            eprintln!("perf: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Whether everything could be measured.
fn run(args: Args) -> Result<bool, Failure> {
    if cfg!(debug_assertions) {
        return Err("figures of unoptimised programs mean nothing: add --release".into());
    }
    let plan = Plan {
        rounds: args.rounds,
        seconds: args.seconds,
        workloads: Workload::select(&args.only)?,
        contenders: args.contenders,
        links: args.links,
    };
    let programs = build_programs()?;
    if lab::ensure_privileges()? {
        eprintln!("perf: not root: socket buffers stay small, so figures may be lower");
    }
    let stop = StopFlag::new();
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, stop.shared())?;
    }
    let machine = Machine::describe(clock::unix_time());
    let mut results = Results::default();
    for round in 1..=plan.rounds {
        for &links in &plan.links {
            Round { number: round, links, plan: &plan, programs: &programs, stop: &stop }
                .run(&mut results)?;
        }
        // After every round, so that a run that is cut short leaves something.
        write_report(&args.out, &results, &machine, &plan)?;
    }
    println!("{}", results.report(&machine, &plan).to_markdown());
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
                match workload.run(bed, self.plan.seconds, self.stop) {
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

/// Finds the programs to measure. Under `cargo run` they are brought up to date first: cargo builds
/// only the example that it runs.
fn build_programs() -> Result<Programs, Failure> {
    if let Some(cargo) = std::env::var_os("CARGO") {
        let mut build = Command::new(cargo);
        build.args(["build", "--release", "--quiet", "--bin", "corelane", "--example", "ceiling"]);
        build.current_dir(env!("CARGO_MANIFEST_DIR"));
        if !build.status()?.success() {
            return Err("the programs to measure cannot be built".into());
        }
    }
    let here = std::env::current_exe()?;
    let examples = here.parent().ok_or("this program is nowhere")?;
    let release = examples.parent().ok_or("this program is nowhere")?;
    let programs =
        Programs { ceiling: examples.join("ceiling"), corelane: release.join("corelane") };
    for program in [&programs.ceiling, &programs.corelane] {
        if !program.exists() {
            let program = program.display();
            return Err(
                format!("{program} is missing: `cargo build --release --examples --bins`").into()
            );
        }
    }
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
    fs::write(directory.join("results.md"), report.to_markdown())?;
    Ok(())
}
