//! The exit codes that scripts rely on.

/// Defines the codes, and the list of them that `--help` shows, in one place.
macro_rules! exit_codes {
    ($($(#[$documentation:meta])* $name:ident = $code:literal, $word:literal;)*) => {
        /// How a `corelane` command ended.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum ExitCode {
            $($(#[$documentation])* $name = $code,)*
        }

        impl ExitCode {
            /// Every code, and what it means in a word or three.
            pub const ALL: &[(Self, &str)] = &[$((Self::$name, $word),)*];
        }
    };
}

exit_codes! {
    /// It did what was asked.
    Ok = 0, "ok";
    /// It failed for a reason that has no code of its own.
    Failure = 1, "failure";
    /// The command line was wrong.
    Usage = 2, "usage";
    /// The configuration, or a key file it names, is not acceptable.
    ConfigInvalid = 3, "configuration invalid";
    /// No daemon answers on the status socket.
    NotRunning = 4, "daemon not running";
    /// A file or object that was named does not exist.
    NotFound = 5, "not found";
    /// The kernel, a file mode or the daemon said no.
    Denied = 6, "denied";
    /// The other side did not answer in time.
    Timeout = 7, "timeout";
    /// The TUN device was taken away while the daemon ran.
    DeviceGone = 8, "TUN device gone";
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
