//! The main job as people do it: nothing but the program and its commands, from an empty directory.

use std::fs;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use corelane::exit::ExitCode;
use corelane::lab::{LabOptions, Routed, addresses};
use corelane::sys::clock;
use tempfile::TempDir;

use crate::daemon::{CORELANE, Daemon, WITH_AN_OPEN_TUN};
use crate::harness::PATIENCE;
use crate::site::{await_online, inner_address};
use crate::tools;

/// Whom the server runs as where it is not root.
const ORDINARY_USER: u32 = 65534;
/// What the systemd unit starts the server with.
const AS_THE_UNIT: &str = "setpriv --reuid 65534 --regid 65534 --clear-groups --no-new-privs \
     --pdeathsig KILL --inh-caps -all,+net_admin,+net_bind_service \
     --ambient-caps -all,+net_admin,+net_bind_service \
     --bounding-set -all,+net_admin,+net_bind_service";
/// What gives administrators the same user.
const AS_THE_USER: &str = "setpriv --reuid 65534 --regid 65534 --clear-groups";

/// A host that the client reaches by the server alone.
const FAR: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);

struct FirstUse {
    lab: Routed,
    directory: TempDir,
    server: Daemon,
    client: Daemon,
    /// Stands in front of administrators' commands.
    wrapper: Vec<String>,
}

impl Drop for FirstUse {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.server.explain();
            self.client.explain();
        }
    }
}

impl FirstUse {
    fn new() -> Self {
        let lab = Routed::build(LabOptions::default()).unwrap();
        let far = format!("ip address add {FAR}/32 dev lo");
        tools::run(&lab.router, &far);
        tools::run(&lab.router, "nft add table inet near");
        let chain = "nft add chain inet near input { type filter hook input priority 0 ; }";
        tools::run(&lab.router, chain);
        let rule = format!("nft add rule inet near input iifname to-client ip daddr {FAR} drop");
        tools::run(&lab.router, &rule);
        let directory = TempDir::new().unwrap();
        let (server, _) = Daemon::new(directory.path(), "server", "serve");
        // It is for `corelane init` to make one.
        fs::remove_file(server.key_file()).unwrap();
        let (mut client, _) = Daemon::new(directory.path(), "alice", "up");
        let profiles = directory.path().join("profiles").display().to_string();
        client.flags.extend(["--state-directory".to_owned(), profiles]);
        Self { lab, directory, server, client, wrapper: Vec::new() }
    }

    fn invite_file(&self) -> PathBuf {
        self.directory.path().join("alice.invite")
    }

