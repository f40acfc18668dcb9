//! What no single key can be blamed for: keys that contradict each other.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::config::problems::{Origin, Problems};
use crate::config::schema::{Sections, Setting};
use crate::config::types::{CarrierMode, Switch};
use crate::config::values::Auto;
use crate::handshake::keys::PublicKey;
use crate::limits::{
    self, LEASE_DOMAINS_MAX, LEASE_ENDPOINTS_MAX, LEASE_NAME_SERVERS_MAX, LEASE_ROUTES_MAX,
};

/// What holds for both roles.
pub(crate) fn common(sections: &Sections, problems: &mut Problems) {
    own_addresses(sections, problems);
    workers_fit_cpus(sections, problems);
}

/// What holds for a server.
pub(crate) fn server(sections: &Sections, problems: &mut Problems) {
    tunnel_has_an_address(sections, problems);
    listeners(sections, problems);
    peer_keys(sections, problems);
    peer_prefixes(sections, problems);
    leases(sections, problems);
}

/// What holds for a client.
pub(crate) fn client(sections: &Sections, problems: &mut Problems) {
    let client = &sections.client;
    kill_switch(sections, problems);
    name_servers(sections, problems);
    key_has_an_owner(&client.server_key, problems);
    if !sections.client_login.servers.value.is_empty() {
        return logins(sections, problems);
    }
    if !sections.client_login.backup_servers.value.is_empty() {
        let what = "`backup_servers` are for when none of `servers` answers, and there is none";
        problems.error(sections.client_login.backup_servers.origin.clone(), what);
    }
    if client.carrier.value == CarrierMode::Tls {
        let what = "datagrams go over TLS only where there is a login";
        let help = "name the server in `servers` of [login], or leave `carrier` out";
        problems.error_with_help(client.carrier.origin.clone(), what, help);
    }
    tunnel_has_an_address(sections, problems);
    let addresses = &sections.tun.addresses.value;
    let has_family = |prefix: &IpNet| addresses.iter().any(|own| same_family(own, prefix));
    if let Some(route) = client.routes.value.iter().find(|route| !has_family(route)) {
        let family = if route.addr().is_ipv4() { "IPv4" } else { "IPv6" };
        let what = format!("`{route}` is routed into the tunnel, which has no {family} address");
        problems.warning(client.routes.origin.clone(), what);
    }
}

fn name_servers(sections: &Sections, problems: &mut Problems) {
    let dns = &sections.dns;
    if dns.servers.value.is_empty() && !dns.split.value.is_empty() {
        let what = "`split` names domains, and `servers` no name server that knows them";
        problems.error(dns.split.origin.clone(), what);
    }
    if dns.servers.value.len() > limits::DNS_SERVERS_MAX {
        let what = format!("more than {} name servers", limits::DNS_SERVERS_MAX);
        problems.error(dns.servers.origin.clone(), what);
    }
    if dns.search.value.len() + dns.split.value.len() > limits::DNS_DOMAINS_MAX {
        let what = format!("more than {} domains", limits::DNS_DOMAINS_MAX);
        problems.error(dns.search.origin.clone(), what);
    }
    let is_odd = |server: &&IpAddr| server.is_unspecified() || server.is_multicast();
    if let Some(server) = dns.servers.value.iter().find(is_odd) {
        problems.error(dns.servers.origin.clone(), format!("`{server}` is no name server"));
    }
}

/// The kill switch names the device before it exists, and finds what an earlier run left by it.
fn kill_switch(sections: &Sections, problems: &mut Problems) {
    let (client, name) = (&sections.client, &sections.tun.name);
    if client.kill_switch.value && name.value.0.contains('%') {
        let what = "with `kill_switch` the TUN device needs a fixed name";
        let help = "leave `%d` out of `name` in [tun]";
        problems.error_with_help(client.kill_switch.origin.clone(), what, help);
    }
    if !client.kill_switch.value && !client.kill_switch_allow.value.is_empty() {
        let what = "`kill_switch_allow` has no effect while `kill_switch` is false";
        problems.warning(client.kill_switch_allow.origin.clone(), what);
    }
}

fn same_family(one: &IpNet, other: &IpNet) -> bool {
    one.addr().is_ipv4() == other.addr().is_ipv4()
}

fn own_addresses(sections: &Sections, problems: &mut Problems) {
    let setting = &sections.tun.addresses;
    let mut seen = BTreeSet::new();
    for address in &setting.value {
        let mut refuse = |what: String| problems.error(setting.origin.clone(), what);
        let ip = address.addr();
        if ip.is_unspecified() || ip.is_multicast() || ip.is_loopback() {
            refuse(format!("`{address}` cannot be the address of an interface"));
        }
        if address.prefix_len() == 0 {
            refuse(format!("`{address}` would draw all traffic into the tunnel: use `routes`"));
        }
        if !seen.insert(ip) {
            refuse(format!("`{ip}` is there twice"));
        }
    }
}

