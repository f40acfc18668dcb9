//! Message layouts: what lies where in a datagram and in a decrypted plaintext.
//!
//! Everything here is pure: bytes in, small valid structs out, and back. No parser panics, whatever
//! the input; all integers are big endian. The layouts are specified in `docs/protocol.md` and
//! their sizes are asserted at compile time.

mod data;
mod features;
mod fields;
#[doc(hidden)]
pub mod fuzz;
mod handshake;
mod inner;
mod path;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod vectors;

use std::fmt;

use thiserror::Error;

pub use data::DataHeader;
pub use features::Features;
pub use handshake::{
    COOKIE_REPLY_LEN, CookieReply, INITIATION_LEN, INITIATION_NOISE_LEN, INITIATION_PAYLOAD_LEN,
    Initiation, InitiationPayload, PROTOCOL_VERSION, RESPONSE_LEN, RESPONSE_NOISE_LEN,
    RESPONSE_PAYLOAD_LEN, Response, ResponsePayload,
};
pub use inner::{FLAG_CONTINUES_RUN, FLAG_PARTIAL_CHECKSUM, FLAGS, Inner, classify};
pub use path::{PATH_MESSAGE_LEN, PathMessage};

/// Names a session to the side that chose it; the other side writes it into every message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionIndex(pub u32);

impl fmt::Display for SessionIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// The kinds of datagram: the first byte of each. The kernel's steering program and
/// [`MessageType::of`] read the same byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum MessageType {
    /// A client asks for a session.
    Initiation = 1,
    /// The server grants one.
    Response = 2,
    /// The server asks the client to prove its address first.
    CookieReply = 3,
    /// A sealed packet of a session.
    Data = 4,
}

impl MessageType {
    /// The type that a datagram's first byte names, or `None` for an empty or unknown one.
    #[inline]
    pub fn of(datagram: &[u8]) -> Option<Self> {
        match datagram.first()? {
            1 => Some(Self::Initiation),
            2 => Some(Self::Response),
            3 => Some(Self::CookieReply),
            4 => Some(Self::Data),
            _ => None,
        }
    }
}

/// Why bytes are not the message they were taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum WireError {
    /// Fewer bytes than the layout has.
    #[error("message is cut short: {have} of {need} bytes")]
    Truncated {
        /// Bytes the layout needs.
        need: usize,
        /// Bytes there are.
        have: usize,
    },
    /// More bytes than the layout has.
    #[error("message is too long: {have} bytes where {need} are expected")]
    TooLong {
        /// Bytes the layout has.
        need: usize,
        /// Bytes there are.
        have: usize,
    },
    /// The type byte names no message, or another one than was asked for.
    #[error("message type {0} is unknown here")]
    UnknownType(u8),
    /// The far side speaks another version of the protocol.
    #[error("protocol version {0} is not supported")]
    UnknownVersion(u8),
    /// Bytes reserved for later versions were not zero.
    #[error("reserved bytes are not zero")]
    ReservedNotZero,
}
