//! The ceiling: how fast a tunnel could be on this machine if it had nothing to do.
//!
//! Built on Corelane's own `sys` room and moving datagrams of the same size in the same batches,
//! with one thread per end: super-packets out of TUN with their virtio headers, through UDP with
//! `UDP_SEGMENT` and `UDP_GRO`, into TUN with one `writev`. What a tunnel must do besides, this
//! program leaves out: it neither encrypts nor authenticates, never looks into a packet, computes
//! no checksum, has one peer, takes whoever sends it well-formed datagrams for that peer, and drops
//! what arrives out of order. It is a measuring rod, not a tunnel: never let strangers reach it.
//!
//! It is a ceiling for tunnels that copy a packet once on the way out, as Corelane does. A send
//! that gathers chunks from where TUN put them would save that copy; `sys::udp::SendBatch` sends
//! what lies in one piece.
//!
//! ```text
//! ceiling --tun tun0 --address 198.18.0.1/24 --listen 192.0.2.1:4500
//! ceiling --tun tun0 --address 198.18.0.2/24 --peer 192.0.2.1:4500
//! ```
//!
//! SIGINT or SIGTERM ends it and prints what it has counted.

mod chunks;

use std::error::Error;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{ArgGroup, Parser};
use corelane::host::netlink::{Netlink, NetlinkError};
use corelane::limits::{
    PACKET_LEN_MAX, RECEIVE_SLOT_LEN, RECEIVE_SLOTS, SEND_TRAINS_MAX, TUN_MTU_DEFAULT,
    TUN_READS_PER_TURN, VIRTIO_HEADER_LEN,
};
use corelane::sys::clock;
use corelane::sys::tun::{TunDevice, TunOffloadWish, TunQueue};
use corelane::sys::udp::{RecvBatch, SendBatch, SendTarget, UdpOptions, UdpSocket};
use ipnet::IpNet;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook_mio::v1_0::Signals;

use chunks::{Cutter, Joiner};

const SIGNALS: Token = Token(0);
const TUN: Token = Token(1);
const SOCKET: Token = Token(2);

/// Bytes of each socket buffer and packets of the TUN queue, as Corelane sets them by default.
const SOCKET_BUFFER_LEN: usize = 8 << 20;
const TXQUEUELEN: u32 = 1000;

/// Moves packets between two TUN devices as fast as this machine can, without protecting them.
#[derive(Parser)]
#[command(group(ArgGroup::new("role").required(true)))]
struct Args {
    /// Name of the TUN device
    #[arg(long, value_name = "NAME")]
    tun: String,
    /// Address of the TUN device, which is then brought up; without, that is left to others
    #[arg(long, value_name = "CIDR")]
    address: Option<IpNet>,
    /// Wait here for the other end
    #[arg(long, value_name = "ADDR:PORT", group = "role")]
    listen: Option<SocketAddr>,
    /// Where the other end waits
    #[arg(long, value_name = "ADDR:PORT", group = "role")]
    peer: Option<SocketAddr>,
    /// Microseconds to go on asking for events after the last one before sleeping
    #[arg(long, value_name = "US", default_value_t = 0)]
    busy_poll_us: u64,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ceiling: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let device = TunDevice::open(&args.tun, 1, TunOffloadWish::ALL)?;
    if let Some(address) = args.address {
        bring_up(&device.name, address)?;
    }
    let Some(tun) = device.queues.into_iter().next() else { return Err("no TUN queue".into()) };
    let any: IpAddr = match args.peer {
        Some(SocketAddr::V6(_)) => Ipv6Addr::UNSPECIFIED.into(),
        _ => Ipv4Addr::UNSPECIFIED.into(),
    };
    let options = UdpOptions {
        receive_buffer: Some(SOCKET_BUFFER_LEN),
        send_buffer: Some(SOCKET_BUFFER_LEN),
        gro: true,
        ..UdpOptions::default()
    };
    let address = args.listen.unwrap_or_else(|| SocketAddr::new(any, 0));
    let socket = UdpSocket::bind(address, &options)?;
    let busy_poll = Duration::from_micros(args.busy_poll_us);
    let mut ceiling = Ceiling::new(tun, socket, args.peer, busy_poll)?;
    ceiling.run()?;
    eprintln!("{:?}, {} packets lost on the way", ceiling.counters, ceiling.joiner.lost());
    Ok(())
}

fn bring_up(name: &str, address: IpNet) -> Result<(), NetlinkError> {
    let mut netlink = Netlink::open()?;
    let index = netlink.link_index(name)?;
    netlink.set_mtu(index, u32::from(TUN_MTU_DEFAULT))?;
    netlink.set_txqueuelen(index, TXQUEUELEN)?;
    netlink.add_address(index, address)?;
    netlink.set_up(index)
}

/// System calls and refusals.
#[derive(Debug, Default)]
struct Counters {
    tun_reads: u64,
    udp_sends: u64,
    udp_receives: u64,
    tun_writes: u64,
    datagrams_unsent: u64,
    datagrams_unknown: u64,
    packets_refused_by_tun: u64,
}

