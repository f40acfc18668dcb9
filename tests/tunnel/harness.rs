//! A server and a client on hosts of a laboratory, joined by a tunnel.
//!
//! [`Tunnel::start`] returns once packets cross the tunnel. When it is dropped, both daemons must
//! end by SIGTERM with exit code 0 and leave their hosts as they found them; after a failure it
//! shows both logs instead.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::Duration;

use corelane::handshake::keys::PublicKey;
use corelane::lab::{Host, LabOptions, Routed, TwoHosts, wait_until};
use corelane::sys::capture::Capture;
use corelane::telemetry::status::{PeerStatus, StatusReport};
use tempfile::TempDir;

use crate::daemon::Daemon;
use crate::snapshot::Snapshot;
use crate::tools::{self, Iperf, IperfReport};

/// How long anything may take that normally takes a moment: machines that test are busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const SERVER_V4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
pub(crate) const SERVER_V6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1);
pub(crate) const CLIENT_V4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
pub(crate) const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 2);
/// The server's UDP port.
pub(crate) const PORT: u16 = 20443;
/// The TUN device on either side.
pub(crate) const TUN: &str = "corelane0";

/// How the hosts are joined.
pub(crate) enum Lab {
    Link(TwoHosts),
    Routed(Routed),
}

impl Lab {
    pub(crate) fn server(&self) -> &Host {
        match self {
            Self::Link(lab) => &lab.server,
            Self::Routed(lab) => &lab.server,
        }
    }

    pub(crate) fn client(&self) -> &Host {
        match self {
            Self::Link(lab) => &lab.client,
            Self::Routed(lab) => &lab.client,
        }
    }

    pub(crate) fn router(&self) -> &Host {
        match self {
            Self::Link(_) => panic!("there is no router"),
            Self::Routed(lab) => &lab.router,
        }
    }
}

/// What a tunnel is like.
#[derive(Clone)]
pub(crate) struct Options {
    /// Whether a router stands between the hosts.
    pub(crate) routed: bool,
    pub(crate) links: LabOptions,
    /// Workers of the server and of the client.
    pub(crate) workers: (usize, usize),
    /// Where the server listens.
    pub(crate) listen: Vec<String>,
    /// Where the client finds it.
    pub(crate) connect: String,
    /// The client's routes.
    pub(crate) routes: Vec<String>,
    /// Flags of the server.
    pub(crate) server_flags: Vec<String>,
    /// Flags of the client.
    pub(crate) client_flags: Vec<String>,
}

impl Default for Options {
    /// One link, one worker on either side, IPv4 outside.
    fn default() -> Self {
        Self {
            routed: false,
            links: LabOptions::default(),
            workers: (1, 1),
            listen: vec![format!("192.0.2.1:{PORT}")],
            connect: format!("192.0.2.1:{PORT}"),
            routes: Vec::new(),
            server_flags: Vec::new(),
            client_flags: Vec::new(),
        }
    }
}

impl Options {
    /// A server that listens on and is found at one address.
    pub(crate) fn at(address: impl Into<String>) -> Self {
        let address = address.into();
        Self { listen: vec![address.clone()], connect: address, ..Self::default() }
    }
}

/// A peer of the server.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) key: PublicKey,
    pub(crate) allowed_ips: Vec<String>,
}

/// Everything: hosts, keys, configurations, daemons.
pub(crate) struct Tunnel {
    pub(crate) server: Daemon,
    pub(crate) client: Daemon,
    /// The server's peers, of which the client is the first.
    pub(crate) peers: Vec<Peer>,
    pub(crate) options: Options,
    pub(crate) server_key: PublicKey,
    pub(crate) lab: Lab,
    pub(crate) directory: TempDir,
    before: [Snapshot; 2],
    next_port: AtomicU16,
}

impl Tunnel {
    /// Brings a tunnel up that carries both families.
    pub(crate) fn start(options: Options) -> Self {
        let mut tunnel = Self::prepare(options);
        tunnel.start_server();
        tunnel.start_client();
        tunnel.await_echoes();
        tunnel
    }

