//! Datagrams of associations, moved in batches.

use std::ops::AddAssign;

use crate::limits::{PROXY_DATAGRAMS_PER_TURN, RECEIVE_SLOT_LEN};
use crate::proxy::counters::{DatagramDrop, ProxyCounters};
use crate::sys::udp::{RecvBatch, SendBatch, SendFaultKind, SendTarget, UdpSocket};

/// What the associations of a worker take datagrams in and send them out with, one after another:
/// nothing is in it between their turns.
pub(super) struct Datagrams {
    pub(super) received: RecvBatch,
    pub(super) outgoing: Outgoing,
}

/// Datagrams that go out at the end of a turn.
pub(super) struct Outgoing {
    batch: SendBatch,
    bytes: Vec<u8>,
    /// Bytes of the header that the gateway has put in front of each.
    headers: Vec<usize>,
}

/// What has gone out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sent {
    pub(super) datagrams: u64,
    /// Bytes of them, without headers of the gateway.
    pub(super) bytes: u64,
}

impl AddAssign for Sent {
    fn add_assign(&mut self, more: Self) {
        self.datagrams += more.datagrams;
        self.bytes += more.bytes;
    }
}

impl Default for Datagrams {
    fn default() -> Self {
        Self {
            received: RecvBatch::new(PROXY_DATAGRAMS_PER_TURN, RECEIVE_SLOT_LEN),
            outgoing: Outgoing {
                batch: SendBatch::new(PROXY_DATAGRAMS_PER_TURN),
                bytes: Vec::new(),
                headers: Vec::new(),
            },
        }
    }
}

impl Outgoing {
    /// Whether nothing more fits before [`Outgoing::send`].
    pub(super) fn is_full(&self) -> bool {
        self.batch.is_full()
    }

    /// Puts a datagram in, with a header in front of it, which may be empty.
    pub(super) fn push(&mut self, to: &SendTarget, header: &[u8], payload: &[u8]) {
        let start = self.bytes.len();
        let len = header.len() + payload.len();
        if self.batch.push(start..start + len, to, None, 0).is_ok() {
            self.bytes.extend_from_slice(header);
            self.bytes.extend_from_slice(payload);
            self.headers.push(header.len());
        }
    }

    /// Sends them. Those that the kernel does not take are dropped and counted, as a router would.
    pub(super) fn send(&mut self, socket: &UdpSocket, counters: &ProxyCounters) -> Sent {
        let Self { batch, bytes, headers } = self;
        let queued = batch.len();
        let report = batch.send(socket, bytes, |fault| {
            if fault.datagrams > 0 {
                // Its header did not go out either.
                headers.get_mut(fault.index).map(std::mem::take);
                counters.drop_datagram(match fault.kind {
                    SendFaultKind::TooBig { .. } => DatagramDrop::TooBig,
                    _ => DatagramDrop::Refused,
                });
            }
        });
        let dealt_with = report.datagrams + report.failed;
        for _ in dealt_with..queued {
            counters.drop_datagram(DatagramDrop::Blocked);
        }
        let own: usize = headers.iter().take(dealt_with).sum();
        batch.clear();
        bytes.clear();
        headers.clear();
        Sent {
            datagrams: report.datagrams as u64,
            bytes: (report.bytes.saturating_sub(own)) as u64,
        }
    }
}
