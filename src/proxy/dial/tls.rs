//! Why a handshake of TLS with an origin has failed.

use std::fmt;
use std::io;

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage};

/// Why TLS with an origin has not come about. Nothing of a request has gone there then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TlsFault {
    /// The certificate is for other names or addresses.
    OtherName,
    /// The certificate has expired.
    Expired,
    /// The certificate is not valid yet.
    NotYetValid,
    /// No authority that is trusted here vouches for the certificate.
    UnknownIssuer,
    /// The certificate was revoked.
    Revoked,
    /// The certificate is none of a server, or malformed.
    BadCertificate,
    /// The origin speaks no version of TLS that is spoken here, or nothing else that would be
    /// needed in common.
    NothingInCommon,
    /// The origin says that it will not.
    Refused,
    /// What answers does not speak TLS.
    NoTls,
    /// The connection has ended in the middle.
    Cut,
    /// No authority is trusted here.
    NoRoots,
    /// The way there is inside TLS already.
    Nested,
    /// Anything else.
    Other,
}

impl TlsFault {
    /// Why reading or writing has failed.
    pub fn of(error: &io::Error) -> Self {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
        match inner {
            Some(Error::InvalidCertificate(error)) => Self::of_certificate(error),
            Some(Error::PeerIncompatible(_)) => Self::NothingInCommon,
            Some(Error::AlertReceived(alert)) => Self::of_alert(*alert),
            Some(Error::InvalidMessage(InvalidMessage::InvalidContentType)) => Self::NoTls,
            Some(_) => Self::Other,
            None => Self::Cut,
        }
    }

    fn of_certificate(error: &CertificateError) -> Self {
        use CertificateError as E;
        match error {
            E::NotValidForName | E::NotValidForNameContext { .. } => Self::OtherName,
            E::Expired | E::ExpiredContext { .. } => Self::Expired,
            E::NotValidYet | E::NotValidYetContext { .. } => Self::NotYetValid,
            E::UnknownIssuer | E::BadSignature => Self::UnknownIssuer,
            E::Revoked => Self::Revoked,
            _ => Self::BadCertificate,
        }
    }

    fn of_alert(alert: AlertDescription) -> Self {
        use AlertDescription as A;
        match alert {
            A::ProtocolVersion
            | A::HandshakeFailure
            | A::InsufficientSecurity
            | A::NoApplicationProtocol => Self::NothingInCommon,
            _ => Self::Refused,
        }
    }
}

impl fmt::Display for TlsFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OtherName => "the host's certificate is for another name",
            Self::Expired => "the host's certificate has expired",
            Self::NotYetValid => {
                "the host's certificate is not valid yet: is the proxy's clock right?"
            }
            Self::UnknownIssuer => {
                "the host's certificate is from no authority that this proxy trusts, or signed by \
                 the host itself"
            }
            Self::Revoked => "the host's certificate was revoked",
            Self::BadCertificate => {
                "the host's certificate is not one for servers; is it an authority's own?"
            }
            Self::NothingInCommon => {
                "the host has no TLS 1.3 and no TLS 1.2 as this proxy speaks them"
            }
            Self::Refused => "the host refuses TLS; does it want a certificate?",
            Self::NoTls => "what answers at that port does not speak TLS",
            Self::Cut => "the host has closed the connection in the middle of the TLS handshake",
            Self::NoRoots => {
                "this proxy trusts no certificate authority; its administrator can install some \
                 (Debian: ca-certificates) or name one (origin_ca_file)"
            }
            Self::Nested => {
                "the way there is inside TLS, and this proxy speaks no TLS inside of TLS: ask for \
                 a tunnel (CONNECT)"
            }
            Self::Other => "the TLS handshake with the host has failed",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_told_from_another() {
        let of = |error: Error| TlsFault::of(&io::Error::new(io::ErrorKind::InvalidData, error));
        for (error, expected) in [
            (CertificateError::NotValidForName.into(), TlsFault::OtherName),
            (CertificateError::Expired.into(), TlsFault::Expired),
            (CertificateError::NotValidYet.into(), TlsFault::NotYetValid),
            (CertificateError::UnknownIssuer.into(), TlsFault::UnknownIssuer),
            (CertificateError::Revoked.into(), TlsFault::Revoked),
            (CertificateError::InvalidPurpose.into(), TlsFault::BadCertificate),
            (Error::AlertReceived(AlertDescription::ProtocolVersion), TlsFault::NothingInCommon),
            (Error::AlertReceived(AlertDescription::AccessDenied), TlsFault::Refused),
            (Error::InvalidMessage(InvalidMessage::InvalidContentType), TlsFault::NoTls),
            (Error::DecryptError, TlsFault::Other),
        ] {
            assert_eq!(of(error), expected);
        }
        let ended = io::Error::from(io::ErrorKind::UnexpectedEof);
        assert_eq!(TlsFault::of(&ended), TlsFault::Cut);
        assert_eq!(TlsFault::of(&io::Error::from_raw_os_error(libc::ECONNRESET)), TlsFault::Cut);
    }
}
