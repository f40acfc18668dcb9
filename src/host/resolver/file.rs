//! Name servers in the file `resolv.conf` (resolv.conf(5)), for hosts where nobody else looks after
//! it.
//!
//! What the file was before stands in it as comments, so that there is no second file to get lost
//! or out of date, and whoever looks into it sees what happened:
//!
//! ```text
//! # corelane: name servers of the tunnel corelane0; ...
//! nameserver 10.77.0.1
//! search example.org
//! #before: nameserver 192.0.2.53
//! #before: options edns0
//! #before:
//! ```
//!
//! A symbolic link is replaced, not what it leads to, and comes back: then it says `#before-link:`
//! and where it led. The file is replaced in one step, so that nobody reads half of it; only where
//! it cannot be, since something is mounted there as in many containers, it is written over.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::{DnsRequest, ResolverError};
use crate::host::sysctl;
use crate::limits::{RESOLV_CONF_LEN_MAX, RESOLV_CONF_SERVERS};

const HEAD: &str = "# corelane: name servers of the tunnel ";
const HEAD_END: &str = "; what was here before follows as comments and comes back when it ends";
const BEFORE_LINE: &[u8] = b"#before:";
const BEFORE_LINK: &[u8] = b"#before-link:";
const BEFORE_NOTHING: &[u8] = b"#before-nothing";
/// The mode of a file that all programs have to read.
const MODE: u32 = 0o644;

/// What the file was before this program wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Before {
    /// It was not there.
    Nothing,
    /// A symbolic link to this path.
    Link(PathBuf),
    /// A file with these contents.
    Contents(Vec<u8>),
}

/// What the file is now.
enum Present {
    /// Somebody else's.
    Theirs(Before),
    /// This program's, for the tunnel with this device.
    Ours { tun: String, before: Before, contents: Vec<u8> },
}

/// The file.
#[derive(Clone, Debug)]
pub(super) struct ResolvConf {
    path: PathBuf,
}

impl ResolvConf {
    pub(super) fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the name servers of `request` into it. What it was before is kept; if it was a
    /// tunnel's that is gone, what it was before that.
    ///
    /// Returns whether anything had to be written.
    pub(super) fn install(&self, tun: &str, request: &DnsRequest) -> Result<bool, ResolverError> {
        let present = self.present().map_err(self.failed("read"))?;
        let (before, is_now) = match present {
            Present::Theirs(before) => (before, None),
            Present::Ours { tun: other, .. } if other != tun && is_interface(&other) => {
                return Err(ResolverError::Taken { path: self.path.clone(), tun: other });
            }
            Present::Ours { before, contents, .. } => (before, Some(contents)),
        };
        let wanted = render(tun, request, &before);
        if is_now.as_ref() == Some(&wanted) {
            return Ok(false);
        }
        self.write(&wanted).map_err(self.failed("write"))?;
        Ok(true)
    }

    /// Makes it what it was before the tunnel with the device `tun`. If that is not what it is, it
    /// stays as it is.
    pub(super) fn restore(&self, tun: &str) -> Result<bool, ResolverError> {
        let Present::Ours { tun: owner, before, .. } =
            self.present().map_err(self.failed("read"))?
        else {
            return Ok(false);
        };
        if owner != tun {
            return Ok(false);
        }
        let restored = match &before {
            Before::Nothing => fs::remove_file(&self.path),
            Before::Link(target) => self.replace(|temporary| symlink(target, temporary)),
            Before::Contents(contents) => self.write(contents),
        };
        restored.map_err(self.failed("restore"))?;
        Ok(true)
    }

    /// What it was before a tunnel, or what it is if it is no tunnel's.
    pub(super) fn outside(&self) -> io::Result<Vec<u8>> {
        match self.present()? {
            Present::Theirs(before) | Present::Ours { before, .. } => match before {
                Before::Nothing => Ok(Vec::new()),
                Before::Contents(contents) => Ok(contents),
                Before::Link(target) => {
                    let directory = self.path.parent().unwrap_or_else(|| Path::new("/"));
                    read(&directory.join(target))
                }
            },
        }
    }

