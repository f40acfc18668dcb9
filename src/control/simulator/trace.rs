//! What happened, for people: the last events of a run, and one number that stands for all of them.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use super::network::{Fate, Packet};
use super::plan::Mishap;
use super::side::Who;
use crate::control::engine::EngineEvent;
use crate::wire::MessageType;

/// Events kept for a report.
const KEPT_MAX: usize = 120;

/// Something that happened.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// A datagram was put on the network.
    Sent { packet: Digest, fate: Fate },
    /// A datagram arrived.
    Arrived { at: Who, packet: Digest },
    /// A datagram arrived where nobody is any more.
    NobodyThere { packet: Digest },
    /// An inner packet was taken from TUN; whether it was sealed.
    Read { at: Who, worker: usize, number: u64, sealed: bool },
    /// An inner packet was written to TUN.
    Wrote { at: Who, worker: usize, number: u64 },
    /// A packet was dropped and counted.
    Dropped { at: Who, reason: &'static str },
    /// An engine's timer was due.
    Timer { at: Who },
    /// A worker was given a command.
    Command { to: Who, worker: usize, command: &'static str },
    /// An engine had something to tell.
    Told { by: Who, event: EngineEvent },
    /// The plan had its way.
    Mishap(Mishap),
    /// The network and the machines are well from here on.
    Calm,
}

/// A datagram in a few words.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Digest {
    from: SocketAddr,
    to: SocketAddr,
    len: usize,
    kind: Option<MessageType>,
    head: [u8; 16],
    tail: [u8; 8],
}

impl Digest {
    pub(crate) fn of(packet: &Packet) -> Self {
        let (mut head, mut tail) = ([0; 16], [0; 8]);
        let datagram = &packet.datagram;
        let (head_len, tail_len) = (datagram.len().min(16), datagram.len().min(8));
        head[..head_len].copy_from_slice(&datagram[..head_len]);
        tail[..tail_len].copy_from_slice(&datagram[datagram.len() - tail_len..]);
        let kind = MessageType::of(datagram);
        Self { from: packet.from, to: packet.to, len: datagram.len(), kind, head, tail }
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, to, len, kind, head, .. } = self;
        write!(f, "{from} -> {to} {len} B ")?;
        match kind {
            Some(MessageType::Data) => {
                let index = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
                write!(f, "data lane {} session {index:08x} counter {}", head[1], head[15])
            }
            Some(kind) => write!(f, "{kind:?}"),
            None => write!(f, "junk"),
        }
    }
}

/// The trace of one run.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    hash: u64,
    steps: u64,
    kept: VecDeque<(Duration, Step)>,
    reasons: BTreeSet<&'static str>,
}

impl Trace {
    pub(crate) fn note(&mut self, at: Duration, step: Step) {
        self.steps += 1;
        self.mix(at.as_nanos() as u64);
        match &step {
            Step::Sent { packet, fate } => {
                self.mix(1 + *fate as u64);
                self.mix_packet(packet);
            }
            Step::Arrived { at, packet } => {
                self.mix(11 + *at as u64);
                self.mix_packet(packet);
            }
            Step::NobodyThere { packet } => self.mix_packet(packet),
            Step::Read { at, worker, number, sealed } => {
                self.mix(21 + *at as u64 + 4 * *worker as u64 + 1024 * u64::from(*sealed));
                self.mix(*number);
            }
            Step::Wrote { at, worker, number } => {
                self.mix(31 + *at as u64 + 4 * *worker as u64);
                self.mix(*number);
            }
            Step::Timer { at } => self.mix(41 + *at as u64),
            Step::Dropped { at, reason } => {
                self.mix(51 + *at as u64 + 4 * reason.len() as u64);
                self.reasons.insert(reason);
            }
            Step::Command { to, worker, command } => {
                self.mix(61 + *to as u64 + 4 * *worker as u64 + 1024 * command.len() as u64);
            }
            Step::Told { by, event } => {
                self.mix(71 + *by as u64);
                self.mix_text(&format!("{event:?}"));
            }
            Step::Mishap(mishap) => self.mix_text(&format!("{mishap:?}")),
            Step::Calm => self.mix(81),
        }
        if self.kept.len() == KEPT_MAX {
            self.kept.pop_front();
        }
        self.kept.push_back((at, step));
    }

    /// Stands for everything that happened so far.
    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    /// How much happened so far.
    pub(crate) fn steps(&self) -> u64 {
        self.steps
    }

    /// Why something was dropped, wherever that was.
    pub(crate) fn reasons(&self) -> &BTreeSet<&'static str> {
        &self.reasons
    }

    fn mix_packet(&mut self, packet: &Digest) {
        self.mix(u64::from(packet.from.port()) << 16 | u64::from(packet.to.port()));
        self.mix(packet.len as u64);
        self.mix(u64::from_be_bytes(packet.tail));
        for half in packet.head.chunks_exact(8) {
            self.mix(half.iter().fold(0, |word, byte| word << 8 | u64::from(*byte)));
        }
    }

    fn mix_text(&mut self, text: &str) {
        text.bytes().for_each(|byte| self.mix(u64::from(byte)));
    }

    fn mix(&mut self, value: u64) {
        self.hash = (self.hash ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, step) in &self.kept {
            writeln!(f, "{:>12.6} s  {step:?}", at.as_secs_f64())?;
        }
        Ok(())
    }
}
