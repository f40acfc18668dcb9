//! The rules that no weather may break, checked at every step.
//!
//! - What is written to TUN was read from the far side's TUN, is the same to the byte, and is
//!   written once.
//! - No key seals two packets with one counter, whatever process holds it, and none beyond
//!   [`REJECT_AFTER_PACKETS`].
//! - No session seals or opens past [`REJECT_AFTER`], not by a moment: not beside a control thread
//!   that takes its time, nor on a machine that has just woken up. A machine's clock goes on while
//!   it is suspended, so that holds by the time of the world. Only where a virtual machine is held
//!   by its host nothing on it can tell that time has passed, and its age is less by that.
//! - A worker has a handful of sessions, an engine's timers and initiations have a pace, and a
//!   timer that was served is not due.
//! - A datagram or packet either gets where it belongs or is counted as dropped, once.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::inner;
use super::side::Who;
use crate::dataplane::messages::SessionInstall;
use crate::limits::{
    ACTIVITY_SCAN_EVERY, PATH_CONFIRM_RETRY, PATH_MTU_PROBE_WAIT, REJECT_AFTER,
    REJECT_AFTER_PACKETS, SESSIONS_PER_PEER_MAX,
};
use crate::wire::{DataHeader, SessionIndex};

/// Initiations that one process sends in a second. A fresh attempt sends at once, after 187 ms at
/// the soonest, and after 375 ms more; each may be asked for a cookie and sent again; and a second
/// attempt may begin in the same second, because the session was lost meanwhile.
const INITIATIONS_PER_SECOND_MAX: u32 = 12;
/// Steps of one path's MTU search, each at once after the answer to the one before: a search among
/// 16 sizes, begun anew by each of two moves.
const MTU_STEPS_PER_SECOND_MAX: u32 = 12;

/// Times that the timers of a side may be due in a second, with so many paths.
const fn timers_per_second_max(paths: u32) -> u32 {
    let scans = 1000 / ACTIVITY_SCAN_EVERY.as_millis() as u32;
    let confirmations = 1000 / PATH_CONFIRM_RETRY.as_millis() as u32;
    let probes = 1000 / PATH_MTU_PROBE_WAIT.as_millis() as u32 + MTU_STEPS_PER_SECOND_MAX;
    let expiries = SESSIONS_PER_PEER_MAX as u32;
    scans + confirmations + INITIATIONS_PER_SECOND_MAX + expiries + paths * probes
}

/// What an inner packet is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Data,
    /// Is answered by whoever gets it.
    Ping,
    Pong,
}

/// An inner packet that was sealed.
#[derive(Clone, Copy, Debug)]
struct Entry {
    purpose: Purpose,
    to_server: bool,
    worker: usize,
    len: usize,
    sealed: bool,
    delivered: bool,
}

/// A session as one process has it.
struct Facts {
    secret: [u8; 32],
    born: Instant,
}

/// What happened in the second that began at `began`.
struct Pace {
    began: Instant,
    timers: u32,
    initiations: u32,
}

/// Watches a world.
pub(crate) struct Oracle {
    ledger: Vec<Entry>,
    /// By process and local index.
    sessions: BTreeMap<(u64, SessionIndex), Facts>,
    /// By key: the secret and the lane.
    counters: BTreeMap<([u8; 32], u8), u64>,
    paces: BTreeMap<Who, Pace>,
    /// Panics at the first objection.
    pub(crate) strict: bool,
    objection: Option<String>,
}

impl Oracle {
    pub(crate) fn new() -> Self {
        Self {
            ledger: Vec::new(),
            sessions: BTreeMap::new(),
            counters: BTreeMap::new(),
            paces: BTreeMap::new(),
            strict: true,
            objection: None,
        }
    }

    /// What is wrong, if anything is.
    pub(crate) fn objection(&self) -> Option<&str> {
        self.objection.as_deref()
    }

    pub(crate) fn object(&mut self, what: String) {
        assert!(!self.strict, "{what}");
        self.objection.get_or_insert(what);
    }

    /// A packet is about to be handed to a worker; its number.
    pub(crate) fn issue(
        &mut self,
        purpose: Purpose,
        to_server: bool,
        worker: usize,
        len: usize,
    ) -> u64 {
        let (sealed, delivered) = (false, false);
        self.ledger.push(Entry { purpose, to_server, worker, len, sealed, delivered });
        self.ledger.len() as u64 - 1
    }

    /// What became of a packet that a worker took from TUN.
    pub(crate) fn was_taken(&mut self, number: u64, datagrams: usize, drops: u64) {
        self.ledger[number as usize].sealed = datagrams > 0;
        if datagrams as u64 + drops != 1 {
            let what = "sealed and counted as dropped do not add up to one";
            self.object(format!("inner packet {number}: {datagrams} and {drops}: {what}"));
        }
    }

