//! What a server shows of itself, and whom it lets show a certificate.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use x509_parser::prelude::{CertificateRevocationList, FromDer as _, X509Certificate};

use crate::accounts::model::UnixMs;
use crate::accounts::names::Name;

use super::{
    ALPN, Identity, PROXY_ALPN, TlsSetupError, VERSIONS, authorities, fingerprint, provider, read,
};

/// What a server's side of TLS is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// Logins and carriers. A client may show a certificate.
    Login,
    /// Clients of the proxy. Where a client CA is named, they may show a certificate, or have to.
    Proxy {
        /// Whether they have to.
        demands_certificate: bool,
    },
}

/// The files that make a server's side of TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, and what leads from it to its CA, in PEM.
    pub certificate: PathBuf,
    /// Its private key, in PEM.
    pub key: PathBuf,
    /// The CA whose client certificates are believed; without it, none is asked for.
    pub client_ca: Option<PathBuf>,
    /// Its revocation list.
    pub client_crl: Option<PathBuf>,
}

/// A server's side of TLS, read from files.
#[derive(Clone, Debug)]
pub struct ServerTls {
    pub(crate) config: Arc<ServerConfig>,
    /// Serial numbers of the client certificates that the revocation list names.
    pub(in crate::login) revoked: Arc<BTreeSet<String>>,
}

impl ServerTls {
    /// Reads the files.
    ///
    /// # Errors
    /// One of them is missing or is not what it should be.
    pub fn load(files: &TlsFiles, service: Service) -> Result<Self, TlsSetupError> {
        let identity = Identity::load(&files.certificate, &files.key)?;
        let provider = provider();
        let unusable = |error| TlsSetupError::unusable(&files.certificate, error);
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(VERSIONS)
            .map_err(unusable)?;
        let lists = match &files.client_crl {
            Some(path) => revocation_lists(path)?,
            None => Vec::new(),
        };
        let revoked = Arc::new(revoked_serials(files, &lists)?);
        let verifier = match &files.client_ca {
            Some(path) => {
                let roots = authorities(path)?;
                let builder = WebPkiClientVerifier::builder_with_provider(roots, provider)
                    .with_crls(lists)
                    // A CA says in its list what it has revoked, and nothing of the rest.
                    .allow_unknown_revocation_status();
                let builder = match service {
                    Service::Proxy { demands_certificate: true } => builder,
                    Service::Login | Service::Proxy { .. } => builder.allow_unauthenticated(),
                };
                builder.build().map_err(|error| TlsSetupError::unusable(path, error))?
            }
            None => WebPkiClientVerifier::no_client_auth(),
        };
        let mut config = builder
            .with_client_cert_verifier(verifier)
            .with_single_cert(identity.chain, identity.key)
            .map_err(|error| match error {
                rustls::Error::InconsistentKeys(_) => TlsSetupError::unusable(
                    &files.certificate,
                    format_args!("it does not belong to the key in {}", files.key.display()),
                ),
                error => unusable(error),
            })?;
        let alpn = match service {
            Service::Login => ALPN,
            Service::Proxy { .. } => PROXY_ALPN,
        };
        config.alpn_protocols = vec![alpn.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self { config: Arc::new(config), revoked })
    }

    /// Whether the revocation list names the same certificates as that of `other`.
    pub fn revokes_the_same(&self, other: &Self) -> bool {
        self.revoked == other.revoked
    }

    /// Whether the revocation list names a certificate, whatever else is in that.
    pub fn has_revoked(&self, certificate: &CertificateDer<'_>) -> bool {
        let parsed = X509Certificate::from_der(certificate);
        parsed.is_ok_and(|(_, parsed)| self.revoked.contains(&serial_text(parsed.raw_serial())))
    }
}

fn revocation_lists(
    path: &std::path::Path,
) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsSetupError> {
    let pem = read(path)?;
    let lists: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(&pem).collect();
    let lists = lists.map_err(|error| TlsSetupError::unusable(path, error))?;
    match lists.is_empty() {
        false => Ok(lists),
        true => Err(TlsSetupError::Missing { path: path.to_owned(), what: "revocation list" }),
    }
}

fn revoked_serials(
    files: &TlsFiles,
    lists: &[CertificateRevocationListDer<'_>],
) -> Result<BTreeSet<String>, TlsSetupError> {
    let mut serials = BTreeSet::new();
    for list in lists {
        let (_, list) = CertificateRevocationList::from_der(list).map_err(|error| {
            let path = files.client_crl.as_deref().unwrap_or(&files.certificate);
            TlsSetupError::unusable(path, error)
        })?;
        serials
            .extend(list.iter_revoked_certificates().map(|entry| serial_text(entry.raw_serial())));
    }
    Ok(serials)
}

/// A serial number as the accounts have it: lower-case hexadecimal digits without leading zeros.
pub(in crate::login) fn serial_text(bytes: &[u8]) -> String {
    let significant = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len());
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes.get(significant..).unwrap_or_default() {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// A certificate that a client has shown, and proved to be its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// Its serial number in lower-case hexadecimal digits.
    pub serial: String,
    /// SHA-256 of all of it.
    pub fingerprint: [u8; 32],
    /// Whom it stands for: the common name of its subject.
    pub user: Name,
    /// When it ceases to be good.
    pub not_after: UnixMs,
}

impl ClientCertificate {
    /// Reads what `certificate` says. That it may be believed was found out in the handshake.
    /// `None` if it names nobody who could have an account.
    pub(crate) fn read(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        let user = parsed.subject().iter_common_name().next()?.as_str().ok()?.parse().ok()?;
        let fingerprint = fingerprint(certificate);
        let not_after = UnixMs(parsed.validity().not_after.timestamp().saturating_mul(1000));
        Some(Self { serial: serial_text(parsed.raw_serial()), fingerprint, user, not_after })
    }
}
