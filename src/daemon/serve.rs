//! `corelane serve`.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::IpNet;

use crate::config::secrets::{ensure_foreign, load_preshared_key, load_private_key};
use crate::config::{NatMode, PeerConfig, ServeConfig, Source};
use crate::control::engine::{DisconnectReason, Engine, PeerSetup, Reload, ServerSetup};
use crate::control::runtime::{
    ControlHandle, ControlHooks, ControlParts, ControlPoll, ControlThread,
};
use crate::daemon::desk::Desk;
use crate::daemon::logins::Logins;
use crate::daemon::pool::{Placement, Pool, WorkerSeat};
use crate::daemon::proxy::{Beside, files_of_rules, load_files_of_rules};
use crate::daemon::randomness::Randomness;
use crate::daemon::reload::Configuration;
use crate::daemon::resolve::find_leftovers;
use crate::daemon::{DaemonError, notify, tunnel};
use crate::handshake::LocalIdentity;
use crate::handshake::keys::PublicKey;
use crate::host::firewall::nat::Nat;
use crate::host::link::LinkError;
use crate::host::monitor::HostMonitor;
use crate::host::netlink::{FirewallMonitor, NetlinkError};
use crate::host::upkeep::{InterfaceState, Upkeep};
use crate::limits::{CLAIMS_RECEIVE_BUFFER_LEN, CONTROL_RECEIVE_BUFFER_LEN};
use crate::login::server::LoginListeners;
use crate::sys::clock;
use crate::sys::steering::{CONTROL_MEMBERS, attach_lane_steering};
use crate::sys::udp::UdpSocket;
use crate::telemetry::status::{AccountsStatus, ProxyStatus};

/// Runs a server until it is told to stop; `source` is read again on SIGHUP.
///
/// # Errors
/// See [`DaemonError`].
pub fn serve(config: ServeConfig, source: Source) -> Result<(), DaemonError> {
    tunnel::allow_many_files();
    let identity = Arc::new(LocalIdentity::new(load_private_key(&config.private_key_file)?));
    let peers = peer_setups(&config.peers, identity.public())?;
    let own_key = *identity.public();
    let placement = Placement::choose(&config.workers);
    let workers = placement.workers();

    warn_if_shut()?;
    let fixed_flows = true;
    let (tun, upkeep) =
        tunnel::open_tun(&config.tun, &config.addresses, workers, fixed_flows, &config.tuning)?;
    let interface = upkeep.monitor().map_err(LinkError::from)?;
    let listeners = Listeners::open(&config, workers)?;
    let gateway = Beside::bind(&config)?;
    let (nat, host) = set_up_nat(&config, &tun.name)?;
    let poll = ControlPoll::new().map_err(DaemonError::io("making the control thread's poll"))?;
    make_socket_directories(&config)?;
    let reserve = tunnel::drop_privileges(source.file.iter().chain(&files_read_again(&config)))?;

    let listening = || listeners.control.iter().filter_map(|sockets| sockets.first());
    let offloads =
        tunnel::offloads_in_force(tun.offloads, listening().next(), &config.tuning, true);
    let options = tunnel::forwarder_options(&offloads, &config.tuning, config.tun.mtu);
    let features = tunnel::features(&offloads);
    // The door that carriers alone go through is nobody else's business.
    let endpoints = listening().map(UdpSocket::local_addr).take(config.listen.len());
    let info = tunnel::info(&tun, config.tun.mtu, endpoints, offloads);
    let setup =
        ServerSetup { identity, workers: workers as u8, features, tun_mtu: config.tun.mtu, peers };
    let seats = tun.queues.into_iter().zip(listeners.workers);
    let seats = seats.map(|(tun, sockets)| WorkerSeat { tun, sockets }).collect();
    let (pool, handles, events) = Pool::start(seats, &placement, options, &poll.waker())?;

    let summary = format!("{workers} workers on {}", info.tun);
    let names = peer_names(&config.peers);
    let configuration = Configuration::new(source, reserve);
    let engine = Engine::new_server(setup, Randomness::open()?, clock::now());
    let (handle, orders) = ControlHandle::new(&poll);
    let knocks = listeners.logins;
    let door = listeners.carriers;
    let logins = knocks
        .map(|knocks| Logins::begin(&config, (knocks, door), own_key, handle.clone(), &engine));
    let logins = logins.transpose()?;
    let access = logins.as_ref().map(|logins| logins.desk().proxy_access(&config.lease.pools));
    let gateway = Beside::start(gateway, handle.clone(), access)?;
    let desk = logins.as_ref().map(|logins| logins.desk().clone());
    let proxy = gateway.clone();
    let hooks = ServerHooks { configuration, summary, own_key, names, upkeep, nat, desk, proxy };
    let control = ControlThread::new(ControlParts {
        engine,
        poll,
        sockets: listeners.control,
        workers: handles,
        events,
        orders,
        interface: Some(interface),
        host,
        status_socket: Some(config.status_socket),
        catch_signals: true,
        info,
        hooks: Box::new(hooks),
    })?;
    let outcome = control.run();
    drop(logins);
    pool.join();
    gateway.await_end();
    Ok(outcome?)
}

