//! The client's routes: put in place, kept to a list, taken away, and cleaned up after a crash.
//!
//! # What is installed
//!
//! A prefix becomes a route in the main table. A prefix that covers a server, above all
//! `0.0.0.0/0` and `::/0`, becomes a route in a table of this tunnel's own, with two rules:
//!
//! ```text
//! 32764: from all lookup main suppress_prefixlength 0    more specific routes stay in force
//! 32765: not from all fwmark 0xc1 lookup 1938771829      the rest goes through the tunnel
//! ```
//!
//! The table also has, behind each of its routes, one that refuses packets. It is reached when the
//! kernel has dropped the other, because somebody set the TUN device down or deleted it: so what is
//! meant for the tunnel does not leave in the clear instead. The server's own address has such a
//! pair of routes, too. It changes nothing while the daemon runs; after a crash it tells where the
//! server was, for the name server may be among what is refused.
//!
//! The sockets that carry the tunnel have the mark, so their packets go the way they would go
//! without the tunnel: past both rules to the main table. All tunnels on a host should share one
//! mark: with different ones each would capture the other's packets, and they would go in circles.
//!
//! Incoming packets have no mark, unless the firewall restores it from conntrack. Where reverse
//! path filtering is strict (`rp_filter` 1) the kernel would therefore look for the server through
//! the tunnel and drop its answers. There, and only there since they make the kernel look at the
//! ports of every packet it routes, two more rules name the server:
//!
//! ```text
//! 32763: from all to 192.0.2.1 ipproto udp sport 20443 lookup main
//! 32763: from all to 192.0.2.1 ipproto udp dport 20443 lookup main
//! ```
//!
//! # How it is recognised
//!
//! Routes and rules are tagged with the protocol number [`ROUTE_PROTOCOL`], and the number of the
//! tunnel's table is derived from the name of its TUN device, so kernel state alone says what is
//! ours and whose: no file can be lost or out of date. The first rule asks the main table, so it
//! carries the number in an attribute without effect (`suppress_ifgroup`).
//!
//! # After a crash
//!
//! A TUN device vanishes with the process that holds it and takes its routes along; rules stay, and
//! so do the routes that refuse: what was meant for the tunnel stays shut out. The next start under
//! the same name finds them under its own number. It adds what is missing and then removes what its
//! configuration does not ask for any more, so there is no moment without them in between.
//! [`Leftovers`] says what becomes of those of other names. The sysctl
//! `net.ipv4.conf.all.src_valid_mark` is set back when the last tunnel that needs it ends.

mod leftovers;
mod marked_sources;
mod plan;
#[cfg(test)]
mod tests;

use std::io;

use ipnet::IpNet;
use ring::digest::{SHA256, digest};

pub use leftovers::Leftovers;
pub use plan::{RoutePlan, RouteRequest};

use super::link::{self, Ipv6State};
use super::netlink::{Family, Netlink, NetlinkError, Route, Rule};
use super::sysctl;
use plan::Tunnel;

/// The protocol number of every route and rule this program makes (`rtm_protocol`,
/// `FRA_PROTOCOL`); not in use by any routing daemon known to iproute2.
pub const ROUTE_PROTOCOL: u8 = 193;
/// The firewall mark a client gives its sockets unless told otherwise. Its bits collide with none
/// that container and overlay networks mask out.
pub const MARK_DEFAULT: u32 = 193;

/// Tables of tunnels are numbered from here, by the name of the TUN device.
const TABLE_BASE: u32 = 1_930_000_000;
/// How many numbers are set aside for them.
const TABLES: u32 = 10_000_000;
/// The metric of routes that refuse what the tunnel cannot take: they come last.
const METRIC_REFUSE: u32 = u32::MAX - 1;
/// Places of the two rules, right in front of the main table's (32766).
const RULE_PRIORITY_MAIN: u32 = 32764;
/// Places of the rules that let a server's answers in.
const RULE_PRIORITY_ANSWERS: u32 = 32763;
const RULE_PRIORITY_TUNNEL: u32 = 32765;

/// Why routes could not be put in place.
#[derive(Debug, thiserror::Error)]
pub enum RoutesError {
    /// The kernel refused.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// Somebody else has a route to the same destination.
    #[error(
        "a route to {destination} exists already (`ip route show {destination}` shows it): remove \
         it, or leave this prefix out of the tunnel's routes"
    )]
    Taken {
        /// The destination that both want.
        destination: IpNet,
    },
    /// IPv6 is to go through the tunnel, and only the tunnel's device has it switched off: IPv6
    /// packets would leave outside.
    #[error(
        "IPv6 is switched off on {device} but not on this host, so IPv6 routes cannot go through \
         it: `sysctl -w net.ipv6.conf.{device}.disable_ipv6=0`, or leave the IPv6 prefixes out"
    )]
    Ipv6Off {
        /// The TUN device.
        device: String,
    },
}

