//! A client with several servers takes the best: one that is no backup, is near, and has time.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use corelane::lab::{Host, addresses};
use corelane::telemetry::status::StatusReport;

use crate::daemon::Daemon;
use crate::harness::PATIENCE;
use crate::site::{PORT, Server, Site, add_user};

/// Where a server seems to be further away than it is.
const FAR_PORT: u16 = PORT + 1;
/// How long everything takes each way there.
const FAR: Duration = Duration::from_millis(15);
/// How often a choice may be made on a machine that is busy with other things; one that is made
/// for another reason comes out wrong each time.
const TRIES: usize = 3;
/// The servers: one on the host of servers, one on the router.
const SERVERS: [Ipv4Addr; 2] = [addresses::SERVER_V4, addresses::ROUTER_CLIENT_SIDE_V4];

struct Two {
    site: Site,
    _servers: [Server; 2],
}

impl Two {
    fn new() -> Self {
        let site = Site::new();
        let mut servers = ["first", "second"].map(|name| site.server(name, ""));
        for server in &servers {
            server.administer([add_user("alice")]);
        }
        for (server, host) in servers.iter_mut().zip([&site.lab.server, &site.lab.router]) {
            server.start(host);
        }
        Self { site, _servers: servers }
    }

    fn host(&self, server: usize) -> &Host {
        [&self.site.lab.server, &self.site.lab.router][server]
    }

    /// Has a server reached at [`FAR_PORT`], too.
    fn move_away(&self, server: usize) {
        let here = SERVERS[server];
        self.host(server).run(|| start_delay(here).unwrap()).unwrap();
    }

    /// The name of the server that a client takes of these.
    fn chosen_of(&self, servers: &[(usize, u16)], backup: Option<usize>) -> String {
        let list = |of: &[(usize, u16)]| -> Vec<String> {
            of.iter().map(|(server, port)| format!("{}:{port}", SERVERS[*server])).collect()
        };
        let mut client = self.site.client("alice", &[]);
        let text = std::fs::read_to_string(client.config_file()).unwrap();
        let mut now = format!("servers = {:?}\n", list(servers));
        if let Some(backup) = backup {
            now += &format!("backup_servers = {:?}\n", list(&[(backup, PORT)]));
        }
        std::fs::write(client.config_file(), text.replace("servers = []\n", &now)).unwrap();
        // The client of the last time has left what it keeps, and its log.
        let before = client.log().len();
        client.start(&self.site.lab.client);
        // Passwords are hashed when nobody else wants to work.
        let is_up = |status: &StatusReport| status.state == "up";
        client.await_status(3 * PATIENCE, "the client to be connected", is_up);
        let name = logged_in_to(&client, before);
        assert!(client.terminate().success(), "{}", client.log());
        name
    }
}

fn logged_in_to(client: &Daemon, from: usize) -> String {
    let log = client.log();
    let line = log[from..].lines().find(|line| line.contains("logged in to")).unwrap();
    line.split(['(', ')']).nth(1).unwrap().to_owned()
}

/// Passes connections on to the port of logins, with a delay in each direction.
fn start_delay(here: Ipv4Addr) -> io::Result<()> {
    let listener = TcpListener::bind((here, FAR_PORT))?;
    // Sockets keep to the namespace that they were made in, and so do threads.
    thread::spawn(move || {
        for near in listener.incoming().map_while(Result::ok) {
            let Ok(far) = TcpStream::connect((here, PORT)) else { continue };
            for (from, to) in [(&near, &far), (&far, &near)] {
                let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                thread::spawn(move || pass(from, to));
            }
        }
    });
    Ok(())
}

fn pass(mut from: TcpStream, mut to: TcpStream) {
    let mut bytes = [0; 65_536];
    while let Ok(len @ 1..) = from.read(&mut bytes) {
        thread::sleep(FAR);
        if to.write_all(&bytes[..len]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

/// Keeps a server busy with datagrams that mean nothing.
struct Flood {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Flood {
    fn start(from: &Host, server: Ipv4Addr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let start = |_| {
            let socket = from.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
            let (to, stop): (SocketAddr, _) = ((server, PORT).into(), Arc::clone(&stop));
            thread::spawn(move || {
                // A data message of no session.
                let junk = [4; 64];
                while !stop.load(Relaxed) {
                    let _ = socket.send_to(&junk, to);
                }
            })
        };
        Self { threads: (0..2).map(start).collect(), stop }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

#[test]
fn the_nearer_server_is_taken_whichever_is_named_first() {
    let two = Two::new();
    for server in [0, 1] {
        two.move_away(server);
    }
    for (servers, nearer) in
        [([(0, FAR_PORT), (1, PORT)], "second"), ([(1, FAR_PORT), (0, PORT)], "first")]
    {
        let mut tries = (0..TRIES).map(|_| two.chosen_of(&servers, None));
        assert!(tries.any(|name| name == nearer), "{nearer}");
    }
}

#[test]
fn a_backup_is_left_alone_however_near_it_is() {
    let two = Two::new();
    two.move_away(0);
    // On a busy machine a server may seem to be away, for which a backup is there.
    let mut tries = (0..TRIES).map(|_| two.chosen_of(&[(0, FAR_PORT)], Some(1)));
    assert!(tries.any(|name| name == "first"));
}

#[test]
fn of_servers_as_near_the_one_with_time_is_taken() {
    let two = Two::new();
    for server in [0, 1] {
        two.move_away(server);
    }
    let both = [(0, FAR_PORT), (1, FAR_PORT)];
    // A server measures from one question to the next.
    two.chosen_of(&both, None);
    let _flood = Flood::start(&two.site.lab.router, SERVERS[0]);
    thread::sleep(Duration::from_secs(3));
    // Beside other tests a server may have had time in spite of the flood when it was asked.
    let mut tries = (0..TRIES).map(|_| two.chosen_of(&both, None));
    assert!(tries.any(|name| name == "second"));
}
