//! Why a daemon ended, and with which exit code.

use std::io;
use std::path::PathBuf;

use crate::accounts::service::AccountsError;
use crate::accounts::store::BadDatabaseUrl;
use crate::config::ConfigError;
use crate::config::secrets::SecretError;
use crate::control::runtime::{ControlError, StatusSocketError};
use crate::daemon::{FarGatewayError, LoginError, StateError};
use crate::exit::ExitCode;
use crate::host::firewall::FirewallError;
use crate::host::link::LinkError;
use crate::host::netlink::NetlinkError;
use crate::host::privileges::PrivilegeError;
use crate::host::resolver::ResolverError;
use crate::host::routes::RoutesError;
use crate::login::server::{ListenError, LoginStartError};
use crate::login::tls::TlsSetupError;
use crate::proxy::GatewayError;
use crate::proxy::upstream::group::LoadError;
use crate::sys::tun::TunError;
use crate::sys::udp::UdpError;

/// Why a daemon could not start, or had to stop. Every message names the cause and what mends it.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The configuration that was read again is not acceptable.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A key file is not acceptable.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The TUN device cannot be opened.
    #[error(transparent)]
    Tun(#[from] TunError),
    /// The TUN device cannot be configured.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// A UDP socket cannot be opened.
    #[error(transparent)]
    Udp(#[from] UdpError),
    /// The kernel refuses to steer datagrams to workers.
    #[error(
        "the kernel refuses to steer datagrams to workers ({0}): a container or seccomp profile \
         may forbid SO_ATTACH_REUSEPORT_CBPF; run with `--workers 1`"
    )]
    Steering(#[source] io::Error),
    /// Leftovers of an earlier run cannot be looked for.
    #[error("cannot look for leftovers of an earlier run: {0}")]
    Leftovers(#[source] NetlinkError),
    /// What a client that logs in keeps cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The TLS of logins cannot be set up.
    #[error(transparent)]
    TlsSetup(#[from] TlsSetupError),
    /// The address of the database, in a file of its own, is none.
    #[error("the file with the address of the database: {0}")]
    DatabaseUrl(#[source] BadDatabaseUrl),
    /// The accounts cannot be opened.
    #[error(transparent)]
    Accounts(#[from] AccountsError),
    /// The configuration says nothing about accounts.
    #[error(
        "the configuration has no accounts: nobody logs in (`listen` in [login]) or says who they \
         are to a proxy (`auth` in [[proxy]])"
    )]
    NoAccounts,
    /// The accounts socket cannot be offered.
    #[error(transparent)]
    AccountsSocket(#[from] StatusSocketError),
    /// The login port cannot be opened.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// Logins cannot be taken.
    #[error(transparent)]
    LoginStart(#[from] LoginStartError),
    /// The proxy gateway cannot be started.
    #[error(transparent)]
    Gateway(#[from] GatewayError),
    /// A group of upstream proxies cannot be used.
    #[error(transparent)]
    Upstream(#[from] LoadError),
    /// Nothing can be carried to a gateway.
    #[error(transparent)]
    FarGateway(#[from] FarGatewayError),
    /// A worker of the proxy gateway has ended.
    #[error("{0}")]
    GatewayFailed(String),
    /// There is no lease, or none any more.
    #[error(transparent)]
    Login(#[from] LoginError),
    /// A client that was started by a key is to log in from now on, or the other way round.
    #[error("whether a client logs in cannot change while it runs: stop it and start it again")]
    OtherWay,
    /// Routes cannot be put in place.
    #[error(transparent)]
    Routes(#[from] RoutesError),
    /// The packet filter cannot be set up.
    #[error(transparent)]
    Firewall(#[from] FirewallError),
    /// Name servers cannot be set up.
    #[error(transparent)]
    NameServers(#[from] ResolverError),
    /// Capabilities cannot be given up.
    #[error(transparent)]
    Privileges(#[from] PrivilegeError),
    /// The server's name has no address.
    #[error("cannot find an address for {server}: {source}; check the name and the resolver")]
    Resolve {
        /// What was asked for.
        server: String,
        /// The resolver's answer.
        source: io::Error,
    },
    /// The server's name has no address while a tunnel that was killed refuses packets.
    #[error(
        "cannot find an address for {server}: {source}; a full tunnel that was killed keeps this \
         host shut, perhaps from its name servers, too. Enter the name in /etc/hosts, use a name \
         server on the local network, or give `client.server` as an address; or open the host by \
         `ip rule flush protocol 193; ip -6 rule flush protocol 193` and start again"
    )]
    ResolveShut {
        /// What was asked for.
        server: String,
        /// The resolver's answer.
        source: io::Error,
    },
    /// The directory of a socket is missing and cannot be made.
    #[error(
        "cannot make {} for the socket {}: {source}; have root make it, or name another place \
         (`socket` in [status], and in [accounts])",
        path.parent().unwrap_or(path).display(), path.display()
    )]
    SocketDirectory {
        /// Where the socket belongs.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel refused a thread, a descriptor or the like.
    #[error("{operation} failed: {source}")]
    Io {
        /// What was attempted.
        operation: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The control thread ended with an error.
    #[error(transparent)]
    Control(#[from] ControlError),
}

impl DaemonError {
    /// The exit code of the process.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Config(error) => error.exit_code(),
            Self::Secret(error) => error.exit_code(),
            Self::Tun(TunError::NodeForbidden { .. } | TunError::NotPermitted { .. })
            | Self::Udp(UdpError::PortForbidden { .. } | UdpError::MarkForbidden) => {
                ExitCode::Denied
            }
            Self::Firewall(FirewallError::Forbidden) => ExitCode::Denied,
            Self::State(error) => error.exit_code(),
            Self::TlsSetup(_) => ExitCode::ConfigInvalid,
            Self::Upstream(error) => error.exit_code(),
            Self::FarGateway(error) => error.exit_code(),
            Self::Login(error) => error.exit_code(),
            Self::SocketDirectory { source, .. } => ExitCode::of_io_error(source),
            Self::Control(ControlError::DeviceGone { .. }) => ExitCode::DeviceGone,
            _ => ExitCode::Failure,
        }
    }

    /// For `map_err`: names what was attempted.
    pub(super) fn io(operation: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { operation, source }
    }
}
