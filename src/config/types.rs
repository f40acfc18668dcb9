//! The configuration as the daemon takes it: plain, checked data.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;

use crate::accounts::store::DatabaseUrl;
use crate::config::access::{AccountsConfig, FarSide, LeaseConfig, LoginsConfig};
use crate::config::proxy::ProxyConfig;
use crate::handshake::keys::PublicKey;
use crate::host::resolver::{DnsMode, DnsRequest};
use crate::proxy::settings::Entrance;
use crate::telemetry::logging::LogFormat;

/// Bytes of an interface name, without the terminating zero of `IFNAMSIZ` (linux/if.h).
const INTERFACE_NAME_LEN_MAX: usize = 15;
/// One more than the highest CPU number, as `CPU_SETSIZE` (sched.h) has it.
const CPUS_MAX: usize = 1024;
/// Bytes of a host name (RFC 1035 section 2.3.4).
const HOST_NAME_LEN_MAX: usize = 253;
/// Characters of a peer's name.
const PEER_NAME_LEN_MAX: usize = 64;

/// Everything `corelane serve` needs to know.
#[derive(Clone, Debug)]
pub struct ServeConfig {
    /// Addresses to listen on; none twice, no port 0.
    pub listen: Vec<SocketAddr>,
    /// The TUN device.
    pub tun: TunConfig,
    /// The server's own inner addresses, with the prefix length of their network.
    pub addresses: Vec<IpNet>,
    /// Where the private key is.
    pub private_key_file: PathBuf,
    /// Who may connect; no key twice.
    pub peers: Vec<PeerConfig>,
    /// Whether clients are let out to the world.
    pub nat: NatMode,
    /// Who may log in, and where; nobody if `None`.
    pub logins: Option<LoginsConfig>,
    /// What those get who log in.
    pub lease: LeaseConfig,
    /// Ways into the proxy gateway; there is none without.
    pub proxies: Vec<Entrance>,
    /// How many workers, and where they run.
    pub workers: WorkersConfig,
    /// Where `corelane status` asks.
    pub status_socket: PathBuf,
    /// What to use of the kernel's offloads, and sizes.
    pub tuning: TuningConfig,
    /// What to log and how.
    pub log: LogConfig,
}

/// What a file says of whatever serves by it.
#[derive(Clone, Debug)]
pub enum Served {
    /// A server.
    Tunnel(Box<ServeConfig>),
    /// A proxy gateway without a tunnel.
    Gateway(Box<ProxyConfig>),
}

impl Served {
    /// Its accounts, if it has any.
    pub fn accounts(&self) -> Option<&AccountsConfig> {
        match self {
            Self::Tunnel(config) => config.logins.as_ref().map(|logins| &logins.accounts),
            Self::Gateway(config) => config.accounts.as_ref(),
        }
    }
}

/// Everything `corelane up` needs to know.
#[derive(Clone, Debug)]
pub struct UpConfig {
    /// Who the server is, and how it is known.
    pub far_side: FarSide,
    /// The TUN device.
    pub tun: TunConfig,
    /// The client's own inner addresses, with the prefix length of their network; those of the
    /// lease if there are none.
    pub addresses: Vec<IpNet>,
    /// Destinations to send through the tunnel, host bits cleared; those of the lease if there are
    /// none.
    pub routes: Vec<IpNet>,
    /// Where the private key is; in the state directory if a client that logs in has no other.
    pub private_key_file: Option<PathBuf>,
    /// How many workers, and where they run.
    pub workers: WorkersConfig,
    /// Seconds of silence after which an empty packet keeps NAT mappings open. `None`: never, or as
    /// the lease says.
    pub keepalive_s: Option<u16>,
    /// Seconds after which a session is replaced, 5 to 120.
    pub rekey_after_s: u16,
    /// Where `corelane status` asks.
    pub status_socket: PathBuf,
    /// Firewall mark of the tunnel's own packets, never 0.
    pub mark: u32,
    /// How datagrams go to a server that was logged in to.
    pub carrier: CarrierMode,
    /// Whether nothing may leave the host but through the tunnel. The TUN device has a fixed name
    /// then.
    pub kill_switch: bool,
    /// What may, nevertheless, host bits cleared.
    pub kill_switch_allow: Vec<IpNet>,
    /// Which name servers this host is to ask while the tunnel is there.
    pub dns: DnsRequest,
    /// How it is told of them.
    pub dns_mode: DnsMode,
    /// What to use of the kernel's offloads, and sizes.
    pub tuning: TuningConfig,
    /// What to log and how.
    pub log: LogConfig,
}

