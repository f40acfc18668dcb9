//! What a session keeps of its throughput while its server is flooded. See `perf/README.md`.
//!
//! ```text
//! cargo run --release --example flood -- [--rate 100000] [--rounds 3] [--seconds 4]
//! ```
//!
//! Flooder, both ends of the session and both ends of the load share this machine's CPUs, so the
//! flood costs throughput wherever it goes. Therefore each flood is sent in two ways, one after the
//! other: to the server, and to a port of the same host where a program reads datagrams and does
//! nothing else. What the session keeps in the one case of what it keeps in the other is what the
//! server answers for.

#[path = "../tests/attacks/flooder.rs"]
mod flooder;

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use clap::Parser;
use corelane::bench::statistics::median;
use corelane::bench::{self, BenchServer, StopFlag, TestSpec};
use corelane::handshake::keys::{PrivateKey, PublicKey};
use corelane::host::netlink::{Netlink, VethEnd};
use corelane::lab::{self, Host, LINK, LabOptions, TwoHosts, addresses, wait_until};
use corelane::limits::{RECEIVE_SLOT_LEN, RECEIVE_SLOTS};
use corelane::sys::udp::{RecvBatch, UdpOptions, UdpSocket};
use corelane::sys::{clock, process};
use corelane::telemetry::status::StatusReport;
use serde::Serialize;

use flooder::{Flood, Kind};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const PORT: u16 = 4500;
const SERVER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(addresses::SERVER_V4), PORT);
/// The attacker's link to the server.
const ATTACK_LINK: &str = "attack0";
/// Inner addresses: server, client, and who connects under the flood.
const INNER: [Ipv4Addr; 3] =
    [Ipv4Addr::new(198, 18, 0, 1), Ipv4Addr::new(198, 18, 0, 2), Ipv4Addr::new(198, 18, 0, 3)];
const START_WITHIN: Duration = Duration::from_secs(10);
/// Each try of the search for the clean rate.
const SEARCH_TRY: Duration = Duration::from_secs(1);
/// The loss that a rate may have to count as clean, in percent.
const LOSS_MAX_PERCENT: f64 = 0.5;
/// Of the clean rate.
const LOAD: f64 = 0.8;
/// The floods, as the results call them.
const KINDS: [&str; 4] = ["junk", "initiations", "claims", "strangers"];
/// What a session keeps at least.
const SHARE_MIN: f64 = 0.95;
/// How long a client may take to connect.
const NEWCOMER_MS_MAX: f64 = 2000.0;
/// How long a flood goes on before anything is measured.
const FLOOD_FIRST: Duration = Duration::from_millis(300);

