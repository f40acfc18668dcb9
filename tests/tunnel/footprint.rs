//! What OpenVPN's own test asks of a client (`tests/t_client.sh`): what the tunnel leads to does
//! not answer before, answers to packets of every size while it runs, and the host is afterwards
//! as it was.

use std::net::IpAddr;

use corelane::lab::addresses;

use crate::harness::{Options, SERVER_V4, SERVER_V6, Tunnel};
use crate::routing::{FAR_V4, FAR_V6, full_tunnel};
use crate::tools::{PingSummary, attempt, echo, ping, start};

/// Payloads in bytes: one that is small, one that is about what a packet holds, one that does not
/// fit one.
const SIZES: [usize; 3] = [64, 1440, 3000];
/// How many echoes of each, and how far apart, in seconds.
const ECHOES: u32 = 20;
const PAUSE_S: f32 = 0.25;

const INSIDE: [IpAddr; 2] = [IpAddr::V4(SERVER_V4), IpAddr::V6(SERVER_V6)];
/// Answer outside, too, but by the tunnel while it takes everything.
const FAR: [IpAddr; 2] = [IpAddr::V4(FAR_V4), IpAddr::V6(FAR_V6)];

/// Nothing inside answers, and that is not for want of a network.
#[track_caller]
fn assert_silent(tunnel: &Tunnel) {
    let client = tunnel.lab.client();
    for inside in INSIDE {
        let answer = attempt(client, &format!("ping -n -c 1 -W 0.3 {inside}"));
        assert!(!answer.status.success(), "{answer:#?}");
    }
    ping(client, addresses::SERVER_V4, "-c 1");
    ping(client, addresses::SERVER_V6, "-c 1");
}

/// Every echo of every size is answered. What is behind the server learns the MTU of the tunnel by
/// the first packet that does not fit, so it is asked by small ones.
#[track_caller]
fn assert_answering(tunnel: &Tunnel) {
    let client = tunnel.lab.client();
    let inside = INSIDE.into_iter().flat_map(|to| SIZES.map(|size| (to, size)));
    let pings: Vec<_> = inside
        .chain(FAR.map(|to| (to, SIZES[0])))
        .map(|(to, size)| {
            let flags = format!("-n -q -c {ECHOES} -i {PAUSE_S} -W 5 -s {size}");
            (to, size, start(client, &format!("ping {flags} {to}")))
        })
        .collect();
    for (to, size, ping) in pings {
        let summary = PingSummary::of(&ping.finish());
        let all = PingSummary { sent: ECHOES, received: ECHOES };
        assert_eq!(summary, all, "{size} bytes to {to}");
    }
}

#[test]
fn a_client_that_is_stopped_was_never_there() {
    let mut tunnel = full_tunnel();
    tunnel.start_server();
    assert_silent(&tunnel);
    tunnel.start_client();
    tunnel.await_echoes();
    assert_answering(&tunnel);
    tunnel.assert_client_leaves_no_trace();
    assert_silent(&tunnel);
}

#[test]
fn a_client_that_was_killed_and_runs_again_leaves_no_more() {
    let mut tunnel = full_tunnel();
    tunnel.start_server();
    assert_silent(&tunnel);
    tunnel.start_client();
    tunnel.await_echoes();
    tunnel.client.kill();
    for far in FAR {
        assert!(!echo(tunnel.lab.client(), far), "the way outside stays shut");
    }
    tunnel.start_client();
    tunnel.await_echoes();
    assert_answering(&tunnel);
    tunnel.assert_client_leaves_no_trace();
    assert_silent(&tunnel);
}

/// Without routes that take everything there is nothing that a crash could leave.
#[test]
fn a_client_that_was_killed_leaves_nothing_where_it_has_no_full_tunnel() {
    let mut tunnel = Tunnel::start(Options {
        workers: (2, 2),
        routes: vec!["203.0.113.0/24".to_owned(), "2001:db8:ff::/48".to_owned()],
        ..Options::default()
    });
    tunnel.client.kill();
    tunnel.assert_client_host_is_as_before();
    assert_silent(&tunnel);
}
