//! The simulated world.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::control::engine::*;
use crate::dataplane::messages::{Endpoint, SessionInstall, WorkerCommand, WorkerEvent};
use crate::handshake::LocalIdentity;
use crate::handshake::keys::{PresharedKey, PrivateKey, PublicKey};
use crate::limits::{DATA_OVERHEAD_LEN, REKEY_AFTER};
use crate::routing::PrefixTable;
use crate::telemetry::drops::DropReason;
use crate::telemetry::status::PeerStatus;
use crate::wire::{Features, MessageType, PathMessage, SessionIndex};

/// IPv4 and UDP headers.
const OUTER_LEN: usize = 28;
const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)), 51820);
/// 2026-01-01, where the simulated wall clock begins.
const UNIX_START: Duration = Duration::from_secs(1_767_225_600);

/// A datagram on its way.
#[derive(Clone, Debug)]
pub(super) struct Packet {
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    pub(super) payload: Payload,
}

#[derive(Clone, Debug)]
pub(super) enum Payload {
    Handshake(Vec<u8>),
    Data { lane: u8, receiver: SessionIndex, len: usize, message: Option<PathMessage> },
}

/// Decides, from the time since the start, whether a packet is lost.
type Filter = Box<dyn FnMut(Duration, &Packet) -> bool>;

impl Packet {
    pub(super) fn to_server(&self) -> bool {
        self.to == SERVER
    }

    pub(super) fn is(&self, kind: MessageType) -> bool {
        match &self.payload {
            Payload::Handshake(datagram) => MessageType::of(datagram) == Some(kind),
            Payload::Data { .. } => kind == MessageType::Data,
        }
    }

    /// The path of a data packet: the client's port tells.
    pub(super) fn path(&self) -> Option<u16> {
        let client = if self.to_server() { self.from } else { self.to };
        (self.is(MessageType::Data)).then(|| client.port() % 1000)
    }

    /// Data packets are never fragmented; handshake messages may be.
    fn fits(&self, mtu: usize) -> bool {
        match &self.payload {
            Payload::Handshake(_) => true,
            Payload::Data { len, .. } => len + DATA_OVERHEAD_LEN + OUTER_LEN <= mtu,
        }
    }
}

/// A session as a worker has it.
struct FakeSession {
    install: SessionInstall,
    endpoints: BTreeMap<u8, Endpoint>,
}

/// A tunnel worker, as far as the control thread can tell.
#[derive(Default)]
pub(super) struct FakeWorker {
    /// In the order of installation.
    sessions: Vec<FakeSession>,
    pub(super) plaintext_max: BTreeMap<u8, usize>,
    pub(super) detached: bool,
}

impl FakeWorker {
    /// The session installed last.
    pub(super) fn newest(&self) -> Option<SessionIndex> {
        self.sessions.last().map(|session| session.install.local)
    }

    fn session(&mut self, index: SessionIndex) -> Option<&mut FakeSession> {
        self.sessions.iter_mut().find(|session| session.install.local == index)
    }
}

pub(super) struct Side {
    pub(super) engine: Engine,
    pub(super) workers: Vec<FakeWorker>,
    pub(super) events: Vec<(Duration, EngineEvent)>,
    pub(super) prefixes: Option<Arc<PrefixTable>>,
    /// Inner packets sent and received, path messages not counted.
    pub(super) sent: u64,
    pub(super) received: u64,
    /// Packets for a session that no longer or not yet was there.
    pub(super) unknown: u64,
    /// Where it stands: the wall clock, relative to true time.
    pub(super) clock_ahead: i64,
}

impl Side {
    fn new(engine: Engine, workers: u8) -> Self {
        Self {
            engine,
            workers: (0..workers).map(|_| FakeWorker::default()).collect(),
            events: Vec::new(),
            prefixes: None,
            sent: 0,
            received: 0,
            unknown: 0,
            clock_ahead: 0,
        }
    }

