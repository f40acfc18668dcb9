//! The file that changes are written to before they are in the database.
//!
//! It begins with a header: eight letters, the spool's number, a checksum. Then follow records,
//! each with the length of its content, its sequence number, a checksum and the content. A record
//! is written whole and in order, so after a crash all but the last are whole; where a checksum
//! does not hold, the file ends.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ring::digest::{SHA256, digest};

use crate::accounts::model::Id;
use crate::limits::SPOOL_RECORD_LEN_MAX;
use crate::sys::file_lock::FileLock;
use crate::sys::peer;

const MAGIC: [u8; 8] = *b"CLSPOOL1";
const CHECKSUM_LEN: usize = 8;
/// Letters, number, checksum.
pub(super) const HEADER_LEN: usize = 8 + 8 + CHECKSUM_LEN;
/// Length, sequence number, checksum.
pub(super) const RECORD_HEADER_LEN: usize = 4 + 8 + CHECKSUM_LEN;

/// A record: the changes of one batch, as JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// The batch's sequence number.
    pub(super) sequence: u64,
    /// Its changes. Shared, since they are kept until they are in the database.
    pub(super) content: Arc<[u8]>,
}

impl Record {
    /// Bytes that it takes in the file.
    pub(super) fn len(&self) -> u64 {
        (RECORD_HEADER_LEN + self.content.len()) as u64
    }
}

/// What is in the bytes of a spool.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Content {
    /// The spool's number.
    pub(super) id: Id,
    /// The records that are whole.
    pub(super) records: Vec<Record>,
    /// Where the last of them ends. What stands behind was being written in a crash, or is damaged.
    pub(super) valid_len: usize,
}

fn checksum(parts: &[&[u8]]) -> [u8; CHECKSUM_LEN] {
    let hash = digest(&SHA256, &parts.concat());
    let mut checksum = [0; CHECKSUM_LEN];
    checksum.copy_from_slice(&hash.as_ref()[..CHECKSUM_LEN]);
    checksum
}

fn header(id: Id) -> Vec<u8> {
    let number = id.0.to_be_bytes();
    [&MAGIC[..], &number, &checksum(&[&MAGIC, &number])].concat()
}

fn encode(id: Id, record: &Record) -> Vec<u8> {
    let len = (record.content.len() as u32).to_be_bytes();
    let sequence = record.sequence.to_be_bytes();
    let sum = checksum(&[&id.0.to_be_bytes(), &len, &sequence, &record.content]);
    [&len[..], &sequence, &sum, &record.content].concat()
}

/// Reads the bytes of a spool; `None` if they do not begin like one.
pub(super) fn parse(bytes: &[u8]) -> Option<Content> {
    let number = bytes.get(MAGIC.len()..MAGIC.len() + 8)?;
    let id = Id(i64::from_be_bytes(number.try_into().ok()?));
    if bytes.get(..HEADER_LEN)? != header(id) {
        return None;
    }
    let mut content = Content { id, records: Vec::new(), valid_len: HEADER_LEN };
    while let Some(record) = parse_record(id, &bytes[content.valid_len..], &content.records) {
        content.valid_len += RECORD_HEADER_LEN + record.content.len();
        content.records.push(record);
    }
    Some(content)
}

fn parse_record(id: Id, bytes: &[u8], before: &[Record]) -> Option<Record> {
    let (len, rest) = bytes.split_first_chunk::<4>()?;
    let (sequence, rest) = rest.split_first_chunk::<8>()?;
    let (sum, rest) = rest.split_first_chunk::<CHECKSUM_LEN>()?;
    let content = rest.get(..u32::from_be_bytes(*len) as usize)?;
    let expected = checksum(&[&id.0.to_be_bytes(), len, sequence, content]);
    let sequence = u64::from_be_bytes(*sequence);
    let counts_up = before.last().is_none_or(|last| last.sequence < sequence);
    (expected == *sum && counts_up).then(|| Record { sequence, content: content.into() })
}

/// An open spool, which no other process uses.
pub(super) struct Spool {
    path: PathBuf,
    id: Id,
    file: Arc<File>,
    len: u64,
    /// Held as long as this lives.
    _lock: FileLock,
}

/// Why a spool cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// Another process uses it.
    #[error(
        "another process uses {0}: a server runs with this configuration; let commands go through \
         it, or stop it first"
    )]
    InUse(PathBuf),
    /// The system's answer.
    #[error("{}: {error}{}", path.display(), advice(error))]
    Io {
        /// Which file.
        path: PathBuf,
        /// What it said.
        error: io::Error,
    },
}

/// What mends it.
fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "; make its folder first (`spool_file` in [accounts])",
        io::ErrorKind::PermissionDenied => {
            "; it must be writable for the user that runs this (`spool_file` in [accounts])"
        }
        _ => "",
    }
}

