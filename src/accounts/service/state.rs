//! What the service keeps in memory, and the one way in which it changes.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use crate::accounts::addresses::Addresses;
use crate::accounts::book::Book;
use crate::accounts::change::Change;
use crate::accounts::credentials::backoff::{Backoff, LoginSource};
use crate::accounts::model::{AuditEntry, Id, SessionEnd, UnixMs, UsageRecord, User};
use crate::accounts::names::Name;
use crate::accounts::service::attempt::ShownCertificate;
use crate::accounts::service::audit::Deed;
use crate::accounts::service::calendar::{Moment, day_of, month_start};
use crate::accounts::service::desk::refusal_of;
use crate::accounts::service::destinations::{DestinationMoved, Destinations};
use crate::accounts::service::notices::{Acknowledgement, Notice};
use crate::accounts::service::passes::LivePass;
use crate::accounts::snapshot::Snapshot;
use crate::handshake::keys::PublicKey;
use crate::limits::{ENDED_SESSION_KEPT, FAILURES_REMEMBERED, LEASES_LOOK_EVERY};
use crate::policy::acl::AclRule;
use crate::policy::bounds::Bounds;

/// A session at this server.
#[derive(Clone, Debug)]
pub(super) struct Live {
    pub(super) user: Id,
    pub(super) device: Id,
    pub(super) device_key: PublicKey,
    /// The token it was opened with; it ends with it.
    pub(super) token: Option<Id>,
    /// The certificate it was opened with; it ends with it.
    pub(super) certificate: Option<ShownCertificate>,
    /// When the lease runs out, by the clock that runs evenly: setting the other one ends nothing
    /// but what rests on a certificate.
    pub(super) expires: Instant,
    pub(super) bounds: Bounds,
    pub(super) acl: Vec<AclRule>,
    /// Bytes since the beginning.
    pub(super) received_bytes: u64,
    pub(super) sent_bytes: u64,
    /// Those of them that were not handed to the journal yet.
    pub(super) unwritten: (u64, u64),
}

/// Everything, behind one lock that is never held while anything is waited for.
pub(in crate::accounts) struct State {
    pub(super) server: Name,
    pub(super) book: Book,
    pub(super) live: BTreeMap<Id, Live>,
    /// Sessions that ended a moment ago, and when: what they have moved may still come in.
    pub(super) ended: BTreeMap<Id, (Instant, Live)>,
    /// Passes for the proxy that somebody holds.
    pub(super) passes: BTreeMap<Id, LivePass>,
    /// What users have moved by the proxy that was not handed to the journal yet: received, sent.
    pub(super) by_proxy: BTreeMap<Id, (u64, u64)>,
    /// The same by destination, where that is kept.
    pub(super) destinations: Destinations,
    pub(super) addresses: Addresses,
    pub(super) backoff: Backoff,
    pub(super) familiar: Familiar,
    /// Time steps of the last codes that were used here, by user: where the stored one lies in the
    /// future, since a clock was wrong, these are what a replay is known by.
    pub(super) codes_used: HashMap<Id, i64>,
    /// Keys that belong to no device: the server's own, and those of configured peers.
    pub(super) foreign_keys: BTreeSet<PublicKey>,
    pub(super) subscribers: Vec<Sender<Notice>>,
}

impl State {
    /// This server's name.
    pub(in crate::accounts) fn server(&self) -> &Name {
        &self.server
    }

    /// What is known.
    pub(in crate::accounts) fn book(&self) -> &Book {
        &self.book
    }

    /// What a session of this server has moved up to now: received, sent.
    pub(in crate::accounts) fn traffic_of(&self, session: Id) -> Option<(u64, u64)> {
        self.live.get(&session).map(|live| (live.received_bytes, live.sent_bytes))
    }

    /// The user whose device has an inner address at this server.
    pub(in crate::accounts) fn holder_of(&self, address: IpAddr) -> Option<Id> {
        self.addresses.holder(address).map(|holder| holder.user)
    }

    /// Tells all subscribers; those that have gone are forgotten.
    pub(super) fn notify(&mut self, notice: &Notice) {
        self.subscribers.retain(|subscriber| subscriber.send(notice.clone()).is_ok());
    }

