//! What a client says until it is clear what it wants, whichever protocol it speaks.

use std::net::{IpAddr, SocketAddr};

use super::counters::Refusal;
use super::detect::Protocol;
use super::dial::Failure;
use super::forward::Errand;
use super::http::{HeadScanner, Method, Page, RequestHead, RequestTarget, Scheme, Slots, Status};
use super::settings::Rules;
use super::socks::reply::Reply;
use super::socks::server::{Authentication, Event, Server, SocksError, Step};
use super::target::Target;

/// The side of a conversation with a client.
///
/// Call [`Front::advance`] with what the client has said until it wants something; then do it, and
/// tell by [`Front::accept`] or [`Front::refuse`]. All of them append what the client is to be
/// sent.
#[derive(Debug)]
pub enum Front {
    /// It has said nothing.
    Silent,
    /// It speaks SOCKS.
    Socks(Server),
    /// It speaks HTTP.
    Http(HeadScanner),
}

/// What came of what a client said.
#[derive(Debug)]
pub enum Heard {
    /// It has to say more.
    Part,
    /// It has been told something, and may go on.
    Whole,
    /// It wants something.
    Wish(Wish),
    /// It has to go, once it has been told why.
    Refused(Refusal),
}

/// What a client wants.
#[derive(Debug)]
pub enum Wish {
    /// To be connected.
    Connect(Target),
    /// To have a request forwarded.
    Forward(Errand),
    /// A port to which the host may connect.
    Bind(Target),
    /// To send datagrams, from this address if it knows it.
    Associate(SocketAddr),
}

impl Front {
    /// Reads what the client has said. Returns how much of it has been dealt with as well: the
    /// rest, its first data among it, is to come again. `client` is its address.
    pub fn advance(
        &mut self,
        input: &[u8],
        client: IpAddr,
        rules: &Rules,
        out: &mut Vec<u8>,
    ) -> (usize, Heard) {
        if let Self::Silent = self {
            let Some(first) = input.first() else { return (0, Heard::Part) };
            *self = match Protocol::of(*first).filter(|protocol| rules.has(*protocol)) {
                Some(Protocol::Socks5 | Protocol::Socks4) => {
                    Self::Socks(Server::new(Authentication::Off))
                }
                Some(Protocol::Http) => Self::Http(HeadScanner::default()),
                Some(Protocol::Tls) | None => return (0, Heard::Refused(Refusal::Malformed)),
            };
        }
        match self {
            Self::Silent => (0, Heard::Part),
            Self::Socks(server) => match server.advance(input) {
                Ok(step) => hear_socks(server, step, out),
                Err(error) => {
                    server.farewell(error, out);
                    let refusal = match error {
                        SocksError::Command(_) | SocksError::Method => Refusal::NotServed,
                        _ => Refusal::Malformed,
                    };
                    (0, Heard::Refused(refusal))
                }
            },
            Self::Http(scanner) => hear_http(scanner, input, client, rules, out),
        }
    }

    /// What was wanted has been done: the origin is connected from the address that `bound` gives.
    pub fn accept(&mut self, bound: impl FnOnce() -> SocketAddr, out: &mut Vec<u8>) {
        match self {
            Self::Silent => {}
            Self::Socks(server) => server.accept(bound(), out),
            Self::Http(_) => Page::closing(Status::Established, "").write(out),
        }
    }

    /// What was wanted has not been done.
    pub fn refuse(&mut self, failure: Failure, out: &mut Vec<u8>) {
        match self {
            Self::Silent => {}
            Self::Socks(server) => server.refuse(reply_of(failure), out),
            Self::Http(_) => {
                Page::closing(status_of(failure), &failure.to_string()).write(out);
            }
        }
    }

    /// The client has not asked for anything in time.
    pub fn give_up(&mut self, out: &mut Vec<u8>) {
        if let Self::Http(_) = self {
            Page::closing(Status::RequestTimeout, "the request has not come in time").write(out);
        }
    }
}

