//! A client's kill switch: whatever becomes of its daemon and whatever the network says about the
//! way, nothing leaves but through the tunnel.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use corelane::lab::{Host, LINK, addresses, wait_until};
use corelane::packet::{Parsed, Transport};
use corelane::sys::capture::Capture;

use crate::daemon::CORELANE;
use crate::harness::{PATIENCE, PORT, SERVER_V4, TUN, Tunnel, capture};
use crate::killed::{NAME, resolving_by_own_files, start_name_server};
use crate::routing::full_tunnel;
use crate::tools::{attempt, echo, ping, run};

/// Destinations of no other traffic: what the tunnel takes, and what a rogue DHCP server (option
/// 121, RFC 3442) and router (RFC 4191) lead past it by routes that are more specific.
const DESTINATIONS: [IpAddr; 4] = [
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 9)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 9)),
    IpAddr::V4(Ipv4Addr::new(198, 18, 0, 9)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xfffe, 0, 0, 0, 0, 9)),
];
/// A name server on the client's own link, as a rogue DHCP server would name it.
const ROGUE_NAME_SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 53));
/// How many datagrams are to be sent to each destination while nothing else happens.
const SOME: u64 = 50;
/// The table of nftables.
const KILL_SWITCH: &str = "corelane-kill-switch_corelane0";

/// How many times daemons are killed.
fn crashes() -> u64 {
    let crashes = std::env::var("CORELANE_TEST_CRASHES");
    crashes.map_or(20, |it| it.parse().unwrap())
}

