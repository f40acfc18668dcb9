//! SOCKS 5 (RFC 1928, RFC 1929), 4 and 4A, without a socket.
//!
//! [`server`] is the end that is asked, [`client`] the one that asks, and [`reply`] how a request
//! ended. [`datagram`] is the header of what goes through a UDP association, [`association`] who
//! may send through it, and [`bind`] who may come to a port that a client had opened.
//!
//! GSSAPI, which RFC 1928 section 3 demands, is not offered: no client insists on it. Neither are
//! fragments of datagrams, which section 7 leaves open, nor BIND by SOCKS 4.

pub mod address;
pub mod association;
pub mod bind;
pub mod client;
pub mod datagram;
pub mod reply;
pub mod server;
#[cfg(test)]
mod tests;

use crate::accounts::secret::Secret;

/// VER of SOCKS 5.
const VERSION_5: u8 = 5;
/// VN of SOCKS 4.
const VERSION_4: u8 = 4;
/// VER of user and password (RFC 1929 section 2).
const PASSWORD_VERSION: u8 = 1;
/// METHOD: no authentication (RFC 1928 section 3).
const METHOD_NONE: u8 = 0;
/// METHOD: user and password.
const METHOD_PASSWORD: u8 = 2;
/// METHOD: none of those that the client offered.
const METHOD_REFUSED: u8 = 0xff;
/// CMD (RFC 1928 section 4).
const CONNECT: u8 = 1;
const BIND: u8 = 2;
const ASSOCIATE: u8 = 3;

/// A user and a password. `Debug` does not print the password, and it is wiped when dropped.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// The user, which may be empty.
    pub user: String,
    /// The password, which may be empty.
    pub password: Secret,
}
