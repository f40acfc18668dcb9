//! The main job: log in, get a lease, be online.

use corelane::lab::{addresses, wait_until};

use crate::harness::PATIENCE;
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

#[test]
fn a_lease_with_another_mtu_changes_the_device_and_what_goes_through() {
    let site = Site::new();
    let mut server = site.server("vpn", "[lease]\nlasts_s = 10\nmtu = 1400\n");
    server.administer([add_user("alice")]);
    server.start(&site.lab.server);
    let mut client = site.client("alice", &[addresses::SERVER_V4]);
    client.start(&site.lab.client);
    await_online(&mut client);
    let device = || tools::run(&site.lab.client, "ip link show dev corelane0");
    assert!(device().contains("mtu 1400 "), "{}", device());
    let config = server.daemon.config_file();
    let text = std::fs::read_to_string(&config).unwrap();
    // That of the server's own device is 1408 bytes.
    for mtu in [1300, 1404] {
        let text = text.replace("mtu = 1400", &format!("mtu = {mtu}"));
        std::fs::write(&config, text).unwrap();
        assert!(server.daemon.ask(&["reload"]).status.success(), "{}", server.daemon.log());
        let has_changed = || device().contains(&format!("mtu {mtu} ")).then_some(());
        wait_until(PATIENCE, "the device to change with the lease", has_changed).unwrap();
        // Whole packets of that size, and with headers of 28 bytes.
        let whole = format!("-c 5 -i 0.01 -M do -s {}", mtu - 28);
        tools::ping(&site.lab.client, SERVER_V4, &whole);
        let status = client.status();
        let carried: Vec<usize> =
            status.peers[0].paths.iter().map(|path| path.plaintext_max).collect();
        let expected = usize::next_multiple_of(mtu, 16);
        assert!(carried.iter().all(|carried| *carried == expected), "{carried:?}");
    }
    assert_eq!(client.status().peers[0].rekeys, 0, "the session goes on");
}
