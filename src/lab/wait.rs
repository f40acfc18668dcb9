//! Waiting for something that another process or the kernel does.

use std::thread;
use std::time::Duration;

use crate::sys::clock;

/// How long to pause between two looks.
const PAUSE: Duration = Duration::from_millis(5);

/// What was waited for did not come.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("waited {within:?} in vain for {what}")]
pub struct WaitTimeout {
    /// What was awaited.
    pub what: String,
    /// For how long.
    pub within: Duration,
}

/// Calls `probe` again and again until it returns something, at least once and for at most
/// `within`; `what` names the awaited thing in the error.
///
/// # Errors
/// [`WaitTimeout`] when the time is over.
pub fn wait_until<T>(
    within: Duration,
    what: &str,
    mut probe: impl FnMut() -> Option<T>,
) -> Result<T, WaitTimeout> {
    let started = clock::now();
    loop {
        if let Some(found) = probe() {
            return Ok(found);
        }
        if clock::now().duration_since(started) >= within {
            return Err(WaitTimeout { what: what.to_owned(), within });
        }
        thread::sleep(PAUSE);
    }
}
