//! How the two programs of each contender are made ready: keys, configuration, command lines, and
//! what has to be done once they run. One file per protocol; everything secret is made afresh for
//! every bed and lies in a private directory that goes with it.

mod ceiling;
mod certificate;

mod nebula;
mod openvpn;
mod own;
mod quincy;
mod wireguard;

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use corelane::lab::{Host, TwoHosts, addresses};

use super::Failure;
use super::plan::Contender;
use super::programs::Programs;

/// Inner addresses, from the range reserved for measurements (RFC 2544, RFC 6890).
pub(crate) const INNER_SERVER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const INNER_CLIENT: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
const INNER_PREFIX_LEN: u8 = 24;
/// The outer UDP port of the server.
pub(crate) const PORT: u16 = 4500;
/// The TUN device on both hosts, where nothing forces different names.
const TUN: &str = "tun0";

/// What a contender's ends are made from.
pub(crate) struct Setting<'a> {
    pub(crate) lab: &'a TwoHosts,
    pub(crate) programs: &'a Programs,
    /// Private to this pair of ends.
    pub(crate) directory: &'a Path,
}

/// Both ends of a tunnel, ready to be started.
pub(crate) struct Ends {
    pub(crate) server: End,
    pub(crate) client: End,
}

/// One end.
pub(crate) struct End {
    /// The program, complete.
    pub(crate) command: Command,
    /// What to tell it once it runs, if it does not set itself up.
    pub(crate) setup: Option<Box<dyn Setup>>,
}

/// What an end needs besides its command line; dropped when the program has ended.
pub(crate) trait Setup: Send + Sync {
    /// Tries to set the running program up on `host`; false if it is not ready for that.
    ///
    /// # Errors
    /// When trying again is of no use.
    fn try_apply(&self, host: &Host) -> Result<bool, Failure>;
}

impl From<Command> for End {
    /// An end that needs nothing but its command line.
    fn from(command: Command) -> Self {
        Self { command, setup: None }
    }
}

/// The ends of `contender`, or `None` if it is the link itself.
pub(crate) fn of(contender: Contender, setting: &Setting<'_>) -> Result<Option<Ends>, Failure> {
    let ends = match contender {
        Contender::Veth => return Ok(None),
        Contender::Ceiling => ceiling::ends(setting),
        Contender::CorelaneOneWorker => own::ends(setting, 1),
        Contender::CorelaneTwoWorkers => own::ends(setting, 2),
        Contender::WireguardGo => wireguard::wireguard_go(setting),
        Contender::Boringtun => wireguard::boringtun(setting),
        Contender::Openvpn => openvpn::ends(setting),
        Contender::Nebula => nebula::ends(setting),
        Contender::Quincy => quincy::ends(setting),
    };
    ends.map(Some)
}

/// Where the server is reached from outside the tunnel.
fn outer_server() -> String {
    format!("{}:{PORT}", addresses::SERVER_V4)
}

fn with_prefix(address: Ipv4Addr) -> String {
    format!("{address}/{INNER_PREFIX_LEN}")
}

/// Writes a new file that only its owner may read.
fn write_private(file: PathBuf, text: &str) -> io::Result<PathBuf> {
    let mut private = File::create_new(&file)?;
    private.set_permissions(Permissions::from_mode(0o600))?;
    private.write_all(text.as_bytes())?;
    Ok(file)
}

fn read(file: &Path) -> Result<String, Failure> {
    fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()).into())
}
