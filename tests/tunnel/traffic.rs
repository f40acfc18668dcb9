//! What any tunnel must carry, whatever the packets' size, and that all of it is counted.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::thread;
use std::time::Duration;

use corelane::lab::{LINK, LabOptions, wait_until};
use corelane::limits::{GSO_SEGMENTS_MAX, UDP_PAYLOAD_MAX};
use corelane::telemetry::status::{PeerStatus, StatusReport};

use crate::harness::{
    CLIENT_V4, CLIENT_V6, Options, PATIENCE, PORT, SERVER_V4, SERVER_V6, TUN, Tunnel, capture,
};
use crate::load::unspecified;
use crate::tools::{found_no_room, ping};

/// Far larger than a page, and not a multiple of what a super-packet holds.
const JUMBO_MTU: usize = 34_816;
/// What a datagram adds over IPv6: data header and tag, UDP, IP.
const OVERHEAD_V6: usize = 32 + 8 + 40;

/// Echoes and streams of both families, both ways.
#[track_caller]
fn carries_everything(tunnel: &Tunnel) {
    let (server, client) = (tunnel.lab.server(), tunnel.lab.client());
    for address in [IpAddr::from(SERVER_V4), IpAddr::from(SERVER_V6)] {
        ping(client, address, "-i 0 -c 10");
        for flags in ["-n 16M -P 5", "-n 16M -P 5 -R"] {
            let report = tunnel.iperf(address, flags);
            assert!(report.received_bytes() > 1 << 20, "{flags}: {report:#?}");
        }
        // So few that they fit the buffer of an iperf3 that a busy machine keeps waiting.
        for flags in ["-u -b 10M -l 1200 -n 96K", "-u -b 10M -l 1200 -n 96K -R"] {
            let (lost, sent) = tunnel.iperf(address, flags).lost();
            assert!(sent >= 80 && lost == 0, "{flags}: {lost} of {sent} lost");
        }
    }
    ping(server, CLIENT_V4, "-i 0 -c 10");
    ping(server, CLIENT_V6, "-i 0 -c 10");
    assert_eq!(tunnel.drops(), [BTreeMap::new(), BTreeMap::new()]);
}

/// A tunnel for packets of [`JUMBO_MTU`] bytes between hosts whose link takes them.
fn carries_jumbo_packets(options: Options) {
    let flags = vec!["--set".to_owned(), format!("tun.mtu={JUMBO_MTU}")];
    let link_mtu = (JUMBO_MTU + OVERHEAD_V6) as u32;
    let tunnel = Tunnel::start(Options {
        links: LabOptions { link_mtu, ..LabOptions::default() },
        workers: (2, 2),
        server_flags: flags.clone(),
        client_flags: flags,
        ..options
    });
    carries_everything(&tunnel);
    // ICMP and the IP header make them exactly as large as the MTU.
    let (v4, v6) = (JUMBO_MTU - 8 - 20, JUMBO_MTU - 8 - 40);
    for (host, v4_address, v6_address) in
        [(tunnel.lab.client(), SERVER_V4, SERVER_V6), (tunnel.lab.server(), CLIENT_V4, CLIENT_V6)]
    {
        ping(host, v4_address, &format!("-c 5 -i 0.01 -M do -s {v4}"));
        ping(host, v6_address, &format!("-c 5 -i 0.01 -M do -s {v6}"));
    }
    for session in [tunnel.client_session(), tunnel.server_session()] {
        assert!(session.paths.iter().all(|it| it.plaintext_max == JUMBO_MTU), "{session:#?}");
    }
}

/// A sender that is held back by nothing loses what its host cannot queue; nothing is lost
/// without a count, and what counts it is not the tunnel.
#[test]
fn datagrams_as_fast_as_they_can_be_sent() {
    let tunnel = Tunnel::start(Options { workers: (2, 2), ..Options::default() });
    let hosts = [tunnel.lab.server(), tunnel.lab.client()];
    let count = || hosts.iter().map(|host| found_no_room(host, TUN)).sum::<u64>();
    for address in [IpAddr::from(SERVER_V4), IpAddr::from(SERVER_V6)] {
        for flags in ["-t 3 -u -b 0 -l 1300", "-t 3 -u -b 0 -l 1300 -R"] {
            let before = count();
            let report = tunnel.iperf(address, flags);
            let (lost, sent) = report.lost();
            let (lost, sent) = (u64::try_from(lost).unwrap(), u64::try_from(sent).unwrap());
            let found_no_room = count() - before;
            let what = format!("{flags}: {lost} of {sent} lost, {found_no_room} counted");
            assert!(sent > 3000 && sent - lost > sent / 100, "{what}");
            assert!(lost <= found_no_room * GSO_SEGMENTS_MAX as u64, "{what}");
        }
    }
    assert_eq!(tunnel.drops(), [BTreeMap::new(), BTreeMap::new()]);
}

