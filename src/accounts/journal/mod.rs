//! The way of changes to the database.
//!
//! 1. [`Journal::append`] writes changes to the spool, a file on the local disk, and returns: from
//!    then on they outlive the process. Nobody waits for the database to store a login.
//! 2. The writer thread takes what is in the spool, in order, and stores it, many batches in one
//!    transaction. While the database is away it tries again and again, and the spool grows.
//! 3. Together with the batches the database stores the sequence number of the last. So when a
//!    crash or a lost connection leaves open whether they were stored, they are sent again, and
//!    none is stored twice.
//! 4. Where several servers use one database, another thread follows the log of changes that each
//!    commit adds to, and hands over what others have changed.
//!
//! Both the spool and what is kept in memory of it are bounded. When there is no room left, usage
//! and running counts are merged; when there is still none, changes are refused to those who make
//! them, but for usage, which is kept in memory.

mod follow;
#[doc(hidden)]
pub mod fuzz;
mod merge;
mod spool;
mod state;
mod writer;

#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rand::CryptoRng;
use thiserror::Error;

use crate::accounts::change::{BatchSource, Change};
use crate::accounts::journal::follow::Follow;
use crate::accounts::journal::spool::Spool;
use crate::accounts::journal::state::State;
use crate::accounts::journal::writer::Writer;
use crate::accounts::model::Id;
use crate::accounts::names::Name;
use crate::accounts::snapshot::Snapshot;
use crate::accounts::store::{DatabaseUrl, Retention, Store, StoreError};
use crate::limits::{JOURNAL_STOP_WITHIN, SPOOL_RECORD_LEN_MAX};

pub use crate::accounts::journal::spool::SpoolError;

/// What a journal needs to know.
#[derive(Clone, Debug)]
pub struct JournalOptions {
    /// The database.
    pub database: DatabaseUrl,
    /// The spool; it is made when it does not exist, and so are files beside it.
    pub spool: PathBuf,
    /// This server's name, for people.
    pub server: Name,
    /// Usage of days before this one (days since 1970) is not loaded.
    pub usage_since_day: i32,
    /// How long history is kept in the database.
    pub retention: Retention,
}

/// Why a journal cannot begin.
#[derive(Debug, Error)]
pub enum JournalError {
    /// The spool.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The database.
    #[error("{place}: {error}")]
    Store {
        /// Where it is.
        place: String,
        /// What it said.
        error: StoreError,
    },
    /// A thread could not be started.
    #[error("a thread cannot be started: {0}")]
    Thread(io::Error),
}

/// Why changes are not kept. Nothing of them is, but for usage.
#[derive(Debug, Error)]
pub enum AppendError {
    /// The spool has no room left.
    #[error(
        "the spool is full, since the database has been away for long; let the database be reached \
         again"
    )]
    Full,
    /// The spool cannot be written to, for want of room on the disk, say.
    #[error("the spool cannot be written to: {0}; make room on its disk")]
    Io(io::Error),
    /// They are too many for one batch.
    #[error("a batch of {0} bytes exceeds the {SPOOL_RECORD_LEN_MAX} that one may have")]
    TooLong(usize),
    /// The journal has ended.
    #[error("the journal has ended")]
    Stopped,
}

/// Why changes that were waited for are not stored.
#[derive(Debug, Error)]
pub enum CommitError {
    /// They were not even kept.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The database refuses them for good, and nothing of them is kept.
    #[error("the database refuses that: {0}")]
    Refused(String),
    /// They are kept and will be stored, but are not yet.
    #[error("the change is kept, and stored when the database is there again{}", because(.0))]
    NotYet(Option<String>),
}

fn because(cause: &Option<String>) -> String {
    cause.as_ref().map_or_else(String::new, |cause| format!(" ({cause})"))
}

