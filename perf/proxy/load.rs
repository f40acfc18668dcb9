//! The clients: what they ask of a proxy, and what they see of it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, SocketAddrV4, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use corelane::lab::wait_until;
use corelane::sys::clock;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::Failure;
use super::origin::{CHUNK_LEN, Origins, PAGE_LEN, send_on, send_over_a_line};

/// How long one read, write or connection may take.
const STEP_WITHIN: Duration = Duration::from_secs(10);
/// Load runs for so long before it is measured.
const WARM_UP: Duration = Duration::from_millis(300);
/// Clients that come again and again at the same time.
const COMERS: usize = 16;
/// Connections over which requests are spread.
const REQUESTERS: u32 = 10;
/// Requests per second, all connections together.
const REQUESTS_PER_SECOND: u32 = 1000;
const REQUEST_LEN: usize = 64;
/// How long it may take until all idle connections stand.
const IDLE_WITHIN: Duration = Duration::from_secs(60);
/// Bytes of the longest answer to CONNECT.
const ANSWER_LEN_MAX: usize = 4096;

/// The way to an origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Road {
    Direct,
    /// SOCKS5 without authentication (RFC 1928).
    Socks5(SocketAddr),
    /// HTTP's CONNECT (RFC 9110 section 9.3.6).
    Connect(SocketAddr),
    /// A proxy that is sent requests rather than asked for a tunnel (RFC 9112 section 3.2.2).
    Forward(SocketAddr),
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// From the origin to the client.
    Down,
    Up,
    /// The same, where each sender has a line that limits it.
    DownFromLines,
    UpFromLines,
}

/// What happened while it was looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    /// Bytes, or connections.
    pub(crate) count: u64,
    pub(crate) seconds: f64,
    /// What the proxy's processes used.
    pub(crate) cpu_seconds: f64,
}

/// A connection that moves bytes.
struct Busy {
    stream: Box<dyn Both>,
    /// What carries it.
    socket: TcpStream,
}

trait Both: Read + Write + Send {}

impl<T: Read + Write + Send> Both for T {}

/// CPU time in seconds that the proxy has used.
pub(crate) type CpuClock<'a> = &'a dyn Fn() -> Result<f64, Failure>;

impl Road {
    /// A connection to `target`, which takes part in nothing yet; where requests are forwarded, to
    /// the proxy.
    pub(crate) fn reach(self, target: SocketAddr) -> io::Result<TcpStream> {
        let SocketAddr::V4(target_v4) = target else {
            return Err(io::Error::other("origins have IPv4 addresses"));
        };
        match self {
            Self::Direct => connect(target),
            Self::Forward(proxy) => connect(proxy),
            Self::Socks5(proxy) => {
                let mut stream = connect(proxy)?;
                ask_by_socks5(&mut stream, target_v4)?;
                Ok(stream)
            }
            Self::Connect(proxy) => {
                let mut stream = connect(proxy)?;
                ask_by_connect(&mut stream, target_v4)?;
                Ok(stream)
            }
        }
    }
}

impl Busy {
    /// A connection to `target`; with `tls`, the proxy is asked by SOCKS5 inside TLS.
    fn open(road: Road, tls: Option<&Arc<ClientConfig>>, target: SocketAddr) -> io::Result<Self> {
        match (road, tls, target) {
            (Road::Socks5(proxy), Some(tls), SocketAddr::V4(target)) => {
                let socket = connect(proxy)?;
                let client = ClientConnection::new(Arc::clone(tls), proxy.ip().into());
                let client = client.map_err(io::Error::other)?;
                let mut stream = StreamOwned::new(client, socket.try_clone()?);
                ask_by_socks5(&mut stream, target)?;
                Ok(Self { stream: Box::new(stream), socket })
            }
            _ => {
                let socket = road.reach(target)?;
                Ok(Self { stream: Box::new(socket.try_clone()?), socket })
            }
        }
    }
}

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(STEP_WITHIN))?;
    stream.set_write_timeout(Some(STEP_WITHIN))?;
    Ok(stream)
}

/// Step by step, since not every proxy takes greeting and request at once.
fn ask_by_socks5(stream: &mut (impl Read + Write), target: SocketAddrV4) -> io::Result<()> {
    stream.write_all(&[5, 1, 0])?;
    let mut choice = [0; 2];
    stream.read_exact(&mut choice)?;
    if choice != [5, 0] {
        return Err(io::Error::other(format!("SOCKS5 method {choice:?}")));
    }
    let mut request = vec![5, 1, 0, 1];
    request.extend_from_slice(&target.ip().octets());
    request.extend_from_slice(&target.port().to_be_bytes());
    stream.write_all(&request)?;
    let mut reply = [0; 10];
    stream.read_exact(&mut reply)?;
    match reply {
        [5, 0, _, 1, ..] => Ok(()),
        _ => Err(io::Error::other(format!("SOCKS5 reply {reply:?}"))),
    }
}

