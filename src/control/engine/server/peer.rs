//! One peer of a server: its sessions and its paths.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::dataplane::messages::{Endpoint, WorkerCommand};
use crate::handshake::keys::PublicKey;
use crate::handshake::{Origin, Timestamp};
use crate::limits::{PEER_WARNING_EVERY, SESSION_HANDOVER};
use crate::policy::PeerPolicy;
use crate::routing::PeerId;
use crate::telemetry::counters::SessionUsage;
use crate::telemetry::status::PeerStatus;
use crate::wire::{PathMessage, SessionIndex};

use super::super::core::Core;
use super::super::path::Path;
use super::super::report;
use super::super::session::{CloseReason, History, Session};
use super::super::{DisconnectReason, EngineEvent, PeerSetup, Target};

/// A peer. At most three sessions at a time ([`SESSIONS_PER_PEER_MAX`]): `next` has been granted
/// but nothing has arrived on it, so the peer may not have the response; `current` is the newest
/// that was confirmed; `previous` still receives what was on its way.
///
/// [`SESSIONS_PER_PEER_MAX`]: crate::limits::SESSIONS_PER_PEER_MAX
pub(super) struct Peer {
    pub(super) id: PeerId,
    pub(super) setup: PeerSetup,
    /// Whether it is a guest beside the configured peers.
    pub(super) is_admitted: bool,
    /// Of the newest initiation that was granted.
    pub(super) last_timestamp: Option<Timestamp>,
    /// Where that initiation came from.
    pub(super) origin: Option<Origin>,
    pub(super) next: Option<Session>,
    pub(super) history: History,
    current: Option<Session>,
    previous: Option<Session>,
    /// Since when `current` has been in use.
    confirmed_at: Option<Instant>,
    /// Of the current session.
    paths: Vec<Path>,
    warned: Option<Instant>,
}

impl Peer {
    pub(super) fn new(id: PeerId, setup: PeerSetup, is_admitted: bool) -> Self {
        Self {
            id,
            setup,
            is_admitted,
            last_timestamp: None,
            origin: None,
            next: None,
            history: History::default(),
            current: None,
            previous: None,
            confirmed_at: None,
            paths: Vec::new(),
            warned: None,
        }
    }

    /// Takes over what is said of the peer now; returns what was said before.
    pub(super) fn replace_setup(&mut self, core: &mut Core, setup: PeerSetup) -> PeerSetup {
        self.set_policy(core, setup.policy.clone());
        std::mem::replace(&mut self.setup, setup)
    }

    /// Sets what the peer may do from now on, in sessions that there are, too.
    pub(super) fn set_policy(&mut self, core: &mut Core, policy: Option<Arc<PeerPolicy>>) {
        let is_same = match (&self.setup.policy, &policy) {
            (Some(before), Some(after)) => Arc::ptr_eq(before, after),
            (before, after) => before.is_none() && after.is_none(),
        };
        if !is_same {
            self.setup.policy = policy.clone();
            core.command(Target::All, WorkerCommand::SetPolicy { peer: self.id, policy });
        }
    }

    /// What its sessions have carried.
    pub(super) fn usage(&self) -> impl Iterator<Item = (&PublicKey, &SessionUsage)> {
        self.sessions().map(|session| (&self.setup.public_key, &*session.usage))
    }

    pub(super) fn is_connected(&self) -> bool {
        self.current.is_some()
    }

    /// Says so if the last session is gone. What was known about the paths goes with it.
    pub(super) fn note_disconnect(
        &mut self,
        core: &mut Core,
        was_connected: bool,
        reason: DisconnectReason,
    ) {
        if was_connected && !self.is_connected() {
            self.paths.clear();
            core.event(EngineEvent::Disconnected { peer: self.setup.public_key, reason });
        }
    }

    /// The base lane of the current session, if a session of `workers` client workers can have
    /// the same: flows then stay on their workers across a rekey.
    pub(super) fn base_for(&self, workers: u8) -> Option<u8> {
        let plan = &self.current.as_ref()?.plan;
        (plan.client_workers() == workers).then(|| plan.base())
    }

