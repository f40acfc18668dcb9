//! A real server with accounts, and a client that is online, on hosts of a laboratory.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use corelane::accounts::names::Name;
use corelane::accounts::operations::Done;
use corelane::accounts::store::DatabaseUrl;
use corelane::bench::{StopFlag, TestSpec};
use corelane::handshake::keys::PrivateKey;
use corelane::lab::{Host, LabOptions, TwoHosts, addresses, wait_until};
use corelane::login::client::Channel;
use corelane::login::pki::{PkiDirectory, ServerAddress, Validity};
use corelane::login::tls::{ClientTls, Trust};
use corelane::sys::{clock, process, signal};
use tempfile::TempDir;

use super::Failure;
use super::crowd::{self, PASSWORD};
use super::guest::{self, Proof, SOURCES};
use super::load;
use super::people;

const PORT: u16 = 20443;
const SERVER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(addresses::SERVER_V4), PORT);
/// The server inside the tunnel.
const INNER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const UP_WITHIN: Duration = Duration::from_secs(30);
/// How far the threads of guests stand back for the two ends of the stream.
const GUESTS_NICE: i32 = 19;
/// How long a storm goes on before anything is measured beside it.
const STORM_FIRST: Duration = Duration::from_millis(300);

/// A daemon, killed when dropped.
pub(crate) struct Daemon(Child);

