//! Devices and their sessions: shown, removed, ended.

use crate::accounts::change::Change;
use crate::accounts::model::{Id, SessionEnd, UnixMs};
use crate::accounts::names::Name;
use crate::accounts::operations::enact::Note;
use crate::accounts::operations::users::find;
use crate::accounts::operations::views::{DeviceView, SessionView};
use crate::accounts::operations::{OperationError, OperationErrorKind, Operations, Outcome};
use crate::accounts::service::State;
use crate::accounts::service::calendar::Moment;
use crate::accounts::store::SessionQuery;

impl Operations<'_> {
    pub(super) fn devices(&self, user: Option<&Name>) -> Result<Outcome, OperationError> {
        let state = self.accounts.shared().state();
        let book = state.book();
        let devices: Vec<_> = match user {
            Some(user) => book.devices_of(find(&state, user)?.id).collect(),
            None => book.known().devices.values().collect(),
        };
        let mut views: Vec<_> =
            devices.into_iter().map(|device| DeviceView::new(book, device)).collect();
        views.sort_by(|one, other| (&one.user, &one.name).cmp(&(&other.user, &other.name)));
        Ok(Outcome::Devices(views))
    }

    pub(super) fn remove_device(
        &self,
        user: &Name,
        device: &Name,
    ) -> Result<Outcome, OperationError> {
        let _turn = self.begin();
        let state = self.accounts.shared().state();
        let owner = find(&state, user)?.id;
        let found = state.book().devices_of(owner).find(|known| known.name == *device);
        let found = found.ok_or_else(|| {
            let message = format!("{user} has no device {device} (`corelane device ls {user}`)");
            OperationError::new(OperationErrorKind::NotFound, message)
        })?;
        let (id, key) = (found.id, found.public_key);
        let note = Note {
            action: "device_removed",
            subject: user.to_string(),
            detail: format!("{device} ({key})"),
        };
        self.enact(state, vec![Change::DeleteDevice(id)], note).map(Outcome::Done)
    }

    pub(super) fn sessions(
        &self,
        user: Option<&Name>,
        ended: bool,
        limit: u32,
    ) -> Result<Outcome, OperationError> {
        let user = match user {
            Some(user) => Some(find(&self.accounts.shared().state(), user)?.id),
            None => None,
        };
        if ended {
            let query = SessionQuery {
                user,
                server: None,
                lasting_only: false,
                since: UnixMs(0),
                limit: limit.saturating_add(1),
            };
            let records = self.ask(|store| store.sessions(&query))?;
            let state = self.accounts.shared().state();
            let views = records.iter().map(|record| SessionView::new(state.book(), record));
            return Ok(Outcome::Sessions(views.take(limit as usize).collect()));
        }
        let state = self.accounts.shared().state();
        let book = state.book();
        let mut lasting: Vec<_> = match user {
            Some(user) => book.sessions_of(user).collect(),
            None => book.known().sessions.values().collect(),
        };
        lasting.sort_by_key(|session| std::cmp::Reverse((session.started, session.id)));
        let views = lasting.into_iter().map(|session| current(&state, session.id));
        Ok(Outcome::Sessions(views.flatten().take(limit as usize).collect()))
    }

    pub(super) fn show_session(&self, session: Id) -> Result<Outcome, OperationError> {
        let state = self.accounts.shared().state();
        let view = current(&state, session).ok_or_else(|| no_session(session))?;
        Ok(Outcome::Session(Box::new(view)))
    }

    pub(super) fn kick(&self, session: Id) -> Result<Outcome, OperationError> {
        let _turn = self.begin();
        let state = self.accounts.shared().state();
        let known = state.book().session(session).ok_or_else(|| no_session(session))?;
        let user = state.book().user(known.user).map(|user| user.name.to_string());
        let subject = user.unwrap_or_else(|| "(gone)".to_owned());
        self.kick_all(state, &[session], subject)
    }

    pub(super) fn kick_user(&self, user: &Name) -> Result<Outcome, OperationError> {
        let _turn = self.begin();
        let state = self.accounts.shared().state();
        let id = find(&state, user)?.id;
        let sessions: Vec<Id> = state.book().sessions_of(id).map(|session| session.id).collect();
        self.kick_all(state, &sessions, user.to_string())
    }

    fn kick_all(
        &self,
        state: std::sync::MutexGuard<'_, State>,
        sessions: &[Id],
        subject: String,
    ) -> Result<Outcome, OperationError> {
        let at = Moment::now().unix;
        let end = SessionEnd::Kicked;
        let ends = sessions.iter().map(|session| Change::EndSession { session: *session, at, end });
        let numbers: Vec<_> = sessions.iter().map(|session| session.0.to_string()).collect();
        let detail = format!("sessions: {}", numbers.join(", "));
        let note = Note { action: "session_kicked", subject, detail };
        self.enact(state, ends.collect(), note).map(Outcome::Done)
    }
}

/// A session with what it has moved up to now, where that is known here.
fn current(state: &State, session: Id) -> Option<SessionView> {
    let record = state.book().session(session)?;
    let mut view = SessionView::new(state.book(), record);
    if let Some((received_bytes, sent_bytes)) = state.traffic_of(session) {
        (view.received_bytes, view.sent_bytes) = (received_bytes, sent_bytes);
    }
    Some(view)
}

fn no_session(session: Id) -> OperationError {
    let message = format!(
        "no session {} lasts (`corelane session ls`; with `--ended` those that have ended)",
        session.0
    );
    OperationError::new(OperationErrorKind::NotFound, message)
}
