//! `corelane up`.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::config::secrets::{ensure_foreign, load_preshared_key, load_private_key};
use crate::config::{Source, UpConfig};
use crate::control::engine::{ClientOptions, ClientSetup, DisconnectReason, Engine, Reload};
use crate::control::runtime::{ControlHooks, ControlParts, ControlPoll, ControlThread, DaemonInfo};
use crate::daemon::kill_switch::KillSwitch;
use crate::daemon::pool::{Placement, Pool, WorkerSeat};
use crate::daemon::randomness::Randomness;
use crate::daemon::reload::Configuration;
use crate::daemon::resolve::{Resolver, find_server};
use crate::daemon::{DaemonError, notify, tunnel};
use crate::handshake::LocalIdentity;
use crate::handshake::keys::PublicKey;
use crate::host::link::LinkError;
use crate::host::routes::{ClientRoutes, RouteRequest};
use crate::host::upkeep::{InterfaceState, Upkeep};
use crate::sys::clock;
use crate::sys::udp::{UdpError, UdpOptions, UdpSocket};

/// Runs a client until it is told to stop; `source` is read again on SIGHUP.
///
/// # Errors
/// See [`DaemonError`].
pub fn up(config: UpConfig, source: Source) -> Result<(), DaemonError> {
    let kill_switch = KillSwitch::set(&config)?;
    tunnel::allow_many_files();
    let identity = Arc::new(LocalIdentity::new(load_private_key(&config.private_key_file)?));
    ensure_foreign(identity.public(), std::iter::once(&config.server_key))?;
    let client_options = client_options(&config)?;
    let server = find_server(&config.server, &config.tun.name)?;
    let placement = Placement::choose(&config.workers);
    let workers = placement.workers();

    let fixed_flows = false;
    let (tun, upkeep) =
        tunnel::open_tun(&config.tun, &config.addresses, workers, fixed_flows, &config.tuning)?;
    let interface = upkeep.monitor().map_err(LinkError::from)?;
    let firewall = kill_switch.monitor()?;
    let sockets = Sockets::open(&config, server, workers)?;
    let poll = ControlPoll::new().map_err(DaemonError::io("making the control thread's poll"))?;
    tunnel::make_status_directory(&config.status_socket)?;
    let files = source.file.iter().chain(&config.preshared_key_file);
    let reserve = tunnel::drop_privileges(files)?;

    let offloads =
        tunnel::offloads_in_force(tun.offloads, Some(&sockets.control), &config.tuning, false);
    let options = tunnel::forwarder_options(&offloads, &config.tuning, config.tun.mtu);
    let info = DaemonInfo {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        tun: tun.name.clone(),
        mtu: u32::from(config.tun.mtu),
        endpoints: vec![server.to_string()],
        offloads,
    };
    let setup = ClientSetup {
        identity,
        workers: workers as u8,
        features: tunnel::features(&offloads),
        tun_mtu: config.tun.mtu,
        server_key: config.server_key,
        server,
        options: client_options,
    };
    let seats = tun.queues.into_iter().zip(sockets.workers);
    let seats = seats.map(|(tun, socket)| WorkerSeat { tun, sockets: vec![socket] }).collect();
    let (pool, handles, events) = Pool::start(seats, &placement, options, &poll.waker())?;

    let configuration = Configuration::new(source, reserve);
    let tun = info.tun.clone();
    let hooks = ClientHooks::new(&config, configuration, tun, server, upkeep, kill_switch);
    let control = ControlThread::new(ControlParts {
        engine: Engine::new_client(setup, Randomness::open()?, clock::now()),
        poll,
        sockets: vec![vec![sockets.control]],
        workers: handles,
        events,
        orders: crossbeam_channel::never(),
        interface: Some(interface),
        firewall,
        status_socket: Some(config.status_socket),
        catch_signals: true,
        info,
        hooks: Box::new(hooks),
    })?;
    control.run()?;
    pool.join();
    Ok(())
}

/// A socket for each path, and one for handshakes.
struct Sockets {
    workers: Vec<UdpSocket>,
    control: UdpSocket,
}

impl Sockets {
    fn open(config: &UpConfig, server: SocketAddr, workers: usize) -> Result<Self, UdpError> {
        let options = UdpOptions {
            follow_routes: true,
            ..tunnel::udp_options(&config.tuning, Some(config.mark))
        };
        let open = || bind_any(server, &options);
        let workers = (0..workers).map(|_| open()).collect::<Result<_, _>>()?;
        let control = open()?;
        // An initiation is larger than some links, and cannot be made smaller.
        control.allow_fragments()?;
        Ok(Self { workers, control })
    }
}

