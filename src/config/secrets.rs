//! Private and pre-shared keys, read from files that nobody else can read.
//!
//! The file is opened once, without following a symbolic link, and everything is judged on the
//! open file, so that nothing can be swapped in between. What was read is wiped from memory.

use std::env;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use zeroize::Zeroizing;

use crate::config::problems::Problems;
use crate::config::schema::{Role, Sections, Setting};
use crate::exit::ExitCode;
use crate::handshake::keys::{KeyParseError, PresharedKey, PrivateKey, PublicKey};

/// Bytes of the longest key file: 44 characters, and generous white space.
const KEY_FILE_LEN_MAX: usize = 256;
/// Mode bits that let the group or others in.
const MODE_FOREIGN: u32 = 0o077;
/// What systemd may grant on a credential besides: its access list shows as the group's read bit.
const MODE_CREDENTIAL: u32 = 0o040;

/// Why a key file was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be opened or read.
    #[error("cannot read the key file {}: {source}{}", path.display(), advice(source))]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The path names a symbolic link.
    #[error(
        "the key file {path} is a symbolic link, which anybody who can write to its directory \
         could turn elsewhere: name the file itself (`readlink -f {path}`)",
        path = path.display()
    )]
    SymbolicLink {
        /// The link.
        path: PathBuf,
    },
    /// The path names a directory, a device, a pipe.
    #[error("{} is not a regular file: name the file that holds the key", path.display())]
    NotAFile {
        /// What it names.
        path: PathBuf,
    },
    /// Others than the owner could read or change the key.
    #[error(
        "the key file {path} has mode {mode:04o}, so others can read or change it: \
         `chmod 600 {path}`",
        path = path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The content is too long for a key.
    #[error(
        "{} is too long to be a key file: it holds one key of 44 characters and nothing else",
        path.display()
    )]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// The content is not a key.
    #[error("the key file {}: {source}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: KeyParseError,
    },
    /// The far side is configured with this side's own key.
    #[error(
        "{key} is the public key of this side itself: the far side has one of its own, which \
         `corelane key public < private.key` prints there"
    )]
    OwnKey {
        /// The key.
        key: PublicKey,
    },
}

impl SecretError {
    /// The exit code of a command that ends with this error.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Read { source, .. } => ExitCode::of_io_error(source),
            _ => ExitCode::ConfigInvalid,
        }
    }

    /// Whether the file may be in order, only not for the eyes of this user.
    fn is_permission_denied(&self) -> bool {
        matches!(self, Self::Read { source, .. }
            if source.kind() == io::ErrorKind::PermissionDenied)
    }
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => {
            " (make a key with `(umask 077; corelane key generate > private.key)`)"
        }
        io::ErrorKind::PermissionDenied => " (run as the user who owns it, or `chown` the file)",
        _ => "",
    }
}

/// The private key in `path`.
///
/// # Errors
/// The file is missing, exposed to others, not a regular file, or does not hold a key.
pub fn load_private_key(path: &Path) -> Result<PrivateKey, SecretError> {
    load(path)
}

/// The pre-shared key in `path`.
///
/// # Errors
/// As for [`load_private_key`].
pub fn load_preshared_key(path: &Path) -> Result<PresharedKey, SecretError> {
    load(path)
}

/// Makes sure that none of the keys of far sides is `own`.
///
/// # Errors
/// [`SecretError::OwnKey`].
pub fn ensure_foreign<'a>(
    own: &PublicKey,
    mut far_sides: impl Iterator<Item = &'a PublicKey>,
) -> Result<(), SecretError> {
    match far_sides.find(|key| *key == own) {
        Some(key) => Err(SecretError::OwnKey { key: *key }),
        None => Ok(()),
    }
}

/// Opens every key file that a configuration names and reports those that are not acceptable.
pub(crate) fn check_files(sections: &Sections, role: Role, problems: &mut Problems) {
    let mut check = |setting: &Setting<Option<PathBuf>>, is_private: bool| {
        let Some(path) = &setting.value else { return };
        let outcome = match is_private {
            true => load_private_key(path).map(drop),
            false => load_preshared_key(path).map(drop),
        };
        match outcome {
            Err(error) if error.is_permission_denied() => {
                problems.warning(setting.origin.clone(), format!("{error}; it was not checked"));
            }
            Err(error) => problems.error(setting.origin.clone(), error.to_string()),
            Ok(()) => {}
        }
    };
    let (own_key_file, far_sides): (_, Vec<_>) = match role {
        Role::Server => {
            let keys = sections.peers.iter().map(|peer| &peer.keys.public_key);
            (&sections.server.private_key_file, keys.collect())
        }
        Role::Client => (&sections.client.private_key_file, vec![&sections.client.server_key]),
    };
    check(own_key_file, true);
    match role {
        Role::Server => {
            for peer in &sections.peers {
                check(&peer.keys.preshared_key_file, false);
            }
        }
        Role::Client => check(&sections.client.preshared_key_file, false),
    }
    let own = own_key_file.value.as_ref().and_then(|path| load_private_key(path).ok());
    let Some(own) = own.map(|key| key.public()) else { return };
    for far_side in far_sides {
        if let Err(error) = ensure_foreign(&own, far_side.value.iter()) {
            problems.error(far_side.origin.clone(), error.to_string());
        }
    }
}

