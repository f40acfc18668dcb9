//! People log in, and are let out: real servers with accounts, and real clients that log in, on
//! hosts of a laboratory. Needs root and the tools of tests/tunnel.

#![expect(clippy::unwrap_used, reason = "a test ends where its set-up fails")]

#[allow(dead_code, reason = "shared with tests/tunnel, which uses all of it")]
#[path = "../tunnel/daemon.rs"]
mod daemon;
#[allow(dead_code, reason = "shared with tests/tunnel, which uses all of it")]
#[path = "../tunnel/harness.rs"]
mod harness;
#[allow(dead_code, reason = "shared with tests/tunnel, which uses all of it")]
#[path = "../tunnel/snapshot.rs"]
mod snapshot;
#[allow(dead_code, reason = "shared with tests/tunnel, which uses all of it")]
#[path = "../tunnel/tools.rs"]
mod tools;

mod site;

mod carrier;
mod disk;
mod first_use;
mod fleet;
mod invites;
mod lease;
mod name_servers;
mod network;
mod refusals;
mod renewal;
mod revocation;
mod several;
mod stop;
