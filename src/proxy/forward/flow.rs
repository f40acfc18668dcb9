//! Bytes of one direction of an exchange.

use std::io;

use crate::limits::{
    PROXY_BODY_WITH_HEAD_MAX, PROXY_BUFFER_LEN, PROXY_PIPE_LEN, PROXY_SPLICE_LEN_MIN,
};
use crate::proxy::http::Run;
use crate::proxy::relay::{Buffers, LentPipe, give_up_room};
use crate::proxy::stream::{End, Moved};

/// Bytes on their way: heads as they were written here, and then what was read from the writer, of
/// which some may go on and some has yet to be understood.
///
/// A buffer is held only while something is in it, so a message that is awaited holds none.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Flow {
    /// Heads and small pieces of bodies, to be written first.
    own: Vec<u8>,
    /// How much of them has gone.
    own_sent: usize,
    /// Lent, or just as long as what was read before.
    buffer: Option<Box<[u8]>>,
    start: usize,
    end: usize,
    /// Of the bytes in the buffer, the first so many may go on.
    cleared: usize,
    /// So many behind them are to be dropped, or are left over from those that were moved to them.
    skip: usize,
    /// Bytes of a body that never come here, while some are in it. Nothing is in the buffer then.
    pipe: Option<LentPipe>,
    /// The writer had more to say than a buffer holds, when it last said something.
    is_bulk: bool,
    /// Bytes that were handed over to the reader's kernel.
    bytes: u64,
}

impl Flow {
    /// One that begins with a head to be written, or with room for one.
    pub(in crate::proxy) fn new(own: Vec<u8>) -> Self {
        Self { own, ..Self::default() }
    }

    /// One that begins so, and goes on with bytes that were read already. They may have to wait for
    /// long, so they stay where they are, and hold no more than they are long.
    pub(super) fn with_read(own: Vec<u8>, bytes: Vec<u8>) -> Self {
        let end = bytes.len();
        let buffer = (end > 0).then(|| bytes.into_boxed_slice());
        Self { own, buffer, end, ..Self::default() }
    }

    /// Bytes that were handed over to the reader's kernel.
    pub(in crate::proxy) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What was read and is yet to be understood.
    pub(super) fn unread(&self) -> &[u8] {
        let buffer = self.buffer.as_deref().unwrap_or_default();
        buffer.get(self.start + self.cleared + self.skip..self.end).unwrap_or_default()
    }

    /// The same, and where heads are written.
    pub(super) fn unread_and_own(&mut self) -> (&[u8], &mut Vec<u8>) {
        let buffer = self.buffer.as_deref().unwrap_or_default();
        let from = self.start + self.cleared + self.skip;
        (buffer.get(from..self.end).unwrap_or_default(), &mut self.own)
    }

    /// What has not gone yet, of what is to go.
    pub(super) fn pending(&self) -> impl Iterator<Item = &[u8]> {
        let own = self.own.get(self.own_sent..).unwrap_or_default();
        let buffer = self.buffer.as_deref().unwrap_or_default();
        let cleared = buffer.get(self.start..self.start + self.cleared).unwrap_or_default();
        [own, cleared].into_iter()
    }

    /// Whether something is to go.
    pub(super) fn is_pending(&self) -> bool {
        self.own_sent < self.own.len() || self.cleared > 0 || self.pipe.is_some()
    }

    /// Whether bytes that were understood still stand in front of those that were not.
    pub(super) fn is_clearing(&self) -> bool {
        self.cleared > 0 || self.pipe.is_some()
    }

    /// The next bytes of the buffer were understood. Those that may go on join those that wait
    /// already, so that one call writes all of them, however many pieces there are between bytes
    /// that are dropped.
    pub(super) fn clear(&mut self, run: Run) {
        let is_behind_head = self.cleared == 0 && self.own_sent < self.own.len();
        self.close_up(run.forward);
        self.cleared += run.forward;
        self.skip += run.skip;
        if is_behind_head && self.own.len() + run.forward <= PROXY_BODY_WITH_HEAD_MAX {
            let buffer = self.buffer.as_deref().unwrap_or_default();
            let small = buffer.get(self.start..self.start + run.forward).unwrap_or_default();
            self.own.extend_from_slice(small);
            self.advance(run.forward);
        }
        if self.cleared == 0 {
            self.drop_skipped();
        }
    }

    /// Moves the next `len` bytes over those that are dropped in front of them. The room that they
    /// leave is dropped instead.
    fn close_up(&mut self, len: usize) {
        let to = self.start + self.cleared;
        let from = to + self.skip;
        if self.skip > 0
            && let Some(buffer) = &mut self.buffer
            && let Some(bytes) = buffer.get_mut(to..from + len)
        {
            bytes.copy_within(self.skip.., 0);
        }
    }

    fn advance(&mut self, len: usize) {
        self.start += len;
        self.cleared -= len.min(self.cleared);
        if self.cleared == 0 {
            self.drop_skipped();
        }
    }

    fn drop_skipped(&mut self) {
        self.start += std::mem::take(&mut self.skip);
    }

    /// Writes what may go.
    ///
    /// # Errors
    /// The reader's connection is broken.
    pub(super) fn write(&mut self, reader: &mut End, buffers: &mut Buffers) -> io::Result<()> {
        while self.is_pending() {
            let is_own = self.own_sent < self.own.len();
            let here = self.pending().find(|bytes| !bytes.is_empty());
            let (moved, is_here) = match here {
                Some(bytes) => (reader.write(bytes)?, true),
                None => (self.drain(reader, buffers)?, false),
            };
            match moved {
                Moved::Bytes(len) => {
                    self.bytes += len as u64;
                    match is_here {
                        true if is_own => self.own_sent += len,
                        true => self.advance(len),
                        false => {}
                    }
                }
                Moved::Blocked | Moved::End if reader.is_writable() => {}
                Moved::Blocked | Moved::End => break,
            }
        }
        self.give_back(buffers);
        Ok(())
    }

