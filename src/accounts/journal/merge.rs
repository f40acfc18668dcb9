//! Saying the same in fewer bytes, while the database is away for long.
//!
//! Usage adds up, and of the running counts of a session the last one is enough. All else is kept
//! as it is and in order.

use std::collections::BTreeMap;
use std::ptr;

use crate::accounts::change::Change;
use crate::accounts::journal::spool::Record;
use crate::accounts::journal::state::batch;
use crate::accounts::model::{DestinationRecord, Id, UsageRecord};
use crate::accounts::names::Name;
use crate::limits::{SPOOL_MERGED_LEN, USAGE_HELD_MAX, USAGE_PER_BATCH};

/// What usage adds up by: user, server, day, and the destination if it is told apart by that.
type Key = (Id, Name, i32, Option<String>);

/// Usage, added up.
#[derive(Default)]
pub(super) struct UsageTotals(BTreeMap<Key, Sum>);

#[derive(Clone, Copy, Default)]
struct Sum {
    connections: u64,
    received_bytes: u64,
    sent_bytes: u64,
}

/// What a change says of usage, if it does.
fn part_of(change: &Change) -> Option<(Key, Sum)> {
    match change {
        Change::AddUsage(it) => {
            let UsageRecord { received_bytes, sent_bytes, .. } = *it;
            let sum = Sum { connections: 0, received_bytes, sent_bytes };
            Some(((it.user, it.server.clone(), it.day, None), sum))
        }
        Change::AddDestinationUsage(it) => {
            let DestinationRecord { connections, received_bytes, sent_bytes, .. } = *it;
            let sum = Sum { connections, received_bytes, sent_bytes };
            let destination = Some(it.destination.clone());
            Some(((it.user, it.server.clone(), it.day, destination), sum))
        }
        _ => None,
    }
}

fn change_of((key, sum): (&Key, &Sum)) -> Change {
    let ((user, server, day, destination), sum) = (key.clone(), *sum);
    let Sum { connections, received_bytes, sent_bytes } = sum;
    match destination {
        None => Change::AddUsage(UsageRecord { user, server, day, received_bytes, sent_bytes }),
        Some(destination) => Change::AddDestinationUsage(DestinationRecord {
            user,
            server,
            day,
            destination,
            connections,
            received_bytes,
            sent_bytes,
        }),
    }
}

impl UsageTotals {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds what a change says of usage. Beyond [`USAGE_HELD_MAX`] it is lost, and said so.
    pub(super) fn hold(&mut self, change: &Change) {
        let Some((key, sum)) = part_of(change) else { return };
        if self.0.len() >= USAGE_HELD_MAX && !self.0.contains_key(&key) {
            log::error!("usage of user {} is lost: there is no room to keep it", key.0.0);
            return;
        }
        self.add(key, sum);
    }

    fn add(&mut self, key: Key, more: Sum) {
        let sum = self.0.entry(key).or_default();
        sum.connections = sum.connections.saturating_add(more.connections);
        sum.received_bytes = sum.received_bytes.saturating_add(more.received_bytes);
        sum.sent_bytes = sum.sent_bytes.saturating_add(more.sent_bytes);
    }

    /// The first `count` of it, as changes.
    pub(super) fn first(&self, count: usize) -> Vec<Change> {
        self.0.iter().take(count).map(change_of).collect()
    }

    /// Forgets what was returned by [`Self::first`].
    pub(super) fn forget(&mut self, changes: &[Change]) {
        for (key, _) in changes.iter().filter_map(part_of) {
            self.0.remove(&key);
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
        if let Some((key, sum)) = part_of(change) {
            usage.add(key, sum);
        } else if let Change::SessionTraffic { session, .. } = change {
            counts.insert(*session, change);
        }
    }
    let mut merged = Merged::default();
    for batch in &batches {
        let kept = batch.changes.iter().filter(|change| match change {
            Change::AddUsage(_) | Change::AddDestinationUsage(_) => false,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_adds_up_by_destination_and_apart_from_that_of_the_user() {
        let whole = |received_bytes| {
            let (user, server) = (Id(1), "here".parse().unwrap());
            Change::AddUsage(UsageRecord { user, server, day: 5, received_bytes, sent_bytes: 0 })
        };
        let part = |destination: &str, connections, sent_bytes| {
            Change::AddDestinationUsage(DestinationRecord {
                user: Id(1),
                server: "here".parse().unwrap(),
                day: 5,
                destination: destination.to_owned(),
                connections,
                received_bytes: 0,
                sent_bytes,
            })
        };
        let record = |sequence, changes: &[Change]| {
            let content = serde_json::to_vec(changes).unwrap();
            Record { sequence, content: content.into() }
        };
        let records = [
            record(1, &[whole(7), part("a.example", 1, 10)]),
            record(2, &[part("b.example", 1, 5), whole(1)]),
            record(3, &[part("a.example", 2, 1)]),
        ];
        let mut next = 4;
        let merged = merge(records.iter(), &mut next);
        let changes: Vec<Change> =
            merged.iter().flat_map(|record| batch(record).unwrap().changes).collect();
        assert_eq!(changes, [whole(8), part("a.example", 3, 11), part("b.example", 1, 5)]);
        assert_eq!(next, 5);
    }
}
