//! The header of a data message (type 4).

use crate::limits::{DATA_HEADER_LEN, DATA_OVERHEAD_LEN};

use super::{MessageType, SessionIndex, WireError};

/// What stands in front of the ciphertext of a data message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataHeader {
    /// The lane, which selects the key together with the session.
    pub lane: u8,
    /// The session, as its receiver named it.
    pub receiver: SessionIndex,
    /// The packet's number on its lane, and the nonce.
    pub counter: u64,
}

const _: () = assert!(1 + 1 + 2 + 4 + 8 == DATA_HEADER_LEN);

impl DataHeader {
    /// Reads the header of a whole data message, authentication tag included.
    ///
    /// # Errors
    /// If the message is shorter than a header and a tag, is of another type, or has reserved bytes
    /// that are not zero.
    #[inline]
    pub fn parse(datagram: &[u8]) -> Result<Self, WireError> {
        let truncated = WireError::Truncated { need: DATA_OVERHEAD_LEN, have: datagram.len() };
        if datagram.len() < DATA_OVERHEAD_LEN {
            return Err(truncated);
        }
        let header: &[u8; DATA_HEADER_LEN] = datagram.first_chunk().ok_or(truncated)?;
        let [kind, lane, zero @ .., _, _, _, _, _, _, _, _, _, _, _, _] = *header;
        if kind != MessageType::Data as u8 {
            return Err(WireError::UnknownType(kind));
        }
        if zero != [0; 2] {
            return Err(WireError::ReservedNotZero);
        }
        let [_, _, _, _, r0, r1, r2, r3, counter @ ..] = *header;
        Ok(Self {
            lane,
            receiver: SessionIndex(u32::from_be_bytes([r0, r1, r2, r3])),
            counter: u64::from_be_bytes(counter),
        })
    }

    /// Writes the header.
    #[inline]
    pub fn emit(&self, out: &mut [u8; DATA_HEADER_LEN]) {
        out[0] = MessageType::Data as u8;
        out[1] = self.lane;
        out[2..4].fill(0);
        out[4..8].copy_from_slice(&self.receiver.0.to_be_bytes());
        out[8..16].copy_from_slice(&self.counter.to_be_bytes());
    }
}
