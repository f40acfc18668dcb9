//! The origin: a page, and a source that does not end.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::v4;
use crate::demo::DemoError;
use crate::lab::Host;

/// What the page says.
pub(super) const PAGE: &[u8] = b"Hello from the origin.\n";
/// Bytes that are written at once.
const CHUNK_LEN: usize = 256 * 1024;
/// How long a client may be silent.
const STEP_WITHIN: Duration = Duration::from_secs(10);

/// What a connection is served with.
type Serve = fn(TcpStream) -> io::Result<()>;

/// Two listeners. Their threads end with the process, which ends when the demo has.
#[derive(Debug)]
pub(super) struct Origin {
    page: SocketAddrV4,
    source: SocketAddrV4,
}

impl Origin {
    /// Listens on `host`, which has `address`.
    pub(super) fn start(host: &Host, address: Ipv4Addr) -> Result<Self, DemoError> {
        Ok(Self { page: serve(host, address, page)?, source: serve(host, address, send_on)? })
    }

    pub(super) fn page(&self) -> SocketAddrV4 {
        self.page
    }

    pub(super) fn source(&self) -> SocketAddrV4 {
        self.source
    }
}

fn serve(host: &Host, address: Ipv4Addr, serve: Serve) -> Result<SocketAddrV4, DemoError> {
    let failed = || DemoError::io("start the origin");
    let listener = host.run(|| TcpListener::bind((address, 0)))?.map_err(failed())?;
    let listener = Arc::new(listener);
    let address = v4(listener.local_addr().map_err(failed())?)?;
    let accept = move || {
        for stream in listener.incoming().flatten() {
            // A client that has gone is no reason to stop.
            let served = thread::Builder::new().spawn(move || serve(stream));
            drop(served);
        }
    };
    thread::Builder::new().name("demo-origin".to_owned()).spawn(accept).map_err(failed())?;
    Ok(address)
}

fn page(mut stream: TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(STEP_WITHIN))?;
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && head.len() < CHUNK_LEN {
        stream.read_exact(&mut byte)?;
        head.extend(byte);
    }
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", PAGE.len());
    stream.write_all(answer.as_bytes())?;
    stream.write_all(PAGE)
}

fn send_on(mut stream: TcpStream) -> io::Result<()> {
    let chunk = vec![0x5a; CHUNK_LEN];
    loop {
        stream.write_all(&chunk)?;
    }
}
