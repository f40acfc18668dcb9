//! Waits for somebody to connect to a port that the client had opened.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use mio::Interest;
use mio::event::Event;
use mio::net::{TcpListener, TcpStream};

use crate::limits::PROXY_ACCEPTS_PER_TURN;
use crate::proxy::dial::names::{Awaited, Reply};
use crate::proxy::dial::{self, Answer, Failure};
use crate::proxy::front::Front;
use crate::proxy::records::Via;
use crate::proxy::relay::Relay;
use crate::proxy::socks::bind::ExpectedPeer;
use crate::proxy::stream::{End, Stream};
use crate::proxy::target::{Host, Target};
use crate::proxy::upstream::Way;
use crate::sys::names::LookupError;

use super::super::{Context, Order};
use super::admission::Visitor;
use super::{Connection, Phase, Relaying, Step, Turn, write_out};

/// The number of the listening socket, and of that of who has come.
const LISTENER: usize = 1;
const PEER: usize = 2;

/// A port that waits for somebody.
#[derive(Debug)]
pub(super) struct Binding {
    pub(super) front: Front,
    /// What the client has said behind its request.
    pipelined: Vec<u8>,
    pub(super) output: Vec<u8>,
    /// Whom the client has named, until it is clear who that is.
    target: Target,
    /// The port, once it is open, and who may come.
    open: Option<(TcpListener, ExpectedPeer)>,
    /// The name that is being looked up.
    pub(super) awaited: Option<Awaited>,
    /// Whether somebody may have come.
    is_knocked: bool,
    pub(super) until: Instant,
}

impl Binding {
    /// The kernel tells of its port.
    pub(super) fn notice(&mut self, event: &Event) {
        self.is_knocked |= event.is_readable();
    }

    /// The next one who has come and is expected, and whom `visitor` may have to do with now.
    fn accept(&mut self, visitor: &Visitor, cx: &Context) -> Option<(TcpStream, SocketAddr)> {
        let (listener, expected) = self.open.as_ref()?;
        for _ in 0..PROXY_ACCEPTS_PER_TURN {
            match listener.accept() {
                Ok((stream, from)) if expected.admits(from) && visitor.may_reach(from) => {
                    return Some((stream, from));
                }
                Ok(_) => cx.counters.strangers.add(1),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // For want of descriptors, say: the next one who comes is an event.
                Err(_) => {
                    self.is_knocked = false;
                    return None;
                }
            }
        }
        None
    }
}

impl Connection {
    /// The client wants a port to which somebody may connect.
    pub(super) fn begin_binding(&mut self, target: Target, cx: &mut Context) {
        let Phase::Asking(mut asking) = std::mem::replace(&mut self.phase, Phase::Over) else {
            return;
        };
        asking.give_up_room();
        let (named, until) = (target.host.clone(), cx.now + self.rules.bind_within);
        self.phase = Phase::Binding(Box::new(Binding {
            front: asking.front,
            pipelined: asking.input,
            output: asking.output,
            target,
            open: None,
            awaited: None,
            is_knocked: false,
            until,
        }));
        let reply = match named {
            Host::Address(address) => Reply::Known(Ok([address].into())),
            Host::Name(name) => cx.names.ask(cx.now, &name, (self.asker(), until), || {
                let (id, name, handle) = (self.id, name.clone(), cx.handle.clone());
                Box::new(move |answer| handle.give(Order::Resolved(id, name, answer)))
            }),
        };
        match (reply, &mut self.phase) {
            (Reply::Known(answer), _) => self.open_port(&answer, cx),
            (Reply::Later(awaited), Phase::Binding(binding)) => binding.awaited = Some(awaited),
            _ => self.fail(Failure::NameUnavailable, cx),
        }
    }

    /// It is clear whom the client expects.
    pub(super) fn open_port(&mut self, answer: &Answer, cx: &mut Context) {
        let opened = match answer {
            Ok(addresses) => self.listen_for(addresses, cx),
            Err(LookupError::NotFound) => Err(Failure::NameNotFound),
            Err(LookupError::Unavailable) => Err(Failure::NameUnavailable),
            Err(LookupError::Exhausted) => Err(Failure::Exhausted),
        };
        let Phase::Binding(binding) = &mut self.phase else { return };
        match opened {
            Err(failure) => self.fail(failure, cx),
            Ok((at, listener, expected)) => {
                binding.front.accept(|| at, &mut binding.output);
                binding.open = Some((listener, expected));
            }
        }
    }

