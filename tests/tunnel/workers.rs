//! Any number of workers on either side carries any traffic, and loses nothing.

use std::collections::BTreeMap;

use crate::harness::{CLIENT_V4, CLIENT_V6, Options, SERVER_V4, SERVER_V6, Tunnel};
use crate::tools::ping;

#[test]
fn one_worker_serves_one_worker() {
    carries_any_traffic(1, 1);
}

#[test]
fn one_worker_serves_two() {
    carries_any_traffic(1, 2);
}

#[test]
fn two_workers_serve_one() {
    carries_any_traffic(2, 1);
}

#[test]
fn two_workers_serve_two() {
    carries_any_traffic(2, 2);
}

#[test]
fn two_workers_serve_three() {
    carries_any_traffic(2, 3);
}

#[track_caller]
fn carries_any_traffic(server_workers: usize, client_workers: usize) {
    let workers = (server_workers, client_workers);
    let tunnel = Tunnel::start(Options { workers, ..Options::default() });
    let (server, client) = (tunnel.lab.server(), tunnel.lab.client());
    ping(client, SERVER_V4, "-f -c 10");
    ping(client, SERVER_V6, "-f -c 10");
    ping(server, CLIENT_V4, "-f -c 10");
    ping(server, CLIENT_V6, "-f -c 10");
    for flags in ["", "-R"] {
        for report in [
            tunnel.iperf(SERVER_V4, &format!("-t 1 {flags}")),
            tunnel.iperf(SERVER_V6, &format!("-t 1 {flags}")),
        ] {
            assert!(report.received_bytes() > 1_000_000, "{report:#?}");
        }
    }
    let four = tunnel.iperf(SERVER_V4, "-t 1 -P 4");
    assert!(four.received_bytes() > 4_000_000, "{four:#?}");
    // Slow enough for iperf3's own buffers on a busy machine.
    let udp = tunnel.iperf(SERVER_V6, "-t 1 -u -b 10M -l 1200 -P 2");
    let (lost, sent) = udp.lost();
    assert!(sent > 500 && lost == 0, "{lost} of {sent} lost");

    assert_eq!(tunnel.drops(), [BTreeMap::new(), BTreeMap::new()]);
    for (daemon, workers) in [(&tunnel.server, server_workers), (&tunnel.client, client_workers)] {
        let status = daemon.status();
        assert_eq!(status.workers.len(), workers);
        for worker in &status.workers {
            // The counters of a lane arrive in order, so no flow can be out of order.
            assert_eq!(worker.reordered, 0, "{status:#?}");
            assert_eq!((worker.gso_fallbacks, worker.tun_fallbacks), (0, 0), "{status:#?}");
        }
    }
}
