//! The part of a worker that touches packets but no descriptor.
//!
//! A forwarder owns its worker's tables, batches and counters. It is handed frames and datagrams
//! and hands out trains and packets through two small traits, so that everything it decides is
//! tested without a device or a socket.

use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TryRecvError};
use mio::Waker;

use crate::dataplane::messages::{WorkerCommand, WorkerEvent};
use crate::dataplane::tables::Tables;
use crate::dataplane::trains::TrainBuilder;
use crate::dataplane::waiting::WaitingRoom;
use crate::limits::{PACKET_LEN_MAX, RUN_PACKETS_MAX, VIRTIO_HEADER_LEN};
use crate::packet::{CoalesceOptions, Coalescer, RunTracker};
use crate::sys::clock;
use crate::telemetry::counters::WorkerCounters;
use crate::telemetry::drops::DropReason;
use crate::wire::SessionIndex;

/// Sends the trains of one listener.
pub(super) trait DatagramOutput {
    /// Sends what `trains` holds, as far as the kernel takes it, and clears them if all has left.
    fn send(&mut self, listener: usize, trains: &mut TrainBuilder) -> SendOutcome;
}

/// What a send brought to light.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SendOutcome {
    /// A datagram of this session was too large for its path; bytes of its plaintext.
    pub(super) too_big: Option<(SessionIndex, usize)>,
    /// The source address that this session's datagrams should leave from is not ours any more.
    pub(super) source_gone: Option<(SessionIndex, IpAddr)>,
}

impl SendOutcome {
    /// Adds what a later send brought to light. One report of a kind is enough: what else there is
    /// to tell comes again with the next datagram.
    pub(super) fn join(&mut self, later: Self) {
        self.too_big = later.too_big.or(self.too_big);
        self.source_gone = later.source_gone.or(self.source_gone);
    }
}

/// Takes packets for the TUN device.
pub(super) trait PacketOutput {
    /// Writes one packet or super-packet, virtio header first.
    fn write(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<()>;
}

/// What may be switched off in a worker, and what it starts from.
#[derive(Clone, Copy, Debug)]
pub struct ForwarderOptions {
    /// Send trains of datagrams by `UDP_SEGMENT`.
    pub udp_gso: bool,
    /// What the TUN device takes as one write.
    pub coalesce: CoalesceOptions,
    /// The plaintext every path is taken to carry until it has been measured.
    pub plaintext_max: usize,
    /// Copy the DSCP of inner packets to the outer header.
    pub copy_dscp: bool,
    /// How long to look for more work before sleeping, at most.
    pub spin: Duration,
}

/// Tells the control thread what happened, without ever waiting for it.
pub(super) struct EventSender {
    channel: Sender<WorkerEvent>,
    waker: Arc<Waker>,
}

impl EventSender {
    pub(super) fn new(channel: Sender<WorkerEvent>, waker: Arc<Waker>) -> Self {
        Self { channel, waker }
    }

    /// Sends `event` and wakes the control thread; `false` if its queue is full, so that the caller
    /// can let the cause recur.
    pub(super) fn send(&self, event: WorkerEvent) -> bool {
        let sent = self.channel.try_send(event).is_ok();
        // A failed wake-up means that the control thread is gone, and with it the need for events.
        let _ = self.waker.wake();
        sent
    }
}

/// Moves packets for one worker.
pub(super) struct Forwarder {
    pub(super) worker: usize,
    pub(super) tables: Tables,
    /// One batch per listener.
    pub(super) outbound: Vec<TrainBuilder>,
    pub(super) coalescer: Coalescer,
    pub(super) run_tracker: RunTracker,
    /// The session that the run tracker's last packet was for.
    pub(super) tracked: Option<SessionIndex>,
    /// Whether the outer header bears the inner DSCP beside the ECN mark.
    pub(super) copy_dscp: bool,
    pub(super) counters: Arc<WorkerCounters>,
    pub(super) events: EventSender,
    /// When the worker last woke up, or its last turn began.
    pub(super) now: Instant,
    /// When a full burst of ICMP answers may be given again.
    pub(super) too_big_full_at: Instant,
    /// Where single packets are put together that TUN will not take as part of a whole.
    pub(super) scratch: Box<[u8]>,
    /// The session that the coalescer's packets are from.
    pub(super) coalesced: Option<SessionIndex>,
    /// Where packets wait for their turn, once there is a peer with a limit.
    pub(super) waiting: Option<Box<WaitingRoom>>,
    commands: Receiver<WorkerCommand>,
    requests: Requests,
}

/// What commands ask of the worker rather than of its tables.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Requests {
    /// Return.
    pub(super) stop: bool,
    /// Attach or detach the TUN queue.
    pub(super) attach: Option<bool>,
}

