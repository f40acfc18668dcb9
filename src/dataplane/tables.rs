//! What one worker knows: sessions by receiver index, peers by inner address, lanes by number.
//!
//! The tables belong to one worker alone and change only by its commands, between batches. Lane
//! keys are derived the first time a lane is used, so an idle session costs no key schedule.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::dataplane::index_map::IndexMap;
use crate::dataplane::messages::{Endpoint, SessionInstall};
use crate::dataplane::policing::Passed;
use crate::limits::{LANE_EVENTS_BURST, LANE_EVENTS_PPS, SESSIONS_PER_PEER_MAX};
use crate::packet::{Parsed, Transport};
use crate::policy::{Direction, PeerPolicy};
use crate::rate::Rate;
use crate::routing::{PeerId, PrefixTable};
use crate::session::keys::LaneSecret;
use crate::session::lane::{ReceiveLane, SendLane};
use crate::session::lanes::LanePlan;
use crate::telemetry::counters::SessionUsage;
use crate::telemetry::drops::DropReason;
use crate::wire::{DataHeader, Features, SessionIndex};

/// How often one lane may have something for the control thread.
const LANE_EVENTS: Rate = Rate::new(LANE_EVENTS_PPS, LANE_EVENTS_BURST);

/// A time in half the bytes of an [`Instant`], of which every session has some: nanoseconds since
/// the tables were made.
type Moment = u64;

/// A session as one worker holds it.
pub(super) struct Session {
    pub(super) peer: PeerId,
    pub(super) local: SessionIndex,
    pub(super) plan: LanePlan,
    pub(super) features: Features,
    pub(super) usage: Arc<SessionUsage>,
    /// What the peer may reach, and how fast; everything if there is none.
    pub(super) policy: Option<Arc<PeerPolicy>>,
    /// Where this worker's lane sends to, once known.
    pub(super) send_endpoint: Option<Endpoint>,
    /// The largest plaintext that fits the path this worker sends on.
    pub(super) plaintext_max: usize,
    /// When it has reached its last age.
    expires: Moment,
    /// Whether the control thread has been told that a key is nearly used up.
    pub(super) rekey_reported: bool,
    send: Option<Box<SendLane>>,
    receive: Box<[ReceiveSlot]>,
    send_secret: Arc<LaneSecret>,
    receive_secret: Arc<LaneSecret>,
    /// What the far side calls it.
    remote: SessionIndex,
}

/// One lane this worker receives.
#[derive(Default)]
struct ReceiveSlot {
    lane: Option<Box<ReceiveLane>>,
    /// Where authenticated packets of the lane last came from.
    endpoint: Option<Endpoint>,
    /// When it may again cause a full burst of events; `None` if it never caused one.
    events_full_at: Option<Instant>,
}

impl ReceiveSlot {
    /// Whether the lane may cause an event for the control thread, which all peers share.
    fn takes_event(&mut self, now: Instant) -> bool {
        let taken = LANE_EVENTS.take(now, self.events_full_at.unwrap_or(now));
        self.events_full_at = taken.or(self.events_full_at);
        taken.is_some()
    }
}

impl Session {
    fn new(install: SessionInstall, worker: usize, plaintext_max: usize, expires: Moment) -> Self {
        let slots = install.plan.receive_lanes(worker).count();
        Self {
            peer: install.peer,
            local: install.local,
            plan: install.plan,
            features: install.features,
            usage: install.usage,
            policy: install.policy,
            send_endpoint: install.endpoint,
            plaintext_max,
            expires,
            rekey_reported: false,
            send: None,
            receive: (0..slots).map(|_| ReceiveSlot::default()).collect(),
            send_secret: install.send_secret,
            receive_secret: install.receive_secret,
            remote: install.remote,
        }
    }

    /// The lane this worker seals on.
    #[inline]
    pub(super) fn send_lane(&mut self, worker: usize) -> &mut SendLane {
        self.send.get_or_insert_with(|| {
            let lane = self.plan.send_lane(worker);
            Box::new(SendLane::new(&self.send_secret, lane, self.remote))
        })
    }

    /// The lane numbered `lane`, if this worker receives it.
    #[inline]
    pub(super) fn receive_lane(&mut self, worker: usize, lane: u8) -> Option<&mut ReceiveLane> {
        let slot = self.receive_slot(worker, lane)?;
        let secret = &self.receive_secret;
        let slot = &mut self.receive[slot];
        Some(slot.lane.get_or_insert_with(|| Box::new(ReceiveLane::new(secret, lane))))
    }

