//! Every connection of the login thread, and what each of them is to do next.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io::{self, Read as _};
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

use crate::handshake::Source;
use crate::limits::{LOGIN_CONNECTIONS_MAX, LOGIN_HANDSHAKES_PER_TURN, LOGIN_STEPS_PER_TURN};
use crate::login::message::{LeaseTerms, RefusalCode};
use crate::login::tls::ServerTls;

use super::crowd::{Crowd, Place};
use super::session::{Event, Login, Phase, Session, Timeouts};
use super::thread::{LoginHandle, Order};
use super::{Answer, CarrierConnection, CarrierSink, LoginAttempt, LoginDesk, LoginId, Refused};

/// One connection.
struct Connection {
    stream: TcpStream,
    from: SocketAddr,
    session: Session,
    /// Its place among those that have not logged in.
    place: Option<Place>,
    /// The login that the table of logins has for it.
    login: Option<LoginId>,
    readable: bool,
    writable: bool,
    /// It waits in a queue.
    queued: bool,
    /// Its entry among the timers.
    timer: Instant,
    /// All is said; what the far end still sends is read and forgotten, since closing a socket
    /// with unread bytes would take the last words away from it.
    lingering: bool,
}

impl Connection {
    /// Reads and forgets, until the far end has read our last words and closes.
    fn linger(&mut self) -> Step {
        if !self.lingering {
            self.lingering = true;
            if self.stream.shutdown(Shutdown::Write).is_err() {
                return Step::Over;
            }
        }
        match self.stream.read(&mut [0; 4096]) {
            Ok(0) => Step::Over,
            read => Step::after(read.map(drop), &mut self.readable),
        }
    }
}

/// How a connection got on.
enum Step {
    /// It may get further.
    Again,
    /// Something has to happen first.
    Wait,
    /// It is to be forgotten.
    Over,
}

impl Step {
    /// What follows from moving bytes; `ready` is whether that may be tried again at once.
    fn after(outcome: io::Result<()>, ready: &mut bool) -> Self {
        match outcome.map_err(|error| error.kind()) {
            Ok(()) | Err(io::ErrorKind::Interrupted) => Self::Again,
            Err(io::ErrorKind::WouldBlock) => {
                *ready = false;
                Self::Wait
            }
            Err(kind) => {
                log::debug!("login: a client is gone: {kind}");
                Self::Over
            }
        }
    }
}

fn full() -> Refused {
    let message = "the server has as many clients as it can take".to_owned();
    Refused { code: RefusalCode::Busy, message, retry_after_s: Some(30) }
}

fn stale_ticket() -> Refused {
    let message = "the ticket belongs to no login that is in force: log in again".to_owned();
    Refused { code: RefusalCode::Denied, message, retry_after_s: None }
}

/// All of them.
pub(super) struct Connections {
    registry: Registry,
    first_token: usize,
    tls: ServerTls,
    timeouts: Timeouts,
    handle: LoginHandle,
    desk: Arc<dyn LoginDesk>,
    carriers: Arc<dyn CarrierSink>,
    slots: Vec<Option<Box<Connection>>>,
    free: Vec<usize>,
    crowd: Crowd,
    /// Where logins are that were granted or are being decided about.
    logins: HashMap<LoginId, usize>,
    last_login: u64,
    timers: BTreeSet<(Instant, usize)>,
    /// Connections that have something to do: those that have logged in, and the others.
    users: VecDeque<usize>,
    strangers: VecDeque<usize>,
}

