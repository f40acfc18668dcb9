//! The audit log: a line of JSON for each entry, in a file that only grows, beside the database.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::accounts::model::{AuditEntry, Id, UnixMs};
use crate::accounts::names::Name;
use crate::limits::{AUDIT_REFUSALS_BURST, AUDIT_REFUSALS_PPS};
use crate::rate::Rate;

/// How fast refused logins are told of.
const REFUSALS: Rate = Rate::new(AUDIT_REFUSALS_PPS, AUDIT_REFUSALS_BURST);

/// What an entry is made of, but for where and when.
#[derive(Clone, Debug)]
pub(crate) struct Deed {
    pub(crate) actor: String,
    pub(crate) action: &'static str,
    pub(crate) subject: String,
    pub(crate) from: Option<IpAddr>,
    pub(crate) outcome: String,
    pub(crate) detail: String,
}

impl Deed {
    pub(crate) fn entry(self, server: &Name, at: UnixMs) -> AuditEntry {
        AuditEntry {
            id: Id::generate(&mut rand::rng()),
            at,
            server: server.clone(),
            actor: self.actor,
            action: self.action.to_owned(),
            subject: self.subject,
            from: self.from,
            outcome: self.outcome,
            detail: self.detail,
        }
    }
}

/// The file, and what is left out of the log when somebody guesses on and on.
#[derive(Debug)]
pub(super) struct AuditLog {
    path: Option<PathBuf>,
    file: Option<File>,
    has_failed: bool,
    refusals_full_at: Option<Instant>,
    left_out: u64,
}

impl AuditLog {
    /// Opens the file at `path`, for nobody else to read. Without a path there is none, and the
    /// log is in the database alone.
    ///
    /// # Errors
    /// It cannot be opened.
    pub(super) fn open(path: Option<PathBuf>) -> io::Result<Self> {
        let file = path.as_deref().map(open).transpose()?;
        Ok(Self { path, file, has_failed: false, refusals_full_at: None, left_out: 0 })
    }

    /// Writes an entry. A disk that is full is told of once; the database has the entry.
    pub(super) fn write(&mut self, entry: &AuditEntry) {
        let Some(path) = self.path.clone() else { return };
        match self.try_write(&path, entry) {
            Ok(()) => self.has_failed = false,
            Err(error) if !self.has_failed => {
                self.has_failed = true;
                log::error!(
                    "cannot write the audit log {}: {error}; until it works again, its entries are \
                     in the database alone (`corelane audit`)",
                    path.display()
                );
            }
            Err(_) => {}
        }
    }

    fn try_write(&mut self, path: &Path, entry: &AuditEntry) -> io::Result<()> {
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        // A file that was renamed by a program that rotates logs is left to it.
        let is_current = |file: &File| -> io::Result<bool> {
            let (open, named) = (file.metadata()?, std::fs::metadata(path)?);
            Ok((open.dev(), open.ino()) == (named.dev(), named.ino()))
        };
        let mut file = match self.file.take() {
            Some(file) if is_current(&file).unwrap_or(false) => file,
            _ => open(path)?,
        };
        file.write_all(&line)?;
        self.file = Some(file);
        Ok(())
    }

    /// Whether a refused login is to be told of: `Some` with how many were not, before this one.
    pub(super) fn admits_refusal(&mut self, now: Instant) -> Option<u64> {
        match REFUSALS.take(now, self.refusals_full_at.unwrap_or(now)) {
            Some(full_at) => {
                self.refusals_full_at = Some(full_at);
                Some(std::mem::take(&mut self.left_out))
            }
            None => {
                self.left_out += 1;
                None
            }
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::clock;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    fn entry(detail: &str) -> AuditEntry {
        let deed = Deed {
            actor: "alice".to_owned(),
            action: "login",
            subject: "alice".to_owned(),
            from: Some("192.0.2.1".parse().unwrap()),
            outcome: "ok".to_owned(),
            detail: detail.to_owned(),
        };
        deed.entry(&"vpn".parse().unwrap(), UnixMs(7))
    }

    #[test]
    fn an_entry_is_one_line_whatever_is_in_it_and_rotation_is_followed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.log");
        let mut log = AuditLog::open(Some(path.clone())).unwrap();
        let nasty = "a\nb\"c\u{1b}[2J";
        log.write(&entry(nasty));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let rotated = directory.path().join("audit.log.1");
        fs::rename(&path, &rotated).unwrap();
        log.write(&entry("second"));
        let text = fs::read_to_string(&rotated).unwrap();
        assert_eq!(text.lines().count(), 1);
        let read: AuditEntry = serde_json::from_str(&text).unwrap();
        assert_eq!(read.detail, nasty);
        assert!(fs::read_to_string(&path).unwrap().contains("second"));
    }

    #[test]
    fn a_file_that_cannot_be_written_is_no_reason_to_stop() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.log");
        let mut log = AuditLog::open(Some(path.clone())).unwrap();
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        log.write(&entry("lost"));
        fs::remove_dir(&path).unwrap();
        log.write(&entry("kept"));
        assert!(fs::read_to_string(&path).unwrap().contains("kept"));
    }

    #[test]
    fn a_guesser_cannot_fill_the_log() {
        let mut log = AuditLog::open(None).unwrap();
        let now = clock::now();
        let told = (0..5000).filter(|_| log.admits_refusal(now).is_some()).count();
        assert_eq!(told, AUDIT_REFUSALS_BURST as usize);
        let later = now + std::time::Duration::from_secs(1);
        assert_eq!(log.admits_refusal(later), Some(4000));
        assert_eq!(log.admits_refusal(later), Some(0));
    }
}
