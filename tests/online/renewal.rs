//! A lease that goes on: renewals, and servers that come and go.

use std::time::Duration;

use corelane::lab::{addresses, wait_until};
use corelane::sys::clock;

use crate::harness::PATIENCE;
use crate::site::{PORT, SERVER_V4, Site, add_user, await_online};
use crate::tools::{self, PingSummary};

/// A lease that a test can wait for.
const SHORT: &str = "[lease]\nlasts_s = 10\n";

#[test]
fn a_lease_is_renewed_again_and_again_and_no_packet_is_lost() {
    let site = Site::new();
    let mut server = site.server("vpn", SHORT);
    server.administer([add_user("alice")]);
    server.start(&site.lab.server);
    let mut client = site.client("alice", &[addresses::SERVER_V4]);
    client.flags.extend(["--log-level".to_owned(), "debug".to_owned()]);
    client.start(&site.lab.client);
    await_online(&mut client);
    // One and a half lives of the lease.
    let ping = format!("ping -n -q -i 0.05 -c 300 {SERVER_V4}");
    let finished = tools::start(&site.lab.client, &ping).finish().expect_success();
    assert_eq!(PingSummary::of(&finished), PingSummary { sent: 300, received: 300 });
    assert!(client.log().matches("the lease is renewed").count() >= 2, "{}", client.log());
    let status = client.status();
    assert_eq!(status.peers[0].rekeys, 0, "the session was not disturbed");
}

#[test]
fn a_client_comes_back_by_itself_when_its_server_is_killed_and_starts_again() {
    let site = Site::new();
    let mut server = site.server("vpn", "");
    server.administer([add_user("alice")]);
    server.start(&site.lab.server);
    let mut client = site.client("alice", &[addresses::SERVER_V4]);
    client.start(&site.lab.client);
    await_online(&mut client);
    let address = client_address(&site);
    server.daemon.kill();
    server.start(&site.lab.server);
    let took = await_echo(&site, PATIENCE);
    println!("back {took:?} after the server was");
    assert_eq!(client_address(&site), address, "and under the same address");
}

#[test]
fn a_client_goes_to_another_server_within_three_seconds() {
    let site = Site::new();
    let mut first = site.server("first", "");
    let mut second = site.server("second", "");
    for server in [&first, &second] {
        server.administer([add_user("alice")]);
    }
    first.start(&site.lab.server);
    second.start(&site.lab.router);
    let mut client =
        site.client_with_backup("alice", addresses::SERVER_V4, addresses::ROUTER_CLIENT_SIDE_V4);
    client.start(&site.lab.client);
    await_online(&mut client);
    assert!(client.log().contains("(first) as alice"), "{}", client.log());
    tools::ping(&site.lab.client, SERVER_V4, "-c 3 -i 0.01");
    // Not a word is heard of it any more: no reset, no goodbye.
    first.daemon.signal("STOP");
    let stopped = clock::now();
    let is_there = || tools::echo(&site.lab.client, SERVER_V4).then_some(());
    wait_until(PATIENCE, "an echo of the second server", is_there).unwrap();
    let took = clock::now() - stopped;
    println!("failover took {took:?}");
    assert!(client.log().contains("(second) as alice"), "{}", client.log());
    assert!(took < Duration::from_secs(3), "{took:?}");
    first.daemon.signal("CONT");
}

fn client_address(site: &Site) -> String {
    tools::run(&site.lab.client, "ip -4 -o addr show dev corelane0")
}

/// Waits until an echo comes back, and tells how long that took.
fn await_echo(site: &Site, within: Duration) -> Duration {
    let began = clock::now();
    let is_there = || tools::echo(&site.lab.client, SERVER_V4).then_some(());
    wait_until(within, "an echo", is_there).unwrap();
    clock::now() - began
}

#[test]
fn a_full_tunnel_leaves_the_way_to_the_login_open() {
    let site = Site::new();
    let mut server = site.server("vpn", &format!("{SHORT}routes = [\"0.0.0.0/0\", \"::/0\"]\n"));
    server.administer([add_user("alice")]);
    server.start(&site.lab.server);
    let mut client = site.client("alice", &[addresses::SERVER_V4]);
    client.flags.extend(["--log-level".to_owned(), "debug".to_owned()]);
    client.start(&site.lab.client);
    await_online(&mut client);
    let route = tools::run(&site.lab.client, "ip route get 198.18.0.1");
    assert!(route.contains("dev corelane0"), "{route}");
    client.await_log("the lease is renewed");
    server.daemon.kill();
    server.start(&site.lab.server);
    await_echo(&site, PATIENCE);
    assert!(client.terminate().success(), "{}", client.log());
    let route = tools::run(&site.lab.client, "ip route get 198.18.0.1");
    assert!(!route.contains("corelane0"), "everything is as it was: {route}");
}

#[test]
fn a_renewal_stays_with_the_endpoint_that_answers() {
    let site = Site::new();
    let nobody = "192.0.2.250";
    let endpoints = format!("endpoints = [\"{nobody}:{PORT}\", \"0.0.0.0:{PORT}\"]\n");
    let mut server = site.server("vpn", &format!("{SHORT}{endpoints}"));
    server.administer([add_user("alice")]);
    server.start(&site.lab.server);
    let mut client = site.client("alice", &[addresses::SERVER_V4]);
    client.flags.extend(["--log-level", "debug", "--set", "client.carrier=udp"].map(str::to_owned));
    client.flags.extend(["--set", "client.rekey_after_s=5"].map(str::to_owned));
    client.start(&site.lab.client);
    await_online(&mut client);
    let in_vain = || client.log().matches("has not answered").count();
    let before = in_vain();
    assert!(before >= 1, "the first endpoint does not answer: {}", client.log());
    let goes_on = || {
        let renewals = client.log().matches("the lease is renewed").count();
        let rekeys = client.try_status()?.peers.first()?.rekeys;
        (renewals >= 2 && rekeys >= 3).then_some(())
    };
    wait_until(PATIENCE, "renewals of the lease and of the session", goes_on).unwrap();
    assert_eq!(in_vain(), before, "{}", client.log());
}

/// Nothing is sent, so nothing shows that nobody answers.
#[test]
fn an_idle_full_tunnel_notices_that_its_only_server_is_dead() {
    let site = Site::new();
    let mut server = site.server("vpn", "[lease]\nroutes = [\"0.0.0.0/0\"]\nkeepalive_s = 600\n");
    server.administer([add_user("alice")]);
    server.start(&site.lab.server);
    let mut client = site.client("alice", &[addresses::SERVER_V4]);
    client.start(&site.lab.client);
    await_online(&mut client);
    server.daemon.signal("STOP");
    let stopped = clock::now();
    let has_noticed = || client.log().contains("does not answer; logging in again").then_some(());
    wait_until(PATIENCE, "the client to notice", has_noticed).unwrap();
    let took = clock::now() - stopped;
    println!("noticed after {took:?}");
    assert!(took < Duration::from_secs(8), "{took:?}\n{}", client.log());
    server.daemon.signal("CONT");
}
