//! The traffic generator behind `corelane bench` and the measurements of `corelane demo`.
//!
//! A client opens a control connection (TCP), describes the test in one line of JSON and gets a
//! random token back. It opens the data streams (TCP connections that present the token, or UDP
//! sockets whose first datagram does), and once the server has matched them all both ends start.
//! From then on they do the same thing (`conduct`): one thread per stream moves data, the
//! control connection carries a line per second and, at the end, each end's report. What counts
//! is what the receiver saw.
//!
//! Nothing here waits without a bound: every socket has a timeout of [`crate::limits::BENCH_TICK`]
//! or less, every test a latest end, and a server bounds its tests and its unidentified
//! connections. Data is neither encrypted nor authenticated beyond the token: a test server
//! belongs on a network one trusts.

mod client;
mod conduct;
mod error;
#[doc(hidden)]
pub mod fuzz;
mod gather;
mod latency;
mod line;
mod pacer;
mod protocol;
mod rate_search;
mod report;
mod sequence;
mod server;
pub mod statistics;
mod stop;
mod tcp;
mod udp;
pub mod units;

pub use client::run_test;
pub use error::BenchError;
pub use latency::{LatencyReport, LatencySpec, run_latency};
pub use protocol::{Direction, Protocol, TestSpec};
pub use rate_search::{Attempt, SearchReport, search_rate};
pub use report::{
    BENCH_SCHEMA, DatagramSummary, EndSummary, Interval, StreamReport, TestReport, render_interval,
};
pub use server::BenchServer;
pub use stop::StopFlag;

#[cfg(test)]
mod tests;
