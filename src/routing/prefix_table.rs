//! An immutable table from prefixes to peers, shared by all workers and replaced as a whole.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;

/// Identifies a peer within one run of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(pub u32);

/// Which peer owns an inner address: the owner of the longest prefix that contains it.
#[derive(Clone, Debug, Default)]
pub struct PrefixTable {
    v4: PrefixMap<Ipv4Net, PeerId>,
    v6: PrefixMap<Ipv6Net, PeerId>,
}

impl PrefixTable {
    /// Builds the table. A prefix that occurs twice belongs to the peer named last, as a prefix
    /// given to a second WireGuard peer moves to it. Host bits are ignored.
    pub fn from_entries(entries: impl IntoIterator<Item = (IpNet, PeerId)>) -> Self {
        let mut table = Self::default();
        for (prefix, peer) in entries {
            match prefix.trunc() {
                IpNet::V4(prefix) => table.v4.insert(prefix, peer),
                IpNet::V6(prefix) => table.v6.insert(prefix, peer),
            };
        }
        table
    }

    /// The peer that owns `address`.
    #[inline]
    pub fn lookup(&self, address: IpAddr) -> Option<PeerId> {
        match address {
            IpAddr::V4(address) => self.v4.get_lpm(&address.into()).map(|(_, peer)| *peer),
            IpAddr::V6(address) => self.v6.get_lpm(&address.into()).map(|(_, peer)| *peer),
        }
    }

    /// The prefixes that `peer` owns, in order.
    pub fn prefixes_of(&self, peer: PeerId) -> Vec<IpNet> {
        let v4 = self.v4.iter().filter(|(_, owner)| **owner == peer).map(|(p, _)| IpNet::V4(p));
        let v6 = self.v6.iter().filter(|(_, owner)| **owner == peer).map(|(p, _)| IpNet::V6(p));
        v4.chain(v6).collect()
    }
}
