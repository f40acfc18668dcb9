//! How a change of an administrator comes into force: it is kept, it is made, paths are closed, and
//! it is stored, in this order, so that a slow database delays no revocation.

use std::collections::BTreeSet;
use std::sync::{MutexGuard, PoisonError};

use crate::accounts::change::Change;
use crate::accounts::journal::CommitError;
use crate::accounts::names::Name;
use crate::accounts::operations::{Done, OperationError, OperationErrorKind, Operations};
use crate::accounts::service::calendar::Moment;
use crate::accounts::service::{Deed, State};
use crate::limits::{OPERATION_STORED_WITHIN, REVOCATION_WITHIN};

/// What the audit log says of an operation.
pub(super) struct Note {
    pub(super) action: &'static str,
    pub(super) subject: String,
    pub(super) detail: String,
}

impl Operations<'_> {
    /// Waits for the operation before this one.
    pub(super) fn begin(&self) -> MutexGuard<'_, ()> {
        self.accounts.shared().operation().lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings changes into force that were decided on under this lock.
    pub(super) fn enact(
        &self,
        mut state: MutexGuard<'_, State>,
        mut changes: Vec<Change>,
        note: Note,
    ) -> Result<Done, OperationError> {
        let shared = self.accounts.shared();
        let now = Moment::now();
        let entry = self.deed(note).entry(state.server(), now.unix);
        changes.push(Change::Audit(entry.clone()));
        let journal = shared.journal();
        let is_revocation = changes.iter().all(lets_out);
        let kept = if is_revocation {
            journal.append_revocation(changes.clone())
        } else {
            journal.append(changes.clone())
        };
        kept.map_err(OperationError::unavailable)?;
        let effect = shared.make(&mut state, &changes, now);
        drop(state);
        shared.write_audit(&entry);
        let closed = effect.enforcement.wait(REVOCATION_WITHIN);
        let stored = journal.flush(OPERATION_STORED_WITHIN);
        Ok(Done {
            sessions_ended: effect.ended,
            proxy_logins_ended: effect.passes_ended,
            closed_ms: closed.map(|took| took.as_secs_f64() * 1e3),
            stored,
        })
    }

    /// The same for something new, whose name another server may have given away already: it is
    /// stored first, unless the database is away.
    pub(super) fn enact_new(
        &self,
        mut changes: Vec<Change>,
        note: Note,
    ) -> Result<Done, OperationError> {
        let shared = self.accounts.shared();
        let now = Moment::now();
        let subject = note.subject.clone();
        let entry = self.deed(note).entry(&self.server(), now.unix);
        changes.push(Change::Audit(entry.clone()));
        let committed = shared.journal().commit_and_wait(changes.clone(), OPERATION_STORED_WITHIN);
        let stored = match committed {
            Ok(()) => true,
            Err(CommitError::NotYet(_)) => false,
            Err(CommitError::Refused(reason)) => {
                let message = format!("{subject} cannot be made: {reason}");
                return Err(OperationError::new(OperationErrorKind::Exists, message));
            }
            Err(error @ CommitError::Append(_)) => return Err(OperationError::unavailable(error)),
        };
        shared.make(&mut shared.state(), &changes, now);
        shared.write_audit(&entry);
        Ok(Done { sessions_ended: 0, proxy_logins_ended: 0, closed_ms: Some(0.0), stored })
    }

    fn server(&self) -> Name {
        self.accounts.shared().state().server().clone()
    }

    fn deed(&self, note: Note) -> Deed {
        Deed {
            actor: self.actor.0.clone(),
            action: note.action,
            subject: note.subject,
            from: None,
            outcome: "ok".to_owned(),
            detail: note.detail,
        }
    }
}

/// Whether a change gives nobody anything. Such a one comes into force even with a full disk.
fn lets_out(change: &Change) -> bool {
    match change {
        Change::PutUser(user) => user.disabled,
        Change::PutCertificate(certificate) => certificate.revoked.is_some(),
        Change::DeleteUser(_)
        | Change::DeleteDevice(_)
        | Change::DeleteToken(_)
        | Change::EndSession { .. }
        | Change::Audit(_) => true,
        _ => false,
    }
}

/// Makes sure that all of `groups` exist.
pub(super) fn ensure_groups(state: &State, groups: &BTreeSet<Name>) -> Result<(), OperationError> {
    let missing = groups.iter().find(|group| state.book().group(group).is_none());
    missing.map_or(Ok(()), |group| Err(OperationError::no_group(group)))
}