    fn present(&self) -> io::Result<Present> {
        let metadata = match fs::symlink_metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Present::Theirs(Before::Nothing));
            }
            metadata => metadata?,
        };
        if metadata.is_symlink() {
            return Ok(Present::Theirs(Before::Link(fs::read_link(&self.path)?)));
        }
        let contents = read(&self.path)?;
        Ok(match parse(&contents) {
            Some((tun, before)) => Present::Ours { tun, before, contents },
            None => Present::Theirs(Before::Contents(contents)),
        })
    }

    /// Replaces it in one step, or writes over it where that is not possible.
    fn write(&self, contents: &[u8]) -> io::Result<()> {
        let replaced = self.replace(|temporary| {
            let mut options = OpenOptions::new();
            let mut file = options.write(true).create_new(true).mode(MODE).open(temporary)?;
            // Whatever the mask of this process is.
            file.set_permissions(fs::Permissions::from_mode(MODE))?;
            file.write_all(contents)?;
            file.sync_all()
        });
        match replaced {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                log::debug!("{} is a mount point, written over: {error}", self.path.display());
                let mut file = OpenOptions::new()
                    .write(true)
                    .truncate(true)
                    .custom_flags(libc::O_NOFOLLOW)
                    .open(&self.path)?;
                file.write_all(contents)?;
                file.sync_all()
            }
            outcome => outcome,
        }
    }

    /// Puts what `make` makes under another name in its place.
    fn replace(&self, make: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
        let mut name = self.path.clone().into_os_string();
        name.push(".corelane");
        let temporary = PathBuf::from(name);
        // A run that was killed may have left it.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let done = make(&temporary).and_then(|()| fs::rename(&temporary, &self.path));
        done.inspect_err(|_| drop(fs::remove_file(&temporary)))
    }

    fn failed(&self, attempt: &'static str) -> impl FnOnce(io::Error) -> ResolverError {
        let path = self.path.clone();
        move |source| ResolverError::File { attempt, path, source }
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut contents = Vec::new();
    File::open(path)?.take(RESOLV_CONF_LEN_MAX + 1).read_to_end(&mut contents)?;
    match contents.len() as u64 > RESOLV_CONF_LEN_MAX {
        true => Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is far too large")),
        false => Ok(contents),
    }
}

/// Whether this host has an interface of this name.
fn is_interface(name: &str) -> bool {
    sysctl::list(&format!("ipv4/conf/{name}")).is_ok()
}

fn render(tun: &str, request: &DnsRequest, before: &Before) -> Vec<u8> {
    let mut text = format!("{HEAD}{tun}{HEAD_END}\n").into_bytes();
    for server in request.servers.iter().take(RESOLV_CONF_SERVERS) {
        text.extend(format!("nameserver {server}\n").bytes());
    }
    let domains: Vec<&str> = request.search.iter().map(String::as_str).collect();
    if !domains.is_empty() {
        text.extend(format!("search {}\n", domains.join(" ")).bytes());
    }
    if let Before::Contents(contents) = before {
        // How to ask, as opposed to whom, stays as it was.
        for line in contents.split(|byte| *byte == b'\n') {
            if line.starts_with(b"options") {
                text.extend_from_slice(line);
                text.push(b'\n');
            }
        }
    }
    match before {
        Before::Nothing => text.extend_from_slice(BEFORE_NOTHING),
        Before::Link(target) => {
            text.extend_from_slice(BEFORE_LINK);
            text.extend_from_slice(target.as_os_str().as_bytes());
        }
        Before::Contents(contents) => {
            let lines = contents.split(|byte| *byte == b'\n').map(|it| [BEFORE_LINE, it].concat());
            text.extend(lines.collect::<Vec<_>>().join(&b'\n'));
        }
    }
    text.push(b'\n');
    text
}

/// Whose it is and what it was before, if it is this program's.
fn parse(contents: &[u8]) -> Option<(String, Before)> {
    let mut lines = contents.strip_suffix(b"\n")?.split(|byte| *byte == b'\n');
    let head = std::str::from_utf8(lines.next()?).ok()?;
    let tun = head.strip_prefix(HEAD)?.strip_suffix(HEAD_END)?;
    let mut before: Option<Vec<u8>> = None;
    for line in lines {
        if line == BEFORE_NOTHING {
            return Some((tun.to_owned(), Before::Nothing));
        }
        if let Some(target) = line.strip_prefix(BEFORE_LINK) {
            let target = PathBuf::from(OsStr::from_bytes(target));
            return Some((tun.to_owned(), Before::Link(target)));
        }
        if let Some(line) = line.strip_prefix(BEFORE_LINE) {
            match &mut before {
                None => before = Some(line.to_vec()),
                Some(before) => {
                    before.push(b'\n');
                    before.extend_from_slice(line);
                }
            }
        }
    }
    Some((tun.to_owned(), Before::Contents(before?)))
}

#[cfg(test)]
mod tests;
