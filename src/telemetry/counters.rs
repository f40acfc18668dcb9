//! Counters with one writer each, readable from any thread without a lock.
//!
//! A worker adds with a relaxed load and a relaxed store, never with an atomic read-modify-write,
//! because no other thread writes the same counter. Each group that one thread writes is padded to
//! its own cache lines.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::telemetry::drops::DropReason;

/// A monotonic count with a single writing thread.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `amount`. Only the owning thread may call this: two writers would lose counts.
    #[inline]
    pub fn add(&self, amount: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(amount), Relaxed);
    }

    /// Sets the value of a gauge. Only the owning thread may call this.
    #[inline]
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    /// The value as last written; other counters read beside it may be a moment older or newer.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Packets dropped by reason, written by one thread.
#[derive(Debug)]
pub struct DropCounters([Counter; DropReason::COUNT]);

impl Default for DropCounters {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

impl DropCounters {
    /// Counts `packets` dropped for `reason`.
    #[inline]
    pub fn add(&self, reason: DropReason, packets: u64) {
        // In bounds: a reason's discriminant is its position in `DropReason::ALL`.
        self.0[reason as usize].add(packets);
    }

    /// How many packets were dropped for `reason`.
    pub fn get(&self, reason: DropReason) -> u64 {
        self.0[reason as usize].get()
    }
}

/// Traffic of one direction: packets are inner IP packets, bytes are their lengths.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Inner packets.
    pub packets: Counter,
    /// Bytes of those packets, without tunnel overhead.
    pub bytes: Counter,
}

/// What one tunnel worker counts about itself.
#[derive(Debug, Default)]
pub struct WorkerCounters {
    /// Sealed, towards the wire; what the kernel then refuses to send is among the drops as well.
    pub to_wire: Traffic,
    /// Opened and written to TUN.
    pub from_wire: Traffic,
    /// Reads of the TUN device that returned a packet or super-packet.
    pub tun_reads: Counter,
    /// Writes to the TUN device (each a packet or a coalesced super-packet).
    pub tun_writes: Counter,
    /// Calls that sent datagrams.
    pub udp_sends: Counter,
    /// Calls that received datagrams.
    pub udp_receives: Counter,
    /// Nanoseconds spent working rather than asleep waiting for events.
    pub busy_ns: Counter,
    /// Datagrams sent one by one because the kernel refused to segment a train of them.
    pub gso_fallbacks: Counter,
    /// Super-packets written as single packets because the kernel refused the whole.
    pub tun_fallbacks: Counter,
    /// ICMP "too big" answers written back to TUN.
    pub too_big_sent: Counter,
    /// Data messages that arrived behind a higher counter of their lane.
    pub reordered: Counter,
    /// Packets dropped, by reason.
    pub drops: DropCounters,
}

/// What one session carried through one worker of this side: a cache line of its own, and no more
/// than that, since there may be many idle sessions.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct LaneUsage {
    /// Sent on this worker's lane. Keepalives and path messages count as packets of 0 bytes.
    pub sent: Traffic,
    /// Received on this worker's lanes.
    pub received: Traffic,
    /// What of these bytes was taken into account ([`SessionUsage::take`]): the control thread is
    /// the one to write it.
    taken: Taken,
}

#[derive(Debug, Default)]
struct Taken {
    sent_bytes: Counter,
    received_bytes: Counter,
}

/// Inner bytes that a session has carried since somebody last asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// Sent to the peer.
    pub sent_bytes: u64,
    /// Received from it.
    pub received_bytes: u64,
}

impl Carried {
    /// Adds what another session has carried.
    pub fn add(&mut self, other: Self) {
        self.sent_bytes += other.sent_bytes;
        self.received_bytes += other.received_bytes;
    }
}

/// What one session carried, one entry per worker of this side.
#[derive(Debug)]
pub struct SessionUsage {
    lanes: Box<[LaneUsage]>,
}

/// A sum over the workers of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UsageTotals {
    /// Packets sent, keepalives included.
    pub sent_packets: u64,
    /// Inner bytes sent.
    pub sent_bytes: u64,
    /// Packets received, keepalives included.
    pub received_packets: u64,
    /// Inner bytes received.
    pub received_bytes: u64,
}

impl SessionUsage {
    /// Counters for a side with `workers` workers.
    pub fn new(workers: usize) -> Self {
        Self { lanes: (0..workers).map(|_| LaneUsage::default()).collect() }
    }

    /// The counters that `worker` writes.
    ///
    /// # Panics
    /// If `worker` is not one of the workers this was made for.
    pub fn lane(&self, worker: usize) -> &LaneUsage {
        &self.lanes[worker]
    }

    /// What was carried since the last call. Only the control thread may call this.
    pub fn take(&self) -> Carried {
        let mut carried = Carried::default();
        for LaneUsage { sent, received, taken } in self.lanes.iter() {
            let (sent, received) = (sent.bytes.get(), received.bytes.get());
            carried.sent_bytes += sent - taken.sent_bytes.get();
            carried.received_bytes += received - taken.received_bytes.get();
            taken.sent_bytes.set(sent);
            taken.received_bytes.set(received);
        }
        carried
    }

    /// The sum over all workers.
    pub fn totals(&self) -> UsageTotals {
        self.lanes.iter().fold(UsageTotals::default(), |sum, lane| UsageTotals {
            sent_packets: sum.sent_packets + lane.sent.packets.get(),
            sent_bytes: sum.sent_bytes + lane.sent.bytes.get(),
            received_packets: sum.received_packets + lane.received.packets.get(),
            received_bytes: sum.received_bytes + lane.received.bytes.get(),
        })
    }
}
