//! What many peers cost: memory for each idle session, work at the start. The daemon needs root.

#![expect(clippy::unwrap_used, reason = "a test ends where its set-up fails")]

#[path = "../perf/scale/file.rs"]
mod file;
#[path = "../perf/scale/population.rs"]
mod population;

use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use corelane::config::Source;
use corelane::lab::{Host, wait_until};
use corelane::sys::allocations::{CountingAllocator, allocations_in, bytes_kept_by};
use corelane::sys::{clock, signal};
use population::Population;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

const WORKERS: u8 = 2;
/// What an idle session may weigh, in all tables of the control thread and of every worker.
const SESSION_BYTES_MAX: i64 = 4096;

/// Connects every client and lets the sessions settle; the bytes that each has added.
fn connect_all(population: &mut Population, sessions: usize) -> i64 {
    let bytes = bytes_kept_by(|| {
        for client in 0..sessions {
            population.connect(client).unwrap();
        }
        population.idle(5);
    });
    assert_eq!(population.connected(), sessions);
    bytes / sessions as i64
}

#[test]
fn ten_thousand_idle_sessions_weigh_less_than_four_kibibytes_each() {
    const SESSIONS: usize = 10_000;
    let mut population = Population::new(WORKERS, SESSIONS).unwrap();
    let each = connect_all(&mut population, SESSIONS);
    println!("{each} bytes for each session");
    assert!(each <= SESSION_BYTES_MAX, "{each} bytes for each session");
}

/// Beside the session in use there is the one before, until it is too old.
#[test]
fn a_session_that_is_superseded_weighs_no_more_and_goes() {
    const SESSIONS: usize = 1_000;
    let mut population = Population::new(WORKERS, SESSIONS).unwrap();
    let first = connect_all(&mut population, SESSIONS);
    let second = connect_all(&mut population, SESSIONS);
    assert!(second <= SESSION_BYTES_MAX, "{second} bytes for each session that is superseded");
    let gone = -bytes_kept_by(|| population.idle(200)) / SESSIONS as i64;
    assert_eq!(population.connected(), 0);
    // Tables and queues keep the room they have grown to.
    assert!(gone * 2 >= first + second, "{gone} of {first} and {second} bytes were freed");
}

/// Allocations that reading a configuration of so many peers takes, and the time.
fn load(directory: &Path, peers: usize) -> (u64, Duration) {
    let path = file::write_server(directory, peers, 5).unwrap();
    let source = Source { file: Some(path), ..Source::default() };
    let started = clock::now();
    let allocations = allocations_in(|| {
        let loaded = source.load_serve().unwrap();
        assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
        assert_eq!(loaded.config.peers.len(), peers);
        black_box(loaded);
    });
    (allocations, clock::now() - started)
}

/// Time is measured as a ratio, with room for a busy machine: quadratic work would take 64 times
/// as long for 8 times the peers, and this allows twice 8.
#[test]
fn a_configuration_takes_work_in_proportion_to_its_peers() {
    let directory = tempfile::tempdir().unwrap();
    let best = |peers| {
        let runs = [(); 3].map(|()| load(directory.path(), peers));
        let fastest = runs.iter().map(|(_, time)| *time).min().unwrap();
        (runs[0].0, fastest)
    };
    let (few_allocations, few) = best(2_500);
    let (many_allocations, many) = best(20_000);
    assert!(many_allocations <= 9 * few_allocations, "{few_allocations} to {many_allocations}");
    assert!(many <= 32 * few.max(Duration::from_millis(10)), "{few:?} to {many:?}");
}

/// A daemon that is killed when the test is over, however that ends.
struct Daemon(std::process::Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_server_with_twenty_thousand_peers_and_a_hundred_thousand_prefixes_starts() {
    const PEERS: usize = 20_000;
    let directory = tempfile::tempdir().unwrap();
    let config = file::write_server(directory.path(), PEERS, 5).unwrap();
    let (socket, log) = (directory.path().join("sock"), directory.path().join("log"));
    let host = Host::create("server").unwrap();
    let started: Instant = clock::now();
    let mut command = host.command(env!("CARGO_BIN_EXE_corelane")).unwrap();
    command.args(["serve", "--workers", "2", "-c"]).arg(&config);
    command.arg("--status-socket").arg(&socket).env_remove("RUST_LOG");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&log).unwrap());
    let mut daemon = Daemon(command.spawn().unwrap());
    let log = || fs::read_to_string(&log).unwrap();
    let is_ready = || {
        let ended = daemon.0.try_wait().unwrap();
        assert!(ended.is_none(), "{ended:?}: {}", log());
        log().contains("serving: ").then_some(())
    };
    wait_until(Duration::from_secs(60), "the server to be ready", is_ready).unwrap();
    println!("ready after {:?}", clock::now() - started);

    let mut status = std::process::Command::new(env!("CARGO_BIN_EXE_corelane"));
    let status = status.args(["status", "--json", "--status-socket"]).arg(&socket).output();
    let report: serde_json::Value = serde_json::from_slice(&status.unwrap().stdout).unwrap();
    assert_eq!(report["peers"].as_array().unwrap().len(), PEERS);
    assert!(!log().contains("warn"), "{}", log());

    signal::terminate(&mut daemon.0).unwrap();
    let ended = wait_until(Duration::from_secs(20), "its end", || daemon.0.try_wait().unwrap());
    assert!(ended.unwrap().success(), "{}", log());
}
