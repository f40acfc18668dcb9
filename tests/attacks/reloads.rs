//! A configuration that is read again and again.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

use corelane::telemetry::status::{StatusAnswer, StatusRequest};

use crate::daemon::Daemon;
use crate::harness::{Options, PATIENCE, SERVER_V4, Tunnel};

const RELOADS: usize = 1000;

/// Asks for reloads, each as soon as the one before is done.
fn reload(daemon: &Daemon, times: usize) {
    let mut socket = UnixStream::connect(daemon.status_socket()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut answers = BufReader::new(socket.try_clone().unwrap());
    let request = serde_json::to_string(&StatusRequest::Reload).unwrap() + "\n";
    for number in 0..times {
        socket.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        answers.read_line(&mut answer).unwrap();
        let answer: StatusAnswer = serde_json::from_str(&answer).unwrap();
        assert!(matches!(answer, StatusAnswer::Ok), "reload {number}: {answer:?}");
    }
}

#[test]
fn a_thousand_reloads_under_traffic_reset_nothing() {
    let tunnel = Tunnel::start(Options { workers: (2, 2), ..Options::default() });
    let sessions = |tunnel: &Tunnel| [tunnel.server_session(), tunnel.client_session()];
    let before = sessions(&tunnel);
    let streams = [tunnel.start_iperf(SERVER_V4, "-t 5"), tunnel.start_iperf(SERVER_V4, "-t 5 -R")];
    for daemon in [&tunnel.server, &tunnel.client] {
        reload(daemon, RELOADS / 2);
    }
    for stream in streams {
        assert!(stream.finish().received_bytes() > 1 << 20);
    }
    for daemon in [&tunnel.server, &tunnel.client] {
        let read_again = daemon.log().matches("configuration read again").count();
        assert_eq!(read_again, RELOADS / 2);
    }
    for (before, after) in before.iter().zip(&sessions(&tunnel)) {
        assert_eq!(after.rekeys, 0);
        assert!(after.session_age_s > before.session_age_s, "the session is the one it was");
        assert_eq!(after.lanes_in_use, before.lanes_in_use);
        let endpoints = |it: &corelane::telemetry::status::PeerStatus| {
            it.paths.iter().map(|path| path.endpoint.clone()).collect::<Vec<_>>()
        };
        assert_eq!(endpoints(after), endpoints(before));
    }
    assert_eq!(tunnel.drops(), [BTreeMap::new(), BTreeMap::new()]);
}