    /// An authenticated packet came from an address that is new to its worker. Confirms the
    /// session if it was not yet; returns the sessions that are superseded by that.
    pub(super) fn handle_path_seen(
        &mut self,
        core: &mut Core,
        now: Instant,
        session: SessionIndex,
        path: u8,
        endpoint: Endpoint,
    ) -> Vec<Session> {
        let superseded = if self.next.as_ref().is_some_and(|next| next.local == session) {
            self.confirm_next(core, now)
        } else {
            Vec::new()
        };
        core.command(Target::All, WorkerCommand::SetPathEndpoint { session, path, endpoint });
        let is_current = self.current.as_ref().is_some_and(|current| current.local == session);
        let Some(path) = self.paths.get_mut(usize::from(path)).filter(|_| is_current) else {
            return superseded;
        };
        path.confirmed = true;
        if let Some(before) = path.move_to(now, endpoint) {
            core.event(EngineEvent::PeerMoved {
                peer: self.setup.public_key,
                path: path.number,
                from: before.remote,
                to: endpoint.remote,
            });
        }
        superseded
    }

    /// The first packet of the newest session has arrived: the peer has its keys.
    fn confirm_next(&mut self, core: &mut Core, now: Instant) -> Vec<Session> {
        let Some(session) = self.next.take() else { return Vec::new() };
        let paths = session.plan.client_workers();
        self.paths.truncate(usize::from(paths));
        for path in &mut self.paths {
            path.adopt(core, &session);
        }
        // Most peers are idle, so what they hold is no more than they need.
        self.paths.reserve_exact(usize::from(paths).saturating_sub(self.paths.len()));
        for number in self.paths.len() as u8..paths {
            self.paths.push(Path::new(number, now, core.plaintext_wanted));
        }
        let peer = self.setup.public_key;
        if self.current.is_some() {
            self.history.rekeys += 1;
            core.event(EngineEvent::Rekeyed { peer });
        } else {
            core.event(EngineEvent::Connected { peer, handshake: None });
        }
        self.history.last_handshake = Some(session.since);
        self.confirmed_at = Some(now);
        let superseded = self.previous.take();
        self.previous = self.current.replace(session);
        superseded.into_iter().collect()
    }

    /// Whether a peer that still probes `session` cannot be the one that uses the current session:
    /// that one has left it behind, and what was on its way then has arrived.
    pub(super) fn is_left_behind(&self, now: Instant, session: SessionIndex) -> bool {
        let handed_over = self.confirmed_at.is_some_and(|at| now >= at + SESSION_HANDOVER);
        handed_over && self.previous.as_ref().is_some_and(|previous| previous.local == session)
    }

    /// Answers a probe, preferably along the path that it asks about: through the worker that
    /// sends there, or else one whose path is known to lead somewhere.
    pub(super) fn answer_probe(
        &self,
        core: &mut Core,
        receiver: usize,
        session: SessionIndex,
        path: u8,
        token: u64,
        plaintext_len: usize,
    ) {
        let Some(session) = self.session(session) else { return };
        let leads_somewhere = |worker: &usize| {
            let path = usize::from(session.plan.send_path(*worker));
            self.paths.get(path).is_some_and(|path| path.confirmed)
        };
        let workers = session.plan.participants();
        let worker = if session.plan.send_path(receiver) == path {
            receiver
        } else {
            session
                .sender_on(path)
                .or_else(|| Some(receiver).filter(leads_somewhere))
                .or_else(|| workers.into_iter().find(leads_somewhere))
                .unwrap_or(receiver)
        };
        let plaintext_len = u16::try_from(plaintext_len).unwrap_or(u16::MAX);
        let answer = PathMessage::ProbeAck { path, token, plaintext_len };
        session.send_path_message(core, worker, answer, 0);
    }

    pub(super) fn handle_probe_ack(
        &mut self,
        now: Instant,
        path: u8,
        token: u64,
        plaintext_len: usize,
    ) {
        if let Some(path) = self.paths.get_mut(usize::from(path)) {
            path.handle_answer(now, token, plaintext_len);
        }
    }

