//! Where connections lead: listeners that serve each in one way, all on this thread's host.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use corelane::sys::clock;

/// Bytes that are written or read at once.
pub(crate) const CHUNK_LEN: usize = 256 * 1024;
/// Bytes of the page that is fetched by HTTP.
pub(crate) const PAGE_LEN: usize = 1024;
/// Bytes a second that a line takes: one Gbit/s.
const LINE_RATE: f64 = 125e6;
/// Bytes that a line takes at once.
const LINE_CHUNK_LEN: usize = 64 * 1024;
/// How far behind a sender may be and still make up for it, as by a queue before its line.
const LINE_QUEUE: Duration = Duration::from_millis(20);
/// Threads that greet.
const GREETERS: usize = 2;

/// The listeners, which serve until the process ends.
pub(crate) struct Origins {
    /// Sends as fast as it can.
    pub(crate) source: SocketAddr,
    /// Sends as fast as a line takes it.
    pub(crate) lined_source: SocketAddr,
    /// Reads as fast as it can.
    pub(crate) sink: SocketAddr,
    /// Sends one byte and closes.
    pub(crate) greeter: SocketAddr,
    /// Sends back what it gets.
    pub(crate) echo: SocketAddr,
    /// Speaks HTTP/1.1 with connections that stay, and has one page.
    pub(crate) web: SocketAddr,
    /// Says nothing and keeps the connection, until [`Origins::let_go`].
    pub(crate) keeper: SocketAddr,
    sunk: Arc<AtomicU64>,
    kept: Arc<Mutex<Vec<TcpStream>>>,
}

impl Origins {
    pub(crate) fn open() -> io::Result<Self> {
        let (sunk, kept) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(Vec::new())));
        let (sink_count, keeper_kept) = (Arc::clone(&sunk), Arc::clone(&kept));
        Ok(Self {
            source: serve_each(|mut stream| send_on(&mut stream))?,
            lined_source: serve_each(|mut stream| send_over_a_line(&mut stream))?,
            sink: serve_each(move |stream| swallow(stream, &sink_count))?,
            greeter: serve(GREETERS, |mut stream| drop(stream.write_all(b"!")))?,
            echo: serve_each(send_back)?,
            web: serve_each(|stream| drop(answer_requests(stream)))?,
            keeper: serve(1, move |stream| lock(&keeper_kept).push(stream))?,
            sunk,
            kept,
        })
    }

    /// Bytes that the sink has read so far.
    pub(crate) fn sunk(&self) -> u64 {
        self.sunk.load(Ordering::Relaxed)
    }

    /// Connections that the keeper keeps.
    pub(crate) fn kept(&self) -> usize {
        lock(&self.kept).len()
    }

    /// Closes what the keeper keeps.
    pub(crate) fn let_go(&self) {
        lock(&self.kept).clear();
    }
}

fn lock(kept: &Mutex<Vec<TcpStream>>) -> std::sync::MutexGuard<'_, Vec<TcpStream>> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A listener whose connections `threads` threads serve, one after the other.
fn serve(
    threads: usize,
    serve: impl Fn(TcpStream) + Clone + Send + 'static,
) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    for _ in 0..threads {
        let (listener, serve) = (listener.try_clone()?, serve.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                serve(stream);
            }
        });
    }
    Ok(address)
}

/// A listener whose connections have a thread each.
fn serve_each(work: impl Fn(TcpStream) + Clone + Send + 'static) -> io::Result<SocketAddr> {
    serve(1, move |stream| {
        let work = work.clone();
        thread::spawn(move || work(stream));
    })
}

/// Writes as fast as it can, until that fails.
pub(crate) fn send_on(stream: &mut impl Write) {
    let chunk = vec![0x5a; CHUNK_LEN];
    while stream.write_all(&chunk).is_ok() {}
}

/// Writes as fast as a line of [`LINE_RATE`] takes it, until that fails.
pub(crate) fn send_over_a_line(stream: &mut impl Write) {
    let chunk = vec![0x5a; LINE_CHUNK_LEN];
    let each = Duration::from_secs_f64(LINE_CHUNK_LEN as f64 / LINE_RATE);
    let mut due = clock::now();
    while stream.write_all(&chunk).is_ok() {
        let now = clock::now();
        due = (due + each).max(now - LINE_QUEUE);
        thread::sleep(due.saturating_duration_since(now));
    }
}

fn swallow(mut stream: TcpStream, count: &AtomicU64) {
    let mut buffer = vec![0; CHUNK_LEN];
    while let Ok(len @ 1..) = stream.read(&mut buffer) {
        count.fetch_add(len as u64, Ordering::Relaxed);
    }
}

fn send_back(mut stream: TcpStream) {
    // Without it, answers may wait for acknowledgements.
    let mut buffer = [0; 4096];
    let mut go_on = stream.set_nodelay(true).is_ok();
    while go_on {
        go_on = match stream.read(&mut buffer) {
            Ok(len @ 1..) => stream.write_all(&buffer[..len]).is_ok(),
            _ => false,
        };
    }
}

fn answer_requests(stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {PAGE_LEN}\r\n\r\n").into_bytes();
    answer.resize(answer.len() + PAGE_LEN, b'.');
    let (mut reader, mut line) = (BufReader::new(stream), String::new());
    while reader.read_line(&mut line)? > 0 {
        // An empty line ends the head, and the requests have no bodies.
        if line == "\r\n" {
            reader.get_mut().write_all(&answer)?;
        }
        line.clear();
    }
    Ok(())
}
