//! What people show to prove who they are, and how it is judged.
//!
//! Everything here is a function of its arguments: time and randomness are passed in.

pub mod backoff;
pub mod demand;
pub mod password;
pub mod recovery;
pub mod token;
pub mod totp;
