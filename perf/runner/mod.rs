//! What the `perf` command is made of, top to bottom: [`plan`] says what is measured, [`bed`] sets
//! a contender up between two hosts, [`workload`] drives it with [`iperf`], [`ping`] and Corelane's
//! own traffic generator, [`results`] keeps and prints what came out.

pub(crate) mod bed;
pub(crate) mod iperf;
pub(crate) mod machine;
pub(crate) mod ping;
pub(crate) mod plan;
pub(crate) mod process;
pub(crate) mod results;
pub(crate) mod workload;

/// Why something could not be measured, for people.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;
