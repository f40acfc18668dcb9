//! A server with many clients in one process: the real control engine and the real workers, with
//! memory for a network. The clients are no more than the messages that they send.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use corelane::control::engine::{Engine, Now, PeerSetup, ServerSetup, Target};
use corelane::dataplane::ForwarderOptions;
use corelane::dataplane::messages::{Endpoint, WorkerCommand, WorkerEvent};
use corelane::dataplane::offline::OfflineWorker;
use corelane::handshake::keys::{PresharedKey, PrivateKey, PublicKey};
use corelane::handshake::{InitiatorParams, LocalIdentity, PendingInitiation, Timestamp};
use corelane::limits::{DATA_OVERHEAD_LEN, HANDSHAKES_UNPROVED_PPS, TUN_MTU_DEFAULT};
use corelane::packet::CoalesceOptions;
use corelane::session::lane::SendLane;
use corelane::sys::clock;
use corelane::sys::udp::ReceivedMeta;
use corelane::telemetry::status::PeerStatus;
use corelane::wire::{Features, PathMessage, SessionIndex};
use ipnet::{IpNet, Ipv4Net};
use rand::SeedableRng;
use rand::rngs::StdRng;

/// Why a population is not as it should be.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A server, its workers, and who may connect to it.
pub(crate) struct Population {
    engine: Engine,
    workers: Vec<OfflineWorker>,
    server: PublicKey,
    now: Now,
    rng: StdRng,
}

/// A client's initiation and what it takes to read the answer.
pub(crate) struct Initiation {
    client: usize,
    pending: PendingInitiation,
    /// The datagram.
    pub(crate) datagram: Vec<u8>,
}

/// A client's key, made again whenever it is needed: what clients hold is not to be counted.
fn identity_of(client: usize) -> LocalIdentity {
    let mut rng = StdRng::seed_from_u64(1 << 32 | client as u64);
    LocalIdentity::new(PrivateKey::generate(&mut rng))
}

/// The address of a path of a client: each client is a source of its own.
fn endpoint(client: usize, path: u8) -> Endpoint {
    let remote = Ipv4Addr::from_bits(0x6440_0000 + client as u32);
    Endpoint {
        remote: SocketAddr::new(IpAddr::V4(remote), 1000 + u16::from(path)),
        local: Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1))),
        listener: 0,
    }
}

/// The prefixes of a client: host addresses beside each other.
pub(crate) fn prefixes(client: usize, count: usize) -> Vec<IpNet> {
    let first = 0x0a00_0000 + (client * count) as u32;
    let net = |address| IpNet::V4(Ipv4Net::from(Ipv4Addr::from_bits(address)));
    (first..first + count as u32).map(net).collect()
}

impl Population {
    /// A server with `workers` workers and `clients` peers, none of them connected.
    pub(crate) fn new(workers: u8, clients: usize) -> Result<Self, Failure> {
        let mut rng = StdRng::seed_from_u64(1);
        let identity = Arc::new(LocalIdentity::new(PrivateKey::generate(&mut rng)));
        let server = *identity.public();
        let now = Now { monotonic: clock::now(), unix: clock::unix_time() };
        let peer = |client| PeerSetup {
            public_key: *identity_of(client).public(),
            preshared_key: PresharedKey::default(),
            allowed: prefixes(client, 1),
            policy: None,
        };
        let setup = ServerSetup {
            identity,
            workers,
            features: Features::CHECKSUM_OFFLOAD,
            tun_mtu: TUN_MTU_DEFAULT,
            peers: (0..clients).map(peer).collect(),
        };
        let options = ForwarderOptions {
            udp_gso: true,
            coalesce: CoalesceOptions::ALL,
            plaintext_max: usize::from(TUN_MTU_DEFAULT),
            copy_dscp: false,
            spin: corelane::limits::SPIN_DEFAULT,
        };
        let workers = (0..usize::from(workers)).map(|worker| OfflineWorker::new(worker, options));
        let mut engine = Engine::new_server(setup, StdRng::seed_from_u64(7), now.monotonic);
        engine.start(now);
        let workers = workers.collect::<Result<_, _>>()?;
        let mut population = Self { engine, workers, server, now, rng };
        population.settle();
        Ok(population)
    }

    /// An initiation of `client`, newer than all before, for a session with as many paths as the
    /// server has workers.
    pub(crate) fn initiate(&mut self, client: usize) -> Result<Initiation, Failure> {
        self.advance();
        let params = InitiatorParams {
            workers: self.workers.len() as u8,
            features: Features::CHECKSUM_OFFLOAD,
        };
        let (pending, datagram) = PendingInitiation::start(
            &identity_of(client),
            &self.server,
            params,
            SessionIndex(client as u32),
            Timestamp::from_unix(self.now.unix),
            None,
            &mut self.rng,
        )?;
        Ok(Initiation { client, pending, datagram })
    }

