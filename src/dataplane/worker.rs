//! The event loop of one worker.
//!
//! A worker sleeps in `epoll_wait` until its TUN queue, one of its sockets or its waker has
//! something. Readiness is edge-triggered: it is remembered until a call would block. Each turn
//! moves at most one batch in each direction, so that neither starves the other, and a socket that
//! takes no more stops the reading of TUN until it is writable again.

use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Registry, Token, Waker};
use thiserror::Error;

use crate::dataplane::forwarder::{
    DatagramOutput, EventSender, Forwarder, ForwarderOptions, PacketOutput, SendOutcome,
};
use crate::dataplane::from_wire::Received;
use crate::dataplane::link::Link;
use crate::dataplane::messages::{WorkerCommand, WorkerEvent};
use crate::dataplane::spin::{Look, Spinner};
use crate::dataplane::trains::TrainBuilder;
use crate::limits::{
    PACKET_LEN_MAX, RECEIVE_SLOT_LEN, RECEIVE_SLOTS, TUN_READS_PER_TURN, VIRTIO_HEADER_LEN,
};
use crate::sys::arena::Arena;
use crate::sys::tun::TunQueue;
use crate::sys::udp::{RecvBatch, UdpSocket};
use crate::sys::{affinity, clock};
use crate::telemetry::counters::WorkerCounters;
use crate::telemetry::drops::DropReason;

const WAKE: Token = Token(0);
const TUN: Token = Token(1);
/// Listener l has token `FIRST_SOCKET + l`.
const FIRST_SOCKET: usize = 2;