    pub(super) fn drops(&self, reason: DropReason) -> u64 {
        self.engine.drops().get(reason)
    }

    pub(super) fn sessions(&self) -> usize {
        self.workers[0].sessions.len()
    }

    pub(super) fn has_event(&self, wanted: impl Fn(&EngineEvent) -> bool) -> bool {
        self.events.iter().any(|(_, event)| wanted(event))
    }

    pub(super) fn connects(&self) -> usize {
        let connected = |event: &&(_, _)| matches!(event.1, EngineEvent::Connected { .. });
        self.events.iter().filter(connected).count()
    }
}

pub(super) struct World {
    pub(super) start: Instant,
    pub(super) now: Instant,
    pub(super) server: Side,
    pub(super) client: Side,
    pub(super) latency: Duration,
    /// What each path takes longer than the path before it.
    pub(super) latency_step: Duration,
    pub(super) mtu: usize,
    /// Loses the packets that it returns `true` for.
    pub(super) filter: Filter,
    /// Each side's workers send a packet this often.
    pub(super) traffic: Option<Duration>,
    /// Only the first worker of each side has traffic.
    pub(super) one_flow: bool,
    pub(super) client_address: Ipv4Addr,
    client_port: u16,
    pub(super) keys: Keys,
    pub(super) options: ClientOptions,
    /// Everything that was put on the network, with its time.
    pub(super) captured: Vec<(Duration, Packet)>,
    next_traffic: Instant,
    in_flight: BTreeMap<(Instant, u64), Packet>,
    packets: u64,
    seeds: u8,
    counts: (u8, u8),
}

pub(super) struct Keys {
    server: Arc<LocalIdentity>,
    client: Arc<LocalIdentity>,
}

impl Keys {
    pub(super) fn client(&self) -> PublicKey {
        *self.client.public()
    }

    pub(super) fn server(&self) -> PublicKey {
        *self.server.public()
    }
}

impl World {
    /// A server and a client with so many workers, not started yet.
    #[allow(clippy::disallowed_methods, reason = "an arbitrary origin for virtual time")]
    pub(super) fn new(server_workers: u8, client_workers: u8) -> Self {
        let start = Instant::now();
        let mut rng = StdRng::seed_from_u64(1);
        let mut identity = || Arc::new(LocalIdentity::new(PrivateKey::generate(&mut rng)));
        let keys = Keys { server: identity(), client: identity() };
        let options = ClientOptions {
            preshared_key: PresharedKey::default(),
            allowed: vec!["0.0.0.0/0".parse().unwrap()],
            keepalive: None,
            rekey_after: REKEY_AFTER,
        };
        let server = server_engine(&keys, server_workers, 0, start);
        let client = client_engine(&keys, client_workers, &options, 1, start);
        Self {
            start,
            now: start,
            server: Side::new(server, server_workers),
            client: Side::new(client, client_workers),
            latency: Duration::from_millis(10),
            latency_step: Duration::ZERO,
            mtu: 1500,
            filter: Box::new(|_, _| false),
            traffic: None,
            one_flow: false,
            client_address: Ipv4Addr::new(203, 0, 113, 5),
            client_port: 40_000,
            keys,
            options,
            captured: Vec::new(),
            next_traffic: start,
            in_flight: BTreeMap::new(),
            packets: 0,
            seeds: 2,
            counts: (server_workers, client_workers),
        }
    }

    /// As [`Self::new`], started and run until connected.
    pub(super) fn connected(server_workers: u8, client_workers: u8) -> Self {
        let mut world = Self::new(server_workers, client_workers);
        world.begin();
        world.run_for(Duration::from_secs(1));
        assert_eq!(world.client.engine.state(), EngineState::Up);
        world
    }

    pub(super) fn begin(&mut self) {
        let (server_now, client_now) = (self.server_now(), self.client_now());
        self.server.engine.start(server_now);
        self.client.engine.start(client_now);
        self.pump();
    }

    fn server_now(&self) -> Now {
        self.wall_clock(self.server.clock_ahead)
    }

