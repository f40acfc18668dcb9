//! Certificates: noted, shown, revoked. Keys and signatures are made elsewhere.

use crate::accounts::change::Change;
use crate::accounts::model::Certificate;
use crate::accounts::names::Name;
use crate::accounts::operations::enact::Note;
use crate::accounts::operations::users::find;
use crate::accounts::operations::views::CertificateView;
use crate::accounts::operations::{OperationError, OperationErrorKind, Operations, Outcome};
use crate::accounts::service::calendar::Moment;
use crate::limits::CERTIFICATE_SERIAL_LEN_MAX;

impl Operations<'_> {
    pub(super) fn add_certificate(
        &self,
        certificate: Certificate,
    ) -> Result<Outcome, OperationError> {
        let is_digit = |char: char| char.is_ascii_digit() || ('a'..='f').contains(&char);
        let acceptable = (1..=CERTIFICATE_SERIAL_LEN_MAX).contains(&certificate.serial.len())
            && certificate.serial.chars().all(is_digit);
        if !acceptable {
            return Err(OperationError::invalid("a serial number has hexadecimal digits"));
        }
        let _turn = self.begin();
        let state = self.accounts.shared().state();
        find(&state, &certificate.user)?;
        if state.book().certificate(&certificate.serial).is_some() {
            let message = format!("there is a certificate {} already", certificate.serial);
            return Err(OperationError::new(OperationErrorKind::Exists, message));
        }
        let note = Note {
            action: "certificate_issued",
            subject: certificate.user.to_string(),
            detail: format!("serial number {}", certificate.serial),
        };
        self.enact(state, vec![Change::PutCertificate(certificate)], note).map(Outcome::Done)
    }

    pub(super) fn certificates(&self, user: Option<&Name>) -> Result<Outcome, OperationError> {
        let state = self.accounts.shared().state();
        if let Some(user) = user {
            find(&state, user)?;
        }
        let known = state.book().known().certificates.values();
        let wanted = known.filter(|known| user.is_none_or(|user| known.user == *user));
        let mut certificates: Vec<_> = wanted.collect();
        certificates.sort_by_key(|certificate| (&certificate.user, certificate.created));
        Ok(Outcome::Certificates(certificates.into_iter().map(CertificateView::from).collect()))
    }

    pub(super) fn revoke_certificate(&self, serial: &str) -> Result<Outcome, OperationError> {
        let _turn = self.begin();
        let state = self.accounts.shared().state();
        let known = state.book().certificate(serial).cloned().ok_or_else(|| {
            let message = format!("there is no certificate {serial} (`corelane cert list`)");
            OperationError::new(OperationErrorKind::NotFound, message)
        })?;
        let note = Note {
            action: "certificate_revoked",
            subject: known.user.to_string(),
            detail: format!("serial number {serial}"),
        };
        let revoked = known.revoked.or_else(|| Some(Moment::now().unix));
        let change = Change::PutCertificate(Certificate { revoked, ..known });
        self.enact(state, vec![change], note).map(Outcome::Done)
    }
}
