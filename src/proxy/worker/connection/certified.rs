//! Learns who a client is from the certificate that it has shown.
//!
//! Before anything that it says is heard, the accounts are asked about the certificate. If they
//! take it, that was the login. If they want more, the client is asked for it as anybody is, and
//! the certificate counts together with what it shows then.

use crate::accounts::service::{PassProof, ShownCertificate};
use crate::login::tls::{ClientCertificate, ServerTls};
use crate::proxy::settings::Auth;
use crate::proxy::stream::Stream;

use super::super::Context;
use super::Connection;

/// What is known of the certificate of a client.
#[derive(Debug, Default)]
pub(super) enum Voucher {
    /// Nobody has looked.
    #[default]
    Unseen,
    /// There is none that says who it is.
    None,
    /// The accounts are being asked whether it is enough.
    Asked(Box<ShownCertificate>),
    /// It counts together with what the client shows besides.
    Counts(Box<ShownCertificate>),
}

impl Voucher {
    /// The accounts have been asked about the certificate alone. Returns whether they had been.
    pub(super) fn settle(&mut self) -> bool {
        match std::mem::replace(self, Self::None) {
            Self::Asked(shown) => {
                *self = Self::Counts(shown);
                true
            }
            other => {
                *self = other;
                false
            }
        }
    }

    /// What the client shows now, together with the certificate.
    pub(super) fn and(&self, proof: PassProof) -> PassProof {
        match self {
            Self::Counts(shown) => {
                PassProof::Certificate { shown: shown.clone(), with: Some(Box::new(proof)) }
            }
            Self::Unseen | Self::None | Self::Asked(_) => proof,
        }
    }

    /// Whether something is so of what the client shows now, together with the certificate.
    pub(super) fn with(
        &self,
        is_so: impl Fn(&PassProof) -> bool,
    ) -> impl Fn(Option<&PassProof>) -> bool {
        move |proof| match self {
            Self::Counts(shown) => {
                let with = proof.cloned().map(Box::new);
                is_so(&PassProof::Certificate { shown: shown.clone(), with })
            }
            Self::Unseen | Self::None | Self::Asked(_) => proof.is_some_and(&is_so),
        }
    }
}

impl Connection {
    /// Has the accounts asked about the certificate of a client that has to say who it is, and has
    /// not yet. Returns whether they were.
    pub(super) fn begin_by_certificate(&mut self, cx: &mut Context) -> bool {
        // With the first bytes inside TLS the handshake is over.
        let is_unseen = matches!(self.voucher, Voucher::Unseen);
        if !self.has_spoken() || !is_unseen || self.rules.auth == Auth::Off {
            return false;
        }
        let Some(shown) = shown_certificate(&self.client.stream) else {
            self.voucher = Voucher::None;
            return false;
        };
        let shown = Box::new(shown);
        self.voucher = Voucher::Asked(shown.clone());
        self.begin_login(PassProof::Certificate { shown, with: None }, cx);
        true
    }

    /// Whether it has come by that entrance and has shown a certificate that is revoked by now.
    pub(in super::super) fn is_revoked_by(&self, entrance: usize, tls: &ServerTls) -> bool {
        let Stream::Tls(stream) = &self.client.stream else { return false };
        let shown = stream.peer_certificate().filter(|_| self.entrance == entrance);
        shown.is_some_and(|certificate| tls.has_revoked(certificate))
    }
}

fn shown_certificate(stream: &Stream) -> Option<ShownCertificate> {
    let Stream::Tls(stream) = stream else { return None };
    let shown = ClientCertificate::read(stream.peer_certificate()?)?;
    Some(ShownCertificate {
        serial: shown.serial,
        fingerprint: shown.fingerprint,
        user: shown.user.into(),
        not_after: shown.not_after,
    })
}
