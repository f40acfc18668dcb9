//! Which name servers a client's host asks while its tunnel is there.
//!
//! There are three ways, of which the first is taken that the host knows:
//!
//! 1. systemd-resolved, if `/etc/resolv.conf` leads to it, by `resolvectl`: it asks each name
//!    server for its own domains, and forgets them with the TUN device.
//! 2. `resolvconf` of Debian or openresolv, which collect name servers of interfaces.
//! 3. The file `/etc/resolv.conf` itself, which knows no domains that are asked for elsewhere.
//!
//! What is set up is undone by [`Resolver::remove`], and after a crash by the next start. Programs
//! are run and files are written with the rights that the daemon has left: those of its user, who
//! may write to `/etc` if that is root.

mod file;
#[doc(hidden)]
pub mod fuzz;
mod lookup;
mod message;
mod programs;

use std::fmt;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

pub use lookup::OuterLookup;

use super::program::ProgramError;
use crate::limits::{DNS_DOMAINS_MAX, DNS_NAME_LEN_MAX, DNS_SERVERS_MAX};
use file::ResolvConf;
use programs::{Resolvconf, Resolvectl};

/// The file that programs find name servers in.
pub const RESOLV_CONF: &str = "/etc/resolv.conf";

/// What is to be asked of whom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsRequest {
    /// Name servers, the first one first.
    pub servers: Vec<IpAddr>,
    /// Domains that are tried behind a name without dots.
    pub search: Vec<String>,
    /// Domains that these name servers are for; if there are none, they are for everything.
    pub split: Vec<String>,
}

/// Which way to go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DnsMode {
    /// The first that the host knows.
    #[default]
    Auto,
    /// systemd-resolved.
    Resolved,
    /// The program `resolvconf`.
    Resolvconf,
    /// The file `/etc/resolv.conf`.
    File,
    /// None: name servers stay as they are.
    Off,
}

impl FromStr for DnsMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let modes = [Self::Auto, Self::Resolved, Self::Resolvconf, Self::File, Self::Off];
        let named = modes.into_iter().find(|mode| mode.to_string() == text);
        named.ok_or_else(|| format!("{text:?} is no way to set up name servers"))
    }
}

impl fmt::Display for DnsMode {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Auto => "auto",
            Self::Resolved => "resolved",
            Self::Resolvconf => "resolvconf",
            Self::File => "file",
            Self::Off => "off",
        })
    }
}

/// Why name servers are not as they should be.
#[derive(Debug, thiserror::Error)]
pub enum ResolverError {
    /// Another program did not do what it was asked for.
    #[error("name servers cannot be set up: {0}{advice}", advice = mending(.0))]
    Program(#[from] ProgramError),
    /// The file cannot be used.
    #[error("name servers cannot be set up: cannot {attempt} {}: {source}{}", .path.display(),
        file_mending(.source))]
    File {
        /// What was attempted, as a verb.
        attempt: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Another tunnel has the file.
    #[error(
        "name servers cannot be set up: {} has those of the tunnel {tun}, which runs; one tunnel \
         at a time can have them, or install systemd-resolved or openresolv", .path.display()
    )]
    Taken {
        /// The file.
        path: PathBuf,
        /// The TUN device of the other tunnel.
        tun: String,
    },
    /// It asks for something that no resolver takes.
    #[error("name servers cannot be set up: {0}")]
    Request(String),
}

fn mending(error: &ProgramError) -> &'static str {
    match error {
        ProgramError::Failed { .. } => {
            "; run as root, let polkit allow org.freedesktop.resolve1 to this user, or set \
             `mode = \"off\"` in [dns]"
        }
        _ => "",
    }
}

fn file_mending(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "; run as root, or set `mode = \"off\"` in [dns]"
        }
        _ => "",
    }
}

impl DnsRequest {
    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.servers.is_empty() && self.search.is_empty() && self.split.is_empty()
    }

    /// Checks that every way can be given this: in files and command lines each word means what it
    /// should.
    ///
    /// # Errors
    /// [`ResolverError::Request`].
    pub fn check(&self) -> Result<(), ResolverError> {
        let refuse = |what: String| Err(ResolverError::Request(what));
        if self.servers.len() > DNS_SERVERS_MAX {
            return refuse(format!("more than {DNS_SERVERS_MAX} name servers"));
        }
        if self.search.len() + self.split.len() > DNS_DOMAINS_MAX {
            return refuse(format!("more than {DNS_DOMAINS_MAX} domains"));
        }
        if self.servers.is_empty() && !self.split.is_empty() {
            return refuse("domains without a name server that knows them".to_owned());
        }
        let odd = |server: &&IpAddr| server.is_unspecified() || server.is_multicast();
        if let Some(server) = self.servers.iter().find(odd) {
            return refuse(format!("{server} is no name server"));
        }
        match self.search.iter().chain(&self.split).find(|domain| !is_domain(domain)) {
            Some(domain) => refuse(format!("{domain:?} is no domain")),
            None => Ok(()),
        }
    }
}

/// Whether a text is the name of a domain (RFC 1035 section 2.3.1, with the underscores that people
/// use).
fn is_domain(text: &str) -> bool {
    let is_label = |label: &str| {
        let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        (1..=63).contains(&label.len()) && label.bytes().all(is_letter) && !label.starts_with('-')
    };
    text.len() <= DNS_NAME_LEN_MAX && text.split('.').all(is_label)
}

/// How name servers are set up on this host.
#[derive(Clone, Debug)]
enum Way {
    Resolved(Resolvectl),
    Resolvconf(Resolvconf),
    File(ResolvConf),
}

