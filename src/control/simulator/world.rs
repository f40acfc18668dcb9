//! The simulated world: who is there, what is due, and what happens then.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::guests::Guest;
use super::network::{CONTROL_SOCKET, Nat, Old, Packet, SERVER, Weather, first_address};
use super::oracle::Oracle;
use super::plan::{Mishap, Sabotage};
use super::side::{Keys, Side, Who};
use super::trace::{Step, Trace};
use crate::control::engine::{ClientOptions, EngineState, Now, Target};
use crate::dataplane::messages::{WorkerCommand, WorkerEvent};
use crate::dataplane::testing::MemoryWorker;
use crate::handshake::keys::PresharedKey;
use crate::limits::REKEY_AFTER;
use crate::sys::clock;
use crate::telemetry::status::PeerStatus;
use crate::wire::{MessageType, PathMessage};

/// Decides, from the time since the start, whether a packet is lost.
pub(crate) type Filter = Box<dyn FnMut(Duration, &Packet) -> bool>;

/// Something that is due at a time. Threads are those of one process; a later one has others.
pub(super) enum Due {
    Arrival(Packet),
    /// A worker looks at its commands.
    Worker(Who, u64, usize),
    /// A control thread looks at what its workers have reported.
    Control(Who, u64),
    /// A suspended machine goes on.
    Awake(Who, u64, Duration),
    Mishap(Mishap),
    /// The client takes the lease of its latest login.
    Lease,
}

/// Machines, the network between them, and the clock.
pub(crate) struct World {
    pub(crate) start: Instant,
    pub(crate) now: Instant,
    pub(crate) server: Side,
    pub(crate) client: Side,
    pub(crate) twin: Option<Side>,
    pub(crate) weather: Weather,
    /// Loses the packets that it returns `true` for.
    pub(crate) filter: Filter,
    /// Whether what a client sends to its relay arrives, and what is sent back.
    pub(crate) carrier_works: bool,
    /// How long, at most, a thread takes to do what it is told.
    pub(crate) thread_delay: Duration,
    /// Each side's workers send a packet this often.
    pub(crate) traffic: Option<Duration>,
    /// The bytes of such a packet.
    pub(crate) traffic_len: usize,
    /// Only the first worker of each side has traffic.
    pub(crate) one_flow: bool,
    pub(crate) keys: Keys,
    pub(crate) options: ClientOptions,
    /// Everything that was put on the network, with its time, if it is to be kept.
    pub(crate) captured: Vec<(Duration, Packet)>,
    pub(crate) captures: bool,
    pub(crate) oracle: Oracle,
    pub(crate) trace: Trace,
    pub(crate) sabotage: Option<Sabotage>,
    pub(crate) guest: Guest,
    /// Answers to pings that reached the client.
    pub(crate) pongs: u64,
    /// The latest wall-clock time at which a client sent an initiation.
    pub(crate) newest_timestamp: Duration,
    pub(super) rng: StdRng,
    pub(super) counts: (u8, u8),
    /// What workers have reported and the control thread has not looked at.
    reports: BTreeMap<Who, VecDeque<WorkerEvent>>,
    agenda: BTreeMap<(Instant, u64), Due>,
    pub(super) old: Old,
    next_traffic: Instant,
    serial: u64,
    processes: u64,
}

impl World {
    /// A server and a client with so many workers, not started yet.
    pub(crate) fn new(server_workers: u8, client_workers: u8) -> Self {
        Self::seeded(1, server_workers, client_workers, REKEY_AFTER)
    }

    /// The same, with another seed and age of sessions.
    pub(crate) fn seeded(
        seed: u64,
        server_workers: u8,
        client_workers: u8,
        rekey_after: Duration,
    ) -> Self {
        // An arbitrary origin for virtual time.
        let start = clock::now();
        let mut rng = StdRng::seed_from_u64(seed);
        let keys = Keys::new(&mut rng);
        let options = ClientOptions {
            preshared_key: PresharedKey::default(),
            allowed: vec!["0.0.0.0/0".parse().unwrap()],
            keepalive: None,
            rekey_after,
        };
        let server = keys.server_engine(server_workers, rng.random(), start);
        let client = keys.client_engine(client_workers, &options, rng.random(), start);
        let nat = |who| Nat::new(first_address(who), client_workers);
        Self {
            start,
            now: start,
            server: Side::new(server, server_workers, 0, nat(Who::Server), start),
            client: Side::new(client, client_workers, 1, nat(Who::Client), start),
            twin: None,
            weather: Weather::calm(Duration::from_millis(10)),
            filter: Box::new(|_, _| false),
            carrier_works: true,
            thread_delay: Duration::ZERO,
            traffic: None,
            traffic_len: 128,
            one_flow: false,
            keys,
            options,
            captured: Vec::new(),
            captures: true,
            oracle: Oracle::new(),
            trace: Trace::default(),
            sabotage: None,
            guest: Guest::default(),
            pongs: 0,
            newest_timestamp: Duration::ZERO,
            rng,
            counts: (server_workers, client_workers),
            reports: BTreeMap::new(),
            agenda: BTreeMap::new(),
            old: Old::default(),
            next_traffic: start,
            serial: 0,
            processes: 1,
        }
    }

