use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::addresses::{CLIENT_V4, CLIENT_V6, ROUTED_CLIENT_V4, SERVER_V4, SERVER_V6};
use super::{Host, LINK, LabOptions, Routed, TwoHosts, wait_until};

const PATIENCE: Duration = Duration::from_secs(10);

fn lab(options: LabOptions) -> TwoHosts {
    TwoHosts::build(options).expect("these tests need root: CAP_SYS_ADMIN and CAP_NET_ADMIN")
}

/// What a program printed on a host; it must have succeeded.
fn output(host: &Host, program: &str, arguments: &[&str]) -> String {
    let output = host.command(program).unwrap().args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?} on {}: {errors}", host.name());
    text
}

fn listen(host: &Host, address: impl Into<IpAddr>) -> TcpListener {
    let address = SocketAddr::new(address.into(), 0);
    host.run(|| TcpListener::bind(address).unwrap()).unwrap()
}

fn connect(host: &Host, to: SocketAddr) -> std::io::Result<TcpStream> {
    host.run(|| TcpStream::connect_timeout(&to, PATIENCE)).unwrap()
}

#[test]
fn two_hosts_reach_each_other_at_once_over_both_families() {
    let lab = lab(LabOptions::default());
    let (v4, v6) = (listen(&lab.server, SERVER_V4), listen(&lab.server, SERVER_V6));
    for (listener, client) in [(v4, IpAddr::from(CLIENT_V4)), (v6, IpAddr::from(CLIENT_V6))] {
        let stream = connect(&lab.client, listener.local_addr().unwrap()).unwrap();
        assert_eq!(stream.local_addr().unwrap().ip(), client);
    }
    let addresses = output(&lab.client, "ip", &["-brief", "address", "show", LINK]);
    assert!(addresses.contains("192.0.2.2/24") && addresses.contains("2001:db8::2/64"));
}

#[test]
fn the_options_are_in_force_on_both_ends() {
    let lab = lab(LabOptions { link_mtu: 1280, ipv6: false, ..LabOptions::default() });
    for host in [&lab.server, &lab.client] {
        assert!(output(host, "ip", &["link", "show", LINK]).contains("mtu 1280"));
        assert_eq!(output(host, "ip", &["-6", "address", "show", LINK]), "");
    }
}

#[test]
fn the_first_datagram_arrives() {
    let two = lab(LabOptions::default());
    let routed = Routed::build(LabOptions::default()).unwrap();
    for (server, client) in [(&two.server, &two.client), (&routed.server, &routed.client)] {
        for address in [IpAddr::from(SERVER_V4), IpAddr::from(SERVER_V6)] {
            output(client, "ping", &["-c", "1", "-W", "5", &address.to_string()]);
        }
        output(server, "ping", &["-c", "1", "-W", "5", "127.0.0.1"]);
    }
}

/// Bytes per packet that arrive on the server's link while the client sends it a megabyte.
fn bytes_per_packet(options: LabOptions) -> u64 {
    let lab = lab(options);
    let listener = listen(&lab.server, SERVER_V4);
    let mut sender = connect(&lab.client, listener.local_addr().unwrap()).unwrap();
    let sending = std::thread::spawn(move || sender.write_all(&vec![7; 1 << 20]).unwrap());
    let mut received = Vec::new();
    listener.accept().unwrap().0.read_to_end(&mut received).unwrap();
    sending.join().unwrap();
    assert_eq!(received.len(), 1 << 20);
    let statistics: serde_json::Value =
        serde_json::from_str(&output(&lab.server, "ip", &["-json", "-s", "link", "show", LINK]))
            .unwrap();
    let count = |what: &str| statistics[0]["stats64"]["rx"][what].as_u64().unwrap();
    count("bytes") / count("packets")
}

