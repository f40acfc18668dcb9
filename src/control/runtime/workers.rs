//! The workers, seen from the control thread.

use std::sync::Arc;

use crossbeam_channel::Sender;
use mio::Waker;

use crate::control::engine::Target;
use crate::dataplane::messages::WorkerCommand;
use crate::telemetry::counters::WorkerCounters;

/// How a worker is reached.
#[derive(Debug)]
pub struct WorkerHandle {
    /// Its command queue.
    pub commands: Sender<WorkerCommand>,
    /// Wakes its poll, once commands were queued.
    pub waker: Arc<Waker>,
    /// What it counts.
    pub counters: Arc<WorkerCounters>,
    /// The CPU that it is pinned to, if it is.
    pub cpu: Option<usize>,
}

/// How far a worker has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Life {
    /// It moves packets.
    Running,
    /// It moves none any more.
    Stopped,
    /// Its descriptors are closed, too. For a TUN queue that takes as long as the kernel's other
    /// business with interfaces: it waits for a lock that all share, and for all CPUs to have let
    /// go of the queue (RCU).
    Closed,
}

/// All workers, and which of them have commands to be woken for.
pub(super) struct Workers {
    handles: Vec<WorkerHandle>,
    to_wake: Vec<bool>,
    lives: Vec<Life>,
}

impl Workers {
    pub(super) fn new(handles: Vec<WorkerHandle>) -> Self {
        let (to_wake, lives) = (vec![false; handles.len()], vec![Life::Running; handles.len()]);
        Self { handles, to_wake, lives }
    }

    pub(super) fn handles(&self) -> &[WorkerHandle] {
        &self.handles
    }

    /// Queues a command; [`Self::wake`] makes the workers look.
    pub(super) fn send(&mut self, target: Target, command: WorkerCommand) {
        match target {
            Target::Worker(worker) => self.send_to(worker, command),
            Target::All => {
                for worker in 0..self.handles.len() {
                    self.send_to(worker, command.clone());
                }
            }
        }
    }

    fn send_to(&mut self, worker: usize, command: WorkerCommand) {
        let Some(handle) = self.handles.get(worker) else { return };
        // The queue of a worker that is closed is so, too; its last events say why.
        if handle.commands.send(command).is_ok() {
            self.to_wake[worker] = true;
        }
    }

    /// Wakes the workers that have new commands.
    pub(super) fn wake(&mut self) {
        for (handle, to_wake) in self.handles.iter().zip(&mut self.to_wake) {
            if std::mem::take(to_wake)
                && let Err(error) = handle.waker.wake()
            {
                log::error!("cannot wake a worker: {error}");
            }
        }
    }

    /// Tells all workers to finish.
    pub(super) fn stop(&mut self) {
        self.send(Target::All, WorkerCommand::Stop);
        self.wake();
    }

    /// A worker has got as far as that.
    pub(super) fn set(&mut self, worker: usize, life: Life) {
        if let Some(known) = self.lives.get_mut(worker) {
            *known = life.max(*known);
        }
    }

    pub(super) fn have_all_got_to(&self, goal: Life) -> bool {
        self.lives.iter().all(|life| *life >= goal)
    }

    /// The workers that have not got as far as that.
    pub(super) fn not_yet(&self, goal: Life) -> Vec<usize> {
        (0..self.lives.len()).filter(|worker| self.lives[*worker] < goal).collect()
    }
}
