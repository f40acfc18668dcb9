//! A disk that is full for real, under the spool and the database of a server that runs.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::PathBuf;

use corelane::accounts::operations::{LimitChanges, Operation, UsageView};
use corelane::lab::{addresses, wait_until};
use serde_json::Value;

use crate::harness::PATIENCE;
use crate::site::{SERVER_V4, Server, Site, add_user, ask, await_online};
use crate::tools::{self, Running};

/// What a small disk has, in the words of mount(8): twice what SQLite's write-ahead log grows to.
const DISK: &str = "8m";
/// Bytes that are moved through the tunnel at a time.
const MOVED: usize = 300_000;
/// Administrators' changes that fit into what is left of a page, and what pages the database has to
/// spare, at the very most.
const KEPT_MAX: usize = 100;
/// Groups that each of them names, so that each takes some KiB of room.
const GROUPS: usize = 40;

/// A file system of its own in a mount namespace of its own, which goes with a process.
struct Disk {
    holder: Running,
    path: PathBuf,
}

impl Disk {
    fn mount(site: &Site) -> Self {
        let path = site.path("disk");
        fs::create_dir(&path).unwrap();
        let script = site.path("hold");
        let text = format!(
            "mount -t tmpfs -o mode=700,size={DISK} tmpfs {0} && echo > {0}/mounted && \
             exec sleep infinity\n",
            path.display()
        );
        fs::write(&script, text).unwrap();
        let hold = format!("unshare --mount --propagation=private sh {}", script.display());
        let disk = Self { holder: tools::start(&site.lab.server, &hold), path };
        let mounted = disk.seen_from_outside().join("mounted");
        wait_until(PATIENCE, "a disk", || mounted.exists().then_some(())).unwrap();
        disk
    }

    /// The command that runs another where the disk is.
    fn wrapper(&self) -> Vec<String> {
        let namespace = format!("--mount=/proc/{}/ns/mnt", self.holder.pid());
        ["nsenter", &namespace, "--"].map(str::to_owned).to_vec()
    }

