//! UDP sockets and batches of datagrams, with segmentation offload both ways.
//!
//! [`UdpSocket`] is bound with everything the packet path relies on: local addresses and ECN on
//! receipt, no fragmentation unless allowed, big buffers, GRO. [`SendBatch`] turns many messages,
//! each a datagram or a train of equal datagrams (`UDP_SEGMENT`), into one `sendmmsg`;
//! [`RecvBatch`] takes many, each perhaps an aggregate (`UDP_GRO`), with one `recvmmsg`. Both work
//! on byte arenas and ranges of them, so that packets are sealed and opened in place. See udp(7),
//! ip(7), ipv6(7), `net/ipv4/udp.c`.

mod address;
mod control_message;
#[doc(hidden)]
pub mod fuzz;
mod receive;
mod send;
mod socket;
#[cfg(test)]
mod tests;

pub use receive::{ReceivedMeta, RecvBatch};
pub use send::{SendBatch, SendBatchFull, SendFault, SendFaultKind, SendReport, SendTarget};
pub use socket::{UdpError, UdpOptions, UdpSocket, probe_gro, probe_gso};
