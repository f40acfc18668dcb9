//! The tunnel worker: one pinned thread that moves packets between its TUN queue and its sockets.

pub mod messages;
