//! A certificate authority in memory: it signs certificates and revocation lists.

use std::time::Duration;

use rand::CryptoRng;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use rustls::pki_types::CertificateDer;
use zeroize::Zeroizing;

use crate::accounts::names::Name;
use crate::login::tls::serial_text;

use super::{PkiError, ServerAddress};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// How long an authority is good.
const AUTHORITY_VALID: Duration = Duration::from_secs(3650 * 24 * 3600);
/// How long a revocation list says it is good. It is read when it changes, and nothing is refused
/// because the list is old.
const LIST_VALID: Duration = AUTHORITY_VALID;
/// Certificates are good from a little before they are made: clocks differ.
const CLOCK_LEEWAY: Duration = Duration::from_secs(3600);
/// Bytes of a serial number: 127 random bits (RFC 5280 section 4.1.2.2 allows 20 bytes).
const SERIAL_LEN: usize = 16;

/// When a certificate is made, and how long it is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Now, since 1970 in UTC.
    pub now: Duration,
    /// How long from now on.
    pub lasts: Duration,
}

impl Validity {
    /// So many days.
    pub fn days(now: Duration, days: u32) -> Self {
        Self { now, lasts: DAY * days }
    }
}

/// What a certificate is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A server that is reached by these names and addresses.
    Server(Vec<ServerAddress>),
    /// A user who logs in with it.
    User(Name),
}

/// A certificate with its private key, in PEM.
#[derive(Debug)]
pub struct Certificate {
    /// Serial number in lower-case hexadecimal digits.
    pub serial: String,
    /// The certificate.
    pub der: CertificateDer<'static>,
    /// The same in PEM.
    pub pem: String,
    /// The private key, in a file of its own that only its owner can read.
    pub key_pem: Zeroizing<String>,
}

/// A certificate authority.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate that is no longer good, and since when, in seconds since 1970 in UTC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Revocation {
    pub(super) serial: Vec<u8>,
    pub(super) since_s: u64,
}

impl Authority {
    /// A new one: its certificate, and its key in PEM. A part of its serial number is added to its
    /// name, so that two with one name are told apart.
    pub(super) fn create(
        name: &str,
        now: Duration,
        rng: &mut impl CryptoRng,
    ) -> Result<Certificate, PkiError> {
        let validity = Validity { now, lasts: AUTHORITY_VALID };
        let mut params = parameters(name, validity, rng);
        let serial = params.serial_number.as_ref().map(SerialNumber::to_bytes).unwrap_or_default();
        let mark = serial_text(serial.get(..4).unwrap_or_default());
        params.distinguished_name.push(DnType::CommonName, format!("{name} {mark}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?;
        Ok(finished(&params, certificate, &key))
    }

    /// One whose certificate and key are kept.
    pub(super) fn open(der: &CertificateDer<'_>, key_pem: &str) -> Result<Self, PkiError> {
        let issuer = Issuer::from_ca_cert_der(der, KeyPair::from_pem(key_pem)?)?;
        Ok(Self { issuer })
    }

    /// Makes a key and a certificate for it.
    pub(super) fn issue(
        &self,
        purpose: &Purpose,
        validity: Validity,
        rng: &mut impl CryptoRng,
    ) -> Result<Certificate, PkiError> {
        let mut params = match purpose {
            Purpose::Server(addresses) => {
                let first = addresses.first().map(ToString::to_string).unwrap_or_default();
                let mut params = parameters(&first, validity, rng);
                params.subject_alt_names =
                    addresses.iter().map(alternative_name).collect::<Result<_, _>>()?;
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
                params
            }
            Purpose::User(user) => {
                let mut params = parameters(user.as_str(), validity, rng);
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
                params
            }
        };
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(finished(&params, certificate, &key))
    }

    /// The list of what is no longer good, in PEM.
    pub(super) fn revoke(
        &self,
        revocations: &[Revocation],
        now: Duration,
    ) -> Result<String, PkiError> {
        let revoked_certs = revocations
            .iter()
            .map(|revocation| RevokedCertParams {
                serial_number: SerialNumber::from_slice(&revocation.serial),
                revocation_time: date_time_ymd(1970, 1, 1)
                    + Duration::from_secs(revocation.since_s),
                reason_code: None,
                invalidity_date: None,
            })
            .collect();
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(1970, 1, 1) + now,
            next_update: date_time_ymd(1970, 1, 1) + now + LIST_VALID,
            // A number that never falls: milliseconds since 1970.
            crl_number: SerialNumber::from_slice(&(now.as_millis() as u64).to_be_bytes()),
            issuing_distribution_point: None,
            revoked_certs,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(list.signed_by(&self.issuer)?.pem()?)
    }
}

fn parameters(name: &str, validity: Validity, rng: &mut impl CryptoRng) -> CertificateParams {
    let mut serial = [0; SERIAL_LEN];
    rng.fill_bytes(&mut serial);
    // Positive, and never shorter: the first bit is 0 and the second 1.
    if let Some(first) = serial.first_mut() {
        *first = *first & 0x3f | 0x40;
    }
    let mut params = CertificateParams::default();
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let from = validity.now.saturating_sub(CLOCK_LEEWAY);
    params.not_before = date_time_ymd(1970, 1, 1) + from;
    params.not_after = date_time_ymd(1970, 1, 1) + validity.now + validity.lasts;
    params
}

fn alternative_name(address: &ServerAddress) -> Result<SanType, PkiError> {
    Ok(match address {
        ServerAddress::Domain(name) => SanType::DnsName(name.as_str().try_into()?),
        ServerAddress::Address(address) => SanType::IpAddress(*address),
    })
}

fn finished(
    params: &CertificateParams,
    certificate: rcgen::Certificate,
    key: &KeyPair,
) -> Certificate {
    let serial = params.serial_number.as_ref().map(SerialNumber::to_bytes).unwrap_or_default();
    Certificate {
        serial: serial_text(&serial),
        pem: certificate.pem(),
        der: certificate.into(),
        key_pem: Zeroizing::new(key.serialize_pem()),
    }
}
