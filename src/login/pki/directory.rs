//! The directory of an authority: its key, its certificate, its revocation list, a server's
//! certificate, and every certificate that it has issued.
//!
//! Commands that change something hold the lock of the authority's key meanwhile. A file is
//! replaced whole, so that a server that reads it finds the old one or the new one.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rand::CryptoRng;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{CertificateRevocationList, FromDer as _, X509Certificate};

use crate::accounts::names::Name;
use crate::limits::PEM_FILE_LEN_MAX;
use crate::login::tls::{Pin, TlsFiles, fingerprint, serial_text};
use crate::sys::{file_lock, private_file};

use super::authority::{Authority, Certificate, Purpose, Revocation, Validity};
use super::{PkiError, ServerAddress};

/// An authority that is kept in a directory.
#[derive(Clone, Debug)]
pub struct PkiDirectory {
    path: PathBuf,
}

/// A certificate that the authority has issued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// Serial number in lower-case hexadecimal digits.
    pub serial: String,
    /// What it is for.
    pub purpose: Purpose,
    /// SHA-256 of it.
    pub fingerprint: [u8; 32],
    /// From when it is good, in seconds since 1970 in UTC.
    pub from_s: i64,
    /// Until when, likewise.
    pub until_s: i64,
    /// When it was revoked, likewise.
    pub revoked_s: Option<i64>,
}

impl Issued {
    /// Whether a user logs in with it.
    pub fn is_for(&self, user: &Name) -> bool {
        matches!(&self.purpose, Purpose::User(owner) if owner == user)
    }

    /// Whether it is good at a time, in seconds since 1970 in UTC.
    pub fn is_in_force(&self, now_s: i64) -> bool {
        self.revoked_s.is_none() && (self.from_s..=self.until_s).contains(&now_s)
    }
}

impl PkiDirectory {
    /// Makes an authority in a directory, which is made if it is missing.
    ///
    /// # Errors
    /// There is one already, or the files cannot be written.
    pub fn create(
        path: &Path,
        name: &str,
        now: Duration,
        rng: &mut impl CryptoRng,
    ) -> Result<Self, PkiError> {
        let directory = Self { path: path.to_owned() };
        make_directory(path)?;
        make_directory(&directory.issued_directory())?;
        let authority = Authority::create(name, now, rng)?;
        // The key comes first: whoever finds it finds an authority, and leaves it alone.
        write_new(&directory.key(), authority.key_pem.as_bytes(), 0o600)?;
        write_new(&directory.certificate(), authority.pem.as_bytes(), 0o644)?;
        let list = directory.authority()?.revoke(&[], now)?;
        replace(&directory.revocation_list(), list.as_bytes(), 0o644)?;
        Ok(directory)
    }

    /// The authority that is kept in a directory.
    ///
    /// # Errors
    /// There is none.
    pub fn open(path: &Path) -> Result<Self, PkiError> {
        let directory = Self { path: path.to_owned() };
        let certificate = directory.certificate();
        if certificate.exists() { Ok(directory) } else { Err(PkiError::NoAuthority(certificate)) }
    }

    /// The authority's certificate.
    pub fn certificate(&self) -> PathBuf {
        self.path.join("ca.crt")
    }

    /// The authority's key.
    pub fn key(&self) -> PathBuf {
        self.path.join("ca.key")
    }

    /// What it has revoked.
    pub fn revocation_list(&self) -> PathBuf {
        self.path.join("ca.crl")
    }

    /// The certificate of the server, followed by that of the authority.
    pub fn server_certificate(&self) -> PathBuf {
        self.path.join("server.crt")
    }

    /// The key of the server's certificate.
    pub fn server_key(&self) -> PathBuf {
        self.path.join("server.key")
    }

    /// The files that a server works with that has its certificate from here and believes those of
    /// users from here.
    pub fn tls_files(&self) -> TlsFiles {
        TlsFiles {
            certificate: self.server_certificate(),
            key: self.server_key(),
            client_ca: Some(self.certificate()),
            client_crl: Some(self.revocation_list()),
        }
    }

    /// What clients know the authority by.
    ///
    /// # Errors
    /// Its certificate cannot be read.
    pub fn pin(&self) -> Result<Pin, PkiError> {
        Ok(Pin::of(&read_certificate(&self.certificate())?))
    }

