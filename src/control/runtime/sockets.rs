//! The control thread's UDP sockets.

use std::io;
use std::os::fd::AsRawFd;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use crate::control::engine::Engine;
use crate::dataplane::messages::Endpoint;
use crate::limits::{
    CONTROL_CROWD, CONTROL_DATAGRAMS_PER_TURN, RECEIVE_SLOT_LEN, RECEIVE_SLOTS, SEND_MESSAGES_MAX,
};
use crate::sys::udp::{RecvBatch, SendBatch, SendTarget, UdpSocket};
use crate::telemetry::counters::DropCounters;
use crate::telemetry::drops::DropReason;

/// The sockets, the buffers they share, and which of them may have datagrams.
pub(super) struct Sockets {
    /// In the order in which they have their turn: the first of every listener, then the second.
    members: Vec<Member>,
    received: RecvBatch,
    outgoing: SendBatch,
    /// The datagrams of `outgoing`, one behind the other.
    outgoing_arena: Vec<u8>,
    /// The last helping was a large one.
    crowded: bool,
}

struct Member {
    socket: UdpSocket,
    listener: u8,
    ready: bool,
    /// Datagrams that the kernel had no room for and that have been counted.
    overflows: u32,
}

impl Sockets {
    /// Takes over the sockets of each listener, at least one, in the order in which they are to
    /// have their turn.
    pub(super) fn register(
        listeners: Vec<Vec<UdpSocket>>,
        registry: &Registry,
    ) -> io::Result<Self> {
        let mut ranked = Vec::new();
        for (listener, sockets) in listeners.into_iter().enumerate() {
            ranked.extend((0..).zip(sockets).map(|(rank, socket)| (rank, listener, socket)));
        }
        ranked.sort_by_key(|(rank, listener, _)| (*rank, *listener));
        let mut members = Vec::with_capacity(ranked.len());
        for (number, (_, listener, socket)) in ranked.into_iter().enumerate() {
            let token = Token(super::SOCKETS + number);
            registry.register(&mut SourceFd(&socket.as_raw_fd()), token, Interest::READABLE)?;
            let listener = listener as u8;
            members.push(Member { socket, listener, ready: true, overflows: 0 });
        }
        Ok(Self {
            members,
            received: RecvBatch::new(RECEIVE_SLOTS, RECEIVE_SLOT_LEN),
            outgoing: SendBatch::new(SEND_MESSAGES_MAX),
            outgoing_arena: Vec::new(),
            crowded: false,
        })
    }

    pub(super) fn set_ready(&mut self, number: usize) {
        if let Some(member) = self.members.get_mut(number) {
            member.ready = true;
        }
    }

    pub(super) fn any_ready(&self) -> bool {
        self.members.iter().any(|member| member.ready)
    }

    /// Forgets that datagrams are waiting: a thread that stops does not want them.
    pub(super) fn ignore(&mut self) {
        for member in &mut self.members {
            member.ready = false;
        }
    }

    /// Hands waiting datagrams to the engine, a bounded number from each socket.
    pub(super) fn receive(&mut self, engine: &mut Engine) {
        let mut taken = 0;
        for member in self.members.iter_mut().filter(|member| member.ready) {
            taken += member.receive(&mut self.received, engine);
        }
        self.crowded = taken >= CONTROL_CROWD;
    }

    /// Whether so many datagrams have come at once that more are to be expected at any moment. Then
    /// it is better to let them gather for a while than to be woken for each.
    pub(super) fn is_crowded(&self) -> bool {
        self.crowded
    }

    /// Sends what the engine wants sent. A socket that is full or refuses a datagram loses it:
    /// handshakes are retried.
    pub(super) fn transmit(&mut self, engine: &mut Engine) {
        let mut listener = 0;
        while let Some((to, datagram)) = engine.poll_transmit() {
            if to.listener != listener || self.outgoing.is_full() {
                self.send_from(listener, engine.drops());
                listener = to.listener;
            }
            let start = self.outgoing_arena.len();
            self.outgoing_arena.extend(&datagram);
            let target = SendTarget { remote: to.remote, local: to.local };
            if self.outgoing.push(start..self.outgoing_arena.len(), &target, None, 0).is_err() {
                engine.drops().add(DropReason::SendFailed, 1);
            }
        }
        self.send_from(listener, engine.drops());
    }

    /// Sends what has been gathered for `listener`, whose first socket is the member of the same
    /// number.
    fn send_from(&mut self, listener: u8, drops: &DropCounters) {
        let queued = self.outgoing.len();
        if queued == 0 {
            return;
        }
        let sent = self.members.get(usize::from(listener)).map_or(0, |member| {
            let report = self.outgoing.send(&member.socket, &self.outgoing_arena, |fault| {
                log::debug!("sending handshake messages failed: {fault:?}");
            });
            report.datagrams
        });
        self.outgoing.clear();
        self.outgoing_arena.clear();
        drops.add(DropReason::SendFailed, queued.saturating_sub(sent) as u64);
    }

    /// Counts the datagrams that the kernel has had no room for.
    pub(super) fn count_overflows(&mut self, drops: &DropCounters) {
        for member in &mut self.members {
            if let Ok(overflows) = member.socket.receive_drops() {
                let before = std::mem::replace(&mut member.overflows, overflows);
                let lost = overflows.wrapping_sub(before);
                drops.add(DropReason::ControlQueueFull, lost.into());
            }
        }
    }
}

impl Member {
    /// Returns how many datagrams were taken, and remembers whether more may be waiting.
    fn receive(&mut self, batch: &mut RecvBatch, engine: &mut Engine) -> usize {
        let mut taken = 0;
        while taken < CONTROL_DATAGRAMS_PER_TURN {
            if let Err(error) = batch.receive(&self.socket) {
                if error.kind() != io::ErrorKind::WouldBlock {
                    log::warn!("receiving handshakes failed: {error}");
                }
                self.ready = false;
                break;
            }
            let now = super::now();
            let (messages, arena) = batch.split();
            for meta in messages {
                let Self { listener, .. } = *self;
                let from = Endpoint { remote: meta.from, local: meta.local, listener };
                for range in meta.datagrams() {
                    taken += 1;
                    if let Some(datagram) = arena.get(range) {
                        engine.handle_datagram(now, from, datagram);
                    }
                }
            }
        }
        taken
    }
}