/// Name servers that are set up. Dropping it undoes that, as far as the host lets it;
/// [`Resolver::remove`] does the same and says what went wrong.
#[derive(Debug)]
pub struct Resolver {
    tun: String,
    request: DnsRequest,
    way: Way,
    is_removed: bool,
}

impl Resolver {
    /// Sets up what `request` asks for, for the tunnel with the device `tun`, which must be there.
    /// `None` if there is nothing to do.
    ///
    /// # Errors
    /// [`ResolverError`]; nothing has changed then.
    pub fn install(
        tun: &str,
        mode: DnsMode,
        request: &DnsRequest,
    ) -> Result<Option<Self>, ResolverError> {
        request.check()?;
        if mode == DnsMode::Off || request.is_empty() {
            return Ok(None);
        }
        let way = Way::choose(mode)?;
        let resolver =
            Self { tun: tun.to_owned(), request: request.clone(), way, is_removed: false };
        // What half of it has done is undone by the drop.
        resolver.apply()?;
        log::info!("name servers: {} by {}", resolver.described(), resolver.way.name());
        Ok(Some(resolver))
    }

    /// Moves to another request.
    ///
    /// # Errors
    /// [`ResolverError`].
    pub fn update(&mut self, request: &DnsRequest) -> Result<(), ResolverError> {
        request.check()?;
        self.request = request.clone();
        self.apply().map(drop)
    }

    /// Sets up again what another program has changed meanwhile. Returns whether it had to be.
    /// systemd-resolved and resolvconf keep what they were told; the file is anybody's.
    ///
    /// # Errors
    /// [`ResolverError`].
    pub fn repair(&mut self) -> Result<bool, ResolverError> {
        match &self.way {
            Way::File(file) => file.install(&self.tun, &self.request),
            Way::Resolved(_) | Way::Resolvconf(_) => Ok(false),
        }
    }

    /// Sets everything back.
    ///
    /// # Errors
    /// [`ResolverError`]; the next start mends what is left.
    pub fn remove(mut self) -> Result<(), ResolverError> {
        self.is_removed = true;
        self.undo()
    }

    /// Undoes what a run of the tunnel with the device `tun` that was killed has left behind.
    ///
    /// # Errors
    /// [`ResolverError`].
    pub fn remove_leftovers(tun: &str) -> Result<(), ResolverError> {
        if ResolvConf::at(RESOLV_CONF).restore(tun)? {
            log::info!("{RESOLV_CONF} is again what it was before a run that was killed");
        }
        Resolvconf::remove_leftovers(tun)?;
        Ok(())
    }

    fn apply(&self) -> Result<bool, ResolverError> {
        match &self.way {
            Way::Resolved(program) => program.install(&self.tun, &self.request)?,
            Way::Resolvconf(program) => program.install(&self.tun, &self.request)?,
            Way::File(file) => {
                if !self.request.split.is_empty() {
                    log::warn!(
                        "{} knows no domains of their own name servers: those of the tunnel are \
                         asked for everything; systemd-resolved could tell them apart",
                        file.path().display()
                    );
                }
                return file.install(&self.tun, &self.request);
            }
        }
        Ok(true)
    }

    fn undo(&self) -> Result<(), ResolverError> {
        match &self.way {
            Way::Resolved(program) => program.remove(&self.tun)?,
            Way::Resolvconf(program) => program.remove(&self.tun)?,
            Way::File(file) => drop(file.restore(&self.tun)?),
        }
        Ok(())
    }

    fn described(&self) -> String {
        let servers: Vec<_> = self.request.servers.iter().map(IpAddr::to_string).collect();
        let servers = servers.join(", ");
        match self.request.split.as_slice() {
            [] => servers,
            split => format!("{servers} for {}", split.join(", ")),
        }
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        if !self.is_removed
            && let Err(error) = self.undo()
        {
            log::error!(
                "name servers stay as they were set up, the next start mends that: {error}"
            );
        }
    }
}

impl Way {
    fn choose(mode: DnsMode) -> Result<Self, ResolverError> {
        let resolved = || Resolvectl::find().map(Self::Resolved);
        let resolvconf = || Resolvconf::find().map(Self::Resolvconf);
        let file = || Self::File(ResolvConf::at(RESOLV_CONF));
        Ok(match mode {
            DnsMode::Resolved => resolved()?,
            DnsMode::Resolvconf => resolvconf()?,
            DnsMode::File | DnsMode::Off => file(),
            DnsMode::Auto if leads_to_resolved(Path::new(RESOLV_CONF)) && resolved().is_ok() => {
                resolved()?
            }
            DnsMode::Auto => resolvconf().unwrap_or_else(|_| file()),
        })
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Resolved(_) => "systemd-resolved",
            Self::Resolvconf(_) => "resolvconf",
            Self::File(_) => RESOLV_CONF,
        }
    }
}

/// Whether whoever reads the file asks systemd-resolved in the end: it is a link to one of its
/// files, or names its address (systemd-resolved.service(8)).
fn leads_to_resolved(file: &Path) -> bool {
    const STUB: [&str; 2] = ["127.0.0.53", "127.0.0.54"];
    let is_its_own =
        fs::canonicalize(file).is_ok_and(|path| path.starts_with("/run/systemd/resolve"));
    let text = fs::read_to_string(file).unwrap_or_default();
    let mut servers = lookup::name_servers(&text);
    is_its_own || servers.any(|server| STUB.iter().any(|stub| server.to_string() == *stub))
}

#[cfg(test)]
mod tests;
