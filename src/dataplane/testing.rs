//! For tests: a whole worker but for its descriptors. What it would send and write stays in memory.

use std::io::{self, ErrorKind, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender};
use mio::{Poll, Token, Waker};

use crate::dataplane::forwarder::{
    DatagramOutput, EventSender, Forwarder, ForwarderOptions, PacketOutput, SendOutcome,
};
use crate::dataplane::from_wire::Received;
use crate::dataplane::messages::{Endpoint, WorkerCommand, WorkerEvent};
use crate::dataplane::trains::TrainBuilder;
use crate::packet::CoalesceOptions;
use crate::sys::clock;
use crate::sys::udp::ReceivedMeta;
use crate::telemetry::counters::WorkerCounters;
use crate::telemetry::drops::DropReason;
use crate::wire::SessionIndex;

/// Collects what would leave by UDP.
#[derive(Default)]
pub(crate) struct MemoryWire {
    pub(crate) datagrams: Vec<Vec<u8>>,
    /// The ECN mark of each datagram.
    pub(crate) ecn: Vec<u8>,
    /// The session of each datagram, by this side's index, and where it goes.
    pub(crate) routes: Vec<(SessionIndex, Endpoint)>,
    pub(in crate::dataplane) blocked: bool,
    pub(in crate::dataplane) outcome: SendOutcome,
}

impl DatagramOutput for MemoryWire {
    fn send(&mut self, _listener: usize, trains: &mut TrainBuilder) -> SendOutcome {
        if self.blocked {
            return SendOutcome::default();
        }
        trains.hand_over();
        for train in trains.trains() {
            for datagram in trains.arena()[train.range.clone()].chunks(train.segment_len) {
                self.datagrams.push(datagram.to_vec());
                self.ecn.push(train.tos);
                self.routes.push((train.session, train.endpoint));
            }
        }
        trains.clear();
        self.outcome
    }
}

/// Collects what would be written to TUN.
#[derive(Default)]
pub(crate) struct MemoryTun {
    pub(crate) frames: Vec<Vec<u8>>,
    pub(in crate::dataplane) refuse: Option<ErrorKind>,
    pub(in crate::dataplane) refuse_super_packets: bool,
}

impl PacketOutput for MemoryTun {
    fn write(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        if let Some(kind) = self.refuse {
            return Err(kind.into());
        }
        // A super-packet is what its virtio header says one is.
        let is_super = pieces.first().and_then(|piece| piece.get(1)).is_some_and(|gso| *gso != 0);
        if self.refuse_super_packets && is_super {
            return Err(ErrorKind::InvalidInput.into());
        }
        self.frames.push(pieces.iter().flat_map(|piece| piece.iter().copied()).collect());
        Ok(())
    }
}

/// Nobody polls, so one waker serves every worker.
static WAKER: LazyLock<(Poll, Arc<Waker>)> = LazyLock::new(|| {
    let poll = Poll::new().unwrap();
    let waker = Arc::new(Waker::new(poll.registry(), Token(0)).unwrap());
    (poll, waker)
});

/// A worker without descriptors.
pub(crate) struct MemoryWorker {
    pub(in crate::dataplane) forwarder: Forwarder,
    pub(crate) commands: Sender<WorkerCommand>,
    pub(crate) events: Receiver<WorkerEvent>,
    pub(crate) counters: Arc<WorkerCounters>,
    pub(crate) wire: MemoryWire,
    pub(crate) tun: MemoryTun,
    /// What the worker takes for the time; each call from outside is a turn of its own.
    pub(crate) now: Instant,
}

impl MemoryWorker {
    pub(crate) fn new(worker: usize, plaintext_max: usize) -> Self {
        let (commands, command_queue) = crossbeam_channel::unbounded();
        // The product's queue is bounded; one that grows is made sooner, thousands of times.
        let (event_queue, events) = crossbeam_channel::unbounded();
        let counters = Arc::new(WorkerCounters::default());
        let options = ForwarderOptions {
            udp_gso: true,
            coalesce: CoalesceOptions::ALL,
            plaintext_max,
            copy_dscp: false,
            spin: crate::limits::SPIN_DEFAULT,
        };
        let event_sender = EventSender::new(event_queue, Arc::clone(&WAKER.1));
        let forwarder =
            Forwarder::new(worker, 1, options, Arc::clone(&counters), event_sender, command_queue);
        let (wire, tun) = (MemoryWire::default(), MemoryTun::default());
        Self { forwarder, commands, events, counters, wire, tun, now: clock::now() }
    }

