//! Reaches an origin through an upstream proxy: a server after another, until one does it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use mio::event::Event;
use zeroize::Zeroizing;

use crate::accounts::names::Name;
use crate::limits::{PROXY_ATTEMPTS_MAX, PROXY_UPSTREAM_TRIES_MAX};
use crate::proxy::dial::own::OwnPrefixes;
use crate::proxy::dial::{Asker, Dial, Failure, Guard};
use crate::proxy::header::{self, Ends};
use crate::proxy::stream::{End, Moved};
use crate::proxy::target::{Host, Target};
use crate::proxy::upstream::group::{Group, Lease};
use crate::proxy::upstream::handshake::{Fault, Handshake, HandshakeError};

use super::super::Context;
use super::super::talk::{Progress, Talk};
use super::{Connection, Dialling, Phase, Step, Turn};

/// The number of the socket of a connection that had been ready; those that are dialled have lower
/// ones.
const READY_SOCKET: usize = PROXY_ATTEMPTS_MAX + 1;

/// The way through a group of upstream proxies.
#[derive(Debug)]
pub(super) struct Via {
    group: Arc<Group>,
    target: Target,
    /// What the client's server is drawn by.
    key: u64,
    /// A bit for each server that was tried.
    tried: u64,
    /// The place at the server that is being tried.
    lease: Option<Lease>,
    /// Until when that may take.
    until: Instant,
    talk: Option<Talk>,
    /// Whether that is over a connection that had been ready.
    was_ready: bool,
}

impl Via {
    pub(super) fn new(group: Arc<Group>, target: Target, key: u64, until: Instant) -> Self {
        Self { group, target, key, tried: 0, lease: None, until, talk: None, was_ready: false }
    }

    /// The kernel tells of a socket; returns whether it was this one's.
    pub(super) fn notice(&mut self, socket: usize, event: &Event) -> bool {
        let talk = self.talk.as_mut().filter(|talk| talk.socket == socket);
        if let Some(talk) = talk {
            talk.origin.notice(event);
            return true;
        }
        false
    }

    /// Has what is asked for told to the server that is being tried.
    fn begin_talk(&self, origin: End, socket: usize) -> Result<Talk, HandshakeError> {
        let mut output = Zeroizing::new(Vec::new());
        let Some(server) = self.lease.as_ref().and_then(Lease::server) else {
            return Err(HandshakeError::Closed { was_told: false });
        };
        let proof = self.group.proof();
        let handshake = Handshake::begin(server.scheme, &self.target, proof, &mut output)?;
        Talk::begin((&self.group, server), (origin, socket), handshake, output)
    }

    /// Whether what is said to the server goes on.
    pub(super) fn is_talking(&self) -> bool {
        self.talk.is_some()
    }

    /// Whether a connection that had been ready was closed meanwhile: nothing has been done, and
    /// nothing is held against the server.
    fn was_stale(&self, error: &HandshakeError) -> bool {
        let has_said = self.talk.as_ref().is_some_and(|talk| !talk.input.is_empty());
        let is_cut = matches!(error, HandshakeError::Closed { .. } | HandshakeError::Tls(_));
        self.was_ready && is_cut && !has_said
    }

    /// What rules call the group.
    pub(super) fn name(&self) -> &Name {
        &self.group.settings.name
    }

    /// Says to a server whose connection it is, if it is to know, before anybody has said anything:
    /// below TLS, should there be any. Returns whether that has gone, as nothing is in its way.
    fn announce(&self, ends: Option<Ends>, origin: &mut End) -> bool {
        let Some(version) = self.group.settings.header else { return true };
        let mut header = Vec::new();
        header::write(version, ends, &mut header);
        matches!(origin.write(&header), Ok(Moved::Bytes(len)) if len == header.len())
    }

    /// The address that is asked for, where it is one.
    pub(super) fn judged(&self) -> Option<SocketAddr> {
        self.target.address()
    }

    /// When the server that is being tried has had its time.
    pub(super) fn due(&self) -> Instant {
        self.until
    }

    /// A server has failed.
    fn fail(&mut self, fault: Fault, why: &dyn std::fmt::Display, now: Instant) {
        let Some(lease) = self.lease.take() else { return };
        if let Some(server) = lease.server() {
            log::debug!("upstream {}: {server}: {why}", self.group.settings.name.as_str());
        }
        match fault {
            Fault::Server => self.group.fail(lease.index, now, why),
            // It has answered as it should.
            Fault::Target => self.group.be_well(lease.index),
            Fault::Unclear => {}
        }
    }
}

impl Connection {
    /// Asks the next server for the connection, or gives up because of `failure`.
    pub(super) fn try_next_server(&mut self, failure: Failure, cx: &mut Context) {
        let Phase::Dialling(dialling) = &mut self.phase else { return };
        let Some(via) = &mut dialling.via else { return };
        via.talk = None;
        let tries = via.tried.count_ones();
        let is_late = cx.now >= dialling.until;
        if tries >= PROXY_UPSTREAM_TRIES_MAX || is_late {
            return self.fail(failure, cx);
        }
        let Some(lease) = via.group.enter(via.key, via.tried, cx.now) else {
            return self.fail(failure, cx);
        };
        via.tried |= 1 << lease.index;
        let untried = via.group.settings.servers.len() as u32 - via.tried.count_ones();
        let left = (PROXY_UPSTREAM_TRIES_MAX - tries).min(untried + 1);
        via.until = cx.now + dialling.until.saturating_duration_since(cx.now) / left;
        let token = self.id.token(READY_SOCKET);
        let ready = cx.ready.take((&via.group, lease.index), &cx.registry, token, cx.now);
        via.was_ready = ready.is_some();
        via.lease = Some(lease);
        dialling.attempts = [const { None }; PROXY_ATTEMPTS_MAX];
        dialling.again = None;
        match ready {
            Some(origin) => self.begin_talk(origin, READY_SOCKET, cx),
            None => self.dial_server(cx),
        }
    }

