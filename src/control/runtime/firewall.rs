//! Looks after this program's tables of the packet filter while the daemon runs: hears that
//! somebody changed them, and has them put back at once, for until then they do not do their duty.

use std::io;
use std::os::fd::AsRawFd;
use std::time::Instant;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use crate::host::netlink::FirewallMonitor;
use crate::limits::{FIREWALL_LOOK_PAUSE, FIREWALL_WARNING_EVERY};

/// The tables, as far as the control thread cares.
#[derive(Default)]
pub(super) struct Firewall {
    monitor: Option<FirewallMonitor>,
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

impl Firewall {
    /// Has `registry` tell of news. Without a monitor nothing is ever to be done.
    pub(super) fn register(
        monitor: Option<FirewallMonitor>,
        registry: &Registry,
        token: Token,
    ) -> io::Result<Self> {
        if let Some(monitor) = &monitor {
            registry.register(&mut SourceFd(&monitor.as_raw_fd()), token, Interest::READABLE)?;
        }
        Ok(Self { readable: monitor.is_some(), monitor, ..Self::default() })
    }

    pub(super) fn set_readable(&mut self) {
        self.readable = self.monitor.is_some();
    }

    pub(super) fn is_busy(&self) -> bool {
        self.readable
    }

    /// Forgets that there is news: a thread that stops does not want it.
    pub(super) fn ignore(&mut self) {
        self.readable = false;
    }

    /// When the tables are to be looked at.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.look_at
    }

    /// Reads a helping of news and tells whether it is time to look what is missing: at once, but
    /// for a short pause after the last look.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        if self.readable
            && let Some(monitor) = &mut self.monitor
        {
            match monitor.read() {
                Ok(news) => {
                    self.readable = news.more;
                    if news.changed {
                        self.note_change(now);
                    }
                }
                Err(error) => {
                    log::error!("nobody looks after the packet filter any more: {error}");
                    (self.monitor, self.readable) = (None, false);
                }
            }
        }
        self.look_at.take_if(|due| now >= *due).is_some()
    }

    fn note_change(&mut self, now: Instant) {
        let rested = self.looked.map_or(now, |looked| now.max(looked + FIREWALL_LOOK_PAUSE));
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
        if self.told.is_some_and(|told| now < told + FIREWALL_WARNING_EVERY) {
            return None;
        }
        self.told = Some(now);
        let times = std::mem::take(&mut self.mended);
        Some(match failure {
            None => format!(
                "another program removed or changed this one's part of the packet filter, as \
                 `nft flush ruleset` does: put back, {times} times since this was last told"
            ),
            Some(error) => format!(
                "another program removed or changed this one's part of the packet filter, and it \
                 cannot be put back, next try in {FIREWALL_LOOK_PAUSE:?}: {error}"
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
        let (now, mut firewall) = (clock::now(), Firewall::default());
        assert!(!firewall.is_due(now));
        firewall.note_change(now);
        assert!(firewall.is_due(now));
        assert_eq!(firewall.conclude(now, Ok(0)), None, "it was this program's own");
        firewall.note_change(now);
        assert!(!firewall.is_due(now));
        assert_eq!(firewall.poll_timeout(), Some(now + FIREWALL_LOOK_PAUSE));
        assert!(firewall.is_due(now + FIREWALL_LOOK_PAUSE));
        assert!(!firewall.is_due(now + 2 * FIREWALL_LOOK_PAUSE), "once");
    }

    #[test]
    fn what_goes_on_is_told_now_and_then() {
        let (start, mut firewall) = (clock::now(), Firewall::default());
        assert!(firewall.conclude(start, Ok(1)).unwrap().contains("1 times"));
        for _ in 0..3 {
            assert_eq!(firewall.conclude(start, Ok(2)), None);
        }
        let later = start + FIREWALL_WARNING_EVERY;
        assert!(firewall.conclude(later, Ok(1)).unwrap().contains("4 times"));
    }

    #[test]
    fn what_cannot_be_put_back_is_tried_again_by_itself() {
        let (now, mut firewall) = (clock::now(), Firewall::default());
        let told = firewall.conclude(now, Err("no memory".to_owned())).unwrap();
        assert!(told.ends_with("no memory"), "{told}");
        assert!(firewall.is_due(now + FIREWALL_LOOK_PAUSE));
    }
}
