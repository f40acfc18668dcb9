//! TLS to upstream proxies: whom they are taken for, and why not.

use std::io;
use std::path::PathBuf;

use rustls::{AlertDescription, CertificateError, Error};

use crate::login::tls::{ClientTls, Identity, Pin, TlsSetupError, Trust, why_unreachable};

/// What `https://` servers of a group have to show, and what they are shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsSettings {
    /// The certificate authorities that are believed; those of the system if neither this nor a pin
    /// is there.
    pub ca_file: Option<PathBuf>,
    /// The one certificate authority that is believed.
    pub pin: Option<Pin>,
    /// The certificate that is shown to servers that ask, and its private key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl TlsSettings {
    /// The files that it names.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        let identity = self.identity.iter().flat_map(|(certificate, key)| [certificate, key]);
        self.ca_file.iter().chain(identity)
    }

    /// Reads the files.
    ///
    /// # Errors
    /// They are not as they should be.
    pub fn load(&self) -> Result<ClientTls, TlsSetupError> {
        let trust = match (&self.ca_file, self.pin) {
            (Some(path), _) => Trust::Authority(path.clone()),
            (None, Some(pin)) => Trust::Pin(pin),
            (None, None) => Trust::System,
        };
        let identity = self.identity.as_ref();
        let identity = identity.map(|(certificate, key)| Identity::load(certificate, key));
        ClientTls::for_proxy(&trust, identity.transpose()?)
    }
}

/// What it means, and what mends it, that a connection has failed with `error`; `None` if that is
/// not for TLS to say.
pub fn why(error: &io::Error) -> Option<String> {
    let error = error.get_ref()?.downcast_ref::<Error>()?;
    let not_tls = "it does not speak TLS 1.3 there; is it an `http://` server, or another port?";
    Some(match error {
        Error::InvalidMessage(_)
        | Error::PeerIncompatible(_)
        | Error::AlertReceived(AlertDescription::ProtocolVersion) => not_tls.to_owned(),
        Error::AlertReceived(AlertDescription::NoApplicationProtocol) => {
            "what answers there is no proxy; is it another port?".to_owned()
        }
        Error::AlertReceived(AlertDescription::CertificateRequired) => {
            "it demands a certificate: name one by `certificate_file` and `key_file`".to_owned()
        }
        Error::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        ) => {
            let unknown = why_unreachable(error);
            format!("{unknown}; if it is the right one, name its CA by `ca_file` or `ca_pin`")
        }
        error => why_unreachable(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tls_fails_by_is_told_with_what_mends_it() {
        let said = |error: Error| why(&io::Error::new(io::ErrorKind::InvalidData, error)).unwrap();
        let unknown = said(Error::InvalidCertificate(CertificateError::UnknownIssuer));
        assert!(unknown.contains("not trusted") && unknown.contains("ca_file"), "{unknown}");
        let alert = said(Error::AlertReceived(AlertDescription::CertificateRequired));
        assert!(alert.contains("certificate_file"), "{alert}");
        let old = said(Error::AlertReceived(AlertDescription::ProtocolVersion));
        assert!(old.contains("http://"), "{old}");
        let expired = said(Error::InvalidCertificate(CertificateError::Expired));
        assert!(expired.contains("expired"), "{expired}");
        assert_eq!(why(&io::ErrorKind::ConnectionReset.into()), None);
    }
}
