//! `corelane proxy-client`: SOCKS and HTTP at this host, carried to a gateway.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use crate::accounts::names::Name;
use crate::cli::CliError;
use crate::cli::settings::{LogArgs, Overrides, WorkerArgs};
use crate::cli::tunnel::{logged, start_logging};
use crate::config::{ProxyListen, Source, Workers, parse_argument};
use crate::daemon::{self, Answers, FarGateway};
use crate::login::tls::Pin;
use crate::proxy::upstream::group::ServerAddress;
use crate::proxy::upstream::tls::TlsSettings;

#[derive(Args, Debug)]
pub(crate) struct ProxyClientArgs {
    /// The gateway, by name or address, where it listens by tls://
    #[arg(long, value_name = "HOST:PORT", value_parser = parse_server)]
    server: ServerAddress,
    /// Who comes; the password is asked for on the terminal
    #[arg(long, value_name = "USER", value_parser = parse_argument::<Name>)]
    user: Option<Name>,
    /// File that holds the password, or a token of the user (mode 0600)
    #[arg(
        long,
        value_name = "FILE",
        value_parser = parse_argument::<PathBuf>,
        requires = "user",
        conflicts_with = "password_stdin"
    )]
    password_file: Option<PathBuf>,
    /// Read the password from standard input, a line
    #[arg(long, requires = "user")]
    password_stdin: bool,
    /// File that holds a token, which says who comes by itself (mode 0600)
    #[arg(
        long,
        value_name = "FILE",
        value_parser = parse_argument::<PathBuf>,
        conflicts_with = "user"
    )]
    token_file: Option<PathBuf>,
    /// Certificate authorities that the gateway's certificate may be from, in PEM; none: those of
    /// the system
    #[arg(long, value_name = "FILE", value_parser = parse_argument::<PathBuf>)]
    ca_file: Option<PathBuf>,
    /// The one that it has to be from, by its pin, as `corelane init` prints it
    #[arg(
        long,
        value_name = "PIN",
        value_parser = parse_argument::<Pin>,
        conflicts_with = "ca_file"
    )]
    ca_pin: Option<Pin>,
    /// Certificate that is shown to a gateway that asks for one, in PEM
    #[arg(
        long,
        value_name = "FILE",
        value_parser = parse_argument::<PathBuf>,
        requires = "key_file"
    )]
    certificate_file: Option<PathBuf>,
    /// Its private key, in PEM (mode 0600)
    #[arg(
        long,
        value_name = "FILE",
        value_parser = parse_argument::<PathBuf>,
        requires = "certificate_file"
    )]
    key_file: Option<PathBuf>,
    /// Address and port to listen on
    #[arg(
        long,
        value_name = "ADDR:PORT",
        value_parser = parse_argument::<SocketAddr>,
        default_value = "127.0.0.1:1080"
    )]
    listen: Vec<SocketAddr>,
    /// Listen even where other hosts come: whoever reaches the address comes as the user
    #[arg(long)]
    allow_remote: bool,
    #[command(flatten)]
    workers: WorkerArgs,
    /// Where `corelane status` asks
    #[arg(long, value_name = "PATH", value_parser = parse_argument::<PathBuf>)]
    status_socket: Option<PathBuf>,
    #[command(flatten)]
    log: LogArgs,
}

fn parse_server(text: &str) -> Result<ServerAddress, String> {
    let bare = text.strip_prefix("https://").unwrap_or(text);
    let parsed = format!("https://{bare}").parse();
    parsed.map_err(|error| format!("expected HOST:PORT such as gateway.example.org:8443: {error}"))
}

