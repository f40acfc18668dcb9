//! The files that lines go to.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::Instant;

use crate::limits::{
    PROXY_LOG_BATCH_LEN, PROXY_LOG_COMPLAIN_EVERY, PROXY_LOG_STRANGERS_BURST,
    PROXY_LOG_STRANGERS_PER_S,
};
use crate::proxy::settings::{Entrance, LogPlace, LogSettings};
use crate::rate::Rate;

use super::record::Record;

/// How fast a file takes lines of strangers.
const OF_STRANGERS: Rate = Rate::new(PROXY_LOG_STRANGERS_PER_S, PROXY_LOG_STRANGERS_BURST);

/// A file of the access log cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot open the access log {place}: {source}")]
pub struct OpenError {
    /// Which.
    pub place: LogPlace,
    /// The kernel's answer.
    pub source: io::Error,
}

/// The files of all entrances, opened.
#[derive(Debug, Default)]
pub(in crate::proxy) struct AccessFiles {
    /// By entrance, the number of its file.
    pub(super) by_entrance: Vec<Option<usize>>,
    pub(super) files: Vec<LogFile>,
}

impl AccessFiles {
    /// Opens those that the entrances name, each once.
    ///
    /// # Errors
    /// One cannot be opened.
    pub(in crate::proxy) fn open(entrances: &[Entrance]) -> Result<Self, OpenError> {
        let mut opened = Self::default();
        for entrance in entrances {
            let number = match &entrance.access_log {
                Some(settings) => Some(opened.number_of(settings)?),
                None => None,
            };
            opened.by_entrance.push(number);
        }
        Ok(opened)
    }

    fn number_of(&mut self, settings: &LogSettings) -> Result<usize, OpenError> {
        let known = self.files.iter().position(|file| file.settings == *settings);
        match known {
            Some(number) => Ok(number),
            None => {
                self.files.push(LogFile::open(settings.clone())?);
                Ok(self.files.len() - 1)
            }
        }
    }
}

/// A file, and the lines that are to go there.
#[derive(Debug)]
pub(super) struct LogFile {
    settings: LogSettings,
    file: File,
    batch: Vec<u8>,
    /// Whether what was written last ends in the middle of a line.
    is_torn: bool,
    /// When it was complained that nothing can be written, if that is so.
    complained: Option<Instant>,
    /// Whether it was moved away, and no other can be opened in its place.
    is_adrift: bool,
    /// When it takes as many lines of strangers as ever at once.
    strangers_full_at: Option<Instant>,
}

/// What became of the lines of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) lines: u64,
    pub(super) lost: u64,
}

impl std::ops::AddAssign for Written {
    fn add_assign(&mut self, other: Self) {
        self.lines += other.lines;
        self.lost += other.lost;
    }
}

impl LogFile {
    pub(super) fn open(settings: LogSettings) -> Result<Self, OpenError> {
        let opened = match &settings.place {
            // Beneath the buffer of the standard library, and its lock.
            LogPlace::Stdout => io::stdout().as_fd().try_clone_to_owned().map(File::from),
            LogPlace::File(path) => open(path),
        };
        match opened {
            Ok(file) => {
                let batch = Vec::new();
                let (is_torn, is_adrift) = (false, false);
                let (complained, strangers_full_at) = (None, None);
                Ok(Self {
                    settings,
                    file,
                    batch,
                    is_torn,
                    complained,
                    is_adrift,
                    strangers_full_at,
                })
            }
            Err(source) => Err(OpenError { place: settings.place, source }),
        }
    }

    /// Adds the line of a record; a full batch is written. Of strangers it takes so many only.
    pub(super) fn add(&mut self, record: &Record, now: Instant) -> Written {
        if record.is_of_stranger() {
            match OF_STRANGERS.take(now, self.strangers_full_at.unwrap_or(now)) {
                Some(full_at) => self.strangers_full_at = Some(full_at),
                None => return Written { lines: 0, lost: 1 },
            }
        }
        self.settings.format.write(record, &mut self.batch);
        match self.batch.len() >= PROXY_LOG_BATCH_LEN {
            true => self.flush(now),
            false => Written::default(),
        }
    }

    /// Writes what there is. What cannot be written is lost: a disk that is full for long would
    /// otherwise fill the memory.
    pub(super) fn flush(&mut self, now: Instant) -> Written {
        if self.batch.is_empty() {
            return Written::default();
        }
        if self.is_torn {
            self.batch.insert(0, b'\n');
        }
        let mut rest = self.batch.as_slice();
        let mut failure = None;
        while !rest.is_empty() && failure.is_none() {
            match self.file.write(rest) {
                Ok(0) => failure = Some(io::ErrorKind::WriteZero.into()),
                Ok(len) => rest = rest.get(len..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => failure = Some(error),
            }
        }
        let gone = self.batch.get(..self.batch.len() - rest.len()).unwrap_or_default();
        let count = |bytes: &[u8]| bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
        // The end of a line that was torn is none of these.
        let mended = u64::from(self.is_torn && !gone.is_empty());
        let written = Written { lines: count(gone) - mended, lost: count(rest) };
        self.is_torn = gone.last().map_or(self.is_torn, |byte| *byte != b'\n');
        self.batch.clear();
        match failure {
            Some(error) => self.complain(&error, written.lost, now),
            None if self.complained.take().is_some() => {
                log::info!("the access log {} is written again", self.settings.place);
            }
            None => {}
        }
        written
    }

    /// Says that nothing can be written, when it begins and then now and again.
    fn complain(&mut self, error: &io::Error, lost: u64, now: Instant) {
        let is_due = |at: Instant| now.saturating_duration_since(at) >= PROXY_LOG_COMPLAIN_EVERY;
        if self.complained.is_none_or(is_due) {
            self.complained = Some(now);
            log::error!(
                "cannot write the access log {}: {error}; {lost} lines are lost just now, and \
                 more until that is mended (`df` shows whether the disk is full); clients are \
                 served all the same",
                self.settings.place
            );
        }
    }

    /// Opens the file anew if it was moved away or removed, or in any case if `is_told`. Lines go
    /// on to the one that was open where that cannot be done.
    pub(super) fn follow(&mut self, is_told: bool) {
        let LogPlace::File(path) = &self.settings.place else { return };
        let identity = |metadata: Metadata| (metadata.dev(), metadata.ino());
        let (opened, there) = (self.file.metadata(), std::fs::metadata(path));
        let same = opened.map(identity).ok().zip(there.map(identity).ok());
        if !is_told && same.is_some_and(|(opened, there)| opened == there) {
            return;
        }
        match open(path) {
            Ok(file) => (self.file, self.is_torn, self.is_adrift) = (file, false, false),
            Err(error) if is_told || !self.is_adrift => {
                self.is_adrift = true;
                log::error!(
                    "cannot open the access log {} anew: {error}; lines go on to the file that \
                     was there before",
                    path.display()
                );
            }
            // Told before; it is tried again soon.
            Err(_) => {}
        }
    }
}

/// Opens a file to append to it; others than its owner and group cannot read it. Nobody is waited
/// for at a pipe.
fn open(path: &Path) -> io::Result<File> {
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    OpenOptions::new().append(true).create(true).mode(0o640).custom_flags(flags).open(path)
}

#[cfg(test)]
impl LogFile {
    pub(super) fn complained(&self) -> Option<Instant> {
        self.complained
    }

    /// Writes a part of a line, as a disk does that becomes full.
    pub(super) fn tear(&mut self, part: &[u8]) {
        self.file.write_all(part).unwrap();
        self.is_torn = true;
    }
}