/// Reads byte by byte to the end of the head, since what follows is the origin's.
fn ask_by_connect(stream: &mut (impl Read + Write), target: SocketAddrV4) -> io::Result<()> {
    let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        answer.extend(byte);
        if answer.len() > ANSWER_LEN_MAX {
            return Err(io::Error::other("the answer to CONNECT does not end"));
        }
    }
    let is_done = answer.starts_with(b"HTTP/1.") && answer.get(9..10) == Some(b"2");
    let text = String::from_utf8_lossy(&answer);
    is_done.then_some(()).ok_or_else(|| io::Error::other(format!("CONNECT: {text}")))
}

/// Looks at a load that is running.
fn look(lasts: Duration, cpu: CpuClock<'_>, count: impl Fn() -> u64) -> Result<Span, Failure> {
    thread::sleep(WARM_UP);
    let (begun, cpu_before, before) = (clock::now(), cpu()?, count());
    thread::sleep(lasts);
    let (count, seconds) = (count() - before, (clock::now() - begun).as_secs_f64());
    Ok(Span { count, seconds, cpu_seconds: cpu()? - cpu_before })
}

/// Bytes that arrive over `streams` connections, which with `tls` begin inside TLS.
pub(crate) fn bulk(
    (road, tls): (Road, Option<&Arc<ClientConfig>>),
    origins: &Origins,
    way: Way,
    streams: usize,
    lasts: Duration,
    cpu: CpuClock<'_>,
) -> Result<Span, Failure> {
    let target = match way {
        Way::Down => origins.source,
        Way::DownFromLines => origins.lined_source,
        Way::Up | Way::UpFromLines => origins.sink,
    };
    let connections: Vec<_> =
        (0..streams).map(|_| Busy::open(road, tls, target)).collect::<io::Result<_>>()?;
    let read = AtomicU64::new(0);
    let count = || match way {
        Way::Down | Way::DownFromLines => read.load(Ordering::Relaxed),
        Way::Up | Way::UpFromLines => origins.sunk(),
    };
    let span = thread::scope(|scope| {
        let mut sockets = Vec::new();
        for Busy { mut stream, socket } in connections {
            sockets.push(socket);
            let read = &read;
            scope.spawn(move || match way {
                Way::Down | Way::DownFromLines => read_on(&mut stream, read),
                Way::Up => send_on(&mut stream),
                Way::UpFromLines => send_over_a_line(&mut stream),
            });
        }
        let span = look(lasts, cpu, count);
        for socket in &sockets {
            // It ends the thread's next step, and fails only if the stream has ended before.
            let _ = socket.shutdown(std::net::Shutdown::Both);
        }
        span
    })?;
    if span.count == 0 { Err("nothing arrived".into()) } else { Ok(span) }
}

fn read_on(stream: &mut impl Read, count: &AtomicU64) {
    let mut buffer = vec![0; CHUNK_LEN];
    while let Ok(len @ 1..) = stream.read(&mut buffer) {
        count.fetch_add(len as u64, Ordering::Relaxed);
    }
}

