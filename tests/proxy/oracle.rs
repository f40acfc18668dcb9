//! An origin of HTTP that notes every byte it gets, and answers each request that it finds there by
//! rules of its own: plainer ones than the proxy's, and written for nothing else.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};

use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::harness::serve;

/// A request as the origin has understood it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) head: String,
    /// What of the body is data.
    pub(crate) body: Vec<u8>,
}

impl Request {
    /// `METHOD PATH`.
    pub(crate) fn line(&self) -> &str {
        self.head.split(" HTTP/1.1").next().unwrap()
    }

    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

/// One connection to the origin.
#[derive(Clone, Debug, Default)]
pub(crate) struct Visit {
    pub(crate) bytes: Vec<u8>,
    pub(crate) requests: Vec<Request>,
}

#[derive(Clone)]
pub(crate) struct Oracle {
    pub(crate) address: SocketAddr,
    visits: Arc<Mutex<Vec<Visit>>>,
}

impl Oracle {
    /// One that answers every request with what `answer` makes of it, all bytes of it. An empty
    /// answer is the end of the connection.
    pub(crate) fn start(answer: impl Fn(&Request) -> Vec<u8> + Clone + Send + 'static) -> Self {
        Self::over(|stream| stream, answer)
    }

    /// The same inside TLS: the bytes that it notes are those that were in it.
    pub(crate) fn secured(
        tls: ServerConfig,
        answer: impl Fn(&Request) -> Vec<u8> + Clone + Send + 'static,
    ) -> Self {
        let tls = Arc::new(tls);
        let over_tls = move |stream| {
            StreamOwned::new(ServerConnection::new(Arc::clone(&tls)).unwrap(), stream)
        };
        Self::over(over_tls, answer)
    }

    fn over<S: Read + Write>(
        layer: impl Fn(TcpStream) -> S + Clone + Send + 'static,
        answer: impl Fn(&Request) -> Vec<u8> + Clone + Send + 'static,
    ) -> Self {
        let visits = Arc::<Mutex<Vec<Visit>>>::default();
        let noted = Arc::clone(&visits);
        let address = serve(move |stream| {
            let number = {
                let mut visits = noted.lock().unwrap();
                visits.push(Visit::default());
                visits.len() - 1
            };
            converse(layer(stream), &answer, &noted, number);
        });
        Self { address, visits }
    }

    /// One that answers with the request line and the body.
    pub(crate) fn parrot() -> Self {
        Self::start(|request| ok(&[request.line().as_bytes(), b"|", &request.body[..]].concat()))
    }

    pub(crate) fn visits(&self) -> Vec<Visit> {
        self.visits.lock().unwrap().clone()
    }

    /// The requests of all connections.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.visits().into_iter().flat_map(|visit| visit.requests).collect()
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// A GET for a path, as a client says it to a proxy.
    pub(crate) fn get(&self, path: &str) -> String {
        format!("GET {} HTTP/1.1\r\nHost: {}\r\n\r\n", self.url(path), self.address)
    }
}

pub(crate) fn ok(body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn converse(
    mut stream: impl Read + Write,
    answer: &dyn Fn(&Request) -> Vec<u8>,
    visits: &Mutex<Vec<Visit>>,
    number: usize,
) {
    let mut pending = Vec::new();
    let mut buffer = [0; 65_536];
    loop {
        while let Some((request, used)) = parse(&pending, &mut stream) {
            pending.drain(..used);
            visits.lock().unwrap()[number].requests.push(request.clone());
            let bytes = answer(&request);
            if bytes.is_empty() || stream.write_all(&bytes).is_err() {
                return;
            }
        }
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(len) => {
                visits.lock().unwrap()[number].bytes.extend_from_slice(&buffer[..len]);
                pending.extend_from_slice(&buffer[..len]);
            }
        }
    }
}

/// The first request in `bytes`, if it is there as a whole, and how long it is.
fn parse(bytes: &[u8], stream: &mut impl Write) -> Option<(Request, usize)> {
    let head_len = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&bytes[..head_len]).into_owned();
    let mut request = Request { head, body: Vec::new() };
    let mut rest = &bytes[head_len..];
    if request.field("expect").is_some() && rest.is_empty() {
        // Once is enough, but a second one does no harm.
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").ok()?;
    }
    if request.field("transfer-encoding").is_some() {
        loop {
            let line = rest.windows(2).position(|two| two == b"\r\n")?;
            let size = std::str::from_utf8(&rest[..line]).unwrap();
            let size = usize::from_str_radix(size, 16).unwrap();
            let data = rest.get(line + 2..line + 2 + size)?;
            request.body.extend_from_slice(data);
            let end = rest.get(line + 2 + size..line + 4 + size)?;
            rest = &rest[line + 4 + size..];
            if size == 0 {
                assert_eq!(end, b"\r\n", "the tests send no trailers to the oracle");
                break;
            }
        }
    } else if let Some(len) = request.field("content-length") {
        let len: usize = len.parse().unwrap();
        request.body.extend_from_slice(rest.get(..len)?);
        rest = &rest[len..];
    }
    let used = bytes.len() - rest.len();
    Some((request, used))
}
