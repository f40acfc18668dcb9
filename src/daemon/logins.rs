//! All that a server has beside the tunnel when people log in: accounts, the login port, carriers,
//! and the desk between them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::accounts::addresses::AddressPlan;
use crate::accounts::service::{Accounts, AccountsOptions};
use crate::config::{AccountsConfig, ServeConfig};
use crate::control::engine::Engine;
use crate::control::runtime::ControlHandle;
use crate::daemon::accounts_socket::AccountsSocket;
use crate::daemon::desk::{Desk, House, Rounds};
use crate::daemon::{DaemonError, accounts};
use crate::handshake::keys::PublicKey;
use crate::login::carrier::CarrierRelay;
use crate::login::server::{LoginListeners, LoginOptions, LoginThread, Timeouts};
use crate::login::tls::TlsFiles;

/// The running parts, in the order in which they are to end.
pub(super) struct Logins {
    /// First administrators are told that nobody answers,
    _socket: AccountsSocket,
    /// then nobody logs in any more,
    _login: LoginThread,
    /// then nothing is told any more,
    _rounds: Rounds,
    /// and then nothing is carried.
    _carriers: CarrierRelay,
    desk: Desk,
}

impl Logins {
    /// Opens the accounts of a server whose static key is `key`, and lets people in at `knocks`;
    /// carriers bring datagrams to `door`.
    pub(super) fn begin(
        config: &ServeConfig,
        (knocks, door): (LoginListeners, SocketAddr),
        key: PublicKey,
        control: ControlHandle,
        engine: &Engine,
    ) -> Result<Self, DaemonError> {
        // Whoever has opened the listeners has read where.
        let Some(logins) = &config.logins else { return Err(DaemonError::OtherWay) };
        let options = accounts_options(config, &logins.accounts, key)?;
        let defaults = options.policy_defaults;
        let accounts = Accounts::open(options)?;
        let socket = AccountsSocket::open(&logins.accounts.socket, accounts.clone())?;
        // The configuration has made sure that there is one.
        let port = config.listen.first().map_or(0, SocketAddr::port);
        let carriers = CarrierRelay::start(door, Arc::clone(engine.drops()))
            .map_err(DaemonError::io("starting the thread of the carriers"))?;
        let (name, lease) = (logins.accounts.server_name.clone(), config.lease.clone());
        let house = House { name, key, port, lease };
        let desk = Desk::new(accounts, control, carriers.handle(), house, defaults);
        let rounds =
            Rounds::start(&desk).map_err(DaemonError::io("starting the threads of the desk"))?;
        let options = LoginOptions {
            listeners: knocks,
            files: TlsFiles {
                certificate: logins.certificate_file.clone(),
                key: logins.key_file.clone(),
                client_ca: logins.client_ca_file.clone(),
                client_crl: logins.client_crl_file.clone(),
            },
            timeouts: Timeouts::default(),
        };
        let login = LoginThread::start(options, Arc::new(desk.clone()), Arc::new(desk.clone()))?;
        desk.connect(login.handle());
        for address in login.addresses() {
            log::info!("logins are taken at {address}/tcp");
        }
        Ok(Self { _socket: socket, _login: login, _rounds: rounds, _carriers: carriers, desk })
    }

    /// Between those who log in and the tunnel.
    pub(super) fn desk(&self) -> &Desk {
        &self.desk
    }
}

fn accounts_options(
    config: &ServeConfig,
    accounts: &AccountsConfig,
    key: PublicKey,
) -> Result<AccountsOptions, DaemonError> {
    let own = config.addresses.iter().map(|own| IpNet::from(own.addr()));
    let peers = config.peers.iter().flat_map(|peer| peer.allowed_ips.iter().copied());
    // A peer that has everything leaves the pools alone: its prefix is never the longest.
    let is_within_a_pool = |prefix: &IpNet| config.lease.pools.iter().any(|it| it.contains(prefix));
    Ok(AccountsOptions {
        addresses: AddressPlan {
            pools: config.lease.pools.clone(),
            excluded: own.chain(peers.filter(is_within_a_pool)).collect(),
        },
        foreign_keys: config.peers.iter().map(|peer| peer.public_key).chain([key]).collect(),
        lease: Duration::from_secs(config.lease.lasts_s.into()),
        ..accounts::options(accounts)?
    })
}
