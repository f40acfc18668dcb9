//! `[[proxy]]`: the entrances of the proxy gateway.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::config::access::AccountsConfig;
use crate::config::problems::{Origin, Problems};
use crate::config::routes::{self, RuleTable, UpstreamTable};
use crate::config::schema::{
    AccountsSection, LogSection, ProxyRate, ProxySection, Section, Sections, ServerLoginSection,
    StatusSection, WorkersSection,
};
use crate::config::types::{LogConfig, Unacceptable, WorkersConfig};
use crate::login::tls::TlsFiles;
use crate::proxy::detect::Protocol;
use crate::proxy::dial::own::OwnPrefixes;
use crate::proxy::dial::{Guard, Source};
use crate::proxy::http::{Disclosure, Mark};
use crate::proxy::origins::Origins;
use crate::proxy::records::Format;
use crate::proxy::settings::{Auth, Entrance, EntranceTls, Kept, LogSettings, Rules};

/// Everything `corelane proxy` needs to know.
#[derive(Clone, Debug)]
pub struct ProxyConfig {
    /// The ways in, at least one.
    pub entrances: Vec<Entrance>,
    /// How many workers, and where they run.
    pub workers: WorkersConfig,
    /// Where `corelane status` asks; nowhere in particular if nothing was said of it.
    pub status_socket: Option<PathBuf>,
    /// Who its clients may be, if they have to say it.
    pub accounts: Option<AccountsConfig>,
    /// What to log and how.
    pub log: LogConfig,
}

impl ProxyConfig {
    /// The command that takes it.
    pub(crate) const COMMAND: &str = "corelane proxy";
    /// The tables beside `[[proxy]]` that count for it.
    pub(crate) const TABLES: [&str; 5] = [
        AccountsSection::NAME,
        LogSection::NAME,
        ServerLoginSection::NAME,
        StatusSection::NAME,
        WorkersSection::NAME,
    ];
}

/// One `[[proxy]]`, where it is, and the tables inside of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct ProxyTable {
    pub(crate) place: Origin,
    pub(crate) keys: ProxySection,
    pub(crate) rules: Vec<RuleTable>,
    pub(crate) upstreams: Vec<UpstreamTable>,
}

/// Where clients of the proxy come: `tcp://ADDRESS:PORT`, or `tls://ADDRESS:PORT` for those who
/// speak TLS first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProxyListen {
    pub(crate) address: SocketAddr,
    pub(crate) tls: bool,
}

impl FromStr for ProxyListen {
    type Err = Unacceptable;

    fn from_str(text: &str) -> Result<Self, Unacceptable> {
        let (tls, address) = match text.strip_prefix("tls://") {
            Some(address) => (true, address),
            None => (false, text.strip_prefix("tcp://").unwrap_or(text)),
        };
        let address = address.parse().map_err(|_| Unacceptable("an address to listen on"))?;
        Ok(Self { address, tls })
    }
}

impl fmt::Display for ProxyListen {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "tls" } else { "tcp" };
        write!(out, "{scheme}://{}", self.address)
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

/// The name by which `Via` tells of the proxy: a host, with a port or without, or a pseudonym (RFC
/// 9110 section 7.6.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ViaName(pub(crate) Arc<str>);

impl FromStr for ViaName {
    type Err = Unacceptable;

    fn from_str(text: &str) -> Result<Self, Unacceptable> {
        let is_named = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
        let is_name = (1..=64).contains(&text.len()) && text.bytes().all(is_named);
        is_name.then(|| Self(text.into())).ok_or(Unacceptable("a host or pseudonym"))
    }
}

impl fmt::Display for ViaName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// What becomes of a header that names clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClientMark(pub(crate) Mark);

impl ClientMark {
    pub(crate) const OFF: Self = Self(Mark::Off);
}

const MARKS: [(&str, Mark); 3] =
    [("off", Mark::Off), ("append", Mark::Append), ("replace", Mark::Replace)];

impl FromStr for ClientMark {
    type Err = Unacceptable;

    fn from_str(text: &str) -> Result<Self, Unacceptable> {
        let found = MARKS.iter().find(|(name, _)| *name == text);
        found.map(|(_, mark)| Self(*mark)).ok_or(Unacceptable("off, append or replace"))
    }
}

impl fmt::Display for ClientMark {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = MARKS.iter().find(|(_, mark)| *mark == self.0);
        out.write_str(found.map_or("", |(name, _)| name))
    }
}

/// UDP ports from the first to the last: `20000-20999`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PortRange {
    first: u16,
    last: u16,
}

impl FromStr for PortRange {
    type Err = Unacceptable;

