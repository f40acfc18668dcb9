//! How a command fails: an exit code and what to tell the user.

use std::fmt::Display;

use crate::config::ConfigError;
use crate::daemon::profile::ProfileError;
use crate::exit::ExitCode;

/// Why a command ended early.
#[derive(Debug)]
pub struct CliError {
    code: ExitCode,
    message: Option<String>,
}

impl CliError {
    /// An error that ends the process with `code` and `corelane: message` on stderr.
    pub fn new(code: ExitCode, message: impl Display) -> Self {
        Self { code, message: Some(format!("corelane: {message}\n")) }
    }

    /// An error without an exit code of its own.
    pub fn failure(message: impl Display) -> Self {
        Self::new(ExitCode::Failure, message)
    }

    /// Ends the process with `code`; everything has been said already.
    pub fn silent(code: ExitCode) -> Self {
        Self { code, message: None }
    }

    /// The exit code of the process.
    pub fn exit_code(&self) -> ExitCode {
        self.code
    }

    /// Tells the user, on stderr.
    pub(crate) fn print(&self) {
        if let Some(message) = &self.message {
            crate::cli::output::warn(message);
        }
    }
}

impl From<ProfileError> for CliError {
    fn from(error: ProfileError) -> Self {
        let code = match &error {
            ProfileError::Unknown { .. } => ExitCode::NotFound,
            ProfileError::BadServer(_) => ExitCode::Failure,
            ProfileError::State(error) => error.exit_code(),
        };
        Self::new(code, error)
    }
}

impl From<ConfigError> for CliError {
    fn from(error: ConfigError) -> Self {
        match error {
            // A report stands on its own, so that editors find `file:line:column`.
            ConfigError::Invalid(report) => {
                Self { code: ExitCode::ConfigInvalid, message: Some(report.to_string()) }
            }
            other => Self::new(other.exit_code(), other),
        }
    }
}