    /// Ends a session at this server. Returns what is to be written.
    pub(super) fn close(
        &mut self,
        session: Id,
        end: SessionEnd,
        now: Moment,
        done: &Acknowledgement,
    ) -> Vec<Change> {
        let mut changes = self.take_usage(session, now);
        let Some(live) = self.live.remove(&session) else { return Vec::new() };
        changes.push(Change::EndSession { session, at: now.unix, end });
        changes.extend(self.expiry_entry(session, &live, end, now.unix).map(Change::Audit));
        self.addresses.release(live.device, now.unix);
        self.notify(&Notice::SessionEnded {
            session,
            device_key: live.device_key,
            end,
            done: done.clone(),
        });
        self.ended.insert(session, (now.instant, live));
        changes
    }

    /// Counts what a session has moved. Returns its user if that was more than it may move.
    pub(super) fn add_usage(
        &mut self,
        session: Id,
        sent_bytes: u64,
        received_bytes: u64,
        now: UnixMs,
    ) -> Option<Id> {
        let live = self.counted(session)?;
        live.sent_bytes = live.sent_bytes.saturating_add(sent_bytes);
        live.received_bytes = live.received_bytes.saturating_add(received_bytes);
        live.unwritten.0 = live.unwritten.0.saturating_add(received_bytes);
        live.unwritten.1 = live.unwritten.1.saturating_add(sent_bytes);
        let (user, bounds) = (live.user, live.bounds);
        let pending = self.unwritten_of(user);
        self.quota_exceeded(user, &bounds, pending, now).then_some(user)
    }

    /// What a session has moved since it was last asked, as changes.
    pub(super) fn take_usage(&mut self, session: Id, now: Moment) -> Vec<Change> {
        let server = self.server.clone();
        let Some(live) = self.counted(session) else { return Vec::new() };
        let (received_bytes, sent_bytes) = std::mem::take(&mut live.unwritten);
        if (received_bytes, sent_bytes) == (0, 0) {
            return Vec::new();
        }
        let (user, day) = (live.user, day_of(now.unix));
        let traffic = Change::SessionTraffic {
            session,
            received_bytes: live.received_bytes,
            sent_bytes: live.sent_bytes,
        };
        let usage = UsageRecord { user, server, day, received_bytes, sent_bytes };
        vec![Change::AddUsage(usage), traffic]
    }

    /// The counts of a session that lasts or has just ended.
    fn counted(&mut self, session: Id) -> Option<&mut Live> {
        match self.live.get_mut(&session) {
            Some(live) => Some(live),
            None => self.ended.get_mut(&session).map(|(_, live)| live),
        }
    }

    /// Counts what a user has moved by the proxy. Returns whether that was more than it may move.
    pub(super) fn add_proxy_usage(
        &mut self,
        user: Id,
        sent_bytes: u64,
        received_bytes: u64,
        now: UnixMs,
    ) -> bool {
        let Some(known) = self.book.user(user) else { return false };
        let (bounds, _) = self.book.policy_of(known);
        let moved = self.by_proxy.entry(user).or_default();
        moved.0 = moved.0.saturating_add(received_bytes);
        moved.1 = moved.1.saturating_add(sent_bytes);
        self.quota_exceeded(user, &bounds, self.unwritten_of(user), now)
    }

    /// Counts what a user has moved by the proxy to and from some hosts.
    pub(super) fn add_destinations(&mut self, user: Id, moved: Vec<DestinationMoved>, now: UnixMs) {
        if self.book.user(user).is_some() {
            let day = day_of(now);
            moved.into_iter().for_each(|moved| self.destinations.add(user, day, moved));
        }
    }

    /// What users have moved by the proxy since it was last asked, as changes.
    fn take_proxy_usage(&mut self, now: UnixMs) -> Vec<Change> {
        let (server, day) = (self.server.clone(), day_of(now));
        let usage = std::mem::take(&mut self.by_proxy).into_iter();
        let usage = usage.map(|(user, (received_bytes, sent_bytes))| {
            let server = server.clone();
            Change::AddUsage(UsageRecord { user, server, day, received_bytes, sent_bytes })
        });
        let destinations = self.destinations.take(&self.server, day);
        usage.chain(destinations).collect()
    }

    /// What all sessions, and all users of the proxy, have moved since it was last asked, as
    /// changes. Sessions that ended a while ago are forgotten.
    pub(super) fn take_all_usage(&mut self, now: Moment) -> Vec<Change> {
        let sessions: Vec<Id> = self.live.keys().chain(self.ended.keys()).copied().collect();
        let changes = sessions.into_iter().flat_map(|session| self.take_usage(session, now));
        let mut changes: Vec<Change> = changes.collect();
        changes.extend(self.take_proxy_usage(now.unix));
        self.ended.retain(|_, (at, _)| now.instant < *at + ENDED_SESSION_KEPT);
        changes
    }

