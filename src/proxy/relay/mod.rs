//! Moves bytes between two streams until both directions have ended.
//!
//! The two directions are independent. Each reads no more than it can write: while the reader of
//! one side does not read, the kernel's buffers fill and the writer of the other side has to wait,
//! as if there were no proxy in between. The end of one direction is passed on, and the other goes
//! on for as long as it likes (half-close, RFC 9293 section 3.6). A connection that breaks is not
//! an end: what the broken side has said before is still passed on, and then the other side is
//! reset, so that it does not take what it has got for the whole.
//!
//! What limits a user makes the writer wait in the same way: no more is taken in than may be passed
//! on.
//!
//! A direction holds a buffer only while bytes are in it, so an idle connection holds none. Where a
//! plain connection has more to say than fits into a buffer, the bytes go through a pipe, which
//! holds them in the kernel: that spares copying them to this process and back. Less than that is
//! moved faster through a buffer.

mod buffers;
mod limit;
mod pipes;

use std::io;
use std::sync::Arc;
use std::time::Instant;

use crate::limits::{
    PROXY_BUFFER_LEN, PROXY_HELPINGS_PER_TURN, PROXY_PIPE_LEN, PROXY_RELAY_TURN_LEN,
    PROXY_SPLICE_LEN_MIN,
};
use crate::policy::bucket::Bucket;

use super::stream::{End, Moved};

use buffers::Load;
pub use buffers::{Buffers, Chunk, give_up_room};
pub(super) use limit::{Limit, admits};
pub use pipes::{LentPipe, Pipes};

/// A relay between a client and an origin.
#[derive(Debug, Default)]
pub struct Relay {
    /// From the client to the origin.
    pub up: Direction,
    /// From the origin to the client.
    pub down: Direction,
}

/// One direction of a relay.
#[derive(Debug, Default)]
pub struct Direction {
    waiting: Option<Load>,
    /// Bytes among those waiting that are the proxy's own words, which count for nobody.
    own: usize,
    progress: Progress,
    /// It is over because the reader's connection broke.
    broken: bool,
    /// The writer had more to say than a buffer holds, when it last said something.
    is_bulk: bool,
    limit: Limit,
    /// Bytes that were handed over to the reader's kernel.
    bytes: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Progress {
    #[default]
    Open,
    /// The writer has ended; the reader does not know yet.
    Ending,
    Over,
}

/// How a turn of a relay ended.
#[derive(Debug)]
pub enum Turn {
    /// There is more to do at once; others come first.
    Again,
    /// Something has to happen first.
    Wait,
    /// Both directions have ended.
    Over,
    /// A connection is broken.
    Broken(io::Error),
}

impl Relay {
    /// A relay that begins with bytes that are there already: `pipelined` is what the client has
    /// sent behind its request, `reply` the proxy's answer to that.
    pub fn new(pipelined: &[u8], reply: &[u8], buffers: &mut Buffers) -> Self {
        let mut relay = Self::default();
        if !pipelined.is_empty() {
            relay.up.waiting = Some(Load::Chunk(Chunk::copy_of(pipelined, buffers)));
        }
        if !reply.is_empty() {
            relay.down.waiting = Some(Load::Chunk(Chunk::copy_of(reply, buffers)));
            relay.down.own = reply.len();
        }
        relay
    }

    /// One that begins with bytes of both sides, which were read already.
    pub(super) fn of_words(up: &[u8], down: &[u8], buffers: &mut Buffers) -> Self {
        let mut relay = Self::new(up, down, buffers);
        relay.down.own = 0;
        relay
    }

    /// What limits each direction from here on, if anything does.
    pub fn set_limits(&mut self, up: Option<Arc<Bucket>>, down: Option<Arc<Bucket>>) {
        self.up.limit.set(up, self.up.pending());
        self.down.limit.set(down, self.down.pending());
    }

    /// When a direction goes on that its limit makes wait.
    pub fn resumes_at(&self) -> Option<Instant> {
        let directions = [&self.up, &self.down].into_iter();
        directions.filter_map(|direction| direction.limit.resumes_at()).min()
    }

    /// Moves what can be moved, up to [`PROXY_RELAY_TURN_LEN`] bytes each way, and what
    /// [`PROXY_HELPINGS_PER_TURN`] reads bring.
    pub fn turn(
        &mut self,
        now: Instant,
        client: &mut End,
        origin: &mut End,
        buffers: &mut Buffers,
    ) -> Turn {
        let up = self.up.pump(now, client, origin, buffers);
        let down = up.and_then(|up| Ok((up, self.down.pump(now, origin, client, buffers)?)));
        match down {
            Err(error) => Turn::Broken(error),
            Ok(_) if self.is_over() => self.conclude(client, origin),
            Ok((false, false)) => Turn::Wait,
            Ok(_) => Turn::Again,
        }
    }

