//! Keeps the TUN device as the configuration wants it while the daemon runs.
//!
//! `ip link set DEVICE down` makes the kernel forget the routes of an interface and, unless
//! `keep_addr_on_down` says otherwise, its IPv6 addresses; `up` brings neither back. Who hears of
//! such a change calls [`Upkeep::mend`], which compares and adds what is missing. It never sets the
//! interface up: whoever set it down meant it.

use ipnet::IpNet;

use super::link::{self, Ipv6State, LinkUp};
use super::netlink::{Family, InterfaceMonitor, Netlink, NetlinkError};

/// What became of the TUN device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InterfaceState {
    /// Nothing is missing.
    Whole,
    /// Something was missing and is there again.
    Mended {
        /// Addresses put back.
        addresses: usize,
        /// Routes and policy rules put back.
        routes: usize,
    },
    /// It is administratively down.
    Down,
    /// It is not in this network namespace any more.
    Gone,
}

/// The addresses that a TUN device is to have.
#[derive(Debug)]
pub struct Upkeep {
    netlink: Netlink,
    device: u32,
    addresses: Vec<IpNet>,
}

impl Upkeep {
    /// Looks after the interface that was brought up.
    pub fn new(netlink: Netlink, link: LinkUp) -> Self {
        Self { netlink, device: link.index, addresses: link.addresses }
    }

    /// Hears of changes from now on.
    ///
    /// # Errors
    /// [`NetlinkError::Open`].
    pub fn monitor(&self) -> Result<InterfaceMonitor, NetlinkError> {
        InterfaceMonitor::open(self.device)
    }

    /// Gives the interface the addresses it has lost; if it is up, `mend_routes` is then to put
    /// back what else is missing, and to say how much that was.
    ///
    /// # Errors
    /// What the kernel refused, or `mend_routes`.
    pub fn mend<E: From<NetlinkError>>(
        &mut self,
        mend_routes: impl FnOnce() -> Result<usize, E>,
    ) -> Result<InterfaceState, E> {
        let link = match self.netlink.link_by_index(self.device) {
            Err(error) if error.is_not_found() => return Ok(InterfaceState::Gone),
            link => link?,
        };
        if !link.up {
            return Ok(InterfaceState::Down);
        }
        let addresses = self.mend_addresses(&link.name)?;
        let routes = mend_routes()?;
        Ok(match addresses + routes {
            0 => InterfaceState::Whole,
            _ => InterfaceState::Mended { addresses, routes },
        })
    }

    /// Gives the interface these addresses in place of those it was to have: first the new ones, so
    /// that it is never without.
    ///
    /// # Errors
    /// What the kernel refused. Addresses of both kinds may be there then.
    pub fn set_addresses(&mut self, addresses: Vec<IpNet>) -> Result<(), NetlinkError> {
        let former = std::mem::replace(&mut self.addresses, addresses);
        let name = self.netlink.link_by_index(self.device)?.name;
        self.mend_addresses(&name)?;
        for surplus in former.iter().filter(|it| !self.addresses.contains(it)) {
            match self.netlink.delete_address(self.device, *surplus) {
                Err(error) if error.is_not_found() => {}
                outcome => outcome?,
            }
        }
        Ok(())
    }

    /// Gives the interface this MTU, in bytes.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn set_mtu(&mut self, mtu: u32) -> Result<(), NetlinkError> {
        match self.netlink.link_by_index(self.device)?.mtu {
            present if present == mtu => Ok(()),
            _ => self.netlink.set_mtu(self.device, mtu),
        }
    }

    fn mend_addresses(&mut self, name: &str) -> Result<usize, NetlinkError> {
        let has_ipv6 = link::ipv6_state(name) == Ipv6State::On;
        let present = self.netlink.addresses(self.device)?;
        let is_present = |wanted: &IpNet| present.iter().any(|it| it.address == *wanted);
        let mut missing = self.addresses.clone();
        missing.retain(|it| (has_ipv6 || Family::of(it) == Family::V4) && !is_present(it));
        for address in &missing {
            match self.netlink.add_address(self.device, *address) {
                Err(error) if error.is_exists() => {}
                outcome => outcome?,
            }
        }
        Ok(missing.len())
    }
}

#[cfg(test)]
mod tests;
