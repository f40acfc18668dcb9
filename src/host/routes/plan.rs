//! Which routes and rules a list of prefixes needs: pure arithmetic.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use ipnet::IpNet;

use super::{
    METRIC_REFUSE, ROUTE_PROTOCOL, RULE_PRIORITY_ANSWERS, RULE_PRIORITY_MAIN, RULE_PRIORITY_TUNNEL,
    own_table,
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
    /// The plan for the TUN device with index `device`.
    ///
    /// A prefix goes into the main table like any route, unless it covers a server: then it would
    /// swallow the tunnel's own packets. Such a prefix goes into a table of this tunnel, which is
    /// asked only for packets without the tunnel's mark, and only after the main table has been
    /// asked for anything more specific than a default route. Behind it stands one that refuses.
    ///
    /// With `strict`, incoming packets must come from where their answers would go (`rp_filter` 1).
    pub fn new(device: u32, request: &RouteRequest, strict: bool) -> Self {
        let mut plan = Self::default();
        let mut ruled = BTreeSet::new();
        let prefixes: BTreeSet<IpNet> = request.prefixes.iter().map(IpNet::trunc).collect();
        for prefix in prefixes {
            let route = Route::through(device, prefix, ROUTE_PROTOCOL);
            if swallows(&prefix, &request.outside) {
                ruled.insert(Family::of(&prefix));
                let table = own_table(device);
                let refusal = Route::unreachable(prefix, METRIC_REFUSE, ROUTE_PROTOCOL);
                plan.routes.extend([route.in_table(table), refusal.in_table(table)]);
            } else {
                plan.routes.push(route);
            }
        }
        if strict && ruled.contains(&Family::V4) {
            let servers = request.outside.iter().filter(|server| server.is_ipv4());
            plan.rules.extend(servers.flat_map(|server| answer_rules(*server, device)));
        }
        let rules = ruled.into_iter().flat_map(|f| rules(f, device, request.mark));
        plan.rules.extend(rules);
        plan
    }

    /// Whether packets of this family are sent by policy rules.
    pub fn has_rules(&self, family: Family) -> bool {
        self.rules.iter().any(|rule| rule.family == family)
    }

    /// Whether anything of this family is in the plan.
    pub fn has(&self, family: Family) -> bool {
        self.routes.iter().any(|route| Family::of(&route.destination) == family)
    }
}

/// Whether a route to `prefix` would take packets to one of `outside` along.
fn swallows(prefix: &IpNet, outside: &[SocketAddr]) -> bool {
    prefix.prefix_len() == 0 || outside.iter().any(|server| prefix.contains(&server.ip()))
}

/// A rule that asks the main table and says, by a group that no interface is in, whose it is.
fn main_table_rule(family: Family, priority: u32, device: u32) -> Rule {
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
        suppress_ifgroup: Some(own_table(device)),
        protocol: ROUTE_PROTOCOL,
    }
}

fn rules(family: Family, device: u32, mark: u32) -> [Rule; 2] {
    let main = main_table_rule(family, RULE_PRIORITY_MAIN, device);
    let table = own_table(device);
    let (fwmark, suppress_ifgroup) = (Some(mark), None);
    let tunnel = Rule { fwmark, invert: true, table, suppress_ifgroup, ..main };
    [
        Rule { suppress_prefixlength: Some(0), ..main },
        Rule { priority: RULE_PRIORITY_TUNNEL, ..tunnel },
    ]
}

