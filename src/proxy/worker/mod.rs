//! A proxy worker: one thread, its own listening sockets, and the clients that come there.
//!
//! A turn hears what the kernel and other threads have to say, accepts a bounded number of clients,
//! and gives every connection that has something to do a bounded helping of it. Nothing that a
//! client does waits for another thread: names are looked up elsewhere, and the answer comes as an
//! [`Order`].

mod connection;
mod datagrams;
mod listening;
mod newcomers;
mod ready;
mod slab;
mod talk;
mod wheel;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Registry, Token, Waker};

use crate::accounts::model::Id;
use crate::accounts::service::Acknowledgement;
use crate::limits::PROXY_HANDSHAKES_PER_TURN;
use crate::login::tls::ServerTls;
use crate::sys::{affinity, clock};

use super::access::{Access, Outcome};
use super::counters::{ProxyCounters, Refusal};
use super::crowd::{Crowd, Seat};
use super::dial::Answer;
use super::dial::names::Names;
use super::dial::own::OwnAddresses;
use super::forward::Pool;
use super::records::{AccessLog, Ledger};
use super::relay::Buffers;
use super::settings::Rules;
use super::stream::{End, Stream, TlsStream};
use super::target::DomainName;

use connection::{Connection, Turn};
use datagrams::Datagrams;
use listening::Door;
use newcomers::Newcomers;
use ready::{Around, Ready};
use slab::{ConnectionId, Slab, own_number, own_token};
use wheel::Wheel;

pub(super) use listening::{Post, bind};

const WAKER: Token = own_token(0);
const FIRST_DOOR: usize = 1;
/// The number of the first connection to an origin that nobody uses.
const FIRST_KEPT: usize = 1 << 16;
/// The number of the first connection to an upstream proxy that is made beforehand.
const FIRST_READY: usize = 1 << 24;
/// Events taken from the kernel at a time.
const EVENTS: usize = 1024;

/// What other threads want of a worker.
#[derive(Debug)]
pub(super) enum Order {
    /// A name was looked up.
    Resolved(ConnectionId, DomainName, Answer),
    /// A name to which datagrams go was looked up.
    Named(ConnectionId, DomainName, Answer),
    /// The name of an upstream proxy was looked up, to which connections are kept ready.
    Located(DomainName, Answer),
    /// It was decided who a client is.
    Known(ConnectionId, Outcome),
    /// Somebody at another worker needs room: at this entrance, or descriptors if it is none.
    MakeRoom(Option<usize>),
    /// Another connection of its user needs its place.
    MakeWay(ConnectionId),
    /// A pass is no longer good, or other terms hold for it. To be dropped when that is enforced.
    Review(Id, Acknowledgement),
    /// What goes for clients that come from here on, by entrance.
    Rules(Vec<Arc<Rules>>),
    /// What an entrance shows of itself to clients that come from here on.
    Tls(usize, ServerTls),
    /// Accept nobody any more, and stop when the last relay has ended, or after this time.
    Stop(Duration),
}

/// Gives orders to a worker, from any thread. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct WorkerHandle {
    orders: Sender<Order>,
    waker: Arc<Waker>,
}

impl WorkerHandle {
    pub(super) fn give(&self, order: Order) {
        // A worker that has stopped needs no orders.
        if self.orders.send(order).is_ok()
            && let Err(error) = self.waker.wake()
        {
            log::error!("a proxy worker cannot be woken: {error}");
        }
    }
}

/// What connections need of the worker around them.
pub(super) struct Context {
    now: Instant,
    registry: Registry,
    buffers: Buffers,
    datagrams: Datagrams,
    /// Where in the range of ports for associations the next one is looked for.
    next_udp_port: u16,
    names: Names,
    own: OwnAddresses,
    handle: WorkerHandle,
    /// Where clients say who they are.
    access: Option<Access>,
    /// Where it is told what clients did, if anywhere.
    log: Option<AccessLog>,
    counters: Arc<ProxyCounters>,
    /// Connections to origins that nobody uses.
    pool: Pool,
    /// Connections to upstream proxies that are made beforehand.
    ready: Ready,
    /// Whether clients that have nothing under way have to go.
    is_stopping: bool,
    /// Whether somebody who is being served needs a descriptor, and there is none.
    needs_descriptor: bool,
}

impl Context {
    /// Sees to the connections that are made beforehand.
    fn turn_ready(&mut self) {
        let Self { now, ready, registry, names, handle, .. } = self;
        ready.turn(&Around { now: *now, registry, names, handle });
    }

    /// The name of a server to which there are some was looked up.
    fn locate_ready(&mut self, name: &DomainName, answer: &Answer) {
        let Self { now, ready, registry, names, handle, .. } = self;
        ready.locate(name, answer, &Around { now: *now, registry, names, handle });
    }
}

