//! Lane arithmetic: which worker sends and receives on which lane.
//!
//! With N_s server workers and N_c client workers, client worker w sends on lane `base + w` and the
//! server receives lane l at worker `l % N_s`; server worker j sends on lane j, to path `j % N_c`,
//! which is client worker `j % N_c`. `base` is granted by the server: a multiple of N_c with
//! `base + N_c <= N_s`, or 0 when N_c >= N_s.
//!
//! Two properties follow, and a test proves them for every N_s, N_c and base:
//! - a lane has exactly one sender and one receiver, so no nonce is used twice and a replay window
//!   needs no lock;
//! - a flow is carried by the same workers all along, after at most one move: on the server it
//!   stays on the queue that its hash chooses, and on the client it follows, since TUN's queue
//!   selection there takes the queue that last wrote the flow.

use std::ops::Range;

use thiserror::Error;

use crate::limits::WORKERS_MAX;

/// The two ends of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Owns one socket, and so one path, per worker.
    Client,
    /// Owns one port, and grants the client its lanes.
    Server,
}

/// Why worker counts and a base lane make no plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PlanError {
    /// A side has no worker, or more than [`WORKERS_MAX`].
    #[error("{0} workers on one side; 1 to {WORKERS_MAX} are possible")]
    Workers(u8),
    /// The base lane would give a lane two receivers, or flows no rest.
    #[error(
        "base lane {base} does not suit {server_workers} server and {client_workers} client workers"
    )]
    Base {
        /// The base lane.
        base: u8,
        /// Workers of the server.
        server_workers: u8,
        /// Workers of the client.
        client_workers: u8,
    },
}

/// Who sends and receives on which lane, seen from one side of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LanePlan {
    role: Role,
    server_workers: u8,
    client_workers: u8,
    base: u8,
    /// The worker of this side that has the part of worker 0.
    first_worker: u8,
}

impl LanePlan {
    /// The plan of a session for the side that is `role` in it.
    ///
    /// # Errors
    /// If a worker count is out of range or `base` is not one that [`grant_base`] could return.
    pub fn new(
        role: Role,
        server_workers: u8,
        client_workers: u8,
        base: u8,
    ) -> Result<Self, PlanError> {
        for workers in [server_workers, client_workers] {
            if workers == 0 || usize::from(workers) > WORKERS_MAX {
                return Err(PlanError::Workers(workers));
            }
        }
        if !bases(server_workers, client_workers).any(|possible| possible == base) {
            return Err(PlanError::Base { base, server_workers, client_workers });
        }
        Ok(Self { role, server_workers, client_workers, base, first_worker: 0 })
    }

    /// The same plan with the parts of this side's workers taken by as many workers from
    /// `first_worker` on. A client that uses fewer paths than it has workers chooses them so; the
    /// far side sees no difference. A server's workers always begin with the first, because the
    /// kernel hands it lanes by their number.
    #[must_use]
    pub fn beginning_at(self, first_worker: u8) -> Self {
        match self.role {
            Role::Client => Self { first_worker, ..self },
            Role::Server => self,
        }
    }

    /// The workers of this side that have a part in the session, by their own numbers.
    pub fn participants(&self) -> Range<usize> {
        let first = usize::from(self.first_worker);
        first..first + usize::from(self.own_workers())
    }

    /// The number in this plan of this side's `worker`, which must have a part in it.
    #[inline]
    fn part_of(&self, worker: usize) -> u8 {
        debug_assert!(self.participants().contains(&worker));
        (worker as u8).wrapping_sub(self.first_worker)
    }

    /// Which side this is.
    pub const fn role(&self) -> Role {
        self.role
    }

    /// Workers of the server.
    pub const fn server_workers(&self) -> u8 {
        self.server_workers
    }

    /// Workers of the client, which is also the number of paths.
    pub const fn client_workers(&self) -> u8 {
        self.client_workers
    }

    /// The lane of the client's worker 0.
    pub const fn base(&self) -> u8 {
        self.base
    }

    /// Workers of this side.
    pub const fn own_workers(&self) -> u8 {
        match self.role {
            Role::Client => self.client_workers,
            Role::Server => self.server_workers,
        }
    }

    /// Workers of the far side.
    pub const fn far_workers(&self) -> u8 {
        match self.role {
            Role::Client => self.server_workers,
            Role::Server => self.client_workers,
        }
    }

    /// The lane on which this side's `worker` sends. Only [`LanePlan::participants`] send.
    #[inline]
    pub fn send_lane(&self, worker: usize) -> u8 {
        match self.role {
            Role::Client => self.base + self.part_of(worker),
            Role::Server => self.part_of(worker),
        }
    }

    /// Whether `lane` is one that this side's `worker` must receive.
    #[inline]
    pub fn receives(&self, worker: usize, lane: u8) -> bool {
        match self.role {
            Role::Client => {
                let part = lane % self.client_workers;
                lane < self.server_workers && usize::from(self.first_worker + part) == worker
            }
            Role::Server => {
                lane >= self.base
                    && lane - self.base < self.client_workers
                    && usize::from(lane % self.server_workers) == worker
            }
        }
    }

    /// The lanes that this side's `worker` receives, in rising order.
    pub fn receive_lanes(&self, worker: usize) -> impl Iterator<Item = u8> + use<> {
        let plan = *self;
        (0..WORKERS_MAX as u8).filter(move |lane| plan.receives(worker, *lane))
    }

    /// The path that a received `lane` travels on. Only for lanes that this side receives.
    #[inline]
    pub fn path_of_received_lane(&self, lane: u8) -> u8 {
        match self.role {
            Role::Client => lane % self.client_workers,
            Role::Server => lane.wrapping_sub(self.base),
        }
    }

    /// The path on which this side's `worker` sends, one of [`LanePlan::participants`].
    #[inline]
    pub fn send_path(&self, worker: usize) -> u8 {
        match self.role {
            Role::Client => self.part_of(worker),
            Role::Server => self.part_of(worker) % self.client_workers,
        }
    }
}

/// The base lane that puts a new client on the least loaded server workers; the lowest of several.
///
/// `load` is one figure per server worker (sessions, or any measure of work); missing ones count
/// as 0. With at least as many client workers as server workers every worker takes part and the
/// answer is 0. Both worker counts must be at least 1.
pub fn grant_base(server_workers: u8, client_workers: u8, load: &[u32]) -> u8 {
    let load_at = |worker: u8| u64::from(load.get(usize::from(worker)).copied().unwrap_or(0));
    bases(server_workers, client_workers)
        .min_by_key(|base| (*base..base + client_workers).map(load_at).sum::<u64>())
        .unwrap_or(0)
}

/// Every base lane that a server may grant.
fn bases(server_workers: u8, client_workers: u8) -> impl Iterator<Item = u8> {
    let last = server_workers.saturating_sub(client_workers);
    (0..=last).step_by(usize::from(client_workers.max(1)))
}

#[cfg(test)]
mod tests;
