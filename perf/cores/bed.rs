//! A variant at work between two hosts, and what it comes to.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use corelane::bench::{Direction, StopFlag, TestSpec};
use corelane::handshake::keys::{PrivateKey, PublicKey};
use corelane::lab::{Host, LabOptions, TwoHosts, addresses, wait_until};
use corelane::sys::{affinity, clock};
use corelane::telemetry::status::{StatusAnswer, StatusReport, StatusRequest};

use super::Failure;
use super::load;
use super::plan::{Carrier, Variant, placement};
use super::process::Process;
use super::report::Sample;

/// Inner addresses, from the range reserved for measurements.
const INNER_SERVER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const INNER_CLIENT: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
const OUTER_SERVER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(addresses::SERVER_V4), 4500);
const START_WITHIN: Duration = Duration::from_secs(10);
/// How long to wait for an answer of the trial before the next is asked for.
const TRIAL: Duration = Duration::from_millis(20);
/// Clock ticks of `/proc/stat` in a second (`USER_HZ`), on every architecture that Corelane is for.
const TICKS_PER_SECOND: f64 = 100.0;

/// Two hosts of their own and, unless the carrier is the link itself, a tunnel between them.
pub(crate) struct Bed {
    tunnel: Option<Tunnel>,
    target: Ipv4Addr,
    lab: TwoHosts,
}

struct Tunnel {
    server: Process,
    client: Process,
    /// Where Corelane is asked for its status.
    status_sockets: Vec<PathBuf>,
    _directory: tempfile::TempDir,
}

impl Bed {
    /// Builds the hosts and waits until the variant carries packets, on every path that it has.
    pub(crate) fn set_up(variant: Variant, release: &Path) -> Result<Self, Failure> {
        let lab = TwoHosts::build(LabOptions::default())?;
        let mut tunnel = match variant.carrier {
            Carrier::Veth => None,
            Carrier::Ceiling => Some(start_ceiling(&lab, release)?),
            Carrier::Pinned | Carrier::Unpinned => Some(start_corelane(&lab, variant, release)?),
        };
        let target = if tunnel.is_some() { INNER_SERVER } else { addresses::SERVER_V4 };
        let answered = await_answer(&lab, target, &mut tunnel);
        // The reason why an end died says more than the silence that followed.
        tunnel.as_mut().map_or(Ok(()), Tunnel::ensure_alive)?;
        answered?;
        if let Some(client) = tunnel.as_ref().and_then(|tunnel| tunnel.status_sockets.last()) {
            let paths_up = || {
                let report = status(client).ok()?;
                let paths = &report.peers.first()?.paths;
                let up = paths.iter().filter(|path| path.state == "up").count();
                (up == variant.workers).then_some(())
            };
            wait_until(START_WITHIN, "every path to come up", paths_up)?;
        }
        Ok(Self { tunnel, target, lab })
    }

    /// Runs one test over it.
    pub(crate) fn measure(&mut self, test: &TestSpec, stop: &StopFlag) -> Result<Sample, Failure> {
        let receiver = match test.direction {
            Direction::Forward => &self.lab.server,
            Direction::Reverse => &self.lab.client,
        };
        let tunnel = self.tunnel.as_ref();
        let cpu_seconds = || tunnel.map(Tunnel::cpu_seconds).transpose();
        // Workers tell how busy they were since they were last asked.
        tunnel.map(Tunnel::busiest).transpose()?;
        let (late, cpu, ticks) = (late_segments(receiver)?, cpu_seconds()?, busy_ticks()?);
        let began = clock::now();
        let report = load::run_test(&self.lab, self.target, test, stop)?;
        let took = clock::now() - began;
        let (cpu, ticks) = (cpu_seconds()?.zip(cpu), busy_ticks()? - ticks);
        let busiest = tunnel.map(Tunnel::busiest).transpose()?.flatten();
        let late = match report.datagrams {
            Some(datagrams) => datagrams.reordered,
            None => late_segments(receiver)? - late,
        };
        if let Some(tunnel) = &mut self.tunnel {
            tunnel.ensure_alive()?;
        }
        if report.receiver.bytes == 0 {
            return Err("nothing arrived".into());
        }
        let gigabytes = report.receiver.bytes as f64 / 1e9;
        Ok(Sample {
            gbit_s: report.receiver.bits_per_second / 1e9,
            cpu_s_per_gb: cpu.map(|(after, before)| (after - before) / gigabytes),
            busiest_server_worker: busiest.map(|[server, _]| server),
            busiest_client_worker: busiest.map(|[_, client]| client),
            cpus_busy: ticks / TICKS_PER_SECOND / took.as_secs_f64(),
            late: late as f64,
            lost_percent: report.datagrams.map(|datagrams| datagrams.loss_percent),
        })
    }
}

