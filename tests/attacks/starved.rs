//! Queues and buffers that are full, and ends that do not move.

use std::thread;
use std::time::Duration;

use corelane::lab::wait_until;

use crate::harness::{CLIENT_V4, Options, PATIENCE, SERVER_V4, TUN, Tunnel};
use crate::stage::{Side, Stage, assert_resting};
use crate::tools::{echo, run, start};

/// Shorter than the silence at which a client begins to doubt its server.
const PAUSE: Duration = Duration::from_millis(900);

/// A daemon that is stopped, as by a debugger or a laptop's lid, until this is dropped.
struct Paused<'d>(&'d crate::daemon::Daemon);

impl<'d> Paused<'d> {
    fn new(daemon: &'d crate::daemon::Daemon) -> Self {
        daemon.signal("STOP");
        Self(daemon)
    }
}

impl Drop for Paused<'_> {
    fn drop(&mut self) {
        self.0.signal("CONT");
    }
}

/// Packets that the kernel dropped because nobody read the TUN device.
fn dropped_by_tun(tunnel: &Tunnel) -> u64 {
    let text = run(tunnel.lab.server(), &format!("ip -s -json link show {TUN}"));
    let links: serde_json::Value = serde_json::from_str(&text).unwrap();
    links[0]["stats64"]["tx"]["dropped"].as_u64().unwrap()
}

/// The kernel drops what does not fit the queue; what comes afterwards passes.
#[test]
fn a_full_tun_queue_costs_packets_and_nothing_else() {
    let stage = Stage::build();
    let tunnel = &stage.tunnel;
    {
        let _paused = Paused::new(&tunnel.server);
        let blast = start(tunnel.lab.server(), &format!("ping -f -q -l 5000 -c 5000 {CLIENT_V4}"));
        let full = || (dropped_by_tun(tunnel) > 0).then_some(());
        wait_until(PATIENCE, "the queue to be full", full).unwrap();
        drop(blast);
    }
    // The pause may have been long enough for the client to connect anew, on a busy machine.
    let answered = || echo(tunnel.lab.client(), SERVER_V4).then_some(());
    wait_until(PATIENCE, "an echo", answered).unwrap();
    stage.assert_healthy();
}

/// What is sent to an end that does not read is lost, and holds nobody up.
#[test]
fn an_end_that_stands_still_is_found_where_it_was() {
    let stage = Stage::build();
    let tunnel = &stage.tunnel;
    for daemon in [&tunnel.client, &tunnel.server] {
        {
            let _paused = Paused::new(daemon);
            let other = if std::ptr::eq(daemon, &tunnel.client) {
                (tunnel.lab.server(), CLIENT_V4, &tunnel.server)
            } else {
                (tunnel.lab.client(), SERVER_V4, &tunnel.client)
            };
            let (host, to, running) = other;
            let blast = format!("ping -f -q -s 1300 -l 2000 -c 2000 {to}");
            let blast = start(host, &blast);
            thread::sleep(PAUSE);
            drop(blast);
            assert_resting(running);
        }
        let answered = || echo(tunnel.lab.client(), SERVER_V4).then_some(());
        wait_until(PATIENCE, "an echo", answered).unwrap();
    }
    stage.assert_healthy();
}

/// Buffers of the least size, one super-packet: a socket that is full stops the reading of TUN,
/// over and over.
#[test]
fn the_smallest_buffers_carry_traffic_and_never_hang() {
    let flags = ["--set", "tuning.socket_buffer_bytes=65536"].map(str::to_owned).to_vec();
    let mut stage = Stage::with(Options {
        workers: (2, 2),
        server_flags: flags.clone(),
        client_flags: flags,
        ..Options::default()
    });
    stage.expect_warning("socket_buffer_bytes");
    let tunnel = &stage.tunnel;
    for flags in ["-t 1", "-t 1 -R", "-t 1 -P 4", "-t 1 -P 4 -R"] {
        let report = tunnel.iperf(SERVER_V4, flags);
        assert!(report.received_bytes() > 1 << 18, "{flags}: {report:#?}");
    }
    for flags in ["-t 1 -u -b 0 -l 64", "-t 1 -u -b 0 -l 1300 -P 2", "-t 1 -u -b 0 -R"] {
        tunnel.iperf(SERVER_V4, flags);
    }
    for side in [Side::Server, Side::Client] {
        assert_resting(stage.daemon(side));
    }
    stage.assert_unharmed();
}
