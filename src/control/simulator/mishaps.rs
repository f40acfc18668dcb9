//! What befalls machines and the network while a world runs.

use std::net::Ipv4Addr;
use std::time::Duration;

use rand::Rng;

use super::network::{Cut, Nat, first_address};
use super::plan::{Mishap, Plan};
use super::side::{Side, Who};
use super::trace::Step;
use super::world::{Due, World};
use crate::control::engine::Engine;

impl World {
    pub(crate) fn befall(&mut self, mishap: Mishap) {
        self.note(Step::Mishap(mishap));
        match mishap {
            Mishap::Cut { direction, socket, lasts } => {
                self.weather.cuts.push(Cut { direction, socket, until: self.now + lasts });
            }
            Mishap::Narrow { mtu } => self.weather.mtu = mtu,
            Mishap::Roam { host } => self.roam(Ipv4Addr::new(203, 0, 113, host)),
            Mishap::Rebind { socket } => self.client.nat.rebind(socket),
            Mishap::ClockSet { who, ahead_s } => self.side(who).clock_ahead = ahead_s,
            Mishap::Suspend { who, lasts, clock_stops } => self.suspend(who, lasts, clock_stops),
            Mishap::Restart { who, goodbye } => self.restart(who, goodbye, mishap),
            Mishap::LogIn => self.log_in(),
            Mishap::Dismiss { lasts } => self.dismiss(lasts),
            Mishap::TwinBegins => self.begin_twin(),
            Mishap::TwinEnds { goodbye } => self.end_twin(goodbye),
            Mishap::SpendKey { who, worker, packets_left } => {
                self.spend_key(who, worker, Plan::counter(packets_left));
            }
        }
    }

    /// The client is at another address from now on.
    pub(crate) fn roam(&mut self, address: Ipv4Addr) {
        self.client.nat.address = address;
    }

    fn suspend(&mut self, who: Who, lasts: Duration, clock_stops: bool) {
        let until = self.now + lasts;
        let side = self.side(who);
        if side.sleeps_until.is_some() {
            return;
        }
        side.sleeps_until = Some(until);
        let process = side.process;
        let stood = if clock_stops { lasts } else { Duration::ZERO };
        self.schedule(until, Due::Awake(who, process, stood));
    }

    fn restart(&mut self, who: Who, goodbye: bool, mishap: Mishap) {
        if let Some(until) = self.side(who).sleeps_until {
            // Nothing happens on a machine that is suspended.
            return self.schedule(until, Due::Mishap(mishap));
        }
        if goodbye {
            self.say_goodbye(who);
        }
        match who {
            Who::Server => self.restart_server(),
            Who::Client | Who::Twin => self.restart_client(),
        }
    }

    /// The process says goodbye, and what it says leaves the machine.
    fn say_goodbye(&mut self, who: Who) {
        self.side(who).engine.request_close();
        self.pump();
        for worker in 0..self.side(who).workers.len() {
            self.turn(who, worker).apply_commands();
            self.after_worker(who, worker, None);
        }
    }

    /// The server process dies without a word and another one starts.
    pub(crate) fn restart_server(&mut self) {
        let seed = self.rng.random();
        let now = self.clocks(Who::Server).monotonic;
        let engine = self.keys.server_engine(self.counts.0, seed, now);
        let workers = self.counts.0;
        self.replace(Who::Server, engine, workers);
        self.forget_guests();
    }

    /// The client process dies without a word and another one starts, on other ports.
    pub(crate) fn restart_client(&mut self) {
        let seed = self.rng.random();
        let now = self.clocks(Who::Client).monotonic;
        let engine = self.keys.client_engine(self.counts.1, &self.options, seed, now);
        self.client.nat.rebind(None);
        let workers = self.counts.1;
        self.replace(Who::Client, engine, workers);
    }

    /// Another process takes the place of one on the same machine.
    fn replace(&mut self, who: Who, engine: Engine, workers: u8) {
        let (process, now) = (self.next_process(), self.now);
        self.forget_reports(who);
        let nat = self.side(who).nat.clone();
        let fresh = Side::new(engine, workers, process, nat, now);
        let old = std::mem::replace(self.side(who), fresh);
        let side = self.side(who);
        if who == Who::Server {
            side.events = old.events;
        }
        side.clock_ahead = old.clock_ahead;
        side.clock_stood = old.clock_stood;
        let now = self.clocks(who);
        self.side(who).engine.start(now);
        self.pump();
    }

    fn begin_twin(&mut self) {
        if self.twin.is_some() {
            return;
        }
        let (process, now, seed) = (self.next_process(), self.now, self.rng.random());
        let monotonic = self.clocks(Who::Client).monotonic;
        let engine = self.keys.client_engine(self.counts.1, &self.options, seed, monotonic);
        let nat = Nat::new(first_address(Who::Twin), self.counts.1);
        let mut twin = Side::new(engine, self.counts.1, process, nat, now);
        twin.clock_ahead = self.client.clock_ahead;
        twin.clock_stood = self.client.clock_stood;
        self.twin = Some(twin);
        let now = self.clocks(Who::Twin);
        self.side(Who::Twin).engine.start(now);
        self.pump();
    }

    pub(super) fn end_twin(&mut self, goodbye: bool) {
        if self.twin.is_none() {
            return;
        }
        if goodbye {
            self.say_goodbye(Who::Twin);
        }
        self.twin = None;
        self.forget_reports(Who::Twin);
    }

    /// Makes the lane that a worker sends on look as if it had sealed `counter` packets.
    pub(crate) fn spend_key(&mut self, who: Who, worker: usize, counter: u64) {
        let Some(side) = self.look(who) else { return };
        let Some(session) = side.workers[worker].newest() else { return };
        let real = &mut self.side(who).workers[worker].real;
        // Never backwards: that would be a fault of the simulation.
        if real.sealed(session).is_some_and(|sealed| sealed < counter) {
            real.spend_key(session, counter);
        }
    }
}