/// Why a worker cannot go on.
#[derive(Debug, Error)]
pub enum WorkerError {
    /// The TUN device is gone.
    #[error("the TUN device is gone: {0}")]
    Tun(#[source] io::Error),
    /// The kernel refused to wait for events.
    #[error("waiting for events failed: {0}")]
    Poll(#[source] io::Error),
}

/// Everything a worker is made of, opened before its thread starts.
pub struct WorkerParts {
    /// Its number.
    pub worker: usize,
    /// The CPU to pin it to.
    pub cpu: Option<usize>,
    /// Its TUN queue.
    pub tun: TunQueue,
    /// Its socket on each listening address.
    pub sockets: Vec<UdpSocket>,
    /// Where commands come from.
    pub commands: Receiver<WorkerCommand>,
    /// Where events go.
    pub events: Sender<WorkerEvent>,
    /// Wakes the control thread.
    pub control_waker: Arc<Waker>,
    /// What it counts.
    pub counters: Arc<WorkerCounters>,
    /// Switches.
    pub options: ForwarderOptions,
}

/// One thread's share of the tunnel.
pub struct Worker {
    poll: Poll,
    cpu: Option<usize>,
    tun: TunQueue,
    tun_ready: bool,
    attached: bool,
    spinner: Spinner,
    links: Links,
    receive: RecvBatch,
    frame: Arena,
    forwarder: Forwarder,
    counters: Arc<WorkerCounters>,
    /// Held so that whoever tells the worker to stop and is gone does not take the wake-up along.
    _waker: Arc<Waker>,
}

/// The sockets of one worker, by listener.
struct Links {
    links: Vec<Link>,
    /// When the worker last woke up.
    now: Instant,
}

impl Worker {
    /// Registers everything with a new poll. The waker returned wakes the worker.
    ///
    /// # Errors
    /// If the kernel refuses to watch a descriptor.
    pub fn new(parts: WorkerParts) -> io::Result<(Self, Arc<Waker>)> {
        let poll = Poll::new()?;
        let registry = poll.registry();
        let waker = Arc::new(Waker::new(registry, WAKE)?);
        registry.register(&mut SourceFd(&parts.tun.as_raw_fd()), TUN, Interest::READABLE)?;
        for (listener, socket) in parts.sockets.iter().enumerate() {
            let token = Token(FIRST_SOCKET + listener);
            registry.register(&mut SourceFd(&socket.as_raw_fd()), token, Interest::READABLE)?;
        }
        let counters = parts.counters;
        let events = EventSender::new(parts.events, parts.control_waker);
        let forwarder = Forwarder::new(
            parts.worker,
            parts.sockets.len(),
            parts.options,
            Arc::clone(&counters),
            events,
            parts.commands,
        );
        let gso = parts.options.udp_gso;
        let link = |socket| Link::new(socket, gso, Arc::clone(&counters));
        let worker = Self {
            poll,
            cpu: parts.cpu,
            tun: parts.tun,
            tun_ready: true,
            attached: true,
            spinner: Spinner::new(parts.options.spin),
            links: Links {
                links: parts.sockets.into_iter().map(link).collect(),
                now: clock::now(),
            },
            receive: RecvBatch::new(RECEIVE_SLOTS, RECEIVE_SLOT_LEN),
            frame: Arena::new(VIRTIO_HEADER_LEN + PACKET_LEN_MAX),
            forwarder,
            counters,
            _waker: Arc::clone(&waker),
        };
        Ok((worker, waker))
    }

    /// Moves packets until told to stop. Pins the calling thread. Descriptors stay open until the
    /// worker is dropped, which the kernel may take its time for.
    ///
    /// # Errors
    /// If the TUN device is gone or the kernel cannot wait for events.
    pub fn run(&mut self) -> Result<(), WorkerError> {
        if let Some(cpu) = self.cpu
            && let Err(error) = affinity::pin_current_thread(cpu)
        {
            let worker = self.forwarder.worker;
            log::warn!("worker {worker} is not pinned to CPU {cpu}: {error}");
        }
        let mut events = Events::with_capacity(FIRST_SOCKET + self.links.links.len());
        let mut woken_at = clock::now();
        loop {
            let asleep_at = clock::now();
            self.counters.busy_ns.add((asleep_at - woken_at).as_nanos() as u64);
            let has_slept = self.await_work(&mut events, asleep_at)?;
            woken_at = if has_slept { clock::now() } else { asleep_at };
            self.links.now = woken_at;
            self.forwarder.begin_turn(woken_at);
            self.forwarder.apply_commands(&mut self.links);
            if self.carry_out_requests() {
                return Ok(());
            }
            self.turn()?;
        }
    }

    /// Sleeps until there is something to do and notes what. Returns whether it slept at all.
    fn await_work(&mut self, events: &mut Events, now: Instant) -> Result<bool, WorkerError> {
        self.links.watch_for_room(self.poll.registry()).map_err(WorkerError::Poll)?;
        if !self.has_work() && self.finds_work_by_spinning(events)? {
            return Ok(true);
        }
        let timeout = if self.has_work() {
            Some(Duration::ZERO)
        } else {
            let release = self.forwarder.next_release(self.links.is_blocked());
            release.map(|at| at.saturating_duration_since(now))
        };
        self.poll_for(events, timeout)?;
        Ok(timeout != Some(Duration::ZERO))
    }

    /// Looks for something to do as long as that seems worth while. Returns whether it came.
    fn finds_work_by_spinning(&mut self, events: &mut Events) -> Result<bool, WorkerError> {
        if self.spinner.before_sleep().is_none() {
            return Ok(false);
        }
        let begun_at = clock::now();
        let mut looked_at = begun_at;
        loop {
            self.poll_for(events, Some(Duration::ZERO))?;
            let look = if events.is_empty() {
                let left_at = clock::now();
                thread::yield_now();
                looked_at = clock::now();
                Look::Nothing(looked_at - left_at)
            } else {
                Look::Found
            };
            if !self.spinner.goes_on(look, looked_at - begun_at) {
                return Ok(look == Look::Found);
            }
        }
    }

    /// Waits for readiness, for at most `timeout`, and notes it.
    fn poll_for(
        &mut self,
        events: &mut Events,
        timeout: Option<Duration>,
    ) -> Result<(), WorkerError> {
        match self.poll.poll(events, timeout) {
            Err(error) if error.kind() != ErrorKind::Interrupted => {
                return Err(WorkerError::Poll(error));
            }
            _ => {}
        }
        self.note_readiness(events);
        Ok(())
    }

    /// Whether something can be done without waiting.
    fn has_work(&self) -> bool {
        (self.tun_ready && self.attached && !self.links.is_blocked())
            || self.links.links.iter().any(|link| link.readable)
    }

    fn note_readiness(&mut self, events: &Events) {
        for event in events {
            match event.token() {
                WAKE => {}
                TUN => self.tun_ready = true,
                Token(token) => {
                    if let Some(link) = self.links.links.get_mut(token - FIRST_SOCKET) {
                        link.readable |= event.is_readable();
                        link.blocked &= !event.is_writable();
                    }
                }
            }
        }
    }

    /// Does what commands asked of the worker. Returns whether it is to stop.
    fn carry_out_requests(&mut self) -> bool {
        let requests = self.forwarder.take_requests();
        if let Some(attached) = requests.attach
            && attached != self.attached
        {
            match self.tun.set_attached(attached) {
                Ok(()) => (self.attached, self.tun_ready) = (attached, attached),
                Err(error) => {
                    let worker = self.forwarder.worker;
                    log::error!("worker {worker} cannot change its TUN queue: {error}");
                }
            }
        }
        if requests.stop {
            self.forwarder.flush(&mut self.links);
        }
        requests.stop
    }

    /// One batch in each direction.
    fn turn(&mut self) -> Result<(), WorkerError> {
        // What has waited goes before what comes now.
        let mut tun = TunOutput { queue: &self.tun, counters: &self.counters };
        self.forwarder.release_to_tun(&mut tun);
        for listener in 0..self.links.links.len() {
            self.receive(listener);
        }
        // What a full socket has left over goes first, so that TUN is read into an empty batch.
        self.forwarder.flush(&mut self.links);
        let mut tun = TunOutput { queue: &self.tun, counters: &self.counters };
        while !self.links.is_blocked() && self.forwarder.release_to_wire(&mut self.links, &mut tun)
        {
            self.forwarder.flush(&mut self.links);
        }
        if self.tun_ready && self.attached && !self.links.is_blocked() {
            self.read_tun()?;
        }
        self.forwarder.flush(&mut self.links);
        Ok(())
    }

    /// Receives and delivers one batch from a listener.
    fn receive(&mut self, listener: usize) {
        let Some(link) = self.links.links.get_mut(listener) else { return };
        if !link.readable {
            return;
        }
        match self.receive.receive(&link.socket) {
            // A short batch emptied the socket; what arrives from then on raises another edge.
            Ok(count) => link.readable = count == RECEIVE_SLOTS,
            // Nothing waits, or the socket fails however often it is tried: trying on would spin.
            Err(_) => {
                link.readable = false;
                return;
            }
        }
        self.counters.udp_receives.add(1);
        let (messages, arena) = self.receive.split();
        let received = Received { listener: listener as u8, messages, arena, now: self.links.now };
        let mut tun = TunOutput { queue: &self.tun, counters: &self.counters };
        self.forwarder.decapsulate(received, &mut self.links, &mut tun);
    }

    /// Reads packets until the queue is empty or a batch is due.
    fn read_tun(&mut self) -> Result<(), WorkerError> {
        for _ in 0..TUN_READS_PER_TURN {
            let len = match self.tun.read(&mut self.frame) {
                Ok(len) => len,
                Err(error) => match ReadFault::of(&error) {
                    ReadFault::Empty => {
                        self.tun_ready = false;
                        return Ok(());
                    }
                    ReadFault::Interrupted => continue,
                    ReadFault::PacketLost => {
                        self.counters.drops.add(DropReason::PacketMalformed, 1);
                        continue;
                    }
                    ReadFault::DeviceGone => return Err(WorkerError::Tun(error)),
                },
            };
            self.counters.tun_reads.add(1);
            let Some(frame) = self.frame.get_mut(..len) else { continue };
            let mut tun = TunOutput { queue: &self.tun, counters: &self.counters };
            self.forwarder.encapsulate(frame, &mut self.links, &mut tun);
            if self.forwarder.is_due() {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// What a failed read of TUN means (`tun_chr_read_iter`, drivers/net/tun.c).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReadFault {
    /// Nothing waits, be it that the link is down.
    Empty,
    /// A signal came first.
    Interrupted,
    /// The kernel has taken a packet from the queue that it cannot describe by a virtio header
    /// (`EINVAL`, "unexpected GSO type" in its log). The next one may be sound.
    PacketLost,
    /// The interface was deleted (`EBADFD`), or whatever else does not pass.
    DeviceGone,
}

impl ReadFault {
    fn of(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EAGAIN | libc::EIO) => Self::Empty,
            Some(libc::EINTR) => Self::Interrupted,
            Some(libc::EINVAL) => Self::PacketLost,
            _ => Self::DeviceGone,
        }
    }
}

/// Writes to a TUN queue and counts.
struct TunOutput<'a> {
    queue: &'a TunQueue,
    counters: &'a WorkerCounters,
}

impl PacketOutput for TunOutput<'_> {
    fn write(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        match pieces {
            [whole] => self.queue.write(whole)?,
            _ => self.queue.write_vectored(pieces)?,
        };
        self.counters.tun_writes.add(1);
        Ok(())
    }
}

impl Links {
    fn is_blocked(&self) -> bool {
        self.links.iter().any(|link| link.blocked)
    }

    /// Has the poll tell of room in the sockets that are full, and of no other: a socket with room
    /// tells so again whenever a packet of it has left the host, and would wake its worker for
    /// nothing.
    fn watch_for_room(&mut self, registry: &Registry) -> io::Result<()> {
        for (listener, link) in self.links.iter_mut().enumerate() {
            if link.awaits_room == link.blocked {
                continue;
            }
            let interest = match link.blocked {
                true => Interest::READABLE | Interest::WRITABLE,
                false => Interest::READABLE,
            };
            let token = Token(FIRST_SOCKET + listener);
            registry.reregister(&mut SourceFd(&link.socket.as_raw_fd()), token, interest)?;
            link.awaits_room = link.blocked;
        }
        Ok(())
    }
}

impl DatagramOutput for Links {
    fn send(&mut self, listener: usize, trains: &mut TrainBuilder) -> SendOutcome {
        match self.links.get_mut(listener) {
            Some(link) => link.send(self.now, trains),
            None => SendOutcome::default(),
        }
    }
}

#[cfg(test)]
mod tests;
