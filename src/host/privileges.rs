//! Which capabilities the process keeps (capabilities(7)).
//!
//! Everything privileged is opened first, then [`drop_to`] gives up all capabilities but those
//! that are needed later: for routes and addresses `CAP_NET_ADMIN`. Other threads only use what is
//! open and give up the rest with [`drop_all_on_this_thread`]. No step needs more than the process
//! has: an ordinary user with nothing but `CAP_NET_ADMIN` passes all of them.
//!
//! A [`Reserve`] is for what is needed at moments: it is held without effect but for those.

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
    narrow(keep, None)
}

/// As [`drop_to`], but holds the first capability of `candidates` that is in effect now in reserve,
/// if `is_needed` says so, which is asked while only `keep` is in effect.
///
/// # Errors
/// [`PrivilegeError`].
pub fn drop_to_with_reserve(
    keep: &[Capability],
    candidates: &[Capability],
    is_needed: impl FnOnce() -> bool,
) -> Result<Reserve, PrivilegeError> {
    let in_effect = caps::read(None, CapSet::Effective)?;
    let reserve = Reserve(candidates.iter().copied().find(|it| in_effect.contains(it)));
    narrow(keep, reserve.0)?;
    if reserve.0.is_none() || is_needed() {
        return Ok(reserve);
    }
    narrow(keep, None)?;
    Ok(Reserve(None))
}

/// A capability that is held without effect but while it is used, or none.
#[derive(Debug)]
pub struct Reserve(Option<Capability>);

impl Reserve {
    /// What it is.
    pub fn capability(&self) -> Option<Capability> {
        self.0
    }

    /// Does `work` with the capability in effect on the calling thread, which must be the one that
    /// holds it. Where the kernel refuses, `work` is done without.
    pub fn with<T>(&self, work: impl FnOnce() -> T) -> T {
        let Some(capability) = self.0 else { return work() };
        if let Err(error) = caps::raise(None, CapSet::Effective, capability) {
            log::warn!("{capability} cannot be used: {error}");
        }
        let done = work();
        if let Err(error) = caps::drop(None, CapSet::Effective, capability) {
            log::warn!("{capability} stays in effect: {error}");
        }
        done
    }
}

/// Does `start`, which starts another program, so that this program has `capability` as far as the
/// calling thread has it, whoever runs it: root passes its capabilities on, another user's are lost
/// unless they are ambient.
pub(super) fn lend<T>(capability: Capability, start: impl FnOnce() -> T) -> T {
    let sets = [CapSet::Inheritable, CapSet::Ambient];
    let lacking = sets.map(|set| (set, !caps::has_cap(None, set, capability).unwrap_or(true)));
    for (set, _) in lacking.iter().filter(|(_, is_lacking)| *is_lacking) {
        if let Err(error) = caps::raise(None, *set, capability) {
            log::debug!("{capability} cannot be lent to another program: {error}");
        }
    }
    let started = start();
    for (set, _) in lacking.iter().rev().filter(|(_, is_lacking)| *is_lacking) {
        if let Err(error) = caps::drop(None, *set, capability) {
            log::warn!("{capability} stays for programs that are started: {error}");
        }
    }
    started
}

/// Leaves what is in `keep` in effect, `reserve` held beside it, and nothing else.
fn narrow(keep: &[Capability], reserve: Option<Capability>) -> Result<(), PrivilegeError> {
    let keep: CapsHashSet = keep.iter().copied().collect();
    let held: CapsHashSet = keep.iter().copied().chain(reserve).collect();
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)? {
        for capability in caps::read(None, CapSet::Bounding)?.difference(&keep) {
            caps::drop(None, CapSet::Bounding, *capability)?;
        }
    }
    for capability in caps::read(None, CapSet::Ambient).unwrap_or_default().difference(&keep) {
        caps::drop(None, CapSet::Ambient, *capability)?;
    }
    let permitted: CapsHashSet =
        caps::read(None, CapSet::Permitted)?.intersection(&held).copied().collect();
    let effective: CapsHashSet = permitted.intersection(&keep).copied().collect();
    let inheritable: CapsHashSet =
        caps::read(None, CapSet::Inheritable)?.intersection(&keep).copied().collect();
    // Effective first: it may never exceed permitted.
    caps::set(None, CapSet::Effective, &effective)?;
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
