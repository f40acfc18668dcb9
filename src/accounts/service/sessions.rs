//! What happens to sessions while they last, whoever causes it: one lock, one order.

use std::collections::BTreeSet;
use std::sync::{Arc, MutexGuard, PoisonError};

use crate::accounts::book::Book;
use crate::accounts::change::Change;
use crate::accounts::journal::{Foreign, News};
use crate::accounts::model::{AuditEntry, Id, SessionEnd};
use crate::accounts::names::Name;
use crate::accounts::refusal::Refusal;
use crate::accounts::service::Shared;
use crate::accounts::service::attempt::LoginAttempt;
use crate::accounts::service::audit::Deed;
use crate::accounts::service::calendar::Moment;
use crate::accounts::service::notices::{Acknowledgement, Enforcement, Notice};
use crate::accounts::service::passes::{Pass, PassAttempt, PassFate};
use crate::accounts::service::state::State;
use crate::limits::USAGE_CHANGES_PER_BATCH;

/// What a change has done to sessions of this server.
#[derive(Debug)]
pub(in crate::accounts) struct Effect {
    /// Sessions that have ended.
    pub(in crate::accounts) ended: usize,
    /// Passes for the proxy that have ended.
    pub(in crate::accounts) passes_ended: usize,
    /// Tells when every path of them is closed.
    pub(in crate::accounts) enforcement: Enforcement,
}

impl Shared {
    pub(in crate::accounts) fn state(&self) -> MutexGuard<'_, State> {
        // No code that holds the lock leaves it half-changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands changes that nobody waits for to the journal. The state's lock is to be held, so that
    /// changes are in the journal in the order in which they were made. A batch has a greatest
    /// length, and of sessions that end at once there may be many: those are several batches.
    pub(super) fn keep(&self, _order: &State, changes: Vec<Change>) {
        for batch in batches(&changes) {
            if let Err(error) = self.journal.append(batch) {
                log::error!("a change of the accounts cannot be kept: {error}");
            }
        }
    }

    /// Makes changes, and then whatever follows from them for sessions.
    pub(in crate::accounts) fn make(
        &self,
        state: &mut State,
        changes: &[Change],
        now: Moment,
    ) -> Effect {
        let mut users = BTreeSet::new();
        let (enforcement, done) = Enforcement::begin();
        let mut following = Vec::new();
        let mut ended = 0;
        for change in changes {
            users.extend(touched(&state.book, change));
            if let Change::EndSession { session, end, .. } = change {
                // It was said already that the session ends; what it has moved was not.
                let closing = state.close(*session, *end, now, &done);
                ended += usize::from(!closing.is_empty());
                let is_new = |change: &Change| !matches!(change, Change::EndSession { .. });
                following.extend(closing.into_iter().filter(is_new));
            }
            state.follow_addresses(change, now.unix);
            state.follow_rehash(change);
            state.book.apply(change);
            users.extend(touched(&state.book, change));
        }
        let (closing, revoked) = state.review(&users, now, &done);
        following.extend(closing);
        following.iter().for_each(|change| state.book.apply(change));
        self.keep(state, following);
        let passes_ended = self.review_passes(state, &users, now, &done);
        Effect { ended: ended + revoked, passes_ended, enforcement }
    }

    /// Looks whether the passes of `users` are still good. Returns how many have ended.
    fn review_passes(
        &self,
        state: &mut State,
        users: &BTreeSet<Id>,
        now: Moment,
        done: &Acknowledgement,
    ) -> usize {
        let concerns = |pass: &Pass| users.contains(&pass.user);
        let fates = state.review_passes(&self.settings.policy, now, concerns);
        tell(state, fates, done)
    }

    /// Ends the passes whose token has run out.
    pub(super) fn end_expired_passes(&self, now: Moment) {
        let mut state = self.state();
        let has_expired = |pass: &Pass| pass.expires.is_some_and(|expires| expires <= now.instant);
        let fates = state.review_passes(&self.settings.policy, now, has_expired);
        let (_, done) = Enforcement::begin();
        tell(&mut state, fates, &done);
    }