/// How datagrams go to a server that a client has logged in to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CarrierMode {
    /// Over UDP, and over TLS while that does not get through or loses much.
    Auto,
    /// Over UDP only.
    Udp,
    /// Over TLS, as long as there is such a connection.
    Tls,
}

impl FromStr for CarrierMode {
    type Err = Unacceptable;

    fn from_str(text: &str) -> Result<Self, Unacceptable> {
        let modes = [Self::Auto, Self::Udp, Self::Tls];
        let named = modes.into_iter().find(|mode| mode.to_string() == text);
        named.ok_or(Unacceptable("auto, udp or tls"))
    }
}

impl fmt::Display for CarrierMode {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Auto => "auto",
            Self::Udp => "udp",
            Self::Tls => "tls",
        })
    }
}

/// What a server's host does with packets that clients send to the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NatMode {
    /// Whatever the administrator has set up.
    Off,
    /// It forwards them with its own address as the source.
    Masquerade,
}

impl FromStr for NatMode {
    type Err = Unacceptable;

    fn from_str(text: &str) -> Result<Self, Unacceptable> {
        let modes = [Self::Off, Self::Masquerade];
        let named = modes.into_iter().find(|mode| mode.to_string() == text);
        named.ok_or(Unacceptable("masquerade or off"))
    }
}

impl fmt::Display for NatMode {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Off => "off",
            Self::Masquerade => "masquerade",
        })
    }
}

/// The TUN device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunConfig {
    /// Interface name; the kernel replaces `%d` by the first free number.
    pub name: String,
    /// Largest inner packet, in bytes.
    pub mtu: u16,
    /// Packets the kernel queues for the device before it drops.
    pub txqueuelen: u32,
}

/// One peer of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    /// Who it is.
    pub public_key: PublicKey,
    /// Inner prefixes it owns, host bits cleared.
    pub allowed_ips: Vec<IpNet>,
    /// Where the pre-shared key is, if there is one.
    pub preshared_key_file: Option<PathBuf>,
    /// What people call it, in logs.
    pub name: Option<String>,
}

/// What to use of the kernel's offloads, and sizes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TuningConfig {
    /// Send trains of datagrams in one call (`UDP_SEGMENT`).
    pub udp_gso: Switch,
    /// Receive trains of datagrams in one call (`UDP_GRO`).
    pub udp_gro: Switch,
    /// Let TUN hand over and take half-done checksums (`TUN_F_CSUM`).
    pub tun_checksum_offload: Switch,
    /// Let TUN hand over and take TCP super-packets (`TUN_F_TSO4`, `TUN_F_TSO6`).
    pub tun_tcp_segmentation: Switch,
    /// Let TUN hand over and take UDP super-packets (`TUN_F_USO4`, `TUN_F_USO6`).
    pub tun_udp_segmentation: Switch,
    /// Join received UDP packets into super-packets for TUN.
    pub coalesce_udp: Switch,
    /// Bytes of each UDP socket's receive and send buffer.
    pub socket_buffer_bytes: usize,
    /// Copy the DSCP of inner packets to the outer header.
    pub copy_dscp: bool,
    /// How long a worker without work looks for more before it sleeps.
    pub spin: Duration,
}

/// How many workers, and where they run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkersConfig {
    /// Number of workers, 1 to 128. `None`: one per entry of `cpus`, or per CPU this process may
    /// run on.
    pub count: Option<usize>,
    /// CPUs to pin the workers to, in worker order; at least as many as workers. `None`: those
    /// this process may run on.
    pub cpus: Option<Vec<usize>>,
    /// Whether to pin the workers at all; never `Off` where `cpus` are named.
    pub pin: Switch,
}

/// Whether to use something the kernel may or may not offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// Use it if it works.
    Auto,
    /// Use it if it works, and log a warning if it does not.
    On,
    /// Leave it alone.
    Off,
}

impl Switch {
    /// Whether to try.
    pub fn wanted(self) -> bool {
        self != Self::Off
    }

    /// Whether its absence deserves a warning.
    pub fn insisted(self) -> bool {
        self == Self::On
    }
}

/// What to log and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// For people or for machines.
    pub format: LogFormat,
    /// Levels by module, in the syntax of `RUST_LOG`.
    pub level: String,
}

/// A host name or address, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    host: String,
    port: u16,
}

