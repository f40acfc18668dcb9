//! Between frames and the UDP sockets on loopback.

use std::net::SocketAddr;
use std::ops::Range;
use std::time::Instant;

use crate::limits::{
    CARRIER_SOCKET_BUFFER_LEN, GSO_SEGMENTS_MAX, RECEIVE_SLOT_LEN, RECEIVE_SLOTS,
    SEND_MESSAGES_MAX, UDP_PAYLOAD_MAX,
};
use crate::sys::udp::{
    ReceivedMeta, RecvBatch, SendBatch, SendTarget, UdpError, UdpOptions, UdpSocket,
};
use crate::telemetry::counters::DropCounters;
use crate::telemetry::drops::DropReason;

use super::frame::Frame;
use super::outbox::Outbox;

/// Binds a socket on loopback.
pub(super) fn bind(address: SocketAddr) -> Result<UdpSocket, UdpError> {
    let options = UdpOptions {
        receive_buffer: Some(CARRIER_SOCKET_BUFFER_LEN),
        send_buffer: Some(CARRIER_SOCKET_BUFFER_LEN),
        gro: true,
        follow_routes: true,
        ..UdpOptions::default()
    };
    UdpSocket::bind(address, &options)
}

/// What a thread needs to receive from its sockets and to send on them.
pub(super) struct Courier {
    received: RecvBatch,
    outgoing: SendBatch,
    /// Datagrams in `outgoing`.
    queued: usize,
}

impl Courier {
    pub(super) fn new() -> Self {
        Self {
            received: RecvBatch::new(RECEIVE_SLOTS, RECEIVE_SLOT_LEN),
            outgoing: SendBatch::new(SEND_MESSAGES_MAX),
            queued: 0,
        }
    }

    /// Puts what waits at `socket` into `outbox`, up to one batch of it, under the channel that
    /// `channel_of` gives its sender. Returns whether there may be more.
    pub(super) fn collect(
        &mut self,
        now: Instant,
        socket: &UdpSocket,
        outbox: &mut Outbox,
        len_max: usize,
        drops: &DropCounters,
        channel_of: impl Fn(SocketAddr) -> Option<u8>,
    ) -> bool {
        let received = match self.received.receive(socket) {
            Ok(received) => received,
            Err(error) => {
                if error.kind() != std::io::ErrorKind::WouldBlock {
                    log::warn!("receiving on loopback for a carrier failed: {error}");
                }
                return false;
            }
        };
        let (messages, arena) = self.received.split();
        for message in messages {
            let datagrams = datagrams_in(message);
            let Some(channel) = channel_of(message.from).filter(|_| !message.truncated) else {
                drops.add(DropReason::CarrierStranger, datagrams);
                continue;
            };
            let Some(bytes) = arena.get(message.range.clone()) else { continue };
            let refused = outbox.push(now, channel, message.stride, bytes, len_max);
            drops.add(DropReason::CarrierQueueFull, refused as u64);
        }
        received > 0
    }

    /// Queues the datagrams of `frame`, which lie at `body` in `bytes`, to be sent to `to`.
    pub(super) fn push(
        &mut self,
        socket: &UdpSocket,
        frame: Frame,
        body: Range<usize>,
        bytes: &[u8],
        to: SocketAddr,
        drops: &DropCounters,
    ) {
        let target = SendTarget { remote: to, local: None };
        let stride = frame.stride();
        let most = GSO_SEGMENTS_MAX.min(UDP_PAYLOAD_MAX / stride).max(1) * stride;
        let mut start = body.start;
        while start < body.end {
            let end = body.end.min(start + most);
            if self.outgoing.is_full() {
                self.flush(socket, bytes, drops);
            }
            self.queued += (end - start).div_ceil(stride);
            // There is room: it was not full, or has just been emptied.
            let _ = self.outgoing.push(start..end, &target, Some(stride as u16), 0);
            start = end;
        }
    }

    /// Sends what is queued, which lies in `bytes`. What the kernel does not take is lost: a full
    /// socket means that its reader does not keep up.
    pub(super) fn flush(&mut self, socket: &UdpSocket, bytes: &[u8], drops: &DropCounters) {
        let report = self.outgoing.send(socket, bytes, |fault| {
            log::debug!("sending on loopback for a carrier failed: {fault:?}");
        });
        self.outgoing.clear();
        let lost = std::mem::take(&mut self.queued).saturating_sub(report.datagrams);
        drops.add(DropReason::CarrierSendFailed, lost as u64);
    }
}

fn datagrams_in(message: &ReceivedMeta) -> u64 {
    message.range.len().div_ceil(message.stride).max(1) as u64
}
