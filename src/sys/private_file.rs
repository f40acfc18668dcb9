//! Files with secrets: read only if nobody but their owner can read or change them.
//!
//! The file is opened once, without following a symbolic link, and everything is judged on the
//! open file, so that nothing can be swapped in between. What was read is wiped from memory.

use std::env;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// Mode bits that let the group or others in.
const MODE_FOREIGN: u32 = 0o077;
/// What systemd may grant on a credential besides: its access list shows as the group's read bit.
const MODE_CREDENTIAL: u32 = 0o040;

/// Why a file with a secret was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum PrivateFileError {
    /// The file cannot be opened or read.
    #[error("cannot read {}: {source}{}", path.display(), advice(source))]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The path names a symbolic link.
    #[error(
        "{path} is a symbolic link, which anybody who can write to its directory could turn \
         elsewhere: name the file itself (`readlink -f {path}`)",
        path = path.display()
    )]
    SymbolicLink {
        /// The link.
        path: PathBuf,
    },
    /// The path names a directory, a device, a pipe.
    #[error("{} is not a regular file: name the file that holds the secret", path.display())]
    NotAFile {
        /// What it names.
        path: PathBuf,
    },
    /// Others than the owner could read or change it.
    #[error(
        "{path} has mode {mode:04o}, so others can read or change it: `chmod 600 {path}`",
        path = path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// There is more in it than such a secret can have.
    #[error("{} has more than {len_max} bytes, too many for what it should hold", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// Bytes that are the most.
        len_max: usize,
    },
}

impl PrivateFileError {
    /// The kernel's answer, if it was the kernel that refused.
    pub fn io_error(&self) -> Option<&io::Error> {
        match self {
            Self::Read { source, .. } => Some(source),
            _ => None,
        }
    }
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => " (run as the user who owns it, or `chown` the file)",
        _ => "",
    }
}

/// The content of the file at `path`, which has at most `len_max` bytes.
///
/// # Errors
/// The file is missing, exposed to others, not a regular file, or longer.
pub fn read(path: &Path, len_max: usize) -> Result<Zeroizing<Vec<u8>>, PrivateFileError> {
    let credentials = env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    read_with(path, len_max, credentials.as_deref())
}

/// Reads a file; `credentials` is the directory of systemd credentials, if there is one.
fn read_with(
    path: &Path,
    len_max: usize,
    credentials: Option<&Path>,
) -> Result<Zeroizing<Vec<u8>>, PrivateFileError> {
    let mut file = open(path)?;
    let read_error = |source| PrivateFileError::Read { path: path.to_owned(), source };
    let metadata = file.metadata().map_err(read_error)?;
    check_metadata(path, &metadata, credentials)?;

    // One byte more than acceptable, so that a longer file shows.
    let mut buffer = Zeroizing::new(vec![0; len_max + 1]);
    let len = read_up_to(&mut file, &mut buffer).map_err(read_error)?;
    if len > len_max {
        return Err(PrivateFileError::TooLong { path: path.to_owned(), len_max });
    }
    buffer.truncate(len);
    Ok(buffer)
}

fn open(path: &Path) -> Result<File, PrivateFileError> {
    // Non-blocking, or a pipe without a writer would hold the start up for ever.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
    OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(|source| {
        match source.raw_os_error() {
            Some(libc::ELOOP) => PrivateFileError::SymbolicLink { path: path.to_owned() },
            // A socket cannot be opened at all.
            Some(libc::ENXIO) => PrivateFileError::NotAFile { path: path.to_owned() },
            _ => PrivateFileError::Read { path: path.to_owned(), source },
        }
    })
}

fn check_metadata(
    path: &Path,
    metadata: &Metadata,
    credentials: Option<&Path>,
) -> Result<(), PrivateFileError> {
    if !metadata.is_file() {
        return Err(PrivateFileError::NotAFile { path: path.to_owned() });
    }
    let allowed = match credentials {
        Some(directory) if is_credential(path, metadata, directory) => MODE_CREDENTIAL,
        _ => 0,
    };
    let mode = metadata.mode() & 0o7777;
    if mode & MODE_FOREIGN & !allowed != 0 {
        return Err(PrivateFileError::Exposed { path: path.to_owned(), mode });
    }
    Ok(())
}

