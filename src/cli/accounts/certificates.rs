//! What accounts learn of the certificates that `corelane cert` issues and revokes.

use std::path::Path;

use crate::accounts::model::{Certificate, UnixMs};
use crate::accounts::names::Name;
use crate::accounts::operations::{Operation, OperationErrorKind};
use crate::cli::CliError;
use crate::cli::accounts::done_text;
use crate::cli::accounts::reach::ReachArgs;
use crate::login::pki::{Issued, Purpose};

/// The accounts of the server whose authority is in a directory, if there are any.
pub(in crate::cli) struct AuthorityAccounts {
    reach: Option<ReachArgs>,
}

impl AuthorityAccounts {
    /// Those of the server that is named, or whose configuration is beside the directory.
    pub(in crate::cli) fn find(reach: &ReachArgs, directory: &Path) -> Result<Self, CliError> {
        Ok(Self { reach: reach.for_authority(directory)? })
    }

    /// Makes sure that there is such a user.
    pub(in crate::cli) fn expect_user(&self, name: &Name) -> Result<(), CliError> {
        let Some(reach) = &self.reach else { return Ok(()) };
        reach.execute(Operation::UserShow { name: name.clone() }).map(drop)
    }

    /// Takes note of a certificate. Returns what there is to tell a person.
    pub(in crate::cli) fn note_issued(&self, issued: &Issued) -> Result<String, CliError> {
        let (Some(reach), Some(certificate)) = (&self.reach, noted(issued)) else {
            return Ok(self.without_accounts(issued));
        };
        let outcome = reach.execute(Operation::CertificateAdd { certificate })?;
        Ok(done_text("the accounts know of it", &outcome))
    }

    /// Ends a certificate at all servers of the database. Returns what there is to tell a person.
    pub(in crate::cli) fn revoke(&self, issued: &Issued) -> Result<String, CliError> {
        let (Some(reach), Some(certificate)) = (&self.reach, noted(issued)) else {
            return Ok(self.without_accounts(issued));
        };
        let revoke = Operation::CertificateRevoke { serial: issued.serial.clone() };
        let outcome = match reach.try_execute(revoke.clone())? {
            // It is older than the accounts. Other servers believe it until they know of it.
            Err(error) if error.kind == OperationErrorKind::NotFound => {
                match reach.try_execute(Operation::CertificateAdd { certificate })? {
                    Err(error) if error.kind == OperationErrorKind::NotFound => {
                        return Ok("the accounts have no such user\n".to_owned());
                    }
                    added => drop(added?),
                }
                reach.execute(revoke)?
            }
            outcome => outcome?,
        };
        Ok(done_text("the accounts know that it is revoked", &outcome))
    }

    fn without_accounts(&self, issued: &Issued) -> String {
        let text = match (&self.reach, &issued.purpose) {
            (None, Purpose::User(_)) => {
                "no accounts were told: no server's configuration is beside the authority (name \
                 one with `-c FILE`)\n"
            }
            _ => "",
        };
        text.to_owned()
    }
}

/// What accounts note of a user's certificate; servers' are none of their business.
fn noted(issued: &Issued) -> Option<Certificate> {
    let Purpose::User(user) = &issued.purpose else { return None };
    Some(Certificate {
        serial: issued.serial.clone(),
        user: user.clone(),
        fingerprint: issued.fingerprint,
        created: UnixMs(issued.from_s.saturating_mul(1000)),
        expires: UnixMs(issued.until_s.saturating_mul(1000)),
        revoked: None,
    })
}
