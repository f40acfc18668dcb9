//! Why a client has no lease.

use crate::daemon::lease::BadLease;
use crate::exit::ExitCode;
use crate::login::client::ChannelError;
use crate::login::message::RefusalCode;

use super::ProofError;

/// Why there is no lease, or none any more.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// No server answers; what each has said.
    #[error("no server can be logged in to{}", list(.0))]
    NoServer(Vec<ChannelError>),
    /// This device or its user could not prove who they are.
    #[error(transparent)]
    Proof(#[from] ProofError),
    /// The server grants what cannot be used.
    #[error(transparent)]
    Lease(#[from] BadLease),
    /// The server has ended the lease.
    #[error("the server has ended the session: {message}")]
    Ended {
        /// Why, for programs.
        code: RefusalCode,
        /// Why, for people.
        message: String,
    },
}

impl LoginError {
    /// The exit code of the process.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::NoServer(errors) if errors.iter().any(|e| matches!(e, ChannelError::Tls(_))) => {
                ExitCode::Denied
            }
            Self::NoServer(_) => ExitCode::Timeout,
            Self::Proof(ProofError::State(error)) => error.exit_code(),
            Self::Proof(ProofError::Channel(ChannelError::Timeout | ChannelError::Lost(_))) => {
                ExitCode::Timeout
            }
            Self::Proof(_) | Self::Ended { .. } => ExitCode::Denied,
            Self::Lease(_) => ExitCode::Failure,
        }
    }
}

/// The different reasons, each once.
fn list(errors: &[ChannelError]) -> String {
    let mut reasons: Vec<String> = errors.iter().map(ToString::to_string).collect();
    reasons.sort_unstable();
    reasons.dedup();
    reasons.iter().map(|reason| format!("; {reason}")).collect()
}
