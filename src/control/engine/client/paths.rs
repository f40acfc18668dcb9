//! A client's paths: confirming them, watching them, falling back to one.

use std::time::{Duration, Instant};

use crate::dataplane::messages::{Endpoint, WorkerCommand};
use crate::limits::{PATH_CONFIRM_RETRY, PATHS_RETRY_FIRST, padded_len};
use crate::wire::{PathMessage, SessionIndex};

use super::super::core::Core;
use super::super::health::{PathHealth, Verdict};
use super::super::path::Path;
use super::super::session::Session;
use super::super::{DisconnectReason, EngineEvent, Now, Target};
use super::{Client, OnePath};

/// A path and its health. Its number in the session is that of the worker that owns it, unless
/// the session has but one path.
pub(super) struct ClientPath {
    /// The worker that owns it.
    worker: usize,
    path: Path,
    health: PathHealth,
}

impl ClientPath {
    pub(super) fn mtu_timeout(&self, session: &Session) -> Option<Instant> {
        self.path.mtu_timeout(session)
    }

    pub(super) fn for_status(&self) -> (&Path, bool) {
        (&self.path, self.health.is_silent())
    }

    fn new(core: &Core, now: Instant, worker: usize) -> Self {
        let path = Path::new(worker as u8, now, core.plaintext_wanted);
        Self { worker, path, health: PathHealth::new(now) }
    }

    pub(super) const fn worker(&self) -> usize {
        self.worker
    }

    pub(super) const fn number(&self) -> u8 {
        self.path.number
    }

    pub(super) const fn rtt(&self) -> Option<Duration> {
        self.path.rtt
    }

    /// Leads the path another way, on which it has yet to show that it gets through. Its number.
    pub(super) fn lead_to(&mut self, now: Instant, route: Endpoint) -> u8 {
        self.path.move_to(now, route);
        self.path.confirmed = false;
        self.health.heard(now);
        self.path.number
    }

    /// Sends a probe; its token.
    pub(super) fn probe(&mut self, core: &mut Core, now: Instant, session: &Session) -> u64 {
        self.path.send_probe(core, now, session, self.worker, 0)
    }

    pub(super) const fn is_confirmed(&self) -> bool {
        self.path.confirmed
    }
}

impl Client {
    /// The TUN device has another MTU: every path should carry that.
    pub(super) fn set_tun_mtu(&mut self, core: &mut Core, now: Instant, tun_mtu: u16) {
        let wanted = padded_len(usize::from(tun_mtu));
        if std::mem::replace(&mut core.plaintext_wanted, wanted) != wanted {
            for path in &mut self.paths {
                path.path.want(now, wanted);
            }
            self.drive_mtu(core, now);
        }
    }

    /// Makes the paths those of a new session. While connected, what they carry is still known.
    pub(super) fn adopt_paths(&mut self, core: &mut Core, now: Instant, session: &Session) {
        let route = self.route();
        let mut known = std::mem::take(&mut self.paths);
        known.retain(|_| self.connected);
        for (number, worker) in (0..).zip(session.plan.participants()) {
            let position = known.iter().position(|path| path.worker == worker);
            let path = position.map(|position| known.swap_remove(position));
            let mut path = path.unwrap_or_else(|| ClientPath::new(core, now, worker));
            path.path.number = number;
            path.path.adopt(core, session);
            path.path.endpoint.get_or_insert(route);
            path.health = PathHealth::new(now);
            self.paths.push(path);
        }
    }

    /// Probes every path that has not answered on the current session yet. The first probe also
    /// shows the server that this side has the keys.
    pub(super) fn probe_unconfirmed(&mut self, core: &mut Core, now: Instant) {
        let Some(current) = &self.current else { return };
        for path in self.paths.iter_mut().filter(|path| !path.path.confirmed) {
            path.probe(core, now, &current.session);
        }
    }

    pub(super) fn handle_path_seen(
        &mut self,
        core: &mut Core,
        now: Instant,
        path: u8,
        endpoint: Endpoint,
    ) {
        if !self.keeps_way(core, path, &endpoint) {
            return;
        }
        let Some(seen) = self.paths.get_mut(usize::from(path)) else { return };
        seen.health.heard(now);
        if let Some(before) = seen.path.move_to(now, endpoint) {
            core.event(EngineEvent::PeerMoved {
                peer: self.server_key,
                path,
                from: before.remote,
                to: endpoint.remote,
            });
        }
        self.confirm(core, path);
    }

