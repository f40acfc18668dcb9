//! What the outer header takes from the inner one, and gives back.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use corelane::lab::{LINK, wait_until};
use corelane::packet::Parsed;
use corelane::sys::capture::Capture;

use crate::harness::{Options, PATIENCE, PORT, SERVER_V4, SERVER_V6, TUN, Tunnel, capture};
use crate::tools::{attempt, ping, run};

/// Expedited forwarding (RFC 3246), as the upper bits of the traffic class.
const EXPEDITED: u8 = 46 << 2;
/// Bytes of payload of an echo, by which it is told from anything else.
const ECHO_PAYLOAD: usize = 321;

/// The congestion fields (RFC 3168).
const NOT_ECT: u8 = 0;
const ECT_1: u8 = 1;
const ECT_0: u8 = 2;
const CE: u8 = 3;

/// Sends echoes with a traffic class, one by one, whether they come back or not.
fn send(tunnel: &Tunnel, to: impl Into<IpAddr>, traffic_class: u8, more: &str) {
    let to = to.into();
    let command =
        format!("ping -n -c 2 -i 0.05 -W 0.3 -s {ECHO_PAYLOAD} -Q {traffic_class} {more}");
    attempt(tunnel.lab.client(), &format!("{command} {to}"));
}

/// A packet that went by: what it is, its bytes, and how many it stands for.
struct Seen {
    parsed: Parsed,
    bytes: Vec<u8>,
    count: usize,
}

/// The next `count` packets that a capture sees in one direction and that `wanted` holds for, with
/// the payload of each of them.
#[track_caller]
fn await_packets(
    link: &mut Capture,
    outgoing: bool,
    count: usize,
    wanted: impl Fn(&Parsed, usize) -> bool,
) -> Vec<Seen> {
    let mut packets: Vec<Seen> = Vec::new();
    let all_seen = || {
        while let Some(captured) = link.receive().unwrap() {
            let Ok(parsed) = Parsed::parse(captured.packet) else { continue };
            // Datagrams that a busy machine has kept waiting may leave as one train.
            let len = captured.segment_len.unwrap_or_else(|| parsed.payload_len());
            if captured.outgoing == outgoing && wanted(&parsed, len) {
                let count = parsed.payload_len().div_ceil(len.max(1));
                packets.push(Seen { parsed, bytes: captured.packet.to_vec(), count });
            }
        }
        (packets.iter().map(|it| it.count).sum::<usize>() >= count).then_some(())
    };
    wait_until(PATIENCE, "the packets to go by", all_seen).unwrap();
    assert_eq!(packets.iter().map(|it| it.count).sum::<usize>(), count);
    packets
}

/// The traffic classes of the datagrams that carry two echoes to `to` out of the client.
#[track_caller]
fn outer_classes(link: &mut Capture, to: IpAddr) -> BTreeSet<u8> {
    let inner_len = ECHO_PAYLOAD + 8 + if to.is_ipv4() { 20 } else { 40 };
    let datagram_len = inner_len.next_multiple_of(16) + 32;
    let packets = await_packets(link, true, 2, |_, len| len == datagram_len);
    packets.iter().map(|it| it.parsed.traffic_class).collect()
}

/// Two echoes as they come out of the server's TUN device.
#[track_caller]
fn arrived_echoes(tun: &mut Capture) -> Vec<Seen> {
    await_packets(tun, false, 2, |parsed, _| parsed.total_len > ECHO_PAYLOAD)
}

fn leaves_with_the_right_marks(options: Options) {
    for copies in [false, true] {
        let client_flags = vec!["--set".to_owned(), format!("tuning.copy_dscp={copies}")];
        let tunnel = Tunnel::start(Options { client_flags, ..options.clone() });
        let mut link = capture(tunnel.lab.client(), LINK);
        for to in [IpAddr::from(SERVER_V4), IpAddr::from(SERVER_V6)] {
            for ecn in [NOT_ECT, ECT_0, ECT_1, CE] {
                let inner = EXPEDITED | ecn;
                let outer = if copies { inner } else { ecn };
                send(&tunnel, to, inner, "");
                let classes = outer_classes(&mut link, to);
                assert_eq!(classes, BTreeSet::from([outer]), "{inner:#x} to {to}");
            }
        }
    }
}

#[test]
fn ecn_is_copied_outside_over_ipv4_and_dscp_where_it_is_wanted() {
    leaves_with_the_right_marks(Options::default());
}

#[test]
fn ecn_is_copied_outside_over_ipv6_and_dscp_where_it_is_wanted() {
    leaves_with_the_right_marks(Options::at(format!("[2001:db8::1]:{PORT}")));
}

/// Congestion on the way, of a router that marks what may be marked, and then of one that marks
/// everything (RFC 6040, section 4.2).
fn congestion_comes_through(server: &str, protocol: &str) {
    let tunnel = Tunnel::start(Options { routed: true, ..Options::at(server) });
    let router = tunnel.lab.router();
    let mut inside = capture(tunnel.lab.server(), TUN);
    run(router, "nft add table inet congestion");
    run(router, "nft add chain inet congestion way { type filter hook forward priority 0 ; }");
    let port = format!("udp dport {PORT}");
    let (capable, marks) = (format!("{protocol} ecn != not-ect"), format!("{protocol} ecn set ce"));
    run(router, &format!("nft add rule inet congestion way {port} {capable} {marks}"));
    for to in [IpAddr::from(SERVER_V4), IpAddr::from(SERVER_V6)] {
        for (sent, arrives) in [(NOT_ECT, NOT_ECT), (ECT_0, CE), (ECT_1, CE), (CE, CE)] {
            send(&tunnel, to, EXPEDITED | sent, "-t 7");
            for Seen { parsed, bytes, .. } in arrived_echoes(&mut inside) {
                assert_eq!(parsed.traffic_class, EXPEDITED | arrives, "{sent} to {to}");
                let hops = if to.is_ipv4() { bytes[8] } else { bytes[7] };
                assert_eq!(hops, 7, "no hop is taken off by either end");
            }
        }
    }
    assert_eq!(tunnel.drops(), [BTreeMap::new(), BTreeMap::new()]);

    run(router, "nft flush chain inet congestion way");
    run(router, &format!("nft add rule inet congestion way {port} {marks}"));
    send(&tunnel, SERVER_V4, NOT_ECT, "");
    send(&tunnel, SERVER_V4, ECT_0, "");
    for echo in arrived_echoes(&mut inside) {
        assert_eq!(echo.parsed.traffic_class, CE);
    }
    let dropped = || (tunnel.drops()[0].get("ecn_illegal") == Some(&2)).then_some(());
    wait_until(PATIENCE, "both to be counted", dropped).unwrap();
    run(router, "nft flush chain inet congestion way");
    ping(tunnel.lab.client(), SERVER_V6, "-c 3 -i 0.01");
}

#[test]
fn congestion_marks_come_through_over_ipv4() {
    congestion_comes_through(&format!("192.0.2.1:{PORT}"), "ip");
}

#[test]
fn congestion_marks_come_through_over_ipv6() {
    congestion_comes_through(&format!("[2001:db8::1]:{PORT}"), "ip6");
}