    /// Looks at every session of `users` at this server: ends those that are no longer good, and
    /// tells of other bounds and rules. This is all that revocation is, whatever has changed, and
    /// wherever. Returns what is to be written, and how many sessions have ended.
    pub(super) fn review(
        &mut self,
        users: &BTreeSet<Id>,
        now: Moment,
        done: &Acknowledgement,
    ) -> (Vec<Change>, usize) {
        let concerned = self.live.iter().filter(|(_, live)| users.contains(&live.user));
        let sessions: Vec<Id> = concerned.map(|(session, _)| *session).collect();
        let mut changes = Vec::new();
        let mut ended = 0;
        for session in sessions {
            let Some(live) = self.live.get(&session) else { continue };
            if let Some(end) = self.fate(live, now.unix) {
                changes.extend(self.close(session, end, now, done));
                ended += 1;
            } else {
                self.renew_policy(session, done);
            }
        }
        (changes, ended)
    }

    /// Why a session is no longer good, if it is not.
    pub(super) fn fate(&self, live: &Live, now: UnixMs) -> Option<SessionEnd> {
        let user = self.book.user(live.user).filter(|user| !user.disabled);
        let device = self.book.device(live.device);
        let is_same =
            device.is_some_and(|it| it.user == live.user && it.public_key == live.device_key);
        let token_is_good = live.token.is_none_or(|token| {
            let token = self.book.token(token);
            token.is_some_and(|token| token.expires.is_none_or(|expires| expires > now))
        });
        let certificate_is_revoked = live.certificate.as_ref().is_some_and(|shown| {
            self.book.certificate(&shown.serial).is_some_and(|known| known.revoked.is_some())
        });
        let is_good = is_same && token_is_good && !certificate_is_revoked;
        let Some(user) = user.filter(|_| is_good) else { return Some(SessionEnd::Revoked) };
        if self.certificate_end(live).is_some_and(|end| end <= now) {
            return Some(SessionEnd::CertificateExpired);
        }
        let (bounds, _) = self.book.policy_of(user);
        let pending = self.unwritten_of(live.user);
        self.quota_exceeded(live.user, &bounds, pending, now).then_some(SessionEnd::QuotaExceeded)
    }

    /// When the certificate that a session was opened with ceases to be good.
    fn certificate_end(&self, live: &Live) -> Option<UnixMs> {
        let shown = live.certificate.as_ref()?;
        let known = self.book.certificate(&shown.serial);
        Some(known.map_or(shown.not_after, |known| known.expires.min(shown.not_after)))
    }

    /// How long a lease lasts that is granted now: it does not outlast the certificate.
    pub(super) fn lease_of(&self, live: &Live, lease: Duration, now: UnixMs) -> Duration {
        self.certificate_end(live).map_or(lease, |end| {
            let left = u64::try_from(end.0.saturating_sub(now.0)).unwrap_or(0);
            lease.min(Duration::from_millis(left))
        })
    }

    /// Why a session is over, if its lease has run out or its certificate has expired.
    pub(super) fn overdue(&self, live: &Live, now: Moment) -> Option<SessionEnd> {
        let has_run_out = live.expires <= now.instant;
        let end = self.certificate_end(live);
        // The two clocks do not agree to the millisecond on when a lease ends that was cut short.
        let reached = UnixMs(match has_run_out {
            true => now.unix.0.saturating_add(LEASES_LOOK_EVERY.as_millis() as i64),
            false => now.unix.0,
        });
        match end.is_some_and(|end| end <= reached) {
            true => Some(SessionEnd::CertificateExpired),
            false => has_run_out.then_some(SessionEnd::Expired),
        }
    }

    /// What the audit log has of a session that its certificate has ended.
    fn expiry_entry(
        &self,
        session: Id,
        live: &Live,
        end: SessionEnd,
        now: UnixMs,
    ) -> Option<AuditEntry> {
        let serial = &live.certificate.as_ref()?.serial;
        let user = self.book.user(live.user)?.name.to_string();
        let outcome = refusal_of(end).code.to_string();
        let deed = Deed {
            actor: user.clone(),
            action: "session_end",
            subject: user,
            from: self.book.session(session).map(|session| session.from.ip()),
            outcome,
            detail: format!("session {}, certificate {serial}", session.0),
        };
        (end == SessionEnd::CertificateExpired).then(|| deed.entry(&self.server, now))
    }

