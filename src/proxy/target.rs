//! What a client of the proxy asks to be connected to: a host, by name or address, and a port.
//!
//! SOCKS and HTTP both end up here, so that nobody gets past a rule by the way a host is spelled.
//! An address is an [`Host::Address`] even where it was sent as text or mapped into IPv6. Names are
//! in lower case. What is neither an address in its usual form nor a name that DNS can hold is
//! refused: `127.1`, `0x7f.1`, `2130706433` and `fe80::1%eth0` have a meaning for some resolvers
//! only.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use crate::limits::DOMAIN_NAME_LEN_MAX;

/// A host and a TCP or UDP port, which is in host byte order. Port 0 is possible here; who connects
/// refuses it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    /// The host.
    pub host: Host,
    /// The port.
    pub port: u16,
}

/// A host, by name or by address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// A name that has yet to be looked up.
    Name(DomainName),
    /// An address, never one of IPv4 mapped into IPv6 if it was made by a function of this file.
    Address(IpAddr),
}

/// A domain name in lower case that can be looked up: letters, digits, hyphens and underscores in
/// labels of at least one byte, at most 255 bytes in all. One dot may stand at the end (RFC 1034
/// section 3.1); it is kept, since it tells a resolver to search nowhere else. A name in another
/// script comes as its A-labels (RFC 5890 section 2.3.2.1), and no other way.
///
/// Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DomainName(Arc<str>);

/// Why something is no host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// There is nothing.
    #[error("the host is empty")]
    Empty,
    /// It is longer than any name can be.
    #[error("the host has {0} bytes; a name has at most {DOMAIN_NAME_LEN_MAX}")]
    TooLong(usize),
    /// A byte that no name has: NUL, a blank, a letter outside of ASCII.
    #[error(
        "the host has the byte {0:#04x}, which no domain name has; send a name in another script \
         as its A-labels (xn--...)"
    )]
    Byte(u8),
    /// Two dots in a row, or one at the beginning.
    #[error("the host has an empty label")]
    EmptyLabel,
    /// It ends in a number, as no name does (RFC 1123 section 2.1), but is no address either.
    #[error("the host looks like an address, but not of the form 192.0.2.1")]
    OddAddress,
}

/// Why a text is no target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// The host is none.
    #[error(transparent)]
    Host(#[from] HostError),
    /// There is no port, or no number from 0 to 65535.
    #[error("the port is missing or no number from 0 to 65535; write HOST:PORT")]
    Port,
}

impl Target {
    /// The target with an address.
    pub fn from_address(address: SocketAddr) -> Self {
        Self { host: Host::from_address(address.ip()), port: address.port() }
    }

    /// The address and port, if no name has to be looked up.
    pub fn address(&self) -> Option<SocketAddr> {
        match self.host {
            Host::Address(address) => Some(SocketAddr::new(address, self.port)),
            Host::Name(_) => None,
        }
    }
}

impl Host {
    /// The host with an address. One of IPv4 that is mapped into IPv6 becomes what it stands for.
    pub fn from_address(address: IpAddr) -> Self {
        Self::Address(address.to_canonical())
    }

    /// Reads a host as it stands on the wire: an address as text, an IPv6 address in brackets or
    /// not, or a name.
    pub fn parse(bytes: &[u8]) -> Result<Self, HostError> {
        let inner = bytes.strip_prefix(b"[").and_then(|rest| rest.strip_suffix(b"]"));
        if let Some(inner) = inner {
            let address = parse_text::<Ipv6Addr>(inner).ok_or(HostError::Byte(b'['))?;
            return Ok(Self::from_address(address.into()));
        }
        match parse_text(bytes) {
            Some(address) => Ok(Self::from_address(address)),
            None => DomainName::parse(bytes).map(Self::Name),
        }
    }
}

impl DomainName {
    /// Reads a name. An address is none.
    pub fn parse(bytes: &[u8]) -> Result<Self, HostError> {
        let mut lower = [0; DOMAIN_NAME_LEN_MAX];
        let lower = lower.get_mut(..bytes.len()).ok_or(HostError::TooLong(bytes.len()))?;
        lower.copy_from_slice(bytes);
        lower.make_ascii_lowercase();
        if let Some(&byte) = lower.iter().find(|byte| !is_name_byte(**byte)) {
            return Err(HostError::Byte(byte));
        }
        let name = str::from_utf8(lower).map_err(|_| HostError::Empty)?;
        let mut labels = name.strip_suffix('.').unwrap_or(name).split('.');
        if name.is_empty() {
            return Err(HostError::Empty);
        }
        if labels.clone().any(str::is_empty) {
            return Err(HostError::EmptyLabel);
        }
        if labels.next_back().is_some_and(is_number) {
            return Err(HostError::OddAddress);
        }
        Ok(Self(name.into()))
    }

    /// The name as it was asked for, in lower case, with a dot at the end if it had one.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name without a dot at the end: what rules compare.
    pub fn without_root(&self) -> &str {
        self.0.strip_suffix('.').unwrap_or(&self.0)
    }
}

fn parse_text<T: FromStr>(bytes: &[u8]) -> Option<T> {
    str::from_utf8(bytes).ok()?.parse().ok()
}

/// What may stand in a name. An underscore may not in the name of a host (RFC 1123 section 2.1),
/// but such names are in use.
fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

/// Whether a label is a number for `inet_aton(3)`: decimal, octal or hexadecimal.
fn is_number(label: &str) -> bool {
    let is = |digits: &str, of: fn(&u8) -> bool| digits.bytes().all(|byte| of(&byte));
    let hexadecimal = label.strip_prefix("0x").is_some_and(|rest| is(rest, u8::is_ascii_hexdigit));
    hexadecimal || is(label, u8::is_ascii_digit)
}

