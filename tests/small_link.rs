//! Real daemons across a link that is smaller than a handshake initiation. Needs root, or user
//! namespaces and a `/dev/net/tun` that everybody may open.

#![expect(clippy::unwrap_used, reason = "a test ends where its set-up fails")]

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use corelane::handshake::keys::PrivateKey;
use corelane::host::netlink::Netlink;
use corelane::lab::addresses::{SERVER_V4, SERVER_V6};
use corelane::lab::{Host, LINK, LabOptions, Routed, TwoHosts, wait_until};
use corelane::wire::INITIATION_LEN;
use tempfile::TempDir;

/// The least that a link with IPv6 has (RFC 8200 section 5).
const SMALL: u32 = 1280;
const PORT: u16 = 20443;
const SERVER_INNER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const CLIENT_INNER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// How long everything that takes a moment may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long one echo is awaited before the next is sent.
const ECHO: Duration = Duration::from_millis(100);

/// A running daemon and its log; killed at the end.
struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    fn start(host: &Host, directory: &Path, subcommand: &str, flags: &[String]) -> Self {
        let log = directory.join(format!("{subcommand}.log"));
        let socket = directory.join(format!("{subcommand}.sock"));
        let key = directory.join(format!("{subcommand}.key"));
        let child = host
            .command(env!("CARGO_BIN_EXE_corelane"))
            .unwrap()
            .args([subcommand, "--tun", "tunnel0", "--workers", "2"])
            .arg("--status-socket")
            .arg(socket)
            .arg("--private-key-file")
            .arg(key)
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Self { child, log }
    }

    fn has_logged(&self, text: &str) -> bool {
        fs::read_to_string(&self.log).unwrap().contains(text)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{}:\n{}", self.log.display(), fs::read_to_string(&self.log).unwrap());
        }
    }
}

fn write_key(directory: &Path, name: &str) -> String {
    let key = PrivateKey::generate(&mut rand::rng());
    let path = directory.join(name);
    fs::write(&path, key.to_base64()).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    key.public().to_string()
}

/// Brings a tunnel up whose server listens on `address`, and sends an echo through it.
fn tunnel_carries_an_echo(server: &Host, client: &Host, address: IpAddr) {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let server_key = write_key(directory, "serve.key");
    let client_key = write_key(directory, "up.key");
    let address = SocketAddr::new(address, PORT).to_string();
    let flags = [
        format!("--listen={address}"),
        format!("--address={SERVER_INNER}/24"),
        format!("--peer={client_key}={CLIENT_INNER}/32"),
    ];
    let serving = Daemon::start(server, directory, "serve", &flags);
    let ready = || serving.has_logged("serving").then_some(());
    wait_until(PATIENCE, "the server to listen", ready).unwrap();
    let flags = [
        format!("--server={address}"),
        format!("--server-key={server_key}"),
        format!("--address={CLIENT_INNER}/24"),
    ];
    let connecting = Daemon::start(client, directory, "up", &flags);

    let bind = |host: &Host, address: Ipv4Addr| {
        host.run(|| UdpSocket::bind((address, 0)).ok()).unwrap().inspect(|socket| {
            socket.set_read_timeout(Some(ECHO)).unwrap();
        })
    };
    let far = wait_until(PATIENCE, "the server's TUN device", || bind(server, SERVER_INNER));
    let near = wait_until(PATIENCE, "the client's TUN device", || bind(client, CLIENT_INNER));
    let (far, near) = (far.unwrap(), near.unwrap());
    let answer = wait_until(PATIENCE, "an echo through the tunnel", || {
        near.send_to(b"echo", far.local_addr().unwrap()).ok()?;
        let mut bytes = [0; 8];
        let (len, from) = far.recv_from(&mut bytes).ok()?;
        far.send_to(&bytes[..len], from).ok()?;
        near.recv_from(&mut bytes).ok()
    });
    assert_eq!(answer.unwrap(), (4, far.local_addr().unwrap()));
    drop(connecting);
}

#[test]
fn a_handshake_crosses_a_link_that_is_smaller_than_an_initiation() {
    assert!(INITIATION_LEN > SMALL as usize);
    let lab = TwoHosts::build(LabOptions { link_mtu: SMALL, ..LabOptions::default() }).unwrap();
    for address in [IpAddr::from(SERVER_V4), IpAddr::from(SERVER_V6)] {
        tunnel_carries_an_echo(&lab.server, &lab.client, address);
    }
}

/// Neither end sees that the link between the routers is small: over IPv4 the router fragments,
/// over IPv6 it tells the sender to.
#[test]
fn a_handshake_crosses_a_small_link_further_on() {
    let lab = Routed::build(LabOptions::default()).unwrap();
    for (host, link) in [(&lab.server, LINK), (&lab.router, "to-server")] {
        let shrunk = host.run(|| {
            let mut netlink = Netlink::open()?;
            let index = netlink.link_index(link)?;
            netlink.set_mtu(index, SMALL)
        });
        shrunk.unwrap().unwrap();
    }
    for address in [IpAddr::from(SERVER_V4), IpAddr::from(SERVER_V6)] {
        tunnel_carries_an_echo(&lab.server, &lab.client, address);
    }
}
