//! Which addresses the gateway connects to.
//!
//! What is judged is the address that is dialled, after the one lookup of its name, so there is
//! nothing to be rebound in between. Denied unless allowed is what an outsider could not reach
//! without the gateway: the host itself, its network, what its provider tells machines about
//! themselves. An IPv4 address inside an IPv6 one (mapped, translated, tunnelled) is judged as that
//! IPv4 address. Where a name has addresses of which one is denied, all of it is: an honest zone
//! has no reason to mix the two, and an attacker has.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;

use super::own::OwnPrefixes;

/// A kind of addresses that is denied unless allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `127.0.0.0/8`, `::1`.
    Loopback,
    /// `10.0.0.0/8`, `172.16.0.0/12`, `192.168.0.0/16` (RFC 1918), `fc00::/7` (RFC 4193), and the
    /// `fec0::/10` of old (RFC 3879).
    Private,
    /// `100.64.0.0/10`, between subscribers and their provider's address translator (RFC 6598).
    Shared,
    /// `169.254.0.0/16` (RFC 3927), `fe80::/10`.
    LinkLocal,
    /// Where cloud providers tell machines about themselves, often secrets included.
    Metadata,
    /// `224.0.0.0/4`, `ff00::/8`.
    Multicast,
    /// What no host has: `0.0.0.0/8` (which Linux takes for the host itself), `240.0.0.0/4` with
    /// broadcast, `192.0.0.0/24`, `198.18.0.0/15`, `::`, and the local-use translation prefix
    /// `64:ff9b:1::/48` (RFC 8215), inside of which only the network knows where the IPv4
    /// address is.
    Reserved,
    /// What the kernel delivers to this host itself: the addresses of its interfaces, those that
    /// routes make local ("AnyIP"), and those for broadcast and anycast.
    Own,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Loopback,
        Self::Private,
        Self::Shared,
        Self::LinkLocal,
        Self::Metadata,
        Self::Multicast,
        Self::Reserved,
        Self::Own,
    ];

    /// What configuration and messages call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Loopback => "loopback",
            Self::Private => "private",
            Self::Shared => "shared",
            Self::LinkLocal => "link-local",
            Self::Metadata => "metadata",
            Self::Multicast => "multicast",
            Self::Reserved => "reserved",
            Self::Own => "own",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What is allowed although it is denied by default: a kind, or a prefix.
///
/// A prefix of more than one address opens neither this host's own addresses nor those of
/// metadata, which may lie inside of it by chance: name those one by one, or by their kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// All addresses of a kind.
    Kind(Kind),
    /// All addresses in a prefix.
    Prefix(IpNet),
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kind(kind) => kind.fmt(f),
            Self::Prefix(prefix) => prefix.fmt(f),
        }
    }
}

impl FromStr for Allowed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(kind) = Kind::ALL.into_iter().find(|kind| kind.name() == text) {
            return Ok(Self::Kind(kind));
        }
        let single = || text.parse::<IpAddr>().map(IpNet::from).ok();
        let prefix = text.parse::<IpNet>().ok().or_else(single);
        prefix.map(|prefix| Self::Prefix(prefix.trunc())).ok_or_else(|| {
            let kinds = Kind::ALL.map(Kind::name).join(", ");
            format!("expected a prefix such as 10.0.0.0/8, or one of {kinds}")
        })
    }
}

/// Judges addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guard {
    /// What is allowed although it is denied by default.
    pub allowed: Vec<Allowed>,
}

impl Guard {
    /// One that keeps nobody from anything.
    pub fn anywhere() -> Self {
        Self { allowed: Kind::ALL.map(Allowed::Kind).to_vec() }
    }

