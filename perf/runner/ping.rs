//! Round trips: those of the `ping` program, and the first one after a start.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use corelane::bench::StopFlag;
use corelane::lab::Host;
use corelane::sys::clock;
use socket2::{Domain, Protocol, Socket, Type};

use super::Failure;
use super::process::Process;

/// Pause between two tries for a first answer, and so how exactly it is known.
const TRY_EVERY: Duration = Duration::from_micros(200);
/// Time ping gets besides its count times its interval.
const GRACE: Duration = Duration::from_secs(5);
/// How long a round trip may take on average where each waits for the one before.
const CHAINED_AT_MOST: Duration = Duration::from_millis(1);

/// A series of echo requests.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PingTest {
    pub(crate) count: u32,
    pub(crate) pace: Pace,
}

/// When the next echo request leaves.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pace {
    /// So long after the one before.
    Every(Duration),
    /// When the one before is answered.
    Chained,
}

impl PingTest {
    /// Runs it; returns the round-trip time of every request that was answered, in microseconds.
    pub(crate) fn run(
        &self,
        host: &Host,
        to: Ipv4Addr,
        stop: &StopFlag,
    ) -> Result<Vec<f64>, Failure> {
        let interval = match self.pace {
            Pace::Every(interval) => interval,
            Pace::Chained => CHAINED_AT_MOST,
        };
        let within = interval * self.count + GRACE;
        let mut command = host.command("ping")?;
        command.args(["-n", "-c", &self.count.to_string()]);
        match self.pace {
            Pace::Every(interval) => command.args(["-i", &interval.as_secs_f64().to_string()]),
            Pace::Chained => command.arg("-A"),
        };
        command.args(["-w", &within.as_secs().to_string(), &to.to_string()]);
        // ping's locale decides between 0.1 and 0,1.
        command.env("LC_ALL", "C");
        let output = Process::spawn("ping", command)?.finish(within + GRACE, stop)?;
        let round_trips_us = parse(&output);
        if round_trips_us.is_empty() {
            return Err(format!("{to} answers no ping").into());
        }
        Ok(round_trips_us)
    }
}

fn parse(output: &str) -> Vec<f64> {
    let time = |line: &str| {
        let (_, rest) = line.split_once("time=")?;
        rest.strip_suffix(" ms")?.parse::<f64>().ok().map(|ms| ms * 1000.0)
    };
    output.lines().filter_map(|line| time(line.trim_end())).collect()
}

/// Pings `to` from `host` again and again until the first answer comes, `within` at most. Returns
/// when it came. The way there need not exist when this begins.
pub(crate) fn first_answer(
    host: &Host,
    to: Ipv4Addr,
    within: Duration,
    stop: &StopFlag,
) -> Result<Instant, Failure> {
    host.run(|| await_first_answer(to, within, stop))?
}

fn await_first_answer(to: Ipv4Addr, within: Duration, stop: &StopFlag) -> Result<Instant, Failure> {
    // An ICMP socket, whose identifier and checksum are the kernel's concern (icmp(7)).
    std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 0")?;
    let mut socket = Socket::new(Domain::IPV4, Type::DGRAM.nonblocking(), Some(Protocol::ICMPV4))?;
    let to = SocketAddr::from((to, 0)).into();
    let deadline = clock::now() + within;
    let mut answer = [0; 64];
    loop {
        // Until the way is there the kernel says so, and the next try may find it.
        let _ = socket.send_to(&[8, 0, 0, 0, 0, 0, 0, 1], &to);
        thread::sleep(TRY_EVERY);
        if socket.read(&mut answer).is_ok_and(|len| len >= 8 && answer[0] == 0) {
            return Ok(clock::now());
        }
        if stop.is_raised() {
            return Err("interrupted".into());
        }
        if clock::now() >= deadline {
            return Err(format!("no ping was answered within {within:?}").into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{first_answer, parse};
    use corelane::bench::StopFlag;
    use corelane::lab::Host;
    use std::net::Ipv4Addr;
    use std::time::Duration;

    #[test]
    fn the_time_of_each_answer_is_read() {
        let output = "PING 192.0.2.1 (192.0.2.1) 56(84) bytes of data.\n\
            64 bytes from 192.0.2.1: icmp_seq=1 ttl=64 time=0.041 ms\n\
            64 bytes from 192.0.2.1: icmp_seq=2 ttl=64 time=12.5 ms\n\n\
            2 packets transmitted, 2 received, 0% packet loss, time 2ms\n\
            rtt min/avg/max/mdev = 0.041/6.2/12.5/1.0 ms\n";
        assert_eq!(parse(output), [41.0, 12500.0]);
        assert_eq!(parse("connect: Network is unreachable"), [0.0; 0]);
    }

    #[test]
    fn a_host_answers_itself_and_nobody_answers_from_nowhere() {
        let host = Host::create("lonely").expect("this test needs root: CAP_SYS_ADMIN");
        let stop = StopFlag::new();
        first_answer(&host, Ipv4Addr::LOCALHOST, Duration::from_secs(30), &stop).unwrap();
        let nowhere = Ipv4Addr::new(192, 0, 2, 1);
        assert!(first_answer(&host, nowhere, Duration::ZERO, &stop).is_err());
    }
}
