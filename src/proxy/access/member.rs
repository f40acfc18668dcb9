//! A user at the gateway: what all of its connections share.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::accounts::model::Id;
use crate::accounts::names::Name;
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
    /// When its bucket of new connections is full again.
    full_at: Mutex<Option<Instant>>,
    up_bytes: AtomicU64,
    down_bytes: AtomicU64,
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
pub struct MemberSeat(Arc<Member>);

impl Drop for MemberSeat {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Relaxed);
    }
}

impl Member {
    pub(super) fn new(user: Id, name: Name) -> Self {
        Self {
            user,
            name,
            connections: AtomicUsize::new(0),
            full_at: Mutex::default(),
            up_bytes: AtomicU64::new(0),
            down_bytes: AtomicU64::new(0),
        }
    }

    /// Lets it have another connection, if it has fewer than `most` and has not opened more than
    /// `per_second` lately, ten seconds' worth of which may come at once; 0 is no bound.
    ///
    /// # Errors
    /// It may not.
    pub fn enter(
        self: &Arc<Self>,
        now: Instant,
        most: usize,
        per_second: u32,
    ) -> Result<MemberSeat, TooMany> {
        if self.connections.fetch_add(1, Relaxed) >= most {
            self.connections.fetch_sub(1, Relaxed);
            return Err(TooMany::AtOnce);
        }
        let seat = MemberSeat(Arc::clone(self));
        if per_second > 0 {
            let rate = Rate::new(per_second, per_second.saturating_mul(10));
            let mut full_at = lock(&self.full_at);
            let taken = rate.take(now, full_at.unwrap_or(now)).ok_or(TooMany::TooFast)?;
            *full_at = Some(taken);
        }
        Ok(seat)
    }

    /// Counts bytes from its clients to origins (up), and to them (down).
    pub fn count(&self, up: u64, down: u64) {
        self.up_bytes.fetch_add(up, Relaxed);
        self.down_bytes.fetch_add(down, Relaxed);
    }

    pub(super) fn take_moved(&self) -> (u64, u64) {
        (self.up_bytes.swap(0, Relaxed), self.down_bytes.swap(0, Relaxed))
    }
}
