//! What a server knows of its people, in memory, in the order that it is asked for.
//!
//! A [`Snapshot`] with indexes: by name, by key, by hash, by user. Logins and packets need nothing
//! else, so that they never wait for a database.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::accounts::change::Change;
use crate::accounts::model::{
    Certificate, Device, Group, Id, LeaseRecord, SessionRecord, Token, UsageRecord, User,
};
use crate::accounts::names::Name;
use crate::accounts::snapshot::Snapshot;
use crate::handshake::keys::PublicKey;
use crate::policy::acl::AclRule;
use crate::policy::bounds::Bounds;

/// The most days of a month.
const MONTH_DAYS_MAX: i32 = 31;

/// Everything that is known.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Book {
    known: Snapshot,
    users_by_name: HashMap<Name, Id>,
    devices_by_key: HashMap<PublicKey, Id>,
    devices_by_user: BTreeSet<(Id, Id)>,
    tokens_by_hash: HashMap<[u8; 32], Id>,
    tokens_by_user: BTreeSet<(Id, Id)>,
    sessions_by_user: BTreeSet<(Id, Id)>,
    /// Bytes both ways by user and day.
    moved: BTreeMap<(Id, i32), u64>,
    latest_day: i32,
}

impl Book {
    /// All of `known`.
    pub fn new(known: Snapshot) -> Self {
        let mut book = Self { known, ..Self::default() };
        for usage in std::mem::take(&mut book.known.usage).into_values() {
            book.add_usage(&usage);
        }
        for user in book.known.users.values() {
            book.users_by_name.insert(user.name.clone(), user.id);
        }
        for device in book.known.devices.values() {
            book.devices_by_key.insert(device.public_key, device.id);
            book.devices_by_user.insert((device.user, device.id));
        }
        for token in book.known.tokens.values() {
            book.tokens_by_hash.insert(token.hash, token.id);
            book.tokens_by_user.insert((token.user, token.id));
        }
        for session in book.known.sessions.values() {
            book.sessions_by_user.insert((session.user, session.id));
        }
        book
    }

    /// Makes a change.
    pub fn apply(&mut self, change: &Change) {
        // What is about to be replaced leaves the indexes, what is there afterwards enters them.
        match change {
            Change::AddUser(User { id, .. }) | Change::PutUser(User { id, .. }) => {
                self.forget_name(*id);
                self.known.apply(change);
                if let Some(user) = self.known.users.get(id) {
                    self.users_by_name.insert(user.name.clone(), user.id);
                }
            }
            Change::DeleteUser(user) => {
                self.forget_name(*user);
                for device in ids_of(&self.devices_by_user, *user) {
                    self.forget_device(device);
                }
                for token in ids_of(&self.tokens_by_user, *user) {
                    self.forget_token(token);
                }
                self.known.apply(change);
            }
            Change::PutDevice(Device { id, .. }) => {
                self.forget_key(*id);
                self.known.apply(change);
                if let Some(device) = self.known.devices.get(id) {
                    self.devices_by_key.insert(device.public_key, device.id);
                    self.devices_by_user.insert((device.user, device.id));
                }
            }
            Change::DeleteDevice(device) => {
                self.forget_device(*device);
                self.known.apply(change);
            }
            Change::PutToken(Token { id, .. }) => {
                self.forget_token(*id);
                self.known.apply(change);
                if let Some(token) = self.known.tokens.get(id) {
                    self.tokens_by_hash.insert(token.hash, token.id);
                    self.tokens_by_user.insert((token.user, token.id));
                }
            }
            Change::DeleteToken(token) => {
                self.forget_token(*token);
                self.known.apply(change);
            }
            Change::StartSession(SessionRecord { id, .. }) => {
                self.known.apply(change);
                if let Some(session) = self.known.sessions.get(id) {
                    self.sessions_by_user.insert((session.user, session.id));
                }
            }
            Change::EndSession { session, .. } => {
                if let Some(session) = self.known.sessions.get(session) {
                    self.sessions_by_user.remove(&(session.user, session.id));
                }
                self.known.apply(change);
            }
            Change::AddUsage(usage) => self.add_usage(usage),
            _ => self.known.apply(change),
        }
    }

    fn forget_name(&mut self, user: Id) {
        if let Some(user) = self.known.users.get(&user) {
            self.users_by_name.remove(&user.name);
        }
    }

    /// With it go the tokens that only it may use.
    fn forget_device(&mut self, device: Id) {
        let own = self.known.tokens.values().filter(|token| token.device == Some(device));
        for token in own.map(|token| token.id).collect::<Vec<_>>() {
            self.forget_token(token);
        }
        self.forget_key(device);
    }

