//! Frames that wait for a TLS connection: few, and not for long.
//!
//! What finds no room is dropped, and so is what has waited too long, as a router does: whoever has
//! sent it learns from the loss how much there is room for.

use std::collections::VecDeque;
use std::time::Instant;

use crate::limits::{
    CARRIER_CHUNK_LEN, CARRIER_CHUNK_SPAN, CARRIER_FRAME_DATAGRAMS_MAX, CARRIER_HEADER_LEN,
    CARRIER_WAIT_MAX,
};

use super::frame::Frame;

/// The frames of one connection, in chunks that are written at once.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    chunks: VecDeque<Chunk>,
    len: usize,
}

#[derive(Debug)]
struct Chunk {
    /// When its first frame came.
    since: Instant,
    bytes: Vec<u8>,
    datagrams: usize,
}

impl Outbox {
    /// Adds `datagrams`, each `stride` bytes long but the last, as long as no more than `len_max`
    /// bytes wait. Returns how many there was no room for.
    pub(super) fn push(
        &mut self,
        now: Instant,
        channel: u8,
        stride: usize,
        datagrams: &[u8],
        len_max: usize,
    ) -> usize {
        let mut refused = 0;
        let stride = stride.max(1);
        for part in datagrams.chunks(stride.saturating_mul(CARRIER_FRAME_DATAGRAMS_MAX)) {
            let lens = (u16::try_from(stride.min(part.len())), u16::try_from(part.len()));
            let frame = match lens {
                (Ok(stride), Ok(len)) => Frame::new(channel, stride, len).ok(),
                _ => None,
            };
            let room = len_max.saturating_sub(self.len);
            match frame.filter(|_| CARRIER_HEADER_LEN + part.len() <= room) {
                Some(frame) => self.append(now, frame, part),
                None => refused += part.len().div_ceil(stride),
            }
        }
        refused
    }

    fn append(&mut self, now: Instant, frame: Frame, body: &[u8]) {
        let frame_len = CARRIER_HEADER_LEN + body.len();
        self.len += frame_len;
        let has_room = |chunk: &&mut Chunk| {
            chunk.bytes.len() + frame_len <= CARRIER_CHUNK_LEN
                && now.saturating_duration_since(chunk.since) < CARRIER_CHUNK_SPAN
        };
        let chunk = match self.chunks.back_mut().filter(has_room) {
            Some(chunk) => chunk,
            None => {
                self.chunks.push_back(Chunk { since: now, bytes: Vec::new(), datagrams: 0 });
                let Some(chunk) = self.chunks.back_mut() else { return };
                chunk
            }
        };
        chunk.bytes.extend(frame.emit());
        chunk.bytes.extend_from_slice(body);
        chunk.datagrams += frame.datagrams();
    }

    /// Takes the oldest frames that are still worth sending, and tells how many datagrams before
    /// them were not.
    pub(super) fn pop(&mut self, now: Instant) -> (Option<Vec<u8>>, usize) {
        let mut too_late = 0;
        while let Some(chunk) = self.chunks.pop_front() {
            self.len -= chunk.bytes.len();
            if now.saturating_duration_since(chunk.since) <= CARRIER_WAIT_MAX {
                return (Some(chunk.bytes), too_late);
            }
            too_late += chunk.datagrams;
        }
        (None, too_late)
    }

    /// Bytes that wait.
    #[cfg(test)]
    pub(super) const fn len(&self) -> usize {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::next_frame;
    use super::*;
    use crate::sys::clock;
    use proptest::prelude::*;
    use std::time::Duration;

    fn drain(outbox: &mut Outbox, now: Instant) -> Vec<(u8, usize, Vec<u8>)> {
        let mut seen = Vec::new();
        while let (Some(chunk), _) = outbox.pop(now) {
            let mut at = 0;
            while let Some((frame, body)) = next_frame(&chunk, &mut at).unwrap() {
                seen.push((frame.channel(), frame.stride(), chunk[body].to_vec()));
            }
            assert_eq!(at, chunk.len(), "a chunk ends with a frame");
        }
        seen
    }

    #[test]
    fn what_finds_no_room_is_refused_and_what_waits_stays() {
        let now = clock::now();
        let mut outbox = Outbox::default();
        assert_eq!(outbox.push(now, 1, 10, &[7; 100], 110), 0);
        assert_eq!(outbox.len(), 106);
        assert_eq!(outbox.push(now, 1, 10, &[8; 25], 110), 3);
        assert_eq!(drain(&mut outbox, now), [(1, 10, vec![7; 100])]);
        assert_eq!(outbox.len(), 0);
        assert_eq!(outbox.push(now, 1, 10, &[8; 25], 110), 0);
    }

    #[test]
    fn what_has_waited_too_long_is_left_out_and_counted() {
        let now = clock::now();
        let mut outbox = Outbox::default();
        outbox.push(now, 0, 5, &[1; 15], usize::MAX);
        let later = now + CARRIER_WAIT_MAX;
        outbox.push(later, 0, 5, &[2; 5], usize::MAX);
        let (chunk, too_late) = outbox.pop(later + Duration::from_millis(1));
        assert_eq!((chunk.map(|it| it.len()), too_late), (Some(11), 3));
        assert_eq!(outbox.pop(later), (None, 0));
    }

    proptest! {
        #[test]
        fn what_is_pushed_comes_out_in_order_and_is_never_more_than_allowed(
            pushes in prop::collection::vec((0..129_u8, 1..2000_usize, 1..65_536_usize), 1..20),
            len_max in 0..400_000_usize,
        ) {
            let now = clock::now();
            let mut outbox = Outbox::default();
            let mut sent = Vec::new();
            for (number, (channel, stride, len)) in pushes.into_iter().enumerate() {
                let datagrams = vec![number as u8; len];
                let refused = outbox.push(now, channel, stride, &datagrams, len_max);
                prop_assert!(outbox.len() <= len_max);
                sent.push((channel, len.div_ceil(stride) - refused));
            }
            let mut arrived: Vec<(u8, usize)> = Vec::new();
            for (channel, stride, bytes) in drain(&mut outbox, now) {
                arrived.push((channel, bytes.len().div_ceil(stride)));
            }
            let sum = |list: &[(u8, usize)]| list.iter().map(|(_, count)| count).sum::<usize>();
            prop_assert_eq!(sum(&sent), sum(&arrived));
            prop_assert_eq!(outbox.len(), 0);
        }
    }
}
