//! `corelane bench`: the traffic generator on its own.

use std::io::{self, IsTerminal};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::bench::{
    self, Attempt, BenchError, BenchServer, Direction, Interval, LatencySpec, SearchReport,
    StopFlag, TestSpec, units,
};
use crate::cli::{CliError, output};
use crate::exit::ExitCode;
use crate::limits::{
    BENCH_DURATION_MAX, BENCH_ECHO_PAYLOAD_LEN, BENCH_ECHOES_MAX, BENCH_PORT, BENCH_STREAMS_MAX,
    BENCH_TCP_CHUNK_LEN, BENCH_UDP_PAYLOAD_LEN,
};
use crate::telemetry::logging::{self, LogFormat};

/// Arguments of `corelane bench`.
#[derive(Args, Debug)]
pub struct BenchArgs {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Subcommand, Debug)]
enum BenchCommand {
    /// Wait for tests and run them
    Serve(ServeArgs),
    /// Run a test against a waiting server
    Run(RunArgs),
}

#[derive(Args, Debug)]
struct ServeArgs {
    /// Where to listen [default: port 5202 of every address, IPv6 and IPv4]. UDP tests use ports
    /// of the kernel's choice besides
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<SocketAddr>,
    /// Run one test, then end
    #[arg(long)]
    one_off: bool,
}

#[derive(Args, Debug)]
struct RunArgs {
    /// The server [default port: 5202]
    #[arg(value_name = "HOST[:PORT]")]
    server: Server,
    /// Parallel streams
    #[arg(short = 'P', long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u16).range(1..=i64::from(BENCH_STREAMS_MAX)))]
    parallel: u16,
    /// The server sends, not the client
    #[arg(short = 'R', long)]
    reverse: bool,
    /// Send UDP datagrams, not TCP
    #[arg(short = 'u', long)]
    udp: bool,
    /// Bytes of one write (TCP, 131072 by default) or payload bytes of one datagram (UDP 1300,
    /// --latency 64)
    #[arg(short = 'l', long, value_name = "BYTES")]
    length: Option<u32>,
    /// How long to send, in seconds
    #[arg(short = 't', long, value_name = "S", default_value = "10", value_parser = parse_seconds)]
    time: Duration,
    /// Payload bits per second over all streams, with K, M or G [default: as fast as possible]
    #[arg(short = 'b', long = "rate", value_name = "RATE", value_parser = units::parse_rate)]
    rate: Option<u64>,
    /// Send datagrams in trains that the kernel cuts (UDP_SEGMENT)
    #[arg(long, requires = "udp")]
    gso: bool,
    /// Search the highest rate at which no more than PCT percent are lost; each try takes -t
    #[arg(long, value_name = "PCT", requires = "udp", conflicts_with = "rate",
          value_parser = parse_percent)]
    loss_target: Option<f64>,
    /// Measure round-trip times with UDP datagrams that the server sends back
    #[arg(long, visible_alias = "ping",
          conflicts_with_all = ["udp", "reverse", "parallel", "time", "rate"])]
    latency: bool,
    /// Datagrams of a --latency test
    #[arg(long, value_name = "N", default_value_t = 100, requires = "latency",
          value_parser = clap::value_parser!(u32).range(1..=i64::from(BENCH_ECHOES_MAX)))]
    count: u32,
    /// Milliseconds between the datagrams of a --latency test
    #[arg(long, value_name = "MS", default_value_t = 20, requires = "latency",
          value_parser = clap::value_parser!(u64).range(1..=60_000))]
    interval: u64,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
    /// Print a line per second even if stdout is no terminal
    #[arg(long, conflicts_with_all = ["json", "latency", "loss_target"])]
    intervals: bool,
}

/// Runs `corelane bench`.
///
/// # Errors
/// The test could not be run: exit code 4 if nothing listens at the server's address, 7 if it does
/// not answer in time, 2 for a test that is not possible, otherwise 1.
pub fn run(args: BenchArgs) -> Result<(), CliError> {
    let stop = StopFlag::new();
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, stop.shared())
            .map_err(|error| CliError::failure(format_args!("cannot catch signals: {error}")))?;
    }
    match args.command {
        BenchCommand::Serve(args) => serve(&args, stop),
        BenchCommand::Run(args) => args.run(&stop),
    }
}

fn serve(args: &ServeArgs, stop: StopFlag) -> Result<(), CliError> {
    logging::init(LogFormat::Text, "info");
    let server = match args.listen {
        Some(address) => BenchServer::bind(address, stop),
        None => BenchServer::bind_any(BENCH_PORT, stop),
    }?;
    output::warn(&format!("bench: waiting for tests on {}\n", server.local_address()?));
    Ok(server.serve(args.one_off)?)
}

