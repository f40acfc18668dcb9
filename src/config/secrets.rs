//! Private and pre-shared keys, read from files that nobody else can read.

use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::config::problems::Problems;
use crate::config::schema::{Role, Sections, Setting};
use crate::exit::ExitCode;
use crate::handshake::keys::{KeyParseError, PresharedKey, PrivateKey, PublicKey};
use crate::sys::private_file::{self, PrivateFileError};

/// Bytes of the longest key file: 44 characters, and generous white space.
const KEY_FILE_LEN_MAX: usize = 256;

/// Why a key file was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be read, or others could read it.
    #[error("the key file: {0}{advice}", advice = advice(.0))]
    File(#[from] PrivateFileError),
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
        match self.io_error() {
            Some(error) => ExitCode::of_io_error(error),
            None => ExitCode::ConfigInvalid,
        }
    }

    /// Whether the file may be in order, only not for the eyes of this user.
    fn is_permission_denied(&self) -> bool {
        self.io_error().is_some_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
    }

    fn io_error(&self) -> Option<&io::Error> {
        match self {
            Self::File(error) => error.io_error(),
            _ => None,
        }
    }
}

fn advice(error: &PrivateFileError) -> &'static str {
    match error.io_error().map(io::Error::kind) {
        Some(io::ErrorKind::NotFound) => {
            " (make a key with `(umask 077; corelane key generate > private.key)`)"
        }
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
    let content = private_file::read(path, KEY_FILE_LEN_MAX)?;
    let malformed = |source| SecretError::Malformed { path: path.to_owned(), source };
    let text = std::str::from_utf8(&content).map_err(|_| malformed(KeyParseError::NotBase64))?;
    text.trim().parse().map_err(malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;
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
    fn a_file_that_is_missing_or_exposed_is_refused_and_the_mending_command_named() {
        let directory = TempDir::new().unwrap();
        let missing = refusal(&directory.path().join("missing"));
        assert_eq!(missing.exit_code(), ExitCode::NotFound);
        assert!(missing.to_string().contains("corelane key generate"), "{missing}");
        let exposed = refusal(&file(&directory, KEY.as_bytes(), 0o640));
        assert_eq!(exposed.exit_code(), ExitCode::ConfigInvalid);
        assert!(exposed.to_string().contains("chmod 600"), "{exposed}");
    }

    #[test]
    fn what_is_not_a_key_is_refused_without_repeating_it() {
        let directory = TempDir::new().unwrap();
        for content in [&b""[..], b"hunter2", b"\xff\xfe", &[b'A'; 257], b"AAAA"] {
            let error = refusal(&file(&directory, content, 0o600));
            let is_expected = matches!(
                error,
                SecretError::Malformed { .. } | SecretError::File(PrivateFileError::TooLong { .. })
            );
            assert!(is_expected, "{error}");
            assert!(!error.to_string().contains("hunter2"));
        }
    }
}
