//! What a login says, and what it gets.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Instant;

use crate::accounts::credentials::demand::Proof;
use crate::accounts::model::{Id, UnixMs};
use crate::accounts::names::Name;
use crate::accounts::refusal::Refusal;
use crate::accounts::secret::Secret;
use crate::handshake::keys::PublicKey;
use crate::policy::acl::AclRule;
use crate::policy::bounds::Bounds;

/// Somebody wants in.
#[derive(Clone, Debug)]
pub struct LoginAttempt {
    /// From where.
    pub from: SocketAddr,
    /// Who it claims to be; a token or a certificate says it by itself.
    pub user: Option<String>,
    /// The password it has shown.
    pub password: Option<Secret>,
    /// The time-based or recovery code it has shown.
    pub code: Option<Secret>,
    /// The token it has shown.
    pub token: Option<Secret>,
    /// The certificate that TLS has verified.
    pub certificate: Option<ShownCertificate>,
    /// What the device is called.
    pub device_name: Name,
    /// The device's static key.
    pub device_key: PublicKey,
    /// Version of the client's program, for the log.
    pub version: String,
}

impl LoginAttempt {
    /// The kinds of proof that were shown, right or wrong; codes do not count.
    pub(super) fn shown(&self) -> BTreeSet<Proof> {
        let kinds = [
            (self.certificate.is_some(), Proof::Certificate),
            (self.password.is_some(), Proof::Password),
            (self.token.is_some(), Proof::Token),
        ];
        kinds.into_iter().filter_map(|(is_shown, proof)| is_shown.then_some(proof)).collect()
    }
}

/// A client certificate whose chain, dates and revocation list TLS has verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownCertificate {
    /// Serial number in lower-case hexadecimal digits.
    pub serial: String,
    /// SHA-256 of the whole certificate.
    pub fingerprint: [u8; 32],
    /// Whom it stands for: its common name.
    pub user: String,
    /// When it ceases to be good: a session does not outlast it.
    pub not_after: UnixMs,
}

/// Where the outcome of a login goes. It is called once, from a thread of the accounts, and is not
/// to block.
pub type LoginAnswer = Box<dyn FnOnce(Result<Grant, Refusal>) + Send>;

/// A login that has succeeded.
#[derive(Clone, Debug)]
pub struct Grant {
    /// The stay that begins.
    pub session: Id,
    /// Who logged in.
    pub user: Name,
    /// The device's row.
    pub device: Id,
    /// The device's static key.
    pub device_key: PublicKey,
    /// Inner IPv4 address of the device, if there is a pool of them.
    pub ipv4: Option<Ipv4Addr>,
    /// Inner IPv6 address of the device, if there is a pool of them.
    pub ipv6: Option<Ipv6Addr>,
    /// When the lease runs out unless it is renewed, by [`clock::now`](crate::sys::clock::now).
    pub expires: Instant,
    /// How fast, how much, how many.
    pub bounds: Bounds,
    /// What may be reached.
    pub acl: Vec<AclRule>,
    /// The token by which this device logs in from now on: when it has redeemed an invite, or shown
    /// a password where a token is enough.
    pub device_token: Option<Secret>,
}
