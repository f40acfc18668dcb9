//! What `corelane demo` does: two hosts, a real server and a real client, traffic, a report.
//!
//! [`Demo::start`] lays two hosts out in network namespaces joined by a link, writes keys and
//! configurations into a private directory, starts the daemons as child processes and waits until
//! the tunnel answers. [`Demo::measure`] runs the same traffic through the tunnel and beside it,
//! and looks at both sides of the tunnel for a known pattern. Dropping the [`Demo`] ends the
//! daemons and removes the directory; the namespaces vanish with the process, and the daemons die
//! with it however it ends. Nothing waits without a bound, and a raised [`StopFlag`] ends every
//! step within a tick.
//!
//! [`show_logins`] is another demo: people log in, UDP is blocked, a server dies, a user is
//! disabled. [`show_gateway`] is that of the proxy gateway.

mod daemon;
mod directory;
mod error;
mod gateway;
mod logins;
mod measure;
mod ping;
mod proof;
mod report;
mod site;
mod start;
mod table;

use std::path::PathBuf;
use std::thread;
use std::time::Duration;

pub use error::DemoError;
pub use gateway::{
    GATEWAY_DEMO_SCHEMA, GatewayReport, RefusalRow, RequestRow, RouteRow, show_gateway,
};
pub use logins::{
    CarrierFacts, FailoverFacts, LOGIN_DEMO_SCHEMA, LoginReport, RevocationFacts, show_logins,
};
pub use proof::ProofReport;
pub use report::{DEMO_SCHEMA, DemoReport, LatencyRow, TcpRow, TunnelFacts, UdpRow};

use crate::bench::StopFlag;
use crate::lab::TwoHosts;
use crate::limits::BENCH_TICK;
use daemon::Daemon;
use site::Site;
use start::BenchThread;

/// What to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DemoOptions {
    /// How long each measurement takes.
    pub duration: Duration,
    /// Workers of the server and of the client; as many as CPUs if absent.
    pub workers: Option<u16>,
    /// MTU inside the tunnel; the default if absent.
    pub mtu: Option<u16>,
    /// Where to leave the logs of the daemons; removed at the end if absent.
    pub keep_logs: Option<PathBuf>,
    /// The `corelane` program to run the daemons from.
    pub program: PathBuf,
}

/// What the demo is doing, for whoever watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress<'a> {
    /// A step begins.
    Step {
        /// Counted from 1.
        number: usize,
        /// How many there are.
        of: usize,
        /// What it is.
        name: &'a str,
    },
    /// What the step came to.
    Done(&'a str),
}

/// Called with everything the demo begins and ends.
pub type Tell<'f> = &'f mut dyn FnMut(Progress<'_>);

/// Two hosts with a tunnel between them that answers.
#[derive(Debug)]
pub struct Demo {
    // Fields are dropped in this order: the daemons before the directory they use, the hosts last.
    client: Daemon,
    server: Daemon,
    bench: BenchThread,
    _site: Site,
    lab: TwoHosts,
    options: DemoOptions,
    stop: StopFlag,
}

impl Demo {
    /// Lays everything out and waits until the tunnel answers. Must be called by a thread that
    /// outlives the demo, since the daemons die with it, and before the process starts another
    /// thread, since it may have to enter a user namespace.
    ///
    /// # Errors
    /// [`DemoError`]: what went wrong and, where a daemon may know more, the end of its log.
    pub fn start(options: DemoOptions, stop: StopFlag, tell: Tell<'_>) -> Result<Self, DemoError> {
        start::start(options, stop, tell)
    }

    /// Takes every measurement and puts the report together.
    ///
    /// # Errors
    /// As [`Demo::start`]; also if the payload was seen on the wire.
    pub fn measure(&mut self, tell: Tell<'_>) -> Result<DemoReport, DemoError> {
        measure::measure(self, tell).map_err(|error| self.explain(error))
    }

    /// How to enter the hosts and try the tunnel by hand, one command a line.
    pub fn instructions(&self) -> String {
        let (server, client) = (self.lab.server.enter_command(), self.lab.client.enter_command());
        let program = self.options.program.display();
        let address = site::SERVER_INNER_V4;
        let socket = |daemon: &Daemon| daemon.status_socket().display().to_string();
        format!(
            "The tunnel stays up until Ctrl-C. The server is {address} and {v6} inside it.\n\
             \n\
             a shell on the server:  {server}\n\
             a shell on the client:  {client}\n\
             ping:                   {client} ping {address}\n\
             iperf3, on the server:  {server} iperf3 -s\n\
             iperf3, on the client:  {client} iperf3 -c {address}\n\
             bench, on the client:   {client} {program} bench run {address}:{port}\n\
             status of the server:   {program} status --status-socket {server_socket}\n\
             status of the client:   {program} status --status-socket {client_socket}\n\
             logs of both:           {server_log} {client_log}\n",
            v6 = site::SERVER_INNER_V6,
            port = self.bench.port(),
            server_socket = socket(&self.server),
            client_socket = socket(&self.client),
            server_log = self.server.log().display(),
            client_log = self.client.log().display(),
        )
    }

    /// Keeps the hosts up until the stop flag is raised.
    ///
    /// # Errors
    /// If a daemon ends meanwhile.
    pub fn hold(&mut self) -> Result<(), DemoError> {
        while !self.stop.is_raised() {
            self.check_daemons().map_err(|error| self.explain(error))?;
            thread::sleep(BENCH_TICK);
        }
        Ok(())
    }

    fn check_daemons(&mut self) -> Result<(), DemoError> {
        self.server.check_running()?;
        self.client.check_running()
    }

    /// Adds to an error what the daemons may know about it.
    fn explain(&mut self, error: DemoError) -> DemoError {
        // A daemon that has ended is why everything after it failed.
        let error = match self.check_daemons() {
            Err(ended) if !self.stop.is_raised() => ended,
            _ => error,
        };
        error.with_logs(&[&self.server, &self.client])
    }
}
