//! What the gateway is told: plain data.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::limits;
use crate::login::tls::TlsFiles;

use super::detect::Protocol;
use super::dial::{Guard, Source};
use super::http::Disclosure;
use super::origins::Origins;
use super::records::Format;
use super::upstream::{Group, Routes};

/// One way into the gateway: addresses, and the rules that go for those who come there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entrance {
    /// Where it listens. Port 0 is one that the kernel chooses.
    pub listen: Vec<SocketAddr>,
    /// Where it listens for clients that speak TLS first.
    pub listen_tls: Vec<SocketAddr>,
    /// What it is to them.
    pub tls: Option<EntranceTls>,
    /// Where it is written what its clients do.
    pub access_log: Option<LogSettings>,
    /// What goes for its clients.
    pub rules: Rules,
}

/// TLS at an entrance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntranceTls {
    /// What is shown, and what is believed.
    pub files: TlsFiles,
    /// Whether clients have to show a certificate of the client CA.
    pub demands_certificate: bool,
}

/// An access log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// Where it is.
    pub place: LogPlace,
    /// How its lines look.
    pub format: Format,
}

/// Where an access log is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogPlace {
    /// Standard output.
    Stdout,
    /// A file, to which is appended.
    File(PathBuf),
}

impl FromStr for LogPlace {
    type Err = NoLogPlace;

    fn from_str(text: &str) -> Result<Self, NoLogPlace> {
        match text {
            "-" => Ok(Self::Stdout),
            _ if text.is_empty() || text.contains('\0') => Err(NoLogPlace),
            path => Ok(Self::File(path.into())),
        }
    }
}

impl fmt::Display for LogPlace {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdout => out.write_str("-"),
            Self::File(path) => path.display().fmt(out),
        }
    }
}

/// A text that is no place for an access log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected the path of a file, or - for standard output")]
pub struct NoLogPlace;

/// Whether clients have to say who they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Auth {
    /// Whoever comes is served.
    #[default]
    Off,
    /// Nobody is served whom the accounts do not know.
    Required,
}

/// What goes for the clients of an entrance. A reload changes it for those who come later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Whether they have to say who they are.
    pub auth: Auth,
    /// What clients may speak. The first byte tells which it is.
    pub protocols: Vec<Protocol>,
    /// Whose connections begin with a PROXY header, which says for whom they are made.
    pub proxy_protocol_from: Vec<IpNet>,
    /// Who may ask about clients of its own, and is believed who they are.
    pub auth_from: Vec<IpNet>,
    /// Which addresses may be dialled.
    pub guard: Guard,
    /// From which of this host's addresses.
    pub dial_from: Source,
    /// The ports at which clients of UDP associations send; the kernel chooses if `None`.
    pub udp_ports: Option<RangeInclusive<u16>>,
    /// Whether there are UDP associations.
    pub serves_datagrams: bool,
    /// Which way their wishes go.
    pub routes: Routes,
    /// The upstream proxies that these ways may lead through, by number.
    pub upstreams: Vec<Arc<Group>>,
    /// By whom origins are believed that requests go to inside TLS.
    pub origins: Arc<Origins>,
    /// How long a client may take to ask for something.
    pub request_within: Duration,
    /// How long reaching an origin may take.
    pub dial_within: Duration,
    /// How long a port that a client had opened (BIND) waits for who is expected.
    pub bind_within: Duration,
    /// How long an origin may take to begin its answer to a request of HTTP that it has got.
    pub response_within: Duration,
    /// How long a client that has had an answer of HTTP may take before it asks again.
    pub keep_alive: Duration,
    /// What is told of the proxy and its clients in requests that are forwarded.
    pub disclosure: Disclosure,
    /// Which connections to origins are kept for further requests.
    pub kept: Kept,
    /// How long a relay may move nothing.
    pub idle_max: Duration,
    /// How long a connection may last; for ever if `None`.
    pub lasts_max: Option<Duration>,
    /// Clients at the same time.
    pub connections_max: usize,
    /// Of those, the ones of one source: an IPv4 address, or a /64.
    pub connections_per_source_max: usize,
    /// Of those, the ones of one user.
    pub connections_per_user_max: usize,
    /// Connections that a user may open each second, ten seconds' worth of which may come at once.
    pub connections_per_user_per_s: Option<u32>,
    /// The same of a source.
    pub connections_per_source_per_s: Option<u32>,
    /// Whether it is kept what a user moves to and from each host.
    pub usage_by_destination: bool,
}

/// Which connections to origins a worker keeps for further requests, while nobody uses them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// To all origins.
    pub max: usize,
    /// To one.
    pub per_origin_max: usize,
    /// For how long.
    pub lasts: Duration,
}

impl Default for Kept {
    fn default() -> Self {
        Self {
            max: limits::PROXY_KEPT_MAX,
            per_origin_max: limits::PROXY_KEPT_PER_ORIGIN_MAX,
            lasts: limits::PROXY_KEPT_LASTS,
        }
    }
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            auth: Auth::Off,
            protocols: vec![Protocol::Socks5, Protocol::Socks4, Protocol::Http],
            proxy_protocol_from: Vec::new(),
            auth_from: Vec::new(),
            guard: Guard::default(),
            dial_from: Source::default(),
            udp_ports: None,
            serves_datagrams: true,
            routes: Routes::default(),
            upstreams: Vec::new(),
            origins: Arc::default(),
            request_within: limits::PROXY_REQUEST_WITHIN,
            dial_within: limits::PROXY_DIAL_WITHIN,
            bind_within: limits::PROXY_BIND_WITHIN,
            response_within: limits::PROXY_RESPONSE_WITHIN,
            keep_alive: limits::PROXY_KEEP_ALIVE,
            disclosure: Disclosure::default(),
            kept: Kept::default(),
            idle_max: limits::PROXY_IDLE_MAX,
            lasts_max: None,
            connections_max: limits::PROXY_CONNECTIONS_MAX,
            connections_per_source_max: limits::PROXY_CONNECTIONS_PER_SOURCE_MAX,
            connections_per_user_max: limits::PROXY_CONNECTIONS_MAX,
            connections_per_user_per_s: None,
            connections_per_source_per_s: None,
            usage_by_destination: false,
        }
    }
}

impl Rules {
    /// Whether connections from `source` begin with a PROXY header.
    pub fn expects_header_from(&self, source: IpAddr) -> bool {
        let source = source.to_canonical();
        self.proxy_protocol_from.iter().any(|prefix| prefix.contains(&source))
    }

    /// Whether `source` is told whether its own clients are who they say they are.
    pub fn hears_inquiries_from(&self, source: IpAddr) -> bool {
        let source = source.to_canonical();
        self.auth_from.iter().any(|prefix| prefix.contains(&source))
    }

    /// Whether what clients say has secrets in it.
    pub fn has_secrets(&self) -> bool {
        self.auth == Auth::Required || !self.auth_from.is_empty()
    }

    /// Whether it is kept what goes to which host: where nobody knows who a client is, nothing is.
    pub fn counts_destinations(&self) -> bool {
        self.usage_by_destination && self.auth == Auth::Required
    }

    /// How many clients of each of so many workers may not have asked for anything yet, where most
    /// places are taken. Together they have half of them: the rest is for those who are being
    /// served.
    pub fn asking_max(&self, workers: usize) -> usize {
        (self.connections_max / 2 / workers.max(1)).clamp(1, limits::PROXY_ASKING_MAX)
    }

    /// Whether clients may speak `protocol`.
    pub fn has(&self, protocol: Protocol) -> bool {
        self.protocols.contains(&protocol)
    }
}
