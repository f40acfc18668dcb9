//! The server's end: takes connections, matches streams to tests, runs the tests.
//!
//! A thread per connection reads the first line. A control connection's thread goes on to conduct
//! the test; a data connection is handed to the thread of its test and its own thread ends. Both
//! kinds are bounded in number, and every wait is bounded in time, so that neither garbage nor a
//! client that vanishes leaves anything behind.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use crossbeam_channel::{Sender, bounded};
use log::Level;
use socket2::{Domain, Socket, Type};

use super::conduct::{self, Job};
use super::error::{BenchError, is_transient};
use super::gather;
use super::latency;
use super::line::LineChannel;
use super::protocol::{
    Answer, Direction, Greeting, PROTOCOL_VERSION, Protocol, Signal, TestSpec, Token,
};
use super::stop::StopFlag;
use super::tcp;
use super::udp;
use crate::limits::{
    BENCH_GREETING_LEN_MAX, BENCH_GREETINGS_MAX, BENCH_LINE_LEN_MAX, BENCH_SETUP_TIMEOUT,
    BENCH_TESTS_MAX, BENCH_TICK,
};
use crate::sys::clock;
use crate::telemetry::line_budget::{LeftOut, LineBudget};

/// A bench server that listens and has not begun to serve.
#[derive(Debug)]
pub struct BenchServer {
    listener: TcpListener,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: StopFlag,
    /// Tests that wait for their streams.
    waiting: Mutex<HashMap<Token, Sender<(u16, TcpStream)>>>,
    /// Tests being set up or running.
    tests: Arc<AtomicUsize>,
    /// Tests that have come to an end, well or not.
    tests_done: AtomicUsize,
    /// Connections that have not said what they are for.
    greetings: Arc<AtomicUsize>,
    /// How many lines of the log those who connect may cause.
    lines: Mutex<LineBudget<IpAddr>>,
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, HashMap<Token, Sender<(u16, TcpStream)>>> {
        // The map is whole between any two statements, so a panicking thread cannot spoil it.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lines(&self) -> MutexGuard<'_, LineBudget<IpAddr>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Logs a line that `from` has caused, unless it has caused many.
    fn log(&self, level: Level, from: SocketAddr, what: fmt::Arguments<'_>) {
        if self.lines().admits(clock::now(), from.ip()) {
            log::log!(level, "{from}: {what}");
        }
    }

    /// Tells of lines that were left out, when it is time.
    fn tell_what_was_left_out(&self) {
        let left_out = self.lines().take_left_out(clock::now());
        if let Some(LeftOut { lines, most_about }) = left_out {
            let most_about = most_about.map_or_else(String::new, |it| format!(", mostly {it}"));
            log::info!("left out {lines} more lines about who connected{most_about}");
        }
    }
}

/// One of a bounded number of places, given back when dropped.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(taken: &Arc<AtomicUsize>, max: usize) -> Option<Self> {
        let before = taken.fetch_add(1, Ordering::Relaxed);
        let place = Self(Arc::clone(taken));
        (before < max).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl BenchServer {
    /// Listens on `address`. Raising `stop` ends [`BenchServer::serve`] and every test within a
    /// tick.
    pub fn bind(address: SocketAddr, stop: StopFlag) -> Result<Self, BenchError> {
        let listener = listen(address, false).map_err(BenchError::io("listening for tests"))?;
        Ok(Self { listener, shared: Arc::new(Shared { stop, ..Shared::default() }) })
    }

    /// Listens on every address of the machine, IPv6 and IPv4, at `port`.
    pub fn bind_any(port: u16, stop: StopFlag) -> Result<Self, BenchError> {
        let both = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        match listen(both, true) {
            Ok(listener) => {
                Ok(Self { listener, shared: Arc::new(Shared { stop, ..Shared::default() }) })
            }
            // A kernel without IPv6.
            Err(error) if error.kind() != std::io::ErrorKind::AddrInUse => {
                Self::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)), stop)
            }
            Err(error) => Err(BenchError::io("listening for tests")(error)),
        }
    }

    /// Where it listens.
    pub fn local_address(&self) -> Result<SocketAddr, BenchError> {
        self.listener.local_addr().map_err(BenchError::io("asking for the listening address"))
    }

    /// Takes connections until the stop flag is raised or, with `one_off`, one test is over.
    /// Returns once every test has ended.
    pub fn serve(&self, one_off: bool) -> Result<(), BenchError> {
        self.listener
            .set_nonblocking(true)
            .map_err(BenchError::io("setting up the listening socket"))?;
        let mut poll = mio::Poll::new().map_err(BenchError::io("making an event loop"))?;
        let mut events = mio::Events::with_capacity(8);
        let fd = std::os::fd::AsRawFd::as_raw_fd(&self.listener);
        poll.registry()
            .register(&mut mio::unix::SourceFd(&fd), mio::Token(0), mio::Interest::READABLE)
            .map_err(BenchError::io("watching the listening socket"))?;
        let is_over = || self.shared.stop.is_raised() || (one_off && self.is_done());
        while !is_over() {
            match poll.poll(&mut events, Some(BENCH_TICK)) {
                Err(error) if !is_transient(&error) => {
                    return Err(BenchError::io("waiting for connections")(error));
                }
                _ => self.accept_all(),
            }
            self.shared.tell_what_was_left_out();
        }
        self.shared.stop.raise();
        let deadline = clock::now() + BENCH_SETUP_TIMEOUT;
        while self.shared.tests.load(Ordering::Relaxed) > 0 && clock::now() < deadline {
            thread::sleep(BENCH_TICK / 10);
        }
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.shared.tests_done.load(Ordering::Relaxed) > 0
    }

    fn accept_all(&self) {
        loop {
            match self.listener.accept() {
                Ok((stream, from)) => self.admit(stream, from),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => {
                    if !is_transient(&error) {
                        // Out of descriptors, or a connection that is gone already. The pause
                        // keeps the former from spinning.
                        log::warn!("cannot accept a connection: {error}");
                        thread::sleep(BENCH_TICK / 10);
                    }
                    return;
                }
            }
        }
    }

    fn admit(&self, stream: TcpStream, from: SocketAddr) {
        let Some(place) = Place::take(&self.shared.greetings, BENCH_GREETINGS_MAX) else {
            self.shared.log(Level::Warn, from, format_args!("turned away, too many connections"));
            return;
        };
        let shared = Arc::clone(&self.shared);
        let greet = move || {
            if let Err(error) = handle(&shared, stream, from, place) {
                shared.log(Level::Info, from, format_args!("{error}"));
            }
        };
        if let Err(error) = thread::Builder::new().name("bench-greeting".to_owned()).spawn(greet) {
            log::warn!("cannot start a thread for {from}: {error}");
        }
    }
}

