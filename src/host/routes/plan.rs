//! Which routes and rules a list of prefixes needs: pure arithmetic.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use ipnet::IpNet;

use super::{
    METRIC_REFUSE, ROUTE_PROTOCOL, RULE_PRIORITY_ANSWERS, RULE_PRIORITY_MAIN, RULE_PRIORITY_TUNNEL,
};
use crate::host::netlink::{Family, Route, Rule, TABLE_MAIN};

/// What is to be reached through the tunnel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteRequest {
    /// The prefixes. `0.0.0.0/0` and `::/0` take everything that no more specific route claims.
    pub prefixes: Vec<IpNet>,
    /// Addresses and UDP ports of the servers, which the tunnel's own packets must reach outside of
    /// it.
    pub outside: Vec<SocketAddr>,
    /// The firewall mark of the sockets that carry the tunnel.
    pub mark: u32,
}

/// Whose routes and rules they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tunnel {
    /// Index of the TUN device.
    pub(super) device: u32,
    /// Number of the tunnel's own table.
    pub(super) table: u32,
}

/// The routes and rules of one tunnel, in the order in which they are added; they are removed in
/// the opposite order, rules first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoutePlan {
    /// The routes.
    pub routes: Vec<Route>,
    /// The rules.
    pub rules: Vec<Rule>,
}

impl RoutePlan {
    /// What `request` needs on this tunnel.
    ///
    /// A prefix goes into the main table like any route, unless it covers a server: then it would
    /// swallow the tunnel's own packets. Such a prefix goes into a table of this tunnel, which is
    /// asked only for packets without the tunnel's mark, and only after the main table has been
    /// asked for anything more specific than a default route. Behind it stands one that refuses.
    /// Where there is such a table it remembers the server, by routes to it that change nothing.
    ///
    /// With `strict`, incoming packets must come from where their answers would go (`rp_filter` 1).
    pub(super) fn new(tunnel: Tunnel, request: &RouteRequest, strict: bool) -> Self {
        let prefixes: BTreeSet<IpNet> = request.prefixes.iter().map(IpNet::trunc).collect();
        let (mut own, main): (BTreeSet<IpNet>, BTreeSet<IpNet>) =
            prefixes.into_iter().partition(|prefix| swallows(prefix, &request.outside));
        let ruled: BTreeSet<Family> = own.iter().map(Family::of).collect();
        let through = |prefix| Route::through(tunnel.device, prefix, ROUTE_PROTOCOL);
        let refusing = |prefix| {
            Route::unreachable(prefix, METRIC_REFUSE, ROUTE_PROTOCOL).in_table(tunnel.table)
        };
        let mut out_of_reach = Vec::new();
        for server in request.outside.iter().map(|server| IpNet::from(server.ip())) {
            if own.iter().any(|prefix| prefix.contains(&server)) {
                own.insert(server);
            } else if !ruled.is_empty() && !ruled.contains(&Family::of(&server)) {
                out_of_reach.push(refusing(server));
            }
        }
        let pair = |prefix| [through(prefix).in_table(tunnel.table), refusing(prefix)];
        let mut plan = Self::default();
        plan.routes.extend(main.into_iter().map(through));
        plan.routes.extend(own.into_iter().flat_map(pair));
        // No rule leads to these.
        plan.routes.extend(out_of_reach);
        if strict && ruled.contains(&Family::V4) {
            let servers = request.outside.iter().filter(|server| server.is_ipv4());
            plan.rules.extend(servers.flat_map(|server| answer_rules(*server, tunnel)));
        }
        let rules = ruled.into_iter().flat_map(|family| rules(family, tunnel, request.mark));
        plan.rules.extend(rules);
        plan
    }

    /// Whether any packets are sent by policy rules.
    pub fn has_rules(&self) -> bool {
        !self.rules.is_empty()
    }

    /// Whether packets of this family are sent by policy rules.
    pub fn has_rules_for(&self, family: Family) -> bool {
        self.rules.iter().any(|rule| rule.family == family)
    }

    /// Whether packets to all of this destination are led into the tunnel.
    pub(super) fn leads_through(&self, destination: &IpNet) -> bool {
        let mut through = self.routes.iter().filter(|route| route.device.is_some());
        through.any(|route| route.destination.contains(destination))
    }
}

/// Whether a route to `prefix` would take packets to one of `outside` along.
fn swallows(prefix: &IpNet, outside: &[SocketAddr]) -> bool {
    prefix.prefix_len() == 0 || outside.iter().any(|server| prefix.contains(&server.ip()))
}

