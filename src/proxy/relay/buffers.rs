//! Buffers that connections borrow while they have bytes on the way.

use std::io;

use crate::limits::{PROXY_BUFFER_LEN, PROXY_BUFFERS_KEPT, PROXY_ROOM_KEPT_MAX};
use crate::proxy::stream::{End, Moved};

use super::pipes::{LentPipe, Pipes};

/// The buffers of one worker. The one that was given back last is lent first, since it is most
/// likely still in the processor's cache.
#[derive(Debug, Default)]
pub struct Buffers {
    free: Vec<Box<[u8]>>,
    /// What bulk goes through instead.
    pub pipes: Pipes,
}

impl Buffers {
    /// A buffer of [`PROXY_BUFFER_LEN`] bytes, with whatever was in it before.
    pub fn lend(&mut self) -> Box<[u8]> {
        self.free.pop().unwrap_or_else(|| vec![0; PROXY_BUFFER_LEN].into_boxed_slice())
    }

    /// Takes one back. Those beyond what is kept go to the allocator.
    pub fn take_back(&mut self, buffer: Box<[u8]>) {
        if self.free.len() < PROXY_BUFFERS_KEPT {
            self.free.push(buffer);
        }
    }
}

/// Gives up the room for words of a connection that has to wait, where it is more than
/// [`PROXY_ROOM_KEPT_MAX`] bytes and not even half of it is in use. What is in it moves: if it
/// stayed where it is, there would be a hole behind it for each connection, which nothing as large
/// as what has gone fits into.
pub fn give_up_room(room: &mut Vec<u8>) {
    if room.capacity() > PROXY_ROOM_KEPT_MAX && room.capacity() / 2 >= room.len() {
        *room = room.to_vec();
    }
}

/// Bytes in a buffer that are on their way.
#[derive(Debug)]
pub struct Chunk {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Chunk {
    /// The first `len` bytes of `buffer`.
    pub fn new(buffer: Box<[u8]>, len: usize) -> Self {
        let end = len.min(buffer.len());
        Self { buffer, start: 0, end }
    }

    /// A copy of `bytes`, in a borrowed buffer if they fit into one.
    pub fn copy_of(bytes: &[u8], buffers: &mut Buffers) -> Self {
        let mut buffer = buffers.lend();
        match buffer.get_mut(..bytes.len()) {
            Some(room) => room.copy_from_slice(bytes),
            None => {
                buffers.take_back(buffer);
                buffer = bytes.into();
            }
        }
        Self::new(buffer, bytes.len())
    }

    /// What is left.
    pub fn bytes(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }

    /// The first `len` bytes have gone.
    pub fn advance(&mut self, len: usize) {
        self.start = (self.start + len).min(self.end);
    }

    /// Gives the buffer back.
    pub fn release(self, buffers: &mut Buffers) {
        if self.buffer.len() == PROXY_BUFFER_LEN {
            buffers.take_back(self.buffer);
        }
    }
}

/// Bytes that are on their way, wherever they are.
#[derive(Debug)]
pub(super) enum Load {
    Chunk(Chunk),
    Pipe(LentPipe),
}

impl Load {
    /// Hands some of it to `reader`.
    pub(super) fn write_to(&mut self, reader: &mut End) -> io::Result<Moved> {
        match self {
            Self::Chunk(chunk) => {
                let moved = reader.write(chunk.bytes())?;
                if let Moved::Bytes(len) = moved {
                    chunk.advance(len);
                }
                Ok(moved)
            }
            Self::Pipe(pipe) => reader.drain(pipe),
        }
    }

    /// Bytes that are left.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Chunk(chunk) => chunk.bytes().len(),
            Self::Pipe(pipe) => pipe.held(),
        }
    }

    /// Gives back what it was borrowed in.
    pub(super) fn release(self, buffers: &mut Buffers) {
        match self {
            Self::Chunk(chunk) => chunk.release(buffers),
            Self::Pipe(pipe) => buffers.pipes.take_back(pipe),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_and_are_lent_again() {
        let mut buffers = Buffers::default();
        let mut buffer = buffers.lend();
        buffer[0] = 7;
        buffers.take_back(buffer);
        assert_eq!(buffers.lend()[0], 7);
        for _ in 0..PROXY_BUFFERS_KEPT + 10 {
            buffers.take_back(vec![0; PROXY_BUFFER_LEN].into_boxed_slice());
        }
        assert_eq!(buffers.free.len(), PROXY_BUFFERS_KEPT);
    }

    #[test]
    fn room_that_is_not_needed_is_given_up() {
        for (capacity, len) in [(0, 0), (100, 0), (4096, 9), (60_000, 0), (60_000, 20_000)] {
            let mut room = Vec::with_capacity(capacity);
            room.resize(len, 7);
            give_up_room(&mut room);
            assert_eq!(room, vec![7; len]);
            let most = if capacity > PROXY_ROOM_KEPT_MAX { len } else { capacity };
            assert!(room.capacity() <= most, "{} of {capacity} for {len}", room.capacity());
        }
        let mut room = Vec::with_capacity(60_000);
        room.resize(40_000, 7);
        let at = room.as_ptr();
        give_up_room(&mut room);
        assert_eq!((room.as_ptr(), room.capacity()), (at, 60_000), "it is in use");
    }

    #[test]
    fn a_chunk_of_any_length_is_its_bytes_until_they_have_gone() {
        let mut buffers = Buffers::default();
        for len in [0, 1, PROXY_BUFFER_LEN, PROXY_BUFFER_LEN + 1] {
            let bytes: Vec<u8> = (0..len).map(|index| index as u8).collect();
            let mut chunk = Chunk::copy_of(&bytes, &mut buffers);
            assert_eq!(chunk.bytes(), bytes);
            chunk.advance(len / 2);
            assert_eq!(chunk.bytes(), &bytes[len / 2..]);
            chunk.advance(usize::MAX / 2);
            assert!(chunk.bytes().is_empty());
            chunk.release(&mut buffers);
        }
        assert_eq!(buffers.free.len(), 1, "an odd one is not kept");
    }
}