/// The number of the table of the tunnel whose TUN device has this name: the same in every life of
/// the daemon, and for every version of this program.
fn own_table(tun: &str) -> u32 {
    let hash = digest(&SHA256, tun.as_bytes());
    let head = hash.as_ref().iter().take(4);
    TABLE_BASE + head.fold(0, |number, byte| number << 8 | u32::from(*byte)) % TABLES
}

/// Whether a table is a tunnel's.
fn is_tunnel_table(table: u32) -> bool {
    (TABLE_BASE..TABLE_BASE + TABLES).contains(&table)
}

/// The table of the tunnel a rule was made for, if it is one of ours.
fn owner(rule: &Rule) -> Option<u32> {
    [Some(rule.table), rule.suppress_ifgroup].into_iter().flatten().find(|n| is_tunnel_table(*n))
}

/// The routes and rules of one running client. Dropping it removes them, as far as the kernel
/// lets it; [`ClientRoutes::remove`] does the same and says what went wrong.
///
/// Works on the network namespace of the thread that calls [`ClientRoutes::install`], and has to be
/// used on threads of that namespace with `CAP_NET_ADMIN`.
#[derive(Debug)]
pub struct ClientRoutes {
    netlink: Netlink,
    /// The TUN device's name at the start.
    name: String,
    tunnel: Tunnel,
    plan: RoutePlan,
}

impl ClientRoutes {
    /// Puts in place what `request` needs. The TUN device must be up. Either everything is in place
    /// afterwards or nothing is.
    ///
    /// What a run that was killed has left behind stays until the new routes are in, and for good
    /// if they cannot be put in place: at no time does what it shuts out leave in the clear. See
    /// [`Leftovers`].
    ///
    /// On a host without IPv6 the IPv6 prefixes are left out, with a warning.
    ///
    /// # Errors
    /// [`RoutesError`].
    pub fn install(tun: &str, request: &RouteRequest) -> Result<Self, RoutesError> {
        let mut netlink = Netlink::open()?;
        let tunnel = Tunnel { device: netlink.link(tun)?.index, table: own_table(tun) };
        let plan = present(&mut netlink, tunnel)?;
        if plan.has_rules() {
            log::info!(
                "an earlier run left behind {} routes and rules that kept its tunnel shut: they \
                 stay until the new ones are in place",
                plan.routes.len() + plan.rules.len()
            );
        }
        let name = tun.to_owned();
        let mut routes = Self { netlink, name, tunnel, plan };
        if let Err(error) = routes.update(request) {
            // What was there before is no business of the drop.
            routes.plan = RoutePlan::default();
            return Err(error);
        }
        let netlink = &mut routes.netlink;
        let outcome = Leftovers::find(netlink).and_then(|it| it.give_way(netlink, &routes.plan));
        if let Err(error) = outcome {
            log::error!("what another tunnel left behind stays and may be in the way: {error}");
        }
        Ok(routes)
    }

    /// Moves from the present request to another: adds what is missing, then removes what is
    /// surplus, and touches nothing that stays. Also puts back what somebody else removed
    /// meanwhile. On an error the former state is restored.
    ///
    /// # Errors
    /// [`RoutesError`].
    pub fn update(&mut self, request: &RouteRequest) -> Result<(), RoutesError> {
        let strict = strict_reverse_path_interfaces();
        let request = self.within_reach(request)?;
        let plan = RoutePlan::new(self.tunnel, &request, !strict.is_empty());
        if let Err(error) = self.reconcile(&plan) {
            let former = self.plan.clone();
            if let Err(second) = self.reconcile(&former) {
                log::error!("the former routes could not all be restored: {second}");
            }
            return Err(error);
        }
        if plan.has_rules_for(Family::V4) {
            marked_sources::accept(&mut self.netlink)?;
            if !strict.is_empty() {
                log::info!("strict reverse path filtering on {strict:?}: the server is let in");
            }
        }
        self.plan = plan;
        Ok(())
    }

    /// Removes everything, rules first, and restores the sysctl.
    ///
    /// # Errors
    /// The first refusal by the kernel; the rest is still attempted when the value is dropped.
    pub fn remove(mut self) -> Result<(), RoutesError> {
        self.clear()
    }

    /// Puts back what somebody else removed, or the kernel because the device was down. Returns how
    /// many routes and rules that were.
    ///
    /// # Errors
    /// [`RoutesError`].
    pub fn restore(&mut self) -> Result<usize, RoutesError> {
        let plan = self.plan.clone();
        self.reconcile(&plan)
    }

    fn clear(&mut self) -> Result<(), RoutesError> {
        self.reconcile(&RoutePlan::default())?;
        self.plan = RoutePlan::default();
        if !self.another_tunnel_has_rules()? {
            marked_sources::forget(&mut self.netlink)?;
        }
        Ok(())
    }

