//! What tunnels that were killed have left behind, and when it may go.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::{ROUTE_PROTOCOL, RoutePlan, is_tunnel_table, own_table, owner, remove};
use crate::host::netlink::{Family, Link, Netlink, NetlinkError, Route};

/// The routes and rules of tunnels that no longer run: of devices that are gone, or persistent and
/// held by nobody.
///
/// A tunnel that starts again takes its own over ([`ClientRoutes::install`]). Those of another
/// tunnel give way only to one that takes the same destinations: nothing that was shut in is let
/// out because something else was started.
///
/// [`ClientRoutes::install`]: super::ClientRoutes::install
#[derive(Debug, Default)]
pub struct Leftovers {
    /// By the number of the tunnel's table and the family.
    tunnels: BTreeMap<(u32, Family), RoutePlan>,
}

impl Leftovers {
    /// Looks for them.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn find(netlink: &mut Netlink) -> Result<Self, NetlinkError> {
        let links = netlink.links()?;
        let link_of = |route: &Route| links.iter().find(|link| Some(link.index) == route.device);
        let held = links.iter().filter(|link| is_held_tun(link));
        let mut running: BTreeSet<u32> = held.map(|link| own_table(&link.name)).collect();
        let mut found = Self::default();
        for family in Family::ALL {
            for rule in netlink.rules_of_protocol(family, ROUTE_PROTOCOL)? {
                if let Some(table) = owner(&rule) {
                    found.tunnels.entry((table, family)).or_default().rules.push(rule);
                }
            }
            for route in netlink.routes_of_protocol(family, ROUTE_PROTOCOL)? {
                let link = link_of(&route);
                let table = match link {
                    _ if is_tunnel_table(route.table) => route.table,
                    Some(link) => own_table(&link.name),
                    None => continue,
                };
                // A device that was given another name since still has its routes.
                running.extend(link.filter(|link| is_held_tun(link)).map(|_| table));
                found.tunnels.entry((table, family)).or_default().routes.push(route);
            }
        }
        found.tunnels.retain(|(table, _), _| !running.contains(table));
        Ok(found)
    }

    /// Whether any of it keeps packets from leaving this host.
    pub fn shut_anything(&self) -> bool {
        self.tunnels.values().any(|left| !shut(left).is_empty())
    }

    /// Where the tunnel with this device had its server. A name that is a pattern may stand for any
    /// tunnel.
    pub fn server_of(&self, tun: &str) -> Option<IpAddr> {
        let own = own_table(tun);
        let is_meant = |table: u32| tun.contains('%') || table == own;
        let left = self.tunnels.iter().filter(|((table, _), _)| is_meant(*table));
        let mut refusing =
            left.flat_map(|(_, left)| &left.routes).filter(|route| route.device.is_none());
        let server = refusing.find(|route| {
            let destination = route.destination;
            destination.prefix_len() == destination.max_prefix_len()
        });
        server.map(|route| route.destination.addr())
    }

    /// Removes what shuts no destination but those that `plan`, which is in place, leads into a
    /// tunnel that runs; warns of the rest.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub(super) fn give_way(
        self,
        netlink: &mut Netlink,
        plan: &RoutePlan,
    ) -> Result<(), NetlinkError> {
        for ((table, family), left) in self.tunnels {
            let mut shut = shut(&left);
            shut.retain(|destination| !plan.leads_through(destination));
            if shut.is_empty() {
                let count = left.routes.len() + left.rules.len();
                remove(netlink, left)?;
                log::info!("removed {count} routes and rules of a tunnel that was killed");
                continue;
            }
            let shut: Vec<String> = shut.iter().map(IpNet::to_string).collect();
            let switch = if family == Family::V6 { " -6" } else { "" };
            log::warn!(
                "a tunnel that was killed keeps this host from {}, and this one does not lead \
                 there: start that one again, or open the way by \
                 `ip{switch} rule del table {table}`",
                shut.join(", ")
            );
        }
        Ok(())
    }
}

/// The destinations that leftovers keep packets from.
fn shut(left: &RoutePlan) -> BTreeSet<IpNet> {
    let shuts = |route: &&Route| left.has_rules() || route.device.is_some();
    left.routes.iter().filter(shuts).map(|route| route.destination).collect()
}

/// Whether a process holds a queue of this TUN device.
fn is_held_tun(link: &Link) -> bool {
    link.kind.as_deref() == Some("tun") && link.carrier
}
