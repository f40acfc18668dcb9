//! Programs that set name servers up may be slow: nobody waits for them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use corelane::lab::{addresses, wait_until};
use corelane::sys::clock;

use crate::harness::PATIENCE;
use crate::site::{SERVER_V4, Site, add_user, await_online};
use crate::tools;

/// A `resolvectl` that notes how it was called, and takes its time while there is a file `slow`.
const PROGRAM: &str = "#!/bin/sh\necho \"$@\" >> DIR/told\nif [ -e DIR/slow ]; then sleep 4; fi\n";

#[test]
fn a_slow_resolver_delays_neither_a_failover_nor_the_control_thread() {
    let site = Site::new();
    let mut first = site.server("first", "[lease]\ndns_servers = [\"10.77.0.1\"]\n");
    let mut second = site.server("second", "[lease]\ndns_servers = [\"10.77.0.53\"]\n");
    for server in [&first, &second] {
        server.administer([add_user("alice")]);
    }
    first.start(&site.lab.server);
    second.start(&site.lab.router);
    let mut client =
        site.client_with_backup("alice", addresses::SERVER_V4, addresses::ROUTER_CLIENT_SIDE_V4);
    let [etc, programs] = ["etc", "programs"].map(|name| site.path(name));
    for directory in [&etc, &programs] {
        fs::create_dir(directory).unwrap();
    }
    fs::write(etc.join("resolv.conf"), "nameserver 127.0.0.53\n").unwrap();
    let program = programs.join("resolvectl");
    fs::write(&program, PROGRAM.replace("DIR", programs.to_str().unwrap())).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let (etc, path) = (etc.display(), programs.display());
    let script = format!("mount --bind {etc} /etc && PATH={path}:$PATH exec \"$@\"");
    client.wrapper = ["unshare", "--mount", "sh", "-c", &script, "sh"].map(str::to_owned).to_vec();
    client.start(&site.lab.client);
    await_online(&mut client);
    let told = || fs::read_to_string(programs.join("told")).unwrap_or_default();
    assert!(told().contains("dns corelane0 10.77.0.1\n"), "{}", told());

    fs::write(programs.join("slow"), "").unwrap();
    first.daemon.signal("STOP");
    // The password is hashed when nobody else wants to work.
    let logged_in = || client.log().contains("(second) as alice").then_some(());
    wait_until(3 * PATIENCE, "the login at the second server", logged_in).unwrap();
    let began = clock::now();
    let is_there = || tools::echo(&site.lab.client, SERVER_V4).then_some(());
    wait_until(PATIENCE, "an echo of the second server", is_there).unwrap();
    let took = clock::now() - began;
    println!("from the login to an echo: {took:?}");
    assert!(took < Duration::from_secs(3), "{took:?}\n{}", client.log());
    let is_told = || told().contains("dns corelane0 10.77.0.53\n").then_some(());
    wait_until(PATIENCE, "the program to be run", is_told).unwrap();
    let asked = clock::now();
    assert!(client.ask(&["reload"]).status.success(), "{}", client.log());
    assert!(client.ask(&["status"]).status.success());
    let answered = clock::now() - asked;
    assert!(answered < Duration::from_secs(2), "the control thread answers: {answered:?}");
    fs::remove_file(programs.join("slow")).unwrap();
    first.daemon.signal("CONT");
    assert!(client.terminate().success(), "{}", client.log());
    assert!(told().ends_with("revert corelane0\n"), "{}", told());
}
