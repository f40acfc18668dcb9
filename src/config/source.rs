//! Where a configuration comes from: a file, and what the command line lays over it.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use ipnet::IpNet;

use crate::config::problems::{Origin, Problems, Report};
use crate::config::proxy::ProxyConfig;
use crate::config::schema::{Role, Sections};
use crate::config::types::{ServeConfig, Served, UpConfig};
use crate::config::{build, document, effective, secrets};
use crate::exit::ExitCode;
use crate::handshake::keys::PublicKey;

/// Bytes of the largest file that is read: ten times what a million prefixes need would be another
/// kind of file.
const FILE_LEN_MAX: u64 = 64 << 20;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read the configuration {}: {source}{}", path.display(), advice(source))]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The file is larger than any configuration.
    #[error(
        "{} is larger than {} MiB: it is not a configuration",
        path.display(), FILE_LEN_MAX >> 20
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// What it says is wrong; every problem is in the report.
    #[error("{0}")]
    Invalid(Report),
}

impl ConfigError {
    /// The exit code of a command that ends with this error.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Read { source, .. } => ExitCode::of_io_error(source),
            Self::TooLarge { .. } | Self::Invalid(_) => ExitCode::ConfigInvalid,
        }
    }
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => " (name the file with `-c FILE`)",
        io::ErrorKind::PermissionDenied => " (run as the user who owns it, or `chmod`/`chown` it)",
        _ => "",
    }
}

/// The value of one key, from a flag or the environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// What to call it in messages: `--mtu`, `RUST_LOG`.
    pub flag: String,
    /// The table of the key.
    pub section: String,
    /// The key.
    pub key: String,
    /// Its value in TOML. What is not TOML is taken as a string.
    pub toml: String,
}

/// A peer from the command line. It stands in for a peer of the file with the same key, whose
/// other settings it keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerOverride {
    /// Who it is.
    pub public_key: PublicKey,
    /// Inner prefixes it owns.
    pub allowed_ips: Vec<IpNet>,
}

impl PeerOverride {
    pub(crate) const FLAG: &'static str = "--peer";
}

/// A configuration and what is odd about it.
#[derive(Debug)]
pub struct Loaded<T> {
    /// The configuration.
    pub config: T,
    /// Warnings; often empty.
    pub warnings: Report,
}

/// File and flags. Loading it again, on SIGHUP, reads the file again under the same flags.
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// The file, if there is one.
    pub file: Option<PathBuf>,
    /// Values laid over the file's, the last one for a key wins.
    pub overrides: Vec<Override>,
    /// Peers laid over the file's.
    pub peers: Vec<PeerOverride>,
}

impl Source {
    /// The configuration of a server.
    ///
    /// # Errors
    /// The file cannot be read, or what file and flags say is wrong.
    pub fn load_serve(&self) -> Result<Loaded<ServeConfig>, ConfigError> {
        self.load(Role::Server, build::serve)
    }

    /// The configuration of a proxy gateway without a tunnel: what else a server's file says is
    /// not looked at.
    ///
    /// # Errors
    /// As for [`Source::load_serve`].
    pub fn load_proxy(&self) -> Result<Loaded<ProxyConfig>, ConfigError> {
        self.load(Role::Server, build::proxy)
    }

    /// The configuration of whatever serves by it: a server, or a gateway without a tunnel.
    ///
    /// # Errors
    /// As for [`Source::load_serve`].
    pub fn load_served(&self) -> Result<Loaded<Served>, ConfigError> {
        self.load(Role::Server, build::served)
    }

    /// The configuration of a client.
    ///
    /// # Errors
    /// As for [`Source::load_serve`].
    pub fn load_up(&self) -> Result<Loaded<UpConfig>, ConfigError> {
        self.load(Role::Client, build::up)
    }

    /// The configuration in force, as TOML with the origin of each value. Key files are named but
    /// not opened.
    ///
    /// # Errors
    /// As for [`Source::load_serve`].
    pub fn show_effective(&self, role: Option<Role>) -> Result<String, ConfigError> {
        let text = self.text()?;
        let role = role.or_else(|| document::role_of(&text)).unwrap_or(Role::Server);
        let mut problems = Problems::default();
        let sections = self.sections(&text, role, &mut problems);
        // What is merely missing does not keep the rest from being shown.
        if problems.has_errors() {
            return Err(ConfigError::Invalid(problems.into_report(&self.name(), &text)));
        }
        Ok(effective::render(&sections, role, &self.name(), &text))
    }

