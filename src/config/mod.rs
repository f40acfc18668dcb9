//! The configuration: one TOML file for either role, with flags laid over it.
//!
//! `schema` lists every key. `document` reads a text into the sections of that schema and reports
//! every problem at once; `build` checks the sections as a whole and turns them into the plain
//! [`ServeConfig`] and [`UpConfig`] that the daemon takes. [`Source`] remembers file and flags, so
//! that a reload reads the same again. Secrets are never in the file: `secrets` reads them from
//! files of their own.

mod access;
mod build;
mod checks;
mod document;
mod effective;
mod problems;
mod proxy;
mod routes;
mod schema;
pub mod secrets;
mod source;
mod types;
mod values;

#[cfg(test)]
mod tests;

pub use access::{
    AccountsConfig, DatabasePlace, FarSide, KnownServer, LeaseConfig, LoginConfig, LoginsConfig,
};
pub use problems::{Origin, Problem, Report, Severity};
pub use proxy::ProxyConfig;
pub use schema::{
    ACCOUNTS_SOCKET_DEFAULT, PORT_DEFAULT, PROXY_CLIENT_STATUS_SOCKET_DEFAULT,
    PROXY_STATUS_SOCKET_DEFAULT, Role, SERVER_CONFIG_DEFAULT,
};
pub use source::{ConfigError, Loaded, Override, PeerOverride, Source, check_bytes, check_file};
pub use types::{
    CarrierMode, HostPort, LogConfig, NatMode, PeerConfig, ServeConfig, Served, Switch, TunConfig,
    TuningConfig, UpConfig, WorkersConfig,
};

pub(crate) use proxy::{PortRange, ProxyListen, ProxyProtocol};
pub(crate) use schema::{Keepalive, Mtu, STATE_DIRECTORY, Workers};
pub(crate) use types::{CpuList, Directives, InterfaceName};
pub(crate) use values::{Auto, ConfigValue, parse_argument, quoted};