/// Lets the answers of a server pass strict reverse path filtering, which looks up the way to their
/// source without a mark. It compares ports as they stand in the packet, or, depending on the
/// kernel, as they would stand in an answer to it; hence two rules.
fn answer_rules(server: SocketAddr, device: u32) -> [Rule; 2] {
    let destination = Some(server.ip());
    let common = main_table_rule(Family::V4, RULE_PRIORITY_ANSWERS, device);
    [
        Rule { destination, udp_source_port: Some(server.port()), ..common },
        Rule { destination, udp_destination_port: Some(server.port()), ..common },
    ]
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::{RoutePlan, RouteRequest};
    use crate::host::netlink::{Family, Route, TABLE_MAIN};
    use crate::host::routes::{MARK_DEFAULT, ROUTE_PROTOCOL, own_table};

    fn plan(prefixes: &[&str], outside: &[&str]) -> RoutePlan {
        filtered_plan(prefixes, outside, false)
    }

    fn filtered_plan(prefixes: &[&str], outside: &[&str], strict: bool) -> RoutePlan {
        let request = RouteRequest {
            prefixes: prefixes.iter().map(|prefix| prefix.parse().unwrap()).collect(),
            outside: outside.iter().map(|ip| SocketAddr::new(ip.parse().unwrap(), 4500)).collect(),
            mark: MARK_DEFAULT,
        };
        RoutePlan::new(7, &request, strict)
    }

    /// Destination and "main" or "own" of every planned route through the device; to each of the
    /// own ones there must be one that refuses.
    fn routes(plan: &RoutePlan) -> Vec<(String, &'static str)> {
        let table = |number| match number {
            TABLE_MAIN => "main",
            number if number == own_table(7) => "own",
            number => panic!("table {number}"),
        };
        let name = |route: &Route| (route.destination.to_string(), table(route.table));
        let (through, refusing): (Vec<_>, Vec<_>) =
            plan.routes.iter().partition(|route| route.device.is_some());
        let refused: Vec<_> = refusing.into_iter().map(name).collect();
        let through: Vec<_> = through.into_iter().map(name).collect();
        let own = through.iter().filter(|(_, table)| *table == "own");
        assert_eq!(refused, own.cloned().collect::<Vec<_>>());
        through
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
            /* 5 */ (&["0.0.0.0/0"], &["192.0.2.1"], &[("0.0.0.0/0", "own")], &[Family::V4]),
            /* 6: even without a known server */
                    (&["::/0"], &[], &[("::/0", "own")], &[Family::V6]),
            /* 7: the halves of everything, of which one covers the server */
                    (&["0.0.0.0/1", "128.0.0.0/1"], &["192.0.2.1"],
                     &[("0.0.0.0/1", "main"), ("128.0.0.0/1", "own")], &[Family::V4]),
            /* 8: the server's own network */
                    (&["192.0.2.0/24"], &["192.0.2.1"], &[("192.0.2.0/24", "own")], &[Family::V4]),
            /* 9: and its neighbour */
                    (&["192.0.3.0/24"], &["192.0.2.1"], &[("192.0.3.0/24", "main")], &[]),
            /* 10: the families are apart */
                    (&["0.0.0.0/0", "2001:db8:1::/48"], &["2001:db8::1"],
                     &[("0.0.0.0/0", "own"), ("2001:db8:1::/48", "main")], &[Family::V4]),
            /* 11 */ (&["0.0.0.0/0", "::/0"], &[], &[("0.0.0.0/0", "own"), ("::/0", "own")],
                     &[Family::V4, Family::V6]),
        ];
        for (number, (prefixes, outside, expected, ruled)) in (1..).zip(cases) {
            let plan = plan(prefixes, outside);
            let expected: Vec<_> =
                expected.iter().map(|(to, table)| ((*to).into(), *table)).collect();
            assert_eq!(routes(&plan), expected, "case {number}");
            for family in Family::ALL {
                assert_eq!(plan.has_rules(family), ruled.contains(&family), "case {number}");
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
            assert!(route.device == Some(7) || route.table == own_table(7), "{route:?}");
        }
        for rule in &plan.rules {
            assert_eq!(rule.protocol, ROUTE_PROTOCOL);
            assert_eq!(super::super::owner(rule), Some(own_table(7)), "{rule:?}");
        }
    }
}