fn tunnel_has_an_address(sections: &Sections, problems: &mut Problems) {
    let setting = &sections.tun.addresses;
    if setting.value.is_empty() && setting.origin == Origin::Default {
        let what = "the tunnel has no address of its own (`addresses` in [tun], or `--address`)";
        problems.warning(Origin::Default, what);
    }
}

/// What holds for a client that logs in.
fn logins(sections: &Sections, problems: &mut Problems) {
    let (client, login) = (&sections.client, &sections.client_login);
    for (key, origin) in [
        ("server", &client.server.origin),
        ("server_key", &client.server_key.origin),
        ("preshared_key_file", &client.preshared_key_file.origin),
    ] {
        if *origin != Origin::Default {
            let what = format!("`{key}` is not used: the servers of [login] say what it is");
            problems.warning(origin.clone(), what);
        }
    }
    let (certificate, key) = (&login.certificate_file, &login.certificate_key_file);
    for (one, other, missing) in
        [(certificate, key, "certificate_key_file"), (key, certificate, "certificate_file")]
    {
        if one.value.is_some() && other.value.is_none() && other.origin == Origin::Default {
            let what = format!("`{missing}` is missing: a certificate and its key go together");
            problems.error(one.origin.clone(), what);
        }
    }
    if login.ca_pin.value.is_some() && login.ca_file.value.is_some() {
        let what = "`ca_pin` and `ca_file` say both whom to trust";
        problems.error_with_help(login.ca_file.origin.clone(), what, "leave one of them out");
    }
}

/// What clients would refuse is not offered to them.
fn leases(sections: &Sections, problems: &mut Problems) {
    let lease = &sections.lease;
    for (key, count, most, origin) in [
        ("endpoints", lease.endpoints.value.len(), LEASE_ENDPOINTS_MAX, &lease.endpoints.origin),
        ("routes", lease.routes.value.len(), LEASE_ROUTES_MAX, &lease.routes.origin),
        (
            "dns_servers",
            lease.dns_servers.value.len(),
            LEASE_NAME_SERVERS_MAX,
            &lease.dns_servers.origin,
        ),
        (
            "search_domains",
            lease.search_domains.value.len(),
            LEASE_DOMAINS_MAX,
            &lease.search_domains.origin,
        ),
        (
            "split_domains",
            lease.split_domains.value.len(),
            LEASE_DOMAINS_MAX,
            &lease.split_domains.origin,
        ),
    ] {
        if count > most {
            let what = format!("{count} `{key}` are more than the {most} that a lease can have");
            problems.error(origin.clone(), what);
        }
    }
    pools_are_in_the_tunnel(sections, problems);
}

/// The host leads into the tunnel, and lets out, what is in the networks of its own addresses.
fn pools_are_in_the_tunnel(sections: &Sections, problems: &mut Problems) {
    let (pools, own) = (&sections.lease.pools, &sections.tun.addresses.value);
    for pool in &pools.value {
        if own.iter().any(|address| address.contains(pool)) {
            continue;
        }
        let what = format!(
            "the pool `{pool}` is in no network of `addresses`: nothing would lead there, and \
             nobody from there would be let out"
        );
        let first = pool.hosts().next().unwrap_or_else(|| pool.network());
        let help = format!(
            "add \"{first}/{}\" to `addresses`, or take the pool from one of the networks there",
            pool.prefix_len()
        );
        problems.error_with_help(pools.origin.clone(), what, help);
    }
}

pub(crate) fn workers_fit_cpus(sections: &Sections, problems: &mut Problems) {
    let workers = &sections.workers;
    let Auto::Chosen(cpus) = &workers.cpus.value else { return };
    let place = workers.cpus.origin.clone();
    if workers.pin.value == Switch::Off {
        let what = "`cpus` says where to pin workers, and `pin` says not to".to_owned();
        problems.error_with_help(place.clone(), what, "leave one of the two out");
    }
    match workers.count.value {
        Auto::Chosen(count) if count.as_usize() > cpus.0.len() => {
            let what = format!("{count} workers cannot be pinned to {} CPUs", cpus.0.len());
            problems.error_with_help(place, what, "list as many CPUs as workers, or more");
        }
        Auto::Auto if cpus.0.len() > limits::WORKERS_MAX => {
            let what = format!("one worker per CPU would be more than {}", limits::WORKERS_MAX);
            problems.error_with_help(place, what, "set `count`, or list fewer CPUs");
        }
        Auto::Auto | Auto::Chosen(_) => {}
    }
}

