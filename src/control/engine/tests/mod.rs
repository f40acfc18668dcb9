//! Two engines, joined by a scripted network and fake workers, in virtual time.
//!
//! How it works: [`World`] holds a server and a client. Fake workers obey commands as tunnel
//! workers do (sessions, path addresses, lanes, path messages) but "seal" packets by naming the
//! session. Packets travel for a fixed time unless a filter loses them. The clock jumps from one
//! event to the next, so hours pass in milliseconds, and equal seeds give equal runs.

mod connecting;
mod lifecycle;
mod paths;
mod sessions;
mod world;

use std::time::Duration;

use super::*;
use world::{Packet, Payload, World};

const SECOND: Duration = Duration::from_secs(1);

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}
