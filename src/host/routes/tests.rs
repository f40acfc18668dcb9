use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::time::Duration;

use ipnet::IpNet;
use socket2::SockRef;

use super::marked_sources::SOURCE_VALID_MARK;
use super::{
    ClientRoutes, Leftovers, MARK_DEFAULT, RouteRequest, RoutesError, own_table,
    strict_reverse_path_interfaces,
};
use crate::host::link;
use crate::host::netlink::Netlink;
use crate::host::privileges::{describe_missing, drop_to, missing};
use crate::host::sysctl;
use crate::lab::addresses::{SERVER_V4, SERVER_V6};
use crate::lab::{Host, LabOptions, Routed};
use crate::sys::tun::{TunDevice, TunOffloadWish};

const FULL: &[&str] = &["0.0.0.0/0", "::/0", "10.0.0.0/8", "fd00:1::/32"];

fn lab() -> Routed {
    Routed::build(LabOptions::default())
        .expect("these tests need root: CAP_SYS_ADMIN and CAP_NET_ADMIN")
}

fn request(prefixes: &[&str]) -> RouteRequest {
    RouteRequest {
        prefixes: prefixes.iter().map(|prefix| prefix.parse().unwrap()).collect(),
        outside: vec![(SERVER_V4, 4500).into(), (SERVER_V6, 4500).into()],
        mark: MARK_DEFAULT,
    }
}

/// A TUN device that is up, with inner addresses, on a host.
fn open_tun(host: &Host, name: &str) -> TunDevice {
    let addresses: [IpNet; 2] = ["172.20.0.2/24".parse().unwrap(), "fd00:c::2/64".parse().unwrap()];
    let tun = host.run(|| {
        let tun = TunDevice::open(name, 1, TunOffloadWish::NONE).unwrap();
        link::bring_up(&mut Netlink::open().unwrap(), name, 1408, 1000, &addresses).unwrap();
        tun
    });
    // The kernel routes an IPv6 address to itself a moment after it was added.
    let local = format!("fd00:c::2 dev {name}");
    let routed = || ip(host, "-6 route show table local").contains(&local).then_some(());
    crate::lab::wait_until(Duration::from_secs(10), "the local route", routed).unwrap();
    tun.unwrap()
}

fn install(host: &Host, tun: &str, prefixes: &[&str]) -> Result<ClientRoutes, RoutesError> {
    host.run(|| ClientRoutes::install(tun, &request(prefixes))).unwrap()
}

