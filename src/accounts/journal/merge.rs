//! Saying the same in fewer bytes, while the database is away for long.
//!
//! Usage adds up, and of the running counts of a session the last one is enough. All else is kept
//! as it is and in order.

use std::collections::BTreeMap;
use std::ptr;

use crate::accounts::change::Change;
use crate::accounts::journal::spool::Record;
use crate::accounts::journal::state::batch;
use crate::accounts::model::{Id, UsageRecord};
use crate::accounts::names::Name;
use crate::limits::{SPOOL_MERGED_LEN, USAGE_HELD_MAX, USAGE_PER_BATCH};

/// Usage by user, server and day.
#[derive(Default)]
pub(super) struct UsageTotals(BTreeMap<(Id, Name, i32), (u64, u64)>);

impl UsageTotals {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds what a change says of usage. Beyond [`USAGE_HELD_MAX`] it is lost, and said so.
    pub(super) fn hold(&mut self, change: &Change) {
        let Change::AddUsage(usage) = change else { return };
        let key = (usage.user, usage.server.clone(), usage.day);
        if self.0.len() >= USAGE_HELD_MAX && !self.0.contains_key(&key) {
            log::error!("usage of user {} is lost: there is no room to keep it", usage.user.0);
            return;
        }
        self.add(key, usage);
    }

    fn add(&mut self, key: (Id, Name, i32), usage: &UsageRecord) {
        let (received, sent) = self.0.entry(key).or_default();
        *received = received.saturating_add(usage.received_bytes);
        *sent = sent.saturating_add(usage.sent_bytes);
    }

    /// The first `count` of it, as changes.
    pub(super) fn first(&self, count: usize) -> Vec<Change> {
        let usage = self.0.iter().take(count);
        usage
            .map(|((user, server, day), (received_bytes, sent_bytes))| {
                Change::AddUsage(UsageRecord {
                    user: *user,
                    server: server.clone(),
                    day: *day,
                    received_bytes: *received_bytes,
                    sent_bytes: *sent_bytes,
                })
            })
            .collect()
    }

    /// Forgets what was returned by [`Self::first`].
    pub(super) fn forget(&mut self, changes: &[Change]) {
        for change in changes {
            if let Change::AddUsage(usage) = change {
                self.0.remove(&(usage.user, usage.server.clone(), usage.day));
            }
        }
    }
}

/// Merges records. Each change but usage is in a record whose sequence number is not lower than
/// before, so whoever waits until that is stored does not wait too short; usage is at the end, in
/// records with new numbers.
pub(super) fn merge<'a>(
    records: impl Iterator<Item = &'a Record>,
    next_sequence: &mut u64,
) -> Vec<Record> {
    let records = records.collect::<Vec<_>>();
    let batches = records.iter().map(|record| batch(record)).collect::<Result<Vec<_>, _>>();
    let Ok(batches) = batches else {
        // One of them cannot be read, which is found out and told when it is its turn.
        return records.into_iter().cloned().collect();
    };
    let mut usage = UsageTotals::default();
    let mut counts = BTreeMap::new();
    for change in batches.iter().flat_map(|batch| &batch.changes) {
        match change {
            Change::AddUsage(record) => {
                usage.add((record.user, record.server.clone(), record.day), record);
            }
            Change::SessionTraffic { session, .. } => {
                counts.insert(*session, change);
            }
            _ => {}
        }
    }
    let mut merged = Merged::default();
    for batch in &batches {
        let kept = batch.changes.iter().filter(|change| match change {
            Change::AddUsage(_) => false,
            Change::SessionTraffic { session, .. } => {
                counts.get(session).is_some_and(|last| ptr::eq(*last, *change))
            }
            _ => true,
        });
        merged.add(batch.sequence, kept.cloned().collect());
    }
    while !usage.is_empty() {
        let changes = usage.first(USAGE_PER_BATCH);
        usage.forget(&changes);
        merged.push(*next_sequence, changes);
        *next_sequence += 1;
    }
    merged.finish()
}

/// Records in the making.
#[derive(Default)]
struct Merged {
    records: Vec<(u64, Vec<Change>)>,
    /// Bytes of the last one, if more may come into it.
    open_len: Option<usize>,
}

impl Merged {
    fn add(&mut self, sequence: u64, changes: Vec<Change>) {
        // A batch that may be refused stands alone, or it would take others with it.
        let may_be_refused =
            |change: &Change| matches!(change, Change::AddUser(_) | Change::PutUser(_));
        if changes.iter().any(may_be_refused) {
            self.push(sequence, changes);
            return;
        }
        let len = serde_json::to_vec(&changes).map_or(0, |json| json.len());
        match (self.records.last_mut(), self.open_len) {
            (Some((last, before)), Some(open_len)) if open_len + len <= SPOOL_MERGED_LEN => {
                *last = sequence;
                before.extend(changes);
                self.open_len = Some(open_len + len);
            }
            _ => {
                self.push(sequence, changes);
                self.open_len = Some(len);
            }
        }
    }

    fn push(&mut self, sequence: u64, changes: Vec<Change>) {
        self.records.push((sequence, changes));
        self.open_len = None;
    }

    fn finish(self) -> Vec<Record> {
        let records = self.records.into_iter().filter(|(_, changes)| !changes.is_empty());
        records
            .map(|(sequence, changes)| {
                let content = serde_json::to_vec(&changes).unwrap_or_default();
                Record { sequence, content: content.into() }
            })
            .collect()
    }
}
