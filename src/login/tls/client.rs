//! Whom a client takes for its server, and why not.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore,
    SignatureScheme, SupportedProtocolVersion,
};

use super::{
    ALPN, Identity, PROXY_ALPN, TlsSetupError, VERSIONS, authorities, certificates, fingerprint,
    provider,
};

/// SHA-256 of a CA's certificate: enough to know the CA by.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pin(pub [u8; 32]);

impl Pin {
    /// The pin of a certificate.
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        Self(fingerprint(certificate))
    }

    /// The pin of the first certificate in a PEM file.
    ///
    /// # Errors
    /// The file cannot be read, or has no certificate.
    pub fn of_file(path: &Path) -> Result<Self, TlsSetupError> {
        let found = certificates(path)?;
        let first = found.first().map(Self::of);
        first.ok_or_else(|| TlsSetupError::unusable(path, "it has no certificate"))
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Pin({self})")
    }
}

impl FromStr for Pin {
    type Err = BadPin;

    fn from_str(text: &str) -> Result<Self, BadPin> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| BadPin)?;
        bytes.try_into().map(Self).map_err(|_| BadPin)
    }
}

/// A text that is no pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a pin: a pin is the SHA-256 of a CA's certificate in base64url, 43 characters")]
pub struct BadPin;

/// Whom a client trusts to say who its server is.
#[derive(Clone, Debug)]
pub enum Trust {
    /// The certificate authorities in a PEM file.
    Authority(PathBuf),
    /// The one certificate authority with this pin; the server shows its certificate.
    Pin(Pin),
    /// The certificate authorities of the system.
    System,
}

/// A client's side of TLS.
#[derive(Clone, Debug)]
pub struct ClientTls {
    pub(crate) config: Arc<ClientConfig>,
}

impl ClientTls {
    /// A client of the control channel that trusts so, and shows `identity` to a server that asks.
    ///
    /// # Errors
    /// The files of either are not what they should be.
    pub fn new(trust: &Trust, identity: Option<Identity>) -> Result<Self, TlsSetupError> {
        Self::speaking(ALPN, (provider(), VERSIONS), trust, identity)
    }

    /// The same of a proxy.
    ///
    /// # Errors
    /// The files of either are not what they should be.
    pub fn for_proxy(trust: &Trust, identity: Option<Identity>) -> Result<Self, TlsSetupError> {
        Self::speaking(PROXY_ALPN, (provider(), VERSIONS), trust, identity)
    }

    /// A client of the web's servers, of which some have no TLS 1.3, and some none of the groups
    /// that are enough elsewhere.
    ///
    /// # Errors
    /// The file is not what it should be, or the system has no authorities.
    pub fn for_origins(trust: &Trust) -> Result<Self, TlsSetupError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        Self::speaking(PROXY_ALPN, (provider, rustls::DEFAULT_VERSIONS), trust, None)
    }

    fn speaking(
        alpn: &[u8],
        (provider, versions): (Arc<CryptoProvider>, &[&'static SupportedProtocolVersion]),
        trust: &Trust,
        identity: Option<Identity>,
    ) -> Result<Self, TlsSetupError> {
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .map_err(|error| TlsSetupError::NoSystemRoots(error.to_string()))?;
        let builder = match trust {
            Trust::Authority(path) => builder.with_root_certificates(authorities(path)?),
            Trust::System => builder.with_root_certificates(system_roots()?),
            Trust::Pin(pin) => {
                let verifier = PinVerifier { pin: *pin, provider };
                builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
            }
        };
        let mut config = match identity {
            Some(Identity { chain, key, path }) => builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| TlsSetupError::unusable(&path, error))?,
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![alpn.to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Self { config: Arc::new(config) })
    }
}

fn system_roots() -> Result<Arc<RootCertStore>, TlsSetupError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let reasons: Vec<_> = found.errors.iter().map(ToString::to_string).collect();
        let reason = if reasons.is_empty() { "none found".to_owned() } else { reasons.join("; ") };
        return Err(TlsSetupError::NoSystemRoots(reason));
    }
    Ok(Arc::new(roots))
}

/// Believes a server whose certificate is signed by the one CA with a certain pin. The server sends
/// the CA's certificate along; the usual checks are made with it as the only authority.
#[derive(Debug)]
struct PinVerifier {
    pin: Pin,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let authority = intermediates.iter().find(|certificate| Pin::of(certificate) == self.pin);
        let authority = authority.ok_or(CertificateError::UnknownIssuer)?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let provider = Arc::clone(&self.provider);
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|error| Error::General(error.to_string()))?;
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// What a failure of TLS means to the person at the client, and what mends it.
pub fn why_unreachable(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(error) => why_not_believed(error),
        Error::AlertReceived(alert) => why_refused(*alert),
        Error::InvalidMessage(_) => {
            "what answers there does not speak TLS; is it the server's login port?".to_owned()
        }
        Error::PeerIncompatible(_) => {
            "what answers there has no TLS 1.3; is it the server's login port?".to_owned()
        }
        error => format!("TLS failed: {error}"),
    }
}