impl Tunnel {
    fn ensure_alive(&mut self) -> Result<(), Failure> {
        self.server.ensure_alive()?;
        self.client.ensure_alive()
    }

    fn cpu_seconds(&self) -> Result<f64, Failure> {
        Ok(self.server.cpu_seconds()? + self.client.cpu_seconds()?)
    }

    /// The share of its time that the busiest worker of either side worked since this was last
    /// asked for, if they can say.
    fn busiest(&self) -> Result<Option<[f64; 2]>, Failure> {
        let [server, client] = &self.status_sockets[..] else { return Ok(None) };
        let busiest = |socket: &PathBuf| -> Result<f64, Failure> {
            let shares = status(socket)?.workers.into_iter().map(|worker| worker.busy_share);
            Ok(shares.fold(0.0, f64::max))
        };
        Ok(Some([busiest(server)?, busiest(client)?]))
    }
}

fn start_ceiling(lab: &TwoHosts, release: &Path) -> Result<Tunnel, Failure> {
    let start = |host: &Host, address: Ipv4Addr, role: &str| {
        let mut command = host.command(release.join("examples/ceiling"))?;
        command.args(["--tun", "tun0", "--address", &format!("{address}/24")]);
        Process::spawn("the ceiling program", arguments(command, role))
    };
    let server = start(&lab.server, INNER_SERVER, &format!("--listen={OUTER_SERVER}"))?;
    let client = start(&lab.client, INNER_CLIENT, &format!("--peer={OUTER_SERVER}"))?;
    Ok(Tunnel { server, client, status_sockets: Vec::new(), _directory: tempfile::tempdir()? })
}

fn arguments(mut command: Command, words: &str) -> Command {
    command.args(words.split(' '));
    command
}

fn start_corelane(lab: &TwoHosts, variant: Variant, release: &Path) -> Result<Tunnel, Failure> {
    let directory = tempfile::tempdir()?;
    let [server_key, client_key] = ["server", "client"].map(|name| write_key(&directory, name));
    let (server_key, client_key) = (server_key?, client_key?);
    let cpus = placement(&affinity::allowed_cpus()?, variant.workers);
    let file = |role: usize, extension: &str| {
        directory.path().join(format!("{}.{extension}", ["server", "client"][role]))
    };
    let start = |host: &Host, role: usize, address: Ipv4Addr, words: &str| {
        let mut command = arguments(host.command(release.join("corelane"))?, words);
        command.args(["--tun", "tun0", "--address", &format!("{address}/24")]);
        command.args(["--workers", &variant.workers.to_string(), "--log-level", "warn"]);
        match (variant.carrier, &cpus) {
            (Carrier::Unpinned, _) => command.args(["--set", "workers.pin=false"]),
            (_, Some(cpus)) => {
                let list: Vec<_> = cpus[role].iter().map(usize::to_string).collect();
                command.args(["--cpus", &list.join(",")])
            }
            (_, None) => return Err("more workers than CPUs cannot be pinned: --pin no".into()),
        };
        command.arg("--private-key-file").arg(file(role, "key"));
        command.arg("--status-socket").arg(file(role, "sock"));
        Process::spawn(["the server", "the client"][role], command)
    };
    let serve = format!("serve --listen {OUTER_SERVER} --peer {client_key}={INNER_CLIENT}/32");
    let mut server = start(&lab.server, 0, INNER_SERVER, &serve)?;
    let listens =
        || (status(&file(0, "sock")).is_ok() || server.ensure_alive().is_err()).then_some(());
    wait_until(START_WITHIN, "the server to listen", listens)?;
    let up = format!("up --server {OUTER_SERVER} --server-key {server_key}");
    let client = start(&lab.client, 1, INNER_CLIENT, &up)?;
    let status_sockets = vec![file(0, "sock"), file(1, "sock")];
    Ok(Tunnel { server, client, status_sockets, _directory: directory })
}