    /// Whether `address` may be dialled; `own` are the addresses of this host.
    ///
    /// # Errors
    /// The kind because of which it may not.
    pub fn judge(&self, address: IpAddr, own: &OwnPrefixes) -> Result<(), Kind> {
        let judged = innermost(address);
        // The outer form may be somebody's own address as well: of a tunnel's end, say.
        let is_own = [judged, address].iter().any(|address| own.contains(*address));
        let kinds = [is_own.then_some(Kind::Own), kind_of(judged)];
        for kind in kinds.into_iter().flatten() {
            // Loopback addresses are own ones, too, and their kind says it better.
            let covered = kind == Kind::Own && kind_of(judged) == Some(Kind::Loopback);
            if !covered && !self.allows(judged, kind) {
                return Err(kind);
            }
        }
        Ok(())
    }

    fn allows(&self, address: IpAddr, kind: Kind) -> bool {
        let only_single = matches!(kind, Kind::Own | Kind::Metadata);
        self.allowed.iter().any(|allowed| match allowed {
            Allowed::Kind(allowed) => *allowed == kind,
            Allowed::Prefix(prefix) => {
                let is_single = prefix.prefix_len() == prefix.max_prefix_len();
                prefix.contains(&address) && (is_single || !only_single)
            }
        })
    }
}

/// The address that a packet to `address` may end up at: the IPv4 address inside, if there is one.
pub(in crate::proxy) fn innermost(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    match embedded(v6) {
        Some(v4) => IpAddr::V4(v4),
        None => address,
    }
}

/// The IPv4 address inside an IPv6 address.
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let v4 = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    match address.segments() {
        // `::` and `::1` are addresses of their own.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => None,
        // Compatible (RFC 4291 section 2.5.5.1), mapped (2.5.5.2), translated (RFC 2765 section
        // 2.1), NAT64 (RFC 6052 section 2.1).
        [0, 0, 0, 0, 0, 0, high, low]
        | [0, 0, 0, 0, 0, 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(v4(high, low)),
        // 6to4 (RFC 3056 section 2).
        [0x2002, high, low, ..] => Some(v4(high, low)),
        // Teredo (RFC 4380 section 4): the client's address, with every bit inverted.
        [0x2001, 0, _, _, _, _, high, low] => Some(v4(!high, !low)),
        _ => None,
    }
}

/// Where cloud providers tell machines about themselves, outside of link-local prefixes: Alibaba,
/// Oracle, Azure.
const METADATA_V4: [Ipv4Addr; 4] = [
    Ipv4Addr::new(169, 254, 169, 254),
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(192, 0, 0, 192),
    Ipv4Addr::new(168, 63, 129, 16),
];

/// The same in IPv6: Amazon (and those who copied it), Google.
const METADATA_V6: [Ipv6Addr; 2] = [
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
];

fn kind_of(address: IpAddr) -> Option<Kind> {
    match address {
        IpAddr::V4(address) => kind_of_v4(address),
        IpAddr::V6(address) => kind_of_v6(address),
    }
}

fn kind_of_v4(address: Ipv4Addr) -> Option<Kind> {
    if METADATA_V4.contains(&address) {
        return Some(Kind::Metadata);
    }
    match address.octets() {
        [127, ..] => Some(Kind::Loopback),
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => Some(Kind::Private),
        [100, 64..=127, ..] => Some(Kind::Shared),
        [169, 254, ..] => Some(Kind::LinkLocal),
        [224..=239, ..] => Some(Kind::Multicast),
        [0 | 240..=255, ..] | [192, 0, 0, _] | [198, 18 | 19, ..] => Some(Kind::Reserved),
        _ => None,
    }
}

