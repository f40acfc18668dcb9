//! A lock that processes hold on a file (flock(2)).

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Waits until no other open file description holds the lock of this file, and takes it. It is
/// given back when `file` is closed, however the process ends.
///
/// # Errors
/// The file system knows no locks.
pub fn lock(file: &File) -> io::Result<()> {
    loop {
        // SAFETY: no memory is involved, and the descriptor is open as long as `file` is.
        let result = unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX) };
        if result == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Takes the lock of this file if nobody holds it; `false` if somebody does.
///
/// # Errors
/// As [`lock`].
pub fn try_lock(file: &File) -> io::Result<bool> {
    // SAFETY: no memory is involved, and the descriptor is open as long as `file` is.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
        return Ok(true);
    }
    match io::Error::last_os_error() {
        error if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        error => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_lock_is_waited_for() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let first = File::open(file.path()).unwrap();
        lock(&first).unwrap();
        let is_released = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                lock(&File::open(file.path()).unwrap()).unwrap();
                assert!(is_released.load(Ordering::SeqCst));
            });
            std::thread::sleep(Duration::from_millis(50));
            is_released.store(true, Ordering::SeqCst);
            drop(first);
        });
    }

    #[test]
    fn a_lock_that_is_held_is_not_waited_for() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let first = File::open(file.path()).unwrap();
        let second = File::open(file.path()).unwrap();
        assert!(try_lock(&first).unwrap());
        assert!(!try_lock(&second).unwrap());
        drop(first);
        assert!(try_lock(&second).unwrap());
    }
}