    /// Notes that an authenticated packet of `lane` came from `endpoint`; tells whether that is
    /// news, and if so points this worker's own sending there when it shares the path. A lane that
    /// moves too often stays where it is for a while.
    #[inline]
    pub(super) fn note_source(
        &mut self,
        worker: usize,
        lane: u8,
        endpoint: Endpoint,
        now: Instant,
    ) -> bool {
        let Some(slot) = self.receive_slot(worker, lane) else { return false };
        let slot = &mut self.receive[slot];
        if slot.endpoint == Some(endpoint) || !slot.takes_event(now) {
            return false;
        }
        slot.endpoint = Some(endpoint);
        if self.plan.path_of_received_lane(lane) == self.plan.send_path(worker) {
            self.send_endpoint = Some(endpoint);
        }
        true
    }

    /// Whether a path message of `lane` may be handed to the control thread.
    pub(super) fn takes_path_message(&mut self, worker: usize, lane: u8, now: Instant) -> bool {
        self.receive_slot(worker, lane).is_some_and(|slot| self.receive[slot].takes_event(now))
    }

    /// Whether a packet is a datagram of this very session, which a route has led into the tunnel.
    /// It would come back larger each time, until it fits no more.
    #[inline]
    pub(super) fn has_sent(&self, parsed: &Parsed, packet: &[u8]) -> bool {
        let far_end = self.send_endpoint.map(|endpoint| endpoint.remote.ip());
        far_end == Some(parsed.destination)
            && parsed.transport == Some(Transport::Udp)
            && packet.get(parsed.payload_offset..).is_some_and(|payload| {
                DataHeader::parse(payload).is_ok_and(|it| it.receiver == self.remote)
            })
    }

    /// Forgets where `lane` came from, so that its next packet is news.
    pub(super) fn forget_source(&mut self, worker: usize, lane: u8) {
        if let Some(slot) = self.receive_slot(worker, lane) {
            self.receive[slot].endpoint = None;
        }
    }

    /// Lets the kernel choose the address that packets leave from, if so far it was `gone`, which
    /// this host has lost. Packets that arrive at another address set that one.
    #[cold]
    pub(super) fn forget_own_address(&mut self, gone: IpAddr) {
        if let Some(endpoint) = &mut self.send_endpoint
            && endpoint.local == Some(gone)
        {
            endpoint.local = None;
        }
    }

    /// Makes this worker's sending lane look as if it had sealed `counter` packets.
    #[cfg(test)]
    pub(super) fn spend_key(&mut self, worker: usize, counter: u64) {
        let lane = self.plan.send_lane(worker);
        let spent = SendLane::at_counter(&self.send_secret, lane, self.remote, counter);
        self.send = Some(Box::new(spent));
    }

    /// Makes every receiving lane look as if nothing had arrived on it.
    #[cfg(test)]
    pub(super) fn forget_counters(&mut self) {
        for slot in &mut self.receive {
            slot.lane = None;
        }
    }

    /// Applies what another worker learned about a path.
    fn set_path_endpoint(&mut self, worker: usize, path: u8, endpoint: Endpoint) {
        if path == self.plan.send_path(worker) {
            self.send_endpoint = Some(endpoint);
        }
        for lane in self.plan.receive_lanes(worker) {
            if self.plan.path_of_received_lane(lane) == path
                && let Some(slot) = self.receive_slot(worker, lane)
            {
                self.receive[slot].endpoint = Some(endpoint);
            }
        }
    }

    /// Where `lane` stands among the lanes this worker receives: they are all the valid lanes that
    /// leave the worker's number when divided by the count of this side's workers.
    #[inline]
    fn receive_slot(&self, worker: usize, lane: u8) -> Option<usize> {
        if !self.plan.receives(worker, lane) {
            return None;
        }
        let slot = usize::from(lane / self.plan.own_workers());
        (slot < self.receive.len()).then_some(slot)
    }
}

/// How many sessions of a peer a worker may know: while one takes the place of another, one more
/// than the control thread keeps.
const KNOWN_MAX: usize = SESSIONS_PER_PEER_MAX + 1;

