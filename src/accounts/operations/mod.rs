//! What administrators do, as data: one [`Operation`] for each action of the command line, and what
//! comes of it.
//!
//! The same code serves a running server, which gets operations through a socket, and the command
//! line itself, when it works on the database of a server that is stopped.

mod certificates;
mod devices;
mod enact;
mod groups;
mod reports;
#[cfg(test)]
mod tests;
mod tokens;
mod users;
mod views;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::accounts::model::{Certificate, Id, TokenScope};
use crate::accounts::names::Name;
use crate::accounts::secret::Secret;
use crate::accounts::service::Accounts;
use crate::policy::acl::{AclRule, Protocol};
use crate::policy::bounds::Bounds;

pub use crate::accounts::operations::views::{
    AuditView, CertificateView, DeviceView, Explanation, GroupView, SessionView, TokenView,
    UsageView, UserView,
};

/// One action of an administrator.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "operation", rename_all = "snake_case", deny_unknown_fields)]
pub enum Operation {
    /// Makes a user.
    UserAdd {
        /// Its name.
        name: Name,
        /// Groups to be in.
        groups: BTreeSet<Name>,
        /// Its password.
        password: NewPassword,
    },
    /// All users.
    UserList {},
    /// One user.
    UserShow {
        /// Its name.
        name: Name,
    },
    /// Changes what a user may do.
    UserSet {
        /// Its name.
        name: Name,
        /// Groups to join.
        #[serde(default)]
        join: BTreeSet<Name>,
        /// Groups to leave.
        #[serde(default)]
        leave: BTreeSet<Name>,
        /// What else to change.
        #[serde(default)]
        limits: LimitChanges,
        /// The inner IPv4 address to keep for its first device.
        #[serde(default)]
        reserve_ipv4: Option<Ipv4Addr>,
        /// The inner IPv6 address to keep for its first device.
        #[serde(default)]
        reserve_ipv6: Option<Ipv6Addr>,
        /// Whether to keep no address for it any more.
        #[serde(default)]
        unreserve: bool,
    },
    /// Gives a user another password. Sessions that last go on.
    UserPassword {
        /// Its name.
        name: Name,
        /// The password.
        password: NewPassword,
    },
    /// Gives a user a new secret for codes, and new recovery codes.
    UserTotp {
        /// Its name.
        name: Name,
    },
    /// Takes secret and recovery codes away from a user.
    UserTotpOff {
        /// Its name.
        name: Name,
    },
    /// Ends every session of a user and grants none.
    UserDisable {
        /// Its name.
        name: Name,
    },
    /// Lets a user in again.
    UserEnable {
        /// Its name.
        name: Name,
    },
    /// Removes a user, its devices and its tokens. What it has moved stays in the statistics.
    UserRemove {
        /// Its name.
        name: Name,
    },
    /// Makes a group.
    GroupAdd {
        /// Its name.
        name: Name,
        /// What its members may do.
        #[serde(default)]
        limits: LimitChanges,
    },
    /// All groups.
    GroupList {},
    /// One group.
    GroupShow {
        /// Its name.
        name: Name,
    },
    /// Changes what the members of a group may do.
    GroupSet {
        /// Its name.
        name: Name,
        /// What to change.
        limits: LimitChanges,
    },
    /// Removes a group. Its members stay.
    GroupRemove {
        /// Its name.
        name: Name,
    },
    /// Devices, of one user or of all.
    DeviceList {
        /// Whose.
        user: Option<Name>,
    },
    /// Removes a device, ends its session and frees its addresses.
    DeviceRemove {
        /// Whose.
        user: Name,
        /// What it is called.
        device: Name,
    },
    /// Sessions that last and, if wanted, those that have ended, newest first.
    SessionList {
        /// Whose.
        user: Option<Name>,
        /// Whether those that have ended are wanted.
        ended: bool,
        /// How many at most.
        limit: u32,
    },
    /// One session that lasts.
    SessionShow {
        /// Which.
        session: Id,
    },
    /// Ends a session that lasts, at whichever server. The device may log in again.
    SessionKick {
        /// Which.
        session: Id,
    },
    /// Ends all sessions of a user.
    SessionKickUser {
        /// Whose.
        user: Name,
    },
    /// Makes a token.
    TokenCreate {
        /// Whom it stands for.
        user: Name,
        /// What it is for, for people.
        label: String,
        /// What it may be used for.
        scope: TokenScope,
        /// Seconds after which it ceases to be good; never if `None`.
        expires_s: Option<u64>,
    },
    /// Tokens, of one user or of all.
    TokenList {
        /// Whose.
        user: Option<Name>,
    },
    /// Makes a token worthless, and ends the sessions that were opened with it.
    TokenRevoke {
        /// Which.
        token: Id,
    },
    /// Takes note of a certificate that was issued.
    CertificateAdd {
        /// Which.
        certificate: Certificate,
    },
    /// Certificates, of one user or of all.
    CertificateList {
        /// Whose.
        user: Option<Name>,
    },
    /// Makes a certificate worthless, and ends the sessions that were opened with it.
    CertificateRevoke {
        /// Its serial number in hexadecimal digits.
        serial: String,
    },
    /// What was moved.
    Stats {
        /// By whom.
        user: Option<Name>,
        /// Seconds to look back; whole days (UTC) are counted.
        since_s: u64,
        /// What a line is about.
        by: StatsBy,
    },
    /// Which rule decides on a packet of a user.
    AclExplain {
        /// Whose.
        user: Name,
        /// Where to.
        destination: IpAddr,
        /// To which port, for a protocol that has them.
        port: Option<u16>,
        /// By which protocol.
        protocol: Protocol,
    },
    /// The audit log, newest first.
    Audit {
        /// What was done by or to that user.
        user: Option<Name>,
        /// Seconds to look back.
        since_s: u64,
        /// How many entries at most.
        limit: u32,
    },
    /// Writes all that is stored to a new SQLite file.
    Backup {
        /// The file, as the server sees it.
        path: PathBuf,
    },
}

