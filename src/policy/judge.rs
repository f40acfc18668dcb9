//! Rules made ready for packets: who may talk to whom, decided in a few comparisons.
//!
//! A packet is judged by its *far end*: where a peer's packet goes, or where a packet for the peer
//! comes from, with the port at that end. So one rule decides about both directions of a
//! conversation, and no state is kept about it. Where something about a packet cannot be told, it
//! is taken to be whatever lets it pass least: a rule that allows does not match it, a rule that
//! denies does.

use std::net::IpAddr;

use ipnet::IpNet;

use super::acl::{AclRule, Action, Protocol};
use crate::packet::ends::is_source_routed;
use crate::packet::{Ends, IpVersion, Parsed, Upper};

/// What holds where no rule says anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Defaults {
    /// What becomes of those for whom there is no rule at all. Where there are rules, what none of
    /// them matches is denied.
    pub without_rules: Action,
    /// Whether packets between two peers are dropped, unless a rule allows the other one's address
    /// by name.
    pub isolate: bool,
}

impl Default for Defaults {
    fn default() -> Self {
        Self { without_rules: Action::Allow, isolate: true }
    }
}

/// Which way a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the peer to the far end.
    FromPeer,
    /// From the far end to the peer.
    ToPeer,
}

/// The end of a conversation that is not the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FarEnd {
    /// Its address.
    pub address: IpAddr,
    /// What is spoken.
    pub upper: Upper,
    /// Its port, for TCP and UDP, unless it cannot be told.
    pub port: Option<u16>,
}

impl FarEnd {
    /// The far end of a packet that is what it seems to be.
    #[inline]
    pub fn of(ends: &Ends, direction: Direction) -> Self {
        let (address, port) = match direction {
            Direction::FromPeer => (ends.destination, ends.ports.map(|(_, port)| port)),
            Direction::ToPeer => (ends.source, ends.ports.map(|(port, _)| port)),
        };
        Self { address, upper: ends.upper, port }
    }

    /// The far end of the conversation that an ICMP error is about. The error travels against the
    /// packet that it quotes, to whoever is said to have sent that.
    fn of_quote(error: &Ends, quoted: &Ends, direction: Direction) -> Option<Self> {
        let against = match direction {
            Direction::FromPeer => Direction::ToPeer,
            Direction::ToPeer => Direction::FromPeer,
        };
        (quoted.source == error.destination).then(|| Self::of(quoted, against))
    }
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It passes.
    Pass,
    /// A rule denies it, or none allows it.
    Denied,
    /// It is between two peers that are kept apart.
    Isolated,
}

/// What decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The rule with this position.
    Rule(usize),
    /// There are rules, and none matches.
    NoRuleMatches,
    /// There is no rule.
    NoRules,
    /// The address belongs to another peer, and no rule allows it by name.
    Isolation,
    /// An IPv4 address in the clothes of an IPv6 address (`::ffff:0:0/96`) has no business in a
    /// packet (RFC 4291 section 2.5.5.2 defines it for programs).
    MappedAddress,
}

/// Rules in order, and what holds without them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Judge {
    rules: Box<[Rule]>,
    defaults: Defaults,
}

/// A rule in the form in which it is compared. An IPv4 address is compared as the mapped one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Rule {
    network: u128,
    mask: u128,
    /// Addresses of this version alone.
    version: Option<IpVersion>,
    /// The rule says which addresses it is about: not all, nor all of one version.
    names_addresses: bool,
    ports: Option<(u16, u16)>,
    protocol: Option<Protocol>,
    action: Action,
}

/// Whether a rule is about a far end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Match {
    No,
    /// As far as can be told.
    Perhaps,
    Yes,
}

