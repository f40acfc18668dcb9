//! Where packets wait for their turn under a limit.
//!
//! A packet that a [`Bucket`] has given a later time to leave at is copied into memory that the
//! worker has set aside, in blocks, and comes out when its time has come. Those that wait for one
//! bucket leave in the order they came: the bucket's times rise. No bucket holds more blocks than
//! are left for all others, so whoever floods its limit with tiny packets does not take the room of
//! those who keep to theirs.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Instant;

use crate::limits::{HELD_BLOCK_LEN, HELD_BLOCKS, PACKET_LEN_MAX, VIRTIO_HEADER_LEN};
use crate::packet::{VirtioHeader, ecn};
use crate::policy::bucket::Bucket;
use crate::routing::PeerId;
use crate::sys::arena::Arena;

/// Where a packet goes when its time has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// To the peer.
    ToWire,
    /// From the peer.
    ToTun,
}

/// Packets that wait, a virtio header in front of each.
pub(super) struct WaitingRoom {
    memory: Arena,
    /// The block that goes on with the packet in a block.
    next: Box<[u16]>,
    free: Vec<u16>,
    to_wire: BinaryHeap<Reverse<Held>>,
    to_tun: BinaryHeap<Reverse<Held>>,
    /// How many have come so far.
    came: u64,
    /// Where a packet is put together again.
    whole: Box<[u8]>,
}

/// A packet that waits.
struct Held {
    at: Instant,
    /// Of two with the same time, the first to come is the first to go.
    number: u64,
    first_block: u16,
    len: usize,
    packets: u16,
    peer: PeerId,
    bucket: Arc<Bucket>,
}

/// A packet whose time has come.
pub(super) struct Released {
    /// Whom it is from, or for.
    pub(super) peer: PeerId,
    /// The packet behind its virtio header, to be given back by [`WaitingRoom::take_back`].
    pub(super) memory: Box<[u8]>,
    /// Bytes of that.
    pub(super) len: usize,
    /// How many packets it stands for.
    pub(super) packets: usize,
}

/// What is to wait.
pub(super) struct Waiter<'a> {
    pub(super) way: Way,
    pub(super) peer: PeerId,
    /// What it waits for.
    pub(super) bucket: &'a Arc<Bucket>,
    /// How many packets it stands for.
    pub(super) packets: usize,
}

impl PartialEq for Held {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Held {}

impl PartialOrd for Held {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Held {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

const fn blocks_for(len: usize) -> usize {
    len.div_ceil(HELD_BLOCK_LEN)
}

impl WaitingRoom {
    /// An empty one. All memory that it will ever need is set aside here.
    pub(super) fn new() -> Self {
        const { assert!(HELD_BLOCKS <= 1 << 16, "a block has a number of 16 bits") };
        Self {
            memory: Arena::new(HELD_BLOCKS * HELD_BLOCK_LEN),
            next: vec![0; HELD_BLOCKS].into_boxed_slice(),
            free: (0..=(HELD_BLOCKS - 1) as u16).rev().collect(),
            to_wire: BinaryHeap::with_capacity(HELD_BLOCKS),
            to_tun: BinaryHeap::with_capacity(HELD_BLOCKS),
            came: 0,
            whole: vec![0; VIRTIO_HEADER_LEN + PACKET_LEN_MAX].into_boxed_slice(),
        }
    }

    /// Whether `len` bytes may wait for `bucket`.
    pub(super) fn has_room(&self, bucket: &Bucket, len: usize) -> bool {
        let needed = blocks_for(len);
        needed + bucket.held_blocks() as usize <= self.free.len()
    }

    /// Takes in a packet, given in pieces, that is to leave at `at`; with `congested`, marked as
    /// having met congestion if it can be. There must be [room](Self::has_room).
    pub(super) fn hold<'a>(
        &mut self,
        waiter: &Waiter<'_>,
        at: Instant,
        congested: bool,
        pieces: impl Iterator<Item = &'a [u8]>,
    ) {
        let (mut len, mut first, mut block) = (0, None, 0);
        for mut piece in pieces {
            while !piece.is_empty() {
                let used = len % HELD_BLOCK_LEN;
                if used == 0 {
                    let Some(fresh) = self.free.pop() else { break };
                    match first {
                        None => first = Some(fresh),
                        Some(_) => self.next[usize::from(block)] = fresh,
                    }
                    block = fresh;
                }
                let (now, later) = piece.split_at(piece.len().min(HELD_BLOCK_LEN - used));
                let start = usize::from(block) * HELD_BLOCK_LEN + used;
                self.memory[start..start + now.len()].copy_from_slice(now);
                (len, piece) = (len + now.len(), later);
            }
        }
        let Some(first_block) = first else { return };
        if congested {
            let start = usize::from(first_block) * HELD_BLOCK_LEN;
            let end = start + len.min(HELD_BLOCK_LEN);
            ecn::mark_congestion(&mut self.memory[start + VIRTIO_HEADER_LEN..end]);
        }
        waiter.bucket.hold(blocks_for(len) as u32);
        self.came += 1;
        let held = Held {
            at,
            number: self.came,
            first_block,
            len,
            packets: u16::try_from(waiter.packets).unwrap_or(u16::MAX),
            peer: waiter.peer,
            bucket: Arc::clone(waiter.bucket),
        };
        self.queue(waiter.way).push(Reverse(held));
    }

