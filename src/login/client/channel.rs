//! Connecting and logging in, step by step, each waiting for its answer.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustls::ClientConnection;
use rustls::pki_types::ServerName;
use socket2::{Domain, Protocol, Socket, Type};

use crate::handshake::keys::PublicKey;
use crate::login::message::{ClientMessage, LoginRequest, Secret, ServerMessage};
use crate::login::tls::ClientTls;
use crate::sys::clock;

use super::dialogue::Dialogue;
use super::live::LiveChannel;
use super::{ChannelError, Granted, Refusal};

/// Where a server is, and how to get there.
#[derive(Clone, Copy, Debug)]
pub struct Destination<'a> {
    /// The name, or the address, that the server's certificate must have.
    pub name: &'a str,
    /// Where its login port is.
    pub address: SocketAddr,
    /// The firewall mark of the connection's packets; setting one needs CAP_NET_ADMIN.
    pub mark: Option<u32>,
}

/// How far away and how busy a server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// How long the question and the answer have taken together.
    pub round_trip: Duration,
    /// In thousandths of what it can do.
    pub load_permille: u16,
}

/// A connection whose server has shown who it is and has greeted. Each step waits until the server
/// has answered or time is up.
pub struct Channel {
    stream: TcpStream,
    dialogue: Dialogue,
}

/// A connection that carries datagrams from now on.
#[derive(Debug)]
pub struct Carrier {
    /// The connection; it does not block.
    pub stream: TcpStream,
    /// Its TLS session. Frames that have arrived already are in its reader; read that first.
    pub tls: ClientConnection,
}

impl Channel {
    /// Connects, and makes sure that it is the right server. All of that takes no longer than
    /// `within`.
    ///
    /// # Errors
    /// The server is not reached, is not who it should be, or does not want this client.
    pub fn connect(
        to: Destination<'_>,
        tls: &ClientTls,
        within: Duration,
    ) -> Result<Self, ChannelError> {
        let until = clock::now() + within;
        let name = ServerName::try_from(to.name.to_owned())
            .map_err(|source| ChannelError::Name { name: to.name.to_owned(), source })?;
        let stream = open(to, within).map_err(|source| ChannelError::Connect {
            name: to.name.to_owned(),
            address: to.address,
            source,
        })?;
        let dialogue = Dialogue::new(tls.config.clone(), name)?;
        let mut channel = Self { stream, dialogue };
        while !channel.dialogue.is_greeted() {
            if channel.dialogue.hear()?.is_some() {
                return Err(ChannelError::Nonsense("a message before the greeting".to_owned()));
            }
            if !channel.dialogue.is_greeted() {
                channel.exchange(until)?;
            }
        }
        Ok(channel)
    }

    /// Asks how far away and how busy the server is. It answers that a few times without a login.
    ///
    /// # Errors
    /// There is no answer.
    pub fn load(&mut self, within: Duration) -> Result<Load, ChannelError> {
        let asked = clock::now();
        self.dialogue.say(&ClientMessage::Ping { nonce: 0 })?;
        match self.answer(asked + within)? {
            ServerMessage::Pong { load_permille, .. } => {
                Ok(Load { round_trip: clock::now() - asked, load_permille })
            }
            other => Err(unexpected(other)),
        }
    }

    /// Logs in. After [`ChannelError::Refused`] there may be another try on the same connection,
    /// with a code that the server has asked for, say.
    ///
    /// # Errors
    /// The server refuses or does not answer.
    pub fn login(
        &mut self,
        request: &LoginRequest,
        within: Duration,
    ) -> Result<Granted, ChannelError> {
        let device_key: PublicKey = request.device_key.parse().map_err(|error| {
            ChannelError::Nonsense(format!("this device's own key cannot be sent: {error}"))
        })?;
        self.dialogue.say(&ClientMessage::Login(Box::new(request.clone())))?;
        match self.answer(clock::now() + within)? {
            ServerMessage::Lease(terms) => {
                Ok(Granted { terms: *terms, psk: self.dialogue.lease_psk(&device_key)? })
            }
            other => Err(unexpected(other)),
        }
    }

    /// Makes the connection a carrier of the login that has this ticket.
    ///
    /// # Errors
    /// The ticket belongs to no login, or the server does not answer.
    pub fn into_carrier(
        mut self,
        ticket: &Secret,
        within: Duration,
    ) -> Result<Carrier, ChannelError> {
        self.dialogue.say(&ClientMessage::Carrier { ticket: ticket.clone() })?;
        match self.answer(clock::now() + within)? {
            ServerMessage::CarrierReady {} => {
                self.stream.set_nonblocking(true)?;
                Ok(Carrier { stream: self.stream, tls: self.dialogue.into_tls() })
            }
            other => Err(unexpected(other)),
        }
    }

    /// Goes on in an event loop.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn into_live(self) -> Result<LiveChannel, ChannelError> {
        self.stream.set_nonblocking(true)?;
        Ok(LiveChannel::new(mio::net::TcpStream::from_std(self.stream), self.dialogue))
    }

    fn answer(&mut self, until: Instant) -> Result<ServerMessage, ChannelError> {
        loop {
            match self.dialogue.hear()? {
                Some(message) => return Ok(message),
                None => self.exchange(until)?,
            }
        }
    }

    /// Sends what is to be sent, and waits for what comes next.
    fn exchange(&mut self, until: Instant) -> Result<(), ChannelError> {
        let mut stream = Timed { stream: &self.stream, until };
        self.dialogue.write_tls(&mut stream)?;
        let read = self.dialogue.read_tls(&mut stream);
        // An alert tells the server what it did wrong.
        if read.is_err() && self.dialogue.wants_write() {
            let _ = self.dialogue.write_tls(&mut stream);
        }
        read
    }
}

fn open(to: Destination<'_>, within: Duration) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to.address), Type::STREAM, Some(Protocol::TCP))?;
    if let Some(mark) = to.mark {
        socket.set_mark(mark)?;
    }
    socket.connect_timeout(&to.address.into(), within)?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket.into())
}

fn unexpected(message: ServerMessage) -> ChannelError {
    match message {
        ServerMessage::Refused { code, message, retry_after_s } => {
            ChannelError::Refused(Refusal { code, message, retry_after_s })
        }
        ServerMessage::Ended { code, message } => ChannelError::Ended { code, message },
        _ => ChannelError::Nonsense("an answer to another question".to_owned()),
    }
}

/// A stream that blocks until a certain time at most, however slowly bytes trickle in.
struct Timed<'a> {
    stream: &'a TcpStream,
    until: Instant,
}

impl Timed<'_> {
    fn left(&self) -> io::Result<Duration> {
        let left = self.until.saturating_duration_since(clock::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
    }
}

impl Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(self.left()?))?;
        self.stream.read(buffer)
    }
}

impl Write for Timed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(self.left()?))?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}