/// Bits of an IPv4 address, in its mapped form.
fn bits_of(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// Bits in front of a mapped address.
const MAPPED_PREFIX_LEN: u8 = 96;

fn version_of(address: IpAddr) -> IpVersion {
    match address {
        IpAddr::V4(_) => IpVersion::V4,
        IpAddr::V6(_) => IpVersion::V6,
    }
}

impl Rule {
    fn new(rule: &AclRule) -> Self {
        let (version, network, prefix_len) = match rule.destination {
            None => (None, 0, 0),
            Some(IpNet::V4(it)) => {
                let prefix_len = MAPPED_PREFIX_LEN + it.prefix_len();
                (Some(IpVersion::V4), bits_of(it.network().into()), prefix_len)
            }
            // Mapped addresses are what programs call IPv4 addresses.
            Some(IpNet::V6(it)) => {
                let is_mapped =
                    it.prefix_len() >= MAPPED_PREFIX_LEN && it.network().to_ipv4_mapped().is_some();
                let version = if is_mapped { IpVersion::V4 } else { IpVersion::V6 };
                (Some(version), bits_of(it.network().into()), it.prefix_len())
            }
        };
        let named_beyond = if version == Some(IpVersion::V4) { MAPPED_PREFIX_LEN } else { 0 };
        Self {
            network,
            mask: u128::MAX.checked_shl(128 - u32::from(prefix_len)).unwrap_or(0),
            version,
            names_addresses: prefix_len > named_beyond,
            ports: rule.ports.as_ref().map(|ports| (*ports.start(), *ports.end())),
            protocol: rule.protocol,
            action: rule.action,
        }
    }

    #[inline]
    fn matches(&self, address: u128, far_end: &FarEnd) -> Match {
        let is_version = self.version.is_none_or(|it| it == version_of(far_end.address));
        if !is_version || address & self.mask != self.network {
            return Match::No;
        }
        let Some(protocol) = self.protocol else { return self.matches_ports(far_end) };
        match (protocol, far_end.upper) {
            (_, Upper::Unknown) => Match::Perhaps,
            (Protocol::Tcp, Upper::Tcp) | (Protocol::Udp, Upper::Udp) => {
                self.matches_ports(far_end)
            }
            (Protocol::Icmp, Upper::Icmp) => Match::Yes,
            _ => Match::No,
        }
    }

    #[inline]
    fn matches_ports(&self, far_end: &FarEnd) -> Match {
        match (self.ports, far_end.upper, far_end.port) {
            (None, _, _) => Match::Yes,
            (Some((first, last)), _, Some(port)) if (first..=last).contains(&port) => Match::Yes,
            (Some(_), Upper::Tcp | Upper::Udp | Upper::Unknown, None) => Match::Perhaps,
            (Some(_), _, _) => Match::No,
        }
    }

    /// Whether the rule decides: in doubt it does if it denies.
    #[inline]
    fn decides(&self, address: u128, far_end: &FarEnd) -> bool {
        match self.matches(address, far_end) {
            Match::Yes => true,
            Match::Perhaps => self.action == Action::Deny,
            Match::No => false,
        }
    }
}

impl Judge {
    /// Judges by `rules`, the first of which that matches decides.
    pub fn new(rules: &[AclRule], defaults: Defaults) -> Self {
        Self { rules: rules.iter().map(Rule::new).collect(), defaults }
    }

    /// How many rules there are.
    pub fn rules(&self) -> usize {
        self.rules.len()
    }

    /// Whether everything passes, so that nothing need be looked at.
    pub fn passes_everything(&self) -> bool {
        self.rules.is_empty()
            && self.defaults == Defaults { without_rules: Action::Allow, isolate: false }
    }

    /// Whether a packet from a peer, or to it, may pass. `is_other_peers` tells whether an address
    /// belongs to another peer.
    ///
    /// An ICMP error is judged by the conversation that it quotes a packet of, so that whoever may
    /// speak with a far end also hears from the routers on the way.
    pub fn judge(
        &self,
        direction: Direction,
        packet: &[u8],
        parsed: &Parsed,
        is_other_peers: impl FnOnce(IpAddr) -> bool,
    ) -> Verdict {
        if is_source_routed(packet, parsed) {
            return Verdict::Denied;
        }
        let ends = Ends::of(packet, parsed);
        let outer = FarEnd::of(&ends, direction);
        let quoted = match ends.upper {
            Upper::Icmp => Ends::quoted(packet, parsed),
            _ => None,
        };
        let quoted = quoted.and_then(|quoted| FarEnd::of_quote(&ends, &quoted, direction));
        let Some(quoted) = quoted.filter(|it| *it != outer) else {
            return self.decide(&outer, || is_other_peers(outer.address)).0;
        };
        match self.decide(&quoted, || false).0 {
            // Whoever is kept apart from the peer tells it of no errors either.
            Verdict::Pass if self.defaults.isolate && is_other_peers(outer.address) => {
                Verdict::Isolated
            }
            verdict => verdict,
        }
    }

    /// Whether the peer and a far end may talk, and what decides it.
    #[inline]
    pub fn decide(
        &self,
        far_end: &FarEnd,
        is_other_peers: impl FnOnce() -> bool,
    ) -> (Verdict, Reason) {
        if let IpAddr::V6(address) = far_end.address
            && address.to_ipv4_mapped().is_some()
        {
            return (Verdict::Denied, Reason::MappedAddress);
        }
        let address = bits_of(far_end.address);
        let mut rules = self.rules.iter().enumerate();
        let found = rules.find(|(_, rule)| rule.decides(address, far_end));
        let (action, reason, is_named) = match found {
            Some((at, rule)) => (rule.action, Reason::Rule(at), rule.names_addresses),
            None if self.rules.is_empty() => (self.defaults.without_rules, Reason::NoRules, false),
            None => (Action::Deny, Reason::NoRuleMatches, false),
        };
        match action {
            Action::Deny => (Verdict::Denied, reason),
            Action::Allow if self.defaults.isolate && !is_named && is_other_peers() => {
                (Verdict::Isolated, Reason::Isolation)
            }
            Action::Allow => (Verdict::Pass, reason),
        }
    }
}

#[cfg(test)]
mod tests;
