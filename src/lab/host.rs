//! One host of a laboratory.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::AsRawFd;
use std::process::Command;

use super::LabError;
use crate::sys::netns::{self, NetNamespace};

/// The user namespace that the machine boots with (`PROC_USER_INIT_INO`, linux/proc_ns.h).
const INITIAL_USER_NAMESPACE: &str = "user:[4026531837]";

/// An anonymous network namespace: interfaces, addresses and routes of its own, file system and
/// processes shared with everybody else. It is gone when this handle and every program in it are.
#[derive(Debug)]
pub struct Host {
    name: &'static str,
    namespace: NetNamespace,
}

impl Host {
    /// A new host with nothing but a loopback interface, which is up.
    pub fn create(name: &'static str) -> Result<Self, LabError> {
        let namespace = NetNamespace::create()
            .map_err(LabError::namespace(format!("make the network namespace of {name}")))?;
        Ok(Self { name, namespace })
    }

    /// What it is called in messages.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Its network namespace.
    pub fn namespace(&self) -> &NetNamespace {
        &self.namespace
    }

    /// A command that runs on this host and is killed when the thread that spawns it ends; so
    /// spawn it from a thread that outlives it.
    ///
    /// # Errors
    /// [`LabError::Namespace`] if no file descriptor is left.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Result<Command, LabError> {
        let mut command = Command::new(program);
        netns::command_in(&self.namespace, &mut command)
            .map_err(LabError::namespace(format!("prepare a command for {}", self.name)))?;
        netns::die_with_parent(&mut command);
        Ok(command)
    }

    /// Runs `work` on a fresh thread of this process inside the host's network namespace. Sockets
    /// that it opens belong to the host and may be used anywhere afterwards.
    ///
    /// # Errors
    /// [`LabError::Namespace`] if the thread cannot be started or cannot enter.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, LabError> {
        self.namespace
            .run_in(work)
            .map_err(LabError::namespace(format!("enter the network namespace of {}", self.name)))
    }

    /// The shell command with which the user who started this process enters the host, as long as
    /// this process lives; append a program and its arguments, or nothing for a shell.
    pub fn enter_command(&self) -> String {
        let process = std::process::id();
        let descriptor = self.namespace.as_raw_fd();
        let network = format!("--net=/proc/{process}/fd/{descriptor}");
        if inside_user_namespace() {
            format!("nsenter --user=/proc/{process}/ns/user --preserve-credentials {network}")
        } else {
            format!("nsenter {network}")
        }
    }
}

/// Whether this process is in a user namespace other than the machine's first.
fn inside_user_namespace() -> bool {
    fs::read_link("/proc/self/ns/user")
        .is_ok_and(|target| target.as_os_str() != OsStr::new(INITIAL_USER_NAMESPACE))
}
