//! `[[proxy]]`: the entrances of the proxy gateway.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::config::problems::{Origin, Problems};
use crate::config::schema::{ProxySection, Sections};
use crate::config::types::{LogConfig, Unacceptable, WorkersConfig};
use crate::proxy::detect::Protocol;
use crate::proxy::dial::Guard;
use crate::proxy::settings::{Entrance, Rules};

/// Everything `corelane proxy` needs to know.
#[derive(Clone, Debug)]
pub struct ProxyConfig {
    /// The ways in, at least one.
    pub entrances: Vec<Entrance>,
    /// How many workers, and where they run.
    pub workers: WorkersConfig,
    /// Where `corelane status` asks; nowhere in particular if nothing was said of it.
    pub status_socket: Option<PathBuf>,
    /// What to log and how.
    pub log: LogConfig,
}

impl ProxyConfig {
    /// The command that takes it.
    pub(crate) const COMMAND: &str = "corelane proxy";
}

/// One `[[proxy]]` and where it is.
#[derive(Clone, Debug)]
pub(crate) struct ProxyTable {
    pub(crate) place: Origin,
    pub(crate) keys: ProxySection,
}

/// Where clients of the proxy come: `tcp://ADDRESS:PORT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProxyListen(pub(crate) SocketAddr);

impl FromStr for ProxyListen {
    type Err = Unacceptable;

    fn from_str(text: &str) -> Result<Self, Unacceptable> {
        let address = text.strip_prefix("tcp://").unwrap_or(text);
        address.parse().map(Self).map_err(|_| Unacceptable("an address to listen on"))
    }
}

impl fmt::Display for ProxyListen {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "tcp://{}", self.0)
    }
}

/// What clients of the proxy may speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProxyProtocol(pub(crate) Protocol);

const PROTOCOLS: [(&str, Protocol); 3] =
    [("socks5", Protocol::Socks5), ("socks4", Protocol::Socks4), ("http", Protocol::Http)];

impl ProxyProtocol {
    /// All that may be chosen.
    pub(crate) fn all() -> Vec<Self> {
        PROTOCOLS.iter().map(|(_, protocol)| Self(*protocol)).collect()
    }
}

impl FromStr for ProxyProtocol {
    type Err = Unacceptable;

    fn from_str(text: &str) -> Result<Self, Unacceptable> {
        let found = PROTOCOLS.iter().find(|(name, _)| *name == text);
        found.map(|(_, protocol)| Self(*protocol)).ok_or(Unacceptable("a protocol"))
    }
}

impl fmt::Display for ProxyProtocol {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = PROTOCOLS.iter().find(|(_, protocol)| *protocol == self.0);
        out.write_str(found.map_or("", |(name, _)| name))
    }
}

/// The entrances that the tables describe, once `problems` has heard of everything that is wrong
/// with them.
pub(crate) fn entrances(sections: &Sections, problems: &mut Problems) -> Vec<Entrance> {
    let mut seen = BTreeSet::new();
    for table in &sections.proxies {
        check(table, &mut seen, problems);
    }
    sections.proxies.iter().map(|table| entrance(&table.keys)).collect()
}

fn check(table: &ProxyTable, seen: &mut BTreeSet<SocketAddr>, problems: &mut Problems) {
    let ProxyTable { place, keys } = table;
    if keys.listen.value.is_empty() && keys.listen.origin == Origin::Default {
        let help = "such as `listen = [\"tcp://127.0.0.1:1080\"]`, or `--listen 127.0.0.1:1080`";
        problems.error_with_help(place.clone(), "a proxy has nowhere to listen", help);
    }
    if keys.protocols.value.is_empty() {
        problems.error(keys.protocols.origin.clone(), "no protocol is left to speak");
    }
    for ProxyListen(address) in &keys.listen.value {
        if address.port() != 0 && !seen.insert(*address) {
            let what = format!("`{address}` is listened on twice");
            problems.error(keys.listen.origin.clone(), what);
        }
        if !address.ip().to_canonical().is_loopback() && !keys.allow_remote.value {
            let what = format!(
                "`{address}` can be reached from other hosts, and whoever reaches it may use this \
                 proxy: it would be an open one, which strangers find within hours"
            );
            let help = "listen on 127.0.0.1 or [::1]; or, where a firewall or a tunnel decides who \
                        reaches it, say so by `allow_remote = true` (`--allow-remote`)";
            problems.error_with_help(keys.listen.origin.clone(), what, help);
        }
    }
}

fn entrance(keys: &ProxySection) -> Entrance {
    let seconds = |value: u32| Duration::from_secs(value.into());
    let lasts_s = keys.lasts_max_s.value.as_u32();
    Entrance {
        listen: keys.listen.value.iter().map(|listen| listen.0).collect(),
        rules: Rules {
            protocols: keys.protocols.value.iter().map(|protocol| protocol.0).collect(),
            guard: Guard { allowed: keys.allow.value.clone() },
            request_within: seconds(keys.request_within_s.value.as_u32()),
            dial_within: seconds(keys.dial_within_s.value.as_u32()),
            idle_max: seconds(keys.idle_max_s.value.as_u32()),
            lasts_max: (lasts_s > 0).then(|| seconds(lasts_s)),
            connections_max: keys.connections_max.value.as_usize(),
            connections_per_source_max: keys.connections_per_source_max.value.as_usize(),
        },
    }
}
