//! The server's side: grants sessions and follows its peers' addresses.

mod admitted;
mod peer;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use crate::dataplane::messages::{Endpoint, WorkerCommand, WorkerEvent};
use crate::handshake::keys::PublicKey;
use crate::handshake::{AcceptedInitiation, InitiationOutcome, Origin, Responder, ResponderParams};
use crate::policy::PeerPolicy;
use crate::routing::{PeerId, PrefixTable};
use crate::session::lanes::{LanePlan, grant_base};
use crate::telemetry::counters::Carried;
use crate::telemetry::drops::DropReason;
use crate::telemetry::status::PeerStatus;
use crate::wire::{MessageType, PathMessage, SessionIndex};

use super::core::Core;
use super::session::{CloseReason, Session};
use super::usage::Ledger;
use super::{DisconnectReason, Now, PeerSetup, Target};
use peer::Peer;

pub use admitted::AdmitError;

/// All peers and who owns which session index.
pub(super) struct Server {
    responder: Responder,
    peers: BTreeMap<PeerId, Peer>,
    /// The order of the configuration: of two peers that name a prefix, the last owns it.
    order: Vec<PeerId>,
    by_key: BTreeMap<PublicKey, PeerId>,
    by_session: BTreeMap<SessionIndex, PeerId>,
    /// Whose the inner prefixes are, as the workers were told.
    prefixes: PrefixTable,
    /// Sessions received on each worker, to spread new ones.
    load: Vec<u32>,
    wakeups: Wakeups,
    ledger: Ledger,
    peers_made: u32,
}

impl Server {
    pub(super) fn new(core: &mut Core, now: Instant) -> Self {
        let responder = Responder::new(Arc::clone(&core.identity), now, &mut core.rng);
        Self {
            responder,
            peers: BTreeMap::new(),
            order: Vec::new(),
            by_key: BTreeMap::new(),
            by_session: BTreeMap::new(),
            prefixes: PrefixTable::default(),
            load: vec![0; usize::from(core.workers)],
            wakeups: Wakeups::default(),
            ledger: Ledger::default(),
            peers_made: 0,
        }
    }

    /// Puts `setups` in place of the peers that are configured. Those that stay keep sessions,
    /// and those that were admitted are left alone.
    pub(super) fn set_peers(&mut self, core: &mut Core, setups: Vec<PeerSetup>) {
        let mut order = Vec::with_capacity(setups.len());
        for setup in setups {
            if let Some(id) = self.by_key.get(&setup.public_key).copied() {
                if let Some(peer) = self.peers.get_mut(&id) {
                    peer.replace_setup(core, setup);
                    peer.is_admitted = false;
                }
                order.push(id);
                continue;
            }
            order.push(self.add_peer(setup, false));
        }
        let kept: BTreeSet<PeerId> = order.iter().copied().collect();
        let is_gone = |(id, peer): &(&PeerId, &Peer)| !peer.is_admitted && !kept.contains(*id);
        let gone: Vec<PeerId> = self.peers.iter().filter(is_gone).map(|(id, _)| *id).collect();
        self.order = order;
        for id in gone {
            self.remove_peer(core, id, DisconnectReason::Removed);
        }
        self.share_out_prefixes();
        self.announce_prefixes(core);
    }

    fn add_peer(&mut self, setup: PeerSetup, is_admitted: bool) -> PeerId {
        let id = PeerId(self.peers_made);
        self.peers_made += 1;
        self.by_key.insert(setup.public_key, id);
        self.peers.insert(id, Peer::new(id, setup, is_admitted));
        id
    }

    fn remove_peer(&mut self, core: &mut Core, id: PeerId, reason: DisconnectReason) {
        let Some(mut peer) = self.peers.remove(&id) else { return };
        self.by_key.remove(&peer.setup.public_key);
        if let Some(origin) = peer.origin {
            self.responder.remove_regular(origin);
        }
        self.wakeups.set(id, None);
        let was_connected = peer.is_connected();
        peer.say_goodbye(core, CloseReason::Removed);
        for session in peer.take_sessions() {
            self.forget(core, &mut peer, session);
        }
        peer.note_disconnect(core, was_connected, reason);
    }

    /// Gives every prefix to its owner afresh: a configured peer's to the last that names it, an
    /// admitted one's to that, unless the configuration gives it to another by now.
    fn share_out_prefixes(&mut self) {
        let configured = self.order.iter().filter_map(|id| self.peers.get(id));
        let entries =
            configured.flat_map(|peer| peer.setup.allowed.iter().map(|prefix| (*prefix, peer.id)));
        let mut prefixes = PrefixTable::from_entries(entries);
        for peer in self.admitted() {
            for prefix in &peer.setup.allowed {
                if prefixes.owner(*prefix).is_none() {
                    prefixes.insert(*prefix, peer.id);
                }
            }
        }
        self.prefixes = prefixes;
    }

