//! A worker without a device, a socket or a thread, for measurements and tests of scale: its
//! packets come from memory and go there, by the code that a running worker has.

use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender};
use mio::{Poll, Token, Waker};

use crate::dataplane::forwarder::{
    DatagramOutput, EventSender, Forwarder, ForwarderOptions, PacketOutput, SendOutcome,
};
use crate::dataplane::from_wire::Received;
use crate::dataplane::messages::{WorkerCommand, WorkerEvent};
use crate::dataplane::trains::TrainBuilder;
use crate::limits::{SEND_ARENA_LEN, SEND_TRAINS_MAX, WORKER_EVENTS_MAX};
use crate::sys::udp::ReceivedMeta;
use crate::telemetry::counters::WorkerCounters;
use crate::wire::SessionIndex;

/// Where all that is sent seems to come from.
const SENDER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 20443);

/// The part of a worker that touches packets, between two ends of memory.
pub struct OfflineWorker {
    forwarder: Forwarder,
    commands: Sender<WorkerCommand>,
    events: Receiver<WorkerEvent>,
    counters: Arc<WorkerCounters>,
    sent: Sent,
    written: Written,
    /// What the waker of the control thread is registered with.
    _poll: Poll,
}

/// Datagrams that a worker has sent, as `UDP_GRO` would hand them to the far end.
#[derive(Debug, Default)]
pub struct Sent {
    /// The messages: each a datagram, or a train of several.
    pub messages: Vec<ReceivedMeta>,
    /// Where they lie.
    pub arena: Vec<u8>,
}

impl DatagramOutput for Sent {
    fn send(&mut self, _listener: usize, trains: &mut TrainBuilder) -> SendOutcome {
        trains.hand_over();
        for train in trains.trains() {
            let start = self.arena.len();
            self.arena.extend_from_slice(&trains.arena()[train.range.clone()]);
            self.messages.push(ReceivedMeta {
                range: start..self.arena.len(),
                from: SENDER,
                local: None,
                stride: train.segment_len,
                ecn: train.tos & 0b11,
                truncated: false,
            });
        }
        trains.clear();
        SendOutcome::default()
    }
}

/// Counts what would have been written to TUN, and keeps it if somebody wants to see it.
#[derive(Debug, Default)]
struct Written {
    writes: u64,
    frames: Option<Vec<Vec<u8>>>,
}

impl PacketOutput for Written {
    #[inline]
    fn write(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        std::hint::black_box(pieces);
        self.writes += 1;
        if let Some(frames) = &mut self.frames {
            frames.push(pieces.iter().flat_map(|piece| piece.iter().copied()).collect());
        }
        Ok(())
    }
}

impl OfflineWorker {
    /// Worker number `worker` of a side, with one listener.
    ///
    /// # Errors
    /// If the kernel has no descriptor left for the control thread's waker.
    pub fn new(worker: usize, options: ForwarderOptions) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), Token(0))?);
        let (commands, command_queue) = crossbeam_channel::unbounded();
        let (event_queue, events) = crossbeam_channel::bounded(WORKER_EVENTS_MAX);
        let counters = Arc::new(WorkerCounters::default());
        let event_sender = EventSender::new(event_queue, waker);
        let forwarder =
            Forwarder::new(worker, 1, options, Arc::clone(&counters), event_sender, command_queue);
        let sent = Sent {
            messages: Vec::with_capacity(SEND_TRAINS_MAX),
            arena: Vec::with_capacity(SEND_ARENA_LEN),
        };
        let written = Written::default();
        Ok(Self { forwarder, commands, events, counters, sent, written, _poll: poll })
    }

    /// Carries out a command. What it makes the worker send is in [`OfflineWorker::sent`].
    pub fn command(&mut self, command: WorkerCommand) {
        // The forwarder holds the other end as long as this side lives.
        let _ = self.commands.send(command);
        self.forwarder.apply_commands(&mut self.sent);
        self.forwarder.flush(&mut self.sent);
    }

    /// What the worker has to tell, one event at a time.
    pub fn take_event(&mut self) -> Option<WorkerEvent> {
        self.events.try_recv().ok()
    }

    /// Takes a packet or super-packet from TUN, virtio header first, and sends what it makes of it.
    /// What was sent before is forgotten.
    pub fn encapsulate(&mut self, frame: &mut [u8]) {
        self.clear_sent();
        self.forwarder.encapsulate(frame, &mut self.sent, &mut self.written);
        self.forwarder.flush(&mut self.sent);
    }

    /// Takes datagrams that lie in `arena`, opens them in place and writes what they carry.
    pub fn decapsulate(&mut self, now: Instant, messages: &[ReceivedMeta], arena: &mut [u8]) {
        self.forwarder.begin_turn(now);
        let received = Received { listener: 0, messages, arena, now };
        self.forwarder.decapsulate(received, &mut self.sent, &mut self.written);
        self.forwarder.flush(&mut self.sent);
    }

    /// What was sent.
    pub fn sent(&mut self) -> &mut Sent {
        &mut self.sent
    }

    /// Forgets what was sent.
    pub fn clear_sent(&mut self) {
        self.sent.messages.clear();
        self.sent.arena.clear();
    }

    /// Packets and super-packets written to TUN so far.
    pub fn tun_writes(&self) -> u64 {
        self.written.writes
    }

    /// Keeps what is written to TUN from now on.
    pub fn keep_written(&mut self) {
        self.written.frames = Some(Vec::new());
    }

    /// What was written to TUN and kept, virtio headers first.
    pub fn take_written(&mut self) -> Vec<Vec<u8>> {
        self.written.frames.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// What the worker counts.
    pub fn counters(&self) -> &WorkerCounters {
        &self.counters
    }

    /// Looks a lane up as each datagram does: whether this worker receives it on that session.
    #[inline]
    pub fn receives(&mut self, session: SessionIndex, lane: u8) -> bool {
        let worker = self.forwarder.worker;
        let session = self.forwarder.tables.session(session);
        session.is_some_and(|session| session.receive_lane(worker, lane).is_some())
    }
}