    fn seen_from_outside(&self) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.holder.pid()));
        root.join(self.path.strip_prefix("/").unwrap())
    }

    fn filler(&self) -> PathBuf {
        self.seen_from_outside().join("filler")
    }

    /// Takes all the room that there is; a program may have made some since.
    fn fill(&self) {
        let mut file = File::options().append(true).create(true).open(self.filler()).unwrap();
        loop {
            match file.write_all(&[1; 4096]) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => return,
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn make_room(&self) {
        fs::remove_file(self.filler()).unwrap();
    }
}

fn groups() -> Vec<String> {
    (0..GROUPS).map(|number| format!("{number:02}-{}", "g".repeat(60))).collect()
}

/// A server whose spool and database are on `disk`, and who may log in there.
fn server_on(site: &Site, disk: &Disk, users: &[&str]) -> Server {
    let mut server = site.server("vpn", "");
    let add_group = |name: &String| Operation::GroupAdd {
        name: name.parse().unwrap(),
        limits: LimitChanges::default(),
    };
    server.administer(groups().iter().map(add_group));
    server.administer(users.iter().map(|user| add_user(user)));
    fs::copy(site.path("vpn.db"), disk.seen_from_outside().join("vpn.db")).unwrap();
    let mut config = fs::read_to_string(server.daemon.config_file()).unwrap();
    for name in ["vpn.db", "vpn.spool"] {
        let [elsewhere, here] = [site.path(name), disk.path.join(name)];
        config = config.replace(elsewhere.to_str().unwrap(), here.to_str().unwrap());
    }
    fs::write(server.daemon.config_file(), config).unwrap();
    server.daemon.wrapper = disk.wrapper();
    server
}

/// What fits is kept, until a change is refused: long ones first, since each that is kept is
/// waited for. Returns who is kept, and what the refusal of the shortest says.
fn add_until_refused(server: &Server, disk: &Disk) -> (Vec<String>, String) {
    let config = server.daemon.config_file().display().to_string();
    let (mut kept, groups) = (Vec::new(), groups());
    let mut count = groups.len();
    loop {
        disk.fill();
        let name = format!("late{:02}", kept.len());
        let mut add = vec!["user", "add", &name, "--no-password", "-c", &config];
        groups.iter().take(count).for_each(|group| add.extend(["--group", group]));
        let output = server.daemon.ask_nobody(&add);
        if output.status.success() {
            kept.push(name);
            assert!(kept.len() < KEPT_MAX, "the disk is full");
        } else if count == 0 {
            return (kept, String::from_utf8(output.stderr).unwrap());
        } else {
            count /= 2;
        }
    }
}

fn value(answer: Value) -> Value {
    answer.get("value").unwrap_or(&answer).clone()
}

fn users(server: &Server) -> Vec<String> {
    let list = value(ask(server, &["user", "ls"]));
    let names = list.as_array().unwrap().iter();
    let mut names: Vec<_> = names.map(|user| user["name"].as_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

/// Waits until so much is counted of what alice has moved, which must not be counted twice.
#[track_caller]
fn expect_counted(server: &Server, moved: usize) {
    let (least, most) = (moved as u64, moved as u64 * 3 / 2);
    let counted = || {
        let list = value(ask(server, &["stats", "--user", "alice"]));
        let usage: Vec<UsageView> = serde_json::from_value(list).unwrap();
        let sum = usage.iter().map(|one| one.received_bytes + one.sent_bytes).sum::<u64>();
        assert!(sum <= most, "{sum} bytes are counted of {moved}");
        (sum >= least).then_some(())
    };
    wait_until(PATIENCE, "the usage to be counted", counted).unwrap();
}

#[test]
fn a_full_disk_is_survived_and_nothing_is_lost_or_counted_twice() {
    let site = Site::new();
    let disk = Disk::mount(&site);
    let mut server = server_on(&site, &disk, &["alice", "bob", "carol"]);
    server.start(&site.lab.server);
    let mut alice = site.client("alice", &[addresses::SERVER_V4]);
    alice.start(&site.lab.client);
    await_online(&mut alice);
    let move_bytes = || {
        tools::transfer(&site.lab.client, &site.lab.server, SERVER_V4, MOVED);
    };
    move_bytes();

    let (mut expected, why) = add_until_refused(&server, &disk);
    assert!(why.contains("make room on its disk"), "{why}");
    move_bytes();
    // Who comes now is told to come again, and does.
    let mut bob = site.client("bob", &[addresses::SERVER_V4]);
    bob.start(&site.lab.router);
    bob.await_log("the server cannot write its accounts");
    server.daemon.await_log("changes cannot be kept");
    assert!(ask(&server, &["user", "ls"]).to_string().contains("alice"), "it answers");
    // Somebody is let out all the same, and stays out.
    let out = ask(&server, &["user", "disable", "carol"]);
    assert_eq!(out["stored"], false, "{out}");

    disk.make_room();
    await_online(&mut bob);
    ask(&server, &["user", "add", "after", "--no-password"]);
    expected.extend(["alice", "bob", "carol", "after"].map(str::to_owned));
    expected.sort();
    assert_eq!(users(&server), expected);
    move_bytes();
    expect_counted(&server, 3 * MOVED);

    // The same is found by a server that knows nothing but what is on the disk.
    server.daemon.kill();
    server.start(&site.lab.server);
    assert_eq!(users(&server), expected);
    assert_eq!(value(ask(&server, &["user", "show", "carol"]))["disabled"], true);
    expect_counted(&server, 3 * MOVED);
    assert!(!server.daemon.log().contains("panicked"), "{}", server.daemon.log());
    let is_back = || tools::echo(&site.lab.client, SERVER_V4).then_some(());
    wait_until(PATIENCE, "the client to be back", is_back).unwrap();
}
