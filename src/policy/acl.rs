//! Rules on what may be reached through the tunnel.
//!
//! A rule is one line of text, such as `allow 10.0.0.0/8 443/tcp` or `deny ::/0`. The first rule
//! that matches decides.

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Allow or deny.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Lets the packet pass.
    Allow,
    /// Drops it.
    Deny,
}

impl FromStr for Action {
    type Err = BadAction;

    fn from_str(text: &str) -> Result<Self, BadAction> {
        match text {
            "allow" => Ok(Self::Allow),
            "deny" => Ok(Self::Deny),
            _ => Err(BadAction),
        }
    }
}

/// A text that is neither `allow` nor `deny`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("neither `allow` nor `deny`")]
pub struct BadAction;

impl fmt::Display for Action {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        })
    }
}

/// The transport protocols that a rule can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP and ICMPv6.
    Icmp,
}

impl Protocol {
    const ALL: [(Self, &'static str); 3] =
        [(Self::Tcp, "tcp"), (Self::Udp, "udp"), (Self::Icmp, "icmp")];

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(protocol, _)| *protocol == self).map_or("", |(_, name)| name)
    }
}

/// One rule: an action, and the far ends that it is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AclRule {
    /// What to do.
    pub action: Action,
    /// Addresses of the far end; `None` is any.
    pub destination: Option<IpNet>,
    /// Ports of the far end; `None` is any, and so is a protocol without ports.
    pub ports: Option<RangeInclusive<u16>>,
    /// Protocol; `None` is any.
    pub protocol: Option<Protocol>,
}

/// A text that is not a rule.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{0:?} is not a rule; one is `allow` or `deny`, then an address, a prefix or `any`, then \
     nothing, a protocol, or ports and protocol, such as `allow 10.0.0.0/8 443/tcp`, \
     `deny any 6000-6063/udp`, `allow fd00::/8 icmp`"
)]
pub struct BadRule(pub String);

impl FromStr for AclRule {
    type Err = BadRule;

    fn from_str(text: &str) -> Result<Self, BadRule> {
        parse(text).ok_or_else(|| BadRule(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<AclRule> {
    let mut words = text.split_whitespace();
    let action = words.next()?.parse().ok()?;
    let destination = match words.next()? {
        "any" => None,
        text => Some(parse_network(text)?),
    };
    let (ports, protocol) = words.next().map_or(Some((None, None)), parse_service)?;
    words.next().is_none().then_some(AclRule { action, destination, ports, protocol })
}

/// A prefix, or a single address; bits behind the prefix are cleared.
fn parse_network(text: &str) -> Option<IpNet> {
    let network = text.parse::<IpNet>().ok().map(|network| network.trunc());
    network.or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

/// `tcp`, `443/tcp`, `6000-6063/udp`, `icmp`.
fn parse_service(text: &str) -> Option<(Option<RangeInclusive<u16>>, Option<Protocol>)> {
    let (ports, protocol) = match text.split_once('/') {
        Some((ports, protocol)) => (Some(parse_ports(ports)?), protocol),
        None => (None, text),
    };
    let (protocol, _) = Protocol::ALL.into_iter().find(|(_, name)| *name == protocol)?;
    let has_ports = protocol != Protocol::Icmp;
    (has_ports || ports.is_none()).then_some((ports, Some(protocol)))
}

fn parse_ports(text: &str) -> Option<RangeInclusive<u16>> {
    let port = |text: &str| text.parse::<u16>().ok().filter(|_| !text.starts_with('+'));
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (port(first)?, port(last)?),
        None => (port(text)?, port(text)?),
    };
    (first <= last).then_some(first..=last)
}

impl fmt::Display for AclRule {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} ", self.action)?;
        match self.destination {
            Some(network) => write!(out, "{network}")?,
            None => out.write_str("any")?,
        }
        let Some(protocol) = self.protocol else { return Ok(()) };
        match &self.ports {
            Some(ports) if ports.start() == ports.end() => {
                write!(out, " {}/{}", ports.start(), protocol.name())
            }
            Some(ports) => write!(out, " {}-{}/{}", ports.start(), ports.end(), protocol.name()),
            None => write!(out, " {}", protocol.name()),
        }
    }
}

impl TryFrom<String> for AclRule {
    type Error = BadRule;

    fn try_from(text: String) -> Result<Self, BadRule> {
        text.parse()
    }
}

impl From<AclRule> for String {
    fn from(rule: AclRule) -> Self {
        rule.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_print_as_they_are_written() {
        for text in [
            "allow any",
            "deny 10.0.0.0/8",
            "allow 10.1.2.3/32 443/tcp",
            "deny any 6000-6063/udp",
            "allow fd00::/8 icmp",
            "allow any tcp",
        ] {
            assert_eq!(text.parse::<AclRule>().map(|rule| rule.to_string()), Ok(text.to_owned()));
        }
        let host = "allow 10.1.2.3".parse::<AclRule>().unwrap();
        assert_eq!(host.to_string(), "allow 10.1.2.3/32");
        assert_eq!("deny 10.1.2.3/8".parse::<AclRule>().unwrap().to_string(), "deny 10.0.0.0/8");
    }

    #[test]
    fn what_is_not_a_rule_is_refused() {
        for text in [
            "",
            "allow",
            "permit any",
            "allow 10.0.0.0/33",
            "allow any 443",
            "allow any 0-/tcp",
            "allow any 9-8/tcp",
            "allow any 70000/tcp",
            "allow any 1/icmp",
            "allow any tcp extra",
            "allow any 443/sctp",
        ] {
            assert_eq!(text.parse::<AclRule>(), Err(BadRule(text.to_owned())), "{text}");
        }
    }
}