/// Whether a file lies directly in the credentials directory and has the same owner as that
/// directory, which systemd makes for this service alone.
fn is_credential(path: &Path, metadata: &Metadata, directory: &Path) -> bool {
    path.parent() == Some(directory)
        && std::fs::metadata(directory).is_ok_and(|directory| {
            directory.uid() == metadata.uid() && directory.mode() & 0o007 == 0
        })
}

fn read_up_to(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while len < buffer.len() {
        match file.read(&mut buffer[len..]) {
            Ok(0) => break,
            Ok(read) => len += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};
    use tempfile::TempDir;

    const LEN_MAX: usize = 16;

    fn file(directory: &TempDir, content: &[u8], mode: u32) -> PathBuf {
        let path = directory.path().join("secret");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path
    }

    fn refusal(path: &Path) -> PrivateFileError {
        read(path, LEN_MAX).unwrap_err()
    }

    #[test]
    fn a_file_that_only_its_owner_can_read_is_read() {
        let directory = TempDir::new().unwrap();
        for (content, mode) in [(&b"sixteen bytes at"[..], 0o600), (b"", 0o400)] {
            let path = file(&directory, content, mode);
            assert_eq!(read(&path, LEN_MAX).unwrap().as_slice(), content);
            fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn every_foreign_mode_bit_is_refused_and_the_mending_command_named() {
        let directory = TempDir::new().unwrap();
        for bit in [0o040, 0o020, 0o010, 0o004, 0o002, 0o001] {
            let path = file(&directory, b"secret", 0o600 | bit);
            let error = refusal(&path);
            assert!(matches!(error, PrivateFileError::Exposed { mode, .. } if mode == 0o600 | bit));
            assert!(error.to_string().contains(&format!("chmod 600 {}", path.display())));
        }
    }

    #[test]
    fn what_is_not_a_regular_file_is_refused() {
        let directory = TempDir::new().unwrap();
        let path = file(&directory, b"secret", 0o600);
        let link = directory.path().join("link");
        symlink(&path, &link).unwrap();
        assert!(matches!(refusal(&link), PrivateFileError::SymbolicLink { .. }));
        assert!(matches!(refusal(directory.path()), PrivateFileError::NotAFile { .. }));
        assert!(matches!(refusal(Path::new("/dev/null")), PrivateFileError::NotAFile { .. }));
        let socket = directory.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert!(matches!(refusal(&socket), PrivateFileError::NotAFile { .. }));
        let missing = refusal(&directory.path().join("missing"));
        assert_eq!(missing.io_error().unwrap().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_file_that_is_too_long_is_refused() {
        let directory = TempDir::new().unwrap();
        let path = file(&directory, &[b'x'; LEN_MAX + 1], 0o600);
        assert!(matches!(refusal(&path), PrivateFileError::TooLong { len_max: LEN_MAX, .. }));
    }

    #[test]
    fn a_systemd_credential_may_show_the_group_read_bit_and_nothing_more() {
        let directory = TempDir::new().unwrap();
        fs::set_permissions(directory.path(), Permissions::from_mode(0o700)).unwrap();
        let path = file(&directory, b"secret", 0o440);
        let load = |credentials| read_with(&path, LEN_MAX, credentials);
        assert!(load(Some(directory.path())).is_ok());
        assert!(load(None).is_err());
        assert!(load(Some(Path::new("/run"))).is_err());
        fs::set_permissions(&path, Permissions::from_mode(0o444)).unwrap();
        assert!(load(Some(directory.path())).is_err());
        fs::set_permissions(&path, Permissions::from_mode(0o440)).unwrap();
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
        assert!(load(Some(directory.path())).is_err());
    }
}