    fn from_str(text: &str) -> Result<Self, Unacceptable> {
        let port = |text: &str| text.parse().ok().filter(|port| *port > 0);
        let ends = text.split_once('-').and_then(|(first, last)| Some((port(first)?, port(last)?)));
        let ordered = ends.filter(|(first, last)| first <= last);
        ordered.map(|(first, last)| Self { first, last }).ok_or(Unacceptable("a range of ports"))
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}-{}", self.first, self.last)
    }
}

/// Whether clients of the proxy have to say who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProxyAuth(pub(crate) Auth);

const AUTHS: [(&str, Auth); 2] = [("off", Auth::Off), ("required", Auth::Required)];

impl FromStr for ProxyAuth {
    type Err = Unacceptable;

    fn from_str(text: &str) -> Result<Self, Unacceptable> {
        let found = AUTHS.iter().find(|(name, _)| *name == text);
        found.map(|(_, auth)| Self(*auth)).ok_or(Unacceptable("off or required"))
    }
}

impl fmt::Display for ProxyAuth {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = AUTHS.iter().find(|(_, auth)| *auth == self.0);
        out.write_str(found.map_or("", |(name, _)| name))
    }
}

/// Whether somebody has to be asked who clients are.
pub(crate) fn needs_accounts(sections: &Sections) -> bool {
    sections.proxies.iter().any(|ProxyTable { keys, .. }| {
        keys.auth.value.0 == Auth::Required || !keys.auth_from.value.is_empty()
    })
}

/// Complains where somebody has to be asked who clients are and nobody knows; `help` mends that.
pub(crate) fn miss_accounts(sections: &Sections, help: &str, problems: &mut Problems) {
    for ProxyTable { keys, .. } in &sections.proxies {
        if keys.auth.value.0 == Auth::Required {
            let what = "clients are to say who they are, and there are no accounts to know them";
            let help = format!("{help}, or leave `auth` out");
            problems.error_with_help(keys.auth.origin.clone(), what, help);
        }
        if !keys.auth_from.value.is_empty() {
            let what = "other proxies are to be told who their clients are, and there are no \
                        accounts that know them";
            let help = format!("{help}, or leave `auth_from` out");
            problems.error_with_help(keys.auth_from.origin.clone(), what, help);
        }
    }
}

/// Warns of accounts that nobody is looked up in.
pub(crate) fn warn_of_idle_accounts(sections: &Sections, problems: &mut Problems) {
    let entries = sections.accounts.entries();
    let given = entries.into_iter().find(|entry| entry.origin != Origin::Default);
    if let (Some(entry), false) = (given, sections.proxies.is_empty()) {
        let what = "these accounts are not opened: no `[[proxy]]` has clients say who they are \
                    (`auth = \"required\"`)";
        problems.warning(entry.origin, what);
    }
}

/// The entrances that the tables describe, once `problems` has heard of everything that is wrong
/// with them.
pub(crate) fn entrances(sections: &Sections, problems: &mut Problems) -> Vec<Entrance> {
    let mut seen = BTreeSet::new();
    for table in &sections.proxies {
        check(table, &mut seen, problems);
    }
    check_logs(&sections.proxies, problems);
    warn_of_side_entrance(&sections.proxies, problems);
    warn_of_ways_round(&sections.proxies, problems);
    let login = &sections.server_login;
    let entrances = sections.proxies.iter().map(|table| {
        let tls = tls(table, login, problems);
        entrance(table, tls)
    });
    entrances.collect()
}

fn check(table: &ProxyTable, seen: &mut BTreeSet<SocketAddr>, problems: &mut Problems) {
    let ProxyTable { place, keys, rules, upstreams } = table;
    routes::check(rules, upstreams, problems);
    if keys.auth.value.0 == Auth::Off {
        routes::warn_of_nobody(rules, problems);
        if keys.usage_by_destination.value {
            let what = "nothing is counted for users: the clients of this `[[proxy]]` do not say \
                        who they are (`auth = \"required\"`)";
            problems.warning(keys.usage_by_destination.origin.clone(), what);
        }
    }
    if keys.listen.value.is_empty() && keys.listen.origin == Origin::Default {
        let help = "such as `listen = [\"tcp://127.0.0.1:1080\"]`, or `--listen 127.0.0.1:1080`";
        problems.error_with_help(place.clone(), "a proxy has nowhere to listen", help);
    }
    let from = &keys.dial_from;
    if dial_from(&from.value).addresses().count() < from.value.len() {
        let what = "connections come from one address of each family, and here are more";
        problems.error(from.origin.clone(), what);
    }
    if keys.protocols.value.is_empty() {
        problems.error(keys.protocols.origin.clone(), "no protocol is left to speak");
    }
    let has_certificates = keys.client_ca_file.value.is_some() && keys.certificate_required.value;
    for ProxyListen { address, tls } in &keys.listen.value {
        if address.port() != 0 && !seen.insert(*address) {
            let what = format!("`{address}` is listened on twice");
            problems.error(keys.listen.origin.clone(), what);
        }
        let is_closed = has_certificates && *tls
            || keys.allow_remote.value
            || keys.auth.value.0 == Auth::Required;
        if !address.ip().to_canonical().is_loopback() && !is_closed {
            let what = format!(
                "`{address}` can be reached from other hosts, and whoever reaches it may use this \
                 proxy: it would be an open one, which strangers find within hours"
            );
            let help = "listen on 127.0.0.1 or [::1]; or have clients say who they are \
                        (`auth = \"required\"`); or demand a certificate of them \
                        (`tls://` and `client_ca_file`); or, where a firewall or a tunnel decides \
                        who reaches it, say so by `allow_remote = true` (`--allow-remote`)";
            problems.error_with_help(keys.listen.origin.clone(), what, help);
        }
    }
}