    /// Issues a certificate.
    ///
    /// # Errors
    /// The authority's key cannot be used, or the files cannot be written.
    pub fn issue(
        &self,
        purpose: &Purpose,
        validity: Validity,
        rng: &mut impl CryptoRng,
    ) -> Result<Certificate, PkiError> {
        let certificate = self.authority()?.issue(purpose, validity, rng)?;
        make_directory(&self.issued_directory())?;
        let path = self.issued_directory().join(format!("{}.pem", certificate.serial));
        write_new(&path, certificate.pem.as_bytes(), 0o644)?;
        Ok(certificate)
    }

    /// Issues the server's own certificate and puts it in force.
    ///
    /// # Errors
    /// As for [`Self::issue`].
    pub fn issue_server(
        &self,
        addresses: &[ServerAddress],
        validity: Validity,
        rng: &mut impl CryptoRng,
    ) -> Result<Certificate, PkiError> {
        let certificate = self.issue(&Purpose::Server(addresses.to_vec()), validity, rng)?;
        let authority = read(&self.certificate())?;
        let chain = [certificate.pem.as_bytes(), &authority].concat();
        replace(&self.server_key(), certificate.key_pem.as_bytes(), 0o600)?;
        replace(&self.server_certificate(), &chain, 0o644)?;
        Ok(certificate)
    }

    /// Revokes the certificate with this serial number; nothing happens if it is revoked already.
    ///
    /// # Errors
    /// There is none, the authority's key cannot be used, or the list cannot be written.
    pub fn revoke(&self, serial: &str, now: Duration) -> Result<(), PkiError> {
        let _lock = self.lock()?;
        let bytes = raw_serial(&self.place_of(serial)?)?;
        let mut revocations = self.revocations()?;
        if revocations.iter().all(|revocation| revocation.serial != bytes) {
            revocations.push(Revocation { serial: bytes, since_s: now.as_secs() });
            let list = self.authority()?.revoke(&revocations, now)?;
            replace(&self.revocation_list(), list.as_bytes(), 0o644)?;
        }
        Ok(())
    }

    /// The names and addresses of the server's certificate in force.
    ///
    /// # Errors
    /// There is none, or it is damaged.
    pub fn server_addresses(&self) -> Result<Vec<ServerAddress>, PkiError> {
        match describe(&self.server_certificate(), &HashMap::new())?.purpose {
            Purpose::Server(addresses) => Ok(addresses),
            Purpose::User(_) => {
                Err(PkiError::damaged(self.server_certificate(), "it is for no server"))
            }
        }
    }

    /// The certificate with this serial number.
    ///
    /// # Errors
    /// There is none, or a file cannot be read or is damaged.
    pub fn issued(&self, serial: &str) -> Result<Issued, PkiError> {
        describe(&self.place_of(serial)?, &self.revoked()?)
    }

    /// Every certificate that was issued, oldest first.
    ///
    /// # Errors
    /// A file cannot be read or is damaged.
    pub fn list(&self) -> Result<Vec<Issued>, PkiError> {
        let revoked = self.revoked()?;
        let mut list = Vec::new();
        let issued = self.issued_directory();
        for entry in fs::read_dir(&issued).map_err(PkiError::file(&issued))? {
            let path = entry.map_err(PkiError::file(&issued))?.path();
            if path.extension().is_some_and(|extension| extension == "pem") {
                list.push(describe(&path, &revoked)?);
            }
        }
        list.sort_by(|one, other| (one.from_s, &one.serial).cmp(&(other.from_s, &other.serial)));
        Ok(list)
    }

    fn issued_directory(&self) -> PathBuf {
        self.path.join("issued")
    }

    fn place_of(&self, serial: &str) -> Result<PathBuf, PkiError> {
        let certificate = self.issued_directory().join(format!("{serial}.pem"));
        let is_serial = !serial.is_empty() && serial.bytes().all(|byte| byte.is_ascii_hexdigit());
        if is_serial && certificate.exists() {
            Ok(certificate)
        } else {
            Err(PkiError::NoSuchSerial(serial.to_owned()))
        }
    }

    fn authority(&self) -> Result<Authority, PkiError> {
        let certificate = read_certificate(&self.certificate())?;
        let pem = private_file::read(&self.key(), PEM_FILE_LEN_MAX)?;
        let text = std::str::from_utf8(&pem)
            .map_err(|_| PkiError::damaged(self.key(), "it is not a private key in PEM"))?;
        Authority::open(&certificate, text).map_err(|error| PkiError::damaged(self.key(), error))
    }

