//! The thread that runs an [`Engine`]: a mio event loop over the control thread's own UDP
//! sockets, the workers' event channel, signals and the status socket.
//!
//! What is due comes by an [`Alarm`], which goes on while the machine is suspended. mio reports
//! edges, so readiness is remembered until a source says `WouldBlock`. The work of one turn is
//! bounded for each source: a flood of handshakes delays signals, timers and worker events by one
//! turn, not for ever.

mod host_watch;
mod interface;
mod news;
mod orders;
mod poll;
mod report;
mod shutdown;
mod sockets;
mod status_socket;
#[cfg(test)]
mod tests;
mod workers;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use mio::{Events, Interest, Poll, Token, Waker};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook_mio::v1_0::Signals;
use thiserror::Error;

use crate::control::engine::{DisconnectReason, Engine, Now, Reload};
use crate::dataplane::messages::WorkerEvent;
use crate::handshake::keys::PublicKey;
use crate::host::monitor::HostMonitor;
use crate::host::netlink::InterfaceMonitor;
use crate::host::upkeep::InterfaceState;
use crate::limits::{CONTROL_EVENTS_PER_TURN, CONTROL_ORDERS_PER_TURN, CONTROL_REST};
use crate::sys::alarm::Alarm;
use crate::sys::clock;
use crate::sys::udp::UdpSocket;
use crate::telemetry::status::{AccountsStatus, ProxyStatus, StatusAnswer, StatusRequest};

use host_watch::HostWatch;
use interface::Interface;
use news::Lines;
use report::Reporter;
use sockets::Sockets;
use workers::{Life, Workers};

pub use orders::{ControlHandle, ControlOrder, EngineOrder};
pub use poll::ControlPoll;
pub use report::DaemonInfo;
pub use status_socket::{StatusSocket, StatusSocketError, bind_private_socket};
pub use workers::WorkerHandle;

const WAKER: Token = Token(0);
const SIGNALS: Token = Token(1);
/// Token of the listener of a status socket.
pub const STATUS_LISTENER: Token = Token(2);
const INTERFACE: Token = Token(3);
const ALARM: Token = Token(4);
const HOST: Token = Token(5);
/// Token of the first UDP socket.
const SOCKETS: usize = 16;
/// Token of the first client of the status socket.
pub const STATUS_CLIENTS: usize = 4096;

/// What the program around the control thread does at certain moments. The methods run on the
/// control thread, so they must not wait for long.
pub trait ControlHooks {
    /// Sockets, signals and the status socket are in place, and a client has begun to connect.
    ///
    /// # Errors
    /// A sentence for the administrator; the run ends with it.
    fn ready(&mut self) -> Result<(), String>;

    /// A peer is connected. On a client this is the moment for routes.
    ///
    /// # Errors
    /// A sentence for the administrator; the run ends with it.
    fn connected(&mut self, peer: &PublicKey) -> Result<(), String>;

    /// A peer is no longer connected.
    fn disconnected(&mut self, peer: &PublicKey, reason: DisconnectReason);

    /// Reads the configuration again.
    ///
    /// # Errors
    /// What is wrong with it; everything stays as it was.
    fn reload(&mut self) -> Result<Reload, String>;

    /// What the proxy gateway beside the tunnel is doing, if there is one.
    fn proxy_status(&self) -> Option<ProxyStatus> {
        None
    }

    /// What the configuration calls a peer, for the log.
    fn name_of(&self, _peer: &PublicKey) -> Option<String> {
        None
    }

    /// How it stands with the accounts, where there are some.
    fn accounts(&self) -> Option<AccountsStatus> {
        None
    }

    /// The address that a client's server has by now, asked for when it does not answer. Must not
    /// wait for a resolver: the answer to the last question will do.
    fn server_address(&mut self) -> Option<SocketAddr> {
        None
    }

    /// Nothing gets through to a client's server over UDP, or much is lost. Said again while that
    /// goes on, and only if the engine was told to watch ([`Engine::watch_udp`]).
    fn udp_fails(&mut self) {}

    /// UDP is in use again: a carrier has nothing to do any more but to deliver
    /// what is on its way.
    fn udp_restored(&mut self) {}

    /// The TUN device was changed, perhaps by this program: puts back what is missing.
    ///
    /// # Errors
    /// What is still missing, and why; it is tried again later.
    fn mend_interface(&mut self) -> Result<InterfaceState, String> {
        Ok(InterfaceState::Whole)
    }

    /// What is set up on the host beside the TUN device was changed, perhaps by this program: puts
    /// back what is missing and tells how much that was.
    ///
    /// # Errors
    /// What is still missing, and why; it is tried again later.
    fn mend_host(&mut self) -> Result<usize, String> {
        Ok(0)
    }

