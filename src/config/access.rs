//! Logins and leases in the configuration: who logs in where, and what those get who do.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use ipnet::IpNet;

use crate::accounts::credentials::demand::ProofSet;
use crate::accounts::names::Name;
use crate::accounts::store::{DatabaseUrl, Retention};
use crate::config::build::without_host_bits;
use crate::config::problems::{Origin, Problems};
use crate::config::schema::{STATE_DIRECTORY, Sections, Setting};
use crate::config::types::{Domain, HostPort};
use crate::handshake::keys::PublicKey;
use crate::login::tls::Pin;
use crate::policy::acl::Action;

/// Who a client's server is.
#[derive(Clone, Debug)]
pub enum FarSide {
    /// A server whose key is known.
    Known(KnownServer),
    /// Servers that are logged in to, and say the rest.
    Login(LoginConfig),
}

/// A server whose key is known, and to which the client's key is.
#[derive(Clone, Debug)]
pub struct KnownServer {
    /// The server, by name or address.
    pub server: HostPort,
    /// The server's public key.
    pub key: PublicKey,
    /// Where the pre-shared key is, if there is one.
    pub preshared_key_file: Option<PathBuf>,
}

/// Where and how a client logs in.
#[derive(Clone, Debug)]
pub struct LoginConfig {
    /// Where to log in, the best of them to be found; at least one.
    pub servers: Vec<HostPort>,
    /// Where to log in if none of those answers.
    pub backup_servers: Vec<HostPort>,
    /// File with the authorities that vouch for the servers. `None`: those of the system, unless
    /// there is a pin.
    pub ca_file: Option<PathBuf>,
    /// The pin of the one authority that vouches for the servers.
    pub ca_pin: Option<Pin>,
    /// Who logs in, unless another proof says it.
    pub user: Option<Name>,
    /// File with the password; asked for on the terminal if it is needed and there is none.
    pub password_file: Option<PathBuf>,
    /// File with a token.
    pub token_file: Option<PathBuf>,
    /// The files of a client certificate and its key.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// What this device is called. `None`: as the host.
    pub device_name: Option<Name>,
    /// Where the device's key and token are kept.
    pub state_directory: PathBuf,
}

/// Where people log in at a server, and how they prove who they are.
#[derive(Clone, Debug)]
pub struct LoginsConfig {
    /// TCP addresses to listen on; none twice, no port 0.
    pub listen: Vec<SocketAddr>,
    /// The certificate, and what leads from it to its CA.
    pub certificate_file: PathBuf,
    /// Its private key.
    pub key_file: PathBuf,
    /// The authorities that vouch for clients.
    pub client_ca_file: Option<PathBuf>,
    /// The revocation list of that authority.
    pub client_crl_file: Option<PathBuf>,
    /// Who there is.
    pub accounts: AccountsConfig,
}

/// Where a server keeps its accounts, and what it wants to see.
#[derive(Clone, Debug)]
pub struct AccountsConfig {
    /// Proofs of which one alternative is enough.
    pub require: Vec<ProofSet>,
    /// What the server is called, among others on the same database.
    pub server_name: Name,
    /// The database.
    pub database: DatabasePlace,
    /// Where changes wait for the database.
    pub spool_file: PathBuf,
    /// Where the audit log is kept beside the database.
    pub audit_log_file: Option<PathBuf>,
    /// Where administrators' operations come.
    pub socket: PathBuf,
    /// Whether clients may not talk to each other unless a rule says so.
    pub isolate_clients: bool,
    /// What users may do for whom there is no rule at all.
    pub without_rules: Action,
    /// How long history is kept in the database.
    pub retention: Retention,
}

/// Where a database is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DatabasePlace {
    /// Here.
    Url(DatabaseUrl),
    /// Where this file says, which only its owner can read: the address has a password.
    File(PathBuf),
}

/// What those get who log in.
#[derive(Clone, Debug)]
pub struct LeaseConfig {
    /// Where inner addresses come from, host bits cleared; the networks of the server's own
    /// addresses unless configured.
    pub pools: Vec<IpNet>,
    /// Where clients send their datagrams; where they have logged in if there is none.
    pub endpoints: Vec<HostPort>,
    /// Destinations that are reached through the tunnel, host bits cleared; the pools unless
    /// configured.
    pub routes: Vec<IpNet>,
    /// Name servers.
    pub dns_servers: Vec<IpAddr>,
    /// Domains that are appended to short names.
    pub search_domains: Vec<String>,
    /// Domains whose names these name servers resolve; all names if there are none.
    pub split_domains: Vec<String>,
    /// MTU inside the tunnel, in bytes.
    pub mtu: u16,
    /// Seconds of silence after which an empty packet keeps address translators open.
    pub keepalive_s: Option<u16>,
    /// Seconds that a lease lasts unless it is renewed.
    pub lasts_s: u32,
}