    /// Hands an initiation to the server, which answers it with a response.
    pub(crate) fn answer(&mut self, initiation: &Initiation) -> Result<Vec<u8>, Failure> {
        self.advance();
        let from = endpoint(initiation.client, 0);
        self.engine.handle_datagram(self.now, from, &initiation.datagram);
        self.settle().ok_or_else(|| "the server has not answered an initiation".into())
    }

    /// Makes a session of `client` and confirms it with an empty packet on every path.
    pub(crate) fn connect(&mut self, client: usize) -> Result<(), Failure> {
        let mut initiation = self.initiate(client)?;
        let response = self.answer(&initiation)?;
        let preshared = PresharedKey::default();
        let session = initiation.pending.consume_response(&response, &preshared)?;
        for path in 0..self.workers.len() {
            let lane = session.plan.send_lane(path);
            let mut sender = SendLane::new(&session.send_secret, lane, session.remote);
            let mut datagram = vec![0; DATA_OVERHEAD_LEN];
            sender.seal(&mut datagram)?;
            let Endpoint { remote, local, .. } = endpoint(client, path as u8);
            let message = ReceivedMeta {
                range: 0..datagram.len(),
                from: remote,
                local,
                stride: datagram.len(),
                ecn: 0,
                truncated: false,
            };
            let worker = usize::from(lane) % self.workers.len();
            let now = self.now.monotonic;
            self.workers[worker].decapsulate(now, &[message], &mut datagram);
            self.settle();
        }
        Ok(())
    }

    /// Lets `seconds` pass without a packet.
    pub(crate) fn idle(&mut self, seconds: u64) {
        let until = self.now.monotonic + Duration::from_secs(seconds);
        while self.now.monotonic < until {
            let next = self.engine.poll_timeout().unwrap_or(until);
            self.pass(next.min(until).saturating_duration_since(self.now.monotonic));
        }
    }

    /// How many peers have a session that is confirmed on every path.
    pub(crate) fn connected(&self) -> usize {
        let peers = self.engine.status(self.now.monotonic);
        let is_connected = |peer: &&PeerStatus| {
            let up = peer.paths.iter().filter(|path| path.state == "up");
            up.count() == self.workers.len()
        };
        peers.iter().filter(is_connected).count()
    }

    /// Long enough after the last that no handshake outruns the rate of unproved sources.
    fn advance(&mut self) {
        self.pass(Duration::from_secs(1) / HANDSHAKES_UNPROVED_PPS);
    }

    fn pass(&mut self, step: Duration) {
        self.now.monotonic += step;
        self.now.unix += step;
        self.engine.handle_timeout(self.now);
        self.settle();
    }

    /// Carries commands and events to and fro until there are none, and answers every probe as a
    /// client does; the last datagram that the engine sent.
    fn settle(&mut self) -> Option<Vec<u8>> {
        let mut transmitted = None;
        loop {
            let mut events = Vec::new();
            while let Some((target, command)) = self.engine.poll_command() {
                events.extend(answer_to(&command));
                for (number, worker) in self.workers.iter_mut().enumerate() {
                    if target == Target::All || target == Target::Worker(number) {
                        worker.command(command.clone());
                        worker.clear_sent();
                    }
                }
            }
            while let Some((_, datagram)) = self.engine.poll_transmit() {
                transmitted = Some(datagram);
            }
            while self.engine.poll_event().is_some() {}
            for worker in &mut self.workers {
                events.extend(std::iter::from_fn(|| worker.take_event()));
            }
            if events.is_empty() {
                return transmitted;
            }
            for event in events {
                self.engine.handle_worker_event(self.now, event);
            }
        }
    }
}

/// What comes back if the command sends a probe.
fn answer_to(command: &WorkerCommand) -> Option<WorkerEvent> {
    let WorkerCommand::SendPathMessage { session, message, plaintext_len } = command else {
        return None;
    };
    let PathMessage::Probe { path, token } = *message else { return None };
    let message = PathMessage::ProbeAck { path, token, plaintext_len: *plaintext_len as u16 };
    let (session, lane) = (*session, path);
    let endpoint = Endpoint { remote: ([192, 0, 2, 1], 1000).into(), local: None, listener: 0 };
    Some(WorkerEvent::PathMessage {
        worker: 0,
        session,
        lane,
        endpoint,
        message,
        plaintext_len: 32,
    })
}
