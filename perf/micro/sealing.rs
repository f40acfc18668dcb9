//! Sealing and opening datagrams on a lane, beside the cipher alone on the same bytes.

use corelane::limits::{DATA_HEADER_LEN, DATA_OVERHEAD_LEN, TAG_LEN};
use corelane::session::keys::LaneSecret;
use corelane::session::lane::{ReceiveLane, SendLane};
use corelane::wire::{DataHeader, SessionIndex};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use ring::aead::{Aad, LessSafeKey, NONCE_LEN, Nonce};

/// Bytes of plaintext, and how many datagrams are done at a time.
const SHAPES: [(&str, usize, usize); 4] =
    [("64", 64, 1), ("512", 512, 1), ("1408", 1408, 1), ("train of 40 x 1408", 1408, 40)];
/// Datagrams between two looks at the clock where each must be fresh.
const BATCH: usize = 64;

fn secret() -> LaneSecret {
    LaneSecret::new([3; 32])
}

/// Every nonce once, as a lane does it.
struct Nonces(u64);

impl Nonces {
    fn next(&mut self) -> Nonce {
        let mut bytes = [0; NONCE_LEN];
        bytes[4..].copy_from_slice(&self.0.to_be_bytes());
        self.0 += 1;
        Nonce::assume_unique_for_key(bytes)
    }
}

fn slots(plaintext_len: usize, count: usize) -> Vec<u8> {
    vec![0x5a; (plaintext_len + DATA_OVERHEAD_LEN) * count]
}

pub(crate) fn bench(criterion: &mut Criterion) {
    seal(criterion);
    open(criterion);
}

fn seal(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("seal");
    for (name, plaintext_len, count) in SHAPES {
        group.throughput(Throughput::Bytes((plaintext_len * count) as u64));
        let datagram_len = plaintext_len + DATA_OVERHEAD_LEN;
        let mut arena = slots(plaintext_len, count);
        let mut lane = SendLane::new(&secret(), 0, SessionIndex(1));
        group.bench_function(BenchmarkId::new("lane", name), |bencher| {
            bencher.iter(|| {
                for slot in arena.chunks_exact_mut(datagram_len) {
                    lane.seal(slot).unwrap();
                }
            });
        });
        let (key, mut nonces): (LessSafeKey, _) = (secret().derive(0), Nonces(0));
        group.bench_function(BenchmarkId::new("ring alone", name), |bencher| {
            bencher.iter(|| {
                for slot in arena.chunks_exact_mut(datagram_len) {
                    let (text, tag) = slot[DATA_HEADER_LEN..].split_at_mut(plaintext_len);
                    let sealed = key.seal_in_place_separate_tag(nonces.next(), Aad::empty(), text);
                    tag.copy_from_slice(sealed.unwrap().as_ref());
                }
            });
        });
    }
    group.finish();
}

fn open(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("open");
    for (name, plaintext_len, count) in SHAPES {
        let count = count.max(BATCH / count);
        group.throughput(Throughput::Bytes((plaintext_len * count) as u64));
        let datagram_len = plaintext_len + DATA_OVERHEAD_LEN;
        let mut sender = SendLane::new(&secret(), 0, SessionIndex(1));
        let mut sealed = || {
            let mut arena = slots(plaintext_len, count);
            for slot in arena.chunks_exact_mut(datagram_len) {
                sender.seal(slot).unwrap();
            }
            arena
        };
        let mut lane = ReceiveLane::new(&secret(), 0);
        group.bench_function(BenchmarkId::new("lane", name), |bencher| {
            let open = |arena: &mut Vec<u8>| {
                for datagram in arena.chunks_exact_mut(datagram_len) {
                    let header = DataHeader::parse(datagram).unwrap();
                    lane.open(&header, datagram).unwrap();
                }
            };
            bencher.iter_batched_ref(&mut sealed, open, BatchSize::LargeInput);
        });
        let key = secret().derive(0);
        group.bench_function(BenchmarkId::new("ring alone", name), |bencher| {
            let open = |arena: &mut Vec<u8>| {
                for datagram in arena.chunks_exact_mut(datagram_len) {
                    let counter = DataHeader::parse(datagram).unwrap().counter;
                    let text = &mut datagram[DATA_HEADER_LEN..plaintext_len + DATA_OVERHEAD_LEN];
                    debug_assert_eq!(text.len(), plaintext_len + TAG_LEN);
                    key.open_in_place(Nonces(counter).next(), Aad::empty(), text).unwrap();
                }
            };
            bencher.iter_batched_ref(&mut sealed, open, BatchSize::LargeInput);
        });
    }
    group.finish();
}
