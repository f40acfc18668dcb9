//! How a request ended, in the words of SOCKS.

use std::io;

/// The REP field of a reply (RFC 1928 section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Reply {
    /// 00: it was done.
    Succeeded = 0,
    /// 01: it failed for a reason that has no other code.
    GeneralFailure = 1,
    /// 02: a rule does not allow it.
    NotAllowed = 2,
    /// 03: there is no way to the network.
    NetworkUnreachable = 3,
    /// 04: there is no such host, or no way to it.
    HostUnreachable = 4,
    /// 05: the host refused the connection.
    ConnectionRefused = 5,
    /// 06: nothing came back in time.
    TtlExpired = 6,
    /// 07: there is no such command, or it is not offered.
    CommandNotSupported = 7,
    /// 08: there is no such type of address, or the host does not have it.
    AddressTypeNotSupported = 8,
}

impl Reply {
    const ALL: [Self; 9] = [
        Self::Succeeded,
        Self::GeneralFailure,
        Self::NotAllowed,
        Self::NetworkUnreachable,
        Self::HostUnreachable,
        Self::ConnectionRefused,
        Self::TtlExpired,
        Self::CommandNotSupported,
        Self::AddressTypeNotSupported,
    ];

    /// The byte on the wire.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// What a byte on the wire means; `None` for 09 to FF, which nothing has been assigned to.
    pub fn of(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }

    /// What a client hears of a connection that the operating system could not make.
    ///
    /// A time that ran out is 06, the nearest that there is. A firewall of the server's own that
    /// forbids the connection (EPERM, EACCES) is a rule.
    pub fn from_io(error: &io::Error) -> Self {
        use io::ErrorKind as Kind;
        match error.kind() {
            Kind::ConnectionRefused | Kind::ConnectionReset => Self::ConnectionRefused,
            Kind::NetworkUnreachable | Kind::NetworkDown => Self::NetworkUnreachable,
            Kind::HostUnreachable => Self::HostUnreachable,
            Kind::TimedOut => Self::TtlExpired,
            Kind::PermissionDenied => Self::NotAllowed,
            _ if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => Self::AddressTypeNotSupported,
            // No address of its own from which the server could go there.
            Kind::AddrNotAvailable => Self::NetworkUnreachable,
            _ => Self::GeneralFailure,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_rfc_1928_section_6() {
        for (code, reply) in (0..).zip(Reply::ALL) {
            assert_eq!((reply.code(), Reply::of(code)), (code, Some(reply)));
        }
        assert_eq!((Reply::of(9), Reply::of(255)), (None, None));
    }

    #[test]
    fn what_the_system_says_has_a_code_of_its_own() {
        let table = [
            (libc::ECONNREFUSED, Reply::ConnectionRefused),
            (libc::ECONNRESET, Reply::ConnectionRefused),
            (libc::ENETUNREACH, Reply::NetworkUnreachable),
            (libc::ENETDOWN, Reply::NetworkUnreachable),
            (libc::EADDRNOTAVAIL, Reply::NetworkUnreachable),
            (libc::EHOSTUNREACH, Reply::HostUnreachable),
            (libc::ETIMEDOUT, Reply::TtlExpired),
            (libc::EACCES, Reply::NotAllowed),
            (libc::EPERM, Reply::NotAllowed),
            (libc::EAFNOSUPPORT, Reply::AddressTypeNotSupported),
            (libc::EMFILE, Reply::GeneralFailure),
        ];
        for (errno, expected) in table {
            let error = io::Error::from_raw_os_error(errno);
            assert_eq!(Reply::from_io(&error), expected, "{error}");
        }
    }
}
