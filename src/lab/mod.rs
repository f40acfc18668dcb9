//! Whole hosts to try things on: network namespaces joined by virtual links, with real addresses,
//! in which real programs run.
//!
//! A [`Host`] is an anonymous network namespace, held by a file descriptor of this process alone,
//! and its programs die with this process. So nothing is left behind, however it ends: there is no
//! name to unlink, and the kernel takes links and addresses away with the namespace.
//!
//! A [`Delay`] lies between two of them like a long line. [`Postgres`] is a database server in the
//! same spirit.
//!
//! Building a host needs `CAP_SYS_ADMIN` and `CAP_NET_ADMIN`, which [`ensure_privileges`] gets an
//! ordinary user inside a user namespace.

mod delay;
mod host;
mod layout;
mod postgres;
#[cfg(test)]
mod tests;
mod wait;

use std::io;

pub use delay::Delay;
pub use host::Host;
pub use layout::{LINK, LabOptions, Routed, TwoHosts, addresses};
pub use postgres::Postgres;
pub use wait::{WaitTimeout, wait_until};

use crate::host::netlink::NetlinkError;
use crate::sys::netns::{self, UserNamespaceError};

/// Why a laboratory could not be built.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The process may not make network namespaces and cannot get that right by itself.
    #[error("cannot get the privileges a laboratory needs: {0}")]
    Privileges(#[from] UserNamespaceError),
    /// A namespace could not be made or entered.
    #[error("cannot {attempt}: {source}")]
    Namespace {
        /// What was attempted, as a verb phrase.
        attempt: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A program in the laboratory did not do its work.
    #[error("cannot {attempt}: {source}")]
    Program {
        /// What was attempted, as a verb phrase.
        attempt: String,
        /// What the kernel or the program said.
        source: io::Error,
    },
    /// A link, address or route inside the laboratory was refused.
    #[error("in the laboratory: {0}")]
    Network(#[from] NetlinkError),
    /// The hosts do not reach each other.
    #[error("in the laboratory: {0}")]
    Unsettled(#[from] WaitTimeout),
}

impl LabError {
    fn program(attempt: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let attempt = attempt.into();
        move |source| Self::Program { attempt, source }
    }

    pub(crate) fn namespace(attempt: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let attempt = attempt.into();
        move |source| Self::Namespace { attempt, source }
    }
}

/// Sees to it that this process may build laboratories: nothing to do with `CAP_SYS_ADMIN` and
/// `CAP_NET_ADMIN`, otherwise it enters a user namespace that has them, with network and mount
/// namespaces of its own. Returns whether it did.
///
/// Must be called before the process starts its first thread.
///
/// # Errors
/// [`LabError::Privileges`] where user namespaces are not allowed, with what allows them.
pub fn ensure_privileges() -> Result<bool, LabError> {
    let has =
        |capability| caps::has_cap(None, caps::CapSet::Effective, capability).unwrap_or_default();
    if has(caps::Capability::CAP_SYS_ADMIN) && has(caps::Capability::CAP_NET_ADMIN) {
        return Ok(false);
    }
    netns::enter_user_namespace()?;
    Ok(true)
}