    /// Gives the buffers back.
    pub fn release(self, buffers: &mut Buffers) {
        for load in [self.up.waiting, self.down.waiting].into_iter().flatten() {
            load.release(buffers);
        }
    }

    fn is_over(&self) -> bool {
        self.up.progress == Progress::Over && self.down.progress == Progress::Over
    }

    /// Both directions are over. Where one is because its reader was gone, the other has ended
    /// well only if that one had said all it had to say.
    fn conclude(&self, client: &End, origin: &End) -> Turn {
        let cut = |reader_gone: bool, end: &End| reader_gone && end.has_failed();
        match cut(self.up.broken, origin) || cut(self.down.broken, client) {
            true => Turn::Broken(io::ErrorKind::ConnectionReset.into()),
            false => Turn::Over,
        }
    }
}

impl Direction {
    /// Bytes that were handed over to the reader's kernel, without the proxy's own.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether its end has been passed on.
    pub fn is_over(&self) -> bool {
        self.progress == Progress::Over
    }

    /// Bytes that it has taken in and not passed on, without the proxy's own.
    fn pending(&self) -> usize {
        self.waiting.as_ref().map_or(0, |load| load.len().saturating_sub(self.own))
    }

    /// Moves bytes from `writer` to `reader`. Returns whether there is more to do at once.
    fn pump(
        &mut self,
        now: Instant,
        writer: &mut End,
        reader: &mut End,
        buffers: &mut Buffers,
    ) -> io::Result<bool> {
        let (mut moved, mut helpings) = (0, 0);
        while moved < PROXY_RELAY_TURN_LEN {
            if let Some(load) = &mut self.waiting {
                match load.write_to(reader) {
                    Ok(Moved::Bytes(len)) => {
                        let own = self.own.min(len);
                        self.own -= own;
                        self.bytes += (len - own) as u64;
                        moved += len;
                    }
                    Ok(Moved::End | Moved::Blocked) => return Ok(reader.is_writable()),
                    Err(error) => return Ok(self.lose_reader(&error, buffers)),
                }
                if load.len() == 0
                    && let Some(load) = self.waiting.take()
                {
                    load.release(buffers);
                }
                continue;
            }
            match self.progress {
                Progress::Over => return Ok(false),
                Progress::Ending => {
                    match reader.shut() {
                        Ok(Moved::End) => self.progress = Progress::Over,
                        Ok(_) => {}
                        Err(error) => return Ok(self.lose_reader(&error, buffers)),
                    }
                    return Ok(false);
                }
                Progress::Open if !(writer.is_readable() && reader.is_writable()) => {
                    return Ok(false);
                }
                Progress::Open if helpings == PROXY_HELPINGS_PER_TURN => return Ok(true),
                Progress::Open => helpings += 1,
            }
            let Some(room) = self.limit.room(now) else { return Ok(false) };
            match self.take_in(room, writer, reader, buffers)? {
                Moved::Bytes(_) => self.limit.charge(now, self.pending()),
                Moved::End => self.progress = Progress::Ending,
                Moved::Blocked => return Ok(writer.is_readable()),
            }
        }
        Ok(true)
    }

    /// Takes in what the writer says, up to `room` bytes: through a pipe if it says much and one is
    /// to be had.
    fn take_in(
        &mut self,
        room: usize,
        writer: &mut End,
        reader: &End,
        buffers: &mut Buffers,
    ) -> io::Result<Moved> {
        let splices = self.is_bulk && writer.can_splice() && reader.can_splice();
        let pipe = if splices { buffers.pipes.lend() } else { None };
        let (load, moved) = match pipe {
            Some(mut pipe) => {
                let moved = writer.fill(&mut pipe, room.min(PROXY_PIPE_LEN));
                (Load::Pipe(pipe), moved)
            }
            None => {
                let mut buffer = buffers.lend();
                let room = room.min(buffer.len());
                let moved = writer.read(buffer.get_mut(..room).unwrap_or_default());
                let len = if let Ok(Moved::Bytes(len)) = moved { len } else { 0 };
                (Load::Chunk(Chunk::new(buffer, len)), moved)
            }
        };
        match load.len() {
            0 => load.release(buffers),
            len => {
                let enough = if self.is_bulk { PROXY_SPLICE_LEN_MIN } else { PROXY_BUFFER_LEN };
                self.is_bulk = len >= enough;
                self.waiting = Some(load);
            }
        }
        moved
    }

    /// The reader's connection is broken: nothing more can be told to it, but it may have said
    /// something before, which the other direction brings.
    fn lose_reader(&mut self, error: &io::Error, buffers: &mut Buffers) -> bool {
        log::debug!("proxy: a reader is gone: {error}");
        if let Some(load) = self.waiting.take() {
            load.release(buffers);
        }
        (self.progress, self.broken) = (Progress::Over, true);
        false
    }
}

#[cfg(test)]
mod tests;