    /// Everything but the start.
    pub(crate) fn prepare(options: Options) -> Self {
        let lab = match options.routed {
            false => Lab::Link(TwoHosts::build(options.links).unwrap()),
            true => Lab::Routed(Routed::build(options.links).unwrap()),
        };
        let directory = TempDir::new().unwrap();
        let (mut server, server_key) = Daemon::new(directory.path(), "server", "serve");
        let (mut client, client_key) = Daemon::new(directory.path(), "client", "up");
        server.flags.clone_from(&options.server_flags);
        client.flags.clone_from(&options.client_flags);
        let allowed_ips = vec![format!("{CLIENT_V4}/32"), format!("{CLIENT_V6}/128")];
        let tunnel = Self {
            before: [Snapshot::take(lab.server()), Snapshot::take(lab.client())],
            server,
            client,
            peers: vec![Peer { key: client_key, allowed_ips }],
            options,
            server_key,
            lab,
            directory,
            next_port: AtomicU16::new(5201),
        };
        tunnel.write_server_config();
        tunnel.write_client_config();
        tunnel
    }

    /// Takes the hosts as they are now, while no daemon runs: so they must be in the end.
    pub(crate) fn remember_hosts(&mut self) {
        self.before = [Snapshot::take(self.lab.server()), Snapshot::take(self.lab.client())];
    }

    /// Starts the server and waits until it listens.
    pub(crate) fn start_server(&mut self) {
        self.server.start(self.lab.server());
        self.server.await_status(PATIENCE, "the server to listen", |it| it.state == "up");
    }

    /// Starts the client and waits until both ends say that all paths are up.
    pub(crate) fn start_client(&mut self) {
        self.client.start(self.lab.client());
        self.await_paths();
    }

    /// Waits until both ends say that all paths between them are up.
    pub(crate) fn await_paths(&mut self) {
        let paths = self.options.workers.1;
        let what = "the session to be up";
        self.client.await_status(PATIENCE, what, |it| {
            it.state == "up" && it.peers.iter().any(|peer| is_up(peer, paths))
        });
        let key = self.peers[0].key.to_string();
        self.server.await_status(PATIENCE, what, |it| {
            it.peers.iter().any(|peer| peer.public_key == key && is_up(peer, paths))
        });
    }

    /// Waits until echoes of both families come back to the client.
    pub(crate) fn await_echoes(&self) {
        for address in [IpAddr::from(SERVER_V4), IpAddr::from(SERVER_V6)] {
            let answered = || tools::echo(self.lab.client(), address).then_some(());
            wait_until(PATIENCE, "an echo through the tunnel", answered).unwrap();
        }
    }

    /// Writes the server's configuration with the present peers.
    pub(crate) fn write_server_config(&self) {
        let mut text = format!(
            "[server]\nlisten = {:?}\nprivate_key_file = {:?}\n{}",
            self.options.listen,
            self.server.key_file(),
            common(self.options.workers.0, SERVER_V4, SERVER_V6),
        );
        for Peer { key, allowed_ips } in &self.peers {
            text += &format!("[[peer]]\npublic_key = \"{key}\"\nallowed_ips = {allowed_ips:?}\n");
        }
        fs::write(self.server.config_file(), text).unwrap();
    }

    /// Writes the client's configuration with the present routes.
    pub(crate) fn write_client_config(&self) {
        let text = self.client_config(&self.client, CLIENT_V4, CLIENT_V6);
        fs::write(self.client.config_file(), text).unwrap();
    }

    fn client_config(&self, client: &Daemon, v4: Ipv4Addr, v6: Ipv6Addr) -> String {
        format!(
            "[client]\nserver = {:?}\nserver_key = \"{}\"\nprivate_key_file = {:?}\n\
             routes = {:?}\n{}",
            self.options.connect,
            self.server_key,
            client.key_file(),
            self.options.routes,
            common(self.options.workers.1, v4, v6),
        )
    }

    /// A second client with a configuration of its own. The server does not know its key yet.
    pub(crate) fn another_client(&self, v4: Ipv4Addr, v6: Ipv6Addr) -> (Daemon, Peer) {
        let (client, key) = Daemon::new(self.directory.path(), "another-client", "up");
        fs::write(client.config_file(), self.client_config(&client, v4, v6)).unwrap();
        (client, Peer { key, allowed_ips: vec![format!("{v4}/32"), format!("{v6}/128")] })
    }

