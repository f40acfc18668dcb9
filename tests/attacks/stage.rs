//! A tunnel that is up, an attacker who reaches both ends, and what must be as it was afterwards.

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, SocketAddrV4};
use std::time::Duration;

use corelane::lab::{LabOptions, addresses, wait_until};
use corelane::sys::process;
use corelane::telemetry::drops::DropReason;
use corelane::telemetry::status::StatusReport;
use corelane::wire::SessionIndex;

use crate::attacker::Attacker;
use crate::daemon::Daemon;
use crate::harness::{Options, PATIENCE, PORT, SERVER_V4, SERVER_V6, Tunnel, nonzero_drops};
use crate::tools::ping;
use crate::wiretap::Wiretap;

/// Where the server listens, outside.
pub(crate) const SERVER: SocketAddrV4 = SocketAddrV4::new(addresses::SERVER_V4, PORT);
/// How much a daemon's memory may grow: the receive arenas of a worker and of the control thread
/// and the scratch space, which weigh what was ever received into them, are the most of it.
const GROWTH_MAX: u64 = 4 << 20;

/// What a daemon says whose TUN device the kernel is slow to bring up, as it is while many
/// namespaces come and go.
const SLOW_KERNEL: &str = "into operation within";

/// Drops, by reason.
pub(crate) type Drops = BTreeMap<String, u64>;

/// One of the two daemons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Server,
    Client,
}

/// What a daemon weighs.
struct Vitals {
    descriptors: usize,
    resident: u64,
}

impl Vitals {
    fn of(daemon: &Daemon) -> Self {
        let pid = daemon.pid();
        Self {
            descriptors: fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count(),
            resident: process::resident_bytes(pid).unwrap(),
        }
    }
}

pub(crate) struct Stage {
    pub(crate) tunnel: Tunnel,
    pub(crate) attacker: Attacker,
    before: [Vitals; 2],
    /// Words of the log lines above `info` that the test expects.
    expected_warnings: Vec<&'static str>,
}

impl Stage {
    /// One worker on either side.
    pub(crate) fn build() -> Self {
        Self::with(Options::default())
    }

    /// A tunnel with a router between its ends, which the attacker is joined to.
    pub(crate) fn with(options: Options) -> Self {
        let mut stage = Self::prepare(options);
        stage.start();
        stage
    }

    /// Everything but the start of the daemons.
    pub(crate) fn prepare(options: Options) -> Self {
        let LabOptions { link_mtu, .. } = options.links;
        let tunnel = Tunnel::prepare(Options { routed: true, ..options });
        let attacker = Attacker::join(tunnel.lab.router(), link_mtu);
        let before = [0, 0].map(|_| Vitals { descriptors: 0, resident: 0 });
        Self { tunnel, attacker, before, expected_warnings: vec![SLOW_KERNEL] }
    }

    /// Starts both daemons and takes their measure.
    pub(crate) fn start(&mut self) {
        self.tunnel.start_server();
        self.tunnel.start_client();
        self.tunnel.await_echoes();
        ping(self.tunnel.lab.client(), SERVER_V4, "-i 0 -c 100 -s 1200");
        self.before = [Vitals::of(&self.tunnel.server), Vitals::of(&self.tunnel.client)];
    }

    /// Log lines at `warn` that contain this are what the test provokes.
    pub(crate) fn expect_warning(&mut self, words: &'static str) {
        self.expected_warnings.push(words);
    }

    pub(crate) fn daemon(&self, side: Side) -> &Daemon {
        match side {
            Side::Server => &self.tunnel.server,
            Side::Client => &self.tunnel.client,
        }
    }

    pub(crate) fn status(&self, side: Side) -> StatusReport {
        self.daemon(side).status()
    }

    /// Where the client's path leads from, as the server sees it.
    pub(crate) fn client_endpoint(&self) -> SocketAddrV4 {
        let session = self.tunnel.server_session();
        let endpoint = session.paths[0].endpoint.as_deref().unwrap();
        let SocketAddr::V4(endpoint) = endpoint.parse().unwrap() else { panic!("{endpoint}") };
        endpoint
    }

    pub(crate) fn drops(&self, side: Side) -> Drops {
        nonzero_drops(&self.status(side))
    }

