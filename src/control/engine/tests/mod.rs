//! Two engines with their workers, joined by a scripted network, in virtual time:
//! [`crate::control::simulator`] without weather.

mod admitted;
mod carrier;
mod connecting;
mod lifecycle;
mod lossy;
mod paths;
mod policies;
mod sessions;

use std::time::Duration;

use super::*;
use crate::control::simulator::{Packet, RELAY, Who, World};

const SECOND: Duration = Duration::from_secs(1);

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}