impl FromStr for Target {
    type Err = TargetError;

    /// Reads `HOST:PORT`, with an IPv6 address in brackets.
    fn from_str(text: &str) -> Result<Self, TargetError> {
        let (host, port) = text.rsplit_once(':').ok_or(TargetError::Port)?;
        // `parse` would take a sign.
        if !port.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(TargetError::Port);
        }
        let port = port.parse().map_err(|_| TargetError::Port)?;
        if host.contains(':') && !host.starts_with('[') {
            return Err(HostError::Byte(b':').into());
        }
        Ok(Self { host: Host::parse(host.as_bytes())?, port })
    }
}

impl fmt::Display for Target {
    /// `HOST:PORT`, with an IPv6 address in brackets.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Name(name) => write!(out, "{name}:{}", self.port),
            Host::Address(address) => SocketAddr::new(*address, self.port).fmt(out),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(out),
            Self::Address(address) => address.fmt(out),
        }
    }
}

impl fmt::Display for DomainName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn host(text: &str) -> Result<String, HostError> {
        Host::parse(text.as_bytes()).map(|host| match host {
            Host::Name(name) => format!("name {name}"),
            Host::Address(address) => format!("address {address}"),
        })
    }

    #[test]
    fn a_host_is_a_name_or_an_address_however_it_is_spelled() {
        let table = [
            ("example.com", "name example.com"),
            ("EXAMPLE.Com", "name example.com"),
            ("example.com.", "name example.com."),
            ("localhost", "name localhost"),
            ("_srv.xn--bcher-kva.example", "name _srv.xn--bcher-kva.example"),
            ("1.2.3.4.example", "name 1.2.3.4.example"),
            ("0xyz", "name 0xyz"),
            ("192.0.2.1", "address 192.0.2.1"),
            ("2001:db8::1", "address 2001:db8::1"),
            ("[2001:DB8::1]", "address 2001:db8::1"),
            ("::ffff:127.0.0.1", "address 127.0.0.1"),
            ("[::ffff:7f00:1]", "address 127.0.0.1"),
        ];
        for (text, expected) in table {
            assert_eq!(host(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_neither_is_refused() {
        let long = "a".repeat(DOMAIN_NAME_LEN_MAX + 1);
        let table = [
            ("", HostError::Empty),
            (".", HostError::EmptyLabel),
            ("..", HostError::EmptyLabel),
            (".example", HostError::EmptyLabel),
            ("a..b", HostError::EmptyLabel),
            ("example..", HostError::EmptyLabel),
            ("exa\0mple", HostError::Byte(0)),
            ("example.com\0.test", HostError::Byte(0)),
            ("exa mple", HostError::Byte(b' ')),
            ("example\r\n", HostError::Byte(b'\r')),
            ("example:80", HostError::Byte(b':')),
            ("user@example", HostError::Byte(b'@')),
            ("example/x", HostError::Byte(b'/')),
            ("*.example", HostError::Byte(b'*')),
            ("bücher.example", HostError::Byte(0xc3)),
            ("fe80::1%eth0", HostError::Byte(b':')),
            ("[fe80::1%eth0]", HostError::Byte(b'[')),
            ("[192.0.2.1]", HostError::Byte(b'[')),
            ("[example.com]", HostError::Byte(b'[')),
            ("127.1", HostError::OddAddress),
            ("127.0.0.1.", HostError::OddAddress),
            ("0127.0.0.1", HostError::OddAddress),
            ("2130706433", HostError::OddAddress),
            ("0x7f.0x1", HostError::OddAddress),
            ("0X7F000001", HostError::OddAddress),
            ("0x", HostError::OddAddress),
            ("a.1", HostError::OddAddress),
            (&long, HostError::TooLong(DOMAIN_NAME_LEN_MAX + 1)),
        ];
        for (text, expected) in table {
            assert_eq!(host(text), Err(expected), "{text:?}");
        }
        assert!(host(&long[1..]).is_ok(), "one byte less is taken");
    }

    #[test]
    fn targets_are_read_and_written() {
        for text in ["example.com:80", "example.com.:0", "192.0.2.1:65535", "[2001:db8::1]:443"] {
            let target: Target = text.parse().unwrap();
            assert_eq!(target.to_string(), text);
        }
        let mapped: Target = "[::ffff:192.0.2.1]:1".parse().unwrap();
        assert_eq!(mapped.address(), Some("192.0.2.1:1".parse().unwrap()));
        let refused = ["", "example.com", "example.com:", "a:+1", "a:65536", "a: 1", "a:80:"];
        for text in refused {
            assert_eq!(text.parse::<Target>(), Err(TargetError::Port), "{text}");
        }
        for text in ["2001:db8::1:443", "a:80:443", ":80", "[::1:80"] {
            let refused = text.parse::<Target>();
            assert!(matches!(refused, Err(TargetError::Host(_))), "{text}: {refused:?}");
        }
    }

    #[test]
    fn a_dot_at_the_end_is_kept_but_not_compared() {
        let name = DomainName::parse(b"Example.").unwrap();
        assert_eq!((name.as_str(), name.without_root()), ("example.", "example"));
    }

    proptest! {
        #[test]
        fn bytes_are_a_host_that_reads_the_same_again(bytes in any::<Vec<u8>>()) {
            if let Ok(host) = Host::parse(&bytes) {
                prop_assert_eq!(Host::parse(host.to_string().as_bytes()), Ok(host));
            }
        }

        #[test]
        fn text_is_a_target_that_reads_the_same_again(text in "[a-z0-9.:\\[\\]]{0,24}") {
            if let Ok(target) = text.parse::<Target>() {
                prop_assert_eq!(target.to_string().parse(), Ok(target));
            }
        }
    }
}
