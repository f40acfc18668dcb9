//! Why an origin was not reached.

use std::fmt;
use std::io;

use super::guard::Kind;
use super::tls::TlsFault;

/// Why an origin was not reached, the causes that tell most first: where several addresses were
/// tried, the first of theirs in this order is the one that is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Failure {
    /// The address is one that is not dialled.
    Denied(Kind),
    /// No rule of the user allows it.
    Ruled,
    /// The user has as many connections as it may.
    UserFull,
    /// The user opens connections faster than it may.
    UserTooFast,
    /// A rule of the gateway blocks it.
    Blocked,
    /// An upstream proxy denies it.
    UpstreamDenied,
    /// Port 0, which nobody listens at.
    NoPort,
    /// The host is there and takes no connections at the port.
    Refused,
    /// No answer in time.
    TimedOut,
    /// A router says that the host cannot be reached, or nobody on the link answers for it.
    HostUnreachable,
    /// There is no route.
    NetworkUnreachable,
    /// A rule of this host's packet filter forbids it.
    Forbidden,
    /// There is no such name.
    NameNotFound,
    /// Nobody could tell whether there is such a name.
    NameUnavailable,
    /// This host has no descriptors, ports, memory, or threads left for it.
    Exhausted,
    /// The origin is there, and nothing is said to it, since it has not shown who it is.
    Tls(TlsFault),
    /// No upstream proxy does what it is asked.
    Upstream,
    /// Anything else the kernel says.
    Other,
}

impl Failure {
    /// All of them, by the names under which they are counted, without the kind of a denial
    /// or fault.
    pub const NAMES: [&'static str; 18] = [
        "denied",
        "ruled",
        "user_full",
        "user_too_fast",
        "blocked",
        "upstream_denied",
        "no_port",
        "refused",
        "timed_out",
        "host_unreachable",
        "network_unreachable",
        "forbidden",
        "name_not_found",
        "name_unavailable",
        "exhausted",
        "tls",
        "upstream",
        "other",
    ];

    /// Where its name stands among [`Failure::NAMES`].
    pub fn index(self) -> usize {
        match self {
            Self::Denied(_) => 0,
            Self::Ruled => 1,
            Self::UserFull => 2,
            Self::UserTooFast => 3,
            Self::Blocked => 4,
            Self::UpstreamDenied => 5,
            Self::NoPort => 6,
            Self::Refused => 7,
            Self::TimedOut => 8,
            Self::HostUnreachable => 9,
            Self::NetworkUnreachable => 10,
            Self::Forbidden => 11,
            Self::NameNotFound => 12,
            Self::NameUnavailable => 13,
            Self::Exhausted => 14,
            Self::Tls(_) => 15,
            Self::Upstream => 16,
            Self::Other => 17,
        }
    }
}

impl From<&io::Error> for Failure {
    fn from(error: &io::Error) -> Self {
        match error.raw_os_error() {
            // A reset in the middle of a handshake is a refusal by a device in between.
            Some(libc::ECONNREFUSED | libc::ECONNRESET) => Self::Refused,
            Some(libc::ETIMEDOUT) => Self::TimedOut,
            Some(libc::EHOSTUNREACH | libc::EHOSTDOWN) => Self::HostUnreachable,
            Some(libc::ENETUNREACH | libc::ENETDOWN | libc::EAFNOSUPPORT) => {
                Self::NetworkUnreachable
            }
            Some(libc::EACCES | libc::EPERM) => Self::Forbidden,
            // EADDRNOTAVAIL is what connect(2) says when every ephemeral port is taken; also when
            // this host has no IPv6 address at all.
            Some(
                libc::EMFILE
                | libc::ENFILE
                | libc::ENOBUFS
                | libc::ENOMEM
                | libc::EAGAIN
                | libc::EADDRNOTAVAIL,
            ) => Self::Exhausted,
            _ => Self::Other,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(kind) => write!(f, "{kind} addresses are not served here"),
            Self::Ruled => f.write_str("the rules of this account do not allow it"),
            Self::UserFull => f.write_str("this account has as many connections as it may have"),
            Self::UserTooFast => {
                f.write_str("this account opens connections faster than it may: slow down")
            }
            Self::Blocked => f.write_str("a rule of this proxy blocks it"),
            Self::UpstreamDenied => f.write_str("the upstream proxy denies it"),
            Self::NoPort => f.write_str("port 0 is none"),
            Self::Refused => f.write_str("the host refuses connections at that port"),
            Self::TimedOut => f.write_str("the host has not answered in time"),
            Self::HostUnreachable => f.write_str("the host is unreachable"),
            Self::NetworkUnreachable => f.write_str("there is no route to the host"),
            Self::Forbidden => f.write_str("the proxy's packet filter forbids it"),
            Self::NameNotFound => f.write_str("there is no host of that name"),
            Self::NameUnavailable => f.write_str("the name cannot be looked up now"),
            Self::Exhausted => f.write_str("the proxy has nothing left for another connection"),
            Self::Tls(fault) => fault.fmt(f),
            Self::Upstream => f.write_str("no upstream proxy takes the connection now"),
            Self::Other => f.write_str("the host cannot be reached"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_is_counted_under_a_name_of_its_own() {
        let all = [
            Failure::Denied(Kind::Own),
            Failure::Ruled,
            Failure::UserFull,
            Failure::UserTooFast,
            Failure::Blocked,
            Failure::UpstreamDenied,
            Failure::NoPort,
            Failure::Refused,
            Failure::TimedOut,
            Failure::HostUnreachable,
            Failure::NetworkUnreachable,
            Failure::Forbidden,
            Failure::NameNotFound,
            Failure::NameUnavailable,
            Failure::Exhausted,
            Failure::Tls(TlsFault::Expired),
            Failure::Upstream,
            Failure::Other,
        ];
        assert!(all.is_sorted());
        let indexes: Vec<usize> = all.iter().map(|failure| failure.index()).collect();
        assert_eq!(indexes, (0..Failure::NAMES.len()).collect::<Vec<_>>());
    }
}
