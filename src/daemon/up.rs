//! `corelane up`.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rand::Rng;

use crate::config::secrets::{ensure_foreign, load_private_key};
use crate::config::{FarSide, KnownServer, LoginConfig, Source, TunConfig, UpConfig};
use crate::control::engine::{ClientSetup, DisconnectReason, Engine, Reload};
use crate::control::runtime::{
    ControlError, ControlHandle, ControlHooks, ControlParts, ControlPoll, ControlThread,
};
use crate::daemon::agreement::Agreement;
use crate::daemon::carriage::{Carriage, CarriageHandle};
use crate::daemon::client_host::ClientHost;
use crate::daemon::client_state::ClientState;
use crate::daemon::early_stop::EarlyStop;
use crate::daemon::kill_switch::KillSwitch;
use crate::daemon::name_servers::{NameServers, watch_file};
use crate::daemon::pool::{Placement, Pool, WorkerSeat};
use crate::daemon::randomness::Randomness;
use crate::daemon::reload::Configuration;
use crate::daemon::resolve::{Resolver, find_server};
use crate::daemon::steward::{Answers, Holdings, Login, Steward, Tenancy, Watch, lock};
use crate::daemon::{DaemonError, notify, tunnel};
use crate::handshake::LocalIdentity;
use crate::handshake::keys::PublicKey;
use crate::host::link::LinkError;
use crate::host::monitor::HostMonitor;
use crate::host::netlink::InterfaceMonitor;
use crate::host::routes::RouteRequest;
use crate::host::upkeep::{InterfaceState, Upkeep};
use crate::sys::clock;
use crate::sys::tun::TunDevice;
use crate::sys::udp::{UdpError, UdpOptions, UdpSocket};

/// Runs a client until it is told to stop; `source` is read again on SIGHUP. Secrets that are
/// needed for a login and are in no file come from `answers`.
///
/// # Errors
/// See [`DaemonError`].
pub fn up(config: UpConfig, source: Source, answers: Answers) -> Result<(), DaemonError> {
    let mut early_stop = EarlyStop::of(&config)?;
    let mut kill_switch = KillSwitch::set(&config)?;
    tunnel::allow_many_files();
    let begin = Begin::of(&config, answers, &early_stop);
    early_stop.rest();
    if early_stop.is_asked() {
        log::info!("stopping, asked by a signal");
        kill_switch.open();
        return Ok(());
    }
    run(config, source, (kill_switch, early_stop), begin?)
}

/// Is the control thread, once all that is needed is open.
fn run(
    config: UpConfig,
    source: Source,
    (kill_switch, early_stop): (KillSwitch, EarlyStop),
    begin: Begin,
) -> Result<(), DaemonError> {
    let Begin { identity, server_key, server, mut agreement, outside, guide } = begin;
    let placement = Placement::choose(&config.workers);
    let workers = placement.workers();

    let Opened { tun, upkeep, monitors: (interface, monitor), sockets, poll } =
        Opened::open(&config, &agreement, server, workers, &kill_switch)?;
    let ports = sockets.ports();
    let reserve = tunnel::drop_privileges(source.file.iter().chain(secret_files(&config)))?;

    let offloads =
        tunnel::offloads_in_force(tun.offloads, Some(&sockets.control), &config.tuning, false);
    let options = tunnel::forwarder_options(&offloads, &config.tuning, agreement.mtu);
    let setup = ClientSetup {
        identity,
        workers: workers as u8,
        features: tunnel::features(&offloads),
        tun_mtu: agreement.mtu,
        server_key,
        server,
        options: agreement.take_options(),
    };
    let info = tunnel::info(&tun, agreement.mtu, std::iter::once(server), offloads);
    let seats = tun.queues.into_iter().zip(sockets.workers).map(WorkerSeat::of_client).collect();
    let (pool, handles, events) = Pool::start(seats, &placement, options, &poll.waker())?;

    let engine = Engine::new_client(setup, Randomness::open()?, clock::now());
    let request = RouteRequest { prefixes: agreement.routes, outside, mark: config.mark };
    let name_servers = NameServers::start(&info.tun, config.dns_mode, agreement.dns)?;
    let host = ClientHost::shared(info.tun.clone(), upkeep, request);
    let (handle, orders) = ControlHandle::new(&poll);
    let carriage = Carriage::of(&config, ports, &handle, &engine)?;
    let words = carriage.as_ref().and_then(Carriage::handle);
    let holdings = Holdings { host: Arc::clone(&host), name_servers: Arc::clone(&name_servers) };
    let (way, watch) = guide.set_out(holdings, handle, words.clone())?;
    let hooks = ClientHooks {
        configuration: Configuration::new(source, reserve),
        tun: info.tun.clone(),
        server,
        host,
        name_servers,
        way,
        watch: Arc::clone(&watch),
        carriage: words,
        kill_switch,
    };
    let control = ControlThread::new(ControlParts {
        engine,
        poll,
        sockets: vec![vec![sockets.control]],
        workers: handles,
        events,
        orders,
        interface: Some(interface),
        host: monitor,
        status_socket: Some(config.status_socket),
        catch_signals: true,
        info,
        hooks: Box::new(hooks),
    })?;
    early_stop.hand_over();
    let outcome = control.run();
    pool.join();
    why_ended(&watch, outcome)
}