/// How it stands with a journal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JournalStatus {
    /// Batches that wait to be stored.
    pub pending_batches: usize,
    /// Their bytes in the spool.
    pub pending_bytes: u64,
    /// Batches that the database has refused.
    pub refused_batches: u64,
    /// Batches that the spool had no room for.
    pub rejected_batches: u64,
    /// Whether it has none now.
    pub is_full: bool,
    /// Users, servers and days whose usage is kept in memory for want of room.
    pub held_usage: usize,
    /// Revocations that are in force and kept in memory for want of room.
    pub owed_batches: usize,
    /// Why the database is away, if it is.
    pub away: Option<String>,
    /// Since when.
    pub away_since: Option<Instant>,
}

/// What the threads of a journal share.
struct Shared {
    state: Mutex<State>,
    /// There is work for the writer, or it is to stop.
    work: Condvar,
    /// Something was stored or refused.
    progress: Condvar,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // No code that holds the lock leaves it half-changed, whatever happens.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the writer's next word or that the time is over.
    fn wait_while(&self, within: Duration, go_on: impl FnMut(&mut State) -> bool) {
        let waited = self.progress.wait_timeout_while(self.state(), within, go_on);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}

/// A journal that has read the database and not begun to write.
pub struct OpenJournal {
    /// What the database holds, and with it all that was still in the spool.
    pub snapshot: Snapshot,
    options: JournalOptions,
    writer: Writer,
}

/// The way of changes to the database; see the module.
pub struct Journal {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// News from other servers, not yet compared with what this one has changed.
pub struct Foreign {
    news: News,
    shared: Arc<Shared>,
}

/// News from other servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// They have changed this, in this order.
    Changes(Vec<Change>),
    /// So much has changed that this is how things stand now; it replaces all that was known.
    Reloaded(Box<Snapshot>),
}

impl Foreign {
    /// The news, without what this server's own later changes replace. Call it, and make its
    /// changes, while you hold the lock under which you change memory and append to the journal:
    /// then memory and database come to agree, whoever was first.
    pub fn settle(self) -> News {
        let mut state = self.shared.state();
        match self.news {
            News::Changes(mut changes) => {
                state.settle_changes(&mut changes);
                News::Changes(changes)
            }
            News::Reloaded(mut snapshot) => {
                state.settle_snapshot(&mut snapshot);
                News::Reloaded(snapshot)
            }
        }
    }
}

impl Journal {
    /// Opens spool and database, stores what the last run has left in the spool, and loads what is
    /// there.
    ///
    /// # Errors
    /// Another process uses the spool, or the database cannot be used.
    pub fn open(
        options: JournalOptions,
        rng: &mut impl CryptoRng,
    ) -> Result<OpenJournal, JournalError> {
        let (spool, records) = Spool::open(&options.spool, Id::generate(rng))?;
        let of_store = |error| JournalError::Store { place: options.database.to_string(), error };
        let mut store = Store::open(&options.database).map_err(of_store)?;
        let source = BatchSource { spool: spool.id(), server: options.server.clone() };
        let stored = store.last_sequence(source.spool).map_err(of_store)?;
        let shared = Arc::new(Shared {
            state: Mutex::new(State::new(spool, records, stored)),
            work: Condvar::new(),
            progress: Condvar::new(),
        });
        let mut writer = Writer::new(store, source, shared, options.retention);
        while writer.step().map_err(of_store)? {}
        let snapshot = writer.load(options.usage_since_day).map_err(of_store)?;
        Ok(OpenJournal { snapshot, options, writer })
    }

    /// Keeps changes, all or none of them, to be stored soon. Usage is kept in any case.
    ///
    /// # Errors
    /// There is no room for them.
    pub fn append(&self, changes: Vec<Change>) -> Result<(), AppendError> {
        self.shared.state().append(changes)?;
        self.shared.work.notify_one();
        Ok(())
    }

    /// The same for what lets somebody out, which must not wait for room: without any, it is kept
    /// in memory until there is some, and whoever changes anything else has to wait for that.
    ///
    /// # Errors
    /// Too much is in memory already.
    pub fn append_revocation(&self, changes: Vec<Change>) -> Result<(), AppendError> {
        if !self.shared.state().append_or_owe(changes)? {
            log::error!(
                "a revocation is in force, and will be forgotten if this server ends before there \
                 is room to write it"
            );
        }
        self.shared.work.notify_one();
        Ok(())
    }

