//! Corelane: a thread-per-core userspace VPN for Linux.
//!
//! The map, top to bottom; what stands above may use what stands below, not the other way round.
//!
//! - [`cli`]: the command line, one file per command group.
//! - [`demo`]: two hosts, a real server and a real client, measured; `corelane demo`.
//! - [`daemon`]: opens what is privileged, gives the privileges up, starts the workers.
//! - [`config`]: one TOML file and the flags over it, every mistake reported with its place.
//! - [`bench`]: the traffic generator; `corelane bench`.
//! - [`lab`]: hosts in network namespaces, for the demo, the tests and the measurements.
//! - [`control`]: the control thread: `engine`, a state machine of handshakes, sessions, paths and
//!   timers without I/O, and `runtime`, the event loop around it.
//! - [`host`]: links, addresses, routes and rules by netlink; capabilities.
//! - [`dataplane`]: the tunnel worker: loop, to the wire, from the wire, trains, tables.
//! - [`sys`]: the only room with `unsafe`: TUN, UDP batches, steering, namespaces, clocks.
//! - [`telemetry`]: counters, drop reasons, the status report, logging.
//! - [`routing`]: longest prefix match from an inner address to its peer.
//! - [`handshake`]: Noise IKpsk2 with ML-KEM-768, cookies, admission, timestamps; sans-IO.
//! - [`session`]: lane arithmetic, lane keys, counters, replay windows; pure.
//! - [`packet`]: inner packets: parse, split, coalesce, checksums, a router's duties; pure.
//! - [`wire`]: message layouts; pure.
//! - [`limits`]: every size, timer and bound, with their relations asserted at compile time.
//! - [`exit`]: the exit codes that scripts rely on.

pub mod bench;
pub mod cli;
pub mod config;
pub mod control;
pub mod daemon;
pub mod dataplane;
pub mod demo;
pub mod exit;
pub mod handshake;
pub mod host;
pub mod lab;
pub mod limits;
pub mod packet;
mod rate;
pub mod routing;
pub mod session;
pub mod sys;
pub mod telemetry;
pub mod wire;
