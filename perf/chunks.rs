//! How packets cross the wire of the ceiling program: cut into datagrams of the size Corelane
//! sends, and put together again. Nobody looks into a packet.
//!
//! Every datagram is a header of [`HEADER_LEN`] bytes, which is what Corelane's header and tag take
//! together, and up to [`CHUNK_LEN`] bytes of a packet:
//!
//! | bytes | field |
//! | --- | --- |
//! | 0..4 | number of the packet, counted by the sender |
//! | 4..6 | number of this chunk in the packet |
//! | 6..8 | chunks of the packet |
//! | 8..12 | length of the packet |
//! | 12..22 | the packet's virtio header |
//! | 22..32 | zero |

use std::io::IoSlice;
use std::ops::Range;

use corelane::limits::{
    DATA_OVERHEAD_LEN, GSO_SEGMENTS_MAX, PACKET_LEN_MAX, SEND_ARENA_LEN, SEND_DATAGRAMS_DUE,
    SEND_DUE_LEN, SEND_TRAINS_DUE, SEND_TRAINS_MAX, TUN_MTU_DEFAULT, UDP_PAYLOAD_MAX,
    VIRTIO_HEADER_LEN,
};

/// Bytes in front of every chunk.
pub(crate) const HEADER_LEN: usize = DATA_OVERHEAD_LEN;
/// Bytes of every chunk of a packet but the last, which may be shorter.
pub(crate) const CHUNK_LEN: usize = TUN_MTU_DEFAULT as usize;
/// Chunks of the longest packet.
const CHUNKS_MAX: usize = PACKET_LEN_MAX.div_ceil(CHUNK_LEN);
/// Slices of the longest packet: virtio header, what was carried over, chunks.
const SLICES_MAX: usize = CHUNKS_MAX + 2;

const _: () = assert!(HEADER_LEN >= Header::FIELDS_LEN);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    packet: u32,
    index: u16,
    count: u16,
    packet_len: u32,
    virtio: [u8; VIRTIO_HEADER_LEN],
}

impl Header {
    const FIELDS_LEN: usize = 12 + VIRTIO_HEADER_LEN;

    fn emit(&self, out: &mut [u8]) {
        out[0..4].copy_from_slice(&self.packet.to_be_bytes());
        out[4..6].copy_from_slice(&self.index.to_be_bytes());
        out[6..8].copy_from_slice(&self.count.to_be_bytes());
        out[8..12].copy_from_slice(&self.packet_len.to_be_bytes());
        out[12..Self::FIELDS_LEN].copy_from_slice(&self.virtio);
        out[Self::FIELDS_LEN..HEADER_LEN].fill(0);
    }

    /// The header of a datagram, if it is one of ours.
    fn parse(datagram: &[u8]) -> Option<Self> {
        let (fields, chunk) = datagram.split_at_checked(HEADER_LEN)?;
        let header = Self {
            packet: u32::from_be_bytes(fields[0..4].try_into().ok()?),
            index: u16::from_be_bytes(fields[4..6].try_into().ok()?),
            count: u16::from_be_bytes(fields[6..8].try_into().ok()?),
            packet_len: u32::from_be_bytes(fields[8..12].try_into().ok()?),
            virtio: fields[12..Self::FIELDS_LEN].try_into().ok()?,
        };
        let packet_len = usize::try_from(header.packet_len).ok()?;
        let (index, count) = (usize::from(header.index), usize::from(header.count));
        let is_sound = (1..=PACKET_LEN_MAX).contains(&packet_len)
            && count == packet_len.div_ceil(CHUNK_LEN)
            && index < count
            && chunk.len() == CHUNK_LEN.min(packet_len - index * CHUNK_LEN);
        is_sound.then_some(header)
    }
}

/// Neighbouring datagrams that leave in one send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Train {
    /// Where in the arena they lie.
    pub(crate) range: Range<usize>,
    /// Bytes of every datagram but the last, which may be shorter.
    pub(crate) segment_len: usize,
}

impl Train {
    fn takes(&self, len: usize) -> bool {
        let datagrams = self.range.len().div_ceil(self.segment_len);
        self.range.len() == datagrams * self.segment_len
            && len <= self.segment_len
            && datagrams < GSO_SEGMENTS_MAX
            && self.range.len() + len <= UDP_PAYLOAD_MAX
    }
}

/// Cuts packets into datagrams and groups these into trains, by the rules and bounds of Corelane's
/// own send path.
pub(crate) struct Cutter {
    arena: Box<[u8]>,
    used: usize,
    datagrams: usize,
    trains: Vec<Train>,
    next_packet: u32,
}

impl Cutter {
    pub(crate) fn new() -> Self {
        Self {
            arena: vec![0; SEND_ARENA_LEN].into_boxed_slice(),
            used: 0,
            datagrams: 0,
            trains: Vec::with_capacity(SEND_TRAINS_MAX),
            next_packet: 0,
        }
    }