/// Measures what a session keeps of its throughput while its server is flooded.
#[derive(Parser)]
struct Args {
    /// Datagrams of the flood per second
    #[arg(long, default_value_t = 100_000)]
    rate: u32,
    /// How often everything is measured
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How long each measurement takes, in seconds
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    /// How many clients connect during each measurement of the server, one after the other
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    newcomers: u32,
    /// Workers on either side
    #[arg(long, default_value_t = 1)]
    workers: u8,
    /// Where the results go, as JSON
    #[arg(long, value_name = "FILE", default_value = "perf/results/flood.json")]
    out: PathBuf,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("flood: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// A child that is killed when dropped.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        // Both fail only if it has ended and been waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Hosts, keys and the two daemons of the session.
struct Scene {
    lab: TwoHosts,
    attacker: Host,
    directory: tempfile::TempDir,
    program: PathBuf,
    workers: u8,
    server_key: PublicKey,
    server: Option<Daemon>,
    client: Option<Daemon>,
}

impl Scene {
    fn build(workers: u8) -> Result<Self, Failure> {
        let lab = TwoHosts::build(LabOptions::default())?;
        let attacker = Host::create("attacker")?;
        let near = VethEnd { name: LINK, namespace: attacker.namespace().as_fd() };
        let far = VethEnd { name: ATTACK_LINK, namespace: lab.server.namespace().as_fd() };
        attacker.run(|| Netlink::open()?.create_veth(near, far, 1500))??;
        ip(&lab.server, &format!("address add 203.0.113.1/24 dev {ATTACK_LINK}"))?;
        ip(&lab.server, &format!("link set {ATTACK_LINK} up"))?;
        ip(&lab.server, "route add 100.64.0.0/10 via 203.0.113.2")?;
        ip(&attacker, &format!("address add 203.0.113.2/24 dev {LINK}"))?;
        ip(&attacker, &format!("link set {LINK} up"))?;
        ip(&attacker, "route add default via 203.0.113.1")?;
        ip(&attacker, "route add local 100.64.0.0/10 dev lo")?;
        let directory = tempfile::tempdir()?;
        let keys = ["server", "client", "newcomer"].map(|name| write_key(directory.path(), name));
        let [server_key, client_key, newcomer_key] = keys;
        let mut scene = Self {
            lab,
            attacker,
            program: program()?,
            workers,
            server_key: server_key?,
            directory,
            server: None,
            client: None,
        };
        let peers = [(client_key?, INNER[1]), (newcomer_key?, INNER[2])];
        let peers = peers.map(|(key, address)| format!("--peer={key}={address}/32"));
        let mut server = scene.command(&scene.lab.server, "serve", "server", INNER[0])?;
        server.arg(format!("--listen={SERVER}")).args(peers);
        scene.server = Some(Daemon(server.spawn()?));
        wait_until(START_WITHIN, "the server to listen", || scene.status().ok())?;
        scene.client = Some(scene.connect("client", INNER[1])?);
        Ok(scene)
    }

    fn command(
        &self,
        host: &Host,
        subcommand: &str,
        name: &str,
        address: Ipv4Addr,
    ) -> Result<Command, Failure> {
        let mut command = host.command(&self.program)?;
        let file = |extension: &str| self.directory.path().join(format!("{name}.{extension}"));
        command.arg(subcommand).arg(format!("--address={address}/24"));
        command.arg(format!("--tun=flood-{name}")).arg(format!("--workers={}", self.workers));
        command.arg("--private-key-file").arg(file("key"));
        command.arg("--status-socket").arg(file("sock"));
        command.args(["--log-level", "error"]).stdin(Stdio::null()).stdout(Stdio::null());
        Ok(command)
    }

    /// Starts a client and waits until an echo has come back.
    fn connect(&self, name: &str, address: Ipv4Addr) -> Result<Daemon, Failure> {
        let mut client = self.command(&self.lab.client, "up", name, address)?;
        client.arg(format!("--server={SERVER}"));
        client.arg(format!("--server-key={}", self.server_key));
        let client = Daemon(client.spawn()?);
        wait_until(START_WITHIN, "an echo through the tunnel", || {
            let mut ping = self.lab.client.command("ping").ok()?;
            let ping = ping.args(["-n", "-c", "1", "-W", "0.1", "-I", &format!("flood-{name}")]);
            let ping = ping.arg(INNER[0].to_string()).stdout(Stdio::null()).stderr(Stdio::null());
            ping.status().ok()?.success().then_some(())
        })?;
        Ok(client)
    }

    fn status(&self) -> Result<StatusReport, Failure> {
        let socket = self.directory.path().join("server.sock");
        let mut command = Command::new(&self.program);
        let output = command.args(["status", "--json", "--status-socket"]).arg(socket).output()?;
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    fn server_pid(&self) -> Result<u32, Failure> {
        Ok(self.server.as_ref().ok_or("the server was not started")?.0.id())
    }
}

fn ip(host: &Host, arguments: &str) -> Result<(), Failure> {
    let status = host.command("ip")?.args(arguments.split(' ')).status()?;
    if status.success() { Ok(()) } else { Err(format!("`ip {arguments}`: {status}").into()) }
}

fn write_key(directory: &Path, name: &str) -> Result<PublicKey, Failure> {
    let key = PrivateKey::generate(&mut rand::rng());
    let path = directory.join(format!("{name}.key"));
    fs::write(&path, key.to_base64())?;
    fs::set_permissions(&path, Permissions::from_mode(0o600))?;
    Ok(key.public())
}

/// The program to measure, built anew if cargo is there.
fn program() -> Result<PathBuf, Failure> {
    if let Some(cargo) = std::env::var_os("CARGO") {
        let mut build = Command::new(cargo);
        build.args(["build", "--release", "--quiet", "--bin", "corelane"]);
        if !build.current_dir(env!("CARGO_MANIFEST_DIR")).status()?.success() {
            return Err("the program to measure cannot be built".into());
        }
    }
    let here = std::env::current_exe()?;
    let release = here.parent().and_then(Path::parent).ok_or("this program is nowhere")?;
    Ok(release.join("corelane"))
}

/// A program that reads datagrams and does nothing else, as a thread.
struct Sink<'s> {
    stop: &'s AtomicBool,
}

impl Drop for Sink<'_> {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
    }
}