    fn client_now(&self) -> Now {
        self.wall_clock(self.client.clock_ahead)
    }

    fn wall_clock(&self, ahead: i64) -> Now {
        let unix = UNIX_START + (self.now - self.start);
        let unix = unix.as_nanos() as i128 + i128::from(ahead) * 1_000_000_000;
        Now { monotonic: self.now, unix: Duration::from_nanos(unix as u64) }
    }

    /// The server process dies without a word and another one starts.
    pub(super) fn restart_server(&mut self) {
        self.seeds += 1;
        let engine = server_engine(&self.keys, self.counts.0, self.seeds, self.now);
        let fresh = Side::new(engine, self.counts.0);
        let old = std::mem::replace(&mut self.server, fresh);
        self.server.events = old.events;
        self.server.engine.start(self.server_now());
        self.pump();
    }

    /// The client process dies without a word and another one starts, on other ports.
    pub(super) fn restart_client(&mut self) {
        self.seeds += 1;
        self.client_port += 1000;
        let engine = client_engine(&self.keys, self.counts.1, &self.options, self.seeds, self.now);
        let fresh = Side::new(engine, self.counts.1);
        let old = std::mem::replace(&mut self.client, fresh);
        self.client.clock_ahead = old.clock_ahead;
        self.client.engine.start(self.client_now());
        self.pump();
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    pub(super) fn client_status(&self) -> PeerStatus {
        self.client.engine.status(self.now).remove(0)
    }

    pub(super) fn server_status(&self) -> PeerStatus {
        self.server.engine.status(self.now).remove(0)
    }

    /// Runs until `until` holds, at most for `limit`; returns how long that took.
    pub(super) fn run_until(
        &mut self,
        limit: Duration,
        until: impl Fn(&Self) -> bool,
    ) -> Option<Duration> {
        let began = self.now;
        while !until(self) {
            if self.now - began >= limit {
                return None;
            }
            self.run_for(Duration::from_millis(1));
        }
        Some(self.now - began)
    }

    pub(super) fn run_for(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            let due = [
                self.server.engine.poll_timeout(),
                self.client.engine.poll_timeout(),
                self.in_flight.keys().next().map(|(at, _)| *at),
                self.traffic.map(|_| self.next_traffic),
            ];
            let Some(next) = due.into_iter().flatten().min().filter(|next| *next <= end) else {
                self.now = end;
                return;
            };
            self.now = self.now.max(next);
            while let Some(entry) = self.in_flight.first_entry()
                && entry.key().0 <= self.now
            {
                let packet = entry.remove();
                self.deliver(packet);
            }
            let (server_now, client_now) = (self.server_now(), self.client_now());
            self.server.engine.handle_timeout(server_now);
            self.client.engine.handle_timeout(client_now);
            self.pump();
            if let Some(every) = self.traffic
                && self.now >= self.next_traffic
            {
                self.next_traffic = self.now + every;
                self.send_from_all_workers();
            }
        }
    }

    /// Drains both engines.
    pub(super) fn pump(&mut self) {
        for is_server in [true, false] {
            let elapsed = self.elapsed();
            while let Some((target, command)) = self.side(is_server).engine.poll_command() {
                let workers = match target {
                    Target::All => 0..self.side(is_server).workers.len(),
                    Target::Worker(worker) => worker..worker + 1,
                };
                for worker in workers {
                    self.obey(is_server, worker, command.clone());
                }
            }
            while let Some((to, datagram)) = self.side(is_server).engine.poll_transmit() {
                let from = if is_server { SERVER } else { self.client_socket(999) };
                self.send(Packet { from, to: to.remote, payload: Payload::Handshake(datagram) });
            }
            let side = self.side(is_server);
            while let Some(event) = side.engine.poll_event() {
                side.events.push((elapsed, event));
            }
        }
    }

    pub(super) fn side(&mut self, is_server: bool) -> &mut Side {
        if is_server { &mut self.server } else { &mut self.client }
    }

