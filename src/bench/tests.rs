//! Both ends over loopback, and a server that meets clients it did not hope for.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::{BenchError, BenchServer, Direction, StopFlag, TestReport, TestSpec, run_test};

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
    let request = |version: u32, streams: u32| {
        format!(
            r#"{{"greeting":"control","version":{version},"test":{{"protocol":"tcp","direction":"forward","streams":{streams},"duration_ms":9,"length":9,"rate_bps":null,"gso":false}}}}"#
        )
    };
    for (version, streams, word) in [(1, 0, "streams"), (2, 1, "version")] {
        let answer = converse(server.address, &format!("{}\n", request(version, streams)));
        assert!(answer.contains("refused") && answer.contains(word), "{answer}");
    }
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

#[test]
fn a_client_that_vanishes_in_the_middle_frees_its_place() {
    let server = RunningServer::start();
    for _ in 0..crate::limits::BENCH_TESTS_MAX + 2 {
        let stop = StopFlag::new();
        let spec = TestSpec::tcp(Duration::from_secs(60));
        let mut intervals = 0;
        thread::scope(|scope| {
            let run =
                scope.spawn(|| run_test(server.address, &spec, &stop, &mut |_| intervals += 1));
            stop.raise();
            assert!(matches!(run.join().unwrap(), Err(BenchError::Interrupted)));
        });
    }
    // Places are given back within a tick or two.
    let deadline = crate::sys::clock::now() + Duration::from_secs(5);
    while matches!(server.run(&short()), Err(BenchError::Refused(_))) {
        assert!(crate::sys::clock::now() < deadline, "places are never given back");
    }
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