    /// Waits until exactly these drops have been added to `before`, and not one of another kind.
    #[track_caller]
    pub(crate) fn assert_added(&self, side: Side, before: &Drops, added: &[(DropReason, u64)]) {
        let mut expected = before.clone();
        for (reason, count) in added.iter().filter(|(_, count)| *count > 0) {
            *expected.entry(reason.name().to_owned()).or_default() += count;
        }
        let counted = || (self.drops(side) == expected).then_some(());
        if wait_until(PATIENCE, "the drops to be counted", counted).is_err() {
            let counted = self.drops(side);
            panic!("{side:?} has counted {counted:#?} and not {expected:#?}");
        }
    }

    /// What one side calls the session, as messages to it tell.
    pub(crate) fn index_of_session(&self, side: Side) -> SessionIndex {
        let mut tap = Wiretap::open(self.tunnel.lab.router());
        ping(self.tunnel.lab.client(), SERVER_V4, "-c 1");
        tap.await_datagram(|seen| seen.is_for(side) && seen.header().is_some())
            .header()
            .unwrap()
            .receiver
    }

    /// Waits until there are so many drops more than in `before`, of whatever kind.
    #[track_caller]
    pub(crate) fn await_added(&self, side: Side, before: &Drops, count: u64) {
        let counted = || (self.added(side, before) >= count).then_some(());
        if wait_until(PATIENCE, "the drops to be counted", counted).is_err() {
            panic!("{} of {count}: {:#?}", self.added(side, before), self.drops(side));
        }
    }

    /// How many drops of any kind there are more than in `before`.
    pub(crate) fn added(&self, side: Side, before: &Drops) -> u64 {
        self.drops(side).values().sum::<u64>() - before.values().sum::<u64>()
    }

    /// The session there was must be the one there is, and everything must work and weigh as it
    /// did before the attack.
    #[track_caller]
    pub(crate) fn assert_unharmed(&self) {
        let tunnel = &self.tunnel;
        for address in [std::net::IpAddr::from(SERVER_V4), SERVER_V6.into()] {
            ping(tunnel.lab.client(), address, "-i 0.01 -c 10");
        }
        for session in [tunnel.client_session(), tunnel.server_session()] {
            assert!(session.connected && session.rekeys == 0, "{session:#?}");
        }
        let key = tunnel.peers[0].key.to_string();
        let server_log = tunnel.server.log();
        let mut lost = server_log.lines().filter(|line| line.contains("disconnected"));
        assert!(!lost.any(|line| line.contains(&key)), "{server_log}");
        assert!(!tunnel.client.log().contains("disconnected"));
        self.assert_healthy();
    }

    /// Both daemons live, hold the descriptors and the memory that they held, rest when there is
    /// nothing to do, and have nothing to complain of but what was expected.
    #[track_caller]
    pub(crate) fn assert_healthy(&self) {
        for (side, before) in [Side::Server, Side::Client].into_iter().zip(&self.before) {
            let daemon = self.daemon(side);
            // One that has just been asked for its status may still hold that connection.
            let as_before = || (Vitals::of(daemon).descriptors == before.descriptors).then_some(());
            wait_until(PATIENCE, "the descriptors to be as before", as_before).unwrap();
            let grown = Vitals::of(daemon).resident.saturating_sub(before.resident);
            assert!(grown < GROWTH_MAX, "{side:?} has grown by {grown} bytes");
            assert_resting(daemon);
            self.assert_no_complaint(side);
        }
    }

    #[track_caller]
    fn assert_no_complaint(&self, side: Side) {
        let log = self.daemon(side).log();
        assert!(!log.contains("panicked"), "{log}");
        let expected =
            |line: &&str| !self.expected_warnings.iter().any(|words| line.contains(words));
        let is_loud = |line: &&str| line.contains(" ERROR ") || line.contains(" WARN ");
        let complaints: Vec<_> = log.lines().filter(is_loud).filter(expected).collect();
        assert!(complaints.is_empty(), "{side:?}: {complaints:#?}");
    }
}

/// A daemon that has nothing to do must not use its CPU: within a second there must be a quarter
/// of one in which it used less than a tenth.
#[track_caller]
pub(crate) fn assert_resting(daemon: &Daemon) {
    const LOOK: Duration = Duration::from_millis(250);
    let used = || process::cpu_time(daemon.pid()).unwrap();
    let mut last = used();
    let resting = || {
        std::thread::sleep(LOOK);
        let now = used();
        let spent = now - std::mem::replace(&mut last, now);
        (spent < LOOK / 10).then_some(())
    };
    wait_until(PATIENCE, "a daemon to rest", resting).unwrap();
}
