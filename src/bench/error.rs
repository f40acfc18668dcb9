//! What can go wrong in a test, by whose fault it is.

use std::io;
use std::net::SocketAddr;

/// What a client does first.
pub(crate) const CONNECTING: &str = "connecting to the bench server";

/// Why a test gave no result.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// Nothing listens at the server's address.
    #[error("no bench server answers at {0}: start one there with `corelane bench serve`")]
    NotRunning(SocketAddr),
    /// The far end, or the network, was silent for too long.
    #[error("timed out {0}")]
    TimedOut(&'static str),
    /// The far end refused the test, and says why.
    #[error("the bench server refused the test: {0}")]
    Refused(String),
    /// The far end began the test and could not finish it.
    #[error("the far end gave up: {0}")]
    FarEndFailed(String),
    /// The far end closed its connection in the middle of a test.
    #[error("the far end went away {0}")]
    FarEndGone(&'static str),
    /// The far end does not speak this protocol.
    #[error("not a bench peer of this version: {0}")]
    Protocol(String),
    /// The test asked for is not one that can be run.
    #[error("{0}")]
    InvalidTest(String),
    /// A stop was asked for.
    #[error("interrupted")]
    Interrupted,
    /// A datagram does not fit the path.
    #[error(
        "a datagram of {0} payload bytes does not fit the path MTU, and bench never fragments: \
         choose a smaller length with `-l`"
    )]
    DatagramTooBig(u32),
    /// The operating system refused something.
    #[error("{action}: {source}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// What the system answered.
        source: io::Error,
    },
}

impl BenchError {
    /// For `map_err`: wraps an I/O error with what was being done.
    pub(crate) fn io(action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, source }
    }

    /// Whether no connection to the server came about, so that another address of it may do.
    pub fn is_about_connecting(&self) -> bool {
        match self {
            Self::NotRunning(_) => true,
            Self::TimedOut(action) | Self::Io { action, .. } => *action == CONNECTING,
            _ => false,
        }
    }
}

/// Whether an I/O error only says that a timeout passed or a signal came: look again.
pub(crate) fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}