impl Connections {
    pub(super) fn new(
        registry: Registry,
        first_token: usize,
        tls: ServerTls,
        timeouts: Timeouts,
        (handle, desk, carriers): (LoginHandle, Arc<dyn LoginDesk>, Arc<dyn CarrierSink>),
    ) -> Self {
        Self {
            registry,
            first_token,
            tls,
            timeouts,
            handle,
            desk,
            carriers,
            slots: Vec::new(),
            free: Vec::new(),
            crowd: Crowd::default(),
            logins: HashMap::new(),
            last_login: 0,
            timers: BTreeSet::new(),
            users: VecDeque::new(),
            strangers: VecDeque::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.len() == self.free.len()
    }

    /// Whether something is left to do without waiting.
    pub(super) fn is_busy(&self) -> bool {
        !self.users.is_empty() || !self.strangers.is_empty()
    }

    /// When the first connection runs out of time.
    pub(super) fn due(&self) -> Option<Instant> {
        self.timers.first().map(|(timer, _)| *timer)
    }

    /// Lets a client in.
    pub(super) fn enter(&mut self, now: Instant, mut stream: TcpStream, from: SocketAddr) {
        // A socket for both families has IPv4 clients in the clothes of IPv6; people know them by
        // their own.
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        let source = Source::from(from.ip());
        if let Some(place) = self.crowd.in_the_way_of(source) {
            self.remove(place.slot);
        }
        let session = match Session::new(now, Arc::clone(&self.tls.config), self.timeouts) {
            Ok(session) => session,
            Err(error) => {
                log::error!("a client cannot be let in: {error}");
                return;
            }
        };
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        let token = Token(self.first_token + slot);
        let interest = Interest::READABLE | Interest::WRITABLE;
        let registered = self.registry.register(&mut stream, token, interest);
        if let Err(error) = registered.and_then(|()| stream.set_nodelay(true)) {
            log::debug!("{from} cannot be let in: {error}");
            self.free.push(slot);
            return;
        }
        let timer = session.deadline();
        self.timers.insert((timer, slot));
        let place = Some(self.crowd.enter(source, slot));
        let connection = Connection {
            stream,
            from,
            session,
            place,
            login: None,
            readable: false,
            writable: false,
            queued: false,
            timer,
            lingering: false,
        };
        if let Some(free) = self.slots.get_mut(slot) {
            *free = Some(Box::new(connection));
        }
    }

    /// Somebody who has not logged in has to go, for want of descriptors.
    pub(super) fn make_room(&mut self) {
        if let Some(place) = self.crowd.first() {
            self.remove(place.slot);
        }
    }

    /// The kernel says that a connection can be read or written.
    pub(super) fn notice(&mut self, token: usize, readable: bool, writable: bool) {
        let Some(slot) = token.checked_sub(self.first_token) else { return };
        if let Some(Some(connection)) = self.slots.get_mut(slot) {
            connection.readable |= readable;
            connection.writable |= writable;
            // Every connection can be written once it is there, and most have nothing to say.
            if readable || connection.session.wants_write() {
                self.enqueue(slot);
            }
        }
    }

    /// The desk has decided about a login, or about a renewal.
    pub(super) fn decide(
        &mut self,
        now: Instant,
        id: LoginId,
        is_renewal: bool,
        decision: Result<LeaseTerms, Refused>,
    ) {
        let slot = self.logins.get(&id).copied();
        match slot.and_then(|slot| self.slots.get_mut(slot)) {
            Some(Some(connection)) => connection.session.decide(now, id, decision),
            // The client did not wait for it.
            _ if decision.is_ok() && !is_renewal => self.desk.gone(id),
            _ => {}
        }
        if let Some(slot) = slot {
            self.settle(slot);
        }
    }

    /// A login is over.
    pub(super) fn end(&mut self, now: Instant, id: LoginId, code: RefusalCode, message: &str) {
        if let Some(slot) = self.logins.get(&id).copied() {
            self.end_slot(now, slot, code, message);
        }
    }

    /// Everything is over.
    pub(super) fn end_all(&mut self, now: Instant, code: RefusalCode, message: &str) {
        for slot in 0..self.slots.len() {
            self.end_slot(now, slot, code, message);
        }
    }

    fn end_slot(&mut self, now: Instant, slot: usize, code: RefusalCode, message: &str) {
        if let Some(Some(connection)) = self.slots.get_mut(slot) {
            connection.session.end(now, code, message.to_owned());
            self.settle(slot);
        }
    }

    /// Certificates or revocations have changed. Whoever has shown a certificate that is revoked
    /// now is out.
    pub(super) fn renew_tls(&mut self, now: Instant, tls: ServerTls) {
        let before = std::mem::replace(&mut self.tls, tls);
        if self.tls.revoked == before.revoked {
            return;
        }
        let revoked = Arc::clone(&self.tls.revoked);
        self.desk.revoked(&revoked);
        for slot in 0..self.slots.len() {
            let Some(Some(connection)) = self.slots.get(slot) else { continue };
            let shown = connection.session.certificate();
            if shown.is_some_and(|certificate| revoked.contains(&certificate.serial)) {
                self.end_slot(now, slot, RefusalCode::Revoked, "the certificate was revoked");
            }
        }
    }

    /// Serves those who have logged in and have something to do, a bounded number of the others,
    /// and those whose time has come.
    pub(super) fn turn(&mut self, now: Instant) {
        while let Some((_, slot)) = self.timers.first().copied().filter(|(timer, _)| *timer <= now)
        {
            self.handle_timeout(now, slot);
        }
        for _ in 0..self.users.len() {
            let Some(slot) = self.users.pop_front() else { break };
            self.serve(now, slot);
        }
        let mut served = 0;
        while served < LOGIN_HANDSHAKES_PER_TURN
            && let Some(slot) = self.strangers.pop_front()
        {
            served += usize::from(self.serve(now, slot));
        }
    }

    fn enqueue(&mut self, slot: usize) {
        let Some(Some(connection)) = self.slots.get_mut(slot) else { return };
        if connection.queued {
            return;
        }
        connection.queued = true;
        let queue = match connection.session.login() {
            Some(_) => &mut self.users,
            None => &mut self.strangers,
        };
        queue.push_back(slot);
        // Connections that are gone leave their entries behind; those do not add up.
        if queue.len() > 2 * self.slots.len() {
            let is_waiting = |slot: &usize| {
                self.slots.get(*slot).and_then(Option::as_ref).is_some_and(|found| found.queued)
            };
            queue.retain(is_waiting);
        }
    }

    fn handle_timeout(&mut self, now: Instant, slot: usize) {
        let Some(Some(connection)) = self.slots.get_mut(slot) else { return };
        match connection.session.handle_timeout(now) {
            true => self.settle(slot),
            false => self.remove(slot),
        }
    }

    /// Something was done with a connection from outside of its turn: brings the tables up to date
    /// and gives it a turn.
    fn settle(&mut self, slot: usize) {
        self.update_tables(slot);
        self.enqueue(slot);
    }

    /// Makes timers, logins and crowd agree with what the session has come to.
    fn update_tables(&mut self, slot: usize) {
        let Some(Some(connection)) = self.slots.get_mut(slot) else { return };
        let session = &connection.session;
        let timer = session.deadline();
        if timer != connection.timer {
            self.timers.remove(&(connection.timer, slot));
            self.timers.insert((timer, slot));
            connection.timer = timer;
        }
        let login = session.busy_with();
        if login != connection.login {
            if let Some(over) = connection.login {
                self.logins.remove(&over);
            }
            if let Some(begun) = login {
                self.logins.insert(begun, slot);
            }
            connection.login = login;
        }
        let source = Source::from(connection.from.ip());
        let has_tls = session.phase() != Phase::Handshake;
        connection.place = match (connection.place, login) {
            // Who has logged in, or is being decided about, is not pushed out.
            (Some(place), Some(_)) => {
                self.crowd.leave(source, place);
                None
            }
            (Some(place), None) if has_tls && !place.has_tls() => {
                Some(self.crowd.promote(source, place))
            }
            (None, None) => {
                let place = self.crowd.enter(source, slot);
                Some(self.crowd.promote(source, place))
            }
            (place, _) => place,
        };
    }

    /// Goes on with one connection for a bounded number of steps. Returns whether it got further.
    fn serve(&mut self, now: Instant, slot: usize) -> bool {
        match self.slots.get_mut(slot) {
            Some(Some(connection)) if connection.queued => connection.queued = false,
            _ => return false,
        }
        for step in 0..LOGIN_STEPS_PER_TURN {
            match self.step(now, slot) {
                Step::Again => {}
                Step::Wait => {
                    self.update_tables(slot);
                    return step > 0;
                }
                Step::Over => {
                    self.remove(slot);
                    return true;
                }
            }
        }
        self.settle(slot);
        true
    }

    fn step(&mut self, now: Instant, slot: usize) -> Step {
        let Some(Some(connection)) = self.slots.get_mut(slot) else { return Step::Wait };
        let Connection { session, stream, readable, writable, .. } = &mut **connection;
        let last_login = &mut self.last_login;
        let next_id = || {
            *last_login += 1;
            LoginId(*last_login)
        };
        if let Some(event) = session.advance(now, next_id) {
            self.handle(now, slot, event);
            return Step::Again;
        }
        if session.wants_write() {
            return match *writable {
                true => Step::after(session.write_tls(now, stream), writable),
                false => Step::Wait,
            };
        }
        if let Some(login) = session.carrier() {
            self.hand_over(slot, login);
            return Step::Wait;
        }
        if session.is_over() && session.has_left() {
            return Step::Over;
        }
        if !*readable {
            return Step::Wait;
        }
        if session.is_over() {
            return connection.linger();
        }
        if !session.wants_read() {
            return Step::Wait;
        }
        Step::after(session.read_tls(now, stream), readable)
    }

    fn handle(&mut self, now: Instant, slot: usize, event: Event) {
        let Some(Some(connection)) = self.slots.get_mut(slot) else { return };
        let session = &mut connection.session;
        match event {
            Event::Login(login) if self.logins.len() >= LOGIN_CONNECTIONS_MAX => {
                session.decide(now, login.id, Err(full()));
            }
            Event::Login(login) => {
                let Login { id, request, device_key, certificate, psk } = *login;
                let from = connection.from;
                self.update_tables(slot);
                let attempt = LoginAttempt { id, from, request, device_key, certificate, psk };
                self.desk.login(attempt, self.answer(id, false));
            }
            Event::Renew(id) => self.desk.renew(id, self.answer(id, true)),
            Event::Logout(id) => self.desk.logout(id),
            Event::Carrier(ticket) => match self.desk.carrier(&ticket) {
                Some(login) => session.become_carrier(now, login),
                None => session.refuse(now, stale_ticket()),
            },
            Event::Ping(nonce) => session.pong(now, nonce, self.desk.load_permille()),
        }
    }

    fn answer(&self, id: LoginId, is_renewal: bool) -> Answer {
        let handle = self.handle.clone();
        Box::new(move |decision| {
            let decision = Box::new(decision);
            handle.give(Order::Decision { id, is_renewal, decision });
        })
    }

    fn hand_over(&mut self, slot: usize, login: LoginId) {
        let Some(connection) = self.take(slot) else { return };
        let Connection { mut stream, from, session, .. } = *connection;
        match self.registry.deregister(&mut stream) {
            Ok(()) => {
                let tls = session.into_tls();
                self.carriers.take(CarrierConnection { login, from, stream, tls });
            }
            Err(error) => log::warn!("a carrier cannot be handed over: {error}"),
        }
    }

    /// Forgets a connection, and tells the desk if a login was lost with it.
    fn remove(&mut self, slot: usize) {
        let Some(mut connection) = self.take(slot) else { return };
        if let Err(error) = self.registry.deregister(&mut connection.stream) {
            log::debug!("{}: {error}", connection.from);
        }
        if let Some(id) = connection.session.login() {
            self.desk.gone(id);
        }
    }

    /// Takes a connection out of every table.
    fn take(&mut self, slot: usize) -> Option<Box<Connection>> {
        let connection = self.slots.get_mut(slot)?.take()?;
        self.timers.remove(&(connection.timer, slot));
        if let Some(place) = connection.place {
            self.crowd.leave(Source::from(connection.from.ip()), place);
        }
        if let Some(login) = connection.login {
            self.logins.remove(&login);
        }
        self.free.push(slot);
        Some(connection)
    }
}
