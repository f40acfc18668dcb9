//! Running ping, iperf3, ip and the like on a host, never for longer than planned.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::process::{Child, ExitStatus, Stdio};
use std::thread;

use corelane::lab::{Host, wait_until};
use serde_json::Value;

use crate::harness::PATIENCE;

/// How long a ping may take, in seconds.
const PING_WITHIN_S: u32 = 15;

/// A program that was started on a host; killed when dropped.
pub(crate) struct Running {
    command: String,
    child: Child,
    stdout: File,
    stderr: File,
}

/// How a program ended and what it wrote.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) command: String,
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Starts a command line, whose words are parted by white space.
pub(crate) fn start(host: &Host, command: &str) -> Running {
    let mut words = command.split_whitespace();
    let (stdout, stderr) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    let child = host
        .command(words.next().unwrap())
        .unwrap()
        .args(words)
        .stdin(Stdio::null())
        .stdout(stdout.try_clone().unwrap())
        .stderr(stderr.try_clone().unwrap())
        .spawn();
    let child = child.unwrap_or_else(|error| panic!("`{command}` cannot be started: {error}"));
    Running { command: format!("{command} [{}]", host.name()), child, stdout, stderr }
}

/// Runs a command line to its end, whatever that is.
pub(crate) fn attempt(host: &Host, command: &str) -> Finished {
    start(host, command).finish()
}

/// Runs a command line, which must succeed, and returns what it wrote.
#[track_caller]
pub(crate) fn run(host: &Host, command: &str) -> String {
    attempt(host, command).expect_success().stdout
}

impl Running {
    /// What it has written to its standard output by now.
    pub(crate) fn stdout(&self) -> String {
        read_all(&self.stdout)
    }

    /// Its process id, by which its network namespace is known to ip(8).
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has not ended yet.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Asks it to end, as Ctrl-C does: ping prints its summary then.
    pub(crate) fn interrupt(mut self) -> Finished {
        if self.is_running() {
            let pid = self.pid().to_string();
            let sent = std::process::Command::new("kill").args(["-s", "INT", &pid]).status();
            assert!(sent.unwrap().success());
        }
        self.finish()
    }

