//! The virtual network: datagrams on their way, the weather that befalls them, and the address
//! translator in front of each client.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use rand::Rng;
use rand::rngs::StdRng;

use super::side::Who;
use crate::limits::DATA_OVERHEAD_LEN;
use crate::wire::{MessageType, PathMessage};

/// IPv4 and UDP headers.
pub(crate) const OUTER_LEN: usize = 28;
pub(crate) const SERVER: SocketAddr =
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)), 51820);
/// The number of a client's control socket; its workers' sockets have theirs.
pub(crate) const CONTROL_SOCKET: u16 = 999;
/// Where a client's relay is, on its own host: what is sent there takes another way to the server.
pub(crate) const RELAY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 4000);
/// Where the server's relay is, on the server's host.
const FAR_RELAY: Ipv4Addr = Ipv4Addr::new(127, 0, 1, 1);
/// Old datagrams that an attacker on the path has at hand.
const OLD_MAX: usize = 128;

/// A datagram on its way.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) datagram: Vec<u8>,
    /// The path message sealed inside, which no network sees but tests ask for. Known only where
    /// threads take no time.
    pub(crate) message: Option<PathMessage>,
}

impl Packet {
    pub(crate) fn to_server(&self) -> bool {
        self.to == SERVER
    }

    pub(crate) fn is(&self, kind: MessageType) -> bool {
        MessageType::of(&self.datagram) == Some(kind)
    }

    /// The path of a data packet: the client's port tells.
    pub(crate) fn path(&self) -> Option<u16> {
        self.is(MessageType::Data).then(|| self.client_socket())
    }

    /// A packet without content.
    pub(crate) fn is_keepalive(&self) -> bool {
        self.is(MessageType::Data) && self.datagram.len() == DATA_OVERHEAD_LEN
    }

    /// A packet from a TUN device.
    pub(crate) fn is_traffic(&self) -> bool {
        self.is(MessageType::Data) && self.message.is_none() && !self.is_keepalive()
    }

    fn client_socket(&self) -> u16 {
        let client = if self.to_server() { self.from } else { self.to };
        client.port() % Nat::PORTS
    }

    /// Data packets are never fragmented; handshake messages may be.
    pub(crate) fn fits(&self, mtu: usize) -> bool {
        !self.is(MessageType::Data) || self.datagram.len() + OUTER_LEN <= mtu
    }
}

/// What the network does with a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Delivered,
    Doubled,
    Damaged,
    Lost,
    TooBig,
    CutOff,
}

/// Directions that are cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Up,
    Down,
    Both,
}

/// A part of the network that lets nothing through for a while.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut {
    pub(crate) direction: Direction,
    /// One socket of the client only.
    pub(crate) socket: Option<u16>,
    pub(crate) until: Instant,
}

impl Cut {
    fn stops(&self, now: Instant, packet: &Packet) -> bool {
        let direction = match self.direction {
            Direction::Up => packet.to_server(),
            Direction::Down => !packet.to_server(),
            Direction::Both => true,
        };
        let socket = self.socket.is_none_or(|socket| packet.client_socket() == socket);
        now < self.until && direction && socket
    }
}

/// What may befall a datagram; probabilities are per datagram.
#[derive(Clone, Debug)]
pub(crate) struct Weather {
    /// The time a datagram takes.
    pub(crate) latency: Duration,
    /// What each path takes longer than the path before it.
    pub(crate) latency_step: Duration,
    /// What a datagram may take longer, at random, and so be overtaken.
    pub(crate) jitter: Duration,
    pub(crate) mtu: usize,
    pub(crate) loss: f64,
    pub(crate) doubling: f64,
    pub(crate) damage: f64,
    /// With each datagram an old one may arrive again.
    pub(crate) replay: f64,
    /// With each datagram one of arbitrary bytes may arrive.
    pub(crate) junk: f64,
    pub(crate) cuts: Vec<Cut>,
}

impl Weather {
    /// Every datagram takes `latency` and arrives as it was sent.
    pub(crate) fn calm(latency: Duration) -> Self {
        Self {
            latency,
            latency_step: Duration::ZERO,
            jitter: Duration::ZERO,
            mtu: 1500,
            loss: 0.0,
            doubling: 0.0,
            damage: 0.0,
            replay: 0.0,
            junk: 0.0,
            cuts: Vec::new(),
        }
    }

    /// What becomes of `packet`, which may be changed.
    pub(crate) fn judge(&self, now: Instant, packet: &mut Packet, rng: &mut StdRng) -> Fate {
        if !packet.fits(self.mtu) {
            Fate::TooBig
        } else if self.cuts.iter().any(|cut| cut.stops(now, packet)) {
            Fate::CutOff
        } else if happens(self.loss, rng) {
            Fate::Lost
        } else if happens(self.damage, rng) {
            let bit = rng.random_range(0..packet.datagram.len() * 8);
            packet.datagram[bit / 8] ^= 1 << (bit % 8);
            Fate::Damaged
        } else if happens(self.doubling, rng) {
            Fate::Doubled
        } else {
            Fate::Delivered
        }
    }

    /// How long `packet` is on its way.
    pub(crate) fn travel_time(&self, packet: &Packet, rng: &mut StdRng) -> Duration {
        let path = u32::from(packet.path().filter(|path| *path < 128).unwrap_or(0));
        let jitter = match self.jitter {
            Duration::ZERO => Duration::ZERO,
            jitter => jitter.mul_f64(rng.random()),
        };
        self.latency + self.latency_step * path + jitter
    }

