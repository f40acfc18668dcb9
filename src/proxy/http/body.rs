//! The body of a message as it passes: how many of the bytes at hand belong to it, and which of
//! them are forwarded. Nothing is copied.

use crate::limits::{
    HTTP_CHUNK_DIGITS_MAX, HTTP_CHUNK_EXTENSION_LEN_MAX, HTTP_LENGTH_MAX,
    HTTP_TRAILER_NAME_LEN_MAX, HTTP_TRAILERS_LEN_MAX,
};

use super::error::HttpError;
use super::fields::{FieldKind, is_token_byte};
use super::framing::Framing;

/// What to do with the bytes at hand: the first `forward` go on, the next `skip` do not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Run {
    /// Bytes to be forwarded.
    pub forward: usize,
    /// Bytes behind them that are not.
    pub skip: usize,
}

impl Run {
    /// All bytes that have been understood.
    pub fn used(self) -> usize {
        self.forward + self.skip
    }
}

/// The rest of a body.
#[derive(Debug, Clone, Copy)]
pub struct Body {
    state: State,
    /// Whether the chunks lose what makes them chunks, for a client of HTTP/1.0.
    bare: bool,
}

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Done,
    /// So many bytes.
    Length(u64),
    UntilClose,
    /// The size of a chunk (RFC 9112 section 7.1), of which some digits have been read.
    Size {
        size: u64,
        digits: u8,
    },
    /// Behind a size: blanks, which only an extension may follow.
    Blank {
        size: u64,
        len: usize,
    },
    /// An extension of a chunk (RFC 9112 section 7.1.1), of which `len` bytes have been read.
    Extension {
        size: u64,
        len: usize,
    },
    /// The LF behind a size.
    SizeLf {
        size: u64,
    },
    /// So many bytes of a chunk.
    Data(u64),
    /// The CR behind a chunk.
    DataCr,
    /// The LF behind a chunk.
    DataLf,
    /// A trailer line, or the empty line that ends the message, after `len` bytes of trailers.
    Trailer {
        len: usize,
    },
    /// The value of a trailer field.
    TrailerValue {
        len: usize,
        keep: bool,
    },
    /// The LF behind a trailer field.
    TrailerLf {
        len: usize,
        keep: bool,
    },
    /// The LF that ends the message.
    EndLf,
}

/// What one step understood: so many bytes, to be forwarded or not.
struct Piece {
    len: usize,
    keep: bool,
}