/// What is opened while there are rights for it.
struct Opened {
    tun: TunDevice,
    upkeep: Upkeep,
    /// Of the TUN device, and of all else.
    monitors: (InterfaceMonitor, HostMonitor),
    sockets: Sockets,
    poll: ControlPoll,
}

impl Opened {
    fn open(
        config: &UpConfig,
        agreement: &Agreement,
        server: SocketAddr,
        workers: usize,
        kill_switch: &KillSwitch,
    ) -> Result<Self, DaemonError> {
        let (tun, upkeep) = open_tun(config, agreement, workers)?;
        let interface = upkeep.monitor().map_err(LinkError::from)?;
        let monitor = HostMonitor { firewall: kill_switch.monitor()?, files: watch_file() };
        let sockets = Sockets::open(config, server, workers)?;
        let poll =
            ControlPoll::new().map_err(DaemonError::io("making the control thread's poll"))?;
        tunnel::make_socket_directory(&config.status_socket)?;
        Ok(Self { tun, upkeep, monitors: (interface, monitor), sockets, poll })
    }
}

/// Opens the TUN device. A client's flows follow the queues that the server's packets come by.
fn open_tun(
    config: &UpConfig,
    agreement: &Agreement,
    workers: usize,
) -> Result<(TunDevice, Upkeep), DaemonError> {
    let fixed_flows = false;
    let tun = TunConfig { mtu: agreement.mtu, ..config.tun.clone() };
    tunnel::open_tun(&tun, &agreement.addresses, workers, fixed_flows, &config.tuning)
}

/// Why there is no lease any more says more than that the daemon was ended for it.
fn why_ended(
    watch: &Mutex<Option<Watch>>,
    outcome: Result<(), ControlError>,
) -> Result<(), DaemonError> {
    match lock(watch).take().and_then(Watch::join) {
        Some(error) => Err(error.into()),
        None => Ok(outcome?),
    }
}

/// What is known before anything is opened.
struct Begin {
    identity: Arc<LocalIdentity>,
    server_key: PublicKey,
    server: SocketAddr,
    agreement: Agreement,
    /// What is never to be led into the tunnel.
    outside: Vec<SocketAddr>,
    guide: Guide,
}

/// Who knows where the server is.
enum Guide {
    Resolver(Resolver),
    Lease { steward: Box<Steward>, login: Box<Login>, tenancy: Box<Tenancy> },
}

/// The steward's thread, if there is one: the control thread tells it things, the main one waits
/// for its end.
type SharedWatch = Arc<Mutex<Option<Watch>>>;

