//! A client's handshake: initiations until one is answered.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::handshake::{Cookie, HandshakeError, InitiatorParams, PendingInitiation, Request};
use crate::limits::{
    COOKIE_SECRET_LIFE, HANDSHAKE_REQUESTS_KEPT, HANDSHAKE_RETRY_MAX, PATHS_RETRY_MAX,
};
use crate::telemetry::drops::DropReason;
use crate::wire::{MessageType, Response, SessionIndex};

use super::super::backoff::retry_wait;
use super::super::core::Core;
use super::super::session::expiry;
use super::super::{EngineEvent, Now};
use super::Client;

/// After each so many initiations without an answer an event says so.
const TRIES_BETWEEN_COMPLAINTS: u32 = 5;

/// A handshake in progress. Only the newest initiation can be granted, so at most one is kept; of
/// those before it as much as tells what an answer to them is worth.
pub(super) struct Attempt {
    pending: Option<PendingInitiation>,
    /// The latest initiations, the newest last, and when they were sent.
    requests: VecDeque<(Request, Instant)>,
    /// How long an answer has taken that was too late: the next one is awaited for longer.
    answers_take: Duration,
    began: Instant,
    sent: Instant,
    pub(super) retry_at: Instant,
    tries: u32,
    /// The worker whose path the newest initiation asks for, if it asks for one path.
    one_path: Option<usize>,
    /// The newest initiation proves the source address by a cookie.
    has_cookie: bool,
    complained: bool,
}

impl Client {
    /// Begins a handshake in place of any that is in progress.
    pub(super) fn begin_attempt(&mut self, core: &mut Core, now: Now) {
        self.connect_at = None;
        self.attempt = Some(Attempt {
            pending: None,
            requests: VecDeque::new(),
            answers_take: Duration::ZERO,
            began: now.monotonic,
            sent: now.monotonic,
            retry_at: now.monotonic,
            tries: 0,
            one_path: None,
            has_cookie: false,
            complained: false,
        });
        self.send_initiation(core, now);
    }

    /// Sends a fresh initiation; an answer to an earlier one is no longer accepted.
    pub(super) fn send_initiation(&mut self, core: &mut Core, now: Now) {
        let Some(mut attempt) = self.attempt.take() else { return };
        let at = now.monotonic;
        attempt.one_path = self.one_path_at(at);
        let workers = if attempt.one_path.is_some() { 1 } else { core.workers };
        let params = InitiatorParams { workers, features: core.features };
        let waits_for = attempt.pending.as_ref().map(PendingInitiation::local);
        let taken = |index: SessionIndex| {
            self.session(index).is_some() || waits_for.is_some_and(|waits_for| waits_for == index)
        };
        let local = core.unused_index(taken);
        self.cookie.take_if(|(_, expires)| at >= *expires);
        let cookie = self.cookie.as_ref().map(|(cookie, _)| cookie);
        let timestamp = self.clock.next(now.unix);
        let started = PendingInitiation::start(
            &core.identity,
            &self.server_key,
            params,
            local,
            timestamp,
            cookie,
            &mut core.rng,
        );
        attempt.has_cookie = cookie.is_some();
        attempt.sent = at;
        attempt.retry_at = at + retry_wait(attempt.tries, &mut core.rng).max(attempt.patience());
        if attempt.tries > 0 && attempt.tries.is_multiple_of(TRIES_BETWEEN_COMPLAINTS) {
            let server = self.server.remote;
            core.event(EngineEvent::NoAnswer { server, tries: attempt.tries });
        }
        attempt.tries = attempt.tries.saturating_add(1);
        match started {
            Ok((pending, datagram)) => {
                attempt.keep(pending.request(), at);
                attempt.pending = Some(pending);
                core.transmit(self.route(), datagram);
            }
            Err(error) => {
                attempt.complain(core, &format!("the server's public key is unusable: {error}"));
            }
        }
        self.attempt = Some(attempt);
    }

    pub(in super::super) fn handle_datagram(&mut self, core: &mut Core, now: Now, datagram: &[u8]) {
        match MessageType::of(datagram) {
            Some(MessageType::Response) => self.handle_response(core, now, datagram),
            Some(MessageType::CookieReply) => self.handle_cookie_reply(core, now, datagram),
            // A client grants no sessions, and data arrives on the workers' own sockets.
            Some(MessageType::Initiation) => core.count(DropReason::HandshakeUnexpected),
            Some(MessageType::Data) => core.count(DropReason::LaneWrong),
            None => core.count(DropReason::DatagramUnknownType),
        }
    }

