//! The way that a client's datagrams take: straight to the server, or by a carrier.
//!
//! A carrier is an address on this host behind which a relay takes datagrams to the server in
//! another way (`login::carrier`). The program around gives and takes it
//! ([`Engine::use_carrier`](crate::control::engine::Engine::use_carrier)); here it is found out
//! that one is needed, because nothing gets through ([`Watch`]) or too little ([`Loss`]), and that
//! it is no longer ([`Trial`]) or does no better. A session knows nothing of
//! the way it takes: it moves from one to the other as it moves when a client roams.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::Rng;

use crate::dataplane::messages::{Endpoint, WorkerCommand};
use crate::limits::{
    ACTIVITY_SCAN_EVERY, LOSSY_AGAIN_FIRST, LOSSY_AGAIN_MAX, PATH_CONFIRM_RETRY,
    PATH_CONFIRM_WITHIN, UDP_CONNECT_WITHIN, UDP_HOLD_FIRST, UDP_HOLD_LOSSY, UDP_HOLD_MAX,
    UDP_RELAPSE_WITHIN, UDP_SILENT_AGAIN, UDP_WATCH_EVERY,
};
use crate::wire::PathMessage;

use super::super::core::Core;
use super::super::{EngineEvent, Now, Target};
use super::loss::Loss;
use super::trial::Trial;
use super::watch::{Finding, Watch};
use super::{Client, Confirmation};

/// Why a carrier is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// Nothing gets through over UDP.
    Silence,
    /// Too much is lost of it.
    Loss,
}

/// The way in use, and what is known of the other.
pub(super) struct Way {
    /// Whether there may be a carrier, so that UDP is watched, and tried while it is not in use.
    watched: bool,
    /// The carrier in use.
    relay: Option<SocketAddr>,
    /// The carrier that was in use before, from which stragglers come.
    left: Option<SocketAddr>,
    watch: Watch,
    /// Of the way in use.
    loss: Loss,
    /// Why a carrier was wanted last.
    need: Need,
    /// When it may be told that UDP loses too much.
    lossy_again_at: Instant,
    /// How long it is not told again.
    lossy_pause: Duration,
    /// While a carrier is in use.
    trial: Option<Trial>,
    /// For how long UDP must answer before a carrier is given up.
    hold: Duration,
    /// When it was given up last.
    returned: Option<Instant>,
    /// When it was said last that no handshake is answered over UDP.
    connect_told: Option<Instant>,
    tick_at: Instant,
}

impl Way {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            watched: false,
            relay: None,
            left: None,
            watch: Watch::new(now),
            loss: Loss::new(now),
            need: Need::Silence,
            lossy_again_at: now,
            lossy_pause: LOSSY_AGAIN_FIRST,
            trial: None,
            hold: UDP_HOLD_FIRST,
            returned: None,
            connect_told: None,
            tick_at: now,
        }
    }

    /// Whether a packet from `endpoint` came on the way that is not in use.
    fn is_other(&self, endpoint: &Endpoint) -> bool {
        match self.relay {
            Some(relay) => endpoint.remote != relay,
            None => Some(endpoint.remote) == self.left,
        }
    }
}

impl Client {
    /// Where datagrams for the server are to be sent.
    pub(super) fn route(&self) -> Endpoint {
        let relay = self.way.relay.map(|remote| Endpoint { remote, local: None, listener: 0 });
        relay.unwrap_or(self.server)
    }

    /// The carrier in use.
    pub(in super::super) const fn carrier(&self) -> Option<SocketAddr> {
        self.way.relay
    }

    /// Whether UDP is watched.
    pub(in super::super) fn watch_udp(&mut self, now: Instant, watched: bool) {
        self.way.watched = watched;
        self.way.tick_at = now;
    }

    /// A session has taken over from another, or begins.
    pub(super) fn restart_watch(&mut self, now: Instant) {
        self.way.watch = Watch::new(now);
        self.way.loss.count_anew();
    }

    /// What is known of the loss is of other paths than are in use from now on.
    pub(super) fn forget_loss(&mut self) {
        self.way.loss.forget();
    }

    /// A probe of some path was answered.
    pub(super) fn note_answer(&mut self, now: Instant, token: u64) {
        self.way.loss.handle_answer(now, token);
    }

