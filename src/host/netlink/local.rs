//! What the kernel takes for this host's own.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::route::{RouteAttribute, RouteHeader, RouteMessage, RouteType};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Family, Netlink, NetlinkError, TABLE_MAIN, address};

/// `RT_TABLE_DEFAULT` and `RT_TABLE_LOCAL` (include/uapi/linux/rtnetlink.h).
const TABLE_DEFAULT: u32 = 253;
const TABLE_LOCAL: u32 = 255;
/// What a rule calls the interface that packets of this host itself come from (fib_rules).
const LOOPBACK: &str = "lo";

/// The types of routes by which packets are delivered to this host. Anycast addresses of IPv4
/// belong to others as far as the kernel is concerned, and IPv6 has no broadcast.
const fn kinds(family: Family) -> [RouteType; 2] {
    match family {
        Family::V4 => [RouteType::Local, RouteType::Broadcast],
        Family::V6 => [RouteType::Local, RouteType::Anycast],
    }
}

impl Netlink {
    /// Every prefix whose addresses lead to this host itself when it sends to them: those of its
    /// interfaces, whether they are up or not, and what routes make local, an interface having it
    /// or not: broadcast and anycast addresses are among them. Some may come several times.
    ///
    /// Tables that only other hosts' packets are looked up in, or only marked ones, do not count:
    /// there everything is local where a transparent proxy is at work.
    ///
    /// Of a host with a full routing table nothing else gets here, if the kernel knows how to
    /// filter (Linux 4.20), or it is passed over as it comes.
    pub fn local_prefixes(&mut self) -> Result<Vec<IpNet>, NetlinkError> {
        let all = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let mut found =
            self.dump("list the addresses of this host", &all, |object| match object {
                RouteNetlinkMessage::NewAddress(found) => {
                    address::parse(&found).map(|it| IpNet::from(it.address.addr()))
                }
                _ => None,
            })?;
        for family in Family::ALL {
            match self.local_routes(family) {
                Ok(prefixes) => found.extend(prefixes),
                Err(error) if error.is_family_missing() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    fn local_routes(&mut self, family: Family) -> Result<Vec<IpNet>, NetlinkError> {
        let tables = self.tables_of_own_packets(family)?;
        // Without the kernel's help each listing is of everything, so it is asked for once.
        let kinds = kinds(family);
        let asked = if self.filters { &kinds[..] } else { &[RouteType::Unspec] };
        let mut found = Vec::new();
        for kind in asked {
            let mut message = RouteMessage::default();
            message.header.address_family = family.address_family();
            message.header.kind = *kind;
            let message = RouteNetlinkMessage::GetRoute(message);
            let listed = self.dump("list the local routes", &message, |object| match object {
                RouteNetlinkMessage::NewRoute(route) => local_prefix(&route, &tables),
                _ => None,
            })?;
            found.extend(listed);
        }
        Ok(found)
    }

    /// The tables that may be asked where this host sends to.
    fn tables_of_own_packets(&mut self, family: Family) -> Result<BTreeSet<u32>, NetlinkError> {
        let mut message = RuleMessage::default();
        message.header.family = family.address_family();
        let message = RouteNetlinkMessage::GetRule(message);
        let named = self.dump("list the routing rules", &message, |object| match object {
            RouteNetlinkMessage::NewRule(rule) => table_of_own_packets(&rule),
            _ => None,
        });
        // A kernel without rules has no other tables.
        let named = match named {
            Err(error) if error.is_family_missing() => Vec::new(),
            named => named?,
        };
        Ok(named.into_iter().chain([TABLE_LOCAL, TABLE_MAIN, TABLE_DEFAULT]).collect())
    }
}

/// The table that a rule leads to, if it may apply to an unmarked packet of this host.
pub(super) fn table_of_own_packets(rule: &RuleMessage) -> Option<u32> {
    if rule.header.action != RuleAction::ToTable {
        return None;
    }
    let mut table = u32::from(rule.header.table);
    let (mut mark, mut mask, mut is_for_others) = (0, u32::MAX, false);
    for attribute in &rule.attributes {
        match attribute {
            RuleAttribute::Table(number) => table = *number,
            RuleAttribute::FwMark(number) => mark = *number,
            RuleAttribute::FwMask(number) => mask = *number,
            RuleAttribute::Iifname(name) => is_for_others = name != LOOPBACK,
            _ => {}
        }
    }
    let is_inverted = rule.header.flags.contains(RuleFlags::Invert);
    // The kernel compares the masked bits (fib_rule_match, net/core/fib_rules.c).
    let applies = is_inverted || (mark & mask == 0 && !is_for_others);
    applies.then_some(table)
}

/// The prefix that a route of one of these tables makes this host's own, if it is such a route.
pub(super) fn local_prefix(route: &RouteMessage, tables: &BTreeSet<u32>) -> Option<IpNet> {
    let header: &RouteHeader = &route.header;
    let (family, unspecified) = match header.address_family {
        AddressFamily::Inet => (Family::V4, IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        AddressFamily::Inet6 => (Family::V6, IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
        _ => return None,
    };
    if !kinds(family).contains(&header.kind) {
        return None;
    }
    let (mut network, mut table) = (unspecified, u32::from(header.table));
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(address) => network = super::route::ip_of(address)?,
            RouteAttribute::Table(number) => table = *number,
            _ => {}
        }
    }
    let prefix = IpNet::new(network, header.destination_prefix_length).ok()?;
    tables.contains(&table).then(|| prefix.trunc())
}