/// Where a password comes from.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NewPassword {
    /// It is made, and shown once.
    Generate,
    /// This one.
    Given(Secret),
    /// There is none: the user logs in by token or certificate.
    None,
}

/// Changes of bounds and rules.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitChanges {
    /// Bounds that get a value.
    pub set: Bounds,
    /// Bounds that lose theirs.
    pub unset: BTreeSet<BoundName>,
    /// Rules that replace all that are there.
    pub acl: Option<Vec<AclRule>>,
}

impl LimitChanges {
    /// Whether nothing is to change.
    pub fn is_empty(&self) -> bool {
        self.set == Bounds::default() && self.unset.is_empty() && self.acl.is_none()
    }

    /// What changes, for the audit log.
    fn text(&self) -> String {
        let mut words = Vec::new();
        if !self.unset.is_empty() {
            words.push(format!("unset {:?}", self.unset));
        }
        if self.set != Bounds::default() {
            words.push(format!("set {}", serde_json::to_string(&self.set).unwrap_or_default()));
        }
        if let Some(rules) = &self.acl {
            let rules: Vec<_> = rules.iter().map(ToString::to_string).collect();
            words.push(format!("rules [{}]", rules.join("; ")));
        }
        if words.is_empty() { "no limits changed".to_owned() } else { words.join(", ") }
    }

