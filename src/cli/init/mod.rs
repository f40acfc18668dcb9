//! `corelane init`: everything that a server needs, made in one go.

mod gateway;
mod proxy;

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use rand::{CryptoRng, Rng as _};

use crate::accounts::store::{DatabaseUrl, Store};
use crate::cli::cert::{AddressArgs, SERVER_DAYS};
use crate::cli::{CliError, output};
use crate::config::{ACCOUNTS_SOCKET_DEFAULT, PORT_DEFAULT, SERVER_CONFIG_DEFAULT};
use crate::exit::ExitCode;
use crate::handshake::keys::PrivateKey;
use crate::login::pki::{PkiDirectory, PkiError, ServerAddress, Validity, write_new};
use crate::login::tls::Pin;
use crate::sys::clock;

/// Where a server's configuration is kept.
const DIRECTORY: &str = "/etc/corelane";
/// Where its database is kept then; one that is elsewhere has it in its directory.
const STATE_DIRECTORY: &str = "/var/lib/corelane";
/// The TCP port of logins: the one that every network lets through.
const LOGIN_PORT: u16 = 443;
/// The configuration, with `@WORDS@` to be replaced.
const TEMPLATE: &str = include_str!("server.toml");

#[derive(Subcommand, Debug)]
pub(crate) enum InitCommand {
    /// Make a server ready to serve: authority, certificate, keys, configuration, database
    #[command(after_help = "Example: corelane init vpn --domain vpn.example.org")]
    Vpn(VpnArgs),
    /// Make a proxy gateway without a tunnel ready: authority, certificate, configuration, database
    #[command(after_help = "Example: corelane init gateway --domain proxy.example.org")]
    Gateway(gateway::GatewayArgs),
    /// Print the part of a server's file that makes it a proxy; or set Traefik up in front of it
    #[command(after_help = "Example: corelane init proxy >> /etc/corelane/server.toml")]
    Proxy(proxy::ProxyArgs),
}

