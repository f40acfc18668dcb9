use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use super::{now, unix_time};

#[test]
fn the_clocks_run_forwards_and_the_wall_clock_is_of_this_century() {
    let first = now();
    assert!(now() >= first);
    let year_2020 = Duration::from_secs(1_577_836_800);
    assert!(unix_time() > year_2020);
}

/// What a suspended machine sleeps through.
const SUSPENDED: Duration = Duration::from_secs(185);

/// What the process sees that wakes up on a machine that was suspended: the clock that suspensions
/// count for is ahead by that time, the other is where it was.
fn be_suspended() -> io::Result<()> {
    // SAFETY: unshare touches no memory.
    check(unsafe { libc::unshare(libc::CLONE_NEWTIME) })?;
    fs::write("/proc/self/timens_offsets", format!("boottime {} 0", SUSPENDED.as_secs()))?;
    let namespace = File::open("/proc/self/ns/time_for_children")?;
    // SAFETY: setns touches no memory but the pages in which the kernel keeps the time.
    check(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWTIME) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Between fork and exec a child has a single thread, so there it can enter a time namespace
/// (time_namespaces(7)).
#[allow(clippy::disallowed_methods, reason = "the clock that is not to be used is asked as well")]
#[test]
fn the_clock_counts_the_time_that_the_machine_is_suspended() {
    let (before, awake_before) = (now(), Instant::now());
    let wake_up = move || {
        be_suspended()?;
        let (passed, awake) = (now() - before, awake_before.elapsed());
        let counts = passed >= SUSPENDED && awake < SUSPENDED;
        if counts { Ok(()) } else { Err(io::Error::other(format!("{passed:?}, {awake:?}"))) }
    };
    let mut command = Command::new("true");
    // SAFETY: what the closure allocates comes from an allocator that glibc keeps usable in a
    // forked child; it takes no lock of ours.
    unsafe { command.pre_exec(wake_up) };
    let status = command.status().expect("this test makes time namespaces: run it as root");
    assert!(status.success());
}
