use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;

const OPEN: Defaults = Defaults { without_rules: Action::Allow, isolate: false };
const CLOSED: Defaults = Defaults { without_rules: Action::Deny, isolate: true };

fn judge(rules: &[&str], defaults: Defaults) -> Judge {
    let rules: Vec<AclRule> = rules.iter().map(|text| text.parse().unwrap()).collect();
    Judge::new(&rules, defaults)
}

/// `10.1.2.3`, `10.1.2.3 443/tcp`, `fd00::1 ?/udp` (unknown port), `10.1.2.3 ?` (unknown protocol).
fn far_end(text: &str) -> FarEnd {
    let (address, service) = text.split_once(' ').unwrap_or((text, "other"));
    let (port, protocol) = service.split_once('/').unwrap_or(("?", service));
    let upper = match protocol {
        "tcp" => Upper::Tcp,
        "udp" => Upper::Udp,
        "icmp" => Upper::Icmp,
        "other" => Upper::Other,
        _ => Upper::Unknown,
    };
    FarEnd { address: address.parse().unwrap(), upper, port: port.parse().ok() }
}

#[test]
fn acl_truth_table() {
    let web = ["allow 10.0.0.0/8 443/tcp"].as_slice();
    let no_web = ["deny 10.0.0.0/8 443/tcp", "allow any"].as_slice();
    let ports = ["deny any 6000-6063/udp", "allow any udp", "allow any 80/tcp"].as_slice();
    let hole = ["allow 10.1.0.0/16", "deny 10.0.0.0/8", "allow any"].as_slice();
    let v6 = ["deny ::/0", "allow 0.0.0.0/0"].as_slice();
    let v6_net = ["allow fd00::/8 icmp", "allow 2001:db8::1"].as_slice();
    let mapped = ["deny ::ffff:10.0.0.0/104", "allow any"].as_slice();
    let wide_v6 = ["deny ::/8", "allow any"].as_slice();
    let no_tcp = ["deny any tcp", "allow any"].as_slice();
    // (rules, far end, passes)
    let table: &[(&[&str], &str, bool)] = &[
        /*  1 */ (web, "10.1.2.3 443/tcp", true),
        /*  2 */ (web, "10.1.2.3 444/tcp", false),
        /*  3 */ (web, "10.1.2.3 443/udp", false),
        /*  4 */ (web, "11.1.2.3 443/tcp", false),
        /*  5: a fragment         */ (web, "10.1.2.3 ?/tcp", false),
        /*  6: a hidden protocol  */ (web, "10.1.2.3 ?", false),
        /*  7 */ (web, "10.1.2.3 icmp", false),
        /*  8 */ (no_web, "10.1.2.3 443/tcp", false),
        /*  9 */ (no_web, "10.1.2.3 444/tcp", true),
        /* 10: it may be to 443   */ (no_web, "10.1.2.3 ?/tcp", false),
        /* 11: it may be TCP      */ (no_web, "10.1.2.3 ?", false),
        /* 12: to somewhere else  */ (no_web, "11.1.2.3 ?/tcp", true),
        /* 13 */ (no_web, "10.1.2.3 ?/udp", true),
        /* 14: SCTP, say          */ (no_web, "10.1.2.3 other", true),
        /* 15 */ (ports, "fd00::1 5999/udp", true),
        /* 16 */ (ports, "fd00::1 6000/udp", false),
        /* 17 */ (ports, "fd00::1 6063/udp", false),
        /* 18 */ (ports, "fd00::1 6064/udp", true),
        /* 19 */ (ports, "fd00::1 ?/udp", false),
        /* 20 */ (ports, "192.0.2.1 80/tcp", true),
        /* 21 */ (ports, "192.0.2.1 ?/tcp", false),
        /* 22 */ (ports, "192.0.2.1 icmp", false),
        /* 23: the first decides  */ (hole, "10.1.255.255", true),
        /* 24 */ (hole, "10.2.0.0", false),
        /* 25 */ (hole, "192.0.2.1", true),
        /* 26: one version only   */ (v6, "192.0.2.1 1/tcp", true),
        /* 27 */ (v6, "2001:db8::1 1/tcp", false),
        /* 28 */ (v6_net, "fd12::1 icmp", true),
        /* 29 */ (v6_net, "fd12::1 1/tcp", false),
        /* 30 */ (v6_net, "2001:db8::1 1/tcp", true),
        /* 31 */ (v6_net, "2001:db8::2 1/tcp", false),
        /* 32 */ (mapped, "10.1.2.3", false),
        /* 33 */ (mapped, "11.1.2.3", true),
        /* 34: never on the wire  */ (&["allow any"], "::ffff:11.1.2.3", false),
        /* 35 */ (&["allow ::ffff:0:0/96"], "::ffff:11.1.2.3", false),
        /* 36 */ (&["allow ::ffff:0:0/96"], "11.1.2.3", true),
        /* 37: not IPv4           */ (wide_v6, "11.1.2.3", true),
        /* 38 */ (wide_v6, "100::1", true),
        /* 39 */ (wide_v6, "::1", false),
        /* 40 */ (no_tcp, "11.1.2.3 ?", false),
        /* 41 */ (no_tcp, "11.1.2.3 other", true),
        /* 42: no rules           */ (&[], "11.1.2.3 ?", true),
    ];
    for (number, (rules, text, passes)) in (1..).zip(table) {
        let verdict = judge(rules, OPEN).decide(&far_end(text), || panic!("not isolated")).0;
        assert_eq!(verdict == Verdict::Pass, *passes, "row {number}: {text}");
    }
    assert_eq!(
        judge(&[], CLOSED).decide(&far_end("11.1.2.3"), || false),
        (Verdict::Denied, Reason::NoRules)
    );
}

