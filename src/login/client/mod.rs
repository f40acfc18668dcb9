//! The client's end of the control channel.
//!
//! `dialogue` is what is said, as a state machine that is given bytes and gives bytes.
//! [`Channel`] connects and logs in, and waits for the answers; [`LiveChannel`] is what it becomes
//! then: one source of events among others in somebody's event loop.

use std::io;
use std::net::SocketAddr;

use rustls::pki_types::InvalidDnsNameError;
use thiserror::Error;

use crate::handshake::keys::PresharedKey;
use crate::login::codec::MessageError;
use crate::login::frame::FrameError;
use crate::login::message::{LeaseTerms, RefusalCode};
use crate::login::tls::why_unreachable;

mod channel;
mod dialogue;
mod live;
#[cfg(test)]
mod tests;

pub use channel::{Carrier, Channel, Destination, Load};
pub use live::{LiveChannel, News};

/// A login that has succeeded.
#[derive(Debug)]
pub struct Granted {
    /// What the server grants.
    pub terms: LeaseTerms,
    /// What UDP handshakes of this lease must mix in; the server has derived the same.
    pub psk: PresharedKey,
}

/// What the server has refused, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Why, for programs.
    pub code: RefusalCode,
    /// Why, for people, and what mends it.
    pub message: String,
    /// Seconds after which another try makes sense.
    pub retry_after_s: Option<u32>,
}

/// Why a control channel does not do what it should.
#[derive(Debug, Error)]
pub enum ChannelError {
    /// The server's login port is not reached.
    #[error("cannot reach the login port of {name} at {address}: {source}{}", advice(source))]
    Connect {
        /// The server's name.
        name: String,
        /// Its address.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// The name of the server can be in no certificate.
    #[error("{name:?} is no name of a server: {source}")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        source: InvalidDnsNameError,
    },
    /// The server is not who it should be, or does not want this client.
    #[error("{}", why_unreachable(.0))]
    Tls(#[from] rustls::Error),
    /// The server does not grant what was asked for.
    #[error("{}", .0.message)]
    Refused(Refusal),
    /// The server has ended the lease.
    #[error("the server has ended the session: {message}")]
    Ended {
        /// Why, for programs.
        code: RefusalCode,
        /// Why, for people.
        message: String,
    },
    /// The server does not answer in time.
    #[error("the server does not answer")]
    Timeout,
    /// The connection is gone.
    #[error("the connection to the server is lost{}", cause(.0))]
    Lost(Option<io::Error>),
    /// What the server says makes no sense.
    #[error("the server says what this program does not understand: {0}; is it another release?")]
    Nonsense(String),
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "; does the server run, with a `[login]` section?",
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => {
            "; is there a firewall that drops TCP to this port?"
        }
        io::ErrorKind::PermissionDenied => "; a firewall mark needs root or CAP_NET_ADMIN",
        _ => "",
    }
}

fn cause(error: &Option<io::Error>) -> String {
    error.as_ref().map(|error| format!(": {error}")).unwrap_or_default()
}

impl From<FrameError> for ChannelError {
    fn from(error: FrameError) -> Self {
        Self::Nonsense(error.to_string())
    }
}

impl From<MessageError> for ChannelError {
    fn from(error: MessageError) -> Self {
        Self::Nonsense(error.to_string())
    }
}

impl From<io::Error> for ChannelError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Self::Timeout,
            _ => Self::Lost(Some(error)),
        }
    }
}
