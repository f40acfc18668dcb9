//! All that a server keeps in memory of the database: everything but the audit log, sessions that
//! have ended, and usage of earlier times.

use std::collections::BTreeMap;

use crate::accounts::change::Change;
use crate::accounts::model::{
    Certificate, Device, Group, Id, LeaseRecord, SessionRecord, Token, UsageRecord, User,
};
use crate::accounts::names::Name;

/// The state of the database at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Users.
    pub users: BTreeMap<Id, User>,
    /// Groups.
    pub groups: BTreeMap<Name, Group>,
    /// Devices.
    pub devices: BTreeMap<Id, Device>,
    /// Tokens, expired ones too.
    pub tokens: BTreeMap<Id, Token>,
    /// Certificates by serial number, revoked ones too.
    pub certificates: BTreeMap<String, Certificate>,
    /// Leases by device and server.
    pub leases: BTreeMap<(Id, Name), LeaseRecord>,
    /// Sessions that last, at all servers.
    pub sessions: BTreeMap<Id, SessionRecord>,
    /// Usage by user, server and day, since the day that was asked for.
    pub usage: BTreeMap<(Id, Name, i32), UsageRecord>,
    /// Up to which entry of the database's log of changes this tells; 0 if it keeps none.
    pub position: i64,
    /// Up to which batch of each spool this tells.
    pub sequences: BTreeMap<Id, u64>,
}

impl Snapshot {
    /// Makes a change here as the database makes it there. Where the database would refuse,
    /// nothing is changed.
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::AddUser(_)
            | Change::PutUser(_)
            | Change::DeleteUser(_)
            | Change::TotpUsed { .. }
            | Change::RecoveryCodeUsed { .. }
            | Change::PasswordRehashed { .. }
            | Change::PutGroup(_)
            | Change::DeleteGroup(_) => self.apply_to_users(change),
            Change::PutDevice(_)
            | Change::DeviceSeen { .. }
            | Change::DeleteDevice(_)
            | Change::PutLease(_)
            | Change::DeleteLease { .. } => self.apply_to_devices(change),
            Change::PutToken(_)
            | Change::TokenUsed { .. }
            | Change::DeleteToken(_)
            | Change::PutCertificate(_) => self.apply_to_credentials(change),
            Change::StartSession(_)
            | Change::SessionTraffic { .. }
            | Change::EndSession { .. }
            | Change::AddUsage(_) => self.apply_to_sessions(change),
            Change::AddDestinationUsage(_) | Change::Audit(_) => {}
        }
    }

    fn apply_to_users(&mut self, change: &Change) {
        match change {
            Change::AddUser(user) => {
                let is_free =
                    self.users.values().all(|other| other.id != user.id && other.name != user.name);
                if is_free {
                    self.users.insert(user.id, self.with_known_groups(user));
                }
            }
            Change::PutUser(user) => {
                let user = self.with_known_groups(user);
                if let Some(known) = self.users.get_mut(&user.id) {
                    let totp_last_step = known.totp_last_step.max(user.totp_last_step);
                    *known = User { totp_last_step, created: known.created, ..user };
                }
            }
            Change::DeleteUser(user) => {
                self.users.remove(user);
                self.tokens.retain(|_, token| token.user != *user);
                let devices = self.devices.values().filter(|device| device.user == *user);
                for device in devices.map(|device| device.id).collect::<Vec<_>>() {
                    self.delete_device(device);
                }
            }
            Change::TotpUsed { user, step } => {
                if let Some(user) = self.users.get_mut(user) {
                    user.totp_last_step = user.totp_last_step.max(*step);
                }
            }
            Change::RecoveryCodeUsed { user, hash } => {
                if let Some(user) = self.users.get_mut(user) {
                    user.recovery_codes.retain(|code| code != hash);
                }
            }
            Change::PasswordRehashed { user, hashes } => {
                let user = self.users.get_mut(user);
                if let Some(user) = user.filter(|user| user.password.as_ref() == Some(&hashes.was))
                {
                    user.password = Some(hashes.is.clone());
                }
            }
            Change::PutGroup(group) => {
                self.groups.insert(group.name.clone(), group.clone());
            }
            Change::DeleteGroup(name) => {
                self.groups.remove(name);
                for user in self.users.values_mut() {
                    user.groups.remove(name);
                }
            }
            _ => {}
        }
    }

    /// The user, in no group that does not exist.
    fn with_known_groups(&self, user: &User) -> User {
        let mut user = user.clone();
        user.groups.retain(|name| self.groups.contains_key(name));
        user
    }

    fn delete_device(&mut self, device: Id) {
        self.devices.remove(&device);
        self.leases.retain(|(holder, _), _| *holder != device);
        self.tokens.retain(|_, token| token.device != Some(device));
    }

    fn apply_to_devices(&mut self, change: &Change) {
        match change {
            Change::PutDevice(device) => {
                let is_taken = self
                    .devices
                    .values()
                    .any(|other| other.public_key == device.public_key && other.id != device.id);
                if self.users.contains_key(&device.user) && !is_taken {
                    self.devices.insert(device.id, device.clone());
                }
            }
            Change::DeviceSeen { device, at } => {
                if let Some(device) = self.devices.get_mut(device) {
                    device.last_login = device.last_login.max(*at);
                }
            }
            Change::DeleteDevice(device) => self.delete_device(*device),
            Change::PutLease(lease) if self.devices.contains_key(&lease.device) => {
                self.leases.insert((lease.device, lease.server.clone()), lease.clone());
            }
            Change::DeleteLease { device, server } => {
                self.leases.remove(&(*device, server.clone()));
            }
            _ => {}
        }
    }

    fn apply_to_credentials(&mut self, change: &Change) {
        match change {
            Change::PutToken(token) => {
                let device_known = token.device.is_none_or(|id| self.devices.contains_key(&id));
                if self.users.contains_key(&token.user) && device_known {
                    self.tokens.insert(token.id, token.clone());
                }
            }
            Change::TokenUsed { token, at } => {
                if let Some(token) = self.tokens.get_mut(token) {
                    token.last_used = token.last_used.max(Some(*at));
                }
            }
            Change::DeleteToken(token) => {
                self.tokens.remove(token);
            }
            Change::PutCertificate(certificate) => {
                let known = self.certificates.get(&certificate.serial);
                let revoked = known.and_then(|known| known.revoked).or(certificate.revoked);
                let certificate = Certificate { revoked, ..certificate.clone() };
                self.certificates.insert(certificate.serial.clone(), certificate);
            }
            _ => {}
        }
    }

    fn apply_to_sessions(&mut self, change: &Change) {
        match change {
            Change::StartSession(session) if session.ended.is_none() => {
                self.sessions.entry(session.id).or_insert_with(|| session.clone());
            }
            Change::SessionTraffic { session, received_bytes, sent_bytes } => {
                if let Some(known) = self.sessions.get_mut(session) {
                    known.received_bytes = known.received_bytes.max(*received_bytes);
                    known.sent_bytes = known.sent_bytes.max(*sent_bytes);
                }
            }
            Change::EndSession { session, .. } => {
                self.sessions.remove(session);
            }
            Change::AddUsage(usage) => {
                let key = (usage.user, usage.server.clone(), usage.day);
                let empty = || UsageRecord { received_bytes: 0, sent_bytes: 0, ..usage.clone() };
                let known = self.usage.entry(key).or_insert_with(empty);
                known.received_bytes = known.received_bytes.saturating_add(usage.received_bytes);
                known.sent_bytes = known.sent_bytes.saturating_add(usage.sent_bytes);
            }
            _ => {}
        }
    }
}
