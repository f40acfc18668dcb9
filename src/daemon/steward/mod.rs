//! The steward: looks after the lease of a client that logs in.
//!
//! [`Steward::first_login`] happens before there is a tunnel. Then the steward is a thread of its
//! own ([`watch`]): it renews the lease when half of it is over, asks now and then whether the
//! server is there, and at once when the network around has changed ([`ways`]), and logs in again,
//! wherever it is best, when the server is not. A new lease goes to the engine and to the host in
//! place, and the tunnel goes on.

mod answers;
mod choice;
mod error;
mod heart;
mod outlook;
mod proofs;
mod servers;
mod watch;
mod ways;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crossbeam_channel::{Receiver, RecvTimeoutError};
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::accounts::names::Name;
use crate::config::{HostPort, LoginConfig, UpConfig};
use crate::control::engine::ServerChoice;
use crate::daemon::agreement::Agreement;
use crate::daemon::carriage::Access;
use crate::daemon::client_host::ClientHost;
use crate::daemon::client_state::ClientState;
use crate::daemon::lease::Lease;
use crate::daemon::name_servers::NameServers;
use crate::daemon::resolve::{outer_lookup, resolve_all};
use crate::handshake::keys::PublicKey;
use crate::host::routes::RoutesError;
use crate::limits::FIRST_LOGIN_WITHIN;
use crate::login::client::LiveChannel;
use crate::login::tls::{ClientTls, Identity, TlsSetupError, Trust};
use crate::sys::clock;

use outlook::Outlook;
use proofs::Proofs;
use servers::Servers;

pub use answers::Answers;
pub use error::LoginError;
pub use proofs::ProofError;
pub(super) use watch::Watch;

/// A login that has succeeded.
pub(super) struct Login {
    channel: LiveChannel,
    /// What was granted.
    pub(super) lease: Lease,
    /// Where the login was.
    server: HostPort,
    address: SocketAddr,
    /// When it was granted or last renewed.
    at: Instant,
}

/// What a client has on its host that a new lease changes.
#[derive(Clone)]
pub(super) struct Holdings {
    pub(super) host: Arc<Mutex<ClientHost>>,
    pub(super) name_servers: Arc<NameServers>,
}

impl Holdings {
    /// Gives the host what was agreed on. Programs that this takes are not waited for.
    fn furnish(&self, outside: Vec<SocketAddr>, agreement: Agreement) -> Result<(), RoutesError> {
        self.name_servers.want(agreement.dns);
        let mut host = lock(&self.host);
        host.set_servers(outside)?;
        host.set_mtu(agreement.mtu)?;
        host.set_addresses(agreement.addresses)?;
        host.set_destinations(agreement.routes)
    }
}

/// What a client has now, shared by the thread that sees to it and the one that uses it.
pub(super) struct Tenancy {
    /// What the configuration says beside the lease.
    pub(super) config: UpConfig,
    pub(super) lease: Lease,
    /// Where to send datagrams, best first; never empty.
    endpoints: Vec<SocketAddr>,
    /// The one in use.
    endpoint: usize,
    /// Every address that a login may go to.
    logins: Vec<SocketAddr>,
}

impl Tenancy {
    /// What the engine is to go on with.
    pub(super) fn choice(&self) -> ServerChoice {
        let options = self.lease.agreement(&self.config).take_options();
        let (key, tun_mtu) = (self.lease.server_key, self.lease.mtu);
        ServerChoice { key, address: self.endpoint(), tun_mtu, options }
    }

    /// Where to send datagrams now.
    pub(super) fn endpoint(&self) -> SocketAddr {
        self.endpoints[self.endpoint % self.endpoints.len()]
    }

    /// Where to send them instead, since nothing answers there, if there is anywhere else.
    pub(super) fn next_endpoint(&mut self) -> Option<SocketAddr> {
        let before = self.endpoint();
        self.endpoint = (self.endpoint + 1) % self.endpoints.len();
        Some(self.endpoint()).filter(|next| *next != before)
    }

    /// Goes on under a lease that has been renewed, if it leads where it led: what was found out
    /// about its endpoints holds. Whether that is so.
    fn renew(&mut self, lease: &Lease) -> bool {
        let (former, now) = (&self.lease, lease);
        let is_same = (former.server_key, &former.endpoints) == (now.server_key, &now.endpoints);
        if is_same {
            self.lease = lease.clone();
        }
        is_same
    }