/// The same, once the control thread can be given orders.
enum Way {
    Resolver(Resolver),
    Lease(Arc<Mutex<Tenancy>>),
}

impl Begin {
    fn of(config: &UpConfig, answers: Answers, stop: &EarlyStop) -> Result<Self, DaemonError> {
        match &config.far_side {
            FarSide::Known(far) => Self::configured(config, far),
            FarSide::Login(login) => Self::by_login(config, login, answers, stop),
        }
    }

    fn configured(config: &UpConfig, far: &KnownServer) -> Result<Self, DaemonError> {
        // The configuration has made sure that there is one.
        let key_file = config.private_key_file.as_deref().unwrap_or_else(|| Path::new(""));
        let identity = Arc::new(LocalIdentity::new(load_private_key(key_file)?));
        ensure_foreign(identity.public(), std::iter::once(&far.key))?;
        let agreement = Agreement::configured(config, far)?;
        let server = find_server(config, &far.server)?;
        Ok(Self {
            identity,
            server_key: far.key,
            server,
            agreement,
            outside: vec![server],
            guide: Guide::Resolver(Resolver::new(config, far.server.clone())),
        })
    }

    fn by_login(
        config: &UpConfig,
        login: &LoginConfig,
        answers: Answers,
        stop: &EarlyStop,
    ) -> Result<Self, DaemonError> {
        let mut randomness = Randomness::open()?;
        let state = ClientState::open(&login.state_directory)?;
        let key = match &config.private_key_file {
            Some(path) => load_private_key(path)?,
            None => state.device_key(&mut randomness)?,
        };
        let identity = Arc::new(LocalIdentity::new(key));
        let (device_key, seed) = (identity.public(), randomness.random());
        let mut steward = Steward::new(login, config.mark, state, answers, device_key, seed)?;
        let login = steward.first_login(stop.stop())?;
        ensure_foreign(device_key, std::iter::once(&login.lease.server_key))?;
        let tenancy = steward.tenancy(config.clone(), &login);
        Ok(Self {
            identity,
            server_key: login.lease.server_key,
            server: tenancy.endpoint(),
            agreement: login.lease.agreement(config),
            outside: tenancy.outside(),
            guide: Guide::Lease {
                steward: Box::new(steward),
                login: Box::new(login),
                tenancy: Box::new(tenancy),
            },
        })
    }
}

impl Guide {
    fn set_out(
        self,
        holdings: Holdings,
        control: ControlHandle,
        carriage: Option<CarriageHandle>,
    ) -> Result<(Way, SharedWatch), DaemonError> {
        match self {
            Self::Resolver(resolver) => Ok((Way::Resolver(resolver), Arc::default())),
            Self::Lease { steward, login, tenancy } => {
                let tenancy = Arc::new(Mutex::new(*tenancy));
                let shared = (Arc::clone(&tenancy), holdings);
                let watch = Watch::start(*steward, *login, shared, control, carriage)?;
                Ok((Way::Lease(tenancy), Arc::new(Mutex::new(Some(watch)))))
            }
        }
    }
}

/// The files with secrets that a reload reads again.
fn secret_files(config: &UpConfig) -> Vec<&PathBuf> {
    match &config.far_side {
        FarSide::Known(far) => far.preshared_key_file.iter().collect(),
        FarSide::Login(login) => login.password_file.iter().chain(&login.token_file).collect(),
    }
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

    /// Their ports, the control thread's last.
    fn ports(&self) -> Vec<u16> {
        let sockets = self.workers.iter().chain(std::iter::once(&self.control));
        sockets.map(|socket| socket.local_addr().port()).collect()
    }
}

/// A socket that reaches servers of both families, or where there is no IPv6 of the server's own.
fn bind_any(server: SocketAddr, options: &UdpOptions) -> Result<UdpSocket, UdpError> {
    match UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0).into(), options) {
        Err(_) if server.is_ipv4() => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0).into(), options),
        result => result,
    }
}

