//! What the gateway shows to upstream proxies that want to know who comes.

use std::path::{Path, PathBuf};

use crate::accounts::secret::Secret;
use crate::exit::ExitCode;
use crate::limits::PROXY_CREDENTIALS_LEN_MAX;
use crate::proxy::http::ProxyAuthorization;
use crate::proxy::socks::Credentials;
use crate::sys::private_file::{self, PrivateFileError};

/// What is shown to an upstream proxy.
#[derive(Clone, Debug)]
pub enum Proof {
    /// A user and a password: RFC 1929, or `Basic`.
    Password(Credentials),
    /// A token alone, which HTTP shows as `Bearer`.
    Token(Secret),
}

/// Why the credentials for a group cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ProofFileError {
    /// The file cannot be read, or others could read it.
    #[error("the credentials for an upstream proxy: {0}")]
    File(#[from] PrivateFileError),
    /// It has something else than a user and a password.
    #[error(
        "the credentials for an upstream proxy: {} has to be one line USER:PASSWORD, each of 1 to \
         255 bytes without control characters", .0.display()
    )]
    Malformed(PathBuf),
    /// It has something else than a token.
    #[error(
        "the token for an upstream proxy: {} has to be one line with nothing but the token, such \
         as `corelane token create --scope proxy` prints it", .0.display()
    )]
    NoToken(PathBuf),
    /// It has something else than a password.
    #[error(
        "the password for an upstream proxy: {} has to be one line of 1 to 255 bytes without \
         control characters", .0.display()
    )]
    NoPassword(PathBuf),
}

impl ProofFileError {
    /// The exit code of a command that ends with this error.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::File(error) => {
                error.io_error().map_or(ExitCode::ConfigInvalid, ExitCode::of_io_error)
            }
            Self::Malformed(_) | Self::NoToken(_) | Self::NoPassword(_) => ExitCode::ConfigInvalid,
        }
    }
}

impl Proof {
    /// Reads `USER:PASSWORD` from a file that only its owner can read.
    ///
    /// # Errors
    /// The file is not as it should be.
    pub fn of_credentials_file(path: &Path) -> Result<Self, ProofFileError> {
        let malformed = || ProofFileError::Malformed(path.to_owned());
        let (user, password) = line(path, malformed, |line| {
            let (user, password) = line.split_once(':')?;
            Some((user.to_owned(), Secret::new(password.to_owned())))
        })?;
        Self::password(&user, password).ok_or_else(malformed)
    }

    /// Reads the password of `user` from such a file.
    ///
    /// # Errors
    /// The file is not as it should be.
    pub fn of_password_file(user: &str, path: &Path) -> Result<Self, ProofFileError> {
        let malformed = || ProofFileError::NoPassword(path.to_owned());
        let password = line(path, malformed, |line| Some(Secret::new(line.to_owned())))?;
        Self::password(user, password).ok_or_else(malformed)
    }

    /// Reads a token from such a file.
    ///
    /// # Errors
    /// The file is not as it should be.
    pub fn of_token_file(path: &Path) -> Result<Self, ProofFileError> {
        let malformed = || ProofFileError::NoToken(path.to_owned());
        let token = line(path, malformed, |line| Some(Secret::new(line.to_owned())))?;
        match ProxyAuthorization::bearer(token.expose()) {
            Ok(_) => Ok(Self::Token(token)),
            Err(_) => Err(malformed()),
        }
    }

    /// A user and a password, if they can be sent.
    pub fn password(user: &str, password: Secret) -> Option<Self> {
        let is_good =
            |part: &str| (1..=255).contains(&part.len()) && !part.chars().any(char::is_control);
        let is_sent = is_good(user) && !user.contains(':') && is_good(password.expose());
        is_sent.then(|| Self::Password(Credentials { user: user.to_owned(), password }))
    }
}

/// What `read` makes of the only line of a private file.
fn line<T>(
    path: &Path,
    malformed: impl Fn() -> ProofFileError,
    read: impl FnOnce(&str) -> Option<T>,
) -> Result<T, ProofFileError> {
    let bytes = private_file::read(path, PROXY_CREDENTIALS_LEN_MAX)?;
    let text = str::from_utf8(&bytes).map_err(|_| malformed())?;
    read(text.trim_end_matches(['\r', '\n'])).ok_or_else(malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// Something in a file of that mode.
    struct Given {
        _directory: tempfile::TempDir,
        path: PathBuf,
    }

    fn given(content: &str, mode: u32) -> Given {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("credentials");
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        Given { _directory: directory, path }
    }

    #[test]
    fn credentials_are_one_private_line() {
        let read = |content: &str, mode| Proof::of_credentials_file(&given(content, mode).path);
        let Proof::Password(good) = read("me:se:cret\n", 0o600).unwrap() else { panic!() };
        assert_eq!((good.user.as_str(), good.password.expose()), ("me", "se:cret"));
        for content in ["", "me", ":secret", "me:", "me:a\nb:c", "me:a\u{7}"] {
            let error = read(content, 0o600).unwrap_err().to_string();
            assert!(error.contains("USER:PASSWORD"), "{content:?}: {error}");
        }
        assert!(matches!(read("me:secret\n", 0o644), Err(ProofFileError::File(_))));
    }

    #[test]
    fn a_token_and_a_password_stand_alone_in_theirs() {
        let token = |content: &str, mode| Proof::of_token_file(&given(content, mode).path);
        let Proof::Token(good) = token("abc.DEF_0-9~+/==\r\n", 0o600).unwrap() else { panic!() };
        assert_eq!(good.expose(), "abc.DEF_0-9~+/==");
        for content in ["", "\n", "two words", "a\nb", "me:secret"] {
            let error = token(content, 0o600).unwrap_err().to_string();
            assert!(error.contains("--scope proxy"), "{content:?}: {error}");
        }
        assert!(matches!(token("abc", 0o640), Err(ProofFileError::File(_))));
        let password = |content: &str| Proof::of_password_file("me", &given(content, 0o600).path);
        let Proof::Password(good) = password("right: horse\n").unwrap() else { panic!() };
        assert_eq!((good.user.as_str(), good.password.expose()), ("me", "right: horse"));
        for content in ["", "a\nb", "a\u{7}"] {
            assert!(matches!(password(content), Err(ProofFileError::NoPassword(_))), "{content:?}");
        }
        assert!(Proof::password("a:b", Secret::new("c".to_owned())).is_none());
    }
}
