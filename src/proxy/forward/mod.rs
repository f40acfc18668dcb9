//! Forwards requests of HTTP, one at a time for each client.
//!
//! An [`Errand`] is a request that is to be forwarded, a `Passing` moves it and its answer
//! between two connections, each direction through a `Flow`, and the `Pool` keeps connections
//! to origins for further requests.

mod errand;
mod flow;
mod passing;
mod pool;

pub use errand::Errand;
pub(super) use flow::Flow;
pub(super) use passing::{Mishap, Pace, Passing, Waits};
pub(super) use pool::{Origin, Pool};

#[cfg(test)]
mod tests;