/// One end. Readiness is edge-triggered: remembered until a call would block.
struct Ceiling {
    poll: Poll,
    signals: Signals,
    tun: TunQueue,
    tun_ready: bool,
    socket: UdpSocket,
    readable: bool,
    blocked: bool,
    /// The other end: whoever sent last.
    peer: Option<SocketAddr>,
    busy_poll: Duration,
    asleep_after: Option<Instant>,
    frame: Box<[u8]>,
    cutter: Cutter,
    send: SendBatch,
    receive: RecvBatch,
    joiner: Joiner,
    counters: Counters,
}

impl Ceiling {
    fn new(
        tun: TunQueue,
        socket: UdpSocket,
        peer: Option<SocketAddr>,
        busy_poll: Duration,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        let registry = poll.registry();
        let mut signals = Signals::new([SIGINT, SIGTERM])?;
        registry.register(&mut signals, SIGNALS, Interest::READABLE)?;
        registry.register(&mut SourceFd(&tun.as_raw_fd()), TUN, Interest::READABLE)?;
        let both = Interest::READABLE | Interest::WRITABLE;
        registry.register(&mut SourceFd(&socket.as_raw_fd()), SOCKET, both)?;
        Ok(Self {
            poll,
            signals,
            tun,
            tun_ready: true,
            socket,
            readable: true,
            blocked: false,
            peer,
            busy_poll,
            asleep_after: None,
            frame: vec![0; VIRTIO_HEADER_LEN + PACKET_LEN_MAX].into_boxed_slice(),
            cutter: Cutter::new(),
            send: SendBatch::new(SEND_TRAINS_MAX),
            receive: RecvBatch::new(RECEIVE_SLOTS, RECEIVE_SLOT_LEN),
            joiner: Joiner::new(),
            counters: Counters::default(),
        })
    }

    /// Moves packets until a signal comes: at most one batch each way, then a look at the events.
    fn run(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(4);
        loop {
            let timeout = (self.has_work() || self.is_spinning()).then_some(Duration::ZERO);
            match self.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            for event in &events {
                match event.token() {
                    TUN => self.tun_ready = true,
                    SOCKET => {
                        self.readable |= event.is_readable();
                        self.blocked &= !event.is_writable();
                    }
                    _ if self.signals.pending().next().is_some() => return Ok(()),
                    _ => {}
                }
            }
            if self.has_work() && !self.busy_poll.is_zero() {
                self.asleep_after = Some(clock::now() + self.busy_poll);
            }
            if self.readable {
                self.receive();
            }
            if !self.blocked {
                // What is left of the batch before must leave before the next is filled.
                if self.send.is_empty() {
                    self.read_tun()?;
                }
                self.flush();
            }
        }
    }

    fn has_work(&self) -> bool {
        self.readable || (self.tun_ready && !self.blocked)
    }

    fn is_spinning(&self) -> bool {
        self.asleep_after.is_some_and(|until| clock::now() < until)
    }

    /// From the wire: one `recvmmsg`, one `writev` per packet.
    fn receive(&mut self) {
        match self.receive.receive(&self.socket) {
            Ok(count) => self.readable = count == RECEIVE_SLOTS,
            Err(error) => {
                self.readable = error.kind() != ErrorKind::WouldBlock;
                return;
            }
        }
        self.counters.udp_receives += 1;
        let (messages, arena) = self.receive.split();
        for message in messages {
            for range in message.datagrams() {
                let known = self.joiner.take(arena, range, |packet| {
                    self.counters.tun_writes += 1;
                    if self.tun.write_vectored(packet).is_err() {
                        self.counters.packets_refused_by_tun += 1;
                    }
                });
                if known {
                    self.peer = Some(message.from);
                } else {
                    self.counters.datagrams_unknown += 1;
                }
            }
        }
        self.joiner.carry_over(arena);
    }

    /// To the wire: reads until the queue is empty or a batch is due.
    fn read_tun(&mut self) -> io::Result<()> {
        for _ in 0..TUN_READS_PER_TURN {
            if !self.tun_ready || self.cutter.is_due() {
                break;
            }
            match self.tun.read(&mut self.frame) {
                Ok(len) => self.cutter.cut(&self.frame[..len]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.tun_ready = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            self.counters.tun_reads += 1;
        }
        Ok(())
    }

    /// Sends the batch; what the socket has no room for stays until it is writable.
    fn flush(&mut self) {
        let Some(remote) = self.peer else {
            self.cutter.clear();
            return;
        };
        if self.cutter.is_empty() {
            return;
        }
        if self.send.is_empty() {
            let target = SendTarget { remote, local: None };
            for train in self.cutter.trains() {
                let segment_len = u16::try_from(train.segment_len).ok();
                if self.send.push(train.range.clone(), &target, segment_len, 0).is_err() {
                    self.counters.datagrams_unsent += 1;
                }
            }
        }
        let report = self.send.send(&self.socket, self.cutter.arena(), |_| {});
        self.counters.udp_sends += report.calls as u64;
        self.counters.datagrams_unsent += report.failed as u64;
        self.blocked = report.blocked;
        if !report.blocked {
            self.cutter.clear();
        }
    }
}
