//! The carrier: the tunnel's datagrams over TLS, for networks that let no UDP through.
//!
//! Each side has a relay between a TLS connection and UDP sockets on loopback, so the data plane
//! knows nothing of it: a client's workers send to the address of their relay as if the server were
//! there, and a server gets datagrams that come from an address of its own host.
//!
//! ```text
//! worker ─┐                ┌────────┐               ┌────────┐   socket of a path ─┐
//! worker ─┼─ UDP, loopback │ client │ TLS: frames   │ server │   socket of a path ─┼─ UDP port
//! control ┘                │ relay  │               │ relay  │   socket of control ┘
//!                          └────────┘               └────────┘
//! ```
//!
//! A *channel* is one UDP socket of the client: the path of a worker, or the control thread's
//! socket. On the server each channel of each carrier has a socket of its own, so that the paths of
//! a session stay apart, and each carrier an address of its own in 127.0.0.0/8, so that the
//! admission of handshakes, which judges by address, tells carriers apart.
//!
//! TCP delivers late rather than not at all, which is wrong for datagrams: what they carry does its
//! own repetition. So a relay queues little. A datagram that finds the queue full is dropped, and
//! one that has waited for longer than [`CARRIER_WAIT_MAX`](crate::limits::CARRIER_WAIT_MAX) as
//! well; the kernel keeps little that it has not sent (`TCP_NOTSENT_LOWAT`, tcp(7)).

mod client;
mod courier;
mod frame;
#[doc(hidden)]
pub mod fuzz;
mod link;
mod outbox;
mod server;
#[cfg(test)]
mod tests;

pub use client::{CarrierClient, OnEnd};
pub use frame::{Frame, FrameError};
pub use link::{CarrierEnd, CarrierStream};
pub use server::{CarrierHandle, CarrierRelay, NotAdopted};
