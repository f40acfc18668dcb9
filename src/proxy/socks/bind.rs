//! Who may come to a port that a client had opened (BIND, RFC 1928 sections 4 and 6).
//!
//! The client says whom it expects: in FTP, the host to which it is connected already. Nobody else
//! is let in. From which port they come is not asked, since a client cannot know.

use std::net::{IpAddr, SocketAddr};

/// Whom a client expects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExpectedPeer {
    /// Any of these addresses, which are what the host of the request has been looked up to.
    Hosts(Vec<IpAddr>),
    /// Whoever comes first.
    Anybody,
}

/// The client does not say whom it expects, and may not let in whoever comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the request opens a port to anybody, which is not allowed; it has to name the host")]
pub struct NobodyExpected;

impl ExpectedPeer {
    /// Whom a client expects whose request's host has the addresses `hosts`. An unspecified one
    /// (0.0.0.0, ::) stands for anybody, if `allows_anybody`.
    pub fn new(
        hosts: impl IntoIterator<Item = IpAddr>,
        allows_anybody: bool,
    ) -> Result<Self, NobodyExpected> {
        let hosts: Vec<_> = hosts.into_iter().map(|host| host.to_canonical()).collect();
        match hosts.iter().any(IpAddr::is_unspecified) {
            false if hosts.is_empty() => Err(NobodyExpected),
            false => Ok(Self::Hosts(hosts)),
            true if allows_anybody => Ok(Self::Anybody),
            true => Err(NobodyExpected),
        }
    }

    /// Whether somebody who has come is expected. If not, the connection is closed, and the port
    /// stays open.
    pub fn admits(&self, peer: SocketAddr) -> bool {
        match self {
            Self::Hosts(hosts) => hosts.contains(&peer.ip().to_canonical()),
            Self::Anybody => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected(hosts: &[&str], allows_anybody: bool) -> Result<ExpectedPeer, NobodyExpected> {
        ExpectedPeer::new(hosts.iter().map(|host| host.parse().unwrap()), allows_anybody)
    }

    #[test]
    fn only_who_is_expected_is_let_in() {
        let peer = expected(&["192.0.2.1", "2001:db8::1"], false).unwrap();
        let table = [
            ("192.0.2.1:20", true),
            ("192.0.2.1:40000", true),
            ("[::ffff:192.0.2.1]:20", true),
            ("[2001:db8::1]:20", true),
            ("192.0.2.2:20", false),
            ("[2001:db8::2]:20", false),
        ];
        for (from, admitted) in table {
            assert_eq!(peer.admits(from.parse().unwrap()), admitted, "{from}");
        }
        let mapped = expected(&["::ffff:192.0.2.1"], false).unwrap();
        assert!(mapped.admits("192.0.2.1:1".parse().unwrap()));
    }

    #[test]
    fn anybody_is_let_in_only_where_that_is_allowed() {
        for unspecified in ["0.0.0.0", "::", "::ffff:0.0.0.0"] {
            assert_eq!(expected(&[unspecified], false), Err(NobodyExpected));
            let anybody = expected(&[unspecified], true).unwrap();
            assert!(anybody.admits("203.0.113.9:1".parse().unwrap()));
        }
        assert_eq!(expected(&[], true), Err(NobodyExpected), "a name without an address");
    }
}
