//! Reaches an origin through an upstream proxy: a server after another, until one does it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use mio::event::Event;
use zeroize::Zeroizing;

use crate::limits::{PROXY_ATTEMPTS_MAX, PROXY_UPSTREAM_TRIES_MAX};
use crate::proxy::dial::guard::Allowed;
use crate::proxy::dial::{Dial, Failure, Guard};
use crate::proxy::stream::{End, Moved};
use crate::proxy::target::{Host, Target};
use crate::proxy::upstream::group::{Group, Lease};
use crate::proxy::upstream::handshake::{Fault, Handshake, HandshakeError, Scheme};
use crate::proxy::upstream::tls;

use super::super::Context;
use super::{Connection, Dialling, Phase, Step, Turn, write_out};

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
}

/// What is said to an upstream proxy that is connected.
#[derive(Debug)]
struct Talk {
    origin: End,
    socket: usize,
    handshake: Handshake,
    input: Vec<u8>,
    output: Zeroizing<Vec<u8>>,
}

/// How far a talk has come.
enum Progress {
    /// The server has to answer.
    Wait,
    /// The connection is there.
    Done,
}

impl Via {
    pub(super) fn new(group: Arc<Group>, target: Target, key: u64, until: Instant) -> Self {
        Self { group, target, key, tried: 0, lease: None, until, talk: None }
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

    /// Has what is asked for told to the server that is being tried, inside TLS if it speaks that.
    fn begin_talk(&self, mut origin: End, socket: usize) -> Result<Talk, HandshakeError> {
        let failed = |why: &dyn std::fmt::Display| HandshakeError::Tls(why.to_string());
        let server = self.lease.as_ref().and_then(Lease::server);
        let server = server.ok_or_else(|| failed(&"there is no such server"))?;
        let mut output = Zeroizing::new(Vec::new());
        let proof = self.group.proof();
        let handshake = Handshake::begin(server.scheme, &self.target, proof, &mut output)?;
        if server.scheme == Scheme::Https {
            let (tls, name) = (self.group.tls(), tls::name_of(&server.target.host));
            let (tls, name) = tls.zip(name).ok_or_else(|| failed(&"TLS was not set up"))?;
            origin = origin.into_tls(tls, name).map_err(|error| failed(&error))?;
        }
        Ok(Talk { origin, socket, handshake, input: Vec::new(), output })
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
        let server = lease.server().map(|server| server.target.clone());
        via.lease = Some(lease);
        dialling.attempts = [const { None }; PROXY_ATTEMPTS_MAX];
        let Some(server) = server else { return self.fail(failure, cx) };
        match Dial::begin(&server, &anywhere(), &[]) {
            Ok(dial) => dialling.dial = dial,
            Err(failure) => return self.fail(failure, cx),
        }
        if let Host::Name(name) = &server.host {
            self.look_up(name, cx);
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
    pub(super) fn begin_talk(&mut self, origin: End, socket: usize, cx: &mut Context) {
        let Phase::Dialling(dialling) = &mut self.phase else { return };
        let Some(via) = &mut dialling.via else { return };
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
                if let Some(lease) = &via.lease {
                    via.group.succeed(lease.index);
                }
                if self.visitor.may_keep(&talk.origin, judged) {
                    self.begin_passing(talk.origin, talk.socket, &talk.input, cx);
                } else {
                    self.fail(Failure::Ruled, cx);
                }
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

impl Talk {
    /// Whether the server knows what is asked for: it does not while TLS is being agreed on.
    fn was_told(&self) -> bool {
        self.handshake.was_told() && !self.is_handshaking()
    }

    fn go_on(&mut self) -> Result<Progress, HandshakeError> {
        loop {
            let was_handshaking = self.is_handshaking();
            let written: io::Result<bool> = match was_handshaking {
                true => Ok(false),
                false => write_out(&mut self.origin, &mut self.output),
            };
            // What it has said before it broke may tell why.
            let broken = written.err();
            let mut buffer = [0; 2048];
            match (self.origin.read(&mut buffer), broken) {
                (Ok(Moved::Bytes(len)), _) => {
                    self.input.extend_from_slice(buffer.get(..len).unwrap_or_default());
                    if self.handshake.advance(&mut self.input, &mut self.output)? {
                        return Ok(Progress::Done);
                    }
                }
                (Ok(Moved::Blocked), Some(error)) | (Err(error), _) => {
                    return Err(HandshakeError::of_io(&error, self.was_told()));
                }
                (Ok(Moved::Blocked), None) if self.origin.is_readable() => {}
                (Ok(Moved::Blocked), None) if was_handshaking != self.is_handshaking() => {}
                (Ok(Moved::Blocked), None) => return Ok(Progress::Wait),
                (Ok(Moved::End), _) => {
                    return Err(HandshakeError::Closed { was_told: self.was_told() });
                }
            }
        }
    }

    fn is_handshaking(&self) -> bool {
        self.origin.stream.is_handshaking()
    }
}

impl Dialling {
    /// The place at the server through which the origin was reached, if it was.
    pub(super) fn take_lease(&mut self) -> Option<Lease> {
        self.via.as_mut()?.lease.take()
    }
}

/// An administrator may have an upstream proxy wherever it is.
pub(super) fn anywhere() -> Guard {
    Guard { allowed: crate::proxy::dial::guard::Kind::ALL.map(Allowed::Kind).to_vec() }
}
