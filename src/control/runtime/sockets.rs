//! The control thread's UDP sockets.

use std::io;
use std::os::fd::AsRawFd;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use crate::control::engine::Engine;
use crate::dataplane::messages::Endpoint;
use crate::limits::{CONTROL_DATAGRAMS_PER_TURN, RECEIVE_SLOT_LEN};
use crate::sys::udp::{RecvBatch, SendBatch, SendTarget, UdpSocket};
use crate::telemetry::drops::DropReason;

/// The sockets, the buffers they share, and which of them may have datagrams.
pub(super) struct Sockets {
    sockets: Vec<UdpSocket>,
    ready: Vec<bool>,
    /// One slot, so that a bounded number of datagrams is taken from the kernel at a time.
    received: RecvBatch,
    outgoing: SendBatch,
}

impl Sockets {
    pub(super) fn register(sockets: Vec<UdpSocket>, registry: &Registry) -> io::Result<Self> {
        for (number, socket) in sockets.iter().enumerate() {
            let token = Token(super::SOCKETS + number);
            registry.register(&mut SourceFd(&socket.as_raw_fd()), token, Interest::READABLE)?;
        }
        Ok(Self {
            ready: vec![true; sockets.len()],
            sockets,
            received: RecvBatch::new(1, RECEIVE_SLOT_LEN),
            outgoing: SendBatch::new(1),
        })
    }

    pub(super) fn set_ready(&mut self, number: usize) {
        if let Some(ready) = self.ready.get_mut(number) {
            *ready = true;
        }
    }

    pub(super) fn any_ready(&self) -> bool {
        self.ready.contains(&true)
    }

    /// Forgets that datagrams are waiting: a thread that stops does not want them.
    pub(super) fn ignore(&mut self) {
        self.ready.fill(false);
    }

    /// Hands waiting datagrams to the engine, a bounded number from each socket.
    pub(super) fn receive(&mut self, engine: &mut Engine) {
        for number in 0..self.sockets.len() {
            if self.ready[number] {
                self.ready[number] = self.receive_from(number, engine);
            }
        }
    }

    /// Returns whether more datagrams may be waiting.
    fn receive_from(&mut self, number: usize, engine: &mut Engine) -> bool {
        let mut taken = 0;
        while taken < CONTROL_DATAGRAMS_PER_TURN {
            match self.received.receive(&self.sockets[number]) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(error) => {
                    log::warn!("receiving handshakes failed: {error}");
                    return false;
                }
            }
            let now = super::now();
            let (messages, arena) = self.received.split();
            for meta in messages {
                let listener = number as u8;
                let from = Endpoint { remote: meta.from, local: meta.local, listener };
                for range in meta.datagrams() {
                    taken += 1;
                    if let Some(datagram) = arena.get(range) {
                        engine.handle_datagram(now, from, datagram);
                    }
                }
            }
        }
        true
    }

    /// Sends one datagram. A socket that is full or refuses loses it: handshakes are retried.
    pub(super) fn send(&mut self, engine: &Engine, to: &Endpoint, datagram: &[u8]) {
        let Some(socket) = self.sockets.get(usize::from(to.listener)) else {
            return engine.drops().add(DropReason::SendFailed, 1);
        };
        let target = SendTarget { remote: to.remote, local: to.local };
        let mut lost = self.outgoing.push(0..datagram.len(), &target, None, 0).is_err();
        let report = self.outgoing.send(socket, datagram, |fault| {
            log::debug!("sending a handshake message to {} failed: {fault:?}", to.remote);
        });
        lost |= report.blocked || report.failed > 0;
        self.outgoing.clear();
        if lost {
            engine.drops().add(DropReason::SendFailed, 1);
        }
    }
}
