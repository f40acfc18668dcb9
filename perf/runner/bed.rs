//! A contender at work between two hosts.

use std::fs;
use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use corelane::bench::StopFlag;
use corelane::lab::{Host, LabOptions, TwoHosts, addresses, wait_until};
use corelane::sys::clock;
use tempfile::TempDir;

use super::Failure;
use super::ends::{self, End, Ends, INNER_SERVER, PORT, Setting, Setup};
use super::ping;
use super::plan::{Contender, Links};
use super::process::Process;
use super::programs::Programs;

/// How long a contender may take to come up.
const START_WITHIN: Duration = Duration::from_secs(15);
/// Pause between two tries to set up a program that has just been started.
const SETUP_EVERY: Duration = Duration::from_micros(200);

/// Two hosts of their own and, unless the contender is the link itself, a tunnel between them.
pub(crate) struct Bed {
    pub(crate) lab: TwoHosts,
    /// The server's address to measure to.
    pub(crate) target: Ipv4Addr,
    pub(crate) tunnel: Option<Tunnel>,
}

/// Both ends of a tunnel that has carried a packet.
pub(crate) struct Tunnel {
    pub(crate) server: Process,
    pub(crate) client: Process,
    /// From starting the client program to the first answered ping.
    pub(crate) first_ping_after: Duration,
    /// What must outlive the processes: sockets to set them up by, keys.
    _setups: [Option<Box<dyn Setup>>; 2],
    _directory: TempDir,
}

impl Bed {
    /// Builds the hosts and waits until the contender carries packets.
    pub(crate) fn set_up(
        contender: Contender,
        links: Links,
        programs: &Programs,
        stop: &StopFlag,
    ) -> Result<Self, Failure> {
        let options =
            LabOptions { segmentation_offloads: links == Links::Whole, ..LabOptions::default() };
        let lab = TwoHosts::build(options)?;
        let directory = tempfile::tempdir()?;
        let setting = Setting { lab: &lab, programs, directory: directory.path() };
        let tunnel = match ends::of(contender, &setting)? {
            Some(ends) => Some(start(&lab, ends, directory, stop)?),
            None => None,
        };
        let target = if tunnel.is_some() { INNER_SERVER } else { addresses::SERVER_V4 };
        if tunnel.is_none() {
            // Neighbours find each other now and not in the first measurement.
            ping::first_answer(&lab.client, target, START_WITHIN, stop)?;
        }
        Ok(Self { lab, target, tunnel })
    }
}

impl Tunnel {
    /// CPU time that both ends have used, in seconds.
    pub(crate) fn cpu_seconds(&self) -> Result<f64, Failure> {
        Ok(self.server.cpu_seconds()? + self.client.cpu_seconds()?)
    }

    /// Fails if an end has died.
    pub(crate) fn ensure_alive(&mut self) -> Result<(), Failure> {
        self.server.ensure_alive()?;
        self.client.ensure_alive()
    }
}

fn start(
    lab: &TwoHosts,
    ends: Ends,
    directory: TempDir,
    stop: &StopFlag,
) -> Result<Tunnel, Failure> {
    let (mut server, server_setup) = start_end("the server", &lab.server, ends.server)?;
    wait_until(START_WITHIN, "the server to listen", || {
        let listens = lab.server.run(listens).unwrap_or(false);
        (listens || server.ensure_alive().is_err()).then_some(())
    })?;
    server.ensure_alive()?;
    let started_at = clock::now();
    let (mut client, client_setup) = start_end("the client", &lab.client, ends.client)?;
    let answered_at = first_answer(&lab.client, &mut server, &mut client, stop)?;
    let first_ping_after = answered_at - started_at;
    let setups = [server_setup, client_setup];
    Ok(Tunnel { server, client, first_ping_after, _setups: setups, _directory: directory })
}

/// Starts one end and sets it up.
fn start_end(
    name: &str,
    host: &Host,
    end: End,
) -> Result<(Process, Option<Box<dyn Setup>>), Failure> {
    // Declared in front of the process, so that what it leaves goes after its end.
    let setup = end.setup;
    let mut process = Process::spawn(name, end.command)?;
    let deadline = clock::now() + START_WITHIN;
    if let Some(setup) = &setup {
        while !setup.try_apply(host).map_err(|error| format!("{name} cannot be set up: {error}"))? {
            process.ensure_alive()?;
            if clock::now() >= deadline {
                return Err(format!("{name} could not be set up within {START_WITHIN:?}").into());
            }
            thread::sleep(SETUP_EVERY);
        }
    }
    Ok((process, setup))
}

fn first_answer(
    host: &Host,
    server: &mut Process,
    client: &mut Process,
    stop: &StopFlag,
) -> Result<Instant, Failure> {
    let answered = ping::first_answer(host, INNER_SERVER, START_WITHIN, stop);
    // The reason why an end died says more than the silence that followed.
    server.ensure_alive()?;
    client.ensure_alive()?;
    answered
}

/// Whether something is bound to the tunnel's port in the network namespace of the calling thread.
fn listens() -> bool {
    let port = format!(":{PORT:04X} ");
    ["udp", "udp6"].iter().any(|table| {
        let table = fs::read_to_string(format!("/proc/thread-self/net/{table}"));
        table.is_ok_and(|table| table.lines().any(|line| line.contains(&port)))
    })
}
