//! TLS of clients that cannot come about, and of origins where requests go to them inside it.

use std::io;

use mio::event::Event;

use crate::proxy::counters::Refusal;
use crate::proxy::dial::Failure;
use crate::proxy::dial::tls::TlsFault;
use crate::proxy::http::Scheme;
use crate::proxy::origins::server_name;
use crate::proxy::stream::{End, Moved, Stream, TlsStream, tls_fault};

use super::super::Context;
use super::forwarding::Purpose;
use super::joining::Via;
use super::{Connection, Dialling, Phase, Step, Turn};

/// The handshake with an origin that is connected.
#[derive(Debug)]
pub(super) struct Securing {
    origin: End,
    /// The number of its socket.
    socket: usize,
}

impl Securing {
    /// The kernel tells of a socket; returns whether it was this one's.
    pub(super) fn notice(&mut self, socket: usize, event: &Event) -> bool {
        let is_its = self.socket == socket;
        if is_its {
            self.origin.notice(event);
        }
        is_its
    }

    /// Whether the far end has said something.
    fn has_more(&self) -> bool {
        self.origin.is_readable()
    }

    /// Goes on with the handshake. Returns whether it is over.
    fn go_on(&mut self) -> io::Result<bool> {
        self.origin.flush()?;
        loop {
            match self.origin.read(&mut [0]) {
                // Nobody answers a request that was not sent.
                Ok(Moved::Bytes(_)) => return Err(io::ErrorKind::InvalidData.into()),
                Ok(Moved::End) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(Moved::Blocked) if self.origin.is_readable() => {}
                Ok(Moved::Blocked) => return Ok(self.origin.stream.is_secured()),
                Err(error) => return Err(error),
            }
        }
    }
}

impl Dialling {
    /// Whether what is asked for goes to the origin inside TLS.
    pub(super) fn is_to_be_secured(&self) -> bool {
        match &self.purpose {
            Purpose::Forward(passing) => passing.errand.scheme == Scheme::Https,
            Purpose::Relay => false,
        }
    }
}

impl Connection {
    /// Whether its next turn goes on with a handshake of TLS, of the client's or of an origin's.
    pub(in super::super) fn has_handshake_to_do(&self) -> bool {
        match &self.phase {
            Phase::Asking(_) => {
                let is_tls = matches!(self.client.stream, Stream::Tls(_));
                is_tls && self.client.is_readable() && !self.client.stream.is_secured()
            }
            Phase::Dialling(dialling) => dialling.securing.as_ref().is_some_and(Securing::has_more),
            _ => false,
        }
    }

    /// Reading from the client has failed. If that is because TLS with it cannot come about, it is
    /// sent away; rustls has told it so by an alert. One that has left in the middle is none of
    /// those.
    pub(super) fn refuse_unsecured(&mut self, error: &io::Error, cx: &Context) {
        if let Stream::Tls(stream) = &self.client.stream
            && stream.is_handshaking()
            && let Some(fault) = tls_fault(error)
        {
            log::debug!("proxy: TLS with the client {}: {fault}", self.from);
            self.refuse(Refusal::TlsFailed, cx);
        }
    }

    /// The origin is connected, and has to show who it is.
    pub(super) fn begin_securing(&mut self, origin: End, socket: usize, cx: &mut Context) {
        let Phase::Dialling(dialling) = &mut self.phase else { return };
        let Purpose::Forward(passing) = &dialling.purpose else { return };
        let is_nested = matches!(origin.stream, Stream::Tls(_));
        let secured = match (self.rules.origins.tls(), server_name(&passing.errand.to.host)) {
            _ if is_nested => Err(TlsFault::Nested),
            (None, _) => Err(TlsFault::NoRoots),
            (_, None) => Err(TlsFault::OtherName),
            (Some(tls), Some(name)) => origin
                .wrap(|stream| match stream {
                    Stream::Tcp(tcp) => TlsStream::client(tcp, tls, name).map(Stream::Tls),
                    Stream::Tls(_) => Err(io::ErrorKind::Unsupported.into()),
                })
                .map_err(|_| TlsFault::Other),
        };
        match secured {
            Ok(origin) => dialling.securing = Some(Securing { origin, socket }),
            Err(fault) => self.fail(Failure::Tls(fault), cx),
        }
    }

    /// Goes on making sure of the origin, if that is what there is to do.
    pub(super) fn secure(&mut self, cx: &mut Context) -> Option<Step> {
        let Phase::Dialling(dialling) = &mut self.phase else { return Some(Step::Next) };
        match dialling.securing.as_mut()?.go_on() {
            Ok(false) => return Some(Step::Turn(Turn::Wait)),
            Ok(true) => {
                let Securing { origin, socket } = dialling.securing.take()?;
                let judged = dialling.via.as_ref().and_then(Via::judged);
                // Other terms may hold by now.
                match self.visitor.may_keep(&origin, judged) {
                    true => self.go_over(origin, socket, &[], cx),
                    false => self.fail(Failure::Ruled, cx),
                }
            }
            Err(error) => {
                if let Purpose::Forward(passing) = &dialling.purpose {
                    log::debug!("proxy: TLS with {}: {error}", passing.errand.to);
                }
                self.fail(Failure::Tls(TlsFault::of(&error)), cx);
            }
        }
        Some(Step::Next)
    }
}
