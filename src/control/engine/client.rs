//! The client's side: keeps a session with one server alive.
//!
//! Its timers, apart from those of each path's MTU search:
//! - *Retry*: an initiation that was not answered is sent again, ever more slowly ([`attempt`]).
//! - *Confirmation*: after a handshake every path is probed until it answers; paths that do not are
//!   given up ([`PATH_CONFIRM_WITHIN`]).
//! - *Scan*: the activity counters are looked at, silent paths probed, idle paths kept alive.
//! - *Trial*: a client that fell back to one path asks for all again ([`PATHS_RETRY_FIRST`]).
//! - *Rekey*: a session is replaced at the configured age, by default
//!   [`REKEY_AFTER`](crate::limits::REKEY_AFTER), and not used past
//!   [`REJECT_AFTER`](crate::limits::REJECT_AFTER).

mod attempt;
mod loss;
mod paths;
mod trial;
mod watch;
mod way;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::Rng;

use crate::dataplane::messages::{Endpoint, WorkerCommand, WorkerEvent};
use crate::handshake::keys::PublicKey;
use crate::handshake::{Cookie, Established, TimestampClock};
use crate::limits::{
    ACTIVITY_SCAN_EVERY, PATH_CONFIRM_RETRY, PATH_CONFIRM_WITHIN, PATHS_RETRY_FIRST,
    RECONNECT_AFTER_CLOSE_MAX, REKEY_JITTER_DIVISOR, REKEY_JITTER_MAX, SESSIONS_PER_PEER_MAX,
};
use crate::routing::{PeerId, PrefixTable};
use crate::telemetry::status::PeerStatus;
use crate::wire::PathMessage;

use super::backoff::retry_wait;
use super::core::Core;
use super::session::{CloseReason, History, Session};
use super::{
    ClientOptions, ClientSetup, DisconnectReason, EngineEvent, Now, ServerChoice, Target, report,
};
use attempt::Attempt;
use paths::ClientPath;
use way::Way;

/// The only peer of a client: its server.
const SERVER: PeerId = PeerId(0);

/// A client's view of its server.
pub(super) struct Client {
    server_key: PublicKey,
    server: Endpoint,
    options: ClientOptions,
    clock: TimestampClock,
    /// The handshake in progress.
    attempt: Option<Attempt>,
    /// When to begin the next one, while there is no session.
    connect_at: Option<Instant>,
    cookie: Option<(Cookie, Instant)>,
    current: Option<Current>,
    /// Those that `current` has replaced, oldest first. They still receive what was on its way, and
    /// what those workers of the server send whose path in a later session has not been heard of:
    /// of a session that is given up for that reason, the one before is still in use.
    previous: VecDeque<Session>,
    /// Of the current session; what was learned about them outlives it.
    paths: Vec<ClientPath>,
    /// The one path that handshakes ask for, and until when, because not all of them got through.
    one_path: Option<OnePath>,
    /// How long a client that falls back to one path now keeps to it.
    one_path_wait: Duration,
    /// The path to try alone next, once nothing has come back on all together.
    one_path_next: usize,
    /// The worker whose TUN queue alone is attached, if not all are.
    only_queue: Option<usize>,
    /// Whether the current session, or the one before it, was confirmed.
    connected: bool,
    /// Sessions in a row that were lost before anything came back.
    fruitless: u32,
    history: History,
    scan_at: Instant,
    way: Way,
}

/// A client that goes by one path.
#[derive(Clone, Copy, Debug)]
struct OnePath {
    /// The worker that owns it.
    worker: usize,
    until: Instant,
}

/// The session in use.
struct Current {
    session: Session,
    /// Set while paths are waiting for their first answer.
    confirmation: Option<Confirmation>,
    rekey_at: Instant,
}

struct Confirmation {
    retry_at: Instant,
    deadline: Instant,
}

impl ClientOptions {
    /// When to replace a session that began `since`.
    fn rekey_at(&self, since: Instant, core: &mut Core) -> Instant {
        let jitter_max = REKEY_JITTER_MAX.min(self.rekey_after / REKEY_JITTER_DIVISOR);
        since + self.rekey_after - jitter_max.mul_f64(core.rng.random())
    }
}

impl Client {
    pub(super) fn new(setup: ClientSetup, now: Instant) -> Self {
        Self {
            server_key: setup.server_key,
            server: Endpoint { remote: setup.server, local: None, listener: 0 },
            options: setup.options,
            clock: TimestampClock::default(),
            attempt: None,
            connect_at: Some(now),
            cookie: None,
            current: None,
            previous: VecDeque::new(),
            paths: Vec::new(),
            one_path: None,
            one_path_wait: PATHS_RETRY_FIRST,
            one_path_next: 0,
            only_queue: None,
            connected: false,
            fruitless: 0,
            history: History::default(),
            scan_at: now,
            way: Way::new(now),
        }
    }

