//! `[[proxy.rule]]` and `[[proxy.upstream]]`: which way the wishes of a proxy's clients go.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use toml::Spanned;
use toml::de::DeValue;

use crate::accounts::names::Name;
use crate::config::problems::{Origin, Problems};
use crate::config::schema::{Entry, ProxyLasts, ProxyReady, Reload, Section, Setting, section};
use crate::config::types::Unacceptable;
use crate::config::values::{ConfigValue, Reader, TextValue, quoted};
use crate::limits::PROXY_UPSTREAM_SERVERS_MAX;
use crate::login::tls::Pin;
use crate::proxy::dial::Source;
use crate::proxy::header::Version;
use crate::proxy::target::Target;
use crate::proxy::upstream::group::{Balance, Group, GroupSettings, ServerAddress};
use crate::proxy::upstream::handshake::Scheme;
use crate::proxy::upstream::rules::{PortRange, Suffix};
use crate::proxy::upstream::tls::TlsSettings;
use crate::proxy::upstream::{Routes, Rule, Way};

section! {
    /// One `[[proxy.rule]]`
    RuleSection = "proxy.rule" {
        domains: Vec<Suffix> = Vec::new(), Live;
        networks: Vec<IpNet> = Vec::new(), Live;
        ports: Vec<PortRange> = Vec::new(), Live;
        users: Vec<Name> = Vec::new(), Live;
        groups: Vec<Name> = Vec::new(), Live;
        to: Option<RuleWay> = None, Live;
    }
}

section! {
    /// One `[[proxy.upstream]]`
    UpstreamSection = "proxy.upstream" {
        name: Option<Name> = None, Live;
        servers: Vec<ServerAddress> = Vec::new(), Live;
        credentials_file: Option<PathBuf> = None, Live;
        token_file: Option<PathBuf> = None, Live;
        ca_file: Option<PathBuf> = None, Live;
        ca_pin: Option<Pin> = None, Live;
        certificate_file: Option<PathBuf> = None, Live;
        key_file: Option<PathBuf> = None, Live;
        ready: ProxyReady = ProxyReady::clamped(0), Live;
        proxy_header: Option<Version> = None, Live;
        balance: Balance = Balance::default(), Live;
        check: Option<Target> = None, Live;
        check_every_s: ProxyLasts = ProxyLasts::clamped(0), Live;
    }
}

/// One `[[proxy.upstream]]` and where it is.
#[derive(Clone, Debug)]
pub(crate) struct UpstreamTable {
    pub(crate) place: Origin,
    pub(crate) keys: UpstreamSection,
}

/// One `[[proxy.rule]]` and where it is.
#[derive(Clone, Debug)]
pub(crate) struct RuleTable {
    pub(crate) place: Origin,
    pub(crate) keys: RuleSection,
}

/// Where a rule says that a wish goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RuleWay {
    /// To the origin.
    Direct,
    /// Nowhere.
    Block,
    /// Through the group of upstream proxies of that name.
    Upstream(Name),
}

impl FromStr for RuleWay {
    type Err = Unacceptable;

    fn from_str(text: &str) -> Result<Self, Unacceptable> {
        match text {
            "direct" => Ok(Self::Direct),
            "block" => Ok(Self::Block),
            name => name.parse().map(Self::Upstream).map_err(|_| Unacceptable("a way")),
        }
    }
}

impl fmt::Display for RuleWay {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Direct => "direct",
            Self::Block => "block",
            Self::Upstream(name) => name.as_str(),
        })
    }
}

const HEADERS: [(&str, Version); 2] = [("v1", Version::V1), ("v2", Version::V2)];

impl TextValue for Version {
    const EXPECTED: &'static str = "\"v1\" or \"v2\"";

    fn parse_text(text: &str) -> Option<Self> {
        HEADERS.into_iter().find(|(name, _)| *name == text).map(|(_, version)| version)
    }

    fn to_text(&self) -> String {
        let found = HEADERS.into_iter().find(|(_, version)| version == self);
        found.map_or("", |(name, _)| name).to_owned()
    }
}

impl TextValue for Balance {
    const EXPECTED: &'static str = "\"round-robin\", \"least-connections\", \"source\" or \"user\"";

    fn parse_text(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(name, _)| *name == text).map(|(_, balance)| balance)
    }

    fn to_text(&self) -> String {
        let found = Self::ALL.into_iter().find(|(_, balance)| balance == self);
        found.map_or("", |(name, _)| name).to_owned()
    }
}

/// A port is a number in TOML, a range of them a text.
impl ConfigValue for PortRange {
    fn takes() -> String {
        "a port such as 443, or a range such as \"8000-8999\"".to_owned()
    }

    fn read(value: &Spanned<DeValue<'_>>, reader: &mut Reader<'_>) -> Option<Self> {
        let read = match value.get_ref() {
            DeValue::String(text) => text.parse().ok(),
            DeValue::Integer(integer) if integer.radix() == 10 => integer.as_str().parse().ok(),
            _ => None,
        };
        if read.is_none() {
            reader.refuse(value, &Self::takes());
        }
        read
    }

