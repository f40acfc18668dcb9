//! Datagrams ready to leave, packed so that the kernel can take many in one call.
//!
//! Sealed datagrams lie back to back in one arena. Neighbours of equal size with the same
//! destination and traffic class form a *train* that leaves as one `UDP_SEGMENT` send; a shorter
//! datagram may end a train, never continue one. The builder only decides the grouping: it makes no
//! system call, so the rules are tested without a socket.

use std::ops::Range;

use crate::dataplane::messages::Endpoint;
use crate::limits::{
    GSO_SEGMENTS_MAX, SEND_ARENA_LEN, SEND_DATAGRAMS_DUE, SEND_DUE_LEN, SEND_TRAINS_DUE,
    SEND_TRAINS_MAX, UDP_PAYLOAD_MAX,
};
use crate::sys::arena::Arena;
use crate::wire::SessionIndex;

/// Neighbouring datagrams that leave in one send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Train {
    /// Where in the arena the datagrams lie.
    pub(super) range: Range<usize>,
    /// Bytes of every datagram but the last, which may be shorter.
    pub(super) segment_len: usize,
    /// How many datagrams.
    pub(super) datagrams: usize,
    /// Whose they are.
    pub(super) session: SessionIndex,
    /// Where they go.
    pub(super) endpoint: Endpoint,
    /// Type of service or traffic class of the outer IP header: ECN, and DSCP if it is copied.
    pub(super) tos: u8,
}

impl Train {
    fn takes(&self, len: usize, session: SessionIndex, endpoint: &Endpoint, tos: u8) -> bool {
        let every_one_full = self.range.len() == self.datagrams * self.segment_len;
        every_one_full
            && len <= self.segment_len
            && self.datagrams < GSO_SEGMENTS_MAX
            && self.range.len() + len <= UDP_PAYLOAD_MAX
            && self.tos == tos
            && self.session == session
            && self.endpoint == *endpoint
    }
}

/// Collects datagrams into trains.
pub(super) struct TrainBuilder {
    arena: Arena,
    used: usize,
    datagrams: usize,
    trains: Vec<Train>,
    /// Trains that were handed to the socket already and grow no more.
    handed_over: usize,
}

impl TrainBuilder {
    /// An empty builder.
    pub(super) fn new() -> Self {
        Self {
            arena: Arena::new(SEND_ARENA_LEN),
            used: 0,
            datagrams: 0,
            trains: Vec::with_capacity(SEND_TRAINS_MAX),
            handed_over: 0,
        }
    }

    /// Whether a datagram of `len` bytes fits the batch. All of a super-packet does unless the
    /// batch [is due](Self::is_due).
    #[inline]
    pub(super) fn has_room(&self, len: usize) -> bool {
        self.trains.len() < SEND_TRAINS_MAX && self.used + len <= self.arena.len()
    }

    /// Whether enough is batched that it should leave before more is read.
    #[inline]
    pub(super) fn is_due(&self) -> bool {
        self.used >= SEND_DUE_LEN
            || self.datagrams >= SEND_DATAGRAMS_DUE
            || self.trains.len() >= SEND_TRAINS_DUE
    }

    /// The free space for a datagram of `len` bytes, or `None` if the batch must leave first.
    #[inline]
    pub(super) fn slot(&mut self, len: usize) -> Option<&mut [u8]> {
        if self.has_room(len) { self.arena.get_mut(self.used..self.used + len) } else { None }
    }

    /// Takes the datagram of `len` bytes that was written into the slot.
    #[inline]
    pub(super) fn commit(
        &mut self,
        len: usize,
        session: SessionIndex,
        endpoint: &Endpoint,
        tos: u8,
    ) {
        let start = self.used;
        self.used += len;
        self.datagrams += 1;
        match self.trains[self.handed_over..].last_mut() {
            Some(train) if train.takes(len, session, endpoint, tos) => {
                train.range.end = self.used;
                train.datagrams += 1;
            }
            _ => self.trains.push(Train {
                range: start..self.used,
                segment_len: len,
                datagrams: 1,
                session,
                endpoint: *endpoint,
                tos,
            }),
        }
    }

