//! `corelane proxy`: the proxy gateway without a tunnel; and the same beside one.

use std::io;
use std::net::UdpSocket;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, unbounded};
use mio::{Events, Interest, Poll, Token, Waker};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook_mio::v1_0::Signals;

use crate::config::{
    AccountsConfig, PROXY_STATUS_SOCKET_DEFAULT, ProxyConfig, ServeConfig, Source, WorkersConfig,
};
use crate::control::runtime::{ControlHandle, STATUS_CLIENTS, STATUS_LISTENER, StatusSocket};
use crate::daemon::accounts::Members;
use crate::daemon::early_stop::EarlyStop;
use crate::daemon::pool::Placement;
use crate::daemon::reload::{self, Configuration};
use crate::daemon::{DaemonError, notify, tunnel};
use crate::host::privileges::Reserve;
use crate::limits::PROXY_DRAIN_WITHIN;
use crate::login::tls::TlsSetupError;
use crate::proxy::access::AccessOptions;
use crate::proxy::detect::Protocol;
use crate::proxy::settings::{Entrance, Rules};
use crate::proxy::{Gateway, GatewayError, Listeners};
use crate::sys::clock;
use crate::telemetry::status::{
    OffloadStatus, ProxyStatus, STATUS_SCHEMA, StatusAnswer, StatusReport, StatusRequest,
};

const WAKER: Token = Token(0);
const SIGNALS: Token = Token(1);
/// How often it is looked whether the last relay has ended, once the gateway stops.
const DRAIN_LOOK_EVERY: Duration = Duration::from_millis(50);

/// Runs a proxy gateway until it is told to stop; `source` is read again on SIGHUP.
///
/// # Errors
/// See [`DaemonError`].
pub fn proxy(config: ProxyConfig, source: Source) -> Result<(), DaemonError> {
    tunnel::allow_many_files();
    let of_rules = files_of_rules(&config.entrances);
    let bound = bind(config.entrances, &config.workers)?;
    let files: Vec<PathBuf> = source.file.iter().chain(&of_rules).cloned().collect();
    let has_accounts = config.accounts.is_some();
    let alone = Alone {
        bound,
        role: "proxy",
        status: (config.status_socket, PROXY_STATUS_SOCKET_DEFAULT),
        accounts: config.accounts,
        early: None,
    };
    alone.run(&files, |reserve| {
        let configuration = Configuration::new(source, reserve);
        Box::new(move || {
            let load = |source: &Source| Ok(source.load_proxy()?);
            let load_files = |config: &ProxyConfig| load_files_of_rules(&config.entrances);
            let (config, ()) = configuration.read_again(load, load_files)?;
            if config.accounts.is_some() && !has_accounts {
                let error = "clients are to say who they are now, and the accounts that know them \
                             are opened at a start only: restart the daemon";
                return Err(error.to_owned());
            }
            Ok(config.entrances)
        })
    })
}

/// Reads again what goes for clients of a gateway; the error is a sentence for the administrator.
pub(super) type Reread = Box<dyn Fn() -> Result<Vec<Entrance>, String>>;

/// A gateway whose sockets are open, without a tunnel, and what is around it.
pub(super) struct Alone<'a> {
    pub(super) bound: Bound,
    /// What status reports call it.
    pub(super) role: &'static str,
    /// Where the status is offered, or where else unless that cannot be done.
    pub(super) status: (Option<PathBuf>, &'a str),
    /// Who clients may be, if they have to say it.
    pub(super) accounts: Option<AccountsConfig>,
    /// Has listened to signals so far.
    pub(super) early: Option<EarlyStop>,
}

