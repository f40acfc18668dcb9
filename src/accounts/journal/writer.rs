//! The thread that stores what is in the spool.

use std::io::Write as _;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use crate::accounts::change::{Batch, BatchSource};
use crate::accounts::journal::Shared;
use crate::accounts::journal::spool::{Record, private_file, with_suffix};
use crate::accounts::journal::state::batch;
use crate::accounts::model::{Id, UnixMs};
use crate::accounts::snapshot::Snapshot;
use crate::accounts::store::{Retention, Store, StoreError};
use crate::limits::{
    BATCHES_PER_COMMIT, OWED_RETRY_EVERY, PRUNE_EVERY, PRUNE_PAUSE, REFUSED_LEN_MAX,
    STORE_RETRY_FIRST, STORE_RETRY_MAX,
};
use crate::sys::clock;

/// The writer.
pub(super) struct Writer {
    store: Store,
    source: BatchSource,
    shared: Arc<Shared>,
    /// So many batches go one by one, since one of them is refused.
    one_by_one: usize,
    retention: Retention,
    /// When to look what is too old.
    prune_at: Instant,
}

impl Writer {
    pub(super) fn new(
        store: Store,
        source: BatchSource,
        shared: Arc<Shared>,
        retention: Retention,
    ) -> Self {
        let prune_at = clock::now() + PRUNE_PAUSE;
        Self { store, source, shared, one_by_one: 0, retention, prune_at }
    }

    pub(super) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    pub(super) fn spool(&self) -> Id {
        self.source.spool
    }

    pub(super) fn load(&mut self, usage_since_day: i32) -> Result<Snapshot, StoreError> {
        self.store.load(usage_since_day)
    }

    /// Stores batches as they come, until the journal stops.
    pub(super) fn run(mut self) {
        let mut pause = STORE_RETRY_FIRST;
        loop {
            match self.step() {
                Ok(true) => {
                    pause = STORE_RETRY_FIRST;
                    self.note_back();
                }
                Ok(false) => match self.await_work() {
                    Work::Store => {}
                    Work::Prune => self.prune(),
                    Work::Over => break,
                },
                Err(error) => {
                    self.note_away(&error);
                    if self.shared.pause(pause) {
                        break;
                    }
                    pause = STORE_RETRY_MAX.min(2 * pause);
                }
            }
        }
    }

    /// Stores the next batches; `false` if there are none.
    pub(super) fn step(&mut self) -> Result<bool, StoreError> {
        let count = if self.one_by_one > 0 { 1 } else { BATCHES_PER_COMMIT };
        let (records, file) = {
            let mut state = self.shared.state();
            (state.next(count), state.spool().file())
        };
        let Some(first) = records.first() else { return Ok(false) };
        // Whatever the database says and however long it takes: from here on, what is in the spool
        // outlives the machine. If it does not, it may still be stored.
        if let Err(error) = file.sync_data() {
            log::warn!("the spool cannot be synchronised: {error}");
        }
        let batches = match batches(&records) {
            Ok(batches) => batches,
            Err(reason) => {
                self.store.skip(&self.source, first.sequence)?;
                self.refuse(&reason);
                return Ok(true);
            }
        };
        match self.store.commit(&self.source, &batches) {
            Ok(()) => {
                self.one_by_one = self.one_by_one.saturating_sub(batches.len());
                // Whoever waits for the batches must not be told that the database is away.
                self.note_back();
                self.shared.state().stored(batches.len());
                self.shared.progress.notify_all();
            }
            Err(StoreError::Refused { reason }) if batches.len() == 1 => {
                self.one_by_one = self.one_by_one.saturating_sub(1);
                self.store.skip(&self.source, first.sequence)?;
                self.refuse(&reason);
            }
            Err(StoreError::Refused { .. }) => self.one_by_one = batches.len(),
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    /// Waits until there is something to do.
    fn await_work(&self) -> Work {
        let mut state = self.shared.state();
        loop {
            state.write_held();
            let idle = |state: &mut super::State| !state.is_stopping && !state.has_pending();
            let wait = self.prune_at.saturating_duration_since(clock::now());
            let wait = if state.owes() { wait.min(OWED_RETRY_EVERY) } else { wait };
            let waited = self.shared.work.wait_timeout_while(state, wait, idle);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            match (state.has_pending(), state.is_stopping) {
                (true, _) => return Work::Store,
                (false, true) => return Work::Over,
                (false, false) if self.prune_at <= clock::now() => return Work::Prune,
                (false, false) => {}
            }
        }
    }

    /// Deletes some of what is too old. There is time for that only when nothing is to be stored.
    fn prune(&mut self) {
        let now = UnixMs(i64::try_from(clock::unix_time().as_millis()).unwrap_or(i64::MAX));
        let is_more = self.store.prune(&self.retention, now).unwrap_or_else(|error| {
            log::info!("{}: old history stays for now: {error}", self.store.place());
            false
        });
        self.prune_at = clock::now() + if is_more { PRUNE_PAUSE } else { PRUNE_EVERY };
    }

    fn note_away(&self, error: &StoreError) {
        let mut state = self.shared.state();
        if state.status.away.replace(error.to_string()).is_none() {
            state.status.away_since = Some(clock::now());
            log::error!("{}: {error}; changes are kept in the spool", self.store.place());
        }
        drop(state);
        self.shared.progress.notify_all();
    }

    fn note_back(&self) {
        let mut state = self.shared.state();
        state.status.away_since = None;
        if state.status.away.take().is_some() {
            log::info!("{}: the database is there again", self.store.place());
        }
    }

    /// Gives the first batch up. If nobody waits to hear of it, it is kept for people to look at.
    fn refuse(&self, reason: &str) {
        let (record, path) = {
            let mut state = self.shared.state();
            (state.refused(reason), with_suffix(state.spool().path(), ".refused"))
        };
        self.shared.progress.notify_all();
        let Some(record) = record else { return };
        log::error!("the database refuses a change for good ({reason}); see {}", path.display());
        let kept = private_file(&path).and_then(|file| {
            let len = file.metadata()?.len();
            if len + record.len() > REFUSED_LEN_MAX {
                return Err(std::io::Error::other("the file is full; move it away"));
            }
            let mut file = file;
            std::io::Seek::seek(&mut file, std::io::SeekFrom::End(0))?;
            file.write_all(&record.content)?;
            file.write_all(b"\n")
        });
        if let Err(error) = kept {
            log::error!("{}: {error}", path.display());
        }
    }
}

/// What a writer has to do.
enum Work {
    Store,
    Prune,
    Over,
}

/// The batches that can be read before the first that cannot; why not, if that is the first of all.
fn batches(records: &[Record]) -> Result<Vec<Batch>, String> {
    let mut batches = Vec::with_capacity(records.len());
    for record in records {
        match batch(record) {
            Ok(batch) => batches.push(batch),
            Err(error) if batches.is_empty() => {
                return Err(format!("it was written by another version of this program: {error}"));
            }
            Err(_) => break,
        }
    }
    Ok(batches)
}

impl Shared {
    /// Lets time pass; `true` if the journal is to stop.
    pub(super) fn pause(&self, time: Duration) -> bool {
        let state = self.state();
        let waited = self.work.wait_timeout_while(state, time, |state| !state.is_stopping);
        waited.unwrap_or_else(PoisonError::into_inner).0.is_stopping
    }
}
