//! A client's carrier: opened when UDP is silent or loses much, given up when UDP works again.
//!
//! The engine finds out which of the two it is. This thread does what may take a while, connecting
//! by TLS above all, and tells the engine which way to go.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use crate::config::{CarrierMode, FarSide, UpConfig};
use crate::control::engine::Engine;
use crate::control::runtime::ControlHandle;
use crate::daemon::DaemonError;
use crate::limits::{
    CARRIER_CONNECT_WITHIN, CARRIER_GRACE, CARRIER_RETRY_FIRST, CARRIER_RETRY_MAX,
    CARRIER_WORDS_MAX,
};
use crate::login::carrier::{CarrierClient, CarrierEnd, CarrierStream};
use crate::login::client::{Channel, ChannelError, Destination};
use crate::login::message::Secret;
use crate::login::tls::ClientTls;
use crate::sys::clock;
use crate::telemetry::counters::DropCounters;

/// What it takes to open a carrier: it comes with a login.
#[derive(Clone)]
pub(super) struct Access {
    /// What the server's certificate must say.
    pub(super) name: String,
    /// Where the login was.
    pub(super) address: SocketAddr,
    /// How to know the server.
    pub(super) tls: ClientTls,
    /// The firewall mark that keeps the connection out of the tunnel.
    pub(super) mark: u32,
    /// What the connection shows.
    pub(super) ticket: Secret,
}

/// What the thread is told.
enum Word {
    Access(Box<Access>),
    UdpFails,
    UdpRestored,
    NetworkChanged,
    /// A carrier has ended, of which this is the number.
    Ended(u64, CarrierEnd),
}

/// Tells the thread what has happened.
#[derive(Clone)]
pub(super) struct CarriageHandle(Sender<Word>);

impl CarriageHandle {
    /// There is a login by which carriers can be opened.
    pub(super) fn set_access(&self, access: Access) {
        self.tell(Word::Access(Box::new(access)));
    }

    /// Nothing gets through over UDP, or too little.
    pub(super) fn udp_fails(&self) {
        self.tell(Word::UdpFails);
    }

    /// UDP is in use again.
    pub(super) fn udp_restored(&self) {
        self.tell(Word::UdpRestored);
    }

    /// The way to the server is another than before: a connection that was bound to the old one
    /// hears nothing any more, and does not know.
    pub(super) fn network_changed(&self) {
        self.tell(Word::NetworkChanged);
    }

    /// Never waits: the control thread must not.
    fn tell(&self, word: Word) {
        if let Err(TrySendError::Full(_)) = self.0.try_send(word) {
            log::debug!("the thread of the carrier is busy and was not told");
        }
    }
}

/// The thread; it ends, and the carrier with it, when this is dropped.
pub(super) struct Carriage {
    words: Option<Sender<Word>>,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread needs to know.
struct CarriageParts {
    /// When to use a carrier.
    mode: CarrierMode,
    /// Ports of the client's sockets: of each worker in order, then of the control thread.
    ports: Vec<u16>,
    /// Reaches the engine.
    control: ControlHandle,
    /// Counts what a carrier loses.
    drops: Arc<DropCounters>,
}

impl Carriage {
    /// The carriage of a client that logs in and may use carriers. `ports` are those of its
    /// sockets, the control thread's last.
    pub(super) fn of(
        config: &UpConfig,
        ports: Vec<u16>,
        control: &ControlHandle,
        engine: &Engine,
    ) -> Result<Option<Self>, DaemonError> {
        let (mode, control) = (config.carrier, control.clone());
        if matches!(config.far_side, FarSide::Known(_)) || mode == CarrierMode::Udp {
            return Ok(None);
        }
        let parts = CarriageParts { mode, ports, control, drops: Arc::clone(engine.drops()) };
        let started = Self::start(parts);
        started.map(Some).map_err(DaemonError::io("starting the thread of the carrier"))
    }

    /// Starts the thread, and has the engine watch UDP if that is what decides.
    fn start(parts: CarriageParts) -> std::io::Result<Self> {
        let (words, heard) = bounded(CARRIER_WORDS_MAX);
        let (stop, stopped) = bounded(0);
        if parts.mode == CarrierMode::Auto {
            parts.control.order(|engine, now| engine.watch_udp(now, true));
        }
        let driver = Driver {
            parts,
            heard,
            stopped,
            words: words.clone(),
            access: None,
            carrier: None,
            carriers: 0,
            in_use: false,
            close_at: None,
            retry_at: None,
            pause: CARRIER_RETRY_FIRST,
        };
        let thread = thread::Builder::new().name("carriage".to_owned());
        let thread = thread.spawn(move || driver.run())?;
        Ok(Self { words: Some(words), stop: Some(stop), thread: Some(thread) })
    }

    /// Tells the thread what has happened.
    pub(super) fn handle(&self) -> Option<CarriageHandle> {
        self.words.clone().map(CarriageHandle)
    }
}

impl Drop for Carriage {
    fn drop(&mut self) {
        self.words = None;
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // It may be connecting, for some seconds at most; a panic has been told.
            let _ = thread.join();
        }
    }
}

