//! TLS as the control channel uses it: version 1.3 only, hybrid key exchange first, one
//! application protocol, no resumption.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ring::digest;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{RootCertStore, SupportedProtocolVersion};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::handshake::keys::{PresharedKey, PublicKey};
use crate::limits::{KEY_LEN, PEM_FILE_LEN_MAX};
use crate::sys::private_file::{self, PrivateFileError};

mod client;
mod server;
mod watch;

pub use client::{ClientTls, Pin, Trust, why_unreachable};
pub(in crate::login) use server::serial_text;
pub use server::{ClientCertificate, ServerTls, Service, TlsFiles};
pub use watch::FilesWatch;

/// The application protocol (ALPN, RFC 7301) of the control channel.
pub const ALPN: &[u8] = b"corelane/1";

/// The application protocol of what is spoken to a proxy inside TLS. It goes for SOCKS as well,
/// whose clients name none.
pub const PROXY_ALPN: &[u8] = b"http/1.1";

/// The label under which both ends derive the pre-shared key of a lease from a TLS session
/// (RFC 8446 section 7.5, RFC 5705); the context is the device's static key.
const LEASE_PSK_LABEL: &[u8] = b"EXPORTER-corelane-lease-psk";

const VERSIONS: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// Why TLS cannot be set up: what is wrong with the files.
#[derive(Debug, Error)]
pub enum TlsSetupError {
    /// A file with a private key cannot be used.
    #[error("the TLS key: {0}")]
    Key(#[from] PrivateFileError),
    /// Another file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// There is nothing of the kind in it.
    #[error("{} has no {what} in PEM (`-----BEGIN ...`)", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
    /// It is not acceptable.
    #[error("{}: {reason}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why not, and what mends it.
        reason: String,
    },
    /// The system has no certificate authorities to offer.
    #[error(
        "this system has no certificate authorities to trust ({0}): install them (Debian: \
         `apt-get install ca-certificates`), or name the server's own CA or its pin"
    )]
    NoSystemRoots(String),
}

impl TlsSetupError {
    fn unusable(path: &Path, reason: impl ToString) -> Self {
        Self::Unusable { path: path.to_owned(), reason: reason.to_string() }
    }
}

/// A certificate with what leads to its CA, and its private key.
#[derive(Debug)]
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    path: PathBuf,
}

impl Identity {
    /// Reads both from PEM files. Nobody but its owner may be able to read that of the key.
    ///
    /// # Errors
    /// A file is missing, exposed, or holds something else.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, TlsSetupError> {
        let chain = certificates(certificate)?;
        let pem = private_file::read(key, PEM_FILE_LEN_MAX)?;
        let missing = || TlsSetupError::Missing { path: key.to_owned(), what: "private key" };
        let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| missing())?;
        Ok(Self { chain, key, path: certificate.to_owned() })
    }
}

/// Every certificate in a PEM file, in order; at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsSetupError> {
    let pem = read(path)?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let certificates = read.map_err(|error| TlsSetupError::unusable(path, error))?;
    match certificates.is_empty() {
        false => Ok(certificates),
        true => Err(TlsSetupError::Missing { path: path.to_owned(), what: "certificate" }),
    }
}

/// The certificates in a PEM file as authorities to trust.
fn authorities(path: &Path) -> Result<Arc<RootCertStore>, TlsSetupError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| TlsSetupError::unusable(path, error))?;
    }
    Ok(Arc::new(roots))
}

fn read(path: &Path) -> Result<Vec<u8>, TlsSetupError> {
    std::fs::read(path).map_err(|source| TlsSetupError::Read { path: path.to_owned(), source })
}

/// The cryptography: AES-256-GCM, ChaCha20-Poly1305 and AES-128-GCM of TLS 1.3; X25519 with
/// ML-KEM-768 before the classic groups.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        kx_groups: vec![
            aws_lc_rs::kx_group::X25519MLKEM768,
            aws_lc_rs::kx_group::X25519,
            aws_lc_rs::kx_group::SECP256R1,
        ],
        ..aws_lc_rs::default_provider()
    })
}

/// SHA-256 of a certificate.
pub fn fingerprint(certificate: &CertificateDer<'_>) -> [u8; 32] {
    let mut fingerprint = [0; 32];
    fingerprint.copy_from_slice(digest::digest(&digest::SHA256, certificate).as_ref());
    fingerprint
}

/// Exports the pre-shared key of a lease from a connection whose handshake is complete.
fn lease_psk(
    export: impl FnOnce(&mut [u8], &[u8], &[u8]) -> Result<(), rustls::Error>,
    device_key: &PublicKey,
) -> Result<PresharedKey, rustls::Error> {
    let mut psk = Zeroizing::new([0; KEY_LEN]);
    export(psk.as_mut_slice(), LEASE_PSK_LABEL, &device_key.0)?;
    Ok(PresharedKey::new(*psk))
}

/// The pre-shared key of a login over `connection`, as its server knows it.
pub(super) fn server_lease_psk(
    connection: &rustls::ServerConnection,
    device_key: &PublicKey,
) -> Result<PresharedKey, rustls::Error> {
    lease_psk(
        |output, label, context| {
            connection.export_keying_material(output, label, Some(context)).map(drop)
        },
        device_key,
    )
}

/// The same as its client knows it.
pub(super) fn client_lease_psk(
    connection: &rustls::ClientConnection,
    device_key: &PublicKey,
) -> Result<PresharedKey, rustls::Error> {
    lease_psk(
        |output, label, context| {
            connection.export_keying_material(output, label, Some(context)).map(drop)
        },
        device_key,
    )
}
