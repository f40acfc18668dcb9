//! The control thread: decides who may talk to whom, and tells the workers.
//!
//! [`engine`] is the state machine of handshakes, sessions, paths and timers, without any I/O.
//! [`runtime`] is the thread around it: sockets, worker channels, signals, the status socket.

pub mod engine;
pub mod runtime;

#[cfg(test)]
pub(crate) mod simulator;
