//! A network that loses a fifth of what it is given.

use std::fs;
use std::time::Duration;

use corelane::lab::{Host, LINK, LabOptions};
use corelane::sys::ethtool;

use crate::harness::{CLIENT_V6, Options, SERVER_V4, SERVER_V6, Tunnel};
use crate::load::{Datagrams, await_progress};
use crate::tools::{end_table, run, transfer};

const LOST_PERCENT: u64 = 20;
const TRANSFERRED: usize = 10 << 20;

/// Has a host lose datagrams of the tunnel on arrival, each for itself: none is joined with others.
fn lose(host: &Host) {
    host.run(|| ethtool::set_receive_aggregation(LINK, false)).unwrap().unwrap();
    let rule = format!("iifname {LINK} meta l4proto udp numgen random mod 100 < {LOST_PERCENT}");
    run(host, "nft add table inet weather");
    run(host, "nft add chain inet weather in { type filter hook input priority 0 ; }");
    run(host, &format!("nft add rule inet weather in {rule} counter drop"));
}

/// Ends that, and returns how many were lost.
fn lost(host: &Host) -> u64 {
    end_table(host, "weather")
}

/// What is transferred arrives unchanged, and never stalls for longer than a read may take.
#[test]
fn ten_megabytes_arrive_where_a_fifth_of_all_datagrams_is_lost() {
    let links = LabOptions { segmentation_offloads: false, ..LabOptions::default() };
    let tunnel = Tunnel::start(Options { links, workers: (2, 2), ..Options::default() });
    let (server, client) = (tunnel.lab.server(), tunnel.lab.client());
    for host in [server, client] {
        // Where loss means congestion, TCP by itself backs off for minutes.
        let control = "/proc/sys/net/ipv4/tcp_congestion_control";
        let set = host.run(|| fs::write(control, "bbr")).unwrap();
        set.unwrap_or_else(|error| panic!("this kernel needs `modprobe tcp_bbr`: {error}"));
        lose(host);
    }
    transfer(client, server, SERVER_V4, TRANSFERRED);
    transfer(server, client, CLIENT_V6, TRANSFERRED);
    // About as many are lost as should be, and none comes twice.
    let datagrams = Datagrams::start(client, server, SERVER_V6, 200, Duration::from_millis(1));
    await_progress("datagrams to be sent", 1000, || datagrams.sent());
    let fate = datagrams.finish();
    assert!((10..=30).contains(&(fate.lost() * 100 / fate.sent)), "{fate:?}");
    for host in [server, client] {
        assert!(lost(host) > 1000, "little was lost on the way");
    }
    // Losses are no reason to give the session up. Where TCP is silent for a while and three probes
    // in a row are lost, or their answers, as in one silence of twenty, it is renewed.
    for session in [tunnel.client_session(), tunnel.server_session()] {
        assert!(session.connected && session.rekeys <= 2, "{session:#?}");
    }
}