fn drain(socket: &UdpSocket, stop: &AtomicBool) {
    let mut batch = RecvBatch::new(RECEIVE_SLOTS, RECEIVE_SLOT_LEN);
    while !stop.load(Relaxed) {
        if batch.receive(socket).is_err() {
            thread::sleep(Duration::from_micros(100));
        }
    }
}

/// Where a flood goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum Target {
    Nowhere,
    Sink,
    Server,
}

/// One measurement.
#[derive(Clone, Debug, Serialize)]
struct Sample {
    round: u32,
    kind: String,
    target: Target,
    /// Payload that arrived through the session.
    goodput_bps: f64,
    loss_percent: f64,
    /// Datagrams of the flood per second.
    flood_pps: f64,
    /// Datagrams of the flood in all, before and after what was measured included.
    flood_datagrams: u64,
    /// CPU time of the server, in seconds per second.
    server_cpu: f64,
    /// Resident memory of the server afterwards.
    server_resident_bytes: u64,
    /// How long each client took that connected during the flood, from its start to its first
    /// echo.
    newcomers_ms: Vec<f64>,
}

#[derive(Serialize)]
struct Results {
    schema: u32,
    rate_pps: u32,
    workers: u8,
    clean_bps: f64,
    load_bps: f64,
    samples: Vec<Sample>,
    /// What the server has dropped in all, by reason.
    drops: BTreeMap<String, u64>,
}

fn with_bench_server<T: Send>(
    scene: &Scene,
    client: impl FnOnce(SocketAddr) -> Result<T, Failure> + Send,
) -> Result<T, Failure> {
    let over = StopFlag::new();
    let address = SocketAddr::from((INNER[0], 0));
    let server = scene.lab.server.run(|| BenchServer::bind(address, over.clone()))??;
    let address = server.local_address()?;
    thread::scope(|scope| {
        let serving = scope.spawn(|| scene.lab.server.run(|| server.serve(false)));
        let outcome = scene.lab.client.run(|| client(address));
        over.raise();
        let served = serving.join().map_err(|_| "the traffic generator panicked")?;
        let outcome = outcome??;
        served??;
        Ok(outcome)
    })
}

/// The highest rate that passes without a flood.
fn clean_rate(scene: &Scene) -> Result<f64, Failure> {
    let spec = TestSpec::udp(SEARCH_TRY);
    let report = with_bench_server(scene, |server| {
        let stop = StopFlag::new();
        Ok(bench::search_rate(server, &spec, LOSS_MAX_PERCENT, &stop, &mut |_| {})?)
    })?;
    Ok(report.best.ok_or("no rate passes without loss")?.receiver.bits_per_second)
}

