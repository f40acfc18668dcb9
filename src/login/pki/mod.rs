//! An authority of one's own: the certificates of servers and of users who log in with one.
//!
//! `authority` makes certificates and revocation lists, in memory. `directory` is where they
//! are kept: a directory of PEM files, in which every certificate that was ever issued has one, and
//! the revocation list says which of them are no longer good.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use rustls::pki_types::DnsName;
use thiserror::Error;

use crate::sys::private_file::PrivateFileError;

mod authority;
mod directory;

pub use authority::{Certificate, Purpose, Validity};
pub use directory::{Issued, PkiDirectory, write_new};

/// What a server is called by those who connect to it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ServerAddress {
    /// A DNS name.
    Domain(String),
    /// An address.
    Address(IpAddr),
}

/// A text that is neither a DNS name nor an address.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} is neither a DNS name such as vpn.example.org nor an IP address")]
pub struct BadServerAddress(pub String);

impl FromStr for ServerAddress {
    type Err = BadServerAddress;

    fn from_str(text: &str) -> Result<Self, BadServerAddress> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        match DnsName::try_from(text) {
            Ok(_) => Ok(Self::Domain(text.to_ascii_lowercase())),
            Err(_) => Err(BadServerAddress(text.to_owned())),
        }
    }
}

impl std::fmt::Display for ServerAddress {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Domain(name) => out.write_str(name),
            Self::Address(address) => address.fmt(out),
        }
    }
}

/// Why a certificate was not made or a directory not read.
#[derive(Debug, Error)]
pub enum PkiError {
    /// A file that is to be made is there already.
    #[error(
        "{} is there already, and nothing is written over it: choose another directory, or move it \
         away",
        .0.display()
    )]
    Exists(PathBuf),
    /// There is no authority.
    #[error(
        "{} is not there: `corelane init vpn` or `corelane cert init` makes an authority",
        .0.display()
    )]
    NoAuthority(PathBuf),
    /// The authority's key cannot be used.
    #[error("the authority's key: {0}")]
    Key(#[from] PrivateFileError),
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{} is damaged: {reason}; restore it from a backup", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// No certificate has this serial number.
    #[error(
        "no certificate has the serial number {0:?}: `corelane cert list` shows those there are"
    )]
    NoSuchSerial(String),
    /// The user has no certificate that is good.
    #[error("{0} has no certificate that is in force: `corelane cert list` shows those there are")]
    NoneInForce(String),
    /// The library refuses.
    #[error("a certificate cannot be made: {0}")]
    Library(#[from] rcgen::Error),
}

impl PkiError {
    fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }

    fn damaged(path: impl Into<PathBuf>, reason: impl ToString) -> Self {
        Self::Damaged { path: path.into(), reason: reason.to_string() }
    }

    /// The exit code of a command that ends with this error.
    pub fn exit_code(&self) -> crate::exit::ExitCode {
        use crate::exit::ExitCode;
        match self {
            Self::File { source, .. } => ExitCode::of_io_error(source),
            Self::Key(error) => error.io_error().map_or(ExitCode::Denied, ExitCode::of_io_error),
            Self::NoAuthority(_) | Self::NoSuchSerial(_) | Self::NoneInForce(_) => {
                ExitCode::NotFound
            }
            Self::Exists(_) | Self::Damaged { .. } | Self::Library(_) => ExitCode::Failure,
        }
    }
}
