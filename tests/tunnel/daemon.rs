//! One daemon: its files, its process, its status.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use corelane::handshake::keys::{PrivateKey, PublicKey};
use corelane::lab::{Host, wait_until};
use corelane::sys::signal;
use corelane::telemetry::status::StatusReport;

use crate::harness::PATIENCE;

pub(crate) const CORELANE: &str = env!("CARGO_BIN_EXE_corelane");

/// Runs a program where everybody may open `/dev/net/tun`, as udev has it on most machines: in a
/// mount namespace of its own, so that the machine's own device stays as it is.
pub(crate) const WITH_AN_OPEN_TUN: [&str; 7] = [
    "unshare",
    "--mount",
    "--propagation=private",
    "sh",
    "-c",
    "mount -t tmpfs tmpfs /dev/net && mknod -m 666 /dev/net/tun c 10 200 && exec \"$@\"",
    "sh",
];

/// A daemon that can be started, stopped and started again. Killed when dropped.
pub(crate) struct Daemon {
    name: String,
    subcommand: &'static str,
    directory: PathBuf,
    /// The program itself.
    pub(crate) program: PathBuf,
    /// Flags besides the configuration file.
    pub(crate) flags: Vec<String>,
    /// The command in front of the program's own, such as setpriv.
    pub(crate) wrapper: Vec<String>,
    /// What it is told in place of its configuration file.
    pub(crate) target: Option<String>,
    /// What it reads from standard input.
    pub(crate) stdin: Option<String>,
    child: Option<Child>,
}

impl Daemon {
    /// A daemon with a fresh key whose files lie in `directory` and begin with `name`.
    pub(crate) fn new(directory: &Path, name: &str, subcommand: &'static str) -> (Self, PublicKey) {
        let daemon = Self {
            name: name.to_owned(),
            subcommand,
            directory: directory.to_owned(),
            program: PathBuf::from(CORELANE),
            flags: Vec::new(),
            wrapper: Vec::new(),
            target: None,
            stdin: None,
            child: None,
        };
        let key = PrivateKey::generate(&mut rand::rng());
        fs::write(daemon.key_file(), key.to_base64()).unwrap();
        fs::set_permissions(daemon.key_file(), fs::Permissions::from_mode(0o600)).unwrap();
        (daemon, key.public())
    }

    fn file(&self, extension: &str) -> PathBuf {
        self.directory.join(format!("{}.{extension}", self.name))
    }

    pub(crate) fn key_file(&self) -> PathBuf {
        self.file("key")
    }

    pub(crate) fn config_file(&self) -> PathBuf {
        self.file("toml")
    }

    pub(crate) fn status_socket(&self) -> PathBuf {
        self.file("sock")
    }

    /// All it has logged, in every life.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.file("log")).unwrap_or_default()
    }

    pub(crate) fn start(&mut self, host: &Host) {
        assert!(self.child.is_none(), "the {} runs already", self.name);
        let log: File =
            OpenOptions::new().append(true).create(true).open(self.file("log")).unwrap();
        let config = self.config_file();
        let told = match &self.target {
            Some(target) => vec![OsStr::new(target)],
            None => vec!["-c".as_ref(), config.as_os_str()],
        };
        let own = [self.program.as_os_str(), self.subcommand.as_ref()];
        let mut words = self.wrapper.iter().map(OsStr::new).chain(own).chain(told);
        let child = host
            .command(words.next().unwrap())
            .unwrap()
            .args(words)
            .arg("--status-socket")
            .arg(self.status_socket())
            .args(&self.flags)
            .stdin(if self.stdin.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .env_remove("RUST_LOG")
            .env_remove("NOTIFY_SOCKET")
            .env_remove("JOURNAL_STREAM")
            .spawn();
        let mut child = child.unwrap();
        if let Some(text) = &self.stdin {
            child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        }
        self.child = Some(child);
    }

    pub(crate) fn is_started(&self) -> bool {
        self.child.is_some()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// What `corelane status --json` says; `None` if it does not answer.
    pub(crate) fn try_status(&self) -> Option<StatusReport> {
        let output = self.ask(&["status", "--json"]);
        output.status.success().then(|| serde_json::from_slice(&output.stdout).unwrap())
    }

    /// What `corelane status --json` says.
    #[track_caller]
    pub(crate) fn status(&self) -> StatusReport {
        self.try_status().unwrap_or_else(|| panic!("the {} has no status", self.name))
    }

    /// Runs `corelane` with a command that asks this daemon.
    pub(crate) fn ask(&self, command: &[&str]) -> std::process::Output {
        let mut asking = Command::new(CORELANE);
        asking.args(command).arg("--status-socket").arg(self.status_socket());
        asking.env_remove("RUST_LOG").output().unwrap()
    }

    /// Runs `corelane` with a command that asks no daemon.
    pub(crate) fn ask_nobody(&self, command: &[&str]) -> std::process::Output {
        Command::new(&self.program).args(command).env_remove("RUST_LOG").output().unwrap()
    }

    /// Waits until its status is as `ready` wants it, and returns it.
    #[track_caller]
    pub(crate) fn await_status(
        &mut self,
        within: Duration,
        what: &str,
        mut ready: impl FnMut(&StatusReport) -> bool,
    ) -> StatusReport {
        let what = format!("{what} ({})", self.name);
        let awaited = wait_until(within, &what, || {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "the {} has ended: {ended:?}", self.name);
            self.try_status().filter(&mut ready)
        });
        awaited.unwrap_or_else(|timeout| panic!("{timeout}: {:#?}", self.try_status()))
    }

    /// Waits until its log contains `text`.
    #[track_caller]
    pub(crate) fn await_log(&self, text: &str) {
        let logged = || self.log().contains(text).then_some(());
        wait_until(PATIENCE, &format!("`{text}` in the log of the {}", self.name), logged).unwrap();
    }

    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.pid().to_string();
        assert!(Command::new("kill").args(["-s", signal, &pid]).status().unwrap().success());
    }

    /// SIGTERM; how it ended.
    #[track_caller]
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        signal::terminate(self.child.as_mut().unwrap()).unwrap();
        self.await_end()
    }

    /// Waits until it has ended by itself.
    #[track_caller]
    pub(crate) fn await_end(&mut self) -> ExitStatus {
        let child = self.child.as_mut().unwrap();
        let ended = wait_until(PATIENCE, "a daemon to end", || child.try_wait().unwrap());
        let status = ended.unwrap_or_else(|timeout| panic!("{timeout}: the {}", self.name));
        self.child = None;
        status
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Both fail if it has ended, which is what is wanted.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Shows all there is to know after a failure.
    pub(crate) fn explain(&self) {
        eprintln!("---- log of the {}:\n{}", self.name, self.log());
        if let Some(status) = self.is_started().then(|| self.try_status()).flatten() {
            eprintln!("---- status of the {}: {status:#?}", self.name);
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}