fn write_key(directory: &tempfile::TempDir, name: &str) -> Result<PublicKey, Failure> {
    let key = PrivateKey::generate(&mut rand::rng());
    let path = directory.path().join(format!("{name}.key"));
    fs::write(&path, key.to_base64())?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    Ok(key.public())
}

/// Waits until a datagram from the client comes to the server and is answered, or an end has died.
fn await_answer(
    lab: &TwoHosts,
    target: Ipv4Addr,
    tunnel: &mut Option<Tunnel>,
) -> Result<(), Failure> {
    let bind = || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0));
    let (server, client) = (lab.server.run(bind)??, lab.client.run(bind)??);
    server.set_read_timeout(Some(TRIAL))?;
    client.set_read_timeout(Some(TRIAL))?;
    let target = SocketAddr::from((target, server.local_addr()?.port()));
    wait_until(START_WITHIN, "an answer through the tunnel", || {
        if tunnel.as_mut().is_some_and(|tunnel| tunnel.ensure_alive().is_err()) {
            return Some(());
        }
        client.send_to(b"trial", target).ok()?;
        let (_, from) = server.recv_from(&mut [0; 8]).ok()?;
        server.send_to(b"answer", from).ok()?;
        client.recv(&mut [0; 8]).ok().map(|_| ())
    })?;
    Ok(())
}

fn status(socket: &Path) -> Result<StatusReport, Failure> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(START_WITHIN))?;
    writeln!(stream, "{}", serde_json::to_string(&StatusRequest::Status)?)?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    match serde_json::from_str(&line)? {
        StatusAnswer::Status(report) => Ok(*report),
        other => Err(format!("no status: {other:?}").into()),
    }
}

/// TCP segments that came to `host` ahead of their turn.
fn late_segments(host: &Host) -> Result<u64, Failure> {
    let text = host.run(|| fs::read_to_string("/proc/thread-self/net/netstat"))??;
    counter(&text, "TcpExt:", "TCPOFOQueue").ok_or_else(|| "the kernel counts no segments".into())
}

/// A counter of `/proc/net/netstat`, where a line of names precedes the line of their values.
fn counter(text: &str, group: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter(|line| line.starts_with(group));
    let (names, values) = (lines.next()?, lines.next()?);
    let place = names.split(' ').position(|one| one == name)?;
    values.split(' ').nth(place)?.parse().ok()
}

/// Ticks that all CPUs together were not idle.
fn busy_ticks() -> Result<f64, Failure> {
    let text = fs::read_to_string("/proc/stat")?;
    busy(&text).ok_or_else(|| "the kernel does not say how busy it is".into())
}

/// Of `cpu user nice system idle iowait irq softirq ...`, all but idle, waiting and what guests are
/// counted twice for.
fn busy(stat: &str) -> Option<f64> {
    let fields: Option<Vec<f64>> =
        stat.lines().next()?.split_whitespace().skip(1).map(|field| field.parse().ok()).collect();
    let counts = fields?.into_iter().take(8).enumerate();
    Some(counts.filter(|(place, _)| !matches!(place, 3 | 4)).map(|(_, ticks)| ticks).sum())
}

#[cfg(test)]
mod tests {
    use super::{busy, counter};

    #[test]
    fn the_kernels_counters_are_found() {
        let text = "TcpExt: A TCPOFOQueue B\nTcpExt: 1 23 4\nIpExt: TCPOFOQueue\nIpExt: 5\n";
        assert_eq!(counter(text, "TcpExt:", "TCPOFOQueue"), Some(23));
        assert_eq!(counter(text, "TcpExt:", "C"), None);
        assert_eq!(busy("cpu  1 2 4 1000 1000 8 16 32 64 128\ncpu0 1"), Some(63.0));
        assert_eq!(busy("cpu  x"), None);
    }
}
