//! Taking a message apart field by field, without an index that could be out of bounds.

use super::WireError;

/// The unread rest of a message of fixed length.
pub(super) struct Fields<'a> {
    rest: &'a [u8],
    need: usize,
    have: usize,
}

impl<'a> Fields<'a> {
    /// Reads a message that has exactly `LEN` bytes.
    pub(super) fn exactly<const LEN: usize>(message: &'a [u8]) -> Result<Self, WireError> {
        match message.len() {
            have if have < LEN => Err(WireError::Truncated { need: LEN, have }),
            have if have > LEN => Err(WireError::TooLong { need: LEN, have }),
            have => Ok(Self { rest: message, need: LEN, have }),
        }
    }

    /// Reads the `LEN` bytes that a longer message begins with.
    pub(super) fn prefix<const LEN: usize>(message: &'a [u8]) -> Result<Self, WireError> {
        let have = message.len();
        let rest = message.get(..LEN).ok_or(WireError::Truncated { need: LEN, have })?;
        Ok(Self { rest, need: LEN, have })
    }

    /// The next `N` bytes.
    pub(super) fn take<const N: usize>(&mut self) -> Result<&'a [u8; N], WireError> {
        let (field, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or(WireError::Truncated { need: self.need, have: self.have })?;
        self.rest = rest;
        Ok(field)
    }

    /// The next byte.
    pub(super) fn byte(&mut self) -> Result<u8, WireError> {
        self.take::<1>().map(|[byte]| *byte)
    }

    /// The next four bytes as an integer.
    pub(super) fn u32(&mut self) -> Result<u32, WireError> {
        self.take().map(|bytes| u32::from_be_bytes(*bytes))
    }

    /// Skips `N` bytes that must be zero.
    pub(super) fn reserved<const N: usize>(&mut self) -> Result<(), WireError> {
        if *self.take::<N>()? == [0; N] { Ok(()) } else { Err(WireError::ReservedNotZero) }
    }

    /// The type byte, which must be `expected`.
    pub(super) fn message_type(&mut self, expected: u8) -> Result<(), WireError> {
        match self.byte()? {
            found if found == expected => Ok(()),
            found => Err(WireError::UnknownType(found)),
        }
    }
}
