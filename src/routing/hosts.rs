//! Single addresses and who owns them, in shards of which a change copies one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::PeerId;

/// Parts of the table. With 10,000 addresses each has some forty: as much to copy as the list of
/// the shards itself.
const SHARDS: usize = 256;

/// Owners of single addresses.
#[derive(Clone, Debug, Default)]
pub(super) struct Hosts {
    /// None at all as long as there is no address.
    shards: Vec<Arc<Shard>>,
}

/// Addresses in order.
#[derive(Clone, Debug, Default)]
struct Shard {
    v4: Vec<(Ipv4Addr, PeerId)>,
    v6: Vec<(Ipv6Addr, PeerId)>,
}

impl Hosts {
    #[inline]
    pub(super) fn get(&self, address: IpAddr) -> Option<PeerId> {
        let shard = self.shards.get(shard_of(address))?;
        match address {
            IpAddr::V4(address) => get(&shard.v4, &address),
            IpAddr::V6(address) => get(&shard.v6, &address),
        }
    }

    pub(super) fn insert(&mut self, address: IpAddr, peer: PeerId) {
        if self.shards.is_empty() {
            self.shards = vec![Arc::default(); SHARDS];
        }
        let Some(shard) = self.shards.get_mut(shard_of(address)).map(Arc::make_mut) else { return };
        match address {
            IpAddr::V4(address) => insert(&mut shard.v4, address, peer),
            IpAddr::V6(address) => insert(&mut shard.v6, address, peer),
        }
    }

    pub(super) fn remove(&mut self, address: IpAddr) {
        let Some(shard) = self.shards.get_mut(shard_of(address)).map(Arc::make_mut) else { return };
        match address {
            IpAddr::V4(address) => shard.v4.retain(|(found, _)| *found != address),
            IpAddr::V6(address) => shard.v6.retain(|(found, _)| *found != address),
        }
    }
}

/// Addresses of a pool are given out one after the other, so their low bits spread them evenly.
#[inline]
fn shard_of(address: IpAddr) -> usize {
    let low = match address {
        IpAddr::V4(address) => address.octets()[3],
        IpAddr::V6(address) => address.octets()[15],
    };
    usize::from(low) % SHARDS
}

#[inline]
fn get<A: Ord>(entries: &[(A, PeerId)], address: &A) -> Option<PeerId> {
    let position = entries.binary_search_by(|(found, _)| found.cmp(address)).ok()?;
    entries.get(position).map(|(_, peer)| *peer)
}

fn insert<A: Ord>(entries: &mut Vec<(A, PeerId)>, address: A, peer: PeerId) {
    match entries.binary_search_by(|(found, _)| found.cmp(&address)) {
        Ok(position) => entries[position].1 = peer,
        Err(position) => entries.insert(position, (address, peer)),
    }
}