/// Sends to all [`DESTINATIONS`] and asks the [`ROGUE_NAME_SERVER`] again and again; counts what of
/// it, or of anything else but the tunnel, arrives at the router.
struct Watch {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    outside: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    fn start(tunnel: &Tunnel) -> Self {
        let (client, router) = (tunnel.lab.client(), tunnel.lab.router());
        let mut link = capture(router, "to-client");
        let bind = |any: &str| client.run(|| UdpSocket::bind(any)).unwrap().unwrap();
        let sockets = [bind("0.0.0.0:0"), bind("[::]:0")];
        let stop = Arc::new(AtomicBool::new(false));
        let (sent, outside) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (is_over, count, seen) = (Arc::clone(&stop), Arc::clone(&sent), Arc::clone(&outside));
        let thread = thread::spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                for to in DESTINATIONS {
                    // Most of them are refused.
                    let _ = sockets[usize::from(to.is_ipv6())].send_to(b"in the clear", (to, 9));
                }
                let _ = sockets[0].send_to(b"where is the bank?", (ROGUE_NAME_SERVER, 53));
                count.fetch_add(1, Ordering::Relaxed);
                seen.fetch_add(strangers(&mut link), Ordering::Relaxed);
                thread::sleep(Duration::from_micros(500));
            }
            assert_eq!(link.missed().unwrap(), 0);
        });
        Self { stop, sent, outside, thread: Some(thread) }
    }

    /// Waits until some more were sent to each destination.
    #[track_caller]
    fn go_on(&self) {
        let until = self.sent.load(Ordering::Relaxed) + SOME;
        let sent = || (self.sent.load(Ordering::Relaxed) >= until).then_some(());
        wait_until(PATIENCE, "more datagrams to be sent", sent).unwrap();
    }

    /// How many packets of the client were not the tunnel's.
    fn outside(&self) -> u64 {
        self.outside.load(Ordering::Relaxed)
    }

    fn finish(mut self) -> (u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
        (self.sent.load(Ordering::Relaxed), self.outside())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// How many packets came from the client that are neither the tunnel's nor what a link needs.
pub(crate) fn strangers(link: &mut Capture) -> u64 {
    let mut count = 0;
    while let Some(captured) = link.receive().unwrap() {
        // ARP is no IP.
        let Ok(parsed) = Parsed::parse(captured.packet) else { continue };
        let is_tunnel = parsed.transport == Some(Transport::Udp)
            && parsed.destination == IpAddr::V4(addresses::SERVER_V4)
            && captured.packet[parsed.transport_offset + 2..][..2] == PORT.to_be_bytes();
        count += u64::from(
            !captured.outgoing && !is_tunnel && !is_housekeeping(&parsed, captured.packet),
        );
    }
    count
}

/// Whether a packet is neighbour discovery or multicast listener discovery.
fn is_housekeeping(parsed: &Parsed, packet: &[u8]) -> bool {
    let icmp_type = packet.get(parsed.transport_offset);
    parsed.protocol == 58 && icmp_type.is_some_and(|it| [133, 135, 136, 143].contains(it))
}

/// A full tunnel with a kill switch, whose client has been lied to by DHCP.
fn lied_to() -> Tunnel {
    let mut tunnel = full_tunnel();
    tunnel.client.flags = flags(&["client.kill_switch=true"]);
    let client = tunnel.lab.client();
    let gateways = [
        IpAddr::V4(addresses::ROUTER_CLIENT_SIDE_V4),
        IpAddr::V6(addresses::ROUTER_CLIENT_SIDE_V6),
    ];
    for (prefix, gateway) in ["198.18.0.0/15", "2001:db8:fffe::/48"].iter().zip(gateways) {
        run(client, &format!("ip route add {prefix} via {gateway}"));
    }
    tunnel.remember_hosts();
    tunnel.start_server();
    tunnel
}

pub(crate) fn flags(settings: &[&str]) -> Vec<String> {
    settings.iter().flat_map(|it| ["--set".to_owned(), (*it).to_owned()]).collect()
}

/// Runs `corelane kill-switch` on a host.
fn kill_switch(host: &Host, command: &str) -> (Option<i32>, String) {
    let finished = attempt(host, &format!("{} kill-switch {command}", CORELANE));
    (finished.status.code(), finished.stdout + &finished.stderr)
}

/// Starts the daemon and kills it: every other time once it is connected, else after a while that
/// differs from time to time, so that all of its start is met.
fn crash(tunnel: &mut Tunnel, round: u64) {
    tunnel.client.start(tunnel.lab.client());
    match round % 2 {
        0 => tunnel.await_paths(),
        _ => thread::sleep(Duration::from_micros(round * 997 % 60_000)),
    }
    tunnel.client.kill();
}

#[test]
fn nothing_leaves_while_daemons_are_killed() {
    let mut tunnel = lied_to();
    let watch = Watch::start(&tunnel);
    watch.go_on();
    let before = watch.outside();
    assert!(before > 0, "what leaves is seen");
    let (_, before) = watch.finish();
    assert!(before > 3 * SOME, "each kind of it: {before}");

    tunnel.start_client();
    let watch = Watch::start(&tunnel);
    watch.go_on();
    tunnel.client.kill();
    for round in 0..crashes() {
        watch.go_on();
        crash(&mut tunnel, round);
    }
    watch.go_on();
    let (sent, outside) = watch.finish();
    assert_eq!(outside, 0, "{sent} were sent to each destination in {} crashes", crashes());
    println!("{} crashes, {sent} datagrams to each destination, {outside} outside", crashes());
    tunnel.start_client();
    tunnel.await_echoes();
    ping(tunnel.lab.client(), SERVER_V4, "-i 0 -c 10");
    tunnel.assert_client_leaves_no_trace();
}

#[test]
fn a_start_that_fails_leaves_the_host_shut_and_a_command_opens_it() {
    let mut tunnel = lied_to();
    let client_key = tunnel.client.key_file();
    std::fs::rename(&client_key, client_key.with_extension("gone")).unwrap();
    tunnel.client.start(tunnel.lab.client());
    assert_eq!(tunnel.client.await_end().code(), Some(5));
    tunnel.client.await_log("`corelane kill-switch off`");
    let client = tunnel.lab.client();
    let watch = Watch::start(&tunnel);
    watch.go_on();
    assert_eq!(watch.finish().1, 0);
    let (code, said) = kill_switch(client, "status");
    assert!(code == Some(0) && said.contains(KILL_SWITCH), "{said}");
    let (code, said) = kill_switch(client, "off --tun other0");
    assert!(code == Some(0) && said.contains("no kill switch"), "{said}");
    let (code, said) = kill_switch(client, &format!("off --tun {TUN}"));
    assert!(code == Some(0) && said.contains(KILL_SWITCH), "{said}");
    tunnel.assert_client_host_is_as_before();
    let watch = Watch::start(&tunnel);
    watch.go_on();
    assert!(watch.finish().1 > 0, "it is open");
    std::fs::rename(client_key.with_extension("gone"), &client_key).unwrap();
}

#[test]
fn it_is_put_back_at_once_and_a_running_client_does_not_let_it_go() {
    let mut tunnel = lied_to();
    tunnel.start_client();
    let client = tunnel.lab.client();
    let is_shut = || {
        let shown = attempt(client, &format!("nft list table inet {KILL_SWITCH}"));
        shown.status.success().then_some(())
    };
    run(client, "nft flush ruleset");
    wait_until(PATIENCE, "the kill switch to be back", is_shut).unwrap();
    tunnel.client.await_log("another program removed or changed");
    let (code, said) = kill_switch(client, "off");
    assert!(code == Some(1) && said.contains("corelane down"), "{said}");
    wait_until(PATIENCE, "the kill switch to be back", is_shut).unwrap();
    tunnel.assert_client_leaves_no_trace();
}

#[test]
fn one_that_is_not_wanted_any_more_is_taken_away_by_the_next_start() {
    let mut tunnel = lied_to();
    tunnel.start_client();
    tunnel.client.kill();
    tunnel.client.flags.clear();
    tunnel.start_client();
    let (_, said) = kill_switch(tunnel.lab.client(), "status");
    assert!(said.contains("no kill switch is on"), "{said}");
}

#[test]
fn what_is_allowed_and_what_a_link_needs_passes() {
    let mut tunnel = lied_to();
    let (v4, v6) = (addresses::ROUTER_CLIENT_SIDE_V4, addresses::ROUTER_CLIENT_SIDE_V6);
    let allow = format!("client.kill_switch_allow=[\"{v4}/32\", \"{v6}/64\"]");
    tunnel.client.flags = flags(&["client.kill_switch=true", &allow]);
    // Neighbours that the kernel has to look for.
    run(tunnel.lab.client(), &format!("ip neighbour flush dev {LINK}"));
    tunnel.start_client();
    let client = tunnel.lab.client();
    for allowed in [IpAddr::from(v4), IpAddr::from(v6)] {
        ping(client, allowed, "-c 3 -i 0.01");
    }
    // Not of the tunnel's, and neither allowed nor inside.
    run(client, "ip route add 192.0.2.254 via 198.51.100.254");
    assert!(!echo(client, addresses::ROUTER_SERVER_SIDE_V4));
    run(client, "ip route delete 192.0.2.254");
    let dhcp = client.run(|| UdpSocket::bind("0.0.0.0:68")).unwrap().unwrap();
    let server = tunnel.lab.router().run(|| UdpSocket::bind("0.0.0.0:67")).unwrap().unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    dhcp.send_to(b"discover", (v4, 67)).unwrap();
    assert_eq!(server.recv(&mut [0; 16]).unwrap(), 8);
}

/// The host's resolver asks without the mark, and so in vain.
#[test]
fn a_server_that_has_a_name_is_found_past_it() {
    let mut tunnel = lied_to();
    let (_name_server, asked) = start_name_server(tunnel.lab.router());
    tunnel.client.wrapper = resolving_by_own_files(tunnel.directory.path());
    tunnel.options.connect = format!("{NAME}:{PORT}");
    tunnel.write_client_config();
    for _ in 0..2 {
        let before = asked.load(Ordering::Relaxed);
        tunnel.start_client();
        assert_eq!(asked.load(Ordering::Relaxed), before + 2, "of both families, and once");
        tunnel.client.kill();
    }
    tunnel.start_client();
    tunnel.await_echoes();
    tunnel.assert_client_leaves_no_trace();
}

/// What another host behind this one sends must not leave either.
#[test]
fn what_it_forwards_for_others_is_refused_too() {
    let mut tunnel = lied_to();
    tunnel.start_client();
    let table = run(tunnel.lab.client(), &format!("nft list table inet {KILL_SWITCH}"));
    let forward = table.split("chain forward").nth(1).unwrap();
    for rule in [
        "policy drop",
        "oifname \"corelane0\" accept",
        "iifname \"corelane0\" ct state established,related accept",
        "reject with icmpx admin-prohibited",
    ] {
        assert!(forward.contains(rule), "{rule}: {table}");
    }
}