/// Warns where `allow` lets clients connect to the gateway by way of itself, and it believes what
/// comes from such an address: a list for other proxies has it.
fn warn_of_ways_round(tables: &[ProxyTable], problems: &mut Problems) {
    let listens = tables.iter().flat_map(|table| &table.keys.listen.value);
    let mut own: Vec<IpAddr> = listens.map(|listen| listen.address.ip().to_canonical()).collect();
    own.retain(|address| !address.is_unspecified());
    own.extend([IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()]);
    let prefixes: OwnPrefixes = own.iter().copied().map(IpNet::from).collect();
    for ProxyTable { keys: theirs, .. } in tables {
        let guard = Guard { allowed: theirs.allow.value.clone() };
        let open: Vec<_> = own.iter().filter(|it| guard.judge(**it, &prefixes).is_ok()).collect();
        for ProxyTable { keys, .. } in tables {
            for (name, listed) in
                [("auth_from", &keys.auth_from), ("proxy_protocol_from", &keys.proxy_protocol_from)]
            {
                let is_listed = |address: &&&IpAddr| {
                    listed.value.iter().any(|prefix| prefix.contains(**address))
                };
                let Some(address) = open.iter().find(is_listed) else { continue };
                let what = format!(
                    "this lets clients reach `{address}`, and so the gateway itself, as if they \
                     were a proxy in `{name}`, which may claim to be anybody: allow single \
                     addresses of other hosts, or list an address that `allow` does not open"
                );
                problems.warning(theirs.allow.origin.clone(), what);
            }
        }
    }
}

/// Warns where flags add an entrance for everybody to a file whose entrances are not.
fn warn_of_side_entrance(tables: &[ProxyTable], problems: &mut Problems) {
    let is_closed = |table: &&ProxyTable| table.keys.auth.value.0 == Auth::Required;
    let is_of_flags = |table: &&ProxyTable| matches!(table.place, Origin::Flag(_));
    let open = tables.iter().find(|table| is_of_flags(table) && !is_closed(table));
    if let (Some(open), true) = (open, tables.iter().any(|table| is_closed(&table))) {
        let what = "this is an entrance of its own, beside those of the file, and its clients do \
                    not say who they are";
        problems.warning(open.place.clone(), what);
    }
}

/// Complains of access logs that would be in two formats, and of a format for none.
fn check_logs(tables: &[ProxyTable], problems: &mut Problems) {
    for (number, ProxyTable { keys, .. }) in tables.iter().enumerate() {
        let (place, format) = (&keys.access_log.value, keys.access_log_format.value);
        if place.is_none() && format != Format::Text {
            let help = "say where by `access_log = \"/var/log/corelane/access.log\"`";
            let what = "this is the format of an access log, and there is none";
            problems.error_with_help(keys.access_log_format.origin.clone(), what, help);
        }
        let is_other = |other: &&ProxyTable| {
            other.keys.access_log.value == *place && other.keys.access_log_format.value != format
        };
        let before = tables.iter().take(number);
        if place.is_some() && before.filter(is_other).count() > 0 {
            let what = "another `[[proxy]]` writes the same access log in another format";
            problems.error(keys.access_log.origin.clone(), what);
        }
    }
}