    /// What `corelane` says to a command, which must succeed.
    #[track_caller]
    fn run(&self, command: &str, stdin: &str) -> String {
        let own = self.server.program.to_str().unwrap();
        let mut words = self.wrapper.iter().map(String::as_str);
        let mut words = words.by_ref().chain([own]).chain(command.split_whitespace());
        let mut program = Command::new(words.next().unwrap());
        program.args(words).env_remove("RUST_LOG");
        program.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = program.spawn().unwrap();
        child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{command}: {output:?}");
        assert!(output.stderr.is_empty(), "nothing to complain of: {command}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// A command to the server that was set up here.
    #[track_caller]
    fn administer(&self, command: &str) -> String {
        self.run(&format!("{command} -c {}", self.server.config_file().display()), "")
    }

    /// Sets up server and user, and hands the invite over.
    fn set_up(&self) {
        self.init();
        self.invite();
    }

    fn init(&self) {
        let directory = self.directory.path().display();
        let init = format!("init vpn --address {} --dir {directory}", addresses::SERVER_V4);
        let said = self.run(&init, "");
        assert!(said.contains("corelane user add NAME"), "{said}");
    }

    fn invite(&self) {
        let config = self.server.config_file().display().to_string();
        let add = format!("user add alice --password-stdin -c {config}");
        self.run(&add, "correct horse battery\n");
        let said = self.administer(&format!("invite alice --out {}", self.invite_file().display()));
        assert!(!said.contains("clane_"), "the secret is in the file alone: {said}");
    }

    fn serve(&mut self) {
        self.server.start(&self.lab.server);
        self.server.await_status(PATIENCE, "the server to serve", |status| status.state == "up");
    }

    /// `corelane up`, and what that leads to.
    fn up(&mut self, target: &str, stdin: Option<String>) {
        (self.client.target, self.client.stdin) = (Some(target.to_owned()), stdin);
        self.client.start(&self.lab.client);
        await_online(&mut self.client);
        tools::ping(&self.lab.client, FAR, "-c 5 -i 0.01");
    }

    /// How long two megabytes take through the tunnel: to the server, and to the client.
    fn times(&self) -> [Duration; 2] {
        let (client, server) = (&self.lab.client, &self.lab.server);
        [(client, server), (server, client)].map(|(from, to)| {
            let began = clock::now();
            tools::transfer(from, to, inner_address(to), 2_000_000);
            clock::now() - began
        })
    }

    #[track_caller]
    fn expect_denied(&mut self, why: &str) {
        let ended = self.client.await_end().code();
        assert_eq!(ended, Some(ExitCode::Denied as i32), "{}", self.client.log());
        assert!(self.client.log().contains(why), "{}", self.client.log());
    }
}

#[test]
fn from_nothing_to_online_to_out_and_in_again() {
    let mut site = FirstUse::new();
    site.set_up();
    site.serve();
    assert!(!tools::echo(&site.lab.client, FAR), "it is reached by the server alone");
    let invite = fs::read_to_string(site.invite_file()).unwrap();
    site.up("-", Some(invite));
    let table = site.administer("user ls");
    assert!(table.lines().any(|line| line.contains("alice")), "{table}");

    let said = site.administer("user disable alice");
    assert!(said.contains("1 session ended, every path closed in "), "{said}");
    site.expect_denied("the server has ended the session");
    assert!(!tools::echo(&site.lab.client, FAR));
    let name = format!("alice@{}", addresses::SERVER_V4);
    site.client.target = Some(name.clone());
    site.client.start(&site.lab.client);
    site.expect_denied("refused");
    assert!(!tools::run(&site.lab.client, "ip route get 203.0.113.9").contains("corelane0"));

    site.administer("user enable alice");
    site.up(&name, None);
    // What was set up is found again when both start again.
    assert!(site.client.terminate().success(), "{}", site.client.log());
    assert!(site.server.terminate().success(), "{}", site.server.log());
    site.serve();
    site.up(&name, None);
    let log = site.server.log() + &site.client.log();
    assert!(!log.contains("clane_") && !log.contains("correct horse"), "no secret is logged");
}

#[test]
fn the_server_needs_no_root() {
    let mut site = FirstUse::new();
    // The program may lie where an ordinary user cannot go.
    let program = site.directory.path().join("corelane");
    fs::copy(CORELANE, &program).unwrap();
    chown(site.directory.path(), Some(ORDINARY_USER), Some(ORDINARY_USER)).unwrap();
    // The client has its files there, too, and root without capabilities is a user like any other.
    let everybodys = fs::Permissions::from_mode(0o777);
    fs::set_permissions(site.directory.path(), everybodys).unwrap();
    site.server.program = program;
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    site.wrapper = words(AS_THE_USER);
    site.server.wrapper = WITH_AN_OPEN_TUN.map(str::to_owned).to_vec();
    site.server.wrapper.extend(words(AS_THE_UNIT));
    site.init();
    // What root does while the server is stopped does not get in its way.
    let as_user = std::mem::take(&mut site.wrapper);
    site.administer("user add bob");
    site.wrapper = as_user;
    site.invite();
    site.serve();
    let invite = fs::read_to_string(site.invite_file()).unwrap();
    site.up("-", Some(invite));
    // The table is put back, and taken away, by one who has the same rights only.
    tools::run(&site.lab.server, "nft flush ruleset");
    site.server.await_log("another program removed or changed");
    tools::ping(&site.lab.client, FAR, "-c 5 -i 0.01");
    // Root may administer, too.
    site.wrapper.clear();
    let said = site.administer("user disable alice");
    assert!(said.contains("every path closed in "), "{said}");
    site.expect_denied("the server has ended the session");
    assert!(site.server.terminate().success(), "{}", site.server.log());
    assert_eq!(tools::run(&site.lab.server, "nft list tables"), "");
}

#[test]
fn a_rate_that_is_set_holds_at_once_in_the_session_that_there_is() {
    let mut site = FirstUse::new();
    site.set_up();
    site.serve();
    let invite = fs::read_to_string(site.invite_file()).unwrap();
    site.up("-", Some(invite));
    for (flag, bounded, free) in [("--up", 0, 1), ("--down", 1, 0)] {
        site.administer(&format!("user set alice {flag} 8M"));
        let took = site.times();
        // Two megabytes at one megabyte a second, but for what the first moments let pass.
        assert!(took[bounded] > Duration::from_millis(1800), "{flag}: {took:?}");
        assert!(
            took[free] < Duration::from_millis(1500),
            "{flag}, but not the other way: {took:?}"
        );
        site.administer(&format!("user set alice {flag} none"));
        let took = site.times();
        assert!(took[bounded] < Duration::from_millis(1500), "without {flag}: {took:?}");
    }
    let log = site.client.log();
    assert_eq!(log.matches("connected to ").count(), 1, "nothing was interrupted: {log}");
}