    fn client_socket(&self, number: u16) -> SocketAddr {
        SocketAddr::from((self.client_address, self.client_port + number))
    }

    pub(super) fn send(&mut self, packet: Packet) {
        let elapsed = self.elapsed();
        self.captured.push((elapsed, packet.clone()));
        if !packet.fits(self.mtu) || (self.filter)(elapsed, &packet) {
            return;
        }
        self.packets += 1;
        let latency = self.latency + self.latency_step * u32::from(packet.path().unwrap_or(0));
        self.in_flight.insert((self.now + latency, self.packets), packet);
    }

    fn obey(&mut self, is_server: bool, worker: usize, command: WorkerCommand) {
        let side = self.side(is_server);
        let fake = &mut side.workers[worker];
        match command {
            WorkerCommand::InstallSession(install) => {
                assert!(install.plan.participants().contains(&worker), "no lane to send on");
                assert!(fake.session(install.local).is_none(), "index already in use");
                let path = install.plan.send_path(worker);
                let endpoints = install.endpoint.map(|endpoint| (path, endpoint));
                let endpoints = endpoints.into_iter().collect();
                fake.sessions.push(FakeSession { install: *install, endpoints });
                let most = crate::limits::SESSIONS_PER_PEER_MAX;
                assert!(fake.sessions.len() <= most + 1, "sessions pile up");
            }
            WorkerCommand::SetPathEndpoint { session, path, endpoint } => {
                if let Some(session) = fake.session(session) {
                    session.endpoints.insert(path, endpoint);
                }
            }
            WorkerCommand::SetPathPlaintextMax { path, plaintext_max, .. } => {
                fake.plaintext_max.insert(path, plaintext_max);
            }
            WorkerCommand::RemoveSession { session } => {
                fake.sessions.retain(|found| found.install.local != session);
            }
            WorkerCommand::SendPathMessage { session, message, plaintext_len } => {
                self.worker_send(is_server, worker, session, plaintext_len.max(16), Some(message));
            }
            WorkerCommand::SendKeepalive { session } => {
                self.worker_send(is_server, worker, session, 0, None);
            }
            WorkerCommand::SetPrefixes(table) => side.prefixes = Some(table),
            WorkerCommand::SetQueueAttached(attached) => fake.detached = !attached,
            WorkerCommand::Stop => {}
        }
    }

    /// Sends on a worker's lane. Returns whether the session had an address to send to.
    fn worker_send(
        &mut self,
        is_server: bool,
        worker: usize,
        session: SessionIndex,
        len: usize,
        message: Option<PathMessage>,
    ) -> bool {
        let from = if is_server { SERVER } else { self.client_socket(worker as u16) };
        let Some(session) = self.side(is_server).workers[worker].session(session) else {
            panic!("a command for a session that is not installed");
        };
        let install = &session.install;
        let path = install.plan.send_path(worker);
        let Some(endpoint) = session.endpoints.get(&path).copied() else { return false };
        let is_data = message.is_none() && len > 0;
        let usage = &install.usage.lane(worker).sent;
        usage.packets.add(1);
        usage.bytes.add(if is_data { len as u64 } else { 0 });
        let lane = install.plan.send_lane(worker);
        let payload = Payload::Data { lane, receiver: install.remote, len, message };
        self.send(Packet { from, to: endpoint.remote, payload });
        true
    }

    /// Every worker whose queue is attached sends one packet on its newest usable session.
    fn send_from_all_workers(&mut self) {
        for is_server in [true, false] {
            let workers = if self.one_flow { 1 } else { self.side(is_server).workers.len() };
            for worker in 0..workers {
                let fake = &self.side(is_server).workers[worker];
                let usable = fake.sessions.iter().rev().find(|session| {
                    let path = session.install.plan.send_path(worker);
                    session.endpoints.contains_key(&path)
                });
                let Some(index) = usable.filter(|_| !fake.detached).map(|s| s.install.local) else {
                    continue;
                };
                self.side(is_server).sent += 1;
                self.worker_send(is_server, worker, index, 128, None);
            }
        }
    }

