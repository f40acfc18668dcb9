//! `corelane proxy`: SOCKS and HTTP without a tunnel.

use std::path::PathBuf;

use clap::Args;

use crate::cli::CliError;
use crate::cli::settings::{LogArgs, Overrides, WorkerArgs};
use crate::cli::tunnel::{logged, start_logging};
use crate::config::{PortRange, ProxyListen, ProxyProtocol, Source, parse_argument};
use crate::daemon;
use crate::proxy::dial::guard::Allowed;

#[derive(Args, Debug)]
pub(crate) struct ProxyArgs {
    /// Configuration file, of which `[[proxy]]`, `[accounts]`, `[workers]`, `[log]` and `[status]`
    /// count
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address and port to listen on, such as 127.0.0.1:1080: with a file, an entrance beside
    /// those of the file (proxy.listen)
    #[arg(
        long,
        value_name = "ADDR:PORT",
        value_parser = parse_argument::<ProxyListen>,
        required_unless_present = "config"
    )]
    listen: Vec<ProxyListen>,
    /// Listen even where other hosts come: whoever reaches the address may use the proxy
    /// (proxy.allow_remote)
    #[arg(long, requires = "listen")]
    allow_remote: bool,
    /// What is shown to clients at `--listen tls://ADDR:PORT`, in PEM (proxy.certificate_file)
    #[arg(long, value_name = "PATH", value_parser = parse_argument::<PathBuf>, requires = "listen")]
    certificate_file: Option<PathBuf>,
    /// Its private key, in PEM (proxy.key_file)
    #[arg(long, value_name = "PATH", value_parser = parse_argument::<PathBuf>, requires = "listen")]
    key_file: Option<PathBuf>,
    /// Let in only clients with a certificate of this authority, in PEM (proxy.client_ca_file)
    #[arg(long, value_name = "PATH", value_parser = parse_argument::<PathBuf>, requires = "listen")]
    client_ca_file: Option<PathBuf>,
    /// What clients may speak: socks5, socks4, http (proxy.protocols)
    #[arg(
        long,
        value_name = "PROTOCOL",
        value_delimiter = ',',
        value_parser = parse_argument::<ProxyProtocol>,
        requires = "listen"
    )]
    protocols: Vec<ProxyProtocol>,
    /// What may be dialled although it is denied by default: a prefix, or loopback, private,
    /// shared, link-local, metadata, multicast, reserved, own (proxy.allow)
    #[arg(
        long,
        value_name = "CIDR|KIND",
        value_delimiter = ',',
        value_parser = parse_argument::<Allowed>,
        requires = "listen"
    )]
    allow: Vec<Allowed>,
    /// Authorities for origins of `https://` URLs, in PEM; those of the system without one
    /// (proxy.origin_ca_file)
    #[arg(long, value_name = "PATH", value_parser = parse_argument::<PathBuf>, requires = "listen")]
    origin_ca_file: Option<PathBuf>,
    /// Ports at which clients of SOCKS5 send datagrams, such as 20000-20999 (proxy.udp_ports)
    #[arg(
        long,
        value_name = "FIRST-LAST",
        value_parser = parse_argument::<PortRange>,
        requires = "listen"
    )]
    udp_ports: Option<PortRange>,
    #[command(flatten)]
    workers: WorkerArgs,
    /// Where `corelane status` asks (status.socket)
    #[arg(long, value_name = "PATH", value_parser = parse_argument::<PathBuf>)]
    status_socket: Option<PathBuf>,
    #[command(flatten)]
    log: LogArgs,
}

impl ProxyArgs {
    fn source(self) -> Source {
        let mut overrides = Overrides::of_environment();
        overrides.set_list("--listen", "proxy", "listen", self.listen);
        let allow_remote = self.allow_remote.then_some(true);
        overrides.set("--allow-remote", "proxy", "allow_remote", allow_remote);
        overrides.set("--certificate-file", "proxy", "certificate_file", self.certificate_file);
        overrides.set("--key-file", "proxy", "key_file", self.key_file);
        overrides.set("--client-ca-file", "proxy", "client_ca_file", self.client_ca_file);
        overrides.set_list("--protocols", "proxy", "protocols", self.protocols);
        overrides.set_list("--allow", "proxy", "allow", self.allow);
        overrides.set("--origin-ca-file", "proxy", "origin_ca_file", self.origin_ca_file);
        overrides.set("--udp-ports", "proxy", "udp_ports", self.udp_ports);
        self.workers.lay_over(&mut overrides);
        overrides.set("--status-socket", "status", "socket", self.status_socket);
        self.log.lay_over(&mut overrides);
        Source { file: self.config, overrides: overrides.0, peers: Vec::new() }
    }
}

