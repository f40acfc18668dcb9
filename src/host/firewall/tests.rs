use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::process::Command;

use ipnet::IpNet;

use super::nat::Nat;
use super::{FirewallError, nft, table_name};
use crate::host::netlink::{Netlink, VethEnd};
use crate::host::privileges::drop_to;
use crate::host::sysctl;
use crate::lab::Host;

const TUN: &str = "vpn0";
/// Interfaces of a host that listens to routers on one of them only.
const LISTENING: &str = "uplink0";
const DEAF: &str = "uplink1";

fn nft(command: &str) -> String {
    let output = Command::new("nft").args(command.split(' ')).output().unwrap();
    assert!(output.status.success(), "{command}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn networks() -> Vec<IpNet> {
    ["10.77.0.1/24", "10.77.0.0/25", "fd77::1/64", "2001:db8:77::1/64"]
        .map(|it| it.parse().unwrap())
        .to_vec()
}

/// Runs `test` on a host with two interfaces and whatever parameters it sets.
fn on_a_host(test: impl FnOnce() + Send) {
    let host = Host::create("host").unwrap();
    let end = |name| VethEnd { name, namespace: host.namespace().as_fd() };
    host.run(|| {
        let mut netlink = Netlink::open().unwrap();
        netlink.create_veth(end(LISTENING), end(DEAF), 1500).unwrap();
        for (parameter, value) in [
            ("ipv6/conf/uplink1/accept_ra", "0"),
            ("ipv4/conf/uplink1/forwarding", "1"),
            ("ipv4/conf/all/accept_redirects", "0"),
        ] {
            sysctl::write(parameter, value).unwrap();
        }
        test();
    })
    .unwrap();
}

/// Every parameter that forwarding may change.
fn parameters() -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut note = |name: String| {
        if let Ok(value) = sysctl::read(&name) {
            found.insert(name, value);
        }
    };
    note("ipv4/ip_forward".to_owned());
    for family in ["ipv4", "ipv6"] {
        for interface in sysctl::list(&format!("{family}/conf")).unwrap() {
            for parameter in ["forwarding", "accept_redirects", "accept_ra", "send_redirects"] {
                note(format!("{family}/conf/{interface}/{parameter}"));
            }
        }
    }
    found
}

#[test]
fn the_table_says_who_is_let_out_and_as_whom() {
    on_a_host(|| {
        let _nat = Nat::install(TUN, &networks()).unwrap();
        let table = nft("-s list table inet corelane_vpn0");
        for rule in [
            "iifname \"vpn0\" ip saddr 10.77.0.0/24 accept",
            "iifname \"vpn0\" oifname != \"vpn0\" ip saddr 10.77.0.0/24 masquerade",
            "iifname \"vpn0\" oifname != \"vpn0\" ip6 saddr fd77::/64 masquerade",
            "ip6 saddr { 2001:db8:77::/64, fd77::/64 } accept",
            "iifname != \"vpn0\" oifname \"vpn0\" drop",
        ] {
            assert!(table.contains(rule), "{rule}: {table}");
        }
        assert!(!table.contains("2001:db8:77::/64 masquerade"), "{table}");
    });
}

#[test]
fn a_host_forwards_hears_routers_and_is_left_as_it_was() {
    on_a_host(|| {
        let before = parameters();
        let nat = Nat::install(TUN, &networks()).unwrap();
        let while_on = parameters();
        for (parameter, value) in [
            ("ipv4/ip_forward", "1"),
            ("ipv6/conf/all/forwarding", "1"),
            ("ipv6/conf/uplink0/accept_ra", "2"),
            ("ipv6/conf/default/accept_ra", "2"),
            ("ipv6/conf/uplink1/accept_ra", "0"),
        ] {
            assert_eq!(while_on[parameter], value, "{parameter}");
        }
        nat.remove().unwrap();
        assert_eq!(parameters(), before);
        assert_eq!(nft("list ruleset"), "");
    });
}

#[test]
fn without_ipv6_in_the_tunnel_ipv6_is_not_touched() {
    on_a_host(|| {
        let nat = Nat::install(TUN, &networks()[..1]).unwrap();
        assert_eq!(parameters()["ipv6/conf/all/forwarding"], "0");
        assert_eq!(parameters()["ipv6/conf/uplink0/accept_ra"], "1");
        drop(nat);
        assert_eq!(nft("list ruleset"), "");
    });
}

