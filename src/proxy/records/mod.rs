//! The access log: what clients wanted, and what came of it.
//!
//! A worker has a `Ledger` for each connection, which begins a `Record` with a wish and closes
//! it when that is over. Where nobody wants to know, nothing is noted and nothing is allocated.
//! Workers write no files: a closed record goes through a bounded channel to one thread, which
//! writes lines in batches. When the channel is full a record is dropped, and counted.

mod files;
mod ledger;
mod line;
mod record;
mod writer;

pub(super) use files::{AccessFiles, OpenError};
pub(super) use ledger::Ledger;
pub use line::Format;
pub(super) use record::{Means, Outcome, Record, Via};
pub(super) use writer::{AccessLog, Writer};

#[cfg(test)]
mod tests;