impl LoginConfig {
    /// What the sections say of a client's logins.
    pub(crate) fn of(sections: &Sections) -> Self {
        let login = &sections.client_login;
        let (servers, user) = (login.servers.value.clone(), login.user.value.clone());
        let certificate = login.certificate_file.value.clone();
        let name = state_name(user.as_ref(), &servers);
        Self {
            servers,
            backup_servers: login.backup_servers.value.clone(),
            ca_file: login.ca_file.value.clone(),
            ca_pin: login.ca_pin.value,
            user,
            password_file: login.password_file.value.clone(),
            token_file: login.token_file.value.clone(),
            certificate: certificate.zip(login.certificate_key_file.value.clone()),
            device_name: login.device_name.value.clone(),
            state_directory: login
                .state_directory
                .value
                .clone()
                .unwrap_or_else(|| Path::new(STATE_DIRECTORY).join(name)),
        }
    }
}

/// What the state of a client that logs in so is called.
fn state_name(user: Option<&Name>, servers: &[HostPort]) -> String {
    let host = servers.first().map_or("", HostPort::host);
    match user {
        Some(user) => format!("{user}@{host}"),
        None => host.to_owned(),
    }
}

impl LoginsConfig {
    /// What the sections say of a server's logins; `None` if there are none.
    pub(crate) fn of(sections: &Sections, problems: &mut Problems) -> Option<Self> {
        let login = &sections.server_login;
        if login.listen.value.is_empty() {
            return None;
        }
        let mut require = |key: &str, setting: &Setting<Option<PathBuf>>| {
            if setting.value.is_none() && setting.origin == Origin::Default {
                let what = format!("`{key}` in [login] is missing");
                let help = "`corelane init` makes a certificate and its key";
                problems.error_with_help(login.listen.origin.clone(), what, help);
            }
            setting.value.clone()
        };
        let certificate_file = require("certificate_file", &login.certificate_file);
        let key_file = require("key_file", &login.key_file);
        Some(Self {
            listen: login.listen.value.clone(),
            certificate_file: certificate_file?,
            key_file: key_file?,
            client_ca_file: login.client_ca_file.value.clone(),
            client_crl_file: login.client_crl_file.value.clone(),
            accounts: AccountsConfig::of(sections)?,
        })
    }
}

impl AccountsConfig {
    /// What the sections say of accounts. `None` if that has been refused.
    pub(crate) fn of(sections: &Sections) -> Option<Self> {
        let accounts = &sections.accounts;
        let database = match &accounts.database_file.value {
            Some(file) => DatabasePlace::File(file.clone()),
            // What cannot be parsed has been refused.
            None => DatabasePlace::Url(accounts.database.value.0.parse().ok()?),
        };
        Some(Self {
            require: sections.server_login.require.value.clone(),
            server_name: accounts.server_name.value.clone().unwrap_or_else(Name::of_this_host),
            database,
            spool_file: accounts.spool_file.value.clone(),
            audit_log_file: accounts.audit_log_file.value.clone(),
            socket: accounts.socket.value.clone(),
            isolate_clients: accounts.isolate_clients.value,
            without_rules: accounts.without_rules.value,
            retention: Retention {
                audit_days: accounts.audit_kept_days.value.as_u32(),
                sessions_days: accounts.sessions_kept_days.value.as_u32(),
                usage_days: accounts.usage_kept_days.value.as_u32(),
                destinations_days: accounts.destinations_kept_days.value.as_u32(),
            },
        })
    }
}

impl LeaseConfig {
    /// What the sections say of a server's leases.
    pub(crate) fn of(sections: &Sections, problems: &mut Problems) -> Self {
        let lease = &sections.lease;
        let texts = |domains: &[Domain]| domains.iter().map(|domain| domain.0.clone()).collect();
        let or = |configured: Vec<IpNet>, default: &[IpNet]| match configured.is_empty() {
            true => default.to_vec(),
            false => configured,
        };
        let own: Vec<IpNet> = sections.tun.addresses.value.iter().map(IpNet::trunc).collect();
        let pools = or(without_host_bits(&lease.pools, problems), &own);
        Self {
            endpoints: lease.endpoints.value.clone(),
            routes: or(without_host_bits(&lease.routes, problems), &pools),
            pools,
            dns_servers: lease.dns_servers.value.clone(),
            search_domains: texts(&lease.search_domains.value),
            split_domains: texts(&lease.split_domains.value),
            mtu: lease.mtu.value.chosen().unwrap_or(sections.tun.mtu.value).as_u16(),
            keepalive_s: Some(lease.keepalive_s.value.as_u16()).filter(|&seconds| seconds > 0),
            lasts_s: lease.lasts_s.value.as_u32(),
        }
    }
}
