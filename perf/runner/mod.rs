//! What the `perf` command is made of, top to bottom: [`plan`] says what is measured, [`programs`]
//! where the programs are, [`ends`] how each contender is made ready, [`bed`] sets one up between
//! two hosts, [`workload`] drives it with [`iperf`], [`ping`] and Corelane's own traffic generator
//! ([`load`]) in the rates that [`search`] asks for, [`results`] keeps what came out and sums it
//! up, [`targets`] judges it, [`markdown`] and [`plot`] show it.

pub(crate) mod bed;
pub(crate) mod ends;
pub(crate) mod iperf;
pub(crate) mod load;
pub(crate) mod machine;
pub(crate) mod markdown;
pub(crate) mod ping;
pub(crate) mod plan;
pub(crate) mod plot;
pub(crate) mod process;
pub(crate) mod programs;
pub(crate) mod results;
pub(crate) mod search;
pub(crate) mod targets;
pub(crate) mod workload;

/// Why something could not be measured, for people.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;
