//! One daemon of the demo: a child process on a host, its log and its status socket.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use super::DemoError;
use super::site::DaemonFiles;
use crate::lab::{Host, wait_until};
use crate::limits::{CLOSE_WITHIN, STOP_WITHIN};
use crate::sys::{process, signal};
use crate::telemetry::status::{StatusAnswer, StatusReport, StatusRequest};

/// How long a daemon may take to end before it is killed.
const END_WITHIN: Duration = STOP_WITHIN.saturating_add(CLOSE_WITHIN);
/// How long a daemon may take to answer on its status socket.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Bytes of the longest status report of a demo.
const ANSWER_LEN_MAX: u64 = 1 << 20;
/// How much of a log is shown when something failed.
const TAIL_LINES: usize = 20;
const TAIL_LEN_MAX: u64 = 16 * 1024;

/// A running daemon; it is ended when this is dropped.
#[derive(Debug)]
pub(super) struct Daemon {
    name: &'static str,
    child: Child,
    files: DaemonFiles,
}

impl Daemon {
    /// Starts `program subcommand -c CONFIG` on `host`. With `secrets`, a line each, it reads them
    /// from its standard input.
    pub(super) fn spawn(
        host: &Host,
        program: &Path,
        subcommand: &str,
        files: &DaemonFiles,
        secrets: Option<&str>,
    ) -> Result<Self, DemoError> {
        let name = host.name();
        let log = File::create(&files.log)
            .map_err(DemoError::io(format!("write the log {}", files.log.display())))?;
        let errors = log.try_clone().map_err(DemoError::io("open a log twice"))?;
        let input = if secrets.is_some() { Stdio::piped() } else { Stdio::null() };
        let mut child = host
            .command(program)?
            .arg(subcommand)
            .arg("-c")
            .arg(&files.config)
            .args(secrets.map(|_| "--password-stdin"))
            .stdin(input)
            .stdout(log)
            .stderr(errors)
            // The demo's own service manager is not interested in these daemons.
            .env_remove("NOTIFY_SOCKET")
            // Ctrl-C is for the demo, which ends its daemons in order.
            .process_group(0)
            .spawn()
            .map_err(DemoError::io(format!("start the {name} from {}", program.display())))?;
        if let (Some(secrets), Some(mut input)) = (secrets, child.stdin.take()) {
            // A pipe has room for them; if the daemon ends before it reads them its log says why.
            let _ = input.write_all(secrets.as_bytes());
        }
        Ok(Self { name, child, files: files.clone() })
    }

    /// Its log.
    pub(super) fn log(&self) -> &Path {
        &self.files.log
    }

    /// Where it answers.
    pub(super) fn status_socket(&self) -> &Path {
        &self.files.status_socket
    }

    /// An error if it has ended.
    pub(super) fn check_running(&mut self) -> Result<(), DemoError> {
        let ended = self.child.try_wait().map_err(DemoError::io("look after a daemon"))?;
        match ended {
            None => Ok(()),
            Some(status) => Err(DemoError::DaemonEnded { daemon: self.name, status }),
        }
    }

    /// CPU time it has used so far, in seconds.
    pub(super) fn cpu_seconds(&self) -> Result<f64, DemoError> {
        process::cpu_time(self.child.id())
            .map(|time| time.as_secs_f64())
            .map_err(DemoError::io(format!("read the CPU time of the {}", self.name)))
    }

    /// How it says it is.
    pub(super) fn status(&self) -> Result<StatusReport, DemoError> {
        let silent = |reason: String| DemoError::DaemonSilent { daemon: self.name, reason };
        let line = self.ask(StatusRequest::Status).map_err(|error| silent(error.to_string()))?;
        match serde_json::from_str(&line) {
            Ok(StatusAnswer::Status(report)) => Ok(*report),
            Ok(StatusAnswer::Error { message }) => Err(silent(message)),
            Ok(StatusAnswer::Ok) => Err(silent("it answered something else".to_owned())),
            Err(error) => Err(silent(format!("its answer is not understood: {error}"))),
        }
    }

    fn ask(&self, request: StatusRequest) -> io::Result<String> {
        let mut stream = UnixStream::connect(&self.files.status_socket)?;
        stream.set_read_timeout(Some(ANSWER_WITHIN))?;
        stream.set_write_timeout(Some(ANSWER_WITHIN))?;
        let mut line = serde_json::to_vec(&request)?;
        line.push(b'\n');
        stream.write_all(&line)?;
        let mut answer = String::new();
        BufReader::new(stream.take(ANSWER_LEN_MAX)).read_line(&mut answer)?;
        Ok(answer)
    }

    /// The end of its log, with a title.
    pub(super) fn log_tail(&self) -> String {
        let title = format!("\nend of the {}'s log (--keep-logs DIR keeps all of it)", self.name);
        match tail(&self.files.log) {
            Ok(text) if text.is_empty() => format!("{title}: empty\n"),
            Ok(text) => format!("{title}:\n{text}"),
            Err(error) => format!("{title} cannot be read: {error}\n"),
        }
    }

    /// Ends it as a crash does, without a word.
    pub(super) fn kill(&mut self) -> Result<(), DemoError> {
        self.child
            .kill()
            .and_then(|()| self.child.wait())
            .map(drop)
            .map_err(DemoError::io("kill it"))
    }

    /// Ends it, by force if it does not end by itself.
    fn stop(&mut self) -> io::Result<()> {
        signal::terminate(&mut self.child)?;
        let ended = wait_until(END_WITHIN, "a daemon to end", || match self.child.try_wait() {
            Ok(None) => None,
            ended => Some(ended),
        });
        match ended {
            Ok(ended) => ended.map(drop),
            Err(_) => {
                self.child.kill()?;
                self.child.wait().map(drop)
            }
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // If even this fails the kernel kills the daemon when this thread ends.
        let _ = self.stop();
    }
}

/// The last lines of a file, each indented and ended by a newline.
fn tail(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let len = fs::metadata(path)?.len();
    let from = len.saturating_sub(TAIL_LEN_MAX);
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(TAIL_LEN_MAX).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    // The first line of a piece is most likely cut.
    let lines: Vec<&str> = text.lines().skip(usize::from(from > 0)).collect();
    let last = lines.get(lines.len().saturating_sub(TAIL_LINES)..).unwrap_or_default();
    Ok(last.iter().map(|line| format!("  {line}\n")).collect())
}

#[cfg(test)]
mod tests {
    use super::{TAIL_LINES, tail};

    #[test]
    fn a_tail_is_the_last_lines_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        std::fs::write(&path, "one\ntwo\n").unwrap();
        assert_eq!(tail(&path).unwrap(), "  one\n  two\n");
        let long: String = (0..4000).map(|number| format!("line {number}\n")).collect();
        std::fs::write(&path, long).unwrap();
        let text = tail(&path).unwrap();
        assert_eq!(text.lines().count(), TAIL_LINES);
        assert!(text.ends_with("  line 3999\n") && text.starts_with("  line 3980\n"), "{text}");
        std::fs::write(&path, "x".repeat(100_000)).unwrap();
        assert_eq!(tail(&path).unwrap(), "", "a line without an end that is longer than a tail");
        assert!(tail(&directory.path().join("none")).is_err());
    }
}
