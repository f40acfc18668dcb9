//! Corelane: a VPN for Linux in which every core moves packets on its own.
//!
//! This is the map, top to bottom. A room may use the rooms below it and none above; a test
//! (`tests/tidy.rs`) holds every import to that. How the rooms work together is told in
//! `docs/architecture.md`, what goes over the wire in `docs/protocol.md`.
//!
//! # What people run
//!
//! [`cli`] is the command line, one file for each group of commands. It turns flags and files into
//! a configuration, calls the room that does the work, and turns errors into messages and exit
//! codes.
//!
//! [`demo`] shows a real server and a real client at work between two hosts: it starts them,
//! measures, proves that nothing can be read on the wire, and leaves nothing behind.
//!
//! [`daemon`] is `corelane serve` and `corelane up`: it opens what is privileged, gives the
//! privileges up, starts the workers, and becomes the control thread.
//!
//! # What they rest on
//!
//! [`config`] reads one TOML file for either role and the flags laid over it, and reports every
//! mistake at once with its place and what mends it. Its types are plain data.
//!
//! [`mod@bench`] is the traffic generator: TCP streams, UDP at a rate or as fast as possible, round
//! trips. The demo and the measurements use it; `corelane bench` is it.
//!
//! [`lab`] makes whole hosts out of network namespaces, joined by links, in which real programs
//! run. They vanish with the process.
//!
//! # The proxy gateway
//!
//! [`proxy`] is SOCKS and HTTP for what cannot run a tunnel.
//!
//! # People
//!
//! [`login`] is the TLS control channel: a client proves who it is and gets a lease.
//!
//! [`accounts`] is who people and their devices are, what they may do, and where that is stored.
//!
//! # The two kinds of threads
//!
//! [`control`] is the control thread. Its `engine` decides everything about handshakes, sessions,
//! paths and timers, as a state machine without I/O; its `runtime` is the event loop around that.
//!
//! [`dataplane`] is the worker: the event loop of one thread, the way of a packet to the
//! wire and back, and the messages that it exchanges with the control thread.
//!
//! [`host`] asks the host's network configuration for what a tunnel needs, and gives it back:
//! links, addresses, routes and rules by netlink, capabilities.
//!
//! # The operating system
//!
//! [`sys`] is the only room with `unsafe`: TUN queues, batches of UDP datagrams, the steering
//! program, namespaces, affinity, clocks. It decides nothing.
//!
//! # The protocol, without a socket, a clock or a random source of its own
//!
//! [`policy`] is what a user's packets may reach, how fast, and how much.
//!
//! [`handshake`] makes sessions: Noise IKpsk2 with ML-KEM-768 inside, cookies, admission of
//! sources, timestamps.
//!
//! [`session`] is what a worker keeps of a session: who sends and receives on which lane, lane
//! keys, counters, replay windows.
//!
//! [`routing`] finds the peer that owns an inner address, by longest prefix match.
//!
//! [`packet`] knows inner packets: it parses, splits and coalesces them, completes checksums, and
//! does a router's duties (ECN, MSS, ICMP "too big", fragments).
//!
//! [`wire`] is the layout of every message.
//!
//! # What everybody uses
//!
//! [`telemetry`] holds counters with one writer each, the reasons of drops, the status report and
//! logging.
//!
//! `rate` is a token bucket in one timestamp.
//!
//! [`limits`] has every size, timer and bound, with the relations between them asserted at compile
//! time.
//!
//! [`exit`] has the exit codes that scripts rely on.

// What people run.
pub mod cli;
pub mod daemon;
pub mod demo;

// What they rest on.
pub mod bench;
pub mod config;
pub mod lab;

// The proxy gateway.
pub mod proxy;

// People.
pub mod accounts;
pub mod login;

// The two kinds of threads, and the host around them.
pub mod control;
pub mod dataplane;
pub mod host;

// The operating system.
pub mod sys;

// The protocol.
pub mod handshake;
pub mod packet;
pub mod policy;
pub mod routing;
pub mod session;
pub mod wire;

// What everybody uses.
pub mod exit;
pub mod limits;
mod rate;
pub mod telemetry;