    fn to_toml(&self) -> Option<String> {
        Some(quoted(&self.to_string()))
    }
}

/// Tells `problems` of what is wrong with the rules of a proxy.
pub(crate) fn check(rules: &[RuleTable], upstreams: &[UpstreamTable], problems: &mut Problems) {
    check_upstreams(upstreams, problems);
    warn_of_idle_upstreams(rules, upstreams, problems);
    let mut is_reached = true;
    for RuleTable { place, keys } in rules {
        if keys.to.value.is_none() && keys.to.origin == Origin::Default {
            let help = "say `to = \"block\"`, `to = \"direct\"`, or the name of an upstream";
            problems.error_with_help(place.clone(), "a rule has to say where to", help);
        }
        if let Some(RuleWay::Upstream(name)) = &keys.to.value
            && number_of(name, upstreams).is_none()
        {
            let what = format!("there is no upstream `{}`", name.as_str());
            let help = "write a `[[proxy.upstream]]` with this `name` below the same `[[proxy]]`; \
                        or say \"direct\" or \"block\"";
            problems.error_with_help(keys.to.origin.clone(), what, help);
        }
        if !is_reached {
            let what = "this rule is never reached: one above it matches everything";
            let help = "the first rule that matches decides; one without `domains`, `networks`, \
                        `ports`, `users` and `groups` matches everything, and comes last";
            problems.error_with_help(place.clone(), what, help);
        }
        is_reached &= !matches_everything(keys);
    }
}

/// Warns of rules about users where nobody says who they are.
pub(crate) fn warn_of_nobody(rules: &[RuleTable], problems: &mut Problems) {
    for RuleTable { keys, .. } in rules {
        let (users, groups) = (&keys.users, &keys.groups);
        let lists =
            [(users.value.is_empty(), &users.origin), (groups.value.is_empty(), &groups.origin)];
        if let Some((_, origin)) = lists.into_iter().find(|(is_empty, _)| !is_empty) {
            let what = "this rule never matches: it is about who asks, and the clients of this \
                        `[[proxy]]` do not say who they are (`auth = \"required\"`)";
            problems.warning(origin.clone(), what);
        }
    }
}

/// Warns of upstreams that no rule leads to.
fn warn_of_idle_upstreams(
    rules: &[RuleTable],
    upstreams: &[UpstreamTable],
    problems: &mut Problems,
) {
    for UpstreamTable { keys, .. } in upstreams {
        let Some(name) = &keys.name.value else { continue };
        let way = Some(RuleWay::Upstream(name.clone()));
        if !rules.iter().any(|rule| rule.keys.to.value == way) {
            let what = format!(
                "nothing goes through this: no `[[proxy.rule]]` says `to = \"{}\"`",
                name.as_str()
            );
            problems.warning(keys.name.origin.clone(), what);
        }
    }
}

fn check_upstreams(upstreams: &[UpstreamTable], problems: &mut Problems) {
    let mut seen = BTreeSet::new();
    for UpstreamTable { place, keys } in upstreams {
        match &keys.name.value {
            Some(name) if ["direct", "block"].contains(&name.as_str()) => {
                let what = format!("`{}` has a meaning of its own in rules", name.as_str());
                problems.error(keys.name.origin.clone(), what);
            }
            Some(name) if !seen.insert(name.as_str()) => {
                let what = format!("there are two upstreams `{}`", name.as_str());
                problems.error(keys.name.origin.clone(), what);
            }
            None if keys.name.origin == Origin::Default => {
                let help = "such as `name = \"far\"`, for `to = \"far\"` in a rule";
                problems.error_with_help(place.clone(), "an upstream has no name", help);
            }
            Some(_) | None => {}
        }
        let count = keys.servers.value.len();
        if count == 0 && keys.servers.origin == Origin::Default {
            let help = "such as `servers = [\"socks5://192.0.2.1:1080\"]`";
            problems.error_with_help(place.clone(), "an upstream has no servers", help);
        }
        if count > PROXY_UPSTREAM_SERVERS_MAX {
            let what = format!("an upstream has at most {PROXY_UPSTREAM_SERVERS_MAX} servers");
            problems.error(keys.servers.origin.clone(), what);
        }
        check_tls(keys, problems);
        if keys.ready.value.as_u32() > 0
            && !keys.servers.value.iter().any(|server| server.scheme.is_http())
        {
            let what = "no connection is kept ready to servers of SOCKS5";
            let help = "leave `ready` out, or name a server by http:// or https://";
            problems.error_with_help(keys.ready.origin.clone(), what, help);
        }
        if keys.ready.value.as_u32() > 0 && keys.proxy_header.value.is_some() {
            let what = "a connection that is kept ready is nobody's yet, and its header would name \
                        somebody";
            let help = "leave `ready` or `proxy_header` out";
            problems.error_with_help(keys.proxy_header.origin.clone(), what, help);
        }
        if keys.check.value.is_some() && keys.check_every_s.value.as_u32() == 0 {
            let help = "say how often by `check_every_s`";
            problems.error_with_help(keys.check.origin.clone(), "this is never checked", help);
        }
    }
}

