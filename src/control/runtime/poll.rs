//! What the control thread sleeps on.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use mio::unix::SourceFd;
use mio::{Interest, Poll, Waker};

use crate::sys::alarm::Alarm;

/// The poll of the control thread, made early so that workers can be given its waker.
pub struct ControlPoll {
    pub(super) poll: Poll,
    pub(super) waker: Arc<Waker>,
    pub(super) alarm: Alarm,
}

impl ControlPoll {
    /// A poll with a waker and an alarm that is not set.
    ///
    /// # Errors
    /// If the kernel gives no descriptor (too many open files?).
    pub fn new() -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), super::WAKER)?);
        let alarm = Alarm::new()?;
        let (timer, token) = (alarm.as_raw_fd(), super::ALARM);
        poll.registry().register(&mut SourceFd(&timer), token, Interest::READABLE)?;
        Ok(Self { poll, waker, alarm })
    }

    /// Wakes the control thread. To be called after an event was put into its channel.
    pub fn waker(&self) -> Arc<Waker> {
        Arc::clone(&self.waker)
    }
}
