//! The proxy gateway: SOCKS and HTTP for what cannot run a tunnel.
//!
//! A [`Gateway`] has workers, which share nothing on the way of a byte: each has listening sockets
//! of its own, and keeps the clients that come there. A client says what it wants ([`front`]), the
//! origin is reached ([`dial`]) by the way that rules say ([`upstream`]), and bytes pass
//! ([`relay`]), or requests of HTTP one by one ([`forward`]); `worker` is the event loop around
//! that, [`stream`] what it reads and writes, [`settings`] what it is told, and [`records`] tells
//! others of it.
//!
//! What the two ends of a connection say is read and written by machines without a socket or a
//! clock: [`target`] is what every request asks for, [`detect`] tells the protocols apart,
//! [`socks`] is SOCKS at either end, [`http`] is HTTP/1.1, [`header`] is the PROXY protocol, and
//! [`auth_endpoint`] is what other proxies ask about their clients.

pub mod access;
pub mod auth_endpoint;
pub mod counters;
mod crowd;
pub mod detect;
pub mod dial;
pub mod forward;
pub mod front;
#[doc(hidden)]
pub mod fuzz;
mod gateway;
pub mod header;
pub mod http;
pub mod origins;
mod reader;
pub mod records;
pub mod relay;
pub mod settings;
pub mod socks;
pub mod stream;
pub mod target;
pub mod upstream;
mod worker;

pub use gateway::{Gateway, GatewayError, Listeners};
