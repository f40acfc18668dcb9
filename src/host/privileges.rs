//! Which capabilities the process keeps (capabilities(7)).
//!
//! Everything privileged is opened first, then [`drop_to`] gives up all capabilities but those
//! that are needed later: for routes and addresses `CAP_NET_ADMIN`. Workers only use what is open
//! and give up the rest with [`drop_all_on_this_thread`]. No step needs more than the process has:
//! an ordinary user with nothing but `CAP_NET_ADMIN` passes all of them.

use std::io;

use caps::{CapSet, Capability, CapsHashSet, errors::CapsError};

use crate::sys;

/// Why privileges could not be given up. The process should not go on.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    /// The kernel refused a change of the capability sets.
    #[error("cannot give up capabilities: {0}")]
    Capabilities(#[from] CapsError),
    /// The kernel refused `PR_SET_NO_NEW_PRIVS`.
    #[error("cannot forbid new privileges: {0}")]
    NoNewPrivs(#[source] io::Error),
}

/// Gives up every capability of the calling thread that is not in `keep`, in every set, and any
/// way to gain one by executing a program. What is in `keep` and held becomes effective. Threads
/// started from then on inherit the result, so call it before there are any.
///
/// The bounding set can only be cut with `CAP_SETPCAP`; without it `no_new_privs` alone keeps an
/// executed program from gaining anything.
///
/// # Errors
/// [`PrivilegeError`].
pub fn drop_to(keep: &[Capability]) -> Result<(), PrivilegeError> {
    let keep: CapsHashSet = keep.iter().copied().collect();
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)? {
        for capability in caps::read(None, CapSet::Bounding)?.difference(&keep) {
            caps::drop(None, CapSet::Bounding, *capability)?;
        }
    }
    for capability in caps::read(None, CapSet::Ambient).unwrap_or_default().difference(&keep) {
        caps::drop(None, CapSet::Ambient, *capability)?;
    }
    let permitted: CapsHashSet =
        caps::read(None, CapSet::Permitted)?.intersection(&keep).copied().collect();
    let inheritable: CapsHashSet =
        caps::read(None, CapSet::Inheritable)?.intersection(&keep).copied().collect();
    // Effective first: it may never exceed permitted.
    caps::set(None, CapSet::Effective, &permitted)?;
    caps::set(None, CapSet::Permitted, &permitted)?;
    caps::set(None, CapSet::Inheritable, &inheritable)?;
    sys::privileges::set_no_new_privs().map_err(PrivilegeError::NoNewPrivs)
}

/// Gives up every capability of the calling thread alone; other threads keep theirs.
///
/// # Errors
/// [`PrivilegeError`].
pub fn drop_all_on_this_thread() -> Result<(), PrivilegeError> {
    drop_to(&[])
}

/// The capabilities of `needed` that the calling thread does not hold.
pub fn missing(needed: &[Capability]) -> Vec<Capability> {
    let held = |capability| caps::has_cap(None, CapSet::Permitted, capability).unwrap_or_default();
    needed.iter().copied().filter(|capability| !held(*capability)).collect()
}

/// What is missing of `needed` and how to mend it, or `None` if nothing is.
pub fn describe_missing(needed: &[Capability]) -> Option<String> {
    let missing = missing(needed);
    if missing.is_empty() {
        return None;
    }
    let program = std::env::current_exe()
        .map_or_else(|_| "corelane".to_owned(), |path| path.display().to_string());
    let names: Vec<String> = missing.iter().map(Capability::to_string).collect();
    let list = names.join(",").to_lowercase();
    let names = names.join(" ");
    Some(format!(
        "this needs {names}: run as root, or `setcap {list}+ep {program}`, or in a systemd unit \
         `AmbientCapabilities={names}`"
    ))
}

#[cfg(test)]
mod tests;
