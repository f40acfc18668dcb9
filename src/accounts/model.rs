//! What is known about people, groups, devices, credentials, leases and sessions.
//!
//! Rows of the database and entries of memory have these types alike. Identities are random, so
//! that a server makes them without asking the database. Times are milliseconds since 1970 in UTC.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use rand::{CryptoRng, Rng as _};
use serde::{Deserialize, Serialize};

use crate::accounts::names::Name;
use crate::handshake::keys::PublicKey;
use crate::policy::acl::AclRule;
use crate::policy::bounds::Bounds;

/// A moment, in milliseconds since 1970 in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixMs(pub i64);

/// The identity of a row: random, positive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Id(pub i64);

impl Id {
    /// A new one: 63 random bits, so that a million rows share one with a chance of 1 in 10^7.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        Self(rng.random_range(1..=i64::MAX))
    }
}

/// An account.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Which row.
    pub id: Id,
    /// What people call it; no two users have the same.
    pub name: Name,
    /// Groups that it is in, by name.
    pub groups: BTreeSet<Name>,
    /// A disabled user has no session and gets none.
    pub disabled: bool,
    /// When it was made.
    pub created: UnixMs,
    /// Hash of the password as a PHC string; a user without one cannot log in by password.
    pub password: Option<String>,
    /// Secret of the time-based one-time passwords (RFC 6238), if they are set up.
    pub totp_secret: Option<Vec<u8>>,
    /// The last time step a code was used of: that code and older ones are refused.
    pub totp_last_step: i64,
    /// SHA-256 of each recovery code that was not used yet.
    pub recovery_codes: Vec<[u8; 32]>,
    /// What the user may use; what is unset, its groups say.
    pub bounds: Bounds,
    /// Rules that stand before those of its groups.
    pub acl: Vec<AclRule>,
    /// The inner address that is kept for its first device, instead of one from the pool.
    pub reserved_ipv4: Option<Ipv4Addr>,
    /// The same for IPv6.
    pub reserved_ipv6: Option<Ipv6Addr>,
}

/// Without what the user's secrets could be guessed from.
impl fmt::Debug for User {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("User")
            .field("id", &self.id)
            .field("name", &self.name)
            .field("disabled", &self.disabled)
            .finish_non_exhaustive()
    }
}

impl User {
    /// A user who has nothing yet: no password, no group, no bounds of its own.
    pub fn new(id: Id, name: Name, created: UnixMs) -> Self {
        Self {
            id,
            name,
            groups: BTreeSet::new(),
            disabled: false,
            created,
            password: None,
            totp_secret: None,
            totp_last_step: 0,
            recovery_codes: Vec::new(),
            bounds: Bounds::default(),
            acl: Vec::new(),
            reserved_ipv4: None,
            reserved_ipv6: None,
        }
    }
}

/// A group of users.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// What people call it; it is its identity.
    pub name: Name,
    /// What its members may use.
    pub bounds: Bounds,
    /// Rules of its members, after their own.
    pub acl: Vec<AclRule>,
}

/// A machine of a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Which row.
    pub id: Id,
    /// Whose it is.
    pub user: Id,
    /// What its owner calls it.
    pub name: Name,
    /// Its static key; no two devices have the same.
    pub public_key: PublicKey,
    /// When it was first seen.
    pub created: UnixMs,
    /// When it last logged in.
    pub last_login: UnixMs,
}

/// A secret that stands for a user: an API token, the token inside an invite, or the one that a
/// device got when it redeemed its invite.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Which row.
    pub id: Id,
    /// Whom it stands for.
    pub user: Id,
    /// SHA-256 of the secret; the secret itself is kept nowhere.
    pub hash: [u8; 32],
    /// What it is for.
    pub label: String,
    /// What it may be used for.
    pub scope: TokenScope,
    /// The one device that may use it, for a device token.
    pub device: Option<Id>,
    /// When it was made.
    pub created: UnixMs,
    /// When it ceases to be good; never if `None`.
    pub expires: Option<UnixMs>,
    /// When it was last used.
    pub last_used: Option<UnixMs>,
}

