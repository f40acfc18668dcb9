//! Real Unix sockets, a poll that is driven by hand, and a clock that the tests set.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::time::Duration;

use mio::{Events, Poll};
use tempfile::TempDir;

use super::*;
use crate::sys::clock;

/// A status socket that answers `ok` to `reload`, something large to `status`, and remembers.
struct Daemon {
    directory: TempDir,
    poll: Poll,
    socket: StatusSocket,
    asked: Vec<StatusRequest>,
    now: Instant,
}

/// More than the socket buffers of a client that does not read.
const LARGE: usize = 4 << 20;

impl Daemon {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let poll = Poll::new().unwrap();
        let path = directory.path().join("status");
        let socket = StatusSocket::bind(path, poll.registry()).unwrap();
        Self { directory, poll, socket, asked: Vec::new(), now: clock::now() }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("status")
    }

    fn connect(&self) -> StdStream {
        let client = StdStream::connect(self.path()).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        client
    }

    /// Serves until nothing is left to do without waiting.
    fn turn(&mut self) {
        let mut events = Events::with_capacity(64);
        loop {
            self.poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
            for event in &events {
                self.socket.handle_event(event.token());
            }
            if !self.socket.is_busy() {
                return;
            }
            let asked = &mut self.asked;
            self.socket.turn(self.now, &mut |request| {
                asked.push(request);
                match request {
                    StatusRequest::Status => StatusAnswer::Error { message: "x".repeat(LARGE) },
                    StatusRequest::Down | StatusRequest::Reload => StatusAnswer::Ok,
                }
            });
        }
    }
}

const RELOAD: &[u8] = b"{\"request\":\"reload\"}\n";
const STATUS: &[u8] = b"{\"request\":\"status\"}\n";
const OK: &str = "{\"answer\":\"ok\"}\n";

fn read_line(client: &StdStream) -> String {
    let mut line = String::new();
    BufReader::new(client).read_line(&mut line).unwrap();
    line
}

/// Whether the daemon has closed the connection.
fn is_closed(client: &mut StdStream) -> bool {
    let mut rest = Vec::new();
    client.set_nonblocking(true).unwrap();
    match client.read_to_end(&mut rest) {
        // Unread requests turn the end of the stream into a reset.
        Ok(_) => true,
        Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
    }
}

#[test]
fn requests_are_answered_one_line_each() {
    let mut daemon = Daemon::new();
    let mut client = daemon.connect();
    client.write_all(RELOAD).unwrap();
    daemon.turn();
    assert_eq!(read_line(&client), OK);
    client.write_all(&[RELOAD, RELOAD].concat()).unwrap();
    daemon.turn();
    let mut answers = [0; 32];
    client.read_exact(&mut answers[..OK.len() * 2]).unwrap();
    assert_eq!(daemon.asked, [StatusRequest::Reload; 3]);
    drop(client);
    daemon.turn();
    assert!(daemon.socket.clients.is_empty());
}

#[test]
fn a_request_may_come_in_pieces() {
    let mut daemon = Daemon::new();
    let mut client = daemon.connect();
    for byte in RELOAD {
        assert!(daemon.asked.is_empty());
        client.write_all(&[*byte]).unwrap();
        daemon.turn();
    }
    assert_eq!(read_line(&client), OK);
}

