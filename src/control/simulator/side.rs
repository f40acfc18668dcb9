//! One machine: its engine, its workers, its clocks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::network::Nat;
use crate::control::engine::{
    ClientOptions, ClientSetup, Engine, EngineEvent, Now, PeerSetup, ServerSetup,
};
use crate::dataplane::messages::WorkerCommand;
use crate::dataplane::testing::MemoryWorker;
use crate::handshake::LocalIdentity;
use crate::handshake::keys::{PresharedKey, PrivateKey, PublicKey};
use crate::limits::TUN_MTU_DEFAULT;
use crate::routing::PrefixTable;
use crate::telemetry::counters::DropCounters;
use crate::telemetry::drops::DropReason;
use crate::wire::{Features, SessionIndex};

/// 2026-01-01, where the simulated wall clock begins.
const UNIX_START: Duration = Duration::from_secs(1_767_225_600);

/// The machines of a world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Who {
    Server,
    Client,
    /// A second client with the key of the first.
    Twin,
}

impl Who {
    pub(crate) const ALL: [Self; 3] = [Self::Server, Self::Client, Self::Twin];
}

/// The static keys of a world.
pub(crate) struct Keys {
    server: Arc<LocalIdentity>,
    client: Arc<LocalIdentity>,
}

impl Keys {
    pub(crate) fn new(rng: &mut (impl rand::CryptoRng + rand::Rng)) -> Self {
        let mut identity = || Arc::new(LocalIdentity::new(PrivateKey::generate(rng)));
        Self { server: identity(), client: identity() }
    }

    pub(crate) fn client(&self) -> PublicKey {
        *self.client.public()
    }

    pub(crate) fn server(&self) -> PublicKey {
        *self.server.public()
    }

    pub(crate) fn server_engine(&self, workers: u8, seed: [u8; 32], now: Instant) -> Engine {
        let setup = ServerSetup {
            identity: Arc::clone(&self.server),
            workers,
            features: Features::CHECKSUM_OFFLOAD,
            tun_mtu: TUN_MTU_DEFAULT,
            peers: vec![peer(self.client(), &["10.7.0.2/32"])],
        };
        Engine::new_server(setup, StdRng::from_seed(seed), now)
    }

    pub(crate) fn client_engine(
        &self,
        workers: u8,
        options: &ClientOptions,
        seed: [u8; 32],
        now: Instant,
    ) -> Engine {
        let setup = ClientSetup {
            identity: Arc::clone(&self.client),
            workers,
            features: Features::CHECKSUM_OFFLOAD,
            tun_mtu: TUN_MTU_DEFAULT,
            server_key: self.server(),
            server: super::network::SERVER,
            options: options.clone(),
        };
        Engine::new_client(setup, StdRng::from_seed(seed), now)
    }
}

pub(crate) fn peer(key: PublicKey, allowed: &[&str]) -> PeerSetup {
    PeerSetup {
        public_key: key,
        preshared_key: PresharedKey::default(),
        allowed: allowed.iter().map(|text| text.parse().unwrap()).collect(),
        policy: None,
    }
}

/// A worker, and what it was told.
pub(crate) struct Worker {
    pub(crate) real: MemoryWorker,
    /// The sessions it was told to have, in the order of installation.
    pub(crate) installed: Vec<SessionIndex>,
    pub(crate) plaintext_max: BTreeMap<u8, usize>,
    pub(crate) detached: bool,
    /// What it had dropped when it was last asked.
    seen: Vec<u64>,
    /// When it carries out the commands that are queued.
    pub(crate) wakes_at: Option<Instant>,
}

impl Worker {
    fn new(number: usize) -> Self {
        Self {
            real: MemoryWorker::new(number, usize::from(TUN_MTU_DEFAULT)),
            installed: Vec::new(),
            plaintext_max: BTreeMap::new(),
            detached: false,
            seen: vec![0; DropReason::COUNT],
            wakes_at: None,
        }
    }

    /// Why it has dropped something since this was last asked.
    pub(crate) fn newly_dropped(&mut self) -> &'static str {
        newly_dropped(&self.real.counters.drops, &mut self.seen)
    }

    /// The session installed last.
    pub(crate) fn newest(&self) -> Option<SessionIndex> {
        self.installed.last().copied()
    }

    /// Notes what a command says.
    pub(crate) fn note(&mut self, command: &WorkerCommand) {
        match command {
            WorkerCommand::InstallSession(install) => {
                assert!(!self.installed.contains(&install.local), "index already in use");
                self.installed.push(install.local);
            }
            WorkerCommand::RemoveSession { session } => {
                self.installed.retain(|found| found != session);
            }
            WorkerCommand::SetPathPlaintextMax { path, plaintext_max, .. } => {
                self.plaintext_max.insert(*path, *plaintext_max);
            }
            WorkerCommand::SetQueueAttached(attached) => self.detached = !attached,
            _ => {}
        }
    }
}

