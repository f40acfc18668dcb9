//! A contender at work between two hosts.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use corelane::bench::StopFlag;
use corelane::lab::{Host, LabOptions, TwoHosts, addresses, wait_until};
use corelane::sys::{affinity, clock};
use tempfile::TempDir;

use super::Failure;
use super::ping;
use super::plan::{Contender, Links};
use super::process::Process;

/// Inner addresses, from the range reserved for measurements (RFC 2544, RFC 6890).
const INNER_SERVER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const INNER_CLIENT: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
const INNER_PREFIX_LEN: u8 = 24;
/// The outer UDP port of the server.
const PORT: u16 = 4500;
/// The TUN device on both hosts.
const TUN: &str = "tun0";
/// How long a contender may take to come up.
const START_WITHIN: Duration = Duration::from_secs(10);

/// Where the programs are.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    pub(crate) ceiling: PathBuf,
    pub(crate) corelane: PathBuf,
}

/// Two hosts of their own and, unless the contender is the link itself, a tunnel between them.
pub(crate) struct Bed {
    pub(crate) lab: TwoHosts,
    /// The server's address to measure to.
    pub(crate) target: Ipv4Addr,
    pub(crate) tunnel: Option<Tunnel>,
}

/// Both ends of a tunnel that has carried a packet.
pub(crate) struct Tunnel {
    pub(crate) server: Process,
    pub(crate) client: Process,
    /// From starting the client program to the first answered ping.
    pub(crate) first_ping_after: Duration,
    /// Keys and status sockets.
    _directory: TempDir,
}

impl Bed {
    /// Builds the hosts and waits until the contender carries packets.
    pub(crate) fn set_up(
        contender: Contender,
        links: Links,
        programs: &Programs,
        stop: &StopFlag,
    ) -> Result<Self, Failure> {
        let options =
            LabOptions { segmentation_offloads: links == Links::Whole, ..LabOptions::default() };
        let lab = TwoHosts::build(options)?;
        let tunnel = match contender {
            Contender::Veth => None,
            Contender::Ceiling => Some(start(&lab, &CeilingEnds(programs), stop)?),
            Contender::CorelaneOneWorker => {
                Some(start(&lab, &CorelaneEnds { programs, workers: 1 }, stop)?)
            }
            Contender::CorelaneTwoWorkers => {
                Some(start(&lab, &CorelaneEnds { programs, workers: 2 }, stop)?)
            }
        };
        let target = if tunnel.is_some() { INNER_SERVER } else { addresses::SERVER_V4 };
        if tunnel.is_none() {
            // Neighbours find each other now and not in the first measurement.
            ping::first_answer(&lab.client, target, START_WITHIN, stop)?;
        }
        Ok(Self { lab, target, tunnel })
    }
}

impl Tunnel {
    /// CPU time that both ends have used, in seconds.
    pub(crate) fn cpu_seconds(&self) -> Result<f64, Failure> {
        Ok(self.server.cpu_seconds()? + self.client.cpu_seconds()?)
    }

    /// Fails if an end has died.
    pub(crate) fn ensure_alive(&mut self) -> Result<(), Failure> {
        self.server.ensure_alive()?;
        self.client.ensure_alive()
    }
}

/// The two programs of a tunnel.
trait Ends {
    /// The commands of server and client, complete, with what they need in `directory`.
    fn commands(&self, lab: &TwoHosts, directory: &Path) -> Result<(Command, Command), Failure>;
}

fn start(lab: &TwoHosts, ends: &dyn Ends, stop: &StopFlag) -> Result<Tunnel, Failure> {
    let directory = tempfile::tempdir()?;
    let (server, client) = ends.commands(lab, directory.path())?;
    let mut server = Process::spawn("the server", server)?;
    wait_until(START_WITHIN, "the server to listen", || {
        let listens = lab.server.run(listens).unwrap_or(false);
        (listens || server.ensure_alive().is_err()).then_some(())
    })?;
    server.ensure_alive()?;
    let started_at = clock::now();
    let mut client = Process::spawn("the client", client)?;
    let answered_at = first_answer(&lab.client, &mut server, &mut client, stop)?;
    let first_ping_after = answered_at - started_at;
    Ok(Tunnel { server, client, first_ping_after, _directory: directory })
}

