//! Looks after what this program has set up on the host beside the TUN device, the packet filter
//! and the name servers: hears that somebody changed it, and has it put back at once, for until
//! then it does not do its duty.

use std::io;
use std::time::Instant;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use crate::host::monitor::HostMonitor;
use crate::limits::{HOST_LOOK_PAUSE, HOST_WARNING_EVERY};

/// What is set up, as far as the control thread cares.
#[derive(Default)]
pub(super) struct HostWatch {
    monitor: HostMonitor,
    readable: bool,
    /// When to look what is missing.
    look_at: Option<Instant>,
    /// When that was done last.
    looked: Option<Instant>,
    /// When the administrator was told last.
    told: Option<Instant>,
    /// How often something was put back since then.
    mended: u64,
}

impl HostWatch {
    /// Has `registry` tell of news.
    pub(super) fn register(
        monitor: HostMonitor,
        registry: &Registry,
        token: Token,
    ) -> io::Result<Self> {
        for descriptor in monitor.descriptors() {
            registry.register(&mut SourceFd(&descriptor), token, Interest::READABLE)?;
        }
        Ok(Self { readable: monitor.listens(), monitor, ..Self::default() })
    }

    pub(super) fn set_readable(&mut self) {
        self.readable = self.monitor.listens();
    }

    pub(super) fn is_busy(&self) -> bool {
        self.readable
    }

    /// Forgets that there is news: a thread that stops does not want it.
    pub(super) fn ignore(&mut self) {
        self.readable = false;
    }

    /// When it is to be looked at.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.look_at
    }

    /// Reads a helping of news and tells whether it is time to look what is missing: at once, but
    /// for a short pause after the last look.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        if self.readable {
            let news = self.monitor.read();
            self.readable = news.more;
            if news.changed {
                self.note_change(now);
            }
        }
        self.look_at.take_if(|due| now >= *due).is_some()
    }

    fn note_change(&mut self, now: Instant) {
        let rested = self.looked.map_or(now, |looked| now.max(looked + HOST_LOOK_PAUSE));
        self.look_at = self.look_at.or(Some(rested));
    }

    /// Notes what was put back. Returns what the administrator should hear of it, not too often.
    pub(super) fn conclude(
        &mut self,
        now: Instant,
        found: Result<usize, String>,
    ) -> Option<String> {
        self.looked = Some(now);
        let failure = match found {
            Ok(0) => return None,
            Ok(_) => None,
            Err(error) => {
                self.note_change(now);
                Some(error)
            }
        };
        self.mended += u64::from(failure.is_none());
        if self.told.is_some_and(|told| now < told + HOST_WARNING_EVERY) {
            return None;
        }
        self.told = Some(now);
        let times = std::mem::take(&mut self.mended);
        Some(match failure {
            None => format!(
                "another program removed or changed what this one has set up on this host, tables \
                 of the packet filter (as `nft flush ruleset` does) or name servers: put back, \
                 {times} times since this was last told"
            ),
            Some(error) => format!(
                "another program removed or changed what this one has set up on this host, and it \
                 cannot be put back, next try in {HOST_LOOK_PAUSE:?}: {error}"
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::clock;

    #[test]
    fn a_change_is_looked_at_at_once_and_the_next_after_a_pause() {
        let (now, mut watch) = (clock::now(), HostWatch::default());
        assert!(!watch.is_due(now));
        watch.note_change(now);
        assert!(watch.is_due(now));
        assert_eq!(watch.conclude(now, Ok(0)), None, "it was this program's own");
        watch.note_change(now);
        assert!(!watch.is_due(now));
        assert_eq!(watch.poll_timeout(), Some(now + HOST_LOOK_PAUSE));
        assert!(watch.is_due(now + HOST_LOOK_PAUSE));
        assert!(!watch.is_due(now + 2 * HOST_LOOK_PAUSE), "once");
    }

    #[test]
    fn what_goes_on_is_told_now_and_then() {
        let (start, mut watch) = (clock::now(), HostWatch::default());
        assert!(watch.conclude(start, Ok(1)).unwrap().contains("1 times"));
        for _ in 0..3 {
            assert_eq!(watch.conclude(start, Ok(2)), None);
        }
        let later = start + HOST_WARNING_EVERY;
        assert!(watch.conclude(later, Ok(1)).unwrap().contains("4 times"));
    }

    #[test]
    fn what_cannot_be_put_back_is_tried_again_by_itself() {
        let (now, mut watch) = (clock::now(), HostWatch::default());
        let told = watch.conclude(now, Err("no memory".to_owned())).unwrap();
        assert!(told.ends_with("no memory"), "{told}");
        assert!(watch.is_due(now + HOST_LOOK_PAUSE));
    }
}
