//! `corelane demo`: a server and a client at work between two network namespaces.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::bench::StopFlag;
use crate::cli::{CliError, output};
use crate::demo::{
    Demo, DemoError, DemoOptions, DemoReport, GatewayReport, LoginReport, Progress, show_gateway,
    show_logins,
};
use crate::exit::ExitCode;
use crate::lab::LabError;
use crate::limits::{TUN_MTU_MAX, TUN_MTU_MIN, WORKERS_MAX};

/// Arguments of `corelane demo`.
#[derive(Args, Debug)]
pub struct DemoArgs {
    /// Seconds each measurement takes
    #[arg(long, value_name = "S", default_value = "3", value_parser = parse_seconds)]
    duration: Duration,
    /// Workers of the server and of the client [default: one per CPU]
    #[arg(long, value_name = "N",
          value_parser = clap::value_parser!(u16).range(1..=WORKERS_MAX as i64))]
    workers: Option<u16>,
    /// MTU inside the tunnel
    #[arg(long, value_name = "N",
          value_parser = clap::value_parser!(u16)
              .range(TUN_MTU_MIN as i64..=TUN_MTU_MAX as i64))]
    mtu: Option<u16>,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
    /// Keep both hosts up afterwards, until Ctrl-C, and say how to enter them
    #[arg(long)]
    hold: bool,
    /// Show instead how people log in, and what becomes of them when UDP is blocked, a server dies,
    /// or they are disabled
    #[arg(long, conflicts_with_all = ["mtu", "hold"])]
    login: bool,
    /// Show instead the proxy gateway: a client, the gateway and an origin
    #[arg(long, conflicts_with_all = ["mtu", "hold", "login"])]
    proxy: bool,
    /// Leave the logs of the daemons in this directory
    #[arg(long, value_name = "DIR")]
    keep_logs: Option<PathBuf>,
}

/// Runs `corelane demo`.
///
/// # Errors
/// Whatever kept the demonstration from being shown in full, and what mends it.
pub fn run(args: DemoArgs) -> Result<(), CliError> {
    let stop = StopFlag::new();
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, stop.shared())
            .map_err(|error| CliError::failure(format_args!("cannot catch signals: {error}")))?;
    }
    let program = std::env::current_exe()
        .map_err(|error| CliError::failure(format_args!("cannot find this program: {error}")))?;
    let keep_logs = args.keep_logs.map(std::path::absolute).transpose().map_err(|error| {
        CliError::failure(format_args!("cannot name the directory for logs: {error}"))
    })?;
    let options = DemoOptions {
        duration: args.duration,
        workers: args.workers,
        mtu: args.mtu,
        keep_logs,
        program,
    };
    let mut progress = ProgressLine::default();
    let mut tell = |event: Progress<'_>| progress.tell(event);
    if args.login {
        let outcome = show_logins(&options, &stop, &mut tell);
        progress.end();
        let report = outcome?;
        return show(args.json, &report, LoginReport::render);
    }
    if args.proxy {
        let outcome = show_gateway(&options, &stop, &mut tell);
        progress.end();
        let report = outcome?;
        return show(args.json, &report, GatewayReport::render);
    }
    let outcome = Demo::start(options, stop, &mut tell).and_then(|mut demo| {
        let report = demo.measure(&mut tell)?;
        Ok((demo, report))
    });
    // An error begins on a line of its own.
    progress.end();
    let (mut demo, report) = outcome?;
    show(args.json, &report, DemoReport::render)?;
    if args.hold {
        output::warn(&format!("\n{}", demo.instructions()));
        demo.hold()?;
    }
    Ok(())
}

/// Prints a report, as JSON or as `render` puts it.
fn show<R: Serialize>(
    json: bool,
    report: &R,
    render: impl Fn(&R) -> String,
) -> Result<(), CliError> {
    if json {
        let json = serde_json::to_string_pretty(report).map_err(CliError::failure)?;
        return output::print(&(json + "\n"));
    }
    output::print(&format!("\n{}", render(report)))
}

impl From<DemoError> for CliError {
    fn from(error: DemoError) -> Self {
        let cause = match &error {
            DemoError::WithLogs { source, .. } => source,
            error => error,
        };
        let code = match cause {
            DemoError::TunDenied | DemoError::Lab(LabError::Privileges(_)) => ExitCode::Denied,
            DemoError::NoAnswer(_) => ExitCode::Timeout,
            _ => ExitCode::Failure,
        };
        Self::new(code, error)
    }
}

/// Shows each step on a line of stderr: its name as it begins, its result as it ends.
#[derive(Debug, Default)]
struct ProgressLine {
    is_open: bool,
}

impl ProgressLine {
    fn tell(&mut self, event: Progress<'_>) {
        match event {
            Progress::Step { number, of, name } => {
                self.end();
                output::warn(&format!("[{number:>2}/{of}] {name} ... "));
                self.is_open = true;
            }
            Progress::Done(result) => {
                output::warn(&format!("{result}\n"));
                self.is_open = false;
            }
        }
    }

    /// Ends a line that still waits for its result.
    fn end(&mut self) {
        if std::mem::take(&mut self.is_open) {
            output::warn("\n");
        }
    }
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    text.parse()
        .ok()
        .filter(|seconds| (0.1..=3600.0).contains(seconds))
        .map(Duration::from_secs_f64)
        .ok_or_else(|| format!("`{text}` is not a number of seconds from 0.1 to 3600"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser;

    use super::DemoArgs;

    #[derive(Parser)]
    struct Harness {
        #[command(flatten)]
        demo: DemoArgs,
    }

    fn parse(line: &str) -> Result<DemoArgs, String> {
        let words = ["demo"].into_iter().chain(line.split_whitespace());
        Harness::try_parse_from(words).map(|args| args.demo).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_and_bounds_of_the_flags() {
        let args = parse("").unwrap();
        assert_eq!(args.duration, Duration::from_secs(3));
        assert_eq!((args.workers, args.mtu, args.json, args.hold), (None, None, false, false));
        let args = parse("--duration 0.5 --workers 128 --mtu 1280 --hold --json").unwrap();
        assert_eq!(args.duration, Duration::from_millis(500));
        assert_eq!((args.workers, args.mtu), (Some(128), Some(1280)));
        for line in [
            "--duration 0",
            "--duration nan",
            "--duration 1e9",
            "--workers 0",
            "--workers 129",
            "--mtu 1279",
            "--mtu 65535",
            "--proxy --login",
            "--proxy --hold",
            "extra",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