    /// Ends the sessions that `which` names.
    pub(super) fn end_sessions(
        &self,
        now: Moment,
        which: impl FnOnce(&State) -> Vec<(Id, SessionEnd)>,
    ) {
        let mut state = self.state();
        let ends = which(&state);
        if ends.is_empty() {
            return;
        }
        let (_, done) = Enforcement::begin();
        let mut changes = Vec::new();
        for (session, end) in ends {
            let closing = state.close(session, end, now, &done);
            if !closing.is_empty() {
                log::debug!("session {} has ended: {end:?}", session.0);
            }
            changes.extend(closing);
        }
        changes.iter().for_each(|change| state.book.apply(change));
        self.keep(&state, changes.clone());
        drop(state);
        self.write_audit_of(&changes);
    }

    /// Looks whether the sessions of `users` are still good.
    pub(super) fn review(&self, users: &BTreeSet<Id>, now: Moment) {
        let mut state = self.state();
        let (_, done) = Enforcement::begin();
        let (changes, _) = state.review(users, now, &done);
        changes.iter().for_each(|change| state.book.apply(change));
        self.keep(&state, changes.clone());
        self.review_passes(&mut state, users, now, &done);
        drop(state);
        self.write_audit_of(&changes);
    }

    /// Hands over what all sessions have moved.
    pub(in crate::accounts) fn write_usage(&self, now: Moment) {
        let mut state = self.state();
        let changes = state.take_all_usage(now);
        changes.iter().for_each(|change| state.book.apply(change));
        self.keep(&state, changes);
    }

    /// Takes what other servers have changed in the database.
    pub(super) fn take_news(&self, news: Foreign) {
        let now = Moment::now();
        let mut state = self.state();
        match news.settle() {
            News::Changes(changes) => drop(self.make(&mut state, &changes, now)),
            News::Reloaded(snapshot) => {
                let users: BTreeSet<Id> = state.live.values().map(|live| live.user).collect();
                state.replace_book(*snapshot, now.unix);
                let (_, done) = Enforcement::begin();
                let gone: Vec<Id> = state.live.keys().copied().collect();
                let mut changes = Vec::new();
                for session in gone {
                    if state.book.session(session).is_none() {
                        changes.extend(state.close(session, SessionEnd::Kicked, now, &done));
                    }
                }
                let (closing, _) = state.review(&users, now, &done);
                changes.extend(closing);
                changes.iter().for_each(|change| state.book.apply(change));
                self.keep(&state, changes);
                let fates = state.review_passes(&self.settings.policy, now, |_| true);
                tell(&mut state, fates, &done);
            }
        }
    }

    pub(in crate::accounts) fn write_audit(&self, entry: &AuditEntry) {
        self.audit.lock().unwrap_or_else(PoisonError::into_inner).write(entry);
    }

    /// Writes the entries of the audit log that are among `changes`.
    fn write_audit_of(&self, changes: &[Change]) {
        for change in changes {
            if let Change::Audit(entry) = change {
                self.write_audit(entry);
            }
        }
    }

    /// Notes a login that was refused, unless there are too many of them.
    pub(super) fn audit_refusal(
        &self,
        refused: Refused<'_>,
        refusal: &Refusal,
        reason: &str,
        now: Moment,
    ) {
        let admitted = {
            let mut audit = self.audit.lock().unwrap_or_else(PoisonError::into_inner);
            audit.admits_refusal(now.instant)
        };
        let Some(left_out) = admitted else { return };
        let mut detail = reason.to_owned();
        if left_out > 0 {
            detail.push_str(&format!(" ({left_out} refused logins before were left out)"));
        }
        let state = self.state();
        let entry = refusal_deed(refused, refusal, detail).entry(&state.server, now.unix);
        self.keep(&state, vec![Change::Audit(entry.clone())]);
        drop(state);
        self.write_audit(&entry);
    }
}