    pub(super) fn handle_probe_ack(
        &mut self,
        core: &mut Core,
        now: Instant,
        path: u8,
        token: u64,
        plaintext_len: usize,
    ) {
        self.note_answer(now, token);
        let Some(answered) = self.paths.get_mut(usize::from(path)) else { return };
        let Some(probe) = answered.path.handle_answer(now, token, plaintext_len) else { return };
        answered.health.heard(now);
        if self.is_current(probe.session) {
            self.confirm(core, path);
        }
    }

    /// Something came back on `path` under the keys of the current session.
    fn confirm(&mut self, core: &mut Core, path: u8) {
        let Some(path) = self.paths.get_mut(usize::from(path)) else { return };
        path.path.confirmed = true;
        self.fruitless = 0;
        if !std::mem::replace(&mut self.connected, true) {
            let handshake = self.history.handshake;
            core.event(EngineEvent::Connected { peer: self.server_key, handshake });
        }
        let Some(current) = &mut self.current else { return };
        let all_confirmed = self.paths.iter().all(|path| path.path.confirmed);
        if current.confirmation.take_if(|_| all_confirmed).is_some() {
            let has_all_paths = current.session.plan.own_workers() == core.workers;
            if has_all_paths {
                self.one_path_wait = PATHS_RETRY_FIRST;
            }
            if has_all_paths && self.only_queue.is_some() {
                self.attach_all(core);
            }
        }
    }

    /// Answers a probe of the server along the path that it came on.
    pub(super) fn answer_probe(
        &self,
        core: &mut Core,
        worker: usize,
        session: SessionIndex,
        path: u8,
        token: u64,
        plaintext_len: usize,
    ) {
        let Some(session) = self.session(session) else { return };
        let plaintext_len = u16::try_from(plaintext_len).unwrap_or(u16::MAX);
        let answer = PathMessage::ProbeAck { path, token, plaintext_len };
        session.send_path_message(core, worker, answer, 0);
    }

    pub(super) fn handle_too_big(
        &mut self,
        core: &mut Core,
        now: Instant,
        path: u8,
        plaintext_len: usize,
    ) {
        let Some(current) = &self.current else { return };
        if let Some(path) = self.paths.get_mut(usize::from(path)) {
            path.path.handle_too_big(core, now, &current.session, plaintext_len);
        }
    }

    pub(super) fn drive_mtu(&mut self, core: &mut Core, now: Instant) {
        let Some(current) = &self.current else { return };
        for path in &mut self.paths {
            path.path.drive_mtu(core, now, &current.session);
        }
    }

    /// Asks unconfirmed paths again and, when their time is over, goes on without them.
    pub(super) fn drive_confirmation(&mut self, core: &mut Core, now: Now) {
        let at = now.monotonic;
        let Some(current) = &mut self.current else { return };
        let Some(confirmation) = &mut current.confirmation else { return };
        if at >= confirmation.deadline {
            current.confirmation = None;
            let silent = self.numbers(|path| !path.path.confirmed);
            let is_trial = self.connected && silent.len() > 1;
            match self.only_queue.filter(|_| is_trial) {
                _ if silent.len() < self.paths.len() => self.reduce_paths(core, now, silent),
                // Not even the path that is in use gets through among others: it is gone back to.
                Some(worker) => self.go_on_with(core, now, worker),
                None => self.lose_unconfirmed(core, at),
            }
        } else if at >= confirmation.retry_at {
            confirmation.retry_at = at + PATH_CONFIRM_RETRY;
            self.probe_unconfirmed(core, at);
        }
    }

    /// Looks at the activity counters: probes paths that have fallen silent, gives up those that
    /// stay so, and keeps idle paths open.
    pub(super) fn scan(&mut self, core: &mut Core, now: Now) {
        let at = now.monotonic;
        self.observe(core, at);
        self.keep_alive(core, at);
        let Some(current) = &self.current else { return };
        if current.confirmation.is_some() {
            return;
        }
        let mut suspicion = false;
        let mut gone = Vec::new();
        for path in &mut self.paths {
            match path.health.judge(at) {
                Verdict::Fine => {}
                Verdict::Probe { first } => {
                    suspicion |= first;
                    path.probe(core, at, &current.session);
                }
                Verdict::Gone => gone.push(path.path.number),
            }
        }
        if suspicion {
            for path in &mut self.paths {
                if path.health.suspect(at) {
                    path.probe(core, at, &current.session);
                }
            }
        }
        if gone.is_empty() {
            return;
        }
        if gone.len() == self.paths.len() {
            self.one_path = None;
            self.lose_session(core, at, DisconnectReason::Silent, Duration::ZERO);
        } else if self.only_queue.is_none() {
            self.reduce_paths(core, now, gone);
        }
    }

