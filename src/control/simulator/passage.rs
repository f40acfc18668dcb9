//! What goes through a world: inner packets into workers, datagrams out of them, and back.

use super::inner;
use super::network::{Fate, Packet, SERVER, Socket, carry, client_socket, steer};
use super::oracle::Purpose;
use super::plan::Sabotage;
use super::side::Who;
use super::trace::{Digest, Step};
use super::world::{Due, World};
use crate::dataplane::messages::Endpoint;
use crate::limits::DATA_OVERHEAD_LEN;
use crate::wire::{DataHeader, MessageType, PathMessage};

/// A sabotaged lane repeats its counters after so many packets.
const PACKETS_BEFORE_SABOTAGE: u64 = 5;

impl World {
    /// Every worker whose queue is attached sends one packet.
    pub(super) fn send_from_all_workers(&mut self) {
        for who in Who::ALL {
            let Some(side) = self.look(who).filter(|side| side.sleeps_until.is_none()) else {
                continue;
            };
            let workers = if self.one_flow { 1 } else { side.workers.len() };
            for worker in 0..workers {
                if !self.side(who).workers[worker].detached {
                    self.send_inner(who, worker, Purpose::Data, self.traffic_len);
                }
            }
        }
    }

    /// A worker reads a packet from its TUN queue.
    pub(crate) fn send_inner(&mut self, who: Who, worker: usize, purpose: Purpose, len: usize) {
        let len = len.max(inner::LEN_MIN);
        let to_server = who != Who::Server;
        let number = self.oracle.issue(purpose, to_server, worker, len);
        self.sabotage_lane(who, worker);
        let real = self.turn(who, worker);
        let dropped = real.dropped_in_all();
        let datagrams = real.encapsulate(inner::frame(number, to_server, worker, len));
        let drops = real.dropped_in_all() - dropped;
        // What comes back at once are words to the sender: that the packet is too big.
        real.tun.frames.clear();
        self.oracle.was_taken(number, datagrams.len(), drops);
        let sealed = !datagrams.is_empty();
        self.note(Step::Read { at: who, worker, number, sealed });
        self.side(who).sent += u64::from(sealed);
        self.send_sealed(who, worker, datagrams, None);
        self.after_worker(who, worker, None);
    }

    /// Makes a lane count from the beginning again, if that is the sabotage.
    fn sabotage_lane(&mut self, who: Who, worker: usize) {
        if self.sabotage != Some(Sabotage::RepeatNonces) {
            return;
        }
        let worker = &mut self.side(who).workers[worker];
        if let Some(session) = worker.newest()
            && worker.real.sealed(session) > Some(PACKETS_BEFORE_SABOTAGE)
        {
            worker.real.spend_key(session, 0);
        }
    }

    /// What a worker has sealed goes to the oracle, and on its way.
    pub(super) fn send_sealed(
        &mut self,
        who: Who,
        worker: usize,
        datagrams: Vec<Vec<u8>>,
        message: Option<PathMessage>,
    ) {
        let wire = &mut self.side(who).workers[worker].real.wire;
        wire.ecn.clear();
        let routes = std::mem::take(&mut wire.routes);
        let from = self.address(who, worker as u16);
        let (process, now) = (self.side(who).process, self.clocks(who).monotonic);
        for (datagram, (session, endpoint)) in datagrams.into_iter().zip(routes) {
            self.oracle.was_sealed(process, session, now, &datagram);
            self.send(Packet { from, to: endpoint.remote, datagram, message });
        }
    }

    pub(crate) fn send(&mut self, mut packet: Packet) {
        let elapsed = self.elapsed();
        if self.captures {
            self.captured.push((elapsed, packet.clone()));
        }
        if let Some(carried) = carry(&packet, &self.client.nat) {
            // No weather troubles a carrier.
            let fate = if self.carrier_works { Fate::Delivered } else { Fate::CutOff };
            self.note(Step::Sent { packet: Digest::of(&packet), fate });
            if self.carrier_works {
                self.put_on_its_way(carried);
            }
            return;
        }
        let strays = self.weather.stray(&self.old, &mut self.rng);
        for stray in strays {
            self.put_on_its_way(stray);
        }
        if self.weather.replay + self.weather.junk > 0.0 {
            self.old.remember(&packet, &mut self.rng);
        }
        let fate = if packet.fits(self.weather.mtu) && (self.filter)(elapsed, &packet) {
            Fate::Lost
        } else {
            self.weather.judge(self.now, &mut packet, &mut self.rng)
        };
        self.note(Step::Sent { packet: Digest::of(&packet), fate });
        match fate {
            Fate::Lost | Fate::TooBig | Fate::CutOff => {}
            Fate::Delivered | Fate::Damaged => self.put_on_its_way(packet),
            Fate::Doubled => {
                self.put_on_its_way(packet.clone());
                self.put_on_its_way(packet);
            }
        }
    }

