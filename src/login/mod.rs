//! Login: the TLS control channel that turns an account into a lease.
//!
//! [`message`] is what the two ends say to each other, as data; [`frame`] is how that is put on a
//! connection, [`tls`] who the two believe each other to be, and [`pki`] an authority of one's own
//! that says so. [`server`] and [`client`] are the two ends; [`invite`] is what an administrator
//! hands over so that a client finds its way. [`carrier`] takes datagrams across
//! where UDP does not get through.

pub mod carrier;
pub mod client;
mod codec;
pub mod frame;
#[doc(hidden)]
pub mod fuzz;
pub mod invite;
pub mod message;
pub mod pki;
pub mod server;
pub mod tls;

#[cfg(test)]
pub(crate) mod testing;
