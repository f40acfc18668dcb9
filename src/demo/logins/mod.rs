//! The demo of logins: two servers, a user who logs in, and what goes wrong in the world.
//!
//! An administrator makes both servers by the commands that anybody would use. A client logs in
//! with password and code; while a TCP connection is busy, UDP is blocked on the way and let
//! through again; the server is killed; at last the user is disabled.

mod pulse;
mod report;
mod site;
mod traffic;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::time::{Duration, Instant};

pub use report::{CarrierFacts, FailoverFacts, LOGIN_DEMO_SCHEMA, LoginReport, RevocationFacts};

use super::daemon::Daemon;
use super::error::DemoError;
use super::start::{BenchThread, Steps, await_status, check_tun};
use super::{DemoOptions, Tell, ping};
use crate::bench::{StopFlag, units};
use crate::lab::{self, Host, LabOptions, Routed, wait_until};
use crate::sys::clock;
use crate::telemetry::status::StatusReport;
use pulse::Pulse;
use site::{FIRST, PORT, Place, SECOND, Site, USER};
use traffic::Traffic;

/// How many steps there are.
const STEPS: usize = 8;
/// How long anything may take that is to happen in the end.
const PATIENCE: Duration = Duration::from_secs(30);

/// Shows people logging in, and what becomes of them. Must be called by a thread that outlives the
/// demo, since the daemons die with it, and before the process starts another thread, since it may
/// have to enter a user namespace.
///
/// # Errors
/// [`DemoError`]: what went wrong or was not to be seen and, where a daemon may know more, the end
/// of its log.
pub fn show_logins(
    options: &DemoOptions,
    stop: &StopFlag,
    tell: Tell<'_>,
) -> Result<LoginReport, DemoError> {
    let mut steps = Steps::new(0, STEPS, tell);
    steps.begin("lay out a client, a router and a server");
    check_tun()?;
    let in_user_namespace = lab::ensure_privileges()?;
    let lab = Routed::build(LabOptions::default())?;
    steps.done(if in_user_namespace { "inside a user namespace" } else { "as root" });

    steps.begin("corelane init vpn, corelane user add: two servers");
    let site = Site::create(options)?;
    let code = site.demand_codes(FIRST)?;
    let mut first = start_server(options, &site, FIRST, &lab.server, stop)?;
    let mut second = start_server(options, &site, SECOND, &lab.router, stop)?;
    steps.done("serving");

    let typed = site.typed(&code);
    let (program, files) = (&options.program, site.client_files());
    let started = clock::now();
    let mut client = Daemon::spawn(&lab.client, program, "up", &files, Some(typed.expose()))?;
    let mut story = Story { lab: &lab, site: &site, client: &mut client, stop };
    let told = story.tell(&mut first, &second, started, options.duration, &mut steps);
    told.map_err(|error| {
        let error = [&mut first, &mut second, &mut client]
            .into_iter()
            .find_map(|daemon| daemon.check_running().err())
            .filter(|_| !stop.is_raised() && !matches!(error, DemoError::NotShown(_)))
            .unwrap_or(error);
        error.with_logs(&[&first, &second, &client])
    })
}

fn start_server(
    options: &DemoOptions,
    site: &Site,
    place: Place,
    host: &Host,
    stop: &StopFlag,
) -> Result<Daemon, DemoError> {
    let files = site.server_files(place);
    let mut server = Daemon::spawn(host, &options.program, "serve", &files, None)?;
    let what = format!("the {} server to serve", place.name);
    let serving = await_status(&mut server, stop, &what, |status| status.state == "up");
    serving.map_err(|error| error.with_logs(&[&server]))?;
    Ok(server)
}

/// What happens to the client.
struct Story<'a> {
    lab: &'a Routed,
    site: &'a Site,
    client: &'a mut Daemon,
    stop: &'a StopFlag,
}

