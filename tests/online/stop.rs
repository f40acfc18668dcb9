//! A client that is told to stop while somebody is asked for a password.

use std::fs;
use std::time::Duration;

use corelane::lab::addresses;
use corelane::sys::clock;

use crate::site::{Site, add_user};
use crate::tools;

/// What a stop may take, however busy the machine is.
const AT_ONCE: Duration = Duration::from_secs(5);

#[test]
fn a_stop_waits_for_nobody_who_is_asked_and_leaves_nothing_behind() {
    let site = Site::new();
    let mut server = site.server("vpn", "");
    server.administer([add_user("alice"), add_user("bob")]);
    server.start(&site.lab.server);
    for (user, signal) in [("alice", "TERM"), ("bob", "INT")] {
        let mut client = site.client(user, &[addresses::SERVER_V4]);
        let text = fs::read_to_string(client.config_file()).unwrap();
        let lines = text.lines().filter(|line| !line.starts_with("password_file"));
        fs::write(client.config_file(), lines.map(|line| format!("{line}\n")).collect::<String>())
            .unwrap();
        // Somebody who says nothing, and does not go away.
        let pipe = site.path(signal);
        tools::run(&site.lab.client, &format!("mkfifo {}", pipe.display()));
        let script = format!("exec \"$@\" <> {}", pipe.display());
        client.wrapper = ["sh", "-c", &script, "sh"].map(str::to_owned).to_vec();
        let settings = ["--password-stdin", "--set", "client.kill_switch=true"];
        client.flags.extend(settings.map(str::to_owned));
        client.start(&site.lab.client);
        client.await_log("the kill switch is on");
        let tables = || tools::run(&site.lab.client, "nft list tables");
        assert!(tables().contains("corelane-kill-switch"), "{}", tables());
        client.signal(signal);
        let asked = clock::now();
        assert!(client.await_end().success(), "{}", client.log());
        let took = clock::now() - asked;
        assert!(took < AT_ONCE, "{took:?}");
        assert!(client.log().contains("stopping, asked by a signal"), "{}", client.log());
        assert_eq!(tables(), "", "the host is open again");
    }
}