/// The sessions of a peer on this worker, oldest first, in as little room as they need: there is
/// one of these for each peer that is connected.
struct PeerSessions {
    known: [SessionIndex; KNOWN_MAX],
    len: u8,
    /// The one that packets to the peer are sealed for: the newest whose path has an address.
    sending: Option<SessionIndex>,
}

impl Default for PeerSessions {
    fn default() -> Self {
        Self { known: [SessionIndex(0); KNOWN_MAX], len: 0, sending: None }
    }
}

impl PeerSessions {
    fn known(&self) -> &[SessionIndex] {
        self.known.get(..usize::from(self.len)).unwrap_or_default()
    }

    fn has_room(&self) -> bool {
        usize::from(self.len) < KNOWN_MAX
    }

    /// Adds the newest, if there is room.
    fn push(&mut self, index: SessionIndex) {
        if let Some(free) = self.known.get_mut(usize::from(self.len)) {
            *free = index;
            self.len += 1;
        }
    }

    fn remove(&mut self, index: SessionIndex) {
        let known = self.known().iter().position(|known| *known == index);
        if let Some(moved_up) = known.and_then(|it| self.known.get_mut(it..)) {
            moved_up.rotate_left(1);
            self.len -= 1;
        }
    }
}

/// All that one worker needs to know to move a packet.
pub(super) struct Tables {
    worker: usize,
    plaintext_max: usize,
    sessions: IndexMap<SessionIndex, Session>,
    peers: IndexMap<PeerId, PeerSessions>,
    began: Instant,
    /// When each session reaches its last age.
    expiries: BTreeSet<(Moment, SessionIndex)>,
    /// The first of these.
    next_expiry: Option<Instant>,
    prefixes: Arc<PrefixTable>,
    /// The owner of the address looked up last: packets come in runs to one address.
    last_lookup: Option<(IpAddr, PeerId)>,
    /// Conversations of peers with a policy that need not be judged again.
    passed: Passed,
}

impl Tables {
    /// Empty tables for `worker`; a path carries `plaintext_max` bytes until told otherwise.
    pub(super) fn new(now: Instant, worker: usize, plaintext_max: usize) -> Self {
        Self {
            worker,
            plaintext_max,
            sessions: IndexMap::default(),
            peers: IndexMap::default(),
            began: now,
            expiries: BTreeSet::new(),
            next_expiry: None,
            prefixes: Arc::default(),
            last_lookup: None,
            passed: Passed::default(),
        }
    }

    /// The peer that owns `address`.
    #[inline]
    pub(super) fn owner(&mut self, address: IpAddr) -> Option<PeerId> {
        match self.last_lookup {
            Some((last, peer)) if last == address => Some(peer),
            _ => {
                let peer = self.prefixes.lookup(address)?;
                self.last_lookup = Some((address, peer));
                Some(peer)
            }
        }
    }

    /// Whether the policy of a session's peer, if it has one, lets a packet pass.
    #[inline]
    pub(super) fn judge(
        &mut self,
        index: SessionIndex,
        direction: Direction,
        packet: &[u8],
        parsed: &Parsed,
    ) -> Result<(), DropReason> {
        let Self { sessions, prefixes, passed, .. } = self;
        let session = sessions.get(&index).ok_or(DropReason::SessionUnknown)?;
        let Some(policy) = &session.policy else { return Ok(()) };
        if policy.judge.passes_everything() {
            return Ok(());
        }
        let owner = |address| prefixes.lookup(address);
        passed.judge(session.peer, policy, direction, packet, parsed, owner)
    }

    /// The session that packets to `peer` are sealed for.
    #[inline]
    pub(super) fn sending_session(&mut self, peer: PeerId) -> Option<&mut Session> {
        let index = self.peers.get(&peer)?.sending?;
        self.sessions.get_mut(&index)
    }

    /// Whether `peer` has a session at all, be it without a known address.
    pub(super) fn has_session(&self, peer: PeerId) -> bool {
        self.peers.get(&peer).is_some_and(|sessions| sessions.len > 0)
    }

    /// The session that data messages with this receiver index belong to.
    #[inline]
    pub(super) fn session(&mut self, index: SessionIndex) -> Option<&mut Session> {
        self.sessions.get_mut(&index)
    }

    /// How many sessions there are.
    #[cfg(test)]
    pub(super) fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// How many sessions there are whose last age is remembered.
    #[cfg(test)]
    pub(super) fn expiries(&self) -> usize {
        self.expiries.len()
    }