    fn apply(&self, bounds: &mut Bounds, acl: &mut Vec<AclRule>) {
        for name in &self.unset {
            match name {
                BoundName::Up => bounds.up_bps = None,
                BoundName::Down => bounds.down_bps = None,
                BoundName::Sessions => bounds.sessions_max = None,
                BoundName::Devices => bounds.devices_max = None,
                BoundName::Day => bounds.day_bytes = None,
                BoundName::Month => bounds.month_bytes = None,
                BoundName::Connections => bounds.connections_max = None,
                BoundName::ConnectionsPerS => bounds.connections_per_s = None,
            }
        }
        bounds.up_bps = self.set.up_bps.or(bounds.up_bps);
        bounds.down_bps = self.set.down_bps.or(bounds.down_bps);
        bounds.sessions_max = self.set.sessions_max.or(bounds.sessions_max);
        bounds.devices_max = self.set.devices_max.or(bounds.devices_max);
        bounds.day_bytes = self.set.day_bytes.or(bounds.day_bytes);
        bounds.month_bytes = self.set.month_bytes.or(bounds.month_bytes);
        bounds.connections_max = self.set.connections_max.or(bounds.connections_max);
        bounds.connections_per_s = self.set.connections_per_s.or(bounds.connections_per_s);
        if let Some(rules) = &self.acl {
            acl.clone_from(rules);
        }
    }
}

/// A bound, by name.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
pub enum BoundName {
    /// Bits per second from the devices.
    Up,
    /// Bits per second to the devices.
    Down,
    /// Devices online at once.
    Sessions,
    /// Devices registered.
    Devices,
    /// Bytes in a day.
    Day,
    /// Bytes in a month.
    Month,
    /// Connections by the proxy at once.
    Connections,
    /// Connections by the proxy in a second.
    ConnectionsPerS,
}

/// What a line of the statistics is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum StatsBy {
    /// A user.
    User,
    /// A day.
    Day,
    /// A host that users of the proxy have asked for, where that is kept.
    Destination,
}

/// What came of an operation.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "outcome", content = "value", rename_all = "snake_case")]
pub enum Outcome {
    /// It was done.
    Done(Done),
    /// A password was set; here it is, if it was made.
    Password(PasswordSet),
    /// Codes were set up.
    Totp(TotpSet),
    /// A token was made; this is the only time it is shown.
    Token(TokenMade),
    /// Users.
    Users(Vec<UserView>),
    /// A user.
    User(Box<UserView>),
    /// Groups.
    Groups(Vec<GroupView>),
    /// A group.
    Group(Box<GroupView>),
    /// Devices.
    Devices(Vec<DeviceView>),
    /// Sessions.
    Sessions(Vec<SessionView>),
    /// A session.
    Session(Box<SessionView>),
    /// Tokens.
    Tokens(Vec<TokenView>),
    /// Certificates.
    Certificates(Vec<CertificateView>),
    /// What was moved.
    Usage(Vec<UsageView>),
    /// Which rule decides.
    Explanation(Explanation),
    /// Entries of the audit log.
    Audit(Vec<AuditView>),
}

/// A change, and what followed from it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// Sessions of this server that have ended by it.
    pub sessions_ended: usize,
    /// Logins at the proxy gateway of this server that have ended by it.
    #[serde(default)]
    pub proxy_logins_ended: usize,
    /// Milliseconds until every path and connection of them was closed; `None` if that was not
    /// confirmed in time.
    pub closed_ms: Option<f64>,
    /// Whether the database has it already. If not, it is kept and written later.
    pub stored: bool,
}

/// A password that was set.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PasswordSet {
    /// Whose.
    pub user: Name,
    /// The password, if it was made.
    pub password: Option<Secret>,
    /// What followed.
    pub done: Done,
}

/// Codes that were set up.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TotpSet {
    /// Whose.
    pub user: Name,
    /// The `otpauth://` address that authenticators take, as text or QR code.
    pub address: Secret,
    /// Codes that stand for a time-based one, each once.
    pub recovery_codes: Vec<Secret>,
    /// What followed.
    pub done: Done,
}

/// A token that was made.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TokenMade {
    /// Whose.
    pub user: Name,
    /// Which, for `token revoke`.
    pub id: Id,
    /// The token.
    pub token: Secret,
    /// When it ceases to be good (RFC 3339).
    pub expires: Option<String>,
    /// The same in seconds since 1970.
    pub expires_unix_s: Option<u64>,
    /// What followed.
    pub done: Done,
}

