//! Why a demo could not be shown.

use std::io;
use std::process::ExitStatus;

use super::daemon::Daemon;
use crate::bench::BenchError;
use crate::lab::{LabError, WaitTimeout};

/// Why a demo could not be shown, and what mends it.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// A stop was asked for.
    #[error("interrupted; everything has been removed again")]
    Interrupted,
    /// There is no TUN driver.
    #[error(
        "/dev/net/tun does not exist: `modprobe tun`; in a container, start it with \
         `--device /dev/net/tun`"
    )]
    TunMissing,
    /// The TUN driver may not be used.
    #[error(
        "/dev/net/tun may not be opened by this user: run the demo as root, or \
         `sudo chmod 0666 /dev/net/tun`, as Debian leaves it"
    )]
    TunDenied,
    /// The hosts could not be laid out.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// Something with files, processes or sockets failed.
    #[error("cannot {attempt}: {source}")]
    Io {
        /// What was attempted, as a verb phrase.
        attempt: String,
        /// What the system said.
        source: io::Error,
    },
    /// A daemon ended by itself.
    #[error("the {daemon} ended too early ({status})")]
    DaemonEnded {
        /// Which.
        daemon: &'static str,
        /// How.
        status: ExitStatus,
    },
    /// A daemon does not say how it is.
    #[error("the {daemon} does not answer on its status socket: {reason}")]
    DaemonSilent {
        /// Which.
        daemon: &'static str,
        /// Why not.
        reason: String,
    },
    /// The tunnel did not come up.
    #[error("the tunnel does not answer: {0}")]
    NoAnswer(#[from] WaitTimeout),
    /// A command of an administrator failed.
    #[error("`corelane {command}` failed ({status}): {output}")]
    Command {
        /// Its arguments.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// What it said.
        output: String,
    },
    /// What the demo is to show did not happen.
    #[error("{0}")]
    NotShown(String),
    /// A measurement failed.
    #[error("{measurement}: {source}")]
    Measurement {
        /// Which.
        measurement: String,
        /// Why.
        source: BenchError,
    },
    /// The tunnel does not conceal what it carries, or that could not be shown.
    #[error("the payload is not proved to be concealed: {0}")]
    NotConcealed(String),
    /// Another error, and the end of the daemons' logs.
    #[error("{source}\n{logs}")]
    WithLogs {
        /// The error.
        source: Box<Self>,
        /// The end of each log, titled.
        logs: String,
    },
}

impl DemoError {
    /// For `map_err`: wraps an I/O error with what was attempted.
    pub(super) fn io(attempt: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let attempt = attempt.into();
        move |source| Self::Io { attempt, source }
    }

    /// For `map_err`: wraps an error of the traffic generator with what was measured.
    pub(super) fn measuring(measurement: impl Into<String>) -> impl FnOnce(BenchError) -> Self {
        let measurement = measurement.into();
        move |source| match source {
            BenchError::Interrupted => Self::Interrupted,
            source => Self::Measurement { measurement, source },
        }
    }

    /// Adds the end of the daemons' logs, unless they have nothing to do with the error.
    pub(super) fn with_logs(self, daemons: &[&Daemon]) -> Self {
        match self {
            Self::Interrupted | Self::WithLogs { .. } => self,
            error => {
                let logs = daemons.iter().map(|daemon| daemon.log_tail()).collect();
                Self::WithLogs { source: Box::new(error), logs }
            }
        }
    }
}
