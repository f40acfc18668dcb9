//! The exit codes that scripts may rely on.

/// How a `corelane` command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// It did what was asked.
    Ok = 0,
    /// It failed for a reason that has no code of its own.
    Failure = 1,
    /// The command line was wrong.
    Usage = 2,
    /// The configuration, or a key file it names, is not acceptable.
    ConfigInvalid = 3,
    /// No daemon answers on the status socket.
    NotRunning = 4,
    /// A file or object that was named does not exist.
    NotFound = 5,
    /// The kernel, a file mode or the daemon said no.
    Denied = 6,
    /// The other side did not answer in time.
    Timeout = 7,
    /// The TUN device was taken away while the daemon ran.
    DeviceGone = 8,
}

impl ExitCode {
    /// The code for an I/O error on something the user named.
    pub fn of_io_error(error: &std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::NotFound => Self::NotFound,
            std::io::ErrorKind::PermissionDenied => Self::Denied,
            std::io::ErrorKind::TimedOut => Self::Timeout,
            _ => Self::Failure,
        }
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code as u8)
    }
}