    /// Sets what a peer may do from now on; whether there is such a peer.
    pub(super) fn set_policy(
        &mut self,
        core: &mut Core,
        peer: &PublicKey,
        policy: Option<Arc<PeerPolicy>>,
    ) -> bool {
        let peer = self.by_key.get(peer).and_then(|id| self.peers.get_mut(id));
        peer.map(|peer| peer.set_policy(core, policy)).is_some()
    }

    pub(super) fn take_usage(&mut self) -> Vec<(PublicKey, Carried)> {
        let live = self.peers.values().filter(|peer| peer.setup.policy.is_some());
        self.ledger.take(live.flat_map(Peer::usage))
    }

    fn announce_prefixes(&self, core: &mut Core) {
        let table = Arc::new(self.prefixes.clone());
        core.command(Target::All, WorkerCommand::SetPrefixes(table));
    }

    /// The peers that were admitted, oldest first.
    fn admitted(&self) -> impl Iterator<Item = &Peer> {
        self.peers.values().filter(|peer| peer.is_admitted)
    }

    pub(super) fn handle_datagram(
        &mut self,
        core: &mut Core,
        now: Now,
        from: Endpoint,
        datagram: &[u8],
    ) {
        match MessageType::of(datagram) {
            Some(MessageType::Initiation) => {}
            // A server asks for no session, so it expects no answer; data messages go to workers.
            Some(MessageType::Response | MessageType::CookieReply) => {
                return core.count(DropReason::HandshakeUnexpected);
            }
            Some(MessageType::Data) => return core.count(DropReason::LaneWrong),
            None => return core.count(DropReason::DatagramUnknownType),
        }
        let outcome =
            self.responder.consume_initiation(now.monotonic, from.remote, datagram, &mut core.rng);
        match outcome {
            InitiationOutcome::Reply(cookie_reply) => {
                core.count(DropReason::HandshakeCookieRequired);
                core.transmit(from, cookie_reply);
            }
            InitiationOutcome::Drop(error) => core.count_error(&error),
            InitiationOutcome::Accepted(accepted) => {
                self.handle_initiation(core, now, from, *accepted);
            }
        }
    }

    /// An initiation whose sender owns its key: grants a session if the peer is known and the
    /// initiation is no replay.
    fn handle_initiation(
        &mut self,
        core: &mut Core,
        now: Now,
        from: Endpoint,
        accepted: AcceptedInitiation,
    ) {
        let Some(id) = self.by_key.get(&accepted.peer).copied() else {
            return core.count(DropReason::HandshakePeerUnknown);
        };
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if !accepted.timestamp.is_newer_than(peer.last_timestamp.as_ref()) {
            core.count(DropReason::HandshakeReplayed);
            peer.warn_of_replay(core, now.monotonic, from.remote);
            return;
        }
        let timestamp = accepted.timestamp;
        let workers = accepted.params.workers;
        let base =
            peer.base_for(workers).unwrap_or_else(|| grant_base(core.workers, workers, &self.load));
        let params = ResponderParams { workers: core.workers, base, features: core.features };
        let local = core.unused_index(|index| self.by_session.contains_key(&index));
        let answer = accepted.respond(local, &peer.setup.preshared_key, params, &mut core.rng);
        let (response, established) = match answer {
            Ok(answer) => answer,
            Err(error) => return core.count_error(&error),
        };
        peer.last_timestamp = Some(timestamp);
        let origin = Origin::from(from.remote);
        if peer.origin != Some(origin) {
            self.responder.add_regular(now.monotonic, origin);
            if let Some(before) = peer.origin.replace(origin) {
                self.responder.remove_regular(before);
            }
        }
        let policy = peer.setup.policy.clone();
        let session = Session::install(core, id, policy, established, None, now.monotonic);
        self.by_session.insert(local, id);
        adjust_load(&mut self.load, &session.plan, 1);
        let superseded = peer.next.replace(session);
        core.transmit(from, response);
        self.with_peer(core, now.monotonic, id, |server, core, peer| {
            if let Some(session) = superseded {
                server.forget(core, peer, session);
            }
        });
    }

