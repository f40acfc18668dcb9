//! A table from prefixes to peers. Workers share one and have it replaced as a whole; whoever
//! changes it copies little.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;

use super::hosts::Hosts;

/// Identifies a peer within one run of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(pub u32);

/// Which peer owns an inner address: the owner of the longest prefix that contains it.
///
/// A clone shares nearly everything with its original, and so does what comes of changing it by
/// one address: servers change theirs with every login.
#[derive(Clone, Debug, Default)]
pub struct PrefixTable {
    /// Prefixes of one address each: no prefix is longer.
    hosts: Hosts,
    /// All others.
    networks: Arc<Networks>,
}

#[derive(Clone, Debug, Default)]
struct Networks {
    v4: PrefixMap<Ipv4Net, PeerId>,
    v6: PrefixMap<Ipv6Net, PeerId>,
}

impl PrefixTable {
    /// Builds the table. A prefix that occurs twice belongs to the peer named last, as a prefix
    /// given to a second WireGuard peer moves to it. Host bits are ignored.
    pub fn from_entries(entries: impl IntoIterator<Item = (IpNet, PeerId)>) -> Self {
        let mut table = Self::default();
        for (prefix, peer) in entries {
            table.insert(prefix, peer);
        }
        table
    }

    /// The peer that owns `address`.
    #[inline]
    pub fn lookup(&self, address: IpAddr) -> Option<PeerId> {
        self.hosts.get(address).or_else(|| match address {
            IpAddr::V4(address) => self.networks.v4.get_lpm(&address.into()).map(|(_, it)| *it),
            IpAddr::V6(address) => self.networks.v6.get_lpm(&address.into()).map(|(_, it)| *it),
        })
    }

    /// The peer that owns exactly this prefix.
    pub fn owner(&self, prefix: IpNet) -> Option<PeerId> {
        match prefix.trunc() {
            host if is_host(host) => self.hosts.get(host.addr()),
            IpNet::V4(prefix) => self.networks.v4.get(&prefix).copied(),
            IpNet::V6(prefix) => self.networks.v6.get(&prefix).copied(),
        }
    }

    /// Gives a prefix to `peer`, whoever owned it.
    pub fn insert(&mut self, prefix: IpNet, peer: PeerId) {
        match prefix.trunc() {
            host if is_host(host) => self.hosts.insert(host.addr(), peer),
            IpNet::V4(prefix) => drop(Arc::make_mut(&mut self.networks).v4.insert(prefix, peer)),
            IpNet::V6(prefix) => drop(Arc::make_mut(&mut self.networks).v6.insert(prefix, peer)),
        }
    }

    /// Takes a prefix from `peer`, if it owns it.
    pub fn remove(&mut self, prefix: IpNet, peer: PeerId) {
        if self.owner(prefix) != Some(peer) {
            return;
        }
        match prefix.trunc() {
            host if is_host(host) => self.hosts.remove(host.addr()),
            IpNet::V4(prefix) => drop(Arc::make_mut(&mut self.networks).v4.remove(&prefix)),
            IpNet::V6(prefix) => drop(Arc::make_mut(&mut self.networks).v6.remove(&prefix)),
        }
    }
}

fn is_host(prefix: IpNet) -> bool {
    prefix.prefix_len() == prefix.max_prefix_len()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// The same by looking at every prefix.
    fn model_lookup(model: &BTreeMap<IpNet, PeerId>, address: IpAddr) -> Option<PeerId> {
        let containing = model.iter().filter(|(prefix, _)| prefix.contains(&address));
        containing.max_by_key(|(prefix, _)| prefix.prefix_len()).map(|(_, peer)| *peer)
    }

    /// Few addresses, so that prefixes meet.
    fn address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            (0u8..4, any::<bool>()).prop_map(|(low, far)| IpAddr::from([
                10,
                u8::from(far),
                0,
                low
            ])),
            (0u16..4).prop_map(|low| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, low])),
        ]
    }

    fn prefix() -> impl Strategy<Value = IpNet> {
        (address(), 0u8..5).prop_map(|(address, wider)| {
            let longest = if address.is_ipv4() { 32 } else { 128 };
            IpNet::new(address, [longest, longest - 1, longest - 8, 16, 0][usize::from(wider)])
                .unwrap()
        })
    }

    proptest! {
        #[test]
        fn lookups_agree_with_a_search_of_every_prefix(
            steps in proptest::collection::vec((prefix(), 0u32..4, any::<bool>()), 0..40),
            asked in proptest::collection::vec(address(), 8),
        ) {
            let (mut table, mut model) = (PrefixTable::default(), BTreeMap::new());
            let (mut copies, mut expected) = (Vec::new(), Vec::new());
            for (prefix, peer, inserts) in steps {
                let (peer, exact) = (PeerId(peer), prefix.trunc());
                if inserts {
                    table.insert(prefix, peer);
                    model.insert(exact, peer);
                } else {
                    table.remove(prefix, peer);
                    if model.get(&exact) == Some(&peer) {
                        model.remove(&exact);
                    }
                }
                prop_assert_eq!(table.owner(prefix), model.get(&exact).copied());
                copies.push(table.clone());
                expected.push(model.clone());
            }
            // What is done to the table afterwards does not change a copy.
            for (table, model) in copies.iter().zip(&expected) {
                for address in &asked {
                    prop_assert_eq!(table.lookup(*address), model_lookup(model, *address));
                }
            }
        }
    }
}
