//! A full tunnel whose daemon is killed, and the starts after that: nothing leaves in the clear.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use corelane::lab::{Host, LINK, addresses, wait_until};
use corelane::packet::Parsed;
use corelane::sys::capture::Capture;

use crate::harness::{PATIENCE, PORT, SERVER_V4, capture};
use crate::routing::{FAR_V4, full_tunnel};
use crate::tools::{attempt, ping};

/// Destinations of no other traffic.
const INSIDE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 9)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 9)),
];
/// How many datagrams are to be sent while nothing else happens.
const SOME: u64 = 200;
/// What the name server knows, and what only the client's `/etc/hosts` does.
pub(crate) const NAME: &str = "server.corelane.test";
const LOCAL_NAME: &str = "local.corelane.test";
/// The question type of IPv4 addresses (RFC 1035, section 3.2.2).
const TYPE_A: [u8; 2] = [0, 1];

/// A thread that ends when this is dropped.
pub(crate) struct Background<T> {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<T>>,
}

impl<T: Send + 'static> Background<T> {
    fn start(work: impl FnOnce(&AtomicBool) -> T + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&stop);
        Self { stop, thread: Some(thread::spawn(move || work(&asked))) }
    }

    fn finish(mut self) -> T {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl<T> Drop for Background<T> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Sends to [`INSIDE`] again and again, and sees what leaves the client.
struct Leak {
    sent: Arc<AtomicU64>,
    background: Background<u64>,
}

impl Leak {
    fn look_for(client: &Host) -> Self {
        let sent = Arc::new(AtomicU64::new(0));
        let (count, mut link) = (Arc::clone(&sent), capture(client, LINK));
        let bind = |any: &str| client.run(|| UdpSocket::bind(any)).unwrap().unwrap();
        let sockets = [bind("0.0.0.0:0"), bind("[::]:0")];
        let background = Background::start(move |stop| {
            let mut in_the_clear = 0;
            while !stop.load(Ordering::Relaxed) {
                for (socket, inside) in sockets.iter().zip(INSIDE) {
                    // Most of them are refused.
                    let _ = socket.send_to(b"for the tunnel", (inside, 9));
                }
                count.fetch_add(1, Ordering::Relaxed);
                in_the_clear += seen_in_the_clear(&mut link);
                thread::sleep(Duration::from_micros(500));
            }
            assert_eq!(link.missed().unwrap(), 0);
            in_the_clear
        });
        Self { sent, background }
    }

    /// Waits until some more were sent.
    #[track_caller]
    fn go_on(&self) {
        let until = self.sent.load(Ordering::Relaxed) + SOME;
        let sent = || (self.sent.load(Ordering::Relaxed) >= until).then_some(());
        wait_until(PATIENCE, "more datagrams to be sent", sent).unwrap();
    }

    /// How many were sent, and how many of them left in the clear.
    fn finish(self) -> (u64, u64) {
        let in_the_clear = self.background.finish();
        (self.sent.load(Ordering::Relaxed), in_the_clear)
    }
}

fn seen_in_the_clear(link: &mut Capture) -> u64 {
    let mut count = 0;
    while let Some(captured) = link.receive().unwrap() {
        let to = Parsed::parse(captured.packet).map(|parsed| parsed.destination);
        count += u64::from(captured.outgoing && to.is_ok_and(|to| INSIDE.contains(&to)));
    }
    count
}

/// A name server on the router, which the client reaches by its default route: it knows
/// [`NAME`] and says of all else that there is no such name. Returns how often it was asked, too.
pub(crate) fn start_name_server(router: &Host) -> (Background<()>, Arc<AtomicU64>) {
    let socket = router.run(|| UdpSocket::bind((FAR_V4, 53))).unwrap().unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let asked = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&asked);
    let background = Background::start(move |stop| {
        let mut buffer = [0; 512];
        while !stop.load(Ordering::Relaxed) {
            match socket.recv_from(&mut buffer) {
                Ok((len, client)) => {
                    count.fetch_add(1, Ordering::Relaxed);
                    socket.send_to(&answer(&buffer[..len]), client).unwrap();
                }
                Err(error) if is_passing(&error) => {}
                Err(error) => panic!("{error}"),
            }
        }
    });
    (background, asked)
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// The answer to a question (RFC 1035, section 4.1).
fn answer(query: &[u8]) -> Vec<u8> {
    const HEADER_LEN: usize = 12;
    let name_len = query[HEADER_LEN..].iter().position(|byte| *byte == 0).unwrap() + 1;
    let (name, rest) = query[HEADER_LEN..].split_at(name_len);
    let known: Vec<u8> = NAME
        .split('.')
        .flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat())
        .chain([0])
        .collect();
    let is_known = name == known;
    let has_address = is_known && rest[..2] == TYPE_A;
    let mut answer = query[..2].to_vec();
    // An answer without recursion, to one question, with or without an answer.
    answer.extend([0x84, if is_known { 0 } else { 3 }, 0, 1, 0, u8::from(has_address), 0, 0, 0, 0]);
    answer.extend_from_slice(name);
    answer.extend_from_slice(&rest[..4]);
    if has_address {
        // The name of the question again, class IN, for a minute, four bytes.
        answer.extend([0xc0, HEADER_LEN as u8, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        answer.extend(addresses::SERVER_V4.octets());
    }
    answer
}

/// A command in front of the daemon's own that gives it files of its own to resolve names by.
pub(crate) fn resolving_by_own_files(directory: &Path) -> Vec<String> {
    let files = [
        ("hosts", format!("{} {LOCAL_NAME}\n", addresses::SERVER_V4)),
        ("resolv.conf", format!("nameserver {FAR_V4}\noptions timeout:1 attempts:1\n")),
        ("nsswitch.conf", "hosts: files dns\n".to_owned()),
    ];
    let mut script = String::new();
    for (name, text) in files {
        let file = directory.join(name);
        fs::write(&file, text).unwrap();
        script += &format!("mount --bind {} /etc/{name} && ", file.display());
    }
    script += "exec \"$@\"";
    ["unshare", "--mount", "sh", "-c", &script, "sh"].map(str::to_owned).to_vec()
}

#[test]
fn nothing_leaves_in_the_clear_from_a_kill_to_the_next_good_start() {
    let mut tunnel = full_tunnel();
    let (_name_server, asked) = start_name_server(tunnel.lab.router());
    tunnel.client.wrapper = resolving_by_own_files(tunnel.directory.path());
    tunnel.options.connect = format!("{NAME}:{PORT}");
    tunnel.write_client_config();
    tunnel.start_server();
    let leak = Leak::look_for(tunnel.lab.client());
    leak.go_on();
    let (sent, in_the_clear) = leak.finish();
    assert!(in_the_clear > 0, "of {sent}: what leaves in the clear is seen");

    tunnel.start_client();
    let leak = Leak::look_for(tunnel.lab.client());
    leak.go_on();

    tunnel.client.kill();
    leak.go_on();
    for address in INSIDE {
        let route = attempt(tunnel.lab.client(), &format!("ip route get {address}"));
        assert!(!route.status.success(), "it is shut: {route:?}");
    }

    // Under another name it is another tunnel, which knows no server and lets nothing out for it.
    let asked_before = asked.load(Ordering::Relaxed);
    tunnel.client.flags = ["--set", "tun.name=other0"].map(str::to_owned).to_vec();
    for _ in 0..2 {
        tunnel.client.start(tunnel.lab.client());
        assert_eq!(tunnel.client.await_end().code(), Some(1));
        leak.go_on();
    }
    let log = tunnel.client.log();
    assert!(log.contains("keeps this host shut") && log.contains("ip rule flush"), "{log}");

    // The name server is not reached, but the tunnel knows where it was.
    tunnel.client.flags.clear();
    tunnel.start_client();
    tunnel.client.await_log("going on with 192.0.2.1:20443, where its server was");
    tunnel.client.await_log("an earlier run left behind");
    tunnel.await_echoes();
    ping(tunnel.lab.client(), FAR_V4, "-c 3 -i 0.01");
    leak.go_on();
    assert_eq!(asked.load(Ordering::Relaxed), asked_before, "no question left in the clear");

    // A name that needs no name server is found as ever, and counts.
    tunnel.client.kill();
    leak.go_on();
    let second = SocketAddr::from((addresses::SERVER_V4, PORT + 1));
    tunnel.server.terminate();
    tunnel.options.listen = vec![second.to_string()];
    tunnel.options.connect = format!("{LOCAL_NAME}:{}", second.port());
    tunnel.write_server_config();
    tunnel.write_client_config();
    tunnel.start_server();
    tunnel.start_client();
    tunnel.await_echoes();
    assert_eq!(tunnel.client_session().paths[0].endpoint, Some(second.to_string()));
    leak.go_on();

    let (sent, in_the_clear) = leak.finish();
    assert!(sent > 6 * SOME, "{sent}");
    assert_eq!(in_the_clear, 0, "of {sent} for each family");
    ping(tunnel.lab.client(), SERVER_V4, "-c 1");
}