#[derive(Args, Debug)]
pub(crate) struct VpnArgs {
    // By the first of these clients reach the server.
    #[command(flatten)]
    server: AddressArgs,
    /// Where everything goes; made if it is missing
    #[arg(long = "dir", value_name = "DIR", default_value = DIRECTORY)]
    directory: PathBuf,
    /// UDP port of the tunnel
    #[arg(long, default_value_t = PORT_DEFAULT, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// TCP port of logins
    #[arg(long, default_value_t = LOGIN_PORT, value_parser = clap::value_parser!(u16).range(1..))]
    login_port: u16,
    /// Whether clients get out to the world with this host's address
    #[arg(long, value_enum, default_value_t = Nat::Masquerade)]
    nat: Nat,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
enum Nat {
    Masquerade,
    Off,
}

pub(super) fn run(command: &InitCommand) -> Result<(), CliError> {
    match command {
        InitCommand::Vpn(args) => vpn(args),
        InitCommand::Gateway(args) => gateway::run(args),
        InitCommand::Proxy(args) => proxy::run(args),
    }
}

/// Where everything goes.
struct Places {
    config: PathBuf,
    private_key: PathBuf,
    pki: PathBuf,
    database: PathBuf,
    spool: PathBuf,
    socket: PathBuf,
}

impl Places {
    fn of(directory: &Path) -> Self {
        // What is elsewhere is all in one place: it may be a second server of this host.
        let (state, socket) = match directory == Path::new(DIRECTORY) {
            true => (Path::new(STATE_DIRECTORY), PathBuf::from(ACCOUNTS_SOCKET_DEFAULT)),
            false => (directory, directory.join("accounts.sock")),
        };
        Self {
            config: directory.join("server.toml"),
            private_key: directory.join("server.key"),
            pki: directory.join("pki"),
            database: state.join("accounts.db"),
            spool: state.join("accounts.spool"),
            socket,
        }
    }
}

/// What was made of either kind.
struct Made {
    places: Places,
    pin: Pin,
    /// Where the certificate of the authority is.
    authority: PathBuf,
    /// What clients reach it by, the first of them first.
    names: Vec<String>,
}

/// Makes all that a server needs in `directory`, or nothing: an authority, a certificate for what
/// clients reach it by, a database, and what `rest` makes.
fn set_up(
    directory: &Path,
    server: &AddressArgs,
    rest: impl FnOnce(&Places, &PkiDirectory, &[ServerAddress]) -> Result<(), CliError>,
) -> Result<Made, CliError> {
    fs::create_dir_all(directory).map_err(|error| io_error(directory, &error))?;
    // Clients run elsewhere, and the configuration names files by where they are.
    let directory = fs::canonicalize(directory).map_err(|error| io_error(directory, &error))?;
    let places = Places::of(&directory);
    let mut addresses = server.all();
    if addresses.is_empty() {
        addresses.push(ServerAddress::Address(own_address()?));
    }
    let all = [&places.config, &places.private_key, &places.pki, &places.database, &places.spool];
    if let Some(there) = all.into_iter().find(|place| place.exists()) {
        return Err(PkiError::Exists(there.clone()).into());
    }
    let made = make(&places, &addresses).and_then(|pki| {
        rest(&places, &pki, &addresses)?;
        Ok((pki.pin()?, pki.certificate()))
    });
    if made.is_err() {
        // None of these was there before.
        for place in all {
            let _ = fs::remove_dir_all(place).or_else(|_| fs::remove_file(place));
        }
    }
    let (pin, authority) = made?;
    let names = addresses.iter().map(ToString::to_string).collect();
    Ok(Made { places, pin, authority, names })
}

fn make(places: &Places, addresses: &[ServerAddress]) -> Result<PkiDirectory, CliError> {
    let (now, mut rng) = (clock::unix_time(), rand::rng());
    let pki = PkiDirectory::create(&places.pki, "Corelane CA", now, &mut rng)?;
    pki.issue_server(addresses, Validity::days(now, SERVER_DAYS), &mut rng)?;
    if let Some(state) = places.database.parent() {
        fs::create_dir_all(state).map_err(|error| io_error(state, &error))?;
    }
    let url: DatabaseUrl = places.database.to_string_lossy().parse().map_err(CliError::failure)?;
    Store::open(&url).map(drop).map_err(CliError::failure)?;
    Ok(pki)
}

impl Made {
    /// What to say of it; `more` was made besides, and `next` is to be done.
    fn tell(&self, more: Option<&Path>, next: &[String]) -> Result<(), CliError> {
        let Places { config, pki, database, .. } = &self.places;
        let files = [Some(config.as_path()), more, Some(pki), Some(database)];
        let lines = |lines: &mut dyn Iterator<Item = String>| -> String {
            lines.map(|line| format!("  {line}\n")).collect()
        };
        output::print(&format!(
            "Made for {}:\n{}\nThe authority has the pin {}: clients know it by that, or by \
             {}.\n\nNext:\n{}",
            self.names.join(", "),
            lines(&mut files.into_iter().flatten().map(|file| file.display().to_string())),
            self.pin,
            self.authority.display(),
            lines(&mut next.iter().cloned()),
        ))
    }

