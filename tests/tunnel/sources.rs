//! Which address a datagram leaves from while addresses and routes change under a session.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;

use corelane::host::netlink::{Netlink, VethEnd};
use corelane::lab::{LINK, wait_until};
use corelane::packet::{Parsed, Transport};

use crate::harness::{
    CLIENT_V4, CLIENT_V6, Options, PATIENCE, PORT, SERVER_V4, SERVER_V6, Tunnel, capture,
};
use crate::tools::{echo, ping, run};

/// A second link between the hosts, with 203.0.113.0/24 and 2001:db8:2::/64 on it.
const SECOND_LINK: &str = "link1";

/// The addresses of one family that a test speaks of.
struct Family {
    /// For `ip`.
    flag: &'static str,
    server: &'static str,
    /// The server's second address on the first link.
    server_second: &'static str,
    /// What follows an address of the first link.
    length: &'static str,
    client: &'static str,
    server_on_second_link: &'static str,
    client_on_second_link: &'static str,
    /// An address of the server that is on no link.
    inside_server: &'static str,
}

const V4: Family = Family {
    flag: "-4",
    server: "192.0.2.1",
    server_second: "192.0.2.11",
    length: "/24",
    client: "192.0.2.2",
    server_on_second_link: "203.0.113.1",
    client_on_second_link: "203.0.113.2",
    inside_server: "198.51.100.77",
};

const V6: Family = Family {
    flag: "-6",
    server: "2001:db8::1",
    server_second: "2001:db8::11",
    length: "/64",
    client: "2001:db8::2",
    server_on_second_link: "2001:db8:2::1",
    client_on_second_link: "2001:db8:2::2",
    inside_server: "2001:db8:5::77",
};

fn ip(address: &str) -> IpAddr {
    address.parse().unwrap()
}

/// A tunnel to one address of a server that listens on all of them; not started.
fn towards(server: &str) -> Tunnel {
    let tunnel = Tunnel::prepare(Options {
        workers: (2, 2),
        listen: vec![format!("[::]:{PORT}")],
        connect: SocketAddr::new(ip(server), PORT).to_string(),
        // The path that carries no echoes must show itself as well.
        client_flags: vec!["--keepalive=1".to_owned()],
        ..Options::default()
    });
    let (server, client) = (tunnel.lab.server(), tunnel.lab.client());
    let end = |host: &corelane::lab::Host| host.namespace().as_fd().try_clone_to_owned().unwrap();
    let (near, far) = (end(client), end(server));
    let end = |namespace| VethEnd { name: SECOND_LINK, namespace };
    client
        .run(|| Netlink::open()?.create_veth(end(near.as_fd()), end(far.as_fd()), 1500))
        .unwrap()
        .unwrap();
    for (host, [v4, v6]) in [
        (server, [V4.server_on_second_link, V6.server_on_second_link]),
        (client, [V4.client_on_second_link, V6.client_on_second_link]),
    ] {
        run(host, &format!("ip link set {SECOND_LINK} addrgenmode none up"));
        run(host, &format!("ip address add {v4}/24 dev {SECOND_LINK}"));
        run(host, &format!("ip -6 address add {v6}/64 dev {SECOND_LINK} nodad"));
    }
    for address in [V4.server_on_second_link, V6.server_on_second_link] {
        let reached = || echo(client, ip(address)).then_some(());
        wait_until(PATIENCE, "the second link", reached).unwrap();
    }
    tunnel
}

fn begin(tunnel: &mut Tunnel) {
    tunnel.remember_hosts();
    tunnel.start_server();
    tunnel.start_client();
    tunnel.await_echoes();
}

/// Waits until the server sees every path of the client at `address`.
#[track_caller]
fn await_client_at(tunnel: &Tunnel, address: &str) {
    let sees = || {
        let paths = tunnel.server_session().paths;
        let endpoint = |text: &Option<String>| text.as_ref()?.parse::<SocketAddr>().ok();
        let there = |text| endpoint(text).is_some_and(|it| it.ip() == ip(address));
        paths.iter().all(|path| there(&path.endpoint)).then_some(())
    };
    wait_until(PATIENCE, &format!("the client at {address}"), sees)
        .unwrap_or_else(|timeout| panic!("{timeout}: {:?}", tunnel.server_session().paths));
}

#[track_caller]
fn assert_it_works(tunnel: &Tunnel) {
    ping(tunnel.lab.client(), SERVER_V4, "-i 0 -c 10");
    ping(tunnel.lab.client(), SERVER_V6, "-i 0 -c 10");
    ping(tunnel.lab.server(), CLIENT_V4, "-i 0 -c 10");
    ping(tunnel.lab.server(), CLIENT_V6, "-i 0 -c 10");
    assert_eq!(tunnel.client_session().rekeys, 0, "the session stays");
    assert_eq!(tunnel.server_session().rekeys, 0, "the session stays");
}

/// The source addresses of the tunnel's datagrams that have left by a link.
fn sources(link: &mut corelane::sys::capture::Capture) -> BTreeSet<IpAddr> {
    let mut sources = BTreeSet::new();
    while let Some(captured) = link.receive().unwrap() {
        let Ok(parsed) = Parsed::parse(captured.packet) else { continue };
        if captured.outgoing && parsed.transport == Some(Transport::Udp) {
            sources.insert(parsed.source);
        }
    }
    sources
}

