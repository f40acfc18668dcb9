//! Tunnels inside of tunnels, with and without an end.

use std::fs;
use std::net::IpAddr;

use corelane::handshake::keys::PublicKey;
use corelane::lab::{Host, LINK};

use crate::daemon::Daemon;
use crate::harness::{CLIENT_V4, Options, PATIENCE, PORT, SERVER_V4, SERVER_V6, TUN, Tunnel};
use crate::tools::{attempt, ping, run, transfer};

/// What a routing loop may make of ten echoes, in bytes, as the kernel's own WireGuard test has it.
const LOOP_BYTES_MAX: u64 = 70_000;
/// The same for a circle of two tunnels, neither of which can know its own datagrams inside of the
/// other's: they go round, 60 bytes larger each time, until they fit no more.
const CIRCLE_BYTES_MAX: u64 = 8 << 20;
/// The second tunnel.
const NESTED_TUN: &str = "nested0";
const NESTED_PORT: u16 = PORT + 1;
const NESTED_SERVER: [&str; 2] = ["10.78.0.1", "fd78::1"];
const NESTED_CLIENT: [&str; 2] = ["10.78.0.2", "fd78::2"];

const NO_ROUTES: &str = "routes = []";

/// A second server and client on the hosts of a tunnel.
struct Nested {
    server: Daemon,
    client: Daemon,
    client_key: PublicKey,
}

impl Nested {
    /// Starts them; the client finds its server at `address`.
    fn start(tunnel: &Tunnel, address: &str) -> Self {
        let directory = tunnel.directory.path();
        let (server, server_key) = Daemon::new(directory, "nested-server", "serve");
        let (client, client_key) = Daemon::new(directory, "nested-client", "up");
        let common = |[v4, v6]: [&str; 2]| {
            format!(
                "[tun]\nname = \"{NESTED_TUN}\"\naddresses = [\"{v4}/24\", \"{v6}/64\"]\n\
                 [workers]\ncount = 1\n[log]\nlevel = \"debug\"\n"
            )
        };
        let [v4, v6] = NESTED_CLIENT;
        let server_text = format!(
            "[server]\nlisten = [\"{address}:{NESTED_PORT}\"]\nprivate_key_file = {:?}\n{}\
             [[peer]]\npublic_key = \"{client_key}\"\nallowed_ips = [\"{v4}/32\", \"{v6}/128\"]\n",
            server.key_file(),
            common(NESTED_SERVER),
        );
        let client_text = format!(
            "[client]\nserver = \"{address}:{NESTED_PORT}\"\nserver_key = \"{server_key}\"\n\
             private_key_file = {:?}\n{NO_ROUTES}\n{}",
            client.key_file(),
            common(NESTED_CLIENT),
        );
        fs::write(server.config_file(), server_text).unwrap();
        fs::write(client.config_file(), client_text).unwrap();
        let mut nested = Self { server, client, client_key };
        nested.server.start(tunnel.lab.server());
        nested.server.await_status(PATIENCE, "the nested server", |it| it.state == "up");
        nested.client.start(tunnel.lab.client());
        nested
    }

    fn await_up(&mut self) {
        self.client.await_status(PATIENCE, "the nested client", |it| it.state == "up");
        let key = self.client_key.to_string();
        self.server.await_status(PATIENCE, "the nested client", |it| {
            it.peers.iter().any(|peer| peer.public_key == key && peer.connected)
        });
    }

    /// Has the client send what is for `prefix` through its tunnel.
    fn add_route(&self, prefix: &str) {
        let text = fs::read_to_string(self.client.config_file()).unwrap();
        let text = text.replace(NO_ROUTES, &format!("routes = [\"{prefix}\"]"));
        fs::write(self.client.config_file(), text).unwrap();
        let reload = self.client.ask(&["reload"]);
        assert!(reload.status.success(), "{reload:?}");
    }

    fn stop(&mut self) {
        assert_eq!(self.client.terminate().code(), Some(0));
        assert_eq!(self.server.terminate().code(), Some(0));
    }
}

/// Bytes that a host has sent by an interface.
fn sent_bytes(host: &Host, interface: &str) -> u64 {
    let text = run(host, &format!("ip -json -s link show {interface}"));
    let statistics: serde_json::Value = serde_json::from_str(&text).unwrap();
    statistics[0]["stats64"]["tx"]["bytes"].as_u64().unwrap()
}

