//! What a client says until it is clear what it wants, whichever protocol it speaks.

use std::net::{IpAddr, SocketAddr};

use crate::accounts::refusal::{self as accounts, RefusalCode};
use crate::accounts::secret::Secret;
use crate::accounts::service::PassProof;

use super::auth_endpoint::Inquiry;
use super::counters::Refusal;
use super::detect::Protocol;
use super::dial::Failure;
use super::forward::Errand;
use super::http::{
    Credentials, Framing, HeadScanner, Method, Page, RequestHead, RequestTarget, Slots, Status,
};
use super::settings::{Auth, Rules};
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
    /// To be known. The answer is [`Front::admit`] or [`Front::turn_down`]; what it wants comes
    /// afterwards.
    Login(PassProof),
    /// To be told whether somebody else is who he says.
    Vouch(Inquiry),
    /// To be told that this server is there. It may ask again afterwards.
    Report {
        /// Whether it keeps the connection for that.
        keeps: bool,
    },
}

impl Front {
    /// Reads what the client has said. Returns how much of it has been dealt with as well: the
    /// rest, its first data among it, is to come again. `client` is its address, and `is_known_by`
    /// says whether it is known by the very thing that it shows: each request of HTTP shows
    /// something, and behind another proxy requests of several people come on one connection. What
    /// it shows may be nothing but a certificate, before it says anything.
    pub fn advance(
        &mut self,
        input: &[u8],
        client: IpAddr,
        rules: &Rules,
        is_known_by: &dyn Fn(Option<&PassProof>) -> bool,
        out: &mut Vec<u8>,
    ) -> (usize, Heard) {
        let needs_login = || rules.auth == Auth::Required && !is_known_by(None);
        if let Self::Silent = self {
            let Some(first) = input.first() else { return (0, Heard::Part) };
            *self = match Protocol::of(*first).filter(|protocol| rules.has(*protocol)) {
                Some(Protocol::Socks5 | Protocol::Socks4) => {
                    let authentication = match needs_login() {
                        true => Authentication::Required,
                        false => Authentication::Off,
                    };
                    Self::Socks(Server::new(authentication))
                }
                Some(Protocol::Http) => Self::Http(HeadScanner::default()),
                Some(Protocol::Tls) | None => return (0, Heard::Refused(Refusal::Malformed)),
            };
        }
        match self {
            Self::Silent => (0, Heard::Part),
            Self::Socks(server) => match server.advance(input) {
                Ok(step) => hear_socks(step, out),
                Err(error) => {
                    server.farewell(error, out);
                    let refusal = match error {
                        SocksError::NoPassword => Refusal::NoLogin,
                        SocksError::Method if needs_login() => Refusal::NoLogin,
                        SocksError::Command(_) | SocksError::Method => Refusal::NotServed,
                        _ => Refusal::Malformed,
                    };
                    (0, Heard::Refused(refusal))
                }
            },
            Self::Http(scanner) => hear_http(scanner, input, client, rules, is_known_by, out),
        }
    }

    /// The client is who it says.
    pub fn admit(&mut self, out: &mut Vec<u8>) {
        match self {
            Self::Socks(server) => out.extend_from_slice(server.verdict(true)),
            // It hears of that when its request, which is still there, is answered.
            Self::Silent | Self::Http(_) => {}
        }
    }