/// Connections that are made, greeted and closed, one after the other by each of the comers.
pub(crate) fn connections(
    road: Road,
    origins: &Origins,
    lasts: Duration,
    cpu: CpuClock<'_>,
) -> Result<Span, Failure> {
    let (done, over) = (AtomicU64::new(0), AtomicBool::new(false));
    let come = || -> io::Result<()> {
        while !over.load(Ordering::Relaxed) {
            let mut greeting = Vec::new();
            road.reach(origins.greeter)?.read_to_end(&mut greeting)?;
            if greeting != b"!" {
                return Err(io::Error::other(format!("the greeting is {greeting:?}")));
            }
            done.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    };
    keep_coming(come, &done, &over, lasts, cpu)
}

/// Pages that are fetched by HTTP, one after the other by each of the comers, over connections that
/// are kept for as long as the other end keeps them.
pub(crate) fn requests(
    road: Road,
    origins: &Origins,
    lasts: Duration,
    cpu: CpuClock<'_>,
) -> Result<Span, Failure> {
    let (done, over) = (AtomicU64::new(0), AtomicBool::new(false));
    let place = origins.web;
    let prefix = if road == Road::Direct { String::new() } else { format!("http://{place}") };
    let request = format!("GET {prefix}/ HTTP/1.1\r\nHost: {place}\r\n\r\n");
    let come = || -> io::Result<()> {
        let mut kept: Option<BufReader<TcpStream>> = None;
        while !over.load(Ordering::Relaxed) {
            let is_fresh = kept.is_none();
            let mut stream = match kept.take() {
                Some(stream) => stream,
                None => BufReader::new(road.reach(place)?),
            };
            let sent = stream.get_mut().write_all(request.as_bytes());
            match sent.and_then(|()| read_page(&mut stream)) {
                Ok(stays) => {
                    done.fetch_add(1, Ordering::Relaxed);
                    kept = stays.then_some(stream);
                }
                Err(error) if is_fresh => return Err(error),
                // It was closed meanwhile, which the other end may do.
                Err(_) => {}
            }
        }
        Ok(())
    };
    keep_coming(come, &done, &over, lasts, cpu)
}

/// Has all comers `come` until `over` is set, and looks for as long as it lasts at how often one is
/// `done`.
fn keep_coming(
    come: impl Fn() -> io::Result<()> + Sync,
    done: &AtomicU64,
    over: &AtomicBool,
    lasts: Duration,
    cpu: CpuClock<'_>,
) -> Result<Span, Failure> {
    thread::scope(|scope| {
        let comers: Vec<_> = (0..COMERS).map(|_| scope.spawn(&come)).collect();
        let span = look(lasts, cpu, || done.load(Ordering::Relaxed));
        over.store(true, Ordering::Relaxed);
        for comer in comers {
            comer.join().map_err(|_| "a client panicked")??;
        }
        span
    })
}

/// Reads an answer to its end. Returns whether the connection stays.
fn read_page(stream: &mut impl BufRead) -> io::Result<bool> {
    let (mut line, mut len) = (String::new(), None);
    if stream.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut stays = line.starts_with("HTTP/1.1");
    if line.split(' ').nth(1) != Some("200") {
        return Err(io::Error::other(format!("the answer is {}", line.trim_end())));
    }
    loop {
        line.clear();
        stream.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => len = value.trim().parse::<usize>().ok(),
            "connection" => stays = !value.trim().eq_ignore_ascii_case("close"),
            _ => {}
        }
    }
    let mut page = [0; PAGE_LEN];
    stream.read_exact(&mut page)?;
    let is_whole = len.is_none_or(|len| len == PAGE_LEN) && page == [b'.'; PAGE_LEN];
    let stays = stays && len.is_some();
    is_whole.then_some(stays).ok_or_else(|| io::Error::other("the page is not the origin's"))
}

/// Microseconds from a request to its answer, over connections that stay open.
pub(crate) fn round_trips(
    road: Road,
    origins: &Origins,
    lasts: Duration,
) -> Result<Vec<f64>, Failure> {
    let interval = Duration::from_secs(1) * REQUESTERS / REQUESTS_PER_SECOND;
    let each = lasts.div_duration_f64(interval).ceil() as u32;
    let begin = clock::now() + WARM_UP;
    let request = |number: u32| -> io::Result<Vec<f64>> {
        let mut stream = road.reach(origins.echo)?;
        let mut due = begin + interval * number / REQUESTERS;
        let (mut took, mut message) = (Vec::new(), [0x2a; REQUEST_LEN]);
        for _ in 0..each {
            thread::sleep(due.saturating_duration_since(clock::now()));
            let sent = clock::now();
            stream.write_all(&message)?;
            stream.read_exact(&mut message)?;
            took.push((clock::now() - sent).as_secs_f64() * 1e6);
            due += interval;
        }
        Ok(took)
    };
    thread::scope(|scope| {
        let requesters: Vec<_> =
            (0..REQUESTERS).map(|number| scope.spawn(move || request(number))).collect();
        let mut all = Vec::new();
        for requester in requesters {
            all.extend(requester.join().map_err(|_| "a client panicked")??);
        }
        Ok(all)
    })
}

