//! An alarm clock for an event loop.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use super::clock;

/// Becomes readable at a time of [`clock::now`] (timerfd_create(2) on `CLOCK_BOOTTIME`).
///
/// The timeout of epoll_wait(2) stands still while the machine is suspended, so whoever sleeps by
/// it for a minute sleeps on for what is left of the minute after the machine has woken up. An
/// alarm that fell due meanwhile goes off at once.
#[derive(Debug)]
pub struct Alarm {
    timer: OwnedFd,
    set_for: Option<Instant>,
}

impl Alarm {
    /// An alarm that is not set.
    ///
    /// # Errors
    /// `EMFILE` or `ENFILE` if no descriptor is left.
    pub fn new() -> io::Result<Self> {
        let flags = libc::TFD_NONBLOCK | libc::TFD_CLOEXEC;
        // SAFETY: timerfd_create takes integers only.
        let timer = unsafe { libc::timerfd_create(libc::CLOCK_BOOTTIME, flags) };
        if timer < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new, and nobody else has it.
        let timer = unsafe { OwnedFd::from_raw_fd(timer) };
        Ok(Self { timer, set_for: None })
    }

    /// Goes off at `at` and not before, or never; a time that has passed is now. Takes the place
    /// of what was set before, and makes the descriptor unreadable until then.
    ///
    /// # Errors
    /// None that is known of; the kernel's answer is passed on.
    pub fn set(&mut self, at: Option<Instant>) -> io::Result<()> {
        let wait = at.map(|at| at.saturating_duration_since(clock::now()));
        // One that has gone off is set anew, so that whoever waits for edges sees another.
        if at == self.set_for && wait != Some(Duration::ZERO) {
            return Ok(());
        }
        // Zero would mean never.
        let wait = wait.map_or(Duration::ZERO, |wait| wait.max(Duration::from_nanos(1)));
        let timer = libc::itimerspec {
            it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 },
            it_value: libc::timespec {
                tv_sec: libc::time_t::try_from(wait.as_secs()).unwrap_or(libc::time_t::MAX),
                tv_nsec: wait.subsec_nanos().into(),
            },
        };
        let fd = self.timer.as_raw_fd();
        // SAFETY: `timer` is a live itimerspec that the call reads; no former value is asked for.
        if unsafe { libc::timerfd_settime(fd, 0, &raw const timer, std::ptr::null_mut()) } < 0 {
            return Err(io::Error::last_os_error());
        }
        self.set_for = at;
        Ok(())
    }
}

impl AsRawFd for Alarm {
    fn as_raw_fd(&self) -> RawFd {
        self.timer.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, BorrowedFd};

    use super::*;
    use crate::sys::testing::{is_readable, wait_readable};

    impl AsFd for Alarm {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.timer.as_fd()
        }
    }

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn an_alarm_goes_off_at_its_time_and_not_before() {
        let mut alarm = Alarm::new().unwrap();
        assert!(!is_readable(&alarm));
        let at = clock::now() + MS * 30;
        alarm.set(Some(at)).unwrap();
        assert!(wait_readable(&alarm));
        assert!(clock::now() >= at);
        assert!(is_readable(&alarm), "until it is set anew");
        alarm.set(Some(at + MS * 60_000)).unwrap();
        assert!(!is_readable(&alarm));
        alarm.set(Some(at)).unwrap();
        assert!(wait_readable(&alarm), "a time that has passed is now");
        alarm.set(None).unwrap();
        assert!(!is_readable(&alarm));
    }

    /// `/proc/PID/fdinfo` (proc(5)) tells what a timer goes by.
    #[test]
    fn an_alarm_goes_by_the_clock_that_counts_suspensions() {
        let alarm = Alarm::new().unwrap();
        let path = format!("/proc/self/fdinfo/{}", alarm.as_raw_fd());
        let info = std::fs::read_to_string(path).unwrap();
        let clock = format!("clockid: {}", libc::CLOCK_BOOTTIME);
        assert!(info.lines().any(|line| line == clock), "{info}");
    }
}