/// Ten echoes that nobody answers, and what they make a host send by each interface: less than
/// `bytes_max`.
#[track_caller]
fn assert_the_loop_is_bounded(host: &Host, interfaces: &[&str], to: IpAddr, bytes_max: u64) {
    let sent = || interfaces.iter().map(|it| sent_bytes(host, it)).collect::<Vec<_>>();
    let before = sent();
    let flood = attempt(host, &format!("ping -n -f -c 10 -W 1 -w 2 {to}"));
    assert!(flood.stdout.contains(" 0 received"), "{flood:#?}");
    for ((interface, before), after) in interfaces.iter().zip(before).zip(sent()) {
        let sent = after - before;
        assert!(sent < bytes_max, "{sent} bytes by {interface}");
    }
}

#[test]
fn a_tunnel_through_a_tunnel() {
    let tunnel = Tunnel::start(Options { workers: (2, 2), ..Options::default() });
    let mut nested = Nested::start(&tunnel, &SERVER_V4.to_string());
    nested.await_up();
    let (server, client) = (tunnel.lab.server(), tunnel.lab.client());
    for (near, far) in NESTED_CLIENT.into_iter().zip(NESTED_SERVER) {
        let (near, far): (IpAddr, IpAddr) = (near.parse().unwrap(), far.parse().unwrap());
        ping(client, far, "-i 0 -c 10");
        ping(server, near, "-i 0 -c 10");
        transfer(client, server, far, 1 << 20);
        transfer(server, client, near, 1 << 20);
    }
    nested.stop();
    ping(client, SERVER_V6, "-i 0 -c 10");
}

#[test]
fn a_client_whose_server_is_routed_into_its_own_tunnel_sends_little() {
    let tunnel = Tunnel::start(Options {
        workers: (2, 2),
        routes: vec!["192.0.2.1/32".to_owned()],
        ..Options::default()
    });
    let client = tunnel.lab.client();
    run(client, &format!("ip route add 192.0.2.1/32 dev {TUN}"));
    assert_the_loop_is_bounded(client, &[TUN, LINK], SERVER_V4.into(), LOOP_BYTES_MAX);
    assert!(tunnel.drops()[1].get("routing_loop") >= Some(&10), "{:?}", tunnel.drops());
    run(client, &format!("ip route del 192.0.2.1/32 dev {TUN}"));
    tunnel.await_echoes();
    ping(client, SERVER_V4, "-i 0 -c 10");
}

#[test]
fn a_server_whose_client_is_routed_into_its_own_tunnel_sends_little() {
    let mut tunnel = Tunnel::prepare(Options::default());
    tunnel.peers[0].allowed_ips.push("192.0.2.2/32".to_owned());
    tunnel.write_server_config();
    tunnel.start_server();
    tunnel.start_client();
    tunnel.await_echoes();
    let server = tunnel.lab.server();
    run(server, &format!("ip route add 192.0.2.2/32 dev {TUN}"));
    assert_the_loop_is_bounded(server, &[TUN, LINK], CLIENT_V4.into(), LOOP_BYTES_MAX);
    assert!(tunnel.drops()[0].get("routing_loop") >= Some(&10), "{:?}", tunnel.drops());
    run(server, &format!("ip route del 192.0.2.2/32 dev {TUN}"));
    tunnel.await_echoes();
    ping(server, CLIENT_V4, "-i 0 -c 10");
}

#[test]
fn two_tunnels_each_of_which_leads_into_the_other_send_little() {
    const SECOND_ADDRESS: &str = "192.0.2.11";
    let mut tunnel = Tunnel::prepare(Options {
        routes: vec![format!("{SECOND_ADDRESS}/32")],
        ..Options::default()
    });
    run(tunnel.lab.server(), &format!("ip address add {SECOND_ADDRESS}/24 dev {LINK}"));
    tunnel.remember_hosts();
    tunnel.start_server();
    tunnel.start_client();
    tunnel.await_echoes();
    let mut nested = Nested::start(&tunnel, SECOND_ADDRESS);
    nested.await_up();
    let client = tunnel.lab.client();
    assert!(run(client, &format!("ip route get {SECOND_ADDRESS}")).contains(TUN), "one way");
    nested.add_route("192.0.2.1/32");
    assert!(run(client, "ip route get 192.0.2.1").contains(NESTED_TUN), "and back");
    let interfaces = [TUN, NESTED_TUN, LINK];
    assert_the_loop_is_bounded(client, &interfaces, SERVER_V4.into(), CIRCLE_BYTES_MAX);
    nested.stop();
    tunnel.await_echoes();
    ping(client, SERVER_V4, "-i 0 -c 10");
}
