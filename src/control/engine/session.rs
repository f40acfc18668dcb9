//! A session as the control thread knows it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::dataplane::messages::{Endpoint, SessionInstall, WorkerCommand};
use crate::handshake::Established;
use crate::limits::REJECT_AFTER;
use crate::policy::PeerPolicy;
use crate::routing::PeerId;
use crate::session::lanes::LanePlan;
use crate::telemetry::counters::{SessionUsage, UsageTotals};
use crate::telemetry::status::LanesInUse;
use crate::wire::{Features, PathMessage, SessionIndex};

use super::Target;
use super::core::Core;

/// Why a session was closed, as told to the far side. Only shown to people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum CloseReason {
    /// This side stops.
    Stopping = 0,
    /// The peer is no longer configured.
    Removed = 1,
}

/// When a session that began `since` must not be used any more.
pub(super) fn expiry(since: Instant) -> Instant {
    since + REJECT_AFTER
}

/// A session that the workers have installed.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) local: SessionIndex,
    pub(super) plan: LanePlan,
    pub(super) features: Features,
    pub(super) usage: Arc<SessionUsage>,
    /// When its life began: for a client when it sent the initiation, so that it stops using the
    /// session no later than the server does.
    pub(super) since: Instant,
}

impl Session {
    /// Tells the workers to receive on a new session, and to send on it once they know where to.
    pub(super) fn install(
        core: &mut Core,
        peer: PeerId,
        policy: Option<Arc<PeerPolicy>>,
        established: Established,
        endpoint: Option<Endpoint>,
        since: Instant,
    ) -> Self {
        let usage = Arc::new(SessionUsage::new(usize::from(core.workers)));
        let install = SessionInstall {
            peer,
            local: established.local,
            remote: established.remote,
            plan: established.plan,
            send_secret: Arc::new(established.send_secret),
            receive_secret: Arc::new(established.receive_secret),
            expires: expiry(since),
            features: established.features,
            endpoint,
            usage: Arc::clone(&usage),
            policy,
        };
        let session = Self {
            local: install.local,
            plan: install.plan,
            features: install.features,
            usage,
            since,
        };
        core.command_session(&session.plan, WorkerCommand::InstallSession(Box::new(install)));
        session
    }

    /// Tells the workers to forget the session, and what it carried to `history`.
    pub(super) fn remove(self, core: &mut Core, history: &mut History) {
        core.command(Target::All, WorkerCommand::RemoveSession { session: self.local });
        history.add(self.usage.totals());
    }

    /// When the session must not be used any more.
    pub(super) fn expires(&self) -> Instant {
        expiry(self.since)
    }

    /// Says goodbye through `worker`.
    pub(super) fn send_close(&self, core: &mut Core, worker: usize, reason: CloseReason) {
        let message = PathMessage::Close { reason: reason as u8 };
        self.send_path_message(core, worker, message, 0);
    }

    /// Sends a path message through `worker`, padded to `plaintext_len` bytes.
    pub(super) fn send_path_message(
        &self,
        core: &mut Core,
        worker: usize,
        message: PathMessage,
        plaintext_len: usize,
    ) {
        let session = self.local;
        core.command(
            Target::Worker(worker),
            WorkerCommand::SendPathMessage { session, message, plaintext_len },
        );
    }

    /// The worker of this side whose packets go out on `path`, if any does.
    pub(super) fn sender_on(&self, path: u8) -> Option<usize> {
        self.plan.participants().find(|worker| self.plan.send_path(*worker) == path)
    }

    pub(super) fn lanes_in_use(&self) -> LanesInUse {
        let workers = self.plan.participants();
        let mut receiving: Vec<u8> =
            workers.clone().flat_map(|worker| self.plan.receive_lanes(worker)).collect();
        receiving.sort_unstable();
        LanesInUse {
            sending: workers.map(|worker| self.plan.send_lane(worker)).collect(),
            receiving,
        }
    }
}

/// What is known about a peer beyond its live sessions.
#[derive(Debug, Default)]
pub(super) struct History {
    pub(super) rekeys: u64,
    pub(super) last_handshake: Option<Instant>,
    /// From the first initiation to the response.
    pub(super) handshake: Option<Duration>,
    sent_bytes: u64,
    received_bytes: u64,
}

impl History {
    fn add(&mut self, totals: UsageTotals) {
        self.sent_bytes += totals.sent_bytes;
        self.received_bytes += totals.received_bytes;
    }

    /// Inner bytes sent and received, those of the given live sessions included.
    pub(super) fn bytes<'a>(&self, live: impl Iterator<Item = &'a Session>) -> (u64, u64) {
        live.map(|session| session.usage.totals())
            .fold((self.sent_bytes, self.received_bytes), |(sent, received), totals| {
                (sent + totals.sent_bytes, received + totals.received_bytes)
            })
    }
}