    /// A clean stop begins.
    fn stopping(&mut self) {}

    /// The workers have stopped and closed their devices, or not in time. Runs on every way out, of
    /// which one is `by_request`, the others are failures. The engine has nothing to do any more,
    /// but knows what was.
    fn stopped(&mut self, _engine: &mut Engine, _by_request: bool) {}
}

/// What a control thread is made of.
pub struct ControlParts {
    /// The state machine.
    pub engine: Engine,
    /// The poll whose waker the workers have.
    pub poll: ControlPoll,
    /// The control thread's sockets, those of each [`Endpoint::listener`] at its position, at
    /// least one: a bounded helping is taken from the first of all, then from the second of all.
    ///
    /// [`Endpoint::listener`]: crate::dataplane::messages::Endpoint::listener
    pub sockets: Vec<Vec<UdpSocket>>,
    /// The workers, in order.
    pub workers: Vec<WorkerHandle>,
    /// What the workers say.
    pub events: Receiver<WorkerEvent>,
    /// What other threads want of the engine, see [`ControlHandle`].
    pub orders: Receiver<ControlOrder>,
    /// Tells of changes to the TUN device; nobody looks after it if `None`.
    pub interface: Option<InterfaceMonitor>,
    /// Tells of changes to what else is set up on the host.
    pub host: HostMonitor,
    /// Where to offer status; nowhere if `None`.
    pub status_socket: Option<PathBuf>,
    /// Whether to act on SIGTERM, SIGINT and SIGHUP.
    pub catch_signals: bool,
    /// What status reports say beside what the thread knows itself.
    pub info: DaemonInfo,
    /// The program around.
    pub hooks: Box<dyn ControlHooks>,
}

/// Why a control thread ended other than by request.
#[derive(Debug, Error)]
pub enum ControlError {
    /// The kernel refused something the event loop cannot do without.
    #[error("{operation} failed: {source}")]
    Io {
        /// What was attempted.
        operation: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The status socket cannot be offered.
    #[error(transparent)]
    StatusSocket(#[from] StatusSocketError),
    /// Somebody took the TUN device away.
    #[error(
        "the TUN device {device} is gone ({error}): somebody deleted it, as `ip link delete \
         {device}` or a network manager that does not know it would; start the daemon again to \
         make it anew (`systemctl restart corelane-{role}`, where systemd runs it)"
    )]
    DeviceGone {
        /// The name it had.
        device: String,
        /// The kernel's word for it.
        error: String,
        /// `client` or `server`.
        role: &'static str,
    },
    /// A worker cannot go on, and the tunnel cannot do without it.
    #[error("worker {worker} failed: {error}")]
    WorkerFailed {
        /// Which worker.
        worker: usize,
        /// What it said.
        error: String,
    },
    /// A hook refused.
    #[error("{0}")]
    Hook(String),
    /// Another thread has found that there is no sense in going on.
    #[error("{0}")]
    Ended(String),
}

/// The control thread.
pub struct ControlThread {
    engine: Engine,
    poll: Poll,
    /// Goes off when something is due.
    alarm: Alarm,
    /// Held so that the last worker to return does not take its own wake-up along.
    _waker: Arc<Waker>,
    sockets: Sockets,
    workers: Workers,
    events: Receiver<WorkerEvent>,
    events_ready: bool,
    orders: Receiver<ControlOrder>,
    orders_ready: bool,
    /// Whether a worker has found the TUN device gone.
    device_gone: bool,
    signals: Option<Signals>,
    interface: Interface,
    host: HostWatch,
    status: Option<StatusSocket>,
    reporter: Reporter,
    /// How many lines of the log far sides may cause.
    lines: Lines,
    hooks: Box<dyn ControlHooks>,
    stop: Stop,
}

/// How far a stop has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stop {
    No,
    /// Asked for once: say goodbye, let the workers finish.
    Clean,
    /// Asked for again: do not wait.
    Immediate,
}

