//! `corelane serve` and `corelane up`: from flags and file to a running daemon.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use ipnet::IpNet;
use zeroize::Zeroizing;

use crate::cli::CliError;
use crate::cli::settings::{Overrides, SharedArgs, parse_peer};
use crate::config::{
    HostPort, Keepalive, LogConfig, PeerOverride, Report, Role, STATE_DIRECTORY, Source,
    parse_argument,
};
use crate::daemon::{self, Answers, DaemonError, profile};
use crate::handshake::keys::PublicKey;
use crate::login::invite::Invite;
use crate::telemetry::logging;

#[derive(Args, Debug)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    shared: SharedArgs,
    /// Address and port to listen on (server.listen)
    #[arg(long, value_name = "ADDR:PORT", value_parser = parse_argument::<SocketAddr>)]
    listen: Vec<SocketAddr>,
    /// A peer and the prefixes it owns, besides those of the file or in place of one with the
    /// same key (`[[peer]]`)
    #[arg(long = "peer", value_name = "PUBKEY=CIDR[,CIDR...]", value_parser = parse_peer)]
    peers: Vec<PeerOverride>,
}

#[derive(Args, Debug)]
pub(crate) struct UpArgs {
    /// An invite (`corelane:...`), `-` for one on standard input, or the USER@SERVER of one that
    /// was accepted before
    #[arg(value_name = "INVITE|USER@SERVER", conflicts_with = "config")]
    target: Option<String>,
    /// Directory for what is kept of accepted invites
    #[arg(long, value_name = "DIR", default_value = STATE_DIRECTORY)]
    state_directory: PathBuf,
    #[command(flatten)]
    shared: SharedArgs,
    /// The server, by name or address (client.server)
    #[arg(long, value_name = "HOST:PORT", value_parser = parse_argument::<HostPort>)]
    server: Option<HostPort>,
    /// The server's public key (client.server_key)
    #[arg(long, value_name = "PUBKEY", value_parser = parse_argument::<PublicKey>)]
    server_key: Option<PublicKey>,
    /// Destination to send through the tunnel; 0.0.0.0/0 and ::/0 take everything (client.routes)
    #[arg(long, value_name = "CIDR", value_parser = parse_argument::<IpNet>)]
    route: Vec<IpNet>,
    /// File that holds the key shared with the server (client.preshared_key_file)
    #[arg(long, value_name = "FILE", value_parser = parse_argument::<PathBuf>)]
    preshared_key_file: Option<PathBuf>,
    /// Seconds of silence before an empty packet keeps NAT mappings open; 0: never
    /// (client.keepalive_s)
    #[arg(long, value_name = "S")]
    keepalive: Option<Keepalive>,
    /// Read what a login needs and no file holds from standard input, a line each: the password,
    /// and a code if the server asks for one
    #[arg(long)]
    password_stdin: bool,
}

impl ServeArgs {
    /// What the flags alone say.
    pub(super) fn source_without_file(self) -> Source {
        Source { file: None, ..self.source() }
    }

    fn source(self) -> Source {
        let file = self.shared.file.config.clone();
        let section = Role::Server.section();
        let mut overrides = self.shared.overrides(section);
        overrides.set_list("--listen", section, "listen", self.listen);
        Source { file, overrides: overrides.0, peers: self.peers }
    }
}

impl UpArgs {
    /// What the flags alone say.
    pub(super) fn source_without_file(self) -> Source {
        Source { file: None, ..self.source() }
    }

    /// Accepts the invite, if there is one, or finds what has become of it.
    fn find_profile(&mut self) -> Result<(), CliError> {
        let Some(target) = self.target.take() else { return Ok(()) };
        let text = match target.as_str() {
            "-" => Zeroizing::new(io::read_to_string(io::stdin()).map_err(CliError::failure)?),
            _ => Zeroizing::new(target),
        };
        let path = match Invite::is_meant(&text) {
            true => {
                let invite = text.parse().map_err(CliError::failure)?;
                profile::accept(&invite, &self.state_directory)?
            }
            false => profile::find(text.trim(), &self.state_directory)?,
        };
        self.shared.file.config = Some(path);
        Ok(())
    }

    fn source(self) -> Source {
        let file = self.shared.file.config.clone();
        let section = Role::Client.section();
        let mut overrides: Overrides = self.shared.overrides(section);
        overrides.set("--server", section, "server", self.server);
        overrides.set("--server-key", section, "server_key", self.server_key);
        overrides.set_list("--route", section, "routes", self.route);
        let key_file = self.preshared_key_file;
        overrides.set("--preshared-key-file", section, "preshared_key_file", key_file);
        overrides.set("--keepalive", section, "keepalive_s", self.keepalive);
        Source { file, overrides: overrides.0, peers: Vec::new() }
    }
}

pub(crate) fn serve(args: ServeArgs) -> Result<(), CliError> {
    let source = args.source();
    let loaded = source.load_serve()?;
    start_logging(&loaded.config.log, &loaded.warnings);
    daemon::serve(loaded.config, source).map_err(logged)
}

pub(crate) fn up(mut args: UpArgs) -> Result<(), CliError> {
    args.find_profile()?;
    let answers = if args.password_stdin { Answers::Stdin } else { Answers::Terminal };
    let source = args.source();
    let loaded = source.load_up()?;
    start_logging(&loaded.config.log, &loaded.warnings);
    daemon::up(loaded.config, source, answers).map_err(logged)
}

pub(super) fn start_logging(config: &LogConfig, warnings: &Report) {
    logging::init(config.format, &config.level);
    for warning in warnings.lines() {
        log::warn!("{warning}");
    }
}

