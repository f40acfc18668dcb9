//! A user at the gateway: what all of its connections share.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::accounts::model::{DESTINATION_OTHER, Id};
use crate::accounts::names::Name;
use crate::accounts::service::DestinationMoved;
use crate::limits::DESTINATIONS_PER_USER_MAX;
use crate::rate::Rate;

use super::lock;

/// A user, over all workers.
#[derive(Debug)]
pub struct Member {
    /// Which.
    pub user: Id,
    /// What people call it.
    pub name: Name,
    connections: AtomicUsize,
    /// Those of them that wait to be used, in the order in which they began to.
    waiting: Mutex<Waiting>,
    /// When its bucket of new connections is full again.
    full_at: Mutex<Option<Instant>>,
    up_bytes: AtomicU64,
    down_bytes: AtomicU64,
    /// What it has moved to and from hosts since it was last taken, of what is over.
    destinations: Mutex<HashMap<Box<str>, DestinationMoved>>,
}

/// Why a user gets no further connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TooMany {
    /// It has as many as it may.
    AtOnce,
    /// It has opened too many in a short time.
    TooFast,
}

/// A connection's place among those of its user; it is free again when this is dropped.
#[derive(Debug)]
pub struct MemberSeat {
    member: Arc<Member>,
    /// By which number it is to be found among those that wait, if it is one of them.
    number: Option<u64>,
}

impl MemberSeat {
    /// The connection waits to be used: from here on it gives its place to one that is needed at
    /// once, and is told so by `make_way`, which is called on any thread.
    pub fn wait(&mut self, make_way: impl FnOnce() + Send + 'static) {
        let mut waiting = lock(&self.member.waiting);
        let number = waiting.next;
        waiting.next += 1;
        waiting.seats.insert(number, MakeWay(Box::new(make_way)));
        self.number = Some(number);
    }

    /// Whether it has not been given to another one.
    pub fn is_held(&self) -> bool {
        self.number.is_none_or(|number| lock(&self.member.waiting).seats.contains_key(&number))
    }

    /// The connection is used from here on. Returns whether it still has its place.
    pub fn stop_waiting(&mut self) -> bool {
        let Some(number) = self.number else { return true };
        let is_held = lock(&self.member.waiting).seats.remove(&number).is_some();
        if is_held {
            self.number = None;
        }
        is_held
    }
}

impl Drop for MemberSeat {
    fn drop(&mut self) {
        if self.stop_waiting() {
            self.member.connections.fetch_sub(1, Relaxed);
        }
    }
}

/// Connections that wait to be used.
#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    seats: BTreeMap<u64, MakeWay>,
}

/// Tells a connection that another one has its place.
struct MakeWay(Box<dyn FnOnce() + Send>);

impl fmt::Debug for MakeWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MakeWay")
    }
}

impl Member {
    pub(in crate::proxy) fn new(user: Id, name: Name) -> Self {
        Self {
            user,
            name,
            connections: AtomicUsize::new(0),
            waiting: Mutex::default(),
            full_at: Mutex::default(),
            up_bytes: AtomicU64::new(0),
            down_bytes: AtomicU64::new(0),
            destinations: Mutex::default(),
        }
    }

    /// Lets it have another connection, if it has fewer than `most` and has not opened more than
    /// `per_second` lately, ten seconds' worth of which may come at once. One that `is_needed` at
    /// once gets the place of the one that has waited for the longest time, if there is one.
    ///
    /// # Errors
    /// It may not.
    pub fn enter(
        self: &Arc<Self>,
        now: Instant,
        is_needed: bool,
        most: usize,
        per_second: Option<u32>,
    ) -> Result<MemberSeat, TooMany> {
        while self.connections.fetch_add(1, Relaxed) >= most {
            self.connections.fetch_sub(1, Relaxed);
            if !(is_needed && self.give_up_waiting()) {
                return Err(TooMany::AtOnce);
            }
        }
        let seat = MemberSeat { member: Arc::clone(self), number: None };
        if let Some(per_second) = per_second {
            if per_second == 0 {
                return Err(TooMany::TooFast);
            }
            let rate = Rate::new(per_second, per_second.saturating_mul(10));
            let mut full_at = lock(&self.full_at);
            let taken = rate.take(now, full_at.unwrap_or(now)).ok_or(TooMany::TooFast)?;
            *full_at = Some(taken);
        }
        Ok(seat)
    }

    /// The connection that has waited for the longest time to be used loses its place. Returns
    /// whether there was one.
    fn give_up_waiting(&self) -> bool {
        let first = lock(&self.waiting).seats.pop_first();
        let Some((_, MakeWay(make_way))) = first else { return false };
        self.connections.fetch_sub(1, Relaxed);
        make_way();
        true
    }

    /// Counts bytes from its clients to origins (up), and to them (down).
    pub fn count(&self, up: u64, down: u64) {
        self.up_bytes.fetch_add(up, Relaxed);
        self.down_bytes.fetch_add(down, Relaxed);
    }

    /// Counts a connection to a host that is over, and what it has moved. Names without end are
    /// counted as one.
    pub(in crate::proxy) fn count_destination(&self, host: &str, up: u64, down: u64) {
        let mut destinations = lock(&self.destinations);
        let is_there = destinations.contains_key(host);
        let has_room = is_there || destinations.len() < DESTINATIONS_PER_USER_MAX;
        let host = if has_room { host } else { DESTINATION_OTHER };
        let moved = match destinations.get_mut(host) {
            Some(moved) => moved,
            None => {
                let new = || DestinationMoved { destination: host.into(), ..Default::default() };
                destinations.entry(host.into()).or_insert_with(new)
            }
        };
        moved.connections += 1;
        moved.received_bytes = moved.received_bytes.saturating_add(up);
        moved.sent_bytes = moved.sent_bytes.saturating_add(down);
    }

    pub(in crate::proxy) fn take_destinations(&self) -> Vec<DestinationMoved> {
        std::mem::take(&mut *lock(&self.destinations)).into_values().collect()
    }

    pub(super) fn take_moved(&self) -> (u64, u64) {
        (self.up_bytes.swap(0, Relaxed), self.down_bytes.swap(0, Relaxed))
    }
}
