//! TLS over TCP, without blocking.
//!
//! What is held back is bounded: plaintext is taken out as soon as it is decrypted, and nothing is
//! taken in to be sent before what was taken in earlier has gone to the kernel. Of an idle
//! connection rustls keeps 4 KiB for a record that may come.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::time::Duration;

use mio::net::TcpStream;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConnection, Connection, ServerConnection};
use socket2::SockRef;

use crate::limits::{PROXY_BUFFER_LEN, TLS_RECORD_LEN_MAX};
use crate::login::tls::{ClientTls, ServerTls};

/// A TLS connection, of either side, and the TCP connection that carries it.
pub struct TlsStream {
    tcp: TcpStream,
    tls: Connection,
    /// The kernel had less than there was room for, when it was last asked.
    is_dry: bool,
    has_said_goodbye: bool,
}

impl fmt::Debug for TlsStream {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("TlsStream").field("tcp", &self.tcp).finish_non_exhaustive()
    }
}

impl TlsStream {
    /// A server's side over `tcp`. The handshake is made by reading.
    ///
    /// # Errors
    /// rustls finds fault with the configuration.
    pub fn server(tcp: TcpStream, tls: &ServerTls) -> io::Result<Box<Self>> {
        let connection = ServerConnection::new(Arc::clone(&tls.config));
        connection.map(|connection| Self::new(tcp, connection.into())).map_err(io::Error::other)
    }

    /// A client's side over `tcp`, to a server that has to show that it is `server`. The handshake
    /// begins when there is room to write, and is made by reading.
    ///
    /// # Errors
    /// rustls finds fault with the configuration.
    pub fn client(
        tcp: TcpStream,
        tls: &ClientTls,
        server: ServerName<'static>,
    ) -> io::Result<Box<Self>> {
        let connection = ClientConnection::new(Arc::clone(&tls.config), server);
        connection.map(|connection| Self::new(tcp, connection.into())).map_err(io::Error::other)
    }

    fn new(tcp: TcpStream, mut tls: Connection) -> Box<Self> {
        // One buffer of a relay is taken in as a whole.
        tls.set_buffer_limit(Some(PROXY_BUFFER_LEN));
        Box::new(Self { tcp, tls, is_dry: false, has_said_goodbye: false })
    }

    pub(super) fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    pub(super) fn tcp_mut(&mut self) -> &mut TcpStream {
        &mut self.tcp
    }

    /// Whether the handshake is still going on.
    pub fn is_handshaking(&self) -> bool {
        self.tls.is_handshaking()
    }

    /// The certificate that the far end has shown, once the handshake is over, if it did.
    pub fn peer_certificate(&self) -> Option<&CertificateDer<'static>> {
        self.tls.peer_certificates()?.first()
    }

    /// Whether only the kernel can tell of more to read.
    pub(super) fn is_dry(&self) -> bool {
        self.is_dry
    }

    /// Whether something that was taken in has not gone to the kernel.
    pub(super) fn has_unsent(&self) -> bool {
        self.tls.wants_write()
    }

    /// Reads plaintext; 0 is the orderly end, which TLS has a message for. A connection that ends
    /// without it was cut, perhaps by somebody in between, and is an error.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // It comes to an end: rustls bears with a bounded number of records that carry nothing.
        loop {
            match self.tls.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                outcome => return outcome,
            }
            let read = self.take_in(buffer)?;
            if read > 0 {
                return Ok(read);
            }
        }
    }

    /// Asks the kernel once and decrypts what it has. Returns how much plaintext is now at the
    /// beginning of `buffer`; where that is large, its end is lent to what is encrypted, since
    /// rustls by itself reads in small pieces.
    ///
    /// Plaintext takes the place of what it came from: it is never longer, but for a record of
    /// which a part has come before, and for that there is room in front.
    fn take_in(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wire = buffer.get_mut(TLS_RECORD_LEN_MAX..).unwrap_or_default();
        if wire.len() < TLS_RECORD_LEN_MAX {
            let read = self.tls.read_tls(&mut self.tcp)?;
            self.is_dry = false;
            self.process(read)?;
            return Ok(0);
        }
        let read = self.tcp.read(wire)?;
        self.is_dry = read < wire.len();
        let end = TLS_RECORD_LEN_MAX + read;
        let (mut at, mut filled) = (TLS_RECORD_LEN_MAX, 0);
        loop {
            let mut rest = buffer.get(at..end).unwrap_or_default();
            let used = self.tls.read_tls(&mut rest)?;
            at += used;
            self.process(used)?;
            while let Some(free) = buffer.get_mut(filled..at)
                && let Ok(len @ 1..) = self.tls.reader().read(free)
            {
                filled += len;
            }
            if at == end || used == 0 {
                break;
            }
        }
        if self.is_dry {
            self.shrink();
        }
        Ok(filled)
    }

    /// Has rustls give up the room of a long record. It does so only when it is about to read.
    fn shrink(&mut self) {
        // Nothing is read, and that is no end.
        let _ = self.tls.read_tls(&mut Silence);
    }

    /// Deals with `read` bytes that rustls was given, and sends what it answers.
    fn process(&mut self, read: usize) -> io::Result<()> {
        let processed = self.tls.process_new_packets();
        let sent = self.flush();
        let state = processed.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        if read == 0 || state.peer_has_closed() {
            // Of an end no further event tells.
            self.is_dry = false;
        }
        or_later(sent)
    }

    /// Takes some of `bytes` in, once everything from before is with the kernel.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.flush()?;
        if self.is_handshaking() {
            return Err(io::ErrorKind::NotConnected.into());
        }
        let taken = self.tls.writer().write(bytes)?;
        or_later(self.flush())?;
        Ok(taken)
    }

    /// Hands the kernel what was taken in.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut self.tcp) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                Ok(_) | Err(_) => {}
            }
        }
        Ok(())
    }

    /// Says that nothing more will be written: to the far end of TLS, which can tell it from a cut
    /// so, and then to that of TCP.
    pub(super) fn shutdown_write(&mut self) -> io::Result<()> {
        if !std::mem::replace(&mut self.has_said_goodbye, true) {
            self.tls.send_close_notify();
            self.flush()?;
        }
        self.tcp.shutdown(Shutdown::Write)
    }
}

impl Drop for TlsStream {
    /// Says the goodbye of TLS, unless the connection is to be reset: the far end can tell an end
    /// from a cut by it, wherever the connection was given up in good order.
    fn drop(&mut self) {
        let is_reset = matches!(SockRef::from(&self.tcp).linger(), Ok(Some(Duration::ZERO)));
        if self.has_said_goodbye || is_reset || self.is_handshaking() {
            return;
        }
        self.tls.send_close_notify();
        // Nobody waits for what the kernel does not take now.
        let _ = self.flush();
    }
}

/// What was wrong with what the far end has said, where an error of `TlsStream::read` is about
/// that: an alert of it, say. A connection that was cut has another.
pub fn tls_fault(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// What has nothing to say now.
struct Silence;

impl Read for Silence {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }
}

/// What the kernel does not take now it takes later.
fn or_later(sent: io::Result<()>) -> io::Result<()> {
    match sent {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        sent => sent,
    }
}