    /// Keeps changes, and waits until they are stored.
    ///
    /// # Errors
    /// They are not kept, the database refuses them, or they are not stored in time but will be.
    pub fn commit_and_wait(
        &self,
        changes: Vec<Change>,
        within: Duration,
    ) -> Result<(), CommitError> {
        let sequence = {
            let mut state = self.shared.state();
            let sequence = state.append(changes)?;
            state.begin_wait(sequence);
            sequence
        };
        self.shared.work.notify_one();
        self.shared.wait_while(within, |state| state.settled < sequence);
        let mut state = self.shared.state();
        match state.end_wait(sequence) {
            Some(reason) => Err(CommitError::Refused(reason)),
            None if state.settled >= sequence => Ok(()),
            None => Err(CommitError::NotYet(state.status().away)),
        }
    }

    /// Waits until all that was appended is stored; `false` if the time is over first.
    pub fn flush(&self, within: Duration) -> bool {
        self.shared.work.notify_one();
        self.shared.wait_while(within, |state| !state.is_drained());
        self.shared.state().is_drained()
    }

    /// How it stands.
    pub fn status(&self) -> JournalStatus {
        self.shared.state().status()
    }
}

impl OpenJournal {
    /// The number of this server's spool, by which the database knows it.
    pub fn spool(&self) -> Id {
        self.writer.spool()
    }

    /// Begins to write. News from other servers, if the database can have others, come by
    /// `on_foreign`, on a thread that may wait for locks.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn start(
        self,
        on_foreign: impl FnMut(Foreign) + Send + 'static,
    ) -> Result<Journal, JournalError> {
        let Self { snapshot, options, writer } = self;
        let shared = writer.shared();
        let mut journal = Journal { shared: Arc::clone(&shared), threads: Vec::new() };
        if options.database.is_shared() {
            shared.state().share();
            let follow = Follow {
                shared: Arc::clone(&shared),
                spool: writer.spool(),
                position: snapshot.position,
                options,
                on_foreign,
            };
            journal.spawn("accounts-follow", move || follow.run())?;
        }
        journal.spawn("accounts-write", move || writer.run())?;
        Ok(journal)
    }
}

/// Counts a thread for as long as it runs, however it ends.
struct Running(Arc<Shared>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.state().running -= 1;
        self.0.progress.notify_all();
    }
}

impl Journal {
    fn spawn(
        &mut self,
        name: &str,
        body: impl FnOnce() + Send + 'static,
    ) -> Result<(), JournalError> {
        self.shared.state().running += 1;
        let running = Running(Arc::clone(&self.shared));
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || {
            let _running = running;
            body();
        });
        self.threads.push(thread.map_err(JournalError::Thread)?);
        Ok(())
    }
}

/// Stores what is pending, if the database is there and answers soon. What is left stays in the
/// spool for the next start.
impl Drop for Journal {
    fn drop(&mut self) {
        self.shared.state().stop();
        self.shared.work.notify_all();
        self.shared.progress.notify_all();
        let threads = std::mem::take(&mut self.threads);
        self.shared.wait_while(JOURNAL_STOP_WITHIN, |state| state.running > 0);
        // One that still waits for the database ends by itself when that answers, or the process
        // ends first: either way the spool has what it was about.
        if self.shared.state().running == 0 {
            for thread in threads {
                if thread.join().is_err() {
                    log::error!("a thread of the journal has panicked");
                }
            }
        }
        let JournalStatus { held_usage: held, owed_batches: owed, .. } = self.status();
        if held > 0 {
            log::error!("usage of {held} users and days is lost: the spool has no room for it");
        }
        if owed > 0 {
            log::error!("{owed} revocations are lost: the spool has no room for them");
        }
    }
}
