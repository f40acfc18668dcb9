//! Brings the TUN device up.

use std::thread;

use ipnet::IpNet;

use super::netlink::{Family, Netlink, NetlinkError};
use super::sysctl;
use crate::limits::{ADDRESSES_LOOK_EVERY, ADDRESSES_USABLE_WITHIN};
use crate::sys::clock;

/// Whether an interface has IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ipv6State {
    /// It has.
    On,
    /// It has not, but others have.
    OffHere,
    /// No interface but loopback has: not in the kernel, or switched off for all of them.
    OffEverywhere,
}

/// A TUN device that is up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkUp {
    /// Its index.
    pub index: u32,
    /// The addresses it has of those asked for.
    pub addresses: Vec<IpNet>,
    /// IPv6 addresses that were left out because the interface has no IPv6.
    pub skipped: Vec<IpNet>,
}

/// Why the TUN device could not be brought up.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The kernel refused.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// Only IPv6 addresses were asked for.
    #[error(
        "{device} is to have IPv6 addresses only, but IPv6 is switched off there: \
         `sysctl -w net.ipv6.conf.{device}.disable_ipv6=0`, or give it an IPv4 address"
    )]
    Ipv6Off {
        /// The TUN device.
        device: String,
    },
}

/// Sets MTU, queue length and addresses of the interface `name` and brings it up. Addresses it has
/// already stay; every address is usable when this returns. Where the interface has no IPv6, IPv6
/// addresses are left out with a warning.
///
/// # Errors
/// [`LinkError`]; the interface may then be half configured and should be given up.
pub fn bring_up(
    netlink: &mut Netlink,
    name: &str,
    mtu: u32,
    txqueuelen: u32,
    addresses: &[IpNet],
) -> Result<LinkUp, LinkError> {
    let index = netlink.link_index(name)?;
    netlink.set_mtu(index, mtu)?;
    netlink.set_txqueuelen(index, txqueuelen)?;
    let has_ipv6 = ipv6_state(name) == Ipv6State::On;
    if has_ipv6 {
        netlink.disable_link_local_address(index)?;
    }
    let (usable, skipped): (Vec<_>, Vec<_>) =
        addresses.iter().partition(|address| has_ipv6 || Family::of(address) == Family::V4);
    if usable.is_empty() && !skipped.is_empty() {
        return Err(LinkError::Ipv6Off { device: name.to_owned() });
    }
    for address in &skipped {
        log::warn!("{name} has no IPv6 on this host: left out the address {address}");
    }
    for address in &usable {
        match netlink.add_address(index, *address) {
            Err(error) if error.is_exists() => {}
            outcome => outcome?,
        }
    }
    netlink.set_up(index)?;
    await_addresses(netlink, name, &usable)?;
    Ok(LinkUp { index, addresses: usable, skipped })
}

/// Waits until the host takes packets to these addresses for its own. With IPv6 it does not do so
/// at once: the kernel leaves that to a thread of its own (`addrconf_dad_work`), which has to wait
/// for whoever else changes the network configuration. What arrives before is lost.
fn await_addresses(
    netlink: &mut Netlink,
    name: &str,
    addresses: &[IpNet],
) -> Result<(), NetlinkError> {
    let deadline = clock::now() + ADDRESSES_USABLE_WITHIN;
    for address in addresses {
        while !netlink.is_local(address.addr())? {
            if clock::now() >= deadline {
                log::warn!(
                    "the kernel has not put {address} of {name} into operation within \
                     {ADDRESSES_USABLE_WITHIN:?}; packets to it are lost until it does"
                );
                return Ok(());
            }
            thread::sleep(ADDRESSES_LOOK_EVERY);
        }
    }
    Ok(())
}

/// Whether an interface of the calling thread's network namespace has IPv6.
pub fn ipv6_state(name: &str) -> Ipv6State {
    let is_on = |name: &str| {
        sysctl::read(&format!("ipv6/conf/{name}/disable_ipv6")).is_ok_and(|value| value == "0")
    };
    let others = || sysctl::list("ipv6/conf").unwrap_or_default();
    if is_on(name) {
        Ipv6State::On
    } else if others()
        .iter()
        .filter(|other| !matches!(other.as_str(), "all" | "default" | "lo"))
        .any(|other| is_on(other))
    {
        Ipv6State::OffHere
    } else {
        Ipv6State::OffEverywhere
    }
}

#[cfg(test)]
mod tests;
