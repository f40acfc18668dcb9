//! Accounts: who people and their devices are, and what they may do.
//!
//! [`model`] is the data, the same in memory and in either database. [`change`] is what can happen
//! to it, [`snapshot`] all of it at one moment, [`book`] the same with indexes, [`store`] the
//! database, and [`journal`] the way of changes to it, which outlives crashes and never makes a
//! login wait. [`addresses`] gives devices their inner addresses. [`credentials`] judges what
//! people show to prove who they are. [`service`] puts that together for a running server, and
//! [`operations`] is what administrators do.

pub mod addresses;
pub mod book;
pub mod change;
pub mod credentials;
#[doc(hidden)]
pub mod fuzz;
pub mod journal;
pub mod model;
pub mod names;
pub mod operations;
pub mod refusal;
pub mod secret;
pub mod service;
pub mod snapshot;
pub mod store;