    /// A port at the address from which this host would reach whom the client expects.
    fn listen_for(
        &self,
        addresses: &[IpAddr],
        cx: &Context,
    ) -> Result<(SocketAddr, TcpListener, ExpectedPeer), Failure> {
        let Phase::Binding(binding) = &self.phase else { return Err(Failure::Other) };
        // The port is one of this host: nobody comes to it through an upstream proxy.
        if self.decide(&binding.target, Some(addresses)) != Some(Way::Direct) {
            return Err(Failure::Blocked);
        }
        let own = cx.own.current();
        for address in addresses {
            self.rules.guard.judge(*address, &own).map_err(Failure::Denied)?;
        }
        // Whoever lets in whoever comes has opened a port of this host to the world.
        ExpectedPeer::new(addresses.iter().copied(), false).map_err(|_| Failure::Forbidden)?;
        // The port at the far end is what the client says until somebody comes.
        let port = binding.target.port;
        let is_allowed = |ip: &IpAddr| self.visitor.may_reach(SocketAddr::new(*ip, port));
        let may_come: Vec<IpAddr> = addresses.iter().copied().filter(is_allowed).collect();
        let expected = ExpectedPeer::new(may_come.iter().copied(), false);
        let expected = expected.map_err(|_| Failure::Ruled)?;
        let towards = |ip: &IpAddr| dial::source_towards(SocketAddr::new(*ip, port.max(1)));
        let sources = may_come.iter().map(towards);
        let source =
            sources.reduce(Result::or).unwrap_or_else(|| Err(io::ErrorKind::NotFound.into()));
        let opened = source.and_then(|source| {
            let mut listener = TcpListener::bind(SocketAddr::new(source, 0))?;
            let token = self.id.token(LISTENER);
            cx.registry.register(&mut listener, token, Interest::READABLE)?;
            Ok((listener.local_addr()?, listener))
        });
        let (at, listener) = opened.map_err(|error| Failure::from(&error))?;
        Ok((at, listener, expected))
    }

    /// Goes on waiting for who is expected.
    pub(super) fn bind(&mut self, cx: &mut Context) -> Step {
        if self.client.is_hung_up() {
            return Step::Turn(Turn::Over);
        }
        let Phase::Binding(binding) = &mut self.phase else { return Step::Next };
        if write_out(&mut self.client, &mut binding.output).is_err() {
            return Step::Turn(Turn::Over);
        }
        if !binding.is_knocked {
            return Step::Turn(Turn::Wait);
        }
        match binding.accept(&self.visitor, cx) {
            None if binding.is_knocked => Step::Turn(Turn::Again),
            None => Step::Turn(Turn::Wait),
            Some((stream, from)) => {
                self.begin_relaying_to(stream, from, cx);
                Step::Next
            }
        }
    }

    /// Somebody has come who is expected.
    fn begin_relaying_to(&mut self, mut stream: TcpStream, from: SocketAddr, cx: &mut Context) {
        let (token, interest) = (self.id.token(PEER), Interest::READABLE | Interest::WRITABLE);
        let registered = cx.registry.register(&mut stream, token, interest);
        if let Err(error) = registered.and_then(|()| stream.set_nodelay(true)) {
            return self.fail(Failure::from(&error), cx);
        }
        let Phase::Binding(mut binding) = std::mem::replace(&mut self.phase, Phase::Over) else {
            return;
        };
        cx.counters.reached.add(1);
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        self.ledger.reach(|| Via::Address(from));
        binding.front.accept(|| from, &mut binding.output);
        let mut relay = Relay::new(&binding.pipelined, &binding.output, &mut cx.buffers);
        self.visitor.limit(&mut relay);
        let origin = End::new(Stream::Tcp(stream));
        let until = cx.now + self.rules.idle_max;
        self.phase = Phase::Relaying(Box::new(Relaying {
            origin,
            socket: PEER,
            relay,
            until,
            judged: None,
            _lease: None,
        }));
    }
}
