//! Both ends over loopback, and a server that meets clients it did not hope for.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::{
    BenchError, BenchServer, Direction, LatencySpec, StopFlag, TestReport, TestSpec, run_latency,
    run_test, search_rate,
};
use crate::lab::{LabOptions, TwoHosts, addresses};

/// A server on a port of the kernel's choice; stopped and joined when dropped.
struct RunningServer {
    address: SocketAddr,
    stop: StopFlag,
    thread: Option<JoinHandle<Result<(), BenchError>>>,
}

impl RunningServer {
    fn start() -> Self {
        Self::start_with(false)
    }

    fn start_with(one_off: bool) -> Self {
        let stop = StopFlag::new();
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let server = BenchServer::bind(any, stop.clone()).expect("a free port");
        let address = server.local_address().unwrap();
        let thread = thread::spawn(move || server.serve(one_off));
        Self { address, stop, thread: Some(thread) }
    }

    fn run(&self, spec: &TestSpec) -> Result<TestReport, BenchError> {
        run_test(self.address, spec, &StopFlag::new(), &mut |_| {})
    }
}

impl Drop for RunningServer {
    fn drop(&mut self) {
        self.stop.raise();
        let result = self.thread.take().map(JoinHandle::join);
        if !thread::panicking() {
            result.unwrap().expect("the server panicked").expect("the server failed");
        }
    }
}

fn short() -> TestSpec {
    TestSpec::tcp(Duration::from_millis(200))
}

#[test]
fn tcp_forward_and_reverse_lose_nothing() {
    let server = RunningServer::start();
    for direction in [Direction::Forward, Direction::Reverse] {
        let spec = TestSpec { direction, streams: 3, ..short() };
        let report = server.run(&spec).unwrap();
        assert!(report.receiver.bytes > 0);
        assert_eq!(report.sender.bytes, report.receiver.bytes, "{direction:?}");
        assert_eq!(report.streams.len(), 3);
        assert!(report.streams.iter().all(|stream| stream.bytes > 0));
        let in_intervals: u64 = report.intervals.iter().map(|interval| interval.bytes).sum();
        assert_eq!(in_intervals, report.receiver.bytes);
        assert!(report.datagrams.is_none());
    }
}

#[test]
fn intervals_are_what_the_receiver_sees_and_come_while_the_test_runs() {
    let server = RunningServer::start();
    for direction in [Direction::Forward, Direction::Reverse] {
        let spec = TestSpec { direction, ..TestSpec::tcp(Duration::from_millis(1200)) };
        let mut live = Vec::new();
        let report =
            run_test(server.address, &spec, &StopFlag::new(), &mut |interval| live.push(*interval))
                .unwrap();
        assert_eq!(live, report.intervals);
        assert!(live.len() >= 2, "{live:?}");
        assert!(live[0].start_s.abs() < 1e-9 && live[0].end_s >= 1.0);
    }
}

#[test]
fn a_paced_tcp_test_keeps_to_its_rate() {
    let server = RunningServer::start();
    let spec = TestSpec { rate_bps: Some(8_000_000), length: 1000, streams: 2, ..short() };
    let bytes = server.run(&spec).unwrap().receiver.bytes;
    assert!((100_000..=225_000).contains(&bytes), "200 ms at 1 MB/s: {bytes}");
}

#[test]
fn a_one_off_server_ends_after_its_test() {
    let mut server = RunningServer::start_with(true);
    server.run(&short()).unwrap();
    server.thread.take().unwrap().join().unwrap().unwrap();
    assert!(matches!(server.run(&short()), Err(BenchError::NotRunning(_))));
    server.thread = Some(thread::spawn(|| Ok(())));
}

#[test]
fn a_test_out_of_bounds_is_refused_by_both_ends() {
    let server = RunningServer::start();
    let spec = TestSpec { streams: 0, ..short() };
    assert!(matches!(server.run(&spec), Err(BenchError::InvalidTest(_))));
    for (version, streams, word) in [(1, 0, "streams"), (2, 1, "version")] {
        let answer = converse(server.address, &request(version, "tcp", streams));
        assert!(answer.contains("refused") && answer.contains(word), "{answer}");
    }
}