fn why_not_believed(error: &CertificateError) -> String {
    use CertificateError as E;
    match error {
        E::Expired | E::ExpiredContext { .. } => {
            "the server's certificate has expired, or this machine's clock is wrong: \
             `corelane cert renew` on the server makes a new one"
                .to_owned()
        }
        E::NotValidYet | E::NotValidYetContext { .. } => {
            "the server's certificate is not valid yet: is this machine's clock right?".to_owned()
        }
        E::NotValidForName => "the server's certificate is for another name".to_owned(),
        E::NotValidForNameContext { expected, presented } => format!(
            "the server's certificate is not for {}, but for {}: connect by a name that it has, \
             or issue one for this name (`corelane cert renew` on the server)",
            expected.to_str(),
            match presented.is_empty() {
                true => "no name".to_owned(),
                false =>
                    presented.iter().take(5).map(|name| plain(name)).collect::<Vec<_>>().join(", "),
            }
        ),
        E::UnknownIssuer | E::BadSignature => {
            "the server's certificate is from a CA that is not trusted here: it \
             is another server, or somebody in between pretends to be it"
                .to_owned()
        }
        E::Revoked => "the server's certificate was revoked".to_owned(),
        error => format!("the server's certificate is not acceptable: {error}"),
    }
}

/// A name of a certificate without what rustls has it in: `DnsName("vpn.example")`.
fn plain(name: &str) -> &str {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    inner.map_or(name, |inner| inner.trim_matches('"'))
}

fn why_refused(alert: AlertDescription) -> String {
    use AlertDescription as A;
    match alert {
        A::CertificateRevoked => "the server refuses this client's certificate: it was revoked",
        A::CertificateExpired => "the server refuses this client's certificate: it has expired",
        A::UnknownCA => "the server refuses this client's certificate: it is from another CA",
        A::BadCertificate | A::CertificateUnknown | A::UnsupportedCertificate | A::DecryptError => {
            "the server refuses this client's certificate"
        }
        A::NoApplicationProtocol => {
            "what answers there is no Corelane control channel; is it the server's login port?"
        }
        A::ProtocolVersion => "what answers there has no TLS 1.3; is it the server's login port?",
        other => return format!("the server refuses TLS: {other:?}"),
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::login::testing::Site;
    use rustls::version::{TLS12, TLS13};
    use rustls::{ClientConnection, ServerConfig, ServerConnection};

    /// What becomes of a handshake with a server that speaks these versions alone.
    fn agree(
        client: &ClientTls,
        site: &Site,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Result<(), Error> {
        let files = site.pki.tls_files();
        let Identity { chain, key, .. } = Identity::load(&files.certificate, &files.key).unwrap();
        let server = ServerConfig::builder_with_provider(aws_lc_rs::default_provider().into())
            .with_protocol_versions(versions)?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let mut client = ClientConnection::new(Arc::clone(&client.config), name)?;
        let mut server = ServerConnection::new(Arc::new(server))?;
        while client.is_handshaking() || server.is_handshaking() {
            let mut wire = Vec::new();
            client.write_tls(&mut wire).unwrap();
            server.read_tls(&mut wire.as_slice()).unwrap();
            server.process_new_packets()?;
            wire.clear();
            server.write_tls(&mut wire).unwrap();
            client.read_tls(&mut wire.as_slice()).unwrap();
            client.process_new_packets()?;
        }
        Ok(())
    }

    #[test]
    fn tls_1_2_is_spoken_to_origins_alone() {
        let site = Site::new();
        let trust = Trust::Authority(site.pki.certificate());
        let origins = ClientTls::for_origins(&trust).unwrap();
        let control = ClientTls::new(&trust, None).unwrap();
        let proxies = ClientTls::for_proxy(&trust, None).unwrap();
        for client in [&origins, &control, &proxies] {
            assert_eq!(agree(client, &site, &[&TLS13]), Ok(()));
        }
        assert_eq!(agree(&origins, &site, &[&TLS12]), Ok(()));
        for client in [control, proxies] {
            assert!(agree(&client, &site, &[&TLS12]).is_err());
        }
    }

    #[test]
    fn the_names_of_another_certificate_are_told_as_people_write_them() {
        let said = why_not_believed(&CertificateError::NotValidForNameContext {
            expected: ServerName::try_from("vpn.example").unwrap(),
            presented: vec!["DnsName(\"a.example\")".to_owned(), "b.example".to_owned()],
        });
        assert!(said.contains("not for vpn.example, but for a.example, b.example:"), "{said}");
    }
}
