//! A client's handshake: initiations until one is answered.

use std::time::Instant;

use crate::handshake::{HandshakeError, InitiatorParams, PendingInitiation};
use crate::limits::{COOKIE_SECRET_LIFE, PATHS_RETRY_MAX};
use crate::telemetry::drops::DropReason;
use crate::wire::{MessageType, SessionIndex};

use super::super::backoff::retry_wait;
use super::super::core::Core;
use super::super::session::expiry;
use super::super::{EngineEvent, Now};
use super::Client;

/// After each so many initiations without an answer an event says so.
const TRIES_BETWEEN_COMPLAINTS: u32 = 5;

/// A handshake in progress. Only the newest initiation can be answered, so at most one is kept.
pub(super) struct Attempt {
    pending: Option<PendingInitiation>,
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
        attempt.retry_at = at + retry_wait(attempt.tries, &mut core.rng);
        if attempt.tries > 0 && attempt.tries.is_multiple_of(TRIES_BETWEEN_COMPLAINTS) {
            let server = self.server.remote;
            core.event(EngineEvent::NoAnswer { server, tries: attempt.tries });
        }
        attempt.tries = attempt.tries.saturating_add(1);
        match started {
            Ok((pending, datagram)) => {
                attempt.pending = Some(pending);
                core.transmit(self.server, datagram);
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
                if matches!(error, HandshakeError::Invalid(_)) {
                    let what = format!("a response of the server was refused: {error}");
                    attempt.complain(core, &what);
                }
            }
        }
    }

    /// The server is under load and wants to see that the source address is ours: asks again at
    /// once, with the cookie. A second demand for one that was shown waits for the retry timer.
    fn handle_cookie_reply(&mut self, core: &mut Core, now: Now, datagram: &[u8]) {
        let pending = self.attempt.as_ref().and_then(|attempt| attempt.pending.as_ref());
        let Some(pending) = pending else {
            return core.count(DropReason::HandshakeUnexpected);
        };
        match pending.consume_cookie_reply(datagram) {
            Ok(cookie) => {
                self.cookie = Some((cookie, now.monotonic + COOKIE_SECRET_LIFE));
                if self.attempt.as_ref().is_some_and(|attempt| !attempt.has_cookie) {
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
    /// Warns, once for each attempt.
    fn complain(&mut self, core: &mut Core, what: &str) {
        if !std::mem::replace(&mut self.complained, true) {
            core.event(EngineEvent::Warning(what.to_owned()));
        }
    }
}
