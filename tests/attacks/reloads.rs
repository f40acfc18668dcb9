//! A configuration that is read again and again, and is another one each time.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use corelane::handshake::keys::PrivateKey;
use corelane::telemetry::status::{PeerStatus, StatusAnswer, StatusReport, StatusRequest};

use crate::daemon::Daemon;
use crate::harness::{CLIENT_V4, Options, PATIENCE, Peer, SERVER_V4, SERVER_V6, Tunnel};
use crate::load::{Datagrams, Stream, await_progress};

/// Of each daemon.
const RELOADS: usize = 500;
/// Traffic must be seen to flow within each so many reloads.
const SECTION: usize = 50;

/// A connection to a daemon's status socket.
struct Asking {
    socket: UnixStream,
    answers: BufReader<UnixStream>,
}

impl Asking {
    fn connect(daemon: &Daemon) -> Self {
        let socket = UnixStream::connect(daemon.status_socket()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let answers = BufReader::new(socket.try_clone().unwrap());
        Self { socket, answers }
    }

    fn ask(&mut self, request: &StatusRequest) -> StatusAnswer {
        let request = serde_json::to_string(request).unwrap() + "\n";
        self.socket.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        serde_json::from_str(&answer).unwrap()
    }

    /// Has the file read again, and returns the status afterwards.
    fn reload(&mut self) -> StatusReport {
        let answer = self.ask(&StatusRequest::Reload);
        assert!(matches!(answer, StatusAnswer::Ok), "{answer:?}");
        match self.ask(&StatusRequest::Status) {
            StatusAnswer::Status(report) => *report,
            other => panic!("{other:?}"),
        }
    }
}

/// A prefix for each number.
fn prefix(number: usize) -> String {
    format!("10.99.{}.{}/32", number / 256, number % 256)
}

/// Another peer takes the place of the last one.
fn change_server(tunnel: &mut Tunnel, asking: &mut Asking, number: usize) {
    let key = PrivateKey::generate(&mut rand::rng()).public();
    tunnel.peers.truncate(1);
    tunnel.peers.push(Peer { key, allowed_ips: vec![prefix(number)] });
    tunnel.write_server_config();
    let peers = asking.reload().peers;
    let keys: Vec<_> = peers.iter().map(|peer| peer.public_key.clone()).collect();
    assert_eq!(keys, [tunnel.peers[0].key.to_string(), key.to_string()], "reload {number}");
}

/// Another route takes the place of the last one.
fn change_client(tunnel: &mut Tunnel, asking: &mut Asking, number: usize) {
    tunnel.options.routes = vec![prefix(number)];
    tunnel.write_client_config();
    let allowed_ips = asking.reload().peers.remove(0).allowed_ips;
    assert!(allowed_ips.contains(&prefix(number)), "reload {number}: {allowed_ips:?}");
    let former = number.checked_sub(1).map(prefix);
    assert!(!allowed_ips.iter().any(|it| Some(it) == former.as_ref()), "{allowed_ips:?}");
}

#[test]
fn a_thousand_reloads_under_traffic_reset_nothing() {
    let mut tunnel = Tunnel::start(Options { workers: (2, 2), ..Options::default() });
    let sessions = |tunnel: &Tunnel| [tunnel.server_session(), tunnel.client_session()];
    let before = sessions(&tunnel);
    let (server, client) = (tunnel.lab.server(), tunnel.lab.client());
    let streams = [
        Stream::start(client, server, SERVER_V4),
        Stream::start(server, client, CLIENT_V4),
        Stream::start(client, server, SERVER_V6),
    ];
    let pause = Duration::from_millis(1);
    let datagrams = [
        Datagrams::start(client, server, SERVER_V4, 200, pause),
        Datagrams::start(server, client, CLIENT_V4, 200, pause),
    ];
    let mut asking = [&tunnel.server, &tunnel.client].map(Asking::connect);
    let [ask_server, ask_client] = &mut asking;
    for number in 0..RELOADS {
        let arrived = streams.each_ref().map(Stream::arrived);
        let sent = datagrams.each_ref().map(Datagrams::sent);
        change_server(&mut tunnel, ask_server, number);
        change_client(&mut tunnel, ask_client, number);
        if number % SECTION == 0 {
            for (stream, before) in streams.iter().zip(arrived) {
                await_progress("a stream to go on", before + 1, || stream.arrived());
            }
            for (datagrams, before) in datagrams.iter().zip(sent) {
                await_progress("datagrams to go on", before + 1, || datagrams.sent());
            }
        }
    }
    for stream in streams {
        let carried = stream.finish();
        assert!(carried > 1 << 20, "{carried} bytes");
    }
    for datagrams in datagrams {
        let fate = datagrams.finish();
        assert!(fate.sent >= 1000 && fate.lost() * 1000 < fate.sent, "{fate:?}");
    }
    for daemon in [&tunnel.server, &tunnel.client] {
        assert_eq!(daemon.log().matches("configuration read again").count(), RELOADS);
    }
    for (before, after) in before.iter().zip(&sessions(&tunnel)) {
        assert_eq!(after.rekeys, 0);
        assert!(after.session_age_s > before.session_age_s, "the session is the one it was");
        assert_eq!(after.lanes_in_use, before.lanes_in_use);
        let endpoints =
            |it: &PeerStatus| it.paths.iter().map(|path| path.endpoint.clone()).collect::<Vec<_>>();
        assert_eq!(endpoints(after), endpoints(before));
    }
    assert_eq!(tunnel.drops(), [BTreeMap::new(), BTreeMap::new()]);
}
