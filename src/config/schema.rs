//! Every section and key of the configuration file: name, type, default, and what a reload does
//! with it. The reader, `config show` and the test of the annotated examples all work from this
//! table.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::path::PathBuf;

use ipnet::IpNet;
use toml::Spanned;
use toml::de::DeValue;

use crate::accounts::credentials::demand::{LoginPolicy, ProofSet};
use crate::accounts::names::Name;
use crate::config::problems::Origin;
use crate::config::proxy::{
    ClientMark, PortRange, ProxyAuth, ProxyListen, ProxyProtocol, ProxyTable, ViaName,
};
use crate::config::routes::{RuleSection, UpstreamSection};
use crate::config::types::{
    CarrierMode, CpuList, Database, Directives, Domain, HostPort, InterfaceName, NatMode, PeerName,
    Switch,
};
use crate::config::values::{Auto, Bounded, ConfigValue, Reader};
use crate::handshake::keys::PublicKey;
use crate::host::resolver::DnsMode;
use crate::host::routes::MARK_DEFAULT;
use crate::limits;
use crate::login::tls::Pin;
use crate::policy::acl::Action;
use crate::proxy::dial::guard::Allowed;
use crate::proxy::records::Format;
use crate::proxy::settings::{Auth, LogPlace};
use crate::telemetry::logging::LogFormat;

/// Number of workers.
pub(crate) type Workers = Bounded<1, { limits::WORKERS_MAX as u64 }>;
/// Bytes of the largest inner packet.
pub(crate) type Mtu = Bounded<{ limits::TUN_MTU_MIN as u64 }, { limits::TUN_MTU_MAX as u64 }>;
/// Packets in the queue of the TUN device.
pub(crate) type QueueLen = Bounded<1, 1_000_000>;
/// Seconds between keepalives; 0 is never.
pub(crate) type Keepalive = Bounded<0, { u16::MAX as u64 }>;
/// Days that history is kept.
pub(crate) type KeptDays = Bounded<1, { limits::KEPT_DAYS_MAX as u64 }>;
/// Days that usage is kept.
pub(crate) type UsageKeptDays =
    Bounded<{ limits::USAGE_KEPT_DAYS_MIN as u64 }, { limits::KEPT_DAYS_MAX as u64 }>;
/// Seconds that a lease lasts.
pub(crate) type LeaseSeconds =
    Bounded<{ limits::LEASE_MIN.as_secs() }, { limits::LEASE_MAX.as_secs() }>;
/// Seconds after which a client replaces a session.
pub(crate) type RekeyAfter =
    Bounded<{ limits::REKEY_AFTER_MIN.as_secs() }, { limits::REKEY_AFTER.as_secs() }>;
/// Firewall mark; 0 would mean no mark.
pub(crate) type Mark = Bounded<1, { u32::MAX as u64 }>;
/// Seconds that something of the proxy may take.
pub(crate) type ProxySeconds = Bounded<1, { limits::PROXY_SECONDS_MAX }>;
/// Seconds that a connection of the proxy may last; 0 is for ever.
pub(crate) type ProxyLasts = Bounded<0, { limits::PROXY_SECONDS_MAX }>;
/// Connections of the proxy in a second; 0 is no bound.
pub(crate) type ProxyRate = Bounded<0, { limits::PROXY_RATE_BOUND }>;
/// Connections of the proxy.
pub(crate) type ProxyConnections = Bounded<1, { limits::PROXY_CONNECTIONS_BOUND }>;
/// Connections to origins that a worker of the proxy keeps; 0: none.
pub(crate) type ProxyKept = Bounded<0, { limits::PROXY_KEPT_BOUND }>;
/// Connections that a worker of the proxy has ready to an upstream proxy; 0: none.
pub(crate) type ProxyReady = Bounded<0, { limits::PROXY_READY_BOUND }>;
/// Bytes of a socket buffer. The kernel doubles the figure, and its own bound is an `int`.
pub(crate) type Spin = Bounded<0, { limits::SPIN_MAX.as_micros() as u64 }>;
pub(crate) type SocketBuffer = Bounded<65_536, 1_000_000_000>;

/// The UDP port a server listens on by default. It lies below the range from which Linux takes
/// the ports of outgoing connections, so none of those can occupy it before the server starts.
pub const PORT_DEFAULT: u16 = 20443;