/// TLS of an entrance: with the certificate of the logins, unless it has one of its own.
fn tls(
    table: &ProxyTable,
    login: &ServerLoginSection,
    problems: &mut Problems,
) -> Option<EntranceTls> {
    let keys = &table.keys;
    if !keys.listen.value.iter().any(|listen| listen.tls) {
        for (name, file) in [
            ("certificate_file", &keys.certificate_file),
            ("key_file", &keys.key_file),
            ("client_ca_file", &keys.client_ca_file),
            ("client_crl_file", &keys.client_crl_file),
        ] {
            if file.value.is_some() {
                let what = format!("`{name}` has no effect without `tls://` in `listen`");
                problems.warning(file.origin.clone(), what);
            }
        }
        return None;
    }
    let own = (&keys.certificate_file.value, &keys.key_file.value);
    let of_login = (&login.certificate_file.value, &login.key_file.value);
    let (certificate, key) = match (own, of_login) {
        ((Some(certificate), Some(key)), _) => (certificate.clone(), key.clone()),
        ((None, None), (Some(certificate), Some(key))) => (certificate.clone(), key.clone()),
        _ => {
            let what = "`tls://` needs `certificate_file` and `key_file`, both of them";
            let help = "`corelane init` makes a certificate and its key; without the two here, \
                        those of [login] are taken";
            problems.error_with_help(keys.listen.origin.clone(), what, help);
            return None;
        }
    };
    let client_ca = keys.client_ca_file.value.clone();
    let client_crl = keys.client_crl_file.value.clone();
    if client_ca.is_none() && client_crl.is_some() {
        let what = "`client_crl_file` revokes certificates of `client_ca_file`, which is missing";
        problems.error(keys.client_crl_file.origin.clone(), what);
    }
    let files = TlsFiles { certificate, key, client_ca, client_crl };
    Some(EntranceTls { files, demands_certificate: keys.certificate_required.value })
}

fn dial_from(addresses: &[IpAddr]) -> Source {
    let mut source = Source::default();
    for address in addresses {
        match address.to_canonical() {
            IpAddr::V4(address) => source.ipv4 = Some(address),
            IpAddr::V6(address) => source.ipv6 = Some(address),
        }
    }
    source
}

fn entrance(table: &ProxyTable, tls: Option<EntranceTls>) -> Entrance {
    let keys = &table.keys;
    let seconds = |value: u32| Duration::from_secs(value.into());
    let addresses = |tls: bool| {
        let listen = keys.listen.value.iter().filter(|listen| listen.tls == tls);
        listen.map(|listen| listen.address).collect()
    };
    let rate = |per_s: ProxyRate| Some(per_s.as_u32()).filter(|per_s| *per_s > 0);
    let lasts_s = keys.lasts_max_s.value.as_u32();
    Entrance {
        listen: addresses(false),
        listen_tls: addresses(true),
        tls,
        access_log: keys
            .access_log
            .value
            .clone()
            .map(|place| LogSettings { place, format: keys.access_log_format.value }),
        rules: Rules {
            auth: keys.auth.value.0,
            protocols: keys.protocols.value.iter().map(|protocol| protocol.0).collect(),
            proxy_protocol_from: keys.proxy_protocol_from.value.clone(),
            auth_from: keys.auth_from.value.clone(),
            guard: Guard { allowed: keys.allow.value.clone() },
            dial_from: dial_from(&keys.dial_from.value),
            udp_ports: keys.udp_ports.value.map(|ports| ports.first..=ports.last),
            serves_datagrams: true,
            routes: routes::routes(&table.rules, &table.upstreams),
            upstreams: routes::groups(&table.upstreams, dial_from(&keys.dial_from.value)),
            origins: Arc::new(Origins::new(keys.origin_ca_file.value.clone())),
            request_within: seconds(keys.request_within_s.value.as_u32()),
            dial_within: seconds(keys.dial_within_s.value.as_u32()),
            bind_within: seconds(keys.bind_within_s.value.as_u32()),
            response_within: seconds(keys.response_within_s.value.as_u32()),
            keep_alive: seconds(keys.keep_alive_s.value.as_u32()),
            disclosure: Disclosure {
                via: keys.via.value.as_ref().map(|name| Arc::clone(&name.0)),
                forwarded: keys.forwarded.value.0,
                x_forwarded_for: keys.x_forwarded_for.value.0,
            },
            kept: Kept {
                max: keys.kept_max.value.as_usize(),
                per_origin_max: keys.kept_per_origin_max.value.as_usize(),
                lasts: seconds(keys.kept_s.value.as_u32()),
            },
            idle_max: seconds(keys.idle_max_s.value.as_u32()),
            lasts_max: (lasts_s > 0).then(|| seconds(lasts_s)),
            connections_max: keys.connections_max.value.as_usize(),
            connections_per_source_max: keys.connections_per_source_max.value.as_usize(),
            connections_per_user_max: keys.connections_per_user_max.value.as_usize(),
            connections_per_user_per_s: rate(keys.connections_per_user_per_s.value),
            connections_per_source_per_s: rate(keys.connections_per_source_per_s.value),
            usage_by_destination: keys.usage_by_destination.value,
        },
    }
}
