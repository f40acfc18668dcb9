//! Policy routing rules (fib_rules).

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::route::RouteHeader;
use netlink_packet_route::rule::{
    RuleAction, RuleAttribute, RuleFlags, RuleMessage, RulePortRange,
};
use netlink_packet_route::{IpProtocol, RouteNetlinkMessage};

use super::{Family, Netlink, NetlinkError};

/// What the kernel reports where a rule suppresses nothing.
const SUPPRESS_NOTHING: u32 = u32::MAX;

/// A rule that sends lookups to a routing table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The IP version it applies to.
    pub family: Family,
    /// Its place in the list; lower is asked first.
    pub priority: u32,
    /// The firewall mark a packet must have.
    pub fwmark: Option<u32>,
    /// The address that a packet must go to.
    pub destination: Option<IpAddr>,
    /// The source port that a packet must have, which makes it a UDP packet.
    pub udp_source_port: Option<u16>,
    /// The destination port that a packet must have, which makes it a UDP packet.
    pub udp_destination_port: Option<u16>,
    /// Whether the rule applies to packets that do *not* match.
    pub invert: bool,
    /// The table that is asked.
    pub table: u32,
    /// A route found there counts only if its prefix is longer than this.
    pub suppress_prefixlength: Option<u32>,
    /// A route found there counts only if its interface is not in this group.
    pub suppress_ifgroup: Option<u32>,
    /// Who made the rule (`FRA_PROTOCOL`).
    pub protocol: u8,
}

impl Rule {
    fn message(&self) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family = self.family.address_family();
        // Table numbers beyond a byte travel in the attribute alone.
        message.header.table = u8::try_from(self.table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
        message.header.action = RuleAction::ToTable;
        message.header.flags.set(RuleFlags::Invert, self.invert);
        message.header.dst_len = self.destination.map_or(0, |it| IpNet::from(it).prefix_len());
        let attributes = &mut message.attributes;
        attributes.push(RuleAttribute::Priority(self.priority));
        attributes.push(RuleAttribute::Table(self.table));
        attributes.push(RuleAttribute::Protocol(self.protocol.into()));
        attributes.extend(self.fwmark.map(RuleAttribute::FwMark));
        attributes.extend(self.destination.map(RuleAttribute::Destination));
        if self.udp_source_port.or(self.udp_destination_port).is_some() {
            attributes.push(RuleAttribute::IpProtocol(IpProtocol::Udp));
        }
        let exactly = |port| RulePortRange { start: port, end: port };
        let (source, destination) = (self.udp_source_port, self.udp_destination_port);
        attributes.extend(source.map(exactly).map(RuleAttribute::SourcePortRange));
        attributes.extend(destination.map(exactly).map(RuleAttribute::DestinationPortRange));
        attributes.extend(self.suppress_prefixlength.map(RuleAttribute::SuppressPrefixLen));
        attributes.extend(self.suppress_ifgroup.map(RuleAttribute::SuppressIfGroup));
        message
    }

    fn described(&self) -> String {
        let family = match self.family {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        };
        format!("the {family} rule {} to table {}", self.priority, self.table)
    }
}

impl Netlink {
    /// Adds a rule. Fails with `EEXIST` if there is the very same rule already.
    pub fn add_rule(&mut self, rule: &Rule) -> Result<(), NetlinkError> {
        let message = RouteNetlinkMessage::NewRule(rule.message());
        self.execute(&format!("add {}", rule.described()), message, NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Removes a rule. Fails with `ENOENT` if there is no such rule.
    pub fn delete_rule(&mut self, rule: &Rule) -> Result<(), NetlinkError> {
        let message = RouteNetlinkMessage::DelRule(rule.message());
        self.execute(&format!("remove {}", rule.described()), message, 0)
    }

    /// Every rule of a family that `protocol` made; none where the kernel lacks the family.
    pub fn rules_of_protocol(
        &mut self,
        family: Family,
        protocol: u8,
    ) -> Result<Vec<Rule>, NetlinkError> {
        let mut message = RuleMessage::default();
        message.header.family = family.address_family();
        let message = RouteNetlinkMessage::GetRule(message);
        let attempt = format!("list the rules of protocol {protocol}");
        let listed = self.dump(&attempt, &message, |object| match object {
            RouteNetlinkMessage::NewRule(found) => {
                parse(family, &found).filter(|rule| rule.protocol == protocol)
            }
            _ => None,
        });
        match listed {
            Err(error) if error.is_family_missing() => Ok(Vec::new()),
            listed => listed,
        }
    }
}

pub(super) fn parse(family: Family, message: &RuleMessage) -> Option<Rule> {
    let header = &message.header;
    if header.family != family.address_family() || header.action != RuleAction::ToTable {
        return None;
    }
    let mut rule = Rule {
        family,
        priority: 0,
        fwmark: None,
        destination: None,
        udp_source_port: None,
        udp_destination_port: None,
        invert: header.flags.contains(RuleFlags::Invert),
        table: u32::from(header.table),
        suppress_prefixlength: None,
        suppress_ifgroup: None,
        protocol: 0,
    };
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(priority) => rule.priority = *priority,
            RuleAttribute::FwMark(mark) => rule.fwmark = Some(*mark),
            RuleAttribute::Destination(address) => rule.destination = Some(*address),
            RuleAttribute::SourcePortRange(ports) => rule.udp_source_port = Some(ports.start),
            RuleAttribute::DestinationPortRange(ports) => {
                rule.udp_destination_port = Some(ports.start);
            }
            RuleAttribute::Table(table) => rule.table = *table,
            RuleAttribute::SuppressPrefixLen(length) => {
                rule.suppress_prefixlength = suppressed(*length);
            }
            RuleAttribute::SuppressIfGroup(group) => rule.suppress_ifgroup = suppressed(*group),
            RuleAttribute::Protocol(protocol) => rule.protocol = (*protocol).into(),
            _ => {}
        }
    }
    Some(rule)
}

fn suppressed(value: u32) -> Option<u32> {
    (value != SUPPRESS_NOTHING).then_some(value)
}
