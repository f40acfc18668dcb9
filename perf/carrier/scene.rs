//! A server with accounts on one host, and on another a client that goes the way that it is told.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use corelane::accounts::operations::{Actor, NewPassword, Operation};
use corelane::accounts::secret::Secret;
use corelane::accounts::service::{Accounts, AccountsOptions};
use corelane::accounts::store::DatabaseUrl;
use corelane::bench::{self, BenchServer, StopFlag, TestSpec};
use corelane::handshake::keys::PrivateKey;
use corelane::lab::{Host, LabOptions, TwoHosts, addresses, wait_until};
use corelane::login::pki::{PkiDirectory, ServerAddress, Validity};
use corelane::sys::clock;
use corelane::telemetry::status::{StatusAnswer, StatusReport, StatusRequest};
use tempfile::TempDir;

use super::Failure;
use super::people;
use super::process::Process;

const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(addresses::SERVER_V4), 20443);
/// The server inside the tunnel.
const INNER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const USER: &str = "ada";
const PASSWORD: &str = "correct horse battery";
const UP_WITHIN: Duration = Duration::from_secs(30);

/// How datagrams go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Udp,
    Tls,
}

impl Way {
    /// What `client.carrier` calls it.
    const fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tls => "tls",
        }
    }
}

/// Hosts, files, and the server, which serves.
pub(crate) struct Scene {
    _server: Process,
    lab: TwoHosts,
    directory: TempDir,
    program: PathBuf,
}

impl Scene {
    pub(crate) fn build() -> Result<Self, Failure> {
        let (lab, directory) = (TwoHosts::build(LabOptions::default())?, tempfile::tempdir()?);
        let (now, mut rng) = (clock::unix_time(), rand::rng());
        let file = |name: &str| directory.path().join(name);
        let pki = PkiDirectory::create(&file("pki"), "perf", now, &mut rng)?;
        let here = [ServerAddress::Address(SERVER.ip())];
        pki.issue_server(&here, Validity::days(now, 30), &mut rng)?;
        people::write_secret(&file("server.key"), &PrivateKey::generate(&mut rng).to_base64())?;
        people::write_secret(&file("password"), PASSWORD)?;
        let server = people::server_config(SERVER, INNER, &pki, file);
        fs::write(file("server.toml"), server)?;
        for way in [Way::Udp, Way::Tls] {
            let client = format!(
                "[login]\nservers = [\"{SERVER}\"]\nca_file = {:?}\nuser = \"{USER}\"\n\
                 password_file = {:?}\nstate_directory = {:?}\n[client]\ncarrier = \"{}\"\n",
                pki.certificate(),
                file("password"),
                file("state"),
                way.name(),
            );
            fs::write(file(&format!("{}.toml", way.name())), client)?;
        }
        add_user(&file("accounts.db"), &file("spool"))?;
        let program = program()?;
        let mut server = spawn(&lab.server, &program, "serve", directory.path(), "server")?;
        let serves = || {
            (status(&file("server.sock")).is_ok() || server.ensure_alive().is_err()).then_some(())
        };
        wait_until(UP_WITHIN, "the server to serve", serves)?;
        server.ensure_alive()?;
        Ok(Self { _server: server, lab, directory, program })
    }

    /// Starts the client, and waits until an echo has come back on its way.
    pub(crate) fn start_client(&self, way: Way) -> Result<Process, Failure> {
        let directory = self.directory.path();
        let mut client = spawn(&self.lab.client, &self.program, "up", directory, way.name())?;
        wait_until(UP_WITHIN, "an echo through the tunnel", || {
            let arrived = self.echo().unwrap_or(false) && self.ensure_way(way).is_ok();
            (arrived || client.ensure_alive().is_err()).then_some(())
        })?;
        client.ensure_alive()?;
        Ok(client)
    }

    fn echo(&self) -> Result<bool, Failure> {
        let mut ping = self.lab.client.command("ping")?;
        ping.args(["-n", "-c", "1", "-W", "0.1", &INNER.to_string()]);
        Ok(ping.stdout(Stdio::null()).stderr(Stdio::null()).status()?.success())
    }

    /// Fails unless all paths of the client go that way: over TLS they lead to its own host.
    pub(crate) fn ensure_way(&self, way: Way) -> Result<(), Failure> {
        let report = status(&self.directory.path().join(format!("{}.sock", way.name())))?;
        let paths = report.peers.iter().flat_map(|peer| &peer.paths);
        let ends: Vec<_> = paths.map(|path| path.endpoint.clone().unwrap_or_default()).collect();
        let is_local =
            |end: &String| end.parse().is_ok_and(|address: SocketAddr| address.ip().is_loopback());
        let goes = !ends.is_empty() && ends.iter().all(|end| is_local(end) == (way == Way::Tls));
        if goes { Ok(()) } else { Err(format!("not all paths go by {way:?}: {ends:?}").into()) }
    }

    /// Bits per second of `test` through the tunnel.
    pub(crate) fn throughput(&self, test: &TestSpec) -> Result<f64, Failure> {
        let over = StopFlag::new();
        let server =
            self.lab.server.run(|| BenchServer::bind((INNER, 0).into(), over.clone()))??;
        let address = server.local_address()?;
        std::thread::scope(|scope| {
            let serving = scope.spawn(|| self.lab.server.run(|| server.serve(false)));
            let client = || bench::run_test(address, test, &StopFlag::new(), &mut |_| {});
            let outcome = self.lab.client.run(client);
            over.raise();
            let served = serving.join().map_err(|_| "the traffic generator panicked")?;
            let report = outcome??;
            served??;
            Ok(report.receiver.bits_per_second)
        })
    }
}

fn add_user(database: &Path, spool: &Path) -> Result<(), Failure> {
    let database = DatabaseUrl::Sqlite(database.to_owned());
    let options = AccountsOptions::new(database, spool.to_owned(), "vpn".parse()?);
    let operation = Operation::UserAdd {
        name: USER.parse()?,
        groups: Default::default(),
        password: NewPassword::Given(Secret::new(PASSWORD.to_owned())),
    };
    Accounts::open(options)?.execute(&Actor::local(0), operation)?;
    Ok(())
}

/// Starts `corelane` with the configuration `name`.toml of `directory`.
fn spawn(
    host: &Host,
    program: &Path,
    subcommand: &str,
    directory: &Path,
    name: &str,
) -> Result<Process, Failure> {
    let file = |extension: &str| directory.join(format!("{name}.{extension}"));
    let mut command = host.command(program)?;
    command.arg(subcommand).arg("-c").arg(file("toml")).env_remove("RUST_LOG");
    command.arg("--status-socket").arg(file("sock")).args(["--log-level", "warn"]);
    Process::spawn(format!("corelane {subcommand}"), command)
}

fn status(socket: &Path) -> Result<StatusReport, Failure> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(UP_WITHIN))?;
    writeln!(stream, "{}", serde_json::to_string(&StatusRequest::Status)?)?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    match serde_json::from_str(&line)? {
        StatusAnswer::Status(report) => Ok(*report),
        other => Err(format!("no status: {other:?}").into()),
    }
}

/// The program to measure, beside this one.
fn program() -> Result<PathBuf, Failure> {
    let here = std::env::current_exe()?;
    let release = here.parent().and_then(Path::parent).ok_or("this program is nowhere")?;
    let program = release.join("corelane");
    if !program.exists() {
        return Err(format!("{} is missing: `cargo build --release`", program.display()).into());
    }
    Ok(program)
}
