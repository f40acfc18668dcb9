//! A rate in bits per second that all workers, and all devices of a user, draw on.
//!
//! The generic cell rate algorithm (ITU-T I.371, annex A): of the bucket only the time is kept at
//! which the bytes that it has given out will have been paid for, so that an atomic exchange of one
//! number takes any count of bytes, exactly, from whichever thread. What is taken is not refused
//! when the bucket is empty but given a time to leave at: the bytes wait in a queue that exists as
//! that time alone, first come, first served over all workers. Only when the queue would be too
//! long is something refused. TCP needs such a queue to fill a link: were packets refused as soon
//! as the bucket is empty, a sender would halve its rate at each, and reach the limit rarely.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::limits::{LIMIT_CREDIT, LIMIT_QUEUE, LIMIT_QUEUE_LEN_MIN, LIMIT_QUEUE_MAX};

/// Times are counted in fractions of a nanosecond: what rounding takes from a packet of 64 bytes
/// is less than a thousandth of it at 100 Gbit/s. 64 bits of them last for 9 years.
const TICKS_PER_NS: u64 = 32;
const TICKS_PER_S: u128 = 1_000_000_000 * TICKS_PER_NS as u128;

/// Bytes that leave at a rate.
#[derive(Debug)]
pub struct Bucket {
    bits_per_second: u64,
    /// When ticks began.
    origin: Instant,
    /// When all that was given out will have been paid for, in ticks.
    paid_at: AtomicU64,
    /// Ticks that `paid_at` may lie behind the present.
    credit: u64,
    /// Ticks that it may lie ahead.
    queue: u64,
    /// Blocks of memory in which workers hold what has to wait.
    held_blocks: AtomicU32,
}

/// When bytes may leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Charge {
    /// At once.
    Now,
    /// At this time.
    At {
        /// When.
        time: Instant,
        /// The queue is long: whoever sent them should be told to slow down.
        congested: bool,
    },
    /// Never: the queue is full. Nothing was taken.
    Refused,
}

impl Bucket {
    /// A bucket that gives out `bits_per_second`; 0 is taken as 1, which is as good as nothing.
    pub fn new(bits_per_second: u64, origin: Instant) -> Self {
        let bits_per_second = bits_per_second.max(1);
        let least = ticks_of(bits_per_second, LIMIT_QUEUE_LEN_MIN);
        Self {
            bits_per_second,
            origin,
            paid_at: AtomicU64::new(0),
            credit: ticks(LIMIT_CREDIT),
            queue: ticks(LIMIT_QUEUE).max(least.min(ticks(LIMIT_QUEUE_MAX))),
            held_blocks: AtomicU32::new(0),
        }
    }

    /// What it gives out.
    pub fn bits_per_second(&self) -> u64 {
        self.bits_per_second
    }

    /// Takes `bytes`, and says when they may leave: later calls get later times. What cannot leave
    /// at once is refused unless it `may_wait`.
    #[inline]
    pub fn charge(&self, now: Instant, bytes: usize, may_wait: bool) -> Charge {
        let now_ticks = ticks(now.saturating_duration_since(self.origin));
        let price = ticks_of(self.bits_per_second, bytes);
        let latest = now_ticks.saturating_add(if may_wait { self.queue } else { 0 });
        let (mut paid_at, earliest) =
            (self.paid_at.load(Relaxed), now_ticks.saturating_sub(self.credit));
        let leaves_at = loop {
            let leaves_at = paid_at.max(earliest);
            if leaves_at > latest {
                return Charge::Refused;
            }
            let after = leaves_at.saturating_add(price);
            match self.paid_at.compare_exchange_weak(paid_at, after, Relaxed, Relaxed) {
                Ok(_) => break leaves_at,
                Err(current) => paid_at = current,
            }
        };
        if leaves_at <= now_ticks {
            return Charge::Now;
        }
        // Rounded up: nothing leaves early.
        let time = self.origin + Duration::from_nanos(leaves_at.div_ceil(TICKS_PER_NS));
        Charge::At { time, congested: leaves_at - now_ticks > self.queue / 2 }
    }

    /// Blocks of memory that hold what waits for this bucket, over all workers.
    pub fn held_blocks(&self) -> u32 {
        self.held_blocks.load(Relaxed)
    }

    /// Notes that a worker holds `blocks` more.
    pub fn hold(&self, blocks: u32) {
        self.held_blocks.fetch_add(blocks, Relaxed);
    }

    /// Notes that a worker has let go of `blocks` that it held.
    pub fn let_go(&self, blocks: u32) {
        self.held_blocks.fetch_sub(blocks, Relaxed);
    }
}

fn ticks(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos() * u128::from(TICKS_PER_NS)).unwrap_or(u64::MAX)
}