impl Alone<'_> {
    /// Runs it until it is told to stop. `reader` makes what is done on SIGHUP; it is given the
    /// right to read `files` if that is needed.
    pub(super) fn run(
        self,
        files: &[PathBuf],
        reader: impl FnOnce(Reserve) -> Reread,
    ) -> Result<(), DaemonError> {
        let io_error = DaemonError::io("making the poll of the proxy's main thread");
        let poll = Poll::new().map_err(io_error)?;
        let (status, status_default) = self.status;
        let status = status_socket(status, status_default, &poll)?;
        if let Some(accounts) = &self.accounts {
            tunnel::make_socket_directory(&accounts.socket)?;
        }
        let reserve = reload::drop_privileges(&[], files)?;
        let signals = catch_signals(&poll)?;
        if let Some(early) = self.early {
            early.hand_over();
        }
        let members = self.accounts.as_ref().map(Members::open).transpose()?;
        let (failures, waker) = (unbounded(), Waker::new(poll.registry(), WAKER));
        let waker = Arc::new(waker.map_err(DaemonError::io("making the poll of the main thread"))?);
        let gateway = self.bound.start(members.as_ref().map(Members::access), move |failure| {
            // Both fail only if the main thread is gone, and then nobody is left to be told.
            let _ = failures.0.send(failure);
            let _ = waker.wake();
        })?;
        let summary = summary(&gateway);
        log::info!("serving proxy clients: {summary}");
        notify::ready(&summary);
        let mut main = MainThread {
            poll,
            signals,
            failures: failures.1,
            gateway,
            members,
            status,
            role: self.role,
            reread: reader(reserve),
            started: clock::now(),
            stop: None,
        };
        let outcome = main.run();
        notify::stopping();
        outcome
    }
}

fn catch_signals(poll: &Poll) -> Result<Signals, DaemonError> {
    let failed = DaemonError::io("catching signals");
    let caught = Signals::new([SIGTERM, SIGINT, SIGHUP]).and_then(|mut signals| {
        poll.registry().register(&mut signals, SIGNALS, Interest::READABLE)?;
        Ok(signals)
    });
    caught.map_err(failed)
}

/// A gateway that is open and not running yet.
pub(super) struct Bound {
    listeners: Listeners,
    placement: Placement,
}

/// Opens the sockets of a gateway, as long as the rights for that are there.
pub(super) fn bind(
    entrances: Vec<Entrance>,
    workers: &WorkersConfig,
) -> Result<Bound, DaemonError> {
    load_files_of_rules(&entrances)?;
    let placement = Placement::choose(workers);
    let listeners = Listeners::bind(entrances, placement.workers())?;
    Ok(Bound { listeners, placement })
}

impl Bound {
    /// Starts the workers. `mourn` hears of one that has failed.
    fn start(
        self,
        access: Option<AccessOptions>,
        mourn: impl Fn(String) + Clone + Send + 'static,
    ) -> Result<Gateway, DaemonError> {
        Ok(Gateway::start(self.listeners, &self.placement.cpus, access, mourn)?)
    }
}

/// The files that a reload reads: those of upstream proxies, authorities for origins.
pub(super) fn files_of_rules(entrances: &[Entrance]) -> Vec<PathBuf> {
    let upstreams = entrances.iter().flat_map(|entrance| &entrance.rules.upstreams);
    let of_upstreams = upstreams.flat_map(|group| group.settings.files()).cloned();
    let origins = entrances.iter().filter_map(|entrance| entrance.rules.origins.ca_file.clone());
    of_upstreams.chain(origins).collect()
}

/// Reads those files, as long as the rights for that are there, and looks whether addresses from
/// which others are dialled are there.
pub(super) fn load_files_of_rules(entrances: &[Entrance]) -> Result<(), DaemonError> {
    for group in entrances.iter().flat_map(|entrance| &entrance.rules.upstreams) {
        group.load()?;
    }
    for address in entrances.iter().flat_map(|entrance| entrance.rules.dial_from.addresses()) {
        let failed = |source| GatewayError::DialFrom { address, source };
        UdpSocket::bind((address, 0)).map_err(failed)?;
    }
    let serves_http = |entrance: &&Entrance| entrance.rules.has(Protocol::Http);
    for Entrance { rules, .. } in entrances.iter().filter(serves_http) {
        match rules.origins.load() {
            // Everything else goes without.
            Err(error @ TlsSetupError::NoSystemRoots(_)) => {
                log::warn!(
                    "requests for https:// URLs will be answered 502, as no authority is trusted \
                     (`origin_ca_file` names one): {error}"
                );
            }
            loaded => loaded.map_err(GatewayError::Origins)?,
        }
    }
    Ok(())
}

