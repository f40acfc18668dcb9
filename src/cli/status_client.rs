//! One question to a running daemon over its status socket: a line of JSON each way.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

use crate::exit::ExitCode;
use crate::telemetry::status::{StatusAnswer, StatusRequest};

/// How long a daemon may take to accept, and for each piece of its answer.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of the longest answer: a server with a hundred thousand peers stays below.
const ANSWER_LEN_MAX: u64 = 256 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    #[error(
        "no daemon answers on {}: is it running? (`systemctl status 'corelane-*'`; \
         `--status-socket` if it listens elsewhere)",
        .0.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" or ")
    )]
    NotRunning(Vec<PathBuf>),
    #[error("{} may not be used by this user: try `sudo`", .0.display())]
    Denied(PathBuf),
    #[error(
        "the daemon at {} does not answer: it is overloaded or stuck (its log may tell why)",
        .0.display()
    )]
    Timeout(PathBuf),
    #[error("asking the daemon at {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "the daemon at {} answered something else than expected ({reason}): is it another version?",
        path.display()
    )]
    Strange { path: PathBuf, reason: String },
    #[error("the daemon refused: {0}")]
    Refused(String),
}

impl AskError {
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::NotRunning(_) => ExitCode::NotRunning,
            Self::Denied(_) => ExitCode::Denied,
            Self::Timeout(_) => ExitCode::Timeout,
            Self::Io { .. } | Self::Strange { .. } | Self::Refused(_) => ExitCode::Failure,
        }
    }

    fn from_io(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => Self::NotRunning(vec![path]),
            ErrorKind::PermissionDenied => Self::Denied(path),
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Self::Timeout(path),
            _ => Self::Io { path, source },
        }
    }
}

/// Asks the daemon whose status socket is at `path`.
pub(crate) fn ask(path: &Path, request: StatusRequest) -> Result<StatusAnswer, AskError> {
    ask_within(path, request, ANSWER_TIMEOUT)
}

fn ask_within(
    path: &Path,
    request: StatusRequest,
    timeout: Duration,
) -> Result<StatusAnswer, AskError> {
    let line = exchange(path, request, timeout).map_err(|error| AskError::from_io(path, error))?;
    let strange = |reason: String| AskError::Strange { path: path.to_owned(), reason };
    if !line.ends_with(b"\n") {
        return Err(strange("the answer breaks off".to_owned()));
    }
    match serde_json::from_slice(&line) {
        Ok(StatusAnswer::Error { message }) => Err(AskError::Refused(message)),
        Ok(answer) => Ok(answer),
        Err(error) => Err(strange(error.to_string())),
    }
}

fn exchange(path: &Path, request: StatusRequest, timeout: Duration) -> io::Result<Vec<u8>> {
    let socket = connect(path, timeout)?;
    let mut stream = UnixStream::from(std::os::fd::OwnedFd::from(socket));
    let mut line = serde_json::to_vec(&request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = Vec::new();
    BufReader::new(stream.take(ANSWER_LEN_MAX)).read_until(b'\n', &mut answer)?;
    Ok(answer)
}

/// Connects within `timeout`: Linux lets the send timeout bound the wait for a full backlog.
fn connect(path: &Path, timeout: Duration) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_write_timeout(Some(timeout))?;
    socket.set_read_timeout(Some(timeout))?;
    socket.connect(&SockAddr::unix(path)?)?;
    Ok(socket)
}

/// Whether a daemon listens at `path`, without asking it anything. A daemon that this user may not
/// talk to counts.
pub(crate) fn is_running(path: &Path) -> bool {
    match connect(path, ANSWER_TIMEOUT) {
        Ok(_) => true,
        Err(error) => !matches!(AskError::from_io(path, error), AskError::NotRunning(_)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;
    use std::thread;
    use tempfile::TempDir;

    /// What `ask` makes of a daemon that answers `answer` and closes.
    fn answered(answer: &'static [u8]) -> Result<StatusAnswer, AskError> {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let daemon = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = String::new();
            BufReader::new(stream.try_clone().unwrap()).read_line(&mut request).unwrap();
            stream.write_all(answer).unwrap();
            request
        });
        let outcome = ask(&path, StatusRequest::Down);
        assert_eq!(daemon.join().unwrap(), "{\"request\":\"down\"}\n");
        outcome
    }

    #[test]
    fn an_answer_is_one_line_of_json() {
        assert!(matches!(answered(b"{\"answer\":\"ok\"}\n"), Ok(StatusAnswer::Ok)));
        let refused = answered(b"{\"answer\":\"error\",\"message\":\"busy\"}\n").unwrap_err();
        assert!(matches!(&refused, AskError::Refused(message) if message == "busy"));
        for strange in [&b""[..], b"{\"answer\":\"ok\"}", b"hello\n", b"{\"answer\":\"other\"}\n"] {
            let error = answered(strange).unwrap_err();
            assert!(matches!(error, AskError::Strange { .. }), "{error}");
        }
    }

    #[test]
    fn every_way_of_not_answering_has_its_exit_code() {
        for (kind, code) in [
            (ErrorKind::NotFound, ExitCode::NotRunning),
            (ErrorKind::ConnectionRefused, ExitCode::NotRunning),
            (ErrorKind::PermissionDenied, ExitCode::Denied),
            (ErrorKind::WouldBlock, ExitCode::Timeout),
            (ErrorKind::BrokenPipe, ExitCode::Failure),
        ] {
            assert_eq!(AskError::from_io(Path::new("/s"), kind.into()).exit_code(), code);
        }
    }

    #[test]
    fn nobody_there_and_nobody_answering_are_told_apart() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("socket");
        let code = |path: &Path| {
            let timeout = Duration::from_millis(20);
            ask_within(path, StatusRequest::Status, timeout).unwrap_err().exit_code()
        };
        assert_eq!(code(&path), ExitCode::NotRunning);
        let listener = UnixListener::bind(&path).unwrap();
        assert_eq!(code(&path), ExitCode::Timeout);
        drop(listener);
        assert_eq!(code(&path), ExitCode::NotRunning, "a socket file that a crash left behind");
    }
}
