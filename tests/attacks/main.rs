//! What a hostile network, a hostile peer and bad luck do to a tunnel that is up: the real binary
//! between network namespaces, with an attacker on a host of its own. docs/threat-model.md says
//! which attack each test is the answer to. Needs root and the tools of tests/tunnel.

#![expect(clippy::unwrap_used, reason = "a test ends where its set-up fails")]

#[allow(dead_code, reason = "shared with tests/tunnel, which uses all of it")]
#[path = "../tunnel/daemon.rs"]
mod daemon;
#[allow(dead_code, reason = "shared with tests/tunnel, which uses all of it")]
#[path = "../tunnel/harness.rs"]
mod harness;
#[allow(dead_code, reason = "shared with tests/tunnel, which uses all of it")]
#[path = "../tunnel/load.rs"]
mod load;
#[path = "../tunnel/snapshot.rs"]
mod snapshot;
#[allow(dead_code, reason = "shared with tests/tunnel, which uses all of it")]
#[path = "../tunnel/tools.rs"]
mod tools;

mod attacker;
mod flooder;
mod insider;
mod packets;
mod stage;
mod wiretap;

mod datagrams;
mod floods;
mod forgeries;
mod gone;
mod handshakes;
mod inner;
mod lives;
mod log;
mod reloads;
mod soak;
mod starved;
mod trains;