impl HostPort {
    /// The name, or the address without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, never 0.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(out, "[{}]:{}", self.host, self.port)
        } else {
            write!(out, "{}:{}", self.host, self.port)
        }
    }
}

/// A text that is not acceptable as the value it was meant for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {0}")]
pub struct Unacceptable(pub(crate) &'static str);

impl FromStr for HostPort {
    type Err = Unacceptable;

    fn from_str(text: &str) -> Result<Self, Unacceptable> {
        let error = Unacceptable("a host name or address with port, such as vpn.example.org:20443");
        let (host, port) = text.rsplit_once(':').ok_or(error)?;
        let port = port.parse().ok().filter(|&port| port != 0).ok_or(error)?;
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let acceptable = match bracketed {
            // A scope ("%eth0") is the resolver's business.
            Some(inner) => {
                let address = inner.split('%').next().unwrap_or(inner);
                matches!(address.parse::<IpAddr>(), Ok(IpAddr::V6(_)))
            }
            None => is_host_name(host),
        };
        let host = bracketed.unwrap_or(host).to_owned();
        if acceptable { Ok(Self { host, port }) } else { Err(error) }
    }
}

fn is_host_name(text: &str) -> bool {
    (1..=HOST_NAME_LEN_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
        && !text.starts_with(['-', '.'])
}

/// Where accounts are kept, without a password that might be in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Database(pub(crate) String);

impl FromStr for Database {
    type Err = Unacceptable;

    fn from_str(text: &str) -> Result<Self, Unacceptable> {
        let has_password = match text.parse() {
            Ok(DatabaseUrl::Postgres(config)) => config.get_password().is_some(),
            Ok(DatabaseUrl::Sqlite(_)) => false,
            Err(_) => true,
        };
        let error = Unacceptable("the path of a file, or the address of a PostgreSQL database");
        if has_password { Err(error) } else { Ok(Self(text.to_owned())) }
    }
}

impl fmt::Display for Database {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// A DNS domain (RFC 1035 section 2.3.1, and `_`, which names of services begin with), without a
/// dot at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Domain(pub(crate) String);

impl FromStr for Domain {
    type Err = Unacceptable;

    fn from_str(text: &str) -> Result<Self, Unacceptable> {
        let is_label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        let text = text.strip_suffix('.').unwrap_or(text);
        let acceptable = text.len() <= HOST_NAME_LEN_MAX && text.split('.').all(is_label);
        if acceptable { Ok(Self(text.to_owned())) } else { Err(Unacceptable("a domain")) }
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// The name of a network interface, or a pattern with `%d` for the kernel to number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InterfaceName(pub(crate) String);

impl FromStr for InterfaceName {
    type Err = Unacceptable;

    /// As `dev_valid_name` (net/core/dev.c) has it, and no other conversion than one `%d`.
    fn from_str(text: &str) -> Result<Self, Unacceptable> {
        let plain = text.replacen("%d", "", 1);
        let acceptable = (1..=INTERFACE_NAME_LEN_MAX).contains(&text.len())
            && !matches!(text, "." | "..")
            && plain.bytes().all(|byte| byte.is_ascii_graphic() && !b"/:%".contains(&byte));
        let error = Unacceptable("an interface name of 1 to 15 characters");
        if acceptable { Ok(Self(text.to_owned())) } else { Err(error) }
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// What people call a peer. Printable, so that it cannot forge log lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PeerName(pub(crate) String);

impl FromStr for PeerName {
    type Err = Unacceptable;

    fn from_str(text: &str) -> Result<Self, Unacceptable> {
        let acceptable = (1..=PEER_NAME_LEN_MAX).contains(&text.chars().count())
            && !text.chars().any(char::is_control);
        let error = Unacceptable("a name of 1 to 64 printable characters");
        if acceptable { Ok(Self(text.to_owned())) } else { Err(error) }
    }
}

impl fmt::Display for PeerName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// CPU numbers in the order given, none twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CpuList(pub(crate) Vec<usize>);

impl FromStr for CpuList {
    type Err = Unacceptable;

    fn from_str(text: &str) -> Result<Self, Unacceptable> {
        let error = Unacceptable("CPU numbers and ranges, none twice, such as 0-3,6");
        let number = |text: &str| {
            text.parse::<usize>()
                .ok()
                .filter(|&cpu| cpu < CPUS_MAX && !text.starts_with('+'))
                .ok_or(error)
        };
        let mut cpus = Vec::new();
        for part in text.split(',').map(str::trim) {
            let (first, last) = match part.split_once('-') {
                Some((first, last)) => (number(first)?, number(last)?),
                None => (number(part)?, number(part)?),
            };
            if first > last {
                return Err(error);
            }
            cpus.extend(first..=last);
        }
        let distinct: BTreeSet<_> = cpus.iter().collect();
        if distinct.len() == cpus.len() { Ok(Self(cpus)) } else { Err(error) }
    }
}

impl fmt::Display for CpuList {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let runs = self.0.chunk_by(|&cpu, &next| next == cpu + 1);
        for (position, run) in runs.enumerate() {
            if position > 0 {
                out.write_str(",")?;
            }
            match run {
                [only] => write!(out, "{only}")?,
                [first, .., last] => write!(out, "{first}-{last}")?,
                [] => {}
            }
        }
        Ok(())
    }
}

/// Log levels by module, in the syntax of `RUST_LOG`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Directives(pub(crate) String);

impl FromStr for Directives {
    type Err = Unacceptable;

    /// Stricter than `env_logger`, which takes a misspelt level for the name of a module.
    fn from_str(text: &str) -> Result<Self, Unacceptable> {
        let is_level = |text: &str| text.trim().parse::<log::LevelFilter>().is_ok();
        let is_module = |text: &str| {
            let text = text.trim();
            !text.is_empty()
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b":_-".contains(&byte))
        };
        let acceptable = text.split(',').all(|directive| match directive.split_once('=') {
            Some((module, level)) => is_module(module) && is_level(level),
            None => is_level(directive),
        });
        let error = Unacceptable("a log level, or levels by module");
        if acceptable { Ok(Self(text.to_owned())) } else { Err(error) }
    }
}

impl fmt::Display for Directives {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_and_port() {
        for text in
            ["vpn.example.org:1", "192.0.2.1:65535", "[2001:db8::1]:20443", "[fe80::1%eth0]:9"]
        {
            assert_eq!(text.parse::<HostPort>().map(|host| host.to_string()), Ok(text.to_owned()));
        }
        for text in [
            "",
            "host",
            "host:",
            ":1",
            "host:0",
            "host:65536",
            "::1:5",
            "[192.0.2.1]:5",
            "a b:1",
            "-a:1",
        ] {
            assert!(text.parse::<HostPort>().is_err(), "{text}");
        }
    }

    #[test]
    fn domains() {
        for text in ["corp.example.org", "local", "_tcp.a-b.c", "xn--bcher-kva.example", "a."] {
            let domain = text.parse::<Domain>().map(|domain| domain.to_string());
            assert_eq!(domain, Ok(text.trim_end_matches('.').to_owned()));
        }
        let long = "a.".repeat(127) + "a";
        for text in ["", ".", "a..b", "-a", "a-.b", "a b", "a\nb", "é", &"l".repeat(64), &long] {
            assert!(text.parse::<Domain>().is_err(), "{text}");
        }
    }

    #[test]
    fn cpu_lists() {
        let parsed = |text: &str| text.parse::<CpuList>().map(|list| list.0);
        assert_eq!(parsed("0-3,6"), Ok(vec![0, 1, 2, 3, 6]));
        assert_eq!(parsed("5, 1"), Ok(vec![5, 1]));
        for text in ["", "1,", "3-1", "0-2,1", "1024", "a", "-1", "1-", "+1", "1--2"] {
            assert!(parsed(text).is_err(), "{text}");
        }
        for text in ["0-3,6", "7", "5,1", "0-1023"] {
            assert_eq!(text.parse::<CpuList>().map(|list| list.to_string()), Ok(text.to_owned()));
        }
    }

    #[test]
    fn interface_names() {
        for text in ["corelane0", "a", "tun%d", "abcdefghijklmno"] {
            assert!(text.parse::<InterfaceName>().is_ok(), "{text}");
        }
        for text in ["", ".", "..", "a/b", "a b", "a:1", "abcdefghijklmnop", "%s", "%d%d", "é"] {
            assert!(text.parse::<InterfaceName>().is_err(), "{text}");
        }
    }

    #[test]
    fn log_directives_refuse_misspelt_levels() {
        for text in ["info", "WARN", "info,corelane::control=debug", "off"] {
            assert!(text.parse::<Directives>().is_ok(), "{text}");
        }
        for text in ["", "infos", "info,", "corelane::control", "=debug", "a=b"] {
            assert!(text.parse::<Directives>().is_err(), "{text}");
        }
    }
}