/// What a gateway is, in a few words.
fn summary(gateway: &Gateway) -> String {
    let status = gateway.status();
    format!("{} workers on {}", status.workers, status.listening.join(", "))
}

/// Gives the rules that were read again to a gateway that runs.
fn apply(gateway: &Gateway, entrances: &[Entrance]) {
    gateway.reopen_logs();
    let rules: Vec<Rules> = entrances.iter().map(|entrance| entrance.rules.clone()).collect();
    if !gateway.set_rules(rules) {
        log::warn!("there is another number of [[proxy]] tables now: they wait for a restart");
    }
}

/// The gateway beside a tunnel, if there is one. Cheap to clone.
#[derive(Clone)]
pub(super) struct Beside(Option<Arc<Gateway>>);

impl Beside {
    /// Opens the sockets, as long as the rights for that are there.
    pub(super) fn bind(config: &ServeConfig) -> Result<Option<Bound>, DaemonError> {
        match config.proxies.is_empty() {
            true => Ok(None),
            false => bind(config.proxies.clone(), &config.workers).map(Some),
        }
    }

    /// Starts the workers. If one fails, the control thread ends.
    pub(super) fn start(
        bound: Option<Bound>,
        control: ControlHandle,
        access: Option<AccessOptions>,
    ) -> Result<Self, DaemonError> {
        let Some(bound) = bound else { return Ok(Self(None)) };
        let gateway = bound.start(access, move |failure| control.end(failure))?;
        log::info!("serving proxy clients: {}", summary(&gateway));
        Ok(Self(Some(Arc::new(gateway))))
    }

    /// What it is doing.
    pub(super) fn status(&self) -> Option<ProxyStatus> {
        self.0.as_ref().map(|gateway| gateway.status())
    }

    /// Takes over what was read again.
    pub(super) fn apply(&self, entrances: &[Entrance]) {
        match &self.0 {
            Some(gateway) => apply(gateway, entrances),
            None if entrances.is_empty() => {}
            None => log::warn!("the [[proxy]] tables are new: they wait for a restart"),
        }
    }

    /// Accepts nobody any more.
    pub(super) fn stop(&self) {
        if let Some(gateway) = &self.0 {
            gateway.stop(PROXY_DRAIN_WITHIN);
        }
    }

    /// Waits for the last relay to end, within bounds, and not if somebody asks to stop again.
    pub(super) fn await_end(&self) {
        let Some(gateway) = &self.0 else { return };
        let hurry = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT] {
            if let Err(error) = signal_hook::flag::register(signal, Arc::clone(&hurry)) {
                log::warn!("a second signal will not be heard: {error}");
            }
        }
        while !gateway.has_stopped() && !hurry.load(Ordering::Relaxed) {
            std::thread::sleep(DRAIN_LOOK_EVERY);
        }
    }
}

/// Offers the status, at the usual place, `default`, if that can be done.
fn status_socket(
    path: Option<PathBuf>,
    default: &str,
    poll: &Poll,
) -> Result<Option<StatusSocket>, DaemonError> {
    let bind = |path: PathBuf| {
        tunnel::make_socket_directory(&path)?;
        StatusSocket::bind(path, poll.registry()).map_err(DaemonError::from)
    };
    match path {
        Some(path) => bind(path).map(Some),
        None => Ok(bind(PathBuf::from(default))
            .inspect_err(|error| log::info!("no status is offered: {error}"))
            .ok()),
    }
}

