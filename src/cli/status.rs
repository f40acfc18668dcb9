//! `corelane status`, `down` and `reload`: talk to running daemons.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use clap::Args;

use crate::cli::status_client::{AskError, ask, is_running};
use crate::cli::status_text::render;
use crate::cli::{CliError, output};
use crate::config::{PROXY_CLIENT_STATUS_SOCKET_DEFAULT, PROXY_STATUS_SOCKET_DEFAULT, Role};
use crate::exit::ExitCode;
use crate::limits::{CLOSE_WITHIN, STOP_WITHIN};
use crate::telemetry::status::{StatusAnswer, StatusReport, StatusRequest};

/// Pause between two reports of `status --watch`.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// Pause between two looks at whether a daemon has gone.
const GONE_POLL_EVERY: Duration = Duration::from_millis(50);
/// How long `down` waits: as long as a daemon may take to stop, and a little for the rest.
const GONE_WITHIN: Duration =
    STOP_WITHIN.saturating_add(CLOSE_WITHIN).saturating_add(Duration::from_secs(5));
/// Looks before `down` gives up.
const GONE_POLLS_MAX: u128 = GONE_WITHIN.as_millis() / GONE_POLL_EVERY.as_millis();

#[derive(Args, Debug)]
pub(crate) struct SocketArgs {
    /// Status socket of the daemon [default: the one in /run/corelane]
    #[arg(long, value_name = "PATH")]
    status_socket: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct StatusArgs {
    /// One JSON object per daemon and line, for programs
    #[arg(long)]
    json: bool,
    /// Again every second, with rates
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    socket: SocketArgs,
}

impl SocketArgs {
    /// The sockets to ask: the one given, or the default ones that are there.
    fn candidates(&self, roles: &[Role]) -> Result<Vec<PathBuf>, CliError> {
        match &self.status_socket {
            Some(path) => Ok(vec![path.clone()]),
            None => Ok(running_of(default_places(roles))?),
        }
    }
}

/// Where the daemons of `roles`, a proxy gateway of its own and `proxy-client` answer by default.
fn default_places(roles: &[Role]) -> Vec<PathBuf> {
    let proxies = [PROXY_STATUS_SOCKET_DEFAULT, PROXY_CLIENT_STATUS_SOCKET_DEFAULT];
    let of_roles = roles.iter().map(|role| role.status_socket());
    of_roles.chain(proxies.map(PathBuf::from)).collect()
}

/// Those of `places` at which a daemon runs.
fn running_of(places: Vec<PathBuf>) -> Result<Vec<PathBuf>, AskError> {
    let running: Vec<PathBuf> = places.iter().filter(|path| is_running(path)).cloned().collect();
    if running.is_empty() { Err(AskError::NotRunning(places)) } else { Ok(running) }
}

impl From<AskError> for CliError {
    fn from(error: AskError) -> Self {
        Self::new(error.exit_code(), error)
    }
}

pub(crate) fn status(args: &StatusArgs) -> Result<(), CliError> {
    let mut previous: Vec<StatusReport> = Vec::new();
    loop {
        let mut reports = Vec::new();
        for socket in args.socket.candidates(&[Role::Server, Role::Client])? {
            reports.push(report(&socket)?);
        }
        output::print(&show(args, &reports, &previous)?)?;
        if !args.watch {
            return Ok(());
        }
        previous = reports;
        thread::sleep(WATCH_EVERY);
    }
}

fn report(socket: &Path) -> Result<StatusReport, CliError> {
    match ask(socket, StatusRequest::Status)? {
        StatusAnswer::Status(report) => Ok(*report),
        StatusAnswer::Ok | StatusAnswer::Error { .. } => Err(not_asked_for(socket)),
    }
}

fn not_asked_for(socket: &Path) -> CliError {
    let reason = "it answers another question".to_owned();
    AskError::Strange { path: socket.to_owned(), reason }.into()
}

fn show(
    args: &StatusArgs,
    reports: &[StatusReport],
    previous: &[StatusReport],
) -> Result<String, CliError> {
    let mut text = String::new();
    if args.json {
        for report in reports {
            text.push_str(&serde_json::to_string(report).map_err(CliError::failure)?);
            text.push('\n');
        }
        return Ok(text);
    }
    let colour = output::stdout_has_colour();
    if args.watch {
        text.push_str(output::clear_screen());
    }
    for (position, report) in reports.iter().enumerate() {
        if position > 0 {
            text.push('\n');
        }
        // A daemon that was started anew in between has nothing to compare with.
        let before = previous.iter().find(|previous| previous.pid == report.pid);
        text.push_str(&render(report, before, colour));
    }
    Ok(text)
}

pub(crate) fn down(args: &SocketArgs) -> Result<(), CliError> {
    for socket in args.candidates(&[Role::Client])? {
        ask(&socket, StatusRequest::Down)?;
        wait_until_gone(&socket)?;
    }
    Ok(())
}

/// Waits for the daemon to have undone what it did, so that a script may go on.
fn wait_until_gone(socket: &Path) -> Result<(), CliError> {
    for _ in 0..GONE_POLLS_MAX {
        if !is_running(socket) {
            return Ok(());
        }
        thread::sleep(GONE_POLL_EVERY);
    }
    let message = format!("the daemon at {} was told to stop but is still there", socket.display());
    Err(CliError::new(ExitCode::Timeout, message))
}

pub(crate) fn reload(args: &SocketArgs) -> Result<(), CliError> {
    for socket in args.candidates(&[Role::Server, Role::Client])? {
        ask(&socket, StatusRequest::Reload)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn gateways_and_clients_of_gateways_are_looked_for_too() {
        let places = default_places(&[Role::Server, Role::Client]);
        let names = ["serve.sock", "up.sock", "proxy.sock", "proxy-client.sock"];
        assert_eq!(places, names.map(|name| Path::new("/run/corelane").join(name)));
        // `down` leaves a server alone that is not named.
        let places = default_places(&[Role::Client]);
        assert!(!places.iter().any(|path| path.ends_with("serve.sock")), "{places:?}");
    }

    #[test]
    fn those_that_run_are_asked() {
        let directory = tempfile::tempdir().unwrap();
        let places: Vec<PathBuf> = ["a", "b", "c"].map(|name| directory.path().join(name)).into();
        let error = running_of(places.clone()).unwrap_err().to_string();
        assert!(places.iter().all(|path| error.contains(&path.display().to_string())), "{error}");
        let _listening = UnixListener::bind(&places[1]).unwrap();
        assert_eq!(running_of(places.clone()).unwrap(), [places[1].clone()]);
    }
}
