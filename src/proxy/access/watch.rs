//! The thread that has connections closed that are no longer good, and tells the accounts what was
//! moved.

use std::io;
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, bounded, select, tick};

use crate::accounts::service::{Acknowledgement, Notice};
use crate::limits::USAGE_TAKE_EVERY;
use crate::proxy::worker::{Order, WorkerHandle};
use crate::sys::clock;

use super::{Access, Moved};

/// The running thread. Dropping it, once the workers have ended, tells the accounts the rest.
pub(in crate::proxy) struct Watch {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Starts it. `workers` are all that there are, and `notices` those since before there were
    /// any.
    pub(in crate::proxy) fn start(
        access: Access,
        notices: Receiver<Notice>,
        workers: Vec<WorkerHandle>,
    ) -> io::Result<Self> {
        let (sender, stop) = bounded(0);
        let run = move || run(&access, &workers, &notices, &stop);
        let thread = thread::Builder::new().name("proxy-watch".to_owned()).spawn(run)?;
        Ok(Self { stop: Some(sender), thread: Some(thread) })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A panic has been told.
            let _ = thread.join();
        }
    }
}

fn run(access: &Access, workers: &[WorkerHandle], notices: &Receiver<Notice>, stop: &Receiver<()>) {
    let ticks = tick(USAGE_TAKE_EVERY);
    loop {
        select! {
            recv(notices) -> notice => match notice {
                Ok(notice) => heed(access, workers, notice),
                Err(_) => break,
            },
            recv(ticks) -> _ => tell_moved(access),
            recv(stop) -> _ => break,
        }
    }
    tell_moved(access);
}

fn heed(access: &Access, workers: &[WorkerHandle], notice: Notice) {
    let (pass, done): (_, Acknowledgement) = match notice {
        Notice::PassEnded { pass, done } => (pass, done),
        Notice::PassChanged { pass, done } => {
            access.shared.renew(&pass);
            (pass, done)
        }
        // Those are the tunnel's.
        Notice::SessionEnded { .. } | Notice::PolicyChanged { .. } => return,
    };
    for worker in workers {
        worker.give(Order::Review(pass.id, done.clone()));
    }
}

fn tell_moved(access: &Access) {
    for Moved { user, up, down, destinations } in access.shared.sweep(clock::now()) {
        if (up, down) != (0, 0) {
            access.accounts.add_proxy_usage(user, down, up);
        }
        if !destinations.is_empty() {
            access.accounts.add_proxy_destinations(user, destinations);
        }
    }
}