    /// What is never to be led into the tunnel.
    pub(super) fn outside(&self) -> Vec<SocketAddr> {
        self.endpoints.iter().chain(&self.logins).copied().collect()
    }
}

/// Locks what two threads share. One that has panicked has ended the process's run anyway.
pub(super) fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What it takes to log in.
pub(super) struct Steward {
    servers: Servers,
    proofs: Proofs,
    rng: StdRng,
}

impl Steward {
    /// A steward of the device with this key; `seed` is random.
    pub(super) fn new(
        login: &LoginConfig,
        mark: u32,
        state: ClientState,
        answers: Answers,
        device_key: &PublicKey,
        seed: [u8; 32],
    ) -> Result<Self, TlsSetupError> {
        let identity = match &login.certificate {
            Some((certificate, key)) => Some(Identity::load(certificate, key)?),
            None => None,
        };
        let trust = match (&login.ca_pin, &login.ca_file) {
            (Some(pin), _) => Trust::Pin(*pin),
            (None, Some(file)) => Trust::Authority(file.clone()),
            (None, None) => Trust::System,
        };
        let tls = ClientTls::new(&trust, identity)?;
        let device_name = login.device_name.clone().unwrap_or_else(Name::of_this_host);
        let device_key = device_key.to_string();
        Ok(Self {
            servers: Servers::new(login, tls, mark),
            proofs: Proofs::new(login.clone(), state, answers, device_name, device_key),
            rng: StdRng::from_seed(seed),
        })
    }

    /// Finds a server and logs in there. Waits until one answers, but not for ever, and not when
    /// the other end of `stop` is gone.
    pub(super) fn first_login(&mut self, stop: &Receiver<()>) -> Result<Login, LoginError> {
        let until = clock::now() + FIRST_LOGIN_WITHIN;
        let mut tries = 0;
        loop {
            let error = match self.log_in(stop, None) {
                Ok(login) => return Ok(login),
                Err(error) => error,
            };
            let Outlook::After(least) = outlook::at_start(&error) else { return Err(error) };
            let pause = least.max(choice::pause(tries, &mut self.rng));
            if clock::now() + pause >= until {
                return Err(error);
            }
            log::warn!("{error}; next try in {pause:.1?}");
            if stop.recv_timeout(pause) == Err(RecvTimeoutError::Disconnected) {
                return Err(error);
            }
            tries += 1;
        }
    }

    /// Gives up as soon as the other end of `stop` is gone; `silent` has just ceased to answer.
    fn log_in(
        &mut self,
        stop: &Receiver<()>,
        silent: Option<&HostPort>,
    ) -> Result<Login, LoginError> {
        let mut visit = self.servers.find(stop, silent)?;
        let granted = self.proofs.log_in(&mut visit.channel, stop)?;
        let lease = Lease::new(granted.terms, granted.psk)?;
        log::info!("logged in to {} ({}) as {}", visit.server, lease.server, lease.user);
        let channel = visit.channel.into_live().map_err(ProofError::Channel)?;
        let (server, address) = (visit.server, visit.address);
        Ok(Login { channel, lease, server, address, at: clock::now() })
    }

    /// What it takes to open a carrier to where the login was.
    fn access(&self, login: &Login) -> Access {
        let (name, ticket) = (login.server.host().to_owned(), login.lease.carrier_ticket.clone());
        self.servers.access(name, login.address, ticket)
    }

    /// What a login leads to. May wait for a resolver.
    pub(super) fn tenancy(&self, config: UpConfig, login: &Login) -> Tenancy {
        // A kill switch keeps the host's resolver in, but not what has the mark.
        let look_up = |endpoint: &HostPort| {
            resolve_all(endpoint, outer_lookup(Some(self.servers.mark())).as_ref())
        };
        let endpoints = login.lease.resolve(login.server.host(), login.address, look_up);
        let mut logins = self.servers.addresses();
        logins.push(login.address);
        Tenancy { config, lease: login.lease.clone(), endpoints, endpoint: 0, logins }
    }
}
