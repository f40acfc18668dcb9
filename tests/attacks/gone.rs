//! Interfaces that disappear while they are used, and come back or do not.

use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::time::Duration;

use corelane::exit::ExitCode;
use corelane::host::netlink::{Netlink, VethEnd};
use corelane::lab::{Host, LINK, addresses, wait_until};

use crate::harness::{PATIENCE, SERVER_V4, TUN};
use crate::stage::{Side, Stage, assert_resting};
use crate::tools::{attempt, echo, run};

/// Long enough for a client to give its server up and to begin anew, a few times.
const OUTAGE: Duration = Duration::from_secs(5);

#[test]
fn a_tun_device_that_is_deleted_ends_its_daemon_with_what_mends_it() {
    let mut stage = Stage::build();
    for side in [Side::Client, Side::Server] {
        let tunnel = &mut stage.tunnel;
        let (daemon, host) = match side {
            Side::Client => (&mut tunnel.client, tunnel.lab.client()),
            Side::Server => (&mut tunnel.server, tunnel.lab.server()),
        };
        run(host, &format!("ip link delete {TUN}"));
        let ended = daemon.await_end();
        let log = daemon.log();
        assert_eq!(ended.code(), Some(ExitCode::DeviceGone as i32), "{log}");
        let told = format!("the TUN device {TUN} is gone");
        assert!(log.contains(&told) && log.contains("start the daemon again"), "{log}");
        assert!(!log.contains("panicked"), "{log}");
        match side {
            Side::Client => tunnel.start_client(),
            Side::Server => tunnel.start_server(),
        }
        tunnel.await_paths();
        tunnel.await_echoes();
    }
}

/// One end of the way outside.
struct Outside<'h> {
    host: &'h Host,
    address: Ipv4Addr,
    router: &'h Host,
    router_link: &'static str,
    router_address: Ipv4Addr,
}

impl Outside<'_> {
    fn remove(&self) {
        run(self.host, &format!("ip link delete {LINK}"));
    }

    /// Puts an interface of the same name and address where the old one was.
    fn restore(&self) {
        let Self { host, address, router, router_link, router_address } = self;
        let near = VethEnd { name: LINK, namespace: host.namespace().as_fd() };
        let far = VethEnd { name: router_link, namespace: router.namespace().as_fd() };
        host.run(|| Netlink::open().unwrap().create_veth(near, far, 1500)).unwrap().unwrap();
        for (host, link, address) in [(host, LINK, address), (router, *router_link, router_address)]
        {
            // Or its link-local address is on trial for a second or two, and the host not settled.
            run(host, &format!("sysctl -w net.ipv6.conf.{link}.accept_dad=0"));
            run(host, &format!("ip address add {address}/24 dev {link}"));
            run(host, &format!("ip link set {link} up"));
        }
        self.add_route();
    }

    fn add_route(&self) {
        run(self.host, &format!("ip route add default via {}", self.router_address));
    }
}

#[track_caller]
fn survives_the_loss_of_its_way_outside(side: Side) {
    let mut stage = Stage::build();
    stage.expect_warning("has not answered");
    let lab = &stage.tunnel.lab;
    let outside = match side {
        Side::Client => Outside {
            host: lab.client(),
            address: addresses::ROUTED_CLIENT_V4,
            router: lab.router(),
            router_link: "to-client",
            router_address: addresses::ROUTER_CLIENT_SIDE_V4,
        },
        Side::Server => Outside {
            host: lab.server(),
            address: addresses::SERVER_V4,
            router: lab.router(),
            router_link: "to-server",
            router_address: addresses::ROUTER_SERVER_SIDE_V4,
        },
    };
    let answered = || echo(lab.client(), SERVER_V4).then_some(());

    run(outside.host, &format!("ip link set {LINK} down"));
    // Somebody has something to say, and nobody can hear it.
    attempt(lab.client(), &format!("ping -n -q -i 0.01 -c 50 -W 0.1 {SERVER_V4}"));
    assert_resting(&stage.tunnel.client);
    assert_resting(&stage.tunnel.server);
    run(outside.host, &format!("ip link set {LINK} up"));
    outside.add_route();
    wait_until(PATIENCE, "an echo, now that the link is up", answered).unwrap();

    outside.remove();
    let count = OUTAGE.as_millis() / 100;
    attempt(lab.client(), &format!("ping -n -q -i 0.1 -c {count} -W 0.1 {SERVER_V4}"));
    assert_resting(&stage.tunnel.client);
    assert_resting(&stage.tunnel.server);
    outside.restore();
    wait_until(PATIENCE, "an echo, now that the link is back", answered).unwrap();
    stage.assert_healthy();

    // The host is not as it was before: the interface is another one.
    assert_eq!(stage.tunnel.client.terminate().code(), Some(0));
    assert_eq!(stage.tunnel.server.terminate().code(), Some(0));
    stage.tunnel.remember_hosts();
}

#[test]
fn a_client_whose_outer_interface_went_away_connects_once_it_is_back() {
    survives_the_loss_of_its_way_outside(Side::Client);
}

#[test]
fn a_server_whose_outer_interface_went_away_serves_once_it_is_back() {
    survives_the_loss_of_its_way_outside(Side::Server);
}