    fn forget_key(&mut self, device: Id) {
        if let Some(device) = self.known.devices.get(&device) {
            self.devices_by_key.remove(&device.public_key);
            self.devices_by_user.remove(&(device.user, device.id));
        }
    }

    fn forget_token(&mut self, token: Id) {
        if let Some(token) = self.known.tokens.get(&token) {
            self.tokens_by_hash.remove(&token.hash);
            self.tokens_by_user.remove(&(token.user, token.id));
        }
    }

    /// All of it, by identity.
    pub fn known(&self) -> &Snapshot {
        &self.known
    }

    /// A user.
    pub fn user(&self, id: Id) -> Option<&User> {
        self.known.users.get(&id)
    }

    /// The user of that name.
    pub fn user_named(&self, name: &Name) -> Option<&User> {
        self.users_by_name.get(name).and_then(|id| self.user(*id))
    }

    /// Users, by name.
    pub fn users(&self) -> Vec<&User> {
        let mut users: Vec<_> = self.known.users.values().collect();
        users.sort_by(|one, other| one.name.cmp(&other.name));
        users
    }

    /// A group.
    pub fn group(&self, name: &Name) -> Option<&Group> {
        self.known.groups.get(name)
    }

    /// What a user may use: its own bounds and rules, and those of its groups in the order of
    /// their names.
    pub fn policy_of(&self, user: &User) -> (Bounds, Vec<AclRule>) {
        let groups = || user.groups.iter().filter_map(|name| self.group(name));
        let bounds: Vec<_> = groups().map(|group| group.bounds).collect();
        let rules = user.acl.iter().chain(groups().flat_map(|group| &group.acl));
        (Bounds::of_user(&user.bounds, &bounds), rules.cloned().collect())
    }

    /// A device.
    pub fn device(&self, id: Id) -> Option<&Device> {
        self.known.devices.get(&id)
    }

    /// The device with that key.
    pub fn device_with_key(&self, key: &PublicKey) -> Option<&Device> {
        self.devices_by_key.get(key).and_then(|id| self.device(*id))
    }

    /// The devices of a user.
    pub fn devices_of(&self, user: Id) -> impl Iterator<Item = &Device> {
        ids_of(&self.devices_by_user, user).into_iter().filter_map(|id| self.device(id))
    }

    /// A token.
    pub fn token(&self, id: Id) -> Option<&Token> {
        self.known.tokens.get(&id)
    }

    /// The token with that hash.
    pub fn token_with_hash(&self, hash: &[u8; 32]) -> Option<&Token> {
        self.tokens_by_hash.get(hash).and_then(|id| self.token(*id))
    }

    /// The tokens of a user.
    pub fn tokens_of(&self, user: Id) -> impl Iterator<Item = &Token> {
        ids_of(&self.tokens_by_user, user).into_iter().filter_map(|id| self.token(id))
    }

    /// A certificate by its serial number.
    pub fn certificate(&self, serial: &str) -> Option<&Certificate> {
        self.known.certificates.get(serial)
    }

    /// The addresses of a device at a server.
    pub fn lease(&self, device: Id, server: &Name) -> Option<&LeaseRecord> {
        self.known.leases.get(&(device, server.clone()))
    }

    /// A session that lasts, at any server.
    pub fn session(&self, id: Id) -> Option<&SessionRecord> {
        self.known.sessions.get(&id)
    }

    /// The sessions of a user that last, at all servers.
    pub fn sessions_of(&self, user: Id) -> impl Iterator<Item = &SessionRecord> {
        ids_of(&self.sessions_by_user, user).into_iter().filter_map(|id| self.session(id))
    }

    /// Bytes that a user has moved since `first_day`, both ways, at all servers.
    pub fn moved_since(&self, user: Id, first_day: i32) -> u64 {
        let days = self.moved.range((user, first_day)..=(user, i32::MAX));
        days.fold(0, |sum, (_, bytes)| sum.saturating_add(*bytes))
    }

    /// Counts what a user has moved. Of one day after the other, those are kept that a month can
    /// still have.
    fn add_usage(&mut self, usage: &UsageRecord) {
        if usage.day > self.latest_day {
            self.latest_day = usage.day;
            self.moved.retain(|(_, day), _| usage.day.saturating_sub(*day) <= MONTH_DAYS_MAX);
        }
        let sum = self.moved.entry((usage.user, usage.day)).or_default();
        *sum = sum.saturating_add(usage.received_bytes).saturating_add(usage.sent_bytes);
    }
}

/// The second halves of the pairs that begin with `user`.
fn ids_of(index: &BTreeSet<(Id, Id)>, user: Id) -> Vec<Id> {
    index.range((user, Id(i64::MIN))..=(user, Id(i64::MAX))).map(|(_, id)| *id).collect()
}

#[cfg(test)]
mod tests;
