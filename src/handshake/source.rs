//! Who sends, as far as an address tells.

use std::net::{IpAddr, SocketAddr};

/// What counts as one sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// One address.
    V4([u8; 4]),
    /// A /64, the least that one subscriber gets.
    V6([u8; 8]),
}

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.octets()),
            IpAddr::V6(address) => {
                let [a, b, c, d, e, f, g, h, ..] = address.octets();
                Self::V6([a, b, c, d, e, f, g, h])
            }
        }
    }
}

/// What one subscriber may have so much of that its sources are too many to be judged one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Network {
    /// A /24.
    V4([u8; 3]),
    /// A /48, the most that one site gets.
    V6([u8; 6]),
}

impl From<Source> for Network {
    fn from(source: Source) -> Self {
        match source {
            Source::V4([a, b, c, _]) => Self::V4([a, b, c]),
            Source::V6([a, b, c, d, e, f, ..]) => Self::V6([a, b, c, d, e, f]),
        }
    }
}

/// An address and a port, in as little room as they need: a server keeps one for each peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin([u8; 18]);

impl From<SocketAddr> for Origin {
    fn from(from: SocketAddr) -> Self {
        let mut origin = [0; 18];
        let (address, port) = origin.split_at_mut(16);
        // An IPv4 address and the same one in IPv6 clothing are one.
        let mapped = match from.ip().to_canonical() {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => address,
        };
        address.copy_from_slice(&mapped.octets());
        port.copy_from_slice(&from.port().to_be_bytes());
        Self(origin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source::from(text.parse::<IpAddr>().unwrap())
    }

    #[test]
    fn a_source_is_an_ipv4_address_or_an_ipv6_slash_64() {
        assert_eq!(source("192.0.2.1"), Source::V4([192, 0, 2, 1]));
        assert_eq!(source("::ffff:192.0.2.1"), source("192.0.2.1"), "IPv4 in IPv6 clothing");
        assert_ne!(source("192.0.2.2"), source("192.0.2.1"));
        assert_eq!(source("2001:db8:1:2::1"), source("2001:db8:1:2:ffff::9"));
        assert_ne!(source("2001:db8:1:2::1"), source("2001:db8:1:3::1"));
    }

    #[test]
    fn a_network_is_an_ipv4_slash_24_or_an_ipv6_slash_48() {
        let network = |text: &str| Network::from(source(text));
        assert_eq!(network("192.0.2.1"), network("192.0.2.255"));
        assert_ne!(network("192.0.2.1"), network("192.0.3.1"));
        assert_eq!(network("2001:db8:1:2::1"), network("2001:db8:1:ffff::1"));
        assert_ne!(network("2001:db8:1:2::1"), network("2001:db8:2:2::1"));
    }

    #[test]
    fn an_origin_is_an_address_and_a_port() {
        let origin = |text: &str| Origin::from(text.parse::<SocketAddr>().unwrap());
        assert_eq!(origin("192.0.2.1:7"), origin("[::ffff:192.0.2.1]:7"));
        assert_ne!(origin("192.0.2.1:7"), origin("192.0.2.1:8"));
        assert_ne!(origin("192.0.2.1:7"), origin("192.0.2.2:7"));
        assert_ne!(origin("[2001:db8::1]:7"), origin("[2001:db8::2]:7"));
    }
}