    /// Takes one packet behind its virtio header, as read from TUN. There is room for it as long as
    /// [`Cutter::is_due`] is false. This is the one copy a packet suffers on its way out.
    pub(crate) fn cut(&mut self, frame: &[u8]) {
        let Some((virtio, packet)) = frame.split_first_chunk() else { return };
        let chunks = packet.chunks(CHUNK_LEN);
        let mut header = Header {
            packet: self.next_packet,
            index: 0,
            count: chunks.len() as u16,
            packet_len: packet.len() as u32,
            virtio: *virtio,
        };
        self.next_packet = self.next_packet.wrapping_add(1);
        for chunk in chunks {
            let len = HEADER_LEN + chunk.len();
            let datagram = &mut self.arena[self.used..self.used + len];
            header.emit(datagram);
            datagram[HEADER_LEN..].copy_from_slice(chunk);
            header.index += 1;
            self.commit(len);
        }
    }

    fn commit(&mut self, len: usize) {
        let start = self.used;
        self.used += len;
        self.datagrams += 1;
        match self.trains.last_mut() {
            Some(train) if train.takes(len) => train.range.end = self.used,
            _ => self.trains.push(Train { range: start..self.used, segment_len: len }),
        }
    }

    /// Whether the batch should leave before more is read.
    pub(crate) fn is_due(&self) -> bool {
        self.used >= SEND_DUE_LEN
            || self.datagrams >= SEND_DATAGRAMS_DUE
            || self.trains.len() >= SEND_TRAINS_DUE
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.trains.is_empty()
    }

    pub(crate) fn trains(&self) -> &[Train] {
        &self.trains
    }

    /// What the trains' ranges refer to.
    pub(crate) fn arena(&self) -> &[u8] {
        &self.arena
    }

    /// Forgets what has left.
    pub(crate) fn clear(&mut self) {
        (self.used, self.datagrams) = (0, 0);
        self.trains.clear();
    }
}

/// Puts packets together again from datagrams that arrive in order. A packet with a chunk missing
/// or out of place is lost, and counted.
#[derive(Default)]
pub(crate) struct Joiner {
    /// The packet that is arriving: the header of its latest chunk.
    current: Option<Header>,
    /// Its chunks in the receive arena.
    chunks: Vec<Range<usize>>,
    /// Its beginning, if that came with an earlier batch.
    carried: Vec<u8>,
    /// The number the next packet will have if none is lost.
    next_packet: u32,
    lost: u64,
}

impl Joiner {
    pub(crate) fn new() -> Self {
        Self {
            chunks: Vec::with_capacity(CHUNKS_MAX),
            carried: Vec::with_capacity(PACKET_LEN_MAX),
            ..Self::default()
        }
    }

    /// Packets lost on the way.
    pub(crate) fn lost(&self) -> u64 {
        self.lost
    }

