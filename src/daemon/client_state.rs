//! What a client that logs in keeps from one start to the next: its device's key, and the token by
//! which the device logs in once it has.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rand::CryptoRng;
use thiserror::Error;

use crate::accounts::secret::Secret;
use crate::config::secrets::{SecretError, load_private_key};
use crate::exit::ExitCode;
use crate::handshake::keys::PrivateKey;
use crate::limits::TOKEN_FILE_LEN_MAX;
use crate::sys::file_lock::FileLock;
use crate::sys::private_file::{self, PrivateFileError};

const LOCK: &str = "lock";
const DEVICE_KEY: &str = "device.key";
const DEVICE_TOKEN: &str = "device.token";

/// Why the state cannot be used.
#[derive(Debug, Error)]
pub enum StateError {
    /// The kernel refused.
    #[error("cannot {attempt} {}: {source}{}", path.display(), advice(source))]
    Io {
        /// What was attempted.
        attempt: &'static str,
        /// With which file or directory.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Others could take the device's place.
    #[error(
        "others can read or change what is in {path} (mode {mode:04o}): `chmod 700 {path}`",
        path = path.display()
    )]
    Exposed {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Another process uses it.
    #[error(
        "another `corelane up` uses {}, and one device cannot log in twice: stop it (`corelane \
         down`), or name another `login.state_directory`",
        .0.display()
    )]
    InUse(PathBuf),
    /// The key file is not acceptable.
    #[error(transparent)]
    Key(#[from] SecretError),
    /// The token file is not acceptable.
    #[error(transparent)]
    Token(#[from] PrivateFileError),
}

impl StateError {
    /// The exit code of a command that ends with this error.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Io { source, .. } => ExitCode::of_io_error(source),
            Self::Key(error) => error.exit_code(),
            Self::Exposed { .. } | Self::Token(_) => ExitCode::ConfigInvalid,
            Self::InUse(_) => ExitCode::Failure,
        }
    }
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "; run as root, or name a directory of yours as `login.state_directory`"
        }
        _ => "",
    }
}

/// The state of one client, in a directory that only its owner can look into. One process at a
/// time has it.
#[derive(Debug)]
pub(super) struct ClientState {
    directory: PathBuf,
    /// Held locked as long as the value lives.
    _lock: FileLock,
}

impl ClientState {
    /// The state in `directory`, which is made if it is missing.
    pub(super) fn open(directory: &Path) -> Result<Self, StateError> {
        make_private_directory(directory)?;
        let path = directory.join(LOCK);
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(io_error("open", &path))?;
        match FileLock::try_take(lock).map_err(io_error("lock", &path))? {
            Some(lock) => Ok(Self { directory: directory.to_owned(), _lock: lock }),
            None => Err(StateError::InUse(directory.to_owned())),
        }
    }

    /// The device's private key; a new one if there is none yet.
    pub(super) fn device_key(&self, rng: &mut dyn CryptoRng) -> Result<PrivateKey, StateError> {
        let path = self.directory.join(DEVICE_KEY);
        if !path.exists() {
            let key = PrivateKey::generate(rng);
            write_private(&path, &key.to_base64())?;
        }
        Ok(load_private_key(&path)?)
    }

    /// The device's token, if it has one.
    pub(super) fn device_token(&self) -> Result<Option<Secret>, StateError> {
        let path = self.directory.join(DEVICE_TOKEN);
        if !path.exists() {
            return Ok(None);
        }
        read_secret(&path).map(Some).map_err(StateError::Token)
    }

    /// Keeps the device's token from now on.
    pub(super) fn set_device_token(&self, token: &Secret) -> Result<(), StateError> {
        write_private(&self.directory.join(DEVICE_TOKEN), token.expose())
    }

    /// The token, if there is one, is not good any more.
    pub(super) fn forget_device_token(&self) {
        let path = self.directory.join(DEVICE_TOKEN);
        if let Err(error) = fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            log::warn!("cannot remove {}: {error}", path.display());
        }
    }
}

fn io_error(attempt: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StateError {
    let path = path.to_owned();
    move |source| StateError::Io { attempt, path, source }
}

/// Makes a directory that only its owner can look into, unless there is one.
pub(super) fn make_private_directory(directory: &Path) -> Result<(), StateError> {
    if let Some(parent) = directory.parent() {
        fs::create_dir_all(parent).map_err(io_error("make the directory", parent))?;
    }
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        outcome => outcome.map_err(io_error("make the directory", directory))?,
    }
    let metadata = fs::metadata(directory).map_err(io_error("look at", directory))?;
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(StateError::Exposed { path: directory.to_owned(), mode });
    }
    Ok(())
}

/// Puts a file in place that only its owner can read, as a whole or not at all, also if the machine
/// stops meanwhile.
pub(super) fn write_private(path: &Path, content: &str) -> Result<(), StateError> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    let write = || {
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(content.as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
    };
    write().map_err(io_error("write", path))
}

/// The secret in a file that only its owner can read: its first line.
pub(super) fn read_secret(path: &Path) -> Result<Secret, PrivateFileError> {
    let bytes = private_file::read(path, TOKEN_FILE_LEN_MAX)?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(Secret::new(text.lines().next().unwrap_or_default().to_owned()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use rand::SeedableRng;
    use rand::rngs::StdRng;
    use tempfile::TempDir;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn what_is_kept_is_there_at_the_next_start_for_the_owner_alone() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("a").join("b");
        let mut rng = StdRng::seed_from_u64(1);
        let state = ClientState::open(&path).unwrap();
        let key = state.device_key(&mut rng).unwrap().public();
        assert!(state.device_token().unwrap().is_none());
        state.set_device_token(&Secret::new("first".to_owned())).unwrap();
        state.set_device_token(&Secret::new("second".to_owned())).unwrap();
        drop(state);
        assert_eq!(mode(&path), 0o700);
        for name in [DEVICE_KEY, DEVICE_TOKEN] {
            assert_eq!(mode(&path.join(name)), 0o600, "{name}");
        }
        let state = ClientState::open(&path).unwrap();
        assert_eq!(state.device_key(&mut rng).unwrap().public(), key);
        assert_eq!(state.device_token().unwrap().unwrap().expose(), "second");
        state.forget_device_token();
        assert!(state.device_token().unwrap().is_none());
    }

    #[test]
    fn two_processes_do_not_share_a_device() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("state");
        let first = ClientState::open(&path).unwrap();
        let error = ClientState::open(&path).unwrap_err();
        assert!(matches!(error, StateError::InUse(_)), "{error}");
        drop(first);
        ClientState::open(&path).unwrap();
    }

    #[test]
    fn a_directory_that_others_can_look_into_is_refused() {
        let directory = TempDir::new().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let error = ClientState::open(directory.path()).unwrap_err();
        assert!(error.to_string().contains("chmod 700"), "{error}");
        assert_eq!(error.exit_code(), ExitCode::ConfigInvalid);
    }
}