/// Where clients that log in keep their state, each in a directory of its own.
pub(crate) const STATE_DIRECTORY: &str = "/var/lib/corelane";
/// Where a server takes administrators' operations on its accounts.
pub const ACCOUNTS_SOCKET_DEFAULT: &str = "/run/corelane/accounts.sock";
/// Where the configuration of a server is looked for by commands that need to know it.
pub const SERVER_CONFIG_DEFAULT: &str = "/etc/corelane/server.toml";

/// Which end of a tunnel a configuration is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `corelane serve`.
    Server,
    /// `corelane up`.
    Client,
}

impl Role {
    /// The section that only this role has.
    pub fn section(self) -> &'static str {
        match self {
            Self::Server => ServerSection::NAME,
            Self::Client => ClientSection::NAME,
        }
    }

    /// The command that runs it.
    pub fn command(self) -> &'static str {
        match self {
            Self::Server => "corelane serve",
            Self::Client => "corelane up",
        }
    }

    /// Where its daemon answers `corelane status` by default.
    pub fn status_socket(self) -> PathBuf {
        match self {
            Self::Server => PathBuf::from("/run/corelane/serve.sock"),
            Self::Client => PathBuf::from("/run/corelane/up.sock"),
        }
    }
}

/// Where a gateway without a tunnel (`corelane proxy`) answers `corelane status` by default.
pub const PROXY_STATUS_SOCKET_DEFAULT: &str = "/run/corelane/proxy.sock";
/// Where `corelane proxy-client` does.
pub const PROXY_CLIENT_STATUS_SOCKET_DEFAULT: &str = "/run/corelane/proxy-client.sock";

/// What a reload (SIGHUP) does with a changed key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reload {
    /// The change is in force at once.
    Live,
    /// The change waits for the next start.
    Restart,
}

/// A value and where it came from.
#[derive(Clone, Debug)]
pub(crate) struct Setting<T> {
    pub(crate) value: T,
    pub(crate) origin: Origin,
}

impl<T> Setting<T> {
    pub(crate) fn by_default(value: T) -> Self {
        Self { value, origin: Origin::Default }
    }
}

impl<T: ConfigValue> Setting<T> {
    /// Takes the value over if it is acceptable; the reader hears about it if not. The origin
    /// moves in either case, so that a bad value is not reported as missing on top.
    pub(crate) fn read(&mut self, value: &Spanned<DeValue<'_>>, reader: &mut Reader<'_>) {
        self.origin = reader.origin(value.span());
        if let Some(value) = T::read(value, reader) {
            self.value = value;
        }
    }
}

/// One key as `config show` and the test of the examples see it.
pub(crate) struct Entry {
    pub(crate) key: &'static str,
    /// The value in TOML; `None` if the key is absent.
    pub(crate) toml: Option<String>,
    pub(crate) origin: Origin,
    /// What the key takes.
    #[cfg_attr(not(test), expect(dead_code, reason = "the examples are checked against it"))]
    pub(crate) takes: String,
    #[cfg_attr(not(test), expect(dead_code, reason = "the examples are checked against it"))]
    pub(crate) reload: Reload,
}

/// One table of the file.
pub(crate) trait Section {
    /// Its name between brackets.
    const NAME: &'static str;
    /// Its keys, in the order they are shown.
    const KEYS: &'static [&'static str];
    /// Sets a key from a TOML value; `false` if there is no such key.
    fn set(&mut self, value: &Spanned<DeValue<'_>>, reader: &mut Reader<'_>) -> bool;
    /// Every key with its value.
    fn entries(&self) -> Vec<Entry>;
}