/// The first line of a client's control connection.
fn request(version: u32, protocol: &str, streams: u32) -> String {
    let test = serde_json::json!({
        "protocol": protocol, "direction": "forward", "streams": streams, "duration_ms": 60_000,
        "length": 64, "rate_bps": null, "gso": false,
    });
    let greeting = serde_json::json!({ "greeting": "control", "version": version, "test": test });
    format!("{greeting}\n")
}

/// Sends `text` and returns what comes back until the server closes.
fn converse(server: SocketAddr, text: &str) -> String {
    let mut stream = TcpStream::connect(server).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    // The server may close before it has taken everything.
    let _ = stream.write_all(text.as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn garbage_is_hung_up_on_and_the_server_goes_on() {
    let server = RunningServer::start();
    let token = "0".repeat(32);
    for garbage in [
        "GET / HTTP/1.1\r\nHost: bench\r\n\r\n".to_owned(),
        "\n".to_owned(),
        "{}\n".to_owned(),
        "[".repeat(900) + "\n",
        "x".repeat(5000),
        "\u{0}\u{1}\u{2}\n".to_owned(),
        format!("{{\"greeting\":\"data\",\"token\":\"{token}\",\"stream\":0}}\n"),
        "{\"greeting\":\"data\",\"token\":\"+\",\"stream\":70000}\n".to_owned(),
    ] {
        assert_eq!(converse(server.address, &garbage), "", "{garbage}");
    }
    server.run(&short()).unwrap();
}

/// Asks for a test by hand and returns the connection once the server is ready for it.
fn ask_for_a_test(server: SocketAddr, protocol: &str) -> TcpStream {
    let mut stream = TcpStream::connect(server).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let line = request(1, protocol, 1);
    stream.write_all(line.as_bytes()).unwrap();
    let mut answer = [0; 4096];
    let len = stream.read(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer[..len]).into_owned();
    assert!(answer.contains("ready"), "{answer}");
    stream
}

#[test]
fn clients_that_vanish_free_their_places() {
    let server = RunningServer::start();
    for protocol in ["tcp", "udp", "echo"] {
        let held: Vec<_> = (0..crate::limits::BENCH_TESTS_MAX)
            .map(|_| ask_for_a_test(server.address, protocol))
            .collect();
        let full = server.run(&short());
        assert!(matches!(&full, Err(BenchError::Refused(reason)) if reason.contains("running")));
        drop(held);
        let deadline = crate::sys::clock::now() + Duration::from_secs(4);
        while matches!(server.run(&short()), Err(BenchError::Refused(_))) {
            assert!(crate::sys::clock::now() < deadline, "places are not given back");
        }
    }
}

#[test]
fn a_client_interrupted_in_the_middle_returns_at_once_and_so_does_the_server() {
    let server = RunningServer::start_with(true);
    let stop = StopFlag::new();
    let spec = TestSpec::tcp(Duration::from_secs(60));
    let raise = stop.clone();
    let result = run_test(server.address, &spec, &stop, &mut |_| raise.raise());
    assert!(matches!(result, Err(BenchError::Interrupted)), "{result:?}");
    // The one test is over, so the server ends by itself.
    let mut server = server;
    server.thread.take().unwrap().join().unwrap().unwrap();
    server.thread = Some(thread::spawn(|| Ok(())));
}

#[test]
fn a_server_that_stops_ends_the_client_too() {
    let server = RunningServer::start();
    let spec = TestSpec { direction: Direction::Reverse, ..TestSpec::tcp(Duration::from_secs(60)) };
    let stop = server.stop.clone();
    let mut stop_at_first_interval = |_: &super::Interval| stop.raise();
    let result = run_test(server.address, &spec, &StopFlag::new(), &mut stop_at_first_interval);
    assert!(
        matches!(result, Err(BenchError::FarEndFailed(_) | BenchError::FarEndGone(_))),
        "{result:?}"
    );
}

#[test]
fn nobody_listening_is_told_apart_from_other_failures() {
    let port = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let result = run_test(port, &short(), &StopFlag::new(), &mut |_| {});
    assert!(matches!(result, Err(BenchError::NotRunning(_))));
}

#[test]
fn udp_forward_and_reverse_account_for_every_datagram() {
    let server = RunningServer::start();
    for (direction, gso) in [
        (Direction::Forward, false),
        (Direction::Forward, true),
        (Direction::Reverse, false),
        (Direction::Reverse, true),
    ] {
        let duration = Duration::from_millis(200);
        let spec = TestSpec { direction, gso, streams: 2, ..TestSpec::udp(duration) };
        let report = server.run(&spec).unwrap();
        let fate = report.datagrams.unwrap();
        assert!(report.receiver.datagrams > 0);
        assert_eq!(report.sender.datagrams, report.receiver.datagrams + fate.lost);
        assert_eq!(report.receiver.bytes, report.receiver.datagrams * 1300);
        assert_eq!(fate.duplicates, 0);
    }
}

#[test]
fn paced_udp_keeps_to_its_rate_and_loses_nothing() {
    let server = RunningServer::start();
    let spec =
        TestSpec { rate_bps: Some(4_000_000), length: 100, ..TestSpec::udp(short().duration()) };
    let report = server.run(&spec).unwrap();
    assert_eq!(report.loss_percent(), 0.0);
    let bytes = report.receiver.bytes;
    assert!((50_000..=106_000).contains(&bytes), "200 ms at 500 kB/s: {bytes}");
}

#[test]
fn the_largest_datagrams_are_sent_singly_even_as_trains() {
    let server = RunningServer::start();
    for gso in [false, true] {
        let spec = TestSpec { length: 65_507, gso, ..TestSpec::udp(short().duration()) };
        assert!(server.run(&spec).unwrap().receiver.bytes > 0);
        let too_long = TestSpec { length: 65_508, ..spec };
        assert!(matches!(server.run(&too_long), Err(BenchError::InvalidTest(_))));
    }
}

#[test]
fn a_datagram_that_does_not_fit_the_path_is_said_to() {
    let lab = TwoHosts::build(LabOptions::default()).expect("this test needs root");
    let stop = StopFlag::new();
    let at = SocketAddr::from((addresses::SERVER_V4, 0));
    let server = lab.server.run(|| BenchServer::bind(at, stop.clone())).unwrap().unwrap();
    let address = server.local_address().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| lab.server.run(|| server.serve(false)).unwrap().unwrap());
        let forward = TestSpec { length: 1473, ..TestSpec::udp(short().duration()) };
        let reverse = TestSpec { direction: Direction::Reverse, ..forward.clone() };
        let fits = TestSpec { length: 1472, ..forward.clone() };
        let run = |spec: &TestSpec| {
            lab.client.run(|| run_test(address, spec, &StopFlag::new(), &mut |_| {})).unwrap()
        };
        let echo = LatencySpec { length: 1473, ..LatencySpec::default() };
        let echo = lab.client.run(|| run_latency(address, &echo, &StopFlag::new())).unwrap();
        let results = (run(&forward), run(&reverse), run(&fits));
        stop.raise();
        assert!(matches!(results.0, Err(BenchError::DatagramTooBig(1473))), "{results:?}");
        let Err(BenchError::FarEndFailed(reason)) = results.1 else { panic!("{results:?}") };
        assert!(reason.contains("1473") && reason.contains("MTU"), "{reason}");
        assert!(results.2.unwrap().receiver.bytes > 0);
        assert!(matches!(echo, Err(BenchError::DatagramTooBig(1473))), "{echo:?}");
    });
}

#[test]
fn round_trips_are_measured() {
    let server = RunningServer::start();
    let spec = LatencySpec { count: 20, interval: Duration::from_millis(2), length: 64 };
    let report = run_latency(server.address, &spec, &StopFlag::new()).unwrap();
    assert_eq!((report.sent, report.received), (20, 20));
    assert!(report.min_ms <= report.median_ms && report.median_ms <= report.p99_ms);
    assert!(report.min_ms.unwrap() > 0.0);
}

#[test]
fn a_rate_search_ends_with_a_test_that_kept_to_the_target() {
    let server = RunningServer::start();
    let spec = TestSpec::udp(Duration::from_millis(50));
    let mut seen = 0;
    let report =
        search_rate(server.address, &spec, 100.0, &StopFlag::new(), &mut |_| seen += 1).unwrap();
    assert_eq!((seen, report.attempts.len()), (1, 1), "any loss is allowed: full speed is best");
    assert!(report.best.unwrap().loss_percent() <= 100.0);
}
