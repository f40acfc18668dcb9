//! A DHCP server on the client's network that lies: it leads the whole Internet past the tunnel by
//! more specific routes (option 121, RFC 3442), and is the name server that it names.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use corelane::lab::{LINK, addresses, wait_until};

use crate::harness::{PATIENCE, SERVER_V4, Tunnel, capture};
use crate::kill_switch::{flags, strangers};
use crate::routing::full_tunnel;
use crate::tools::{Running, attempt, ping, run, start};

/// What the routes lead past the tunnel.
const PREFIXES: [&str; 3] = ["0.0.0.0/1", "128.0.0.0/1", "203.0.113.9/32"];
/// Addresses in each of them.
const TARGETS: [Ipv4Addr; 3] =
    [Ipv4Addr::new(100, 64, 7, 9), Ipv4Addr::new(198, 18, 0, 9), Ipv4Addr::new(203, 0, 113, 9)];
/// What the name server says, whatever it is asked.
const LIE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 66);
/// Does what scripts of DHCP clients do (udhcpc(8)), but for the name servers of this machine.
const SCRIPT: &str = "#!/bin/sh\n[ \"$1\" = bound ] || exit 0\n\
    ip address add \"$ip/$mask\" dev \"$interface\"\necho \"$ip $dns\" > \"$0.told\"\n\
    set -- $staticroutes\nwhile [ $# -ge 2 ]; do\n  ip route replace \"$1\" via \"$2\" dev \
    \"$interface\"\n  shift 2\ndone\n";

/// A network whose DHCP server lies.
struct Rogue {
    _server: Running,
    /// The address that the client was given.
    address: String,
}

impl Rogue {
    /// Starts it, and has the client ask it.
    fn start(tunnel: &Tunnel) -> Self {
        let (router, client) = (tunnel.lab.router(), tunnel.lab.client());
        let directory = tunnel.directory.path();
        let gateway = addresses::ROUTER_CLIENT_SIDE_V4;
        let routes = PREFIXES.map(|prefix| format!("{prefix},{gateway}")).join(",");
        let leases = directory.join("dhcp.leases");
        let server = start(
            router,
            &format!(
                "dnsmasq --keep-in-foreground --conf-file=/dev/null --pid-file= --user=root \
                 --no-resolv --no-hosts --interface=to-client --bind-interfaces \
                 --except-interface=lo --address=/#/{LIE} --dhcp-leasefile={} \
                 --dhcp-range=198.51.100.100,198.51.100.120,255.255.255.0,2m \
                 --dhcp-option=121,{routes} --dhcp-option=6,{gateway}",
                leases.display()
            ),
        );
        let script = directory.join("dhcp-script");
        fs::write(&script, SCRIPT).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        let ask =
            format!("udhcpc -f -n -q -t 5 -T 1 -i {LINK} -O staticroutes -s {}", script.display());
        let asked = attempt(client, &ask);
        let told = fs::read_to_string(directory.join("dhcp-script.told"));
        let told = told.unwrap_or_else(|error| panic!("{error}: {asked:?}"));
        let (address, name_server) = told.trim().split_once(' ').unwrap();
        assert_eq!(name_server, gateway.to_string());
        for target in TARGETS {
            let route = run(client, &format!("ip route get {target}"));
            assert!(route.contains(&format!("via {gateway} dev {LINK}")), "{target}: {route}");
        }
        Self { _server: server, address: address.to_owned() }
    }

    /// Puts the client's host back.
    fn forget(&self, tunnel: &Tunnel) {
        let client = tunnel.lab.client();
        for prefix in PREFIXES {
            run(client, &format!("ip route delete {prefix} dev {LINK}"));
        }
        run(client, &format!("ip address delete {}/24 dev {LINK}", self.address));
    }
}

/// What leaves the client in the clear while it sends to every target and asks the name server, and
/// whether that has answered.
fn leaks(tunnel: &Tunnel) -> (u64, bool) {
    let mut link = capture(tunnel.lab.router(), "to-client");
    let socket = tunnel.lab.client().run(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let mut count = 0;
    for _ in 0..50 {
        for target in TARGETS {
            // The kill switch refuses most of them.
            let _ = socket.send_to(b"in the clear", (target, 9));
        }
        count += strangers(&mut link);
    }
    // A question for the address of bank.example (RFC 1035 section 4.1).
    let question = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x04bank\x07example\0\0\x01\0\x01";
    let name_server = IpAddr::from(addresses::ROUTER_CLIENT_SIDE_V4);
    let answered = (0..3).any(|_| {
        let _ = socket.send_to(question, (name_server, 53));
        let mut answer = [0; 512];
        let len = socket.recv(&mut answer).unwrap_or(0);
        answer[..len].ends_with(&LIE.octets())
    });
    (count + strangers(&mut link), answered)
}

#[test]
fn a_rogue_dhcp_server_leads_nothing_past_the_kill_switch() {
    let mut tunnel = full_tunnel();
    tunnel.client.flags = flags(&["client.kill_switch=true"]);
    tunnel.start_server();
    tunnel.start_client();
    let rogue = Rogue::start(&tunnel);
    assert_eq!(leaks(&tunnel), (0, false), "datagrams outside, and whether the liar was asked");
    ping(tunnel.lab.client(), SERVER_V4, "-c 10 -i 0.01");

    // What is seen is there to be seen.
    assert_eq!(tunnel.client.terminate().code(), Some(0));
    let seen = || (leaks(&tunnel) > (100, false)).then(|| leaks(&tunnel));
    let (count, answered) = wait_until(PATIENCE, "datagrams outside", seen).unwrap();
    assert!(count >= 100 && answered, "{count} {answered}");
    rogue.forget(&tunnel);
}