    fn load<T>(
        &self,
        role: Role,
        build: impl FnOnce(&Sections, &mut Problems) -> Option<T>,
    ) -> Result<Loaded<T>, ConfigError> {
        let text = self.text()?;
        let mut problems = Problems::default();
        let sections = self.sections(&text, role, &mut problems);
        let built = build(&sections, &mut problems);
        let has_errors = problems.has_errors();
        let report = problems.into_report(&self.name(), &text);
        match built {
            Some(config) if !has_errors => Ok(Loaded { config, warnings: report }),
            _ => Err(ConfigError::Invalid(report)),
        }
    }

    fn sections(&self, text: &str, role: Role, problems: &mut Problems) -> Sections {
        let mut sections = document::read(text, role, problems);
        for change in &self.overrides {
            document::apply(change, &mut sections, role, problems);
        }
        for peer in &self.peers {
            document::apply_peer(peer, &mut sections);
        }
        sections
    }

    fn text(&self) -> Result<String, ConfigError> {
        match &self.file {
            Some(path) => read_text(path),
            None => Ok(String::new()),
        }
    }

    fn name(&self) -> String {
        match &self.file {
            Some(path) => path.display().to_string(),
            None => "command line".to_owned(),
        }
    }
}

/// Checks a file as `corelane config check` does, the key files it names included. Returns the
/// command that it is for as well.
///
/// # Errors
/// The file cannot be read, or there is an error in it; a report without errors holds warnings.
pub fn check_file(path: &Path) -> Result<(&'static str, Report), ConfigError> {
    let text = read_text(path)?;
    check(&path.display().to_string(), &text, secrets::check_files)
}

/// Checks the text of a configuration; no other file is touched.
///
/// # Errors
/// There is an error in it.
pub fn check_bytes(name: &str, bytes: &[u8]) -> Result<(&'static str, Report), ConfigError> {
    let text = utf8(name, bytes.to_vec())?;
    check(name, &text, |_, _, _| ())
}

fn check(
    name: &str,
    text: &str,
    check_files: impl FnOnce(&Sections, Role, &mut Problems),
) -> Result<(&'static str, Report), ConfigError> {
    let mut problems = Problems::default();
    let found = document::role_of(text);
    if found.is_none() {
        problems.error_with_help(
            Origin::Default,
            "neither [server] nor [client] is there",
            "a file for `corelane serve` has [server], one for `corelane up` has [client]",
        );
    }
    let role = found.unwrap_or(Role::Server);
    let sections = document::read(text, role, &mut problems);
    let mut command = role.command();
    if found.is_some() {
        match role {
            Role::Server => {
                if sections.is_proxy_alone() {
                    command = ProxyConfig::COMMAND;
                }
                drop(build::served(&sections, &mut problems));
            }
            Role::Client => drop(build::up(&sections, &mut problems)),
        }
        check_files(&sections, role, &mut problems);
    }
    let has_errors = problems.has_errors();
    let report = problems.into_report(name, text);
    if has_errors { Err(ConfigError::Invalid(report)) } else { Ok((command, report)) }
}

fn read_text(path: &Path) -> Result<String, ConfigError> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(FILE_LEN_MAX + 1).read_to_end(&mut bytes))
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    if bytes.len() as u64 > FILE_LEN_MAX {
        return Err(ConfigError::TooLarge { path: path.to_owned() });
    }
    utf8(&path.display().to_string(), bytes)
}

/// The bytes as text, or a report that points at the first that is not UTF-8.
fn utf8(name: &str, bytes: Vec<u8>) -> Result<String, ConfigError> {
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let text = String::from_utf8_lossy(error.as_bytes());
        let mut problems = Problems::default();
        problems.error(Origin::File(at..at + 1), "not UTF-8 text from here on");
        ConfigError::Invalid(problems.into_report(name, &text))
    })
}
