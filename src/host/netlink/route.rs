//! Routes and route lookups.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteType,
};

pub use netlink_packet_route::route::RouteScope;

use super::{Family, Netlink, NetlinkError};

/// The main routing table (`RT_TABLE_MAIN`).
pub const TABLE_MAIN: u32 = RouteHeader::RT_TABLE_MAIN as u32;
/// What a look-up fails with where no route leads on: there is none, or it is `unreachable`,
/// `blackhole` or `prohibit` (`fib_props`, net/ipv4/fib_semantics.c; `ip6_route_init_special`).
const NO_WAY: [i32; 4] = [libc::ENETUNREACH, libc::EHOSTUNREACH, libc::EINVAL, libc::EACCES];
/// What the kernel makes of an IPv6 route without a metric (`IP6_RT_PRIO_USER`).
const IPV6_METRIC_DEFAULT: u32 = 1024;

/// A unicast route with one next hop, or one that refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where packets are going; host bits are zero.
    pub destination: IpNet,
    /// Index of the interface they leave by; with `None` they are refused with ICMP "unreachable"
    /// (`RTN_UNREACHABLE`).
    pub device: Option<u32>,
    /// The router they are handed to, if not to the link itself.
    pub gateway: Option<IpAddr>,
    /// The routing table.
    pub table: u32,
    /// Preference among routes to the same destination; lower wins.
    pub metric: u32,
    /// Who made the route (`rtm_protocol`).
    pub protocol: u8,
    /// How far the destination is.
    pub scope: RouteScope,
    /// The largest packet to send along it, in bytes, if not the interface's MTU.
    pub mtu: Option<u32>,
}

impl Route {
    /// The route straight into `device`, in the main table, with the metric and scope the kernel
    /// gives such a route by default.
    pub fn through(device: u32, destination: IpNet, protocol: u8) -> Self {
        let (metric, scope) = match Family::of(&destination) {
            Family::V4 => (0, RouteScope::Link),
            Family::V6 => (IPV6_METRIC_DEFAULT, RouteScope::Universe),
        };
        Self {
            destination: destination.trunc(),
            device: Some(device),
            gateway: None,
            table: TABLE_MAIN,
            metric,
            protocol,
            scope,
            mtu: None,
        }
    }

    /// The route that refuses packets to `destination`, in the main table. Without a device, it
    /// stays whatever becomes of devices.
    pub fn unreachable(destination: IpNet, metric: u32, protocol: u8) -> Self {
        let scope = RouteScope::Universe;
        Self { device: None, metric, scope, ..Self::through(0, destination, protocol) }
    }

    /// The same route by way of a router.
    #[must_use]
    pub fn via(mut self, gateway: IpAddr) -> Self {
        self.gateway = Some(gateway);
        self.scope = RouteScope::Universe;
        self
    }

    /// The same route in another table.
    #[must_use]
    pub fn in_table(mut self, table: u32) -> Self {
        self.table = table;
        self
    }

    fn message(&self) -> RouteMessage {
        let mut message = RouteMessage::default();
        let header = &mut message.header;
        header.address_family = Family::of(&self.destination).address_family();
        header.destination_prefix_length = self.destination.prefix_len();
        // Table numbers beyond a byte travel in the attribute alone.
        header.table = u8::try_from(self.table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
        header.protocol = self.protocol.into();
        header.scope = self.scope;
        header.kind = match self.device {
            Some(_) => RouteType::Unicast,
            None => RouteType::Unreachable,
        };
        let attributes = &mut message.attributes;
        attributes.push(RouteAttribute::Destination(self.destination.network().into()));
        attributes.extend(self.device.map(RouteAttribute::Oif));
        attributes.push(RouteAttribute::Table(self.table));
        attributes.push(RouteAttribute::Priority(self.metric));
        if let Some(gateway) = self.gateway {
            attributes.push(RouteAttribute::Gateway(gateway.into()));
        }
        if let Some(mtu) = self.mtu {
            attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)]));
        }
        message
    }

    fn described(&self) -> String {
        let table = match self.table {
            TABLE_MAIN => String::new(),
            table => format!(" in table {table}"),
        };
        match self.device {
            Some(device) => {
                format!("the route {}{table} through interface {device}", self.destination)
            }
            None => format!("the refusing route {}{table}", self.destination),
        }
    }
}

/// How the kernel would send a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteLookup {
    /// Index of the interface it would leave by.
    pub device: u32,
    /// The largest packet that fits: the route's or learned path MTU, else the interface's.
    pub mtu: u32,
    /// The source address it would get.
    pub source: Option<IpAddr>,
    /// The router it would be handed to.
    pub gateway: Option<IpAddr>,
}

