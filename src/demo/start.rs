//! From nothing to a tunnel that answers.

use std::fs::OpenOptions;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::daemon::Daemon;
use super::error::DemoError;
use super::measure::STEPS_OF_MEASURING;
use super::site::{self, Site};
use super::{Demo, DemoOptions, Progress, Tell, ping};
use crate::bench::{BenchError, BenchServer, StopFlag};
use crate::lab::{self, Host, LabOptions, TwoHosts, wait_until};
use crate::limits::{DATA_OVERHEAD_LEN, padded_len};
use crate::sys::netns::NetNamespace;
use crate::telemetry::status::StatusReport;

/// Steps before the first measurement.
pub(super) const STEPS_OF_STARTING: usize = 4;
/// All of them.
pub(super) const STEPS: usize = STEPS_OF_STARTING + STEPS_OF_MEASURING;
/// How long a daemon may take to listen, and the tunnel to answer.
const UP_WITHIN: Duration = Duration::from_secs(15);

pub(super) fn start(
    options: DemoOptions,
    stop: StopFlag,
    tell: Tell<'_>,
) -> Result<Demo, DemoError> {
    let mut steps = Steps::new(0, STEPS, tell);
    steps.begin("lay two hosts out, joined by a link");
    check_tun()?;
    let in_user_namespace = lab::ensure_privileges()?;
    let lab =
        TwoHosts::build(LabOptions { link_mtu: link_mtu(&options), ..LabOptions::default() })?;
    let bench = BenchThread::start(&lab.server)?;
    steps.done(if in_user_namespace { "inside a user namespace" } else { "as root" });

    steps.begin("generate keys and configurations");
    let site = Site::create(&options)?;
    steps.done("done");

    steps.begin("start a server and a client");
    let mut server = Daemon::spawn(&lab.server, &options.program, "serve", &site.server, None)?;
    let listening = await_status(&mut server, &stop, "the server to listen", |_| true);
    listening.map_err(|error| error.with_logs(&[&server]))?;
    let client = Daemon::spawn(&lab.client, &options.program, "up", &site.client, None)?;
    steps.done("running");

    steps.begin("wait until the tunnel answers");
    let mut demo = Demo { client, server, bench, _site: site, lab, options, stop };
    let answer = demo.await_tunnel().map_err(|error| demo.explain(error))?;
    steps.done(&answer);
    Ok(demo)
}

impl Demo {
    /// Waits until both daemons report a session and an echo has come back through it.
    fn await_tunnel(&mut self) -> Result<String, DemoError> {
        let connected = |status: &StatusReport| status.peers.iter().any(|peer| peer.connected);
        await_status(&mut self.client, &self.stop, "the client to connect", connected)?;
        await_status(&mut self.server, &self.stop, "the server to be connected", connected)?;
        let (host, stop) = (&self.lab.client, &self.stop);
        let echo = wait_until(UP_WITHIN, "an echo through the tunnel", || {
            if stop.is_raised() {
                return Some(Err(DemoError::Interrupted));
            }
            let one = ping::Request { count: 1, ..ping::Request::to(site::SERVER_INNER_V4) };
            match host.run(|| ping::ping(&one, stop)) {
                Ok(Ok(report)) => report.median_ms.map(Ok),
                // No route yet, or no privilege: the measurements will tell.
                Ok(Err(error)) if error.kind() == io::ErrorKind::PermissionDenied => Some(Ok(0.0)),
                Ok(Err(_)) => None,
                Err(error) => Some(Err(error.into())),
            }
        })?;
        Ok(format!("an echo took {:.2} ms", echo?))
    }
}

/// Waits until the daemon answers and `ready` says so of its answer.
pub(super) fn await_status(
    daemon: &mut Daemon,
    stop: &StopFlag,
    what: &str,
    ready: impl Fn(&StatusReport) -> bool,
) -> Result<(), DemoError> {
    wait_until(UP_WITHIN, what, || {
        if stop.is_raised() {
            return Some(Err(DemoError::Interrupted));
        }
        if let Err(ended) = daemon.check_running() {
            return Some(Err(ended));
        }
        daemon.status().ok().filter(&ready).map(|_| Ok(()))
    })?
}