struct Driver {
    parts: CarriageParts,
    heard: Receiver<Word>,
    /// Has nothing to say; it ends when the thread is to.
    stopped: Receiver<()>,
    /// For carriers, which say when they end.
    words: Sender<Word>,
    access: Option<Access>,
    carrier: Option<CarrierClient>,
    /// How many there have been, which gives each its number.
    carriers: u64,
    /// Whether the engine sends by the carrier.
    in_use: bool,
    /// When to close a carrier that is not in use.
    close_at: Option<Instant>,
    /// When to try again to open one.
    retry_at: Option<Instant>,
    pause: Duration,
}

impl Driver {
    fn run(mut self) {
        loop {
            let due = self.close_at.into_iter().chain(self.retry_at).min();
            let wait = due.map(|due| due.saturating_duration_since(clock::now()));
            let timeout = wait.map_or_else(crossbeam_channel::never, crossbeam_channel::after);
            crossbeam_channel::select! {
                recv(self.heard) -> word => match word {
                    Ok(word) => self.hear(word),
                    Err(_) => return,
                },
                recv(self.stopped) -> _ => return,
                recv(timeout) -> _ => {}
            }
            self.do_what_is_due();
        }
    }

    fn hear(&mut self, word: Word) {
        match word {
            Word::Access(access) => self.take_access(*access),
            Word::UdpFails if self.in_use => {}
            Word::UdpFails if self.carrier.is_some() => self.use_it(),
            Word::UdpFails => {
                self.open();
            }
            Word::UdpRestored => {
                self.in_use = false;
                (self.close_at, self.retry_at) = (Some(clock::now() + CARRIER_GRACE), None);
            }
            // The old one serves until there is another, if it still can.
            Word::NetworkChanged if self.in_use => {
                if !self.open() {
                    (self.pause, self.retry_at) = (CARRIER_RETRY_FIRST, Some(clock::now()));
                }
            }
            Word::NetworkChanged => {}
            Word::Ended(number, end) => self.lose(number, &end),
        }
    }

    fn take_access(&mut self, access: Access) {
        let before = self.access.replace(access);
        let address = self.access.as_ref().map(|access| access.address);
        if before.is_some_and(|before| Some(before.address) != address) {
            // It leads to a server that is not the client's any more.
            self.give_up();
        }
        if self.parts.mode == CarrierMode::Tls && self.carrier.is_none() {
            self.retry_at = Some(clock::now());
            self.pause = CARRIER_RETRY_FIRST;
        }
    }

    fn do_what_is_due(&mut self) {
        let now = clock::now();
        if self.close_at.take_if(|at| now >= *at).is_some() {
            self.carrier = None;
        }
        if self.retry_at.take_if(|at| now >= *at).is_some() && !self.open() {
            self.retry_at = Some(clock::now() + self.pause);
            self.pause = (self.pause * 2).min(CARRIER_RETRY_MAX);
        }
    }

    /// Opens a carrier and uses it instead of the one that there may be, which stays if there is
    /// no connection for another. Whether that succeeded.
    fn open(&mut self) -> bool {
        let Some(access) = &self.access else { return false };
        let number = self.carriers + 1;
        let words = self.words.clone();
        let on_end = Box::new(move |end| {
            // The thread has gone if nobody hears it; it may also be the one that waits for this.
            let _ = words.try_send(Word::Ended(number, end));
        });
        let ports = self.parts.ports.clone();
        let stream = match connect(access) {
            Ok(stream) => stream,
            Err(error) => {
                log::warn!("no carrier over TLS either: {error}");
                return false;
            }
        };
        // One at a time counts what it loses.
        self.carrier = None;
        match CarrierClient::start(stream, ports, Arc::clone(&self.parts.drops), on_end) {
            Ok(carrier) => {
                (self.carrier, self.carriers) = (Some(carrier), number);
                self.use_it();
                true
            }
            Err(error) => {
                log::warn!("the carrier over TLS cannot be used: {error}");
                self.give_up();
                false
            }
        }
    }

    fn use_it(&mut self) {
        let Some(carrier) = &self.carrier else { return };
        let address = carrier.address();
        self.in_use = true;
        (self.close_at, self.retry_at, self.pause) = (None, None, CARRIER_RETRY_FIRST);
        log::info!("datagrams go over TLS from now on");
        self.parts.control.order(move |engine, now| engine.use_carrier(now, Some(address)));
    }

    /// Goes back to UDP, whether or not it works.
    fn give_up(&mut self) {
        if std::mem::take(&mut self.in_use) {
            self.parts.control.order(|engine, now| engine.use_carrier(now, None));
        }
        self.carrier = None;
    }

    fn lose(&mut self, number: u64, end: &CarrierEnd) {
        if number != self.carriers || self.carrier.is_none() {
            return;
        }
        self.carrier = None;
        if !self.in_use {
            return;
        }
        log::warn!("the carrier over TLS has ended: {end}");
        self.give_up();
        if !self.open() && self.parts.mode == CarrierMode::Tls {
            self.retry_at = Some(clock::now() + self.pause);
        }
    }
}

fn connect(access: &Access) -> Result<CarrierStream, ChannelError> {
    let Access { name, address, tls, mark, ticket } = access;
    let to = Destination { name, address: *address, mark: Some(*mark) };
    let channel = Channel::connect(to, tls, CARRIER_CONNECT_WITHIN)?;
    let carrier = channel.into_carrier(ticket, CARRIER_CONNECT_WITHIN)?;
    let stream = mio::net::TcpStream::from_std(carrier.stream);
    Ok(CarrierStream { stream, tls: carrier.tls.into() })
}