impl Netlink {
    /// Adds a route. Fails with `EEXIST` if its table has one with the same destination and metric.
    pub fn add_route(&mut self, route: &Route) -> Result<(), NetlinkError> {
        self.new_route("add", route, NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Adds a route in place of any with the same table, destination and metric.
    pub fn replace_route(&mut self, route: &Route) -> Result<(), NetlinkError> {
        self.new_route("replace", route, NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Removes a route. Fails with `ESRCH` if there is no such route. To the kernel an IPv4 metric
    /// of 0 means any: the route with the least metric goes.
    pub fn delete_route(&mut self, route: &Route) -> Result<(), NetlinkError> {
        let message = RouteNetlinkMessage::DelRoute(route.message());
        self.execute(&format!("remove {}", route.described()), message, 0)
    }

    /// Every unicast or refusing route, in any table, that `protocol` made.
    pub fn routes_of_protocol(
        &mut self,
        family: Family,
        protocol: u8,
    ) -> Result<Vec<Route>, NetlinkError> {
        let mut message = RouteMessage::default();
        message.header.address_family = family.address_family();
        message.header.protocol = protocol.into();
        let message = RouteNetlinkMessage::GetRoute(message);
        let attempt = format!("list the routes of protocol {protocol}");
        let listed = self.dump(&attempt, &message, |object| match object {
            RouteNetlinkMessage::NewRoute(found) => {
                parse(&found).filter(|route| route.protocol == protocol)
            }
            _ => None,
        });
        match listed {
            Err(error) if error.is_family_missing() => Ok(Vec::new()),
            listed => listed,
        }
    }

    /// How a packet to `destination` would leave, if its socket had this firewall mark. Fails with
    /// `ENETUNREACH` or `EHOSTUNREACH` where there is no route.
    pub fn route_to(
        &mut self,
        destination: IpAddr,
        mark: Option<u32>,
    ) -> Result<RouteLookup, NetlinkError> {
        let attempt = format!("find the route to {destination}");
        let found = self.look_up(&attempt, destination, mark)?;
        let device = found.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Oif(index) => Some(*index),
            _ => None,
        });
        let device = device.ok_or_else(|| NetlinkError::Unexpected {
            attempt,
            detail: "a route without an interface".to_owned(),
        })?;
        let source = found.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::PrefSource(address) => ip_of(address),
            _ => None,
        });
        let mtu = match mtu_of(&found) {
            Some(mtu) => mtu,
            None => self.link_by_index(device)?.mtu,
        };
        Ok(RouteLookup { device, mtu, source, gateway: gateway_of(&found) })
    }

    /// Whether this host takes packets to `address` for its own. Where a route forbids or swallows
    /// what surrounds it, the kernel answers with that route's error.
    pub fn is_local(&mut self, address: IpAddr) -> Result<bool, NetlinkError> {
        let attempt = format!("find out whether {address} is this host's own");
        match self.look_up(&attempt, address, None) {
            Ok(found) => Ok(found.header.kind == RouteType::Local),
            Err(error) if error.errno().is_some_and(|it| NO_WAY.contains(&it)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn look_up(
        &mut self,
        attempt: &str,
        destination: IpAddr,
        mark: Option<u32>,
    ) -> Result<RouteMessage, NetlinkError> {
        let mut message = RouteMessage::default();
        let host = IpNet::from(destination);
        message.header.address_family = Family::of(&host).address_family();
        message.header.destination_prefix_length = host.prefix_len();
        message.attributes.push(RouteAttribute::Destination(destination.into()));
        message.attributes.extend(mark.map(RouteAttribute::Mark));
        match self.query(attempt, RouteNetlinkMessage::GetRoute(message))? {
            RouteNetlinkMessage::NewRoute(found) => Ok(found),
            other => {
                let (attempt, detail) = (attempt.to_owned(), format!("{other:?}"));
                Err(NetlinkError::Unexpected { attempt, detail })
            }
        }
    }

    fn new_route(&mut self, verb: &str, route: &Route, flags: u16) -> Result<(), NetlinkError> {
        let message = RouteNetlinkMessage::NewRoute(route.message());
        self.execute(&format!("{verb} {}", route.described()), message, flags)
    }
}

pub(super) fn parse(message: &RouteMessage) -> Option<Route> {
    let header = &message.header;
    let refuses = match header.kind {
        RouteType::Unicast => false,
        RouteType::Unreachable => true,
        _ => return None,
    };
    let unspecified = match header.address_family {
        netlink_packet_route::AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        netlink_packet_route::AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let mut network = unspecified;
    let (mut device, mut table, mut metric) = (None, u32::from(header.table), 0);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => network = ip_of(address)?,
            RouteAttribute::Oif(index) => device = Some(*index),
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Priority(priority) => metric = *priority,
            _ => {}
        }
    }
    Some(Route {
        destination: IpNet::new(network, header.destination_prefix_length).ok()?,
        // IPv6 says that it refuses by the loopback interface.
        device: if refuses { None } else { Some(device?) },
        gateway: gateway_of(message),
        table,
        metric,
        protocol: header.protocol.into(),
        scope: header.scope,
        mtu: mtu_of(message),
    })
}

fn gateway_of(message: &RouteMessage) -> Option<IpAddr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(address) => ip_of(address),
        _ => None,
    })
}

fn mtu_of(message: &RouteMessage) -> Option<u32> {
    message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Metrics(metrics) => metrics.iter().find_map(|metric| match metric {
            RouteMetric::Mtu(mtu) => Some(*mtu),
            _ => None,
        }),
        _ => None,
    })
}

pub(super) fn ip_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}