fn kind_of_v6(address: Ipv6Addr) -> Option<Kind> {
    if METADATA_V6.contains(&address) {
        return Some(Kind::Metadata);
    }
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 1] => Some(Kind::Loopback),
        [0xfc00..=0xfdff, ..] | [0xfec0..=0xfeff, ..] => Some(Kind::Private),
        [0xfe80..=0xfebf, ..] => Some(Kind::LinkLocal),
        [0xff00..=0xffff, ..] => Some(Kind::Multicast),
        [0, 0, 0, 0, 0, 0, 0, 0] | [0x64, 0xff9b, 1, ..] => Some(Kind::Reserved),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    const DENIED: [(&str, Kind); 40] = [
        ("127.0.0.1", Kind::Loopback),
        ("127.255.255.254", Kind::Loopback),
        ("::1", Kind::Loopback),
        ("::ffff:127.0.0.1", Kind::Loopback),
        ("::127.0.0.1", Kind::Loopback),
        ("::ffff:0:127.0.0.1", Kind::Loopback),
        ("64:ff9b::127.0.0.1", Kind::Loopback),
        ("2002:7f00:1::5", Kind::Loopback),
        ("2001:0:1:2:3:4:80ff:fffe", Kind::Loopback),
        ("10.0.0.0", Kind::Private),
        ("10.255.255.255", Kind::Private),
        ("172.16.0.1", Kind::Private),
        ("172.31.255.255", Kind::Private),
        ("192.168.7.7", Kind::Private),
        ("::ffff:10.1.2.3", Kind::Private),
        ("64:ff9b::192.168.1.1", Kind::Private),
        ("2002:0a00:0001::", Kind::Private),
        ("fc00::1", Kind::Private),
        ("fdff:ffff::1", Kind::Private),
        ("fec0::1", Kind::Private),
        ("100.64.0.1", Kind::Shared),
        ("100.127.255.255", Kind::Shared),
        ("169.254.0.1", Kind::LinkLocal),
        ("fe80::1", Kind::LinkLocal),
        ("febf::1", Kind::LinkLocal),
        ("169.254.169.254", Kind::Metadata),
        ("::ffff:169.254.169.254", Kind::Metadata),
        ("fd00:ec2::254", Kind::Metadata),
        ("fd20:ce::254", Kind::Metadata),
        ("168.63.129.16", Kind::Metadata),
        ("100.100.100.200", Kind::Metadata),
        ("224.0.0.1", Kind::Multicast),
        ("239.255.255.255", Kind::Multicast),
        ("ff02::1", Kind::Multicast),
        ("0.0.0.0", Kind::Reserved),
        ("::ffff:0.0.0.0", Kind::Reserved),
        ("255.255.255.255", Kind::Reserved),
        ("240.0.0.1", Kind::Reserved),
        ("::", Kind::Reserved),
        ("64:ff9b:1::1", Kind::Reserved),
    ];

    #[test]
    fn what_an_outsider_could_not_reach_is_denied_in_every_disguise() {
        let (guard, none) = (Guard::default(), OwnPrefixes::default());
        for (text, kind) in DENIED {
            assert_eq!(guard.judge(address(text), &none), Err(kind), "{text}");
        }
    }

    #[test]
    fn what_everybody_can_reach_is_not() {
        let (guard, none) = (Guard::default(), OwnPrefixes::default());
        for text in [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.1",
            "169.253.0.1",
            "172.15.255.255",
            "172.32.0.0",
            "192.167.255.255",
            "192.0.1.1",
            "198.17.0.1",
            "198.20.0.1",
            "223.255.255.255",
            "2606:4700::1111",
            "::ffff:1.1.1.1",
            "64:ff9b::1.1.1.1",
            "2002:0101:0101::1",
            "fbff::1",
        ] {
            assert_eq!(guard.judge(address(text), &none), Ok(()), "{text}");
        }
    }

    #[test]
    fn a_kind_or_a_prefix_that_is_allowed_is_and_nothing_else() {
        let none = OwnPrefixes::default();
        for (text, kind) in DENIED {
            let judged = address(text);
            let by_kind = Guard { allowed: vec![Allowed::Kind(kind)] };
            assert_eq!(by_kind.judge(judged, &none), Ok(()), "{text}");
            let single = Allowed::Prefix(IpNet::from(innermost(judged)));
            let by_prefix = Guard { allowed: vec![single] };
            assert_eq!(by_prefix.judge(judged, &none), Ok(()), "{text}");
            for other in Kind::ALL.into_iter().filter(|other| *other != kind) {
                let guard = Guard { allowed: vec![Allowed::Kind(other)] };
                assert_eq!(guard.judge(judged, &none), Err(kind), "{text} by {other}");
            }
        }
        let ten = Guard { allowed: vec!["10.0.0.0/8".parse().unwrap()] };
        assert_eq!(ten.judge(address("10.9.9.9"), &none), Ok(()));
        assert_eq!(ten.judge(address("::ffff:10.9.9.9"), &none), Ok(()));
        assert_eq!(ten.judge(address("192.168.0.1"), &none), Err(Kind::Private));
    }

    #[test]
    fn the_hosts_own_addresses_are_denied_even_inside_of_an_allowed_prefix() {
        let own = ["192.0.2.7/32", "10.0.0.5/32", "2001:db8::7/128", "127.0.0.0/8"];
        let own = own.map(|prefix| prefix.parse().unwrap()).into_iter().collect();
        let guard = |allowed: &[&str]| Guard {
            allowed: allowed.iter().map(|allowed| allowed.parse().unwrap()).collect(),
        };
        for text in ["192.0.2.7", "::ffff:192.0.2.7", "2001:db8::7", "10.0.0.5"] {
            let judged = address(text);
            for wide in ["10.0.0.0/8", "192.0.2.0/24", "private", "2001:db8::/32"] {
                assert_eq!(guard(&[wide]).judge(judged, &own), Err(Kind::Own), "{text} {wide}");
            }
        }
        assert_eq!(guard(&["own"]).judge(address("192.0.2.7"), &own), Ok(()));
        assert_eq!(guard(&["192.0.2.7"]).judge(address("192.0.2.7"), &own), Ok(()));
        assert_eq!(guard(&["own"]).judge(address("10.0.0.5"), &own), Err(Kind::Private));
        assert_eq!(guard(&["10.0.0.5/32"]).judge(address("10.0.0.5"), &own), Ok(()));
        assert_eq!(guard(&["loopback"]).judge(address("127.0.0.1"), &own), Ok(()));
        let metadata = address("169.254.169.254");
        assert_eq!(guard(&["169.254.0.0/16"]).judge(metadata, &own), Err(Kind::Metadata));
    }

    #[test]
    fn a_network_that_is_the_hosts_own_is_opened_address_by_address() {
        let own = ["198.51.100.0/24", "2001:db8:a::/64"].map(|prefix| prefix.parse().unwrap());
        let own: OwnPrefixes = own.into_iter().collect();
        let judge = |allowed: &str, text: &str| {
            Guard { allowed: vec![allowed.parse().unwrap()] }.judge(address(text), &own)
        };
        for text in ["198.51.100.0", "198.51.100.7", "2002:c633:6407::1", "2001:db8:a::7"] {
            for wide in ["198.51.100.0/24", "198.51.100.6/31", "2001:db8:a::/64", "198.51.100.8"] {
                assert_eq!(judge(wide, text), Err(Kind::Own), "{text} {wide}");
            }
            assert_eq!(judge("own", text), Ok(()), "{text}");
        }
        assert_eq!(judge("198.51.100.7", "198.51.100.7"), Ok(()));
        assert_eq!(judge("198.51.100.7", "2002:c633:6407::1"), Ok(()), "the same address");
        assert_eq!(judge("2001:db8:a::7", "2001:db8:a::7"), Ok(()));
        assert_eq!(judge("private", "198.51.101.0"), Ok(()), "the next network");
    }

    #[test]
    fn what_is_allowed_reads_back_as_it_is_written() {
        for text in ["loopback", "own", "10.0.0.0/8", "fd00::/8", "192.0.2.1/32"] {
            assert_eq!(text.parse::<Allowed>().unwrap().to_string(), text);
        }
        assert_eq!("192.0.2.1".parse::<Allowed>().unwrap().to_string(), "192.0.2.1/32");
        assert!("everything".parse::<Allowed>().unwrap_err().contains("link-local"));
    }
}
