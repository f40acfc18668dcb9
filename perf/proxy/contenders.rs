//! The proxies: how each is set up, and one that runs.

use std::env;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use corelane::lab::{Host, wait_until};
use corelane::login::pki::{PkiDirectory, ServerAddress, Validity};
use corelane::sys::clock;
use corelane::sys::signal::terminate;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use serde::Serialize;
use tempfile::TempDir;

use super::load::Road;
use super::{Failure, family};

/// Directories of programs for administrators, which the search path of others lacks.
const ADMINISTRATORS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];
/// How long a proxy may take until it listens, and until it has ended.
const UP_WITHIN: Duration = Duration::from_secs(20);
const DOWN_WITHIN: Duration = Duration::from_secs(5);
/// The directory of certificates.
const PKI: &str = "pki";
/// Clients that every proxy is to hold, if it can be told.
const CLIENTS_MAX: usize = 20_000;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Contender {
    /// No proxy at all.
    Direct,
    Corelane,
    Microsocks,
    Dante,
    Tinyproxy,
    Squid,
    #[value(name = "3proxy")]
    #[serde(rename = "3proxy")]
    ThreeProxy,
    V2ray,
}

/// How a client asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Protocol {
    Socks5,
    Connect,
    /// Requests that the proxy forwards, without a tunnel.
    Forward,
    /// SOCKS5 inside TLS.
    Tls,
}

impl Protocol {
    pub(crate) const ALL: [Self; 4] = [Self::Socks5, Self::Connect, Self::Forward, Self::Tls];

    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Socks5 => "SOCKS5",
            Self::Connect => "CONNECT",
            Self::Forward => "HTTP forwarding",
            Self::Tls => "SOCKS5 inside TLS",
        }
    }
}

impl Contender {
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Corelane => "Corelane",
            Self::Microsocks => "microsocks",
            Self::Dante => "dante",
            Self::Tinyproxy => "tinyproxy",
            Self::Squid => "squid",
            Self::ThreeProxy => "3proxy",
            Self::V2ray => "v2ray",
        }
    }

    /// Whether Corelane is to be compared with it.
    pub(crate) const fn is_peer(self) -> bool {
        !matches!(self, Self::Direct | Self::Corelane)
    }

    pub(crate) const fn speaks(self, protocol: Protocol) -> bool {
        match self {
            Self::Corelane => true,
            Self::Direct | Self::ThreeProxy | Self::V2ray => !matches!(protocol, Protocol::Tls),
            Self::Microsocks | Self::Dante => matches!(protocol, Protocol::Socks5),
            Self::Tinyproxy | Self::Squid => {
                matches!(protocol, Protocol::Connect | Protocol::Forward)
            }
        }
    }

    /// The file of its program; the direct way needs none.
    ///
    /// # Errors
    /// When it is not there, with the command that mends it.
    pub(crate) fn program(self) -> Result<Option<PathBuf>, Failure> {
        let name = match self {
            Self::Direct => return Ok(None),
            Self::Corelane => return own_program().map(Some),
            Self::Dante => "danted",
            other => other.title(),
        };
        let path = env::var_os("PATH").unwrap_or_default();
        let mut places = env::split_paths(&path).chain(ADMINISTRATORS.map(PathBuf::from));
        let found = places.find_map(|place| Some(place.join(name)).filter(|file| file.is_file()));
        found.map(Some).ok_or_else(|| {
            format!("{name} is not installed; perf/install-proxies installs what Debian has").into()
        })
    }

    /// The port of the first protocol; that of the second, where each has its own, is the next.
    const fn port(self) -> u16 {
        21_000 + 10 * self as u16
    }

    /// The arguments of its program, which may read a file of `directory` that is written here.
    fn arguments(self, directory: &Path) -> Result<Vec<String>, Failure> {
        let (port, file) = (self.port(), directory.join("config"));
        let path = file.display().to_string();
        let (arguments, config) = match self {
            Self::Direct => (vec![], String::new()),
            Self::Corelane => (
                vec!["proxy".into(), "-c".into(), path],
                format!(
                    "[log]\nlevel = \"warn\"\n[[proxy]]\n\
                     listen = [\"127.0.0.1:{port}\", \"tls://127.0.0.1:{}\"]\n\
                     certificate_file = {:?}\nkey_file = {:?}\n\
                     allow = [\"loopback\"]\nconnections_per_source_max = {CLIENTS_MAX}\n",
                    port + 1,
                    directory.join(PKI).join("server.crt"),
                    directory.join(PKI).join("server.key"),
                ),
            ),
            Self::Microsocks => (
                ["-i", "127.0.0.1", "-p", &port.to_string()].map(str::to_owned).into(),
                String::new(),
            ),
            Self::Dante => (
                vec!["-f".into(), path],
                format!(
                    "errorlog: stderr\ninternal: 127.0.0.1 port = {port}\nexternal: 127.0.0.1\n\
                     clientmethod: none\nsocksmethod: none\n\
                     client pass {{ from: 0.0.0.0/0 to: 0.0.0.0/0 }}\n\
                     socks pass {{ from: 0.0.0.0/0 to: 0.0.0.0/0 }}\n"
                ),
            ),
            Self::Tinyproxy => (
                vec!["-d".into(), "-c".into(), path],
                format!(
                    "Port {port}\nListen 127.0.0.1\nTimeout 600\nMaxClients {CLIENTS_MAX}\n\
                     LogLevel Critical\nAllow 127.0.0.1\n"
                ),
            ),
            Self::Squid => (
                vec!["-N".into(), "-f".into(), path],
                format!(
                    "http_port 127.0.0.1:{port}\nhttp_access allow all\ncache deny all\n\
                     access_log none\ncache_log /dev/null\npid_filename none\n\
                     netdb_filename none\npinger_enable off\ncoredump_dir none\n\
                     max_filedescriptors {}\nshutdown_lifetime 0 seconds\n",
                    2 * CLIENTS_MAX
                ),
            ),
            Self::ThreeProxy => (
                vec![path],
                format!(
                    "maxconn {CLIENTS_MAX}\nsocks -i127.0.0.1 -p{port}\n\
                     proxy -i127.0.0.1 -p{}\n",
                    port + 1
                ),
            ),
            Self::V2ray => (vec!["-config".into(), path], v2ray_config(port)),
        };
        fs::write(file, config)?;
        Ok(arguments)
    }
}

