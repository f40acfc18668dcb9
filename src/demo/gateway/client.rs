//! A client as a library would write it: it speaks each protocol byte by byte and shares nothing
//! with the gateway.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, SocketAddrV4, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::origin::ENDLESS;
use crate::bench::StopFlag;
use crate::sys::clock;

/// How long one step may take.
const STEP_WITHIN: Duration = Duration::from_secs(10);
/// Bytes of the longest answer to CONNECT, and of the longest page.
const ANSWER_LEN_MAX: usize = 4096;
/// Bytes that are read at once.
const CHUNK_LEN: usize = 256 * 1024;

/// How a client asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Socks5,
    Socks4a,
    Connect,
    /// A request that the gateway forwards, without a tunnel.
    Forward,
    /// SOCKS5 inside TLS.
    Tls,
}

/// The gateway, as its clients know it.
#[derive(Debug)]
pub(super) struct Gateway {
    pub(super) plain: SocketAddrV4,
    pub(super) tls: SocketAddrV4,
    /// Trusts the gateway's certificate and no other.
    pub(super) trust: Arc<ClientConfig>,
}

/// A connection, whatever it is inside of.
pub(super) trait Both: Read + Write + Send {}

impl<T: Read + Write + Send> Both for T {}

/// How a client gets to an origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Road {
    Direct,
    Through(Protocol),
}

/// Why it does not get there.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    /// The gateway does not do it, and says why in this code.
    #[error("refused ({0})")]
    Refused(String),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Road {
    /// The direct one first, with which others are compared.
    pub(super) const ALL: [Self; 6] = [
        Self::Direct,
        Self::Through(Protocol::Socks5),
        Self::Through(Protocol::Socks4a),
        Self::Through(Protocol::Connect),
        Self::Through(Protocol::Forward),
        Self::Through(Protocol::Tls),
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Through(Protocol::Socks5) => "SOCKS5",
            Self::Through(Protocol::Socks4a) => "SOCKS4a",
            Self::Through(Protocol::Connect) => "HTTP CONNECT",
            Self::Through(Protocol::Forward) => "HTTP forwarded",
            Self::Through(Protocol::Tls) => "SOCKS5 in TLS",
        }
    }
}

/// A connection to `target`, or to a gateway that forwards to it.
pub(super) fn reach(
    road: Road,
    gateway: &Gateway,
    target: SocketAddrV4,
) -> Result<Box<dyn Both>, AskError> {
    let Road::Through(protocol) = road else { return Ok(Box::new(connect(target)?)) };
    if protocol == Protocol::Tls {
        let name = (*gateway.tls.ip()).into();
        let client = ClientConnection::new(Arc::clone(&gateway.trust), name);
        let client = client.map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(client, connect(gateway.tls)?);
        ask_by_socks5(&mut stream, target)?;
        return Ok(Box::new(stream));
    }
    let mut stream = connect(gateway.plain)?;
    match protocol {
        Protocol::Socks5 | Protocol::Tls => ask_by_socks5(&mut stream, target)?,
        Protocol::Socks4a => ask_by_socks4a(&mut stream, target)?,
        Protocol::Connect => ask_by_connect(&mut stream, target)?,
        Protocol::Forward => {}
    }
    Ok(Box::new(stream))
}

/// The page that `origin` has.
pub(super) fn fetch(
    road: Road,
    gateway: &Gateway,
    origin: SocketAddrV4,
) -> Result<Vec<u8>, AskError> {
    let stream = request(road, gateway, origin, "/")?;
    let mut page = Vec::new();
    stream.take(ANSWER_LEN_MAX as u64).read_to_end(&mut page)?;
    Ok(page)
}

/// Reads what `origin` sends without end for as long as told; bytes, and the seconds that it took.
pub(super) fn read_for(
    road: Road,
    gateway: &Gateway,
    origin: SocketAddrV4,
    duration: Duration,
    stop: &StopFlag,
) -> Result<(u64, f64), AskError> {
    let mut stream = request(road, gateway, origin, ENDLESS)?;
    let (mut buffer, mut bytes, began) = (vec![0; CHUNK_LEN], 0, clock::now());
    loop {
        let took = clock::now().duration_since(began);
        if took >= duration || stop.is_raised() {
            return Ok((bytes, took.as_secs_f64()));
        }
        match stream.read(&mut buffer)? {
            0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            len => bytes += len as u64,
        }
    }
}

/// Asks `origin` for `path`, and reads the head of its answer.
fn request(
    road: Road,
    gateway: &Gateway,
    origin: SocketAddrV4,
    path: &str,
) -> Result<Box<dyn Both>, AskError> {
    let mut stream = reach(road, gateway, origin)?;
    let is_forwarded = road == Road::Through(Protocol::Forward);
    let prefix = if is_forwarded { format!("http://{origin}") } else { String::new() };
    let head =
        format!("GET {prefix}{path} HTTP/1.1\r\nHost: {origin}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    let answer = read_head(&mut stream)?;
    match answer.split_whitespace().nth(1) {
        Some("200") => Ok(stream),
        code => Err(AskError::Refused(code.unwrap_or("no status").to_owned())),
    }
}

fn connect(address: SocketAddrV4) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&SocketAddr::V4(address), STEP_WITHIN)?;
    stream.set_read_timeout(Some(STEP_WITHIN))?;
    stream.set_write_timeout(Some(STEP_WITHIN))?;
    Ok(stream)
}

/// RFC 1928, without authentication.
fn ask_by_socks5(stream: &mut (impl Read + Write), target: SocketAddrV4) -> Result<(), AskError> {
    stream.write_all(&[5, 1, 0])?;
    let [_, method] = read_array(stream)?;
    if method != 0 {
        return Err(AskError::Refused(format!("method {method:02x}")));
    }
    let mut request = vec![5, 1, 0, 1];
    request.extend_from_slice(&target.ip().octets());
    request.extend_from_slice(&target.port().to_be_bytes());
    stream.write_all(&request)?;
    let reply: [u8; 10] = read_array(stream)?;
    match reply {
        [_, 0, ..] => Ok(()),
        [_, code, ..] => Err(AskError::Refused(format!("{code:02x}"))),
    }
}

/// The gateway gets the host as a text, as it would get a name (0.0.0.1 says that one follows).
fn ask_by_socks4a(stream: &mut TcpStream, target: SocketAddrV4) -> Result<(), AskError> {
    let mut request = vec![4, 1];
    request.extend_from_slice(&target.port().to_be_bytes());
    request.extend_from_slice(&[0, 0, 0, 1, 0]);
    request.extend_from_slice(target.ip().to_string().as_bytes());
    request.push(0);
    stream.write_all(&request)?;
    let reply: [u8; 8] = read_array(stream)?;
    match reply {
        [_, 90, ..] => Ok(()),
        [_, code, ..] => Err(AskError::Refused(code.to_string())),
    }
}

/// RFC 9110 section 9.3.6.
fn ask_by_connect(stream: &mut TcpStream, target: SocketAddrV4) -> Result<(), AskError> {
    let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let head = read_head(stream)?;
    match head.split_whitespace().nth(1) {
        Some(code) if code.starts_with('2') => Ok(()),
        code => Err(AskError::Refused(code.unwrap_or("no status").to_owned())),
    }
}

/// Reads to the end of a head and no byte further.
fn read_head(stream: &mut impl Read) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let byte: [u8; 1] = read_array(stream)?;
        head.extend(byte);
        if head.len() > ANSWER_LEN_MAX {
            return Err(io::Error::other("the answer does not end"));
        }
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

fn read_array<const N: usize>(stream: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}
