//! What administrators see of people: without secrets, in words, with times that can be read.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::accounts::book::Book;
use crate::accounts::model::{
    AuditEntry, Certificate, Device, Group, Id, SessionEnd, SessionRecord, Token, TokenScope,
    UnixMs, User,
};
use crate::accounts::names::Name;
use crate::handshake::keys::PublicKey;
use crate::policy::acl::AclRule;
use crate::policy::bounds::Bounds;

/// A moment as people read it (RFC 3339, UTC, whole seconds).
pub(super) fn time_text(at: UnixMs) -> String {
    let second = at.0.div_euclid(1000);
    jiff::Timestamp::from_second(second).map_or_else(|_| at.0.to_string(), |at| at.to_string())
}

/// A user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserView {
    /// Its name.
    pub name: Name,
    /// Its groups.
    pub groups: BTreeSet<Name>,
    /// Whether it is kept out.
    pub disabled: bool,
    /// When it was made.
    pub created: String,
    /// Whether it can log in by password.
    pub has_password: bool,
    /// Whether a password needs a code.
    pub has_totp: bool,
    /// Recovery codes that are left.
    pub recovery_codes: usize,
    /// Its own bounds.
    pub own_bounds: Bounds,
    /// Its own rules.
    pub own_acl: Vec<AclRule>,
    /// The bounds that hold for it, with those of its groups.
    pub bounds: Bounds,
    /// The rules that hold for it, in order, with those of its groups.
    pub acl: Vec<AclRule>,
    /// The inner IPv4 address that is kept for it.
    pub reserved_ipv4: Option<Ipv4Addr>,
    /// The inner IPv6 address that is kept for it.
    pub reserved_ipv6: Option<Ipv6Addr>,
    /// How many devices it has.
    pub devices: usize,
    /// How many of them are online.
    pub sessions: usize,
    /// Bytes both ways today (UTC).
    pub day_bytes: u64,
    /// Bytes both ways this month (UTC).
    pub month_bytes: u64,
}

/// A group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupView {
    /// Its name.
    pub name: Name,
    /// What its members may use.
    pub bounds: Bounds,
    /// Rules for them, after their own.
    pub acl: Vec<AclRule>,
    /// Who is in it.
    pub members: BTreeSet<Name>,
}

impl GroupView {
    pub(super) fn new(book: &Book, group: &Group) -> Self {
        let users = book.known().users.values();
        let members = users.filter(|user| user.groups.contains(&group.name));
        Self {
            name: group.name.clone(),
            bounds: group.bounds,
            acl: group.acl.clone(),
            members: members.map(|user| user.name.clone()).collect(),
        }
    }
}

/// A device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceView {
    /// Whose.
    pub user: Option<Name>,
    /// What it is called.
    pub name: Name,
    /// Its static key.
    pub public_key: PublicKey,
    /// When it was first seen.
    pub created: String,
    /// When it last logged in.
    pub last_login: String,
    /// Its inner addresses, by server.
    pub addresses: Vec<(Name, Vec<IpAddr>)>,
    /// Whether it is online.
    pub online: bool,
}

impl DeviceView {
    pub(super) fn new(book: &Book, device: &Device) -> Self {
        let leases = book.known().leases.values();
        let leases = leases.filter(|lease| lease.device == device.id);
        let addresses = leases.map(|lease| {
            let ipv4 = lease.ipv4.map(IpAddr::from);
            let both = ipv4.into_iter().chain(lease.ipv6.map(IpAddr::from));
            (lease.server.clone(), both.collect())
        });
        Self {
            user: book.user(device.user).map(|user| user.name.clone()),
            name: device.name.clone(),
            public_key: device.public_key,
            created: time_text(device.created),
            last_login: time_text(device.last_login),
            addresses: addresses.collect(),
            online: book.sessions_of(device.user).any(|session| session.device == device.id),
        }
    }
}

/// A session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionView {
    /// Which.
    #[serde(with = "id_as_text")]
    pub id: Id,
    /// Whose; `None` if the user is gone.
    pub user: Option<Name>,
    /// From which device; `None` if it is gone.
    pub device: Option<Name>,
    /// At which server.
    pub server: Name,
    /// Where the login came from.
    pub from: SocketAddr,
    /// Its inner addresses, while it lasts.
    pub addresses: Vec<IpAddr>,
    /// When it began.
    pub started: String,
    /// When it ended.
    pub ended: Option<String>,
    /// Why it ended.
    pub end: Option<SessionEnd>,
    /// Bytes of inner packets from the device.
    pub received_bytes: u64,
    /// Bytes of inner packets to the device.
    pub sent_bytes: u64,
}

