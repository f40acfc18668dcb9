//! Servers that share one PostgreSQL: what is said at one holds at all, and nothing counts twice.

use corelane::accounts::operations::UsageView;
use corelane::lab::{Postgres, addresses, wait_until};
use corelane::sys::clock;
use corelane::telemetry::status::StatusReport;

use crate::daemon::Daemon;
use crate::harness::PATIENCE;
use crate::revocation::{WITHIN, expect_out};
use crate::site::{SERVER_V4, Server, Site, add_user, ask, await_online};
use crate::tools;

/// Echoes that a client sends, and the bytes of the packet of each: headers of IPv4 and ICMP, and
/// the payload.
const ECHOES: u64 = 200;
const ECHO_LEN: u64 = 20 + 8 + 1000;

/// Two servers with one database, and a client that is online at the second.
struct Fleet {
    client: Daemon,
    near: Server,
    far: Server,
    site: Site,
    /// Last, since a server that ends writes what it knows.
    _postgres: Postgres,
}

impl Fleet {
    fn new() -> Self {
        let postgres = Postgres::start().unwrap();
        let database = postgres.database("fleet").unwrap();
        let site = Site::new();
        let server = |name| site.server_with_database(name, &database, "");
        let (near, far) = (server("near"), server("far"));
        near.administer([add_user("alice")]);
        let client = site.client("alice", &[addresses::ROUTER_CLIENT_SIDE_V4]);
        let mut fleet = Self { client, near, far, site, _postgres: postgres };
        fleet.near.start(&fleet.site.lab.server);
        fleet.far.start(&fleet.site.lab.router);
        fleet.client.start(&fleet.site.lab.client);
        await_online(&mut fleet.client);
        tools::ping(&fleet.site.lab.client, SERVER_V4, "-c 3 -i 0.01");
        fleet
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for daemon in [&self.near.daemon, &self.far.daemon, &self.client] {
                daemon.explain();
            }
        }
    }
}

/// What a server says that alice has moved.
fn usage(server: &Server) -> UsageView {
    let stats = ask(server, &["stats", "--user", "alice"]);
    let mut lines: Vec<UsageView> = serde_json::from_value(stats).unwrap();
    assert!(lines.len() <= 1, "{lines:?}");
    let nothing = UsageView {
        user: None,
        day: None,
        destination: None,
        connections: None,
        received_bytes: 0,
        sent_bytes: 0,
    };
    lines.pop().unwrap_or(nothing)
}

#[test]
fn who_is_disabled_at_one_server_is_out_at_the_other_within_a_second() {
    let mut fleet = Fleet::new();
    let mut soonest = PATIENCE;
    for round in 0..3 {
        if round > 0 {
            ask(&fleet.near, &["user", "enable", "alice"]);
            // The other server hears of that as soon, but nobody waits for it.
            let online = wait_until(PATIENCE, "the client to be let in again", || {
                fleet.client.start(&fleet.site.lab.client);
                let came = wait_until(WITHIN, "it to be connected", || {
                    let status = fleet.client.try_status();
                    status.filter(|status| status.state == "up")
                });
                if came.is_err() {
                    fleet.client.kill();
                }
                came.ok()
            });
            online.unwrap();
        }
        let disabled = clock::now();
        ask(&fleet.near, &["user", "disable", "alice"]);
        // Echoes would come back outside the tunnel, too: the other server is the client's router.
        let is_out = |status: &StatusReport| status.peers.iter().all(|peer| !peer.connected);
        fleet.far.daemon.await_status(3 * WITHIN, "alice to be out", is_out);
        println!("out {:?} after it was said at the other server", clock::now() - disabled);
        soonest = soonest.min(clock::now() - disabled);
        expect_out(&mut fleet.client, "no longer good");
    }
    // Beside other tests one round may be late, but not all of them.
    assert!(soonest < WITHIN, "{soonest:?}");
}

#[test]
fn what_a_user_moves_is_counted_once_whichever_server_is_asked_and_crashes() {
    let mut fleet = Fleet::new();
    let flags = format!("-c {ECHOES} -i 0.002 -s 1000");
    tools::ping(&fleet.site.lab.client, SERVER_V4, &flags);
    // Beside the echoes there are those that found out whether the tunnel works.
    let expected = ECHOES * ECHO_LEN..2 * ECHOES * ECHO_LEN;
    let is_whole = |usage: &UsageView| {
        expected.contains(&usage.received_bytes) && expected.contains(&usage.sent_bytes)
    };
    let counted = wait_until(PATIENCE, "the traffic to be counted", || {
        Some(usage(&fleet.near)).filter(is_whole)
    });
    counted.unwrap();

    assert!(fleet.client.terminate().success());
    let settled = || {
        let [near, far] = [usage(&fleet.near), usage(&fleet.far)];
        (near == far && is_whole(&near)).then_some(near)
    };
    let settled = wait_until(PATIENCE, "both servers to say the same", settled).unwrap();
    fleet.far.daemon.kill();
    fleet.far.start(&fleet.site.lab.router);
    assert_eq!(usage(&fleet.far), settled);
    assert_eq!(usage(&fleet.near), settled);
}
