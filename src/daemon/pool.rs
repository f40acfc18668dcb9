//! The worker threads.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender};
use mio::Waker;

use crate::config::{Switch, WorkersConfig};
use crate::control::runtime::WorkerHandle;
use crate::daemon::DaemonError;
use crate::dataplane::ForwarderOptions;
use crate::dataplane::messages::WorkerEvent;
use crate::dataplane::worker::{Worker, WorkerError, WorkerParts};
use crate::host::privileges;
use crate::limits::{PIN_CPUS_MIN, WORKER_EVENTS_MAX, WORKERS_MAX};
use crate::sys::affinity;
use crate::sys::tun::TunQueue;
use crate::sys::udp::UdpSocket;
use crate::telemetry::counters::WorkerCounters;

/// How many workers there are and where each is pinned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Placement {
    /// One entry per worker.
    pub(super) cpus: Vec<Option<usize>>,
}

impl Placement {
    /// One worker per CPU that this process may use, unless told otherwise. With more workers than
    /// CPUs the CPUs are used in turn.
    pub(super) fn choose(config: &WorkersConfig) -> Self {
        let allowed = affinity::allowed_cpus().unwrap_or_else(|error| {
            log::warn!("cannot tell which CPUs may be used, so workers are not pinned: {error}");
            Vec::new()
        });
        Self::among(&allowed, config)
    }

    /// The same where this process may use the CPUs `allowed`. Workers stay on CPUs of their own
    /// if told so, or where there are enough CPUs for others to go elsewhere.
    fn among(allowed: &[usize], config: &WorkersConfig) -> Self {
        let cpus = config.cpus.as_deref().unwrap_or(allowed);
        let pins = match config.pin {
            Switch::Auto => config.cpus.is_some() || allowed.len() >= PIN_CPUS_MIN,
            Switch::On => true,
            Switch::Off => false,
        };
        let workers = config.count.unwrap_or(cpus.len()).clamp(1, WORKERS_MAX);
        let cpu_of = |worker: usize| cpus.get(worker % cpus.len().max(1)).copied();
        Self { cpus: (0..workers).map(|worker| cpu_of(worker).filter(|_| pins)).collect() }
    }

    pub(super) fn workers(&self) -> usize {
        self.cpus.len()
    }
}

/// What one worker is given.
pub(super) struct WorkerSeat {
    pub(super) tun: TunQueue,
    pub(super) sockets: Vec<UdpSocket>,
}

impl WorkerSeat {
    /// A client's, with one socket.
    pub(super) fn of_client((tun, socket): (TunQueue, UdpSocket)) -> Self {
        Self { tun, sockets: vec![socket] }
    }
}

/// The running workers.
pub(super) struct Pool {
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    /// Starts a thread for each seat. Returns what the control thread needs to reach them.
    pub(super) fn start(
        seats: Vec<WorkerSeat>,
        placement: &Placement,
        options: ForwarderOptions,
        control_waker: &Arc<Waker>,
    ) -> Result<(Self, Vec<WorkerHandle>, Receiver<WorkerEvent>), DaemonError> {
        let (event_sender, events) = crossbeam_channel::bounded(WORKER_EVENTS_MAX);
        let mut handles = Vec::with_capacity(seats.len());
        let mut threads = Vec::with_capacity(seats.len());
        for (number, (seat, &cpu)) in seats.into_iter().zip(&placement.cpus).enumerate() {
            let (commands, command_queue) = crossbeam_channel::unbounded();
            let counters = Arc::new(WorkerCounters::default());
            let (worker, waker) = Worker::new(WorkerParts {
                worker: number,
                cpu,
                tun: seat.tun,
                sockets: seat.sockets,
                commands: command_queue,
                events: event_sender.clone(),
                control_waker: Arc::clone(control_waker),
                counters: Arc::clone(&counters),
                options,
            })
            .map_err(DaemonError::io("watching a worker's descriptors"))?;
            let obituary = Obituary {
                worker: number,
                events: event_sender.clone(),
                control_waker: Arc::clone(control_waker),
            };
            let thread = thread::Builder::new()
                .name(format!("tunnel-{number}"))
                .spawn(move || obituary.write_after(worker))
                .map_err(DaemonError::io("starting a worker thread"))?;
            threads.push(thread);
            handles.push(WorkerHandle { commands, waker, counters, cpu });
        }
        Ok((Self { threads }, handles, events))
    }

    /// Reaps the threads that have ended. They have been told to stop and been waited for; one that
    /// has not by now ends with the process.
    pub(super) fn join(self) {
        for thread in self.threads.into_iter().filter(JoinHandle::is_finished) {
            // A panic has been caught and reported by the thread itself.
            let _ = thread.join();
        }
    }
}

/// Tells the control thread how a worker ended, also if it panicked.
struct Obituary {
    worker: usize,
    events: Sender<WorkerEvent>,
    control_waker: Arc<Waker>,
}

impl Obituary {
    fn write_after(self, mut tunnel: Worker) {
        let worker = self.worker;
        if let Err(error) = privileges::drop_all_on_this_thread() {
            log::warn!("worker {worker} keeps its capabilities: {error}");
        }
        let event = match catch_unwind(AssertUnwindSafe(|| tunnel.run())) {
            Ok(Ok(())) => WorkerEvent::Stopped { worker },
            Ok(Err(WorkerError::Tun(error))) => {
                WorkerEvent::DeviceGone { worker, error: error.to_string() }
            }
            Ok(Err(error)) => WorkerEvent::Failed { worker, error: error.to_string() },
            Err(panic) => WorkerEvent::Failed { worker, error: panic_message(&*panic) },
        };
        self.tell(event);
        // Closes the descriptors.
        drop(tunnel);
        self.tell(WorkerEvent::Closed { worker });
    }

    fn tell(&self, event: WorkerEvent) {
        // Both fail only if the control thread is gone, and then nobody is left to be told.
        let _ = self.events.send(event);
        let _ = self.control_waker.wake();
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("it panicked: {}", text.unwrap_or("without a message"))
}

#[cfg(test)]
mod tests;
