//! The outer addresses: either family, several listeners, several addresses.

use std::collections::BTreeSet;
use std::net::IpAddr;

use corelane::lab::LINK;
use corelane::packet::Parsed;

use crate::harness::{CLIENT_V4, CLIENT_V6, Options, PORT, SERVER_V4, SERVER_V6, Tunnel, capture};
use crate::tools::{ping, run};

#[test]
fn the_outer_side_may_be_ipv6() {
    carries_both_families(Options::at(format!("[2001:db8::1]:{PORT}")));
}

#[test]
fn a_dual_stack_listener_serves_a_client_over_ipv4() {
    let listen = vec![format!("[::]:{PORT}")];
    carries_both_families(Options { listen, ..Options::default() });
}

#[test]
fn a_client_reaches_a_server_on_each_of_its_listeners() {
    let listeners =
        [format!("192.0.2.1:{PORT}"), format!("[2001:db8::1]:{PORT}"), "192.0.2.1:20500".into()];
    let mut tunnel = Tunnel::start(Options {
        workers: (2, 2),
        listen: listeners.to_vec(),
        ..Options::default()
    });
    for listener in &listeners {
        assert_eq!(tunnel.client.terminate().code(), Some(0));
        tunnel.options.connect.clone_from(listener);
        tunnel.write_client_config();
        tunnel.start_client();
        for path in tunnel.client_session().paths {
            assert_eq!(path.endpoint.as_ref(), Some(listener));
        }
        ping(tunnel.lab.client(), SERVER_V4, "-i 0 -c 10");
        ping(tunnel.lab.server(), CLIENT_V6, "-i 0 -c 10");
    }
}

#[test]
fn answers_leave_from_the_address_that_was_addressed() {
    let mut tunnel = Tunnel::prepare(Options {
        workers: (2, 2),
        listen: vec![format!("[::]:{PORT}")],
        ..Options::default()
    });
    for (family, address) in [("-4", "192.0.2.11/24"), ("-6", "2001:db8::11/64")] {
        run(tunnel.lab.server(), &format!("ip {family} address add {address} dev {LINK} nodad"));
    }
    tunnel.remember_hosts();
    tunnel.start_server();
    // The kernel would answer from 192.0.2.1 and 2001:db8::11 if it were left to choose.
    for address in ["192.0.2.1", "192.0.2.11", "2001:db8::1", "2001:db8::11"] {
        let address: IpAddr = address.parse().unwrap();
        tunnel.options.connect = std::net::SocketAddr::new(address, PORT).to_string();
        tunnel.write_client_config();
        let mut link = capture(tunnel.lab.client(), LINK);
        tunnel.start_client();
        ping(tunnel.lab.client(), SERVER_V6, "-i 0 -c 10");
        ping(tunnel.lab.server(), CLIENT_V4, "-i 0 -c 10");
        assert_eq!(tunnel.client.terminate().code(), Some(0));
        let mut sources = BTreeSet::new();
        while let Some(captured) = link.receive().unwrap() {
            let from_server = Parsed::parse(captured.packet)
                .is_ok_and(|it| it.transport.is_some() && !captured.outgoing);
            if from_server {
                sources.insert(Parsed::parse(captured.packet).unwrap().source);
            }
        }
        assert_eq!(sources, BTreeSet::from([address]));
    }
}

fn carries_both_families(options: Options) {
    let tunnel = Tunnel::start(Options { workers: (2, 2), ..options });
    ping(tunnel.lab.client(), SERVER_V4, "-i 0 -c 10");
    ping(tunnel.lab.server(), CLIENT_V6, "-i 0 -c 10");
    for flags in ["-t 1", "-t 1 -R"] {
        assert!(tunnel.iperf(SERVER_V4, flags).received_bytes() > 1_000_000);
        assert!(tunnel.iperf(SERVER_V6, flags).received_bytes() > 1_000_000);
    }
    ping(tunnel.lab.client(), SERVER_V6, "-i 0 -c 10");
    ping(tunnel.lab.server(), CLIENT_V4, "-i 0 -c 10");
}
