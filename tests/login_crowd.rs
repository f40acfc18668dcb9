//! Ten thousand connections that say nothing, and somebody who logs in beside them. Memory and
//! descriptors are those of the whole process, so this test has a program of its own.

#![expect(clippy::unwrap_used, reason = "a test ends where its set-up fails")]

#[expect(dead_code, reason = "other tests ask more of it")]
#[path = "login/port.rs"]
mod port;

use std::fs;
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use corelane::lab::wait_until;
use corelane::limits::LOGIN_PENDING_PER_SOURCE_MAX;
use corelane::login::server::Timeouts;
use corelane::sys::process;
use port::{Port, SOON};

/// Takes the place of this test's program in a process of its own, and opens connections that say
/// nothing: `SILENT=address,number`, so many for each address from 127.1.0.1 on.
const SILENT: &str = "CORELANE_TEST_SILENT";

/// Not a test by itself: what the processes of [`silent_crowd`] do.
#[test]
fn crowd_of_silent_connections() {
    let Ok(orders) = std::env::var(SILENT) else { return };
    let (address, number) = orders.split_once(',').unwrap();
    process::raise_open_files_limit().unwrap();
    let address: SocketAddr = address.parse().unwrap();
    let mut crowd = Vec::new();
    for index in 0..number.parse().unwrap() {
        let source = (index / (LOGIN_PENDING_PER_SOURCE_MAX / 2)) as u32;
        let source = IpAddr::from(Ipv4Addr::from(0x7f01_0001 + source));
        let socket = socket2::Socket::new(
            socket2::Domain::IPV4,
            socket2::Type::STREAM,
            Some(socket2::Protocol::TCP),
        )
        .unwrap();
        socket.bind(&SocketAddr::from((source, 0)).into()).unwrap();
        socket.connect(&address.into()).unwrap();
        crowd.push(socket);
    }
    println!("crowd is here");
    // Until the parent closes the other end.
    let _ = std::io::stdin().read(&mut [0]);
}

struct Crowd(Child);

impl Drop for Crowd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn silent_crowd(port: &Port, number: usize) -> Crowd {
    use std::io::BufRead as _;
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "crowd_of_silent_connections", "--nocapture"]);
    command.env(SILENT, format!("{},{number}", port.address()));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
    let is_here = lines.any(|line| line.unwrap().contains("crowd is here"));
    let crowd = Crowd(child);
    assert!(is_here, "the crowd cannot be gathered");
    crowd
}

/// Bytes of memory that this process has and no file backs.
fn memory_len() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

/// Descriptors that this process has open.
fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn ten_thousand_silent_connections_cost_little_and_delay_nobody() {
    const SILENT: usize = 10_000;
    const EACH_MAX: usize = 16 * 1024;
    let unhurried = Duration::from_secs(300);
    let port = Port::open(Timeouts { handshake: unhurried, ..Timeouts::default() });
    let alone = port.log_in();
    let (before, descriptors_before) = (memory_len(), descriptors());
    let _crowd = silent_crowd(&port, SILENT);
    let all_are_in = || (descriptors() >= descriptors_before + SILENT).then_some(());
    wait_until(SOON, "everybody to be let in", all_are_in).unwrap();
    let each = memory_len().saturating_sub(before) / SILENT;
    println!("{each} bytes for each silent connection");
    assert!(each <= EACH_MAX, "{each} bytes each");

    let mut slowest = Duration::ZERO;
    for _ in 0..20 {
        slowest = slowest.max(port.log_in());
    }
    println!("a login takes {alone:?} alone and {slowest:?} at most beside the crowd");
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
}
