//! Speaks to an upstream proxy on a thread that may wait: to find out whether it does its work.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConnection;
use zeroize::Zeroizing;

use crate::limits::PROXY_UPSTREAM_ANSWER_LEN_MAX;
use crate::proxy::dial::Source;
use crate::proxy::header;
use crate::proxy::origins::server_name;
use crate::proxy::target::{Host, Target};
use crate::sys::names::LookupError;
use crate::sys::{clock, names, tcp};

use super::group::{Group, ServerAddress};
use super::handshake::{Handshake, HandshakeError, Scheme};
use super::tls;

/// Why a server does not do its work.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// Its name has no address.
    #[error("there is no host of this name: is it spelled right?")]
    NoName,
    /// Nobody could tell the addresses of its name.
    #[error("its name cannot be looked up now: do the name servers of this host answer?")]
    NameUnavailable,
    /// It cannot be reached.
    #[error("it cannot be reached: {source}{}", advice(source))]
    Connect {
        /// The kernel's answer.
        source: io::Error,
    },
    /// The connection has broken.
    #[error("the connection has broken: {0}")]
    Broken(io::Error),
    /// It has not answered in time.
    #[error("it has not answered in time")]
    Timeout,
    /// It does not do what it was asked.
    #[error("{0}")]
    Handshake(#[from] HandshakeError),
    /// It does not reach what it was asked for. The administrator has chosen that so that it can be
    /// reached.
    #[error("{target} by way of it: {why}")]
    Target {
        /// What it was asked for.
        target: Target,
        /// What it says.
        why: HandshakeError,
    },
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => ": nobody listens at this port; is it the right one?",
        _ => "",
    }
}

/// Tries a server of a group: that it takes a connection, TLS included if it speaks that, and, if
/// there is a `target`, that this is reached through it.
///
/// # Errors
/// It does not do its work.
pub fn probe(
    group: &Group,
    server: &ServerAddress,
    target: Option<&Target>,
    until: Instant,
) -> Result<(), ProbeError> {
    let mut link = Link::open(group, server, until)?;
    let Some(target) = target else { return Ok(()) };
    let mut output = Zeroizing::new(Vec::new());
    let handshake = Handshake::begin(server.scheme, target, group.proof(), &mut output)?;
    link.converse(handshake, output).map_err(|error| match error {
        ProbeError::Handshake(why) => ProbeError::Target { target: target.clone(), why },
        error => error,
    })
}

/// Asks a server of a group that speaks HTTP whether it is there and lets this client in.
///
/// # Errors
/// It is not, or does not.
pub fn greet(group: &Group, server: &ServerAddress, until: Instant) -> Result<(), ProbeError> {
    let mut link = Link::open(group, server, until)?;
    let mut output = Zeroizing::new(Vec::new());
    let greeting = Handshake::greet(server, group.proof(), &mut output)?;
    link.converse(greeting, output)
}

/// A connection to a server, with TLS if it speaks that.
struct Link {
    tcp: TcpStream,
    tls: Option<ClientConnection>,
    until: Instant,
}

impl Link {
    fn open(group: &Group, server: &ServerAddress, until: Instant) -> Result<Self, ProbeError> {
        let addresses: Vec<IpAddr> = match &server.target.host {
            Host::Address(address) => vec![*address],
            Host::Name(name) => names::look_up(name.as_str()).map_err(|error| match error {
                LookupError::NotFound => ProbeError::NoName,
                LookupError::Unavailable | LookupError::Exhausted => ProbeError::NameUnavailable,
            })?,
        };
        let source = group.settings.dial_from;
        let tcp = connect(&addresses, server.target.port, source, until)?;
        let mut link = Self { tcp, tls: None, until };
        if let Some(version) = group.settings.header {
            // On the gateway's own account, so nobody is named.
            let mut own = Vec::new();
            header::write(version, None, &mut own);
            link.send(&own)?;
        }
        if server.scheme == Scheme::Https {
            let broken = |error: &dyn fmt::Display| HandshakeError::Tls(error.to_string());
            let (Some(tls), Some(name)) = (group.tls(), server_name(&server.target.host)) else {
                return Err(broken(&"TLS was not set up").into());
            };
            let connection = ClientConnection::new(Arc::clone(&tls.config), name);
            link.tls = Some(connection.map_err(|error| broken(&error))?);
            link.shake()?;
        }
        Ok(link)
    }

    /// Makes the handshake of TLS.
    fn shake(&mut self) -> Result<(), ProbeError> {
        self.flush()?;
        while self.tls.as_ref().is_some_and(|tls| tls.is_handshaking()) {
            self.take_in()?;
        }
        Ok(())
    }