    /// The request without the IPv6 prefixes, if this host has no IPv6.
    fn within_reach(&self, request: &RouteRequest) -> Result<RouteRequest, RoutesError> {
        let is_v6 = |prefix: &IpNet| Family::of(prefix) == Family::V6;
        let mut request = request.clone();
        if !request.prefixes.iter().any(is_v6) {
            return Ok(request);
        }
        match link::ipv6_state(&self.name) {
            Ipv6State::On => {}
            Ipv6State::OffHere => {
                return Err(RoutesError::Ipv6Off { device: self.name.clone() });
            }
            Ipv6State::OffEverywhere => {
                log::warn!("this host has no IPv6: the IPv6 prefixes are not routed");
                request.prefixes.retain(|prefix| !is_v6(prefix));
            }
        }
        Ok(request)
    }

    /// Brings the kernel's state of this tunnel to `plan`. Returns how much was missing.
    fn reconcile(&mut self, plan: &RoutePlan) -> Result<usize, RoutesError> {
        let netlink = &mut self.netlink;
        let mut present = present(netlink, self.tunnel)?;
        let mut added = 0;
        for route in plan.routes.iter().filter(|route| !present.routes.contains(route)) {
            added += 1;
            netlink.add_route(route).map_err(|error| match error.is_exists() {
                true => RoutesError::Taken { destination: route.destination },
                false => error.into(),
            })?;
        }
        for rule in plan.rules.iter().filter(|rule| !present.rules.contains(rule)) {
            added += 1;
            tolerate(netlink.add_rule(rule), NetlinkError::is_exists)?;
        }
        present.rules.retain(|rule| !plan.rules.contains(rule));
        present.routes.retain(|route| !plan.routes.contains(route));
        remove(netlink, present)?;
        Ok(added)
    }

    fn another_tunnel_has_rules(&mut self) -> Result<bool, NetlinkError> {
        let table = self.tunnel.table;
        let rules = self.netlink.rules_of_protocol(Family::V4, ROUTE_PROTOCOL)?;
        Ok(rules.iter().filter_map(owner).any(|owner| owner != table))
    }
}

impl Drop for ClientRoutes {
    fn drop(&mut self) {
        if self.plan == RoutePlan::default() {
            return;
        }
        if let Err(error) = self.clear() {
            log::error!("routes were left behind; the next start mends that: {error}");
        }
    }
}

/// What the kernel has of a tunnel.
fn present(netlink: &mut Netlink, tunnel: Tunnel) -> Result<RoutePlan, NetlinkError> {
    let Tunnel { device, table } = tunnel;
    let mut present = RoutePlan::default();
    for family in Family::ALL {
        let routes = netlink.routes_of_protocol(family, ROUTE_PROTOCOL)?;
        let is_own = |route: &Route| route.device == Some(device) || route.table == table;
        present.routes.extend(routes.into_iter().filter(is_own));
        let rules = netlink.rules_of_protocol(family, ROUTE_PROTOCOL)?;
        present.rules.extend(rules.into_iter().filter(|rule| owner(rule) == Some(table)));
    }
    Ok(present)
}

/// Removes routes and rules; what is gone already is no matter.
fn remove(netlink: &mut Netlink, mut surplus: RoutePlan) -> Result<(), NetlinkError> {
    // The rule into the tunnel goes before the one that shields the main table from it.
    surplus.rules.sort_by_key(|rule| std::cmp::Reverse(rule.priority));
    for rule in &surplus.rules {
        tolerate(netlink.delete_rule(rule), NetlinkError::is_not_found)?;
    }
    for route in &surplus.routes {
        tolerate(netlink.delete_route(route), NetlinkError::is_not_found)?;
    }
    Ok(())
}

fn tolerate(
    outcome: Result<(), NetlinkError>,
    harmless: impl Fn(&NetlinkError) -> bool,
) -> Result<(), NetlinkError> {
    match outcome {
        Err(error) if harmless(&error) => Ok(()),
        outcome => outcome,
    }
}

/// The interfaces on which a packet must arrive where its answer would leave (`rp_filter` 1): the
/// setting in force is the greater of `all`'s and the interface's own.
fn strict_reverse_path_interfaces() -> Vec<String> {
    let setting = |name: &str| -> io::Result<u32> {
        let value = sysctl::read(&format!("ipv4/conf/{name}/rp_filter"))?;
        value.parse().map_err(io::Error::other)
    };
    let all = setting("all").unwrap_or_default();
    let interfaces = sysctl::list("ipv4/conf").unwrap_or_default();
    interfaces
        .into_iter()
        .filter(|name| !matches!(name.as_str(), "all" | "default" | "lo"))
        .filter(|name| setting(name).is_ok_and(|own| own.max(all) == 1))
        .collect()
}
