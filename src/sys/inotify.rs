//! Hearing that files change (inotify(7)).

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Room for some hundred events.
const BUFFER_LEN: usize = 16 * 1024;
/// What a directory tells: a file in it is replaced, written or gone.
const IN_A_DIRECTORY: u32 =
    libc::IN_CREATE | libc::IN_MOVED_TO | libc::IN_DELETE | libc::IN_CLOSE_WRITE;

/// Hears of changes to files in a directory, or to files by themselves. It never waits.
#[derive(Debug)]
pub struct FileWatch(File);

impl FileWatch {
    /// Watches nothing yet.
    ///
    /// # Errors
    /// The kernel's answer: a user may have a bounded number of these.
    pub fn open() -> io::Result<Self> {
        // SAFETY: the call takes flags only.
        let fd = unsafe { libc::inotify_init1(libc::IN_NONBLOCK | libc::IN_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor, and nobody else knows it.
        Ok(Self(unsafe { File::from_raw_fd(fd) }))
    }

    /// Hears from now on of files in the directory `path`, or of the file `path` where something
    /// else is mounted over what the directory has, for then the directory hears nothing.
    ///
    /// # Errors
    /// The kernel's answer, such as `NotFound`.
    pub fn watch(&self, path: &Path) -> io::Result<()> {
        let is_directory = path.is_dir();
        let path = CString::new(path.as_os_str().as_bytes())?;
        let events = if is_directory { IN_A_DIRECTORY } else { libc::IN_CLOSE_WRITE };
        // SAFETY: the descriptor is open and the path is a C string.
        match unsafe { libc::inotify_add_watch(self.0.as_raw_fd(), path.as_ptr(), events) } {
            0.. => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// One that fails to be read.
    #[cfg(test)]
    pub(crate) fn that_cannot_be_read() -> Self {
        Self(File::open("/").unwrap())
    }

    /// Whether anything has changed since this was asked last.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn has_news(&mut self) -> io::Result<bool> {
        let mut buffer = [0; BUFFER_LEN];
        let mut has_news = false;
        loop {
            match self.0.read(&mut buffer) {
                Ok(len) if len < BUFFER_LEN / 2 => return Ok(true),
                Ok(_) => has_news = true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(has_news),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsRawFd for FileWatch {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn every_kind_of_change_is_heard_once() {
        let directory = tempfile::TempDir::new().unwrap();
        let (file, other) = (directory.path().join("file"), directory.path().join("other"));
        let mut watch = FileWatch::open().unwrap();
        watch.watch(directory.path()).unwrap();
        assert!(!watch.has_news().unwrap());
        let mut after = |change: &dyn Fn()| {
            change();
            let has_news = watch.has_news().unwrap();
            assert!(!watch.has_news().unwrap());
            has_news
        };
        assert!(after(&|| fs::write(&file, "1").unwrap()));
        assert!(after(&|| fs::write(&other, "2").unwrap()));
        assert!(after(&|| fs::rename(&other, &file).unwrap()));
        assert!(after(&|| fs::remove_file(&file).unwrap()));
        assert!(!after(&|| drop(fs::read_dir(directory.path()).unwrap())));
        assert!(watch.watch(&file).is_err(), "it is not there");
    }

    #[test]
    fn a_file_by_itself_is_heard_of_when_it_was_written() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut watch = FileWatch::open().unwrap();
        watch.watch(file.path()).unwrap();
        fs::write(file.path(), "1").unwrap();
        assert!(watch.has_news().unwrap());
        assert!(!watch.has_news().unwrap());
    }
}