/// Why an operation was not done.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct OperationError {
    /// Whose fault it is.
    pub kind: OperationErrorKind,
    /// What happened, and what mends it.
    pub message: String,
}

/// Whose fault it is that an operation was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationErrorKind {
    /// What it is about does not exist.
    NotFound,
    /// What it should make exists.
    Exists,
    /// What was asked for makes no sense.
    Invalid,
    /// The database or a file.
    Unavailable,
}

impl OperationError {
    fn new(kind: OperationErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    fn invalid(message: impl ToString) -> Self {
        Self::new(OperationErrorKind::Invalid, message.to_string())
    }

    fn unavailable(message: impl ToString) -> Self {
        Self::new(OperationErrorKind::Unavailable, message.to_string())
    }

    fn no_user(name: &Name) -> Self {
        let message = format!("there is no user {name} (`corelane user ls`)");
        Self::new(OperationErrorKind::NotFound, message)
    }

    fn no_group(name: &Name) -> Self {
        let message = format!("there is no group {name} (`corelane group add {name}`)");
        Self::new(OperationErrorKind::NotFound, message)
    }
}

/// Who does something, for the audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor(String);

impl Actor {
    /// Somebody on this machine.
    pub fn local(uid: u32) -> Self {
        Self(format!("admin (uid {uid})"))
    }
}

impl Accounts {
    /// Does what an administrator wants. It may wait: for the database, and for paths to be closed.
    ///
    /// # Errors
    /// See [`OperationErrorKind`]; nothing was changed then.
    pub fn execute(&self, actor: &Actor, operation: Operation) -> Result<Outcome, OperationError> {
        let desk = Operations { accounts: self, actor };
        match operation {
            Operation::UserAdd { .. }
            | Operation::UserPassword { .. }
            | Operation::UserTotp { .. }
            | Operation::UserTotpOff { .. }
            | Operation::UserSet { .. }
            | Operation::UserDisable { .. }
            | Operation::UserEnable { .. }
            | Operation::UserRemove { .. }
            | Operation::UserList {}
            | Operation::UserShow { .. } => desk.user(operation),
            Operation::GroupAdd { .. }
            | Operation::GroupList {}
            | Operation::GroupShow { .. }
            | Operation::GroupSet { .. }
            | Operation::GroupRemove { .. } => desk.group(operation),
            Operation::DeviceList { user } => desk.devices(user.as_ref()),
            Operation::DeviceRemove { user, device } => desk.remove_device(&user, &device),
            Operation::SessionList { user, ended, limit } => {
                desk.sessions(user.as_ref(), ended, limit)
            }
            Operation::SessionShow { session } => desk.show_session(session),
            Operation::SessionKick { session } => desk.kick(session),
            Operation::SessionKickUser { user } => desk.kick_user(&user),
            Operation::TokenCreate { user, label, scope, expires_s } => {
                desk.create_token(&user, label, scope, expires_s.map(Duration::from_secs))
            }
            Operation::TokenList { user } => desk.tokens(user.as_ref()),
            Operation::TokenRevoke { token } => desk.revoke_token(token),
            Operation::CertificateAdd { certificate } => desk.add_certificate(certificate),
            Operation::CertificateList { user } => desk.certificates(user.as_ref()),
            Operation::CertificateRevoke { serial } => desk.revoke_certificate(&serial),
            Operation::Stats { user, since_s, by } => desk.stats(user.as_ref(), since_s, by),
            Operation::AclExplain { user, destination, port, protocol } => {
                desk.explain(&user, destination, port, protocol)
            }
            Operation::Audit { user, since_s, limit } => desk.audit(user.as_ref(), since_s, limit),
            Operation::Backup { path } => desk.backup(&path),
        }
    }
}

/// The work on one operation.
struct Operations<'a> {
    accounts: &'a Accounts,
    actor: &'a Actor,
}
