//! Any number of workers on either side carries any traffic, and loses nothing.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use corelane::lab::wait_until;

use crate::harness::{CLIENT_V4, CLIENT_V6, Options, PATIENCE, SERVER_V4, SERVER_V6, Tunnel};
use crate::tools::{ping, run};

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
    ping(client, SERVER_V4, "-i 0 -c 10");
    ping(client, SERVER_V6, "-i 0 -c 10");
    ping(server, CLIENT_V4, "-i 0 -c 10");
    ping(server, CLIENT_V6, "-i 0 -c 10");
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

#[test]
fn when_the_first_path_dies_the_client_goes_on_by_another() {
    let client_flags = vec!["--set".to_owned(), "client.keepalive_s=1".to_owned()];
    let workers = (2, 2);
    let mut tunnel = Tunnel::start(Options { workers, client_flags, ..Options::default() });
    let ports = |tunnel: &Tunnel| {
        let paths = tunnel.server_session().paths.into_iter();
        let address = paths.map(|path| path.endpoint.unwrap().parse::<SocketAddr>().unwrap());
        address.map(|address| address.port()).collect::<Vec<_>>()
    };
    let before = ports(&tunnel);
    let client = tunnel.lab.client();
    run(client, "nft add table inet firewall");
    for (hook, port) in [("output", "sport"), ("input", "dport")] {
        let chain = format!("inet firewall {hook}");
        run(client, &format!("nft add chain {chain} {{ type filter hook {hook} priority 0 ; }}"));
        run(client, &format!("nft add rule {chain} udp {port} {} drop", before[0]));
    }
    tunnel.client.await_status(PATIENCE, "a session with one path", |it| {
        it.peers[0].paths.len() == 1 && it.peers[0].paths[0].state == "up"
    });
    tunnel.client.await_log("going on with one path");
    tunnel.await_echoes();
    let one_left = || Some(ports(&tunnel)).filter(|ports| ports.len() == 1);
    let left = wait_until(PATIENCE, "the server to use one path", one_left).unwrap();
    assert!(before[1..].contains(&left[0]), "{left:?} of {before:?}");
    assert!(tunnel.iperf(SERVER_V4, "-t 1").received_bytes() > 1 << 18);
    assert!(tunnel.iperf(SERVER_V4, "-t 1 -R -P 4").received_bytes() > 1 << 18);
    run(tunnel.lab.client(), "nft delete table inet firewall");
}