impl RunArgs {
    fn run(&self, stop: &StopFlag) -> Result<(), CliError> {
        let spec = self.spec();
        if self.latency {
            let spec = LatencySpec {
                count: self.count,
                interval: Duration::from_millis(self.interval),
                length: self.length.unwrap_or(BENCH_ECHO_PAYLOAD_LEN),
            };
            let report = self.server.try_each(|at| bench::run_latency(at, &spec, stop))?;
            return self.print(&report, || report.render());
        }
        if let Some(loss_target) = self.loss_target {
            let json = self.json;
            let mut on_attempt = |attempt: &Attempt| {
                if !json {
                    output::warn(&render_attempt(attempt));
                }
            };
            let report = self
                .server
                .try_each(|at| bench::search_rate(at, &spec, loss_target, stop, &mut on_attempt))?;
            return self.print(&report, || render_search(&report));
        }
        let lines = self.intervals || (!self.json && io::stdout().is_terminal());
        let mut on_interval = |interval: &Interval| {
            if lines {
                // A reader that has left is noticed when the summary is printed.
                let _ = output::print(&format!("{}\n", bench::render_interval(interval)));
            }
        };
        let report =
            self.server.try_each(|at| bench::run_test(at, &spec, stop, &mut on_interval))?;
        self.print(&report, || report.render())
    }

    fn spec(&self) -> TestSpec {
        let base = if self.udp { TestSpec::udp(self.time) } else { TestSpec::tcp(self.time) };
        let length = if self.udp { BENCH_UDP_PAYLOAD_LEN } else { BENCH_TCP_CHUNK_LEN };
        TestSpec {
            direction: if self.reverse { Direction::Reverse } else { Direction::Forward },
            streams: self.parallel,
            length: self.length.unwrap_or(length),
            rate_bps: self.rate,
            gso: self.gso,
            ..base
        }
    }

    fn print(&self, report: &impl Serialize, text: impl Fn() -> String) -> Result<(), CliError> {
        if !self.json {
            return output::print(&text());
        }
        let json = serde_json::to_string_pretty(report).map_err(CliError::failure)?;
        output::print(&(json + "\n"))
    }
}

/// A server as the user names it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Server {
    host: String,
    port: u16,
}

impl FromStr for Server {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self { host: address.to_string(), port: BENCH_PORT });
        }
        let wrong = || format!("`{text}` is not HOST, HOST:PORT or [IPv6]:PORT");
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !text.ends_with(']') => {
                (host, port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?)
            }
            _ => (text, BENCH_PORT),
        };
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let is_sound = match bare {
            Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
            None => !host.is_empty() && !host.contains([':', '[', ']', ' ', '/']),
        };
        if !is_sound {
            return Err(wrong());
        }
        Ok(Self { host: bare.unwrap_or(host).to_owned(), port })
    }
}

impl Server {
    /// Runs `test` against the first of the server's addresses that can be connected to.
    fn try_each<T>(
        &self,
        mut test: impl FnMut(SocketAddr) -> Result<T, BenchError>,
    ) -> Result<T, CliError> {
        let unknown = |error: io::Error| {
            let text = format!("cannot find the host `{}`: {error}", self.host);
            CliError::new(ExitCode::NotFound, text)
        };
        let addresses = (self.host.as_str(), self.port).to_socket_addrs().map_err(unknown)?;
        let mut result = Err(unknown(io::ErrorKind::NotFound.into()));
        for address in addresses {
            match test(address) {
                Ok(report) => return Ok(report),
                Err(error) => {
                    let try_next = error.is_about_connecting();
                    result = Err(CliError::from(error));
                    if !try_next {
                        break;
                    }
                }
            }
        }
        result
    }
}

impl From<BenchError> for CliError {
    fn from(error: BenchError) -> Self {
        let code = match &error {
            BenchError::NotRunning(_) => ExitCode::NotRunning,
            BenchError::TimedOut(_) => ExitCode::Timeout,
            BenchError::InvalidTest(_) => ExitCode::Usage,
            BenchError::Io { source, .. } => match ExitCode::of_io_error(source) {
                ExitCode::NotFound => ExitCode::Failure,
                code => code,
            },
            _ => ExitCode::Failure,
        };
        Self::new(code, error)
    }
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    let max = BENCH_DURATION_MAX;
    text.parse()
        .ok()
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .filter(|time| *time >= Duration::from_millis(1) && *time <= max)
        .ok_or_else(|| format!("`{text}` is not a time from 0.001 to {} seconds", max.as_secs()))
}