    /// Sends everything by `relay` from now on, or straight to the server.
    pub(in super::super) fn use_carrier(
        &mut self,
        core: &mut Core,
        now: Now,
        relay: Option<SocketAddr>,
    ) {
        if self.way.relay == relay {
            return;
        }
        let at = now.monotonic;
        let way = &mut self.way;
        way.left = std::mem::replace(&mut way.relay, relay);
        way.tick_at = at;
        way.connect_told = None;
        way.loss.forget();
        way.trial = relay.map(|_| {
            let relapsed = way.returned.is_some_and(|since| at < since + UDP_RELAPSE_WITHIN);
            let first = match way.need {
                Need::Silence => UDP_HOLD_FIRST,
                Need::Loss => UDP_HOLD_LOSSY,
            };
            way.hold = if relapsed { (way.hold * 2).clamp(first, UDP_HOLD_MAX) } else { first };
            Trial::new(at, way.hold)
        });
        if relay.is_none() {
            way.returned = Some(at);
        }
        // It proves an address that is seen no more.
        self.cookie = None;
        self.move_paths(core, at);
        if self.attempt.is_some() {
            self.begin_attempt(core, now);
        }
    }

    /// Has the server see where datagrams come from now; what waits for an answer is sent again.
    pub(in super::super) fn show_way(&mut self, core: &mut Core, now: Now) {
        if let Some(current) = &self.current {
            for path in &mut self.paths {
                path.probe(core, now.monotonic, &current.session);
            }
        }
        if self.current.is_none() || self.attempt.is_some() {
            self.begin_attempt(core, now);
        }
    }

    /// Leads all paths along the way in use. They must show afresh that they get through; the
    /// probes for that show the server the way, too.
    fn move_paths(&mut self, core: &mut Core, now: Instant) {
        let route = self.route();
        let Some(current) = &mut self.current else { return };
        let session = &current.session;
        let totals = session.usage.totals();
        let bytes = totals.sent_bytes + totals.received_bytes;
        self.way.watch.restart(now, totals.received_packets, bytes);
        for path in &mut self.paths {
            let path = path.lead_to(now, route);
            let command =
                WorkerCommand::SetPathEndpoint { session: session.local, path, endpoint: route };
            core.command_session(&session.plan, command);
        }
        current.confirmation = Some(Confirmation {
            retry_at: now + PATH_CONFIRM_RETRY,
            deadline: now + PATH_CONFIRM_WITHIN,
        });
        self.probe_unconfirmed(core, now);
    }

    /// A packet of the server came on `path` from `endpoint`, and the worker that got it answers
    /// there from now on. Unless that is the way in use it is put right.
    pub(super) fn keeps_way(&self, core: &mut Core, path: u8, endpoint: &Endpoint) -> bool {
        if !self.way.is_other(endpoint) {
            return true;
        }
        if let Some(current) = &self.current {
            let session = current.session.local;
            let endpoint = self.route();
            let command = WorkerCommand::SetPathEndpoint { session, path, endpoint };
            core.command_session(&current.session.plan, command);
        }
        false
    }

    /// Does what has become due about the way.
    pub(super) fn drive_way(&mut self, core: &mut Core, now: Now) {
        let at = now.monotonic;
        if !self.way.watched {
            return;
        }
        self.drive_loss(core, now);
        if at < self.way.tick_at {
            return;
        }
        self.way.tick_at = at + ACTIVITY_SCAN_EVERY;
        if self.way.trial.is_some() {
            self.drive_trial(core, at);
        } else if self.current.is_some() {
            self.drive_watch(core, at);
        } else {
            self.watch_attempt(core, at);
        }
    }

    /// When [`Self::drive_way`] is due.
    pub(super) fn way_timeout(&self) -> Option<Instant> {
        let has_work = self.current.is_some() || self.attempt.is_some();
        let tick_at = self.way.tick_at;
        // Without a session nothing is asked, whatever was carried before.
        let loss = self.current.as_ref().and_then(|_| self.way.loss.poll_timeout());
        let due = loss.map_or(tick_at, |due| due.min(tick_at));
        (self.way.watched && has_work).then_some(due)
    }

    fn rtt(&self) -> Duration {
        self.paths.iter().filter_map(super::ClientPath::rtt).max().unwrap_or_default()
    }

    fn drive_watch(&mut self, core: &mut Core, now: Instant) {
        let rtt = self.rtt();
        let Some(current) = &self.current else { return };
        let totals = current.session.usage.totals();
        let bytes = totals.sent_bytes + totals.received_bytes;
        self.way.watch.observe(now, totals.received_packets, bytes);
        match self.way.watch.judge(now, rtt) {
            Finding::Nothing => {}
            Finding::Ask => {
                for path in &mut self.paths {
                    path.probe(core, now, &current.session);
                }
            }
            Finding::Silent => self.tell_silence(core),
        }
        if let Some(due) = self.way.watch.poll_timeout(rtt) {
            self.way.tick_at = due.min(now + UDP_WATCH_EVERY);
        }
    }

