//! Routing rules: where a client's wish goes, by its destination, its port, and who the client is.
//!
//! The first rule that matches decides; without any, the way is direct. A rule about addresses
//! needs those of a name before it can be passed by, so such a name is looked up first: otherwise a
//! network that is blocked would be reached by every name that leads there.

use std::collections::HashSet;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

use crate::accounts::names::Name;
use crate::proxy::dial::guard::innermost;
use crate::proxy::target::{DomainName, Host, HostError, Target};

/// Where a wish goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// To the origin.
    Direct,
    /// Nowhere.
    Block,
    /// Through the group of upstream proxies that has this number.
    Upstream(usize),
}

/// A domain and everything below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suffix(DomainName);

impl FromStr for Suffix {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Self, HostError> {
        DomainName::parse(text.as_bytes()).map(Self)
    }
}

impl fmt::Display for Suffix {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.0.without_root())
    }
}

/// Ports from the first to the last, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    first: u16,
    last: u16,
}

/// A text is no port or range of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a port from 1 to 65535, or a range such as 8000-8999")]
pub struct BadPortRange;

impl PortRange {
    fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

impl FromStr for PortRange {
    type Err = BadPortRange;

    fn from_str(text: &str) -> Result<Self, BadPortRange> {
        let port = |text: &str| {
            // `parse` would take a sign.
            let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse::<u16>().ok().filter(|port| is_number && *port > 0).ok_or(BadPortRange)
        };
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let range = Self { first: port(first)?, last: port(last)? };
        if range.first <= range.last { Ok(range) } else { Err(BadPortRange) }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first == self.last {
            true => self.first.fmt(out),
            false => write!(out, "{}-{}", self.first, self.last),
        }
    }
}

/// One rule: what it matches, and where that goes. A list that is empty restricts nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Destinations by name. Together with `networks`, either will do.
    pub domains: Vec<Suffix>,
    /// Destinations by address.
    pub networks: Vec<IpNet>,
    /// Ports of the destination.
    pub ports: Vec<PortRange>,
    /// Who asks. Together with `groups`, either will do.
    pub users: Vec<Name>,
    /// Groups of which who asks is a member.
    pub groups: Vec<Name>,
    /// Where it goes.
    pub way: Way,
}

/// What is asked for, and by whom.
#[derive(Clone, Copy, Debug)]
pub struct Question<'q> {
    /// What is asked for.
    pub target: &'q Target,
    /// The addresses of its name, if it has one that was looked up.
    pub addresses: Option<&'q [IpAddr]>,
    /// Who asks, if that is known.
    pub user: Option<&'q Name>,
    /// The groups of which that is a member.
    pub groups: &'q [Name],
}

/// Rules made ready to be asked: however many domains a rule has, a name is looked for once for
/// each of its labels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routes(Vec<Compiled>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Compiled {
    domains: HashSet<Box<str>>,
    /// Sorted, and apart from each other.
    networks: Vec<IpNet>,
    ports: Vec<PortRange>,
    users: HashSet<Name>,
    groups: HashSet<Name>,
    way: Way,
}

/// Whether a rule goes for a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Match {
    Yes,
    No,
    /// That depends on the addresses of a name.
    Unclear,
}

impl Routes {
    /// Makes rules ready, the first first.
    pub fn new(rules: &[Rule]) -> Self {
        Self(rules.iter().map(Compiled::new).collect())
    }

    /// Everything goes the same way.
    pub fn all(way: Way) -> Self {
        Self::new(&[Rule {
            domains: Vec::new(),
            networks: Vec::new(),
            ports: Vec::new(),
            users: Vec::new(),
            groups: Vec::new(),
            way,
        }])
    }

    /// The way of the first rule that matches, direct if none does; `None` if the target's name has
    /// to be looked up first.
    pub fn decide(&self, question: &Question<'_>) -> Option<Way> {
        for rule in &self.0 {
            match rule.judge(question) {
                Match::Yes => return Some(rule.way),
                Match::No => {}
                Match::Unclear => return None,
            }
        }
        Some(Way::Direct)
    }

    /// Whether a rule is for groups: then a user who is in others may have to go other ways.
    pub fn asks_for_groups(&self) -> bool {
        self.0.iter().any(|rule| !rule.groups.is_empty())
    }

    /// Whether it makes no difference to the way to a target who asks.
    pub fn is_same_for_all(&self, target: &Target) -> bool {
        let question = Question { target, addresses: None, user: None, groups: &[] };
        for rule in &self.0 {
            match rule.judge_destination(&question) {
                Match::No => {}
                Match::Yes | Match::Unclear if rule.is_for_some() => return false,
                Match::Yes => return true,
                Match::Unclear => {}
            }
        }
        true
    }
}

