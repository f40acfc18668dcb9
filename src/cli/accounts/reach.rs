//! Where an operation is done: by the running server, or on the database of one that is stopped.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use socket2::{Domain, SockAddr, Socket, Type};
use zeroize::Zeroizing;

use crate::accounts::operations::{Actor, Operation, OperationError, OperationErrorKind, Outcome};
use crate::cli::CliError;
use crate::cli::settings::ConfigFile;
use crate::config::{ACCOUNTS_SOCKET_DEFAULT, SERVER_CONFIG_DEFAULT, Served, Source};
use crate::daemon::{self, DaemonError};
use crate::exit::ExitCode;
use crate::sys::peer;

/// How long an answer may take: a backup copies the whole database.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(600);
/// What `corelane init` calls a server's configuration.
const SERVER_CONFIG_NAME: &str = "server.toml";
/// Bytes of the longest answer: a hundred thousand users stay below.
const ANSWER_LEN_MAX: u64 = 256 << 20;

/// Which server.
#[derive(Args, Clone, Debug)]
pub(in crate::cli) struct ReachArgs {
    /// The server's accounts socket [default: what its configuration says, or the one in
    /// /run/corelane]
    #[arg(long, value_name = "PATH")]
    accounts_socket: Option<PathBuf>,
    #[command(flatten)]
    file: ConfigFile,
}

impl ReachArgs {
    /// The server's configuration: the one that is named, or the one where it belongs.
    pub(super) fn config(&self) -> Result<Option<Served>, CliError> {
        let default = Path::new(SERVER_CONFIG_DEFAULT);
        let file = match &self.file.config {
            Some(file) => file.clone(),
            None if default.exists() => default.to_owned(),
            None => return Ok(None),
        };
        let source = Source { file: Some(file), ..Source::default() };
        Ok(Some(source.load_served()?.config))
    }

    /// Whether the configuration is that of a gateway without a tunnel. Of a server that is named
    /// by its socket nobody knows.
    pub(super) fn is_gateway(&self) -> Result<bool, CliError> {
        let config = if self.accounts_socket.is_some() { None } else { self.config()? };
        Ok(matches!(config, Some(Served::Gateway(_))))
    }

    /// The server whose authority is in `directory`: the one that is named, or else the one whose
    /// configuration is beside the directory, where `corelane init` puts it. `None` if there is
    /// none, or it has no accounts.
    pub(super) fn for_authority(&self, directory: &Path) -> Result<Option<Self>, CliError> {
        if self.accounts_socket.is_some() || self.file.config.is_some() {
            return Ok(Some(self.clone()));
        }
        let beside = directory.join("..").join(SERVER_CONFIG_NAME);
        if !beside.exists() {
            return Ok(None);
        }
        let it = Self { accounts_socket: None, file: ConfigFile { config: Some(beside) } };
        let has_accounts = it.config()?.is_some_and(|config| config.accounts().is_some());
        Ok(has_accounts.then_some(it))
    }

    /// Has an operation done.
    pub(super) fn execute(&self, operation: Operation) -> Result<Outcome, CliError> {
        self.try_execute(operation)?.map_err(CliError::from)
    }

    /// Has an operation done, unless what does it refuses.
    ///
    /// # Errors
    /// Neither the server nor its database can be asked.
    pub(super) fn try_execute(
        &self,
        operation: Operation,
    ) -> Result<Result<Outcome, OperationError>, CliError> {
        // With the socket named there is no need to read the configuration, which may be secret.
        if let Some(socket) = &self.accounts_socket {
            return match ask(socket, &operation)? {
                Some(outcome) => Ok(outcome),
                None => Err(not_running(socket)),
            };
        }
        let failed = |error: DaemonError| CliError::new(error.exit_code(), error);
        let config = self.config()?;
        // Whoever names a file means no other server than that of the file.
        let named = |config| Served::accounts(config).ok_or(DaemonError::NoAccounts);
        let accounts = config.as_ref().map(named).transpose().map_err(failed)?;
        let default = Path::new(ACCOUNTS_SOCKET_DEFAULT);
        let socket = accounts.map_or(default, |accounts| &accounts.socket);
        if let Some(outcome) = ask(socket, &operation)? {
            return Ok(outcome);
        }
        let Some(accounts) = accounts else { return Err(not_running(socket)) };
        let accounts = daemon::open_accounts(accounts).map_err(failed)?;
        Ok(accounts.execute(&Actor::local(peer::own_user()), operation))
    }
}

fn not_running(socket: &Path) -> CliError {
    let message = format!(
        "no server answers on {}; name its configuration (`-c FILE`) to work on its database while \
         it is stopped",
        socket.display()
    );
    CliError::new(ExitCode::NotRunning, message)
}

impl From<OperationError> for CliError {
    fn from(error: OperationError) -> Self {
        let code = match error.kind {
            OperationErrorKind::NotFound => ExitCode::NotFound,
            OperationErrorKind::Invalid => ExitCode::Usage,
            OperationErrorKind::Exists | OperationErrorKind::Unavailable => ExitCode::Failure,
        };
        Self::new(code, error)
    }
}

/// Asks the server at `socket`; `None` if there is none.
fn ask(
    socket: &Path,
    operation: &Operation,
) -> Result<Option<Result<Outcome, OperationError>>, CliError> {
    let line = match exchange(socket, operation) {
        Ok(line) => line,
        Err(error) => {
            let code = match error.kind() {
                ErrorKind::NotFound | ErrorKind::ConnectionRefused => return Ok(None),
                ErrorKind::PermissionDenied => ExitCode::Denied,
                ErrorKind::WouldBlock | ErrorKind::TimedOut => ExitCode::Timeout,
                _ => ExitCode::Failure,
            };
            let advice = if code == ExitCode::Denied { ": try `sudo`" } else { "" };
            let message = format!("asking the server at {}: {error}{advice}", socket.display());
            return Err(CliError::new(code, message));
        }
    };
    let answer = serde_json::from_slice(&line).map_err(|_| {
        CliError::failure(format_args!(
            "the server at {} answered something else than expected: is it another version, or \
             does it have too many clients?",
            socket.display()
        ))
    })?;
    Ok(Some(answer))
}

fn exchange(path: &Path, operation: &Operation) -> io::Result<Zeroizing<Vec<u8>>> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    socket.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    socket.connect(&SockAddr::unix(path)?)?;
    let mut stream = UnixStream::from(OwnedFd::from(socket));
    let mut line = Zeroizing::new(serde_json::to_vec(operation)?);
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = Zeroizing::new(Vec::new());
    BufReader::new(stream.take(ANSWER_LEN_MAX)).read_until(b'\n', &mut answer)?;
    Ok(answer)
}