    /// As [`Self::new`], started and run until connected.
    pub(crate) fn connected(server_workers: u8, client_workers: u8) -> Self {
        let mut world = Self::new(server_workers, client_workers);
        world.begin();
        world.run_for(Duration::from_secs(1));
        assert_eq!(world.client.engine.state(), EngineState::Up);
        world
    }

    pub(crate) fn begin(&mut self) {
        for who in [Who::Server, Who::Client] {
            let now = self.clocks(who);
            self.side(who).engine.start(now);
        }
        self.pump();
    }

    /// The clocks of a side.
    pub(crate) fn clocks(&self, who: Who) -> Now {
        self.look(who).unwrap().clocks(self.now, self.elapsed())
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    pub(crate) fn client_status(&self) -> PeerStatus {
        self.client.engine.status(self.clocks(Who::Client).monotonic).remove(0)
    }

    pub(crate) fn server_status(&self) -> PeerStatus {
        self.server.engine.status(self.clocks(Who::Server).monotonic).remove(0)
    }

    /// A side that must be there.
    pub(crate) fn side(&mut self, who: Who) -> &mut Side {
        match who {
            Who::Server => &mut self.server,
            Who::Client => &mut self.client,
            Who::Twin => self.twin.as_mut().unwrap(),
        }
    }

    /// A side, if it is there.
    pub(crate) fn look(&self, who: Who) -> Option<&Side> {
        match who {
            Who::Server => Some(&self.server),
            Who::Client => Some(&self.client),
            Who::Twin => self.twin.as_ref(),
        }
    }

    /// The sides there are.
    fn present(&self) -> impl Iterator<Item = Who> + use<> {
        let has_twin = self.twin.is_some();
        Who::ALL.into_iter().filter(move |who| *who != Who::Twin || has_twin)
    }

    pub(super) fn next_process(&mut self) -> u64 {
        self.processes += 1;
        self.processes
    }

    pub(super) fn schedule(&mut self, at: Instant, due: Due) {
        self.serial += 1;
        self.agenda.insert((at, self.serial), due);
    }

    pub(super) fn note(&mut self, step: Step) {
        let elapsed = self.elapsed();
        self.trace.note(elapsed, step);
    }

    /// Runs until `until` holds, at most for `limit`; returns how long that took.
    pub(crate) fn run_until(
        &mut self,
        limit: Duration,
        until: impl Fn(&Self) -> bool,
    ) -> Option<Duration> {
        let began = self.now;
        while !until(self) {
            if self.now - began >= limit || self.oracle.objection().is_some() {
                return None;
            }
            self.run_for(Duration::from_millis(1));
        }
        Some(self.now - began)
    }

    pub(crate) fn run_for(&mut self, span: Duration) {
        let end = self.now + span;
        while self.oracle.objection().is_none() {
            let timers = self.present().filter_map(|who| self.look(who)?.timeout());
            let agenda = self.agenda.keys().next().map(|(at, _)| *at);
            let due = [agenda, self.traffic.map(|_| self.next_traffic)];
            let next = due.into_iter().flatten().chain(timers).min();
            let Some(next) = next.filter(|next| *next <= end) else {
                self.now = end;
                return;
            };
            self.now = self.now.max(next);
            while let Some(entry) = self.agenda.first_entry()
                && entry.key().0 <= self.now
            {
                let due = entry.remove();
                self.happen(due);
            }
            for who in self.present() {
                self.serve_timer(who);
            }
            if let Some(every) = self.traffic
                && self.now >= self.next_traffic
            {
                self.next_traffic = self.now + every;
                self.send_from_all_workers();
            }
        }
    }

    fn happen(&mut self, due: Due) {
        match due {
            Due::Arrival(packet) => self.deliver(packet),
            Due::Worker(who, process, worker) => {
                if self.is_awake(who, process) {
                    self.side(who).workers[worker].wakes_at = None;
                    self.turn(who, worker).apply_commands();
                    self.after_worker(who, worker, None);
                } else if self.look(who).is_some_and(|side| side.process == process) {
                    self.side(who).workers[worker].wakes_at = None;
                    self.wake_worker(who, worker);
                }
            }
            Due::Control(who, process) => {
                if self.is_awake(who, process) {
                    self.side(who).wakes_at = None;
                    self.handle_reports(who);
                } else if self.look(who).is_some_and(|side| side.process == process) {
                    self.side(who).wakes_at = None;
                    self.wake_control(who);
                }
            }
            Due::Awake(who, process, stood) => {
                if self.look(who).is_some_and(|side| side.process == process) {
                    let side = self.side(who);
                    side.sleeps_until = None;
                    side.clock_stood += stood;
                }
            }
            Due::Mishap(mishap) => self.befall(mishap),
            Due::Lease => self.take_lease(),
        }
    }

    fn is_awake(&self, who: Who, process: u64) -> bool {
        self.look(who).is_some_and(|side| side.process == process && side.sleeps_until.is_none())
    }

    fn serve_timer(&mut self, who: Who) {
        let Some(side) = self.look(who) else { return };
        if side.sleeps_until.is_some() || side.timeout().is_none_or(|due| due > self.now) {
            return;
        }
        let now = self.clocks(who);
        let paths = self.counts.1;
        self.note(Step::Timer { at: who });
        if self.sabotage != Some(Sabotage::DeadTimers) {
            self.side(who).engine.handle_timeout(now);
        }
        let next = self.side(who).engine.poll_timeout();
        self.oracle.was_timed(who, u32::from(paths), now.monotonic, next);
        self.pump_side(who);
    }

    /// Drains all engines.
    pub(crate) fn pump(&mut self) {
        for who in self.present() {
            self.pump_side(who);
        }
    }

    fn pump_side(&mut self, who: Who) {
        let elapsed = self.elapsed();
        while let Some((target, command)) = self.side(who).engine.poll_command() {
            self.note_command(who, &command);
            let workers = match target {
                Target::All => 0..self.side(who).workers.len(),
                Target::Worker(worker) => worker..worker + 1,
            };
            for worker in workers {
                self.command(who, worker, command.clone());
            }
        }
        while let Some((to, datagram)) = self.side(who).engine.poll_transmit() {
            let from = self.address(who, CONTROL_SOCKET);
            if MessageType::of(&datagram) == Some(MessageType::Initiation) {
                let now = self.clocks(who);
                self.side(who).initiated = now.monotonic;
                self.newest_timestamp = self.newest_timestamp.max(now.unix);
                self.oracle.was_initiated(who, now.monotonic);
            }
            self.send(Packet { from, to: to.remote, datagram, message: None });
        }
        while let Some(event) = self.side(who).engine.poll_event() {
            self.note(Step::Told { by: who, event: event.clone() });
            self.side(who).events.push((elapsed, event));
        }
    }

    fn note_command(&mut self, who: Who, command: &WorkerCommand) {
        let now = self.clocks(who).monotonic;
        let side = self.side(who);
        match command {
            WorkerCommand::InstallSession(install) => {
                let born = if who == Who::Server { now } else { side.initiated };
                let process = side.process;
                self.oracle.was_installed(process, install, born);
            }
            WorkerCommand::SetPrefixes(table) => side.prefixes = Some(table.clone()),
            _ => {}
        }
    }

    /// Gives a worker a command, which it carries out at once unless threads take their time.
    pub(crate) fn command(&mut self, who: Who, worker: usize, command: WorkerCommand) {
        let name = command_name(&command);
        self.note(Step::Command { to: who, worker, command: name });
        let message = match &command {
            WorkerCommand::SendPathMessage { message, .. }
            | WorkerCommand::SendPathMessageTo { message, .. } => Some(*message),
            _ => None,
        };
        let forgets = matches!(command, WorkerCommand::RemoveSession { .. });
        let delayed = self.thread_delay > Duration::ZERO;
        let told = &mut self.side(who).workers[worker];
        told.note(&command);
        if forgets && self.sabotage == Some(Sabotage::KeepSessions) {
            return;
        }
        let told = &mut self.side(who).workers[worker];
        told.real.commands.send(command).unwrap();
        if delayed {
            self.wake_worker(who, worker);
        } else {
            self.turn(who, worker).apply_commands();
            self.after_worker(who, worker, message);
        }
    }

    /// A worker whose turn begins now.
    pub(super) fn turn(&mut self, who: Who, worker: usize) -> &mut MemoryWorker {
        let now = self.clocks(who).monotonic;
        let is_stuck = self.sabotage == Some(Sabotage::StuckClocks);
        let real = &mut self.side(who).workers[worker].real;
        if !is_stuck {
            real.now = now;
        }
        real
    }

    fn wake_worker(&mut self, who: Who, worker: usize) {
        let at = self.thread_turn(who);
        let side = self.side(who);
        if side.workers[worker].wakes_at.is_none() {
            side.workers[worker].wakes_at = Some(at);
            let process = side.process;
            self.schedule(at, Due::Worker(who, process, worker));
        }
    }

    fn wake_control(&mut self, who: Who) {
        let at = self.thread_turn(who);
        let side = self.side(who);
        if side.wakes_at.is_none() {
            side.wakes_at = Some(at);
            let process = side.process;
            self.schedule(at, Due::Control(who, process));
        }
    }

    /// When a thread that is woken now has its turn.
    fn thread_turn(&mut self, who: Who) -> Instant {
        let delay = self.thread_delay.mul_f64(self.rng.random());
        let awake = self.look(who).and_then(|side| side.sleeps_until).unwrap_or(self.now);
        awake.max(self.now) + delay
    }

    /// Takes out of a worker what it has sent and reported.
    /// Returns how many path messages have arrived.
    pub(super) fn after_worker(
        &mut self,
        who: Who,
        worker: usize,
        message: Option<PathMessage>,
    ) -> usize {
        let real = &mut self.side(who).workers[worker].real;
        real.flush();
        let datagrams = std::mem::take(&mut real.wire.datagrams);
        self.send_sealed(who, worker, datagrams, message);
        let worker = &mut self.side(who).workers[worker];
        worker.real.take_attach();
        let reported: Vec<_> = worker.real.events.try_iter().collect();
        if reported.is_empty() {
            return 0;
        }
        let is_message = |event: &&WorkerEvent| matches!(event, WorkerEvent::PathMessage { .. });
        let messages = reported.iter().filter(is_message).count();
        self.reports.entry(who).or_default().extend(reported);
        if self.thread_delay > Duration::ZERO {
            self.wake_control(who);
        } else {
            self.handle_reports(who);
        }
        messages
    }

    fn handle_reports(&mut self, who: Who) {
        let now = self.clocks(who);
        while let Some(event) = self.reports.get_mut(&who).and_then(VecDeque::pop_front) {
            self.side(who).engine.handle_worker_event(now, event);
        }
        self.pump_side(who);
    }

    /// Forgets what the workers of a process that is gone have reported.
    pub(super) fn forget_reports(&mut self, who: Who) {
        self.reports.remove(&who);
    }

    pub(super) fn address(&self, who: Who, socket: u16) -> SocketAddr {
        match who {
            Who::Server => SERVER,
            Who::Client | Who::Twin => self.look(who).unwrap().nat.outer(socket),
        }
    }
}

const fn command_name(command: &WorkerCommand) -> &'static str {
    match command {
        WorkerCommand::InstallSession(_) => "install",
        WorkerCommand::SetPathEndpoint { .. } => "set path endpoint",
        WorkerCommand::SetPathPlaintextMax { .. } => "set plaintext max",
        WorkerCommand::RemoveSession { .. } => "remove",
        WorkerCommand::SendPathMessage { .. } => "send path message",
        WorkerCommand::SendPathMessageTo { .. } => "send inquiry",
        WorkerCommand::SendKeepalive { .. } => "send keepalive",
        WorkerCommand::SetPrefixes(_) => "set prefixes",
        WorkerCommand::SetPolicy { .. } => "set policy",
        WorkerCommand::SetQueueAttached(_) => "attach queue",
        WorkerCommand::LetGo(_) => "let go",
        WorkerCommand::Stop => "stop",
    }
}
