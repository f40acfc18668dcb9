//! The byte streams that a worker moves, and what is known about their readiness.

mod tls;

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use mio::event::Event;
use mio::net::TcpStream;
use socket2::SockRef;

use crate::sys::pipe::Pipe;

pub use tls::{TlsStream, tls_fault};

/// A stream of bytes to a client or to an origin.
///
/// It has two layers in general: what the ends say to each other, and the TCP connection that
/// carries it. Every call is non-blocking and ends with [`io::ErrorKind::WouldBlock`] where the
/// kernel cannot go on.
#[derive(Debug)]
pub enum Stream {
    /// TCP as it is.
    Tcp(TcpStream),
    /// TLS over TCP.
    Tls(Box<TlsStream>),
}

impl Stream {
    /// The connection below, as `Poll` and socket options need it.
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Self::Tcp(stream) => stream,
            Self::Tls(stream) => stream.tcp(),
        }
    }

    /// The same, to be registered.
    pub fn tcp_mut(&mut self) -> &mut TcpStream {
        match self {
            Self::Tcp(stream) => stream,
            Self::Tls(stream) => stream.tcp_mut(),
        }
    }

    /// Reads what the far end has said; 0 is its orderly end.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }

    /// Takes some of `bytes` on their way, perhaps not all; [`Stream::flush`] sees to the rest of
    /// the way.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    /// Hands the kernel what was taken and not handed over yet. Plain TCP keeps nothing back.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Tcp(_) => Ok(()),
            Self::Tls(stream) => stream.flush(),
        }
    }

    /// Says that nothing more will be written. To be called when [`Stream::flush`] has succeeded.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn shutdown_write(&mut self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Self::Tls(stream) => stream.shutdown_write(),
        }
    }

    /// Whether it is TLS, and both ends have agreed on it.
    pub fn is_secured(&self) -> bool {
        match self {
            Self::Tcp(_) => false,
            Self::Tls(stream) => !stream.is_handshaking(),
        }
    }

    /// Whether there may be more to read after a read that has not filled its buffer.
    fn may_have_more(&self) -> bool {
        match self {
            // A stream that gave less than there is room for has no more (epoll(7)).
            Self::Tcp(_) => false,
            Self::Tls(stream) => !stream.is_dry(),
        }
    }

    /// Whether something that was taken has not been handed to the kernel.
    fn has_unsent(&self) -> bool {
        match self {
            Self::Tcp(_) => false,
            Self::Tls(stream) => stream.has_unsent(),
        }
    }

    /// Has the kernel break the connection when what was sent over it has not been acknowledged for
    /// so long (`TCP_USER_TIMEOUT`, tcp(7)); with `None` after as long as it pleases.
    pub fn give_up_unacknowledged(&self, after: Option<Duration>) {
        // The kernel refuses this for no socket of TCP.
        let _ = SockRef::from(self.tcp()).set_tcp_user_timeout(after);
    }

    /// Makes closing the connection a reset (`SO_LINGER` of zero, socket(7)), so that the far end
    /// does not take what it has got for the whole.
    pub fn reset_on_close(&self) {
        // The kernel refuses this for no socket that is open.
        let _ = SockRef::from(self.tcp()).set_linger(Some(Duration::ZERO));
    }
}

/// What became of an attempt to move bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    /// So many bytes, at least one.
    Bytes(usize),
    /// The far end will say no more.
    End,
    /// Nothing can be moved until the kernel says so.
    Blocked,
}

/// A stream and what the kernel has said about it. Readiness is edge-triggered: it is remembered
/// here until the kernel has nothing more, so that no call is made that is known to be in vain.
#[derive(Debug)]
pub struct End {
    /// The stream.
    pub stream: Stream,
    readable: bool,
    writable: bool,
    /// The far end has closed its direction: what is left to read ends with 0 bytes, of which no
    /// further event tells.
    far_end_closed: bool,
    /// The connection is dead in both directions.
    hung_up: bool,
    /// It is dead by an error rather than by two orderly ends.
    failed: bool,
    /// How often the stream was asked to move bytes.
    #[cfg(test)]
    pub(crate) calls: usize,
}