    /// A response that is late, forged or damaged changes nothing: the attempt goes on. One that
    /// has waited here while the process was stopped or the machine suspended may grant a session
    /// that is too old to be used.
    fn handle_response(&mut self, core: &mut Core, now: Now, datagram: &[u8]) {
        let in_time = |attempt: &&mut Attempt| now.monotonic < expiry(attempt.sent);
        let Some(attempt) = self.attempt.as_mut().filter(in_time) else {
            return core.count(DropReason::HandshakeUnexpected);
        };
        let Some(pending) = &mut attempt.pending else {
            return core.count(DropReason::HandshakeUnexpected);
        };
        match pending.consume_response(datagram, &self.options.preshared_key) {
            Ok(mut established) => {
                let (began, sent) = (attempt.began, attempt.sent);
                if let Some(worker) = attempt.one_path {
                    established.plan = established.plan.beginning_at(worker as u8);
                }
                self.attempt = None;
                self.history.last_handshake = Some(now.monotonic);
                self.history.handshake = Some(now.monotonic.saturating_duration_since(began));
                self.adopt(core, now.monotonic, established, sent);
            }
            Err(error) => {
                core.count_error(&error);
                match error {
                    HandshakeError::Unexpected => {
                        attempt.note_late_answer(now.monotonic, datagram);
                    }
                    HandshakeError::Invalid(_) => {
                        let what = format!("a response of the server was refused: {error}");
                        attempt.complain(core, &what);
                    }
                    _ => {}
                }
            }
        }
    }

    /// The server is under load and wants to see that the source address is ours: asks again at
    /// once, with the cookie. A second demand for one that was shown waits for the retry timer.
    fn handle_cookie_reply(&mut self, core: &mut Core, now: Now, datagram: &[u8]) {
        let Some(attempt) = &self.attempt else {
            return core.count(DropReason::HandshakeUnexpected);
        };
        match attempt.consume_cookie_reply(datagram) {
            Ok(cookie) => {
                let has_cookie = attempt.has_cookie;
                self.cookie = Some((cookie, now.monotonic + COOKIE_SECRET_LIFE));
                if !has_cookie {
                    self.send_initiation(core, now);
                }
            }
            Err(error) => core.count_error(&error),
        }
    }

    /// The one path to ask for, if it is to be one. Once its time is over all are asked for, and
    /// if that fails, not again for twice as long.
    fn one_path_at(&mut self, now: Instant) -> Option<usize> {
        if self.one_path.take_if(|one| now >= one.until).is_some() {
            self.one_path_wait = (self.one_path_wait * 2).min(PATHS_RETRY_MAX);
        }
        self.one_path.map(|one| one.worker)
    }
}

impl Attempt {
    /// How long an answer has been waited for.
    pub(super) fn waits(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.began)
    }

    fn keep(&mut self, request: Request, sent: Instant) {
        if self.requests.len() == HANDSHAKE_REQUESTS_KEPT {
            self.requests.pop_front();
        }
        self.requests.push_back((request, sent));
    }

    /// A cookie is good whichever initiation it answers.
    fn consume_cookie_reply(&self, datagram: &[u8]) -> Result<Cookie, HandshakeError> {
        let replies = self.requests.iter().map(|(it, _)| it.consume_cookie_reply(datagram));
        let mut meant = replies.filter(|it| !matches!(it, Err(HandshakeError::Unexpected)));
        meant.next().unwrap_or(Err(HandshakeError::Unexpected))
    }

    /// Where answers take longer than the wait for them, each would be overtaken by the next
    /// initiation. A session that such an answer grants is of no use, the server may have given it
    /// up for that initiation; but how long the answer took is.
    fn note_late_answer(&mut self, now: Instant, datagram: &[u8]) {
        let Ok(response) = Response::parse(datagram) else { return };
        let answered = |(request, _): &&(Request, _)| request.local() == response.receiver;
        let Some((_, sent)) = self.requests.iter().find(answered) else { return };
        self.answers_take = self.answers_take.max(now.saturating_duration_since(*sent));
        self.retry_at = self.retry_at.max(self.sent + self.patience());
    }

    /// How long an answer is awaited at least.
    fn patience(&self) -> Duration {
        (self.answers_take * 5 / 4).min(HANDSHAKE_RETRY_MAX)
    }

    /// Warns, once for each attempt.
    fn complain(&mut self, core: &mut Core, what: &str) {
        if !std::mem::replace(&mut self.complained, true) {
            core.event(EngineEvent::Warning(what.to_owned()));
        }
    }
}
