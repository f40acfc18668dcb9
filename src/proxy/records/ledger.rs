//! What a connection notes of its client's wishes, one at a time.

use std::sync::Arc;
use std::time::Instant;

use crate::proxy::access::Member;
use crate::proxy::counters::ProxyCounters;
use crate::sys::clock;

use super::{AccessLog, Outcome, Record, Via};

/// Notes what becomes of wishes, if somebody wants to know.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Ledger {
    /// The number of the file for lines.
    file: Option<usize>,
    /// Whether it is counted for users what goes to which host.
    by_destination: bool,
    record: Option<Box<Record>>,
}

impl Ledger {
    /// One whose lines go to that file, or nowhere, and who counts for users what goes to which
    /// host, or does not.
    pub(in crate::proxy) fn new(file: Option<usize>, by_destination: bool) -> Self {
        Self { file, by_destination, record: None }
    }

    /// Whether somebody wants to know.
    pub(in crate::proxy) fn is_wanted(&self) -> bool {
        self.file.is_some() || self.by_destination
    }

    /// Whether a wish has begun and is not over.
    pub(in crate::proxy) fn is_open(&self) -> bool {
        self.record.is_some()
    }

    /// A wish begins.
    pub(in crate::proxy) fn open(&mut self, record: impl FnOnce() -> Record) {
        if self.is_wanted() {
            self.record = Some(Box::new(record()));
        }
    }

    /// Something has been reached.
    pub(in crate::proxy) fn reach(&mut self, via: impl FnOnce() -> Via) {
        if let Some(record) = &mut self.record {
            record.via = via();
        }
    }

    /// Bytes have passed from the client to the origin (up), and to the client.
    pub(in crate::proxy) fn count(&mut self, up: u64, down: u64) {
        if let Some(record) = &mut self.record {
            record.up_bytes += up;
            record.down_bytes += down;
        }
    }

    /// The client of HTTP has been told this, if it was told something.
    pub(in crate::proxy) fn tell(&mut self, status: Option<u16>) {
        if let Some(record) = &mut self.record
            && status.is_some()
        {
            record.status = status;
        }
    }

    /// What comes of the wish, unless that was said before.
    pub(in crate::proxy) fn note(&mut self, outcome: Outcome) {
        if let Some(record) = &mut self.record {
            record.outcome.get_or_insert(outcome);
        }
    }

    /// The wish is over.
    pub(in crate::proxy) fn close(
        &mut self,
        now: Instant,
        (member, tls): (Option<&Arc<Member>>, bool),
        log: Option<&AccessLog>,
        counters: &ProxyCounters,
    ) {
        let Some(mut record) = self.record.take() else { return };
        if let Some(member) = member.filter(|_| self.by_destination) {
            record.count_for(member);
        }
        if self.file.is_none() {
            return;
        }
        record.ended = clock::unix_time();
        record.took = now.saturating_duration_since(record.began);
        if record.is_named {
            record.user = member.map(|member| member.name.clone());
        }
        record.tls = tls;
        let has_reached = record.via != Via::Nowhere;
        let otherwise = if has_reached { Outcome::Ok } else { Outcome::ClientGone };
        record.outcome.get_or_insert(otherwise);
        if let (Some(log), Some(file)) = (log, self.file)
            && !log.give(file, record)
        {
            counters.records_dropped.add(1);
        }
    }
}