/// A machine, and the process on it.
pub(crate) struct Side {
    pub(crate) engine: Engine,
    pub(crate) workers: Vec<Worker>,
    pub(crate) events: Vec<(Duration, EngineEvent)>,
    pub(crate) prefixes: Option<Arc<PrefixTable>>,
    /// Inner packets sent and received since the process began, path messages not counted.
    pub(crate) sent: u64,
    pub(crate) received: u64,
    /// Where it stands: the wall clock, in seconds relative to true time.
    pub(crate) clock_ahead: i64,
    /// How long the machine's clock has stood still, all in all.
    pub(crate) clock_stood: Duration,
    /// Suspended until then.
    pub(crate) sleeps_until: Option<Instant>,
    /// Tells the processes of a world apart.
    pub(crate) process: u64,
    /// When the control thread looks at what workers have reported.
    pub(crate) wakes_at: Option<Instant>,
    pub(crate) nat: Nat,
    /// When the newest initiation was sent.
    pub(crate) initiated: Instant,
    /// What the control thread had dropped when it was last asked.
    seen: Vec<u64>,
}

impl Side {
    pub(crate) fn new(engine: Engine, workers: u8, process: u64, nat: Nat, now: Instant) -> Self {
        Self {
            engine,
            workers: (0..usize::from(workers)).map(Worker::new).collect(),
            events: Vec::new(),
            prefixes: None,
            sent: 0,
            received: 0,
            clock_ahead: 0,
            clock_stood: Duration::ZERO,
            sleeps_until: None,
            process,
            wakes_at: None,
            nat,
            initiated: now,
            seen: vec![0; DropReason::COUNT],
        }
    }

    /// What the clocks of this machine show at `now`, when so much time has passed in the world.
    pub(crate) fn clocks(&self, now: Instant, elapsed: Duration) -> Now {
        let unix = (UNIX_START + elapsed).as_nanos() as i128
            + i128::from(self.clock_ahead) * 1_000_000_000;
        Now { monotonic: now - self.clock_stood, unix: Duration::from_nanos(unix as u64) }
    }

    /// When, by the world's clock, the engine wants to be called.
    pub(crate) fn timeout(&self) -> Option<Instant> {
        let due = self.engine.poll_timeout()? + self.clock_stood;
        Some(self.sleeps_until.map_or(due, |until| due.max(until)))
    }

    /// What the control thread has dropped.
    pub(crate) fn drops(&self, reason: DropReason) -> u64 {
        self.engine.drops().get(reason)
    }

    /// Why the control thread has dropped something since this was last asked.
    pub(crate) fn newly_dropped(&mut self) -> &'static str {
        newly_dropped(self.engine.drops(), &mut self.seen)
    }

    /// What the control thread has dropped, for whatever reason.
    pub(crate) fn drops_in_all(&self) -> u64 {
        DropReason::ALL.iter().map(|reason| self.drops(*reason)).sum()
    }

    /// Packets for a session that no longer or not yet was there.
    pub(crate) fn unknown(&self) -> u64 {
        let workers = self.workers.iter();
        workers.map(|worker| worker.real.dropped(DropReason::SessionUnknown)).sum()
    }

    pub(crate) fn sessions(&self) -> usize {
        self.workers[0].installed.len()
    }

    pub(crate) fn has_event(&self, wanted: impl Fn(&EngineEvent) -> bool) -> bool {
        self.events.iter().any(|(_, event)| wanted(event))
    }

    pub(crate) fn connects(&self) -> usize {
        let connected = |event: &&(_, _)| matches!(event.1, EngineEvent::Connected { .. });
        self.events.iter().filter(connected).count()
    }
}

/// The first reason whose count is not what was `seen`; from now on it is.
fn newly_dropped(counters: &DropCounters, seen: &mut [u64]) -> &'static str {
    let mut reasons = DropReason::ALL.iter().zip(seen);
    let changed = reasons.find(|(reason, seen)| counters.get(**reason) != **seen);
    changed.map_or("nothing", |(reason, seen)| {
        *seen = counters.get(*reason);
        reason.name()
    })
}