    /// Bytes that a user has moved here and that the book does not know yet.
    pub(in crate::accounts) fn unwritten_of(&self, user: Id) -> u64 {
        let sessions = self.book.sessions_of(user).filter_map(|it| self.live.get(&it.id));
        let by_proxy = self.by_proxy.get(&user).copied().into_iter();
        sessions
            .map(|live| live.unwritten)
            .chain(by_proxy)
            .fold(0, |sum, (received, sent)| sum.saturating_add(received).saturating_add(sent))
    }

    /// Whether a user has used up what it may move in a day or a month.
    pub(super) fn quota_exceeded(
        &self,
        user: Id,
        bounds: &Bounds,
        pending: u64,
        now: UnixMs,
    ) -> bool {
        let today = day_of(now);
        let exceeds = |bound: Option<u64>, first_day| {
            bound.is_some_and(|bound| {
                self.book.moved_since(user, first_day).saturating_add(pending) >= bound
            })
        };
        exceeds(bounds.day_bytes, today) || exceeds(bounds.month_bytes, month_start(today))
    }

    /// Lets the addresses follow a change: what a device had that is gone is free again, and what
    /// is kept for a user nobody else gets.
    pub(super) fn follow_addresses(&mut self, change: &Change, now: UnixMs) {
        match change {
            Change::DeleteDevice(device) => self.addresses.forget(*device, now),
            Change::DeleteUser(user) => {
                let devices: Vec<Id> =
                    self.book.devices_of(*user).map(|device| device.id).collect();
                devices.into_iter().for_each(|device| self.addresses.forget(device, now));
                let _ = self.addresses.reserve(*user, None, None);
            }
            Change::AddUser(user) | Change::PutUser(user) => self.follow_reservation(user),
            _ => {}
        }
    }

    /// Takes everything anew, and lets the addresses follow.
    pub(super) fn replace_book(&mut self, known: Snapshot, now: UnixMs) {
        let before = std::mem::replace(&mut self.book, Book::new(known));
        for device in before.known().devices.keys() {
            if self.book.device(*device).is_none() {
                self.addresses.forget(*device, now);
            }
        }
        // All at once: what was kept for one may be kept for another now.
        for user in before.known().users.keys() {
            let _ = self.addresses.reserve(*user, None, None);
        }
        let users: Vec<User> = self.book.known().users.values().cloned().collect();
        users.iter().for_each(|user| self.follow_reservation(user));
    }

    /// Keeps addresses for a user, as far as they are this server's: others have other pools.
    pub(super) fn follow_reservation(&mut self, user: &User) {
        if let Err(error) = self.addresses.reserve(user.id, user.reserved_ipv4, user.reserved_ipv6)
        {
            log::info!("no address is kept here for {}: {error}", user.name);
        }
    }

    fn renew_policy(&mut self, session: Id, done: &Acknowledgement) {
        let Some(live) = self.live.get_mut(&session) else { return };
        let Some(user) = self.book.user(live.user) else { return };
        let (bounds, acl) = self.book.policy_of(user);
        if (bounds, &acl) == (live.bounds, &live.acl) {
            return;
        }
        live.bounds = bounds;
        live.acl.clone_from(&acl);
        let device_key = live.device_key;
        self.notify(&Notice::PolicyChanged {
            session,
            device_key,
            bounds,
            acl,
            done: done.clone(),
        });
    }
}

/// Sources that users have logged in from, as many as are remembered in the table of failures.
#[derive(Debug, Default)]
pub(super) struct Familiar {
    younger: HashSet<(Id, LoginSource)>,
    older: HashSet<(Id, LoginSource)>,
}

impl Familiar {
    pub(super) fn contains(&self, user: Id, source: LoginSource) -> bool {
        self.younger.contains(&(user, source)) || self.older.contains(&(user, source))
    }

    pub(super) fn remember(&mut self, user: Id, source: LoginSource) {
        if self.younger.len() >= FAILURES_REMEMBERED {
            self.older = std::mem::take(&mut self.younger);
        }
        self.younger.insert((user, source));
    }
}