/// The largest datagram there is, the smallest, and one as any other, of which each arrives.
#[test]
fn datagrams_of_extreme_lengths() {
    let tunnel = Tunnel::start(Options { workers: (2, 2), ..Options::default() });
    let (server, client) = (tunnel.lab.server(), tunnel.lab.client());
    for (from, to, address) in [
        (client, server, IpAddr::from(SERVER_V4)),
        (client, server, SERVER_V6.into()),
        (server, client, CLIENT_V4.into()),
        (server, client, CLIENT_V6.into()),
    ] {
        let address = SocketAddr::new(address, 0);
        let receiving = to.run(|| UdpSocket::bind(address)).unwrap().unwrap();
        receiving.set_read_timeout(Some(PATIENCE)).unwrap();
        let target = receiving.local_addr().unwrap();
        let sending = from.run(|| UdpSocket::bind((unspecified(address.ip()), 0))).unwrap();
        let sending = sending.unwrap();
        let mut received = vec![0; 1 << 16];
        for len in [UDP_PAYLOAD_MAX, 5, 0, 8000, 5] {
            let sent: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
            sending.send_to(&sent, target).unwrap();
            let (received_len, _) = receiving.recv_from(&mut received).unwrap();
            assert!(received[..received_len] == sent, "{received_len} bytes of {len} to {target}");
        }
    }
    assert_eq!(tunnel.drops(), [BTreeMap::new(), BTreeMap::new()]);
}

#[test]
fn jumbo_packets_over_ipv4() {
    carries_jumbo_packets(Options::default());
}

#[test]
fn jumbo_packets_over_ipv6() {
    carries_jumbo_packets(Options::at(format!("[2001:db8::1]:{PORT}")));
}

#[test]
fn everything_over_ipv6() {
    let options = Options::at(format!("[2001:db8::1]:{PORT}"));
    carries_everything(&Tunnel::start(Options { workers: (2, 1), ..options }));
}

#[test]
fn fifty_streams_at_once() {
    let tunnel = Tunnel::start(Options { workers: (2, 2), ..Options::default() });
    for (address, flags) in
        [(IpAddr::from(SERVER_V4), "-n 64M -P 50"), (IpAddr::from(SERVER_V6), "-n 64M -P 50 -R")]
    {
        let report = tunnel.iperf(address, flags);
        assert!(report.received_bytes() > 4 << 20, "{report:#?}");
        let streams = report.0["end"]["streams"].as_array().unwrap();
        assert_eq!(streams.len(), 50);
        for stream in streams {
            assert!(stream["receiver"]["bytes"].as_u64() > Some(0), "{stream:#}");
        }
    }
    assert_eq!(tunnel.drops(), [BTreeMap::new(), BTreeMap::new()]);
}

/// What a daemon has carried: packets and bytes to the wire, packets and bytes from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Carried([u64; 4]);

impl Carried {
    fn of(report: &StatusReport) -> Self {
        let fold = |sum: [u64; 4], next: [u64; 4]| std::array::from_fn(|at| sum[at] + next[at]);
        let workers = report.workers.iter().map(|it| {
            [it.to_wire_packets, it.to_wire_bytes, it.from_wire_packets, it.from_wire_bytes]
        });
        Self(workers.fold([0; 4], fold))
    }

    fn since(self, before: Self) -> Self {
        Self(std::array::from_fn(|at| self.0[at] - before.0[at]))
    }
}

/// What a session has carried for a peer: bytes sent and received.
fn bytes(peer: &PeerStatus) -> [u64; 2] {
    [peer.sent_bytes, peer.received_bytes]
}

