//! `corelane cert`: certificates of servers and users, from an authority of one's own.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde::Serialize;

use crate::accounts::names::Name;
use crate::cli::accounts::{AuthorityAccounts, ReachArgs};
use crate::cli::{CliError, output};
use crate::exit::ExitCode;
use crate::login::pki::{
    Certificate, Issued, PkiDirectory, PkiError, Purpose, ServerAddress, Validity, write_new,
};
use crate::sys::clock;

/// Where `corelane init` keeps the authority.
pub(super) const DIRECTORY: &str = "/etc/corelane/pki";
/// Days that a server's certificate is good.
pub(super) const SERVER_DAYS: u32 = 825;
/// Days that a user's certificate is good.
const USER_DAYS: u32 = 365;

#[derive(Subcommand, Debug)]
pub(crate) enum CertCommand {
    /// Make a certificate authority (`corelane init vpn` does that, too)
    Init {
        #[command(flatten)]
        directory: DirectoryArg,
    },
    /// Issue a certificate for a user to log in with, or for another server
    #[command(after_help = "Example: corelane cert issue alice --out /root/alice")]
    Issue(IssueArgs),
    /// Replace the server's certificate; a running server takes it at once
    Renew(RenewArgs),
    /// Revoke a certificate; a running server ends its sessions within a second
    Revoke(RevokeArgs),
    /// Show the certificates that were issued
    List(ListArgs),
}

#[derive(Args, Debug)]
pub(crate) struct DirectoryArg {
    /// Directory of the authority
    #[arg(long = "dir", value_name = "DIR", default_value = DIRECTORY)]
    directory: PathBuf,
}

/// What a server is called.
#[derive(Args, Debug)]
pub(crate) struct AddressArgs {
    /// DNS name that clients reach the server by; may be repeated
    #[arg(long = "domain", value_name = "NAME")]
    domains: Vec<ServerAddress>,
    /// IP address that clients reach the server by; may be repeated
    #[arg(long = "address", value_name = "IP")]
    addresses: Vec<ServerAddress>,
}

impl AddressArgs {
    /// All of them, names first.
    pub(super) fn all(&self) -> Vec<ServerAddress> {
        self.domains.iter().chain(&self.addresses).cloned().collect()
    }
}

#[derive(Args, Debug)]
#[command(group = clap::ArgGroup::new("whom").required(true).multiple(true)
    .args(["user", "domains", "addresses"]))]
pub(crate) struct IssueArgs {
    /// The user
    #[arg(conflicts_with_all = ["domains", "addresses"])]
    user: Option<Name>,
    #[command(flatten)]
    server: AddressArgs,
    /// Days that it is good [default: 365 for a user, 825 for a server]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    days: Option<u32>,
    /// Where to write NAME.crt and NAME.key; made if it is missing
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
    #[command(flatten)]
    directory: DirectoryArg,
    #[command(flatten)]
    reach: ReachArgs,
}

#[derive(Args, Debug)]
pub(crate) struct RenewArgs {
    #[command(flatten)]
    server: AddressArgs,
    /// Days that it is good
    #[arg(long, default_value_t = SERVER_DAYS)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=36_500))]
    days: u32,
    #[command(flatten)]
    directory: DirectoryArg,
}

#[derive(Args, Debug)]
pub(crate) struct RevokeArgs {
    /// Serial number, as `corelane cert list` shows it
    #[arg(required_unless_present = "user")]
    serial: Option<String>,
    /// Every certificate of a user that is in force
    #[arg(long, value_name = "NAME", conflicts_with = "serial")]
    user: Option<Name>,
    #[command(flatten)]
    directory: DirectoryArg,
    #[command(flatten)]
    reach: ReachArgs,
}

#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    /// Those of one user
    #[arg(long, value_name = "NAME")]
    user: Option<Name>,
    /// As JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    directory: DirectoryArg,
}

impl From<PkiError> for CliError {
    fn from(error: PkiError) -> Self {
        Self::new(error.exit_code(), error)
    }
}

pub(super) fn run(command: CertCommand) -> Result<(), CliError> {
    match command {
        CertCommand::Init { directory } => init(&directory.directory),
        CertCommand::Issue(args) => issue(&args),
        CertCommand::Renew(args) => renew(&args),
        CertCommand::Revoke(args) => revoke(&args),
        CertCommand::List(args) => list(&args),
    }
}

fn init(directory: &Path) -> Result<(), CliError> {
    let name = "Corelane CA";
    let pki = PkiDirectory::create(directory, name, clock::unix_time(), &mut rand::rng())?;
    output::print(&format!(
        "{}: an authority, whose pin is {}\n",
        pki.certificate().display(),
        pki.pin()?
    ))
}