    fn observe(&mut self, core: &mut Core, now: Instant) {
        let Some(current) = &self.current else { return };
        let mut heard = Vec::new();
        for path in &mut self.paths {
            let lane = current.session.usage.lane(path.worker);
            let (sent, received) = (lane.sent.packets.get(), lane.received.packets.get());
            if path.health.observe(now, sent, received) && !path.path.confirmed {
                heard.push(path.path.number);
            }
        }
        for path in heard {
            self.confirm(core, path);
        }
    }

    fn keep_alive(&mut self, core: &mut Core, now: Instant) {
        let (Some(keepalive), Some(current)) = (self.options.keepalive, &self.current) else {
            return;
        };
        for path in &mut self.paths {
            if now >= path.health.last_activity() + keepalive {
                let session = current.session.local;
                let command = WorkerCommand::SendKeepalive { session };
                core.command(Target::Worker(path.worker), command);
                path.health.note_sent(now);
            }
        }
    }

    /// Some paths do not get through, others do: goes on with one that does, by a new handshake,
    /// because a session's lanes are fixed when it begins. All paths are tried again later; the
    /// queues stay detached until they answer, so a trial disturbs nothing as long as the path in
    /// use gets through. Where it does not get through among others, a trial costs the time that
    /// paths are given to be confirmed, and the next comes after twice as long.
    fn reduce_paths(&mut self, core: &mut Core, now: Now, silent: Vec<u8>) {
        let gets_through = |path: &&ClientPath| !silent.contains(&path.path.number);
        let mut workers = self.paths.iter().filter(gets_through).map(|path| path.worker);
        // The one in use, if it still gets through: its flows stay where they are.
        let in_use = self.only_queue.filter(|worker| workers.clone().any(|it| it == *worker));
        let Some(worker) = in_use.or_else(|| workers.next()) else { return };
        if self.only_queue.is_none() {
            core.event(EngineEvent::PathsReduced { peer: self.server_key, silent });
        }
        self.go_on_with(core, now, worker);
    }

    fn go_on_with(&mut self, core: &mut Core, now: Now, worker: usize) {
        self.one_path = Some(OnePath { worker, until: now.monotonic + self.one_path_wait });
        self.attach_only(core, worker);
        self.forget_loss();
        self.begin_attempt(core, now);
    }

    /// When to try all paths again, while one is in use.
    pub(super) fn trial_at(&self) -> Option<Instant> {
        self.current.as_ref().filter(|current| current.confirmation.is_none())?;
        self.one_path.map(|one| one.until)
    }

    /// Takes the TUN queues of all workers but one out of use.
    pub(super) fn attach_only(&mut self, core: &mut Core, worker: usize) {
        if self.only_queue.replace(worker) == Some(worker) {
            return;
        }
        // First the one that stays: a device with no queue attached loses what it is given.
        set_queue_attached(core, worker, true);
        for other in (0..usize::from(core.workers)).filter(|other| *other != worker) {
            set_queue_attached(core, other, false);
        }
    }

    fn attach_all(&mut self, core: &mut Core) {
        self.only_queue = None;
        for worker in 0..usize::from(core.workers) {
            set_queue_attached(core, worker, true);
        }
        core.event(EngineEvent::PathsRestored { peer: self.server_key });
    }

    fn numbers(&self, filter: impl Fn(&ClientPath) -> bool) -> Vec<u8> {
        self.paths.iter().filter(|path| filter(path)).map(|path| path.path.number).collect()
    }

    pub(super) fn is_current(&self, session: SessionIndex) -> bool {
        self.current.as_ref().is_some_and(|current| current.session.local == session)
    }

    pub(super) fn session(&self, index: SessionIndex) -> Option<&Session> {
        let current = self.current.as_ref().map(|current| &current.session);
        current.into_iter().chain(&self.previous).find(|session| session.local == index)
    }
}

fn set_queue_attached(core: &mut Core, worker: usize, attached: bool) {
    core.command(Target::Worker(worker), WorkerCommand::SetQueueAttached(attached));
}