#[test]
fn super_packets_cross_the_link_only_with_segmentation_offloads() {
    assert!(bytes_per_packet(LabOptions::default()) > 1514);
    let wire = LabOptions { segmentation_offloads: false, ..LabOptions::default() };
    assert!(bytes_per_packet(wire) <= 1514);
}

#[test]
fn a_router_forwards_between_client_and_server() {
    let lab = Routed::build(LabOptions::default()).unwrap();
    for server in [IpAddr::from(SERVER_V4), IpAddr::from(SERVER_V6)] {
        let listener = listen(&lab.server, server);
        connect(&lab.client, listener.local_addr().unwrap()).unwrap();
    }
    let route = output(&lab.server, "ip", &["route", "get", &ROUTED_CLIENT_V4.to_string()]);
    assert!(route.contains("via 192.0.2.254"), "{route}");
}

#[test]
fn two_laboratories_do_not_see_each_other() {
    let (one, other) = (lab(LabOptions::default()), lab(LabOptions::default()));
    let listener = listen(&one.server, SERVER_V4);
    let refused = connect(&other.client, listener.local_addr().unwrap()).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
}

#[test]
fn the_printed_command_enters_the_host() {
    let lab = lab(LabOptions::default());
    let command = format!("{} ip -brief address", lab.client.enter_command());
    let output = Command::new("sh").args(["-c", &command]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("192.0.2.2/24"), "{command}: {output:?}");
}

#[test]
fn programs_die_with_the_thread_that_started_them_and_the_namespace_with_its_handle() {
    let (pid, inode) = std::thread::spawn(|| {
        let lab = lab(LabOptions::default());
        #[allow(clippy::zombie_processes, reason = "that it is killed unasked is what is tested")]
        let child = lab.server.command("sleep").unwrap().arg("3600").spawn().unwrap();
        let namespace = std::fs::read_link(format!("/proc/{}/ns/net", child.id())).unwrap();
        (child.id(), namespace)
    })
    .join()
    .unwrap();
    // The killed child stays a zombie until it is waited for; it holds no namespace any more.
    wait_until(PATIENCE, "the program on the host to be killed", || {
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        (state.is_empty() || state.contains(") Z ")).then_some(())
    })
    .unwrap();
    let held = std::fs::read_dir("/proc/self/fd").unwrap().flatten().any(|descriptor| {
        std::fs::read_link(descriptor.path()).is_ok_and(|target| target == inode)
    });
    assert!(!held, "{inode:?} is still open");
}

/// Set in the environment of the test program when the next test runs it again.
const INSIDE: &str = "CORELANE_TEST_INSIDE_A_USER_NAMESPACE";

/// The part of the next test that runs inside a user namespace.
fn inside_a_user_namespace() {
    assert!(!super::ensure_privileges().unwrap(), "the user namespace gives the privileges");
    two_hosts_reach_each_other_at_once_over_both_families();
    a_router_forwards_between_client_and_server();
    let lab = lab(LabOptions::default());
    let command = lab.server.enter_command();
    assert!(command.starts_with("nsenter --user=/proc/"), "{command}");
}

#[test]
fn a_laboratory_stands_in_a_user_namespace_too() {
    if std::env::var_os(INSIDE).is_some() {
        return inside_a_user_namespace();
    }
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--net", "--"]);
    command.arg(std::env::current_exe().unwrap());
    command.args(["--exact", "lab::tests::a_laboratory_stands_in_a_user_namespace_too"]);
    command.env(INSIDE, "1");
    let output = command.process_group(0).stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[test]
fn waiting_returns_what_was_found_or_says_what_was_not() {
    let mut looks = 0;
    let found = wait_until(PATIENCE, "a third look", || {
        looks += 1;
        (looks == 3).then_some("here")
    });
    assert_eq!(found.unwrap(), "here");
    let missed = wait_until(Duration::ZERO, "the impossible", || None::<()>).unwrap_err();
    assert_eq!(missed.to_string(), "waited 0ns in vain for the impossible");
}
