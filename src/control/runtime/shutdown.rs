//! The end of a control thread.

use std::time::{Duration, Instant};

use mio::Events;

use super::status_socket::StatusSocket;
use super::workers::Life;
use super::{ControlError, ControlThread, Stop};
use crate::limits::{CLOSE_WITHIN, STOP_WITHIN};
use crate::sys::clock;

impl ControlThread {
    /// Says goodbye to the peers, stops the workers, and waits for them, but not for ever.
    pub(super) fn shut_down(&mut self, by_request: bool) {
        self.hooks.stopping();
        // Whoever waits for an order waits no longer.
        self.orders = crossbeam_channel::never();
        self.engine.request_close();
        if let Err(error) = self.flush() {
            log::error!("{error}");
        }
        self.workers.stop();
        let have_stopped = self.await_workers(Life::Stopped, STOP_WITHIN);
        // Nothing passes the tunnel any more, so nothing must be led into it.
        self.hooks.stopped(&mut self.engine, by_request);
        if have_stopped {
            self.await_workers(Life::Closed, CLOSE_WITHIN);
        }
        // Last: whoever waits for the socket to vanish finds everything undone.
        self.status = None;
    }

    /// Waits until all workers have got as far as `goal`, unless somebody is in a hurry. Returns
    /// whether they have.
    fn await_workers(&mut self, goal: Life, within: Duration) -> bool {
        let deadline = clock::now() + within;
        let mut events = Events::with_capacity(64);
        while !self.workers.have_all_got_to(goal) {
            if self.stop == Stop::Immediate {
                return false;
            }
            if clock::now() >= deadline {
                let late = self.workers.not_yet(goal);
                match goal {
                    Life::Closed => log::warn!(
                        "the kernel has not taken back the TUN queues and sockets of workers \
                         {late:?} within {within:?}; the process will not end before it has"
                    ),
                    Life::Running | Life::Stopped => log::error!(
                        "workers {late:?} have not stopped within {within:?}, perhaps held by a \
                         debugger; they are left behind and end with the process"
                    ),
                }
                return false;
            }
            if let Err(error) = self.wait_for_workers(goal, &mut events, deadline) {
                log::error!("{error}");
                if matches!(error, ControlError::Io { .. }) {
                    return false;
                }
            }
        }
        true
    }

    fn wait_for_workers(
        &mut self,
        goal: Life,
        events: &mut Events,
        deadline: Instant,
    ) -> Result<(), ControlError> {
        self.take_worker_events()?;
        if self.workers.have_all_got_to(goal) {
            return Ok(());
        }
        // Neither datagrams nor news of the device, of which its end makes some, matter any more.
        self.sockets.ignore();
        self.interface.ignore();
        self.host.ignore();
        let status = self.status.as_ref().and_then(StatusSocket::poll_timeout);
        self.wait(events, status.into_iter().chain([deadline]).min())?;
        self.take_worker_events()?;
        self.serve_status()
    }
}