    /// Carries out `command` at once, and all that are queued before it.
    pub(crate) fn command(&mut self, command: WorkerCommand) {
        self.commands.send(command).unwrap();
        self.apply_commands();
    }

    /// Carries out the commands that are queued.
    pub(crate) fn apply_commands(&mut self) {
        self.forwarder.begin_turn(self.now);
        self.forwarder.apply_commands(&mut self.wire);
    }

    /// Whether the TUN queue is to be attached, if that was asked for since the last call.
    pub(crate) fn take_attach(&mut self) -> Option<bool> {
        self.forwarder.take_requests().attach
    }

    /// Sends what is batched.
    pub(crate) fn flush(&mut self) {
        self.forwarder.flush(&mut self.wire);
    }

    /// Hands a frame from TUN to the forwarder and returns the datagrams it makes.
    pub(crate) fn encapsulate(&mut self, mut frame: Vec<u8>) -> Vec<Vec<u8>> {
        self.forwarder.begin_turn(self.now);
        self.forwarder.encapsulate(&mut frame, &mut self.wire, &mut self.tun);
        self.forwarder.flush(&mut self.wire);
        std::mem::take(&mut self.wire.datagrams)
    }

    /// Sends and writes what has waited for its turn until now, if it has come; returns the
    /// datagrams and the frames.
    pub(in crate::dataplane) fn release(&mut self) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
        self.forwarder.begin_turn(self.now);
        self.forwarder.release_to_tun(&mut self.tun);
        while self.forwarder.release_to_wire(&mut self.wire, &mut self.tun) {
            self.forwarder.flush(&mut self.wire);
        }
        (std::mem::take(&mut self.wire.datagrams), std::mem::take(&mut self.tun.frames))
    }

    /// Hands received messages to the forwarder and returns the frames it writes.
    pub(crate) fn decapsulate_messages(
        &mut self,
        messages: &[ReceivedMeta],
        arena: &mut [u8],
    ) -> Vec<Vec<u8>> {
        self.forwarder.begin_turn(self.now);
        let received = Received { listener: 0, messages, arena, now: self.now };
        self.forwarder.decapsulate(received, &mut self.wire, &mut self.tun);
        std::mem::take(&mut self.tun.frames)
    }

    /// Hands one datagram to the forwarder and returns the frames it writes.
    pub(crate) fn decapsulate_one(
        &mut self,
        from: SocketAddr,
        local: Option<IpAddr>,
        datagram: &mut [u8],
    ) -> Vec<Vec<u8>> {
        let message = ReceivedMeta {
            range: 0..datagram.len(),
            from,
            local,
            stride: datagram.len().max(1),
            ecn: 0,
            truncated: false,
        };
        self.decapsulate_messages(&[message], datagram)
    }

    pub(crate) fn dropped(&self, reason: DropReason) -> u64 {
        self.counters.drops.get(reason)
    }

    pub(crate) fn dropped_in_all(&self) -> u64 {
        DropReason::ALL.iter().map(|reason| self.dropped(*reason)).sum()
    }

    /// Sessions the worker has installed.
    pub(crate) fn sessions(&self) -> usize {
        self.forwarder.tables.sessions()
    }

    /// Packets sealed by this worker for a session it has.
    pub(crate) fn sealed(&mut self, session: SessionIndex) -> Option<u64> {
        let worker = self.forwarder.worker;
        let session = self.forwarder.tables.session(session)?;
        Some(session.send_lane(worker).counter())
    }

    /// Makes the worker's lane of a session look as if it had sealed `counter` packets.
    pub(crate) fn spend_key(&mut self, session: SessionIndex, counter: u64) {
        let worker = self.forwarder.worker;
        if let Some(session) = self.forwarder.tables.session(session) {
            session.spend_key(worker, counter);
        }
    }

    /// Makes the worker forget which counters of a session it has seen.
    pub(crate) fn forget_counters(&mut self, session: SessionIndex) {
        if let Some(session) = self.forwarder.tables.session(session) {
            session.forget_counters();
        }
    }
}