fn hear_socks(server: &mut Server, step: Step, out: &mut Vec<u8>) -> (usize, Heard) {
    match step {
        Step::NeedMore => (0, Heard::Part),
        Step::Answer { used, send } => {
            out.extend_from_slice(send);
            (used, Heard::Whole)
        }
        Step::Event { used, event: Event::Connect(target) } => {
            (used, Heard::Wish(Wish::Connect(target)))
        }
        Step::Event { used, event: Event::Bind(target) } => (used, Heard::Wish(Wish::Bind(target))),
        Step::Event { used, event: Event::Associate(announced) } => {
            (used, Heard::Wish(Wish::Associate(announced)))
        }
        // Nobody was asked for a password.
        Step::Event { used, event: Event::Authenticate(_) } => {
            out.extend_from_slice(server.verdict(false));
            (used, Heard::Refused(Refusal::Malformed))
        }
    }
}

fn hear_http(
    scanner: &mut HeadScanner,
    input: &[u8],
    client: IpAddr,
    rules: &Rules,
    out: &mut Vec<u8>,
) -> (usize, Heard) {
    let head = match scanner.scan(input) {
        Ok(None) => return (0, Heard::Part),
        Ok(Some(head)) => head,
        Err(error) => {
            Page::closing(error.request_status(), &error.to_string()).write(out);
            return (0, Heard::Refused(Refusal::Malformed));
        }
    };
    let used = head.end;
    let behind = input.get(used..).unwrap_or_default();
    let mut slots = Slots::new();
    let heard = match RequestHead::parse(input.get(head).unwrap_or_default(), &mut slots) {
        Err(error) => {
            Page::closing(error.request_status(), &error.to_string()).write(out);
            Heard::Refused(Refusal::Malformed)
        }
        Ok(RequestHead { target: RequestTarget::Authority(target), .. }) => {
            Heard::Wish(Wish::Connect(target))
        }
        Ok(head) => hear_errand(&head, client, rules, behind, out),
    };
    (used, heard)
}

/// Hears a request that is to be forwarded, or is meant for this very server.
fn hear_errand(
    head: &RequestHead<'_, '_>,
    client: IpAddr,
    rules: &Rules,
    behind: &[u8],
    out: &mut Vec<u8>,
) -> Heard {
    let to_head = head.method == Method::Head;
    let mut refuse = |status, text: &str, refusal| {
        Page { to_head, ..Page::closing(status, text) }.write(out);
        Heard::Refused(refusal)
    };
    match &head.target {
        RequestTarget::Absolute(to) if to.scheme == Scheme::Http => {
            match Errand::begin(head, to, client, rules, behind) {
                Ok(errand) => Heard::Wish(Wish::Forward(errand)),
                Err(error) => refuse(error.status(), &error.to_string(), Refusal::Malformed),
            }
        }
        RequestTarget::Absolute(_) => {
            let text = "this proxy does not speak TLS for its clients: ask for a tunnel (CONNECT)";
            refuse(Status::NotImplemented, text, Refusal::NotServed)
        }
        _ => {
            let text = "this is a proxy: it takes http://HOST/PATH, or CONNECT HOST:PORT";
            refuse(Status::NotFound, text, Refusal::NotServed)
        }
    }
}

/// What a client of SOCKS hears of a failure (RFC 1928 section 6).
fn reply_of(failure: Failure) -> Reply {
    match failure {
        Failure::Denied(_) | Failure::Forbidden => Reply::NotAllowed,
        Failure::NoPort | Failure::Exhausted | Failure::Other => Reply::GeneralFailure,
        Failure::Refused => Reply::ConnectionRefused,
        Failure::TimedOut => Reply::TtlExpired,
        Failure::HostUnreachable | Failure::NameNotFound | Failure::NameUnavailable => {
            Reply::HostUnreachable
        }
        Failure::NetworkUnreachable => Reply::NetworkUnreachable,
    }
}

/// What a client of HTTP hears of a failure (RFC 9110 section 15).
pub(super) fn status_of(failure: Failure) -> Status {
    match failure {
        Failure::Denied(_) | Failure::Forbidden => Status::Forbidden,
        Failure::NoPort => Status::BadRequest,
        Failure::Refused
        | Failure::HostUnreachable
        | Failure::NetworkUnreachable
        | Failure::NameNotFound
        | Failure::Other => Status::BadGateway,
        Failure::TimedOut => Status::GatewayTimeout,
        Failure::NameUnavailable | Failure::Exhausted => Status::ServiceUnavailable,
    }
}
