//! The gateway as a whole: its workers and what they share.

use std::any::Any;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use thiserror::Error;

use crate::limits::{PROXY_CERTIFICATES_EVERY, PROXY_OWN_ADDRESSES_EVERY};
use crate::login::tls::{FilesWatch, ServerTls, Service, TlsSetupError};
use crate::sys::clock;
use crate::telemetry::counters::Counter;
use crate::telemetry::status::ProxyStatus;

use super::access::{Access, AccessOptions, Watch};
use super::counters::ProxyCounters;
use super::crowd::Crowd;
use super::dial::names::Names;
use super::dial::own::OwnLister;
use super::records::{AccessFiles, OpenError, Writer};
use super::settings::{Entrance, EntranceTls, Rules};
use super::upstream::{Group, check};
use super::worker::{self, Order, Post, ProxyWorker, ProxyWorkerParts, WorkerHandle};

/// Why there is no gateway.
#[derive(Debug, Error)]
pub enum GatewayError {
    /// An address cannot be listened on.
    #[error("cannot listen for proxy clients on {address}/tcp: {source}{}", advice(source))]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The certificates are not in order.
    #[error("cannot offer TLS to proxy clients: {0}")]
    Tls(#[from] TlsSetupError),
    /// An address from which others are to be dialled is none of this host's.
    #[error("cannot dial from {address} (`dial_from`): {source}{}", advice(source))]
    DialFrom {
        /// The address.
        address: IpAddr,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The authorities that origins are believed by are not in order.
    #[error("cannot speak TLS to origins (`origin_ca_file`): {0}")]
    Origins(TlsSetupError),
    /// An access log cannot be opened.
    #[error("{0}; its directory has to be there, and to be writable (`access_log` in `[[proxy]]`)")]
    AccessLog(#[from] OpenError),
    /// The kernel gives no thread or descriptor.
    #[error("cannot start the proxy gateway: {0}; are there too many open files or processes?")]
    Start(#[from] io::Error),
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "; another program has it (`ss -ltnp` shows which): stop that one, or choose another \
             port (`listen` in `[[proxy]]`, `--listen`)"
        }
        io::ErrorKind::AddrNotAvailable => {
            "; no interface has this address: `ip address` lists those there are"
        }
        io::ErrorKind::PermissionDenied => "; ports below 1024 need root or CAP_NET_BIND_SERVICE",
        _ => "",
    }
}

/// The listening sockets of a gateway. They are opened before privileges are given up.
#[derive(Debug)]
pub struct Listeners {
    /// By worker.
    workers: Vec<Vec<Post>>,
    /// By entrance.
    certificates: Vec<Option<(FilesWatch, ServerTls)>>,
    entrances: Vec<Entrance>,
    addresses: Vec<SocketAddr>,
    access_files: AccessFiles,
}

impl Listeners {
    /// Listens on every address of every entrance, with a socket for each of `workers` workers, and
    /// reads the certificates. Access logs are opened, too.
    ///
    /// # Errors
    /// The kernel refuses an address, or a file is not what it should be.
    pub fn bind(entrances: Vec<Entrance>, workers: usize) -> Result<Self, GatewayError> {
        let mut by_worker: Vec<Vec<_>> = (0..workers).map(|_| Vec::new()).collect();
        let mut addresses = Vec::new();
        let mut certificates = Vec::with_capacity(entrances.len());
        for (number, entrance) in entrances.iter().enumerate() {
            certificates.push(entrance.tls.clone().map(certificates_of).transpose()?);
            let plain = entrance.listen.iter().map(|address| (*address, false));
            for (address, tls) in plain.chain(entrance.listen_tls.iter().map(|one| (*one, true))) {
                let failed = |source| GatewayError::Listen { address, source };
                let group = worker::bind(address, workers).map_err(failed)?;
                if let Some(first) = group.first() {
                    addresses.push(first.local_addr().map_err(failed)?);
                }
                for (posts, listener) in by_worker.iter_mut().zip(group) {
                    posts.push(Post { listener, entrance: number, tls });
                }
            }
        }
        let access_files = AccessFiles::open(&entrances)?;
        Ok(Self { workers: by_worker, certificates, entrances, addresses, access_files })
    }

    /// Where they listen, with the ports that the kernel chose for port 0.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }
}

fn certificates_of(tls: EntranceTls) -> Result<(FilesWatch, ServerTls), TlsSetupError> {
    let service = Service::Proxy { demands_certificate: tls.demands_certificate };
    FilesWatch::load(tls.files, service, clock::now())
}

/// The running gateway. Dropping it stops it at once.
pub struct Gateway {
    addresses: Vec<SocketAddr>,
    workers: Vec<RunningWorker>,
    /// What goes for clients that come now, by entrance.
    rules: CurrentRules,
    /// Held for as long as the keeper is to go about its work.
    _keeper: Sender<()>,
    /// What those have moved whom the workers served is told when these have ended.
    _watch: Option<Watch>,
    /// Held for as long as upstream proxies are to be tried.
    _checks: Sender<()>,
    /// Writes what clients did, to the end.
    records: Option<Writer>,
}

/// What goes for clients that come now, by entrance.
type CurrentRules = Arc<Mutex<Vec<Arc<Rules>>>>;

struct RunningWorker {
    handle: WorkerHandle,
    counters: Arc<ProxyCounters>,
    thread: Option<JoinHandle<()>>,
}

impl Gateway {
    /// Starts a worker for each of `cpus`, on that CPU if there is one; there have to be as many as
    /// the listeners were bound for. By `access` clients say who they are. `mourn` is called, on
    /// its thread, with the reason when a worker ends although nobody has told it to.
    ///
    /// # Errors
    /// The kernel gives no thread or descriptor.
    pub fn start(
        listeners: Listeners,
        cpus: &[Option<usize>],
        access: Option<AccessOptions>,
        mourn: impl Fn(String) + Clone + Send + 'static,
    ) -> Result<Self, GatewayError> {
        let Listeners { workers: sockets, certificates, entrances, addresses, access_files } =
            listeners;
        let records = Writer::start(access_files)?;
        let names = Names::start()?;
        let own = OwnLister::open()?;
        let access = access.map(Access::new).transpose()?;
        let watched = access.as_ref().map(|access| (access.clone(), access.notices()));
        let crowds: Vec<Crowd> = entrances.iter().map(|_| Crowd::default()).collect();
        let rules: Vec<Arc<Rules>> =
            entrances.into_iter().map(|entrance| Arc::new(entrance.rules)).collect();
        let (mut watches, mut tls) = (Vec::new(), Vec::new());
        for (number, certificate) in certificates.into_iter().enumerate() {
            let (watch, first) = certificate.unzip();
            watches.extend(watch.map(|watch| (number, watch)));
            tls.push(first);
        }
        let everybody = Arc::new(OnceLock::new());
        let mut workers = Vec::with_capacity(cpus.len());
        for (number, (listeners, &cpu)) in sockets.into_iter().zip(cpus).enumerate() {
            let counters = Arc::new(ProxyCounters::default());
            let (worker, handle) = ProxyWorker::new(ProxyWorkerParts {
                cpu,
                listeners,
                rules: rules.clone(),
                tls: tls.clone(),
                crowds: crowds.clone(),
                workers: Arc::clone(&everybody),
                names: names.clone(),
                own: own.listed(),
                access: access.clone(),
                log: records.as_ref().map(Writer::log),
                counters: Arc::clone(&counters),
            })?;
            let mourn = mourn.clone();
            let thread = thread::Builder::new()
                .name(format!("proxy-{number}"))
                .spawn(move || run(number, worker, &mourn))?;
            workers.push(RunningWorker { handle, counters, thread: Some(thread) });
        }
        let handles: Vec<_> =
            workers.iter().map(|worker: &RunningWorker| worker.handle.clone()).collect();
        let handles = everybody.get_or_init(|| handles).clone();
        let watch = |(access, notices)| Watch::start(access, notices, handles.clone());
        let watch = watched.map(watch).transpose()?;
        let keeper = keep(Keeper { own, watches, workers: handles })?;
        let rules: CurrentRules = Arc::new(Mutex::new(rules));
        let checked = Arc::clone(&rules);
        let checks = check::start(move || groups(&checked))?;
        Ok(Self {
            addresses,
            workers,
            rules,
            _keeper: keeper,
            _checks: checks,
            _watch: watch,
            records,
        })
    }

    /// Where it listens, with the ports that the kernel chose for port 0.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// What goes for clients that come from here on, by entrance. Those that are there keep what
    /// they came under. Returns whether there are as many as there are entrances; nothing changes
    /// if not.
    pub fn set_rules(&self, rules: Vec<Rules>) -> bool {
        let rules: Vec<Arc<Rules>> = rules.into_iter().map(Arc::new).collect();
        let mut current = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        if rules.len() != current.len() {
            return false;
        }
        current.clone_from(&rules);
        for worker in &self.workers {
            worker.handle.give(Order::Rules(rules.clone()));
        }
        true
    }

    /// Opens the files of the access log anew: somebody has moved them away.
    pub fn reopen_logs(&self) {
        if let Some(records) = &self.records {
            records.reopen();
        }
    }

    /// Accepts nobody any more. Relays that go on have `within` to end.
    pub fn stop(&self, within: Duration) {
        for worker in &self.workers {
            worker.handle.give(Order::Stop(within));
        }
    }

    /// Whether every worker has ended.
    pub fn has_stopped(&self) -> bool {
        let has_ended = |thread: &JoinHandle<()>| thread.is_finished();
        self.workers.iter().all(|worker| worker.thread.as_ref().is_none_or(has_ended))
    }

    /// What it is doing and has done.
    pub fn status(&self) -> ProxyStatus {
        let sum = |counter: fn(&ProxyCounters) -> &Counter| {
            self.workers.iter().map(|worker| counter(&worker.counters).get()).sum::<u64>()
        };
        let now = clock::now();
        let mut refused = BTreeMap::new();
        let mut failed = BTreeMap::new();
        let mut datagrams_dropped = BTreeMap::new();
        for worker in &self.workers {
            for (name, count) in worker.counters.refused() {
                *refused.entry(name.to_owned()).or_default() += count;
            }
            for (name, count) in worker.counters.datagrams_dropped() {
                *datagrams_dropped.entry(name.to_owned()).or_default() += count;
            }
            for (name, count) in worker.counters.failed() {
                *failed.entry(name.to_owned()).or_default() += count;
            }
        }
        // What has closed is read first: it was accepted before.
        let closed = sum(|counters| &counters.closed);
        let accepted = sum(|counters| &counters.accepted);
        let (log_lines, log_lost) = self.records.as_ref().map_or((0, 0), Writer::counts);
        ProxyStatus {
            listening: self.addresses.iter().map(ToString::to_string).collect(),
            workers: self.workers.len() as u64,
            connections: accepted.saturating_sub(closed),
            accepted,
            reached: sum(|counters| &counters.reached),
            requests: sum(|counters| &counters.requests),
            reused: sum(|counters| &counters.reused),
            vouched: sum(|counters| &counters.vouched),
            up_bytes: sum(|counters| &counters.up_bytes),
            down_bytes: sum(|counters| &counters.down_bytes),
            timed_out: sum(|counters| &counters.timed_out),
            revoked: sum(|counters| &counters.revoked),
            broken: sum(|counters| &counters.broken),
            accept_pauses: sum(|counters| &counters.accept_pauses),
            strangers: sum(|counters| &counters.strangers),
            associations: sum(|counters| &counters.associations),
            up_datagrams: sum(|counters| &counters.up_datagrams),
            down_datagrams: sum(|counters| &counters.down_datagrams),
            datagrams_dropped,
            refused,
            failed,
            access_log_lines: log_lines,
            access_log_lost: log_lost + sum(|counters| &counters.records_dropped),
            upstreams: groups(&self.rules).iter().flat_map(|it| it.status(now)).collect(),
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.stop(Duration::ZERO);
        for worker in &mut self.workers {
            if let Some(thread) = worker.thread.take() {
                // A panic has been caught and reported by the thread itself.
                let _ = thread.join();
            }
        }
    }
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

/// The groups of upstream proxies, each once.
fn groups(rules: &CurrentRules) -> Vec<Arc<Group>> {
    let rules = rules.lock().unwrap_or_else(PoisonError::into_inner);
    rules.iter().flat_map(|rules| rules.upstreams.iter().cloned()).collect()
}

/// What looks at the host now and then, apart from the workers.
struct Keeper {
    own: OwnLister,
    /// By entrance.
    watches: Vec<(usize, FilesWatch)>,
    workers: Vec<WorkerHandle>,
}

/// Lists the host's addresses and looks at the files of certificates now and then, until the sender
/// that it returns is dropped.
fn keep(mut keeper: Keeper) -> io::Result<Sender<()>> {
    let (held, dropped) = bounded(0);
    let thread = thread::Builder::new().name("proxy-keeper".to_owned());
    thread.spawn(move || {
        let mut list_at = clock::now() + PROXY_OWN_ADDRESSES_EVERY;
        while dropped.recv_timeout(PROXY_CERTIFICATES_EVERY) == Err(RecvTimeoutError::Timeout) {
            let now = clock::now();
            if now >= list_at {
                list_at = now + PROXY_OWN_ADDRESSES_EVERY;
                keeper.own.refresh();
            }
            keeper.look(now);
        }
    })?;
    Ok(held)
}

impl Keeper {
    /// Tells the workers of certificates that have changed.
    fn look(&mut self, now: Instant) {
        for (entrance, watch) in &mut self.watches {
            let Some(tls) = watch.look(now) else { continue };
            for worker in &self.workers {
                worker.give(Order::Tls(*entrance, tls.clone()));
            }
        }
    }
}

/// A worker's whole life.
fn run(number: usize, worker: ProxyWorker, mourn: &dyn Fn(String)) {
    match catch_unwind(AssertUnwindSafe(|| worker.run())) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => mourn(format!("proxy worker {number} failed: {error}")),
        Err(panic) => mourn(format!("proxy worker {number} panicked: {}", message(&*panic))),
    }
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
