//! What can happen to what is known: the one way in which memory, either database and other servers
//! come to agree.
//!
//! A server makes a change in its memory, and hands it to the [journal](crate::accounts::journal).
//! Changes that belong together are handed over together: all or none of them are stored.
//!
//! Several servers may change one database at once, so a change says no more than what was done. A
//! login says that a code was used, and does not write the whole user, who may have been disabled
//! elsewhere in the meantime.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::accounts::model::{
    AuditEntry, Certificate, DestinationRecord, Device, Group, Id, LeaseRecord, SessionEnd,
    SessionRecord, Token, UnixMs, UsageRecord, User,
};
use crate::accounts::names::Name;

/// One change. What belongs to somebody who is gone is silently not stored: that another server
/// has deleted a user is no reason to refuse what its last login wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// A new user. Refused, together with what it was handed over with, if one has its name.
    AddUser(User),
    /// A user that exists has these values. Its last time step never goes back.
    PutUser(User),
    /// A user is gone, and with it its devices, their leases, and its tokens.
    DeleteUser(Id),
    /// A one-time password was used.
    TotpUsed {
        /// Whose.
        user: Id,
        /// Its time step: it and older ones are used up.
        step: i64,
    },
    /// A recovery code was used.
    RecoveryCodeUsed {
        /// Whose.
        user: Id,
        /// SHA-256 of it.
        hash: [u8; 32],
    },
    /// A user's password was hashed anew, at a higher cost. Not stored if it was changed meanwhile.
    PasswordRehashed {
        /// Whose.
        user: Id,
        /// The hashes.
        hashes: Rehash,
    },
    /// A group has these values.
    PutGroup(Group),
    /// A group is gone; nobody is in it any more.
    DeleteGroup(Name),
    /// A device has these values. Not stored if another device has its key.
    PutDevice(Device),
    /// A device has logged in.
    DeviceSeen {
        /// Which.
        device: Id,
        /// When.
        at: UnixMs,
    },
    /// A device is gone, and with it its leases and its tokens.
    DeleteDevice(Id),
    /// A token has these values.
    PutToken(Token),
    /// A token was used.
    TokenUsed {
        /// Which.
        token: Id,
        /// When.
        at: UnixMs,
    },
    /// A token is gone.
    DeleteToken(Id),
    /// A certificate has these values. Once revoked, it stays so.
    PutCertificate(Certificate),
    /// A device has these addresses at a server.
    PutLease(LeaseRecord),
    /// A device has no addresses at a server any more.
    DeleteLease {
        /// Which device.
        device: Id,
        /// At which server.
        server: Name,
    },
    /// A session has begun.
    StartSession(SessionRecord),
    /// How much a session has moved since it began. Its counts do not shrink.
    SessionTraffic {
        /// Which.
        session: Id,
        /// Bytes of inner packets from the device.
        received_bytes: u64,
        /// Bytes of inner packets to the device.
        sent_bytes: u64,
    },
    /// A session has ended, or is to end: any server may say so. What is said first holds.
    EndSession {
        /// Which.
        session: Id,
        /// When.
        at: UnixMs,
        /// Why.
        end: SessionEnd,
    },
    /// A user has moved so many bytes more.
    AddUsage(UsageRecord),
    /// A user of the proxy has moved so many bytes more to and from a host.
    AddDestinationUsage(DestinationRecord),
    /// A line of the audit log.
    Audit(AuditEntry),
}

/// Two hashes of one password, as PHC strings.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rehash {
    /// The one that is to be replaced.
    pub was: String,
    /// The one that takes its place.
    pub is: String,
}

/// Without what a password could be guessed from.
impl fmt::Debug for Rehash {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Rehash")
    }
}

/// What a change replaces as a whole. Of two servers that replace the same at once, the one that
/// comes to the database last wins.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// A user.
    User(Id),
    /// A group.
    Group(Name),
    /// A device.
    Device(Id),
    /// A token.
    Token(Id),
    /// A certificate, by its serial number.
    Certificate(String),
    /// A lease.
    Lease(Id, Name),
}

impl Change {
    /// What this replaces as a whole; `None` for changes that add to what is there, in whatever
    /// order they come.
    pub fn subject(&self) -> Option<Subject> {
        Some(match self {
            Self::AddUser(user) | Self::PutUser(user) => Subject::User(user.id),
            Self::PutGroup(group) => Subject::Group(group.name.clone()),
            Self::DeleteGroup(name) => Subject::Group(name.clone()),
            Self::PutDevice(device) => Subject::Device(device.id),
            Self::DeleteDevice(device) => Subject::Device(*device),
            Self::PutToken(token) => Subject::Token(token.id),
            Self::DeleteToken(token) => Subject::Token(*token),
            Self::PutCertificate(certificate) => Subject::Certificate(certificate.serial.clone()),
            Self::PutLease(lease) => Subject::Lease(lease.device, lease.server.clone()),
            Self::DeleteLease { device, server } => Subject::Lease(*device, server.clone()),
            // A user who is deleted anywhere is gone: nothing brings it back but `AddUser`.
            Self::DeleteUser(_)
            | Self::TotpUsed { .. }
            | Self::RecoveryCodeUsed { .. }
            | Self::PasswordRehashed { .. }
            | Self::DeviceSeen { .. }
            | Self::TokenUsed { .. }
            | Self::StartSession(_)
            | Self::SessionTraffic { .. }
            | Self::EndSession { .. }
            | Self::AddUsage(_)
            | Self::AddDestinationUsage(_)
            | Self::Audit(_) => return None,
        })
    }
}

/// Changes that are stored together or not at all, and exactly once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Counts up from 1 for each [source](BatchSource).
    pub sequence: u64,
    /// The changes, in order.
    pub changes: Vec<Change>,
}

/// Where batches come from: one spool, whose number is random, at one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchSource {
    /// The spool's number. Two servers that bear one name by mistake still have two spools.
    pub spool: Id,
    /// The server's name, for people.
    pub server: Name,
}
