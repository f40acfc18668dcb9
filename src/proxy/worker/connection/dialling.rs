//! Reaches the origin.

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use mio::Interest;

use crate::proxy::dial::{self, Failure, Source, Step as DialStep};
use crate::proxy::records;
use crate::proxy::relay::Relay;
use crate::proxy::stream::{End, Stream};

use super::super::Context;
use super::super::slab::ConnectionId;
use super::forwarding::Purpose;
use super::joining::Via;
use super::noting::{status_of_tunnel, way_to};
use super::{Connection, Dialling, Phase, Relaying, Step, Turn, bound};

impl Connection {
    /// Goes on reaching the origin.
    pub(super) fn dial(&mut self, cx: &mut Context) -> Step {
        // A client that has only ended what it says may well wait for an answer.
        if self.client.is_hung_up() {
            return Step::Turn(Turn::Over);
        }
        if let Some(step) = self.secure(cx).or_else(|| self.talk(cx)) {
            return step;
        }
        let Phase::Dialling(dialling) = &mut self.phase else { return Step::Next };
        if let Some((origin, socket)) = dialling.winner() {
            // Nothing is due on account of addresses that are left.
            dialling.next = None;
            if dialling.via.is_some() {
                self.begin_talk(origin, socket, cx);
            } else if self.visitor.may_keep(&origin, None) {
                self.begin_passing(origin, socket, &[], cx);
            } else {
                dialling.dial.fail(Failure::Ruled);
            }
            return Step::Next;
        }
        let source = self.rules.dial_from;
        loop {
            let again = dialling.again.take().map(DialStep::Connect);
            match again.unwrap_or_else(|| dialling.dial.poll(cx.now)) {
                DialStep::Connect(address) => {
                    // The server is not what the client has asked for.
                    if dialling.via.is_none() && !self.visitor.may_reach(address) {
                        dialling.dial.fail(Failure::Ruled);
                    } else if let Err(error) = dialling.attempt(self.id, (address, source), cx) {
                        if dialling.pleads_after(&error) {
                            dialling.again = Some(address);
                            cx.needs_descriptor = true;
                            return Step::Turn(Turn::Again);
                        }
                        dialling.dial.fail(Failure::from(&error));
                    }
                }
                DialStep::Wait(next) => {
                    dialling.next = next;
                    return Step::Turn(Turn::Wait);
                }
                DialStep::Failed(failure) => {
                    match dialling.via {
                        Some(_) => self.lose_server(failure, cx),
                        None => self.fail(failure, cx),
                    }
                    return Step::Next;
                }
            }
        }
    }

    /// The origin is reached, and has said `ahead` already.
    pub(super) fn begin_passing(
        &mut self,
        origin: End,
        socket: usize,
        ahead: &[u8],
        cx: &mut Context,
    ) {
        let Phase::Dialling(dialling) = &self.phase else { return };
        match dialling.is_to_be_secured() && ahead.is_empty() {
            true => self.begin_securing(origin, socket, cx),
            false => self.go_over(origin, socket, ahead, cx),
        }
    }

    /// The same, and it has shown who it is, if it has to.
    pub(super) fn go_over(&mut self, origin: End, socket: usize, ahead: &[u8], cx: &mut Context) {
        let Phase::Dialling(mut dialling) = std::mem::replace(&mut self.phase, Phase::Over) else {
            return;
        };
        cx.counters.reached.add(1);
        let lease = dialling.take_lease();
        let judged = dialling.via.as_ref().and_then(Via::judged);
        self.ledger.reach(|| dialling.way(&origin));
        if let Purpose::Forward(passing) = dialling.purpose {
            // Nobody answers a request that was not sent.
            if !ahead.is_empty() {
                return self.fail_request(&passing, Failure::Upstream, cx);
            }
            return self.pass_over(passing, (origin, socket), judged, lease, cx);
        }
        dialling.front.accept(|| bound(&origin), &mut dialling.output);
        dialling.output.extend_from_slice(ahead);
        cx.counters.down_bytes.add(ahead.len() as u64);
        self.visitor.count(0, ahead.len() as u64);
        self.ledger.count(0, ahead.len() as u64);
        self.ledger.tell(status_of_tunnel(&dialling.front));
        let mut relay = Relay::new(&dialling.pipelined, &dialling.output, &mut cx.buffers);
        self.visitor.limit(&mut relay);
        let until = cx.now + self.rules.idle_max;
        self.phase = Phase::Relaying(Box::new(Relaying {
            origin,
            socket,
            relay,
            until,
            judged,
            _lease: lease,
        }));
    }
}

impl Dialling {
    /// Which way the origin was reached.
    fn way(&self, origin: &End) -> records::Via {
        match &self.via {
            Some(via) => records::Via::Upstream(via.name().clone()),
            None => way_to(origin),
        }
    }

    /// When something is to be done even if nothing happens.
    pub(super) fn due(&self) -> Option<Instant> {
        [self.next, Some(self.until), self.server_due()].into_iter().flatten().min()
    }

    /// Whether the upstream proxy that is being tried has had its time.
    pub(super) fn is_server_late(&self, now: Instant) -> bool {
        self.server_due().is_some_and(|due| now >= due)
    }

    /// When that is. A name has the whole time to be looked up: its answer would be taken for that
    /// of the next one.
    fn server_due(&self) -> Option<Instant> {
        let needs_addresses = self.dial.needs_addresses();
        let is_tried =
            |via: &&Via| self.securing.is_none() && (via.is_talking() || !needs_addresses);
        self.via.as_ref().filter(is_tried).map(Via::due)
    }

    /// Whether there are no descriptors, and those who have asked for nothing may have some.
    fn pleads_after(&mut self, error: &io::Error) -> bool {
        let is_short = matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE));
        is_short && !std::mem::replace(&mut self.has_pleaded, true)
    }

    fn attempt(
        &mut self,
        id: ConnectionId,
        (address, source): (SocketAddr, Source),
        cx: &Context,
    ) -> io::Result<()> {
        let mut places = self.attempts.iter_mut().zip(1..);
        // The dial begins no more attempts than there are places.
        let Some((place, socket)) = places.find(|(place, _)| place.is_none()) else {
            return Err(io::ErrorKind::QuotaExceeded.into());
        };
        let mut stream = dial::connect(address, source)?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        cx.registry.register(&mut stream, id.token(socket), interest)?;
        *place = Some(End::new(Stream::Tcp(stream)));
        Ok(())
    }

    /// The first attempt that has succeeded, and the number of its socket. Those that have failed
    /// are noted.
    fn winner(&mut self) -> Option<(End, usize)> {
        for (place, socket) in self.attempts.iter_mut().zip(1..) {
            let Some(attempt) = place else { continue };
            if attempt.is_hung_up() {
                let error = match attempt.stream.tcp().take_error() {
                    Ok(Some(error)) | Err(error) => error,
                    // It was there, and is gone already.
                    Ok(None) => io::Error::from_raw_os_error(libc::ECONNRESET),
                };
                self.dial.fail(Failure::from(&error));
                *place = None;
            } else if attempt.is_writable() {
                return place.take().map(|origin| (origin, socket));
            }
        }
        None
    }
}