impl Forwarder {
    pub(super) fn new(
        worker: usize,
        listeners: usize,
        options: ForwarderOptions,
        counters: Arc<WorkerCounters>,
        events: EventSender,
        commands: Receiver<WorkerCommand>,
    ) -> Self {
        let now = clock::now();
        Self {
            worker,
            tables: Tables::new(now, worker, options.plaintext_max),
            outbound: (0..listeners).map(|_| TrainBuilder::new()).collect(),
            coalescer: Coalescer::new(options.coalesce, RUN_PACKETS_MAX),
            run_tracker: RunTracker::new(),
            tracked: None,
            copy_dscp: options.copy_dscp,
            counters,
            events,
            now,
            too_big_full_at: now,
            scratch: vec![0; VIRTIO_HEADER_LEN + PACKET_LEN_MAX].into_boxed_slice(),
            coalesced: None,
            waiting: None,
            commands,
            requests: Requests::default(),
        }
    }

    /// Counts `packets` as dropped for `reason`.
    #[inline]
    pub(super) fn drop_packets(&self, reason: DropReason, packets: usize) {
        self.counters.drops.add(reason, packets as u64);
    }

    /// Takes what commands have asked of the worker since the last call.
    pub(super) fn take_requests(&mut self) -> Requests {
        std::mem::take(&mut self.requests)
    }

    /// A turn begins at `now`. Sessions that have reached their last age are forgotten, whether or
    /// not the control thread has had the time to say so: after the process was stopped or the
    /// machine suspended, whichever thread wakes up first has its turn first.
    ///
    /// The turn itself is not interrupted to look again. A thread that is stopped in the midst of
    /// one finishes it when it goes on, so a session may outlive its last age by one batch in each
    /// direction; no look at a clock would help against being stopped right behind it.
    #[inline]
    pub(super) fn begin_turn(&mut self, now: Instant) {
        self.now = now;
        self.tables.retire(now);
    }

    /// Carries out every command that is waiting. Returns whether there was one.
    pub(super) fn apply_commands(&mut self, datagrams: &mut impl DatagramOutput) -> bool {
        let mut any = false;
        loop {
            match self.commands.try_recv() {
                Ok(command) => self.apply(command, datagrams),
                Err(TryRecvError::Empty) => return any,
                Err(TryRecvError::Disconnected) => {
                    self.requests.stop = true;
                    return any;
                }
            }
            any = true;
        }
    }

    fn apply(&mut self, command: WorkerCommand, datagrams: &mut impl DatagramOutput) {
        match command {
            WorkerCommand::InstallSession(install) => {
                self.prepare_for(install.policy.as_ref());
                self.tables.install(self.now, *install);
            }
            WorkerCommand::SetPathEndpoint { session, path, endpoint } => {
                self.tables.set_path_endpoint(session, path, endpoint);
            }
            WorkerCommand::SetPathPlaintextMax { session, path, plaintext_max } => {
                self.tables.set_plaintext_max(session, path, plaintext_max);
            }
            WorkerCommand::RemoveSession { session } => self.tables.remove(session),
            WorkerCommand::SendPathMessage { session, message, plaintext_len } => {
                self.send_path_message(session, &message, plaintext_len, datagrams);
            }
            WorkerCommand::SendPathMessageTo { session, message, endpoint } => {
                self.send_path_message_to(session, &message, endpoint, datagrams);
            }
            WorkerCommand::SendKeepalive { session } => self.send_keepalive(session, datagrams),
            WorkerCommand::SetPrefixes(prefixes) => self.tables.set_prefixes(prefixes),
            WorkerCommand::SetPolicy { peer, policy } => {
                self.prepare_for(policy.as_ref());
                self.tables.set_policy(peer, policy.as_ref());
            }
            WorkerCommand::SetQueueAttached(attached) => self.requests.attach = Some(attached),
            WorkerCommand::LetGo(receipt) => drop(receipt),
            WorkerCommand::Stop => self.requests.stop = true,
        }
    }

    /// Whether enough is batched that it should leave before more is read.
    #[inline]
    pub(super) fn is_due(&self) -> bool {
        self.outbound.iter().any(TrainBuilder::is_due)
    }

    /// Sends everything that is batched.
    pub(super) fn flush(&mut self, datagrams: &mut impl DatagramOutput) {
        for listener in 0..self.outbound.len() {
            let trains = &mut self.outbound[listener];
            if !trains.is_empty() {
                let outcome = datagrams.send(listener, trains);
                self.note_outcome(outcome);
            }
        }
    }

    /// Lets nothing be tried again that cannot succeed; tells the control thread that a path
    /// carries less than was thought.
    pub(super) fn note_outcome(&mut self, outcome: SendOutcome) {
        let worker = self.worker;
        if let Some((index, source)) = outcome.source_gone
            && let Some(session) = self.tables.session(index)
        {
            session.forget_own_address(source);
        }
        let Some((index, plaintext_len)) = outcome.too_big else { return };
        let Some(session) = self.tables.session(index) else { return };
        let path = session.plan.send_path(worker);
        // Lost if the control thread is behind: the next such datagram says it again.
        self.events.send(WorkerEvent::PathTooBig { worker, session: index, path, plaintext_len });
    }
}