/// What a worker is made of.
pub(super) struct ProxyWorkerParts {
    /// The CPU that it stays on.
    pub(super) cpu: Option<usize>,
    /// Its listening sockets.
    pub(super) listeners: Vec<Post>,
    /// By entrance.
    pub(super) rules: Vec<Arc<Rules>>,
    /// By entrance.
    pub(super) tls: Vec<Option<ServerTls>>,
    /// By entrance.
    pub(super) crowds: Vec<Crowd>,
    /// All workers, once they are there.
    pub(super) workers: Arc<OnceLock<Vec<WorkerHandle>>>,
    pub(super) names: Names,
    pub(super) own: OwnAddresses,
    pub(super) access: Option<Access>,
    pub(super) log: Option<AccessLog>,
    pub(super) counters: Arc<ProxyCounters>,
}

/// The event loop of one thread.
pub(super) struct ProxyWorker {
    cpu: Option<usize>,
    poll: Poll,
    orders: Receiver<Order>,
    doors: Vec<Door>,
    rules: Vec<Arc<Rules>>,
    /// By entrance.
    tls: Vec<Option<ServerTls>>,
    crowds: Vec<Crowd>,
    workers: Arc<OnceLock<Vec<WorkerHandle>>>,
    connections: Slab<Connection>,
    /// Those that have something to do.
    ready: VecDeque<ConnectionId>,
    newcomers: Newcomers,
    timers: Wheel<(Instant, ConnectionId)>,
    /// Timers that have gone off.
    expired: Vec<(Instant, ConnectionId)>,
    /// When to stop, once it is to.
    stopping: Option<Instant>,
    cx: Context,
}

impl ProxyWorker {
    /// A worker that has yet to run, and the handle to it.
    ///
    /// # Errors
    /// The kernel gives no descriptor.
    pub(super) fn new(parts: ProxyWorkerParts) -> io::Result<(Self, WorkerHandle)> {
        let poll = Poll::new()?;
        let (sender, orders) = crossbeam_channel::unbounded();
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let handle = WorkerHandle { orders: sender, waker };
        let mut doors = Vec::with_capacity(parts.listeners.len());
        for (index, mut post) in parts.listeners.into_iter().enumerate() {
            let token = own_token(FIRST_DOOR + index);
            poll.registry().register(&mut post.listener, token, Interest::READABLE)?;
            doors.push(Door::new(post));
        }
        let now = clock::now();
        let mut ready = Ready::new(|place| own_token(FIRST_READY + place));
        ready.set_rules(&parts.rules, now);
        let cx = Context {
            now,
            registry: poll.registry().try_clone()?,
            buffers: Buffers::default(),
            datagrams: Datagrams::default(),
            next_udp_port: 0,
            names: parts.names,
            own: parts.own,
            handle: handle.clone(),
            access: parts.access,
            log: parts.log,
            counters: parts.counters,
            pool: Pool::new(|place| own_token(FIRST_KEPT + place)),
            ready,
            is_stopping: false,
            needs_descriptor: false,
        };
        let worker = Self {
            cpu: parts.cpu,
            poll,
            orders,
            doors,
            rules: parts.rules,
            tls: parts.tls,
            newcomers: Newcomers::new(&parts.crowds),
            crowds: parts.crowds,
            workers: parts.workers,
            connections: Slab::default(),
            ready: VecDeque::new(),
            timers: Wheel::new(now),
            expired: Vec::new(),
            stopping: None,
            cx,
        };
        Ok((worker, handle))
    }

