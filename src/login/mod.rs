//! Login: the TLS control channel that turns an account into a lease.
//!
//! [`message`] is what the two ends say to each other, as data.

pub mod message;
