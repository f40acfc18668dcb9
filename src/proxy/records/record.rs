//! What is noted of a wish.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::accounts::model::DESTINATION_DATAGRAMS;
use crate::accounts::names::Name;
use crate::limits::{PROXY_RECORD_METHOD_LEN_MAX, PROXY_RECORD_PATH_LEN_MAX};
use crate::proxy::access::Member;
use crate::proxy::counters::Refusal;
use crate::proxy::dial::Failure;
use crate::proxy::http::Scheme;
use crate::proxy::target::{Host, Target};

/// By what a client has come to what it wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::proxy) enum Means {
    /// It has not said.
    #[default]
    Unknown,
    /// CONNECT of SOCKS5.
    Socks5,
    /// CONNECT of SOCKS4.
    Socks4,
    /// CONNECT of HTTP.
    Connect,
    /// A request of HTTP that is forwarded, or what was wrong with one.
    Http,
    /// UDP ASSOCIATE of SOCKS5.
    Udp,
    /// BIND of SOCKS5.
    Bind,
}

impl Means {
    /// What lines call it.
    pub(in crate::proxy) fn name(self) -> &'static str {
        match self {
            Self::Unknown => "-",
            Self::Socks5 => "socks5",
            Self::Socks4 => "socks4",
            Self::Connect => "connect",
            Self::Http => "http",
            Self::Udp => "udp",
            Self::Bind => "bind",
        }
    }

    /// What was asked for, where the client has not said a method itself.
    pub(super) fn method(self) -> &'static str {
        match self {
            Self::Socks5 | Self::Socks4 | Self::Connect => "CONNECT",
            Self::Udp => "ASSOCIATE",
            Self::Bind => "BIND",
            Self::Unknown | Self::Http => "-",
        }
    }
}

/// Which way a wish went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::proxy) enum Via {
    /// Nothing was reached.
    #[default]
    Nowhere,
    /// To the address that was dialled, or that has come (BIND).
    Address(SocketAddr),
    /// Through this group of upstream proxies.
    Upstream(Name),
}

/// What came of a wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proxy) enum Outcome {
    /// It was fulfilled, and is over.
    Ok,
    /// The client had gone before.
    ClientGone,
    /// Nothing moved for too long, or it has lasted for as long as it may.
    Idle,
    /// A connection broke, or an answer was malformed.
    Broken,
    /// The client may not have it any more.
    Revoked,
    /// The gateway has stopped.
    Stopped,
    /// The client was sent away.
    Refused(Refusal),
    /// The origin was not reached.
    Failed(Failure),
}

impl Outcome {
    /// What lines call it.
    pub(in crate::proxy) fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::ClientGone => "client_gone",
            Self::Idle => "idle",
            Self::Broken => "broken",
            Self::Revoked => "revoked",
            Self::Stopped => "stopped",
            Self::Refused(refusal) => refusal.name(),
            Self::Failed(failure) => Failure::NAMES.get(failure.index()).copied().unwrap_or("-"),
        }
    }
}

/// What is noted of a wish, from its beginning to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::proxy) struct Record {
    pub(super) began: Instant,
    /// Who it was: the far end of the connection, or whom its PROXY header names.
    pub(super) client: SocketAddr,
    /// By what it came.
    pub(super) means: Means,
    /// Whether inside TLS.
    pub(super) tls: bool,
    /// Who it says it is, once that is known to be so.
    pub(super) user: Option<Name>,
    /// Whether that is the user of the connection, who is looked up at the end: not if it was
    /// refused before it was asked.
    pub(super) is_named: bool,
    /// The method of a request of HTTP.
    pub(super) method: Option<Box<str>>,
    /// What was asked for.
    pub(super) target: Option<Target>,
    /// The rest of the URL of a request of HTTP, without its query.
    pub(super) url: Option<(Scheme, Box<str>)>,
    /// Where it went.
    pub(super) via: Via,
    /// The status that a client of HTTP was told.
    pub(super) status: Option<u16>,
    /// What came of it.
    pub(super) outcome: Option<Outcome>,
    pub(super) up_bytes: u64,
    pub(super) down_bytes: u64,
    /// When it was over, since 1970.
    pub(super) ended: Duration,
    /// How long it took.
    pub(super) took: Duration,
}