    /// The next packet whose time has come by `now`.
    pub(super) fn release(&mut self, way: Way, now: Instant) -> Option<Released> {
        let queue = self.queue(way);
        queue.peek().filter(|Reverse(held)| held.at <= now)?;
        let Reverse(held) = queue.pop()?;
        let mut memory = std::mem::take(&mut self.whole);
        let mut block = held.first_block;
        for piece in memory[..held.len].chunks_mut(HELD_BLOCK_LEN) {
            let start = usize::from(block) * HELD_BLOCK_LEN;
            piece.copy_from_slice(&self.memory[start..start + piece.len()]);
            self.free.push(block);
            block = self.next[usize::from(block)];
        }
        held.bucket.let_go(blocks_for(held.len) as u32);
        let packets = usize::from(held.packets);
        Some(Released { peer: held.peer, memory, len: held.len, packets })
    }

    /// Takes back the memory of a packet that has been dealt with.
    pub(super) fn take_back(&mut self, released: Released) {
        self.whole = released.memory;
    }

    /// When the next packet's time comes.
    pub(super) fn next_release(&self, way: Way) -> Option<Instant> {
        let queue = match way {
            Way::ToWire => &self.to_wire,
            Way::ToTun => &self.to_tun,
        };
        queue.peek().map(|Reverse(held)| held.at)
    }

    fn queue(&mut self, way: Way) -> &mut BinaryHeap<Reverse<Held>> {
        match way {
            Way::ToWire => &mut self.to_wire,
            Way::ToTun => &mut self.to_tun,
        }
    }
}

impl Released {
    /// The virtio header and the packet.
    pub(super) fn frame(&self) -> &[u8] {
        &self.memory[..self.len]
    }

    /// The same, to be changed.
    pub(super) fn frame_mut(&mut self) -> &mut [u8] {
        &mut self.memory[..self.len]
    }

    /// The same, apart.
    pub(super) fn parts(&self) -> Option<(VirtioHeader, &[u8])> {
        let (header, packet) = self.frame().split_first_chunk()?;
        Some((VirtioHeader::parse(header), packet))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::sys::clock;

    const MS: Duration = Duration::from_millis(1);
    const PEER: PeerId = PeerId(3);

    struct Bed {
        room: WaitingRoom,
        bucket: Arc<Bucket>,
        start: Instant,
    }

    impl Bed {
        fn new() -> Self {
            let start = clock::now();
            Self { room: WaitingRoom::new(), bucket: Arc::new(Bucket::new(1, start)), start }
        }

        fn hold(&mut self, way: Way, ms: u32, pieces: &[&[u8]]) {
            let waiter = Waiter { way, peer: PEER, bucket: &self.bucket, packets: 2 };
            self.room.hold(&waiter, self.start + ms * MS, false, pieces.iter().copied());
        }

        fn release(&mut self, way: Way, ms: u32) -> Option<Vec<u8>> {
            let released = self.room.release(way, self.start + ms * MS)?;
            assert_eq!((released.peer, released.packets), (PEER, 2));
            let bytes = released.frame().to_vec();
            self.room.take_back(released);
            Some(bytes)
        }
    }

    #[test]
    fn packets_leave_when_their_time_has_come_in_order_and_whole() {
        let mut bed = Bed::new();
        let long: Vec<u8> = (0..VIRTIO_HEADER_LEN + PACKET_LEN_MAX).map(|i| i as u8).collect();
        bed.hold(Way::ToWire, 5, &[&long]);
        bed.hold(Way::ToWire, 3, &[&[1; 3000], &[], &[2; 10]]);
        bed.hold(Way::ToWire, 3, &[b"last"]);
        bed.hold(Way::ToTun, 4, &[&[7; HELD_BLOCK_LEN]]);
        assert_eq!(bed.bucket.held_blocks() as usize, blocks_for(long.len()) + 4);
        assert_eq!(bed.room.next_release(Way::ToWire), Some(bed.start + 3 * MS));
        assert_eq!(bed.room.next_release(Way::ToTun), Some(bed.start + 4 * MS));
        assert_eq!(bed.release(Way::ToWire, 2), None);
        assert_eq!(bed.release(Way::ToWire, 3), Some([vec![1; 3000], vec![2; 10]].concat()));
        assert_eq!(bed.release(Way::ToWire, 3), Some(b"last".to_vec()));
        assert_eq!(bed.release(Way::ToWire, 4), None);
        assert_eq!(bed.release(Way::ToTun, 9), Some(vec![7; HELD_BLOCK_LEN]));
        assert_eq!(bed.release(Way::ToWire, 9), Some(long));
        assert_eq!((bed.release(Way::ToWire, 9), bed.room.next_release(Way::ToTun)), (None, None));
        assert_eq!((bed.bucket.held_blocks(), bed.room.free.len()), (0, HELD_BLOCKS));
    }

    #[test]
    fn one_bucket_leaves_room_for_another() {
        let mut bed = Bed::new();
        let other = Bucket::new(1, bed.start);
        let mut held = 0;
        while bed.room.has_room(&bed.bucket, 1) {
            bed.hold(Way::ToTun, 1, &[b"x"]);
            held += 1;
        }
        assert_eq!(held, HELD_BLOCKS / 2);
        assert!(bed.room.has_room(&other, PACKET_LEN_MAX));
    }

    #[test]
    fn a_room_is_used_over_and_over() {
        let mut bed = Bed::new();
        for turn in 0..4 * HELD_BLOCKS {
            let piece = vec![turn as u8; 1 + turn % 5000];
            bed.hold(Way::ToWire, 1, &[&piece]);
            assert_eq!(bed.release(Way::ToWire, 1), Some(piece));
        }
        assert_eq!(bed.room.free.len(), HELD_BLOCKS);
    }
}