/// The files beside its own that are read with the configuration.
fn files_read_again(config: &ServeConfig) -> Vec<PathBuf> {
    let keys = config.peers.iter().filter_map(|peer| peer.preshared_key_file.clone());
    keys.chain(files_of_rules(&config.proxies)).collect()
}

/// Makes the directories of both sockets, as long as the rights for that are there.
fn make_socket_directories(config: &ServeConfig) -> Result<(), DaemonError> {
    let accounts_socket = config.logins.as_ref().map(|logins| &logins.accounts.socket);
    let mut sockets = accounts_socket.into_iter().chain([&config.status_socket]);
    sockets.try_for_each(|socket| tunnel::make_socket_directory(socket))
}

fn warn_if_shut() -> Result<(), DaemonError> {
    if find_leftovers()?.shut_anything() {
        log::warn!(
            "a full tunnel of this host was killed and keeps it shut, so this server can answer \
             nobody until that tunnel runs again (`corelane up`)"
        );
    }
    Ok(())
}

/// The sockets of every listening address.
struct Listeners {
    /// By worker, one socket per address.
    workers: Vec<Vec<UdpSocket>>,
    /// By address, [`CONTROL_MEMBERS`] each.
    control: Vec<Vec<UdpSocket>>,
    /// Where people log in, if they do.
    logins: Option<LoginListeners>,
    /// Where carriers bring datagrams, if people log in.
    carriers: SocketAddr,
}

impl Listeners {
    /// Binds a group for each address, the workers first and the control thread last, as the
    /// steering program expects. The kernel puts fragments together before it asks that program.
    /// What waits for the control thread for long waits in vain, since its sender has asked anew,
    /// so the control thread's buffers are small.
    fn open(config: &ServeConfig, workers: usize) -> Result<Self, DaemonError> {
        let options = tunnel::udp_options(&config.tuning, None);
        let logins = config.logins.as_ref().map(|logins| LoginListeners::bind(&logins.listen));
        let mut listeners = Self {
            workers: (0..workers).map(|_| Vec::new()).collect(),
            control: Vec::new(),
            logins: logins.transpose()?,
            carriers: (Ipv4Addr::LOCALHOST, 0).into(),
        };
        let door = config.listen.iter().position(is_reached_from_loopback);
        let own_door = config.logins.as_ref().filter(|_| door.is_none());
        let own_door = own_door.map(|_| (Ipv4Addr::LOCALHOST, 0).into());
        for address in config.listen.iter().copied().chain(own_door) {
            let members = workers + CONTROL_MEMBERS;
            let mut group = UdpSocket::bind_group(address, members, &options)?;
            if let Some(member) = group.first() {
                attach_lane_steering(member, workers as u16).map_err(DaemonError::Steering)?;
            }
            let control = group.split_off(workers);
            for (rank, socket) in control.iter().enumerate() {
                let buffer =
                    if rank == 0 { CLAIMS_RECEIVE_BUFFER_LEN } else { CONTROL_RECEIVE_BUFFER_LEN };
                socket.allow_fragments()?;
                socket.set_receive_buffer(buffer.min(config.tuning.socket_buffer_bytes))?;
            }
            listeners.control.push(control);
            for (sockets, socket) in listeners.workers.iter_mut().zip(group) {
                sockets.push(socket);
            }
        }
        let door = door.unwrap_or(config.listen.len());
        if let Some(socket) = listeners.control.get(door).and_then(|sockets| sockets.first()) {
            listeners.carriers = from_own_host(socket.local_addr());
        }
        Ok(listeners)
    }
}

/// Whether a socket with this address gets what carriers send, each from an address of its own in
/// 127.0.0.0/8. One that takes all takes IPv4, too.
fn is_reached_from_loopback(listening: &SocketAddr) -> bool {
    listening.is_ipv4() || listening.ip().is_unspecified()
}

