//! What the journal keeps under its lock: the spool, what is in it, and how far it is stored.

use std::collections::{BTreeMap, VecDeque};
use std::io;

use crate::accounts::change::{Batch, Change, Subject};
use crate::accounts::journal::merge::{UsageTotals, merge};
use crate::accounts::journal::spool::{HEADER_LEN, RECORD_HEADER_LEN, Record, Spool};
use crate::accounts::journal::{AppendError, JournalStatus};
use crate::accounts::snapshot::Snapshot;
use crate::limits::{
    BATCHES_PER_COMMIT, COMMIT_LEN_MAX, OWED_BATCHES_MAX, OWN_BATCHES_MAX, SPOOL_LEN_MAX,
    SPOOL_MERGE_AFTER, SPOOL_RECORD_LEN_MAX, USAGE_PER_BATCH,
};

/// See the module.
pub(super) struct State {
    spool: Spool,
    next_sequence: u64,
    /// Records that are not known to be stored, in order.
    pending: VecDeque<Record>,
    /// Up to here the database may have been asked to store, so up to here nothing is merged.
    attempted: u64,
    /// Up to here everything is stored or refused.
    pub(super) settled: u64,
    /// Those who wait for a batch, by its sequence number, and why it was refused.
    awaited: BTreeMap<u64, Option<String>>,
    /// Usage that the spool had no room for.
    held: UsageTotals,
    /// Batches that are in force already, and that the spool had no room for, in order.
    owed: VecDeque<Vec<Change>>,
    /// Bytes of the spool after it was last looked at what can be merged in it.
    merged_len: u64,
    own: Option<OwnChanges>,
    pub(super) status: JournalStatus,
    /// Nothing is appended any more, but for usage that is still in memory.
    pub(super) is_stopping: bool,
    /// Threads that have not ended.
    pub(super) running: usize,
}

/// What this server has changed and not yet seen come by in the log of changes.
#[derive(Default)]
struct OwnChanges {
    /// The newest batch that replaces each subject.
    subjects: BTreeMap<Subject, u64>,
    /// Batches that are stored.
    stored: VecDeque<Record>,
}

impl State {
    pub(super) fn new(spool: Spool, records: Vec<Record>, stored: u64) -> Self {
        let last = records.last().map_or(0, |record| record.sequence);
        let pending = records.into_iter().filter(|record| record.sequence > stored);
        Self {
            spool,
            next_sequence: stored.max(last) + 1,
            pending: pending.collect(),
            attempted: last,
            settled: stored,
            awaited: BTreeMap::new(),
            held: UsageTotals::default(),
            owed: VecDeque::new(),
            merged_len: 0,
            own: None,
            status: JournalStatus::default(),
            is_stopping: false,
            running: 0,
        }
    }

    /// From now on remembers what other servers may change at the same time.
    pub(super) fn share(&mut self) {
        self.own = Some(OwnChanges::default());
    }

    pub(super) fn spool(&self) -> &Spool {
        &self.spool
    }

    pub(super) fn status(&self) -> JournalStatus {
        JournalStatus {
            pending_batches: self.pending.len(),
            pending_bytes: self.pending.iter().map(Record::len).sum(),
            held_usage: self.held.len(),
            owed_batches: self.owed.len(),
            ..self.status.clone()
        }
    }

    pub(super) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    pub(super) fn is_drained(&self) -> bool {
        self.pending.is_empty() && self.held.is_empty() && self.owed.is_empty()
    }

    /// Writes changes to the spool; the sequence number of their batch. Usage for which there is
    /// no room is kept in memory.
    pub(super) fn append(&mut self, changes: Vec<Change>) -> Result<u64, AppendError> {
        if self.is_stopping {
            return Err(AppendError::Stopped);
        }
        let is_usage = |change: &Change| {
            matches!(change, Change::AddUsage(_) | Change::AddDestinationUsage(_))
        };
        if !changes.is_empty() && changes.iter().all(is_usage) {
            return Ok(self.append_usage(changes));
        }
        // What came first is written first, or an order to let somebody in could be overtaken by
        // the one before it that let them out.
        let written = match self.write_owed() {
            Ok(()) => self.write(&changes),
            Err(error) => {
                self.status.rejected_batches += 1;
                Err(error)
            }
        };
        match &written {
            Ok(_) => self.write_held(),
            Err(_) => changes.iter().for_each(|change| self.held.hold(change)),
        }
        written
    }