impl ControlThread {
    /// Puts the thread together. From here on signals are caught and the status socket exists.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub fn new(parts: ControlParts) -> Result<Self, ControlError> {
        let ControlPoll { poll, waker, alarm } = parts.poll;
        let sockets = Sockets::register(parts.sockets, poll.registry())
            .map_err(io_error("registering a UDP socket"))?;
        let signals = match parts.catch_signals {
            true => Some(catch_signals(&poll).map_err(io_error("catching signals"))?),
            false => None,
        };
        let (name, monitor) = (parts.info.tun.clone(), parts.interface);
        let interface = Interface::register(name, monitor, poll.registry(), INTERFACE)
            .map_err(io_error("watching the TUN device"))?;
        let host = HostWatch::register(parts.host, poll.registry(), HOST)
            .map_err(io_error("watching the host"))?;
        let status = match parts.status_socket {
            Some(path) => Some(StatusSocket::bind(path, poll.registry())?),
            None => None,
        };
        Ok(Self {
            engine: parts.engine,
            poll,
            alarm,
            _waker: waker,
            sockets,
            workers: Workers::new(parts.workers),
            events: parts.events,
            events_ready: true,
            orders: parts.orders,
            orders_ready: true,
            device_gone: false,
            signals,
            interface,
            host,
            status,
            reporter: Reporter::new(parts.info, clock::now()),
            lines: Lines::default(),
            hooks: parts.hooks,
            stop: Stop::No,
        })
    }

    /// Runs until a signal, a `down` request or a failure ends it. The workers have been told to
    /// stop when this returns.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub fn run(mut self) -> Result<(), ControlError> {
        let outcome = self.serve();
        if let Err(error) = &outcome {
            log::error!("{error}");
        }
        self.shut_down(outcome.is_ok());
        outcome
    }

    fn serve(&mut self) -> Result<(), ControlError> {
        let mut events = Events::with_capacity(64);
        self.engine.start(now());
        self.flush()?;
        self.hooks.ready().map_err(ControlError::Hook)?;
        while self.stop == Stop::No {
            let due = self.due();
            self.wait(&mut events, due)?;
            self.turn()?;
        }
        Ok(())
    }

    /// When something is to be done that nothing else tells of.
    fn due(&self) -> Option<Instant> {
        let status = self.status.as_ref().and_then(StatusSocket::poll_timeout);
        let (engine, interface) = (self.engine.poll_timeout(), self.interface.poll_timeout());
        let (host, lines) = (self.host.poll_timeout(), self.lines.poll_timeout());
        [engine, interface, host, status, lines].into_iter().flatten().min()
    }

    /// Sleeps until something is ready or the time has come that something is `due`, and remembers
    /// what is ready.
    fn wait(&mut self, events: &mut Events, due: Option<Instant>) -> Result<(), ControlError> {
        let is_busy = self.events_ready
            || self.orders_ready
            || self.sockets.any_ready()
            || self.interface.is_busy()
            || self.host.is_busy()
            || self.status.as_ref().is_some_and(StatusSocket::is_busy);
        if !is_busy {
            if self.sockets.is_crowded() {
                thread::sleep(CONTROL_REST);
            }
            self.alarm.set(due).map_err(io_error("setting an alarm"))?;
        }
        let timeout = is_busy.then_some(Duration::ZERO);
        match self.poll.poll(events, timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            result => result.map_err(io_error("waiting for events"))?,
        }
        for event in events.iter() {
            match event.token() {
                WAKER => (self.events_ready, self.orders_ready) = (true, true),
                // Its turn comes with that of all others.
                ALARM => {}
                SIGNALS => self.read_signals(),
                INTERFACE => self.interface.set_readable(),
                HOST => self.host.set_readable(),
                Token(token) if (SOCKETS..STATUS_CLIENTS).contains(&token) => {
                    self.sockets.set_ready(token - SOCKETS);
                }
                token => {
                    if let Some(status) = &mut self.status {
                        status.handle_event(token);
                    }
                }
            }
        }
        Ok(())
    }

    /// One bounded helping of work from every source.
    fn turn(&mut self) -> Result<(), ControlError> {
        self.take_worker_events()?;
        self.carry_out_orders()?;
        self.sockets.receive(&mut self.engine);
        if self.engine.poll_timeout().is_some_and(|due| due <= clock::now()) {
            self.engine.handle_timeout(now());
        }
        self.flush()?;
        self.tell_what_was_left_out();
        self.look_after_interface();
        self.look_after_host();
        self.serve_status()
    }

    fn look_after_interface(&mut self) {
        let now = clock::now();
        if !self.interface.is_due(now) {
            return;
        }
        let found = self.hooks.mend_interface();
        if let Some(warning) = self.interface.conclude(now, found) {
            log::warn!("{warning}");
            self.reporter.set_last_error(warning);
        }
    }

    fn look_after_host(&mut self) {
        let now = clock::now();
        if !self.host.is_due(now) {
            return;
        }
        let found = self.hooks.mend_host();
        if let Some(warning) = self.host.conclude(clock::now(), found) {
            log::warn!("{warning}");
            self.reporter.set_last_error(warning);
        }
    }

    fn take_worker_events(&mut self) -> Result<(), ControlError> {
        if !self.events_ready {
            return Ok(());
        }
        let now = now();
        for _ in 0..CONTROL_EVENTS_PER_TURN {
            match self.events.try_recv() {
                Ok(WorkerEvent::DeviceGone { worker, error }) => {
                    self.workers.set(worker, Life::Stopped);
                    self.note_device_gone(error)?;
                }
                Ok(WorkerEvent::Failed { worker, error }) => {
                    self.workers.set(worker, Life::Stopped);
                    return Err(ControlError::WorkerFailed { worker, error });
                }
                Ok(WorkerEvent::Stopped { worker }) => self.workers.set(worker, Life::Stopped),
                Ok(WorkerEvent::Closed { worker }) => self.workers.set(worker, Life::Closed),
                Ok(event) => self.engine.handle_worker_event(now, event),
                Err(_) => {
                    self.events_ready = false;
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn carry_out_orders(&mut self) -> Result<(), ControlError> {
        if !self.orders_ready {
            return Ok(());
        }
        for _ in 0..CONTROL_ORDERS_PER_TURN {
            match self.orders.try_recv() {
                Ok(ControlOrder::Engine(order)) => order(&mut self.engine, now()),
                Ok(ControlOrder::End(reason)) => return Err(ControlError::Ended(reason)),
                Err(_) => {
                    self.orders_ready = false;
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// The first worker to notice speaks for all.
    fn note_device_gone(&mut self, error: String) -> Result<(), ControlError> {
        if std::mem::replace(&mut self.device_gone, true) {
            return Ok(());
        }
        let device = self.reporter.device().to_owned();
        Err(ControlError::DeviceGone { device, error, role: self.engine.role_name() })
    }

    /// Drains what the engine wants done, in the order that it asks for: commands first.
    fn flush(&mut self) -> Result<(), ControlError> {
        while let Some((target, command)) = self.engine.poll_command() {
            self.workers.send(target, command);
        }
        self.workers.wake();
        self.sockets.transmit(&mut self.engine);
        while let Some(event) = self.engine.poll_event() {
            self.handle_engine_event(event)?;
        }
        Ok(())
    }

    fn read_signals(&mut self) {
        let Some(signals) = &mut self.signals else { return };
        let pending: Vec<i32> = signals.pending().collect();
        for signal in pending {
            match signal {
                SIGHUP => drop(self.reload()),
                SIGINT | SIGTERM => self.request_stop("a signal"),
                _ => {}
            }
        }
    }

    fn request_stop(&mut self, by: &str) {
        self.stop = match self.stop {
            Stop::No => {
                log::info!("stopping, asked by {by}");
                Stop::Clean
            }
            Stop::Clean | Stop::Immediate => {
                log::warn!("stopping at once, asked again by {by}");
                Stop::Immediate
            }
        };
    }

    fn reload(&mut self) -> Result<(), String> {
        let reload = self.hooks.reload().inspect_err(|error| {
            log::error!("configuration not applied: {error}");
            self.reporter.set_last_error(format!("configuration not applied: {error}"));
        })?;
        self.engine.reload(reload);
        log::info!("configuration read again");
        Ok(())
    }

    fn serve_status(&mut self) -> Result<(), ControlError> {
        let Some(mut status) = self.status.take() else { return Ok(()) };
        status.turn(clock::now(), &mut |request| self.answer(request));
        self.status = Some(status);
        // A reload has left commands.
        self.flush()
    }

    fn answer(&mut self, request: StatusRequest) -> StatusAnswer {
        match request {
            StatusRequest::Status => {
                self.sockets.count_overflows(self.engine.drops());
                let mut report = self.reporter.report(clock::now(), &self.engine, &self.workers);
                report.accounts = self.hooks.accounts();
                report.proxy = self.hooks.proxy_status();
                StatusAnswer::Status(Box::new(report))
            }
            StatusRequest::Down => {
                if self.stop == Stop::No {
                    self.request_stop("`corelane down`");
                }
                StatusAnswer::Ok
            }
            StatusRequest::Reload => match self.reload() {
                Ok(()) => StatusAnswer::Ok,
                Err(message) => StatusAnswer::Error { message },
            },
        }
    }
}

/// A peer as the log names it.
fn describe(peer: &PublicKey, name: Option<String>) -> String {
    match name {
        Some(name) => format!("{name} ({peer})"),
        None => peer.to_string(),
    }
}

fn catch_signals(poll: &Poll) -> io::Result<Signals> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    poll.registry().register(&mut signals, SIGNALS, Interest::READABLE)?;
    Ok(signals)
}

fn io_error(operation: &'static str) -> impl FnOnce(io::Error) -> ControlError {
    move |source| ControlError::Io { operation, source }
}

/// The clocks, now.
fn now() -> Now {
    Now { monotonic: clock::now(), unix: clock::unix_time() }
}
