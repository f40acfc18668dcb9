//! The client moves, the session stays.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use corelane::lab::{LINK, wait_until};

use crate::harness::{CLIENT_V4, Options, PATIENCE, PORT, SERVER_V4, SERVER_V6, Tunnel};
use crate::tools::{PingSummary, ping, run, start};

/// Where the server sees the client's paths.
fn endpoints(tunnel: &Tunnel) -> Vec<SocketAddr> {
    let paths = tunnel.server_session().paths;
    paths.iter().map(|path| path.endpoint.as_ref().unwrap().parse().unwrap()).collect()
}

/// Does something to the client's address while echoes are under way, until the server sees every
/// path as `moved` wants it. The session must stay.
fn stays_connected(
    tunnel: &Tunnel,
    change: impl FnOnce(),
    moved: impl Fn(&SocketAddr) -> bool,
) -> PingSummary {
    let client = tunnel.lab.client();
    let before = tunnel.client_session();
    assert!(!endpoints(tunnel).iter().any(&moved));
    let mut pings = start(client, &format!("ping -n -i 0.05 -w 60 {SERVER_V4}"));
    let answered = || pings.stdout().contains("icmp_seq=5 ").then_some(());
    wait_until(PATIENCE, "the first echoes", answered).unwrap();
    change();
    wait_until(PATIENCE, "every path to move", || {
        endpoints(tunnel).iter().all(&moved).then_some(())
    })
    .unwrap_or_else(|timeout| panic!("{timeout}: {:?}", endpoints(tunnel)));
    assert!(pings.is_running());
    ping(client, SERVER_V6, "-i 0 -c 10");
    ping(tunnel.lab.server(), CLIENT_V4, "-i 0 -c 10");
    let summary = PingSummary::of(&pings.interrupt());

    let after = tunnel.client_session();
    assert_eq!(after.rekeys, before.rekeys, "{after:#?}");
    assert!(after.session_age_s.unwrap() > before.session_age_s.unwrap() + 0.2);
    assert_eq!(tunnel.server_session().rekeys, 0);
    assert!(tunnel.server_session().session_age_s.unwrap() > before.session_age_s.unwrap());
    summary
}

/// Replaces the client's address, and the old one back again.
fn moves_between(old: &str, new: &str, length: u8, options: Options) {
    let tunnel = Tunnel::start(Options {
        workers: (2, 2),
        // The path that carries no echoes must show itself as well.
        client_flags: vec!["--keepalive=1".to_owned()],
        ..options
    });
    let client = tunnel.lab.client();
    for (from, to) in [(old, new), (new, old)] {
        let to_address: IpAddr = to.parse().unwrap();
        let change = || {
            run(client, &format!("ip address del {from}/{length} dev {LINK}"));
            run(client, &format!("ip address add {to}/{length} dev {LINK} nodad"));
        };
        let summary = stays_connected(&tunnel, change, |endpoint| endpoint.ip() == to_address);
        // Half a second's worth.
        assert!(summary.sent - summary.received <= 10, "{summary:?}");
    }
    let [server, client] = tunnel.drops();
    assert_eq!(server, BTreeMap::new());
    // While it has no address, the kernel has no source for the client's packets.
    assert!(client.keys().all(|reason| reason == "send_failed"), "{client:?}");
}

#[test]
fn a_session_follows_the_client_to_another_ipv4_address() {
    moves_between("192.0.2.2", "192.0.2.3", 24, Options::default());
}

#[test]
fn a_session_follows_the_client_to_another_ipv6_address() {
    moves_between("2001:db8::2", "2001:db8::3", 64, Options::at(format!("[2001:db8::1]:{PORT}")));
}

#[test]
fn a_session_survives_a_nat_that_forgets_its_mappings() {
    let tunnel = Tunnel::prepare(Options {
        routed: true,
        workers: (2, 2),
        client_flags: vec!["--keepalive=1".to_owned()],
        ..Options::default()
    });
    let router = tunnel.lab.router();
    run(router, "nft add table ip nat");
    run(router, "nft add chain ip nat out { type nat hook postrouting priority 100 ; }");
    let translate = |ports: &str| {
        run(router, "nft flush chain ip nat out");
        run(router, &format!("nft add rule ip nat out udp dport {PORT} masquerade to :{ports}"));
    };
    translate("30000-30999");
    let mut tunnel = tunnel;
    tunnel.start_server();
    tunnel.start_client();
    tunnel.await_echoes();
    assert!(endpoints(&tunnel).iter().all(|it| (30000..31000).contains(&it.port())));

    let router = tunnel.lab.router();
    let change = || {
        run(router, "nft flush chain ip nat out");
        run(
            router,
            &format!("nft add rule ip nat out udp dport {PORT} masquerade to :40000-40999"),
        );
        // The mappings of an address go with it.
        run(router, "ip address del 192.0.2.254/24 dev to-server");
        run(router, "ip address add 192.0.2.254/24 dev to-server");
    };
    stays_connected(&tunnel, change, |endpoint| (40000..41000).contains(&endpoint.port()));
    let summary = PingSummary::of(&crate::tools::attempt(
        tunnel.lab.client(),
        &format!("ping -n -c 5 -i 0.01 -W 5 {SERVER_V4}"),
    ));
    assert_eq!(summary.received, 5);
}