/// A rule that asks the main table and says, by a group that no interface is in, whose it is.
fn main_table_rule(family: Family, priority: u32, tunnel: Tunnel) -> Rule {
    Rule {
        family,
        priority,
        fwmark: None,
        destination: None,
        udp_source_port: None,
        udp_destination_port: None,
        invert: false,
        table: TABLE_MAIN,
        suppress_prefixlength: None,
        suppress_ifgroup: Some(tunnel.table),
        protocol: ROUTE_PROTOCOL,
    }
}

fn rules(family: Family, tunnel: Tunnel, mark: u32) -> [Rule; 2] {
    let main = main_table_rule(family, RULE_PRIORITY_MAIN, tunnel);
    let (fwmark, suppress_ifgroup) = (Some(mark), None);
    let own = Rule { fwmark, invert: true, table: tunnel.table, suppress_ifgroup, ..main };
    [
        Rule { suppress_prefixlength: Some(0), ..main },
        Rule { priority: RULE_PRIORITY_TUNNEL, ..own },
    ]
}

/// Lets the answers of a server pass strict reverse path filtering, which looks up the way to their
/// source without a mark. It compares ports as they stand in the packet, or, depending on the
/// kernel, as they would stand in an answer to it; hence two rules.
fn answer_rules(server: SocketAddr, tunnel: Tunnel) -> [Rule; 2] {
    let destination = Some(server.ip());
    let common = main_table_rule(Family::V4, RULE_PRIORITY_ANSWERS, tunnel);
    [
        Rule { destination, udp_source_port: Some(server.port()), ..common },
        Rule { destination, udp_destination_port: Some(server.port()), ..common },
    ]
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::{RoutePlan, RouteRequest, Tunnel};
    use crate::host::netlink::{Family, Route, TABLE_MAIN};
    use crate::host::routes::{MARK_DEFAULT, ROUTE_PROTOCOL, own_table, owner};

    fn tunnel() -> Tunnel {
        Tunnel { device: 7, table: own_table("vpn0") }
    }

    fn plan(prefixes: &[&str], outside: &[&str]) -> RoutePlan {
        filtered_plan(prefixes, outside, false)
    }

    fn filtered_plan(prefixes: &[&str], outside: &[&str], strict: bool) -> RoutePlan {
        let request = RouteRequest {
            prefixes: prefixes.iter().map(|prefix| prefix.parse().unwrap()).collect(),
            outside: outside.iter().map(|ip| SocketAddr::new(ip.parse().unwrap(), 4500)).collect(),
            mark: MARK_DEFAULT,
        };
        RoutePlan::new(tunnel(), &request, strict)
    }

    /// Every planned destination with "main" or "own" for the table of the route through the
    /// device, or "refused" where there is none. To each of the own ones there must be one that
    /// refuses.
    fn routes(plan: &RoutePlan) -> Vec<(String, &'static str)> {
        let (through, refusing): (Vec<_>, Vec<_>) =
            plan.routes.iter().partition(|route| route.device.is_some());
        let mut refused: Vec<_> = refusing.iter().map(|route| route.destination).collect();
        assert!(refusing.iter().all(|route| route.table == tunnel().table));
        let mut found = Vec::new();
        for Route { destination, table, .. } in through {
            let table = match *table {
                TABLE_MAIN => "main",
                number if number == tunnel().table => "own",
                number => panic!("table {number}"),
            };
            let before = refused.len();
            refused.retain(|it| table == "main" || it != destination);
            assert_eq!(before - refused.len(), usize::from(table == "own"), "{destination}");
            found.push((destination.to_string(), table));
        }
        found.extend(refused.iter().map(|destination| (destination.to_string(), "refused")));
        found
    }

    #[test]
    fn each_prefix_finds_its_table() {
        // (prefixes, servers, planned routes, families with rules)
        type Case = (
            &'static [&'static str],
            &'static [&'static str],
            &'static [(&'static str, &'static str)],
            &'static [Family],
        );
        #[rustfmt::skip]
        let cases: &[Case] = &[
            /* 1 */ (&[], &["192.0.2.1"], &[], &[]),
            /* 2 */ (&["10.0.0.0/8"], &["192.0.2.1"], &[("10.0.0.0/8", "main")], &[]),
            /* 3: host bits do not matter */
                    (&["10.1.2.3/8"], &[], &[("10.0.0.0/8", "main")], &[]),
            /* 4: said twice, added once */
                    (&["10.0.0.0/8", "10.9.9.9/8"], &[], &[("10.0.0.0/8", "main")], &[]),
            /* 5: the server is remembered */
                    (&["0.0.0.0/0"], &["192.0.2.1"],
                     &[("0.0.0.0/0", "own"), ("192.0.2.1/32", "own")], &[Family::V4]),
            /* 6: even without a known server */
                    (&["::/0"], &[], &[("::/0", "own")], &[Family::V6]),
            /* 7: the halves of everything, of which one covers the server */
                    (&["0.0.0.0/1", "128.0.0.0/1"], &["192.0.2.1"],
                     &[("0.0.0.0/1", "main"), ("128.0.0.0/1", "own"), ("192.0.2.1/32", "own")],
                     &[Family::V4]),
            /* 8: the server's own network */
                    (&["192.0.2.0/24"], &["192.0.2.1"],
                     &[("192.0.2.0/24", "own"), ("192.0.2.1/32", "own")], &[Family::V4]),
            /* 9: and its neighbour */
                    (&["192.0.3.0/24"], &["192.0.2.1"], &[("192.0.3.0/24", "main")], &[]),
            /* 10: the server itself */
                    (&["192.0.2.1/32"], &["192.0.2.1"], &[("192.0.2.1/32", "own")], &[Family::V4]),
            /* 11: the families are apart, and the server is remembered where no rule leads */
                    (&["0.0.0.0/0", "2001:db8:1::/48"], &["2001:db8::1"],
                     &[("2001:db8:1::/48", "main"), ("0.0.0.0/0", "own"),
                       ("2001:db8::1/128", "refused")], &[Family::V4]),
            /* 12: both at once */
                    (&["0.0.0.0/0", "192.0.2.1/32"], &["192.0.2.1", "2001:db8::1"],
                     &[("0.0.0.0/0", "own"), ("192.0.2.1/32", "own"),
                       ("2001:db8::1/128", "refused")], &[Family::V4]),
            /* 13: of two servers, the one that would be reached outside is left there */
                    (&["192.0.2.0/24"], &["192.0.2.1", "203.0.113.1"],
                     &[("192.0.2.0/24", "own"), ("192.0.2.1/32", "own")], &[Family::V4]),
            /* 14 */ (&["0.0.0.0/0", "::/0"], &[], &[("0.0.0.0/0", "own"), ("::/0", "own")],
                     &[Family::V4, Family::V6]),
        ];
        for (number, (prefixes, outside, expected, ruled)) in (1..).zip(cases) {
            let plan = plan(prefixes, outside);
            let expected: Vec<_> =
                expected.iter().map(|(to, table)| ((*to).into(), *table)).collect();
            assert_eq!(routes(&plan), expected, "case {number}");
            for family in Family::ALL {
                assert_eq!(plan.has_rules_for(family), ruled.contains(&family), "case {number}");
            }
            assert_eq!(plan.rules.len(), 2 * ruled.len(), "case {number}");
        }
    }

    #[test]
    fn the_main_table_is_asked_first_and_marked_packets_never_ask_the_tunnel() {
        let plan = plan(&["0.0.0.0/0"], &[]);
        let [main, tunnel] = plan.rules.as_slice() else { panic!("{plan:?}") };
        assert!(main.priority < tunnel.priority && tunnel.priority < 32766);
        assert_eq!((main.table, main.suppress_prefixlength), (TABLE_MAIN, Some(0)));
        assert_eq!((tunnel.fwmark, tunnel.invert), (Some(MARK_DEFAULT), true));
        assert_eq!(tunnel.table, plan.routes[0].table);
    }

    #[test]
    fn strict_filtering_needs_rules_for_a_server_that_the_tunnel_would_swallow() {
        let servers = ["192.0.2.1", "2001:db8::1"];
        let rules = |prefix: &str| filtered_plan(&[prefix], &servers, true).rules;
        assert_eq!(rules("10.0.0.0/8"), []);
        assert_eq!(rules("::/0").len(), 2, "IPv6 has no such filter");
        let [as_it_is, turned, main, tunnel] = rules("0.0.0.0/0").try_into().unwrap();
        for rule in [as_it_is, turned] {
            assert_eq!((rule.table, rule.destination), (TABLE_MAIN, servers[0].parse().ok()));
            assert!(rule.priority < main.priority && main.priority < tunnel.priority);
        }
        assert_eq!(
            (as_it_is.udp_source_port, turned.udp_destination_port),
            (Some(4500), Some(4500))
        );
    }

    #[test]
    fn everything_says_whose_it_is() {
        let everything = ["0.0.0.0/0", "10.0.0.0/8", "::/0"];
        let plan = filtered_plan(&everything, &["192.0.2.1"], true);
        for route in &plan.routes {
            assert_eq!(route.protocol, ROUTE_PROTOCOL);
            let is_own = route.device == Some(7) || route.table == tunnel().table;
            assert!(is_own, "{route:?}");
        }
        for rule in &plan.rules {
            assert_eq!(rule.protocol, ROUTE_PROTOCOL);
            assert_eq!(owner(rule), Some(tunnel().table), "{rule:?}");
        }
    }
}