/// What `bytes` cost, rounded up.
#[inline]
fn ticks_of(bits_per_second: u64, bytes: usize) -> u64 {
    let bits = 8 * bytes as u64;
    // A super-packet's bits in ticks fit 64 bits, and dividing those is cheaper.
    match bits.checked_mul(TICKS_PER_S as u64) {
        Some(ticks) => ticks.div_ceil(bits_per_second),
        None => u64::MAX,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::sys::clock;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn bytes_leave_at_the_rate_whoever_asks() {
        let start = clock::now();
        // 1 byte each microsecond.
        let bucket = Bucket::new(8_000_000, start);
        let now = start + Duration::from_secs(1);
        let credit = LIMIT_CREDIT.as_micros() as usize;
        assert_eq!(bucket.charge(now, credit, true), Charge::Now);
        assert_eq!(bucket.charge(now, 1000, true), Charge::Now, "paid for by now");
        let at = |ms, congested| Charge::At { time: now + ms * MS, congested };
        assert_eq!(bucket.charge(now, 1000, true), at(1, false));
        assert_eq!(bucket.charge(now, 1000, true), at(2, false));
        assert_eq!(bucket.charge(now + 2 * MS, 1000, true), at(3, false));
        assert_eq!(bucket.charge(now + 10 * MS, 0, true), Charge::Now);
    }

    #[test]
    fn a_long_queue_is_congested_and_a_full_one_refuses() {
        let start = clock::now();
        let bucket = Bucket::new(8_000_000, start);
        let mut seen = Vec::new();
        while let charge = bucket.charge(start, 1000, true)
            && charge != Charge::Refused
        {
            seen.push(charge);
        }
        let queue = LIMIT_QUEUE.as_millis() as usize;
        assert_eq!(seen.len(), queue + 1, "the queue, and what leaves at its end");
        let congested =
            seen.iter().filter(|it| matches!(it, Charge::At { congested: true, .. })).count();
        assert_eq!(congested, queue / 2);
        let before = bucket.charge(start, 1000, true);
        assert_eq!((before, bucket.charge(start, 1, true)), (Charge::Refused, Charge::Refused));
        assert!(
            matches!(bucket.charge(start + MS, 1, true), Charge::At { .. }),
            "nothing was taken"
        );
        assert_eq!(bucket.charge(start + MS, 1, false), Charge::Refused, "it may not wait");
        assert_eq!(bucket.charge(start + LIMIT_QUEUE_MAX, 1, false), Charge::Now);
    }

    #[test]
    fn a_slow_rate_has_a_queue_of_some_packets() {
        let start = clock::now();
        let taken = |bps| {
            let bucket = Bucket::new(bps, start);
            (0..1000).take_while(|_| bucket.charge(start, 1000, true) != Charge::Refused).count()
        };
        assert_eq!(taken(1_000_000), LIMIT_QUEUE_LEN_MIN / 1000 + 1);
        assert_eq!(taken(64_000), LIMIT_QUEUE_MAX.as_secs() as usize * 8 + 1);
    }

    #[test]
    fn a_rate_of_nothing_lets_one_packet_pass_and_no_more() {
        let start = clock::now();
        let bucket = Bucket::new(0, start);
        assert_eq!(bucket.charge(start, 65535, true), Charge::Now);
        let hour = start + Duration::from_secs(3600);
        assert_eq!(bucket.charge(hour, 1, true), Charge::Refused);
    }

    #[test]
    fn threads_together_get_what_one_would() {
        let start = clock::now();
        let bucket = Arc::new(Bucket::new(8_000_000_000, start));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let bucket = Arc::clone(&bucket);
                std::thread::spawn(move || {
                    (0..10_000)
                        .filter(|_| bucket.charge(start, 100, true) != Charge::Refused)
                        .count()
                })
            })
            .collect();
        let taken: usize = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
        assert_eq!(taken, 40_000, "4 MB are 4 ms");
        let expected = Charge::At { time: start + 4 * MS, congested: false };
        assert_eq!(bucket.charge(start, 0, true), expected, "each byte was counted once");
    }

    proptest! {
        /// Over any stretch of time no more leaves than the rate, the credit and one packet allow,
        /// and what waits is never idle.
        #[test]
        fn what_leaves_is_never_more_than_the_rate(
            bps in 10_000_u64..100_000_000_000,
            packets in prop::collection::vec((0_u64..3_000_000, 20_usize..65536), 1..200),
        ) {
            let start = clock::now();
            let bucket = Bucket::new(bps, start);
            let mut now = start;
            let mut left: Vec<(Instant, usize)> = Vec::new();
            for (pause, bytes) in packets {
                now += Duration::from_nanos(pause);
                match bucket.charge(now, bytes, true) {
                    Charge::Now => left.push((now, bytes)),
                    Charge::At { time, .. } => {
                        prop_assert!(time > now);
                        left.push((time, bytes));
                    }
                    Charge::Refused => {}
                }
            }
            prop_assert!(left.is_sorted_by_key(|(at, _)| *at));
            for first in 0..left.len() {
                let mut sum = 0_u64;
                for (at, bytes) in &left[first..] {
                    let allowed = (*at - left[first].0) + LIMIT_CREDIT;
                    let paid = Duration::from_secs_f64(sum as f64 * 8.0 / bps as f64);
                    prop_assert!(paid <= allowed + MS / 1000, "{paid:?} {allowed:?}");
                    sum += *bytes as u64;
                }
            }
        }
    }
}