impl Body {
    /// The body of a message that ends as `framing` tells.
    pub fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::Done,
            Framing::Length(len) => State::Length(len),
            Framing::Chunked => State::Size { size: 0, digits: 0 },
            Framing::UntilClose => State::UntilClose,
        };
        Self { state, bare: false }
    }

    /// The same, but of chunks only the data is forwarded: for a recipient that knows no chunks.
    pub fn without_chunks(framing: Framing) -> Self {
        Self { bare: true, ..Self::new(framing) }
    }

    /// Whether all of it has passed.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// So many of the next bytes are data that is forwarded, whatever they are: they may pass by a
    /// way that does not look at them, if [`Body::pass`] is told. None if that is not known.
    pub fn passable(&self) -> u64 {
        match self.state {
            State::Length(len) | State::Data(len) => len,
            State::UntilClose => u64::MAX,
            _ => 0,
        }
    }

    /// Notes that bytes of [`Body::passable`] have passed by another way. More than that is taken
    /// for all of it.
    pub fn pass(&mut self, len: u64) {
        self.state = match self.state {
            State::Length(left) if len >= left => State::Done,
            State::Length(left) => State::Length(left - len),
            State::Data(left) if len >= left => State::DataCr,
            State::Data(left) => State::Data(left - len),
            state => state,
        };
    }

    /// Goes through the bytes at hand. It stops at the end of the message, and where bytes to be
    /// forwarded follow some that are not. If nothing is used of what is there, and the message is
    /// not done, more is needed: up to [`HTTP_TRAILER_NAME_LEN_MAX`] bytes at a time.
    pub fn advance(&mut self, input: &[u8]) -> Result<Run, HttpError> {
        let mut run = Run::default();
        while let Some(rest) = input.get(run.used()..).filter(|rest| !rest.is_empty()) {
            let before = self.state;
            match self.step(rest) {
                Ok(Piece { len: 0, .. }) => break,
                Ok(Piece { keep: false, len }) => run.skip += len,
                Ok(Piece { keep: true, len }) if run.skip == 0 => run.forward += len,
                // What is wrong is told once all that precedes it has been dealt with, so that the
                // outcome does not depend on how the bytes arrive.
                Err(error) if run.used() == 0 => return Err(error),
                Ok(_) | Err(_) => {
                    self.state = before;
                    break;
                }
            }
        }
        Ok(run)
    }

    /// The connection has ended: fine if the message has too.
    pub fn end(&mut self) -> Result<(), HttpError> {
        match self.state {
            State::Done | State::UntilClose => {
                self.state = State::Done;
                Ok(())
            }
            _ => Err(HttpError::Truncated),
        }
    }

    /// Understands at least one byte, unless none or too few are there.
    fn step(&mut self, input: &[u8]) -> Result<Piece, HttpError> {
        let Some(&byte) = input.first() else { return Ok(Piece { len: 0, keep: false }) };
        let passable = usize::try_from(self.passable()).unwrap_or(usize::MAX).min(input.len());
        if passable > 0 {
            self.pass(passable as u64);
            return Ok(Piece { len: passable, keep: true });
        }
        let framing = Piece { len: 1, keep: !self.bare };
        let expect = |expected, error| if byte == expected { Ok(()) } else { Err(error) };
        match self.state {
            State::Done | State::Length(_) | State::UntilClose | State::Data(_) => {
                Ok(Piece { len: 0, keep: false })
            }
            State::Size { size, digits } => self.size(byte, size, digits),
            State::Blank { size, len } | State::Extension { size, len } => {
                self.extension(byte, size, len)
            }
            State::SizeLf { size } => {
                expect(b'\n', HttpError::ChunkSize)?;
                self.state = if size == 0 { State::Trailer { len: 0 } } else { State::Data(size) };
                Ok(framing)
            }
            State::DataCr => {
                expect(b'\r', HttpError::ChunkEnd)?;
                self.state = State::DataLf;
                Ok(framing)
            }
            State::DataLf => {
                expect(b'\n', HttpError::ChunkEnd)?;
                self.state = State::Size { size: 0, digits: 0 };
                Ok(framing)
            }
            State::Trailer { len } => self.trailer(input, len),
            State::TrailerValue { len, keep } => self.trailer_value(input, len, keep),
            State::TrailerLf { len, keep } => {
                expect(b'\n', HttpError::Trailer)?;
                self.state = State::Trailer { len };
                Ok(Piece { len: 1, keep })
            }
            State::EndLf => {
                expect(b'\n', HttpError::Trailer)?;
                self.state = State::Done;
                Ok(framing)
            }
        }
    }

    fn size(&mut self, byte: u8, size: u64, digits: u8) -> Result<Piece, HttpError> {
        if let Some(digit) = char::from(byte).to_digit(16) {
            // The bound on what `size` was keeps this from overflowing.
            let size = size * 16 + u64::from(digit);
            if size > HTTP_LENGTH_MAX || digits == HTTP_CHUNK_DIGITS_MAX {
                return Err(HttpError::ChunkSize);
            }
            self.state = State::Size { size, digits: digits + 1 };
            return Ok(Piece { len: 1, keep: !self.bare });
        }
        self.state = match byte {
            _ if digits == 0 => return Err(HttpError::ChunkSize),
            b'\r' => State::SizeLf { size },
            b';' => State::Extension { size, len: 1 },
            b' ' | b'\t' => State::Blank { size, len: 1 },
            _ => return Err(HttpError::ChunkSize),
        };
        Ok(Piece { len: 1, keep: !self.bare && byte == b'\r' })
    }

    /// Blanks and extensions behind a size. "A recipient MUST ignore unrecognized chunk
    /// extensions": none is recognised, and none is forwarded.
    fn extension(&mut self, byte: u8, size: u64, len: usize) -> Result<Piece, HttpError> {
        let is_blank = matches!(self.state, State::Blank { .. });
        let len = len + 1;
        self.state = match byte {
            _ if len > HTTP_CHUNK_EXTENSION_LEN_MAX => return Err(HttpError::ChunkExtension),
            b';' => State::Extension { size, len },
            b' ' | b'\t' if is_blank => State::Blank { size, len },
            _ if is_blank => return Err(HttpError::ChunkExtension),
            b'\r' => State::SizeLf { size },
            _ if is_text(byte) => State::Extension { size, len },
            _ => return Err(HttpError::ChunkExtension),
        };
        Ok(Piece { len: 1, keep: !self.bare && byte == b'\r' })
    }

    /// The name of a trailer field, or the CR of the empty line.
    fn trailer(&mut self, input: &[u8], len: usize) -> Result<Piece, HttpError> {
        if input.first() == Some(&b'\r') {
            self.state = State::EndLf;
            return Ok(Piece { len: 1, keep: !self.bare });
        }
        let name_len = input.iter().position(|&byte| !is_token_byte(byte));
        let name_len = match name_len {
            None if input.len() < HTTP_TRAILER_NAME_LEN_MAX => {
                return Ok(Piece { len: 0, keep: false });
            }
            Some(len @ 1..HTTP_TRAILER_NAME_LEN_MAX) if input.get(len) == Some(&b':') => len,
            _ => return Err(HttpError::Trailer),
        };
        let name = input.get(..name_len).and_then(|name| str::from_utf8(name).ok());
        let keep = !self.bare && may_trail(name.unwrap_or_default());
        let used = name_len + 1;
        self.state = State::TrailerValue { len: trailers_len(len, used)?, keep };
        Ok(Piece { len: used, keep })
    }

    fn trailer_value(&mut self, input: &[u8], len: usize, keep: bool) -> Result<Piece, HttpError> {
        let text = input.iter().position(|&byte| !is_text(byte)).unwrap_or(input.len());
        if text > 0 {
            // Up to the bound first, so that as much has passed however the bytes arrive.
            let text = text.min((HTTP_TRAILERS_LEN_MAX - len).max(1));
            self.state = State::TrailerValue { len: trailers_len(len, text)?, keep };
            return Ok(Piece { len: text, keep });
        }
        if input.first() != Some(&b'\r') {
            return Err(HttpError::Trailer);
        }
        self.state = State::TrailerLf { len, keep };
        Ok(Piece { len: 1, keep })
    }
}