    /// Waits until it has ended.
    pub(crate) fn finish(mut self) -> Finished {
        let child = &mut self.child;
        let ended = wait_until(PATIENCE, "a program to end", || child.try_wait().unwrap());
        let stdout = self.stdout();
        let stderr = read_all(&self.stderr);
        match ended {
            Ok(status) => Finished { command: self.command.clone(), status, stdout, stderr },
            Err(timeout) => panic!("{timeout}: {}\n{stdout}{stderr}", self.command),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail if it has ended, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Finished {
    #[track_caller]
    pub(crate) fn expect_success(self) -> Self {
        assert!(self.status.success(), "`{}` failed: {self:#?}", self.command);
        self
    }
}

fn read_all(file: &File) -> String {
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    loop {
        match file.read_at(&mut piece, bytes.len() as u64) {
            Ok(0) => return String::from_utf8_lossy(&bytes).into_owned(),
            Ok(len) => bytes.extend_from_slice(&piece[..len]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// What ping says at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PingSummary {
    pub(crate) sent: u32,
    pub(crate) received: u32,
}

impl PingSummary {
    pub(crate) fn of(finished: &Finished) -> Self {
        let line = finished.stdout.lines().find(|line| line.contains("packets transmitted"));
        let line = line.unwrap_or_else(|| panic!("{finished:#?}"));
        let number_before = |what: &str| {
            let field = line.split(", ").find(|field| field.contains(what)).unwrap();
            field.split_whitespace().next().unwrap().parse().unwrap()
        };
        Self { sent: number_before("transmitted"), received: number_before("received") }
    }
}

/// Pings until as many echoes have come back as `-c` in `flags` says, of which none may be lost. As
/// fast as they come back with `-i 0`, which is a flood (ping -f) that tells of each.
///
/// Under a deadline ping sends on while echoes are under way, and ends with the last that it wants.
/// So those may be missing that were sent last, and none before one that has come back. Returns how
/// many were sent.
#[track_caller]
pub(crate) fn ping(host: &Host, to: impl Into<IpAddr>, flags: &str) -> u32 {
    assert!(!flags.contains("-f"), "of a flood it does not tell which echoes came back");
    let finished = attempt(host, &format!("ping -n -w {PING_WITHIN_S} {flags} {}", to.into()));
    let number = |line: &str| {
        let (_, rest) = line.split_once("icmp_seq=")?;
        rest.split(|it: char| !it.is_ascii_digit()).next()?.parse::<u16>().ok()
    };
    let echoes = finished.stdout.lines().filter(|line| line.contains(" bytes from "));
    let echoes: Vec<_> = echoes.map(|line| number(line).unwrap()).collect();
    let all: Vec<_> = (1..).take(echoes.len()).collect();
    assert!(finished.status.success() && echoes == all, "{finished:#?}");
    PingSummary::of(&finished).sent
}

/// One echo, and whether it came back in time.
pub(crate) fn echo(host: &Host, to: impl Into<IpAddr>) -> bool {
    attempt(host, &format!("ping -n -c 1 -W 0.3 {}", to.into())).status.success()
}

/// An iperf3 server for one test and its client.
pub(crate) struct Iperf {
    server: Running,
    client: Running,
}

/// What iperf3's client reports.
#[derive(Debug)]
pub(crate) struct IperfReport(pub(crate) Value);

impl Iperf {
    /// Starts a test from `client` to `address` of `server`; `port` must be free there.
    #[track_caller]
    pub(crate) fn start(
        server: &Host,
        client: &Host,
        address: impl Into<IpAddr>,
        port: u16,
        flags: &str,
    ) -> Self {
        let address = address.into();
        let mut server =
            start(server, &format!("iperf3 -s -1 -B {address} -p {port} --forceflush"));
        let listening =
            || (server.stdout().contains("listening") || !server.is_running()).then_some(());
        wait_until(PATIENCE, "iperf3 to listen", listening).unwrap();
        let client = start(client, &format!("iperf3 -J -c {address} -p {port} {flags}"));
        Self { server, client }
    }

    /// Whether the test goes on.
    pub(crate) fn is_running(&mut self) -> bool {
        self.client.is_running()
    }

    /// Waits for its end, which must be a good one.
    #[track_caller]
    pub(crate) fn finish(self) -> IperfReport {
        let client = self.client.finish();
        let report: Value = serde_json::from_str(&client.stdout).unwrap_or_default();
        assert!(client.status.success() && report["error"].is_null(), "{client:#?}");
        self.server.finish().expect_success();
        IperfReport(report)
    }
}

impl IperfReport {
    /// Bytes that arrived.
    pub(crate) fn received_bytes(&self) -> u64 {
        let end = &self.0["end"];
        end["sum_received"]["bytes"].as_u64().unwrap_or_else(|| panic!("{end:#}"))
    }

    /// UDP datagrams that did not arrive, and how many were sent.
    pub(crate) fn lost(&self) -> (i64, i64) {
        let sum = &self.0["end"]["sum"];
        let number = |key: &str| sum[key].as_i64().unwrap_or_else(|| panic!("{sum:#}"));
        (number("lost_packets"), number("packets"))
    }
}

/// Sends `len` bytes over TCP from one host to another, where they must arrive unchanged.
#[track_caller]
pub(crate) fn transfer(from: &Host, to: &Host, address: impl Into<IpAddr>, len: usize) {
    let address = SocketAddr::new(address.into(), 0);
    let listener = to.run(|| TcpListener::bind(address)).unwrap().unwrap();
    let address = listener.local_addr().unwrap();
    let connect = || TcpStream::connect_timeout(&address, PATIENCE);
    let mut sending = from.run(connect).unwrap().unwrap();
    let mut receiving = listener.accept().unwrap().0;
    sending.set_write_timeout(Some(PATIENCE)).unwrap();
    receiving.set_read_timeout(Some(PATIENCE)).unwrap();
    // A prime as the period: a segment in the wrong place would show.
    let sent: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
    let mut received = Vec::with_capacity(len);
    thread::scope(|scope| {
        let sent = &sent;
        scope.spawn(move || {
            sending.write_all(sent).unwrap();
            sending.shutdown(Shutdown::Write).unwrap();
        });
        receiving.read_to_end(&mut received).unwrap();
    });
    assert!(received == sent, "{} bytes arrived of {len}, or other ones", received.len());
}

/// Deletes a table of the host's packet filter, and returns how many packets its only counter has.
#[track_caller]
pub(crate) fn end_table(host: &Host, name: &str) -> u64 {
    let rules = run(host, &format!("nft list table inet {name}"));
    let count = rules.split("counter packets ").nth(1).unwrap().split(' ').next().unwrap();
    run(host, &format!("nft delete table inet {name}"));
    count.parse().unwrap()
}

/// A counter of the host's kernel, such as `Tcp` and `InCsumErrors` (proc_net_snmp).
pub(crate) fn snmp(host: &Host, protocol: &str, counter: &str) -> u64 {
    kernel_counter(host, "/proc/net/snmp", protocol, counter)
}

/// One of IPv6, such as `Udp6RcvbufErrors`.
pub(crate) fn snmp6(host: &Host, counter: &str) -> u64 {
    let text = run(host, "cat /proc/net/snmp6");
    let mut pairs = text.lines().filter_map(|line| line.split_once(char::is_whitespace));
    pairs.find(|(name, _)| *name == counter).unwrap().1.trim().parse().unwrap()
}

/// One of those that Linux has beyond the standard's, such as `TcpExt` and `TCPOFOQueue`.
pub(crate) fn netstat(host: &Host, protocol: &str, counter: &str) -> u64 {
    kernel_counter(host, "/proc/net/netstat", protocol, counter)
}

fn kernel_counter(host: &Host, file: &str, protocol: &str, counter: &str) -> u64 {
    let text = run(host, &format!("cat {file}"));
    let prefix = format!("{protocol}: ");
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(&prefix));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let mut pairs = names.split(' ').zip(values.split(' '));
    pairs.find(|(name, _)| *name == counter).unwrap().1.parse().unwrap()
}

/// Datagrams and packets that queues of a host's kernel had no room for: of a TUN device, of UDP
/// sockets, where one that was joined from many counts as one, and of TCP connections.
pub(crate) fn found_no_room(host: &Host, tun: &str) -> u64 {
    let text = run(host, &format!("ip -s -json link show {tun}"));
    let links: Value = serde_json::from_str(&text).unwrap();
    let tun = links[0]["stats64"]["tx"]["dropped"].as_u64().unwrap();
    let udp = snmp(host, "Udp", "RcvbufErrors") + snmp6(host, "Udp6RcvbufErrors");
    let tcp = ["TCPBacklogDrop", "TCPRcvQDrop", "TCPOFODrop", "RcvPruned", "OfoPruned"];
    tun + udp + tcp.map(|counter| netstat(host, "TcpExt", counter)).iter().sum::<u64>()
}