/// How this host reaches a socket of its own, over IPv4.
fn from_own_host(listening: SocketAddr) -> SocketAddr {
    match listening.ip() {
        any if any.is_unspecified() => (Ipv4Addr::LOCALHOST, listening.port()).into(),
        _ => listening,
    }
}

fn peer_setups(peers: &[PeerConfig], own: &PublicKey) -> Result<Vec<PeerSetup>, DaemonError> {
    ensure_foreign(own, peers.iter().map(|peer| &peer.public_key))?;
    let setup = |peer: &PeerConfig| {
        let preshared_key = match &peer.preshared_key_file {
            Some(path) => load_preshared_key(path)?,
            None => Default::default(),
        };
        let allowed = peer.allowed_ips.clone();
        Ok(PeerSetup { public_key: peer.public_key, preshared_key, allowed, policy: None })
    };
    peers.iter().map(setup).collect()
}

/// Lets clients out to the world, if they are to be; undoes what a run that was killed has left.
fn set_up_nat(config: &ServeConfig, tun: &str) -> Result<(Option<Nat>, HostMonitor), DaemonError> {
    match config.nat {
        NatMode::Off => {
            if let Err(error) = Nat::remove_leftovers(tun) {
                log::warn!("what an earlier run may have left in the packet filter stays: {error}");
            }
            Ok((None, HostMonitor::default()))
        }
        NatMode::Masquerade => {
            let networks: Vec<_> = config.addresses.iter().map(IpNet::trunc).collect();
            let nat = Nat::install(tun, &networks)?;
            let firewall = FirewallMonitor::open(nat.tables()).map_err(LinkError::from)?;
            Ok((Some(nat), HostMonitor { firewall: Some(firewall), files: None }))
        }
    }
}

/// What the configuration calls its peers.
fn peer_names(peers: &[PeerConfig]) -> BTreeMap<PublicKey, String> {
    peers.iter().filter_map(|peer| Some((peer.public_key, peer.name.clone()?))).collect()
}

struct ServerHooks {
    configuration: Configuration,
    summary: String,
    own_key: PublicKey,
    names: BTreeMap<PublicKey, String>,
    upkeep: Upkeep,
    nat: Option<Nat>,
    /// Knows those who are logged in.
    desk: Option<Desk>,
    /// Serves what has no tunnel.
    proxy: Beside,
}

impl ControlHooks for ServerHooks {
    fn ready(&mut self) -> Result<(), String> {
        log::info!("serving: {}", self.summary);
        notify::ready(&self.summary);
        Ok(())
    }

    fn connected(&mut self, _peer: &PublicKey) -> Result<(), String> {
        Ok(())
    }

    fn disconnected(&mut self, _peer: &PublicKey, _reason: DisconnectReason) {}

    fn proxy_status(&self) -> Option<ProxyStatus> {
        self.proxy.status()
    }

    fn name_of(&self, peer: &PublicKey) -> Option<String> {
        let user = || Some(self.desk.as_ref()?.user_of(peer)?.to_string());
        self.names.get(peer).cloned().or_else(user)
    }

    fn accounts(&self) -> Option<AccountsStatus> {
        self.desk.as_ref().map(Desk::accounts_status)
    }

    fn reload(&mut self) -> Result<Reload, String> {
        let load_peers = |config: &ServeConfig| {
            load_files_of_rules(&config.proxies)?;
            peer_setups(&config.peers, &self.own_key)
        };
        let (config, peers) =
            self.configuration.read_again(|source| Ok(source.load_serve()?), load_peers)?;
        self.names = peer_names(&config.peers);
        if let Some(desk) = &self.desk {
            desk.set_lease(config.lease);
        }
        self.proxy.apply(&config.proxies);
        Ok(Reload::Server { peers })
    }

    fn mend_interface(&mut self) -> Result<InterfaceState, String> {
        let no_routes = || Ok::<_, NetlinkError>(0);
        self.upkeep.mend(no_routes).map_err(|error| error.to_string())
    }

    fn mend_host(&mut self) -> Result<usize, String> {
        let restored = self.nat.as_mut().map_or(Ok(0), Nat::restore);
        restored.map_err(|error| error.to_string())
    }

    fn stopping(&mut self) {
        notify::stopping();
        self.proxy.stop();
    }

    fn stopped(&mut self, engine: &mut Engine, _by_request: bool) {
        if let Some(desk) = &self.desk {
            desk.add_usage(engine.take_usage());
        }
        if let Some(nat) = self.nat.take()
            && let Err(error) = nat.remove()
        {
            log::error!("the host goes on forwarding, the next start mends that: {error}");
        }
    }
}
