//! Without an offload, on one side or both, everything works and every checksum is right.

use corelane::lab::LabOptions;

use crate::harness::{CLIENT_V4, Options, SERVER_V4, SERVER_V6, Tunnel};
use crate::tools::{ping, run, snmp};

#[track_caller]
fn works(server: &[&str], client: &[&str], links: LabOptions) {
    let flags = |keys: &[&str]| {
        let set = |key: &&str| ["--set".to_owned(), format!("tuning.{key}=false")];
        keys.iter().flat_map(set).collect::<Vec<_>>()
    };
    let tunnel = Tunnel::start(Options {
        links,
        server_flags: flags(server),
        client_flags: flags(client),
        ..Options::default()
    });
    for flags in ["-t 1", "-t 1 -R"] {
        assert!(tunnel.iperf(SERVER_V4, flags).received_bytes() > 1 << 18, "{flags}");
        assert!(tunnel.iperf(SERVER_V6, flags).received_bytes() > 1 << 18, "{flags}");
        tunnel.iperf(SERVER_V4, &format!("{flags} -u -b 20M -l 1200"));
    }
    ping(tunnel.lab.server(), CLIENT_V4, "-i 0 -c 10");
    for host in [tunnel.lab.server(), tunnel.lab.client()] {
        for protocol in ["Tcp", "Udp"] {
            assert_eq!(snmp(host, protocol, "InCsumErrors"), 0, "{protocol}");
        }
    }
}

#[test]
fn without_trains() {
    works(&["udp_gso"], &["udp_gro"], LabOptions::default());
}

#[test]
fn without_any_tun_offload_on_the_server() {
    works(&["tun_checksum_offload"], &[], LabOptions::default());
}

#[test]
fn without_any_tun_offload_on_the_client() {
    works(&[], &["tun_checksum_offload"], LabOptions::default());
}

#[test]
fn without_super_packets() {
    let keys = ["tun_tcp_segmentation", "tun_udp_segmentation", "coalesce_udp"];
    works(&keys, &keys, LabOptions::default());
}

#[test]
fn where_the_link_cuts_every_train() {
    works(&[], &[], LabOptions { segmentation_offloads: false, ..LabOptions::default() });
}

#[test]
fn where_the_link_is_narrow() {
    let links = LabOptions { link_mtu: 1400, ..LabOptions::default() };
    let tunnel = Tunnel::start(Options { links, ..Options::default() });
    for flags in ["-t 1", "-t 1 -R"] {
        assert!(tunnel.iperf(SERVER_V4, flags).received_bytes() > 1 << 20, "{flags}");
    }
    let answer = crate::tools::attempt(
        tunnel.lab.client(),
        &format!("ping -n -M do -c 2 -i 0.2 -W 1 -s 1370 {SERVER_V4}"),
    );
    let text = format!("{}{}", answer.stdout, answer.stderr).to_lowercase();
    assert!(text.contains("too long") || text.contains("frag needed"), "{text}");
    assert!(run(tunnel.lab.client(), "ip -4 address").contains("10.77.0.2"));
}
