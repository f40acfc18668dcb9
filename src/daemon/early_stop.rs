//! Signals that ask a client to stop while it logs in for the first time: nobody listens to them
//! yet, and what has been set up so far would stay behind.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, bounded, never};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};
use signal_hook::{flag, low_level};

use crate::config::{FarSide, UpConfig};
use crate::daemon::DaemonError;

/// Listens to them.
pub(super) struct EarlyStop {
    stop: Receiver<()>,
    /// Set by a signal from the first moment to the end of the process.
    asked: Arc<AtomicBool>,
    /// The thread that listens, if there is one.
    listening: Option<(Handle, JoinHandle<()>)>,
}

impl EarlyStop {
    /// Listens from now on, if the client is to log in: nothing else takes long. A second signal
    /// ends the process as it would have without this.
    ///
    /// # Errors
    /// The kernel gives no thread or descriptor.
    pub(super) fn of(config: &UpConfig) -> Result<Self, DaemonError> {
        match &config.far_side {
            FarSide::Known(_) => Ok(Self { stop: never(), asked: Arc::default(), listening: None }),
            FarSide::Login(_) => {
                Self::listen().map_err(DaemonError::io("listening to signals for the login"))
            }
        }
    }

    /// Listens from now on.
    ///
    /// # Errors
    /// The kernel gives no thread or descriptor.
    pub(super) fn listen() -> io::Result<Self> {
        let asked = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT] {
            flag::register(signal, Arc::clone(&asked))?;
        }
        let mut signals = Signals::new([SIGTERM, SIGINT])?;
        let handle = signals.handle();
        let (sender, stop) = bounded(0);
        let thread = thread::Builder::new().name("signals".to_owned()).spawn(move || {
            let mut sender = Some(sender);
            for signal in signals.forever() {
                if sender.take().is_none() {
                    // It fails only for signals that cannot be caught.
                    let _ = low_level::emulate_default_handler(signal);
                }
            }
        })?;
        Ok(Self { stop, asked, listening: Some((handle, thread)) })
    }

    /// Its other end goes away with the first signal.
    pub(super) const fn stop(&self) -> &Receiver<()> {
        &self.stop
    }

    /// Ends the thread; whether there was a signal so far is remembered, and whether there is one
    /// from now on.
    pub(super) fn rest(&mut self) {
        if let Some((signals, thread)) = self.listening.take() {
            signals.close();
            // A panic has been told.
            let _ = thread.join();
        }
    }

    /// Whether there was a signal.
    pub(super) fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// Somebody else listens by now, and is to hear of a signal that came before.
    pub(super) fn hand_over(mut self) {
        self.rest();
        if self.is_asked() {
            // It fails only for numbers that are no signals.
            let _ = low_level::raise(SIGTERM);
        }
    }
}