impl Record {
    /// One that begins now.
    pub(in crate::proxy) fn new(now: Instant, client: SocketAddr, means: Means) -> Self {
        Self {
            began: now,
            client,
            means,
            tls: false,
            user: None,
            is_named: true,
            method: None,
            target: None,
            url: None,
            via: Via::Nowhere,
            status: None,
            outcome: None,
            up_bytes: 0,
            down_bytes: 0,
            ended: Duration::ZERO,
            took: Duration::ZERO,
        }
    }

    /// That user says this, or nobody has shown who does, whoever has used the connection before.
    pub(in crate::proxy) fn of(mut self, user: Option<&Name>) -> Self {
        (self.user, self.is_named) = (user.cloned(), false);
        self
    }

    /// The wish is for this host and port.
    pub(in crate::proxy) fn for_target(mut self, target: &Target) -> Self {
        self.target = Some(target.clone());
        self
    }

    /// Whether somebody unknown has come to nothing, which anybody may do without end.
    pub(super) fn is_of_stranger(&self) -> bool {
        let has_tried = matches!(self.outcome, Some(Outcome::Ok | Outcome::Failed(_)));
        self.user.is_none() && self.via == Via::Nowhere && !has_tried
    }

    /// Counts for a user what has gone to which host.
    pub(super) fn count_for(&self, member: &Member) {
        let (up, down) = (self.up_bytes, self.down_bytes);
        match (&self.target, self.means) {
            (Some(target), _) if self.via != Via::Nowhere => match &target.host {
                Host::Name(name) => member.count_destination(name.without_root(), up, down),
                Host::Address(ip) => member.count_destination(&ip.to_string(), up, down),
            },
            (None, Means::Udp) if up + down > 0 => {
                member.count_destination(DESTINATION_DATAGRAMS, up, down);
            }
            // Nothing was reached.
            _ => {}
        }
    }

    /// The wish is a request of HTTP with this head. Its query is left out, since it may hold
    /// secrets; userinfo, which does, no head that goes out has.
    pub(in crate::proxy) fn for_request(mut self, scheme: Scheme, head: &[u8]) -> Self {
        let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
        let mut words = line.split(|byte| *byte == b' ');
        let method = words.next().unwrap_or_default();
        self.method = Some(shortened(method, PROXY_RECORD_METHOD_LEN_MAX));
        let path = words.next().unwrap_or_default();
        let path = path.split(|byte| matches!(byte, b'?' | b'#')).next().unwrap_or_default();
        self.url = Some((scheme, shortened(path_of(path), PROXY_RECORD_PATH_LEN_MAX)));
        self
    }
}

/// The path of a request target in origin-form or absolute-form; in others there is none (RFC 9112
/// section 3.2).
fn path_of(target: &[u8]) -> &[u8] {
    let authority = target.windows(3).position(|at| at == b"://");
    let rest = match authority {
        Some(at) if !target.starts_with(b"/") => target.get(at + 3..).unwrap_or_default(),
        _ => target,
    };
    let path = rest.iter().position(|byte| *byte == b'/');
    path.and_then(|at| rest.get(at..)).unwrap_or_default()
}

/// Text of at most `max` bytes; three dots stand for what was left out.
fn shortened(bytes: &[u8], max: usize) -> Box<str> {
    let kept = bytes.get(..max.min(bytes.len())).unwrap_or_default();
    let mut text = String::from_utf8_lossy(kept).into_owned();
    if kept.len() < bytes.len() {
        text.push_str("...");
    }
    text.into()
}
