//! Measures logins: how many a second, what they cost others, how soon somebody is let out, and
//! what many users cost. Prints a table and writes `logins.json` and `logins.md`. See
//! `perf/README.md`.
//!
//! ```text
//! cargo build --release && cargo run --release --example logins -- [--quick] [--out DIR]
//! ```

mod crowd;
#[path = "../runner/figures.rs"]
mod figures;
mod guest;
#[path = "../runner/load.rs"]
mod load;
#[path = "../runner/machine.rs"]
mod machine;
#[path = "../runner/people.rs"]
mod people;
mod scene;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::Parser;
use corelane::accounts::addresses::AddressPlan;
use corelane::accounts::service::{Accounts, AccountsOptions, LoginAttempt};
use corelane::bench::statistics::{median, percentile};
use corelane::lab::{self, addresses};
use corelane::limits::{ARGON2_MEMORY_KIB, ARGON2_PASSES};
use corelane::sys::clock;

use crowd::Person;
use figures::{Bound, Figure, Report, conclude};
use guest::Proof;
use machine::Machine;
use scene::{Logins, Scene};

/// Why there are no figures.
type Failure = Box<dyn std::error::Error + Send + Sync>;

const KEPT_MIN_PERCENT: f64 = 90.0;
const REVOKED_MS_MAX: f64 = 1000.0;
const START_SECONDS_MAX: f64 = 2.0;
const LOOKUP_MS_MAX: f64 = 1.0;
/// How often the server is started.
const STARTS: usize = 3;

/// Measures logins, what they cost others, and how soon somebody is let out.
#[derive(Parser)]
struct Args {
    /// Few users and short measurements, to see that everything works
    #[arg(long)]
    quick: bool,
    /// Guests that log in at the same time
    #[arg(long, value_name = "N", default_value_t = 16)]
    guests: usize,
    /// Directory for logins.json and logins.md
    #[arg(long, value_name = "DIR", default_value = "perf/results")]
    out: PathBuf,
}

/// How much is measured.
struct Extent {
    people: usize,
    /// How long logins are counted.
    logins: Duration,
    /// Measurements of the throughput, each without and with a storm.
    rounds: usize,
    throughput: Duration,
    revocations: usize,
    lookups: usize,
}

impl Extent {
    fn of(args: &Args) -> Self {
        let seconds = Duration::from_secs_f64;
        if args.quick {
            let (logins, throughput) = (seconds(1.0), seconds(1.0));
            let (people, revocations, lookups) = (500, 5, 50);
            return Self { people, logins, rounds: 1, throughput, revocations, lookups };
        }
        let (logins, throughput) = (seconds(5.0), seconds(1.5));
        let (people, revocations, lookups) = (10_000, 100, 1000);
        Self { people, logins, rounds: 5, throughput, revocations, lookups }
    }
}

fn main() -> ExitCode {
    conclude("logins", || run(&Args::parse()))
}

/// Whether every figure is within its bound.
fn run(args: &Args) -> Result<bool, Failure> {
    lab::ensure_privileges()?;
    let machine = Machine::describe(clock::unix_time(), BTreeMap::new());
    let extent = Extent::of(args);
    let scene = Scene::build(extent.people)?;
    let mut figures = starts(&scene, &extent)?;
    let (server, _) = scene.start_server()?;
    figures.extend(rates(&scene, args, &extent)?);
    figures.extend(others(&scene, args, &extent)?);
    figures.extend(revocations(&scene, &extent)?);
    server.terminate()?;
    figures.extend(lookups(&scene, &extent)?);
    Report { schema: 1, machine, figures }.publish(&args.out, "logins")
}

fn figure(what: impl Into<String>, sample: Option<f64>, unit: &'static str) -> Figure {
    Figure { what: what.into(), value: sample.unwrap_or(f64::NAN), unit, bound: None }
}

fn at_most(most: f64, figure: Figure) -> Figure {
    Figure { bound: Some(Bound::AtMost(most)), ..figure }
}

/// From the start of `corelane serve` to its serving.
fn starts(scene: &Scene, extent: &Extent) -> Result<Vec<Figure>, Failure> {
    let mut took = Vec::new();
    for _ in 0..STARTS {
        let (server, seconds) = scene.start_server()?;
        server.terminate()?;
        took.push(seconds);
    }
    let what = format!("server ready, {0} users, devices, tokens and leases", extent.people);
    Ok(vec![at_most(START_SECONDS_MAX, figure(what, median(&took), "s"))])
}

/// Logins a second, with nothing else to do.
fn rates(scene: &Scene, args: &Args, extent: &Extent) -> Result<Vec<Figure>, Failure> {
    let argon2 = format!("argon2id of {} MiB, {ARGON2_PASSES} passes", ARGON2_MEMORY_KIB / 1024);
    let proofs = [(Proof::Password, argon2), (Proof::Token, "by token".to_owned())];
    let mut figures = Vec::new();
    for (proof, how) in proofs {
        let wait = || {
            thread::sleep(extent.logins);
            Ok(())
        };
        let (Logins { per_second, took_ms }, ()) = scene.storm(proof, args.guests, wait)?;
        figures.push(figure(format!("full logins, {how}"), Some(per_second), "per second"));
        let what = format!("the same, each of {} guests at once, median", args.guests);
        figures.push(figure(what, median(&took_ms), "ms"));
    }
    Ok(figures)
}