/// The thread that signals and questions come to.
struct MainThread {
    poll: Poll,
    signals: Signals,
    failures: Receiver<String>,
    gateway: Gateway,
    /// Those whom it knows. They outlive it, and hear of all that was moved.
    members: Option<Members>,
    /// It outlives them: whoever waits for its end may start the next gateway then.
    status: Option<StatusSocket>,
    /// What it is called there.
    role: &'static str,
    reread: Reread,
    started: Instant,
    /// When relays have to have ended, once somebody has said that it is to stop.
    stop: Option<Instant>,
}

impl MainThread {
    fn run(&mut self) -> Result<(), DaemonError> {
        let mut events = Events::with_capacity(64);
        loop {
            if let Some(until) = self.stop
                && (self.gateway.has_stopped() || clock::now() >= until)
            {
                return Ok(());
            }
            match self.poll.poll(&mut events, self.timeout()) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    return Err(DaemonError::io("waiting for events")(error));
                }
                Err(_) | Ok(()) => {}
            }
            for event in &events {
                let token = event.token();
                let is_status = token == STATUS_LISTENER || token.0 >= STATUS_CLIENTS;
                if let Some(status) = self.status.as_mut().filter(|_| is_status) {
                    status.handle_event(token);
                }
            }
            if let Ok(failure) = self.failures.try_recv() {
                return Err(DaemonError::GatewayFailed(failure));
            }
            self.heed_signals();
            self.answer();
        }
    }

    fn timeout(&self) -> Option<Duration> {
        let status = self.status.as_ref();
        if status.is_some_and(StatusSocket::is_busy) {
            return Some(Duration::ZERO);
        }
        let due = status.and_then(StatusSocket::poll_timeout);
        let wait = due.map(|due| due.saturating_duration_since(clock::now()));
        match self.stop {
            Some(_) => Some(wait.unwrap_or(DRAIN_LOOK_EVERY).min(DRAIN_LOOK_EVERY)),
            None => wait,
        }
    }

    fn heed_signals(&mut self) {
        let pending: Vec<i32> = self.signals.pending().collect();
        for signal in pending {
            match signal {
                SIGHUP => drop(self.reload()),
                _ => self.request_stop(),
            }
        }
    }

    fn request_stop(&mut self) {
        if self.stop.is_some() {
            log::warn!("stopping at once, asked again");
            self.stop = Some(clock::now());
            return;
        }
        let connections = self.gateway.status().connections;
        log::info!("stopping; {connections} connections have {PROXY_DRAIN_WITHIN:?} to end");
        notify::stopping();
        self.gateway.stop(PROXY_DRAIN_WITHIN);
        self.stop = Some(clock::now() + PROXY_DRAIN_WITHIN);
    }

    fn reload(&mut self) -> Result<(), String> {
        let entrances = (self.reread)()
            .inspect_err(|error| log::error!("configuration not applied: {error}"))?;
        apply(&self.gateway, &entrances);
        log::info!("configuration read again");
        Ok(())
    }

    fn answer(&mut self) {
        let Some(mut status) = self.status.take() else { return };
        status.turn(clock::now(), &mut |request| match request {
            StatusRequest::Status => StatusAnswer::Status(Box::new(self.report())),
            StatusRequest::Down => {
                self.request_stop();
                StatusAnswer::Ok
            }
            StatusRequest::Reload => match self.reload() {
                Ok(()) => StatusAnswer::Ok,
                Err(message) => StatusAnswer::Error { message },
            },
        });
        self.status = Some(status);
    }

    fn report(&self) -> StatusReport {
        let proxy = self.gateway.status();
        let uptime = clock::now().saturating_duration_since(self.started);
        StatusReport {
            schema: STATUS_SCHEMA,
            role: self.role.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_s: uptime.as_secs_f64(),
            state: if self.stop.is_some() { "stopping" } else { "up" }.to_owned(),
            tun: String::new(),
            mtu: 0,
            public_key: String::new(),
            endpoints: proxy.listening.clone(),
            offloads: OffloadStatus::default(),
            workers: Vec::new(),
            peers: Vec::new(),
            drops: Default::default(),
            accounts: self.members.as_ref().map(Members::status),
            proxy: Some(proxy),
            last_error: None,
        }
    }
}