impl Story<'_> {
    fn tell(
        &mut self,
        first: &mut Daemon,
        second: &Daemon,
        started: Instant,
        duration: Duration,
        steps: &mut Steps<'_>,
    ) -> Result<LoginReport, DemoError> {
        steps.begin("corelane up: log in with password and code");
        let inner = self.await_online(FIRST)?;
        let online_ms = ms_since(started);
        steps.done(&format!("online after {online_ms:.0} ms, as {USER}"));

        let carrier = self.block_udp(inner, duration, steps)?;

        steps.begin("kill the server");
        let killed = clock::now();
        first.kill()?;
        self.await_online(SECOND)?;
        let failover = FailoverFacts { online_again_ms: ms_since(killed) };
        steps.done(&format!("online at the other after {:.0} ms", failover.online_again_ms));

        steps.begin("corelane user disable");
        let disabled = clock::now();
        let answer = self.site.administer(SECOND, &["user", "disable", USER], None)?;
        let took_ms = ms_since(disabled);
        let peers_afterwards = connected_peers(&second.status()?);
        if peers_afterwards > 0 {
            return Err(DemoError::NotShown(format!("a path was open after `{answer}`")));
        }
        let client = &mut *self.client;
        let ended = || client.check_running().err().map(|_| ms_since(disabled));
        let client_ended_ms = wait_until(PATIENCE, "the client to end", ended)?;
        steps.done(&answer);
        let revocation = RevocationFacts { answer, took_ms, peers_afterwards, client_ended_ms };
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let schema = LOGIN_DEMO_SCHEMA;
        Ok(LoginReport { schema, version, online_ms, carrier, failover, revocation })
    }

    /// Blocks UDP on the way and lets it through again, while a TCP connection is busy.
    fn block_udp(
        &mut self,
        inner: Ipv4Addr,
        duration: Duration,
        steps: &mut Steps<'_>,
    ) -> Result<CarrierFacts, DemoError> {
        steps.begin("one TCP connection, over UDP");
        let bench = BenchThread::start(&self.lab.server)?;
        let pulse = Pulse::start(&self.lab.client, &self.lab.server, inner)?;
        let traffic = Traffic::start(&self.lab.client, bench.at(inner))?;
        let udp_bps = traffic.rate_during(duration, self.stop)?;
        steps.done(&units::bits_per_second(udp_bps));

        steps.begin("block UDP on the way");
        let blocked = clock::now();
        self.router_firewall(&format!(
            "add table inet block\nadd chain inet block way {{ type filter hook forward priority \
             0; }}\nadd rule inet block way udp dport {PORT} drop\nadd rule inet block way udp \
             sport {PORT} drop\n"
        ))?;
        self.await_carrier("TLS", true)?;
        let tls_bps = traffic.rate_during(duration, self.stop)?;
        let over_tls = clock::now();
        steps.done(&format!("the same connection over TLS: {}", units::bits_per_second(tls_bps)));

        steps.begin("let UDP through again");
        let released = clock::now();
        self.router_firewall("delete table inet block\n")?;
        self.await_carrier("UDP", false)?;
        let back_after_ms = ms_since(released);
        let again_bps = traffic.rate_during(duration, self.stop)?;
        traffic.finish()?;
        let beats = pulse.finish()?;
        let ms = |from, to| pulse::longest(&beats, from, to).as_secs_f64() * 1e3;
        let (to_tls_ms, to_udp_ms) = (ms(blocked, over_tls), ms(released, clock::now()));
        steps.done(&format!("over UDP again after {back_after_ms:.0} ms"));
        Ok(CarrierFacts { udp_bps, tls_bps, again_bps, to_tls_ms, back_after_ms, to_udp_ms })
    }

    /// Waits until an echo has come back through a server; its address inside the tunnel.
    fn await_online(&mut self, place: Place) -> Result<Ipv4Addr, DemoError> {
        let inner = self.inner_of(place)?;
        let what = format!("an echo through the {} server", place.name);
        wait_until(PATIENCE, &what, || {
            if let Err(error) = self.check() {
                return Some(Err(error));
            }
            let is_there = |address: IpAddr| address == IpAddr::from(place.address);
            let status = self.client.status().ok()?;
            first_endpoint(&status).filter(|address| is_there(*address))?;
            self.echo(inner).map(|came| came.then_some(inner)).transpose()
        })?
    }

    /// The address of a server inside its tunnel.
    fn inner_of(&self, place: Place) -> Result<Ipv4Addr, DemoError> {
        let files = self.site.server_files(place);
        let text = std::fs::read_to_string(&files.config)
            .map_err(DemoError::io(format!("read {}", files.config.display())))?;
        let inner = text.lines().find(|line| line.starts_with("addresses = [")).and_then(|line| {
            let address = line.split('"').nth(1)?.split('/').next()?;
            address.parse().ok()
        });
        inner.ok_or_else(|| {
            DemoError::NotShown(format!("{} names no inner address", files.config.display()))
        })
    }

    /// Whether an echo comes back.
    fn echo(&self, to: Ipv4Addr) -> Result<bool, DemoError> {
        let request = ping::Request { count: 1, ..ping::Request::to(to) };
        match self.lab.client.run(|| ping::ping(&request, self.stop))? {
            Ok(report) => Ok(report.received > 0),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                Err(DemoError::io("send ICMP echoes (the demo of logins needs CAP_NET_RAW)")(error))
            }
            // No route yet.
            Err(_) => Ok(false),
        }
    }

    /// Waits until the client's datagrams go by TLS, or no longer do.
    fn await_carrier(&mut self, name: &str, is_carried: bool) -> Result<(), DemoError> {
        let what = format!("the client to use {name}");
        wait_until(PATIENCE, &what, || {
            if let Err(error) = self.check() {
                return Some(Err(error));
            }
            let address = first_endpoint(&self.client.status().ok()?)?;
            (address.is_loopback() == is_carried).then_some(Ok(()))
        })?
    }

    fn check(&mut self) -> Result<(), DemoError> {
        if self.stop.is_raised() {
            return Err(DemoError::Interrupted);
        }
        self.client.check_running()
    }

    fn router_firewall(&self, script: &str) -> Result<(), DemoError> {
        let failed = || DemoError::io("run `nft` (`apt-get install nftables`)");
        let mut child = self
            .lab
            .router
            .command("nft")?
            .args(["-f", "-"])
            .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
            .stdin(Stdio::piped())
            .spawn()
            .map_err(failed())?;
        if let Some(mut input) = child.stdin.take() {
            io::Write::write_all(&mut input, script.as_bytes()).map_err(failed())?;
        }
        let status = child.wait().map_err(failed())?;
        match status.success() {
            true => Ok(()),
            false => Err(DemoError::NotShown(format!("`nft` failed on the router ({status})"))),
        }
    }
}

/// Where a client sends its datagrams; `None` while it is not connected. A relay to TLS is on its
/// own loopback interface.
fn first_endpoint(status: &StatusReport) -> Option<IpAddr> {
    let paths = status.peers.iter().filter(|peer| peer.connected).flat_map(|peer| &peer.paths);
    let mut addresses = paths.filter_map(|path| path.endpoint.as_ref()?.parse::<SocketAddr>().ok());
    addresses.next().map(|address| address.ip().to_canonical())
}

fn connected_peers(status: &StatusReport) -> usize {
    status.peers.iter().filter(|peer| peer.connected).count()
}

fn ms_since(moment: Instant) -> f64 {
    clock::now().duration_since(moment).as_secs_f64() * 1e3
}