impl SessionView {
    pub(super) fn new(book: &Book, session: &SessionRecord) -> Self {
        let lease = book.lease(session.device, &session.server);
        let lease = lease.filter(|_| session.ended.is_none());
        let ipv4 = lease.and_then(|lease| lease.ipv4).map(IpAddr::from);
        let ipv6 = lease.and_then(|lease| lease.ipv6).map(IpAddr::from);
        Self {
            id: session.id,
            user: book.user(session.user).map(|user| user.name.clone()),
            device: book.device(session.device).map(|device| device.name.clone()),
            server: session.server.clone(),
            from: session.from,
            addresses: ipv4.into_iter().chain(ipv6).collect(),
            started: time_text(session.started),
            ended: session.ended.map(|(at, _)| time_text(at)),
            end: session.ended.map(|(_, end)| end),
            received_bytes: session.received_bytes,
            sent_bytes: session.sent_bytes,
        }
    }
}

/// A token, without its secret, which nobody knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenView {
    /// Which.
    #[serde(with = "id_as_text")]
    pub id: Id,
    /// Whom it stands for.
    pub user: Option<Name>,
    /// What it is for.
    pub label: String,
    /// What it may be used for.
    pub scope: TokenScope,
    /// The one device that may use it.
    pub device: Option<Name>,
    /// When it was made.
    pub created: String,
    /// When it ceases to be good.
    pub expires: Option<String>,
    /// When it was last used.
    pub last_used: Option<String>,
}

impl TokenView {
    pub(super) fn new(book: &Book, token: &Token) -> Self {
        let device = token.device.and_then(|device| book.device(device));
        Self {
            id: token.id,
            user: book.user(token.user).map(|user| user.name.clone()),
            label: token.label.clone(),
            scope: token.scope,
            device: device.map(|device| device.name.clone()),
            created: time_text(token.created),
            expires: token.expires.map(time_text),
            last_used: token.last_used.map(time_text),
        }
    }
}

/// A certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateView {
    /// Serial number in lower-case hexadecimal digits.
    pub serial: String,
    /// Whom it stands for.
    pub user: Name,
    /// When it was issued.
    pub created: String,
    /// When it ceases to be good.
    pub expires: String,
    /// When it was revoked.
    pub revoked: Option<String>,
}

impl From<&Certificate> for CertificateView {
    fn from(certificate: &Certificate) -> Self {
        Self {
            serial: certificate.serial.clone(),
            user: certificate.user.clone(),
            created: time_text(certificate.created),
            expires: time_text(certificate.expires),
            revoked: certificate.revoked.map(time_text),
        }
    }
}

/// What was moved, by one user, on one day, or to and from one destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageView {
    /// By whom, if told apart by user: a name, or a number if the user is gone.
    pub user: Option<String>,
    /// On which day (UTC), if told apart by day.
    pub day: Option<String>,
    /// To and from which host, if told apart by destination; `(other)` stands for many, and
    /// `(datagrams)` for those of datagrams.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
    /// Connections and requests, if told apart by destination.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<u64>,
    /// Bytes of inner packets from devices.
    pub received_bytes: u64,
    /// Bytes of inner packets to devices.
    pub sent_bytes: u64,
}

/// What decides on a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// Whether it passes.
    pub allowed: bool,
    /// What decided, in words.
    pub reason: String,
    /// The rule that decided.
    pub rule: Option<AclRule>,
}

/// An entry of the audit log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditView {
    /// When.
    pub at: String,
    /// At which server.
    pub server: Name,
    /// Who did it.
    pub actor: String,
    /// What, as a stable word.
    pub action: String,
    /// To whom or what.
    pub subject: String,
    /// From where.
    pub from: Option<IpAddr>,
    /// How it ended.
    pub outcome: String,
    /// What else is worth knowing.
    pub detail: String,
}

impl From<AuditEntry> for AuditView {
    fn from(entry: AuditEntry) -> Self {
        Self {
            at: time_text(entry.at),
            server: entry.server,
            actor: entry.actor,
            action: entry.action,
            subject: entry.subject,
            from: entry.from,
            outcome: entry.outcome,
            detail: entry.detail,
        }
    }
}

impl UserView {
    /// `day_bytes` and `month_bytes` are what the user has moved.
    pub(super) fn new(book: &Book, user: &User, day_bytes: u64, month_bytes: u64) -> Self {
        let (bounds, acl) = book.policy_of(user);
        Self {
            name: user.name.clone(),
            groups: user.groups.clone(),
            disabled: user.disabled,
            created: time_text(user.created),
            has_password: user.password.is_some(),
            has_totp: user.totp_secret.is_some(),
            recovery_codes: user.recovery_codes.len(),
            own_bounds: user.bounds,
            own_acl: user.acl.clone(),
            bounds,
            acl,
            reserved_ipv4: user.reserved_ipv4,
            reserved_ipv6: user.reserved_ipv6,
            devices: book.devices_of(user.id).count(),
            sessions: book.sessions_of(user.id).count(),
            day_bytes,
            month_bytes,
        }
    }
}

/// Rows have 63-bit numbers. Many programs that read JSON know 53 bits of a number, and would name
/// another row.
mod id_as_text {
    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::accounts::model::Id;

    pub(super) fn serialize<S: Serializer>(id: &Id, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&id.0)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Id, D::Error> {
        String::deserialize(from)?.parse().map(Id).map_err(D::Error::custom)
    }
}
