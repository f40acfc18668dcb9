//! What those who move packets are told while people are online.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::accounts::model::{Id, SessionEnd};
use crate::accounts::service::passes::Pass;
use crate::handshake::keys::PublicKey;
use crate::policy::acl::AclRule;
use crate::policy::bounds::Bounds;
use crate::sys::clock;

/// Something has changed for a session at this server.
#[derive(Clone, Debug)]
pub enum Notice {
    /// It has ended, and every path of it is to be closed.
    SessionEnded {
        /// Which.
        session: Id,
        /// The static key of its device. After [`SessionEnd::Replaced`] the same key belongs to the
        /// session that has replaced it.
        device_key: PublicKey,
        /// Why.
        end: SessionEnd,
        /// To be dropped when every path is closed.
        done: Acknowledgement,
    },
    /// Other bounds or rules hold for it.
    PolicyChanged {
        /// Which.
        session: Id,
        /// The static key of its device.
        device_key: PublicKey,
        /// How fast, how much, how many.
        bounds: Bounds,
        /// What may be reached.
        acl: Vec<AclRule>,
        /// To be dropped when they hold.
        done: Acknowledgement,
    },
    /// A pass for the proxy is no longer good, and every connection by it is to be closed.
    PassEnded {
        /// Which.
        pass: Arc<Pass>,
        /// To be dropped when they are closed.
        done: Acknowledgement,
    },
    /// The terms of a pass are others.
    PassChanged {
        /// Which.
        pass: Arc<Pass>,
        /// To be dropped when they hold.
        done: Acknowledgement,
    },
}

/// Held by everybody who has still to act on a notice. When the last one is dropped, the one who
/// waits knows that it is done.
#[derive(Clone, Debug)]
pub struct Acknowledgement {
    _held: Sender<()>,
}

/// Waits for the acknowledgements of notices that went out together.
#[derive(Debug)]
pub struct Enforcement {
    begun: Instant,
    all_dropped: Receiver<()>,
}

impl Enforcement {
    /// Begins now; notices carry clones of the acknowledgement, and the original is dropped when
    /// all have gone out.
    pub(super) fn begin() -> (Self, Acknowledgement) {
        let (held, all_dropped) = bounded(0);
        (Self { begun: clock::now(), all_dropped }, Acknowledgement { _held: held })
    }

    /// How long it took until everybody had acted; `None` if that took longer than `within`.
    pub fn wait(self, within: Duration) -> Option<Duration> {
        match self.all_dropped.recv_timeout(within) {
            Err(RecvTimeoutError::Disconnected) => {
                Some(clock::now().saturating_duration_since(self.begun))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn an_enforcement_is_over_when_the_last_acknowledgement_is_dropped() {
        let (enforcement, first) = Enforcement::begin();
        let second = first.clone();
        drop(first);
        let actor = thread::spawn(move || drop(second));
        assert!(enforcement.wait(Duration::from_secs(60)).is_some());
        actor.join().unwrap();
    }

    #[test]
    fn one_who_does_not_act_is_noticed() {
        let (enforcement, held) = Enforcement::begin();
        assert_eq!(enforcement.wait(Duration::from_millis(1)), None);
        drop(held);
    }
}