    /// A frame is written to TUN; what the packet in it is for, and its number.
    pub(crate) fn was_written(&mut self, at: Who, frame: &[u8]) -> Option<(u64, Purpose)> {
        let number = inner::number_of(frame).filter(|number| *number < self.ledger.len() as u64);
        let Some(number) = number else {
            self.object(format!("{at:?} was delivered a packet that nobody sent"));
            return None;
        };
        let entry = &mut self.ledger[number as usize];
        let repeated = std::mem::replace(&mut entry.delivered, true);
        let Entry { purpose, to_server, worker, len, sealed, .. } = *entry;
        if repeated {
            self.object(format!("inner packet {number} was delivered twice"));
        } else if !sealed || to_server != (at == Who::Server) {
            self.object(format!("inner packet {number} came out where it was not sent to"));
        } else if frame != inner::frame(number, to_server, worker, len) {
            self.object(format!("inner packet {number} was altered"));
        }
        Some((number, purpose))
    }

    /// A process was told to use a session that began at `born` by its own clock.
    pub(crate) fn was_installed(&mut self, process: u64, install: &SessionInstall, born: Instant) {
        let facts = Facts { secret: *install.send_secret.expose(), born };
        self.sessions.insert((process, install.local), facts);
    }

    /// A worker has sealed `datagram` when its machine's clock was at `now`.
    pub(crate) fn was_sealed(
        &mut self,
        process: u64,
        session: SessionIndex,
        now: Instant,
        datagram: &[u8],
    ) {
        let Ok(header) = DataHeader::parse(datagram) else {
            return self.object("what was sealed is no data message".to_owned());
        };
        let Some(facts) = self.sessions.get(&(process, session)) else {
            return self.object(format!("session {session} sealed but was never installed"));
        };
        let (secret, born) = (facts.secret, facts.born);
        self.check_age(session, "sealed", born, now);
        let DataHeader { lane, counter, .. } = header;
        let last = self.counters.insert((secret, lane), counter);
        if last.is_some_and(|last| counter <= last) {
            self.object(format!("nonce {counter} of lane {lane}, session {session}, used twice"));
        } else if counter >= REJECT_AFTER_PACKETS {
            self.object(format!("lane {lane} of session {session} outlived its key"));
        }
    }

    /// A worker has opened a datagram of `session`; `now` as above.
    pub(crate) fn was_opened(&mut self, process: u64, session: SessionIndex, now: Instant) {
        match self.sessions.get(&(process, session)).map(|facts| facts.born) {
            Some(born) => self.check_age(session, "opened", born, now),
            None => self.object(format!("session {session} opened but was never installed")),
        }
    }

    fn check_age(&mut self, session: SessionIndex, what: &str, born: Instant, now: Instant) {
        let age = now.saturating_duration_since(born);
        if age > REJECT_AFTER {
            self.object(format!("session {session} {what} at the age of {age:?}"));
        }
    }

    /// A worker was handed one datagram: it counted so many drops, and so much came of it.
    pub(crate) fn was_received(&mut self, at: Who, outcomes: usize, drops: u64) {
        if outcomes as u64 + drops != 1 {
            let what = "what came of a datagram and what was dropped do not add up to one";
            self.object(format!("{at:?}: {outcomes} and {drops}: {what}"));
        }
    }

    /// A control thread was handed one datagram.
    pub(crate) fn was_handled(&mut self, at: Who, has_effect: bool, drops: u64) {
        if drops > 1 || (drops == 0 && !has_effect) {
            self.object(format!("{at:?}: a handshake datagram vanished: {drops} drops counted"));
        }
    }

    /// A worker has so many sessions.
    pub(crate) fn has_sessions(&mut self, at: Who, worker: usize, sessions: usize) {
        // One more between the arrival of the newest and the departure of the oldest.
        if sessions > SESSIONS_PER_PEER_MAX + 1 {
            self.object(format!("worker {worker} of {at:?} has {sessions} sessions"));
        }
    }

    /// An engine's timers were served at `now` and are due next at `next`, by its own clock.
    pub(crate) fn was_timed(&mut self, at: Who, paths: u32, now: Instant, next: Option<Instant>) {
        if next.is_some_and(|next| next <= now) {
            self.object(format!("{at:?} spins: its timer was served and is due again at once"));
        }
        let pace = self.pace(at, now);
        pace.timers += 1;
        let timers = pace.timers;
        if timers > timers_per_second_max(paths) {
            self.object(format!("the timers of {at:?} were due {timers} times within a second"));
        }
    }

    /// A client has sent an initiation.
    pub(crate) fn was_initiated(&mut self, at: Who, now: Instant) {
        let pace = self.pace(at, now);
        pace.initiations += 1;
        let initiations = pace.initiations;
        if initiations > INITIATIONS_PER_SECOND_MAX {
            self.object(format!("{at:?} sent {initiations} initiations within a second"));
        }
    }

    fn pace(&mut self, at: Who, now: Instant) -> &mut Pace {
        let fresh = || Pace { began: now, timers: 0, initiations: 0 };
        let pace = self.paces.entry(at).or_insert_with(fresh);
        if now.saturating_duration_since(pace.began) >= Duration::from_secs(1) {
            *pace = fresh();
        }
        pace
    }

    /// Packets numbered from `first` on that were read from TUN and never delivered.
    pub(crate) fn undelivered_since(&self, first: u64) -> Vec<u64> {
        let numbers = first..self.ledger.len() as u64;
        numbers.filter(|number| !self.ledger[*number as usize].delivered).collect()
    }

    /// The number that the next packet gets.
    pub(crate) fn next_number(&self) -> u64 {
        self.ledger.len() as u64
    }
}