    /// Runs until it is told to stop.
    ///
    /// # Errors
    /// The kernel refuses what the loop cannot do without.
    pub(super) fn run(mut self) -> io::Result<()> {
        if let Some(cpu) = self.cpu
            && let Err(error) = affinity::pin_current_thread(cpu)
        {
            log::warn!("a proxy worker cannot be pinned to CPU {cpu}: {error}");
        }
        let mut events = Events::with_capacity(EVENTS);
        loop {
            if let Some(until) = self.stopping
                && (self.connections.len() == 0 || clock::now() >= until)
            {
                self.end_all();
                return Ok(());
            }
            let timeout = self.timeout();
            match self.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                Err(_) | Ok(()) => {}
            }
            self.cx.now = clock::now();
            self.notice(&events);
            self.carry_out_orders();
            if self.stopping.is_none() {
                self.accept();
            }
            self.serve();
            self.expire();
            self.cx.pool.sweep(self.cx.now);
            self.cx.turn_ready();
        }
    }

    /// How long it may sleep.
    fn timeout(&self) -> Option<Duration> {
        if !self.ready.is_empty() || self.doors.iter().any(Door::is_busy) {
            return Some(Duration::ZERO);
        }
        let doors = self.doors.iter().filter_map(Door::due);
        let due = doors.chain(self.timers.due()).chain(self.stopping);
        let due = due.chain(self.cx.pool.due()).chain(self.cx.ready.due()).min()?;
        Some(due.saturating_duration_since(clock::now()))
    }

    fn notice(&mut self, events: &Events) {
        for event in events {
            let token = event.token();
            if let Some(number) = own_number(token) {
                if let Some(place) = number.checked_sub(FIRST_READY) {
                    self.cx.ready.notice(place, event);
                    continue;
                }
                if let Some(place) = number.checked_sub(FIRST_KEPT) {
                    self.cx.pool.notice(place);
                    continue;
                }
                let door = number.checked_sub(FIRST_DOOR);
                if let Some(door) = door.and_then(|door| self.doors.get_mut(door)) {
                    door.knock();
                }
                continue;
            }
            let (id, socket) = ConnectionId::of_token(token);
            if let Some(connection) = self.connections.get_mut(id) {
                connection.notice(socket, event);
                if !std::mem::replace(&mut connection.queued, true) {
                    self.ready.push_back(id);
                }
            }
        }
    }

    fn carry_out_orders(&mut self) {
        while let Ok(order) = self.orders.try_recv() {
            match order {
                Order::Resolved(id, name, answer) => {
                    if let Some(connection) = self.connections.get_mut(id) {
                        connection.hear_of(&name, &answer, &mut self.cx);
                        let turn = connection.turn(&mut self.cx);
                        self.conclude(id, false, turn);
                    }
                }
                Order::Named(id, name, answer) => {
                    if let Some(connection) = self.connections.get_mut(id) {
                        connection.named(&name, &answer, &mut self.cx);
                    }
                }
                Order::Known(id, outcome) => {
                    if let Some(connection) = self.connections.get_mut(id) {
                        let was_asking = connection.is_asking();
                        connection.settle_login(outcome, &mut self.cx);
                        let turn = connection.turn(&mut self.cx);
                        self.conclude(id, was_asking, turn);
                    }
                }
                Order::MakeRoom(at) => drop(self.make_room_at_once(at)),
                Order::MakeWay(id) => {
                    if let Some(connection) = self.connections.get_mut(id) {
                        let was_asking = connection.is_asking();
                        connection.make_way(&self.cx);
                        let turn = connection.turn(&mut self.cx);
                        self.conclude(id, was_asking, turn);
                    }
                }
                Order::Located(name, answer) => self.cx.locate_ready(&name, &answer),
                Order::Review(pass, _done) => self.review(pass),
                Order::Rules(rules) => {
                    if !self.cx.is_stopping {
                        self.cx.ready.set_rules(&rules, self.cx.now);
                    }
                    self.rules = rules;
                    self.outlive_rules();
                }
                Order::Tls(entrance, tls) => self.renew_tls(entrance, tls),
                Order::Stop(within) => self.stop(within),
            }
        }
    }

    /// Clients that come again and again come by the new rules, too: the connections that they keep
    /// end.
    fn outlive_rules(&mut self) {
        for id in self.connections.ids() {
            let Some(connection) = self.connections.get_mut(id) else { continue };
            let was_asking = connection.is_asking();
            connection.outlive_rules();
            let turn = connection.turn(&mut self.cx);
            self.conclude(id, was_asking, turn);
        }
    }

    /// Shows other certificates from here on. Clients whose own is revoked now have to go.
    fn renew_tls(&mut self, entrance: usize, tls: ServerTls) {
        let Some(place) = self.tls.get_mut(entrance) else { return };
        let before = place.replace(tls.clone());
        if before.is_some_and(|before| before.revokes_the_same(&tls)) {
            return;
        }
        for id in self.connections.ids() {
            let Some(connection) = self.connections.get_mut(id) else { continue };
            if connection.is_revoked_by(entrance, &tls) {
                let was_asking = connection.is_asking();
                self.cx.counters.revoked.add(1);
                connection.reset();
                self.conclude(id, was_asking, Turn::Over);
            }
        }
    }

    /// Looks at every connection that rests on a pass.
    fn review(&mut self, pass: Id) {
        for id in self.connections.ids() {
            let Some(connection) = self.connections.get_mut(id) else { continue };
            if connection.rests_on(pass) {
                let was_asking = connection.is_asking();
                connection.review(&mut self.cx);
                let turn = connection.turn(&mut self.cx);
                self.conclude(id, was_asking, turn);
            }
        }
    }

    /// Accepts nobody any more, and sends those away who have not asked for anything.
    fn stop(&mut self, within: Duration) {
        self.doors.clear();
        self.stopping = Some(self.cx.now + within);
        self.cx.is_stopping = true;
        self.cx.ready.stop(self.cx.now);
        for id in self.connections.ids() {
            let Some(connection) = self.connections.get_mut(id) else { continue };
            if connection.is_idle() {
                let was_asking = connection.is_asking();
                connection.turn_away(Refusal::Stopping, &mut self.cx);
                self.conclude(id, was_asking, Turn::Over);
            }
        }
    }

    fn end_all(&mut self) {
        for id in self.connections.ids() {
            if let Some(connection) = self.connections.get_mut(id) {
                let was_asking = connection.is_asking();
                connection.cut();
                self.conclude(id, was_asking, Turn::Over);
            }
        }
    }

    /// Lets a client in who has come to an entrance.
    fn enter(
        &mut self,
        (mut stream, from): (TcpStream, SocketAddr),
        seat: Seat,
        entrance: usize,
        tls: bool,
    ) {
        let Some(rules) = self.rules.get(entrance).map(Arc::clone) else { return };
        let tls = self.tls.get(entrance).and_then(Option::as_ref).filter(|_| tls);
        let Some(id) = self.connections.reserve() else { return };
        let interest = Interest::READABLE | Interest::WRITABLE;
        let registered = self.cx.registry.register(&mut stream, id.token(0), interest);
        let stream = registered.and_then(|()| match tls {
            Some(tls) => TlsStream::server(stream, tls).map(Stream::Tls),
            None => Ok(Stream::Tcp(stream)),
        });
        let client = match stream {
            Ok(stream) => End::new(stream),
            Err(error) => {
                log::debug!("proxy: a client cannot be let in: {error}");
                self.connections.remove(id);
                return;
            }
        };
        self.cx.counters.accepted.add(1);
        let file = self.cx.log.as_ref().and_then(|log| log.file_of(entrance));
        let places = (seat, Ledger::new(file, rules.counts_destinations()));
        let connection =
            Connection::new(id, (client, from), (entrance, rules), places, self.cx.now);
        self.connections.put(id, connection);
        self.arm(id);
        self.welcome(id, entrance);
    }

    /// Gives every connection that has something to do its turn, and of those that would go on with
    /// a handshake of TLS the first few: others wait, in the order in which they came.
    fn serve(&mut self) {
        let mut handshakes = 0;
        for _ in 0..self.ready.len() {
            let Some(id) = self.ready.pop_front() else { break };
            let Some(connection) = self.connections.get_mut(id) else { continue };
            if connection.has_handshake_to_do() {
                if handshakes == PROXY_HANDSHAKES_PER_TURN {
                    self.ready.push_back(id);
                    continue;
                }
                handshakes += 1;
            }
            connection.queued = false;
            let was_asking = connection.is_asking();
            let turn = connection.turn(&mut self.cx);
            self.conclude(id, was_asking, turn);
        }
    }

    fn expire(&mut self) {
        let mut expired = std::mem::take(&mut self.expired);
        self.timers.expire(self.cx.now, &mut expired);
        for (at, id) in expired.drain(..) {
            let Some(connection) = self.connections.get_mut(id) else { continue };
            if connection.armed != Some(at) {
                continue;
            }
            connection.armed = None;
            let was_asking = connection.is_asking();
            let turn = match connection.due().is_some_and(|due| self.cx.now >= due) {
                true => connection.handle_timeout(&mut self.cx),
                // What it was set for has moved on.
                false => Turn::Wait,
            };
            self.conclude(id, was_asking, turn);
        }
        self.expired = expired;
    }

    /// A connection has had its turn.
    fn conclude(&mut self, id: ConnectionId, was_asking: bool, turn: Turn) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        if was_asking && (turn == Turn::Over || !connection.is_asking()) {
            self.newcomers.leave(connection.entrance());
        }
        match turn {
            Turn::Again => {
                if !std::mem::replace(&mut connection.queued, true) {
                    self.ready.push_back(id);
                }
                self.arm(id);
            }
            Turn::Wait => self.arm(id),
            Turn::Over => {
                if let Some(connection) = self.connections.remove(id) {
                    connection.release(&mut self.cx);
                    self.cx.counters.closed.add(1);
                }
            }
        }
        if std::mem::take(&mut self.cx.needs_descriptor) {
            self.make_room_at_once(None);
        }
    }

    /// Sees to it that a timer goes off when the connection is due, or before.
    fn arm(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        let Some(due) = connection.due() else { return };
        if connection.armed.is_none_or(|armed| due < armed) {
            connection.armed = Some(due);
            self.timers.insert(due, (due, id));
        }
    }
}