/// The MTU of an Ethernet link, or what the tunnel's packets need if that is more.
fn link_mtu(options: &DemoOptions) -> u32 {
    const ETHERNET: usize = 1500;
    const IP_AND_UDP_HEADERS: usize = 48;
    let inner = options.mtu.map_or(0, usize::from);
    let outer = padded_len(inner) + DATA_OVERHEAD_LEN + IP_AND_UDP_HEADERS;
    outer.max(ETHERNET) as u32
}

/// Whether TUN devices can be made, before anything else is.
pub(super) fn check_tun() -> Result<(), DemoError> {
    match OpenOptions::new().read(true).write(true).open("/dev/net/tun") {
        Ok(_) => Ok(()),
        Err(error) => Err(match (error.kind(), error.raw_os_error()) {
            (io::ErrorKind::PermissionDenied, _) => DemoError::TunDenied,
            (io::ErrorKind::NotFound, _) | (_, Some(libc::ENODEV | libc::ENXIO)) => {
                DemoError::TunMissing
            }
            _ => DemoError::io("open /dev/net/tun")(error),
        }),
    }
}

/// The bench server on the server's host; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct BenchThread {
    port: u16,
    stop: StopFlag,
    thread: Option<JoinHandle<()>>,
}

impl BenchThread {
    pub(super) fn start(host: &Host) -> Result<Self, DemoError> {
        let stop = StopFlag::new();
        let failed = |error: BenchError| {
            DemoError::io("start the traffic generator")(io::Error::other(error))
        };
        // The server's threads inherit the namespace of the one that starts them.
        let namespace = host
            .run(NetNamespace::current)?
            .map_err(DemoError::io("open the server's network namespace"))?;
        let (sender, receiver) = mpsc::channel();
        let thread_stop = stop.clone();
        let serve = move || {
            let server = namespace
                .enter_current_thread()
                .map_err(|source| BenchError::Io { action: "entering a namespace", source })
                .and_then(|()| BenchServer::bind_any(0, thread_stop));
            let server = match server {
                Ok(server) => server,
                Err(error) => return drop(sender.send(Err(error))),
            };
            let started = sender.send(server.local_address());
            if started.is_ok()
                && let Err(error) = server.serve(false)
            {
                log::error!("the traffic generator ended: {error}");
            }
        };
        let thread = thread::Builder::new()
            .name("demo-bench".to_owned())
            .spawn(serve)
            .map_err(DemoError::io("start a thread"))?;
        let address = receiver
            .recv()
            .unwrap_or(Err(BenchError::TimedOut("starting the traffic generator")))
            .map_err(failed)?;
        Ok(Self { port: address.port(), stop, thread: Some(thread) })
    }

    /// Its port, on every address of the server's host.
    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Where it is reached at one of the host's addresses.
    pub(super) fn at(&self, address: impl Into<IpAddr>) -> SocketAddr {
        SocketAddr::new(address.into(), self.port)
    }
}

impl Drop for BenchThread {
    fn drop(&mut self) {
        self.stop.raise();
        if let Some(thread) = self.thread.take() {
            // If it panicked that has been printed.
            let _ = thread.join();
        }
    }
}

/// Numbers the steps.
pub(super) struct Steps<'f> {
    number: usize,
    of: usize,
    tell: Tell<'f>,
}

impl<'f> Steps<'f> {
    /// Continues after `number` steps `of` so many.
    pub(super) fn new(number: usize, of: usize, tell: Tell<'f>) -> Self {
        Self { number, of, tell }
    }

    pub(super) fn begin(&mut self, name: &str) {
        self.number += 1;
        (self.tell)(Progress::Step { number: self.number, of: self.of, name });
    }

    pub(super) fn done(&mut self, result: &str) {
        (self.tell)(Progress::Done(result));
    }
}