    fn put_on_its_way(&mut self, packet: Packet) {
        let travel = self.weather.travel_time(&packet, &mut self.rng);
        self.schedule(self.now + travel, Due::Arrival(packet));
    }

    /// A datagram arrives.
    pub(crate) fn deliver(&mut self, packet: Packet) {
        let Some((who, socket)) = self.resolve(&packet) else {
            return self.note(Step::NobodyThere { packet: Digest::of(&packet) });
        };
        if let Some(until) = self.side(who).sleeps_until {
            return self.schedule(until, Due::Arrival(packet));
        }
        self.note(Step::Arrived { at: who, packet: Digest::of(&packet) });
        match socket {
            Socket::Control => self.deliver_to_control(who, packet),
            Socket::Worker(worker) => self.deliver_to_worker(who, worker, packet),
        }
        self.pump();
    }

    /// Who is at the address that a packet goes to.
    fn resolve(&self, packet: &Packet) -> Option<(Who, Socket)> {
        if packet.to == SERVER {
            return Some((Who::Server, steer(&packet.datagram, self.server.workers.len())));
        }
        [Who::Client, Who::Twin]
            .into_iter()
            .find_map(|who| Some((who, client_socket(&self.look(who)?.nat, packet.to)?)))
    }

    fn deliver_to_control(&mut self, who: Who, packet: Packet) {
        let now = self.clocks(who);
        let from = Endpoint { remote: packet.from, local: None, listener: 0 };
        let side = self.side(who);
        let dropped = side.drops_in_all();
        side.engine.handle_datagram(now, from, &packet.datagram);
        let drops = side.drops_in_all() - dropped;
        // A client may keep a cookie for its next initiation.
        let has_effect = side.engine.has_outputs() || packet.is(MessageType::CookieReply);
        self.oracle.was_handled(who, has_effect, drops);
        if drops > 0 {
            let reason = self.side(who).newly_dropped();
            self.note(Step::Dropped { at: who, reason });
        }
    }

    fn deliver_to_worker(&mut self, who: Who, worker: usize, mut packet: Packet) {
        let now = self.clocks(who).monotonic;
        let process = self.side(who).process;
        let session = DataHeader::parse(&packet.datagram).map(|header| header.receiver);
        let is_empty = packet.datagram.len() == DATA_OVERHEAD_LEN;
        self.sabotage_window(who, worker, &packet);
        let real = self.turn(who, worker);
        let has_commands = !real.commands.is_empty();
        let dropped = real.dropped_in_all();
        let mut frames = real.decapsulate_one(packet.from, None, &mut packet.datagram);
        let drops = real.dropped_in_all() - dropped;
        let sessions = real.sessions();
        if self.sabotage == Some(Sabotage::SwallowPackets) {
            frames.clear();
        }
        let messages = self.after_worker(who, worker, None);

        let outcomes = frames.len() + messages + usize::from(is_empty && drops == 0);
        // Commands that the worker found waiting may have been in vain, and counted as well.
        if !has_commands {
            self.oracle.was_received(who, outcomes, drops);
        }
        if let Ok(session) = session
            && drops == 0
        {
            self.oracle.was_opened(process, session, now);
        }
        self.oracle.has_sessions(who, worker, sessions);
        if drops > 0 {
            let reason = self.side(who).workers[worker].newly_dropped();
            self.note(Step::Dropped { at: who, reason });
        }
        for frame in &mut frames {
            if self.sabotage == Some(Sabotage::AlterPackets) {
                *frame.last_mut().unwrap() ^= 1;
            }
            self.write(who, worker, frame);
        }
    }

    /// Makes a worker forget which counters it has seen, if that is the sabotage.
    fn sabotage_window(&mut self, who: Who, worker: usize, packet: &Packet) {
        if self.sabotage == Some(Sabotage::ForgetCounters)
            && let Ok(header) = DataHeader::parse(&packet.datagram)
        {
            self.side(who).workers[worker].real.forget_counters(header.receiver);
        }
    }

    /// A worker writes a frame to its TUN queue.
    fn write(&mut self, who: Who, worker: usize, frame: &[u8]) {
        self.watch_guest(who);
        let Some((number, purpose)) = self.oracle.was_written(who, frame) else { return };
        self.note(Step::Wrote { at: who, worker, number });
        self.side(who).received += 1;
        match purpose {
            Purpose::Data => {}
            Purpose::Ping => self.send_inner(who, worker, Purpose::Pong, frame.len()),
            Purpose::Pong => self.pongs += u64::from(who == Who::Client),
        }
    }
}