/// Tells of keys that contradict each other, or go for other servers than the group has.
fn check_tls(keys: &UpstreamSection, problems: &mut Problems) {
    let has = |scheme| keys.servers.value.iter().any(|server| server.scheme == scheme);
    let files = [&keys.ca_file, &keys.certificate_file, &keys.key_file];
    let mut of_tls: Vec<&Origin> =
        files.into_iter().filter(|file| file.value.is_some()).map(|file| &file.origin).collect();
    of_tls.extend(keys.ca_pin.value.map(|_| &keys.ca_pin.origin));
    if let Some(origin) = of_tls.first()
        && !has(Scheme::Https)
    {
        let help = "such as `servers = [\"https://proxy.example.org:8443\"]`";
        let what = "this goes for servers that speak TLS, and the group has none";
        problems.error_with_help((*origin).clone(), what, help);
    }
    if keys.ca_file.value.is_some() && keys.ca_pin.value.is_some() {
        let what = "whom to trust is said twice: by `ca_file` and by `ca_pin`";
        problems.error(keys.ca_pin.origin.clone(), what);
    }
    let (certificate, key) = (&keys.certificate_file, &keys.key_file);
    if certificate.value.is_some() != key.value.is_some() {
        let origin = if certificate.value.is_some() { &certificate.origin } else { &key.origin };
        problems.error(origin.clone(), "`certificate_file` and `key_file` go together");
    }
    if keys.token_file.value.is_none() {
        return;
    }
    let origin = keys.token_file.origin.clone();
    if keys.credentials_file.value.is_some() {
        problems.error(origin, "who asks is said twice: by `credentials_file` and by `token_file`");
    } else if has(Scheme::Socks5) {
        let help = "give user and token as USER:TOKEN in `credentials_file`";
        problems.error_with_help(origin, "SOCKS5 has no way to show a token alone", help);
    }
}

fn number_of(name: &Name, upstreams: &[UpstreamTable]) -> Option<usize> {
    upstreams.iter().position(|upstream| upstream.keys.name.value.as_ref() == Some(name))
}

fn matches_everything(keys: &RuleSection) -> bool {
    let RuleSection { domains, networks, ports, users, groups, to: _ } = keys;
    let lists = [
        (domains.value.is_empty(), &domains.origin),
        (networks.value.is_empty(), &networks.origin),
        (ports.value.is_empty(), &ports.origin),
        (users.value.is_empty(), &users.origin),
        (groups.value.is_empty(), &groups.origin),
    ];
    lists.into_iter().all(|(is_empty, origin)| is_empty && *origin == Origin::Default)
}

/// The rules that the tables describe.
pub(crate) fn routes(rules: &[RuleTable], upstreams: &[UpstreamTable]) -> Routes {
    let rules: Vec<Rule> = rules.iter().filter_map(|table| rule(&table.keys, upstreams)).collect();
    Routes::new(&rules)
}

/// The groups that the tables describe.
pub(crate) fn groups(upstreams: &[UpstreamTable], dial_from: Source) -> Vec<Arc<Group>> {
    let group = |UpstreamTable { keys, .. }: &UpstreamTable| {
        let every_s = keys.check_every_s.value.as_u32();
        Some(Arc::new(Group::new(GroupSettings {
            // A table without one has been complained of.
            name: keys.name.value.clone()?,
            servers: keys.servers.value.clone(),
            credentials_file: keys.credentials_file.value.clone(),
            token_file: keys.token_file.value.clone(),
            tls: TlsSettings {
                ca_file: keys.ca_file.value.clone(),
                pin: keys.ca_pin.value,
                identity: keys.certificate_file.value.clone().zip(keys.key_file.value.clone()),
            },
            ready: keys.ready.value.as_usize(),
            header: keys.proxy_header.value,
            dial_from,
            balance: keys.balance.value,
            check_every: (every_s > 0).then(|| Duration::from_secs(every_s.into())),
            check: keys.check.value.clone(),
        })))
    };
    upstreams.iter().filter_map(group).collect()
}

fn rule(keys: &RuleSection, upstreams: &[UpstreamTable]) -> Option<Rule> {
    Some(Rule {
        domains: keys.domains.value.clone(),
        networks: keys.networks.value.clone(),
        ports: keys.ports.value.clone(),
        users: keys.users.value.clone(),
        groups: keys.groups.value.clone(),
        way: match keys.to.value.as_ref()? {
            RuleWay::Upstream(name) => Way::Upstream(number_of(name, upstreams)?),
            RuleWay::Direct => Way::Direct,
            RuleWay::Block => Way::Block,
        },
    })
}