    pub(super) fn handle_worker_event(&mut self, core: &mut Core, now: Now, event: WorkerEvent) {
        let session = match &event {
            WorkerEvent::PathSeen { session, .. }
            | WorkerEvent::PathMessage { session, .. }
            | WorkerEvent::PathTooBig { session, .. } => *session,
            // The client sees the same counters from its side and is the one to rekey.
            WorkerEvent::KeyNearlyUsed { .. }
            | WorkerEvent::DeviceGone { .. }
            | WorkerEvent::Failed { .. }
            | WorkerEvent::Stopped { .. }
            | WorkerEvent::Closed { .. } => return,
        };
        let Some(id) = self.by_session.get(&session).copied() else { return };
        let now = now.monotonic;
        self.with_peer(core, now, id, |server, core, peer| match event {
            WorkerEvent::PathSeen { path, endpoint, .. } => {
                for session in peer.handle_path_seen(core, now, session, path, endpoint) {
                    server.forget(core, peer, session);
                }
            }
            WorkerEvent::PathMessage { worker, endpoint, message, plaintext_len, .. } => {
                match message {
                    // Unanswered, it asks for a session of its own.
                    PathMessage::Probe { .. } if peer.is_left_behind(now, session) => {
                        peer.warn_of_twin(core, now);
                    }
                    PathMessage::Probe { path, token } => {
                        peer.answer_probe(core, worker, session, path, token, plaintext_len);
                    }
                    PathMessage::ProbeAck { path, token, plaintext_len } => {
                        peer.handle_probe_ack(now, path, token, usize::from(plaintext_len));
                    }
                    PathMessage::Close { .. } => server.close(core, peer, session),
                    PathMessage::Inquiry { .. } if peer.is_left_behind(now, session) => {}
                    PathMessage::Inquiry { path, token } => {
                        let message = PathMessage::InquiryAnswer { path, token };
                        let command =
                            WorkerCommand::SendPathMessageTo { session, message, endpoint };
                        core.command(Target::Worker(worker), command);
                    }
                    // A server asks nobody.
                    PathMessage::InquiryAnswer { .. } => {}
                }
            }
            WorkerEvent::PathTooBig { path, plaintext_len, .. } => {
                peer.handle_too_big(core, now, path, plaintext_len);
            }
            WorkerEvent::KeyNearlyUsed { .. }
            | WorkerEvent::DeviceGone { .. }
            | WorkerEvent::Failed { .. }
            | WorkerEvent::Stopped { .. }
            | WorkerEvent::Closed { .. } => {}
        });
    }

    /// The peer ended `session`: that and the ones before it are gone. A later one stays, since a
    /// client that restarts may say goodbye to the old session after it has asked for a new one.
    fn close(&mut self, core: &mut Core, peer: &mut Peer, session: SessionIndex) {
        let was_connected = peer.is_connected();
        for session in peer.take_sessions_up_to(session) {
            self.forget(core, peer, session);
        }
        peer.note_disconnect(core, was_connected, DisconnectReason::Closed);
    }

    pub(super) fn handle_timeout(&mut self, core: &mut Core, now: Instant) {
        while let Some(id) = self.wakeups.pop_due(now) {
            self.with_peer(core, now, id, |server, core, peer| {
                let was_connected = peer.is_connected();
                for session in peer.take_expired(now) {
                    server.forget(core, peer, session);
                }
                peer.note_disconnect(core, was_connected, DisconnectReason::Expired);
            });
        }
    }

    /// Runs `action` on a peer, then drives what became due and schedules what comes next.
    fn with_peer(
        &mut self,
        core: &mut Core,
        now: Instant,
        id: PeerId,
        action: impl FnOnce(&mut Self, &mut Core, &mut Peer),
    ) {
        let Some(mut peer) = self.peers.remove(&id) else { return };
        action(self, core, &mut peer);
        peer.drive_paths(core, now);
        self.wakeups.set(id, peer.poll_timeout());
        self.peers.insert(id, peer);
    }

    /// Removes a session that `peer` has already let go of.
    fn forget(&mut self, core: &mut Core, peer: &mut Peer, session: Session) {
        self.by_session.remove(&session.local);
        adjust_load(&mut self.load, &session.plan, -1);
        if peer.setup.policy.is_some() {
            self.ledger.end(peer.setup.public_key, Arc::clone(&session.usage));
        }
        session.remove(core, &mut peer.history);
    }

    pub(super) fn request_close(&mut self, core: &mut Core) {
        for peer in self.peers.values() {
            peer.say_goodbye(core, CloseReason::Stopping);
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.wakeups.next()
    }

    pub(super) fn status(&self, now: Instant) -> Vec<PeerStatus> {
        let configured = self.order.iter().filter_map(|id| self.peers.get(id));
        configured.chain(self.admitted()).map(|peer| peer.status(now)).collect()
    }
}

/// Adds `change` sessions to the workers that receive the lanes of `plan`.
fn adjust_load(load: &mut [u32], plan: &LanePlan, change: i32) {
    for (worker, load) in load.iter_mut().enumerate() {
        if plan.receive_lanes(worker).next().is_some() {
            *load = load.saturating_add_signed(change);
        }
    }
}

/// When each peer is due, and which is next.
#[derive(Debug, Default)]
struct Wakeups {
    by_peer: BTreeMap<PeerId, Instant>,
    queue: BTreeSet<(Instant, PeerId)>,
}

impl Wakeups {
    fn set(&mut self, peer: PeerId, at: Option<Instant>) {
        let before = match at {
            Some(at) => {
                self.queue.insert((at, peer));
                self.by_peer.insert(peer, at)
            }
            None => self.by_peer.remove(&peer),
        };
        if let Some(before) = before.filter(|before| Some(*before) != at) {
            self.queue.remove(&(before, peer));
        }
    }

    fn next(&self) -> Option<Instant> {
        self.queue.first().map(|(at, _)| *at)
    }

    fn pop_due(&mut self, now: Instant) -> Option<PeerId> {
        let (_, peer) = *self.queue.first().filter(|(at, _)| *at <= now)?;
        self.set(peer, None);
        Some(peer)
    }
}
