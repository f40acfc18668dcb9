//! UDP is taken away from a client and given back. Its connections go on over TLS meanwhile.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use corelane::lab::{LINK, addresses, wait_until};
use corelane::sys::clock;

use crate::daemon::Daemon;
use crate::harness::PATIENCE;
use crate::revocation::{WITHIN, closed, expect_out};
use crate::site::{PORT, SERVER_V4, Server, Site, add_user, ask, await_online};
use crate::tools::{echo, ping, run};

/// The promise: datagrams go another way so soon after UDP was taken away.
const SWITCHED_WITHIN: Duration = Duration::from_secs(2);
/// How soon UDP is left that loses much: the loss of some seconds is judged, of those in which the
/// connection sends.
const LEFT_WITHIN: Duration = Duration::from_secs(60);
/// How soon it is come back to.
const RETURNED_WITHIN: Duration = Duration::from_secs(40);

/// A client that is connected.
fn connected(client_config: &str) -> (Site, Server, Daemon) {
    let site = Site::new();
    let mut server = site.server("vpn", "");
    server.administer([add_user("alice")]);
    server.start(&site.lab.server);
    let mut client = site.client("alice", &[addresses::SERVER_V4]);
    let text = std::fs::read_to_string(client.config_file()).unwrap();
    std::fs::write(client.config_file(), format!("{text}[client]\n{client_config}\n")).unwrap();
    client.start(&site.lab.client);
    await_online(&mut client);
    (site, server, client)
}

fn block_udp(site: &Site) {
    treat_udp(site, "drop");
}

/// Has the router lose so many of a hundred datagrams, in each direction.
fn lose_udp(site: &Site, percent: u32) {
    treat_udp(site, &format!("numgen random mod 100 < {percent} drop"));
}

fn treat_udp(site: &Site, how: &str) {
    let router = &site.lab.router;
    run(router, "nft add table inet cut");
    run(router, "nft add chain inet cut forward { type filter hook forward priority 0 ; }");
    run(router, &format!("nft add rule inet cut forward meta l4proto udp {how}"));
}

fn let_udp_through(site: &Site) {
    run(&site.lab.router, "nft delete table inet cut");
}

/// Whether all paths lead to a relay on the client's own host.
fn goes_by_tls(client: &Daemon) -> bool {
    let Some(status) = client.try_status() else { return false };
    let paths = status.peers.iter().flat_map(|peer| &peer.paths);
    let endpoints = paths.filter_map(|path| path.endpoint.as_ref()?.parse().ok());
    let endpoints: Vec<SocketAddr> = endpoints.collect();
    !endpoints.is_empty() && endpoints.iter().all(|endpoint| endpoint.ip().is_loopback())
}

fn await_way(client: &Daemon, tls: bool) {
    await_way_within(PATIENCE, client, tls);
}

fn await_way_within(within: Duration, client: &Daemon, tls: bool) {
    wait_until(within, "the client to change its way", || {
        (goes_by_tls(client) == tls).then_some(())
    })
    .unwrap_or_else(|timeout| panic!("{timeout}\n{}", client.log()));
}

/// Datagrams that go back and forth inside the tunnel, and the longest time that none came back.
struct Pulse {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    longest_us: Arc<AtomicU64>,
}

impl Pulse {
    fn start(site: &Site) -> Self {
        let far = site.lab.server.run(|| UdpSocket::bind((SERVER_V4, 0)).unwrap()).unwrap();
        let near = site.lab.client.run(|| UdpSocket::bind("0.0.0.0:0").unwrap()).unwrap();
        near.connect(far.local_addr().unwrap()).unwrap();
        for socket in [&far, &near] {
            socket.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
        }
        let stop = Arc::new(AtomicBool::new(false));
        let longest_us = Arc::new(AtomicU64::new(0));
        let (stop_far, stop_near) = (Arc::clone(&stop), Arc::clone(&stop));
        let echo = thread::spawn(move || {
            let mut bytes = [0; 64];
            while !stop_far.load(Relaxed) {
                if let Ok((len, from)) = far.recv_from(&mut bytes) {
                    let _ = far.send_to(&bytes[..len], from);
                }
            }
        });
        let longest = Arc::clone(&longest_us);
        let beat = thread::spawn(move || {
            let (mut bytes, mut heard) = ([0; 64], clock::now());
            while !stop_near.load(Relaxed) {
                let _ = near.send(b"pulse");
                if near.recv(&mut bytes).is_ok() {
                    heard = clock::now();
                }
                longest.fetch_max((clock::now() - heard).as_micros() as u64, Relaxed);
            }
        });
        Self { stop, threads: vec![echo, beat], longest_us }
    }

