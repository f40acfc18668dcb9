//! Accounts: who people and their devices are, and what they may do.
//!
//! [`model`] is the data, the same in memory and in either database.

pub mod model;
pub mod names;