    pub(super) fn handle_too_big(
        &mut self,
        core: &mut Core,
        now: Instant,
        path: u8,
        plaintext_len: usize,
    ) {
        let Some(session) = &self.current else { return };
        if let Some(path) = self.paths.get_mut(usize::from(path)) {
            path.handle_too_big(core, now, session, plaintext_len);
        }
    }

    /// Sends the probes that are due.
    pub(super) fn drive_paths(&mut self, core: &mut Core, now: Instant) {
        let Some(session) = self.current.as_ref().filter(|_| !core.closing) else { return };
        for path in &mut self.paths {
            path.drive_mtu(core, now, session);
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let expiry = self.sessions().map(Session::expires).min();
        let probes = self
            .current
            .iter()
            .flat_map(|session| self.paths.iter().filter_map(|path| path.mtu_timeout(session)));
        probes.chain(expiry).min()
    }

    /// Lets go of all sessions.
    pub(super) fn take_sessions(&mut self) -> Vec<Session> {
        [self.previous.take(), self.current.take(), self.next.take()]
            .into_iter()
            .flatten()
            .collect()
    }

    /// Lets go of `session` and all that are older.
    pub(super) fn take_sessions_up_to(&mut self, session: SessionIndex) -> Vec<Session> {
        let mut taken = Vec::new();
        for slot in [&mut self.previous, &mut self.current, &mut self.next] {
            let is_last = slot.as_ref().is_some_and(|found| found.local == session);
            taken.extend(slot.take());
            if is_last {
                break;
            }
        }
        taken
    }

    /// Lets go of the sessions that have reached their last age.
    pub(super) fn take_expired(&mut self, now: Instant) -> Vec<Session> {
        [&mut self.previous, &mut self.current, &mut self.next]
            .into_iter()
            .filter_map(|slot| slot.take_if(|session| now >= session.expires()))
            .collect()
    }

    /// Tells the far side, on every path that leads somewhere, that the session ends.
    pub(super) fn say_goodbye(&self, core: &mut Core, reason: CloseReason) {
        let Some(session) = &self.current else { return };
        for path in self.paths.iter().filter(|path| path.confirmed) {
            if let Some(worker) = session.sender_on(path.number) {
                session.send_close(core, worker, reason);
            }
        }
    }

    /// Tells the administrator, but not for every datagram.
    pub(super) fn warn_of_replay(&mut self, core: &mut Core, now: Instant, from: SocketAddr) {
        self.warn(core, now, |key| {
            format!(
                "peer {key}: an initiation from {from} is not newer than the last; it is a \
                 replay, or the peer's clock was set back (set it right, for example with \
                 `timedatectl`)"
            )
        });
    }

    /// The same, of a key that somebody else uses, too.
    pub(super) fn warn_of_twin(&mut self, core: &mut Core, now: Instant) {
        let endpoint = self.paths.iter().find_map(|path| path.endpoint);
        let current = endpoint.map_or_else(String::new, |it| format!(", now from {}", it.remote));
        self.warn(core, now, |key| {
            format!(
                "peer {key}: its key is used by two machines at once{current}, and they take the \
                 session from each other; give each a key of its own (`corelane key generate`)"
            )
        });
    }

    fn warn(&mut self, core: &mut Core, now: Instant, text: impl FnOnce(&PublicKey) -> String) {
        if self.warned.is_some_and(|at| now < at + PEER_WARNING_EVERY) {
            return;
        }
        self.warned = Some(now);
        core.event(EngineEvent::Warning(text(&self.setup.public_key)));
    }

    fn sessions(&self) -> impl Iterator<Item = &Session> {
        [&self.previous, &self.current, &self.next].into_iter().flatten()
    }

    fn session(&self, index: SessionIndex) -> Option<&Session> {
        self.sessions().find(|session| session.local == index)
    }

    pub(super) fn status(&self, now: Instant) -> PeerStatus {
        report::peer_status(
            now,
            &self.setup.public_key,
            &self.setup.allowed,
            self.current.as_ref(),
            self.sessions(),
            &self.history,
            self.paths.iter().map(|path| (path, false)),
        )
    }
}
