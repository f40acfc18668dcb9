//! The main job: log in, get a lease, be online.

use corelane::lab::addresses;

use crate::site::{SERVER_V4, Site, add_user, await_online};
use crate::tools;

#[test]
fn a_user_logs_in_and_is_online() {
    let site = Site::new();
    let mut server = site.server("vpn", "");
    server.administer([add_user("alice")]);
    server.start(&site.lab.server);
    let mut client = site.client("alice", &[addresses::SERVER_V4]);
    client.start(&site.lab.client);
    await_online(&mut client);
    tools::ping(&site.lab.client, SERVER_V4, "-c 5 -i 0.01");
    tools::ping(&site.lab.client, "fd77::1".parse::<std::net::Ipv6Addr>().unwrap(), "-c 5 -i 0.01");
    tools::transfer(&site.lab.client, &site.lab.server, SERVER_V4, 10_000_000);
    assert!(client.terminate().success(), "{}", client.log());
    assert!(server.daemon.terminate().success(), "{}", server.daemon.log());
}
