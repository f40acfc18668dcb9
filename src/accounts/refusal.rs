//! Why people are not let in, or are let out again.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::accounts::names::Name;

/// Why a login was refused or a lease has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalCode {
    /// The proofs of identity are wrong, or the user does not exist or is disabled: whoever cannot
    /// prove who he is learns no more.
    Denied,
    /// The password was right, but a code is needed as well.
    CodeNeeded,
    /// The policy demands a client certificate.
    CertificateNeeded,
    /// Too many failures; see `retry_after_s`.
    TooManyFailures,
    /// The device's key belongs to another device.
    DeviceTaken,
    /// The user has as many devices as allowed.
    TooManyDevices,
    /// The user has as many devices online as allowed.
    TooManySessions,
    /// The user's quota is used up.
    QuotaExceeded,
    /// No inner address is free.
    PoolExhausted,
    /// The lease has run out; log in again.
    LeaseExpired,
    /// User, device, token or certificate is no longer good.
    Revoked,
    /// The client's certificate has expired: it needs another.
    CertificateExpired,
    /// An administrator ended the session; logging in again is allowed.
    Kicked,
    /// The same device has logged in elsewhere.
    Replaced,
    /// The server is too busy, or its accounts cannot be reached; see `retry_after_s`.
    Busy,
    /// The server stops.
    Stopping,
    /// The two programs do not understand each other.
    Incompatible,
    /// The message makes no sense here.
    Malformed,
}

impl fmt::Display for RefusalCode {
    /// The stable word of it, as in messages and in the audit log.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        Serialize::serialize(self, out)
    }
}

/// A login or a renewal that was refused: what the client is told. What is told to whoever could
/// not prove who he is depends on nothing that an account consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Why, for programs.
    pub code: RefusalCode,
    /// Why, for people, and what mends it.
    pub message: String,
    /// After how long another try makes sense.
    pub retry_after: Option<Duration>,
    /// Who was refused, where that was proved: for records, and not told.
    pub user: Option<Name>,
}

impl Refusal {
    /// A refusal that another try does not change soon.
    pub fn new(code: RefusalCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_after: None, user: None }
    }

    /// A refusal that ends by itself.
    pub fn for_now(code: RefusalCode, message: impl Into<String>, retry_after: Duration) -> Self {
        Self { retry_after: Some(retry_after), ..Self::new(code, message) }
    }

    /// The same of somebody who has proved to be that user.
    pub fn of(self, user: Name) -> Self {
        Self { user: Some(user), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_prints_as_it_is_sent() {
        assert_eq!(RefusalCode::TooManyFailures.to_string(), "too_many_failures");
        assert_eq!(serde_json::to_string(&RefusalCode::Denied).unwrap(), "\"denied\"");
    }
}