impl Daemon {
    /// Ends it as an administrator does.
    pub(crate) fn terminate(mut self) -> Result<(), Failure> {
        signal::terminate(&mut self.0)?;
        let status = self.0.wait()?;
        if status.success() { Ok(()) } else { Err(format!("a daemon ended with {status}").into()) }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Both fail only if it has ended and been waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Hosts, files, and the people in the database.
pub(crate) struct Scene {
    lab: TwoHosts,
    directory: TempDir,
    program: PathBuf,
    tls: ClientTls,
    people: usize,
    /// Who logs in next.
    next: AtomicUsize,
}

/// Logins of a storm.
pub(crate) struct Logins {
    pub(crate) per_second: f64,
    /// How long each took.
    pub(crate) took_ms: Vec<f64>,
}

impl Scene {
    pub(crate) fn build(people: usize) -> Result<Self, Failure> {
        let lab = TwoHosts::build(LabOptions::default())?;
        ip(&lab.server, &format!("route add {SOURCES} via {}", addresses::CLIENT_V4))?;
        ip(&lab.client, &format!("route add local {SOURCES} dev lo"))?;
        let directory = tempfile::tempdir()?;
        let (now, mut rng) = (clock::unix_time(), rand::rng());
        let pki = PkiDirectory::create(&directory.path().join("pki"), "perf", now, &mut rng)?;
        let here = [ServerAddress::Address(SERVER.ip())];
        pki.issue_server(&here, Validity::days(now, 30), &mut rng)?;
        let tls = ClientTls::new(&Trust::Pin(pki.pin()?), None)?;
        let scene =
            Self { lab, program: program()?, tls, people, next: AtomicUsize::new(0), directory };
        people::write_secret(
            &scene.file("server.key"),
            &PrivateKey::generate(&mut rng).to_base64(),
        )?;
        people::write_secret(&scene.file("password"), PASSWORD)?;
        let file = |name: &str| scene.file(name).display().to_string();
        let server = people::server_config(SERVER, INNER, &pki, |name| scene.file(name));
        fs::write(scene.file("server.toml"), server)?;
        // The last of the people is the one who is online; guests are the others.
        let client = format!(
            "[login]\nservers = [\"{SERVER}\"]\nca_file = {:?}\nuser = \"user{}\"\n\
             password_file = {:?}\nstate_directory = {:?}\n",
            pki.certificate(),
            people - 1,
            file("password"),
            file("state"),
        );
        fs::write(scene.file("client.toml"), client)?;
        crowd::settle(&scene.database(), &Self::server_name()?, people)?;
        Ok(scene)
    }

    pub(crate) fn database(&self) -> DatabaseUrl {
        DatabaseUrl::Sqlite(self.file("accounts.db"))
    }

    pub(crate) fn server_name() -> Result<Name, Failure> {
        Ok("vpn".parse()?)
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn spawn(&self, host: &Host, words: &[&str], config: &str) -> Result<Daemon, Failure> {
        let mut command = host.command(&self.program)?;
        command.args(words).arg("-c").arg(self.file(config));
        command.arg("--status-socket").arg(self.file(&format!("{config}.sock")));
        command.stdin(Stdio::null()).stdout(Stdio::null()).env_remove("RUST_LOG");
        command.stderr(File::create(self.file(&format!("{config}.log")))?);
        Ok(Daemon(command.spawn()?))
    }

    /// Starts the server; how many seconds it took until it served.
    pub(crate) fn start_server(&self) -> Result<(Daemon, f64), Failure> {
        let started = clock::now();
        let mut server = self.spawn(&self.lab.server, &["serve"], "server.toml")?;
        let log = || fs::read_to_string(self.file("server.toml.log")).unwrap_or_default();
        wait_until(UP_WITHIN, "the server to serve", || {
            let ended = server.0.try_wait().ok().flatten();
            (log().contains("serving: ") || ended.is_some()).then_some(())
        })?;
        let took = (clock::now() - started).as_secs_f64();
        if server.0.try_wait()?.is_some() {
            return Err(format!("the server has ended: {}", log()).into());
        }
        Ok((server, took))
    }

    /// Starts the client, and waits until an echo has come back.
    pub(crate) fn start_client(&self) -> Result<Daemon, Failure> {
        let client = self.spawn(&self.lab.client, &["up"], "client.toml")?;
        wait_until(UP_WITHIN, "an echo through the tunnel", || {
            let mut ping = self.lab.client.command("ping").ok()?;
            ping.args(["-n", "-c", "1", "-W", "0.1", &INNER.to_string()]);
            ping.stdout(Stdio::null()).stderr(Stdio::null()).status().ok()?.success().then_some(())
        })?;
        Ok(client)
    }

    /// Bits per second of one TCP stream through the tunnel.
    pub(crate) fn throughput(&self, lasts: Duration) -> Result<f64, Failure> {
        let report = load::run_test(&self.lab, INNER, &TestSpec::tcp(lasts), &StopFlag::new())?;
        Ok(report.receiver.bits_per_second)
    }

    /// Guests with a password are the first third of the people, those with a token the second,
    /// again and again: a login by password gives a device another token.
    fn next_guest(&self, proof: Proof) -> usize {
        let third = self.people / 3;
        let first = if proof == Proof::Token { third } else { 0 };
        first + self.next.fetch_add(1, Relaxed) % third
    }

    fn log_in(&self, number: usize, proof: Proof) -> Result<Channel, Failure> {
        guest::log_in(SERVER, &self.tls, number, proof)
    }

    /// So many guests log in, one after another on each of their threads, while `beside` runs.
    pub(crate) fn storm<T>(
        &self,
        proof: Proof,
        guests: usize,
        beside: impl FnOnce() -> Result<T, Failure>,
    ) -> Result<(Logins, T), Failure> {
        let over = AtomicBool::new(false);
        let keep_coming = || -> Result<Vec<f64>, Failure> {
            // Guests have computers of their own: what they do must not cost the stream anything.
            process::stand_back(GUESTS_NICE)?;
            let mut took_ms = Vec::new();
            loop {
                let came = clock::now();
                let channel = self.log_in(self.next_guest(proof), proof)?;
                if over.load(Relaxed) {
                    return Ok(took_ms);
                }
                took_ms.push((clock::now() - came).as_secs_f64() * 1e3);
                drop(channel);
            }
        };
        thread::scope(|scope| {
            let began = clock::now();
            let guests: Vec<_> =
                (0..guests).map(|_| scope.spawn(|| self.lab.client.run(keep_coming))).collect();
            thread::sleep(STORM_FIRST);
            let outcome = beside();
            over.store(true, Relaxed);
            let lasted = (clock::now() - began).as_secs_f64();
            let mut took_ms = Vec::new();
            for guest in guests {
                took_ms.extend(guest.join().map_err(|_| "a guest panicked")???);
            }
            Ok((Logins { per_second: took_ms.len() as f64 / lasted, took_ms }, outcome?))
        })
    }

    /// Logs somebody in and disables the user; the milliseconds until every path was closed.
    pub(crate) fn revoke(&self) -> Result<f64, Failure> {
        let number = self.next_guest(Proof::Token);
        let channel = self.lab.client.run(|| self.log_in(number, Proof::Token))??;
        let mut command = Command::new(&self.program);
        command.args(["user", "disable", &format!("user{number}"), "--json", "-c"]);
        let output = command.arg(self.file("server.toml")).env_remove("RUST_LOG").output()?;
        drop(channel);
        let done: Done = serde_json::from_slice(&output.stdout).map_err(|error| {
            format!("`user disable`: {error}: {}", String::from_utf8_lossy(&output.stderr))
        })?;
        match done {
            Done { sessions_ended: 1, closed_ms: Some(closed_ms), .. } => Ok(closed_ms),
            other => Err(format!("user{number} was not let out: {other:?}").into()),
        }
    }
}

fn ip(host: &Host, arguments: &str) -> Result<(), Failure> {
    let status = host.command("ip")?.args(arguments.split(' ')).status()?;
    if status.success() { Ok(()) } else { Err(format!("`ip {arguments}`: {status}").into()) }
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