    /// The trains that have not been handed over yet; from now on they have.
    pub(super) fn hand_over(&mut self) -> &[Train] {
        let first = std::mem::replace(&mut self.handed_over, self.trains.len());
        &self.trains[first..]
    }

    /// Every train in the batch, by the number it was handed over with.
    pub(super) fn trains(&self) -> &[Train] {
        &self.trains
    }

    /// What the trains' ranges refer to.
    pub(super) fn arena(&self) -> &[u8] {
        &self.arena
    }

    /// Whether nothing is waiting.
    pub(super) fn is_empty(&self) -> bool {
        self.trains.is_empty()
    }

    /// Forgets what has left.
    pub(super) fn clear(&mut self) {
        self.used = 0;
        self.datagrams = 0;
        self.handed_over = 0;
        self.trains.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn endpoint(port: u16) -> Endpoint {
        Endpoint { remote: ([192, 0, 2, 1], port).into(), local: None, listener: 0 }
    }

    fn push(builder: &mut TrainBuilder, len: usize, port: u16, tos: u8) -> bool {
        let fits = builder.slot(len).is_some();
        if fits {
            builder.commit(len, SessionIndex(1), &endpoint(port), tos);
        }
        fits
    }

    fn shape(builder: &TrainBuilder) -> Vec<(usize, usize)> {
        builder.trains().iter().map(|train| (train.datagrams, train.range.len())).collect()
    }

    #[test]
    fn equal_neighbours_form_a_train_and_a_shorter_one_ends_it() {
        let mut builder = TrainBuilder::new();
        for len in [1440, 1440, 1440, 96, 1440, 1440] {
            assert!(push(&mut builder, len, 1, 0));
        }
        assert_eq!(shape(&builder), [(4, 4416), (2, 2880)]);
    }

    #[test]
    fn a_longer_datagram_another_destination_or_another_mark_begins_a_train() {
        let mut builder = TrainBuilder::new();
        for (len, port, tos) in [(96, 1, 0), (128, 1, 0), (128, 2, 0), (128, 2, 2), (128, 2, 2)] {
            assert!(push(&mut builder, len, port, tos));
        }
        assert_eq!(shape(&builder), [(1, 96), (1, 128), (1, 128), (2, 256)]);
    }

    #[test]
    fn what_was_handed_over_grows_no_more() {
        let mut builder = TrainBuilder::new();
        assert!(push(&mut builder, 96, 1, 0));
        assert_eq!(builder.hand_over().len(), 1);
        assert!(push(&mut builder, 96, 1, 0));
        assert!(push(&mut builder, 96, 1, 0));
        assert_eq!(builder.hand_over().len(), 1);
        assert_eq!(shape(&builder), [(1, 96), (2, 192)]);
    }

    #[test]
    fn a_full_batch_takes_nothing_until_it_has_left() {
        let mut builder = TrainBuilder::new();
        let taken = (0..1000).take_while(|port| push(&mut builder, 96, *port, 0)).count();
        assert_eq!(taken, SEND_TRAINS_MAX);
        builder.clear();
        assert!(builder.is_empty() && push(&mut builder, 96, 1, 0));
    }

    proptest! {
        #[test]
        fn trains_keep_order_and_the_kernel_bounds(
            datagrams in prop::collection::vec((1usize..2000, 0u16..3, 0u8..4), 1..400)
        ) {
            let mut builder = TrainBuilder::new();
            let mut taken = Vec::new();
            for (len, port, tos) in datagrams {
                if !push(&mut builder, len, port, tos) { break; }
                taken.push((len, port, tos));
            }
            let mut unpacked = Vec::new();
            let mut expected_start = 0;
            for train in builder.trains() {
                prop_assert_eq!(train.range.start, expected_start);
                expected_start = train.range.end;
                prop_assert!(train.datagrams <= GSO_SEGMENTS_MAX);
                prop_assert!(train.range.len() <= UDP_PAYLOAD_MAX);
                let mut left = train.range.len();
                for _ in 0..train.datagrams {
                    let len = left.min(train.segment_len);
                    left -= len;
                    unpacked.push((len, train.endpoint.remote.port(), train.tos));
                }
                prop_assert_eq!(left, 0);
            }
            prop_assert_eq!(unpacked, taken);
        }
    }
}
