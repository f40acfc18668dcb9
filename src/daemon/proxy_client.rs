//! `corelane proxy-client`: SOCKS and HTTP at this host, carried to a gateway inside TLS.
//!
//! It is a gateway itself, all of whose ways lead through one upstream proxy: the far one.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use crossbeam_channel::{bounded, select};

use crate::accounts::names::Name;
use crate::config::{PROXY_CLIENT_STATUS_SOCKET_DEFAULT, ProxyConfig};
use crate::daemon::early_stop::EarlyStop;
use crate::daemon::proxy::{self, Alone, Reread};
use crate::daemon::{Answers, DaemonError, tunnel};
use crate::exit::ExitCode;
use crate::limits::{PROXY_CLIENT_DIAL_WITHIN, PROXY_CLIENT_GREETED_WITHIN, PROXY_CLIENT_READY};
use crate::proxy::dial::Guard;
use crate::proxy::http::ConnectError;
use crate::proxy::settings::{Entrance, Rules};
use crate::proxy::upstream::group::{GroupSettings, LoadError, ServerAddress};
use crate::proxy::upstream::handshake::HandshakeError;
use crate::proxy::upstream::probe::{ProbeError, greet};
use crate::proxy::upstream::tls::TlsSettings;
use crate::proxy::upstream::{Group, Proof, Routes, Way};
use crate::sys::clock;

/// The gateway that everything is carried to, and who comes.
#[derive(Clone, Debug)]
pub struct FarGateway {
    /// Where it listens for clients inside TLS.
    pub server: ServerAddress,
    /// Whom it is taken for, and the certificate that it is shown.
    pub tls: TlsSettings,
    /// Who comes. The password is asked for, unless a file has it.
    pub user: Option<Name>,
    /// File with the password.
    pub password_file: Option<PathBuf>,
    /// File with a token instead of both.
    pub token_file: Option<PathBuf>,
    /// Where the password comes from if no file has it.
    pub answers: Answers,
}

/// Why nothing is carried to a gateway.
#[derive(Debug, thiserror::Error)]
pub enum FarGatewayError {
    /// The password is in no file, and nobody is there to be asked.
    #[error(
        "the password of {} is needed, and there is no terminal to ask for it: name a file \
         (`--password-file`, `--token-file`), or pass it by `--password-stdin`", .0.as_str()
    )]
    NobodyToAsk(Name),
    /// Whoever was asked gave no answer.
    #[error("cannot read the password: {0}")]
    NoAnswer(#[source] io::Error),
    /// What was given is no password.
    #[error("that is no password: it has 1 to 255 bytes, and no control characters")]
    NoPassword,
    /// The gateway is not reached, or does not let this client in.
    #[error("cannot use the gateway {}: {why}{}", .server.target, advice(why, *is_shown))]
    NotUsable {
        /// The gateway.
        server: ServerAddress,
        /// Why not.
        why: ProbeError,
        /// Whether it was shown who comes.
        is_shown: bool,
    },
}

impl FarGatewayError {
    /// The exit code of a command that ends with this error.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::NobodyToAsk(_) | Self::NoPassword => ExitCode::Denied,
            Self::NoAnswer(_) => ExitCode::Failure,
            Self::NotUsable { why, .. } => match why {
                ProbeError::NoName => ExitCode::NotFound,
                ProbeError::Timeout => ExitCode::Timeout,
                ProbeError::Handshake(HandshakeError::Tls(_) | HandshakeError::Http(_)) => {
                    ExitCode::Denied
                }
                _ => ExitCode::Failure,
            },
        }
    }
}

/// What mends it.
fn advice(why: &ProbeError, is_shown: bool) -> &'static str {
    match why {
        ProbeError::Handshake(HandshakeError::Http(ConnectError::Credentials)) if is_shown => {
            "; is the password right? a token has to be one of `corelane token create --scope \
             proxy`, and a user with codes needs one: `--token-file` instead of `--user`"
        }
        ProbeError::Handshake(HandshakeError::Http(ConnectError::Credentials)) => {
            "; say who comes: `--user NAME`, or `--token-file FILE`"
        }
        ProbeError::Handshake(HandshakeError::Closed { was_told: false }) => {
            "; does it speak TLS at this port (`tls://` in `listen`), and is it one?"
        }
        ProbeError::Handshake(HandshakeError::Tls(why)) if why.contains("_file`") => {
            "; `--ca-file`, `--ca-pin`, `--certificate-file` and `--key-file` say the same here"
        }
        _ => "",
    }
}