fn load<K: FromStr<Err = KeyParseError>>(path: &Path) -> Result<K, SecretError> {
    let credentials = env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    load_with(path, credentials.as_deref())
}

/// Loads a key; `credentials` is the directory of systemd credentials, if there is one.
fn load_with<K: FromStr<Err = KeyParseError>>(
    path: &Path,
    credentials: Option<&Path>,
) -> Result<K, SecretError> {
    let mut file = open(path)?;
    let read_error = |source| SecretError::Read { path: path.to_owned(), source };
    let metadata = file.metadata().map_err(read_error)?;
    check_metadata(path, &metadata, credentials)?;

    // One byte more than acceptable, so that a longer file shows.
    let mut buffer = Zeroizing::new([0; KEY_FILE_LEN_MAX + 1]);
    let len = read_up_to(&mut file, buffer.as_mut_slice()).map_err(read_error)?;
    if len > KEY_FILE_LEN_MAX {
        return Err(SecretError::TooLong { path: path.to_owned() });
    }
    let malformed = |source| SecretError::Malformed { path: path.to_owned(), source };
    let text =
        std::str::from_utf8(&buffer[..len]).map_err(|_| malformed(KeyParseError::NotBase64))?;
    text.trim().parse().map_err(malformed)
}

fn open(path: &Path) -> Result<File, SecretError> {
    // Non-blocking, or a pipe without a writer would hold the start up for ever.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
    OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(|source| {
        match source.raw_os_error() {
            Some(libc::ELOOP) => SecretError::SymbolicLink { path: path.to_owned() },
            // A socket cannot be opened at all.
            Some(libc::ENXIO) => SecretError::NotAFile { path: path.to_owned() },
            _ => SecretError::Read { path: path.to_owned(), source },
        }
    })
}

fn check_metadata(
    path: &Path,
    metadata: &Metadata,
    credentials: Option<&Path>,
) -> Result<(), SecretError> {
    if !metadata.is_file() {
        return Err(SecretError::NotAFile { path: path.to_owned() });
    }
    let allowed = match credentials {
        Some(directory) if is_credential(path, metadata, directory) => MODE_CREDENTIAL,
        _ => 0,
    };
    let mode = metadata.mode() & 0o7777;
    if mode & MODE_FOREIGN & !allowed != 0 {
        return Err(SecretError::Exposed { path: path.to_owned(), mode });
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

    const KEY: &str = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=";

    fn file(directory: &TempDir, content: &[u8], mode: u32) -> PathBuf {
        let path = directory.path().join("key");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path
    }

    fn refusal(path: &Path) -> SecretError {
        load_private_key(path).unwrap_err()
    }

    #[test]
    fn a_key_that_only_its_owner_can_read_is_accepted() {
        let directory = TempDir::new().unwrap();
        for (content, mode) in [(format!("{KEY}\n"), 0o600), (KEY.to_owned(), 0o400)] {
            let path = file(&directory, content.as_bytes(), mode);
            assert_eq!(*load_private_key(&path).unwrap().to_base64(), KEY);
            fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn every_foreign_mode_bit_is_refused_and_the_mending_command_named() {
        let directory = TempDir::new().unwrap();
        for bit in [0o040, 0o020, 0o010, 0o004, 0o002, 0o001] {
            let path = file(&directory, KEY.as_bytes(), 0o600 | bit);
            let error = refusal(&path);
            assert!(matches!(error, SecretError::Exposed { mode, .. } if mode == 0o600 | bit));
            assert!(error.to_string().contains(&format!("chmod 600 {}", path.display())));
            assert_eq!(error.exit_code(), ExitCode::ConfigInvalid);
        }
    }

    #[test]
    fn what_is_not_a_regular_file_is_refused() {
        let directory = TempDir::new().unwrap();
        let path = file(&directory, KEY.as_bytes(), 0o600);
        let link = directory.path().join("link");
        symlink(&path, &link).unwrap();
        assert!(matches!(refusal(&link), SecretError::SymbolicLink { .. }));
        assert!(matches!(refusal(directory.path()), SecretError::NotAFile { .. }));
        assert!(matches!(refusal(Path::new("/dev/null")), SecretError::NotAFile { .. }));
        let socket = directory.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert!(matches!(refusal(&socket), SecretError::NotAFile { .. }));
        let missing = refusal(&directory.path().join("missing"));
        assert_eq!(missing.exit_code(), ExitCode::NotFound);
    }

    #[test]
    fn what_is_not_a_key_is_refused_without_repeating_it() {
        let directory = TempDir::new().unwrap();
        for content in [&b""[..], b"hunter2", b"\xff\xfe", &[b'A'; 257], b"AAAA"] {
            let error = refusal(&file(&directory, content, 0o600));
            assert!(matches!(error, SecretError::Malformed { .. } | SecretError::TooLong { .. }));
            assert!(!error.to_string().contains("hunter2"));
        }
    }

    #[test]
    fn a_systemd_credential_may_show_the_group_read_bit_and_nothing_more() {
        let directory = TempDir::new().unwrap();
        fs::set_permissions(directory.path(), Permissions::from_mode(0o700)).unwrap();
        let path = file(&directory, KEY.as_bytes(), 0o440);
        let load = |credentials| load_with::<PrivateKey>(&path, credentials);
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