impl Compiled {
    fn new(rule: &Rule) -> Self {
        let networks: Vec<IpNet> = rule.networks.iter().map(IpNet::trunc).collect();
        let mut networks = IpNet::aggregate(&networks);
        networks.sort_unstable_by_key(IpNet::network);
        Self {
            domains: rule.domains.iter().map(|domain| domain.0.without_root().into()).collect(),
            networks,
            ports: rule.ports.clone(),
            users: rule.users.iter().cloned().collect(),
            groups: rule.groups.iter().cloned().collect(),
            way: rule.way,
        }
    }

    fn judge(&self, question: &Question<'_>) -> Match {
        if self.is_for(question) { self.judge_destination(question) } else { Match::No }
    }

    /// The same, whoever asks.
    fn judge_destination(&self, question: &Question<'_>) -> Match {
        let port = question.target.port;
        let is_port = self.ports.is_empty() || self.ports.iter().any(|range| range.contains(port));
        if !is_port {
            return Match::No;
        }
        if self.domains.is_empty() && self.networks.is_empty() {
            return Match::Yes;
        }
        let matched = match &question.target.host {
            Host::Address(address) => self.has_address(*address),
            Host::Name(name) if self.has_name(name) => true,
            Host::Name(_) if self.networks.is_empty() => false,
            Host::Name(_) => match question.addresses {
                Some(addresses) => addresses.iter().any(|address| self.has_address(*address)),
                None => return Match::Unclear,
            },
        };
        if matched { Match::Yes } else { Match::No }
    }

    /// Whether it is for some alone.
    fn is_for_some(&self) -> bool {
        !(self.users.is_empty() && self.groups.is_empty())
    }

    fn is_for(&self, question: &Question<'_>) -> bool {
        if !self.is_for_some() {
            return true;
        }
        question.user.is_some_and(|user| self.users.contains(user))
            || question.groups.iter().any(|group| self.groups.contains(group))
    }

    /// Whether a name is one of the domains, or below one.
    fn has_name(&self, name: &DomainName) -> bool {
        let mut rest = Some(name.without_root());
        while let Some(suffix) = rest {
            if self.domains.contains(suffix) {
                return true;
            }
            rest = suffix.split_once('.').map(|(_, parent)| parent);
        }
        false
    }

