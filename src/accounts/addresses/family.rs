//! The addresses of one IP version, as numbers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::accounts::addresses::{
    AddressPlan, BadPlan, CannotReserve, Exhausted, Holder, IpVersion,
};
use crate::accounts::model::{Id, UnixMs};

/// An address that somebody has.
#[derive(Clone, Copy, Debug)]
struct Held {
    holder: Holder,
    /// Since when its device is away; `None` while it is in use.
    away_since: Option<UnixMs>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Family {
    version: IpVersion,
    /// What can be given: first and last of each run of addresses.
    usable: Vec<(u128, u128)>,
    /// All addresses of earlier runs, and those below this of its own run, were looked at: one that
    /// nobody has is given back or reserved.
    fresh: (usize, u128),
    held: BTreeMap<u128, Held>,
    by_device: BTreeMap<Id, u128>,
    /// Held by devices that are away, by when they went.
    away: BTreeSet<(UnixMs, u128)>,
    /// Given back, by when.
    free: BTreeSet<(UnixMs, u128)>,
    /// When each of those was given back.
    freed: BTreeMap<u128, UnixMs>,
    reserved: BTreeMap<u128, Id>,
    by_user: BTreeMap<Id, u128>,
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn is_of(version: IpVersion, network: &IpNet) -> bool {
    matches!((version, network), (IpVersion::V4, IpNet::V4(_)) | (IpVersion::V6, IpNet::V6(_)))
}

/// The first and last address of a pool that a device can have.
fn ends(pool: &IpNet) -> (u128, u128) {
    let (first, last) = (bits(pool.network()), bits(pool.broadcast()));
    match pool {
        // The network's own address, and the one for all in it (RFC 1122 section 3.2.1.3); a
        // network of two has neither (RFC 3021).
        IpNet::V4(pool) if pool.prefix_len() < 31 => (first + 1, last - 1),
        IpNet::V4(_) => (first, last),
        // The first address is that of the routers (RFC 4291 section 2.6.1), but not between two
        // (RFC 6164 section 5.1).
        IpNet::V6(pool) if pool.prefix_len() < 127 => (first + 1, last),
        IpNet::V6(_) => (first, last),
    }
}

/// `run` without `gap`.
fn without((first, last): (u128, u128), gap: (u128, u128)) -> Vec<(u128, u128)> {
    if gap.1 < first || last < gap.0 {
        return vec![(first, last)];
    }
    let before = gap.0.checked_sub(1).filter(|end| first <= *end).map(|end| (first, end));
    let after = gap.1.checked_add(1).filter(|start| *start <= last).map(|start| (start, last));
    before.into_iter().chain(after).collect()
}

impl Family {
    /// `None` if there are no pools.
    pub(super) fn new(version: IpVersion, plan: &AddressPlan) -> Result<Option<Self>, BadPlan> {
        let pools = plan.pools.iter().filter(|pool| is_of(version, pool));
        let mut usable = pools.clone().map(ends).collect::<Vec<_>>();
        if pools.count() == 0 {
            return Ok(None);
        }
        for excluded in plan.excluded.iter().filter(|network| is_of(version, network)) {
            let gap = (bits(excluded.network()), bits(excluded.broadcast()));
            usable = usable.into_iter().flat_map(|run| without(run, gap)).collect();
        }
        let Some(first) = usable.first() else { return Err(BadPlan::Empty(version)) };
        Ok(Some(Self {
            version,
            fresh: (0, first.0),
            usable,
            held: BTreeMap::new(),
            by_device: BTreeMap::new(),
            away: BTreeSet::new(),
            free: BTreeSet::new(),
            freed: BTreeMap::new(),
            reserved: BTreeMap::new(),
            by_user: BTreeMap::new(),
        }))
    }

    fn is_usable(&self, address: u128) -> bool {
        self.usable.iter().any(|(first, last)| (*first..=*last).contains(&address))
    }

    pub(super) fn holder(&self, address: u128) -> Option<Holder> {
        self.held.get(&address).map(|held| held.holder)
    }

    pub(super) fn restore(&mut self, holder: Holder, address: u128, away_since: Option<UnixMs>) {
        let is_new =
            !self.held.contains_key(&address) && !self.by_device.contains_key(&holder.device);
        if is_new && self.is_usable(address) {
            self.take(holder, address, UnixMs(0));
            if let Some(since) = away_since {
                self.release(holder.device, since);
            }
        }
    }

    pub(super) fn can_reserve(
        &self,
        user: Id,
        bits: u128,
        address: IpAddr,
    ) -> Result<(), CannotReserve> {
        match self.reserved.get(&bits) {
            Some(other) if *other != user => Err(CannotReserve::Taken(address)),
            _ if !self.is_usable(bits) => Err(CannotReserve::Outside(address)),
            _ => Ok(()),
        }
    }

    pub(super) fn reserve(&mut self, user: Id, address: Option<u128>) {
        let before = match address {
            Some(address) => self.by_user.insert(user, address),
            None => self.by_user.remove(&user),
        };
        if let Some(before) = before.filter(|before| Some(*before) != address) {
            self.reserved.remove(&before);
            if !self.held.contains_key(&before) && !self.freed.contains_key(&before) {
                // It may never have been had, but the search for such may be past it.
                self.give_back(before, UnixMs(0));
            }
        }
        if let Some(address) = address {
            self.reserved.insert(address, user);
        }
    }

    fn give_back(&mut self, address: u128, at: UnixMs) {
        self.free.insert((at, address));
        self.freed.insert(address, at);
    }

    /// Whether a device of `user` may have an address that no device is using.
    fn is_open_to(&self, user: Id, address: u128) -> bool {
        self.reserved.get(&address).is_none_or(|reserved_for| *reserved_for == user)
    }

    /// The address that a device is to have.
    pub(super) fn choose(&mut self, holder: Holder) -> Result<u128, Exhausted> {
        let user = holder.user;
        if let Some(address) = self.by_user.get(&user) {
            let is_to_be_had = self.held.get(address).is_none_or(|held| {
                let is_strangers = held.holder.user != user && held.away_since.is_some();
                held.holder.device == holder.device || is_strangers
            });
            if is_to_be_had {
                return Ok(*address);
            }
        }
        let last = self.by_device.get(&holder.device).copied();
        if let Some(address) = last.filter(|address| self.is_open_to(user, *address)) {
            return Ok(address);
        }
        if let Some(address) = self.next_fresh() {
            return Ok(address);
        }
        // Those that are reserved for others are few.
        let mut unused = self.free.iter().chain(&self.away).map(|(_, address)| *address);
        let unused = unused.find(|address| self.is_open_to(user, *address));
        unused.ok_or_else(|| Exhausted { version: self.version, usable: self.count() })
    }

    fn count(&self) -> u128 {
        self.usable.iter().fold(0, |sum: u128, (first, last)| {
            sum.saturating_add((last - first).saturating_add(1))
        })
    }

    /// The lowest address that nobody ever had and nobody has reserved.
    fn next_fresh(&mut self) -> Option<u128> {
        loop {
            let (run, address) = self.fresh;
            let (_, last) = *self.usable.get(run)?;
            let is_fresh = address <= last
                && !self.held.contains_key(&address)
                && !self.freed.contains_key(&address)
                && !self.reserved.contains_key(&address);
            if is_fresh {
                return Some(address);
            }
            self.fresh = if address < last {
                (run, address + 1)
            } else {
                (run + 1, self.usable.get(run + 1)?.0)
            };
        }
    }

    /// Gives a device an address; the device that had it and was away.
    pub(super) fn take(&mut self, holder: Holder, address: u128, at: UnixMs) -> Option<Id> {
        let before = self.held.insert(address, Held { holder, away_since: None });
        if let Some(since) = before.and_then(|before| before.away_since) {
            self.away.remove(&(since, address));
        }
        if let Some(at) = self.freed.remove(&address) {
            self.free.remove(&(at, address));
        }
        let other = before.map(|before| before.holder.device).filter(|id| *id != holder.device);
        if let Some(other) = other {
            self.by_device.remove(&other);
        }
        if let Some(last) = self.by_device.insert(holder.device, address)
            && last != address
        {
            let held = self.held.remove(&last);
            if let Some(since) = held.and_then(|held| held.away_since) {
                self.away.remove(&(since, last));
            }
            self.give_back(last, at);
        }
        other
    }

    pub(super) fn release(&mut self, device: Id, at: UnixMs) {
        let Some(address) = self.by_device.get(&device) else { return };
        if let Some(held) = self.held.get_mut(address)
            && held.away_since.is_none()
        {
            held.away_since = Some(at);
            self.away.insert((at, *address));
        }
    }

    pub(super) fn forget(&mut self, device: Id, at: UnixMs) {
        let Some(address) = self.by_device.remove(&device) else { return };
        if let Some(since) = self.held.remove(&address).and_then(|held| held.away_since) {
            self.away.remove(&(since, address));
        }
        self.give_back(address, at);
    }
}