fn listeners(sections: &Sections, problems: &mut Problems) {
    let setting = &sections.server.listen;
    let mut refuse = |what: String| problems.error(setting.origin.clone(), what);
    if setting.value.is_empty() {
        refuse("a server must listen somewhere".to_owned());
    }
    // One more may be opened for carriers.
    let takes_logins = !sections.server_login.listen.value.is_empty();
    let most = limits::LISTENERS_MAX - usize::from(takes_logins);
    if setting.value.len() > most {
        let count = setting.value.len();
        return refuse(format!(
            "{count} addresses are more than the {most} possible: `[::]:PORT` takes all of a host"
        ));
    }
    let mut seen = BTreeSet::new();
    for address in &setting.value {
        if address.port() == 0 {
            refuse(format!("`{address}`: no client could know a port that the kernel chooses"));
        } else if !seen.insert(*address) {
            refuse(format!("`{address}` is there twice"));
        }
    }
    for address in &seen {
        if let Some(other) = seen.iter().find(|other| takes_too(other, address)) {
            refuse(format!("`{other}` takes `{address}` too: leave one of them out"));
        }
    }
}

/// Whether a socket on `wide` takes the datagrams to `address`, so that the kernel refuses to give
/// both away. `[::]` takes IPv4 as well, which it shows as `::ffff:a.b.c.d`.
fn takes_too(wide: &SocketAddr, address: &SocketAddr) -> bool {
    let (wide_ip, ip) = (wide.ip().to_canonical(), address.ip().to_canonical());
    let covers = match wide_ip {
        IpAddr::V6(wide_ip) => wide_ip.is_unspecified(),
        IpAddr::V4(wide_ip) => wide_ip.is_unspecified() && ip.is_ipv4(),
    };
    // Of two ways to write one address the IPv4 one is to stay.
    let same = wide_ip == ip && wide.is_ipv4() && address.is_ipv6();
    wide != address && wide.port() == address.port() && (covers || same)
}

fn peer_keys(sections: &Sections, problems: &mut Problems) {
    if sections.peers.is_empty() && sections.server_login.listen.value.is_empty() {
        let what = "no peer may connect (`[[peer]]`, or `--peer PUBKEY=CIDR`)";
        problems.warning(Origin::Default, what);
    }
    let mut seen = BTreeSet::new();
    for peer in &sections.peers {
        let Setting { value, origin } = &peer.keys.public_key;
        key_has_an_owner(&peer.keys.public_key, problems);
        match value {
            Some(key) if !seen.insert(*key) => {
                problems.error(origin.clone(), format!("two peers have the public key {key}"));
            }
            None if *origin == Origin::Default => problems.error_with_help(
                peer.place.clone(),
                "`public_key` is missing",
                "on the peer, `corelane key public < private.key` prints it",
            ),
            Some(_) | None => {}
        }
        let allowed_ips = &peer.keys.allowed_ips;
        if allowed_ips.value.is_empty() && allowed_ips.origin == Origin::Default {
            let what = "this peer owns no address (`allowed_ips`): it can connect, not talk";
            problems.warning(peer.place.clone(), what);
        }
    }
}

/// With a key of low order every secret is zero, so everybody would be its owner.
fn key_has_an_owner(setting: &Setting<Option<PublicKey>>, problems: &mut Problems) {
    if let Some(key) = setting.value.filter(PublicKey::is_low_order) {
        let what = format!("nobody can have a private key to {key}: its order is low");
        let help = "on the far side, `corelane key public < private.key` prints the right one";
        problems.error_with_help(setting.origin.clone(), what, help);
    }
}

fn peer_prefixes(sections: &Sections, problems: &mut Problems) {
    let own = &sections.tun.addresses.value;
    let mut owners: BTreeMap<IpNet, usize> = BTreeMap::new();
    let mut total = 0;
    for (position, peer) in sections.peers.iter().enumerate() {
        let Setting { value, origin } = &peer.keys.allowed_ips;
        let prefixes = value.iter().map(IpNet::trunc);
        total += value.len();
        for prefix in prefixes.clone() {
            if owners.insert(prefix, position).is_some_and(|owner| owner != position) {
                let what =
                    format!("`{prefix}` belongs to an earlier peer too: the last one has it");
                problems.warning(origin.clone(), what);
            }
            if own.iter().any(|own| is_host(&prefix, own.addr())) {
                problems
                    .warning(origin.clone(), format!("`{prefix}` is this server's own address"));
            }
        }
        let is_routed =
            |prefix: &IpNet| prefix.prefix_len() == 0 || own.iter().any(|own| own.contains(prefix));
        if let Some(prefix) = prefixes.clone().find(|prefix| !own.is_empty() && !is_routed(prefix))
        {
            let what = format!(
                "`{prefix}` lies outside the networks of this server's own addresses: the kernel \
                 needs a route for it (`ip route add {prefix} dev {}`)",
                sections.tun.name.value
            );
            problems.warning(origin.clone(), what);
        }
    }
    if total > limits::PREFIXES_MAX {
        let what = format!("{total} prefixes are more than the {} possible", limits::PREFIXES_MAX);
        problems.error(Origin::Default, what);
    }
}

/// Whether a prefix covers exactly one address, this one.
fn is_host(prefix: &IpNet, address: IpAddr) -> bool {
    prefix.prefix_len() == prefix.max_prefix_len() && prefix.addr() == address
}