/// SOCKS5 at `port` and HTTP at the next, both straight to the origin.
fn v2ray_config(port: u16) -> String {
    let inbound = |port: u16, protocol: &str| {
        let listen = Ipv4Addr::LOCALHOST;
        serde_json::json!({ "listen": listen, "port": port, "protocol": protocol })
    };
    let log = serde_json::json!({ "loglevel": "error", "access": "none" });
    serde_json::json!({
        "log": log,
        "inbounds": [inbound(port, "socks"), inbound(port + 1, "http")],
        "outbounds": [{ "protocol": "freedom" }],
    })
    .to_string()
}

/// The program of this project, beside this one.
fn own_program() -> Result<PathBuf, Failure> {
    let here = env::current_exe()?;
    let directory = here.parent().and_then(Path::parent).ok_or("this program is nowhere")?;
    let program = directory.join("corelane");
    let is_there = program.is_file();
    is_there.then_some(()).ok_or_else(|| format!("{} is missing: build it", program.display()))?;
    Ok(program)
}

/// A proxy that runs, or the direct way. Dropping it ends the proxy.
pub(crate) struct Running {
    pub(crate) contender: Contender,
    child: Option<Child>,
    directory: TempDir,
    /// How its clients speak TLS.
    tls: Option<Arc<ClientConfig>>,
}