    /// The longest pause since the last call.
    fn longest_pause(&self) -> Duration {
        Duration::from_micros(self.longest_us.swap(0, Relaxed))
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// A TCP connection inside the tunnel that is busy in both directions.
struct Transfer {
    stop: Arc<AtomicBool>,
    /// Bytes that have come back.
    returned: Arc<AtomicU64>,
    thread: Option<JoinHandle<std::io::Result<()>>>,
}

impl Transfer {
    fn start(site: &Site) -> Self {
        let listener = site.lab.server.run(|| TcpListener::bind((SERVER_V4, 0)).unwrap()).unwrap();
        let to = listener.local_addr().unwrap();
        let mut near = site.lab.client.run(|| TcpStream::connect(to).unwrap()).unwrap();
        let (mut far, _) = listener.accept().unwrap();
        thread::spawn(move || {
            let mut bytes = vec![0; 65_536];
            while let Ok(len @ 1..) = far.read(&mut bytes) {
                if far.write_all(&bytes[..len]).is_err() {
                    return;
                }
            }
        });
        let stop = Arc::new(AtomicBool::new(false));
        let returned = Arc::new(AtomicU64::new(0));
        let (asked, count) = (Arc::clone(&stop), Arc::clone(&returned));
        let thread = thread::spawn(move || {
            near.set_read_timeout(Some(PATIENCE))?;
            let mut expected = 0_u64;
            while !asked.load(Relaxed) {
                let sent: Vec<u8> =
                    (0..2000).flat_map(|at| (expected + at).to_be_bytes()).collect();
                near.write_all(&sent)?;
                let mut back = vec![0; sent.len()];
                near.read_exact(&mut back)?;
                assert!(back == sent, "bytes were changed or lost");
                expected += 2000;
                count.fetch_add(back.len() as u64, Relaxed);
            }
            Ok(())
        });
        Self { stop, returned, thread: Some(thread) }
    }

    /// Waits until more has come back than had when this was called.
    fn await_progress(&self) {
        self.await_bytes(100_000);
    }

    /// Waits until so many more bytes have come back.
    fn await_bytes(&self, len: u64) {
        let before = self.returned.load(Relaxed);
        let more = || (self.returned.load(Relaxed) > before + len).then_some(());
        wait_until(PATIENCE, "the TCP connection to go on", more).unwrap();
    }

    fn finish(mut self) {
        self.stop.store(true, Relaxed);
        let ended = self.thread.take().unwrap().join().unwrap();
        assert!(ended.is_ok(), "the connection was reset: {ended:?}");
    }
}

fn sessions_of(daemon: &Daemon) -> Vec<(String, u64)> {
    let status = daemon.try_status().unwrap();
    status.peers.iter().map(|peer| (peer.public_key.clone(), peer.rekeys)).collect()
}

#[test]
fn a_connection_outlives_udp_and_comes_back_to_it() {
    let (site, _server, client) = connected("");
    let (pulse, transfer) = (Pulse::start(&site), Transfer::start(&site));
    transfer.await_progress();
    assert!(!goes_by_tls(&client), "UDP is used where it works");
    pulse.longest_pause();
    let before = sessions_of(&client);

    block_udp(&site);
    await_way(&client, true);
    transfer.await_progress();
    let pause = pulse.longest_pause();
    println!("from UDP to TLS: {pause:?}");
    assert!(pause < SWITCHED_WITHIN, "{pause:?}\n{}", client.log());
    ping(&site.lab.client, SERVER_V4, "-c 20 -i 0.01");

    let_udp_through(&site);
    await_way(&client, false);
    transfer.await_progress();
    let pause = pulse.longest_pause();
    println!("from TLS to UDP: {pause:?}");
    assert!(pause < SWITCHED_WITHIN / 2, "{pause:?}\n{}", client.log());
    transfer.finish();
    assert_eq!(sessions_of(&client), before, "it is the session of before");
}

#[test]
fn a_connection_leaves_udp_that_loses_much_and_comes_back_to_it() {
    let (site, _server, client) = connected("");
    let transfer = Transfer::start(&site);
    transfer.await_progress();
    let before = sessions_of(&client);

    lose_udp(&site, 30);
    let lossy = clock::now();
    await_way_within(LEFT_WITHIN, &client, true);
    println!("UDP left after {:?}", clock::now() - lossy);
    // A connection that loses a third of its packets takes minutes for as much.
    transfer.await_bytes(5_000_000);
    assert!(goes_by_tls(&client), "it stays there\n{}", client.log());

    let_udp_through(&site);
    await_way_within(RETURNED_WITHIN, &client, false);
    transfer.await_bytes(5_000_000);
    transfer.finish();
    assert_eq!(sessions_of(&client), before, "it is the session of before");
}

/// Who has a TCP connection to the server's port, which neither side has closed.
fn tcp_connections(site: &Site) -> Vec<String> {
    let listing = run(&site.lab.server, &format!("ss -Htn state established sport = :{PORT}"));
    let far_end = |line: &str| line.split_whitespace().last().unwrap().to_owned();
    listing.lines().map(far_end).collect()
}

#[test]
fn who_goes_by_tls_is_out_within_a_second_too() {
    let (site, server, mut client) = connected("");
    let login = tcp_connections(&site);
    block_udp(&site);
    // It notices while it has something to send.
    let moved = || (echo(&site.lab.client, SERVER_V4) && goes_by_tls(&client)).then_some(());
    wait_until(PATIENCE, "the client to go over TLS", moved).unwrap();
    let carriers = || tcp_connections(&site).into_iter().filter(|it| !login.contains(it)).count();
    assert_eq!(carriers(), 1);

    // It is the server that closes it: the client cannot.
    client.signal("STOP");
    let took = closed(&ask(&server, &["user", "disable", "alice"]));
    assert!(took <= WITHIN, "{took:?}");
    let gone = || (carriers() == 0).then_some(());
    wait_until(WITHIN, "the server to close the carrier", gone).unwrap();
    client.signal("CONT");
    expect_out(&mut client, "no longer good");
    assert!(!echo(&site.lab.client, SERVER_V4), "nothing passes any more");

    client.start(&site.lab.client);
    expect_out(&mut client, "refused");
}

#[test]
fn a_client_connects_where_udp_never_worked() {
    let site = Site::new();
    block_udp(&site);
    let mut server = site.server("vpn", "");
    server.administer([add_user("alice")]);
    server.start(&site.lab.server);
    let mut client = site.client("alice", &[addresses::SERVER_V4]);
    client.start(&site.lab.client);
    await_online(&mut client);
    assert!(goes_by_tls(&client));
    ping(&site.lab.client, SERVER_V4, "-c 20 -i 0.01");
}

#[test]
fn a_client_uses_what_it_is_told_to_use() {
    let (site, _server, client) = connected("carrier = \"tls\"");
    await_way(&client, true);
    ping(&site.lab.client, SERVER_V4, "-c 20 -i 0.01");
    drop((site, client));

    let (site, _server, client) = connected("carrier = \"udp\"");
    block_udp(&site);
    let cut = || (!echo(&site.lab.client, SERVER_V4)).then_some(());
    wait_until(PATIENCE, "UDP to be cut", cut).unwrap();
    let began = clock::now();
    while clock::now() < began + SWITCHED_WITHIN * 2 {
        assert!(!goes_by_tls(&client));
        thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_carrier_follows_its_client_to_another_address() {
    let (site, _server, client) = connected("");
    block_udp(&site);
    let (pulse, transfer) = (Pulse::start(&site), Transfer::start(&site));
    await_way(&client, true);
    transfer.await_progress();
    pulse.longest_pause();
    let there = |command: &str| run(&site.lab.client, command);
    there(&format!("ip address del {}/24 dev {LINK}", addresses::ROUTED_CLIENT_V4));
    there(&format!("ip address add 198.51.100.77/24 dev {LINK}"));
    there(&format!("ip route replace default via {}", addresses::ROUTER_CLIENT_SIDE_V4));
    transfer.await_progress();
    // The connection of the login was bound to the old address, too.
    let logins = || (client.log().matches("logged in to").count() == 2).then_some(());
    wait_until(PATIENCE, "the login that follows", logins).unwrap();
    transfer.await_progress();
    let pause = pulse.longest_pause();
    println!("from one address to the other: {pause:?}");
    assert!(pause < SWITCHED_WITHIN, "{pause:?}\n{}", client.log());
    assert!(goes_by_tls(&client));
    transfer.finish();
}

#[test]
fn a_server_that_listens_on_one_address_has_carriers_too() {
    for listen in [format!("[{}]:{PORT}", addresses::SERVER_V6), format!("192.0.2.1:{PORT}")] {
        let site = Site::new();
        let mut server = site.server("vpn", "");
        let config = server.daemon.config_file();
        let text = std::fs::read_to_string(&config).unwrap();
        let everywhere = format!("[server]\nlisten = [\"0.0.0.0:{PORT}\"]");
        assert!(text.contains(&everywhere));
        let here = format!("[server]\nlisten = [\"{listen}\"]");
        std::fs::write(&config, text.replace(&everywhere, &here)).unwrap();
        server.administer([add_user("alice")]);
        server.start(&site.lab.server);
        let endpoints = server.daemon.status().endpoints;
        assert_eq!(endpoints, [listen], "the door of the carriers is not one of them");
        let mut client = site.client("alice", &[addresses::SERVER_V4]);
        client.flags.extend(["--set", "client.carrier=tls"].map(str::to_owned));
        client.start(&site.lab.client);
        await_online(&mut client);
        assert!(goes_by_tls(&client));
        ping(&site.lab.client, SERVER_V4, "-c 20 -i 0.01");
    }
}