    /// Asks how much is lost, and does something about it if that is too much.
    fn drive_loss(&mut self, core: &mut Core, now: Now) {
        let (at, rtt) = (now.monotonic, self.rtt());
        let Some(current) = &self.current else { return };
        let totals = current.session.usage.totals();
        let loss = &mut self.way.loss;
        loss.observe(at, totals.sent_bytes + totals.received_bytes);
        if let Some(turn) = loss.take_turn(at) {
            // Those that have yet to show that they get through are asked often enough.
            let confirmed = self.paths.iter_mut().filter(|path| path.is_confirmed());
            let mut confirmed: Vec<_> = confirmed.collect();
            let number = turn.checked_rem(confirmed.len()).unwrap_or_default();
            if let Some(path) = confirmed.get_mut(number) {
                loss.asked(at, path.probe(core, at, &current.session), rtt);
            }
        }
        if let Some(lost_percent) = loss.judge(at) {
            self.handle_loss(core, now, lost_percent);
        }
    }

    /// The way in use loses too much.
    fn handle_loss(&mut self, core: &mut Core, now: Now, lost_percent: u8) {
        let (at, peer) = (now.monotonic, self.server_key);
        let way = &mut self.way;
        match way.relay {
            None if at >= way.lossy_again_at => {
                way.need = Need::Loss;
                way.lossy_again_at = at + way.lossy_pause;
                core.event(EngineEvent::UdpLossy { peer, lost_percent });
            }
            Some(_) if way.need == Need::Loss => {
                way.lossy_pause = (way.lossy_pause * 2).min(LOSSY_AGAIN_MAX);
                way.lossy_again_at = at + way.lossy_pause;
                self.use_carrier(core, now, None);
                core.event(EngineEvent::CarrierLossy { peer, lost_percent });
            }
            // Nothing would be better.
            None | Some(_) => {}
        }
    }

    /// While there is no session it is the handshake that goes unanswered.
    fn watch_attempt(&mut self, core: &mut Core, now: Instant) {
        let waits = self.attempt.as_ref().map(|attempt| attempt.waits(now));
        let told_lately = self.way.connect_told.is_some_and(|at| now < at + UDP_SILENT_AGAIN);
        if waits >= Some(UDP_CONNECT_WITHIN) && !told_lately {
            self.way.connect_told = Some(now);
            self.tell_silence(core);
        }
    }

    /// Says that UDP does not get through, if somebody may do something about it.
    pub(super) fn tell_silence(&mut self, core: &mut Core) {
        if self.way.watched && self.way.relay.is_none() {
            self.way.need = Need::Silence;
            core.event(EngineEvent::UdpSilent { peer: self.server_key });
        }
    }

    fn drive_trial(&mut self, core: &mut Core, now: Instant) {
        let rtt = self.rtt();
        let Some(trial) = self.way.trial.as_mut() else { return };
        if now >= trial.poll_timeout() {
            let token = core.rng.random();
            let mut asked = Vec::new();
            if let Some(current) = &self.current {
                // Where the server has no sender no answer can arrive.
                let plan = &current.session.plan;
                for path in
                    self.paths.iter().filter(|it| plan.receive_lanes(it.worker()).count() > 0)
                {
                    let command = WorkerCommand::SendPathMessageTo {
                        session: current.session.local,
                        message: PathMessage::Inquiry { path: path.number(), token },
                        endpoint: self.server,
                    };
                    core.command(Target::Worker(path.worker()), command);
                    asked.push(path.number());
                }
            }
            trial.begin_round(now, rtt, token, asked);
        }
        self.way.tick_at = trial.poll_timeout();
    }

    /// The server has answered an inquiry, which went over UDP, over UDP.
    pub(super) fn handle_inquiry_answer(
        &mut self,
        core: &mut Core,
        now: Now,
        path: u8,
        token: u64,
    ) {
        let Some(trial) = &mut self.way.trial else { return };
        let gets_through = trial.handle_answer(now.monotonic, path, token);
        self.way.tick_at = trial.poll_timeout();
        if gets_through {
            self.way.lossy_pause = LOSSY_AGAIN_FIRST;
            self.way.lossy_again_at = now.monotonic;
            self.use_carrier(core, now, None);
            core.event(EngineEvent::UdpRestored { peer: self.server_key });
        }
    }
}