impl Running {
    /// Starts it on `host`, and waits until it listens.
    pub(crate) fn start(contender: Contender, host: &Host) -> Result<Self, Failure> {
        let directory = tempfile::tempdir()?;
        let mut running = Self { contender, child: None, directory, tls: None };
        let Some(program) = contender.program()? else { return Ok(running) };
        let messages = fs::File::create(running.messages())?;
        let mut command = host.command(program)?;
        command.args(contender.arguments(running.directory.path())?).env_remove("RUST_LOG");
        if contender == Contender::Corelane {
            running.tls = Some(make_certificates(running.directory.path())?);
            command.arg("--status-socket").arg(running.directory.path().join("status"));
        }
        command.stdin(Stdio::null()).stdout(messages.try_clone()?).stderr(messages);
        running.child = Some(command.spawn()?);
        for protocol in Protocol::ALL.into_iter().filter(|it| contender.speaks(*it)) {
            let address = running.address(protocol);
            let is_up = || TcpStream::connect(address).is_ok();
            let what = format!("{} to listen", contender.title());
            let waited = wait_until(UP_WITHIN, &what, || {
                (is_up() || running.ensure_alive().is_err()).then_some(())
            });
            running.ensure_alive()?;
            waited?;
        }
        Ok(running)
    }

    fn messages(&self) -> PathBuf {
        self.directory.path().join("messages")
    }

    fn address(&self, protocol: Protocol) -> SocketAddr {
        let is_at_second = match self.contender {
            Contender::ThreeProxy | Contender::V2ray => protocol != Protocol::Socks5,
            _ => protocol == Protocol::Tls,
        };
        (Ipv4Addr::LOCALHOST, self.contender.port() + u16::from(is_at_second)).into()
    }

    pub(crate) fn road(&self, protocol: Protocol) -> Road {
        match (self.contender, protocol) {
            (Contender::Direct, _) => Road::Direct,
            (_, Protocol::Socks5 | Protocol::Tls) => Road::Socks5(self.address(protocol)),
            (_, Protocol::Connect) => Road::Connect(self.address(protocol)),
            (_, Protocol::Forward) => Road::Forward(self.address(protocol)),
        }
    }

    /// How clients speak TLS by `protocol`, if they do.
    pub(crate) fn tls(&self, protocol: Protocol) -> Option<&Arc<ClientConfig>> {
        self.tls.as_ref().filter(|_| protocol == Protocol::Tls)
    }

    /// Fails if it has ended, with what it said.
    pub(crate) fn ensure_alive(&mut self) -> Result<(), Failure> {
        let ended = self.child.as_mut().map(Child::try_wait).transpose()?.flatten();
        let Some(status) = ended else { return Ok(()) };
        let messages = fs::read_to_string(self.messages()).unwrap_or_default();
        let name = self.contender.title();
        Err(format!("{name} ended with {status}: {}", messages.trim()).into())
    }

    /// CPU time that it has used, in seconds.
    pub(crate) fn cpu_seconds(&self) -> Result<f64, Failure> {
        self.child.as_ref().map_or(Ok(0.0), |child| family::cpu_seconds(child.id()))
    }

    /// Memory that it has, in bytes.
    pub(crate) fn memory_bytes(&self) -> Result<u64, Failure> {
        self.child.as_ref().map_or(Ok(0), |child| family::memory_bytes(child.id()))
    }
}

/// Certificates for a proxy on loopback, and a client that trusts no others.
fn make_certificates(directory: &Path) -> Result<Arc<ClientConfig>, Failure> {
    let (now, mut rng) = (clock::unix_time(), rand::rng());
    let pki = PkiDirectory::create(&directory.join(PKI), "perf", now, &mut rng)?;
    let here = [ServerAddress::Address(Ipv4Addr::LOCALHOST.into())];
    pki.issue_server(&here, Validity::days(now, 30), &mut rng)?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(pki.certificate())? {
        roots.add(certificate?)?;
    }
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    Ok(Arc::new(config))
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(child) = &mut self.child else { return };
        // Asked first, since some have children of their own to end. What fails has ended.
        let _ = terminate(child);
        let ended = || child.try_wait().ok().flatten();
        if wait_until(DOWN_WITHIN, "the proxy to end", ended).is_err() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Contender, Protocol, ValueEnum};

    #[test]
    fn everyone_speaks_something_at_a_port_of_its_own() {
        let mut ports = std::collections::BTreeSet::new();
        for contender in Contender::value_variants() {
            assert!(Protocol::ALL.into_iter().any(|protocol| contender.speaks(protocol)));
            assert!(ports.insert(contender.port()), "{contender:?}");
        }
    }
}