impl Spool {
    /// Opens a spool, or makes one with the number `new_id`; and what was in it.
    pub(super) fn open(path: &Path, new_id: Id) -> Result<(Self, Vec<Record>), SpoolError> {
        let failed = |error| SpoolError::Io { path: path.to_owned(), error };
        let lock = private_file(&with_suffix(path, ".lock")).map_err(failed)?;
        let lock = FileLock::try_take(lock).map_err(failed)?;
        let lock = lock.ok_or_else(|| SpoolError::InUse(path.to_owned()))?;
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(failed(error)),
        };
        let Some(content) = parse(&bytes) else {
            if !bytes.is_empty() {
                let aside = set_aside(path, &bytes).map_err(failed)?;
                log::error!(
                    "{} is not a spool, so changes that were not in the database yet are lost; it \
                     is kept as {}",
                    path.display(),
                    aside.display()
                );
            }
            let file = write_anew(path, new_id, &[]).map_err(failed)?;
            let len = HEADER_LEN as u64;
            let spool = Self { path: path.to_owned(), id: new_id, file, len, _lock: lock };
            return Ok((spool, Vec::new()));
        };
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(failed)?;
        let (id, len) = (content.id, content.valid_len as u64);
        let mut spool = Self { path: path.to_owned(), id, file: Arc::new(file), len, _lock: lock };
        spool.end_at_valid(&bytes[content.valid_len..]).map_err(failed)?;
        Ok((spool, content.records))
    }

    /// Cuts off what is not a whole record. It is kept if it was more than a record that was being
    /// written.
    fn end_at_valid(&mut self, rest: &[u8]) -> io::Result<()> {
        if rest.is_empty() {
            return Ok(());
        }
        let announced = rest.first_chunk::<4>().map(|len| u32::from_be_bytes(*len) as usize);
        let is_torn = announced
            .is_none_or(|len| len <= SPOOL_RECORD_LEN_MAX && RECORD_HEADER_LEN + len > rest.len());
        if is_torn {
            log::info!("{}: a record that a crash cut off is left out", self.path.display());
        } else {
            let aside = set_aside(&self.path, rest)?;
            log::error!(
                "{} is damaged: {} bytes of changes that may not be in the database are lost; they \
                 are kept as {}",
                self.path.display(),
                rest.len(),
                aside.display()
            );
        }
        self.file.set_len(self.len)?;
        self.file.sync_data()
    }

    /// Its number.
    pub(super) fn id(&self) -> Id {
        self.id
    }

    /// Bytes of the file.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Its path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The file, to be synchronised without holding on to the spool.
    pub(super) fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }

    /// Writes a record: whole, or not at all. It outlives the process from then on.
    pub(super) fn append(&mut self, record: &Record) -> io::Result<()> {
        let mut file = &*self.file;
        let written = file
            .seek(SeekFrom::Start(self.len))
            .and_then(|_| file.write_all(&encode(self.id, record)));
        match written {
            Ok(()) => {
                self.len += record.len();
                Ok(())
            }
            Err(error) => {
                // If even that fails, the next record is written over what was begun, and until
                // then its checksum does not hold.
                let _ = self.file.set_len(self.len);
                Err(error)
            }
        }
    }

    /// Forgets all records.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        self.file.set_len(HEADER_LEN as u64)?;
        self.len = HEADER_LEN as u64;
        Ok(())
    }

    /// Replaces all records by others, at once.
    pub(super) fn replace<'a>(
        &mut self,
        records: impl IntoIterator<Item = &'a Record>,
    ) -> io::Result<()> {
        let records = records.into_iter().collect::<Vec<_>>();
        self.file = write_anew(&self.path, self.id, &records)?;
        let len = records.iter().map(|record| record.len()).sum::<u64>();
        self.len = HEADER_LEN as u64 + len;
        Ok(())
    }
}

/// `path` with something behind its name.
pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Opens a file for its owner alone, or makes it. One that root makes, as an administrator of a
/// server that is stopped, belongs to whom the folder does: the server will want to open it.
pub(super) fn private_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).mode(0o600);
    match options.clone().create_new(true).open(path) {
        Ok(file) => {
            let owner = fs::metadata(folder_of(path))?;
            if peer::own_user() == 0 && owner.uid() != 0 {
                // A daemon of root has given the right to do so up, and keeps the file.
                let _ = fchown(&file, Some(owner.uid()), Some(owner.gid()));
            }
            Ok(file)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => options.open(path),
        Err(error) => Err(error),
    }
}

fn folder_of(path: &Path) -> &Path {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    folder.unwrap_or_else(|| Path::new("."))
}

/// Writes a spool beside the old one and puts it in its place.
fn write_anew(path: &Path, id: Id, records: &[&Record]) -> io::Result<Arc<File>> {
    let beside = with_suffix(path, ".new");
    let written = private_file(&beside).and_then(|mut file| {
        file.set_len(0)?;
        file.write_all(&header(id))?;
        for record in records {
            file.write_all(&encode(id, record))?;
        }
        file.sync_all()?;
        fs::rename(&beside, path)?;
        Ok(file)
    });
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    let file = written?;
    sync_folder(path)?;
    Ok(Arc::new(file))
}

fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(folder_of(path))?.sync_all()
}

/// Keeps bytes under a name that is not taken.
fn set_aside(path: &Path, bytes: &[u8]) -> io::Result<PathBuf> {
    let mut number = 1;
    loop {
        let aside = with_suffix(path, &format!(".damaged.{number}"));
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside) {
            Ok(mut file) => return file.write_all(bytes).map(|()| aside),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
            Err(error) => return Err(error),
        }
    }
}
