//! What passes between client and server, seen at the router, and a wall there that stops it.

use std::net::{Ipv4Addr, SocketAddrV4};

use corelane::lab::{Host, wait_until};
use corelane::packet::{IpVersion, Parsed, Transport};
use corelane::sys::capture::{Capture, Captured};
use corelane::wire::{DataHeader, MessageType};

use crate::harness::{PATIENCE, capture};
use crate::stage::{SERVER, Side};
use crate::tools::run;

/// A datagram that came by.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) from: SocketAddrV4,
    pub(crate) to: SocketAddrV4,
    pub(crate) datagram: Vec<u8>,
}

impl Seen {
    pub(crate) fn is(&self, kind: MessageType) -> bool {
        MessageType::of(&self.datagram) == Some(kind)
    }

    /// The header, if it is a data message.
    pub(crate) fn header(&self) -> Option<DataHeader> {
        DataHeader::parse(&self.datagram).ok()
    }

    pub(crate) fn is_for(&self, side: Side) -> bool {
        (self.to == SERVER) == (side == Side::Server)
    }
}

/// Sees every datagram that either end sends to the other, before the router forwards it.
pub(crate) struct Wiretap {
    links: [Capture; 2],
    waiting: Vec<Seen>,
}

impl Wiretap {
    pub(crate) fn open(router: &Host) -> Self {
        let links = ["to-client", "to-server"].map(|link| capture(router, link));
        Self { links, waiting: Vec::new() }
    }

    /// The next datagram for which `wanted` holds.
    #[track_caller]
    pub(crate) fn await_datagram(&mut self, mut wanted: impl FnMut(&Seen) -> bool) -> Seen {
        let seen = wait_until(PATIENCE, "a datagram to come by", || {
            self.read();
            let at = self.waiting.iter().position(&mut wanted);
            let found = at.map(|at| self.waiting.drain(..=at).next_back().unwrap());
            if found.is_none() {
                self.waiting.clear();
            }
            found
        });
        seen.unwrap()
    }

    /// Forgets what has come by so far.
    pub(crate) fn forget(&mut self) {
        self.read();
        self.waiting.clear();
    }

    fn read(&mut self) {
        let Self { links, waiting } = self;
        for link in links {
            while let Some(captured) = link.receive().unwrap() {
                if !captured.outgoing {
                    waiting.extend(datagrams_of(&captured));
                }
            }
        }
    }
}

/// The datagrams between the two ends in a packet, which may stand for several.
fn datagrams_of(captured: &Captured<'_>) -> Vec<Seen> {
    let packet = captured.packet;
    let Ok(parsed) = Parsed::parse(packet) else { return Vec::new() };
    if (parsed.version, parsed.transport) != (IpVersion::V4, Some(Transport::Udp)) {
        return Vec::new();
    }
    let port = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    let address = |at: usize| Ipv4Addr::from(<[u8; 4]>::try_from(&packet[at..at + 4]).unwrap());
    let from = SocketAddrV4::new(address(12), port(parsed.transport_offset));
    let to = SocketAddrV4::new(address(16), port(parsed.transport_offset + 2));
    if from != SERVER && to != SERVER {
        return Vec::new();
    }
    let payload = &packet[parsed.payload_offset..parsed.total_len];
    let datagrams = payload.chunks(captured.segment_len.unwrap_or(usize::MAX));
    datagrams.map(|datagram| Seen { from, to, datagram: datagram.to_vec() }).collect()
}

/// Stops datagrams to one side at the router for as long as it stands.
pub(crate) struct Wall<'h>(&'h Host);

impl<'h> Wall<'h> {
    pub(crate) fn before(side: Side, router: &'h Host) -> Self {
        let what = match side {
            Side::Server => format!("ip daddr {} udp dport {}", SERVER.ip(), SERVER.port()),
            Side::Client => format!("ip saddr {} udp sport {}", SERVER.ip(), SERVER.port()),
        };
        // Only what comes from the peer: the attacker's datagrams pass.
        let to = match side {
            Side::Server => "iifname to-client",
            Side::Client => "iifname to-server",
        };
        run(router, "nft add table ip wall");
        run(router, "nft add chain ip wall pass { type filter hook forward priority 0 ; }");
        run(router, &format!("nft add rule ip wall pass {to} {what} drop"));
        Self(router)
    }
}

impl Drop for Wall<'_> {
    fn drop(&mut self) {
        run(self.0, "nft delete table ip wall");
    }
}
