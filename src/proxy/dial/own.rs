//! The addresses of this host, listed now and then.

use std::io;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

use ipnet::IpNet;

use crate::host::netlink::Netlink;

/// What the kernel delivers to this host itself: single addresses, and whole prefixes where a
/// route says so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnPrefixes {
    v4: Ranges<u32>,
    v6: Ranges<u128>,
}

impl OwnPrefixes {
    /// Whether an address is this host's own. With a thousand prefixes it takes ten comparisons.
    pub fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.v4.contains(address.into()),
            IpAddr::V6(address) => self.v6.contains(address.into()),
        }
    }
}

impl FromIterator<IpNet> for OwnPrefixes {
    fn from_iter<T: IntoIterator<Item = IpNet>>(prefixes: T) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for prefix in prefixes {
            match prefix {
                IpNet::V4(prefix) => v4.push((prefix.network().into(), prefix.broadcast().into())),
                IpNet::V6(prefix) => v6.push((prefix.network().into(), prefix.broadcast().into())),
            }
        }
        Self { v4: Ranges::new(v4), v6: Ranges::new(v6) }
    }
}

/// The first and last numbers of ranges, in order. None meets another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Ranges<N>(Box<[(N, N)]>);

impl<N: Ord + Copy> Ranges<N> {
    fn new(mut ranges: Vec<(N, N)>) -> Self {
        ranges.sort_unstable();
        ranges.dedup_by(|next, before| {
            let meets = next.0 <= before.1;
            if meets {
                before.1 = before.1.max(next.1);
            }
            meets
        });
        Self(ranges.into())
    }

    fn contains(&self, number: N) -> bool {
        let behind = self.0.partition_point(|(first, _)| *first <= number);
        let before = behind.checked_sub(1).and_then(|index| self.0.get(index));
        before.is_some_and(|(_, last)| number <= *last)
    }
}

/// What is this host's own as it was last listed. Cheap to clone.
#[derive(Clone, Debug)]
pub struct OwnAddresses(Arc<RwLock<Arc<OwnPrefixes>>>);

impl OwnAddresses {
    /// What was last listed.
    pub fn current(&self) -> Arc<OwnPrefixes> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Lists what is this host's own. It keeps its socket, so that it goes on where nobody gets a
/// descriptor any more.
#[derive(Debug)]
pub struct OwnLister {
    netlink: Netlink,
    listed: OwnAddresses,
}

impl OwnLister {
    /// Lists for the network namespace of the calling thread, the first time at once.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn open() -> io::Result<Self> {
        let mut netlink = Netlink::open().map_err(io::Error::other)?;
        let listed = list(&mut netlink)?;
        Ok(Self { netlink, listed: OwnAddresses(Arc::new(RwLock::new(Arc::new(listed)))) })
    }

    /// What it has listed, now and whenever that is asked for.
    pub fn listed(&self) -> OwnAddresses {
        self.listed.clone()
    }

    /// Lists again. What was known stays if the kernel does not answer.
    pub fn refresh(&mut self) {
        match list(&mut self.netlink) {
            Ok(listed) if listed != *self.listed.current() => {
                let place = &self.listed.0;
                *place.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(listed);
            }
            Ok(_) => {}
            Err(error) => log::warn!("this host's addresses cannot be listed: {error}"),
        }
    }
}

fn list(netlink: &mut Netlink) -> io::Result<OwnPrefixes> {
    let prefixes = netlink.local_prefixes().map_err(io::Error::other)?;
    Ok(prefixes.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Few addresses, so that prefixes meet.
    fn address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            (0u8..4, 0u8..8).prop_map(|(high, low)| IpAddr::from([10, 0, high, low])),
            (0u16..8).prop_map(|low| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, low])),
            prop_oneof![Just([0; 4]), Just([255; 4])].prop_map(IpAddr::from),
            prop_oneof![Just([0; 8]), Just([u16::MAX; 8])].prop_map(IpAddr::from),
        ]
    }

    fn prefix() -> impl Strategy<Value = IpNet> {
        (address(), 0u8..6).prop_map(|(address, wider)| {
            let longest = if address.is_ipv4() { 32 } else { 128 };
            let length = [longest, longest, longest - 1, longest - 2, longest - 8, 0];
            IpNet::new(address, length[usize::from(wider)]).unwrap()
        })
    }

    proptest! {
        #[test]
        fn an_address_is_own_if_a_prefix_has_it(
            prefixes in proptest::collection::vec(prefix(), 0..12),
            asked in proptest::collection::vec(address(), 16),
        ) {
            let own: OwnPrefixes = prefixes.iter().copied().collect();
            for address in asked {
                let expected = prefixes.iter().any(|prefix| prefix.contains(&address));
                prop_assert_eq!(own.contains(address), expected, "{} in {:?}", address, own);
            }
        }
    }

    #[test]
    fn this_host_knows_itself_and_nobody_else() {
        let mut lister = OwnLister::open().unwrap();
        let first = lister.listed().current();
        let own = |text: &str| first.contains(text.parse().unwrap());
        assert!(own("127.0.0.1") && own("127.7.7.7"), "{first:?}");
        assert!(!own("192.0.2.77") && !own("2001:db8::77"));
        lister.refresh();
        assert!(lister.listed().current().contains("127.0.0.1".parse().unwrap()));
    }
}