pub(crate) fn run(args: ProxyArgs) -> Result<(), CliError> {
    let source = args.source();
    let loaded = source.load_proxy()?;
    start_logging(&loaded.config.log, &loaded.warnings);
    daemon::proxy(loaded.config, source).map_err(logged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::detect::Protocol;
    use crate::proxy::dial::guard::Kind;
    use clap::Parser;

    #[derive(Parser)]
    struct Proxy {
        #[command(flatten)]
        args: ProxyArgs,
    }

    fn load(line: &[&str]) -> Result<crate::config::ProxyConfig, String> {
        let line = ["proxy"].iter().chain(line);
        let args = Proxy::try_parse_from(line).map_err(|error| error.to_string())?.args;
        let loaded = args.source().load_proxy().map_err(|error| error.to_string())?;
        Ok(loaded.config)
    }

    #[test]
    fn every_flag_reaches_the_configuration() {
        let config = load(&[
            "--listen",
            "192.0.2.1:1080",
            "--listen",
            "tcp://[::1]:1081",
            "--listen",
            "tls://[::1]:8443",
            "--certificate-file",
            "/c",
            "--key-file",
            "/k",
            "--client-ca-file",
            "/a",
            "--allow-remote",
            "--protocols",
            "socks5,http",
            "--allow",
            "private,192.0.2.0/24",
            "--origin-ca-file",
            "/o",
            "--udp-ports",
            "20000-20999",
            "--workers",
            "3",
            "--status-socket",
            "/s",
            "--log-level",
            "warn",
        ])
        .unwrap();
        let [entrance] = &config.entrances[..] else { panic!("{config:?}") };
        let listen = ["192.0.2.1:1080", "[::1]:1081"].map(|address| address.parse().unwrap());
        assert_eq!(entrance.listen, listen);
        assert_eq!(entrance.listen_tls, ["[::1]:8443".parse().unwrap()]);
        let tls = entrance.tls.as_ref().unwrap();
        assert_eq!(tls.files.certificate, PathBuf::from("/c"));
        assert_eq!(tls.files.key, PathBuf::from("/k"));
        assert_eq!(tls.files.client_ca, Some(PathBuf::from("/a")));
        assert!(tls.demands_certificate);
        assert_eq!(entrance.rules.protocols, [Protocol::Socks5, Protocol::Http]);
        let allowed = [Allowed::Kind(Kind::Private), "192.0.2.0/24".parse().unwrap()];
        assert_eq!(entrance.rules.guard.allowed, allowed);
        assert_eq!(entrance.rules.origins.ca_file, Some(PathBuf::from("/o")));
        assert_eq!(entrance.rules.udp_ports, Some(20_000..=20_999));
        for wrong in ["20", "0-9", "9-8", "1-65536", "-"] {
            let ports = format!("--udp-ports={wrong}");
            let error = load(&["--listen", "127.0.0.1:1", &ports]).unwrap_err();
            assert!(error.contains("20000-20999"), "{wrong}: {error}");
        }
        assert_eq!(config.workers.count, Some(3));
        assert_eq!(config.status_socket, Some(PathBuf::from("/s")));
        assert_eq!(config.log.level, "warn");
    }

    #[test]
    fn an_open_proxy_is_not_started_by_accident() {
        assert!(load(&[]).unwrap_err().contains("--listen"));
        for address in ["0.0.0.0:1080", "[::]:1080", "192.0.2.1:1080"] {
            let error = load(&["--listen", address]).unwrap_err();
            assert!(error.contains("--allow-remote") && error.contains("open"), "{error}");
        }
        for address in ["127.0.0.1:1080", "127.9.9.9:1", "[::1]:1080", "[::ffff:127.0.0.1]:1080"] {
            assert_eq!(load(&["--listen", address]).unwrap().status_socket, None);
        }
        // Nor is one for strangers without a certificate, and with one it is not open.
        let tls =
            ["--listen", "tls://0.0.0.0:8443", "--certificate-file", "/c", "--key-file", "/k"];
        assert!(load(&tls).unwrap_err().contains("open"));
        load(&[&tls[..], &["--client-ca-file", "/a"]].concat()).unwrap();
        let mixed = ["--listen", "tcp://0.0.0.0:1080", "--client-ca-file", "/a"];
        assert!(load(&[&tls[..], &mixed].concat()).unwrap_err().contains("1080"));
        let bare = load(&["--listen", "tls://127.0.0.1:8443", "--key-file", "/k"]).unwrap_err();
        assert!(bare.contains("certificate_file"), "{bare}");
        let twice = load(&["--listen", "127.0.0.1:1", "--listen", "127.0.0.1:1"]).unwrap_err();
        assert!(twice.contains("twice"), "{twice}");
    }
}
