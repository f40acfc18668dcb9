//! The client's end: asks for a test, opens its streams, runs it and puts the report together.

use std::net::{SocketAddr, TcpStream};

use super::conduct::{self, Job};
use super::error::{BenchError, is_transient};
use super::line::LineChannel;
use super::protocol::{
    Answer, Direction, Greeting, PROTOCOL_VERSION, Protocol, Signal, TestSpec, Token,
};
use super::report::{Interval, TestReport};
use super::stop::StopFlag;
use super::tcp;
use crate::limits::{BENCH_LINE_LEN_MAX, BENCH_SETUP_TIMEOUT};
use crate::sys::clock;

/// Runs one test against the bench server at `server`. `on_interval` is called once a second with
/// what the receiver has seen.
pub fn run_test(
    server: SocketAddr,
    spec: &TestSpec,
    stop: &StopFlag,
    on_interval: &mut dyn FnMut(&Interval),
) -> Result<TestReport, BenchError> {
    spec.validate()?;
    let mut request = Request::open(server, spec, stop)?;
    let sends = spec.direction == Direction::Forward;
    let jobs = match spec.protocol {
        Protocol::Tcp => request.open_tcp_streams(spec, sends, stop)?,
        Protocol::Udp | Protocol::Echo => Vec::new(),
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
struct Request {
    server: SocketAddr,
    control: LineChannel,
    token: Token,
    udp_ports: Vec<u16>,
}

impl Request {
    fn open(server: SocketAddr, spec: &TestSpec, stop: &StopFlag) -> Result<Self, BenchError> {
        let mut control = LineChannel::new(connect(server)?, BENCH_LINE_LEN_MAX)?;
        control.send(&Greeting::Control { version: PROTOCOL_VERSION, test: spec.clone() })?;
        let deadline = clock::now() + BENCH_SETUP_TIMEOUT;
        match control.receive_until(deadline, stop, "waiting for the server's answer")? {
            Answer::Ready { token, udp_ports } => Ok(Self { server, control, token, udp_ports }),
            Answer::Refused { reason } => Err(BenchError::Refused(reason)),
        }
    }

    /// Opens every stream and waits for the start.
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
        _ if is_transient(&error) => BenchError::TimedOut("connecting to the bench server"),
        _ => BenchError::Io { action: "connecting to the bench server", source: error },
    })
}
