//! Frames: what a control channel consists of in either direction, inside TLS.
//!
//! One byte says what a frame is, three say how long its body is, big endian; the body follows.

use thiserror::Error;
use zeroize::Zeroizing;

use crate::limits::FRAME_HEADER_LEN;

/// What a frame is: its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// The first frame of a server: [`GREETING`] and the version of its program, in ASCII.
    Greeting = 1,
    /// A message: JSON.
    Message = 2,
}

/// How the body of a server's first frame begins; a space and the program's version follow.
pub const GREETING: &str = "OK VPN-HELLO";

impl FrameKind {
    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Greeting, Self::Message].into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// Why bytes are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// The first byte has no meaning.
    #[error("a frame of unknown type {0}")]
    UnknownKind(u8),
    /// The length is beyond what the receiver takes.
    #[error("a frame of {len} bytes where {max} are the most")]
    TooLong {
        /// What the header says.
        len: usize,
        /// What the receiver takes.
        max: usize,
    },
}

/// The header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// What the frame is.
    pub kind: FrameKind,
    /// Bytes of its body, below 2^24.
    pub len: usize,
}

impl FrameHeader {
    /// Reads a header.
    ///
    /// # Errors
    /// The type is unknown, or the body is longer than `len_max`.
    pub fn parse(bytes: [u8; FRAME_HEADER_LEN], len_max: usize) -> Result<Self, FrameError> {
        let [kind, a, b, c] = bytes;
        let kind = FrameKind::from_byte(kind).ok_or(FrameError::UnknownKind(kind))?;
        let len = u32::from_be_bytes([0, a, b, c]) as usize;
        if len > len_max {
            return Err(FrameError::TooLong { len, max: len_max });
        }
        Ok(Self { kind, len })
    }

    /// The header as it is sent; `len` must be below 2^24.
    pub fn emit(self) -> [u8; FRAME_HEADER_LEN] {
        debug_assert!(self.len < 1 << 24, "a length is three bytes");
        let [_, a, b, c] = (self.len as u32).to_be_bytes();
        [self.kind as u8, a, b, c]
    }
}

/// A whole frame with this body; the body must be shorter than 2^24 bytes.
pub fn frame(kind: FrameKind, body: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(FRAME_HEADER_LEN + body.len()));
    bytes.extend_from_slice(&FrameHeader { kind, len: body.len() }.emit());
    bytes.extend_from_slice(body);
    bytes
}

/// A frame that has arrived whole. The body may hold a password, so it is wiped when dropped.
#[derive(Debug)]
pub struct Frame {
    /// What it is.
    pub kind: FrameKind,
    /// What it says.
    pub body: Zeroizing<Vec<u8>>,
}

/// Puts frames together from bytes as they arrive. It holds one frame at most, in memory that was
/// taken in one piece, so that no copy of a secret stays behind.
#[derive(Debug)]
pub struct FrameReader {
    body_len_max: usize,
    header: [u8; FRAME_HEADER_LEN],
    header_len: usize,
    /// The frame whose header is complete, and its body so far.
    begun: Option<(FrameHeader, Zeroizing<Vec<u8>>)>,
}

impl FrameReader {
    /// A reader of frames with bodies of at most so many bytes.
    pub fn new(body_len_max: usize) -> Self {
        Self { body_len_max, header: [0; FRAME_HEADER_LEN], header_len: 0, begun: None }
    }

    /// Takes bytes from the front of `input` up to the end of a frame, and returns that frame;
    /// `None` once the input is used up.
    ///
    /// # Errors
    /// The bytes are no frame. Nothing that follows them makes sense.
    pub fn read(&mut self, input: &mut &[u8]) -> Result<Option<Frame>, FrameError> {
        loop {
            let Some((header, body)) = &mut self.begun else {
                while self.header_len < FRAME_HEADER_LEN {
                    let Some((byte, rest)) = input.split_first() else { return Ok(None) };
                    if let Some(place) = self.header.get_mut(self.header_len) {
                        *place = *byte;
                    }
                    self.header_len += 1;
                    *input = rest;
                }
                let header = FrameHeader::parse(self.header, self.body_len_max)?;
                self.header_len = 0;
                self.begun = Some((header, Zeroizing::new(Vec::with_capacity(header.len))));
                continue;
            };
            let missing = header.len - body.len();
            let (taken, rest) = input.split_at(missing.min(input.len()));
            body.extend_from_slice(taken);
            *input = rest;
            if body.len() < header.len {
                return Ok(None);
            }
            return Ok(self
                .begun
                .take()
                .map(|(FrameHeader { kind, .. }, body)| Frame { kind, body }));
        }
    }

    /// Whether a frame has begun and not ended.
    pub fn is_within_frame(&self) -> bool {
        self.header_len > 0 || self.begun.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEN_MAX: usize = 300;

    #[test]
    fn frames_survive_however_they_are_cut() {
        let bodies = [&b""[..], b"x", &[7; LEN_MAX]];
        let mut stream = Vec::new();
        for body in bodies {
            stream.extend_from_slice(&frame(FrameKind::Message, body));
        }
        for piece_len in 1..=stream.len() {
            let mut reader = FrameReader::new(LEN_MAX);
            let mut read = Vec::new();
            for mut piece in stream.chunks(piece_len) {
                while let Some(frame) = reader.read(&mut piece).unwrap() {
                    assert_eq!(frame.kind, FrameKind::Message);
                    read.push(frame.body.to_vec());
                }
                assert!(piece.is_empty());
            }
            assert_eq!(read, bodies);
            assert!(!reader.is_within_frame());
        }
    }

    #[test]
    fn a_frame_is_taken_and_what_follows_is_left() {
        let mut stream = frame(FrameKind::Greeting, b"hello").to_vec();
        stream.extend_from_slice(b"rest");
        let mut input = &stream[..];
        let read = FrameReader::new(LEN_MAX).read(&mut input).unwrap().unwrap();
        assert_eq!(
            (read.kind, &read.body[..], input),
            (FrameKind::Greeting, &b"hello"[..], &b"rest"[..])
        );
    }

    #[test]
    fn what_is_no_frame_is_refused_by_its_header() {
        let refusal = |bytes: [u8; 4]| FrameReader::new(LEN_MAX).read(&mut &bytes[..]).unwrap_err();
        assert_eq!(refusal([0, 0, 0, 0]), FrameError::UnknownKind(0));
        assert_eq!(refusal([b'G', b'E', b'T', b' ']), FrameError::UnknownKind(b'G'));
        assert_eq!(refusal([2, 0, 1, 45]), FrameError::TooLong { len: 301, max: LEN_MAX });
        assert_eq!(
            refusal([2, 255, 255, 255]),
            FrameError::TooLong { len: 0xff_ffff, max: LEN_MAX }
        );
    }

    #[test]
    fn a_header_survives() {
        for kind in [FrameKind::Greeting, FrameKind::Message] {
            let header = FrameHeader { kind, len: 0x1_02_03 };
            assert_eq!(header.emit(), [kind as u8, 1, 2, 3]);
            assert_eq!(FrameHeader::parse(header.emit(), 1 << 20), Ok(header));
        }
    }
}