fn ip(host: &Host, arguments: &str) -> String {
    let output = host.command("ip").unwrap().args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Everything of a host that routes decide on, as `ip` shows it.
fn snapshot(host: &Host) -> Vec<String> {
    ["-4 rule", "-6 rule", "-4 route show table all", "-6 route show table all", "-brief address"]
        .iter()
        .map(|what| ip(host, what))
        .collect()
}

/// The interface a packet to `address` leaves by.
fn leaves_by(host: &Host, address: &str, mark: u32) -> String {
    let route = ip(host, &format!("-oneline route get {address} mark {mark}"));
    let mut words = route.split_whitespace().skip_while(|word| *word != "dev");
    words.nth(1).unwrap().to_owned()
}

#[test]
fn a_full_tunnel_takes_everything_but_its_own_packets_and_the_neighbourhood() {
    let lab = lab();
    let _tun = open_tun(&lab.client, "vpn0");
    let _routes = install(&lab.client, "vpn0", FULL).unwrap();
    // (destination, mark, interface)
    #[rustfmt::skip]
    let cases = [
        /*  1: the world */            ("203.0.113.9", 0, "vpn0"),
        /*  2 */                       ("2001:db8:9::9", 0, "vpn0"),
        /*  3: the tunnel's packets */ ("203.0.113.9", MARK_DEFAULT, "link0"),
        /*  4 */                       ("2001:db8:9::9", MARK_DEFAULT, "link0"),
        /*  5 */                       ("192.0.2.1", MARK_DEFAULT, "link0"),
        /*  6: others' to the server */("192.0.2.1", 0, "vpn0"),
        /*  7: the neighbourhood */    ("198.51.100.77", 0, "link0"),
        /*  8 */                       ("2001:db8:1::77", 0, "link0"),
        /*  9: the tunnel's network */ ("172.20.0.9", 0, "vpn0"),
        /* 10: a further prefix */     ("10.7.7.7", 0, "vpn0"),
        /* 11: marked by another */    ("203.0.113.9", MARK_DEFAULT + 1, "vpn0"),
        /* 12: the host itself */      ("127.0.0.5", 0, "lo"),
    ];
    for (number, (address, mark, interface)) in (1..).zip(cases) {
        assert_eq!(leaves_by(&lab.client, address, mark), interface, "case {number}");
    }
}

/// Whether a datagram from a marked socket on the client comes back from the server.
fn server_answers(lab: &Routed, server: std::net::IpAddr) -> bool {
    let echo = lab.server.run(|| UdpSocket::bind((server, 0)).unwrap()).unwrap();
    let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = lab.client.run(|| UdpSocket::bind(any).unwrap()).unwrap();
    SockRef::from(&socket).set_mark(MARK_DEFAULT).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    echo.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut buffer = [0; 16];
    socket.send_to(b"hello", echo.local_addr().unwrap()).unwrap();
    let (length, from) = echo.recv_from(&mut buffer).unwrap();
    echo.send_to(&buffer[..length], from).unwrap();
    socket.recv(&mut buffer).is_ok()
}

#[test]
fn marked_datagrams_reach_the_server_and_its_answers_come_back() {
    let lab = lab();
    let _tun = open_tun(&lab.client, "vpn0");
    let _routes = install(&lab.client, "vpn0", FULL).unwrap();
    assert!(server_answers(&lab, SERVER_V4.into()));
    assert!(server_answers(&lab, SERVER_V6.into()));
}

#[test]
fn strict_reverse_path_filtering_is_noticed() {
    let lab = lab();
    let strict = |interface: &str, value: &str| {
        let name = format!("ipv4/conf/{interface}/rp_filter");
        lab.client.run(|| sysctl::write(&name, value).unwrap()).unwrap();
        lab.client.run(strict_reverse_path_interfaces).unwrap()
    };
    assert!(strict("all", "0").is_empty());
    strict("link0", "0");
    assert_eq!(strict("link0", "1"), ["link0"]);
    assert_eq!(strict("all", "2"), Vec::<String>::new());
    strict("link0", "0");
    assert_eq!(strict("all", "1"), ["link0"]);
}

#[test]
fn removing_leaves_everything_as_it_was() {
    let lab = lab();
    let _tun = open_tun(&lab.client, "vpn0");
    let before = snapshot(&lab.client);
    let mark_before = lab.client.run(|| sysctl::read(SOURCE_VALID_MARK)).unwrap().unwrap();
    let routes = install(&lab.client, "vpn0", FULL).unwrap();
    assert_ne!(snapshot(&lab.client), before);
    let valid = || lab.client.run(|| sysctl::read(SOURCE_VALID_MARK)).unwrap().unwrap();
    assert_eq!((mark_before.as_str(), valid().as_str()), ("0", "1"));
    lab.client.run(|| routes.remove().unwrap()).unwrap();
    assert_eq!(snapshot(&lab.client), before);
    assert_eq!(valid(), "0");

    // The same when it is dropped, and when the device is gone already.
    let routes = install(&lab.client, "vpn0", FULL).unwrap();
    lab.client.run(|| drop(routes)).unwrap();
    assert_eq!(snapshot(&lab.client), before);
}

#[test]
fn removing_works_after_the_device_is_gone() {
    let lab = lab();
    let before = snapshot(&lab.client);
    let tun = open_tun(&lab.client, "vpn0");
    let routes = install(&lab.client, "vpn0", FULL).unwrap();
    drop(tun);
    lab.client.run(|| routes.remove().unwrap()).unwrap();
    assert_eq!(snapshot(&lab.client), before);
}

/// A tunnel whose daemon is killed: what it has put in place stays.
fn crash(host: &Host, tun: TunDevice, prefixes: &[&str]) {
    std::mem::forget(install(host, &tun.name, prefixes).unwrap());
    close(host, tun);
}

/// Gives a TUN device up. A child process that has just been started may hold it a moment longer.
fn close(host: &Host, tun: TunDevice) {
    let name = tun.name.clone();
    drop(tun);
    let mut netlink = host.run(|| Netlink::open().unwrap()).unwrap();
    crate::lab::wait_until(Duration::from_secs(10), "the device to be closed", || {
        let gone = netlink.link(&name).map_or(true, |link| !link.carrier);
        gone.then_some(())
    })
    .unwrap();
}

/// Whether the host cannot send to an address.
fn refuses(host: &Host, address: &str) -> bool {
    let mut lookup = host.command("ip").unwrap();
    !lookup.args(["route", "get", address]).output().unwrap().status.success()
}

fn leftovers(host: &Host) -> Leftovers {
    host.run(|| Leftovers::find(&mut Netlink::open().unwrap()).unwrap()).unwrap()
}

#[test]
fn a_killed_tunnel_takes_its_own_over_without_a_gap() {
    let lab = lab();
    let clean = snapshot(&lab.client);
    crash(&lab.client, open_tun(&lab.client, "vpn0"), FULL);
    for round in 0..2 {
        assert!(refuses(&lab.client, "203.0.113.9") && refuses(&lab.client, "2001:db8:9::9"));
        let tun = open_tun(&lab.client, "vpn0");
        let told = told(&lab.client, || crash(&lab.client, tun, FULL));
        // The routes through the device come and go with it, and no others.
        let (gone, added): (Vec<_>, Vec<_>) = told.iter().partition(|it| it.starts_with("Deleted"));
        assert!(told.iter().all(|it| it.contains("dev vpn0")), "round {round}: {told:#?}");
        // Of those that go with the device, the kernel tells the IPv6 ones only.
        assert_eq!((added.len(), gone.len()), (6, 3), "round {round}: {told:#?}");
    }
    // The next one wants less, and under another mark.
    let less = RouteRequest { mark: MARK_DEFAULT + 1, ..request(&["0.0.0.0/0"]) };
    let tun = open_tun(&lab.client, "vpn0");
    let install = || lab.client.run(|| ClientRoutes::install("vpn0", &less).unwrap()).unwrap();
    let mut routes = None;
    let told = told(&lab.client, || routes = Some(install()));
    let first_gone = told.iter().position(|it| it.starts_with("Deleted")).unwrap();
    let last_added = told.iter().rposition(|it| !it.starts_with("Deleted")).unwrap();
    assert!(last_added < first_gone, "{told:#?}");
    assert_eq!(leaves_by(&lab.client, "203.0.113.9", 0), "vpn0");
    assert_eq!(leaves_by(&lab.client, "2001:db8:9::9", 0), "link0");
    drop(routes);
    close(&lab.client, tun);
    assert_eq!(snapshot(&lab.client), clean);
}

#[test]
fn a_start_that_fails_leaves_a_killed_tunnel_shut() {
    let lab = lab();
    crash(&lab.client, open_tun(&lab.client, "vpn0"), FULL);
    let shut = snapshot(&lab.client);
    ip(&lab.client, "route add 10.0.0.0/8 via 198.51.100.254");
    let tun = open_tun(&lab.client, "vpn0");
    assert!(matches!(install(&lab.client, "vpn0", FULL), Err(RoutesError::Taken { .. })));
    close(&lab.client, tun);
    ip(&lab.client, "route delete 10.0.0.0/8");
    assert_eq!(snapshot(&lab.client), shut);
}

#[test]
fn a_killed_tunnel_stays_shut_until_another_takes_as_much() {
    let lab = lab();
    let alive_tun = open_tun(&lab.client, "alive0");
    let alive = install(&lab.client, "alive0", &["10.0.0.0/8", "fd00:2::/32"]).unwrap();
    let before = snapshot(&lab.client);
    crash(&lab.client, open_tun(&lab.client, "dead0"), &["0.0.0.0/0", "::/0"]);
    assert!(leftovers(&lab.client).shut_anything());

    let is_shut = |v4: bool, v6: bool| {
        assert_eq!(refuses(&lab.client, "203.0.113.9"), v4);
        assert_eq!(refuses(&lab.client, "2001:db8:9::9"), v6);
    };
    is_shut(true, true);
    // Nor do the leftovers keep others from what they lead into a tunnel.
    assert_eq!(leaves_by(&lab.client, "10.7.7.7", 0), "alive0");
    let tun = open_tun(&lab.client, "vpn0");
    drop(install(&lab.client, "vpn0", &["172.16.0.0/12"]).unwrap());
    is_shut(true, true);
    let routes = install(&lab.client, "vpn0", &["0.0.0.0/0"]).unwrap();
    is_shut(false, true);
    assert_eq!(leaves_by(&lab.client, "203.0.113.9", 0), "vpn0");
    drop(routes);
    is_shut(false, true);
    drop(install(&lab.client, "vpn0", &["::/1", "8000::/1", "::/0"]).unwrap());
    is_shut(false, false);
    close(&lab.client, tun);
    assert_eq!(snapshot(&lab.client), before, "the tunnel that runs was left alone");
    assert!(!leftovers(&lab.client).shut_anything());
    drop((alive, alive_tun));
}

#[test]
fn a_tunnel_that_runs_under_another_name_now_is_not_taken_for_dead() {
    let lab = lab();
    let _tun = open_tun(&lab.client, "vpn0");
    let _routes = install(&lab.client, "vpn0", FULL).unwrap();
    ip(&lab.client, "link set vpn0 down");
    ip(&lab.client, "link set vpn0 name vpn1");
    ip(&lab.client, "link set vpn1 up");
    ip(&lab.client, &format!("route add default dev vpn1 table {} proto 193", own_table("vpn0")));
    assert!(!leftovers(&lab.client).shut_anything());
}

#[test]
fn where_a_killed_tunnel_had_its_server_is_remembered() {
    let lab = lab();
    let server_of = |tun: &str| leftovers(&lab.client).server_of(tun);
    assert_eq!(server_of("vpn0"), None);
    let tun = open_tun(&lab.client, "vpn0");
    let single = RouteRequest {
        outside: vec![(SERVER_V6, 4500).into()],
        ..request(&["0.0.0.0/0", "198.18.0.1/32"])
    };
    std::mem::forget(lab.client.run(|| ClientRoutes::install("vpn0", &single).unwrap()).unwrap());
    assert_eq!(server_of("vpn0"), None, "it runs");
    close(&lab.client, tun);
    assert_eq!(server_of("vpn0"), Some(SERVER_V6.into()), "although it takes IPv4 only");
    assert_eq!(server_of("vpn%d"), Some(SERVER_V6.into()));
    assert_eq!(server_of("vpn1"), None, "that is another tunnel's");
}

#[test]
fn a_persistent_device_that_nobody_holds_counts_as_killed() {
    let lab = lab();
    let before = snapshot(&lab.client);
    ip(&lab.client, "tuntap add dev keep0 mode tun multi_queue");
    crash(&lab.client, open_tun(&lab.client, "keep0"), FULL);

    let tun = open_tun(&lab.client, "vpn0");
    let clean = snapshot_without(&lab.client, "keep0");
    let routes = install(&lab.client, "vpn0", &["0.0.0.0/0", "::/0"]).unwrap();
    assert_eq!(leaves_by(&lab.client, "203.0.113.9", 0), "vpn0");
    assert_eq!(ip(&lab.client, "-4 rule").lines().count(), 5, "the kernel's own and two");
    lab.client.run(|| routes.remove().unwrap()).unwrap();
    assert_eq!(snapshot_without(&lab.client, "keep0").last(), clean.last());
    assert_eq!(ip(&lab.client, "-4 rule").lines().count(), 3, "the kernel's own");

    // And takes its own over.
    let kept = open_tun(&lab.client, "keep0");
    drop(install(&lab.client, "keep0", FULL).unwrap());
    assert_eq!(ip(&lab.client, "-4 rule").lines().count(), 3);
    ip(&lab.client, "link delete keep0");
    close(&lab.client, tun);
    close(&lab.client, kept);
    assert_eq!(snapshot(&lab.client), before);
}

/// A snapshot without the lines about one interface.
fn snapshot_without(host: &Host, interface: &str) -> Vec<String> {
    let keep = |text: String| {
        text.lines().filter(|line| !line.contains(interface)).collect::<Vec<_>>().join("\n")
    };
    snapshot(host).into_iter().map(keep).collect()
}

#[test]
fn an_update_changes_only_what_differs() {
    let lab = lab();
    let _tun = open_tun(&lab.client, "vpn0");
    let mut routes = install(&lab.client, "vpn0", &["10.0.0.0/8", "10.2.0.0/16"]).unwrap();
    let events = told(&lab.client, || {
        let mut update = |prefixes| routes.update(&request(prefixes)).unwrap();
        lab.client.run(|| update(&["10.0.0.0/8", "10.3.0.0/16"])).unwrap();
        lab.client.run(|| update(&["10.0.0.0/8", "0.0.0.0/0"])).unwrap();
    });
    assert!(!events.iter().any(|event| event.contains("10.0.0.0/8")), "{events:#?}");
    assert_eq!(events.len(), 11, "{events:#?}");
    assert!(events[0].contains("10.3.0.0/16") && events[1].starts_with("Deleted 10.2.0.0/16"));
    assert!(events[2].starts_with("default") && events[3].starts_with("unreachable default"));
    assert!(events[4].starts_with("192.0.2.1") && events[5].starts_with("unreachable 192.0.2.1"));
    assert!(events[6].starts_with("unreachable 2001:db8::1"));
    assert!(events[7].contains("suppress_prefixlength 0"));
    assert!(events[8].contains("not from all fwmark 0xc1"));
    assert!(events[9].starts_with("Deleted 10.3.0.0/16"));
    assert!(events[10].contains("table 1940000000"), "what src_valid_mark was");
    assert_eq!(leaves_by(&lab.client, "203.0.113.9", 0), "vpn0");
}

/// What the kernel was told of routes and rules of tunnels while `work` was done, by `ip monitor`.
fn told(host: &Host, work: impl FnOnce()) -> Vec<String> {
    let mut monitor = host.command("ip").unwrap();
    let mut monitor = monitor
        .args(["-oneline", "monitor", "route", "rule"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    wait_for_monitor(host, monitor.id());
    work();
    ip(host, "route add 198.19.0.0/16 dev lo");
    let output = BufReader::new(monitor.stdout.take().unwrap());
    let lines = output.lines().map(Result::unwrap).take_while(|line| !line.contains("198.19."));
    let told = lines.filter(|line| line.contains("proto 193")).collect();
    monitor.kill().unwrap();
    monitor.wait().unwrap();
    ip(host, "route delete 198.19.0.0/16 dev lo");
    told
}

/// Waits until `ip monitor` listens: its netlink socket has groups.
fn wait_for_monitor(host: &Host, pid: u32) {
    crate::lab::wait_until(Duration::from_secs(10), "ip monitor to listen", || {
        let sockets =
            host.run(|| std::fs::read_to_string("/proc/thread-self/net/netlink")).unwrap();
        let subscribed = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            words.get(2) == Some(&pid.to_string().as_str()) && words.get(3) != Some(&"00000000")
        };
        sockets.unwrap().lines().any(subscribed).then_some(())
    })
    .unwrap();
}

#[test]
fn a_destination_that_is_taken_is_refused_and_nothing_stays() {
    let lab = lab();
    let _tun = open_tun(&lab.client, "vpn0");
    ip(&lab.client, "route add 10.0.0.0/8 via 198.51.100.254");
    let before = snapshot(&lab.client);
    let error = install(&lab.client, "vpn0", FULL).unwrap_err();
    assert!(matches!(&error, RoutesError::Taken { destination } if destination.prefix_len() == 8));
    assert!(error.to_string().contains("ip route show 10.0.0.0/8"));
    assert_eq!(snapshot(&lab.client), before);
}

#[test]
fn two_full_tunnels_on_one_host_keep_apart() {
    let lab = lab();
    let (_one, _other) = (open_tun(&lab.client, "one0"), open_tun(&lab.client, "other0"));
    let first = install(&lab.client, "one0", &["0.0.0.0/0"]).unwrap();
    let before = snapshot(&lab.client);
    let second = install(&lab.client, "other0", &["0.0.0.0/0"]).unwrap();
    assert_eq!(leaves_by(&lab.client, "203.0.113.9", 0), "one0", "the first is asked first");
    assert_eq!(leaves_by(&lab.client, "203.0.113.9", MARK_DEFAULT), "link0");
    lab.client.run(|| second.remove().unwrap()).unwrap();
    assert_eq!(snapshot(&lab.client), before);
    drop(first);
}

#[test]
fn ipv6_prefixes_never_leak_past_a_device_without_ipv6() {
    let lab = lab();
    let _tun = open_tun(&lab.client, "vpn0");
    let switch_off = |interface: &str| {
        let name = format!("ipv6/conf/{interface}/disable_ipv6");
        lab.client.run(|| sysctl::write(&name, "1").unwrap()).unwrap();
    };
    switch_off("vpn0");
    let error = install(&lab.client, "vpn0", FULL).unwrap_err();
    assert!(matches!(error, RoutesError::Ipv6Off { .. }), "{error}");
    // With no IPv6 on the host at all there is nothing to leak.
    switch_off("all");
    let routes = install(&lab.client, "vpn0", FULL).unwrap();
    let leads_through = |all: &str| routes.plan.leads_through(&all.parse().unwrap());
    assert!(leads_through("0.0.0.0/0") && !leads_through("::/0"));
}

/// Set in the environment of the test program when the next test runs it again.
const AS_A_USER: &str = "CORELANE_TEST_AS_AN_ORDINARY_USER";

/// The part of the next test that runs as an ordinary user beside a TUN device.
fn as_an_ordinary_user() {
    let keep = [caps::Capability::CAP_NET_ADMIN];
    assert_eq!(describe_missing(&keep), None);
    assert_eq!(missing(&[caps::Capability::CAP_DAC_OVERRIDE]).len(), 1);
    link::bring_up(&mut Netlink::open().unwrap(), "vpn0", 1408, 1000, &[]).unwrap();
    let mut routes = ClientRoutes::install("vpn0", &request(&["10.0.0.0/8"])).unwrap();
    drop_to(&keep).unwrap();
    routes.update(&request(FULL)).unwrap();
    assert_eq!(sysctl::read(SOURCE_VALID_MARK).unwrap(), "1");
    routes.remove().unwrap();
    assert_eq!(sysctl::read(SOURCE_VALID_MARK).unwrap(), "0");
}

#[test]
fn an_ordinary_user_needs_nothing_but_cap_net_admin() {
    if std::env::var_os(AS_A_USER).is_some() {
        return as_an_ordinary_user();
    }
    let lab = lab();
    let _tun = open_tun(&lab.client, "vpn0");
    let before = snapshot(&lab.client);
    // The shell opens the test program while it still may, wherever it lies.
    let script = "exec 9<\"$0\"; exec setpriv --reuid 65534 --regid 65534 --clear-groups \
                  --inh-caps=-all,+net_admin --ambient-caps=-all,+net_admin \
                  --bounding-set=-all,+net_admin /proc/self/fd/9 --exact \
                  host::routes::tests::an_ordinary_user_needs_nothing_but_cap_net_admin";
    let mut command = lab.client.command("sh").unwrap();
    command.args(["-c", script]).arg(std::env::current_exe().unwrap()).env(AS_A_USER, "1");
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text} {output:?}");
    assert_eq!(snapshot(&lab.client), before);
}

#[test]
fn a_name_has_the_same_table_for_ever() {
    assert_eq!(own_table("corelane0"), 1_938_771_829, "the documentation names it");
    assert_ne!(own_table("corelane0"), own_table("corelane1"));
}

#[test]
fn what_the_device_cannot_take_is_refused_and_routes_come_back_with_it() {
    let lab = lab();
    let _tun = open_tun(&lab.client, "vpn0");
    let mut routes = install(&lab.client, "vpn0", FULL).unwrap();
    let whole = snapshot(&lab.client);
    let refused = |address: &str| {
        let mut lookup = lab.client.command("ip").unwrap();
        let output = lookup.args(["route", "get", address]).output().unwrap();
        !output.status.success()
    };
    assert!(!refused("203.0.113.1") && !refused("2001:db8:ffff::1"));
    ip(&lab.client, "link set vpn0 down");
    assert!(refused("203.0.113.1") && refused("2001:db8:ffff::1"), "not in the clear");
    assert!(!refused("198.51.100.254"), "the neighbourhood is reached as before");
    ip(&lab.client, "link set vpn0 up");
    assert!(refused("203.0.113.1"), "the kernel has forgotten the routes");
    ip(&lab.client, "address add fd00:c::2/64 dev vpn0 nodad");
    assert_eq!(routes.restore().unwrap(), 6);
    assert_eq!(snapshot(&lab.client), whole);
    assert_eq!(routes.restore().unwrap(), 0);
    ip(&lab.client, "rule del priority 32765");
    assert_eq!(routes.restore().unwrap(), 1, "a rule that somebody removed");
    routes.remove().unwrap();
    assert_eq!(ip(&lab.client, "rule").lines().count(), 3);
}
