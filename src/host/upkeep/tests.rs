use ipnet::IpNet;

use super::{InterfaceState, Upkeep};
use crate::host::link;
use crate::host::netlink::{InterfaceMonitor, InterfaceNews, Netlink, NetlinkError};
use crate::host::sysctl;
use crate::lab::Host;
use crate::limits::INTERFACE_NEWS_PER_TURN;
use crate::sys::tun::{TunDevice, TunOffloadWish};

const TUN: &str = "vpn0";

/// Runs `work` on a host with a TUN device that is looked after.
fn looked_after(work: impl FnOnce(&mut Netlink, u32, Upkeep) + Send) {
    let host =
        Host::create("upkeep").expect("these tests need root: CAP_SYS_ADMIN and CAP_NET_ADMIN");
    host.run(|| {
        let _tun = TunDevice::open(TUN, 1, TunOffloadWish::NONE).unwrap();
        let mut netlink = Netlink::open().unwrap();
        let wanted: [IpNet; 2] =
            ["172.20.0.1/24".parse().unwrap(), "fd00:c::1/64".parse().unwrap()];
        let link = link::bring_up(&mut netlink, TUN, 1408, 1000, &wanted).unwrap();
        let index = link.index;
        work(&mut netlink, index, Upkeep::new(Netlink::open().unwrap(), link));
    })
    .unwrap();
}

fn mend(upkeep: &mut Upkeep) -> InterfaceState {
    upkeep.mend(|| Ok::<_, NetlinkError>(0)).unwrap()
}

/// Whether there was news about the interface. The kernel tells it before the change returns.
fn hears(monitor: &mut InterfaceMonitor) -> bool {
    monitor.read().unwrap().changed
}

#[test]
fn what_an_interface_loses_by_going_down_is_put_back_when_it_is_up() {
    looked_after(|netlink, index, mut upkeep| {
        assert_eq!(mend(&mut upkeep), InterfaceState::Whole);
        netlink.set_down(index).unwrap();
        assert_eq!(mend(&mut upkeep), InterfaceState::Down);
        assert!(!netlink.link_by_index(index).unwrap().up, "it is left down");
        netlink.set_up(index).unwrap();
        assert_eq!(netlink.addresses(index).unwrap().len(), 1, "IPv6 is lost");
        assert_eq!(mend(&mut upkeep), InterfaceState::Mended { addresses: 1, routes: 0 });
        assert_eq!(netlink.addresses(index).unwrap().len(), 2);
        assert_eq!(mend(&mut upkeep), InterfaceState::Whole);
    });
}

#[test]
fn routes_are_counted_and_only_looked_at_while_the_interface_is_up() {
    looked_after(|netlink, index, mut upkeep| {
        let three = || Ok::<_, NetlinkError>(3);
        let mended = InterfaceState::Mended { addresses: 0, routes: 3 };
        assert_eq!(upkeep.mend(three).unwrap(), mended);
        netlink.set_down(index).unwrap();
        let never = || -> Result<usize, NetlinkError> { panic!("it is down") };
        assert_eq!(upkeep.mend(never).unwrap(), InterfaceState::Down);
    });
}

#[test]
fn where_ipv6_was_switched_off_its_address_is_not_missed() {
    looked_after(|_, _, mut upkeep| {
        let disable_ipv6 = format!("ipv6/conf/{TUN}/disable_ipv6");
        sysctl::write(&disable_ipv6, "1").unwrap();
        assert_eq!(mend(&mut upkeep), InterfaceState::Whole);
        sysctl::write(&disable_ipv6, "0").unwrap();
        assert_eq!(mend(&mut upkeep), InterfaceState::Mended { addresses: 1, routes: 0 });
    });
}

#[test]
fn an_interface_that_was_deleted_is_gone() {
    looked_after(|netlink, index, mut upkeep| {
        netlink.delete_link(index).unwrap();
        assert_eq!(mend(&mut upkeep), InterfaceState::Gone);
    });
}

#[test]
fn news_is_heard_of_the_interface() {
    looked_after(|netlink, index, upkeep| {
        let mut monitor = upkeep.monitor().unwrap();
        netlink.set_down(index).unwrap();
        assert!(hears(&mut monitor), "down");
        netlink.set_up(index).unwrap();
        assert!(hears(&mut monitor), "up");
        netlink.delete_address(index, "172.20.0.1/24".parse().unwrap()).unwrap();
        assert!(hears(&mut monitor), "an address is removed");
        netlink.delete_link(index).unwrap();
        assert!(hears(&mut monitor), "deleted");
    });
}

/// Listens to the loopback interface, of which the kernel has nothing to tell by itself.
#[test]
fn news_of_other_interfaces_is_passed_over_in_helpings_and_its_loss_taken_for_a_change() {
    looked_after(|netlink, index, _| {
        let loopback = netlink.link_index("lo").unwrap();
        let mut monitor = InterfaceMonitor::open(loopback).unwrap();
        let address: IpNet = "172.21.0.1/32".parse().unwrap();
        let mut flood = |messages| {
            for _ in 0..messages / 2 {
                netlink.add_address(index, address).unwrap();
                netlink.delete_address(index, address).unwrap();
            }
        };
        flood(INTERFACE_NEWS_PER_TURN + 4);
        let news = monitor.read().unwrap();
        assert_eq!(news, InterfaceNews { changed: false, more: true });
        assert_eq!(monitor.read().unwrap(), InterfaceNews::default());

        flood(100 * INTERFACE_NEWS_PER_TURN);
        let mut changed = false;
        loop {
            let news = monitor.read().unwrap();
            changed |= news.changed;
            if !news.more {
                break;
            }
        }
        assert!(changed, "more than the kernel keeps for a listener");
    });
}

#[test]
fn an_interface_goes_over_to_another_mtu() {
    looked_after(|netlink, index, mut upkeep| {
        for mtu in [1300, 1300, 1420] {
            upkeep.set_mtu(mtu).unwrap();
            assert_eq!(netlink.link_by_index(index).unwrap().mtu, mtu);
        }
        assert_eq!(mend(&mut upkeep), InterfaceState::Whole);
    });
}

#[test]
fn an_interface_goes_over_to_other_addresses() {
    looked_after(|netlink, index, mut upkeep| {
        let wanted: [IpNet; 2] =
            ["172.20.0.1/24".parse().unwrap(), "fd00:d::1/128".parse().unwrap()];
        let present = |netlink: &mut Netlink| -> Vec<IpNet> {
            netlink.addresses(index).unwrap().iter().map(|found| found.address).collect()
        };
        // Somebody has removed one that is to go, and it is not missed.
        netlink.delete_address(index, "fd00:c::1/64".parse().unwrap()).unwrap();
        upkeep.set_addresses(wanted.to_vec()).unwrap();
        assert_eq!(present(netlink), wanted);
        upkeep.set_addresses(vec![wanted[1]]).unwrap();
        assert_eq!(present(netlink), wanted[1..]);
        assert_eq!(mend(&mut upkeep), InterfaceState::Whole);
    });
}