    pub(super) fn deliver(&mut self, packet: Packet) {
        let is_server = packet.to_server();
        let now = if is_server { self.server_now() } else { self.client_now() };
        match packet.payload {
            Payload::Handshake(datagram) => {
                if !is_server && packet.to != self.client_socket(999) {
                    return;
                }
                let from = Endpoint { remote: packet.from, local: None, listener: 0 };
                self.side(is_server).engine.handle_datagram(now, from, &datagram);
            }
            Payload::Data { lane, receiver, len, message } => {
                let worker = if is_server {
                    usize::from(lane) % self.server.workers.len()
                } else {
                    let workers = 0..self.client.workers.len();
                    let found =
                        workers.into_iter().find(|w| self.client_socket(*w as u16) == packet.to);
                    // The address or port is not the client's any more.
                    let Some(worker) = found else { return };
                    worker
                };
                let from = Endpoint { remote: packet.from, local: None, listener: 0 };
                self.receive(now, is_server, worker, from, lane, receiver, len, message);
            }
        }
        self.pump();
    }

    #[allow(clippy::too_many_arguments)]
    fn receive(
        &mut self,
        now: Now,
        is_server: bool,
        worker: usize,
        from: Endpoint,
        lane: u8,
        receiver: SessionIndex,
        len: usize,
        message: Option<PathMessage>,
    ) {
        let side = self.side(is_server);
        let Some(session) = side.workers[worker].session(receiver) else {
            side.unknown += 1;
            return;
        };
        let plan = session.install.plan;
        assert!(plan.receives(worker, lane), "{plan:?}: worker {worker}, lane {lane}");
        let is_data = message.is_none() && len > 0;
        let usage = &session.install.usage.lane(worker).received;
        usage.packets.add(1);
        usage.bytes.add(if is_data { len as u64 } else { 0 });
        let path = plan.path_of_received_lane(lane);
        let is_new = session.endpoints.get(&path) != Some(&from);
        let first = session.install.usage.lane(worker).received.packets.get() == 1;
        session.endpoints.insert(path, from);
        side.received += u64::from(is_data);
        if is_new || first {
            let seen = WorkerEvent::PathSeen { worker, session: receiver, path, endpoint: from };
            side.engine.handle_worker_event(now, seen);
        }
        if let Some(message) = message {
            let event = WorkerEvent::PathMessage {
                worker,
                session: receiver,
                lane,
                message,
                plaintext_len: len,
            };
            side.engine.handle_worker_event(now, event);
        }
    }
}

pub(super) fn prefix(text: &str) -> IpNet {
    text.parse().unwrap()
}

pub(super) fn peer(key: PublicKey, allowed: &[&str]) -> PeerSetup {
    PeerSetup {
        public_key: key,
        preshared_key: PresharedKey::default(),
        allowed: allowed.iter().map(|text| prefix(text)).collect(),
    }
}

fn server_engine(keys: &Keys, workers: u8, seed: u8, now: Instant) -> Engine {
    let setup = ServerSetup {
        identity: Arc::clone(&keys.server),
        workers,
        features: Features::CHECKSUM_OFFLOAD,
        tun_mtu: 1408,
        peers: vec![peer(keys.client(), &["10.7.0.2/32"])],
    };
    Engine::new_server(setup, [seed; 32], now)
}

fn client_engine(
    keys: &Keys,
    workers: u8,
    options: &ClientOptions,
    seed: u8,
    now: Instant,
) -> Engine {
    let setup = ClientSetup {
        identity: Arc::clone(&keys.client),
        workers,
        features: Features::CHECKSUM_OFFLOAD,
        tun_mtu: 1408,
        server_key: keys.server(),
        server: SERVER,
        options: options.clone(),
    };
    Engine::new_client(setup, [seed; 32], now)
}
