//! The two ends of a lane: sealing with a counter, opening with a replay window.

use ring::aead::{Aad, LessSafeKey, NONCE_LEN, Nonce};
use thiserror::Error;

use crate::limits::{
    DATA_HEADER_LEN, DATA_OVERHEAD_LEN, FORGERIES_MAX, REJECT_AFTER_PACKETS, TAG_LEN,
};
use crate::wire::{DataHeader, SessionIndex};

use super::keys::LaneSecret;
use super::replay::ReplayWindow;

/// Why a packet was not sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LaneError {
    /// The key has sealed as many packets as it may; the session must be replaced.
    #[error("lane key is used up after {REJECT_AFTER_PACKETS} packets")]
    KeyExhausted,
    /// The slot has no room for a header and a tag, or is longer than the cipher takes.
    #[error("slot of {0} bytes cannot hold a data message")]
    SlotLength(usize),
}

/// Why a packet was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum OpenError {
    /// The counter was seen before or lies behind the replay window.
    #[error("counter was seen before or is too old")]
    Replayed,
    /// The counter lies beyond what a lane key may carry, or the key has met too many forgeries.
    #[error("lane key is used up")]
    KeyExhausted,
    /// The packet was not sealed by the far end of this lane, or was changed since.
    #[error("packet does not authenticate")]
    Authentication,
}

/// The sending end of a lane: the one place where counters of its key are given out.
#[derive(Debug)]
pub struct SendLane {
    key: LessSafeKey,
    lane: u8,
    remote: SessionIndex,
    counter: u64,
}

impl SendLane {
    /// The sending end of `lane`, for the session that the far side calls `remote`.
    ///
    /// A (secret, lane) pair must be given to one `SendLane` in its life: two of them would seal
    /// different packets with the same key and nonce. [`LaneSecret::claim`] tells whose it is.
    pub fn new(secret: &LaneSecret, lane: u8, remote: SessionIndex) -> Self {
        Self { key: secret.derive(lane), lane, remote, counter: 0 }
    }

    /// The same, as if `counter` packets had been sealed, to test what happens near the limits.
    #[cfg(test)]
    pub(crate) fn at_counter(
        secret: &LaneSecret,
        lane: u8,
        remote: SessionIndex,
        counter: u64,
    ) -> Self {
        Self { counter, ..Self::new(secret, lane, remote) }
    }

    /// Turns a slot `[room for the header | plaintext, padded | room for the tag]` into a data
    /// message, in place, with the next counter.
    ///
    /// # Errors
    /// [`LaneError::KeyExhausted`] once the counter has reached its limit,
    /// [`LaneError::SlotLength`] for a slot without room; neither uses a counter up.
    #[inline]
    pub fn seal(&mut self, slot: &mut [u8]) -> Result<(), LaneError> {
        if self.counter >= REJECT_AFTER_PACKETS {
            return Err(LaneError::KeyExhausted);
        }
        let wrong_length = LaneError::SlotLength(slot.len());
        let (header, rest) = slot.split_first_chunk_mut::<DATA_HEADER_LEN>().ok_or(wrong_length)?;
        let (plaintext, tag) = rest.split_last_chunk_mut::<TAG_LEN>().ok_or(wrong_length)?;

        let counter = self.counter;
        // Spent before it is used: whatever happens below, it is never given out again.
        self.counter += 1;
        DataHeader { lane: self.lane, receiver: self.remote, counter }.emit(header);
        let sealed = self
            .key
            .seal_in_place_separate_tag(nonce(counter), Aad::empty(), plaintext)
            .map_err(|_| wrong_length)?;
        tag.copy_from_slice(sealed.as_ref());
        Ok(())
    }

    /// Packets sealed so far, which is the next counter.
    #[inline]
    pub fn counter(&self) -> u64 {
        self.counter
    }

    /// The lane's number.
    #[inline]
    pub fn lane(&self) -> u8 {
        self.lane
    }
}

/// A packet that was opened in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Bytes of plaintext, padding included, from `DATA_HEADER_LEN` on in the datagram.
    pub plaintext_len: usize,
    /// A higher counter of the lane was opened before it.
    pub reordered: bool,
}

/// The receiving end of a lane.
#[derive(Debug)]
pub struct ReceiveLane {
    key: LessSafeKey,
    window: ReplayWindow,
    forgeries: u64,
}

impl ReceiveLane {
    /// The receiving end of `lane`.
    pub fn new(secret: &LaneSecret, lane: u8) -> Self {
        Self { key: secret.derive(lane), window: ReplayWindow::new(), forgeries: 0 }
    }

    /// Opens a data message of this lane in place. `header` is what [`DataHeader::parse`] read from
    /// the same `datagram`.
    ///
    /// # Errors
    /// If the counter is spent, replayed or too old, or the packet does not authenticate; the
    /// datagram's content is then undefined and the window unmoved.
    #[inline]
    pub fn open(&mut self, header: &DataHeader, datagram: &mut [u8]) -> Result<Opened, OpenError> {
        if header.counter >= REJECT_AFTER_PACKETS || self.forgeries >= FORGERIES_MAX {
            return Err(OpenError::KeyExhausted);
        }
        if !self.window.check(header.counter) {
            return Err(OpenError::Replayed);
        }
        let Some(plaintext_len) = self.authenticate(header.counter, datagram) else {
            self.forgeries += 1;
            return Err(OpenError::Authentication);
        };
        let reordered = header.counter < self.window.highest();
        self.window.commit(header.counter);
        Ok(Opened { plaintext_len, reordered })
    }

    /// Decrypts what lies behind the header and says how long it is, if it is authentic.
    #[inline]
    fn authenticate(&self, counter: u64, datagram: &mut [u8]) -> Option<usize> {
        if datagram.len() < DATA_OVERHEAD_LEN {
            return None;
        }
        let sealed = datagram.get_mut(DATA_HEADER_LEN..)?;
        let plaintext = self.key.open_in_place(nonce(counter), Aad::empty(), sealed).ok()?;
        Some(plaintext.len())
    }

    /// The highest counter opened; 0 at first.
    #[inline]
    pub fn highest(&self) -> u64 {
        self.window.highest()
    }

    /// Packets that did not authenticate.
    #[inline]
    pub fn forgeries(&self) -> u64 {
        self.forgeries
    }
}

/// Four zero bytes, then the counter, big endian.
///
/// Written as ring reads it, eight bytes and then four: a read that spans two writes has to wait
/// until both have left the store buffer, 3 ns that a small packet feels.
#[inline]
fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    let (first, last) = bytes.split_at_mut(size_of::<u64>());
    first.copy_from_slice(&(counter >> u32::BITS).to_be_bytes());
    last.copy_from_slice(&(counter as u32).to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

#[cfg(test)]
mod tests;
