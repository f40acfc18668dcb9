//! `corelane invite`.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clap::Args;
use qrcode::QrCode;
use qrcode::render::unicode::Dense1x2;

use crate::accounts::model::TokenScope;
use crate::accounts::names::Name;
use crate::accounts::operations::{Operation, Outcome};
use crate::cli::accounts::limits::Span;
use crate::cli::accounts::{CommonArgs, line_of, strange};
use crate::cli::{CliError, output};
use crate::config::{HostPort, ServeConfig, Served, parse_argument};
use crate::exit::ExitCode;
use crate::login::invite::Invite;
use crate::login::tls::Pin;

#[derive(Args, Debug)]
pub(crate) struct InviteArgs {
    /// Who is invited
    name: Name,
    /// Draw the invite as a QR code, too
    #[arg(long)]
    qr: bool,
    /// Write the invite to this file, for its owner alone to read, instead of showing it
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// After how long it ceases to be good
    #[arg(long, value_name = "TIME", default_value = "24h")]
    expires: Span,
    /// Where to log in, best first; may be repeated [default: the hosts of lease.endpoints, at the
    /// port of login.listen]
    #[arg(long = "server", value_name = "HOST:PORT", value_parser = parse_argument::<HostPort>)]
    servers: Vec<HostPort>,
    /// Certificate of the authority that vouches for the servers [default: login.client_ca_file of
    /// the configuration]
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    #[command(flatten)]
    common: CommonArgs,
}

pub(crate) fn run(args: &InviteArgs) -> Result<(), CliError> {
    let config = match args.common.reach.config()? {
        Some(Served::Gateway(_)) => {
            let message = "an invite is for a tunnel, and this is the file of a gateway without \
                           one: `corelane token create --scope proxy` lets a user in there";
            return Err(CliError::new(ExitCode::Usage, message));
        }
        Some(Served::Tunnel(config)) => Some(config),
        None => None,
    };
    let logins = config.as_ref().and_then(|config| config.logins.as_ref());
    let mut servers: Vec<_> = args.servers.iter().map(ToString::to_string).collect();
    if let (true, Some(config)) = (servers.is_empty(), &config) {
        servers = knocks(config);
    }
    if servers.is_empty() {
        let message = "it is not known where the invited log in: set `endpoints` in [lease] of the \
                       server's configuration, or name it (`--server vpn.example.org:20443`)";
        return Err(CliError::new(ExitCode::Usage, message));
    }
    let configured = logins.and_then(|logins| logins.client_ca_file.clone());
    let pin = args.ca.clone().or(configured).map(|path| pin_of(&path)).transpose()?;
    let operation = Operation::TokenCreate {
        user: args.name.clone(),
        label: "invite".to_owned(),
        scope: TokenScope::Invite,
        expires_s: Some(args.expires.0.as_secs()),
    };
    let outcome = args.common.reach.execute(operation)?;
    let Outcome::Token(made) = outcome else {
        return Err(CliError::failure(strange(&outcome)));
    };
    let invite = Invite {
        servers,
        pin,
        user: made.user,
        token: made.token,
        expires_unix_s: made.expires_unix_s.unwrap_or_default(),
    };
    hand_over(args, &invite, made.expires.as_deref().unwrap_or_default())
}

/// Where people log in at a server: where it takes their datagrams, but at the login's port.
fn knocks(config: &ServeConfig) -> Vec<String> {
    let port = config.logins.as_ref().and_then(|logins| logins.listen.first()).map(|at| at.port());
    let mut servers = Vec::new();
    // An address that stands for whichever a client has come to is none to invite to.
    let is_named =
        |host: &str| host.parse().map_or(true, |address: IpAddr| !address.is_unspecified());
    let endpoints = config.lease.endpoints.iter();
    for endpoint in endpoints.filter(|endpoint| is_named(endpoint.host())) {
        let host = match endpoint.host() {
            host if host.contains(':') => format!("[{host}]"),
            host => host.to_owned(),
        };
        servers.extend(port.map(|port| format!("{host}:{port}")));
    }
    servers.dedup();
    servers
}

fn hand_over(args: &InviteArgs, invite: &Invite, expires: &str) -> Result<(), CliError> {
    let text = invite.to_text();
    if let Some(path) = &args.out {
        write_private(path, text.expose())?;
    }
    if args.common.json {
        let shown = args.out.is_none().then(|| text.expose());
        let object = serde_json::json!({
            "user": invite.user, "servers": invite.servers, "expires": expires, "invite": shown,
        });
        return output::print(&zeroize::Zeroizing::new(line_of(&object)?));
    }
    let mut shown = zeroize::Zeroizing::new(String::new());
    if args.qr {
        shown.push_str(&draw(text.expose())?);
    }
    match &args.out {
        Some(path) => {
            shown.push_str(&format!("{invite}, good until {expires}: {}\n", path.display()));
        }
        None => shown.push_str(&format!("{}\n", text.expose())),
    }
    output::print(&shown)
}

/// The pin of the first certificate of a PEM file.
fn pin_of(path: &Path) -> Result<Pin, CliError> {
    Pin::of_file(path).map_err(|error| {
        CliError::failure(format_args!("cannot read the authority {}: {error}", path.display()))
    })
}

/// Makes a file that its owner alone can read; one that is there is left alone.
fn write_private(path: &Path, text: &str) -> Result<(), CliError> {
    let open = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let written = open.and_then(|mut file| writeln!(file, "{text}"));
    written.map_err(|error| {
        let code = ExitCode::of_io_error(&error);
        CliError::new(code, format_args!("cannot write {}: {error}", path.display()))
    })
}

/// A QR code of block characters, for dark letters on light ground and the other way round alike:
/// it is drawn with a margin.
pub(super) fn draw(text: &str) -> Result<String, CliError> {
    let code = QrCode::new(text).map_err(|error| {
        CliError::failure(format_args!("this is too long for a QR code: {error}"))
    })?;
    let mut drawing = code
        .render::<Dense1x2>()
        .dark_color(Dense1x2::Light)
        .light_color(Dense1x2::Dark)
        .quiet_zone(true)
        .build();
    drawing.push('\n');
    Ok(drawing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_drawing_is_as_wide_as_high() {
        let drawing = draw("corelane:abc").unwrap();
        let lines: Vec<_> = drawing.lines().collect();
        let width = lines[0].chars().count();
        assert!(lines.iter().all(|line| line.chars().count() == width), "{drawing}");
        assert_eq!(lines.len(), width.div_ceil(2));
        assert!(draw(&"x".repeat(8000)).is_err());
    }

    #[test]
    fn an_invite_is_written_for_its_owner_and_over_no_other_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("invite");
        write_private(&path, "corelane:x").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "corelane:x\n");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(write_private(&path, "corelane:y").is_err());
    }
}