    /// Goes through a conversation.
    fn converse(
        &mut self,
        mut handshake: Handshake,
        mut output: Zeroizing<Vec<u8>>,
    ) -> Result<(), ProbeError> {
        let mut input = Vec::new();
        loop {
            self.send(&output)?;
            output.clear();
            let mut buffer = [0; PROXY_UPSTREAM_ANSWER_LEN_MAX / 4];
            let len = self.receive(&mut buffer)?;
            if len == 0 {
                return Err(HandshakeError::Closed { was_told: handshake.was_told() }.into());
            }
            input.extend_from_slice(buffer.get(..len).unwrap_or_default());
            if handshake.advance(&mut input, &mut output)? {
                return Ok(());
            }
        }
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), ProbeError> {
        self.limit()?;
        let Some(tls) = &mut self.tls else {
            return self.tcp.write_all(bytes).map_err(ProbeError::of_io);
        };
        tls.writer().write_all(bytes).map_err(ProbeError::of_io)?;
        self.flush()
    }

    /// Reads once; 0 is the end.
    fn receive(&mut self, buffer: &mut [u8]) -> Result<usize, ProbeError> {
        loop {
            let Some(tls) = &mut self.tls else {
                self.limit()?;
                match self.tcp.read(buffer) {
                    Err(error) if is_interrupted(&error) => continue,
                    outcome => return outcome.map_err(ProbeError::of_io),
                }
            };
            match tls.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.take_in()?,
                outcome => return outcome.map_err(ProbeError::of_io),
            }
        }
    }

    /// Hands what TLS has to say to the kernel.
    fn flush(&mut self) -> Result<(), ProbeError> {
        while self.tls.as_ref().is_some_and(|tls| tls.wants_write()) {
            self.limit()?;
            let Some(tls) = &mut self.tls else { return Ok(()) };
            match tls.write_tls(&mut self.tcp) {
                Err(error) if !is_interrupted(&error) => return Err(ProbeError::of_io(error)),
                Ok(_) | Err(_) => {}
            }
        }
        Ok(())
    }

    /// Reads for TLS, at most once, and sends what it answers.
    fn take_in(&mut self) -> Result<(), ProbeError> {
        self.limit()?;
        let Some(tls) = &mut self.tls else { return Ok(()) };
        let read = match tls.read_tls(&mut self.tcp) {
            // Whoever needs more comes back.
            Err(error) if is_interrupted(&error) => return Ok(()),
            outcome => outcome.map_err(ProbeError::of_io)?,
        };
        if read == 0 && tls.is_handshaking() {
            return Err(HandshakeError::Closed { was_told: false }.into());
        }
        let processed = tls.process_new_packets();
        self.flush()?;
        let invalid = |error| ProbeError::of_io(io::Error::new(io::ErrorKind::InvalidData, error));
        processed.map(drop).map_err(invalid)
    }

    /// Has no call take longer than there is time.
    fn limit(&self) -> Result<(), ProbeError> {
        let left = left(self.until)?;
        let set = self.tcp.set_write_timeout(Some(left));
        set.and_then(|()| self.tcp.set_read_timeout(Some(left))).map_err(ProbeError::of_io)
    }
}

impl ProbeError {
    fn of_io(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Self::Timeout,
            _ => match tls::why(&error) {
                Some(why) => HandshakeError::Tls(why).into(),
                None => Self::Broken(error),
            },
        }
    }
}

fn connect(
    addresses: &[IpAddr],
    port: u16,
    source: Source,
    until: Instant,
) -> Result<TcpStream, ProbeError> {
    let mut trouble = ProbeError::NoName;
    for address in addresses {
        let (to, left) = (SocketAddr::new(*address, port), left(until)?);
        let connected = match source.towards(*address) {
            Some(own) => tcp::connect_from_within(own, to, left),
            None => TcpStream::connect_timeout(&to, left),
        };
        match connected {
            Ok(stream) => return Ok(stream),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => trouble = ProbeError::Timeout,
            Err(source) => trouble = ProbeError::Connect { source },
        }
    }
    Err(trouble)
}

/// Whether a signal came meanwhile, which says nothing of the server.
fn is_interrupted(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Interrupted
}

/// What is left of the time.
fn left(until: Instant) -> Result<Duration, ProbeError> {
    let left = until.saturating_duration_since(clock::now());
    if left.is_zero() { Err(ProbeError::Timeout) } else { Ok(left) }
}