    /// Whether an address is in one of the networks, as it is or as the IPv4 address inside of it.
    fn has_address(&self, address: IpAddr) -> bool {
        [address, innermost(address)].iter().any(|address| {
            let behind = self.networks.partition_point(|network| network.network() <= *address);
            let before = behind.checked_sub(1).and_then(|index| self.networks.get(index));
            before.is_some_and(|network| network.contains(address))
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A rule as the tables below write it: `domain:`, `net:`, `port:`, `user:`, `group:`.
    fn rule(text: &str, way: Way) -> Rule {
        let (mut domains, mut networks, mut ports) = (Vec::new(), Vec::new(), Vec::new());
        let (mut users, mut groups) = (Vec::new(), Vec::new());
        for word in text.split_whitespace() {
            let (kind, value) = word.split_once('=').unwrap();
            match kind {
                "domain" => domains.push(value.parse().unwrap()),
                "net" => networks.push(value.parse().unwrap()),
                "port" => ports.push(value.parse().unwrap()),
                "user" => users.push(value.parse().unwrap()),
                "group" => groups.push(value.parse().unwrap()),
                _ => panic!("{kind}"),
            }
        }
        Rule { domains, networks, ports, users, groups, way }
    }

    /// What rules say of `target`, the name of which has `addresses`, to a user with groups.
    fn decide(
        rules: &[Rule],
        target: &str,
        addresses: Option<&[&str]>,
        user: Option<&str>,
        groups: &[&str],
    ) -> Option<Way> {
        let addresses: Option<Vec<IpAddr>> =
            addresses.map(|list| list.iter().map(|text| text.parse().unwrap()).collect());
        let groups: Vec<Name> = groups.iter().map(|group| group.parse().unwrap()).collect();
        Routes::new(rules).decide(&Question {
            target: &target.parse().unwrap(),
            addresses: addresses.as_deref(),
            user: user.map(|user| user.parse().unwrap()).as_ref(),
            groups: &groups,
        })
    }

    const BLOCK: Option<Way> = Some(Way::Block);
    const DIRECT: Option<Way> = Some(Way::Direct);

    #[test]
    fn a_rule_matches_what_it_says() {
        for (text, target, expected) in [
            ("", "example.org:443", BLOCK),
            ("", "192.0.2.1:443", BLOCK),
            ("domain=example.org", "example.org:443", BLOCK),
            ("domain=example.org", "EXAMPLE.org.:443", BLOCK),
            ("domain=Example.ORG.", "www.example.org:443", BLOCK),
            ("domain=example.org", "a.b.example.org:443", BLOCK),
            ("domain=example.org", "badexample.org:443", DIRECT),
            ("domain=example.org", "example.org.evil.test:443", DIRECT),
            ("domain=example.org", "org:443", DIRECT),
            ("domain=org", "example.org:443", BLOCK),
            ("domain=example.org", "192.0.2.1:443", DIRECT),
            ("domain=a.test domain=b.test", "x.b.test:1", BLOCK),
            ("net=192.0.2.0/24", "192.0.2.255:443", BLOCK),
            ("net=192.0.2.0/24", "192.0.3.0:443", DIRECT),
            ("net=192.0.2.0/24", "[::ffff:192.0.2.9]:443", BLOCK),
            ("net=192.0.2.0/24", "[64:ff9b::192.0.2.9]:443", BLOCK),
            ("net=192.0.2.7/24", "192.0.2.9:443", BLOCK),
            ("net=2001:db8::/32", "[2001:db8::1]:443", BLOCK),
            ("net=2001:db8::/32", "192.0.2.1:443", DIRECT),
            ("net=10.0.0.0/8 net=192.0.2.0/24 net=10.1.0.0/16", "10.255.0.1:1", BLOCK),
            ("net=10.0.0.0/8 net=192.0.2.0/24 net=10.1.0.0/16", "11.0.0.1:1", DIRECT),
            ("net=0.0.0.0/0", "255.255.255.255:1", BLOCK),
            ("port=443", "example.org:443", BLOCK),
            ("port=443", "example.org:444", DIRECT),
            ("port=25 port=8000-8999", "example.org:8999", BLOCK),
            ("port=25 port=8000-8999", "example.org:9000", DIRECT),
            ("domain=example.org port=25", "example.org:443", DIRECT),
            ("domain=example.org net=192.0.2.0/24", "192.0.2.1:443", BLOCK),
            ("domain=example.org net=192.0.2.0/24", "example.org:443", BLOCK),
            ("user=alice", "example.org:443", DIRECT),
        ] {
            let rules = [rule(text, Way::Block)];
            assert_eq!(decide(&rules, target, None, None, &[]), expected, "{text} for {target}");
        }
    }

    #[test]
    fn a_way_is_the_same_for_all_unless_a_rule_for_some_is_about_it() {
        for (texts, target, expected) in [
            (&[][..], "example.org:80", true),
            (&["domain=example.org", "user=ada"], "example.org:80", true),
            (&["domain=example.org", "user=ada"], "example.com:80", false),
            (&["user=ada port=443"], "example.com:80", true),
            (&["user=ada port=443"], "example.com:443", false),
            (&["group=staff domain=example.org"], "www.example.org:80", false),
            (&["group=staff net=192.0.2.0/24"], "192.0.3.1:80", true),
            (&["group=staff net=192.0.2.0/24"], "example.org:80", false),
            (&["net=192.0.2.0/24", "user=ada"], "example.org:80", false),
        ] {
            let rules: Vec<Rule> = texts.iter().map(|text| rule(text, Way::Direct)).collect();
            let is_same = Routes::new(&rules).is_same_for_all(&target.parse().unwrap());
            assert_eq!(is_same, expected, "{texts:?} for {target}");
        }
    }

    #[test]
    fn users_and_groups_are_who_asks() {
        for (text, user, groups, expected) in [
            ("user=alice", Some("alice"), &[][..], BLOCK),
            ("user=alice", Some("bob"), &["alice"], DIRECT),
            ("user=alice", None, &[], DIRECT),
            ("group=staff", Some("bob"), &["guests", "staff"], BLOCK),
            ("group=staff", Some("staff"), &[], DIRECT),
            ("user=alice group=staff", Some("alice"), &[], BLOCK),
            ("user=alice group=staff", Some("bob"), &["staff"], BLOCK),
            ("user=alice group=staff", Some("bob"), &[], DIRECT),
            ("user=alice port=25", Some("alice"), &[], DIRECT),
        ] {
            let rules = [rule(text, Way::Block)];
            let decided = decide(&rules, "example.org:443", None, user, groups);
            assert_eq!(decided, expected, "{text} for {user:?} of {groups:?}");
        }
    }

    #[test]
    fn a_name_is_looked_up_where_its_addresses_decide_and_only_there() {
        let rules = [
            rule("domain=intra.test", Way::Direct),
            rule("net=192.0.2.0/24 port=443", Way::Block),
            rule("domain=blocked.test", Way::Block),
        ];
        for (target, addresses, expected) in [
            ("www.intra.test:443", None, DIRECT),
            ("example.org:443", None, None),
            ("example.org:443", Some(&["192.0.2.1"][..]), BLOCK),
            ("example.org:443", Some(&["198.51.100.1", "::ffff:192.0.2.1"]), BLOCK),
            ("example.org:443", Some(&["198.51.100.1"]), DIRECT),
            ("example.org:80", None, DIRECT),
            ("blocked.test:80", None, BLOCK),
            ("blocked.test:443", None, None),
            ("blocked.test:443", Some(&["198.51.100.1"]), BLOCK),
            ("198.51.100.1:443", None, DIRECT),
        ] {
            let decided = decide(&rules, target, addresses, None, &[]);
            assert_eq!(decided, expected, "{target} {addresses:?}");
        }
    }

    #[test]
    fn a_way_through_a_group_is_one_like_the_others() {
        let rules = [rule("domain=far.test", Way::Upstream(1)), rule("", Way::Upstream(0))];
        assert_eq!(decide(&rules, "www.far.test:1", None, None, &[]), Some(Way::Upstream(1)));
        assert_eq!(decide(&rules, "192.0.2.1:1", None, None, &[]), Some(Way::Upstream(0)));
    }

    #[test]
    fn the_first_rule_decides() {
        let (allow, deny) =
            (rule("domain=good.example.org", Way::Direct), rule("domain=example.org", Way::Block));
        let both = [allow.clone(), deny.clone()];
        assert_eq!(decide(&both, "good.example.org:1", None, None, &[]), DIRECT);
        assert_eq!(decide(&both, "bad.example.org:1", None, None, &[]), BLOCK);
        assert_eq!(decide(&[deny, allow], "good.example.org:1", None, None, &[]), BLOCK);
        assert_eq!(decide(&[], "good.example.org:1", None, None, &[]), DIRECT);
    }

    #[test]
    fn what_is_no_port_or_domain_is_refused() {
        for text in ["", "0", "65536", "+1", "2-1", "1-", "-1", "1-2-3", "a", "0-5", "1 - 2"] {
            assert_eq!(text.parse::<PortRange>(), Err(BadPortRange), "{text}");
        }
        for text in ["1", "65535", "1-65535", "7-8"] {
            assert_eq!(text.parse::<PortRange>().unwrap().to_string(), text);
        }
        for text in ["", ".example.org", "*.example.org", "192.0.2.1", "a b", "a..b"] {
            assert!(text.parse::<Suffix>().is_err(), "{text}");
        }
        assert_eq!("Example.org.".parse::<Suffix>().unwrap().to_string(), "example.org");
    }

    fn name() -> impl Strategy<Value = String> {
        prop::collection::vec("[ab]{1,2}", 1..4).prop_map(|labels| labels.join("."))
    }

    fn network() -> impl Strategy<Value = IpNet> {
        let four = (0_u32..8, 24_u8..=32).prop_map(|(host, len)| {
            IpNet::new(IpAddr::V4((0xc000_0200 | host).into()), len).unwrap()
        });
        let six = (0_u128..8, 120_u8..=128).prop_map(|(host, len)| {
            IpNet::new(IpAddr::V6(((0x2001_0db8_u128 << 96) | host).into()), len).unwrap()
        });
        prop_oneof![four, six]
    }

    proptest! {
        #[test]
        fn names_match_as_their_last_labels_do(
            suffixes in prop::collection::vec(name(), 0..4),
            asked in name(),
        ) {
            let text: Vec<String> = suffixes.iter().map(|it| format!("domain={it}")).collect();
            // A rule without a destination would match everything.
            let rules = [rule(&format!("domain=z {}", text.join(" ")), Way::Block)];
            let labels: Vec<&str> = asked.split('.').collect();
            let expected = suffixes.iter().any(|suffix| {
                labels.ends_with(&suffix.split('.').collect::<Vec<_>>())
            });
            let decided = decide(&rules, &format!("{asked}:1"), None, None, &[]);
            prop_assert_eq!(decided, if expected { BLOCK } else { DIRECT });
        }

        #[test]
        fn addresses_match_as_the_networks_do_one_by_one(
            networks in prop::collection::vec(network(), 1..6),
            host in network(),
        ) {
            let rules = [Rule { networks: networks.clone(), ..rule("", Way::Block) }];
            let address = host.addr();
            let expected = networks.iter().any(|network| network.contains(&address));
            let target = Target::from_address((address, 1).into()).to_string();
            let decided = decide(&rules, &target, None, None, &[]);
            prop_assert_eq!(decided, if expected { BLOCK } else { DIRECT });
        }
    }
}
