//! Network and user namespaces (network_namespaces(7), user_namespaces(7)), and how child
//! processes get into them and die with us.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::thread;

use thiserror::Error;

use super::link;

/// An anonymous network namespace. It lives as long as this handle, a thread or process inside,
/// or a socket made inside; no name of it is left in the file system.
#[derive(Debug)]
pub struct NetNamespace {
    file: OwnedFd,
}

/// Why a user namespace could not be entered.
#[derive(Debug, Error)]
pub enum UserNamespaceError {
    /// The process has more than one thread, and the kernel moves single-threaded ones only.
    #[error("a user namespace must be entered before the process starts its first thread")]
    Threads,
    /// User namespaces are forbidden here.
    #[error(
        "unprivileged user namespaces are not allowed here ({source}): run as root, or allow them \
         with `sysctl -w kernel.unprivileged_userns_clone=1`, `sysctl -w user.max_user_namespaces=\
         1000` or, on Ubuntu, `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`"
    )]
    Forbidden {
        /// The kernel's answer.
        source: io::Error,
    },
    /// A step on the way failed.
    #[error("{operation} failed while entering a user namespace: {source}")]
    Refused {
        /// What was attempted.
        operation: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl NetNamespace {
    /// Makes a namespace with nothing in it but a loopback interface, which is up. The calling
    /// thread stays where it is.
    ///
    /// # Errors
    /// `EPERM` without `CAP_SYS_ADMIN`, `ENOSPC` beyond `user.max_net_namespaces`.
    pub fn create() -> io::Result<Self> {
        on_a_fresh_thread(|| {
            // SAFETY: unshare touches no memory; the thread is ours alone and ends right after.
            check(unsafe { libc::unshare(libc::CLONE_NEWNET) })?;
            link::bring_up("lo")?;
            Self::current()
        })?
    }

    /// The namespace the calling thread is in.
    ///
    /// # Errors
    /// If `/proc` is not mounted.
    pub fn current() -> io::Result<Self> {
        Ok(Self { file: File::open("/proc/thread-self/ns/net")?.into() })
    }

    /// Where other processes find the namespace, as `nsenter --net=PATH` takes it, for as long as
    /// this handle and this process live.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()))
    }

    /// Moves the calling thread into the namespace; threads and processes it starts follow.
    ///
    /// # Errors
    /// `EPERM` without `CAP_SYS_ADMIN` over the namespace and in the thread's own user namespace.
    pub fn enter_current_thread(&self) -> io::Result<()> {
        enter(self.file.as_raw_fd())
    }

    /// Runs `work` on a fresh thread inside the namespace and waits for it. A panic of `work`
    /// continues in the caller.
    ///
    /// # Errors
    /// If the thread cannot be started or cannot enter.
    pub fn run_in<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        on_a_fresh_thread(|| {
            self.enter_current_thread()?;
            Ok(work())
        })?
    }
}

impl AsFd for NetNamespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl AsRawFd for NetNamespace {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

/// Enters a fresh user namespace as its root, with fresh network and mount namespaces that it
/// rules over. What this process may do outside of them does not change.
///
/// # Errors
/// See [`UserNamespaceError`]. After [`UserNamespaceError::Refused`] the process may already be
/// inside and should exit.
pub fn enter_user_namespace() -> Result<(), UserNamespaceError> {
    // SAFETY: these calls only read the process's credentials.
    let (user, group) = unsafe { (libc::geteuid(), libc::getegid()) };
    let flags = libc::CLONE_NEWUSER | libc::CLONE_NEWNET | libc::CLONE_NEWNS;
    // SAFETY: unshare touches no memory of ours.
    check(unsafe { libc::unshare(flags) }).map_err(|source| match source.raw_os_error() {
        Some(libc::EINVAL) => UserNamespaceError::Threads,
        Some(libc::EPERM | libc::ENOSPC | libc::EUSERS) => UserNamespaceError::Forbidden { source },
        _ => UserNamespaceError::Refused { operation: "unshare", source },
    })?;
    // setgroups must be given up before an unprivileged process may map its group.
    let steps = [
        ("/proc/self/setgroups", "deny".to_owned()),
        ("/proc/self/uid_map", format!("0 {user} 1")),
        ("/proc/self/gid_map", format!("0 {group} 1")),
    ];
    for (path, content) in steps {
        fs::write(path, content).map_err(|source| match source.kind() {
            // Ubuntu's AppArmor lets the namespace be made and then takes its powers away.
            io::ErrorKind::PermissionDenied => UserNamespaceError::Forbidden { source },
            _ => UserNamespaceError::Refused { operation: path, source },
        })?;
    }
    link::bring_up("lo").map_err(|source| match source.kind() {
        io::ErrorKind::PermissionDenied => UserNamespaceError::Forbidden { source },
        _ => UserNamespaceError::Refused { operation: "bringing the loopback up", source },
    })
}

/// Makes `command` run inside the namespace, which it keeps alive.
///
/// # Errors
/// If no file descriptor is left.
pub fn command_in(namespace: &NetNamespace, command: &mut Command) -> io::Result<()> {
    let file = namespace.file.try_clone()?;
    // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
    unsafe { command.pre_exec(move || enter(file.as_raw_fd())) };
    Ok(())
}

/// Makes the kernel kill the child of `command` (`SIGKILL`) as soon as the thread that spawned it
/// ends, in whatever way (`PR_SET_PDEATHSIG`, prctl(2)). So spawn it from a thread that outlives
/// it, best the main thread.
pub fn die_with_parent(command: &mut Command) {
    let parent = std::process::id();
    let arrange = move || {
        // SAFETY: prctl with PR_SET_PDEATHSIG takes integers only.
        check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })?;
        // The parent may have died before the call above: then nobody would send the signal.
        // SAFETY: getppid only reads.
        if unsafe { libc::getppid() } as u32 == parent {
            Ok(())
        } else {
            Err(io::Error::from_raw_os_error(libc::ESRCH))
        }
    };
    // SAFETY: between fork and exec the closure makes two system calls and allocates nothing.
    unsafe { command.pre_exec(arrange) };
}

fn enter(namespace: RawFd) -> io::Result<()> {
    // SAFETY: setns touches no memory; a descriptor that is no namespace is an error.
    check(unsafe { libc::setns(namespace, libc::CLONE_NEWNET) })
}

/// Runs `work` on a thread of its own, so that what it does to its namespaces ends with it.
fn on_a_fresh_thread<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, work)?;
        match thread.join() {
            Ok(value) => Ok(value),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
