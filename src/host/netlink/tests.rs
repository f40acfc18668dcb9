use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use super::{Family, Link, Netlink, NetlinkError, Route, Rule, TABLE_MAIN, VethEnd};
use crate::lab::{Host, LINK, LabOptions, TwoHosts, wait_until};

/// Nobody's protocol number.
const PROTOCOL: u8 = 200;

fn host() -> Host {
    Host::create("host").expect("these tests need root: CAP_SYS_ADMIN and CAP_NET_ADMIN")
}

/// A host with an interface `near0` that has a carrier, its index and a netlink socket there.
fn host_with_link() -> (Host, Netlink, u32) {
    let host = host();
    let mut netlink = host.run(Netlink::open).unwrap().unwrap();
    let end = |name| VethEnd { name, namespace: host.namespace().as_fd() };
    netlink.create_veth(end("near0"), end("far0"), 1500).unwrap();
    let far = netlink.link_index("far0").unwrap();
    netlink.disable_link_local_address(far).unwrap();
    netlink.set_up(far).unwrap();
    let index = netlink.link_index("near0").unwrap();
    (host, netlink, index)
}

/// What `ip` prints on a host, blanks folded; it must have succeeded.
fn ip(host: &Host, arguments: &str) -> String {
    let output = host.command("ip").unwrap().args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {output:?}");
    String::from_utf8_lossy(&output.stdout).split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn links_are_found_changed_and_removed() {
    let (host, mut netlink, index) = host_with_link();
    netlink.set_mtu(index, 1234).unwrap();
    netlink.set_txqueuelen(index, 77).unwrap();
    netlink.rename_link(index, "other0").unwrap();
    let down = Link {
        index,
        name: "other0".into(),
        mtu: 1234,
        txqueuelen: 77,
        up: false,
        carrier: false,
        running: false,
        kind: Some("veth".into()),
    };
    assert_eq!(netlink.link("other0").unwrap(), down);
    netlink.set_up(index).unwrap();
    let up = wait_until(Duration::from_secs(10), "the link to be in operation", || {
        netlink.link_by_index(index).ok().filter(|link| link.running)
    });
    assert_eq!(up.unwrap(), Link { up: true, carrier: true, running: true, ..down.clone() });
    let shown = ip(&host, "link show other0");
    assert!(shown.contains(",UP") && shown.contains("mtu 1234") && shown.contains("qlen 77"));
    netlink.set_down(index).unwrap();
    assert!(netlink.links().unwrap().iter().any(|link| link.index == index && !link.up));
    netlink.delete_link(index).unwrap();
    assert!(netlink.link("other0").unwrap_err().is_not_found());
    assert_eq!(netlink.links().unwrap().len(), 1, "loopback is left");
}

#[test]
fn a_veth_pair_reaches_into_two_namespaces() {
    let (one, other) = (host(), host());
    let mut netlink = one.run(Netlink::open).unwrap().unwrap();
    let near = VethEnd { name: "near", namespace: one.namespace().as_fd() };
    let far = VethEnd { name: "far", namespace: other.namespace().as_fd() };
    netlink.create_veth(near, far, 9000).unwrap();
    assert!(ip(&one, "link show near").contains("mtu 9000"));
    assert!(ip(&other, "link show far").contains("mtu 9000"));
    assert!(netlink.create_veth(near, far, 9000).unwrap_err().is_exists());
}

#[test]
fn addresses_are_usable_at_once() {
    let (host, mut netlink, index) = host_with_link();
    netlink.disable_link_local_address(index).unwrap();
    netlink.set_up(index).unwrap();
    for address in ["192.0.2.9/24", "2001:db8::9/64"] {
        let address = address.parse().unwrap();
        netlink.add_address(index, address).unwrap();
        assert!(netlink.add_address(index, address).unwrap_err().is_exists());
        host.run(|| std::net::TcpListener::bind((address.addr(), 0)).unwrap()).unwrap();
    }
    let present: Vec<String> =
        netlink.addresses(index).unwrap().iter().map(|a| a.address.to_string()).collect();
    assert_eq!(present, ["192.0.2.9/24", "2001:db8::9/64"], "and no link-local one");
    assert!(!ip(&host, "address show near0").contains("tentative"));
    for address in ["192.0.2.9/24", "2001:db8::9/64"] {
        netlink.delete_address(index, address.parse().unwrap()).unwrap();
        assert!(
            netlink.delete_address(index, address.parse().unwrap()).unwrap_err().is_not_found()
        );
    }
    assert_eq!(netlink.addresses(index).unwrap(), []);
}

#[test]
fn routes_come_back_as_they_were_added() {
    let (host, mut netlink, index) = host_with_link();
    netlink.set_up(index).unwrap();
    netlink.add_address(index, "192.0.2.9/24".parse().unwrap()).unwrap();
    netlink.add_address(index, "2001:db8::9/64".parse().unwrap()).unwrap();
    let to = |destination: &str| Route::through(index, destination.parse().unwrap(), PROTOCOL);
    let via = |route: Route, gateway: &str| route.via(gateway.parse().unwrap());
    let refused = |destination: &str| {
        Route::unreachable(destination.parse().unwrap(), u32::MAX - 1, PROTOCOL).in_table(100)
    };
    let v4 = vec![
        to("10.0.0.0/8"),
        Route { metric: 50, mtu: Some(1300), ..to("10.0.0.0/8") },
        via(to("10.1.0.0/16"), "192.0.2.1").in_table(1_930_000_007),
        to("0.0.0.0/0").in_table(100),
        refused("0.0.0.0/0"),
    ];
    let v6 = vec![
        to("2001:db8:1::/48"),
        via(Route { mtu: Some(1300), ..to("2001:db8:2::/48") }, "2001:db8::1"),
        to("::/0").in_table(1_930_000_007),
        refused("::/0"),
    ];
    for (family, routes) in [(Family::V4, &v4), (Family::V6, &v6)] {
        for route in routes {
            netlink.add_route(route).unwrap();
            assert!(netlink.add_route(route).unwrap_err().is_exists());
        }
        let mut listed = netlink.routes_of_protocol(family, PROTOCOL).unwrap();
        assert_eq!(listed.len(), routes.len());
        listed.retain(|route| !routes.contains(route));
        assert_eq!(listed, []);
    }
    let shown = ip(&host, "route show table 1930000007");
    assert_eq!(shown, "10.1.0.0/16 via 192.0.2.1 dev near0 proto 200");
    let shown = ip(&host, "-6 route show table 100");
    assert!(shown.starts_with("unreachable default dev lo proto 200 metric 4294967294"), "{shown}");
    assert!(ip(&host, "route").contains("10.0.0.0/8 dev near0 proto 200 scope link metric 50 mtu"));
    assert!(ip(&host, "-6 route").contains("via 2001:db8::1 dev near0 proto 200"));

    let narrower = Route { mtu: Some(1280), ..v4[0].clone() };
    netlink.replace_route(&narrower).unwrap();
    assert!(netlink.routes_of_protocol(Family::V4, PROTOCOL).unwrap().contains(&narrower));
    for route in v4.iter().rev().chain(&v6) {
        netlink.delete_route(route).unwrap();
        assert!(netlink.delete_route(route).unwrap_err().is_not_found());
    }
    for family in Family::ALL {
        assert_eq!(netlink.routes_of_protocol(family, PROTOCOL).unwrap(), []);
    }
}

#[test]
fn rules_come_back_as_they_were_added() {
    let (host, mut netlink, _) = host_with_link();
    let before = ip(&host, "rule") + &ip(&host, "-6 rule");
    for family in Family::ALL {
        let plain = Rule {
            family,
            priority: 1000,
            fwmark: None,
            destination: None,
            udp_source_port: None,
            udp_destination_port: None,
            invert: false,
            table: TABLE_MAIN,
            suppress_prefixlength: Some(0),
            suppress_ifgroup: Some(1_930_000_007),
            protocol: PROTOCOL,
        };
        let marked = Rule {
            priority: 1001,
            fwmark: Some(193),
            invert: true,
            table: 1_930_000_007,
            suppress_prefixlength: None,
            suppress_ifgroup: None,
            ..plain
        };
        let address = if family == Family::V4 { "192.0.2.1" } else { "2001:db8::1" };
        let destination = address.parse().ok();
        let sport = Rule { priority: 1002, destination, udp_source_port: Some(4500), ..plain };
        let dport = Rule { priority: 1003, udp_destination_port: Some(4500), ..marked };
        let rules = [plain, marked, sport, dport];
        for rule in rules {
            netlink.add_rule(&rule).unwrap();
            assert!(netlink.add_rule(&rule).unwrap_err().is_exists());
        }
        assert_eq!(netlink.rules_of_protocol(family, PROTOCOL).unwrap(), rules);
        let shown = ip(&host, if family == Family::V4 { "rule" } else { "-6 rule" });
        assert!(shown.contains("1000: from all lookup main suppress_prefixlength 0"), "{shown}");
        assert!(shown.contains("1001: not from all fwmark 0xc1 lookup 1930000007"), "{shown}");
        assert!(shown.contains(&format!("to {address} ipproto udp sport 4500 lookup")), "{shown}");
        assert!(shown.contains("ipproto udp dport 4500 lookup 1930000007"), "{shown}");
        for rule in rules.into_iter().rev() {
            netlink.delete_rule(&rule).unwrap();
            assert!(netlink.delete_rule(&rule).unwrap_err().is_not_found());
        }
    }
    assert_eq!(ip(&host, "rule") + &ip(&host, "-6 rule"), before);
}

#[test]
fn long_dumps_arrive_whole() {
    let (host, mut netlink, index) = host_with_link();
    netlink.set_up(index).unwrap();
    let mut wanted = Vec::new();
    for number in 0..2000_u32 {
        let network = IpAddr::from((0x0a00_0000 + (number << 8)).to_be_bytes());
        let route = Route::through(index, ipnet::IpNet::new(network, 24).unwrap(), PROTOCOL);
        netlink.add_route(&route).unwrap();
        wanted.push(route);
    }
    ip(&host, "route add 11.0.0.0/8 dev near0 proto 201");
    assert_eq!(netlink.routes_of_protocol(Family::V4, PROTOCOL).unwrap(), wanted);
}

/// What a host takes for its own, in the order of addresses, each once.
fn local(netlink: &mut Netlink) -> Vec<String> {
    let mut prefixes = netlink.local_prefixes().unwrap();
    prefixes.sort_unstable();
    prefixes.dedup();
    prefixes.iter().map(ToString::to_string).collect()
}

#[test]
fn what_is_delivered_to_this_host_is_its_own_whatever_has_it() {
    let (host, mut netlink, index) = host_with_link();
    netlink.disable_link_local_address(index).unwrap();
    netlink.set_up(index).unwrap();
    let at_rest = local(&mut netlink);
    for address in ["127.0.0.0/8", "127.0.0.1/32", "127.255.255.255/32", "::1/128"] {
        assert!(at_rest.iter().any(|it| it == address), "{address} in {at_rest:?}");
    }
    let mut more = |command: &str, expected: &[&str]| {
        let before = local(&mut netlink);
        ip(&host, command);
        let now = local(&mut netlink);
        let new: Vec<_> = now.iter().filter(|it| !before.contains(it)).collect();
        assert_eq!(new, expected, "{command}");
    };
    more("address add 203.0.113.9/24 dev near0", &["203.0.113.9/32", "203.0.113.255/32"]);
    more("address add 2001:db8::9/64 dev near0 nodad", &["2001:db8::9/128"]);
    more("route add local 198.51.100.0/24 dev lo", &["198.51.100.0/24"]);
    more("-6 route add local 2001:db8:a::/48 dev lo", &["2001:db8:a::/48"]);
    more("-6 route add anycast 2001:db8:b::/128 dev near0", &["2001:db8:b::/128"]);
    more("route add local 198.18.0.0/15 dev lo table main", &["198.18.0.0/15"]);
    // Where packets of this host go from here is not here.
    more("route add 10.0.0.0/8 via 203.0.113.1", &[]);
    more("route add unreachable 10.9.0.0/16", &[]);
    more("-6 route add default via 2001:db8::1", &[]);
    // Tables count once this host's own packets are looked up in them.
    for family in ["-4", "-6"] {
        more(&format!("{family} route add local default dev lo table 1000"), &[]);
        more(&format!("{family} rule add fwmark 1 lookup 1000"), &[]);
        more(&format!("{family} rule add fwmark 0x10/0x10 lookup 1000"), &[]);
        more(&format!("{family} rule add iif near0 lookup 1000"), &[]);
        more(&format!("{family} rule add not iif lo lookup 1001"), &[]);
    }
    more("rule add iif lo ipproto udp dport 53 lookup 1000", &["0.0.0.0/0"]);
    more("-6 rule add not fwmark 7 lookup 1000", &["::/0"]);
}

#[test]
fn listings_without_the_kernels_filter_are_the_same() {
    let (host, mut netlink, index) = host_with_link();
    netlink.set_up(index).unwrap();
    ip(&host, "address add 203.0.113.9/24 dev near0");
    ip(&host, "route add local 198.51.100.0/24 dev lo");
    ip(&host, "route add 10.0.0.0/8 via 203.0.113.1");
    let expected = local(&mut netlink);
    assert!(expected.iter().any(|it| it == "198.51.100.0/24"), "{expected:?}");
    netlink.socket.set_netlink_get_strict_chk(false).unwrap();
    netlink.filters = false;
    assert_eq!(local(&mut netlink), expected);
}

#[test]
fn lookups_answer_as_ip_route_get_does() {
    let lab = TwoHosts::build(LabOptions::default()).unwrap();
    let mut netlink = lab.client.run(Netlink::open).unwrap().unwrap();
    let index = netlink.link_index(LINK).unwrap();
    for (to, from) in [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")] {
        let found = netlink.route_to(to.parse().unwrap(), None).unwrap();
        assert_eq!((found.device, found.mtu, found.gateway), (index, 1500, None));
        assert_eq!(found.source, Some(from.parse().unwrap()));
        assert!(ip(&lab.client, &format!("route get {to}")).contains(&format!("src {from}")));
    }
    let nowhere = netlink.route_to("203.0.113.1".parse().unwrap(), None).unwrap_err();
    assert_eq!(nowhere.errno(), Some(libc::ENETUNREACH));
    ip(&lab.client, "route add 203.0.113.0/24 via 192.0.2.1 mtu 1400");
    let found = netlink.route_to("203.0.113.1".parse().unwrap(), None).unwrap();
    assert_eq!((found.mtu, found.gateway), (1400, Some("192.0.2.1".parse().unwrap())));
}

#[test]
fn a_mark_changes_the_lookup() {
    let lab = TwoHosts::build(LabOptions::default()).unwrap();
    let mut netlink = lab.client.run(Netlink::open).unwrap().unwrap();
    ip(&lab.client, "route add 203.0.113.0/24 via 192.0.2.1 table 100");
    ip(&lab.client, "rule add fwmark 7 lookup 100");
    let to = "203.0.113.1".parse().unwrap();
    assert!(netlink.route_to(to, None).is_err());
    assert!(netlink.route_to(to, Some(8)).is_err());
    assert!(netlink.route_to(to, Some(7)).is_ok());
}

#[test]
fn a_refusal_says_what_was_attempted_and_why() {
    let (_host, mut netlink, index) = host_with_link();
    let error = netlink.link_index("nosuch0").unwrap_err();
    assert!(error.is_not_found());
    assert_eq!(
        error.to_string(),
        "cannot find the interface nosuch0: No such device (os error 19)"
    );
    netlink.set_up(index).unwrap();
    let unreachable = Route::through(index, "10.0.0.0/8".parse().unwrap(), PROTOCOL)
        .via("192.0.2.1".parse().unwrap());
    let error = netlink.add_route(&unreachable).unwrap_err().to_string();
    assert!(error.contains("Nexthop has invalid gateway"), "the kernel's words: {error}");
}

#[test]
fn without_the_capability_the_error_says_how_to_get_it() {
    let host = host();
    let error = host
        .run(|| {
            crate::host::privileges::drop_all_on_this_thread().unwrap();
            Netlink::open().unwrap().set_down(1).unwrap_err()
        })
        .unwrap();
    assert_eq!(error.errno(), Some(libc::EPERM));
    assert!(error.to_string().contains("setcap cap_net_admin+ep"), "{error}");
}

#[test]
fn answers_to_abandoned_requests_are_passed_over() {
    let (_host, mut netlink, index) = host_with_link();
    let unanswered =
        super::RouteNetlinkMessage::GetLink(netlink_packet_route::link::LinkMessage::default());
    netlink.send("be forgotten", unanswered, netlink_packet_core::NLM_F_DUMP).unwrap();
    assert_eq!(netlink.link_by_index(index).unwrap().name, "near0");
}

#[test]
fn malformed_answers_are_errors_not_panics() {
    for bytes in [&[0_u8; 8][..], &[0_u8; 16], &[255_u8; 64]] {
        let Err(error) = super::split_message("read", bytes) else { panic!("{bytes:?}") };
        assert!(matches!(error, NetlinkError::Unexpected { .. }), "{error:?}");
    }
    // A whole message whose body is cut short.
    let mut short = vec![0_u8; 20];
    short[0] = 20;
    short[4] = 24; // RTM_NEWROUTE
    let (message, rest) = super::split_message("read", &short).unwrap();
    assert!(rest.is_empty());
    let answer = super::interpret("read", &message).unwrap();
    assert!(matches!(answer, super::Answer::Undecodable(_)));
    // An explanation without attributes behind it.
    let mut refusal = netlink_packet_core::ErrorMessage::default();
    refusal.header = vec![0; 7];
    assert_eq!(super::explanation(super::NLM_F_ACK_TLVS, &refusal), None);
}