    /// Dials the server that is to be tried.
    fn dial_server(&mut self, cx: &mut Context) {
        let Phase::Dialling(dialling) = &mut self.phase else { return };
        let Some(via) = &mut dialling.via else { return };
        via.talk = None;
        via.was_ready = false;
        let server = via.lease.as_ref().and_then(Lease::server);
        let Some(server) = server.map(|server| server.target.clone()) else {
            return self.fail(Failure::Upstream, cx);
        };
        // An administrator may have an upstream proxy wherever it is.
        match Dial::begin(&server, &Guard::anywhere(), &OwnPrefixes::default()) {
            Ok(dial) => dialling.dial = dial,
            Err(failure) => return self.fail(failure, cx),
        }
        if let Host::Name(name) = &server.host {
            // A client with many names that wait is not to have the server taken for a bad one.
            self.look_up(name, Asker::Gateway, cx);
        }
    }

    /// The server that is being tried cannot be reached.
    pub(super) fn lose_server(&mut self, failure: Failure, cx: &mut Context) {
        let Phase::Dialling(dialling) = &mut self.phase else { return };
        let Some(via) = &mut dialling.via else { return };
        via.fail(Fault::Server, &failure, cx.now);
        self.try_next_server(Failure::Upstream, cx);
    }

    /// The server that is being tried has had its time.
    pub(super) fn give_up_on_server(&mut self, cx: &mut Context) {
        let Phase::Dialling(dialling) = &mut self.phase else { return };
        let Some(via) = &mut dialling.via else { return };
        let was_told = via.talk.as_ref().is_some_and(Talk::was_told);
        let fault = if was_told { Fault::Unclear } else { Fault::Server };
        via.fail(fault, &Failure::TimedOut, cx.now);
        self.try_next_server(if was_told { Failure::TimedOut } else { Failure::Upstream }, cx);
    }

    /// A server is connected: it is told what is asked for.
    pub(super) fn begin_talk(&mut self, mut origin: End, socket: usize, cx: &mut Context) {
        let Phase::Dialling(dialling) = &mut self.phase else { return };
        let Some(via) = &mut dialling.via else { return };
        // Below TLS, should there be any; one that had been ready has been spoken on.
        let ends = ends(&self.client, self.from);
        if !via.was_ready && !via.announce(ends, &mut origin) {
            return self.lose_server(Failure::Other, cx);
        }
        match via.begin_talk(origin, socket) {
            Ok(talk) => {
                via.talk = Some(talk);
                dialling.attempts = [const { None }; PROXY_ATTEMPTS_MAX];
            }
            Err(error) => self.end_talk(&error, cx),
        }
    }

    /// Goes on talking to the server, if that is what there is to do.
    pub(super) fn talk(&mut self, cx: &mut Context) -> Option<Step> {
        let Phase::Dialling(dialling) = &mut self.phase else { return Some(Step::Next) };
        let via = dialling.via.as_mut()?;
        match via.talk.as_mut()?.go_on() {
            Ok(Progress::Wait) => Some(Step::Turn(Turn::Wait)),
            Ok(Progress::Done) => {
                let (talk, judged) = (via.talk.take()?, via.judged());
                // What is relayed over it may wait for as long as over any other.
                talk.origin.stream.give_up_unacknowledged(None);
                if let Some(lease) = &via.lease {
                    match via.was_ready {
                        true => via.group.succeed_at_once(lease.index),
                        false => via.group.succeed(lease.index),
                    }
                    cx.ready.encourage(&via.group, lease.index, cx.now);
                }
                if self.visitor.may_keep(&talk.origin, judged) {
                    self.begin_passing(talk.origin, talk.socket, &talk.input, cx);
                } else {
                    self.fail(Failure::Ruled, cx);
                }
                Some(Step::Next)
            }
            Err(error) if via.was_stale(&error) => {
                self.dial_server(cx);
                Some(Step::Next)
            }
            Err(error) => {
                self.end_talk(&error, cx);
                Some(Step::Next)
            }
        }
    }

    fn end_talk(&mut self, error: &HandshakeError, cx: &mut Context) {
        let Phase::Dialling(dialling) = &mut self.phase else { return };
        let Some(via) = &mut dialling.via else { return };
        via.fail(error.fault(), error, cx.now);
        match error.fault() {
            Fault::Server | Fault::Unclear => self.try_next_server(error.failure(), cx),
            Fault::Target => self.fail(error.failure(), cx),
        }
    }
}

impl Dialling {
    /// The place at the server through which the origin was reached, if it was.
    pub(super) fn take_lease(&mut self) -> Option<Lease> {
        self.via.as_mut()?.lease.take()
    }
}

/// The two ends of a client's connection: who it is, and which address of this host it has reached.
fn ends(client: &End, from: SocketAddr) -> Option<Ends> {
    let reached = client.stream.tcp().local_addr().ok()?;
    Some(Ends { source: from, destination: reached })
}
