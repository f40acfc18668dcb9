//! Who gets which inner address.
//!
//! A device gets the address again that it had. One that is new gets, of what is in the pools: an
//! address that nobody ever had, otherwise the one that was given back longest ago, otherwise the
//! one whose device has been away longest. An address that is reserved for a user goes to the first
//! of its devices that comes, and to nobody else.
//!
//! This is arithmetic: whoever calls stores the leases.

mod family;

#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use thiserror::Error;

use crate::accounts::addresses::family::Family;
use crate::accounts::model::{Id, UnixMs};

/// Which addresses there are to give.
#[derive(Clone, Debug, Default)]
pub struct AddressPlan {
    /// Where they are taken from, in this order.
    pub pools: Vec<IpNet>,
    /// Addresses within that are never given: the server's own, for example.
    pub excluded: Vec<IpNet>,
}

/// A plan by which no addresses can be given.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BadPlan {
    /// Two pools share addresses.
    #[error("the pools {0} and {1} overlap; leave one of them out")]
    Overlap(IpNet, IpNet),
    /// No address of one family is left.
    #[error("the {0} pools have no address for a client; make them larger")]
    Empty(IpVersion),
}

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpVersion {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl std::fmt::Display for IpVersion {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// No address is free: every one is in use or reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("all {usable} {version} addresses of the pools are in use; make the pools larger")]
pub struct Exhausted {
    /// Which.
    pub version: IpVersion,
    /// How many there are.
    pub usable: u128,
}

/// Why an address cannot be reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CannotReserve {
    /// It is not one of those that can be given.
    #[error("{0} is not in a pool of this server, or is one that is never given")]
    Outside(IpAddr),
    /// Another user has it reserved.
    #[error("{0} is reserved for another user")]
    Taken(IpAddr),
}

/// What a device gets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leased {
    /// Its IPv4 address, if there are IPv4 pools.
    pub ipv4: Option<Ipv4Addr>,
    /// Its IPv6 address, if there are IPv6 pools.
    pub ipv6: Option<Ipv6Addr>,
    /// Devices that had one of these, are away, and will get another when they come back.
    pub displaced: Vec<Id>,
}

/// A device and whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The device.
    pub device: Id,
    /// Its user.
    pub user: Id,
}

/// The addresses of a server, and who has them.
#[derive(Debug)]
pub struct Addresses {
    ipv4: Option<Family>,
    ipv6: Option<Family>,
}

impl Addresses {
    /// Addresses that nobody has yet.
    ///
    /// # Errors
    /// Pools overlap or have no address to give.
    pub fn new(plan: &AddressPlan) -> Result<Self, BadPlan> {
        for (index, pool) in plan.pools.iter().enumerate() {
            for other in plan.pools.iter().skip(index + 1) {
                if pool.contains(other) || other.contains(pool) {
                    return Err(BadPlan::Overlap(*pool, *other));
                }
            }
        }
        Ok(Self {
            ipv4: Family::new(IpVersion::V4, plan)?,
            ipv6: Family::new(IpVersion::V6, plan)?,
        })
    }

    /// Takes note of what a device had when the server was last running: in use still, or since
    /// `away_since` no longer. What is in no pool any more, or somebody else's, is left out.
    pub fn restore(
        &mut self,
        holder: Holder,
        ipv4: Option<Ipv4Addr>,
        ipv6: Option<Ipv6Addr>,
        away_since: Option<UnixMs>,
    ) {
        if let (Some(family), Some(address)) = (&mut self.ipv4, ipv4) {
            family.restore(holder, address.to_bits().into(), away_since);
        }
        if let (Some(family), Some(address)) = (&mut self.ipv6, ipv6) {
            family.restore(holder, address.to_bits(), away_since);
        }
    }

    /// Reserves addresses for a user, in place of those that were reserved for it before. Who has
    /// one of them keeps it until it is away.
    ///
    /// # Errors
    /// An address is not in the pools or another user's; then nothing is changed.
    pub fn reserve(
        &mut self,
        user: Id,
        ipv4: Option<Ipv4Addr>,
        ipv6: Option<Ipv6Addr>,
    ) -> Result<(), CannotReserve> {
        let ipv4_bits = ipv4.map(|address| u128::from(address.to_bits()));
        let ipv6_bits = ipv6.map(Ipv6Addr::to_bits);
        for (family, bits, address) in [
            (&self.ipv4, ipv4_bits, ipv4.map(IpAddr::from)),
            (&self.ipv6, ipv6_bits, ipv6.map(IpAddr::from)),
        ] {
            let (Some(bits), Some(address)) = (bits, address) else { continue };
            match family {
                Some(family) => family.can_reserve(user, bits, address)?,
                None => return Err(CannotReserve::Outside(address)),
            }
        }
        if let Some(family) = &mut self.ipv4 {
            family.reserve(user, ipv4_bits);
        }
        if let Some(family) = &mut self.ipv6 {
            family.reserve(user, ipv6_bits);
        }
        Ok(())
    }

    /// Gives a device its addresses, one for each family that has pools.
    ///
    /// # Errors
    /// No address of a family is left; then nothing is changed.
    pub fn lease(&mut self, holder: Holder, at: UnixMs) -> Result<Leased, Exhausted> {
        let ipv4 = self.ipv4.as_mut().map(|family| family.choose(holder)).transpose()?;
        let ipv6 = self.ipv6.as_mut().map(|family| family.choose(holder)).transpose()?;
        let mut leased = Leased::default();
        if let (Some(family), Some(address)) = (&mut self.ipv4, ipv4) {
            leased.displaced.extend(family.take(holder, address, at));
            leased.ipv4 = u32::try_from(address).ok().map(Ipv4Addr::from_bits);
        }
        if let (Some(family), Some(address)) = (&mut self.ipv6, ipv6) {
            leased.displaced.extend(family.take(holder, address, at));
            leased.ipv6 = Some(Ipv6Addr::from_bits(address));
        }
        leased.displaced.sort_unstable();
        leased.displaced.dedup();
        Ok(leased)
    }

    /// A device is away; it gets its addresses again unless others need them first.
    pub fn release(&mut self, device: Id, at: UnixMs) {
        for family in [&mut self.ipv4, &mut self.ipv6].into_iter().flatten() {
            family.release(device, at);
        }
    }

    /// A device is gone for good.
    pub fn forget(&mut self, device: Id, at: UnixMs) {
        for family in [&mut self.ipv4, &mut self.ipv6].into_iter().flatten() {
            family.forget(device, at);
        }
    }

    /// The device that has an address, in use or not.
    pub fn holder(&self, address: IpAddr) -> Option<Holder> {
        match address {
            IpAddr::V4(address) => self.ipv4.as_ref()?.holder(address.to_bits().into()),
            IpAddr::V6(address) => self.ipv6.as_ref()?.holder(address.to_bits()),
        }
    }
}