    /// The client is not who it says, or may not come in now.
    pub fn turn_down(&mut self, refusal: &accounts::Refusal, out: &mut Vec<u8>) {
        match self {
            Self::Silent => {}
            Self::Socks(server) => out.extend_from_slice(server.verdict(false)),
            Self::Http(_) => {
                let otherwise = Status::ProxyAuthenticationRequired;
                let status = status_of_refusal(refusal.code, otherwise);
                let retry_after_s = refusal.retry_after.map(|wait| wait.as_secs().max(1));
                Page { retry_after_s, ..Page::closing(status, &refusal.message) }.write(out);
            }
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

fn hear_socks(step: Step, out: &mut Vec<u8>) -> (usize, Heard) {
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
        Step::Event { used, event: Event::Authenticate(shown) } => {
            let proof = PassProof::Password { user: shown.user, password: shown.password };
            (used, Heard::Wish(Wish::Login(proof)))
        }
    }
}

/// Asks who the client is, unless it is known by what this request shows: then nothing of it is
/// used.
fn hear_credentials(
    head: &RequestHead<'_, '_>,
    is_known_by: &dyn Fn(Option<&PassProof>) -> bool,
    out: &mut Vec<u8>,
) -> Option<Heard> {
    let text = match Credentials::of_proxy_request(head.fields) {
        Ok(Some(credentials)) => {
            let proof = match credentials {
                Credentials::Basic { user, password } => {
                    let password = Secret::new(password.to_string());
                    PassProof::Password { user, password }
                }
                Credentials::Bearer(token) => PassProof::Token(Secret::new(token.to_string())),
            };
            return (!is_known_by(Some(&proof))).then_some(Heard::Wish(Wish::Login(proof)));
        }
        Ok(None) if is_known_by(None) => return None,
        // Whoever was known before may not be the one who asks now.
        Ok(None) => "this proxy serves those alone who say who they are".to_owned(),
        Err(error) => error.to_string(),
    };
    let to_head = head.method == Method::Head;
    let status = Status::ProxyAuthenticationRequired;
    Page { to_head, ..Page::closing(status, &text) }.write(out);
    Some(Heard::Refused(Refusal::NoLogin))
}

fn hear_http(
    scanner: &mut HeadScanner,
    input: &[u8],
    client: IpAddr,
    rules: &Rules,
    is_known_by: &dyn Fn(Option<&PassProof>) -> bool,
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
    let head = match RequestHead::parse(input.get(head).unwrap_or_default(), &mut slots) {
        Err(error) => {
            Page::closing(error.request_status(), &error.to_string()).write(out);
            return (used, Heard::Refused(Refusal::Malformed));
        }
        Ok(head) => head,
    };
    if let Some(inquiry) = Inquiry::hear(&head, client, rules) {
        return (used, Heard::Wish(Wish::Vouch(inquiry)));
    }
    if rules.auth == Auth::Required
        && let Some(heard) = hear_credentials(&head, is_known_by, out)
    {
        // Once it is known, the same request is heard again.
        *scanner = HeadScanner::default();
        return (0, heard);
    }
    let heard = match head.target {
        RequestTarget::Authority(target) => Heard::Wish(Wish::Connect(target)),
        RequestTarget::Asterisk => {
            let has_body = !matches!(head.framing, Framing::None | Framing::Length(0));
            Heard::Wish(Wish::Report { keeps: head.keeps_connection() && !has_body })
        }
        _ => hear_errand(&head, client, rules, behind, out),
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
        RequestTarget::Absolute(to) => match Errand::begin(head, to, client, rules, behind) {
            Ok(errand) => Heard::Wish(Wish::Forward(errand)),
            Err(error) => refuse(error.status(), &error.to_string(), Refusal::Malformed),
        },
        _ => {
            let text = "this is a proxy: it takes http://HOST/PATH, https://HOST/PATH, or CONNECT \
                        HOST:PORT";
            refuse(Status::NotFound, text, Refusal::NotServed)
        }
    }
}

/// What a client of SOCKS hears of a failure (RFC 1928 section 6).
fn reply_of(failure: Failure) -> Reply {
    match failure {
        Failure::Denied(_)
        | Failure::Ruled
        | Failure::UserFull
        | Failure::UserTooFast
        | Failure::Blocked
        | Failure::UpstreamDenied
        | Failure::Forbidden => Reply::NotAllowed,
        Failure::NoPort
        | Failure::Exhausted
        | Failure::Tls(_)
        | Failure::Upstream
        | Failure::Other => Reply::GeneralFailure,
        Failure::Refused => Reply::ConnectionRefused,
        Failure::TimedOut => Reply::TtlExpired,
        Failure::HostUnreachable | Failure::NameNotFound | Failure::NameUnavailable => {
            Reply::HostUnreachable
        }
        Failure::NetworkUnreachable => Reply::NetworkUnreachable,
    }
}

/// What a client of HTTP hears of not being let in: `otherwise` if it has to show something else.
pub(super) fn status_of_refusal(code: RefusalCode, otherwise: Status) -> Status {
    match code {
        RefusalCode::TooManyFailures => Status::TooManyRequests,
        RefusalCode::Busy => Status::ServiceUnavailable,
        RefusalCode::QuotaExceeded => Status::Forbidden,
        _ => otherwise,
    }
}

/// What a client of HTTP hears of a failure (RFC 9110 section 15).
pub(super) fn status_of(failure: Failure) -> Status {
    match failure {
        Failure::Denied(_)
        | Failure::Ruled
        | Failure::Blocked
        | Failure::UpstreamDenied
        | Failure::Forbidden => Status::Forbidden,
        Failure::UserFull | Failure::UserTooFast => Status::TooManyRequests,
        Failure::NoPort => Status::BadRequest,
        Failure::Refused
        | Failure::HostUnreachable
        | Failure::NetworkUnreachable
        | Failure::NameNotFound
        | Failure::Tls(_)
        | Failure::Upstream
        | Failure::Other => Status::BadGateway,
        Failure::TimedOut => Status::GatewayTimeout,
        Failure::NameUnavailable | Failure::Exhausted => Status::ServiceUnavailable,
    }
}
