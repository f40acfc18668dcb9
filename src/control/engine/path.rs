//! One path of a peer: where it leads, what it carries, and the probes on their way.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use rand::Rng;

use crate::dataplane::messages::{Endpoint, WorkerCommand};
use crate::limits::{PATH_PLAINTEXT_BASE, PROBES_OUTSTANDING_MAX};
use crate::telemetry::status::PathStatus;
use crate::wire::{PathMessage, SessionIndex};

use super::core::Core;
use super::path_mtu::PathMtu;
use super::session::Session;

/// A path. It outlives the sessions that use it, as long as their number of paths stays.
#[derive(Debug)]
pub(super) struct Path {
    pub(super) number: u8,
    /// The far end's address, learned from authenticated packets.
    pub(super) endpoint: Option<Endpoint>,
    /// Whether the current session has received on this path.
    pub(super) confirmed: bool,
    pub(super) rtt: Option<Duration>,
    mtu: PathMtu,
    /// Inner bytes sent when the MTU was last looked at, to tell whether the path is idle.
    bytes_seen: u64,
    probes: VecDeque<SentProbe>,
}

/// A probe that may still be answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct SentProbe {
    token: u64,
    pub(super) session: SessionIndex,
    sent: Instant,
    plaintext_len: usize,
}

impl Path {
    pub(super) fn new(number: u8, now: Instant, plaintext_wanted: usize) -> Self {
        Self {
            number,
            endpoint: None,
            confirmed: false,
            rtt: None,
            mtu: PathMtu::new(now, plaintext_wanted),
            bytes_seen: 0,
            probes: VecDeque::new(),
        }
    }

    /// Sends a probe through `worker`, padded to `plaintext_len` bytes of plaintext. Its token.
    pub(super) fn send_probe(
        &mut self,
        core: &mut Core,
        now: Instant,
        session: &Session,
        worker: usize,
        plaintext_len: usize,
    ) -> u64 {
        let token = core.rng.random();
        if self.probes.len() >= PROBES_OUTSTANDING_MAX {
            self.probes.pop_front();
        }
        self.probes.push_back(SentProbe {
            token,
            session: session.local,
            sent: now,
            plaintext_len,
        });
        let message = PathMessage::Probe { path: self.number, token };
        session.send_path_message(core, worker, message, plaintext_len);
        token
    }

    /// A probe of this path came back; `None` if it was not one of ours.
    pub(super) fn handle_answer(
        &mut self,
        now: Instant,
        token: u64,
        plaintext_len: usize,
    ) -> Option<SentProbe> {
        let position = self.probes.iter().position(|probe| probe.token == token)?;
        let probe = self.probes.remove(position)?;
        if self.probes.is_empty() {
            // An idle path has no probe on its way for minutes.
            self.probes = VecDeque::new();
        }
        self.rtt = Some(now.saturating_duration_since(probe.sent));
        if plaintext_len >= probe.plaintext_len {
            self.mtu.handle_answer(now, probe.plaintext_len);
        }
        Some(probe)
    }

    /// An authenticated packet came from `endpoint`: the address before, if it was another.
    pub(super) fn move_to(&mut self, now: Instant, endpoint: Endpoint) -> Option<Endpoint> {
        let before = self.endpoint.replace(endpoint);
        let moved = before.filter(|before| before.remote != endpoint.remote);
        if moved.is_some() {
            self.mtu.restart(now);
        }
        moved
    }

    /// A session has taken over: it must show afresh that the path leads somewhere, but what the
    /// path carries is still known.
    pub(super) fn adopt(&mut self, core: &mut Core, session: &Session) {
        self.confirmed = false;
        self.bytes_seen = 0;
        if self.mtu.plaintext_max() != core.plaintext_of_workers {
            self.tell_plaintext_max(core, session, self.mtu.plaintext_max());
        }
    }

    /// The path is to carry `plaintext_wanted` bytes from now on.
    pub(super) fn want(&mut self, now: Instant, plaintext_wanted: usize) {
        self.mtu.want(now, plaintext_wanted);
    }

    pub(super) fn handle_too_big(
        &mut self,
        core: &mut Core,
        now: Instant,
        session: &Session,
        plaintext_len: usize,
    ) {
        self.mtu.handle_refusal(now, plaintext_len);
        self.tell_mtu_change(core, session);
    }

    /// When [`Self::drive_mtu`] is due; never for a path that this side does not send on.
    pub(super) fn mtu_timeout(&self, session: &Session) -> Option<Instant> {
        (self.confirmed && session.sender_on(self.number).is_some())
            .then(|| self.mtu.poll_timeout())
    }

    /// Sends the MTU probes that are due and tells the workers about changes. The probes also
    /// measure the round-trip time of a path that carries traffic.
    pub(super) fn drive_mtu(&mut self, core: &mut Core, now: Instant, session: &Session) {
        self.tell_mtu_change(core, session);
        let Some(worker) = session.sender_on(self.number) else { return };
        if !self.confirmed || now < self.mtu.poll_timeout() {
            return;
        }
        let sent_bytes = session.usage.totals().sent_bytes;
        let active = sent_bytes != self.bytes_seen;
        self.bytes_seen = sent_bytes;
        if let Some(len) = self.mtu.poll_probe(now, active) {
            // The smaller one first: behind the larger one it would end a train with it, and be
            // lost with it where something on the way takes trains whole.
            self.send_probe(core, now, session, worker, PATH_PLAINTEXT_BASE);
            self.send_probe(core, now, session, worker, len);
        }
        self.tell_mtu_change(core, session);
    }

    fn tell_mtu_change(&mut self, core: &mut Core, session: &Session) {
        if let Some(plaintext_max) = self.mtu.take_change() {
            self.tell_plaintext_max(core, session, plaintext_max);
        }
    }

    fn tell_plaintext_max(&self, core: &mut Core, session: &Session, plaintext_max: usize) {
        let command = WorkerCommand::SetPathPlaintextMax {
            session: session.local,
            path: self.number,
            plaintext_max,
        };
        core.command_session(&session.plan, command);
    }

    pub(super) fn status(&self, silent: bool) -> PathStatus {
        let state = match (self.confirmed, silent) {
            (false, _) => "unconfirmed",
            (true, true) => "silent",
            (true, false) => "up",
        };
        PathStatus {
            path: usize::from(self.number),
            endpoint: self.endpoint.map(|endpoint| endpoint.remote.to_string()),
            state: state.to_owned(),
            plaintext_max: self.mtu.plaintext_max(),
        }
    }
}