impl ProxyClientArgs {
    fn parts(self) -> (Source, FarGateway) {
        let mut overrides = Overrides::of_environment();
        let listen = self.listen.into_iter().map(|address| ProxyListen { address, tls: false });
        overrides.set_list("--listen", "proxy", "listen", listen.collect());
        let allow_remote = self.allow_remote.then_some(true);
        overrides.set("--allow-remote", "proxy", "allow_remote", allow_remote);
        // Each worker has connections ready of its own, so few of them serve a single host best.
        overrides.set("--workers", "workers", "count", "1".parse::<Workers>().ok());
        self.workers.lay_over(&mut overrides);
        overrides.set("--status-socket", "status", "socket", self.status_socket);
        self.log.lay_over(&mut overrides);
        let far = FarGateway {
            server: self.server,
            tls: TlsSettings {
                ca_file: self.ca_file,
                pin: self.ca_pin,
                identity: self.certificate_file.zip(self.key_file),
            },
            user: self.user,
            password_file: self.password_file,
            token_file: self.token_file,
            answers: if self.password_stdin { Answers::Stdin } else { Answers::Terminal },
        };
        (Source { file: None, overrides: overrides.0, peers: Vec::new() }, far)
    }
}

pub(crate) fn run(args: ProxyClientArgs) -> Result<(), CliError> {
    let (source, far) = args.parts();
    let loaded = source.load_proxy()?;
    start_logging(&loaded.config.log, &loaded.warnings);
    daemon::proxy_client(loaded.config, far).map_err(logged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct ProxyClient {
        #[command(flatten)]
        args: ProxyClientArgs,
    }

    fn parse(line: &[&str]) -> Result<ProxyClientArgs, String> {
        let line = ["proxy-client"].iter().chain(line);
        ProxyClient::try_parse_from(line).map(|it| it.args).map_err(|error| error.to_string())
    }

    #[test]
    fn every_flag_arrives() {
        let pin = "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU";
        let line = ["--server", "gateway.example:8443", "--user", "ada", "--ca-pin", pin];
        let more = ["--listen", "[::1]:1", "--certificate-file", "/c", "--key-file", "/k"];
        let last = ["--workers", "3", "--password-file", "/p", "--status-socket", "/s"];
        let (source, far) = parse(&[&line[..], &more, &last].concat()).unwrap().parts();
        assert_eq!(far.server.to_string(), "https://gateway.example:8443");
        assert_eq!(far.user, Some("ada".parse().unwrap()));
        assert_eq!(far.tls.pin, Some(pin.parse().unwrap()));
        assert_eq!(far.tls.identity, Some(("/c".into(), "/k".into())));
        assert_eq!((far.password_file, far.token_file), (Some("/p".into()), None));
        let config = source.load_proxy().unwrap().config;
        assert_eq!(config.entrances[0].listen, ["[::1]:1".parse().unwrap()]);
        assert_eq!((config.workers.count, config.status_socket), (Some(3), Some("/s".into())));
        let (source, far) = parse(&["--server", "192.0.2.1:8443"]).unwrap().parts();
        let config = source.load_proxy().unwrap().config;
        assert_eq!(config.entrances[0].listen, ["127.0.0.1:1080".parse().unwrap()]);
        assert_eq!(config.workers.count, Some(1));
        assert!(far.user.is_none() && far.tls == TlsSettings::default());
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        let server = ["--server", "gateway.example:8443"];
        for more in [
            &["--user", "ada", "--token-file", "/t"][..],
            &["--password-file", "/p"],
            &["--password-stdin"],
            &["--certificate-file", "/c"],
            &["--key-file", "/k"],
            &["--user", "a:b"],
            &["--ca-pin", "x"],
        ] {
            assert!(parse(&[&server[..], more].concat()).is_err(), "{more:?}");
        }
        for server in ["gateway.example", "http://gateway.example:1", "gateway.example:0", ""] {
            assert!(parse(&["--server", server]).is_err(), "{server}");
        }
        let open = [&server[..], &["--listen", "0.0.0.0:1080"]].concat();
        let (source, _) = parse(&open).unwrap().parts();
        assert!(source.load_proxy().unwrap_err().to_string().contains("--allow-remote"));
        let (source, _) = parse(&[&open[..], &["--allow-remote"]].concat()).unwrap().parts();
        assert!(source.load_proxy().is_ok());
    }
}
