//! The table as people see it, and the facts that go into it.

use std::collections::BTreeMap;

use super::{CpuFacts, DEMO_SCHEMA, DemoReport, LatencyRow, TcpRow, TunnelFacts, UdpRow};
use crate::bench::{EndSummary, LatencyReport};
use crate::demo::proof::{ProofReport, Sighting};
use crate::telemetry::status::{LanesInUse, OffloadStatus};

fn end(bits_per_second: f64) -> EndSummary {
    let bytes = (bits_per_second / 8.0) as u64;
    EndSummary { bytes, seconds: 1.0, bits_per_second, datagrams: 0, packets_per_second: 0.0 }
}

fn facts(workers: usize, drops: &[(&str, u64)], handshake_ms: Option<f64>) -> TunnelFacts {
    TunnelFacts {
        workers,
        workers_used: workers,
        cpus: (0..workers).collect(),
        lanes: LanesInUse { sending: vec![0, 1], receiving: vec![0, 1, 2] },
        offloads: OffloadStatus {
            tun_checksum: true,
            tun_tcp_segmentation: true,
            udp_gso: true,
            ..OffloadStatus::default()
        },
        mtu: 1408,
        handshake_ms,
        drops: drops.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect(),
    }
}

fn report() -> DemoReport {
    let mut server = facts(2, &[("replayed", 3)], None);
    server.offloads.steering = true;
    let latency = |times: &[f64]| LatencyReport::new("10.77.0.1".to_owned(), 56, 4, times);
    let tcp = |streams, direction: &str, tunnel, direct| TcpRow {
        streams,
        direction: direction.to_owned(),
        tunnel: end(tunnel),
        direct: end(direct),
        ratio_percent: tunnel * 100.0 / direct,
        cpu: CpuFacts::new(0.5, 0.4, (tunnel / 8.0) as u64),
    };
    let rows = vec![tcp(1, "forward", 8e9, 40e9), tcp(4, "reverse", 12e9, 90e9)];
    DemoReport {
        schema: DEMO_SCHEMA,
        version: "0.1.0".to_owned(),
        kernel: "6.1.0".to_owned(),
        cpus: 4,
        duration_s: 3.0,
        ping: LatencyRow {
            method: "icmp".to_owned(),
            tunnel: latency(&[0.2, 0.3, 0.4]),
            direct: latency(&[0.02, 0.03, 0.04, 0.05]),
        },
        cpu: CpuFacts::sum(rows.iter().map(|row| &row.cpu)),
        tcp: rows,
        udp: vec![UdpRow {
            payload_bytes: 1300,
            trains: true,
            loss_target_percent: 0.1,
            target_met: false,
            packets_per_second: 412_345.0,
            bits_per_second: 4.288e9,
            loss_percent: 0.25,
        }],
        server,
        client: facts(3, &[], Some(1.234)),
        proof: ProofReport {
            delivered: 128,
            outer: Sighting { packets: 130, data: 128, ..Sighting::default() },
            inner: Sighting { packets: 128, with_pattern: 128, ..Sighting::default() },
        },
    }
}

#[test]
fn the_table_lines_up_and_leaves_nothing_out() {
    let expected = "\
Corelane 0.1.0, Linux 6.1.0, 4 CPUs, 3 s per measurement

                                tunnel       direct        ratio
ping, median                  0.300 ms     0.035 ms
ping, p99                     0.400 ms     0.050 ms
ping, answered                  3 of 4       4 of 4

TCP, 1 stream, to server   8.00 Gbit/s  40.0 Gbit/s         20 %
TCP, 4 streams, to client  12.0 Gbit/s  90.0 Gbit/s         13 %

                             packets/s      payload         lost
UDP, 1300 B in trains         412 kpps  4.29 Gbit/s  0.250 % (!)

CPU per GB of TCP          server 0.40 s, client 0.32 s
workers                    server 2, client 3
lanes                      2 (0-1) to server, 3 (0-2) to client
offloads                   checksum, TSO, UDP GSO, lane steering (server)
MTU inside                 both 1408
handshake                  1.23 ms
drops                      server 3 replayed, client none
concealed                  yes: a 64-byte pattern is in 128 packets inside, in 0 of 130 outside, \
where all datagrams are of types 1 to 4
";
    assert_eq!(report().render(), expected);
}

#[test]
fn a_proof_that_failed_is_not_called_one() {
    let mut report = report();
    report.proof.outer.with_pattern = 1;
    assert!(report.render().contains("concealed                  NOT PROVED: 1 packets"));
}

#[test]
fn the_json_is_versioned_and_reads_back() {
    let json = serde_json::to_value(report()).unwrap();
    assert_eq!(json["schema"], 1);
    assert_eq!(json["tcp"][0]["tunnel"]["bytes"], 1_000_000_000);
    assert_eq!(json["server"]["drops"], serde_json::json!({ "replayed": 3 }));
    let read: DemoReport = serde_json::from_value(json).unwrap();
    assert_eq!(read.render(), report().render());
}

#[test]
fn cpu_time_is_per_gigabyte_and_nothing_moved_costs_nothing() {
    let cpu = CpuFacts::new(1.0, 0.5, 2_000_000_000);
    assert_eq!((cpu.server_s_per_gb, cpu.client_s_per_gb), (0.5, 0.25));
    assert_eq!(CpuFacts::new(1.0, 1.0, 0).server_s_per_gb, 0.0);
    let sum = CpuFacts::sum([cpu, CpuFacts::new(3.0, 0.5, 2_000_000_000)].iter());
    assert_eq!((sum.server_s_per_gb, sum.client_s_per_gb), (1.0, 0.25));
}

#[test]
fn facts_are_those_of_the_connected_peer_and_only_of_drops_that_happened() {
    let json = serde_json::json!({
        "schema": 1, "role": "client", "version": "0", "pid": 1, "uptime_s": 1.0, "state": "up",
        "tun": "corelane0", "mtu": 1408, "public_key": "", "endpoints": [],
        "offloads": OffloadStatus::default(),
        "workers": [worker(0, 5), worker(1, 0)],
        "peers": [peer(false, 9.0), peer(true, 2.5)],
        "drops": BTreeMap::from([("replayed", 0), ("no_session", 2)]),
        "last_error": null,
    });
    let facts = TunnelFacts::of(&serde_json::from_value(json).unwrap());
    assert_eq!((facts.workers, facts.workers_used), (2, 1));
    assert_eq!((facts.cpus, facts.handshake_ms), (vec![0, 1], Some(2.5)));
    assert_eq!(facts.drops, BTreeMap::from([("no_session".to_owned(), 2)]));
}

fn worker(number: usize, packets: u64) -> serde_json::Value {
    serde_json::json!({
        "worker": number, "cpu": number, "to_wire_packets": packets, "to_wire_bytes": 0,
        "from_wire_packets": 0, "from_wire_bytes": 0, "batches": 0, "average_batch": 0.0,
        "busy_share": 0.0, "gso_fallbacks": 0, "tun_fallbacks": 0, "reordered": 0,
    })
}

fn peer(connected: bool, handshake_ms: f64) -> serde_json::Value {
    serde_json::json!({
        "public_key": "", "allowed_ips": [], "connected": connected, "paths": [],
        "lanes_in_use": LanesInUse::default(), "session_age_s": null, "last_handshake_s": null,
        "handshake_ms": handshake_ms, "rekeys": 0, "received_bytes": 0, "sent_bytes": 0,
        "rtt_ms": null, "features": [],
    })
}
