//! How a client proves who its user is: by the token of its device if it has one, else by what the
//! configuration names, else by what somebody types.

use std::io;

use crossbeam_channel::Receiver;

use crate::accounts::names::Name;
use crate::accounts::secret::Secret;
use crate::config::LoginConfig;
use crate::daemon::client_state::{ClientState, StateError, read_secret};
use crate::limits::{LOGIN_ANSWER_WITHIN, TYPED_LOGINS_MAX};
use crate::login::client::{Channel, ChannelError, Granted};
use crate::login::message::{Credentials, LoginRequest, RefusalCode, SCHEMA};

use super::Answers;

/// Why there is no lease.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// The server says no, or nothing.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// What this device keeps cannot be read or written.
    #[error(transparent)]
    State(#[from] StateError),
    /// Nobody can be asked.
    #[error(
        "{0} is needed, and there is no terminal to ask for it: name a file \
         (`login.password_file`, `login.token_file`), or pass it by `--password-stdin`"
    )]
    NobodyToAsk(&'static str),
    /// Whoever was asked gave no answer.
    #[error("cannot read {what}: {source}")]
    NoAnswer {
        /// What was asked for.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// What this device and its user can prove themselves with.
pub(super) struct Proofs {
    login: LoginConfig,
    state: ClientState,
    answers: Answers,
    device_name: Name,
    device_key: String,
    /// Who has been asked for their name, and has proved it.
    user: Option<String>,
    /// What has been typed, and was right.
    password: Option<Secret>,
}

impl Proofs {
    pub(super) fn new(
        login: LoginConfig,
        state: ClientState,
        answers: Answers,
        device_name: Name,
        device_key: String,
    ) -> Self {
        let user = login.user.clone().map(String::from);
        Self { login, state, answers, device_name, device_key, user, password: None }
    }

    /// Logs in. A token that is refused may be good again tomorrow, when the user is let in again:
    /// it is kept until something else has led to a login.
    /// Who asks for an answer ceases to as soon as the other end of `stop` is gone.
    pub(super) fn log_in(
        &mut self,
        channel: &mut Channel,
        stop: &Receiver<()>,
    ) -> Result<Granted, ProofError> {
        if let Some(token) = self.state.device_token()? {
            let credentials = Credentials { token: Some(token), ..Credentials::default() };
            match channel.login(&self.request(credentials), LOGIN_ANSWER_WITHIN) {
                Err(error) if is_denied(&error) && self.has_other_means() => {
                    log::warn!("this device's token is not good at present: {error}");
                }
                outcome => return Ok(outcome?),
            }
        }
        let granted = self.log_in_by_other_means(channel, stop)?;
        match &granted.terms.device_token {
            Some(token) => self.state.set_device_token(token)?,
            None => self.state.forget_device_token(),
        }
        Ok(granted)
    }

    fn has_other_means(&self) -> bool {
        let LoginConfig { token_file, password_file, certificate, .. } = &self.login;
        token_file.is_some()
            || password_file.is_some()
            || certificate.is_some()
            || self.password.is_some()
            || self.answers.are_there()
    }

    fn log_in_by_other_means(
        &mut self,
        channel: &mut Channel,
        stop: &Receiver<()>,
    ) -> Result<Granted, ProofError> {
        let mut credentials = self.configured()?;
        let mut is_typed = false;
        if credentials.token.is_none()
            && credentials.password.is_none()
            && self.login.certificate.is_none()
        {
            self.type_password(&mut credentials, stop)?;
            is_typed = true;
        }
        for tries_left in (0..TYPED_LOGINS_MAX).rev() {
            let error = match channel.login(&self.request(credentials.clone()), LOGIN_ANSWER_WITHIN)
            {
                Ok(granted) => {
                    (self.user, self.password) = (credentials.user, credentials.password);
                    return Ok(granted);
                }
                Err(error) => error,
            };
            let ChannelError::Refused(refusal) = &error else { return Err(error.into()) };
            match refusal.code {
                RefusalCode::CodeNeeded if credentials.code.is_none() => {
                    credentials.code = Some(self.secret("code of the authenticator", stop)?);
                }
                RefusalCode::Denied if tries_left > 0 && self.answers.are_typed() => {
                    // Of what is named by the configuration, a password may still be missing.
                    if !is_typed && credentials.password.is_some() {
                        return Err(error.into());
                    }
                    log::warn!("{error}");
                    self.type_password(&mut credentials, stop)?;
                    (credentials.code, is_typed) = (None, true);
                }
                _ => return Err(error.into()),
            }
        }
        Err(ChannelError::Timeout.into())
    }

    /// What the configuration names, and what was typed before.
    fn configured(&self) -> Result<Credentials, ProofError> {
        let read = |path: &Option<std::path::PathBuf>| {
            path.as_deref().map(read_secret).transpose().map_err(StateError::Token)
        };
        let password = read(&self.login.password_file)?;
        Ok(Credentials {
            user: self.user.clone(),
            password: password.or_else(|| self.password.clone()),
            code: None,
            token: read(&self.login.token_file)?,
        })
    }

    fn type_password(
        &self,
        credentials: &mut Credentials,
        stop: &Receiver<()>,
    ) -> Result<(), ProofError> {
        if credentials.user.is_none() {
            credentials.user = Some(self.answer("user", |it, what| it.ask(what, stop))?);
        }
        credentials.password = Some(self.secret("password", stop)?);
        Ok(())
    }

    fn secret(&self, what: &'static str, stop: &Receiver<()>) -> Result<Secret, ProofError> {
        self.answer(what, |answers, what| answers.ask_secret(what, stop))
    }

    fn answer<T>(
        &self,
        what: &'static str,
        ask: impl FnOnce(Answers, &str) -> io::Result<T>,
    ) -> Result<T, ProofError> {
        if !self.answers.are_there() {
            return Err(ProofError::NobodyToAsk(what));
        }
        ask(self.answers, what).map_err(|source| ProofError::NoAnswer { what, source })
    }

    fn request(&self, credentials: Credentials) -> LoginRequest {
        LoginRequest {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            credentials,
            device_name: self.device_name.clone(),
            device_key: self.device_key.clone(),
        }
    }
}

fn is_denied(error: &ChannelError) -> bool {
    let codes = [RefusalCode::Denied, RefusalCode::Revoked];
    matches!(error, ChannelError::Refused(refusal) if codes.contains(&refusal.code))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::{Path, PathBuf};

    use tempfile::TempDir;

    use super::*;

    fn write(path: &Path, secret: &str) {
        fs::write(path, secret).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    #[test]
    fn files_are_read_at_each_login() {
        let directory = TempDir::new().unwrap();
        let file = |name: &str| -> PathBuf { directory.path().join(name) };
        let state = ClientState::open(&file("state")).unwrap();
        let login = LoginConfig {
            servers: Vec::new(),
            backup_servers: Vec::new(),
            ca_file: None,
            ca_pin: None,
            user: Some("alice".parse().unwrap()),
            password_file: Some(file("password")),
            token_file: Some(file("token")),
            certificate: None,
            device_name: None,
            state_directory: file("state"),
        };
        let name: Name = "laptop".parse().unwrap();
        let proofs = Proofs::new(login, state, Answers::Stdin, name, String::new());
        for secret in ["one", "another"] {
            write(&file("password"), &format!("{secret} password"));
            write(&file("token"), &format!("{secret} token"));
            let Credentials { password, token, .. } = proofs.configured().unwrap();
            assert_eq!(password.unwrap().expose(), format!("{secret} password"));
            assert_eq!(token.unwrap().expose(), format!("{secret} token"));
        }
        fs::remove_file(file("token")).unwrap();
        assert!(proofs.configured().is_err(), "a file that is named has to be there");
    }
}