/// A socket that reaches servers of both families, or where there is no IPv6 of the server's own.
fn bind_any(server: SocketAddr, options: &UdpOptions) -> Result<UdpSocket, UdpError> {
    match UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0).into(), options) {
        Err(_) if server.is_ipv4() => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0).into(), options),
        result => result,
    }
}

/// What is reached through the server: the routes, and the network of the client's own addresses.
fn client_options(config: &UpConfig) -> Result<ClientOptions, DaemonError> {
    let preshared_key = match &config.preshared_key_file {
        Some(path) => load_preshared_key(path)?,
        None => Default::default(),
    };
    let networks = config.addresses.iter().map(IpNet::trunc);
    Ok(ClientOptions {
        preshared_key,
        allowed: networks.chain(config.routes.iter().copied()).collect(),
        keepalive: config.keepalive_s.map(|seconds| Duration::from_secs(seconds.into())),
        rekey_after: Duration::from_secs(config.rekey_after_s.into()),
    })
}

fn route_request(config: &UpConfig, server: SocketAddr) -> RouteRequest {
    RouteRequest { prefixes: config.routes.clone(), outside: vec![server], mark: config.mark }
}

struct ClientHooks {
    configuration: Configuration,
    tun: String,
    request: RouteRequest,
    server: SocketAddr,
    routes: Option<ClientRoutes>,
    upkeep: Upkeep,
    kill_switch: KillSwitch,
    resolver: Resolver,
}

impl ClientHooks {
    fn new(
        config: &UpConfig,
        configuration: Configuration,
        tun: String,
        server: SocketAddr,
        upkeep: Upkeep,
        kill_switch: KillSwitch,
    ) -> Self {
        let request = route_request(config, server);
        let resolver = Resolver::new(config.server.clone());
        Self { configuration, tun, request, server, routes: None, upkeep, kill_switch, resolver }
    }
}

impl ControlHooks for ClientHooks {
    /// Routes are in place from the start, before the server has answered: what is meant for the
    /// tunnel never leaves in the clear.
    fn ready(&mut self) -> Result<(), String> {
        let routes = ClientRoutes::install(&self.tun, &self.request);
        self.routes = Some(routes.map_err(|error| error.to_string())?);
        log::info!("connecting to {} through {}", self.server, self.tun);
        notify::ready(&format!("connecting to {}", self.server));
        Ok(())
    }

    fn connected(&mut self, _peer: &PublicKey) -> Result<(), String> {
        notify::status(&format!("connected to {}", self.server));
        Ok(())
    }

    fn disconnected(&mut self, _peer: &PublicKey, _reason: DisconnectReason) {
        notify::status(&format!("connecting to {}", self.server));
    }

    fn reload(&mut self) -> Result<Reload, String> {
        let (config, options) =
            self.configuration.read_again(|source| Ok(source.load_up()?), client_options)?;
        let request = route_request(&config, self.server);
        if let Some(routes) = &mut self.routes {
            routes.update(&request).map_err(|error| error.to_string())?;
        }
        self.request = request;
        Ok(Reload::Client(options))
    }

    fn server_address(&mut self) -> Option<SocketAddr> {
        let address = self.resolver.poll().filter(|address| *address != self.server)?;
        self.request.outside = vec![address];
        if let Some(routes) = &mut self.routes
            && let Err(error) = routes.update(&self.request)
        {
            log::error!("routes do not follow the server to {address}: {error}");
            return None;
        }
        log::info!("the server has moved from {} to {address}", self.server);
        self.server = address;
        Some(address)
    }

    fn mend_interface(&mut self) -> Result<InterfaceState, String> {
        let routes = &mut self.routes;
        let mended = self.upkeep.mend(|| routes.as_mut().map_or(Ok(0), ClientRoutes::restore));
        mended.map_err(|error| error.to_string())
    }

    fn mend_firewall(&mut self) -> Result<usize, String> {
        self.kill_switch.restore()
    }

    fn stopping(&mut self) {
        notify::stopping();
    }

    fn stopped(&mut self, by_request: bool) {
        if let Some(routes) = self.routes.take()
            && let Err(error) = routes.remove()
        {
            log::error!("routes are left behind, the next start mends that: {error}");
        }
        if by_request {
            self.kill_switch.open();
        }
    }
}
