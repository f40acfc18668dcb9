//! The real binary between real hosts (network namespaces) with real tools: ping, iperf3, ip, nft,
//! dnsmasq, udhcpc.
//! Needs root and those tools (Debian: iputils-ping, iperf3, iproute2, nftables, procps,
//! dnsmasq-base, udhcpc).

#![expect(clippy::unwrap_used, reason = "a test ends where its set-up fails")]

mod daemon;
mod harness;
mod load;
mod snapshot;
mod tools;

mod bound;
mod concealment;
mod dhcp;
mod endpoints;
mod fallbacks;
mod footprint;
mod interface;
mod keys;
mod kill_switch;
mod killed;
mod life;
mod lifecycle;
mod loops;
mod lossy;
mod marks;
mod masquerade;
mod mtu;
mod nat;
mod order;
mod privileges;
mod resolver;
mod roaming;
mod routing;
mod secrecy;
mod sources;
mod spoofing;
mod traffic;
mod workers;
