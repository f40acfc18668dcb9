//! The thread that writes the access log.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Instant;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};

use crate::limits::{
    PROXY_LOG_END_WITHIN, PROXY_LOG_FOLLOW_EVERY, PROXY_LOG_LOOK_EVERY, PROXY_RECORDS_WAITING_MAX,
};
use crate::sys::clock;

use super::files::{AccessFiles, LogFile, Written};
use super::record::Record;

/// Where workers put their records. Cheap to clone.
#[derive(Clone, Debug)]
pub(in crate::proxy) struct AccessLog {
    /// Nobody ever sleeps at the other end, so that who sends wakes nobody and takes no lock.
    records: Sender<(usize, Box<Record>)>,
    by_entrance: Arc<[Option<usize>]>,
}

impl AccessLog {
    /// The number of the file for the lines of an entrance, if they go anywhere.
    pub(in crate::proxy) fn file_of(&self, entrance: usize) -> Option<usize> {
        self.by_entrance.get(entrance).copied().flatten()
    }

    /// Has a record written to that file. Returns whether there was room for it.
    pub(super) fn give(&self, file: usize, record: Box<Record>) -> bool {
        match self.records.try_send((file, record)) {
            Ok(()) => true,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
        }
    }
}

#[derive(Debug, Default)]
struct Shared {
    lines: AtomicU64,
    lost: AtomicU64,
    /// Whether the files are to be opened anew.
    is_told: AtomicBool,
}

/// The running thread. Dropping it, once the workers have ended, has the rest written.
#[derive(Debug)]
pub(in crate::proxy) struct Writer {
    log: AccessLog,
    shared: Arc<Shared>,
    stop: Option<Sender<()>>,
    /// Disconnected when it has ended.
    ended: Receiver<()>,
}

impl Writer {
    /// Starts it, if there is something to write to.
    ///
    /// # Errors
    /// The kernel gives no thread.
    pub(in crate::proxy) fn start(files: AccessFiles) -> io::Result<Option<Self>> {
        let AccessFiles { by_entrance, files } = files;
        if files.is_empty() {
            return Ok(None);
        }
        let (sender, records) = bounded(PROXY_RECORDS_WAITING_MAX);
        let (stop, stopped) = bounded(0);
        let (alive, ended) = bounded(0);
        let shared = Arc::new(Shared::default());
        let desk = Desk { files, records, shared: Arc::clone(&shared), follow_at: clock::now() };
        let run = move || {
            desk.run(&stopped);
            drop::<Sender<()>>(alive);
        };
        thread::Builder::new().name("proxy-records".to_owned()).spawn(run)?;
        let log = AccessLog { records: sender, by_entrance: by_entrance.into() };
        Ok(Some(Self { log, shared, stop: Some(stop), ended }))
    }

    /// Where workers put their records.
    pub(in crate::proxy) fn log(&self) -> AccessLog {
        self.log.clone()
    }

    /// Has the files opened anew: they may have been moved away.
    pub(in crate::proxy) fn reopen(&self) {
        self.shared.is_told.store(true, Relaxed);
    }

    /// Lines that were written, and those that could not be.
    pub(in crate::proxy) fn counts(&self) -> (u64, u64) {
        (self.shared.lines.load(Relaxed), self.shared.lost.load(Relaxed))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop = None;
        // A file that takes nothing (a network that is away) is not waited for without end.
        if self.ended.recv_timeout(PROXY_LOG_END_WITHIN) == Err(RecvTimeoutError::Timeout) {
            log::error!("the end of the access log could not be written within a few seconds");
        }
    }
}

struct Desk {
    files: Vec<LogFile>,
    records: Receiver<(usize, Box<Record>)>,
    shared: Arc<Shared>,
    follow_at: Instant,
}

impl Desk {
    fn run(mut self, stop: &Receiver<()>) {
        while stop.recv_timeout(PROXY_LOG_LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
            self.write();
            self.follow();
        }
        self.write();
    }

    /// Writes what has come.
    fn write(&mut self) {
        let now = clock::now();
        let mut written = Written::default();
        // What comes meanwhile is for the next time, so that a flood does not delay the flush.
        for _ in 0..self.records.len() {
            let Ok((number, record)) = self.records.try_recv() else { break };
            if let Some(file) = self.files.get_mut(number) {
                written += file.add(&record, now);
            }
        }
        for file in &mut self.files {
            written += file.flush(now);
        }
        self.shared.lines.fetch_add(written.lines, Relaxed);
        self.shared.lost.fetch_add(written.lost, Relaxed);
    }

    /// Opens files anew that have been moved away.
    fn follow(&mut self) {
        let is_told = self.shared.is_told.swap(false, Relaxed);
        let now = clock::now();
        if is_told || now >= self.follow_at {
            self.follow_at = now + PROXY_LOG_FOLLOW_EVERY;
            for file in &mut self.files {
                file.follow(is_told);
            }
        }
    }
}