/// From here on stderr is the log, which may be read by a machine: errors go there too.
pub(super) fn logged(error: DaemonError) -> CliError {
    log::error!("{error}");
    CliError::silent(error.exit_code())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::FarSide;
    use clap::Parser;

    #[derive(Parser)]
    struct Serve {
        #[command(flatten)]
        args: ServeArgs,
    }

    #[derive(Parser)]
    struct Up {
        #[command(flatten)]
        args: UpArgs,
    }

    const KEY: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";

    #[test]
    fn every_flag_of_serve_reaches_the_configuration() {
        let peer = format!("{KEY}=10.77.0.2/32,fd77::2/128");
        let line = [
            "serve",
            "--listen",
            "192.0.2.1:1",
            "--listen",
            "[::1]:2",
            "--tun",
            "vpn%d",
            "--address",
            "10.77.0.1/24",
            "--address",
            "fd77::1/64",
            "--private-key-file",
            "/k",
            "--peer",
            &peer,
            "--workers",
            "2",
            "--cpus",
            "4,6-7",
            "--mtu",
            "1400",
            "--status-socket",
            "/s",
            "--log-format",
            "json",
            "--log-level",
            "warn",
            "--set",
            "tuning.copy_dscp=true",
            "--set",
            "tun.txqueuelen_packets=7",
        ];
        let loaded = Serve::parse_from(line).args.source().load_serve().unwrap();
        assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
        let config = loaded.config;
        assert_eq!(config.listen, ["192.0.2.1:1".parse().unwrap(), "[::1]:2".parse().unwrap()]);
        assert_eq!((config.tun.name.as_str(), config.tun.mtu), ("vpn%d", 1400));
        assert_eq!(config.tun.txqueuelen, 7);
        assert_eq!(config.addresses.len(), 2);
        assert_eq!(config.private_key_file, PathBuf::from("/k"));
        assert_eq!(config.peers[0].public_key, KEY.parse().unwrap());
        assert_eq!(config.peers[0].allowed_ips.len(), 2);
        assert_eq!((config.workers.count, config.workers.cpus), (Some(2), Some(vec![4, 6, 7])));
        assert_eq!(config.status_socket, PathBuf::from("/s"));
        assert_eq!(
            (config.log.format, config.log.level.as_str()),
            (logging::LogFormat::Json, "warn")
        );
        assert!(config.tuning.copy_dscp);
    }

    #[test]
    fn every_flag_of_up_reaches_the_configuration() {
        let line = [
            "up",
            "--server",
            "vpn.example.org:443",
            "--server-key",
            KEY,
            "--route",
            "0.0.0.0/0",
            "--route",
            "fd00::/8",
            "--private-key-file",
            "/k",
            "--preshared-key-file",
            "/p",
            "--keepalive",
            "25",
            "--address",
            "10.77.0.2/24",
            "--address",
            "fd77::2/64",
            "--set",
            "client.rekey_after_s=5",
        ];
        let config = Up::parse_from(line).args.source().load_up().unwrap().config;
        let FarSide::Known(far) = config.far_side else { panic!("{:?}", config.far_side) };
        assert_eq!((far.server.host(), far.server.port()), ("vpn.example.org", 443));
        assert_eq!(far.key, KEY.parse().unwrap());
        assert_eq!(config.routes.len(), 2);
        assert_eq!(far.preshared_key_file, Some(PathBuf::from("/p")));
        assert_eq!((config.keepalive_s, config.rekey_after_s), (Some(25), 5));
        assert_eq!((config.workers.count, config.workers.cpus), (None, None));
        assert_eq!(config.status_socket, Role::Client.status_socket());
    }

    #[test]
    fn flags_override_the_file_and_a_peer_flag_replaces_only_its_own_peer() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("server.toml");
        let other = KEY.replace('h', "i");
        let text = format!(
            "[server]\nprivate_key_file = \"/k\"\n[tun]\nmtu = 1300\naddresses = [\"10.0.0.1/8\"]\n\
             [[peer]]\npublic_key = \"{KEY}\"\nname = \"a\"\nallowed_ips = [\"10.1.0.0/16\"]\n\
             [[peer]]\npublic_key = \"{other}\"\nallowed_ips = [\"10.2.0.0/16\"]\n"
        );
        std::fs::write(&file, text).unwrap();
        let peer = format!("{KEY}=10.3.0.0/16");
        let line = ["serve", "-c", file.to_str().unwrap(), "--mtu", "1400", "--peer", &peer];
        let config = Serve::parse_from(line).args.source().load_serve().unwrap().config;
        assert_eq!(config.tun.mtu, 1400);
        assert_eq!(config.peers.len(), 2);
        assert_eq!(config.peers[0].name.as_deref(), Some("a"));
        assert_eq!(config.peers[0].allowed_ips, ["10.3.0.0/16".parse().unwrap()]);
        assert_eq!(config.peers[1].allowed_ips, ["10.2.0.0/16".parse().unwrap()]);
    }

    #[test]
    fn malformed_flags_are_usage_errors() {
        for line in [
            ["serve", "--mtu", "100"],
            ["serve", "--workers", "0"],
            ["serve", "--cpus", "3-1"],
            ["serve", "--address", "10.0.0.1"],
            ["serve", "--listen", "nowhere"],
            ["serve", "--peer", KEY],
            ["serve", "--tun", "a/b"],
            ["serve", "--set", "mtu=3"],
            ["serve", "--log-level", "loud"],
        ] {
            assert!(Serve::try_parse_from(line).is_err(), "{line:?}");
        }
    }
}
