//! The daemon: opens what is privileged, starts the workers and runs the control thread.

use crate::config::{ServeConfig, Source, UpConfig};
use crate::exit::ExitCode;

/// Why a daemon ended.
#[derive(Debug, thiserror::Error)]
#[error("the daemon is not part of this build")]
pub struct DaemonError;

impl DaemonError {
    /// The exit code of the process.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::Failure
    }
}

/// Runs a server until it is told to stop; `source` is read again on SIGHUP.
///
/// # Errors
/// It cannot start.
pub fn serve(_config: ServeConfig, _source: Source) -> Result<(), DaemonError> {
    Err(DaemonError)
}

/// Runs a client until it is told to stop; `source` is read again on SIGHUP.
///
/// # Errors
/// It cannot start.
pub fn up(_config: UpConfig, _source: Source) -> Result<(), DaemonError> {
    Err(DaemonError)
}