/// Bytes of memory that the proxy has more when `count` connections stand and are silent.
pub(crate) fn idle(
    road: Road,
    origins: &Origins,
    count: usize,
    memory: &dyn Fn() -> Result<u64, Failure>,
) -> Result<u64, Failure> {
    let before = memory()?;
    let (next, deadline) = (AtomicUsize::new(0), clock::now() + IDLE_WITHIN);
    let open = || -> io::Result<Vec<TcpStream>> {
        let mut open = Vec::new();
        while next.fetch_add(1, Ordering::Relaxed) < count && clock::now() < deadline {
            open.push(road.reach(origins.keeper)?);
        }
        Ok(open)
    };
    let opened: Vec<_> = thread::scope(|scope| {
        let openers: Vec<_> = (0..COMERS).map(|_| scope.spawn(open)).collect();
        openers.into_iter().map(|opener| opener.join()).collect()
    });
    let outcome = (|| {
        let mut streams = Vec::new();
        for part in opened {
            streams.extend(part.map_err(|_| "a client panicked")??);
        }
        if streams.len() < count {
            let held = streams.len();
            return Err(format!("only {held} connections within {IDLE_WITHIN:?}").into());
        }
        wait_until(STEP_WITHIN, "the origin to have all connections", || {
            (origins.kept() >= count).then_some(())
        })?;
        Ok(memory()?.saturating_sub(before))
    })();
    origins.let_go();
    outcome
}

#[cfg(test)]
mod tests {
    use super::{PAGE_LEN, ask_by_connect, ask_by_socks5, read_page};
    use std::io::{self, Cursor, Read, Write};
    use std::net::SocketAddrV4;

    /// A proxy that answers what it was told to.
    struct Proxy {
        answers: Cursor<&'static [u8]>,
        asked: Vec<u8>,
    }

    impl Proxy {
        fn new(answers: &'static [u8]) -> Self {
            Self { answers: Cursor::new(answers), asked: Vec::new() }
        }

        fn rest(self) -> Vec<u8> {
            self.answers.bytes().collect::<io::Result<_>>().unwrap()
        }
    }

    impl Read for Proxy {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.answers.read(buffer)
        }
    }

    impl Write for Proxy {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.asked.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn target() -> SocketAddrV4 {
        "127.0.0.1:258".parse().unwrap()
    }

    #[test]
    fn socks5_is_asked_and_no_byte_of_the_origin_is_read() {
        let mut proxy = Proxy::new(b"\x05\x00\x05\x00\x00\x01abcdef!");
        ask_by_socks5(&mut proxy, target()).unwrap();
        assert_eq!(proxy.asked, b"\x05\x01\x00\x05\x01\x00\x01\x7f\x00\x00\x01\x01\x02");
        assert_eq!(proxy.rest(), b"!");
        for refusal in [&b"\x05\xff"[..], b"\x05\x00\x05\x05\x00\x01abcdef"] {
            ask_by_socks5(&mut Proxy::new(refusal), target()).unwrap_err();
        }
    }

    #[test]
    fn connect_is_asked_and_no_byte_of_the_origin_is_read() {
        let mut proxy = Proxy::new(b"HTTP/1.0 200 OK\r\nVia: x\r\n\r\n!");
        ask_by_connect(&mut proxy, target()).unwrap();
        assert!(proxy.asked.starts_with(b"CONNECT 127.0.0.1:258 HTTP/1.1\r\nHost: "));
        assert_eq!(proxy.rest(), b"!");
        let refusals = [&b"HTTP/1.1 403 No\r\n\r\n"[..], b"HTTP/1.1 200 OK\r\n", b"2"];
        for refusal in refusals {
            ask_by_connect(&mut Proxy::new(refusal), target()).unwrap_err();
        }
    }

    #[test]
    fn a_page_is_read_to_its_end_and_no_further() {
        let page = ".".repeat(PAGE_LEN);
        for (head, stays) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 1024\r\n\r\n", true),
            ("HTTP/1.1 200 OK\r\nConnection: close\r\ncontent-length: 1024\r\n\r\n", false),
            ("HTTP/1.0 200 OK\r\nContent-Length: 1024\r\n\r\n", false),
            ("HTTP/1.1 200 OK\r\n\r\n", false),
        ] {
            let mut answer = Cursor::new(format!("{head}{page}!"));
            assert_eq!(read_page(&mut answer).unwrap(), stays, "{head}");
            assert_eq!(answer.bytes().count(), 1, "{head}");
        }
        for answer in [
            format!("HTTP/1.1 502 Bad\r\nContent-Length: 1024\r\n\r\n{page}"),
            format!("HTTP/1.1 200 OK\r\nContent-Length: 1023\r\n\r\n{page}"),
            format!("HTTP/1.1 200 OK\r\nContent-Length: 1024\r\n\r\n!{page}"),
            String::new(),
        ] {
            read_page(&mut Cursor::new(&answer)).unwrap_err();
        }
    }
}