fn first_answer(
    host: &Host,
    server: &mut Process,
    client: &mut Process,
    stop: &StopFlag,
) -> Result<Instant, Failure> {
    let answered = ping::first_answer(host, INNER_SERVER, START_WITHIN, stop);
    // The reason why an end died says more than the silence that followed.
    server.ensure_alive()?;
    client.ensure_alive()?;
    answered
}

/// Whether something is bound to the tunnel's port in the network namespace of the calling thread.
fn listens() -> bool {
    let port = format!(":{PORT:04X} ");
    ["udp", "udp6"].iter().any(|table| {
        let table = fs::read_to_string(format!("/proc/thread-self/net/{table}"));
        table.is_ok_and(|table| table.lines().any(|line| line.contains(&port)))
    })
}

fn outer_server() -> String {
    format!("{}:{PORT}", addresses::SERVER_V4)
}

fn with_prefix(address: Ipv4Addr) -> String {
    format!("{address}/{INNER_PREFIX_LEN}")
}

struct CeilingEnds<'a>(&'a Programs);

impl Ends for CeilingEnds<'_> {
    fn commands(&self, lab: &TwoHosts, _: &Path) -> Result<(Command, Command), Failure> {
        let mut server = lab.server.command(&self.0.ceiling)?;
        server.args(["--tun", TUN, "--address", &with_prefix(INNER_SERVER)]);
        server.args(["--listen", &outer_server()]);
        let mut client = lab.client.command(&self.0.ceiling)?;
        client.args(["--tun", TUN, "--address", &with_prefix(INNER_CLIENT)]);
        client.args(["--peer", &outer_server()]);
        Ok((server, client))
    }
}

struct CorelaneEnds<'a> {
    programs: &'a Programs,
    workers: usize,
}

impl Ends for CorelaneEnds<'_> {
    fn commands(&self, lab: &TwoHosts, directory: &Path) -> Result<(Command, Command), Failure> {
        let server_key = self.generate_key(&directory.join("server.key"))?;
        let client_key = self.generate_key(&directory.join("client.key"))?;
        // Both ends share this machine's CPUs: they take them from opposite sides, so that single
        // workers do not share one.
        let mut cpus = affinity::allowed_cpus()?;
        let mut server = lab.server.command(&self.programs.corelane)?;
        server.arg("serve").args(["--listen", &outer_server()]);
        server.args(["--peer", &format!("{client_key}={INNER_CLIENT}/32")]);
        self.add_shared(&mut server, directory, "server", INNER_SERVER, &cpus);
        cpus.reverse();
        let mut client = lab.client.command(&self.programs.corelane)?;
        client.arg("up").args(["--server", &outer_server(), "--server-key", &server_key]);
        self.add_shared(&mut client, directory, "client", INNER_CLIENT, &cpus);
        Ok((server, client))
    }
}

impl CorelaneEnds<'_> {
    fn add_shared(
        &self,
        command: &mut Command,
        directory: &Path,
        role: &str,
        address: Ipv4Addr,
        cpus: &[usize],
    ) {
        command.args(["--tun", TUN, "--address", &with_prefix(address)]);
        command.args(["--workers", &self.workers.to_string()]);
        if let Some(cpus) = cpus.get(..self.workers) {
            let list: Vec<_> = cpus.iter().map(usize::to_string).collect();
            command.args(["--cpus", &list.join(",")]);
        }
        command.arg("--private-key-file").arg(directory.join(format!("{role}.key")));
        command.arg("--status-socket").arg(directory.join(format!("{role}.sock")));
        command.args(["--log-level", "warn"]);
    }

    /// Writes a new private key to `file` and returns its public key.
    fn generate_key(&self, file: &Path) -> Result<String, Failure> {
        let private = self.key_command("generate", "")?;
        let mut key_file = File::create_new(file)?;
        key_file.set_permissions(Permissions::from_mode(0o600))?;
        key_file.write_all(private.as_bytes())?;
        Ok(self.key_command("public", &private)?.trim().to_owned())
    }

    fn key_command(&self, name: &str, input: &str) -> Result<String, Failure> {
        let mut command = Command::new(&self.programs.corelane);
        command.args(["key", name]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // A command that does not read its input has ended without it.
            let _ = stdin.write_all(input.as_bytes());
        }
        let output = child.wait_with_output()?;
        if !output.status.success() {
            return Err(format!("`corelane key {name}` ended with {}", output.status).into());
        }
        Ok(String::from_utf8(output.stdout)?)
    }
}