#[test]
fn what_was_on_already_stays_on() {
    on_a_host(|| {
        sysctl::write("ipv4/ip_forward", "1").unwrap();
        sysctl::write("ipv6/conf/all/forwarding", "1").unwrap();
        let before = parameters();
        let nat = Nat::install(TUN, &networks()).unwrap();
        assert_eq!(parameters(), before);
        nat.remove().unwrap();
        assert_eq!(parameters(), before);
    });
}

/// A run that was killed is one whose value is forgotten.
#[test]
fn the_next_run_knows_what_was_before_one_that_was_killed() {
    for next_is_off in [false, true] {
        on_a_host(|| {
            let before = parameters();
            nft("add table inet elsewhere");
            for _ in 0..2 {
                std::mem::forget(Nat::install(TUN, &networks()).unwrap());
            }
            match next_is_off {
                true => Nat::remove_leftovers(TUN).unwrap(),
                false => Nat::install(TUN, &networks()).unwrap().remove().unwrap(),
            }
            assert_eq!(parameters(), before);
            assert_eq!(nft("list tables"), "table inet elsewhere\n");
        });
    }
}

#[test]
fn the_last_of_several_servers_switches_forwarding_off() {
    on_a_host(|| {
        let before = parameters();
        let first = Nat::install(TUN, &networks()[..1]).unwrap();
        let second = Nat::install("vpn1", &networks()).unwrap();
        first.remove().unwrap();
        assert_eq!(parameters()["ipv4/ip_forward"], "1");
        second.remove().unwrap();
        assert_eq!(parameters(), before);
        assert_eq!(nft("list ruleset"), "");
    });
}

#[test]
fn what_another_program_removes_or_changes_is_put_back_once() {
    on_a_host(|| {
        let before = parameters();
        let mut nat = Nat::install(TUN, &networks()).unwrap();
        let mut other = Nat::install("vpn1", &networks()).unwrap();
        assert_eq!(nat.restore().unwrap(), 0);
        let whole = nft("-s list table inet corelane_vpn0");
        for change in [
            "flush ruleset",
            "flush table inet corelane_vpn0",
            "add rule inet corelane_vpn0 forward drop",
            "delete table inet corelane-sysctls",
        ] {
            nft(change);
            sysctl::write("ipv4/ip_forward", "0").unwrap();
            assert!(nat.restore().unwrap() > 0, "{change}");
            assert_eq!(nft("-s list table inet corelane_vpn0"), whole, "{change}");
            assert_eq!(parameters()["ipv4/ip_forward"], "1", "{change}");
            other.restore().unwrap();
            assert_eq!(nat.restore().unwrap(), 0, "{change}");
        }
        drop((nat, other));
        assert_eq!(parameters(), before);
    });
}

#[test]
fn net_admin_suffices() {
    on_a_host(|| {
        let before = parameters();
        drop_to(&[caps::Capability::CAP_NET_ADMIN]).unwrap();
        let mut nat = Nat::install(TUN, &networks()).unwrap();
        assert_eq!(nat.restore().unwrap(), 0);
        nat.remove().unwrap();
        assert_eq!(parameters(), before);
        drop_to(&[]).unwrap();
        let refused = Nat::install(TUN, &networks()).unwrap_err();
        assert!(matches!(refused, FirewallError::Forbidden), "{refused}");
    });
}

#[test]
fn names_of_tables_are_such_as_nft_takes_and_no_two_are_one() {
    let names = ["vpn0", "vpn.7", "vpn@0", "vpn#0", "-", "v{0", "a;b"];
    let tables: std::collections::BTreeSet<_> =
        names.iter().map(|name| table_name("corelane", name)).collect();
    assert_eq!(tables.len(), names.len());
    on_a_host(|| {
        for name in names {
            let mut nat = Nat::install(name, &networks()).unwrap();
            assert_eq!(nat.restore().unwrap(), 0, "{name}");
        }
        let refused = Nat::install("vpn*", &networks()).unwrap_err();
        assert!(matches!(refused, FirewallError::Device(_)), "{refused}");
        assert!(nft::json(&["list", "tables"]).unwrap().len() == 1, "nothing but who answers");
    });
}
