//! Accounts: who people and their devices are, and what they may do.
//!
//! [`model`] is the data, the same in memory and in either database. [`credentials`] judges what
//! people show to prove who they are.

pub mod credentials;
pub mod model;
pub mod names;
pub mod refusal;
pub mod secret;