fn parse_percent(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|percent| (0.0..=100.0).contains(percent))
        .ok_or_else(|| format!("`{text}` is not a percentage from 0 to 100"))
}

fn render_attempt(attempt: &Attempt) -> String {
    let rate = attempt
        .rate_bps
        .map_or_else(|| "full speed".to_owned(), |rate| units::bits_per_second(rate as f64));
    format!(
        "bench: tried {rate}: {} arrived, {:.3} % lost\n",
        units::bits_per_second(attempt.received_bps),
        attempt.loss_percent
    )
}

fn render_search(report: &SearchReport) -> String {
    let target = report.loss_target_percent;
    match &report.best {
        Some(best) => format!("highest rate with at most {target} % lost:\n{}", best.render()),
        None => {
            let tries = report.attempts.len();
            format!("no rate kept to a loss of {target} % in {tries} tries\n")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser;

    use super::{BenchArgs, BenchCommand, RunArgs, Server, parse_percent, parse_seconds};
    use crate::bench::{Direction, Protocol};

    #[derive(Parser)]
    struct Harness {
        #[command(flatten)]
        bench: BenchArgs,
    }

    fn run_args(line: &str) -> Result<RunArgs, String> {
        let words = ["bench"].into_iter().chain(line.split_whitespace());
        match Harness::try_parse_from(words).map_err(|error| error.to_string())?.bench.command {
            BenchCommand::Run(args) => Ok(args),
            BenchCommand::Serve(_) => Err("serve".to_owned()),
        }
    }

    #[test]
    fn the_flags_of_iperf_mean_the_same() {
        let spec = run_args("run 192.0.2.1 -P 4 -R -t 2.5 -b 1.5G").unwrap().spec();
        assert_eq!((spec.protocol, spec.direction), (Protocol::Tcp, Direction::Reverse));
        assert_eq!((spec.streams, spec.rate_bps), (4, Some(1_500_000_000)));
        assert_eq!((spec.duration(), spec.length), (Duration::from_millis(2500), 131_072));
        let spec = run_args("run host -u -l 64 --gso").unwrap().spec();
        assert_eq!((spec.protocol, spec.length, spec.gso), (Protocol::Udp, 64, true));
        assert_eq!(spec.duration(), Duration::from_secs(10));
        assert_eq!(run_args("run host -u").unwrap().spec().length, 1300);
    }

    #[test]
    fn flags_that_contradict_each_other_are_refused() {
        for line in [
            "run",
            "run host --gso",
            "run host --loss-target 1",
            "run host -u --loss-target 1 -b 1M",
            "run host --latency -R",
            "run host --latency -u",
            "run host --count 5",
            "run host -P 0",
            "run host -P 129",
            "run host -b fast",
            "run host -t 0",
            "run host:0",
            "serve --listen nowhere",
        ] {
            assert!(run_args(line).is_err(), "{line}");
        }
        assert!(run_args("run host --latency --count 5 --interval 1").unwrap().latency);
        assert!(run_args("run host --ping").unwrap().latency);
    }

    #[test]
    fn servers_as_users_write_them() {
        let server = |text: &str| text.parse::<Server>().map(|s| (s.host, s.port));
        assert_eq!(server("bench.example"), Ok(("bench.example".to_owned(), 5202)));
        assert_eq!(server("bench.example:9"), Ok(("bench.example".to_owned(), 9)));
        assert_eq!(server("192.0.2.1:80"), Ok(("192.0.2.1".to_owned(), 80)));
        assert_eq!(server("2001:db8::1"), Ok(("2001:db8::1".to_owned(), 5202)));
        assert_eq!(server("[2001:db8::1]"), Ok(("2001:db8::1".to_owned(), 5202)));
        assert_eq!(server("[2001:db8::1]:7"), Ok(("2001:db8::1".to_owned(), 7)));
        for wrong in ["", ":", "a:", ":1", "a:b:1", "[::1", "[a]:1", "a:70000", "a b", "a/b"] {
            assert!(server(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn times_and_percentages() {
        assert_eq!(parse_seconds("0.25"), Ok(Duration::from_millis(250)));
        for wrong in ["0", "-1", "nan", "inf", "1e99", "86401", "x"] {
            assert!(parse_seconds(wrong).is_err(), "{wrong}");
        }
        assert_eq!(parse_percent("0.1"), Ok(0.1));
        for wrong in ["-0.1", "100.1", "nan", "%"] {
            assert!(parse_percent(wrong).is_err(), "{wrong}");
        }
    }
}
