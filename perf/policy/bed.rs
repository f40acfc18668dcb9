//! A server and a client on hosts of their own, with and without a policy between them.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use corelane::accounts::operations::{Actor, NewPassword, Operation, UsageView};
use corelane::accounts::secret::Secret;
use corelane::accounts::service::{Accounts, AccountsOptions};
use corelane::accounts::store::DatabaseUrl;
use corelane::bench::{StopFlag, TestSpec};
use corelane::handshake::keys::{PrivateKey, PublicKey};
use corelane::lab::{LabOptions, TwoHosts, addresses, wait_until};
use corelane::login::pki::{PkiDirectory, ServerAddress, Validity};
use corelane::sys::{affinity, clock};
use tempfile::TempDir;

use super::Failure;
use super::load;
use super::plan::{self, Setup};
use super::process::{Process, output_of};
use super::report::Sample;

const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(addresses::SERVER_V4), 20443);
/// Addresses inside the tunnel.
const INNER_SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const INNER_CLIENT: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
const PASSWORD: &str = "correct horse battery";
const SERVER_NAME: &str = "vpn";
const UP_WITHIN: Duration = Duration::from_secs(30);
/// How long to wait for an answer of the trial before the next is asked for.
const TRIAL: Duration = Duration::from_millis(50);
/// A UDP port that a rule denies.
const DENIED_PORT: u16 = 7;

/// Two hosts and the tunnel between them, which sleeps while it is not measured.
pub(crate) struct Bed {
    setup: Setup,
    server: Process,
    client: Process,
    lab: TwoHosts,
    site: Site,
    /// Payload that has arrived in all tests, in bytes.
    arrived: u64,
}

impl Bed {
    /// Builds the hosts, and waits until an answer has come through the tunnel.
    pub(crate) fn set_up(setup: Setup) -> Result<Self, Failure> {
        let lab = TwoHosts::build(LabOptions::default())?;
        let site = Site::new()?;
        match setup {
            Setup::Without => site.write_peers()?,
            Setup::With => site.write_accounts()?,
        }
        let start = |host: &corelane::lab::Host, name: &str, word: &str, cpu: Option<&usize>| {
            let mut command = host.command(&site.program)?;
            command.arg(word).arg("-c").arg(site.file(&format!("{name}.toml")));
            command.args(["--workers", "1", "--log-level", "warn", "--status-socket"]);
            command.arg(site.file(&format!("{name}.sock"))).env_remove("RUST_LOG");
            if let Some(cpu) = cpu {
                command.args(["--cpus", &cpu.to_string()]);
            }
            Process::spawn(format!("the {name}"), command)
        };
        let cpus = affinity::allowed_cpus()?;
        let mut server = start(&lab.server, "server", "serve", cpus.first())?;
        wait_until(UP_WITHIN, "the server to listen", || {
            let is_up = site.file("server.sock").exists();
            (is_up || server.ensure_alive().is_err()).then_some(())
        })?;
        let client = start(&lab.client, "client", "up", cpus.last())?;
        let mut bed = Self { setup, server, client, lab, site, arrived: 0 };
        let answered = bed.await_answer();
        // The reason why an end died says more than the silence that followed.
        bed.ensure_alive()?;
        answered?;
        Ok(bed)
    }

    pub(crate) fn setup(&self) -> Setup {
        self.setup
    }

    /// Runs one test.
    pub(crate) fn measure(&mut self, test: &TestSpec, stop: &StopFlag) -> Result<Sample, Failure> {
        let before = self.cpu_seconds()?;
        let report = load::run_test(&self.lab, INNER_SERVER, test, stop)?;
        let cpu = self.cpu_seconds()? - before;
        // Figures of a tunnel that died on the way are worth nothing.
        self.ensure_alive()?;
        if stop.is_raised() {
            return Err("interrupted".into());
        }
        let arrived = report.receiver;
        if arrived.bytes == 0 {
            return Err("nothing arrived".into());
        }
        self.arrived += arrived.bytes;
        Ok(Sample {
            bits_per_second: arrived.bits_per_second,
            cpu_s_per_gb: cpu / (arrived.bytes as f64 / 1e9),
        })
    }

    /// Fails if what a rule denies comes through.
    pub(crate) fn ensure_rules_hold(&self) -> Result<(), Failure> {
        let target = (INNER_SERVER, DENIED_PORT);
        let server = self.lab.server.run(|| UdpSocket::bind(target))??;
        server.set_read_timeout(Some(TRIAL))?;
        let client = self.lab.client.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
        client.send_to(b"denied", target)?;
        match server.recv(&mut [0; 8]) {
            Ok(_) => Err("a datagram came through that a rule denies".into()),
            Err(_) => Ok(()),
        }
    }

    /// Fails unless everything that has arrived is counted as the user's.
    pub(crate) fn ensure_usage_is_counted(&self) -> Result<(), Failure> {
        let mut command = Command::new(&self.site.program);
        command.args(["stats", "--json", "-c"]).arg(self.site.file("server.toml"));
        command.env_remove("RUST_LOG");
        let usage: Vec<UsageView> = serde_json::from_str(&output_of("stats", command, "")?)?;
        let counted: u64 = usage.iter().map(|one| one.received_bytes + one.sent_bytes).sum();
        if counted < self.arrived {
            let arrived = self.arrived;
            return Err(format!("{arrived} bytes have arrived, {counted} are counted").into());
        }
        Ok(())
    }

