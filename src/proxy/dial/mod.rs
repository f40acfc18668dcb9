//! Reaches an origin: looks its name up, judges its addresses, and tries them in good order.
//!
//! [`guard`] judges addresses, [`eyeballs`] says which is tried when, [`names`] looks names up, for
//! one after the other who asks ([`turns`]); [`Dial`] puts them together. None of them has a
//! socket: the worker connects.

mod cache;
pub mod eyeballs;
pub mod failure;
pub mod guard;
pub mod names;
pub mod own;
pub mod tls;
pub mod turns;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Instant;

use crate::proxy::target::{Host, Target};
use crate::sys::names::LookupError;
use crate::sys::tcp;

pub use cache::Answer;
pub use failure::Failure;
pub use guard::Guard;
pub use turns::Asker;

use eyeballs::Eyeballs;
pub use eyeballs::Step;
use own::OwnPrefixes;

/// The way to one origin.
///
/// Call [`Dial::begin`], and [`Dial::resolve`] with the addresses if it asks for them; then do what
/// [`Dial::poll`] says, with [`Dial::fail`] for each attempt that fails, until one attempt has
/// succeeded or it says that all have failed.
#[derive(Debug)]
pub struct Dial {
    port: u16,
    eyeballs: Option<Eyeballs>,
}

impl Dial {
    /// A way to `target`. If its host is an address, that is judged and ready to be tried.
    ///
    /// # Errors
    /// It is not to be reached.
    pub fn begin(target: &Target, guard: &Guard, own: &OwnPrefixes) -> Result<Self, Failure> {
        let mut dial = Self { port: target.port, eyeballs: None };
        if target.port == 0 {
            return Err(Failure::NoPort);
        }
        if let Host::Address(address) = target.host {
            dial.set_addresses(&[address], guard, own)?;
        }
        Ok(dial)
    }

    /// Whether the name has yet to be looked up.
    pub fn needs_addresses(&self) -> bool {
        self.eyeballs.is_none()
    }

    /// The name was looked up: all of its addresses are judged, and ready to be tried if every one
    /// of them may be dialled.
    ///
    /// # Errors
    /// It is not to be reached.
    pub fn resolve(
        &mut self,
        answer: &Answer,
        guard: &Guard,
        own: &OwnPrefixes,
    ) -> Result<(), Failure> {
        match answer {
            Ok(addresses) => self.set_addresses(addresses, guard, own),
            Err(LookupError::NotFound) => Err(Failure::NameNotFound),
            Err(LookupError::Unavailable) => Err(Failure::NameUnavailable),
            Err(LookupError::Exhausted) => Err(Failure::Exhausted),
        }
    }

    fn set_addresses(
        &mut self,
        addresses: &[IpAddr],
        guard: &Guard,
        own: &OwnPrefixes,
    ) -> Result<(), Failure> {
        for address in addresses {
            guard.judge(*address, own).map_err(Failure::Denied)?;
        }
        self.eyeballs = Some(Eyeballs::new(addresses, self.port));
        Ok(())
    }

    /// What to do now.
    pub fn poll(&mut self, now: Instant) -> Step {
        match &mut self.eyeballs {
            Some(eyeballs) => eyeballs.poll(now),
            None => Step::Wait(None),
        }
    }

    /// An attempt has failed.
    pub fn fail(&mut self, failure: Failure) {
        if let Some(eyeballs) = &mut self.eyeballs {
            eyeballs.fail(failure);
        }
    }
}

/// From which of this host's addresses others are dialled: the kernel chooses where none is said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// Those with an IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// Those with an IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
}

impl Source {
    /// The addresses that are said.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let (ipv4, ipv6) = (self.ipv4.map(IpAddr::from), self.ipv6.map(IpAddr::from));
        ipv4.into_iter().chain(ipv6)
    }

    /// The one from which `address` is dialled, if it is said.
    pub fn towards(&self, address: IpAddr) -> Option<IpAddr> {
        self.addresses().find(|own| own.is_ipv4() == address.is_ipv4())
    }
}

/// A socket that begins to connect to `address`.
///
/// # Errors
/// The kernel's answer.
pub fn connect(address: SocketAddr, source: Source) -> std::io::Result<mio::net::TcpStream> {
    let stream = match source.towards(address.ip()) {
        Some(own) => mio::net::TcpStream::from_std(tcp::connect_from(own, address)?),
        None => mio::net::TcpStream::connect(address)?,
    };
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The address of this host from which it would reach `address`. Nothing is sent.
///
/// # Errors
/// The kernel's answer: there is no route, say.
pub fn source_towards(address: SocketAddr) -> std::io::Result<IpAddr> {
    let unspecified: IpAddr = match address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = std::net::UdpSocket::bind((unspecified, 0))?;
    socket.connect(address)?;
    Ok(socket.local_addr()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::target::DomainName;
    use crate::sys::clock;
    use std::sync::Arc;

    fn answer(addresses: &[&str]) -> Answer {
        Ok(addresses.iter().map(|address| address.parse().unwrap()).collect::<Arc<[IpAddr]>>())
    }

    #[test]
    fn a_name_with_one_denied_address_is_denied() {
        let host = Host::Name(DomainName::parse(b"mixed.example").unwrap());
        let target = Target { host, port: 80 };
        let guard = Guard::default();
        for (addresses, expected) in [
            (&["1.1.1.1"][..], Ok(())),
            (&["1.1.1.1", "2606:4700::1111"], Ok(())),
            (&["1.1.1.1", "10.0.0.1"], Err(Failure::Denied(guard::Kind::Private))),
            (&["::1", "1.1.1.1"], Err(Failure::Denied(guard::Kind::Loopback))),
            (&["1.1.1.1", "1.0.0.1", "192.0.2.9"], Err(Failure::Denied(guard::Kind::Own))),
        ] {
            let own = ["192.0.2.9/32".parse().unwrap()].into_iter().collect();
            let mut dial = Dial::begin(&target, &guard, &own).unwrap();
            assert!(dial.needs_addresses());
            assert_eq!(dial.poll(clock::now()), Step::Wait(None));
            assert_eq!(dial.resolve(&answer(addresses), &guard, &own), expected, "{addresses:?}");
            let first = dial.poll(clock::now());
            let is_tried = matches!(first, Step::Connect(_));
            assert_eq!(is_tried, expected.is_ok(), "{addresses:?}: nothing denied is dialled");
        }
    }

    #[test]
    fn an_address_is_judged_as_it_is_and_port_0_is_none() {
        let guard = Guard::default();
        let target = |text: &str| Target::from_address(text.parse().unwrap());
        let begin =
            |text: &str| Dial::begin(&target(text), &guard, &OwnPrefixes::default()).map(drop);
        assert_eq!(begin("1.1.1.1:80"), Ok(()));
        assert_eq!(begin("127.0.0.1:80"), Err(Failure::Denied(guard::Kind::Loopback)));
        assert_eq!(begin("[::ffff:127.0.0.1]:80"), Err(Failure::Denied(guard::Kind::Loopback)));
        assert_eq!(begin("1.1.1.1:0"), Err(Failure::NoPort));
    }
}