/// What a token may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenScope {
    /// Logging in to the tunnel, as often as wanted.
    Tunnel,
    /// The same, but once: part of an invite.
    Invite,
    /// Logging in from the one device that it was given to.
    Device,
    /// Use of the proxy gateway.
    Proxy,
}

/// A client certificate that the CA has issued.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// Serial number in lower-case hexadecimal digits; it is its identity.
    pub serial: String,
    /// Whom it stands for.
    pub user: Name,
    /// SHA-256 of the whole certificate.
    pub fingerprint: [u8; 32],
    /// When it was issued.
    pub created: UnixMs,
    /// When it ceases to be good.
    pub expires: UnixMs,
    /// When it was revoked.
    pub revoked: Option<UnixMs>,
}

/// The inner addresses of a device at one server. It outlives the login, so that the device gets
/// the same again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRecord {
    /// Whose.
    pub device: Id,
    /// The server that leads to these addresses, by the name in its configuration.
    pub server: Name,
    /// Inner IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// Inner IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
    /// When it was last granted or renewed.
    pub granted: UnixMs,
    /// Until when the device may use it.
    pub expires: UnixMs,
}

/// One stay of a device, from login to its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRecord {
    /// Which row.
    pub id: Id,
    /// Whose.
    pub user: Id,
    /// From which device.
    pub device: Id,
    /// At which server.
    pub server: Name,
    /// Where the login came from.
    pub from: SocketAddr,
    /// When the lease was granted.
    pub started: UnixMs,
    /// When and why it ended; `None` while it lasts.
    pub ended: Option<(UnixMs, SessionEnd)>,
    /// Bytes of inner packets from the device.
    pub received_bytes: u64,
    /// Bytes of inner packets to the device.
    pub sent_bytes: u64,
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionEnd {
    /// The client said goodbye.
    LoggedOut,
    /// Nothing was heard until the lease ran out.
    Expired,
    /// The device logged in anew.
    Replaced,
    /// An administrator ended it; the device may log in again.
    Kicked,
    /// The user, device, token or certificate behind it is no longer good.
    Revoked,
    /// The certificate that it was opened with has expired.
    CertificateExpired,
    /// The user's quota is used up.
    QuotaExceeded,
    /// The server stopped, or was found to have stopped at its next start.
    ServerStopped,
}

/// Bytes that a user has moved on one day at one server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageRecord {
    /// Whose.
    pub user: Id,
    /// At which server.
    pub server: Name,
    /// Days since 1970 in UTC.
    pub day: i32,
    /// Bytes of inner packets from the user's devices.
    pub received_bytes: u64,
    /// Bytes of inner packets to them.
    pub sent_bytes: u64,
}

/// What stands for destinations beyond those that a user has of its own.
pub const DESTINATION_OTHER: &str = "(other)";
/// What stands for the destinations of datagrams.
pub const DESTINATION_DATAGRAMS: &str = "(datagrams)";

/// What a user of the proxy has moved to and from one host, on one day at one server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DestinationRecord {
    /// Whose.
    pub user: Id,
    /// At which server.
    pub server: Name,
    /// Days since 1970 in UTC.
    pub day: i32,
    /// The host as it was asked for, by name or address; or what stands for several.
    pub destination: String,
    /// Connections and requests.
    pub connections: u64,
    /// Bytes from the user.
    pub received_bytes: u64,
    /// Bytes to the user.
    pub sent_bytes: u64,
}

/// One line of the audit log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// Which row.
    pub id: Id,
    /// When.
    pub at: UnixMs,
    /// At which server.
    pub server: Name,
    /// Who did it: a user's name, or `admin (uid 0)`.
    pub actor: String,
    /// What, as a stable word such as `login`, `user_disabled`.
    pub action: String,
    /// To whom or what.
    pub subject: String,
    /// From where, if over a network.
    pub from: Option<IpAddr>,
    /// How it ended: `ok`, or the reason of a refusal as a stable word.
    pub outcome: String,
    /// What else is worth knowing, for people.
    pub detail: String,
}