    /// The same for what must come into force, whether there is room for it or not: `false` if it
    /// is in memory only, until there is.
    pub(super) fn append_or_owe(&mut self, changes: Vec<Change>) -> Result<bool, AppendError> {
        match self.append(changes.clone()) {
            Ok(_) => Ok(true),
            Err(AppendError::Full | AppendError::Io(_)) if self.owed.len() < OWED_BATCHES_MAX => {
                self.owed.push_back(changes);
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn write_owed(&mut self) -> Result<(), AppendError> {
        while let Some(changes) = self.owed.front().cloned() {
            // It is tried again and again: only that it succeeds is news.
            let written = self.try_write(&changes);
            if written.is_ok() {
                self.note_room(&written);
            }
            written?;
            self.owed.pop_front();
        }
        Ok(())
    }

    pub(super) fn owes(&self) -> bool {
        !self.owed.is_empty()
    }

    fn append_usage(&mut self, changes: Vec<Change>) -> u64 {
        for changes in changes.chunks(USAGE_PER_BATCH) {
            if self.write(changes).is_err() {
                changes.iter().for_each(|change| self.held.hold(change));
            }
        }
        self.write_held();
        self.next_sequence - 1
    }

    /// Moves what is in memory only to the spool, as far as that has room.
    pub(super) fn write_held(&mut self) {
        if self.write_owed().is_err() {
            return;
        }
        while !self.held.is_empty() {
            let changes = self.held.first(USAGE_PER_BATCH);
            if self.write(&changes).is_err() {
                return;
            }
            self.held.forget(&changes);
        }
    }

    /// Begins to stop. Usage in memory goes to the spool now, or when storing makes room.
    pub(super) fn stop(&mut self) {
        self.write_held();
        self.is_stopping = true;
    }

    fn write(&mut self, changes: &[Change]) -> Result<u64, AppendError> {
        let written = self.try_write(changes);
        if is_full(&written) {
            self.status.rejected_batches += 1;
        }
        self.note_room(&written);
        written
    }

    /// Says so if there is room in the spool again, or no more.
    fn note_room(&mut self, written: &Result<u64, AppendError>) {
        let is_full = is_full(written);
        if std::mem::replace(&mut self.status.is_full, is_full) == is_full {
            return;
        }
        let path = self.spool.path().display();
        match written {
            Err(error) => log::error!("{path}: changes cannot be kept: {error}"),
            Ok(_) => log::info!(
                "{path}: changes can be kept again; {} were not",
                self.status.rejected_batches
            ),
        }
    }

    fn try_write(&mut self, changes: &[Change]) -> Result<u64, AppendError> {
        let content = serde_json::to_vec(changes).map_err(io::Error::other);
        let content = content.map_err(AppendError::Io)?;
        if content.len() > SPOOL_RECORD_LEN_MAX {
            return Err(AppendError::TooLong(content.len()));
        }
        let len = (RECORD_HEADER_LEN + content.len()) as u64;
        if self.spool.len() + len > SPOOL_LEN_MAX {
            self.make_room()?;
            if self.spool.len() + len > SPOOL_LEN_MAX {
                return Err(AppendError::Full);
            }
        }
        let record = Record { sequence: self.next_sequence, content: content.into() };
        self.spool.append(&record).map_err(AppendError::Io)?;
        self.next_sequence += 1;
        if let Some(own) = &mut self.own {
            for subject in changes.iter().filter_map(Change::subject) {
                own.subjects.insert(subject, record.sequence);
            }
        }
        let sequence = record.sequence;
        self.pending.push_back(record);
        Ok(sequence)
    }

    /// Leaves out of the spool what is stored, and merges what is not, if it has grown by enough
    /// to be worth it.
    fn make_room(&mut self) -> Result<(), AppendError> {
        if self.spool.len() < self.merged_len + SPOOL_MERGE_AFTER {
            return Ok(());
        }
        let attempted = self.attempted;
        let at = self.pending.partition_point(|record| record.sequence <= attempted);
        let mut kept = self.pending.iter().take(at).cloned().collect::<VecDeque<_>>();
        let mut next_sequence = self.next_sequence;
        kept.extend(merge(self.pending.iter().skip(at), &mut next_sequence));
        self.spool.replace(&kept).map_err(AppendError::Io)?;
        self.pending = kept;
        self.next_sequence = next_sequence;
        self.merged_len = self.spool.len();
        Ok(())
    }

    /// The next batches to store, at most `count`, and a note that they are about to be.
    pub(super) fn next(&mut self, count: usize) -> Vec<Record> {
        let mut len = 0;
        let records =
            self.pending.iter().take(count.min(BATCHES_PER_COMMIT)).take_while(|record| {
                let is_first = len == 0;
                len += record.content.len();
                is_first || len <= COMMIT_LEN_MAX
            });
        let records = records.cloned().collect::<Vec<_>>();
        if let Some(last) = records.last() {
            self.attempted = self.attempted.max(last.sequence);
        }
        records
    }

    /// Takes note that the first `count` batches are stored.
    pub(super) fn stored(&mut self, count: usize) {
        for record in self.pending.drain(..count.min(self.pending.len())) {
            self.settled = record.sequence;
            if let Some(own) = &mut self.own {
                own.stored.push_back(record);
                if own.stored.len() > OWN_BATCHES_MAX {
                    own.stored.pop_front();
                }
            }
        }
        self.clear_if_drained();
    }

    /// Takes note that the first batch is refused; the record, if nobody waits who hears of it.
    pub(super) fn refused(&mut self, reason: &str) -> Option<Record> {
        let record = self.pending.pop_front()?;
        self.settled = record.sequence;
        self.status.refused_batches += 1;
        self.clear_if_drained();
        match self.awaited.get_mut(&record.sequence) {
            Some(answer) => {
                *answer = Some(reason.to_owned());
                None
            }
            None => Some(record),
        }
    }

    fn clear_if_drained(&mut self) {
        if self.pending.is_empty() && self.spool.len() > HEADER_LEN as u64 {
            if let Err(error) = self.spool.clear() {
                // What stays in it was stored, and will not be stored again.
                log::warn!("{}: {error}", self.spool.path().display());
            }
            self.merged_len = 0;
        }
        self.write_held();
    }

    /// Notes that somebody waits for a batch, or does no longer; why it was refused, if it was.
    pub(super) fn begin_wait(&mut self, sequence: u64) {
        self.awaited.insert(sequence, None);
    }

    pub(super) fn end_wait(&mut self, sequence: u64) -> Option<String> {
        self.awaited.remove(&sequence).flatten()
    }

    /// Takes note that the log of changes has come to an own batch.
    pub(super) fn echoed(&mut self, sequence: u64) {
        if let Some(own) = &mut self.own {
            let seen = own.stored.partition_point(|record| record.sequence <= sequence);
            own.stored.drain(..seen);
            own.subjects.retain(|_, newest| *newest > sequence);
        }
    }

    /// Leaves out of another server's changes what an own, later change replaces.
    pub(super) fn settle_changes(&self, changes: &mut Vec<Change>) {
        if let Some(own) = &self.own {
            changes.retain(|change| {
                change.subject().is_none_or(|subject| !own.subjects.contains_key(&subject))
            });
        }
    }

    /// Adds to a snapshot what this server has changed since.
    pub(super) fn settle_snapshot(&mut self, snapshot: &mut Snapshot) {
        let known = snapshot.sequences.get(&self.spool.id()).copied().unwrap_or(0);
        let stored = self.own.iter().flat_map(|own| &own.stored);
        for record in stored.chain(&self.pending).filter(|record| record.sequence > known) {
            for change in batch(record).map(|batch| batch.changes).unwrap_or_default() {
                snapshot.apply(&change);
            }
        }
        self.echoed(known);
    }
}

/// Whether a batch was not written for want of room.
fn is_full(written: &Result<u64, AppendError>) -> bool {
    matches!(written, Err(AppendError::Full | AppendError::Io(_)))
}

/// The batch that a record holds.
pub(super) fn batch(record: &Record) -> Result<Batch, serde_json::Error> {
    let changes = serde_json::from_slice(&record.content)?;
    Ok(Batch { sequence: record.sequence, changes })
}