    fn ensure_alive(&mut self) -> Result<(), Failure> {
        self.server.ensure_alive()?;
        self.client.ensure_alive()
    }

    fn cpu_seconds(&self) -> Result<f64, Failure> {
        Ok(self.server.cpu_seconds()? + self.client.cpu_seconds()?)
    }

    /// Waits until a datagram from the client comes to the server and is answered, or an end has
    /// died.
    fn await_answer(&mut self) -> Result<(), Failure> {
        let bind = || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0));
        let (server, client) = (self.lab.server.run(bind)??, self.lab.client.run(bind)??);
        server.set_read_timeout(Some(TRIAL))?;
        client.set_read_timeout(Some(TRIAL))?;
        let target = (INNER_SERVER, server.local_addr()?.port());
        wait_until(UP_WITHIN, "an answer through the tunnel", || {
            if self.ensure_alive().is_err() {
                return Some(());
            }
            client.send_to(b"trial", target).ok()?;
            let (_, from) = server.recv_from(&mut [0; 8]).ok()?;
            server.send_to(b"answer", from).ok()?;
            client.recv(&mut [0; 8]).ok().map(|_| ())
        })?;
        Ok(())
    }
}

/// The files of both ends.
struct Site {
    directory: TempDir,
    program: PathBuf,
}

impl Site {
    fn new() -> Result<Self, Failure> {
        Ok(Self { directory: tempfile::tempdir()?, program: program()? })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write_secret(&self, name: &str, secret: &str) -> Result<PathBuf, Failure> {
        let path = self.file(name);
        fs::write(&path, secret)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        Ok(path)
    }

    fn write_key(&self, name: &str) -> Result<(PathBuf, PublicKey), Failure> {
        let key = PrivateKey::generate(&mut rand::rng());
        Ok((self.write_secret(name, &key.to_base64())?, key.public()))
    }

    /// Two ends that know each other.
    fn write_peers(&self) -> Result<(), Failure> {
        let (server_file, server_key) = self.write_key("server.key")?;
        let (client_file, client_key) = self.write_key("client.key")?;
        let server = format!(
            "[server]\nlisten = [\"{SERVER}\"]\nprivate_key_file = {server_file:?}\n\
             [tun]\naddresses = [\"{INNER_SERVER}/24\"]\n\
             [[peer]]\npublic_key = \"{client_key}\"\nallowed_ips = [\"{INNER_CLIENT}/32\"]\n",
        );
        fs::write(self.file("server.toml"), server)?;
        let client = format!(
            "[client]\nserver = \"{SERVER}\"\nserver_key = \"{server_key}\"\n\
             private_key_file = {client_file:?}\n[tun]\naddresses = [\"{INNER_CLIENT}/24\"]\n",
        );
        Ok(fs::write(self.file("client.toml"), client)?)
    }

    /// A server that knows a user, who logs in by password.
    fn write_accounts(&self) -> Result<(), Failure> {
        let (key_file, _) = self.write_key("server.key")?;
        let (now, mut rng) = (clock::unix_time(), rand::rng());
        let pki = PkiDirectory::create(&self.file("pki"), "perf", now, &mut rng)?;
        pki.issue_server(
            &[ServerAddress::Address(SERVER.ip())],
            Validity::days(now, 30),
            &mut rng,
        )?;
        let (database, spool) = (self.file("accounts.db"), self.file("spool"));
        let server = format!(
            "[server]\nlisten = [\"{SERVER}\"]\nprivate_key_file = {key_file:?}\n\
             [tun]\naddresses = [\"{INNER_SERVER}/24\"]\n\
             [login]\nlisten = [\"{SERVER}\"]\ncertificate_file = {:?}\nkey_file = {:?}\n\
             [accounts]\nserver_name = \"{SERVER_NAME}\"\nisolate_clients = true\n\
             database = {database:?}\nspool_file = {spool:?}\nsocket = {:?}\n",
            pki.server_certificate(),
            pki.server_key(),
            self.file("accounts.sock"),
        );
        fs::write(self.file("server.toml"), server)?;
        let client = format!(
            "[login]\nservers = [\"{SERVER}\"]\nca_file = {:?}\nuser = \"alice\"\n\
             password_file = {:?}\nstate_directory = {:?}\n",
            pki.certificate(),
            self.write_secret("password", PASSWORD)?,
            self.file("state"),
        );
        fs::write(self.file("client.toml"), client)?;
        let name = SERVER_NAME.parse()?;
        let accounts =
            Accounts::open(AccountsOptions::new(DatabaseUrl::Sqlite(database), spool, name))?;
        let password = NewPassword::Given(Secret::new(PASSWORD.to_owned()));
        for operation in [
            Operation::UserAdd { name: "alice".parse()?, groups: Default::default(), password },
            Operation::UserSet {
                name: "alice".parse()?,
                join: Default::default(),
                leave: Default::default(),
                limits: plan::limits(&INNER_SERVER.to_string())?,
                reserve_ipv4: None,
                reserve_ipv6: None,
                unreserve: false,
            },
        ] {
            accounts.execute(&Actor::local(0), operation)?;
        }
        Ok(())
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