    /// What the weather brings along with a datagram: something old, something made up.
    pub(crate) fn stray(&self, old: &Old, rng: &mut StdRng) -> Vec<Packet> {
        let mut strays = Vec::new();
        if happens(self.replay, rng) {
            strays.extend(old.pick(rng));
        }
        if happens(self.junk, rng)
            && let Some(mut packet) = old.pick(rng)
        {
            let len = rng.random_range(0..200);
            packet.datagram = (0..len).map(|_| rng.random()).collect();
            if let Some(first) = packet.datagram.first_mut() {
                *first %= 6;
            }
            packet.message = None;
            strays.push(packet);
        }
        strays
    }
}

/// Draws nothing where nothing can happen.
fn happens(probability: f64, rng: &mut StdRng) -> bool {
    probability > 0.0 && rng.random_bool(probability)
}

/// Datagrams of the past.
#[derive(Debug, Default)]
pub(crate) struct Old(VecDeque<Packet>);

impl Old {
    pub(crate) fn remember(&mut self, packet: &Packet, rng: &mut StdRng) {
        if self.0.len() == OLD_MAX {
            // The longer ago, the rarer, but nothing is too old to return.
            self.0.remove(rng.random_range(0..OLD_MAX));
        }
        self.0.push_back(packet.clone());
    }

    /// One of them, as it was sent or from another address.
    fn pick(&self, rng: &mut StdRng) -> Option<Packet> {
        if self.0.is_empty() {
            return None;
        }
        let mut packet = self.0[rng.random_range(0..self.0.len())].clone();
        if packet.to_server() && rng.random_bool(0.3) {
            packet.from.set_ip(Ipv4Addr::new(192, 0, 2, rng.random_range(1..20)).into());
        }
        Some(packet)
    }
}

/// The outer address of each socket of a client.
#[derive(Clone, Debug)]
pub(crate) struct Nat {
    pub(crate) address: Ipv4Addr,
    /// The thousands of the outer port of each socket; the rest is the socket's number.
    blocks: Vec<u16>,
    last_block: u16,
}

impl Nat {
    const PORTS: u16 = 1000;
    const FIRST_BLOCK: u16 = 10;
    const LAST_BLOCK: u16 = 64;

    pub(crate) fn new(address: Ipv4Addr, workers: u8) -> Self {
        let blocks = vec![Self::FIRST_BLOCK; usize::from(workers) + 1];
        Self { address, blocks, last_block: Self::FIRST_BLOCK }
    }

    /// Where the far side sees `socket`.
    pub(crate) fn outer(&self, socket: u16) -> SocketAddr {
        let block = self.blocks[self.position(socket)];
        SocketAddr::from((self.address, block * Self::PORTS + socket))
    }

    /// The socket that an outer address leads to.
    pub(crate) fn inner(&self, outer: SocketAddr) -> Option<u16> {
        let socket = outer.port() % Self::PORTS;
        let exists = socket == CONTROL_SOCKET || usize::from(socket) + 1 < self.blocks.len();
        (exists && self.outer(socket) == outer).then_some(socket)
    }

    /// Forgets a socket's port, or all, and gives out others.
    pub(crate) fn rebind(&mut self, socket: Option<u16>) {
        self.last_block = if self.last_block == Self::LAST_BLOCK {
            Self::FIRST_BLOCK
        } else {
            self.last_block + 1
        };
        match socket {
            Some(socket) => {
                let position = self.position(socket);
                self.blocks[position] = self.last_block;
            }
            None => self.blocks.fill(self.last_block),
        }
    }

    fn position(&self, socket: u16) -> usize {
        if socket == CONTROL_SOCKET { self.blocks.len() - 1 } else { usize::from(socket) }
    }
}

/// What comes out of the far relay of a carrier, if `packet` goes into the near one. The ports of
/// the server's relay are those of the sockets behind `nat`.
pub(crate) fn carry(packet: &Packet, nat: &Nat) -> Option<Packet> {
    let carried = packet.clone();
    if packet.to == RELAY {
        let from = (FAR_RELAY, Nat::FIRST_BLOCK * Nat::PORTS + packet.from.port() % Nat::PORTS);
        Some(Packet { from: from.into(), to: SERVER, ..carried })
    } else if packet.to.ip() == IpAddr::V4(FAR_RELAY) {
        Some(Packet { from: RELAY, to: nat.outer(packet.to.port() % Nat::PORTS), ..carried })
    } else {
        None
    }
}

/// Where a datagram arrives at a side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Socket {
    Worker(usize),
    Control,
}

/// What the steering program of a server with so many workers does with a datagram.
pub(crate) fn steer(datagram: &[u8], workers: usize) -> Socket {
    match (MessageType::of(datagram), datagram.get(1)) {
        (Some(MessageType::Data), Some(lane)) => Socket::Worker(usize::from(*lane) % workers),
        _ => Socket::Control,
    }
}

/// Which side an address belongs to, and which of its sockets.
pub(crate) fn client_socket(nat: &Nat, to: SocketAddr) -> Option<Socket> {
    nat.inner(to).map(|socket| match socket {
        CONTROL_SOCKET => Socket::Control,
        worker => Socket::Worker(usize::from(worker)),
    })
}

/// The clients there may be, and where they are at first.
pub(crate) fn first_address(who: Who) -> Ipv4Addr {
    match who {
        Who::Server | Who::Client => Ipv4Addr::new(203, 0, 113, 5),
        Who::Twin => Ipv4Addr::new(203, 0, 113, 99),
    }
}