    /// How commands about the accounts name the configuration, where they do not look by
    /// themselves.
    fn named(&self) -> String {
        match self.places.config == Path::new(SERVER_CONFIG_DEFAULT) {
            true => String::new(),
            false => format!(" -c {}", self.places.config.display()),
        }
    }
}

fn vpn(args: &VpnArgs) -> Result<(), CliError> {
    let made = set_up(&args.directory, &args.server, |places, pki, addresses| {
        let mut rng = rand::rng();
        let key = PrivateKey::generate(&mut rng).to_base64();
        write_new(&places.private_key, key.as_bytes(), 0o600)?;
        let config = configuration(args, places, pki, addresses, &mut rng);
        Ok(write_new(&places.config, config.as_bytes(), 0o644)?)
    })?;
    let named = made.named();
    let next = [
        format!("corelane user add NAME{named}"),
        format!("corelane invite NAME{named}"),
        format!("corelane serve -c {}", made.places.config.display()),
    ];
    made.tell(Some(&made.places.private_key), &next)
}

fn configuration(
    args: &VpnArgs,
    places: &Places,
    pki: &PkiDirectory,
    addresses: &[ServerAddress],
    rng: &mut impl CryptoRng,
) -> String {
    let endpoint = match addresses.first() {
        Some(ServerAddress::Address(IpAddr::V6(address))) => {
            format!("\"[{address}]:{}\"", args.port)
        }
        Some(address) => format!("\"{address}:{}\"", args.port),
        None => String::new(),
    };
    let (ipv4, ipv6) = networks(rng);
    let nat = match args.nat {
        Nat::Masquerade => "masquerade",
        Nat::Off => "off",
    };
    let words = [
        ("@PORT@", args.port.to_string()),
        ("@PRIVATE_KEY@", quoted_path(&places.private_key)),
        ("@NAT@", nat.to_owned()),
        ("@LOGIN_PORT@", args.login_port.to_string()),
        ("@ENDPOINT@", endpoint),
        ("@IPV4@", ipv4),
        ("@IPV6@", ipv6),
    ];
    replace(TEMPLATE, &[&words[..], &words_of_both(places, pki)].concat())
}

/// What stands in the configuration of either kind.
fn words_of_both(places: &Places, pki: &PkiDirectory) -> [(&'static str, String); 8] {
    [
        ("@CONFIG@", places.config.display().to_string()),
        ("@CERTIFICATE@", quoted_path(&pki.server_certificate())),
        ("@KEY@", quoted_path(&pki.server_key())),
        ("@CLIENT_CA@", quoted_path(&pki.certificate())),
        ("@CLIENT_CRL@", quoted_path(&pki.revocation_list())),
        ("@DATABASE@", quoted_path(&places.database)),
        ("@SPOOL@", quoted_path(&places.spool)),
        ("@SOCKET@", quoted_path(&places.socket)),
    ]
}

fn replace(template: &str, words: &[(&str, String)]) -> String {
    words.iter().fold(template.to_owned(), |text, (word, value)| text.replace(word, value))
}

/// As TOML has it.
fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

fn quoted_path(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}

/// The server's addresses in networks that hardly anybody else has: a /16 of 10.0.0.0/8 away from
/// those that routers come with, and a /64 of the unique local addresses (RFC 4193 section 3.2).
fn networks(rng: &mut impl CryptoRng) -> (String, String) {
    let ipv4 = Ipv4Addr::new(10, rng.random_range(64..=250), 0, 1);
    let [a, b, c, d, e] = rng.random::<[u8; 5]>();
    let mut ipv6 = [0; 16];
    for (place, value) in ipv6.iter_mut().zip([0xfd, a, b, c, d, e]) {
        *place = value;
    }
    if let Some(last) = ipv6.last_mut() {
        *last = 1;
    }
    (format!("{ipv4}/16"), format!("{}/64", Ipv6Addr::from(ipv6)))
}

/// The address from which this host would reach the world. Nothing is sent: a UDP socket that is
/// connected has asked the routing table.
fn own_address() -> Result<IpAddr, CliError> {
    let asked = [("0.0.0.0:0", "192.0.2.1:9"), ("[::]:0", "[2001:db8::1]:9")];
    let found = asked.into_iter().find_map(|(from, to)| {
        let socket = UdpSocket::bind(from).ok()?;
        socket.connect(to).ok()?;
        Some(socket.local_addr().ok()?.ip())
    });
    let address = found.ok_or_else(|| {
        CliError::new(
            ExitCode::Usage,
            "this host has no way out, so its address is not known: name what clients reach it by \
             (`--domain vpn.example.org` or `--address 192.0.2.1`)",
        )
    })?;
    output::warn(&format!(
        "corelane: clients will reach this server at {address}; if that is not its public address, \
         name it (`--domain` or `--address`)\n"
    ));
    Ok(address)
}

fn io_error(path: &Path, error: &std::io::Error) -> CliError {
    CliError::new(ExitCode::of_io_error(error), format!("{}: {error}", path.display()))
}