fn issue(args: &IssueArgs) -> Result<(), CliError> {
    let pki = PkiDirectory::open(&args.directory.directory)?;
    let (purpose, name, days) = match &args.user {
        Some(user) => (Purpose::User(user.clone()), user.to_string(), USER_DAYS),
        None => {
            let addresses = args.server.all();
            let name = addresses.first().map(ToString::to_string).unwrap_or_default();
            (Purpose::Server(addresses), name, SERVER_DAYS)
        }
    };
    let place = |extension| args.out.join(format!("{name}.{extension}"));
    let (certificate, key) = (place("crt"), place("key"));
    let accounts = AuthorityAccounts::find(&args.reach, &args.directory.directory)?;
    if let Some(user) = &args.user {
        accounts.expect_user(user)?;
    }
    // Before anything is issued that would then have no place.
    if let Some(there) = [&certificate, &key].into_iter().find(|path| path.exists()) {
        return Err(PkiError::Exists(there.clone()).into());
    }
    std::fs::create_dir_all(&args.out).map_err(|error| {
        let message = format!("{}: {error}", args.out.display());
        CliError::new(ExitCode::of_io_error(&error), message)
    })?;
    let validity = Validity::days(clock::unix_time(), args.days.unwrap_or(days));
    let issued = pki.issue(&purpose, validity, &mut rand::rng())?;
    let noted = accounts.note_issued(&pki.issued(&issued.serial)?).or_else(|error| {
        // Nobody has its key yet. It must not be good while nobody can see that it is there.
        pki.revoke(&issued.serial, clock::unix_time())?;
        Err(error)
    })?;
    write_new(&key, issued.key_pem.as_bytes(), 0o600)?;
    let content = match purpose {
        Purpose::User(_) => issued.pem.clone().into_bytes(),
        // What vouches for a server is shown along with it: clients may know no more than its pin.
        Purpose::Server(_) => with_authority(&pki, &issued)?,
    };
    write_new(&certificate, &content, 0o644)?;
    output::print(&format!(
        "{}\n{}\nserial number {}\n{noted}",
        certificate.display(),
        key.display(),
        issued.serial
    ))
}

fn with_authority(pki: &PkiDirectory, issued: &Certificate) -> Result<Vec<u8>, CliError> {
    let path = pki.certificate();
    let authority = std::fs::read(&path)
        .map_err(|source| CliError::from(PkiError::File { path: path.clone(), source }))?;
    Ok([issued.pem.as_bytes(), &authority].concat())
}

fn renew(args: &RenewArgs) -> Result<(), CliError> {
    let pki = PkiDirectory::open(&args.directory.directory)?;
    let addresses = match args.server.all() {
        named if !named.is_empty() => named,
        _ => pki.server_addresses()?,
    };
    let validity = Validity::days(clock::unix_time(), args.days);
    let issued = pki.issue_server(&addresses, validity, &mut rand::rng())?;
    let names: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    output::print(&format!(
        "{}: for {}, serial number {}\n",
        pki.server_certificate().display(),
        names.join(", "),
        issued.serial
    ))
}

fn revoke(args: &RevokeArgs) -> Result<(), CliError> {
    let pki = PkiDirectory::open(&args.directory.directory)?;
    let now = clock::unix_time();
    let revoked = match (&args.serial, &args.user) {
        (Some(serial), _) => vec![pki.issued(&serial.to_ascii_lowercase())?],
        (None, Some(user)) => {
            let mut theirs = pki.list()?;
            theirs.retain(|issued| issued.is_for(user) && issued.is_in_force(now.as_secs() as i64));
            if theirs.is_empty() {
                return Err(PkiError::NoneInForce(user.to_string()).into());
            }
            theirs
        }
        (None, None) => Vec::new(),
    };
    // The list comes first: it needs nothing but its file.
    for Issued { serial, .. } in &revoked {
        pki.revoke(serial, now)?;
        output::print(&format!("revoked {serial}\n"))?;
    }
    let told = AuthorityAccounts::find(&args.reach, &args.directory.directory)
        .and_then(|accounts| revoked.iter().map(|issued| accounts.revoke(issued)).collect());
    let told: String = told.inspect_err(|_| {
        output::warn(
            "corelane: the revocation list has it, but the accounts, and the servers that share \
             them, do not know; once what follows is mended, revoke it again by its serial \
             number\n",
        );
    })?;
    output::print(&told)
}

/// A certificate as `list --json` shows it.
#[derive(Serialize)]
struct View {
    serial: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<Name>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    server: Vec<String>,
    from: String,
    until: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    revoked: Option<String>,
    state: &'static str,
}

impl View {
    fn of(issued: Issued, now_s: i64) -> Self {
        let state = match (issued.revoked_s, issued.is_in_force(now_s)) {
            (Some(_), _) => "revoked",
            (None, true) => "good",
            (None, false) if now_s < issued.from_s => "not yet good",
            (None, false) => "expired",
        };
        let (user, server) = match issued.purpose {
            Purpose::User(user) => (Some(user), Vec::new()),
            Purpose::Server(names) => (None, names.iter().map(ToString::to_string).collect()),
        };
        Self {
            serial: issued.serial,
            user,
            server,
            from: time(issued.from_s),
            until: time(issued.until_s),
            revoked: issued.revoked_s.map(time),
            state,
        }
    }
}

fn time(second: i64) -> String {
    Timestamp::from_second(second).map_or_else(|_| second.to_string(), |time| time.to_string())
}

fn list(args: &ListArgs) -> Result<(), CliError> {
    let pki = PkiDirectory::open(&args.directory.directory)?;
    let now_s = clock::unix_time().as_secs() as i64;
    let mut issued = pki.list()?;
    issued.retain(|issued| args.user.as_ref().is_none_or(|user| issued.is_for(user)));
    let views: Vec<_> = issued.into_iter().map(|issued| View::of(issued, now_s)).collect();
    if args.json {
        let json = serde_json::to_string_pretty(&views).map_err(CliError::failure)?;
        return output::print(&format!("{json}\n"));
    }
    let mut text = String::new();
    for View { serial, user, server, until, state, .. } in views {
        let whom = match user {
            Some(user) => format!("user {user}"),
            None => format!("server {}", server.join(", ")),
        };
        let _ = writeln!(text, "{serial}  {state:<12}  until {until}  {whom}");
    }
    output::print(&text)
}
