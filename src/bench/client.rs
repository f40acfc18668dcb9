//! The client's end: asks for a test, opens its streams, runs it and puts the report together.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use super::conduct::{self, Job};
use super::error::{BenchError, CONNECTING, is_transient};
use super::line::LineChannel;
use super::protocol::{
    Answer, Direction, Greeting, PROTOCOL_VERSION, Protocol, Signal, TestSpec, Token,
};
use super::report::{Interval, TestReport};
use super::stop::StopFlag;
use super::tcp;
use super::udp::{self, UdpEnd};
use crate::limits::{BENCH_LINE_LEN_MAX, BENCH_SETUP_TIMEOUT};
use crate::sys::clock;
use crate::sys::udp::SendTarget;

/// How often a UDP stream is introduced to the server until it has answered.
const HELLO_EVERY: Duration = Duration::from_millis(20);

/// Runs one test against the bench server at `server`. `on_interval` is called once a second with
/// what the receiver has seen.
pub fn run_test(
    server: SocketAddr,
    spec: &TestSpec,
    stop: &StopFlag,
    on_interval: &mut dyn FnMut(&Interval),
) -> Result<TestReport, BenchError> {
    spec.validate()?;
    let sends = spec.direction == Direction::Forward;
    let mut request = Request::open(server, spec, stop)?;
    let jobs = match spec.protocol {
        Protocol::Tcp => request.open_tcp_streams(spec, sends, stop)?,
        Protocol::Udp => {
            let ends = request.open_udp_ends(stop)?;
            ends.into_iter().map(|(end, target)| udp::job(end, target, spec, sends)).collect()
        }
        Protocol::Echo => {
            let text = "an echo test is a latency test".to_owned();
            return Err(BenchError::InvalidTest(text));
        }
    };
    let mut seen = |interval: &Interval, own: bool| {
        if own != sends {
            on_interval(interval);
        }
    };
    let outcome = conduct::conduct(&mut request.control, spec, jobs, stop, &mut seen)?;
    let server = server.to_string();
    Ok(if sends {
        TestReport::new(server, spec.clone(), &outcome.own, outcome.far, outcome.far_intervals)
    } else {
        TestReport::new(server, spec.clone(), &outcome.far, outcome.own, outcome.own_intervals)
    })
}

/// A test that the server is ready for.
pub(super) struct Request {
    server: SocketAddr,
    pub(super) control: LineChannel,
    token: Token,
    udp_ports: Vec<u16>,
}

impl Request {
    /// Asks for the test and waits for the answer.
    pub(super) fn open(
        server: SocketAddr,
        spec: &TestSpec,
        stop: &StopFlag,
    ) -> Result<Self, BenchError> {
        let mut control = LineChannel::new(connect(server)?, BENCH_LINE_LEN_MAX)?;
        control.send(&Greeting::Control { version: PROTOCOL_VERSION, test: spec.clone() })?;
        let deadline = clock::now() + BENCH_SETUP_TIMEOUT;
        match control.receive_until(deadline, stop, "waiting for the server's answer")? {
            Answer::Ready { token, udp_ports } => {
                let expected = if spec.protocol == Protocol::Tcp { 0 } else { spec.streams };
                if udp_ports.len() != usize::from(expected) {
                    let text = "the server names another number of UDP ports".to_owned();
                    return Err(BenchError::Protocol(text));
                }
                Ok(Self { server, control, token, udp_ports })
            }
            Answer::Refused { reason } => Err(BenchError::Refused(reason)),
        }
    }

    /// Opens every TCP stream and waits for the start.
    fn open_tcp_streams(
        &mut self,
        spec: &TestSpec,
        sends: bool,
        stop: &StopFlag,
    ) -> Result<Vec<Job<'static>>, BenchError> {
        let mut jobs = Vec::with_capacity(usize::from(spec.streams));
        for stream in 0..spec.streams {
            let mut data = LineChannel::new(connect(self.server)?, BENCH_LINE_LEN_MAX)?;
            data.send(&Greeting::Data { token: self.token, stream })?;
            jobs.push(tcp::job(data.into_stream()?, spec, sends)?);
        }
        self.await_start(stop)?;
        Ok(jobs)
    }

    /// Opens every UDP stream, introduces it to the server until the server has heard them all,
    /// and returns each with the server's address of it.
    pub(super) fn open_udp_ends(
        &mut self,
        stop: &StopFlag,
    ) -> Result<Vec<(UdpEnd, SendTarget)>, BenchError> {
        let any: IpAddr = match self.server {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let mut ends = Vec::with_capacity(self.udp_ports.len());
        for &port in &self.udp_ports {
            let mut remote = self.server;
            remote.set_port(port);
            let end = UdpEnd::bind(any, self.token.datagram_id())?;
            ends.push((end, SendTarget { remote, local: None }));
        }
        let deadline = clock::now() + BENCH_SETUP_TIMEOUT;
        loop {
            for (end, target) in &mut ends {
                end.send_hello(target);
            }
            if stop.is_raised() {
                return Err(BenchError::Interrupted);
            }
            if clock::now() >= deadline {
                return Err(BenchError::TimedOut(
                    "waiting for the server to see the UDP streams: is UDP blocked on the way?",
                ));
            }
            match self.control.receive(HELLO_EVERY)? {
                None => {}
                Some(Signal::Start) => return Ok(ends),
                Some(Signal::Failed { reason }) => return Err(BenchError::FarEndFailed(reason)),
            }
        }
    }

    fn await_start(&mut self, stop: &StopFlag) -> Result<(), BenchError> {
        let deadline = clock::now() + BENCH_SETUP_TIMEOUT;
        match self.control.receive_until(deadline, stop, "waiting for the start of the test")? {
            Signal::Start => Ok(()),
            Signal::Failed { reason } => Err(BenchError::FarEndFailed(reason)),
        }
    }
}

fn connect(server: SocketAddr) -> Result<TcpStream, BenchError> {
    TcpStream::connect_timeout(&server, BENCH_SETUP_TIMEOUT).map_err(|error| match error.kind() {
        std::io::ErrorKind::ConnectionRefused => BenchError::NotRunning(server),
        _ if is_transient(&error) => BenchError::TimedOut(CONNECTING),
        _ => BenchError::Io { action: CONNECTING, source: error },
    })
}