#[test]
fn another_peer_is_reached_only_where_a_rule_names_it() {
    // (rules, verdict when isolated, what decided)
    let table: &[(&[&str], Verdict, Reason)] = &[
        /* 1 */ (&[], Verdict::Isolated, Reason::Isolation),
        /* 2 */ (&["allow any"], Verdict::Isolated, Reason::Isolation),
        /* 3: as good as any */ (&["allow 0.0.0.0/0"], Verdict::Isolated, Reason::Isolation),
        /* 4 */ (&["allow any 22/tcp"], Verdict::Isolated, Reason::Isolation),
        /* 5 */ (&["allow 10.8.0.0/24"], Verdict::Pass, Reason::Rule(0)),
        /* 6 */ (&["allow 10.8.0.7 22/tcp"], Verdict::Pass, Reason::Rule(0)),
        /* 7 */ (&["allow 10.8.0.7 23/tcp"], Verdict::Denied, Reason::NoRuleMatches),
        /* 8 */ (&["deny 10.8.0.7", "allow 10.8.0.0/24"], Verdict::Denied, Reason::Rule(0)),
    ];
    let to = far_end("10.8.0.7 22/tcp");
    for (number, (rules, verdict, reason)) in (1..).zip(table) {
        let isolated = judge(rules, Defaults { isolate: true, ..OPEN });
        assert_eq!(isolated.decide(&to, || true), (*verdict, *reason), "row {number}");
        let is_denied = *verdict == Verdict::Denied;
        let expected = if is_denied { Verdict::Denied } else { Verdict::Pass };
        assert_eq!(isolated.decide(&to, || false).0, expected, "row {number}");
        assert_eq!(judge(rules, OPEN).decide(&to, || true).0, expected, "row {number}");
    }
}

