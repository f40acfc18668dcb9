//! Reads fields in front of bytes that may not all have come yet.

/// Why a message could not be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stop<E> {
    /// The bytes end before the message does.
    Short,
    /// It is none.
    Wrong(E),
}

/// The bytes end before the field does.
pub(super) struct Short;

impl<E> From<Short> for Stop<E> {
    fn from(_: Short) -> Self {
        Self::Short
    }
}

/// The bytes that have not been read.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    len: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, len: bytes.len() }
    }

    /// How many bytes have been read.
    pub(super) fn used(&self) -> usize {
        self.len - self.rest.len()
    }

    /// What has not been read.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], Short> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(Short)?;
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn array<const LEN: usize>(&mut self) -> Result<[u8; LEN], Short> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(Short)?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(super) fn byte(&mut self) -> Result<u8, Short> {
        self.array().map(|[byte]| byte)
    }

    /// Two bytes in network order.
    pub(super) fn number(&mut self) -> Result<u16, Short> {
        self.array().map(u16::from_be_bytes)
    }

    /// A length in one byte, and as many bytes.
    pub(super) fn counted(&mut self) -> Result<&'a [u8], Short> {
        let len = self.byte()?;
        self.take(len.into())
    }

    /// Up to `len_max` bytes that end with a NUL, which is read but not returned. `None` if there
    /// are more.
    pub(super) fn until_nul(&mut self, len_max: usize) -> Result<Option<&'a [u8]>, Short> {
        let Some(len) = self.rest.iter().take(len_max + 1).position(|byte| *byte == 0) else {
            return if self.rest.len() > len_max { Ok(None) } else { Err(Short) };
        };
        let taken = self.take(len)?;
        self.byte()?;
        Ok(Some(taken))
    }
}