    /// Runs iperf3 from the client to an inner address of the server.
    #[track_caller]
    pub(crate) fn iperf(&self, address: impl Into<IpAddr>, flags: &str) -> IperfReport {
        self.start_iperf(address, flags).finish()
    }

    /// Starts iperf3 from the client to an inner address of the server.
    #[track_caller]
    pub(crate) fn start_iperf(&self, address: impl Into<IpAddr>, flags: &str) -> Iperf {
        let port = self.next_port.fetch_add(1, Ordering::Relaxed);
        Iperf::start(self.lab.server(), self.lab.client(), address, port, flags)
    }

    /// Sends `len` bytes over TCP to an inner address of the server, and as many back.
    #[track_caller]
    pub(crate) fn transfer_both_ways(&self, server_address: impl Into<IpAddr>, len: usize) {
        let server_address = server_address.into();
        let client_address = match server_address {
            IpAddr::V4(_) => IpAddr::from(CLIENT_V4),
            IpAddr::V6(_) => IpAddr::from(CLIENT_V6),
        };
        let (server, client) = (self.lab.server(), self.lab.client());
        tools::transfer(client, server, server_address, len);
        tools::transfer(server, client, client_address, len);
    }

    /// What either end has dropped so far, without what it has not.
    pub(crate) fn drops(&self) -> [BTreeMap<String, u64>; 2] {
        [&self.server, &self.client].map(|daemon| nonzero_drops(&daemon.status()))
    }

    /// How the client sees its server.
    #[track_caller]
    pub(crate) fn client_session(&self) -> PeerStatus {
        self.client.status().peers.remove(0)
    }

    /// How the server sees the client.
    #[track_caller]
    pub(crate) fn server_session(&self) -> PeerStatus {
        let key = self.peers[0].key.to_string();
        let mut peers = self.server.status().peers;
        peers.retain(|peer| peer.public_key == key);
        peers.remove(0)
    }

    /// Stops the client, as an admin would, and checks that its host is as it was.
    #[track_caller]
    pub(crate) fn assert_client_leaves_no_trace(&mut self) {
        assert_eq!(self.client.terminate().code(), Some(0));
        self.assert_client_host_is_as_before();
    }

    /// Waits until the client's host is as it was before the daemons were there.
    #[track_caller]
    pub(crate) fn assert_client_host_is_as_before(&self) {
        self.before[1].assert_restored(self.lab.client());
    }

    /// Ends what still runs, as an admin would, and checks what is left behind.
    #[track_caller]
    fn stop(&mut self) {
        for daemon in [&mut self.client, &mut self.server] {
            if daemon.is_started() {
                let status = daemon.terminate();
                assert_eq!(status.code(), Some(0), "{status}");
                assert!(!daemon.status_socket().exists(), "a status socket is left behind");
            }
        }
        let [server, client] = &self.before;
        server.assert_restored(self.lab.server());
        client.assert_restored(self.lab.client());
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        if thread::panicking() {
            self.server.explain();
            self.client.explain();
            return;
        }
        let stopped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.stop()));
        if let Err(panic) = stopped {
            self.server.explain();
            self.client.explain();
            std::panic::resume_unwind(panic);
        }
    }
}

/// The tables that server and client have in common.
fn common(workers: usize, v4: Ipv4Addr, v6: Ipv6Addr) -> String {
    format!(
        "[tun]\nname = \"{TUN}\"\naddresses = [\"{v4}/24\", \"{v6}/64\"]\n\
         [workers]\ncount = {workers}\n[log]\nlevel = \"debug\"\n"
    )
}

/// Whether a peer has a session with this many paths, all of them up.
fn is_up(peer: &PeerStatus, paths: usize) -> bool {
    peer.connected && peer.paths.len() == paths && peer.paths.iter().all(|path| path.state == "up")
}

/// The reasons for which something was dropped.
pub(crate) fn nonzero_drops(report: &StatusReport) -> BTreeMap<String, u64> {
    let drops = report.drops.iter().filter(|(_, count)| **count > 0);
    drops.map(|(reason, count)| (reason.clone(), *count)).collect()
}

/// Watches an interface of a host.
pub(crate) fn capture(host: &Host, interface: &str) -> Capture {
    host.run(|| Capture::open(interface)).unwrap().unwrap()
}