/// Cuts changes into batches of at most [`USAGE_CHANGES_PER_BATCH`]. What is said of one session
/// stays together.
fn batches(changes: &[Change]) -> Vec<Vec<Change>> {
    let mut batches: Vec<Vec<Change>> = Vec::new();
    for group in changes.chunk_by(is_of_one_session) {
        match batches.last_mut() {
            Some(batch) if batch.len() + group.len() <= USAGE_CHANGES_PER_BATCH => {
                batch.extend_from_slice(group);
            }
            _ => batches.push(group.to_vec()),
        }
    }
    batches
}

/// Whether two neighbours are about the same session; its usage comes first and does not name it.
fn is_of_one_session(before: &Change, after: &Change) -> bool {
    match (before, after) {
        (Change::AddUsage(_), Change::SessionTraffic { .. }) => true,
        (
            Change::SessionTraffic { session: moved, .. },
            Change::EndSession { session: ended, .. },
        ) => moved == ended,
        _ => false,
    }
}

/// Tells what has become of passes. Returns how many have ended.
fn tell(state: &mut State, fates: Vec<(Arc<Pass>, PassFate)>, done: &Acknowledgement) -> usize {
    let mut ended = 0;
    for (pass, fate) in fates {
        let done = done.clone();
        state.notify(&match fate {
            PassFate::Ended => {
                ended += 1;
                Notice::PassEnded { pass, done }
            }
            PassFate::Changed => Notice::PassChanged { pass, done },
        });
    }
    ended
}

/// What was refused.
#[derive(Clone, Copy)]
pub(super) enum Refused<'a> {
    Login(&'a LoginAttempt),
    Pass(&'a PassAttempt),
}

fn refusal_deed(refused: Refused<'_>, refusal: &Refusal, detail: String) -> Deed {
    let (action, claimed, from) = match refused {
        Refused::Login(attempt) => {
            let certificate = attempt.certificate.as_ref().map(|shown| shown.user.as_str());
            ("login", attempt.user.as_deref().or(certificate), attempt.from.ip())
        }
        Refused::Pass(PassAttempt { from, proof }) => ("proxy_login", proof.claimed(), *from),
    };
    // What is no name may be anything, such as a password in the wrong field.
    let subject = match (&refusal.user, claimed.map(|name| name.parse::<Name>())) {
        (Some(proved), _) => proved.to_string(),
        (None, Some(Ok(name))) => name.to_string(),
        (None, Some(Err(_))) => "(no name)".to_owned(),
        (None, None) => "(by token)".to_owned(),
    };
    Deed {
        actor: subject.clone(),
        action,
        subject,
        from: Some(from),
        outcome: refusal.code.to_string(),
        detail,
    }
}

/// The users whose sessions a change may concern, as far as `book` knows.
fn touched(book: &Book, change: &Change) -> BTreeSet<Id> {
    let owner_of_device = |device: &Id| book.device(*device).map(|device| device.user);
    match change {
        Change::AddUser(user) | Change::PutUser(user) => [user.id].into(),
        Change::DeleteUser(user) => [*user].into(),
        Change::PutGroup(group) => members(book, &group.name),
        Change::DeleteGroup(name) => members(book, name),
        Change::PutDevice(device) => [device.user].into(),
        Change::DeleteDevice(device) => owner_of_device(device).into_iter().collect(),
        Change::PutToken(token) => [token.user].into(),
        Change::DeleteToken(token) => {
            book.token(*token).map(|token| token.user).into_iter().collect()
        }
        Change::PutCertificate(certificate) => {
            book.user_named(&certificate.user).map(|user| user.id).into_iter().collect()
        }
        Change::AddUsage(usage) => [usage.user].into(),
        _ => BTreeSet::new(),
    }
}

fn members(book: &Book, group: &Name) -> BTreeSet<Id> {
    let users = book.known().users.values();
    users.filter(|user| user.groups.contains(group)).map(|user| user.id).collect()
}