    /// Adds a session. It sends at once if its address is known.
    ///
    /// A session whose plan has no place for this worker is passed over, and so is one that has
    /// reached its last age on the way here. So is one that is known, or was: a second lane under
    /// the same secret would seal with nonces that were used before.
    pub(super) fn install(&mut self, now: Instant, install: SessionInstall) {
        let (peer, local, expires) = (install.peer, install.local, self.moment(install.expires));
        let has_place = install.plan.participants().contains(&self.worker);
        if !has_place || now >= install.expires || self.sessions.contains_key(&local) {
            return;
        }
        self.passed.clear();
        let has_room = self.peers.get(&peer).is_none_or(PeerSessions::has_room);
        debug_assert!(has_room, "the control thread bounds them");
        if !has_room || !install.send_secret.claim(install.plan.send_lane(self.worker)) {
            return;
        }
        self.peers.entry(peer).or_default().push(local);
        self.sessions
            .insert(local, Session::new(install, self.worker, self.plaintext_max, expires));
        self.expiries.insert((expires, local));
        self.note_next_expiry();
        self.choose_sending(peer);
    }

    /// Forgets a session.
    pub(super) fn remove(&mut self, index: SessionIndex) {
        let Some(session) = self.sessions.remove(&index) else { return };
        self.expiries.remove(&(session.expires, index));
        self.note_next_expiry();
        if let Some(known) = self.peers.get_mut(&session.peer) {
            known.remove(index);
            if known.len == 0 {
                self.peers.remove(&session.peer);
            }
        }
        self.choose_sending(session.peer);
    }

    /// Forgets the sessions that have reached their last age by `now`. Cheap when there is none:
    /// this is asked for every batch.
    #[inline]
    pub(super) fn retire(&mut self, now: Instant) {
        if self.next_expiry.is_some_and(|at| now >= at) {
            self.retire_expired(now);
        }
    }

    #[cold]
    fn retire_expired(&mut self, now: Instant) {
        let now = self.moment(now);
        while let Some((at, index)) = self.expiries.first().copied()
            && now >= at
        {
            self.remove(index);
        }
    }

    fn note_next_expiry(&mut self) {
        let first = self.expiries.first();
        self.next_expiry = first.map(|(at, _)| self.began + Duration::from_nanos(*at));
    }

    fn moment(&self, at: Instant) -> Moment {
        at.saturating_duration_since(self.began).as_nanos() as Moment
    }

    /// Sets where a path of a session leads.
    pub(super) fn set_path_endpoint(&mut self, index: SessionIndex, path: u8, endpoint: Endpoint) {
        let worker = self.worker;
        if let Some(session) = self.sessions.get_mut(&index) {
            session.set_path_endpoint(worker, path, endpoint);
            let peer = session.peer;
            self.choose_sending(peer);
        }
    }

    /// Sets how large a plaintext a path carries.
    pub(super) fn set_plaintext_max(&mut self, index: SessionIndex, path: u8, bytes: usize) {
        let worker = self.worker;
        if let Some(session) = self.sessions.get_mut(&index)
            && session.plan.send_path(worker) == path
        {
            session.plaintext_max = bytes;
        }
    }

    /// Sets what a peer may do, in all of its sessions.
    pub(super) fn set_policy(&mut self, peer: PeerId, policy: Option<&Arc<PeerPolicy>>) {
        let Self { peers, sessions, passed, .. } = self;
        passed.clear();
        for index in peers.get(&peer).map(PeerSessions::known).unwrap_or_default() {
            if let Some(session) = sessions.get_mut(index) {
                session.policy = policy.cloned();
            }
        }
    }

    /// Replaces the owners of inner prefixes.
    pub(super) fn set_prefixes(&mut self, prefixes: Arc<PrefixTable>) {
        self.prefixes = prefixes;
        self.last_lookup = None;
        self.passed.clear();
    }

    /// Picks the newest session of `peer` whose address is known.
    pub(super) fn choose_sending(&mut self, peer: PeerId) {
        let Self { peers, sessions, .. } = self;
        let Some(peer) = peers.get_mut(&peer) else { return };
        let usable = |index: &&SessionIndex| {
            sessions.get(*index).is_some_and(|session| session.send_endpoint.is_some())
        };
        peer.sending = peer.known().iter().rev().find(usable).copied();
    }
}
