//! The origin: a page, and one that does not end.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use crate::demo::DemoError;
use crate::lab::Host;

/// What the page says.
pub(super) const PAGE: &[u8] = b"Hello from the origin.\n";
/// Where the page is that does not end.
pub(super) const ENDLESS: &str = "/endless";
/// Bytes that are written at once.
const CHUNK_LEN: usize = 256 * 1024;
/// How long a client may be silent.
const STEP_WITHIN: Duration = Duration::from_secs(10);

/// Listens on `host`, which has `address`, and serves HTTP. Its threads end with the process, which
/// ends when the demo has.
pub(super) fn start(host: &Host, address: Ipv4Addr) -> Result<SocketAddrV4, DemoError> {
    let failed = || DemoError::io("start the origin");
    let listener = host.run(|| TcpListener::bind((address, 0)))?.map_err(failed())?;
    let port = listener.local_addr().map_err(failed())?.port();
    let accept = move || {
        for stream in listener.incoming().flatten() {
            // A client that has gone is no reason to stop.
            drop(thread::Builder::new().spawn(move || serve(stream)));
        }
    };
    thread::Builder::new().name("demo-origin".to_owned()).spawn(accept).map_err(failed())?;
    Ok(SocketAddrV4::new(address, port))
}

fn serve(mut stream: TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(STEP_WITHIN))?;
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && head.len() < CHUNK_LEN {
        stream.read_exact(&mut byte)?;
        head.extend(byte);
    }
    if !head.starts_with(format!("GET {ENDLESS} ").as_bytes()) {
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", PAGE.len());
        stream.write_all(answer.as_bytes())?;
        return stream.write_all(PAGE);
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")?;
    let chunk = vec![0x5a; CHUNK_LEN];
    loop {
        stream.write_all(&chunk)?;
    }
}
