//! What is asked of history and of rules. It changes nothing.

use std::net::IpAddr;
use std::path::Path;

use crate::accounts::model::{Id, UnixMs};
use crate::accounts::names::Name;
use crate::accounts::operations::enact::Note;
use crate::accounts::operations::users::find;
use crate::accounts::operations::views::{AuditView, Explanation, UsageView};
use crate::accounts::operations::{OperationError, Operations, Outcome, StatsBy};
use crate::accounts::service::calendar::{Moment, day_of, day_text};
use crate::accounts::store::{
    AuditQuery, DestinationQuery, DestinationTotal, Store, StoreError, UsageBy, UsageQuery,
    UsageTotal,
};
use crate::limits::{OPERATION_STORED_WITHIN, STATS_LINES_MAX};
use crate::policy::acl::Protocol;
use crate::policy::explain::explain;

impl Operations<'_> {
    /// Asks the database, on a connection of its own, what memory does not know.
    pub(super) fn ask<T>(
        &self,
        question: impl FnOnce(&mut Store) -> Result<T, StoreError>,
    ) -> Result<T, OperationError> {
        // What is on its way to the database belongs to the answer.
        self.accounts.shared().journal().flush(OPERATION_STORED_WITHIN);
        let mut store =
            Store::open(self.accounts.shared().database()).map_err(OperationError::unavailable)?;
        question(&mut store).map_err(OperationError::unavailable)
    }

    pub(super) fn stats(
        &self,
        user: Option<&Name>,
        since_s: u64,
        by: StatsBy,
    ) -> Result<Outcome, OperationError> {
        let now = Moment::now();
        self.accounts.shared().write_usage(now);
        let user = match user {
            Some(user) => Some(find(&self.accounts.shared().state(), user)?.id),
            None => None,
        };
        let since_day = day_of(before(now, since_s));
        let by = match by {
            StatsBy::User => UsageBy::User,
            StatsBy::Day => UsageBy::Day,
            StatsBy::Destination => return self.destinations(user, since_day),
        };
        let query = UsageQuery { user, since_day, by, limit: STATS_LINES_MAX };
        let totals = self.ask(|store| store.usage(&query))?;
        let state = self.accounts.shared().state();
        let view = |total: UsageTotal| {
            let name = total.user.map(|user| match state.book().user(user) {
                Some(user) => user.name.to_string(),
                None => format!("(gone: {})", user.0),
            });
            UsageView {
                user: name,
                day: total.day.map(day_text),
                destination: None,
                connections: None,
                received_bytes: total.received_bytes,
                sent_bytes: total.sent_bytes,
            }
        };
        Ok(Outcome::Usage(totals.into_iter().map(view).collect()))
    }

    fn destinations(&self, user: Option<Id>, since_day: i32) -> Result<Outcome, OperationError> {
        let query = DestinationQuery { user, since_day, limit: STATS_LINES_MAX };
        let totals = self.ask(|store| store.destinations(&query))?.into_iter();
        let view = |total: DestinationTotal| UsageView {
            user: None,
            day: None,
            destination: Some(total.destination),
            connections: Some(total.connections),
            received_bytes: total.received_bytes,
            sent_bytes: total.sent_bytes,
        };
        Ok(Outcome::Usage(totals.map(view).collect()))
    }

    pub(super) fn audit(
        &self,
        user: Option<&Name>,
        since_s: u64,
        limit: u32,
    ) -> Result<Outcome, OperationError> {
        let query = AuditQuery {
            about: user.map(ToString::to_string),
            since: before(Moment::now(), since_s),
            until: UnixMs(i64::MAX),
            limit,
        };
        let entries = self.ask(|store| store.audit(&query))?;
        Ok(Outcome::Audit(entries.into_iter().map(AuditView::from).collect()))
    }

    pub(super) fn explain(
        &self,
        user: &Name,
        destination: IpAddr,
        port: Option<u16>,
        protocol: Protocol,
    ) -> Result<Outcome, OperationError> {
        let state = self.accounts.shared().state();
        let user = find(&state, user)?;
        let (_, rules) = state.book().policy_of(user);
        let holder = state.holder_of(destination);
        let is_other_peers = holder.is_some_and(|holder| holder != user.id);
        let defaults = self.accounts.shared().policy_defaults();
        let answer = explain(&rules, defaults, destination, port, Some(protocol), is_other_peers);
        Ok(Outcome::Explanation(Explanation {
            allowed: answer.is_allowed(),
            reason: answer.to_string(),
            rule: answer.rule,
        }))
    }

    pub(super) fn backup(&self, path: &Path) -> Result<Outcome, OperationError> {
        let _turn = self.begin();
        self.ask(|store| store.backup(path))?;
        let note =
            Note { action: "backup", subject: path.display().to_string(), detail: String::new() };
        self.enact(self.accounts.shared().state(), Vec::new(), note).map(Outcome::Done)
    }
}

/// `since_s` seconds before `now`.
fn before(now: Moment, since_s: u64) -> UnixMs {
    let since_ms = i64::try_from(since_s).unwrap_or(i64::MAX).saturating_mul(1000);
    UnixMs(now.unix.0.saturating_sub(since_ms).max(0))
}