struct ClientHooks {
    configuration: Configuration,
    tun: String,
    server: SocketAddr,
    host: Arc<Mutex<ClientHost>>,
    name_servers: Arc<NameServers>,
    way: Way,
    watch: SharedWatch,
    carriage: Option<CarriageHandle>,
    kill_switch: KillSwitch,
}

impl ControlHooks for ClientHooks {
    /// Routes are in place from the start, before the server has answered: what is meant for the
    /// tunnel never leaves in the clear.
    fn ready(&mut self) -> Result<(), String> {
        lock(&self.host).install().map_err(|error| error.to_string())?;
        self.name_servers.install().map_err(|error| error.to_string())?;
        log::info!("connecting to {} through {}", self.server, self.tun);
        notify::ready(&format!("connecting to {}", self.server));
        Ok(())
    }

    fn connected(&mut self, _peer: &PublicKey) -> Result<(), String> {
        if let Way::Lease(tenancy) = &self.way {
            self.server = lock(tenancy).endpoint();
        }
        notify::status(&format!("connected to {}", self.server));
        Ok(())
    }

    fn disconnected(&mut self, _peer: &PublicKey, reason: DisconnectReason) {
        notify::status(&format!("connecting to {}", self.server));
        if reason != DisconnectReason::ServerChanged
            && let Some(watch) = &*lock(&self.watch)
        {
            watch.doubt();
        }
    }

    fn reload(&mut self) -> Result<Reload, String> {
        let load_keys = |config: &UpConfig| match (&config.far_side, &self.way) {
            (FarSide::Known(far), Way::Resolver(_)) => Agreement::configured(config, far),
            (FarSide::Login(_), Way::Lease(tenancy)) => Ok(lock(tenancy).lease.agreement(config)),
            _ => Err(DaemonError::OtherWay),
        };
        let (config, mut agreement) =
            self.configuration.read_again(|source| Ok(source.load_up()?), load_keys)?;
        let moved = lock(&self.host).set_destinations(agreement.routes.clone());
        moved.map_err(|error| error.to_string())?;
        self.name_servers.set(agreement.dns.clone())?;
        if let Way::Lease(tenancy) = &self.way {
            lock(tenancy).config = config;
        }
        Ok(Reload::Client(agreement.take_options()))
    }

    fn server_address(&mut self) -> Option<SocketAddr> {
        let address = match &mut self.way {
            Way::Resolver(resolver) => resolver.poll().filter(|found| *found != self.server)?,
            Way::Lease(tenancy) => lock(tenancy).next_endpoint()?,
        };
        if matches!(self.way, Way::Resolver(_))
            && let Err(error) = lock(&self.host).set_servers(vec![address])
        {
            log::error!("routes do not follow the server to {address}: {error}");
            return None;
        }
        log::info!("the server is looked for at {address} instead of {}", self.server);
        self.server = address;
        Some(address)
    }

    fn udp_fails(&mut self) {
        if let Some(carriage) = &self.carriage {
            carriage.udp_fails();
        }
    }

    fn udp_restored(&mut self) {
        if let Some(carriage) = &self.carriage {
            carriage.udp_restored();
        }
    }

    fn mend_interface(&mut self) -> Result<InterfaceState, String> {
        lock(&self.host).mend().map_err(|error| error.to_string())
    }

    fn mend_host(&mut self) -> Result<usize, String> {
        Ok(self.kill_switch.restore()? + self.name_servers.repair()?)
    }

    fn stopping(&mut self) {
        notify::stopping();
        if let Some(watch) = &mut *lock(&self.watch) {
            watch.stop();
        }
    }

    fn stopped(&mut self, _engine: &mut Engine, by_request: bool) {
        self.name_servers.remove();
        lock(&self.host).remove();
        if by_request {
            self.kill_switch.open();
        }
    }
}
