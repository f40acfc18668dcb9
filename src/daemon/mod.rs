//! The daemon: opens what is privileged, gives up the privileges, starts the workers and runs the
//! control thread, which is the thread that called.

mod error;
mod notify;
mod pool;
mod reload;
mod resolve;
mod serve;
mod tunnel;
mod up;

use rand::TryRngCore;
use rand::rngs::OsRng;

pub use error::DaemonError;
pub use serve::serve;
pub use up::up;

/// Unpredictable bytes that all of an engine's keys come from.
fn seed() -> Result<[u8; 32], DaemonError> {
    let mut seed = [0; 32];
    let filled = OsRng.try_fill_bytes(&mut seed);
    filled.map_err(std::io::Error::other).map_err(DaemonError::io("reading random bytes"))?;
    Ok(seed)
}
