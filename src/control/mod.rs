//! The control thread: decides who may talk to whom, and tells the workers.
//!
//! [`engine`] is the state machine of handshakes, sessions, paths and timers, without any I/O.

pub mod engine;
