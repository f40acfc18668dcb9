//! Whom the gateway takes for an origin, where it speaks TLS to origins itself.

use std::path::PathBuf;
use std::sync::OnceLock;

use rustls::pki_types::{DnsName, ServerName};

use crate::login::tls::{ClientTls, TlsSetupError, Trust};

use super::target::Host;

/// The authorities that origins are believed by, shared by all workers.
#[derive(Debug, Default)]
pub struct Origins {
    /// File with the authorities; those of the system if `None`.
    pub ca_file: Option<PathBuf>,
    tls: OnceLock<ClientTls>,
}

impl PartialEq for Origins {
    /// Whether they were told the same.
    fn eq(&self, other: &Self) -> bool {
        self.ca_file == other.ca_file
    }
}

impl Eq for Origins {}

impl Origins {
    /// Those of the file, or of the system without one. They have yet to be read.
    pub fn new(ca_file: Option<PathBuf>) -> Self {
        Self { ca_file, tls: OnceLock::new() }
    }

    /// Reads them, once.
    ///
    /// # Errors
    /// The file is not what it should be, or the system has no authorities.
    pub fn load(&self) -> Result<(), TlsSetupError> {
        if self.tls.get().is_none() {
            let trust = self.ca_file.clone().map_or(Trust::System, Trust::Authority);
            let tls = ClientTls::for_origins(&trust)?;
            self.tls.get_or_init(|| tls);
        }
        Ok(())
    }

    /// A client's side of TLS, if any authority is trusted.
    pub(super) fn tls(&self) -> Option<&ClientTls> {
        self.tls.get()
    }
}

/// What a certificate has to be for. `None` for a name that no certificate can have.
pub(super) fn server_name(host: &Host) -> Option<ServerName<'static>> {
    match host {
        Host::Address(address) => Some(ServerName::IpAddress((*address).into())),
        Host::Name(name) => {
            let name = DnsName::try_from(name.without_root().to_owned()).ok()?;
            Some(ServerName::DnsName(name))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_has_to_be_for_the_host_as_it_was_asked_for() {
        let name = |text: &str| {
            let host = Host::parse(text.as_bytes()).unwrap();
            server_name(&host).map(|name| name.to_str().into_owned())
        };
        for (host, expected) in [
            ("Example.ORG", Some("example.org")),
            ("example.org.", Some("example.org")),
            ("192.0.2.1", Some("192.0.2.1")),
            ("::ffff:192.0.2.1", Some("192.0.2.1")),
            ("[2001:db8::1]", Some("2001:db8::1")),
            ("a_b.example.org", Some("a_b.example.org")),
            ("-.example.org", None),
        ] {
            assert_eq!(name(host).as_deref(), expected, "{host}");
        }
    }

    #[test]
    fn a_file_without_authorities_is_an_error_and_is_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("ca.pem");
        let origins = Origins::new(Some(file.clone()));
        assert!(origins.load().is_err() && origins.tls().is_none(), "it is not there");
        std::fs::write(&file, "no certificate").unwrap();
        assert!(origins.load().is_err() && origins.tls().is_none());
        let site = crate::login::testing::Site::new();
        std::fs::copy(site.pki.certificate(), &file).unwrap();
        origins.load().unwrap();
        assert!(origins.tls().is_some());
    }
}