/// Measures the session at `load_bps` under one flood.
fn measure(
    scene: &Scene,
    args: &Args,
    (round, kind, target): (u32, Kind, Target),
    load_bps: f64,
) -> Result<Sample, Failure> {
    let any = SocketAddr::from((addresses::SERVER_V4, 0));
    let options = UdpOptions { gro: true, receive_buffer: Some(8 << 20), ..UdpOptions::default() };
    let sink = scene.lab.server.run(|| UdpSocket::bind(any, &options))??;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _sink = Sink { stop: &stop };
        scope.spawn(|| drain(&sink, &stop));
        let to = match target {
            Target::Nowhere => None,
            Target::Sink => Some(sink.local_addr()),
            Target::Server => Some(SERVER),
        };
        let (host, key) = (&scene.attacker, &scene.server_key);
        let flood = to.map(|to| Flood::start(host, kind, to, key, args.rate)).transpose()?;
        thread::sleep(FLOOD_FIRST);
        let pid = scene.server_pid()?;
        let (began, cpu, sent) =
            (clock::now(), process::cpu_time(pid)?, flood.as_ref().map_or(0, Flood::sent));
        let seconds = Duration::from_secs(args.seconds.into());
        let spec = TestSpec { rate_bps: Some(load_bps as u64), ..TestSpec::udp(seconds) };
        let report = with_bench_server(scene, |server| {
            Ok(bench::run_test(server, &spec, &StopFlag::new(), &mut |_| {})?)
        })?;
        let took = (clock::now() - began).as_secs_f64();
        let flood_pps = (flood.as_ref().map_or(0, Flood::sent) - sent) as f64 / took;
        let server_cpu = (process::cpu_time(pid)? - cpu).as_secs_f64() / took;
        let mut newcomers_ms = Vec::new();
        for _ in 0..if target == Target::Server { args.newcomers } else { 0 } {
            let began = clock::now();
            let newcomer = scene.connect("newcomer", INNER[2])?;
            newcomers_ms.push((clock::now() - began).as_secs_f64() * 1e3);
            drop(newcomer);
        }
        Ok(Sample {
            round,
            kind: format!("{kind:?}").to_lowercase(),
            target,
            goodput_bps: report.receiver.bits_per_second,
            loss_percent: report.datagrams.map_or(0.0, |datagrams| datagrams.loss_percent),
            flood_pps,
            flood_datagrams: flood.map_or(0, Flood::stop),
            server_cpu,
            server_resident_bytes: process::resident_bytes(pid)?,
            newcomers_ms,
        })
    })
}

fn run(args: &Args) -> Result<(), Failure> {
    if cfg!(debug_assertions) {
        return Err("figures of unoptimised programs mean nothing: add --release".into());
    }
    lab::ensure_privileges()?;
    let scene = Scene::build(args.workers)?;
    let clean_bps = clean_rate(&scene)?;
    let load_bps = clean_bps * LOAD;
    let mut samples = Vec::new();
    for round in 1..=args.rounds {
        for kind in [Kind::Junk, Kind::Initiations, Kind::Claims, Kind::Strangers] {
            let mut targets = [Target::Nowhere, Target::Sink, Target::Server];
            // Nobody is always the first after a change of flood.
            targets.rotate_left(round as usize % 3);
            for target in targets {
                eprintln!("flood: round {round} of {}, {kind:?} to {target:?}", args.rounds);
                samples.push(measure(&scene, args, (round, kind, target), load_bps)?);
            }
        }
    }
    let drops = scene.status()?.drops.into_iter().filter(|(_, count)| *count > 0).collect();
    let (rate_pps, workers) = (args.rate, args.workers);
    let results = Results { schema: 2, rate_pps, workers, clean_bps, load_bps, samples, drops };
    if let Some(directory) = args.out.parent() {
        fs::create_dir_all(directory)?;
    }
    fs::write(&args.out, serde_json::to_string_pretty(&results)?)?;
    println!("{}", table(&results));
    eprintln!("flood: written to {}", args.out.display());
    let missed = results.missed();
    if missed.is_empty() { Ok(()) } else { Err(missed.join("; ").into()) }
}

impl Results {
    /// The samples of one flood that went to one target.
    fn of<'a>(&'a self, kind: &'a str, target: Target) -> impl Iterator<Item = &'a Sample> {
        self.samples.iter().filter(move |it| it.kind == kind && it.target == target)
    }