    pub(super) fn set_options(&mut self, core: &mut Core, options: ClientOptions) {
        self.options = options;
        if let Some(current) = &mut self.current {
            current.rekey_at = self.options.rekey_at(current.session.since, core);
        }
        self.announce_prefixes(core);
    }

    pub(super) fn announce_prefixes(&self, core: &mut Core) {
        let entries = self.options.allowed.iter().map(|prefix| (*prefix, SERVER));
        let table = PrefixTable::from_entries(entries);
        core.command(Target::All, WorkerCommand::SetPrefixes(table.into()));
    }

    /// The server's name stands for another address.
    pub(super) fn set_server(&mut self, server: SocketAddr) {
        if self.server.remote != server {
            self.server.remote = server;
            self.cookie = None;
        }
    }

    /// Goes on with what is chosen; a client that has not `started` yet will begin with it.
    pub(super) fn choose_server(
        &mut self,
        core: &mut Core,
        now: Now,
        choice: ServerChoice,
        started: bool,
    ) {
        let is_other = choice.key != self.server_key;
        let is_rekeyed = choice.options.preshared_key != self.options.preshared_key;
        if is_other {
            self.say_goodbye(core);
            self.lose_session(core, now.monotonic, DisconnectReason::ServerChanged, Duration::ZERO);
            (self.server_key, self.cookie, self.fruitless) = (choice.key, None, 0);
        }
        self.set_server(choice.address);
        self.set_tun_mtu(core, now.monotonic, choice.tun_mtu);
        self.set_options(core, choice.options);
        if (is_other || is_rekeyed) && started {
            self.begin_attempt(core, now);
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.connected && self.current.is_some()
    }

    /// A handshake is complete: the new session is used at once, since the server has installed it
    /// before it answered; the old one keeps receiving.
    fn adopt(&mut self, core: &mut Core, now: Instant, established: Established, since: Instant) {
        // With the new session and the current one there are as many as may be.
        while self.previous.len() > SESSIONS_PER_PEER_MAX - 2
            && let Some(oldest) = self.previous.pop_front()
        {
            oldest.remove(core, &mut self.history);
        }
        let session = Session::install(core, SERVER, None, established, Some(self.route()), since);
        let rekey_at = self.options.rekey_at(since, core);
        let confirmation = Confirmation {
            retry_at: now + PATH_CONFIRM_RETRY,
            deadline: now + PATH_CONFIRM_WITHIN,
        };
        self.adopt_paths(core, now, &session);
        if session.plan.own_workers() < core.workers {
            self.attach_only(core, session.plan.participants().start);
        }
        let current = Current { session, confirmation: Some(confirmation), rekey_at };
        if let Some(replaced) = self.current.replace(current) {
            self.previous.push_back(replaced.session);
            self.history.rekeys += 1;
            core.event(EngineEvent::Rekeyed { peer: self.server_key });
        }
        self.connect_at = None;
        self.restart_watch(now);
        self.scan_at = now + ACTIVITY_SCAN_EVERY;
        self.probe_unconfirmed(core, now);
    }

    /// The session is of no use any more: connects again after `pause`.
    fn lose_session(
        &mut self,
        core: &mut Core,
        now: Instant,
        reason: DisconnectReason,
        pause: Duration,
    ) {
        let current = self.current.take().map(|lost| lost.session);
        for session in self.previous.drain(..).chain(current) {
            session.remove(core, &mut self.history);
        }
        self.forget_loss();
        self.attempt = None;
        self.connect_at = Some(now + pause);
        if std::mem::take(&mut self.connected) {
            core.event(EngineEvent::Disconnected { peer: self.server_key, reason });
        }
    }

    /// Nothing came back on any path. An unlucky choice of paths may be the cause, so the next
    /// attempt makes another one: all paths and one of them by turns, each time the next one.
    fn lose_unconfirmed(&mut self, core: &mut Core, now: Instant) {
        let had_one = self.current.as_ref().is_some_and(|c| c.session.plan.own_workers() == 1);
        self.one_path = None;
        if !had_one {
            let worker = self.one_path_next % usize::from(core.workers);
            self.one_path_next = worker + 1;
            self.one_path = Some(OnePath { worker, until: now + self.one_path_wait });
        }
        let pause = retry_wait(self.fruitless, &mut core.rng);
        self.fruitless = self.fruitless.saturating_add(1);
        core.event(EngineEvent::Warning(format!(
            "the server answers handshakes, but no data packet came back on any path; a firewall \
             between here and {} may let only some UDP source ports through",
            self.server.remote
        )));
        self.lose_session(core, now, DisconnectReason::Silent, pause);
        self.tell_silence(core);
    }

    pub(super) fn handle_worker_event(&mut self, core: &mut Core, now: Now, event: WorkerEvent) {
        let at = now.monotonic;
        match event {
            WorkerEvent::PathSeen { session, path, endpoint, .. } => {
                if self.is_current(session) {
                    self.handle_path_seen(core, at, path, endpoint);
                }
            }
            WorkerEvent::PathMessage { worker, session, message, plaintext_len, .. } => {
                match message {
                    PathMessage::Probe { path, token } => {
                        self.answer_probe(core, worker, session, path, token, plaintext_len);
                    }
                    PathMessage::ProbeAck { path, token, plaintext_len } => {
                        self.handle_probe_ack(core, at, path, token, plaintext_len.into());
                        self.drive_mtu(core, at);
                    }
                    PathMessage::Close { .. } if self.session(session).is_some() => {
                        // Spread the clients of a server that restarts.
                        let pause =
                            core.rng.random_range(Duration::ZERO..RECONNECT_AFTER_CLOSE_MAX);
                        self.lose_session(core, at, DisconnectReason::Closed, pause);
                    }
                    PathMessage::Close { .. } => {}
                    PathMessage::InquiryAnswer { path, token } => {
                        self.handle_inquiry_answer(core, now, path, token);
                    }
                    // A server has no other way to its clients.
                    PathMessage::Inquiry { .. } => {}
                }
            }
            WorkerEvent::KeyNearlyUsed { session, .. } => {
                if self.is_current(session) && self.attempt.is_none() {
                    self.begin_attempt(core, now);
                }
            }
            WorkerEvent::PathTooBig { path, plaintext_len, .. } => {
                self.handle_too_big(core, at, path, plaintext_len);
            }
            WorkerEvent::DeviceGone { .. }
            | WorkerEvent::Failed { .. }
            | WorkerEvent::Stopped { .. }
            | WorkerEvent::Closed { .. } => {}
        }
    }

    pub(super) fn handle_timeout(&mut self, core: &mut Core, now: Now) {
        let at = now.monotonic;
        while self.previous.front().is_some_and(|session| at >= session.expires())
            && let Some(session) = self.previous.pop_front()
        {
            session.remove(core, &mut self.history);
        }
        if self.current.as_ref().is_some_and(|current| at >= current.session.expires()) {
            self.lose_session(core, at, DisconnectReason::Expired, Duration::ZERO);
        }
        self.drive_way(core, now);
        self.drive_confirmation(core, now);
        if at >= self.scan_at && self.current.is_some() {
            self.scan_at = at + ACTIVITY_SCAN_EVERY;
            self.scan(core, now);
        }
        self.drive_mtu(core, at);
        let rekey_due = self.current.as_ref().is_some_and(|current| at >= current.rekey_at);
        let connect_due = self.connect_at.is_some_and(|due| at >= due);
        let trial_due = self.trial_at().is_some_and(|due| at >= due);
        match &self.attempt {
            Some(attempt) if at >= attempt.retry_at => self.send_initiation(core, now),
            Some(_) => {}
            None if rekey_due || connect_due || trial_due => self.begin_attempt(core, now),
            None => {}
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let attempt = match &self.attempt {
            Some(attempt) => Some(attempt.retry_at),
            None => {
                let rekey = self.current.as_ref().map(|current| current.rekey_at);
                [rekey.or(self.connect_at), self.trial_at()].into_iter().flatten().min()
            }
        };
        let current = self.current.as_ref().map(|current| {
            let confirmation = current.confirmation.as_ref();
            let confirmation = confirmation.map(|wait| wait.retry_at.min(wait.deadline));
            let probes = self.paths.iter().filter_map(|path| path.mtu_timeout(&current.session));
            let fixed = current.session.expires().min(self.scan_at);
            probes.chain(confirmation).fold(fixed, Instant::min)
        });
        let previous = self.previous.front().map(Session::expires);
        [attempt, current, previous, self.way_timeout()].into_iter().flatten().min()
    }

    pub(super) fn request_close(&mut self, core: &mut Core) {
        self.attempt = None;
        self.connect_at = None;
        self.say_goodbye(core);
    }

    fn say_goodbye(&self, core: &mut Core) {
        let Some(current) = &self.current else { return };
        for worker in current.session.plan.participants() {
            current.session.send_close(core, worker, CloseReason::Stopping);
        }
    }

    pub(super) fn status(&self, now: Instant) -> PeerStatus {
        let current = self.current.as_ref().map(|current| &current.session);
        let confirmed = current.filter(|_| self.connected);
        report::peer_status(
            now,
            &self.server_key,
            &self.options.allowed,
            confirmed,
            current.into_iter().chain(&self.previous),
            &self.history,
            self.paths.iter().map(ClientPath::for_status),
        )
    }
}
