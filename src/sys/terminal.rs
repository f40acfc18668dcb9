//! What somebody types: waited for with an end in sight, and not shown if it is a secret.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

/// Waits until there is something to read, the other end is closed, or the time is over. Returns
/// whether reading does not wait.
///
/// # Errors
/// The kernel's answer.
pub fn wait_readable(input: BorrowedFd<'_>, time: Duration) -> io::Result<bool> {
    let mut wanted = libc::pollfd { fd: input.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let time = libc::c_int::try_from(time.as_millis()).unwrap_or(libc::c_int::MAX);
    // SAFETY: the pointer is to one structure that lives as long as the call.
    match unsafe { libc::poll(&mut wanted, 1, time) } {
        0.. => Ok(wanted.revents != 0),
        _ => match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::Interrupted => Ok(false),
            error => Err(error),
        },
    }
}

/// A terminal that does not show what is typed, until this is dropped.
#[derive(Debug)]
pub struct Hidden<'a> {
    terminal: BorrowedFd<'a>,
    before: libc::termios,
}

impl<'a> Hidden<'a> {
    /// Hides what is typed from now on (`ECHO` in termios(3)).
    ///
    /// # Errors
    /// The kernel's answer: `ENOTTY` if it is no terminal.
    pub fn begin(terminal: &'a impl AsFd) -> io::Result<Self> {
        let terminal = terminal.as_fd();
        let mut before = MaybeUninit::uninit();
        // SAFETY: the pointer is to room for one structure.
        if unsafe { libc::tcgetattr(terminal.as_raw_fd(), before.as_mut_ptr()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call has succeeded, and so filled it in.
        let before: libc::termios = unsafe { before.assume_init() };
        let hidden = Self { terminal, before };
        hidden.set(libc::termios { c_lflag: before.c_lflag & !libc::ECHO, ..before })?;
        Ok(hidden)
    }

    fn set(&self, to: libc::termios) -> io::Result<()> {
        // SAFETY: the pointer is to a structure that lives as long as the call.
        match unsafe { libc::tcsetattr(self.terminal.as_raw_fd(), libc::TCSANOW, &to) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for Hidden<'_> {
    fn drop(&mut self) {
        // Nothing is left to be done for a terminal that has gone.
        let _ = self.set(self.before);
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn waiting_ends_with_something_to_read_with_the_end_or_with_the_time() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let (short, long) = (Duration::from_millis(5), Duration::from_secs(60));
        assert!(!wait_readable(near.as_fd(), short).unwrap());
        io::Write::write_all(&mut far, b"x").unwrap();
        assert!(wait_readable(near.as_fd(), long).unwrap());
        drop((far, io::Read::read(&mut &near, &mut [0]).unwrap()));
        assert!(wait_readable(near.as_fd(), long).unwrap(), "the end can be read");
    }

    #[test]
    fn only_a_terminal_can_hide() {
        let file = File::open("/dev/null").unwrap();
        assert_eq!(Hidden::begin(&file).unwrap_err().raw_os_error(), Some(libc::ENOTTY));
    }
}
