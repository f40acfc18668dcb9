//! What the daemons may do once they run, and whom they serve.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::net::UnixStream;

use corelane::handshake::keys::PrivateKey;
use corelane::lab::wait_until;

use crate::daemon::Daemon;
use crate::harness::{Options, PATIENCE, SERVER_V4, TUN, Tunnel};
use crate::tools::{attempt, ping, run};

/// Capabilities as masks (linux/capability.h).
const DAC_OVERRIDE: u64 = 1 << 1;
const DAC_READ_SEARCH: u64 = 1 << 2;
const NET_ADMIN: u64 = 1 << 12;
/// A user who owns nothing here.
const NOBODY: u32 = 65534;

/// Every thread of a daemon must have `CAP_NET_ADMIN` in effect and `reserve` besides, the workers
/// nothing at all.
#[track_caller]
fn assert_capabilities(daemon: &Daemon, reserve: u64) {
    let pid = daemon.pid();
    for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let task = task.unwrap().path();
        let name = fs::read_to_string(task.join("comm")).unwrap();
        let status = fs::read_to_string(task.join("status")).unwrap();
        let mask = |set: &str| {
            let digits = status.lines().find_map(|line| line.strip_prefix(set)).unwrap();
            u64::from_str_radix(digits.trim(), 16).unwrap()
        };
        let is_worker = name.starts_with("tunnel-");
        let expected = if is_worker { (0, 0) } else { (NET_ADMIN, NET_ADMIN | reserve) };
        assert_eq!((mask("CapEff:"), mask("CapPrm:")), expected, "{name}");
    }
}

#[test]
fn a_daemon_keeps_one_capability_and_its_workers_none() {
    let tunnel = Tunnel::start(Options { workers: (2, 2), ..Options::default() });
    for daemon in [&tunnel.server, &tunnel.client] {
        assert_capabilities(daemon, 0);
    }
}

/// Moves the server's configuration into a directory of another user, as the installation of the
/// systemd unit makes it, and adds a peer whose pre-shared key is there, too.
fn give_configuration_away(tunnel: &Tunnel) {
    let directory = tunnel.directory.path().join("etc");
    fs::create_dir(&directory).unwrap();
    let (config, key) = (directory.join("server.toml"), directory.join("peer.psk"));
    fs::rename(tunnel.server.config_file(), &config).unwrap();
    symlink(&config, tunnel.server.config_file()).unwrap();
    fs::write(&key, PrivateKey::generate(&mut rand::rng()).to_base64()).unwrap();
    let peer = PrivateKey::generate(&mut rand::rng()).public();
    let mut text = fs::read_to_string(&config).unwrap();
    text += &format!("[[peer]]\npublic_key = \"{peer}\"\npreshared_key_file = {key:?}\n");
    fs::write(&config, text).unwrap();
    for (path, mode) in [(&config, 0o640), (&key, 0o600), (&directory, 0o750)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
}

#[test]
fn a_daemon_of_root_reads_again_what_is_another_users() {
    let without_searching = ["setpriv", "--bounding-set=-dac_read_search"];
    for (wrapper, reserve) in [(&[][..], DAC_READ_SEARCH), (&without_searching[..], DAC_OVERRIDE)] {
        let mut tunnel = Tunnel::prepare(Options { workers: (2, 2), ..Options::default() });
        give_configuration_away(&tunnel);
        tunnel.server.wrapper = wrapper.iter().map(|word| (*word).to_owned()).collect();
        tunnel.start_server();
        tunnel.start_client();
        assert_capabilities(&tunnel.server, reserve);
        let config = fs::read_to_string(tunnel.server.config_file()).unwrap();
        let peer = PrivateKey::generate(&mut rand::rng()).public();
        fs::write(tunnel.server.config_file(), config + &peer_text(&peer.to_string())).unwrap();
        let reloaded = tunnel.server.ask(&["reload"]);
        assert!(reloaded.status.success(), "{reloaded:?}");
        assert_eq!(tunnel.server.status().peers.len(), 3);
        assert_capabilities(&tunnel.server, reserve);
        ping(tunnel.lab.client(), SERVER_V4, "-i 0 -c 10");
    }
}

fn peer_text(key: &str) -> String {
    format!("[[peer]]\npublic_key = \"{key}\"\n")
}

#[test]
fn what_root_cannot_read_any_more_is_told_with_what_mends_it() {
    let tunnel = Tunnel::start(Options::default());
    let config = tunnel.client.config_file();
    fs::set_permissions(&config, fs::Permissions::from_mode(0o600)).unwrap();
    chown(&config, Some(NOBODY), Some(NOBODY)).unwrap();
    let reloaded = tunnel.client.ask(&["reload"]);
    let message = String::from_utf8_lossy(&reloaded.stderr).into_owned();
    assert!(!reloaded.status.success(), "{message}");
    assert!(message.contains("no rights but those of its user"), "{message}");
    assert!(message.contains("restart the daemon"), "{message}");
    assert_capabilities(&tunnel.client, 0);
}

#[test]
fn a_source_that_the_peer_does_not_own_is_dropped_and_counted() {
    let tunnel = Tunnel::start(Options::default());
    let client = tunnel.lab.client();
    run(client, &format!("ip address add 10.77.0.66/32 dev {TUN}"));
    let answer = attempt(client, &format!("ping -n -c 3 -i 0.2 -W 0.3 -I 10.77.0.66 {SERVER_V4}"));
    assert!(!answer.status.success());
    let counted = || {
        let drops = tunnel.drops();
        (drops[0].get("inner_source_not_allowed") == Some(&3)).then_some(())
    };
    wait_until(PATIENCE, "three drops", counted).unwrap();
}

#[test]
fn a_status_client_that_finds_no_descriptor_left_is_served_when_there_is_one() {
    let tunnel = Tunnel::start(Options::default());
    let limit_files = |limit: &str| {
        run(tunnel.lab.client(), &format!("prlimit --pid {} --nofile={limit}", tunnel.client.pid()))
    };
    // The soft limit alone: the hard one is not easily raised again.
    limit_files("3:");
    let mut stream = UnixStream::connect(tunnel.client.status_socket()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"{\"request\":\"status\"}\n").unwrap();
    tunnel.client.await_log("status socket, a client has to wait");
    ping(tunnel.lab.client(), SERVER_V4, "-i 0 -c 10");
    limit_files("1024:");
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).unwrap();
    assert!(answer.starts_with("{\"answer\":\"status\""), "{answer}");
}
