//! Accounts: who people and their devices are, and what they may do.
//!
//! [`model`] is the data, the same in memory and in either database. [`credentials`] judges what
//! people show to prove who they are. [`change`] is what can happen to the data, [`snapshot`] all
//! of it at one moment, [`store`] the database, and [`journal`] the way of changes to it, which
//! outlives crashes and never makes a login wait. [`addresses`] gives devices their inner
//! addresses.

pub mod addresses;
pub mod change;
pub mod credentials;
pub mod journal;
pub mod model;
pub mod names;
pub mod refusal;
pub mod secret;
pub mod snapshot;
pub mod store;
