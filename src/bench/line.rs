//! Messages as lines of JSON over a TCP connection, with a bound on the length of a line and on
//! the time spent waiting for it.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::{BenchError, is_transient};
use super::stop::StopFlag;
use crate::limits::{BENCH_SETUP_TIMEOUT, BENCH_TICK};
use crate::sys::clock;

/// One end of a connection that carries lines of JSON.
#[derive(Debug)]
pub(crate) struct LineChannel {
    stream: TcpStream,
    buffer: Vec<u8>,
    line_len_max: usize,
}

impl LineChannel {
    /// Takes over `stream`. A line longer than `line_len_max` bytes is an error.
    pub(crate) fn new(stream: TcpStream, line_len_max: usize) -> Result<Self, BenchError> {
        stream
            .set_write_timeout(Some(BENCH_SETUP_TIMEOUT))
            .and_then(|()| stream.set_nodelay(true))
            .map_err(BenchError::io("setting up a control connection"))?;
        Ok(Self { stream, buffer: Vec::new(), line_len_max })
    }

    /// Allows lines of another length from here on.
    pub(crate) fn set_line_len_max(&mut self, line_len_max: usize) {
        self.line_len_max = line_len_max;
    }

    /// The connection itself.
    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Gives the connection back, provided that nothing was sent behind the last line read.
    pub(crate) fn into_stream(self) -> Result<TcpStream, BenchError> {
        if !self.buffer.is_empty() {
            return Err(BenchError::Protocol("data came before the start was given".to_owned()));
        }
        Ok(self.stream)
    }

    /// Sends one message.
    pub(crate) fn send<T: Serialize>(&mut self, message: &T) -> Result<(), BenchError> {
        let mut line = serde_json::to_vec(message)
            .map_err(|error| BenchError::Protocol(format!("cannot encode: {error}")))?;
        line.push(b'\n');
        self.stream.write_all(&line).map_err(|error| match error.kind() {
            _ if is_transient(&error) => BenchError::TimedOut("sending a control message"),
            // It has closed the connection, which shows here or where its next message is awaited.
            ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => {
                BenchError::FarEndGone("from the control connection")
            }
            _ => BenchError::Io { action: "sending a control message", source: error },
        })
    }

    /// Waits up to `wait` for one message; `None` when none came. At least one look is taken.
    pub(crate) fn receive<T: DeserializeOwned>(
        &mut self,
        wait: Duration,
    ) -> Result<Option<T>, BenchError> {
        let deadline = clock::now() + wait;
        loop {
            if let Some(line) = self.take_line()? {
                return serde_json::from_slice(&line).map(Some).map_err(|error| {
                    BenchError::Protocol(format!("cannot understand a control message: {error}"))
                });
            }
            if !self.fill(deadline)? {
                return Ok(None);
            }
        }
    }

    /// Waits for one message until `deadline`, looking at `stop` meanwhile.
    pub(crate) fn receive_until<T: DeserializeOwned>(
        &mut self,
        deadline: Instant,
        stop: &StopFlag,
        waiting: &'static str,
    ) -> Result<T, BenchError> {
        loop {
            if stop.is_raised() {
                return Err(BenchError::Interrupted);
            }
            let left = deadline.saturating_duration_since(clock::now());
            if let Some(message) = self.receive(left.min(BENCH_TICK))? {
                return Ok(message);
            }
            if left.is_zero() {
                return Err(BenchError::TimedOut(waiting));
            }
        }
    }

    /// Ends the connection for both directions, which also wakes a thread that reads from it.
    pub(crate) fn close(&self) {
        // An error here means that the far end closed it first.
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// Removes a whole line from the buffer, without its newline.
    fn take_line(&mut self) -> Result<Option<Vec<u8>>, BenchError> {
        let end = self.buffer.iter().position(|byte| *byte == b'\n');
        if end.unwrap_or(self.buffer.len()) > self.line_len_max {
            return Err(BenchError::Protocol("a control message is too long".to_owned()));
        }
        Ok(end.map(|end| {
            let mut line: Vec<u8> = self.buffer.drain(..=end).collect();
            line.pop();
            line
        }))
    }

    /// Reads what is there, waiting until `deadline` at most; false when nothing came.
    fn fill(&mut self, deadline: Instant) -> Result<bool, BenchError> {
        let wait = deadline.saturating_duration_since(clock::now()).max(Duration::from_millis(1));
        self.stream
            .set_read_timeout(Some(wait))
            .map_err(BenchError::io("setting a control connection's timeout"))?;
        let mut chunk = [0; 1024];
        match self.stream.read(&mut chunk) {
            Ok(0) => Err(BenchError::FarEndGone("from the control connection")),
            Ok(len) => {
                self.buffer.extend_from_slice(chunk.get(..len).unwrap_or_default());
                Ok(true)
            }
            Err(error) if is_transient(&error) => Ok(false),
            Err(source) => Err(BenchError::Io { action: "reading a control message", source }),
        }
    }
}