/// Reads the first line of a connection and does what it asks for.
fn handle(
    shared: &Arc<Shared>,
    stream: TcpStream,
    from: SocketAddr,
    place: Place,
) -> Result<(), BenchError> {
    stream.set_nonblocking(false).map_err(BenchError::io("setting up a connection"))?;
    let mut channel = LineChannel::new(stream, BENCH_GREETING_LEN_MAX)?;
    let deadline = clock::now() + BENCH_SETUP_TIMEOUT;
    let greeting = channel.receive_until(deadline, &shared.stop, "waiting for a greeting")?;
    drop(place);
    match greeting {
        Greeting::Data { token, stream } => {
            let waiting = shared.waiting().get(&token).cloned();
            let unknown = || BenchError::Protocol("a stream for no known test".to_owned());
            let test = waiting.ok_or_else(unknown)?;
            // The test may have ended meanwhile, or has had all the streams it asked for.
            test.try_send((stream, channel.into_stream()?)).map_err(|_| unknown())
        }
        Greeting::Control { version, test } => {
            channel.set_line_len_max(BENCH_LINE_LEN_MAX);
            let place = Place::take(&shared.tests, BENCH_TESTS_MAX);
            let refusal = refusal(version, &test, place.is_some());
            if let Some(reason) = refusal {
                return channel.send(&Answer::Refused { reason });
            }
            let result = serve_test(shared, &mut channel, &test, from);
            channel.close();
            shared.tests_done.fetch_add(1, Ordering::Relaxed);
            result
        }
    }
}

/// Why a test is not run, if it is not.
fn refusal(version: u32, test: &TestSpec, has_place: bool) -> Option<String> {
    if version != PROTOCOL_VERSION {
        return Some(format!("this server speaks version {PROTOCOL_VERSION}, not {version}"));
    }
    if !has_place {
        return Some(format!("{BENCH_TESTS_MAX} tests are running already; try again later"));
    }
    test.validate().err().map(|error| error.to_string())
}

fn serve_test(
    shared: &Arc<Shared>,
    control: &mut LineChannel,
    test: &TestSpec,
    from: SocketAddr,
) -> Result<(), BenchError> {
    shared.log(Level::Info, from, format_args!("runs a test: {test:?}"));
    let token = Token::random()?;
    let sends = test.direction == Direction::Reverse;
    let jobs = match test.protocol {
        Protocol::Tcp => gather_tcp(shared, control, test, token, sends),
        Protocol::Udp => gather::udp_ends(control, test, token, &shared.stop)
            .map(|ends| ends.into_iter().map(|(end, to)| udp::job(end, to, test, sends)).collect()),
        Protocol::Echo => gather::udp_ends(control, test, token, &shared.stop)
            .map(|ends| ends.into_iter().map(|(end, to)| latency::echo_job(end, to)).collect()),
    };
    let jobs = match jobs {
        Ok(jobs) => jobs,
        Err(error) => {
            control.send(&Signal::Failed { reason: error.to_string() })?;
            return Err(error);
        }
    };
    control.send(&Signal::Start)?;
    conduct::conduct(control, test, jobs, &shared.stop, &mut |_, _| {}).map(drop)
}

/// Makes the test known to data connections for as long as it waits for them.
fn gather_tcp(
    shared: &Shared,
    control: &mut LineChannel,
    test: &TestSpec,
    token: Token,
    sends: bool,
) -> Result<Vec<Job<'static>>, BenchError> {
    let (sender, arrivals) = bounded(usize::from(test.streams));
    shared.waiting().insert(token, sender);
    let streams = gather::tcp_streams(control, test, token, &arrivals, &shared.stop);
    shared.waiting().remove(&token);
    streams?.into_iter().map(|stream| tcp::job(stream, test, sends)).collect()
}

/// A listening socket; `both` takes IPv4 on an IPv6 wildcard address as well.
fn listen(address: SocketAddr, both: bool) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // A server that is started again need not wait for the old connections to time out.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(!both)?;
    }
    socket.bind(&address.into())?;
    socket.listen(128)?;
    Ok(socket.into())
}
