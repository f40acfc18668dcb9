//! Packets of a flow arrive in the order in which they were sent, however many workers carry them.
//!
//! Reordering is counted by those who suffer from it: TCP's receivers, which have to put aside what
//! comes too early (`TCPOFOQueue`), its senders, which notice that a packet was overtaken
//! (`TCPSACKReorder`, `TCPTSReorder`), and numbered datagrams. The first packets of a connection
//! may go by another worker than the rest, so counting begins when it is well under way.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::thread;
use std::time::Duration;

use corelane::lab::Host;

use crate::harness::{CLIENT_V4, CLIENT_V6, Options, PATIENCE, SERVER_V4, SERVER_V6, TUN, Tunnel};
use crate::load::{Datagrams, Stream, await_progress};
use crate::tools::{echo, found_no_room, netstat, run};

/// Flows at a time: so many that every pair of queues has some.
const FLOWS: usize = 6;
/// What a connection has carried when it is well under way, in bytes.
const UNDER_WAY: u64 = 1 << 18;
/// For how long is counted.
const WINDOW: Duration = Duration::from_millis(1500);
/// How many windows may be spoilt by packets that were lost, before the test is.
const WINDOWS_MAX: u32 = 8;

/// What hosts have counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counted {
    /// Segments that came before their turn, because others were lost or overtaken.
    early: u64,
    /// Times that a sender found a segment to have been overtaken.
    overtaken: u64,
    lost: u64,
}

impl Counted {
    fn by(hosts: &[&Host]) -> Self {
        let mut sum = Self::default();
        for host in hosts {
            let tcp = |counter| netstat(host, "TcpExt", counter);
            sum.early += tcp("TCPOFOQueue");
            sum.overtaken += tcp("TCPSACKReorder") + tcp("TCPTSReorder");
            sum.lost += found_no_room(host, TUN);
        }
        sum
    }

    fn since(self, before: Self) -> Self {
        Self {
            early: self.early - before.early,
            overtaken: self.overtaken - before.overtaken,
            lost: self.lost - before.lost,
        }
    }
}

/// Connections and datagrams from one host to another, to addresses of both families.
#[track_caller]
fn keep_their_order(from: &Host, to: &Host, through: &[&Host], addresses: [IpAddr; 2]) {
    let hosts: Vec<_> = [from, to].into_iter().chain(through.iter().copied()).collect();
    let streams: Vec<_> =
        addresses.iter().cycle().take(FLOWS).map(|it| Stream::start(from, to, *it)).collect();
    for stream in &streams {
        await_progress("a stream to flow", UNDER_WAY, || stream.arrived());
    }
    for window in 1.. {
        let (before, arrived) = (Counted::by(&hosts), streams.iter().map(Stream::arrived));
        let arrived: u64 = arrived.sum();
        // The length of the measurement, in which there is nothing to wait for.
        thread::sleep(WINDOW);
        let counted = Counted::by(&hosts).since(before);
        let carried = streams.iter().map(Stream::arrived).sum::<u64>() - arrived;
        eprintln!("{} to {}: {carried} bytes, {counted:?}", from.name(), to.name());
        assert!(carried > 1 << 20, "too little to see anything by: {carried} bytes");
        assert_eq!(counted.overtaken, 0, "{counted:?}");
        if counted.lost == 0 {
            assert_eq!(counted.early, 0, "{counted:?}");
            break;
        }
        assert!(window < WINDOWS_MAX, "packets are lost in every window");
    }
    for stream in streams {
        stream.finish();
    }
    let datagrams: Vec<_> = addresses
        .iter()
        .cycle()
        .take(FLOWS)
        .map(|it| Datagrams::start(from, to, *it, 200, Duration::from_micros(500)))
        .collect();
    for datagrams in &datagrams {
        await_progress("datagrams to flow", 1000, || datagrams.sent());
    }
    for datagrams in datagrams {
        let fate = datagrams.finish();
        assert!(fate.received > 500 && fate.reordered == 0, "{fate:?}");
    }
}

#[track_caller]
fn keeps_the_order(server_workers: usize, client_workers: usize) {
    let workers = (server_workers, client_workers);
    let tunnel = Tunnel::start(Options { workers, ..Options::default() });
    let (server, client) = (tunnel.lab.server(), tunnel.lab.client());
    keep_their_order(client, server, &[], [SERVER_V4.into(), SERVER_V6.into()]);
    keep_their_order(server, client, &[], [CLIENT_V4.into(), CLIENT_V6.into()]);
    for daemon in [&tunnel.server, &tunnel.client] {
        let status = daemon.status();
        assert!(status.workers.iter().all(|worker| worker.reordered == 0), "{status:#?}");
    }
}

#[test]
fn by_one_worker_on_either_side() {
    keeps_the_order(1, 1);
}

#[test]
fn by_one_worker_of_the_server_and_two_of_the_client() {
    keeps_the_order(1, 2);
}

#[test]
fn by_two_workers_of_the_server_and_one_of_the_client() {
    keeps_the_order(2, 1);
}

#[test]
fn by_two_workers_on_either_side() {
    keeps_the_order(2, 2);
}

#[test]
fn by_two_workers_of_the_server_and_three_of_the_client() {
    keeps_the_order(2, 3);
}

#[test]
fn by_three_workers_of_the_server_and_two_of_the_client() {
    keeps_the_order(3, 2);
}

/// The server's own host forwards between its clients, each of which is served by a worker of its
/// own: every packet leaves by the TUN device that it came by.
#[test]
fn from_one_client_to_another() {
    let (v4, v6) = (Ipv4Addr::new(10, 77, 0, 3), Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 3));
    let mut tunnel =
        Tunnel::prepare(Options { routed: true, workers: (2, 1), ..Options::default() });
    let (mut other, peer) = tunnel.another_client(v4, v6);
    tunnel.peers.push(peer);
    tunnel.write_server_config();
    run(tunnel.lab.server(), "sysctl -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
    tunnel.remember_hosts();
    tunnel.start_server();
    tunnel.start_client();
    other.start(tunnel.lab.router());
    other.await_status(PATIENCE, "the other client", |it| it.state == "up");
    let (server, client, router) = (tunnel.lab.server(), tunnel.lab.client(), tunnel.lab.router());
    corelane::lab::wait_until(PATIENCE, "an echo of the other client", || {
        (echo(client, v4) && echo(client, v6)).then_some(())
    })
    .unwrap();
    let sessions: Vec<_> =
        tunnel.server.status().peers.into_iter().map(|it| it.lanes_in_use.receiving).collect();
    assert_ne!(sessions[0], sessions[1], "each has a worker of its own");
    keep_their_order(client, router, &[server], [v4.into(), v6.into()]);
    keep_their_order(router, client, &[server], [CLIENT_V4.into(), CLIENT_V6.into()]);
    assert_eq!(other.terminate().code(), Some(0));
}
