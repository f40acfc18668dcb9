//! Socket addresses as the kernel lays them out.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// Room for an IPv4 or IPv6 socket address.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) union Name {
    family: libc::sa_family_t,
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

impl Name {
    /// The room, in bytes, that the kernel may fill.
    pub(super) const LEN: libc::socklen_t = size_of::<Self>() as libc::socklen_t;

    pub(super) const fn empty() -> Self {
        // SAFETY: all members consist of integers, for which zero is valid; a zero family is
        // AF_UNSPEC.
        unsafe { std::mem::zeroed() }
    }

    /// `address` as a socket of the given family takes it: a dual-stack IPv6 socket reaches IPv4
    /// by mapped addresses (RFC 4291 section 2.5.5.2). Returns the length in use, too.
    pub(super) fn encode(address: SocketAddr, socket_is_v6: bool) -> (Self, libc::socklen_t) {
        match address {
            SocketAddr::V4(address) if socket_is_v6 => {
                let mapped = address.ip().to_ipv6_mapped();
                Self::encode_v6(SocketAddrV6::new(mapped, address.port(), 0, 0))
            }
            SocketAddr::V4(address) => Self::encode_v4(address),
            SocketAddr::V6(address) => Self::encode_v6(address),
        }
    }

    fn encode_v4(address: SocketAddrV4) -> (Self, libc::socklen_t) {
        let mut name = Self::empty();
        name.v4 = libc::sockaddr_in {
            sin_family: libc::AF_INET as libc::sa_family_t,
            sin_port: address.port().to_be(),
            sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
            sin_zero: [0; 8],
        };
        (name, size_of::<libc::sockaddr_in>() as libc::socklen_t)
    }

    fn encode_v6(address: SocketAddrV6) -> (Self, libc::socklen_t) {
        let mut name = Self::empty();
        name.v6 = libc::sockaddr_in6 {
            sin6_family: libc::AF_INET6 as libc::sa_family_t,
            sin6_port: address.port().to_be(),
            sin6_flowinfo: address.flowinfo(),
            sin6_addr: libc::in6_addr { s6_addr: address.ip().octets() },
            sin6_scope_id: address.scope_id(),
        };
        (name, size_of::<libc::sockaddr_in6>() as libc::socklen_t)
    }

    /// The address, a mapped IPv4 one as IPv4. `None` for an address of another family.
    pub(super) fn decode(&self) -> Option<SocketAddr> {
        // SAFETY: the union was zeroed before the kernel or `encode` wrote to it, so every byte
        // is initialised, and every member consists of integers, which take any bytes.
        let (family, v4, v6) = unsafe { (self.family, self.v4, self.v6) };
        match libc::c_int::from(family) {
            libc::AF_INET => {
                let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
                Some(SocketAddr::from((ip, u16::from_be(v4.sin_port))))
            }
            libc::AF_INET6 => {
                let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
                let port = u16::from_be(v6.sin6_port);
                Some(match ip.to_ipv4_mapped() {
                    Some(ip) => SocketAddr::from((ip, port)),
                    None => SocketAddrV6::new(ip, port, v6.sin6_flowinfo, v6.sin6_scope_id).into(),
                })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Name;
    use proptest::prelude::*;
    use std::net::SocketAddr;

    proptest! {
        #[test]
        fn an_address_survives_encoding_on_either_family(
            address: SocketAddr,
            socket_is_v6: bool,
        ) {
            let (name, len) = Name::encode(address, socket_is_v6);
            prop_assert!(len <= Name::LEN);
            let expected = SocketAddr::new(address.ip().to_canonical(), address.port());
            let decoded = name.decode().unwrap();
            prop_assert_eq!(SocketAddr::new(decoded.ip(), decoded.port()), expected);
        }
    }

    #[test]
    fn an_unnamed_sender_is_no_address() {
        assert_eq!(Name::empty().decode(), None);
    }
}