    fn lock(&self) -> Result<File, PkiError> {
        let file = File::open(self.key()).map_err(PkiError::file(self.key()))?;
        file_lock::lock(&file).map_err(PkiError::file(self.key()))?;
        Ok(file)
    }

    /// Serial numbers that were revoked, and when.
    fn revoked(&self) -> Result<HashMap<String, i64>, PkiError> {
        let list = self.revocations()?.into_iter();
        Ok(list.map(|it| (serial_text(&it.serial), it.since_s as i64)).collect())
    }

    fn revocations(&self) -> Result<Vec<Revocation>, PkiError> {
        let path = self.revocation_list();
        let pem = read(&path)?;
        let damaged = |reason: String| PkiError::damaged(&path, reason);
        let list = CertificateRevocationListDer::from_pem_slice(&pem)
            .map_err(|error| damaged(error.to_string()))?;
        let (_, list) = CertificateRevocationList::from_der(&list)
            .map_err(|error| damaged(error.to_string()))?;
        let revoked = list.iter_revoked_certificates();
        Ok(revoked
            .map(|entry| Revocation {
                serial: entry.raw_serial().to_vec(),
                since_s: entry.revocation_date.timestamp().max(0) as u64,
            })
            .collect())
    }
}

fn describe(path: &Path, revoked: &HashMap<String, i64>) -> Result<Issued, PkiError> {
    let der = read_certificate(path)?;
    let damaged = |error: &dyn ToString| PkiError::damaged(path, error.to_string());
    let (_, certificate) = X509Certificate::from_der(&der).map_err(|error| damaged(&error))?;
    let serial = serial_text(certificate.raw_serial());
    let purpose = match alternative_names(&certificate) {
        names if !names.is_empty() => Purpose::Server(names),
        _ => {
            let name = certificate.subject().iter_common_name().next();
            let name = name.and_then(|name| name.as_str().ok()).unwrap_or_default();
            Purpose::User(name.parse().map_err(|error| damaged(&error))?)
        }
    };
    let validity = certificate.validity();
    Ok(Issued {
        revoked_s: revoked.get(&serial).copied(),
        serial,
        purpose,
        fingerprint: fingerprint(&der),
        from_s: validity.not_before.timestamp(),
        until_s: validity.not_after.timestamp(),
    })
}

fn alternative_names(certificate: &X509Certificate<'_>) -> Vec<ServerAddress> {
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return Vec::new() };
    let read = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => name.parse().ok(),
        GeneralName::IPAddress(bytes) => match <[u8; 4]>::try_from(*bytes) {
            Ok(v4) => Some(ServerAddress::Address(v4.into())),
            Err(_) => <[u8; 16]>::try_from(*bytes).ok().map(|v6| ServerAddress::Address(v6.into())),
        },
        _ => None,
    };
    names.value.general_names.iter().filter_map(read).collect()
}

fn raw_serial(path: &Path) -> Result<Vec<u8>, PkiError> {
    let der = read_certificate(path)?;
    let (_, certificate) =
        X509Certificate::from_der(&der).map_err(|error| PkiError::damaged(path, error))?;
    Ok(certificate.raw_serial().to_vec())
}

fn read_certificate(path: &Path) -> Result<CertificateDer<'static>, PkiError> {
    CertificateDer::from_pem_slice(&read(path)?).map_err(|error| PkiError::damaged(path, error))
}

fn read(path: &Path) -> Result<Vec<u8>, PkiError> {
    fs::read(path).map_err(PkiError::file(path))
}

fn make_directory(path: &Path) -> Result<(), PkiError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(PkiError::file(path))
}

/// Writes a file that must not be there yet, and waits until it is on the disk.
///
/// # Errors
/// [`PkiError::Exists`], or the kernel refuses.
pub fn write_new(path: &Path, content: &[u8], mode: u32) -> Result<(), PkiError> {
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let mut file = file.map_err(|source| match source.kind() {
        std::io::ErrorKind::AlreadyExists => PkiError::Exists(path.to_owned()),
        _ => PkiError::File { path: path.to_owned(), source },
    })?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(PkiError::file(path))
}

/// Writes a file beside its place and moves it there once it is whole.
fn replace(path: &Path, content: &[u8], mode: u32) -> Result<(), PkiError> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{}.new", std::process::id()));
    let draft = PathBuf::from(draft);
    let _ = fs::remove_file(&draft);
    write_new(&draft, content, mode)?;
    let moved = fs::rename(&draft, path);
    if moved.is_err() {
        let _ = fs::remove_file(&draft);
    }
    moved.map_err(PkiError::file(path))
}