/// The length of the trailers with `more` bytes.
fn trailers_len(len: usize, more: usize) -> Result<usize, HttpError> {
    let sum = len + more;
    if sum > HTTP_TRAILERS_LEN_MAX { Err(HttpError::TrailersTooLong) } else { Ok(sum) }
}

/// Whether a byte may stand in the value of a field (RFC 9110 section 5.5).
fn is_text(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

/// Whether a field may be forwarded as a trailer. Not what frames, routes, authenticates, or says
/// how to process the content (RFC 9110 section 6.5.1); a recipient might merge it into the head.
fn may_trail(name: &str) -> bool {
    const FORBIDDEN: &[&str] = &[
        "age",
        "authorization",
        "cache-control",
        "content-encoding",
        "content-range",
        "content-type",
        "cookie",
        "date",
        "expires",
        "location",
        "pragma",
        "range",
        "retry-after",
        "set-cookie",
        "vary",
        "www-authenticate",
        "x-real-ip",
    ];
    let starts = |start: &str| {
        name.get(..start.len()).is_some_and(|found| found.eq_ignore_ascii_case(start))
    };
    FieldKind::of(name) == FieldKind::EndToEnd
        && !starts("if-")
        && !starts("x-forwarded-")
        && !FORBIDDEN.iter().any(|forbidden| name.eq_ignore_ascii_case(forbidden))
}
