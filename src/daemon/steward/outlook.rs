//! Whether a login that has failed, or a lease that has ended, is worth another try.

use std::time::Duration;

use super::{LoginError, ProofError};
use crate::login::client::{ChannelError, Refusal};
use crate::login::message::RefusalCode;

/// What another try would lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outlook {
    /// Perhaps to something else, after this time at the soonest.
    After(Duration),
    /// To the same.
    Hopeless,
}

/// For somebody who waits for the first login: what only an administrator or the far future can
/// change is told at once.
pub(super) fn at_start(error: &LoginError) -> Outlook {
    match error {
        LoginError::NoServer(errors) if errors.iter().any(is_about_identity) => Outlook::Hopeless,
        LoginError::NoServer(_) => Outlook::After(Duration::ZERO),
        LoginError::Proof(ProofError::Channel(ChannelError::Refused(refusal))) => {
            match refusal.code {
                RefusalCode::Busy | RefusalCode::Stopping => Outlook::After(wait_of(refusal)),
                _ => Outlook::Hopeless,
            }
        }
        LoginError::Proof(ProofError::Channel(error)) if !is_about_identity(error) => {
            Outlook::After(Duration::ZERO)
        }
        LoginError::Proof(_) | LoginError::Lease(_) | LoginError::Ended { .. } => Outlook::Hopeless,
    }
}

/// For a client that was online: what may pass is waited for.
pub(super) fn later(error: &LoginError) -> Outlook {
    match error {
        LoginError::NoServer(_) => Outlook::After(Duration::ZERO),
        LoginError::Proof(ProofError::Channel(ChannelError::Refused(refusal))) => {
            of_code(refusal.code, wait_of(refusal))
        }
        LoginError::Proof(ProofError::Channel(ChannelError::Ended { code, .. }))
        | LoginError::Ended { code, .. } => of_code(*code, Duration::ZERO),
        LoginError::Proof(ProofError::Channel(_)) | LoginError::Lease(_) => {
            Outlook::After(Duration::ZERO)
        }
        LoginError::Proof(_) => Outlook::Hopeless,
    }
}

fn of_code(code: RefusalCode, wait: Duration) -> Outlook {
    match code {
        RefusalCode::Busy
        | RefusalCode::Stopping
        | RefusalCode::TooManyFailures
        | RefusalCode::TooManySessions
        | RefusalCode::QuotaExceeded
        | RefusalCode::PoolExhausted
        | RefusalCode::LeaseExpired
        | RefusalCode::Kicked => Outlook::After(wait),
        RefusalCode::Denied
        | RefusalCode::CodeNeeded
        | RefusalCode::CertificateNeeded
        | RefusalCode::DeviceTaken
        | RefusalCode::TooManyDevices
        | RefusalCode::Revoked
        | RefusalCode::CertificateExpired
        | RefusalCode::Replaced
        | RefusalCode::Incompatible
        | RefusalCode::Malformed => Outlook::Hopeless,
    }
}

fn wait_of(refusal: &Refusal) -> Duration {
    Duration::from_secs(refusal.retry_after_s.unwrap_or(0).into())
}

/// Whether the server is another than it should be, or does not take this client for what it is.
fn is_about_identity(error: &ChannelError) -> bool {
    matches!(error, ChannelError::Tls(_) | ChannelError::Name { .. } | ChannelError::Nonsense(_))
}