#[test]
fn every_echo_is_counted_once_and_takes_one_datagram() {
    // Payload and ICMP header behind an IP header, as ping makes them.
    const V4_LEN: u64 = 56 + 8 + 20;
    const V6_LEN: u64 = 56 + 8 + 40;
    let tunnel = Tunnel::start(Options { workers: (2, 2), ..Options::default() });
    let daemons = [&tunnel.server, &tunnel.client];
    let before = daemons.map(|it| Carried::of(&it.status()));
    let peers_before = [tunnel.server_session(), tunnel.client_session()];
    let mut link = capture(tunnel.lab.client(), LINK);
    let v4 = u64::from(ping(tunnel.lab.client(), SERVER_V4, "-c 10 -i 0.05"));
    let v6 = u64::from(ping(tunnel.lab.server(), CLIENT_V6, "-c 10 -i 0.05"));

    // Each echo and its answer pass either end once.
    let (packets, bytes_each_way) = (v4 + v6, v4 * V4_LEN + v6 * V6_LEN);
    let expected = Carried([packets, bytes_each_way, packets, bytes_each_way]);
    let counted = || daemons.map(|it| Carried::of(&it.status()));
    let since = |now: [Carried; 2]| [0, 1].map(|at| now[at].since(before[at]));
    // The last answers may still be on their way when ping ends.
    let all = || (since(counted()) == [expected; 2]).then_some(());
    wait_until(PATIENCE, "every packet to be counted once", all)
        .unwrap_or_else(|timeout| panic!("{timeout}: {:?}, {expected:?}", since(counted())));
    for (now, before) in
        [tunnel.server_session(), tunnel.client_session()].iter().zip(&peers_before)
    {
        let counted = [0, 1].map(|at| bytes(now)[at] - bytes(before)[at]);
        assert_eq!(counted, [bytes_each_way; 2]);
        assert!(now.last_handshake_s.unwrap() > 0.0);
        assert_eq!(now.rekeys, 0);
    }
    // Padded to whole AES blocks, with header and tag, behind IPv4 and UDP.
    let mut datagrams = BTreeMap::new();
    while let Some(captured) = link.receive().unwrap() {
        if captured.packet[0] != 0x45 || captured.packet[9] != 17 || captured.packet[28] != 4 {
            continue;
        }
        // Echoes that a busy machine has kept waiting may leave as one train.
        let payload = &captured.packet[28..];
        for datagram in payload.chunks(captured.segment_len.unwrap_or(payload.len())) {
            *datagrams.entry(datagram.len()).or_default() += 1;
        }
    }
    let wire_len = |len: u64| len.next_multiple_of(16) as usize + 32;
    assert_eq!(datagrams.get(&wire_len(V4_LEN)), Some(&(2 * v4)), "{datagrams:?}");
    assert_eq!(datagrams.get(&wire_len(V6_LEN)), Some(&(2 * v6)), "{datagrams:?}");
}

/// Processor time that a process has used, in hundredths of a second (proc_pid_stat(5)).
fn ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The name, in parentheses, may contain spaces; utime and stime are fields 14 and 15.
    let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn after_traffic_the_daemons_fall_asleep() {
    let tunnel = Tunnel::start(Options { workers: (2, 2), ..Options::default() });
    let report = tunnel.iperf(SERVER_V4, "-n 16M -P 4");
    assert!(report.received_bytes() > 4 << 20);
    let daemons = [&tunnel.server, &tunnel.client];
    // Stragglers and the search for the path's MTU take a moment.
    let rests = || {
        let before = daemons.map(|daemon| ticks(daemon.pid()));
        // The length of the measurement, in which there is nothing to wait for.
        thread::sleep(Duration::from_millis(1000));
        let used = [0, 1].map(|at| ticks(daemons[at].pid()) - before[at]);
        (used.into_iter().max() <= Some(1)).then_some(())
    };
    wait_until(PATIENCE, "less than 1 % of a processor to be used", rests).unwrap();
    for daemon in daemons {
        for task in fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap() {
            let asleep = || {
                let stat = fs::read_to_string(task.as_ref().unwrap().path().join("stat")).unwrap();
                stat.rsplit_once(") ").unwrap().1.starts_with('S').then_some(())
            };
            wait_until(PATIENCE, "a thread to sleep", asleep).unwrap();
        }
    }
}
