//! Frames: datagrams of one channel, of equal length but for the last.
//!
//! | bytes | what |
//! | --- | --- |
//! | 1 | channel |
//! | 1 | zero |
//! | 2 | length of each datagram but the last, which may be shorter |
//! | 2 | length of them all |
//!
//! That is what `UDP_GRO` receives at once and `UDP_SEGMENT` sends at once, so that a frame costs
//! each side one message of a system call, however many datagrams it holds.

use std::ops::Range;

use thiserror::Error;

use crate::limits::{CARRIER_CHANNELS_MAX, CARRIER_FRAME_DATAGRAMS_MAX, CARRIER_HEADER_LEN};

/// The header of a frame, valid whenever it exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    channel: u8,
    stride: u16,
    len: u16,
}

/// Why bytes are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// No session has so many paths.
    #[error("a frame for channel {0}, which there cannot be")]
    Channel(u8),
    /// A byte that is reserved for later versions is not zero.
    #[error("a reserved byte of a frame is not zero")]
    Reserved,
    /// Its lengths fit no number of datagrams, or too large a one.
    #[error("a frame of {len} bytes in datagrams of {stride}")]
    Lengths {
        /// Of each datagram but the last.
        stride: u16,
        /// Of all.
        len: u16,
    },
}

impl Frame {
    /// The frame that `len` bytes in datagrams of `stride` make.
    ///
    /// # Errors
    /// What is wrong with these.
    pub const fn new(channel: u8, stride: u16, len: u16) -> Result<Self, FrameError> {
        if channel as usize >= CARRIER_CHANNELS_MAX {
            return Err(FrameError::Channel(channel));
        }
        let fits = stride > 0 && stride <= len;
        if !fits || len.div_ceil(stride) as usize > CARRIER_FRAME_DATAGRAMS_MAX {
            return Err(FrameError::Lengths { stride, len });
        }
        Ok(Self { channel, stride, len })
    }

    /// Reads a header.
    ///
    /// # Errors
    /// See [`FrameError`].
    pub const fn parse(header: [u8; CARRIER_HEADER_LEN]) -> Result<Self, FrameError> {
        let [channel, reserved, stride_high, stride_low, len_high, len_low] = header;
        if reserved != 0 {
            return Err(FrameError::Reserved);
        }
        let stride = u16::from_be_bytes([stride_high, stride_low]);
        Self::new(channel, stride, u16::from_be_bytes([len_high, len_low]))
    }

    /// Writes the header.
    #[must_use]
    pub const fn emit(&self) -> [u8; CARRIER_HEADER_LEN] {
        let [stride_high, stride_low] = self.stride.to_be_bytes();
        let [len_high, len_low] = self.len.to_be_bytes();
        [self.channel, 0, stride_high, stride_low, len_high, len_low]
    }

    /// Whose datagrams they are.
    #[must_use]
    pub const fn channel(&self) -> u8 {
        self.channel
    }

    /// Bytes of each datagram but the last.
    #[must_use]
    pub const fn stride(&self) -> usize {
        self.stride as usize
    }

    /// Bytes behind the header, at least 1.
    #[must_use]
    pub const fn body_len(&self) -> usize {
        self.len as usize
    }

    /// How many datagrams it holds.
    #[must_use]
    pub const fn datagrams(&self) -> usize {
        self.len.div_ceil(self.stride) as usize
    }
}

/// Takes the next whole frame from the front of `stream`, beginning at `*at`: its header, and where
/// its datagrams lie. `None` if the frame has not arrived in full.
pub(super) fn next_frame(
    stream: &[u8],
    at: &mut usize,
) -> Result<Option<(Frame, Range<usize>)>, FrameError> {
    let rest = stream.get(*at..).unwrap_or_default();
    let Some(header) = rest.first_chunk::<CARRIER_HEADER_LEN>() else { return Ok(None) };
    let frame = Frame::parse(*header)?;
    let start = *at + CARRIER_HEADER_LEN;
    let end = start + frame.body_len();
    if end > stream.len() {
        return Ok(None);
    }
    *at = end;
    Ok(Some((frame, start..end)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_truth_table() {
        let channels = CARRIER_CHANNELS_MAX as u8;
        let lengths = |stride, len| Err(FrameError::Lengths { stride, len });
        // Header, and what it means: channel, bytes, datagrams.
        type Case = ([u8; 6], Result<(u8, usize, usize), FrameError>);
        let cases: &[Case] = &[
            ([0, 0, 0, 1, 0, 1], Ok((0, 1, 1))),
            ([5, 0, 0, 100, 0, 100], Ok((5, 100, 1))),
            ([5, 0, 0, 100, 0, 101], Ok((5, 101, 2))),
            ([channels - 1, 0, 0xff, 0xff, 0xff, 0xff], Ok((channels - 1, 65_535, 1))),
            ([0, 0, 0, 1, 0, 64], Ok((0, 64, 64))),
            ([0, 0, 0, 1, 0, 65], lengths(1, 65)),
            ([0, 0, 0, 1, 0xff, 0xff], lengths(1, 65_535)),
            ([0, 0, 0, 0, 0, 0], lengths(0, 0)),
            ([0, 0, 0, 0, 0, 9], lengths(0, 9)),
            ([0, 0, 0, 9, 0, 0], lengths(9, 0)),
            ([0, 0, 0, 9, 0, 8], lengths(9, 8)),
            ([channels, 0, 0, 1, 0, 1], Err(FrameError::Channel(channels))),
            ([255, 0, 0, 1, 0, 1], Err(FrameError::Channel(255))),
            ([0, 1, 0, 1, 0, 1], Err(FrameError::Reserved)),
        ];
        for (header, expected) in cases {
            let parsed = Frame::parse(*header);
            let seen = parsed.map(|it| (it.channel(), it.body_len(), it.datagrams()));
            assert_eq!(seen, *expected, "{header:?}");
            assert!(parsed.is_err() || parsed.unwrap().emit() == *header);
        }
    }

    #[test]
    fn frames_come_out_whole_wherever_the_stream_is_cut() {
        let mut stream = Vec::new();
        for (channel, stride, len) in [(0, 1, 1), (3, 10, 35), (128, 7, 7)] {
            stream.extend(Frame::new(channel, stride, len).unwrap().emit());
            stream.extend((0..len).map(|byte| byte as u8));
        }
        for cut in 0..=stream.len() {
            let (mut at, mut seen) = (0, Vec::new());
            for end in [cut, stream.len()] {
                while let Some((frame, body)) = next_frame(&stream[..end], &mut at).unwrap() {
                    seen.push((frame.channel(), frame.datagrams(), body.len()));
                }
            }
            assert_eq!(seen, [(0, 1, 1), (3, 4, 35), (128, 1, 7)], "cut at {cut}");
            assert_eq!(at, stream.len());
        }
    }
}
