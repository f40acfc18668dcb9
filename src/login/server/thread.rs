//! The login thread: an event loop around every connection of the control channel.
//!
//! A turn accepts a bounded number of connections, then serves every connection that has logged in
//! and has something to do, then a bounded number of those that have not: TLS handshakes, which are
//! what a stranger can make expensive. So a storm of them delays nobody who is in.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, unbounded};
use mio::{Events, Interest, Poll, Token, Waker};
use thiserror::Error;

use crate::limits::{LOGIN_ACCEPT_RETRY, LOGIN_ACCEPTS_PER_TURN, LOGIN_CLOSE_WITHIN, LOGIN_NICE};
use crate::login::message::{LeaseTerms, RefusalCode};
use crate::login::tls::{FilesWatch, Service, TlsFiles, TlsSetupError};
use crate::sys::{clock, process};

use super::connections::Connections;
use super::listeners::LoginListeners;
use super::session::Timeouts;
use super::{CarrierSink, LoginDesk, LoginId, Refused};

const WAKER: Token = Token(0);
const FIRST_LISTENER: usize = 1;
/// Events taken from the kernel at a time.
const EVENTS: usize = 1024;

/// What a login thread works with.
#[derive(Debug)]
pub struct LoginOptions {
    /// Where clients knock.
    pub listeners: LoginListeners,
    /// Certificate, key, client CA and revocation list; changes to them are noticed.
    pub files: TlsFiles,
    /// How long clients may take.
    pub timeouts: Timeouts,
}

/// Why there is no login thread.
#[derive(Debug, Error)]
pub enum LoginStartError {
    /// The files are not in order.
    #[error(transparent)]
    Tls(#[from] TlsSetupError),
    /// The kernel refuses something.
    #[error("cannot start the login thread: {0}; are there too many open files?")]
    Io(#[from] io::Error),
}

/// What other threads want of the login thread.
pub(super) enum Order {
    /// The desk has decided about a login or a renewal.
    Decision { id: LoginId, is_renewal: bool, decision: Box<Result<LeaseTerms, Refused>> },
    /// A login is over.
    End(LoginId, RefusalCode, String),
    /// So is everything.
    Stop,
}

/// Gives orders to the login thread, from any thread. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LoginHandle {
    orders: Sender<Order>,
    waker: Arc<Waker>,
}

impl LoginHandle {
    /// The login is over: tells its client why, and closes the connection. Nothing happens if that
    /// is closed already.
    pub fn end(&self, id: LoginId, code: RefusalCode, message: String) {
        self.give(Order::End(id, code, message));
    }

    pub(super) fn give(&self, order: Order) {
        // A thread that has stopped needs no orders.
        if self.orders.send(order).is_ok()
            && let Err(error) = self.waker.wake()
        {
            log::error!("the login thread cannot be woken: {error}");
        }
    }
}

/// The running thread. Dropping it stops it.
#[derive(Debug)]
pub struct LoginThread {
    handle: LoginHandle,
    addresses: Vec<SocketAddr>,
    thread: Option<JoinHandle<()>>,
}

impl LoginThread {
    /// Starts it.
    ///
    /// # Errors
    /// The files are not in order, or the kernel gives no descriptor.
    pub fn start(
        options: LoginOptions,
        desk: Arc<dyn LoginDesk>,
        carriers: Arc<dyn CarrierSink>,
    ) -> Result<Self, LoginStartError> {
        let LoginOptions { mut listeners, files, timeouts } = options;
        let now = clock::now();
        let (files, tls) = FilesWatch::load(files, Service::Login, now)?;
        let poll = Poll::new()?;
        for (index, listener) in listeners.listeners.iter_mut().enumerate() {
            let token = Token(FIRST_LISTENER + index);
            poll.registry().register(listener, token, Interest::READABLE)?;
        }
        let (sender, orders) = unbounded();
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let handle = LoginHandle { orders: sender, waker };
        let first = FIRST_LISTENER + listeners.listeners.len();
        let registry = poll.registry().try_clone()?;
        let parts = (handle.clone(), desk, carriers);
        let connections = Connections::new(registry, first, tls, timeouts, parts);
        let addresses = listeners.addresses().to_vec();
        let accept = vec![Knocking::Perhaps; addresses.len()];
        let mut state = Loop { poll, orders, listeners, accept, files, connections };
        let thread = std::thread::Builder::new().name("login".to_owned());
        let thread = thread.spawn(move || {
            if let Err(error) = process::stand_back(LOGIN_NICE) {
                log::warn!("logins may cost other work some speed: {error}");
            }
            state.run();
        })?;
        Ok(Self { handle, addresses, thread: Some(thread) })
    }

