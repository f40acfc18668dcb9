//! From sections to the plain configuration of a role.

use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::config::access::{
    AccountsConfig, FarSide, KnownServer, LeaseConfig, LoginConfig, LoginsConfig,
};
use crate::config::checks;
use crate::config::problems::{Origin, Problems};
use crate::config::proxy::{self, ProxyConfig};
use crate::config::schema::{Role, Sections, Setting};
use crate::config::types::{
    Domain, LogConfig, PeerConfig, ServeConfig, Served, TunConfig, TuningConfig, UpConfig,
    WorkersConfig,
};
use crate::host::resolver::DnsRequest;

/// The configuration of a server, once `problems` has heard of everything that is wrong with it.
/// `None` if something indispensable is missing; a result is good only if there are no errors.
pub(crate) fn serve(sections: &Sections, problems: &mut Problems) -> Option<ServeConfig> {
    if sections.is_proxy_alone() && sections.server.private_key_file.value.is_none() {
        let help = "run it by `corelane proxy -c FILE`; one for a server has [server], too";
        let what = "this is a file for a proxy gateway without a tunnel";
        problems.error_with_help(Origin::Default, what, help);
        return None;
    }
    checks::common(sections, problems);
    checks::server(sections, problems);
    let place = place_of_role(sections);
    let private_key_file =
        require(&sections.server.private_key_file, &place, &PRIVATE_KEY_FILE, problems);
    let peers = peers(sections, problems);

    let logins = LoginsConfig::of(sections, problems);
    if sections.server_login.listen.value.is_empty() {
        let help = "say where people log in (`listen` in [login]), which opens accounts";
        proxy::miss_accounts(sections, help, problems);
    }

    Some(ServeConfig {
        listen: sections.server.listen.value.clone(),
        tun: tun(sections),
        addresses: sections.tun.addresses.value.clone(),
        private_key_file: private_key_file?,
        peers,
        nat: sections.server.nat.value,
        logins,
        lease: LeaseConfig::of(sections, problems),
        proxies: proxy::entrances(sections, problems),
        workers: workers(sections),
        status_socket: status_socket(sections, Role::Server),
        tuning: tuning(sections),
        log: log(sections),
    })
}

/// The configuration of a proxy gateway without a tunnel, on the same terms as [`serve`].
pub(crate) fn proxy(sections: &Sections, problems: &mut Problems) -> Option<ProxyConfig> {
    checks::workers_fit_cpus(sections, problems);
    let entrances = proxy::entrances(sections, problems);
    let is_for_a_server = sections.role_span.is_some();
    if is_for_a_server {
        let help = "the accounts of this file are those of a server: `corelane serve` has the \
                    gateway beside it, and without [server] it is a file for `corelane proxy`";
        proxy::miss_accounts(sections, help, problems);
    } else if !proxy::needs_accounts(sections) {
        proxy::warn_of_idle_accounts(sections, problems);
    }
    let opens_accounts = !is_for_a_server && proxy::needs_accounts(sections);
    if entrances.is_empty() && !sections.mentions_proxies {
        let help = "write a table `[[proxy]]` with `listen`, or say `--listen 127.0.0.1:1080`";
        problems.error_with_help(Origin::Default, "there is no proxy", help);
    }
    // That of a server is the server's own.
    let socket = &sections.status.socket;
    let status_socket = socket.value.clone().filter(|_| socket.origin != Origin::Default);
    Some(ProxyConfig {
        entrances,
        workers: workers(sections),
        status_socket,
        accounts: opens_accounts.then(|| AccountsConfig::of(sections)).flatten(),
        log: log(sections),
    })
}

/// The configuration of whatever serves by a file: a server, or a gateway without a tunnel.
pub(crate) fn served(sections: &Sections, problems: &mut Problems) -> Option<Served> {
    match sections.is_proxy_alone() {
        true => proxy(sections, problems).map(Box::new).map(Served::Gateway),
        false => serve(sections, problems).map(Box::new).map(Served::Tunnel),
    }
}

/// The configuration of a client, on the same terms as [`serve`].
pub(crate) fn up(sections: &Sections, problems: &mut Problems) -> Option<UpConfig> {
    checks::common(sections, problems);
    checks::client(sections, problems);
    let client = &sections.client;
    let far_side = match sections.client_login.servers.value.is_empty() {
        true => known_server(sections, problems).map(FarSide::Known),
        false => Some(FarSide::Login(LoginConfig::of(sections))),
    };

    Some(UpConfig {
        far_side: far_side?,
        tun: tun(sections),
        addresses: sections.tun.addresses.value.clone(),
        routes: without_host_bits(&client.routes, problems),
        private_key_file: client.private_key_file.value.clone(),
        workers: workers(sections),
        keepalive_s: Some(client.keepalive_s.value.as_u16()).filter(|&seconds| seconds > 0),
        rekey_after_s: client.rekey_after_s.value.as_u16(),
        status_socket: status_socket(sections, Role::Client),
        mark: client.firewall_mark.value.as_u32(),
        carrier: client.carrier.value,
        kill_switch: client.kill_switch.value,
        dns: dns(sections),
        dns_mode: sections.dns.mode.value,
        kill_switch_allow: without_host_bits(&client.kill_switch_allow, problems),
        tuning: tuning(sections),
        log: log(sections),
    })
}