#[test]
fn only_this_user_may_connect() {
    let daemon = Daemon::new();
    let mode = fs::metadata(daemon.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let names: Vec<_> = fs::read_dir(daemon.directory.path()).unwrap().collect();
    assert_eq!(names.len(), 1, "no draft is left behind");
}

#[test]
fn garbage_is_refused_with_a_reason() {
    for garbage in [
        &b"hello\n"[..],
        b"\n",
        b"{}\n",
        b"{\"request\":\"explode\"}\n",
        b"{\"request\":\"status\"\n",
        b"\xff\xfe\x00\n",
        b"[[[[[[[[[[[[[[[[\n",
    ] {
        let mut daemon = Daemon::new();
        let mut client = daemon.connect();
        client.write_all(garbage).unwrap();
        client.write_all(RELOAD).unwrap();
        daemon.turn();
        let answer: StatusAnswer = serde_json::from_str(&read_line(&client)).unwrap();
        assert!(matches!(answer, StatusAnswer::Error { .. }));
        assert!(is_closed(&mut client), "what follows garbage is not looked at");
        assert!(daemon.asked.is_empty() && daemon.socket.clients.is_empty());
    }
}

#[test]
fn a_request_without_end_is_refused() {
    let mut daemon = Daemon::new();
    let mut client = daemon.connect();
    client.write_all(&vec![b'{'; STATUS_REQUEST_LEN_MAX * 2]).unwrap();
    daemon.turn();
    let answer = read_line(&client);
    assert!(answer.contains("longer than 4096 bytes"), "{answer}");
    assert!(daemon.socket.clients.is_empty());
}

#[test]
fn a_client_that_trickles_is_dropped_in_time() {
    let mut daemon = Daemon::new();
    let mut slow = daemon.connect();
    for _ in 0..4 {
        slow.write_all(b"{").unwrap();
        daemon.turn();
        daemon.now += STATUS_CLIENT_TIMEOUT / 5;
    }
    assert_eq!(daemon.socket.clients.len(), 1);
    let due = daemon.socket.poll_timeout().unwrap();
    daemon.now = due;
    slow.write_all(b"{").unwrap();
    daemon.turn();
    assert!(daemon.socket.clients.is_empty());
    assert!(is_closed(&mut slow));
    assert_eq!(daemon.socket.poll_timeout(), None);
}

#[test]
fn a_client_that_does_not_read_holds_nobody_up() {
    let mut daemon = Daemon::new();
    let mut slow = daemon.connect();
    slow.write_all(STATUS).unwrap();
    slow.write_all(STATUS).unwrap();
    daemon.turn();
    assert_eq!(daemon.asked.len(), 1, "the second waits until the first answer is taken");
    let mut other = daemon.connect();
    other.write_all(RELOAD).unwrap();
    daemon.turn();
    assert_eq!(read_line(&other), OK);
    daemon.now += STATUS_CLIENT_TIMEOUT;
    other.write_all(RELOAD).unwrap();
    daemon.turn();
    assert!(daemon.socket.clients.is_empty());
}

#[test]
fn an_answer_larger_than_the_socket_buffer_arrives_whole() {
    let mut daemon = Daemon::new();
    let mut client = daemon.connect();
    client.write_all(STATUS).unwrap();
    let mut answer = Vec::new();
    client.set_nonblocking(true).unwrap();
    while answer.last() != Some(&b'\n') {
        daemon.turn();
        let mut chunk = [0; 65536];
        if let Ok(read) = client.read(&mut chunk) {
            answer.extend_from_slice(&chunk[..read]);
        }
    }
    assert!(answer.len() > LARGE);
    assert!(serde_json::from_slice::<StatusAnswer>(&answer).is_ok());
}

#[test]
fn clients_beyond_the_bound_are_turned_away_until_others_leave() {
    let mut daemon = Daemon::new();
    let mut clients: Vec<StdStream> =
        (0..STATUS_CLIENTS_MAX + 3).map(|_| daemon.connect()).collect();
    daemon.turn();
    assert_eq!(daemon.socket.clients.len(), STATUS_CLIENTS_MAX);
    assert!(is_closed(clients.last_mut().unwrap()));
    clients.clear();
    daemon.turn();
    let mut late = daemon.connect();
    late.write_all(RELOAD).unwrap();
    daemon.turn();
    assert_eq!(read_line(&late), OK);
}

#[test]
fn a_file_left_by_a_killed_daemon_is_replaced() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("status");
    drop(StdListener::bind(&path).unwrap());
    let poll = Poll::new().unwrap();
    let socket = StatusSocket::bind(path.clone(), poll.registry()).unwrap();
    assert!(StdStream::connect(&path).is_ok());
    drop(socket);
    assert!(!path.exists(), "removed with the socket");
}

#[test]
fn what_is_in_use_or_not_a_socket_is_left_alone() {
    let directory = TempDir::new().unwrap();
    let poll = Poll::new().unwrap();
    let taken = directory.path().join("taken");
    let _listener = StdListener::bind(&taken).unwrap();
    let refused = StatusSocket::bind(taken.clone(), poll.registry());
    assert!(matches!(refused, Err(StatusSocketError::InUse { .. })));
    assert!(StdStream::connect(&taken).is_ok());

    let file = directory.path().join("file");
    fs::write(&file, "precious").unwrap();
    let refused = StatusSocket::bind(file.clone(), poll.registry());
    assert!(matches!(refused, Err(StatusSocketError::NotASocket { .. })));
    assert_eq!(fs::read(&file).unwrap(), b"precious");

    let nowhere = directory.path().join("missing").join("status");
    let refused = StatusSocket::bind(nowhere, poll.registry());
    assert!(matches!(refused, Err(StatusSocketError::Io { .. })));
}
