//! Flags that stand for keys of the configuration.

use std::env;
use std::path::PathBuf;

use clap::Args;
use ipnet::IpNet;

use crate::config::{
    Auto, ConfigValue, CpuList, Directives, InterfaceName, Mtu, Override, PeerOverride, Workers,
    parse_argument, quoted,
};
use crate::handshake::keys::PublicKey;
use crate::telemetry::logging::LogFormat;

/// `-c FILE`
#[derive(Args, Clone, Debug)]
pub(crate) struct ConfigFile {
    /// Configuration file; flags override what it says
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

/// `--set SECTION.KEY=VALUE`
#[derive(Args, Debug)]
pub(crate) struct SetArgs {
    /// Override any key of the configuration, such as `--set tuning.udp_gro=false`; a flag made
    /// for the key wins
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE", value_parser = parse_set)]
    set: Vec<Override>,
}

impl SetArgs {
    pub(crate) fn overrides(self) -> Vec<Override> {
        self.set
    }
}

/// Flags that a server and a client share.
#[derive(Args, Debug)]
pub(crate) struct SharedArgs {
    #[command(flatten)]
    pub(crate) file: ConfigFile,
    /// Name of the TUN device; `%d` is replaced by a free number (tun.name)
    #[arg(long, value_name = "NAME", value_parser = parse_argument::<InterfaceName>)]
    tun: Option<InterfaceName>,
    /// Address of this end inside the tunnel, with prefix length (tun.addresses)
    #[arg(long, value_name = "CIDR", value_parser = parse_argument::<IpNet>)]
    address: Vec<IpNet>,
    /// File that holds the private key (private_key_file)
    #[arg(long, value_name = "FILE", value_parser = parse_argument::<PathBuf>)]
    private_key_file: Option<PathBuf>,
    #[command(flatten)]
    workers: WorkerArgs,
    /// Largest packet inside the tunnel, in bytes (tun.mtu)
    #[arg(long, value_name = "N")]
    mtu: Option<Mtu>,
    /// Where `corelane status` asks (status.socket)
    #[arg(long, value_name = "PATH", value_parser = parse_argument::<PathBuf>)]
    status_socket: Option<PathBuf>,
    #[command(flatten)]
    log: LogArgs,
    #[command(flatten)]
    set: SetArgs,
}

/// Flags about workers.
#[derive(Args, Debug)]
pub(crate) struct WorkerArgs {
    /// Number of workers, 1 to 128, or `auto` (workers.count)
    #[arg(long, value_name = "N")]
    workers: Option<Auto<Workers>>,
    /// CPUs to pin the workers to, such as `0-3,6`, or `auto` (workers.cpus)
    #[arg(long, value_name = "LIST")]
    cpus: Option<Auto<CpuList>>,
}

impl WorkerArgs {
    pub(crate) fn lay_over(self, overrides: &mut Overrides) {
        overrides.set("--workers", "workers", "count", self.workers);
        overrides.set("--cpus", "workers", "cpus", self.cpus);
    }
}

/// Flags about logs.
#[derive(Args, Debug)]
pub(crate) struct LogArgs {
    /// Log for people (`text`) or machines (`json`) (log.format)
    #[arg(long, value_name = "FORMAT", value_parser = parse_argument::<LogFormat>)]
    log_format: Option<LogFormat>,
    /// What to log, as in `RUST_LOG`, over which it wins (log.level)
    #[arg(long, value_name = "LEVEL", value_parser = parse_argument::<Directives>)]
    log_level: Option<Directives>,
}

impl LogArgs {
    pub(crate) fn lay_over(self, overrides: &mut Overrides) {
        overrides.set("--log-format", "log", "format", self.log_format);
        overrides.set("--log-level", "log", "level", self.log_level);
    }
}

impl SharedArgs {
    /// The overrides of these flags; `section` is the role's own.
    pub(crate) fn overrides(self, section: &str) -> Overrides {
        let mut overrides = Overrides::of_environment();
        overrides.0.extend(self.set.overrides());
        overrides.set("--tun", "tun", "name", self.tun);
        overrides.set_list("--address", "tun", "addresses", self.address);
        overrides.set("--private-key-file", section, "private_key_file", self.private_key_file);
        self.workers.lay_over(&mut overrides);
        overrides.set("--mtu", "tun", "mtu", self.mtu);
        overrides.set("--status-socket", "status", "socket", self.status_socket);
        self.log.lay_over(&mut overrides);
        overrides
    }
}

/// Values of flags on their way to the configuration, the last one for a key wins.
pub(crate) struct Overrides(pub(crate) Vec<Override>);

impl Overrides {
    /// What the environment says, which every flag wins over.
    pub(crate) fn of_environment() -> Self {
        let filter = env::var("RUST_LOG").ok().filter(|filter| !filter.is_empty());
        let of_filter = |filter: String| Override {
            flag: "RUST_LOG".to_owned(),
            section: "log".to_owned(),
            key: "level".to_owned(),
            toml: quoted(&filter),
        };
        Self(filter.map(of_filter).into_iter().collect())
    }

    /// Sets a key if the flag was given.
    pub(crate) fn set<T: ConfigValue>(
        &mut self,
        flag: &str,
        section: &str,
        key: &str,
        value: Option<T>,
    ) {
        if let Some(toml) = value.and_then(|value| value.to_toml()) {
            let (section, key) = (section.to_owned(), key.to_owned());
            self.0.push(Override { flag: flag.to_owned(), section, key, toml });
        }
    }

    /// Replaces a list if the flag was given at least once.
    pub(crate) fn set_list<T: ConfigValue>(
        &mut self,
        flag: &str,
        section: &str,
        key: &str,
        values: Vec<T>,
    ) {
        self.set(flag, section, key, (!values.is_empty()).then_some(values));
    }
}

fn parse_set(text: &str) -> Result<Override, String> {
    let parsed = text.split_once('=').and_then(|(path, toml)| {
        let (section, key) = path.trim().split_once('.')?;
        Some(Override {
            flag: "--set".to_owned(),
            section: section.to_owned(),
            key: key.to_owned(),
            toml: toml.trim().to_owned(),
        })
    });
    parsed.ok_or_else(|| "expected SECTION.KEY=VALUE, such as tuning.udp_gro=false".to_owned())
}

/// Parses `PUBKEY=CIDR[,CIDR...]`. A base64 key ends with `=` itself, so the last one divides.
pub(crate) fn parse_peer(text: &str) -> Result<PeerOverride, String> {
    let (key, prefixes) = text
        .rsplit_once('=')
        .filter(|(_, prefixes)| !prefixes.is_empty())
        .ok_or("expected PUBKEY=CIDR[,CIDR...]")?;
    let public_key = parse_argument::<PublicKey>(key)?;
    let allowed_ips = prefixes
        .split(',')
        .map(|prefix| parse_argument(prefix.trim()))
        .collect::<Result<_, _>>()?;
    Ok(PeerOverride { public_key, allowed_ips })
}