    /// What is kept while a flood goes to the server, of what is kept while it goes to the sink.
    fn share(&self, kind: &str) -> f64 {
        let goodput = |target| {
            let samples: Vec<_> = self.of(kind, target).map(|it| it.goodput_bps).collect();
            median(&samples).unwrap_or(f64::NAN)
        };
        goodput(Target::Server) / goodput(Target::Sink)
    }

    /// Which floods cost more than they may, in words.
    fn missed(&self) -> Vec<String> {
        let mut missed = Vec::new();
        for kind in KINDS {
            let share = self.share(kind);
            if share.is_nan() || share < SHARE_MIN {
                missed.push(format!("{kind}: a share of {share:.3}, to reach: {SHARE_MIN}"));
            }
            let newcomers = self.of(kind, Target::Server).flat_map(|it| &it.newcomers_ms);
            let worst = newcomers.copied().fold(0.0, f64::max);
            if worst > NEWCOMER_MS_MAX {
                missed.push(format!("{kind}: {worst:.0} ms to connect, at most {NEWCOMER_MS_MAX}"));
            }
        }
        missed
    }
}

fn table(results: &Results) -> String {
    let mut text = format!(
        "A session at {:.2} Gbit/s, which is {LOAD} of the {:.2} that pass without a flood.\n\n\
         | flood | to | datagrams/s | Gbit/s kept | share | lost % | server CPU s/s | RSS MiB | \
         newcomer ms (worst) |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
        results.load_bps / 1e9,
        results.clean_bps / 1e9,
    );
    for kind in KINDS {
        let of = |target: Target, value: fn(&Sample) -> Option<f64>| {
            let wanted = results.samples.iter().filter(|it| it.kind == kind && it.target == target);
            median(&wanted.filter_map(value).collect::<Vec<_>>()).unwrap_or(f64::NAN)
        };
        let goodput = |target| of(target, |sample| Some(sample.goodput_bps));
        let newcomers = results.samples.iter().filter(|it| it.kind == kind);
        let newcomers: Vec<f64> = newcomers.flat_map(|it| it.newcomers_ms.clone()).collect();
        let sink = goodput(Target::Sink);
        for target in [Target::Nowhere, Target::Sink, Target::Server] {
            let newcomer = match median(&newcomers) {
                Some(median) if target == Target::Server => {
                    let worst = newcomers.iter().copied().fold(0.0, f64::max);
                    format!("{median:.0} ({worst:.0})")
                }
                _ => "-".to_owned(),
            };
            text += &format!(
                "| {kind} | {target:?} | {:.0} | {:.3} | {:.3} | {:.2} | {:.2} | {:.1} | {} |\n",
                of(target, |sample| Some(sample.flood_pps)),
                goodput(target) / 1e9,
                goodput(target) / sink,
                of(target, |sample| Some(sample.loss_percent)),
                of(target, |sample| Some(sample.server_cpu)),
                of(target, |sample| Some(sample.server_resident_bytes as f64)) / f64::from(1 << 20),
                newcomer,
            );
        }
    }
    text + "\nMedians. The share is of what is kept while the same flood goes to a program that \
            only reads.\n"
}

#[cfg(test)]
mod tests {
    use super::{Kind, PrivateKey, flooder};
    use corelane::wire::{Initiation, MessageType};

    #[test]
    fn a_flood_consists_of_what_it_says() {
        let server = PrivateKey::generate(&mut rand::rng()).public();
        assert_eq!(MessageType::of(&Kind::Junk.datagram(&server)), None);
        let strangers = Kind::Strangers.datagram(&server);
        assert_eq!(MessageType::of(&strangers), Some(MessageType::Data));
        for (kind, claims) in [(Kind::Initiations, false), (Kind::Claims, true)] {
            let mut initiation = kind.datagram(&server);
            let parsed = Initiation::parse(&initiation).unwrap();
            assert_eq!(parsed.mac2.iter().any(|byte| *byte != 0), claims);
            let mac1 = *parsed.mac1;
            flooder::correct_mac1(&mut initiation, &server);
            assert_eq!(*Initiation::parse(&initiation).unwrap().mac1, mac1);
        }
    }
}
