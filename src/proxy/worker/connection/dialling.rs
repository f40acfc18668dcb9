//! Reaches the origin.

use std::io;
use std::net::SocketAddr;

use mio::Interest;

use crate::proxy::dial::{self, Failure, Step as DialStep};
use crate::proxy::relay::Relay;
use crate::proxy::stream::{End, Stream};

use super::super::Context;
use super::super::slab::ConnectionId;
use super::forwarding::Purpose;
use super::{Connection, Dialling, Phase, Relaying, Step, Turn, bound};

impl Connection {
    /// Goes on reaching the origin.
    pub(super) fn dial(&mut self, cx: &mut Context) -> Step {
        // A client that has only ended what it says may well wait for an answer.
        if self.client.is_hung_up() {
            return Step::Turn(Turn::Over);
        }
        let Phase::Dialling(dialling) = &mut self.phase else { return Step::Next };
        if let Some((origin, socket)) = dialling.winner() {
            if self.visitor.may_keep(&origin) {
                self.begin_passing(origin, socket, cx);
            } else {
                dialling.dial.fail(Failure::Ruled);
            }
            return Step::Next;
        }
        loop {
            match dialling.dial.poll(cx.now) {
                DialStep::Connect(address) => {
                    if !self.visitor.may_reach(address) {
                        dialling.dial.fail(Failure::Ruled);
                    } else if let Err(error) = dialling.attempt(self.id, address, cx) {
                        dialling.dial.fail(Failure::from(&error));
                    }
                }
                DialStep::Wait(next) => {
                    dialling.next = next;
                    return Step::Turn(Turn::Wait);
                }
                DialStep::Failed(failure) => {
                    self.fail(failure, cx);
                    return Step::Next;
                }
            }
        }
    }

    fn begin_passing(&mut self, origin: End, socket: usize, cx: &mut Context) {
        let Phase::Dialling(mut dialling) = std::mem::replace(&mut self.phase, Phase::Over) else {
            return;
        };
        cx.counters.reached.add(1);
        if let Purpose::Forward(passing) = dialling.purpose {
            return self.pass_over(passing, origin, socket, cx);
        }
        dialling.front.accept(|| bound(&origin), &mut dialling.output);
        let mut relay = Relay::new(&dialling.pipelined, &dialling.output, &mut cx.buffers);
        self.visitor.limit(&mut relay);
        let until = cx.now + self.rules.idle_max;
        self.phase = Phase::Relaying(Box::new(Relaying { origin, socket, relay, until }));
    }
}

impl Dialling {
    fn attempt(&mut self, id: ConnectionId, address: SocketAddr, cx: &Context) -> io::Result<()> {
        let mut places = self.attempts.iter_mut().zip(1..);
        // The dial begins no more attempts than there are places.
        let Some((place, socket)) = places.find(|(place, _)| place.is_none()) else {
            return Err(io::ErrorKind::QuotaExceeded.into());
        };
        let mut stream = dial::connect(address)?;
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