    /// Gives orders to it.
    pub fn handle(&self) -> LoginHandle {
        self.handle.clone()
    }

    /// Where it listens.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }
}

impl Drop for LoginThread {
    /// Tells every client that the server stops, and waits until they have been told, two seconds
    /// at most.
    fn drop(&mut self) {
        self.handle.give(Order::Stop);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the login thread has panicked");
        }
    }
}

/// Whether somebody may be waiting at a listener.
#[derive(Clone, Copy)]
enum Knocking {
    No,
    Perhaps,
    /// The kernel could not hand a connection over; it is asked again then.
    From(Instant),
}

struct Loop {
    poll: Poll,
    orders: Receiver<Order>,
    listeners: LoginListeners,
    accept: Vec<Knocking>,
    files: FilesWatch,
    connections: Connections,
}

impl Loop {
    fn run(&mut self) {
        let mut events = Events::with_capacity(EVENTS);
        let mut stopping: Option<Instant> = None;
        loop {
            let now = clock::now();
            let is_stopped = |until| now >= until || self.connections.is_empty();
            if stopping.is_some_and(is_stopped) {
                return;
            }
            let timeout = self.due(stopping).saturating_duration_since(now);
            match self.poll.poll(&mut events, Some(timeout)) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    log::error!("the login thread ends: {error}");
                    return;
                }
                Err(_) | Ok(()) => {}
            }
            let now = clock::now();
            self.notice(&events);
            for order in self.orders.try_iter() {
                match order {
                    Order::Decision { id, is_renewal, decision } => {
                        self.connections.decide(now, id, is_renewal, *decision);
                    }
                    Order::End(id, code, message) => self.connections.end(now, id, code, &message),
                    Order::Stop => {
                        stopping = Some(now + LOGIN_CLOSE_WITHIN);
                        self.connections.end_all(now, RefusalCode::Stopping, "the server stops");
                    }
                }
            }
            if stopping.is_none() {
                self.accept(now);
                if let Some(tls) = self.files.look(now) {
                    self.connections.renew_tls(now, tls);
                }
            }
            self.connections.turn(now);
        }
    }

    /// When there is something to do even if nothing happens.
    fn due(&self, stopping: Option<Instant>) -> Instant {
        if self.connections.is_busy() {
            return clock::now();
        }
        let mut due = self.files.due();
        for accept in &self.accept {
            match accept {
                Knocking::No => {}
                Knocking::Perhaps => return clock::now(),
                Knocking::From(at) => due = due.min(*at),
            }
        }
        let others = [stopping, self.connections.due()];
        others.into_iter().flatten().fold(due, Instant::min)
    }

    fn notice(&mut self, events: &Events) {
        for event in events {
            let Token(token) = event.token();
            if let Some(accept) =
                token.checked_sub(FIRST_LISTENER).and_then(|index| self.accept.get_mut(index))
            {
                *accept = Knocking::Perhaps;
            } else if token >= FIRST_LISTENER {
                self.connections.notice(token, event.is_readable(), event.is_writable());
            }
        }
    }

    fn accept(&mut self, now: Instant) {
        for (listener, accept) in self.listeners.listeners.iter().zip(&mut self.accept) {
            let is_due = match accept {
                Knocking::No => false,
                Knocking::Perhaps => true,
                Knocking::From(at) => now >= *at,
            };
            if !is_due {
                continue;
            }
            *accept = Knocking::Perhaps;
            for _ in 0..LOGIN_ACCEPTS_PER_TURN {
                match listener.accept() {
                    Ok((stream, from)) => self.connections.enter(now, stream, from),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        *accept = Knocking::No;
                        break;
                    }
                    // The client was gone before it was let in, or a signal came.
                    Err(error)
                        if matches!(
                            error.kind(),
                            io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted
                        ) => {}
                    Err(error) => {
                        // Most likely the descriptors are used up: somebody makes room.
                        log::debug!("a client has to wait: {error}");
                        self.connections.make_room();
                        *accept = Knocking::From(now + LOGIN_ACCEPT_RETRY);
                        break;
                    }
                }
            }
        }
    }
}
