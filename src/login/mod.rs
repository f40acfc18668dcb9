//! Login: the TLS control channel that turns an account into a lease.
//!
//! [`carrier`] takes datagrams across where UDP does not get through.
//! [`message`] is what the two ends say to each other, as data.

pub mod carrier;
pub mod message;