fn follows_a_better_route(family: &Family) {
    let mut tunnel = towards(family.server);
    begin(&mut tunnel);
    await_client_at(&tunnel, family.client);
    let Family { flag, server, server_on_second_link: via, .. } = family;
    let route = format!("{server} via {via} dev {SECOND_LINK}");
    run(tunnel.lab.client(), &format!("ip {flag} route add {route}"));
    await_client_at(&tunnel, family.client_on_second_link);
    let mut first = capture(tunnel.lab.client(), LINK);
    let mut second = capture(tunnel.lab.client(), SECOND_LINK);
    assert_it_works(&tunnel);
    assert_eq!(sources(&mut first), BTreeSet::new(), "nothing leaves the old way");
    let expected = BTreeSet::from([ip(family.client_on_second_link)]);
    assert_eq!(sources(&mut second), expected);

    run(tunnel.lab.client(), &format!("ip {flag} route del {route}"));
    await_client_at(&tunnel, family.client);
    assert_it_works(&tunnel);
}

#[test]
fn a_session_follows_a_better_ipv4_route() {
    follows_a_better_route(&V4);
}

#[test]
fn a_session_follows_a_better_ipv6_route() {
    follows_a_better_route(&V6);
}

fn survives_the_loss_of_its_server_address(family: &Family) {
    let Family { flag, server, server_second, length, .. } = family;
    let mut tunnel = towards(server_second);
    tunnel.options.workers = (1, 1);
    tunnel.write_server_config();
    tunnel.write_client_config();
    let add = format!("ip {flag} address add {server_second}{length} dev {LINK} nodad");
    // As the host will be in the end.
    tunnel.remember_hosts();
    run(tunnel.lab.server(), &add);
    tunnel.start_server();
    tunnel.start_client();
    tunnel.await_echoes();
    let leads_to = |address: &str| {
        let endpoint = tunnel.client_session().paths.remove(0).endpoint.unwrap();
        endpoint.parse::<SocketAddr>().unwrap().ip() == ip(address)
    };
    assert!(leads_to(server_second));
    run(tunnel.lab.server(), &add.replace("address add", "address del").replace(" nodad", ""));
    // The client cannot know; the first packet from the server tells it.
    let answered = || echo(tunnel.lab.server(), CLIENT_V4).then_some(());
    wait_until(PATIENCE, "an echo from another address", answered).unwrap();
    assert!(leads_to(server), "{:?}", tunnel.client_session().paths);
    assert_it_works(&tunnel);
}

#[test]
fn a_session_survives_the_loss_of_its_servers_ipv4_address() {
    survives_the_loss_of_its_server_address(&V4);
}

#[test]
fn a_session_survives_the_loss_of_its_servers_ipv6_address() {
    survives_the_loss_of_its_server_address(&V6);
}

fn answers_from_an_address_that_is_on_no_link(family: &Family) {
    let Family { flag, server, inside_server: inside, .. } = family;
    let mut tunnel = towards(inside);
    run(tunnel.lab.server(), &format!("ip {flag} address add {inside} dev lo"));
    run(tunnel.lab.client(), &format!("ip {flag} route add {inside} via {server}"));
    let mut link = capture(tunnel.lab.server(), LINK);
    begin(&mut tunnel);
    assert_it_works(&tunnel);
    assert_eq!(sources(&mut link), BTreeSet::from([ip(inside)]));
}

#[test]
fn answers_leave_from_an_ipv4_address_that_is_on_no_link() {
    answers_from_an_address_that_is_on_no_link(&V4);
}

#[test]
fn answers_leave_from_an_ipv6_address_that_is_on_no_link() {
    answers_from_an_address_that_is_on_no_link(&V6);
}

#[test]
fn a_rule_for_the_firewall_mark_chooses_the_link() {
    let mut tunnel = towards(V4.server);
    let client = tunnel.lab.client();
    let rule = "fwmark 193 table 51";
    let route = format!("{} via {} table 51", V4.server, V4.server_on_second_link);
    run(client, &format!("ip route add {route}"));
    tunnel.remember_hosts();
    let client = tunnel.lab.client();
    run(client, &format!("ip rule add {rule}"));
    let mut first = capture(client, LINK);
    tunnel.start_server();
    tunnel.start_client();
    tunnel.await_echoes();
    await_client_at(&tunnel, V4.client_on_second_link);
    assert_it_works(&tunnel);
    assert_eq!(sources(&mut first), BTreeSet::new());
    // Everybody else goes the ordinary way.
    ping(tunnel.lab.client(), V4.server.parse::<Ipv4Addr>().unwrap(), "-c 1");

    run(tunnel.lab.client(), &format!("ip rule del {rule}"));
    await_client_at(&tunnel, V4.client);
    assert_it_works(&tunnel);
    assert_eq!(sources(&mut first), BTreeSet::from([ip(V4.client)]));
    assert!(echo(tunnel.lab.client(), V6.server.parse::<Ipv6Addr>().unwrap()));
}