    /// Takes the datagram that lies in `range` of the arena. If it completes a packet, `write` gets
    /// it in slices, the virtio header first. Returns whether the datagram was one of ours.
    pub(crate) fn take(
        &mut self,
        arena: &[u8],
        range: Range<usize>,
        write: impl FnOnce(&[IoSlice<'_>]),
    ) -> bool {
        let Some(header) = arena.get(range.clone()).and_then(Header::parse) else { return false };
        let continues = self.current.is_some_and(|latest| {
            (latest.packet, latest.index + 1) == (header.packet, header.index)
        });
        if !continues {
            self.abandon();
            if header.index != 0 {
                return true;
            }
            // A gap beyond half the numbers there are is a sender that has started afresh.
            let gap = header.packet.wrapping_sub(self.next_packet);
            self.lost += if gap < u32::MAX / 2 { u64::from(gap) } else { 0 };
            self.next_packet = header.packet.wrapping_add(1);
        }
        self.chunks.push(range.start + HEADER_LEN..range.end);
        self.current = Some(header);
        if header.index + 1 == header.count {
            self.finish(&header, arena, write);
        }
        true
    }

    /// Saves what has arrived of an unfinished packet: the arena is about to be overwritten.
    pub(crate) fn carry_over(&mut self, arena: &[u8]) {
        for chunk in self.chunks.drain(..) {
            self.carried.extend_from_slice(&arena[chunk]);
        }
    }

    fn finish(&mut self, header: &Header, arena: &[u8], write: impl FnOnce(&[IoSlice<'_>])) {
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        slices[0] = IoSlice::new(&header.virtio);
        slices[1] = IoSlice::new(&self.carried);
        let end = 2 + self.chunks.len();
        for (slice, chunk) in slices[2..].iter_mut().zip(&self.chunks) {
            *slice = IoSlice::new(&arena[chunk.clone()]);
        }
        write(&slices[..end]);
        self.forget();
    }

    fn abandon(&mut self) {
        self.lost += u64::from(self.current.is_some());
        self.forget();
    }

    fn forget(&mut self) {
        self.current = None;
        self.chunks.clear();
        self.carried.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::{CHUNK_LEN, Cutter, HEADER_LEN, Header, Joiner, Train};
    use corelane::limits::{PACKET_LEN_MAX, UDP_PAYLOAD_MAX, VIRTIO_HEADER_LEN};
    use std::ops::Range;

    /// A frame whose bytes tell where they belong.
    fn frame(packet_len: usize, seed: u8) -> Vec<u8> {
        (0..VIRTIO_HEADER_LEN + packet_len).map(|at| (at as u8).wrapping_mul(seed)).collect()
    }

    fn datagrams(cutter: &Cutter) -> Vec<Range<usize>> {
        let cut = |train: &Train| {
            let (end, step) = (train.range.end, train.segment_len);
            train.range.clone().step_by(step).map(move |start| start..end.min(start + step))
        };
        cutter.trains().iter().flat_map(cut).collect()
    }

    fn join(joiner: &mut Joiner, cutter: &Cutter, datagrams: &[Range<usize>]) -> Vec<Vec<u8>> {
        let mut whole = Vec::new();
        for range in datagrams {
            let known = joiner.take(cutter.arena(), range.clone(), |slices| {
                whole.push(slices.iter().flat_map(|slice| slice.to_vec()).collect());
            });
            assert!(known);
        }
        whole
    }

    #[test]
    fn what_was_cut_is_joined_again() {
        let (mut cutter, mut joiner) = (Cutter::new(), Joiner::new());
        for len in [1, CHUNK_LEN, CHUNK_LEN + 1, 30_000, PACKET_LEN_MAX] {
            let frame = frame(len, 7);
            cutter.cut(&frame);
            assert_eq!(join(&mut joiner, &cutter, &datagrams(&cutter)), [frame]);
            cutter.clear();
        }
        assert_eq!(joiner.lost(), 0);
    }

    #[test]
    fn a_packet_may_arrive_in_several_batches() {
        let (mut cutter, mut joiner) = (Cutter::new(), Joiner::new());
        let frame = frame(5 * CHUNK_LEN + 3, 11);
        cutter.cut(&frame);
        let datagrams = datagrams(&cutter);
        for range in &datagrams[..5] {
            assert_eq!(join(&mut joiner, &cutter, std::slice::from_ref(range)), [[0_u8; 0]; 0]);
            joiner.carry_over(cutter.arena());
        }
        assert_eq!(join(&mut joiner, &cutter, &datagrams[5..]), [frame]);
    }

    #[test]
    fn packets_that_lack_a_chunk_are_counted_and_the_next_is_whole() {
        let frames: Vec<_> = (0..4).map(|seed| frame(3 * CHUNK_LEN, seed)).collect();
        let mut cutter = Cutter::new();
        frames.iter().for_each(|frame| cutter.cut(frame));
        let all = datagrams(&cutter);
        for missing in 0..9 {
            let mut joiner = Joiner::new();
            let arrived: Vec<_> =
                (0..all.len()).filter(|at| *at != missing).map(|at| all[at].clone()).collect();
            assert_eq!(join(&mut joiner, &cutter, &arrived).len(), 3, "without {missing}");
            assert_eq!(joiner.lost(), 1, "without {missing}");
        }
        let mut joiner = Joiner::new();
        assert_eq!(join(&mut joiner, &cutter, &all[10..]), [[0_u8; 0]; 0]);
        assert_eq!(join(&mut joiner, &cutter, &all[..3]), [frames[0].clone()]);
    }

    #[test]
    fn trains_keep_to_the_kernels_bounds_and_small_packets_share_one() {
        let mut cutter = Cutter::new();
        cutter.cut(&frame(PACKET_LEN_MAX, 1));
        assert_eq!(cutter.trains().len(), 2);
        assert!(cutter.trains().iter().all(|train| train.range.len() <= UDP_PAYLOAD_MAX));
        cutter.clear();
        for len in [92, 92, 92, 40, 92] {
            cutter.cut(&frame(len, 1));
        }
        let lens: Vec<_> = cutter.trains().iter().map(|train| train.range.len()).collect();
        assert_eq!(lens, [3 * (92 + HEADER_LEN) + 40 + HEADER_LEN, 92 + HEADER_LEN]);
    }

    #[test]
    fn strangers_are_told_from_our_datagrams() {
        let mut cutter = Cutter::new();
        cutter.cut(&frame(2 * CHUNK_LEN, 1));
        let first = cutter.arena()[datagrams(&cutter)[0].clone()].to_vec();
        assert!(Header::parse(&first).is_some());
        assert!(Header::parse(&first[..first.len() - 1]).is_none(), "cut short");
        assert!(Header::parse(&first[..HEADER_LEN - 1]).is_none(), "no header");
        for (at, value) in [(5, 2), (7, 3), (8, 1)] {
            let mut wrong = first.clone();
            wrong[at] = value;
            assert!(Header::parse(&wrong).is_none(), "byte {at}");
        }
    }
}