/// Declares a section: the struct, its defaults and its [`Section`] implementation.
macro_rules! section {
    (
        $(#[$meta:meta])*
        $Section:ident = $name:literal {
            $($(#[$key_meta:meta])* $key:ident: $Type:ty = $default:expr, $reload:ident;)*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug)]
        pub(crate) struct $Section {
            $($(#[$key_meta])* pub(crate) $key: Setting<$Type>,)*
        }

        impl Default for $Section {
            fn default() -> Self {
                Self { $($key: Setting::by_default($default),)* }
            }
        }

        impl Section for $Section {
            const NAME: &'static str = $name;
            const KEYS: &'static [&'static str] = &[$(stringify!($key)),*];

            fn set(&mut self, value: &Spanned<DeValue<'_>>, reader: &mut Reader<'_>) -> bool {
                match reader.key {
                    $(stringify!($key) => self.$key.read(value, reader),)*
                    _ => return false,
                }
                true
            }

            fn entries(&self) -> Vec<Entry> {
                vec![$(Entry {
                    key: stringify!($key),
                    toml: self.$key.value.to_toml(),
                    origin: self.$key.origin.clone(),
                    takes: <$Type>::takes(),
                    reload: Reload::$reload,
                }),*]
            }
        }
    };
}
pub(crate) use section;

section! {
    /// `[server]`
    ServerSection = "server" {
        listen: Vec<SocketAddr> =
            vec![SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT_DEFAULT))], Restart;
        private_key_file: Option<PathBuf> = None, Restart;
        nat: NatMode = NatMode::Off, Restart;
    }
}

section! {
    /// `[client]`
    ClientSection = "client" {
        server: Option<HostPort> = None, Restart;
        server_key: Option<PublicKey> = None, Restart;
        private_key_file: Option<PathBuf> = None, Restart;
        preshared_key_file: Option<PathBuf> = None, Live;
        routes: Vec<IpNet> = Vec::new(), Live;
        keepalive_s: Keepalive = Keepalive::clamped(0), Live;
        rekey_after_s: RekeyAfter = RekeyAfter::clamped(limits::REKEY_AFTER.as_secs()), Live;
        firewall_mark: Mark = Mark::clamped(u64::from(MARK_DEFAULT)), Restart;
        carrier: CarrierMode = CarrierMode::Auto, Restart;
        kill_switch: bool = false, Restart;
        kill_switch_allow: Vec<IpNet> = Vec::new(), Restart;
    }
}

section! {
    /// `[login]` of a server
    ServerLoginSection = "login" {
        listen: Vec<SocketAddr> = Vec::new(), Restart;
        certificate_file: Option<PathBuf> = None, Restart;
        key_file: Option<PathBuf> = None, Restart;
        client_ca_file: Option<PathBuf> = None, Restart;
        client_crl_file: Option<PathBuf> = None, Restart;
        require: Vec<ProofSet> = LoginPolicy::default().alternatives().to_vec(), Restart;
    }
}

section! {
    /// `[accounts]`
    AccountsSection = "accounts" {
        server_name: Option<Name> = None, Restart;
        database: Database = Database(format!("{STATE_DIRECTORY}/accounts.db")), Restart;
        database_file: Option<PathBuf> = None, Restart;
        spool_file: PathBuf = PathBuf::from(STATE_DIRECTORY).join("accounts.spool"), Restart;
        audit_log_file: Option<PathBuf> = None, Restart;
        audit_kept_days: KeptDays = KeptDays::clamped(400), Restart;
        sessions_kept_days: KeptDays = KeptDays::clamped(90), Restart;
        usage_kept_days: UsageKeptDays = UsageKeptDays::clamped(800), Restart;
        destinations_kept_days: KeptDays = KeptDays::clamped(30), Restart;
        isolate_clients: bool = true, Restart;
        socket: PathBuf = PathBuf::from(ACCOUNTS_SOCKET_DEFAULT), Restart;
        without_rules: Action = Action::Allow, Restart;
    }
}

section! {
    /// `[login]` of a client
    ClientLoginSection = "login" {
        servers: Vec<HostPort> = Vec::new(), Restart;
        backup_servers: Vec<HostPort> = Vec::new(), Restart;
        ca_file: Option<PathBuf> = None, Restart;
        ca_pin: Option<Pin> = None, Restart;
        user: Option<Name> = None, Restart;
        password_file: Option<PathBuf> = None, Restart;
        token_file: Option<PathBuf> = None, Restart;
        certificate_file: Option<PathBuf> = None, Restart;
        certificate_key_file: Option<PathBuf> = None, Restart;
        device_name: Option<Name> = None, Restart;
        state_directory: Option<PathBuf> = None, Restart;
    }
}

section! {
    /// `[lease]`
    LeaseSection = "lease" {
        pools: Vec<IpNet> = Vec::new(), Restart;
        endpoints: Vec<HostPort> = Vec::new(), Live;
        routes: Vec<IpNet> = Vec::new(), Live;
        dns_servers: Vec<IpAddr> = Vec::new(), Live;
        search_domains: Vec<Domain> = Vec::new(), Live;
        split_domains: Vec<Domain> = Vec::new(), Live;
        mtu: Auto<Mtu> = Auto::Auto, Live;
        keepalive_s: Keepalive = Keepalive::clamped(25), Live;
        lasts_s: LeaseSeconds = LeaseSeconds::clamped(limits::LEASE_DEFAULT.as_secs()), Restart;
    }
}

section! {
    /// `[dns]` of a client
    DnsSection = "dns" {
        servers: Vec<IpAddr> = Vec::new(), Live;
        search: Vec<Domain> = Vec::new(), Live;
        split: Vec<Domain> = Vec::new(), Live;
        mode: DnsMode = DnsMode::Auto, Restart;
    }
}

section! {
    /// `[tun]`
    TunSection = "tun" {
        name: InterfaceName = InterfaceName("corelane0".to_owned()), Restart;
        addresses: Vec<IpNet> = Vec::new(), Restart;
        mtu: Mtu = Mtu::clamped(u64::from(limits::TUN_MTU_DEFAULT)), Restart;
        txqueuelen_packets: QueueLen = QueueLen::clamped(1000), Restart;
    }
}

section! {
    /// `[workers]`
    WorkersSection = "workers" {
        count: Auto<Workers> = Auto::Auto, Restart;
        cpus: Auto<CpuList> = Auto::Auto, Restart;
        pin: Switch = Switch::Auto, Restart;
    }
}

section! {
    /// `[tuning]`
    TuningSection = "tuning" {
        udp_gso: Switch = Switch::Auto, Restart;
        udp_gro: Switch = Switch::Auto, Restart;
        tun_checksum_offload: Switch = Switch::Auto, Restart;
        tun_tcp_segmentation: Switch = Switch::Auto, Restart;
        tun_udp_segmentation: Switch = Switch::Auto, Restart;
        coalesce_udp: Switch = Switch::Auto, Restart;
        socket_buffer_bytes: SocketBuffer = SocketBuffer::clamped(8 << 20), Restart;
        copy_dscp: bool = false, Restart;
        spin_us: Spin = Spin::clamped(limits::SPIN_DEFAULT.as_micros() as u64), Restart;
    }
}

section! {
    /// `[log]`
    LogSection = "log" {
        format: LogFormat = LogFormat::Text, Restart;
        level: Directives = Directives("info".to_owned()), Restart;
    }
}

section! {
    /// `[status]`
    StatusSection = "status" {
        /// The role's own default stands in for `None`.
        socket: Option<PathBuf> = None, Restart;
    }
}

section! {
    /// One `[[peer]]`
    PeerSection = "peer" {
        public_key: Option<PublicKey> = None, Live;
        allowed_ips: Vec<IpNet> = Vec::new(), Live;
        preshared_key_file: Option<PathBuf> = None, Live;
        name: Option<PeerName> = None, Live;
    }
}

section! {
    /// One `[[proxy]]`
    ProxySection = "proxy" {
        listen: Vec<ProxyListen> = Vec::new(), Restart;
        allow_remote: bool = false, Restart;
        certificate_file: Option<PathBuf> = None, Restart;
        key_file: Option<PathBuf> = None, Restart;
        client_ca_file: Option<PathBuf> = None, Restart;
        client_crl_file: Option<PathBuf> = None, Restart;
        certificate_required: bool = true, Restart;
        proxy_protocol_from: Vec<IpNet> = Vec::new(), Live;
        auth: ProxyAuth = ProxyAuth(Auth::Off), Live;
        auth_from: Vec<IpNet> = Vec::new(), Live;
        protocols: Vec<ProxyProtocol> = ProxyProtocol::all(), Live;
        allow: Vec<Allowed> = Vec::new(), Live;
        udp_ports: Option<PortRange> = None, Live;
        origin_ca_file: Option<PathBuf> = None, Live;
        dial_from: Vec<IpAddr> = Vec::new(), Live;
        request_within_s: ProxySeconds =
            ProxySeconds::clamped(limits::PROXY_REQUEST_WITHIN.as_secs()), Live;
        dial_within_s: ProxySeconds =
            ProxySeconds::clamped(limits::PROXY_DIAL_WITHIN.as_secs()), Live;
        bind_within_s: ProxySeconds =
            ProxySeconds::clamped(limits::PROXY_BIND_WITHIN.as_secs()), Live;
        response_within_s: ProxySeconds =
            ProxySeconds::clamped(limits::PROXY_RESPONSE_WITHIN.as_secs()), Live;
        keep_alive_s: ProxySeconds =
            ProxySeconds::clamped(limits::PROXY_KEEP_ALIVE.as_secs()), Live;
        kept_max: ProxyKept = ProxyKept::clamped(limits::PROXY_KEPT_MAX as u64), Live;
        kept_per_origin_max: ProxyKept =
            ProxyKept::clamped(limits::PROXY_KEPT_PER_ORIGIN_MAX as u64), Live;
        kept_s: ProxySeconds = ProxySeconds::clamped(limits::PROXY_KEPT_LASTS.as_secs()), Live;
        via: Option<ViaName> = None, Live;
        forwarded: ClientMark = ClientMark::OFF, Live;
        x_forwarded_for: ClientMark = ClientMark::OFF, Live;
        idle_max_s: ProxySeconds = ProxySeconds::clamped(limits::PROXY_IDLE_MAX.as_secs()), Live;
        lasts_max_s: ProxyLasts = ProxyLasts::clamped(0), Live;
        connections_max: ProxyConnections =
            ProxyConnections::clamped(limits::PROXY_CONNECTIONS_MAX as u64), Live;
        connections_per_source_max: ProxyConnections =
            ProxyConnections::clamped(limits::PROXY_CONNECTIONS_PER_SOURCE_MAX as u64), Live;
        connections_per_user_max: ProxyConnections =
            ProxyConnections::clamped(limits::PROXY_CONNECTIONS_MAX as u64), Live;
        connections_per_user_per_s: ProxyRate = ProxyRate::clamped(0), Live;
        connections_per_source_per_s: ProxyRate = ProxyRate::clamped(0), Live;
        usage_by_destination: bool = false, Live;
        access_log: Option<LogPlace> = None, Restart;
        access_log_format: Format = Format::Text, Restart;
    }
}

/// One `[[peer]]` and where it is.
#[derive(Clone, Debug)]
pub(crate) struct PeerTable {
    pub(crate) place: Origin,
    pub(crate) keys: PeerSection,
}

/// A whole configuration, section by section, not yet checked as a whole.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sections {
    pub(crate) server: ServerSection,
    pub(crate) client: ClientSection,
    pub(crate) client_login: ClientLoginSection,
    pub(crate) server_login: ServerLoginSection,
    pub(crate) accounts: AccountsSection,
    pub(crate) lease: LeaseSection,
    pub(crate) dns: DnsSection,
    pub(crate) tun: TunSection,
    pub(crate) workers: WorkersSection,
    pub(crate) tuning: TuningSection,
    pub(crate) log: LogSection,
    pub(crate) status: StatusSection,
    pub(crate) peers: Vec<PeerTable>,
    pub(crate) proxies: Vec<ProxyTable>,
    /// Whether the file means to have proxies, well said or not.
    pub(crate) mentions_proxies: bool,
    /// Where the file has the table of the role, if it has.
    pub(crate) role_span: Option<Range<usize>>,
}

impl Sections {
    /// Defaults for `role`.
    pub(crate) fn of(role: Role) -> Self {
        let mut sections = Self::default();
        sections.status.socket = Setting::by_default(Some(role.status_socket()));
        sections
    }

    /// Sets a key of a table other than `[[peer]]`; `None` if `role` has no such table, `false` if
    /// the table has no such key.
    pub(crate) fn set(
        &mut self,
        role: Role,
        section: &str,
        value: &Spanned<DeValue<'_>>,
        reader: &mut Reader<'_>,
    ) -> Option<bool> {
        Some(match (role, section) {
            (Role::Server, ServerSection::NAME) => self.server.set(value, reader),
            (Role::Server, ServerLoginSection::NAME) => self.server_login.set(value, reader),
            (Role::Server, AccountsSection::NAME) => self.accounts.set(value, reader),
            (Role::Server, LeaseSection::NAME) => self.lease.set(value, reader),
            (Role::Server, ProxySection::NAME) => self.proxy_of_flags(reader).set(value, reader),
            (Role::Client, ClientSection::NAME) => self.client.set(value, reader),
            (Role::Client, ClientLoginSection::NAME) => self.client_login.set(value, reader),
            (Role::Client, DnsSection::NAME) => self.dns.set(value, reader),
            (_, TunSection::NAME) => self.tun.set(value, reader),
            (_, WorkersSection::NAME) => self.workers.set(value, reader),
            (_, TuningSection::NAME) => self.tuning.set(value, reader),
            (_, LogSection::NAME) => self.log.set(value, reader),
            (_, StatusSection::NAME) => self.status.set(value, reader),
            _ => return None,
        })
    }

    /// Whether there are proxies and no table of a server: the file is one for `corelane proxy`.
    pub(crate) fn is_proxy_alone(&self) -> bool {
        (self.mentions_proxies || !self.proxies.is_empty()) && self.role_span.is_none()
    }

    /// The `[[proxy]]` that flags describe: one beside those of the file.
    fn proxy_of_flags(&mut self, reader: &Reader<'_>) -> &mut ProxySection {
        let is_of_flags = |table: &ProxyTable| matches!(table.place, Origin::Flag(_));
        if !self.proxies.last().is_some_and(is_of_flags) {
            let place = reader.origin(0..0);
            self.proxies.push(ProxyTable { place, ..ProxyTable::default() });
        }
        let last = self.proxies.len() - 1;
        &mut self.proxies[last].keys
    }

    /// The tables a configuration of `role` consists of, without peers and proxies.
    pub(crate) fn entries(&self, role: Role) -> Vec<(&'static str, Vec<Entry>)> {
        let mut entries = match role {
            Role::Server => vec![
                (ServerSection::NAME, self.server.entries()),
                (ServerLoginSection::NAME, self.server_login.entries()),
                (AccountsSection::NAME, self.accounts.entries()),
                (LeaseSection::NAME, self.lease.entries()),
            ],
            Role::Client => vec![
                (ClientSection::NAME, self.client.entries()),
                (ClientLoginSection::NAME, self.client_login.entries()),
                (DnsSection::NAME, self.dns.entries()),
            ],
        };
        entries.extend([
            (TunSection::NAME, self.tun.entries()),
            (WorkersSection::NAME, self.workers.entries()),
            (TuningSection::NAME, self.tuning.entries()),
            (LogSection::NAME, self.log.entries()),
            (StatusSection::NAME, self.status.entries()),
        ]);
        entries
    }
}

/// A table and its keys.
pub(crate) type Table = (&'static str, &'static [&'static str]);

/// Every table that a configuration of `role` may have, with its keys.
pub(crate) fn tables(role: Role) -> &'static [Table] {
    match role {
        Role::Server => SERVER_TABLES,
        Role::Client => CLIENT_TABLES,
    }
}

const SERVER_TABLES: &[Table] = &[
    (ServerSection::NAME, ServerSection::KEYS),
    (TunSection::NAME, TunSection::KEYS),
    (WorkersSection::NAME, WorkersSection::KEYS),
    (TuningSection::NAME, TuningSection::KEYS),
    (LogSection::NAME, LogSection::KEYS),
    (StatusSection::NAME, StatusSection::KEYS),
    (PeerSection::NAME, PeerSection::KEYS),
    (ProxySection::NAME, ProxySection::KEYS),
    (RuleSection::NAME, RuleSection::KEYS),
    (UpstreamSection::NAME, UpstreamSection::KEYS),
    (ServerLoginSection::NAME, ServerLoginSection::KEYS),
    (AccountsSection::NAME, AccountsSection::KEYS),
    (LeaseSection::NAME, LeaseSection::KEYS),
];

const CLIENT_TABLES: &[Table] = &[
    (ClientSection::NAME, ClientSection::KEYS),
    (DnsSection::NAME, DnsSection::KEYS),
    (TunSection::NAME, TunSection::KEYS),
    (WorkersSection::NAME, WorkersSection::KEYS),
    (TuningSection::NAME, TuningSection::KEYS),
    (LogSection::NAME, LogSection::KEYS),
    (StatusSection::NAME, StatusSection::KEYS),
    (ClientLoginSection::NAME, ClientLoginSection::KEYS),
];
