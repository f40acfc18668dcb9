//! The name servers of a client's host: set up in each way that hosts know, and set back.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use corelane::lab::wait_until;

use crate::harness::{Options, PATIENCE, Tunnel};

const BEFORE: &str = "nameserver 192.0.2.53\noptions timeout:1\n";

/// A tunnel whose client has files and programs of its own to set name servers up with.
struct Hosted {
    tunnel: Tunnel,
    /// What the client finds as its `/etc`.
    etc: PathBuf,
    /// What it finds programs in before anything else.
    programs: PathBuf,
}

impl Hosted {
    fn prepare() -> Self {
        let mut tunnel = Tunnel::prepare(Options::default());
        let directory = tunnel.directory.path();
        let [etc, programs] = ["etc", "programs"].map(|name| directory.join(name));
        for path in [&etc, &programs] {
            fs::create_dir(path).unwrap();
        }
        fs::write(etc.join("resolv.conf"), BEFORE).unwrap();
        tunnel.client.wrapper = wrapper(&format!("mount --bind {} /etc", etc.display()), &programs);
        tunnel.start_server();
        Self { tunnel, etc, programs }
    }

    fn resolv_conf(&self) -> String {
        fs::read_to_string(self.etc.join("resolv.conf")).unwrap()
    }

    /// A program that notes how it was called and what it was given to read.
    fn install_program(&self, name: &str) {
        let log = self.log(name);
        let script = format!(
            "#!/bin/sh\n{{ echo \"$@\"; cat; }} >> {}\n\
             if [ -e {} ]; then echo no >&2; exit 1; fi\n",
            log.display(),
            self.programs.join("failing").display(),
        );
        let path = self.programs.join(name);
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn log(&self, name: &str) -> PathBuf {
        self.programs.join(format!("{name}.log"))
    }

    /// What a program was told since this was asked last.
    fn told(&self, name: &str) -> Vec<String> {
        let log = self.log(name);
        let told = fs::read_to_string(&log).unwrap_or_default();
        fs::write(log, "").unwrap();
        told.lines().map(str::to_owned).collect()
    }

    fn want(&mut self, settings: &[&str]) {
        let flags = settings.iter().flat_map(|it| ["--set".to_owned(), format!("dns.{it}")]);
        self.tunnel.client.flags = flags.collect();
    }
}

fn wrapper(mount: &str, programs: &Path) -> Vec<String> {
    let path = programs.display();
    let script = format!("{mount} && PATH={path}:$PATH exec setpriv {LIMITS} -- \"$@\"");
    ["unshare", "--mount", "sh", "-c", &script, "sh"].map(str::to_owned).to_vec()
}

/// A container's root often has not much more.
const LIMITS: &str = "--bounding-set=-dac_override,-dac_read_search,-fowner,-chown";
const FULL: [&str; 2] = ["servers=[\"10.77.0.1\", \"fd77::1\"]", "search=[\"example.org\"]"];

#[test]
fn the_file_names_the_tunnels_servers_and_is_as_before_after_every_end() {
    let mut hosted = Hosted::prepare();
    hosted.want(&FULL);
    for is_killed in [false, true, true] {
        hosted.tunnel.start_client();
        let text = hosted.resolv_conf();
        assert!(text.contains("nameserver 10.77.0.1\nnameserver fd77::1\nsearch example.org\n"));
        match is_killed {
            true => {
                hosted.tunnel.client.kill();
                assert_eq!(hosted.resolv_conf(), text);
            }
            false => {
                assert_eq!(hosted.tunnel.client.terminate().code(), Some(0));
                assert_eq!(hosted.resolv_conf(), BEFORE);
            }
        }
    }
    hosted.tunnel.client.flags.clear();
    hosted.tunnel.start_client();
    assert_eq!(hosted.resolv_conf(), BEFORE, "the start without any name servers mends that");
    assert_eq!(fs::read_dir(&hosted.etc).unwrap().count(), 1);
}

#[test]
fn a_link_and_a_mount_point_are_as_before_too() {
    let mut hosted = Hosted::prepare();
    let (file, target) = (hosted.etc.join("resolv.conf"), hosted.etc.join("elsewhere"));
    fs::rename(&file, &target).unwrap();
    symlink("elsewhere", &file).unwrap();
    hosted.want(&FULL);
    hosted.tunnel.start_client();
    assert!(!file.symlink_metadata().unwrap().is_symlink());
    assert_eq!(fs::read_to_string(&target).unwrap(), BEFORE);
    assert_eq!(hosted.tunnel.client.terminate().code(), Some(0));
    assert_eq!(fs::read_link(&file).unwrap(), Path::new("elsewhere"));

    let mount = format!("mount --bind {} /etc/resolv.conf", target.display());
    hosted.tunnel.client.wrapper = wrapper(&mount, &hosted.programs);
    hosted.tunnel.start_client();
    assert!(fs::read_to_string(&target).unwrap().contains("nameserver 10.77.0.1\n"));
    assert_eq!(hosted.tunnel.client.terminate().code(), Some(0));
    assert_eq!(fs::read_to_string(&target).unwrap(), BEFORE);
}

#[test]
fn resolved_is_told_which_domains_are_whose() {
    let mut hosted = Hosted::prepare();
    hosted.install_program("resolvectl");
    hosted.install_program("resolvconf");
    fs::write(hosted.etc.join("resolv.conf"), "nameserver 127.0.0.53\n").unwrap();
    hosted.want(&FULL);
    hosted.tunnel.start_client();
    let told = [
        "dns corelane0 10.77.0.1 fd77::1",
        "domain corelane0 example.org ~.",
        "default-route corelane0 yes",
    ];
    assert_eq!(hosted.told("resolvectl"), told);
    // The device is gone by then, which resolvectl has no name servers to take from.
    let failing = hosted.programs.join("failing");
    fs::write(&failing, "").unwrap();
    assert_eq!(hosted.tunnel.client.terminate().code(), Some(0));
    assert_eq!(hosted.told("resolvectl"), ["revert corelane0"]);
    let log = hosted.tunnel.client.log();
    assert!(!log.contains("name servers cannot be set up"), "{log}");
    fs::remove_file(failing).unwrap();

    hosted.want(&["servers=[\"10.77.0.1\"]", "split=[\"corp.example\"]"]);
    hosted.tunnel.start_client();
    let told =
        ["dns corelane0 10.77.0.1", "domain corelane0 ~corp.example", "default-route corelane0 no"];
    assert_eq!(hosted.told("resolvectl"), told);
    assert_eq!(hosted.resolv_conf(), "nameserver 127.0.0.53\n");
    assert_eq!(hosted.told("resolvconf"), Vec::<String>::new());
}

#[test]
fn resolvconf_is_given_a_record() {
    let mut hosted = Hosted::prepare();
    hosted.install_program("resolvconf");
    hosted.install_program("resolvectl");
    hosted.want(&FULL);
    hosted.tunnel.start_client();
    let told = [
        "-a corelane0 -m 0 -x",
        "nameserver 10.77.0.1",
        "nameserver fd77::1",
        "search example.org",
    ];
    assert_eq!(hosted.told("resolvconf"), told);
    assert_eq!(hosted.tunnel.client.terminate().code(), Some(0));
    assert_eq!(hosted.told("resolvconf"), ["-d corelane0 -f"]);
    assert_eq!(hosted.resolv_conf(), BEFORE);

    // Debian's sorts by name.
    fs::create_dir(hosted.etc.join("resolvconf")).unwrap();
    fs::write(hosted.etc.join("resolvconf/interface-order"), "tun*\n").unwrap();
    hosted.want(&["servers=[\"10.77.0.1\"]", "split=[\"corp.example\"]", "mode=\"resolvconf\""]);
    hosted.tunnel.start_client();
    assert_eq!(hosted.told("resolvconf")[0], "-a tun.corelane0 -m 0 -p");
    assert_eq!(hosted.told("resolvectl"), Vec::<String>::new());
}

#[test]
fn a_program_that_refuses_ends_the_start_and_nothing_stays() {
    let mut hosted = Hosted::prepare();
    hosted.install_program("resolvectl");
    fs::write(hosted.programs.join("failing"), "").unwrap();
    hosted.want(&["servers=[\"10.77.0.1\"]", "mode=\"resolved\""]);
    hosted.tunnel.client.start(hosted.tunnel.lab.client());
    assert_eq!(hosted.tunnel.client.await_end().code(), Some(1));
    let log = hosted.tunnel.client.log();
    assert!(log.contains("resolvectl dns corelane0") && log.contains("polkit"), "{log}");
    assert_eq!(hosted.resolv_conf(), BEFORE);
    hosted.tunnel.assert_client_host_is_as_before();
}

#[test]
fn a_reload_moves_to_other_name_servers() {
    let mut hosted = Hosted::prepare();
    let config = hosted.tunnel.client.config_file();
    let text = fs::read_to_string(&config).unwrap();
    hosted.tunnel.start_client();
    assert_eq!(hosted.resolv_conf(), BEFORE);
    for (servers, expected) in [("[\"10.77.0.1\"]", true), ("[]", false)] {
        fs::write(&config, format!("{text}[dns]\nservers = {servers}\n")).unwrap();
        let reloaded = hosted.tunnel.client.ask(&["reload"]);
        assert!(reloaded.status.success(), "{reloaded:?}");
        assert_eq!(hosted.resolv_conf().contains("nameserver 10.77.0.1\n"), expected);
    }
    assert_eq!(hosted.resolv_conf(), BEFORE);
}

#[test]
fn a_file_that_a_dhcp_client_overwrites_is_put_back() {
    const RENEWED: &str = "nameserver 198.51.100.53\n";
    let mut hosted = Hosted::prepare();
    hosted.want(&FULL);
    hosted.tunnel.start_client();
    let file = hosted.etc.join("resolv.conf");
    for _ in 0..2 {
        let written = hosted.etc.join("new");
        fs::write(&written, RENEWED).unwrap();
        fs::rename(&written, &file).unwrap();
        let is_back = || hosted.resolv_conf().contains("nameserver 10.77.0.1\n").then_some(());
        wait_until(PATIENCE, "the name servers to be back", is_back).unwrap();
    }
    hosted.tunnel.client.await_log("another program removed or changed");
    assert_eq!(hosted.tunnel.client.terminate().code(), Some(0));
    assert_eq!(hosted.resolv_conf(), RENEWED, "that is what was there before");
}