/// A UDP packet.
fn udp(source: (&str, u16), destination: (&str, u16)) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 36, 0, 0, 0x40, 0, 64, 17, 0, 0];
    packet.extend(source.0.parse::<Ipv4Addr>().unwrap().octets());
    packet.extend(destination.0.parse::<Ipv4Addr>().unwrap().octets());
    packet.extend(source.1.to_be_bytes());
    packet.extend(destination.1.to_be_bytes());
    packet.extend([0, 16, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
    packet
}

/// An ICMP error of `source` about `packet`, told to `destination`.
fn error(kind: u8, source: &str, destination: &str, packet: &[u8]) -> Vec<u8> {
    let mut error = vec![0x45, 0, 0, 28 + packet.len() as u8, 0, 0, 0, 0, 64, 1, 0, 0];
    error.extend(source.parse::<Ipv4Addr>().unwrap().octets());
    error.extend(destination.parse::<Ipv4Addr>().unwrap().octets());
    error.extend([kind, 0, 0, 0, 0, 0, 0, 0]);
    error.extend(packet);
    error
}

const PEER: (&str, u16) = ("10.8.0.2", 4000);
const DNS: (&str, u16) = ("10.1.0.1", 53);
const OTHER_PORT: (&str, u16) = ("10.1.0.1", 54);
const ROUTER: &str = "192.0.2.1";
const OTHER_PEER: &str = "10.8.0.7";

#[test]
fn both_directions_are_judged_by_the_far_end() {
    let rules = judge(&["allow 10.1.0.0/16 53/udp"], Defaults { isolate: true, ..OPEN });
    use Direction::{FromPeer, ToPeer};
    use Verdict::{Denied, Isolated, Pass};
    let (asked, answered) = (udp(PEER, DNS), udp(DNS, PEER));
    let (elsewhere, from_elsewhere) = (udp(PEER, OTHER_PORT), udp(OTHER_PORT, PEER));
    // (direction, packet, verdict)
    let table = [
        /*  1 */ (FromPeer, asked.clone(), Pass),
        /*  2 */ (ToPeer, answered.clone(), Pass),
        /*  3 */ (FromPeer, elsewhere.clone(), Denied),
        /*  4 */ (ToPeer, from_elsewhere.clone(), Denied),
        /*  5: to its own port 53 */ (ToPeer, udp(OTHER_PORT, ("10.8.0.2", 53)), Denied),
        /*  6: a router's error   */ (ToPeer, error(3, ROUTER, PEER.0, &asked), Pass),
        /*  7: the far end's own  */ (ToPeer, error(3, DNS.0, PEER.0, &asked), Pass),
        /*  8: about another talk */ (ToPeer, error(3, ROUTER, PEER.0, &elsewhere), Denied),
        /*  9: not the peer's     */ (ToPeer, error(3, ROUTER, PEER.0, &answered), Denied),
        /* 10: no error           */ (ToPeer, error(8, ROUTER, PEER.0, &asked), Denied),
        /* 11: a redirect         */ (ToPeer, error(5, ROUTER, PEER.0, &asked), Denied),
        /* 12: of another peer    */
        (ToPeer, error(3, OTHER_PEER, PEER.0, &asked), Isolated),
        /* 13: the peer's error   */ (FromPeer, error(3, PEER.0, DNS.0, &answered), Pass),
        /* 14: to somebody else   */ (FromPeer, error(3, PEER.0, ROUTER, &answered), Denied),
        /* 15 */ (FromPeer, error(3, PEER.0, DNS.0, &from_elsewhere), Denied),
        /* 16: nothing quoted     */
        (ToPeer, error(3, ROUTER, PEER.0, &asked[..12]), Denied),
        /* 17: its ports missing  */
        (ToPeer, error(3, ROUTER, PEER.0, &asked[..22]), Denied),
    ];
    for (number, (direction, packet, verdict)) in (1..).zip(table) {
        let parsed = Parsed::parse(&packet).unwrap();
        let is_other_peers = |address: IpAddr| address.to_string() == OTHER_PEER;
        let found = rules.judge(direction, &packet, &parsed, is_other_peers);
        assert_eq!(found, verdict, "row {number}");
    }
}

#[test]
fn a_packet_with_a_route_of_its_senders_passes_no_rule() {
    let mut packet = vec![0x46, 0, 0, 24, 0, 0, 0, 0, 64, 99, 0, 0, 10, 8, 0, 2, 10, 1, 0, 1];
    packet.extend([7, 4, 4, 0]);
    let verdict = |packet: &[u8]| {
        let parsed = Parsed::parse(packet).unwrap();
        judge(&["allow any"], OPEN).judge(Direction::FromPeer, packet, &parsed, |_| false)
    };
    assert_eq!(verdict(&packet), Verdict::Pass);
    packet[20] = 131;
    assert_eq!(verdict(&packet), Verdict::Denied);
}

#[test]
fn only_rules_that_say_nothing_need_no_look() {
    assert!(judge(&[], OPEN).passes_everything());
    assert!(!judge(&[], Defaults { isolate: true, ..OPEN }).passes_everything());
    assert!(!judge(&[], CLOSED).passes_everything());
    assert!(!judge(&["allow any"], OPEN).passes_everything());
}

fn any_rule() -> impl Strategy<Value = AclRule> {
    let net = prop_oneof![
        Just(None),
        (any::<u32>(), 0_u8..=32).prop_map(|(bits, len)| {
            let net = ipnet::Ipv4Net::new(Ipv4Addr::from_bits(bits & 0x3000_0003), len);
            Some(IpNet::V4(net.unwrap().trunc()))
        }),
    ];
    let service = prop_oneof![
        Just((None, None)),
        Just((None, Some(Protocol::Icmp))),
        (0_u16..4, 0_u16..4).prop_map(|(a, b)| (Some(a.min(b)..=a.max(b)), Some(Protocol::Tcp))),
        (0_u16..4).prop_map(|port| (Some(port..=port), Some(Protocol::Udp))),
    ];
    let action = prop_oneof![Just(Action::Allow), Just(Action::Deny)];
    (action, net, service).prop_map(|(action, destination, (ports, protocol))| AclRule {
        action,
        destination,
        ports,
        protocol,
    })
}

proptest! {
    /// What is unknown about a packet never lets it pass where the same packet, known, might not.
    #[test]
    fn knowing_less_never_lets_more_pass(
        rules in prop::collection::vec(any_rule(), 0..8),
        address in any::<u32>(),
    ) {
        let judge = Judge::new(&rules, OPEN);
        let address = IpAddr::V4(Ipv4Addr::from_bits(address & 0x3000_0003));
        let passes = |upper, port| {
            judge.decide(&FarEnd { address, upper, port }, || false).0 == Verdict::Pass
        };
        for upper in [Upper::Tcp, Upper::Udp] {
            for port in 0..5 {
                prop_assert!(passes(upper, Some(port)) || !passes(upper, None));
                prop_assert!(passes(upper, Some(port)) || !passes(Upper::Unknown, None));
            }
        }
        for upper in [Upper::Icmp, Upper::Other] {
            prop_assert!(passes(upper, None) || !passes(Upper::Unknown, None));
        }
    }

    /// The compiled rules say what reading them one by one does.
    #[test]
    fn the_first_rule_that_matches_decides(
        rules in prop::collection::vec(any_rule(), 1..8),
        address in any::<u32>(),
        port in 0_u16..5,
        is_udp in any::<bool>(),
    ) {
        let address = IpAddr::V4(Ipv4Addr::from_bits(address & 0x3000_0003));
        let protocol = if is_udp { Protocol::Udp } else { Protocol::Tcp };
        let expected = rules.iter().find(|rule| {
            rule.destination.is_none_or(|net| net.contains(&address))
                && rule.protocol.is_none_or(|it| it == protocol)
                && rule.ports.as_ref().is_none_or(|ports| ports.contains(&port))
        });
        let upper = if is_udp { Upper::Udp } else { Upper::Tcp };
        let far_end = FarEnd { address, upper, port: Some(port) };
        let (verdict, _) = Judge::new(&rules, OPEN).decide(&far_end, || false);
        let is_allowed = expected.is_some_and(|rule| rule.action == Action::Allow);
        prop_assert_eq!(verdict == Verdict::Pass, is_allowed);
    }
}
