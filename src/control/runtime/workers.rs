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

/// All workers, and which of them have commands to be woken for.
pub(super) struct Workers {
    handles: Vec<WorkerHandle>,
    to_wake: Vec<bool>,
    stopped: Vec<bool>,
}

impl Workers {
    pub(super) fn new(handles: Vec<WorkerHandle>) -> Self {
        let (to_wake, stopped) = (vec![false; handles.len()], vec![false; handles.len()]);
        Self { handles, to_wake, stopped }
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
        // The queue of a worker that has returned is closed; its last event says why it did.
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

    /// A worker has returned.
    pub(super) fn set_stopped(&mut self, worker: usize) {
        if let Some(stopped) = self.stopped.get_mut(worker) {
            *stopped = true;
        }
    }

    pub(super) fn all_stopped(&self) -> bool {
        self.stopped.iter().all(|stopped| *stopped)
    }

    /// The workers that have not returned.
    pub(super) fn running(&self) -> Vec<usize> {
        (0..self.stopped.len()).filter(|worker| !self.stopped[*worker]).collect()
    }
}