/// The server of a client that does not log in.
fn known_server(sections: &Sections, problems: &mut Problems) -> Option<KnownServer> {
    let (client, place) = (&sections.client, place_of_role(sections));
    let server = require(&client.server, &place, &SERVER, problems);
    let key = require(&client.server_key, &place, &SERVER_KEY, problems);
    require(&client.private_key_file, &place, &PRIVATE_KEY_FILE, problems)?;
    let preshared_key_file = client.preshared_key_file.value.clone();
    Some(KnownServer { server: server?, key: key?, preshared_key_file })
}

/// A key that has no default and must be there.
struct Indispensable {
    key: &'static str,
    flag: &'static str,
    help: &'static str,
}

const PRIVATE_KEY_FILE: Indispensable = Indispensable {
    key: "private_key_file",
    flag: "--private-key-file",
    help: "make a key with `(umask 077; corelane key generate > private.key)`",
};
const SERVER: Indispensable = Indispensable {
    key: "server",
    flag: "--server",
    help: "the server's name or address and port, such as \"vpn.example.org:20443\"",
};
const SERVER_KEY: Indispensable = Indispensable {
    key: "server_key",
    flag: "--server-key",
    help: "on the server, `corelane key public < private.key` prints it",
};

fn require<T: Clone>(
    setting: &Setting<Option<T>>,
    place: &Origin,
    indispensable: &Indispensable,
    problems: &mut Problems,
) -> Option<T> {
    // With an origin but no value, a bad value has been reported already.
    if setting.value.is_none() && setting.origin == Origin::Default {
        let Indispensable { key, flag, help } = indispensable;
        let what = format!("`{key}` is missing (or `{flag}` on the command line)");
        problems.error_with_help(place.clone(), what, *help);
    }
    setting.value.clone()
}

fn place_of_role(sections: &Sections) -> Origin {
    sections.role_span.clone().map_or(Origin::Default, Origin::File)
}

fn peers(sections: &Sections, problems: &mut Problems) -> Vec<PeerConfig> {
    let mut peers = Vec::with_capacity(sections.peers.len());
    for peer in &sections.peers {
        let keys = &peer.keys;
        let allowed_ips = without_host_bits(&keys.allowed_ips, problems);
        // A peer without a key has been reported by the checks.
        if let Some(public_key) = keys.public_key.value {
            peers.push(PeerConfig {
                public_key,
                allowed_ips,
                preshared_key_file: keys.preshared_key_file.value.clone(),
                name: keys.name.value.clone().map(|name| name.0),
            });
        }
    }
    peers
}

/// The prefixes with their host bits cleared, as routing takes them.
pub(crate) fn without_host_bits(
    prefixes: &Setting<Vec<IpNet>>,
    problems: &mut Problems,
) -> Vec<IpNet> {
    if let Some(prefix) = prefixes.value.iter().find(|prefix| prefix.trunc() != **prefix) {
        let what =
            format!("`{prefix}` has bits set beyond its prefix: it is taken as {}", prefix.trunc());
        problems.warning(prefixes.origin.clone(), what);
    }
    prefixes.value.iter().map(IpNet::trunc).collect()
}

fn dns(sections: &Sections) -> DnsRequest {
    let names = |domains: &[Domain]| domains.iter().map(ToString::to_string).collect();
    let dns = &sections.dns;
    DnsRequest {
        servers: dns.servers.value.clone(),
        search: names(&dns.search.value),
        split: names(&dns.split.value),
    }
}

fn tun(sections: &Sections) -> TunConfig {
    TunConfig {
        name: sections.tun.name.value.0.clone(),
        mtu: sections.tun.mtu.value.as_u16(),
        txqueuelen: sections.tun.txqueuelen_packets.value.as_u32(),
    }
}

fn workers(sections: &Sections) -> WorkersConfig {
    let workers = &sections.workers;
    WorkersConfig {
        count: workers.count.value.chosen().map(|count| count.as_usize()),
        cpus: workers.cpus.value.clone().chosen().map(|cpus| cpus.0),
        pin: workers.pin.value,
    }
}

fn status_socket(sections: &Sections, role: Role) -> PathBuf {
    sections.status.socket.value.clone().unwrap_or_else(|| role.status_socket())
}

fn log(sections: &Sections) -> LogConfig {
    let log = &sections.log;
    LogConfig { format: log.format.value, level: log.level.value.0.clone() }
}

fn tuning(sections: &Sections) -> TuningConfig {
    let tuning = &sections.tuning;
    TuningConfig {
        udp_gso: tuning.udp_gso.value,
        udp_gro: tuning.udp_gro.value,
        tun_checksum_offload: tuning.tun_checksum_offload.value,
        tun_tcp_segmentation: tuning.tun_tcp_segmentation.value,
        tun_udp_segmentation: tuning.tun_udp_segmentation.value,
        coalesce_udp: tuning.coalesce_udp.value,
        socket_buffer_bytes: tuning.socket_buffer_bytes.value.as_usize(),
        copy_dscp: tuning.copy_dscp.value,
        spin: Duration::from_micros(tuning.spin_us.value.as_u32().into()),
    }
}
