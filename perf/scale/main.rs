//! Measures what many peers cost: memory for each idle session, handshakes a second on one core,
//! the start of a server with many peers. Prints a table and writes `scale.json` and `scale.md`.
//! See `perf/README.md`.
//!
//! ```text
//! cargo build --release && cargo run --release --example scale -- [--sessions N] [--out DIR]
//! ```

#[path = "../runner/figures.rs"]
mod figures;
mod file;
#[path = "../runner/machine.rs"]
mod machine;
mod population;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use clap::Parser;
use corelane::config::Source;
use corelane::lab::{self, Host, wait_until};
use corelane::sys::{clock, process, signal};

use figures::{Bound, Figure, Report, conclude};
use machine::Machine;
use population::{Failure, Population};

/// Workers of the server in memory.
const WORKERS: u8 = 2;
/// Sessions that the memory is measured with by default.
const SESSIONS: usize = 10_000;
/// What a server may weigh: this, and so much for each idle session.
const BASE_BYTES_MAX: u64 = 16 << 20;
const SESSION_BYTES_MAX: u64 = 4 << 10;
/// Handshakes in one go, and how often: the median counts.
const HANDSHAKES: usize = 2_000;
const HANDSHAKE_ROUNDS: usize = 5;
const HANDSHAKES_PER_SECOND_MIN: f64 = 3_000.0;
/// Peers and prefixes of the server that is started.
const PEERS: usize = 20_000;
const PREFIXES_EACH: usize = 5;
const START_SECONDS_MAX: f64 = 2.0;
const STARTS: usize = 3;

/// Measures what many peers cost.
#[derive(Parser)]
struct Args {
    /// Sessions that the memory is measured with
    #[arg(long, value_name = "N", default_value_t = SESSIONS)]
    sessions: usize,
    /// Directory for scale.json and scale.md
    #[arg(long, value_name = "DIR", default_value = "perf/results")]
    out: PathBuf,
}

fn main() -> ExitCode {
    conclude("scale", || run(&Args::parse()))
}

/// Whether every figure is within its bound.
fn run(args: &Args) -> Result<bool, Failure> {
    lab::ensure_privileges()?;
    let machine = Machine::describe(clock::unix_time(), BTreeMap::new());
    // Memory first: what others leave behind would be counted.
    let mut figures = memory(args.sessions)?;
    figures.push(handshakes()?);
    figures.extend(start()?);
    Report { schema: 1, machine, figures }.publish(&args.out, "scale")
}

/// Resident memory of this process with a server in it: its peers, then a session for each.
fn memory(sessions: usize) -> Result<Vec<Figure>, Failure> {
    let resident = || process::resident_bytes(std::process::id());
    let mut population = Population::new(WORKERS, sessions)?;
    let before = resident()?;
    for client in 0..sessions {
        population.connect(client)?;
    }
    population.idle(5);
    let after = resident()?;
    if population.connected() != sessions {
        return Err("not every session came about".into());
    }
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let most = BASE_BYTES_MAX + SESSION_BYTES_MAX * sessions as u64;
    let each = (after - before) as f64 / sessions as f64;
    Ok(vec![
        Figure {
            what: format!("resident, {sessions} peers, no session"),
            value: mib(before),
            unit: "MiB",
            bound: None,
        },
        Figure {
            what: format!("resident, {sessions} idle sessions, {WORKERS} workers"),
            value: mib(after),
            unit: "MiB",
            bound: Some(Bound::AtMost(mib(most))),
        },
        Figure {
            what: "for each session, the allocator's own share included".to_owned(),
            value: each,
            unit: "bytes",
            bound: None,
        },
    ])
}

/// How many initiations a second one core answers with a session that the workers have.
fn handshakes() -> Result<Figure, Failure> {
    let mut population = Population::new(WORKERS, HANDSHAKES)?;
    let mut rates = Vec::new();
    for _ in 0..HANDSHAKE_ROUNDS {
        let initiations: Vec<_> =
            (0..HANDSHAKES).map(|client| population.initiate(client)).collect::<Result<_, _>>()?;
        let started = process::thread_cpu_time()?;
        for initiation in &initiations {
            population.answer(initiation)?;
        }
        let spent = process::thread_cpu_time()? - started;
        rates.push(HANDSHAKES as f64 / spent.as_secs_f64());
    }
    rates.sort_by(f64::total_cmp);
    Ok(Figure {
        what: "handshakes answered, ML-KEM included, one core".to_owned(),
        value: rates[rates.len() / 2],
        unit: "per second",
        bound: Some(Bound::AtLeast(HANDSHAKES_PER_SECOND_MIN)),
    })
}

/// From the start of `corelane serve` to its being ready, and how much of that the file takes.
fn start() -> Result<Vec<Figure>, Failure> {
    let directory = tempfile::tempdir()?;
    let config = file::write_server(directory.path(), PEERS, PREFIXES_EACH)?;
    let source = Source { file: Some(config.clone()), ..Source::default() };
    let started = clock::now();
    let loaded = source.load_serve()?;
    let reading = (clock::now() - started).as_secs_f64();
    if loaded.config.peers.len() != PEERS {
        return Err("a peer is missing".into());
    }
    let mut starts = Vec::new();
    for _ in 0..STARTS {
        starts.push(start_daemon(directory.path(), &config)?);
    }
    starts.sort_by(f64::total_cmp);
    let size = format!("{PEERS} peers, {} prefixes", PEERS * PREFIXES_EACH);
    Ok(vec![
        Figure {
            what: format!("configuration read, {size}"),
            value: reading,
            unit: "s",
            bound: None,
        },
        Figure {
            what: format!("server ready, {size}"),
            value: starts[starts.len() / 2],
            unit: "s",
            bound: Some(Bound::AtMost(START_SECONDS_MAX)),
        },
    ])
}

/// Starts the real server on a host of its own; the seconds until it says that it serves.
fn start_daemon(directory: &Path, config: &Path) -> Result<f64, Failure> {
    let here = std::env::current_exe()?;
    let release = here.ancestors().nth(2).ok_or("this program is nowhere")?;
    let program = release.join("corelane");
    if !program.exists() {
        return Err(format!("{} is missing: `cargo build --release`", program.display()).into());
    }
    let host = Host::create("server")?;
    let log = directory.join("log");
    let mut command = host.command(program)?;
    command.args(["serve", "-c"]).arg(config);
    command.arg("--status-socket").arg(directory.join("socket")).env_remove("RUST_LOG");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log)?);
    let started = clock::now();
    let mut daemon = command.spawn()?;
    let said = || fs::read_to_string(&log).unwrap_or_default();
    let is_ready = || {
        let ended = daemon.try_wait().ok().flatten();
        (said().contains("serving: ") || ended.is_some()).then_some(())
    };
    let ready = wait_until(Duration::from_secs(60), "the server to be ready", is_ready);
    let seconds = (clock::now() - started).as_secs_f64();
    signal::terminate(&mut daemon)?;
    let status = daemon.wait()?;
    ready?;
    if !status.success() {
        return Err(format!("the server ended with {status}: {}", said()).into());
    }
    Ok(seconds)
}
