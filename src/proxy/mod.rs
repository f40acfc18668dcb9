//! The proxy gateway: SOCKS and HTTP for what cannot run a tunnel.
//!
//! What the two ends of a connection say is read and written by machines without a socket or a
//! clock: [`target`] is what every request asks for.

pub mod target;