/// What a session of somebody else keeps of its throughput beside each kind of storm.
fn others(scene: &Scene, args: &Args, extent: &Extent) -> Result<Vec<Figure>, Failure> {
    let client = scene.start_client()?;
    let mut storms = [
        Storm::new(Proof::Password, "guests log in by password", "logins"),
        Storm::new(Proof::Token, "guests log in by token", "logins"),
        Storm::new(Proof::Handshake, "strangers set TLS up", "handshakes"),
    ];
    let mut alone = Vec::new();
    let measure = || scene.throughput(extent.throughput);
    for round in 0..extent.rounds {
        for (place, storm) in storms.iter_mut().enumerate() {
            // Neither is always the first.
            let comes_last = (round + place) % 2 == 1;
            if !comes_last {
                alone.push(measure()?);
            }
            let (logins, throughput) = scene.storm(storm.proof, args.guests, measure)?;
            storm.rates.push(logins.per_second);
            storm.beside.push(throughput);
            if comes_last {
                alone.push(measure()?);
            }
        }
    }
    client.terminate()?;
    let alone = median(&alone);
    let mut figures = vec![figure("one TCP stream of another client", alone.map(giga), "Gbit/s")];
    figures.extend(storms.iter().flat_map(|storm| storm.figures(alone)));
    Ok(figures)
}

fn giga(bits: f64) -> f64 {
    bits / 1e9
}

/// Many who come at the same time, again and again.
struct Storm {
    proof: Proof,
    what: &'static str,
    counted: &'static str,
    /// How many came in a second, and what the stream carried meanwhile, in bits per second.
    rates: Vec<f64>,
    beside: Vec<f64>,
}

impl Storm {
    fn new(proof: Proof, what: &'static str, counted: &'static str) -> Self {
        Self { proof, what, counted, rates: Vec::new(), beside: Vec::new() }
    }

    /// What the stream has left of `alone`.
    fn figures(&self, alone: Option<f64>) -> [Figure; 3] {
        let Self { what, counted, .. } = self;
        let beside = median(&self.beside);
        let kept = alone.zip(beside).map(|(alone, beside)| 100.0 * beside / alone);
        let bound = Some(Bound::AtLeast(KEPT_MIN_PERCENT));
        let meanwhile = format!("{counted} a second meanwhile, on CPUs that are busy with it");
        [
            figure(format!("the same, while {what}"), beside.map(giga), "Gbit/s"),
            Figure { bound, ..figure(format!("what it keeps while {what}"), kept, "%") },
            figure(meanwhile, median(&self.rates), "per second"),
        ]
    }
}

/// How soon a user who is disabled is out.
fn revocations(scene: &Scene, extent: &Extent) -> Result<Vec<Figure>, Failure> {
    let took: Vec<_> =
        (0..extent.revocations).map(|_| scene.revoke()).collect::<Result<_, Failure>>()?;
    let what = |which| format!("user disabled: every path closed, {which} of {}", took.len());
    let worst = took.iter().copied().reduce(f64::max);
    Ok(vec![
        at_most(REVOKED_MS_MAX, figure(what("median"), median(&took), "ms")),
        at_most(REVOKED_MS_MAX, figure(what("worst"), worst, "ms")),
    ])
}

/// What the accounts take to decide on a login by token: users, devices, tokens, addresses.
fn lookups(scene: &Scene, extent: &Extent) -> Result<Vec<Figure>, Failure> {
    let options = AccountsOptions {
        addresses: AddressPlan { pools: vec!["10.77.0.0/16".parse()?], ..AddressPlan::default() },
        ..AccountsOptions::new(scene.database(), scene.file("spool"), Scene::server_name()?)
    };
    let accounts = Accounts::open(options)?;
    let mut took = Vec::new();
    // The last third of the people are no guests: nobody has disabled them.
    for number in (2 * extent.people / 3 + 1..extent.people).take(extent.lookups) {
        let person = Person::new(number)?;
        let attempt = LoginAttempt {
            from: (addresses::CLIENT_V4, 0).into(),
            user: None,
            password: None,
            code: None,
            token: Some(person.token),
            certificate: None,
            device_name: person.device,
            device_key: person.key.public(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let (tell, told) = crossbeam_channel::bounded(1);
        let asked = clock::now();
        accounts.login(attempt, Box::new(move |answer| drop(tell.send(answer))));
        let answer = told.recv()?;
        took.push((clock::now() - asked).as_secs_f64() * 1e3);
        answer.map_err(|refusal| format!("user{number} is refused: {refusal:?}"))?;
    }
    let what = |which| format!("login decided, {} users, {which}", extent.people);
    Ok(vec![
        at_most(LOOKUP_MS_MAX, figure(what("median"), median(&took), "ms")),
        figure(what("99th percentile"), percentile(&took, 0.99), "ms"),
    ])
}