impl End {
    /// A stream of which nothing is known yet.
    pub fn new(stream: Stream) -> Self {
        Self {
            stream,
            readable: false,
            writable: false,
            far_end_closed: false,
            hung_up: false,
            failed: false,
            #[cfg(test)]
            calls: 0,
        }
    }

    /// The kernel tells of the stream.
    pub fn notice(&mut self, event: &Event) {
        self.readable |= event.is_readable();
        self.writable |= event.is_writable();
        self.far_end_closed |= event.is_read_closed();
        self.failed |= event.is_error();
        self.hung_up |= event.is_error() || (event.is_read_closed() && event.is_write_closed());
        if self.writable && self.flush().is_err() {
            (self.failed, self.hung_up) = (true, true);
        }
    }

    /// Puts a layer around the stream, of which what the kernel has said stays true.
    ///
    /// # Errors
    /// Those of the layer.
    pub fn wrap(self, layer: impl FnOnce(Stream) -> io::Result<Stream>) -> io::Result<Self> {
        let stream = layer(self.stream)?;
        Ok(Self { stream, ..self })
    }

    /// Hands the kernel what was taken and not handed over yet, as far as it takes it now; the rest
    /// follows when it says that there is room.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn flush(&mut self) -> io::Result<()> {
        if !self.stream.has_unsent() {
            return Ok(());
        }
        match self.stream.flush() {
            Err(error) => Self::blocked(error, &mut self.writable).map(drop),
            Ok(()) => Ok(()),
        }
    }

    /// Whether a read may yield something.
    pub fn is_readable(&self) -> bool {
        self.readable
    }

    /// Whether a write may succeed.
    pub fn is_writable(&self) -> bool {
        self.writable
    }

    /// Whether nobody is there any more: reset, or closed in both directions.
    pub fn is_hung_up(&self) -> bool {
        self.hung_up
    }

    /// Whether the connection was reset, timed out, or the like.
    pub fn has_failed(&self) -> bool {
        self.failed
    }

    /// Reads once from TCP, below TLS if there is any, and leaves there what it reads.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn peek(&mut self, buffer: &mut [u8]) -> io::Result<Moved> {
        if !self.readable {
            return Ok(Moved::Blocked);
        }
        match self.stream.tcp().peek(buffer) {
            Ok(0) => Ok(Moved::End),
            Ok(len) => Ok(Moved::Bytes(len)),
            Err(error) => Self::blocked(error, &mut self.readable),
        }
    }

    /// What [`End::peek`] has seen is not enough.
    ///
    /// # Errors
    /// No more will come.
    pub fn await_more(&mut self) -> io::Result<()> {
        self.readable = false;
        match self.far_end_closed {
            true => Err(io::ErrorKind::UnexpectedEof.into()),
            false => Ok(()),
        }
    }

    /// Takes away as much as `seen` is long of what [`End::peek`] has seen.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn skip(&mut self, seen: &mut [u8]) -> io::Result<()> {
        self.stream.tcp().read_exact(seen)
    }

    /// Reads once.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<Moved> {
        if !self.readable {
            return Ok(Moved::Blocked);
        }
        self.note_call();
        match self.stream.read(buffer) {
            Ok(0) => Ok(Moved::End),
            Ok(read) => {
                // An end that was announced already comes next.
                let is_full = read == buffer.len();
                self.readable = is_full || self.far_end_closed || self.stream.may_have_more();
                Ok(Moved::Bytes(read))
            }
            Err(error) => Self::blocked(error, &mut self.readable),
        }
    }

    /// Writes once.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<Moved> {
        if !self.writable {
            return Ok(Moved::Blocked);
        }
        self.note_call();
        match self.stream.write(bytes) {
            Ok(written) => {
                self.writable = match &self.stream {
                    Stream::Tcp(_) => written == bytes.len(),
                    Stream::Tls(stream) => !stream.has_unsent(),
                };
                Ok(Moved::Bytes(written))
            }
            Err(error) => Self::blocked(error, &mut self.writable),
        }
    }

    /// Whether its bytes may go through a pipe: they are those that the kernel has.
    pub fn can_splice(&self) -> bool {
        matches!(self.stream, Stream::Tcp(_))
    }

    /// Reads once, into an empty pipe. To be called only where [`End::can_splice`].
    ///
    /// # Errors
    /// The connection is broken.
    pub fn fill(&mut self, pipe: &mut Pipe, max: usize) -> io::Result<Moved> {
        if !self.readable {
            return Ok(Moved::Blocked);
        }
        self.note_call();
        // A pipe may be full however few bytes there are in it, so only the kernel's word counts
        // for there being no more.
        match pipe.fill(self.stream.tcp(), max) {
            Ok(0) => Ok(Moved::End),
            Ok(read) => Ok(Moved::Bytes(read)),
            Err(error) => Self::blocked(error, &mut self.readable),
        }
    }

    /// Writes once what is in a pipe. Here, too, only the kernel's word counts for there being no
    /// room. To be called only where [`End::can_splice`].
    ///
    /// # Errors
    /// The connection is broken.
    pub fn drain(&mut self, pipe: &mut Pipe) -> io::Result<Moved> {
        if !self.writable {
            return Ok(Moved::Blocked);
        }
        self.note_call();
        match pipe.drain(self.stream.tcp()) {
            Ok(written) => Ok(Moved::Bytes(written)),
            Err(error) => Self::blocked(error, &mut self.writable),
        }
    }

    /// Whether the far end, which should say nothing now, has said nothing and is still there, as
    /// far as the kernel has told.
    pub fn is_quiet(&mut self) -> bool {
        !self.readable || self.probe()
    }

    /// The same, and the kernel is asked. If it is not so, the stream is of no more use.
    pub fn probe(&mut self) -> bool {
        self.readable = true;
        !self.hung_up && matches!(self.read(&mut [0]), Ok(Moved::Blocked))
    }

    /// Says that nothing more will be written.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn shut(&mut self) -> io::Result<Moved> {
        let done = self.stream.flush().and_then(|()| self.stream.shutdown_write());
        match done {
            Ok(()) => Ok(Moved::End),
            Err(error) => Self::blocked(error, &mut self.writable),
        }
    }

    /// The stream is asked to move bytes, which tests count.
    fn note_call(&mut self) {
        #[cfg(test)]
        {
            self.calls += 1;
        }
    }

    fn blocked(error: io::Error, ready: &mut bool) -> io::Result<Moved> {
        match error.kind() {
            io::ErrorKind::WouldBlock => {
                *ready = false;
                Ok(Moved::Blocked)
            }
            // Readiness stays, so the caller comes back.
            io::ErrorKind::Interrupted => Ok(Moved::Blocked),
            _ => Err(error),
        }
    }
}

#[cfg(test)]
impl End {
    /// A connection: the far end, and this one as a worker has it.
    pub(crate) fn connected() -> (std::net::TcpStream, Self) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let far = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (near, _) = listener.accept().unwrap();
        near.set_nonblocking(true).unwrap();
        (far, Self::perhaps_ready(TcpStream::from_std(near)))
    }

    /// A stream that may be ready, as far as anybody knows.
    pub(crate) fn perhaps_ready(stream: TcpStream) -> Self {
        Self { readable: true, writable: true, ..Self::new(Stream::Tcp(stream)) }
    }

    /// Forgets what the kernel has said.
    pub(crate) fn forget(&mut self) {
        (self.readable, self.writable) = (true, true);
    }
}
