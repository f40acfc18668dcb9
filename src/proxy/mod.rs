//! The proxy gateway: SOCKS and HTTP for what cannot run a tunnel.
//!
//! What the two ends of a connection say is read and written by machines without a socket or a
//! clock: [`target`] is what every request asks for, [`detect`] tells the protocols apart,
//! [`socks`] is SOCKS at either end, [`http`] is HTTP/1.1, and [`header`] is the PROXY protocol.

pub mod detect;
#[doc(hidden)]
pub mod fuzz;
pub mod header;
pub mod http;
mod reader;
pub mod socks;
pub mod target;