    /// Writes what is in the pipe.
    fn drain(&mut self, reader: &mut End, buffers: &mut Buffers) -> io::Result<Moved> {
        let Some(pipe) = &mut self.pipe else { return Ok(Moved::Blocked) };
        let moved = reader.drain(pipe)?;
        if pipe.held() == 0
            && let Some(pipe) = self.pipe.take()
        {
            buffers.pipes.take_back(pipe);
        }
        Ok(moved)
    }

    /// Whether a pipe is worth while: the writer says much, nothing of it is here, and neither side
    /// is inside TLS.
    pub(super) fn may_splice(&self, writer: &End, reader: &End) -> bool {
        self.is_bulk
            && self.start == self.end
            && !self.is_pending()
            && writer.can_splice()
            && reader.can_splice()
    }

    /// Reads once into a pipe, at most so many bytes that are to go on, whatever they are. `None`
    /// if no pipe is to be had.
    ///
    /// # Errors
    /// The writer's connection is broken.
    pub(super) fn splice(
        &mut self,
        writer: &mut End,
        most: usize,
        buffers: &mut Buffers,
    ) -> io::Result<Option<Moved>> {
        let Some(mut pipe) = buffers.pipes.lend() else { return Ok(None) };
        let moved = writer.fill(&mut pipe, most.min(PROXY_PIPE_LEN));
        match pipe.held() {
            0 => buffers.pipes.take_back(pipe),
            len => {
                self.is_bulk = len >= PROXY_SPLICE_LEN_MIN;
                self.pipe = Some(pipe);
            }
        }
        moved.map(Some)
    }

    /// What was written here has gone and is not needed again; some of its room may be.
    pub(super) fn forget_own(&mut self) {
        if self.own_sent == self.own.len() {
            self.own.clear();
            self.own_sent = 0;
            give_up_room(&mut self.own);
        }
    }

    /// What was written here has gone and is not needed again, and nothing more is written here.
    pub(super) fn drop_own(&mut self) {
        if self.own_sent == self.own.len() {
            (self.own, self.own_sent) = (Vec::new(), 0);
        }
    }

    /// The head is to be written again, to another connection.
    pub(super) fn rewind(&mut self) {
        self.own_sent = 0;
    }

    /// Reads once, at most so many bytes, behind what is there.
    ///
    /// # Errors
    /// The writer's connection is broken.
    pub(super) fn read(
        &mut self,
        writer: &mut End,
        most: usize,
        buffers: &mut Buffers,
    ) -> io::Result<Moved> {
        if !writer.is_readable() {
            return Ok(Moved::Blocked);
        }
        let mut buffer = self.take_buffer(buffers);
        let end = buffer.len().min(self.end.saturating_add(most));
        let room = buffer.get_mut(self.end..end).unwrap_or_default();
        // The bounds of heads and trailers leave room; a full buffer would look like an end.
        let read = match room.is_empty() {
            true => Err(io::ErrorKind::OutOfMemory.into()),
            false => writer.read(room),
        };
        if let Ok(Moved::Bytes(len)) = read {
            self.end += len;
            self.is_bulk = self.end == buffer.len();
        }
        self.buffer = Some(buffer);
        self.give_back(buffers);
        read
    }

    /// A buffer with what has not been understood at its beginning, and room behind it.
    fn take_buffer(&mut self, buffers: &mut Buffers) -> Box<[u8]> {
        let unread = self.start..self.end;
        (self.start, self.end) = (0, unread.len());
        match self.buffer.take() {
            Some(mut buffer) if buffer.len() >= PROXY_BUFFER_LEN => {
                if unread.start > 0 {
                    buffer.copy_within(unread, 0);
                }
                buffer
            }
            short => {
                let mut buffer = buffers.lend();
                let bytes = short.as_deref().and_then(|short| short.get(unread));
                if let Some(bytes) = bytes
                    && let Some(room) = buffer.get_mut(..bytes.len())
                {
                    room.copy_from_slice(bytes);
                }
                buffer
            }
        }
    }

    /// An empty buffer goes back.
    fn give_back(&mut self, buffers: &mut Buffers) {
        if self.start == self.end
            && let Some(buffer) = self.buffer.take()
        {
            (self.start, self.end) = (0, 0);
            // One of another length is what a client had sent ahead.
            if buffer.len() == PROXY_BUFFER_LEN {
                buffers.take_back(buffer);
            }
        }
    }

    /// Takes it apart: what has not been understood goes to `rest`, and the room for heads is
    /// returned, empty.
    pub(super) fn end(mut self, rest: &mut Vec<u8>, buffers: &mut Buffers) -> Vec<u8> {
        rest.extend_from_slice(self.unread());
        if let Some(pipe) = self.pipe.take() {
            buffers.pipes.take_back(pipe);
        }
        self.start = self.end;
        self.give_back(buffers);
        self.own.clear();
        self.own
    }
}

#[cfg(test)]
impl Flow {
    /// What was written here.
    pub(super) fn own(&self) -> &[u8] {
        &self.own
    }

    /// Bytes of memory that it holds.
    pub(super) fn held(&self) -> usize {
        self.own.capacity() + self.buffer.as_ref().map_or(0, |buffer| buffer.len())
    }
}
