//! One TLS connection of a relay.

use std::fmt;
use std::io::{self, BufRead as _, ErrorKind, Read as _, Write as _};
use std::ops::Range;
use std::time::Instant;

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use rustls::Connection;
use socket2::{SockRef, TcpKeepalive};
use thiserror::Error;

use crate::limits::{
    CARRIER_KEEPALIVE, CARRIER_READ_LEN, CARRIER_UNACKNOWLEDGED_MAX, CARRIER_UNSENT_MAX,
};

use super::frame::{Frame, FrameError, next_frame};
use super::outbox::Outbox;

/// A TLS connection that both ends have agreed to use as a carrier.
pub struct CarrierStream {
    /// Where it is.
    pub stream: TcpStream,
    /// Its session, handshake complete. Frames may have arrived already, and wait in its reader.
    pub tls: Connection,
}

impl fmt::Debug for CarrierStream {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("CarrierStream").field("stream", &self.stream).finish_non_exhaustive()
    }
}

/// Why a carrier has ended.
#[derive(Debug, Error)]
pub enum CarrierEnd {
    /// The far side closed it.
    #[error("the far side closed it")]
    Closed,
    /// This side closed it.
    #[error("it was closed")]
    Dismissed,
    /// Nothing has come on it for a long time.
    #[error("nothing came on it for {} s", .0.as_secs())]
    Idle(std::time::Duration),
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Lost(#[from] io::Error),
    /// The far side does not keep to TLS.
    #[error("TLS failed: {0}")]
    Tls(#[from] rustls::Error),
    /// The far side sent what is no frame.
    #[error("the far side sent {0}")]
    Malformed(#[from] FrameError),
}

/// Memory that the links of a thread share.
pub(super) struct Buffers {
    /// As it came from the socket.
    raw: Box<[u8]>,
    /// Decrypted: what the ranges of the frames last received lie in.
    pub(super) plain: Vec<u8>,
}

impl Buffers {
    pub(super) fn new() -> Self {
        Self { raw: vec![0; CARRIER_READ_LEN].into_boxed_slice(), plain: Vec::new() }
    }
}

/// A TLS connection, what waits to be sent on it, and the beginning of a frame that has arrived.
pub(super) struct Link {
    stream: TcpStream,
    tls: Connection,
    pub(super) outbox: Outbox,
    partial: Vec<u8>,
    /// Whether there may be something to read.
    pub(super) readable: bool,
    /// The socket takes no more for now.
    blocked: bool,
    /// When something came last.
    pub(super) heard: Instant,
}

impl Link {
    /// Takes over a connection and has `registry` tell of it under `token`.
    pub(super) fn new(
        now: Instant,
        carrier: CarrierStream,
        registry: &Registry,
        token: Token,
    ) -> io::Result<Self> {
        let CarrierStream { mut stream, mut tls } = carrier;
        let socket = SockRef::from(&stream);
        socket.set_tcp_nodelay(true)?;
        socket.set_tcp_notsent_lowat(CARRIER_UNSENT_MAX)?;
        socket.set_tcp_user_timeout(Some(CARRIER_UNACKNOWLEDGED_MAX))?;
        let keepalive = TcpKeepalive::new().with_time(CARRIER_KEEPALIVE);
        socket.set_tcp_keepalive(&keepalive.with_interval(CARRIER_KEEPALIVE))?;
        // It is given one chunk at a time, once it has nothing left.
        tls.set_buffer_limit(None);
        let mut partial = Vec::new();
        take_plaintext(&mut tls, &mut partial)?;
        // Whoever has handed it over may have registered it with a poll of its own, which is gone.
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Self {
            stream,
            tls,
            outbox: Outbox::default(),
            partial,
            readable: true,
            blocked: false,
            heard: now,
        })
    }

    /// Reads once, and hands every frame that is complete to `deliver`, with the bytes that its
    /// range lies in.
    pub(super) fn receive(
        &mut self,
        now: Instant,
        buffers: &mut Buffers,
        mut deliver: impl FnMut(Frame, Range<usize>, &[u8]),
    ) -> Result<(), CarrierEnd> {
        let Buffers { raw, plain } = buffers;
        plain.clear();
        plain.append(&mut self.partial);
        let outcome = self.read(now, raw, plain);
        // What came before the end is still good.
        let mut at = 0;
        while let Some((frame, body)) = next_frame(plain, &mut at)? {
            deliver(frame, body, plain);
        }
        if let Some(rest) = plain.get(at..).filter(|rest| !rest.is_empty()) {
            self.partial = rest.to_vec();
        } else {
            // A connection that waits weighs little.
            self.partial = Vec::new();
        }
        outcome
    }

    fn read(
        &mut self,
        now: Instant,
        raw: &mut [u8],
        plain: &mut Vec<u8>,
    ) -> Result<(), CarrierEnd> {
        let len = match self.stream.read(raw) {
            Ok(0) => return Err(CarrierEnd::Closed),
            Ok(len) => len,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.readable = false;
                return Ok(());
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        self.heard = now;
        let mut rest = raw.get(..len).unwrap_or_default();
        while !rest.is_empty() {
            self.tls.read_tls(&mut rest)?;
            let state = self.tls.process_new_packets()?;
            if state.plaintext_bytes_to_read() > 0 {
                take_plaintext(&mut self.tls, plain)?;
            }
            if state.peer_has_closed() {
                return Err(CarrierEnd::Closed);
            }
        }
        Ok(())
    }

    /// The socket has room again.
    pub(super) fn set_writable(&mut self) {
        self.blocked = false;
    }

    /// Sends what waits, as much as the socket takes. Returns how many datagrams had waited too
    /// long.
    pub(super) fn send(&mut self, now: Instant) -> Result<usize, CarrierEnd> {
        let mut too_late = 0;
        while !self.blocked {
            if self.tls.wants_write() {
                match self.tls.write_tls(&mut self.stream) {
                    Ok(0) => return Err(CarrierEnd::Closed),
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => self.blocked = true,
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => return Err(error.into()),
                }
                continue;
            }
            let (chunk, late) = self.outbox.pop(now);
            too_late += late;
            let Some(chunk) = chunk else { break };
            self.tls.writer().write_all(&chunk)?;
        }
        Ok(too_late)
    }

    /// Says goodbye, if the socket takes it.
    pub(super) fn close(mut self, registry: &Registry) {
        self.tls.send_close_notify();
        while self.tls.wants_write() && self.tls.write_tls(&mut self.stream).is_ok_and(|n| n > 0) {}
        // Both fail only if the connection is gone already.
        let _ = self.stream.shutdown(std::net::Shutdown::Write);
        let _ = registry.deregister(&mut self.stream);
    }
}

/// Moves what was decrypted behind `plain`.
fn take_plaintext(tls: &mut Connection, plain: &mut Vec<u8>) -> io::Result<()> {
    loop {
        let mut reader = tls.reader();
        let chunk = match reader.fill_buf() {
            Ok(chunk) => chunk,
            // Nothing more for now, or ever, which `process_new_packets` tells as well.
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        };
        if chunk.is_empty() {
            return Ok(());
        }
        plain.extend_from_slice(chunk);
        let len = chunk.len();
        reader.consume(len);
    }
}
