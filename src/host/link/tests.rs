use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use ipnet::IpNet;

use super::{Ipv6State, LinkError, bring_up, ipv6_state};
use crate::host::netlink::Netlink;
use crate::host::sysctl;
use crate::lab::{Host, LabOptions, TwoHosts};
use crate::sys::tun::{TunDevice, TunOffloadWish};

fn addresses(list: &[&str]) -> Vec<IpNet> {
    list.iter().map(|address| address.parse().unwrap()).collect()
}

/// Runs `work` on a host that has nothing but a TUN device called `vpn0`.
fn beside_a_tun<T: Send>(work: impl FnOnce(&mut Netlink) -> T + Send) -> T {
    let host =
        Host::create("host").expect("these tests need root: CAP_SYS_ADMIN and CAP_NET_ADMIN");
    host.run(|| {
        let _tun = TunDevice::open("vpn0", 2, TunOffloadWish::NONE).unwrap();
        work(&mut Netlink::open().unwrap())
    })
    .unwrap()
}

#[test]
fn a_tun_device_comes_up_with_mtu_queue_and_addresses() {
    beside_a_tun(|netlink| {
        let wanted = addresses(&["172.20.0.1/24", "fd00:c::1/64"]);
        let link = bring_up(netlink, "vpn0", 1408, 1000, &wanted).unwrap();
        assert_eq!((&link.addresses, link.skipped.len()), (&wanted, 0));
        let found = netlink.link_by_index(link.index).unwrap();
        assert!(found.up && found.carrier, "{found:?}");
        assert_eq!((found.mtu, found.txqueuelen), (1408, 1000));
        assert_eq!(found.kind.as_deref(), Some("tun"));
        let present: Vec<_> =
            netlink.addresses(link.index).unwrap().iter().map(|found| found.address).collect();
        assert_eq!(present, wanted, "and no link-local one");

        let again = bring_up(netlink, "vpn0", 1280, 1000, &wanted).unwrap();
        assert_eq!(again, link, "what it has already is no error");
        assert_eq!(netlink.link_by_index(link.index).unwrap().mtu, 1280);
    });
}

/// The kernel takes an IPv6 address for its own behind the scenes, and later where others change
/// the network configuration meanwhile, as this test does.
#[test]
fn every_address_is_in_operation_when_the_device_is_up() {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in (0..1000).take_while(|_| !stop.load(Relaxed)) {
                    drop(TwoHosts::build(LabOptions::default()));
                }
            });
        }
        let all_local: Vec<bool> = (0..50)
            .flat_map(|_| {
                beside_a_tun(|netlink| {
                    let wanted = addresses(&["172.20.0.1/24", "fd00:c::1/64", "fd00:d::1/64"]);
                    bring_up(netlink, "vpn0", 1408, 1000, &wanted).unwrap();
                    [0, 1, 2].map(|at| netlink.is_local(wanted[at].addr()).unwrap())
                })
            })
            .collect();
        stop.store(true, Relaxed);
        let lagging = all_local.iter().filter(|is_local| !**is_local).count();
        assert_eq!(lagging, 0, "addresses of {}", all_local.len());
    });
}

#[test]
fn without_ipv6_the_ipv4_addresses_still_come() {
    beside_a_tun(|netlink| {
        assert_eq!(ipv6_state("vpn0"), Ipv6State::On);
        sysctl::write("ipv6/conf/all/disable_ipv6", "1").unwrap();
        assert_eq!(ipv6_state("vpn0"), Ipv6State::OffEverywhere);
        let both = addresses(&["172.20.0.1/24", "fd00:c::1/64"]);
        let link = bring_up(netlink, "vpn0", 1408, 1000, &both).unwrap();
        assert_eq!((link.addresses.as_slice(), link.skipped.as_slice()), (&both[..1], &both[1..]));

        let error = bring_up(netlink, "vpn0", 1408, 1000, &both[1..]).unwrap_err();
        assert!(matches!(error, LinkError::Ipv6Off { .. }), "{error}");
        assert!(error.to_string().contains("sysctl -w net.ipv6.conf.vpn0.disable_ipv6=0"));
    });
}

#[test]
fn a_device_that_is_not_there_is_an_error() {
    let error = beside_a_tun(|netlink| bring_up(netlink, "vpn1", 1408, 1000, &[]).unwrap_err());
    assert!(matches!(error, LinkError::Netlink(error) if error.is_not_found()));
}