/// Serves clients at this host until it is told to stop, by the far gateway.
///
/// # Errors
/// See [`DaemonError`]. That the far gateway cannot be used is one at the start alone.
pub fn proxy_client(mut config: ProxyConfig, far: FarGateway) -> Result<(), DaemonError> {
    tunnel::allow_many_files();
    let early = EarlyStop::listen().map_err(DaemonError::io("listening to signals"))?;
    let plain = config.entrances.clone();
    let typed = far.ask(&early)?;
    config.entrances = far.entrances(&plain, typed.as_ref())?;
    let bound = proxy::bind(config.entrances.clone(), &config.workers)?;
    far.try_out(&config.entrances, &early)?;
    let files = far.password_file.iter().chain(&far.token_file).chain(far.tls.files());
    let files: Vec<PathBuf> = files.cloned().collect();
    let alone = Alone {
        bound,
        role: "proxy-client",
        status: (config.status_socket, PROXY_CLIENT_STATUS_SOCKET_DEFAULT),
        accounts: None,
        early: Some(early),
    };
    alone.run(&files, |reserve| -> Reread {
        Box::new(move || {
            let again = || far.entrances(&plain, typed.as_ref());
            reserve.with(again).map_err(|error: DaemonError| error.to_string())
        })
    })
}

impl FarGateway {
    /// Asks for the password, if it is needed and in no file.
    fn ask(&self, early: &EarlyStop) -> Result<Option<Proof>, DaemonError> {
        let Some(user) = self.user.as_ref().filter(|_| self.password_file.is_none()) else {
            return Ok(None);
        };
        if !self.answers.are_there() {
            return Err(FarGatewayError::NobodyToAsk(user.clone()).into());
        }
        let what = format!("password of {}", user.as_str());
        let answer = self.answers.ask_secret(&what, early.stop());
        let password = answer.map_err(FarGatewayError::NoAnswer)?;
        let proof = Proof::password(user.as_str(), password);
        Ok(Some(proof.ok_or(FarGatewayError::NoPassword)?))
    }

    /// The entrances with every way through the far gateway, and its files read.
    fn entrances(
        &self,
        plain: &[Entrance],
        typed: Option<&Proof>,
    ) -> Result<Vec<Entrance>, DaemonError> {
        // The constant is a name.
        let Ok(name) = "gateway".parse() else { return Ok(Vec::new()) };
        let group = Group::new(GroupSettings {
            token_file: self.token_file.clone(),
            tls: self.tls.clone(),
            ready: PROXY_CLIENT_READY,
            ..GroupSettings::new(name, vec![self.server.clone()])
        });
        group.load()?;
        match (typed, &self.user, &self.password_file) {
            (Some(proof), ..) => group.set_proof(proof.clone()),
            (None, Some(user), Some(path)) => {
                let proof = Proof::of_password_file(user.as_str(), path);
                group.set_proof(proof.map_err(LoadError::from)?);
            }
            _ => {}
        }
        let group = Arc::new(group);
        let entrance = |entrance: &Entrance| Entrance {
            rules: Rules {
                guard: Guard::anywhere(),
                upstreams: vec![Arc::clone(&group)],
                routes: Routes::all(Way::Upstream(0)),
                serves_datagrams: false,
                dial_within: PROXY_CLIENT_DIAL_WITHIN,
                ..entrance.rules.clone()
            },
            ..entrance.clone()
        };
        Ok(plain.iter().map(entrance).collect())
    }

    /// Makes one connection, so that whoever has started this hears what is wrong. Whoever stops
    /// it meanwhile does not wait for the gateway.
    fn try_out(&self, entrances: &[Entrance], early: &EarlyStop) -> Result<(), DaemonError> {
        let mut groups = entrances.iter().flat_map(|entrance| &entrance.rules.upstreams);
        let Some(group) = groups.next() else { return Ok(()) };
        let until = clock::now() + PROXY_CLIENT_GREETED_WITHIN;
        let (sender, answer) = bounded(1);
        let (asking, server) = (Arc::clone(group), self.server.clone());
        let thread = thread::Builder::new().name("greeting".to_owned());
        let begun = thread.spawn(move || {
            // Nobody waits any more after a signal.
            let _ = sender.send(greet(&asking, &server, until));
        });
        begun.map_err(DaemonError::io("greeting the gateway"))?;
        let greeted = select! {
            recv(answer) -> greeted => greeted,
            recv(early.stop()) -> _ => return Ok(()),
        };
        // A panic has been told.
        let Ok(greeted) = greeted else { return Ok(()) };
        match greeted {
            Ok(()) => Ok(()),
            Err(ProbeError::Handshake(HandshakeError::Http(
                why @ (ConnectError::Refused(400 | 404 | 405 | 501) | ConnectError::NotKept),
            ))) => {
                let server = &self.server.target;
                log::warn!("{server} does not say whether it lets this client in: {why}");
                Ok(())
            }
            // What keeps it out now need not when somebody comes here.
            Err(ProbeError::Handshake(HandshakeError::Http(why @ ConnectError::Refused(429)))) => {
                let server = &self.server.target;
                log::warn!(
                    "{server} does not let this client in now: {why}; its user has as many \
                     connections as it may, or there were too many wrong passwords: then wait for \
                     some minutes"
                );
                Ok(())
            }
            Err(why) => {
                let (server, is_shown) = (self.server.clone(), group.proof().is_some());
                Err(FarGatewayError::NotUsable { server, why, is_shown }.into())
            }
        }
    }
}
