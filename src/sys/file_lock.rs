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

/// A lock that is held until this is dropped. It is given back by name then: closing the file is
/// not enough while a program that is just being started has a copy of the descriptor.
#[derive(Debug)]
pub struct FileLock(File);

impl FileLock {
    /// Takes the lock of this file if nobody holds it; `None` if somebody does.
    ///
    /// # Errors
    /// As [`lock`].
    pub fn try_take(file: File) -> io::Result<Option<Self>> {
        // SAFETY: no memory is involved, and the descriptor is open as long as `file` is.
        if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
            return Ok(Some(Self(file)));
        }
        match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            error => Err(error),
        }
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        // SAFETY: no memory is involved, and the descriptor is open as long as the file is. It
        // cannot fail for a lock that is held.
        unsafe { libc::flock(self.0.as_raw_fd(), libc::LOCK_UN) };
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
        let take = || FileLock::try_take(File::open(file.path()).unwrap()).unwrap();
        let first = take();
        assert!(first.is_some());
        assert!(take().is_none());
        drop(first);
        assert!(take().is_some());
    }
}
