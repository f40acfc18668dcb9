//! Looks after the TUN device while the daemon runs: hears that it was changed, has what is missing
//! put back, and never more often than is good for anybody.

use std::io;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use crate::host::netlink::InterfaceMonitor;
use crate::host::upkeep::InterfaceState;
use crate::limits::{INTERFACE_MEND_PAUSE_FIRST, INTERFACE_MEND_PAUSE_MAX, INTERFACE_SETTLE};

/// The interface, as far as the control thread cares.
pub(super) struct Interface {
    name: String,
    monitor: Option<InterfaceMonitor>,
    readable: bool,
    schedule: Schedule,
    /// Whether it was whole when last looked at, or could not be looked at at all.
    was_usable: bool,
}

impl Interface {
    /// Has `registry` tell of news. Without a monitor nothing is ever to be done.
    pub(super) fn register(
        name: String,
        monitor: Option<InterfaceMonitor>,
        registry: &Registry,
        token: Token,
    ) -> io::Result<Self> {
        if let Some(monitor) = &monitor {
            registry.register(&mut SourceFd(&monitor.as_raw_fd()), token, Interest::READABLE)?;
        }
        let readable = monitor.is_some();
        Ok(Self { name, monitor, readable, schedule: Schedule::default(), was_usable: true })
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

    /// When it is to be looked at.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.schedule.look_at
    }

    /// Reads a helping of news and tells whether it is time to look what is missing.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        if self.readable
            && let Some(monitor) = &mut self.monitor
        {
            match monitor.read() {
                Ok(news) => {
                    self.readable = news.more;
                    if news.changed {
                        self.schedule.note_change(now);
                    }
                }
                Err(error) => {
                    log::error!("nobody looks after {} any more: {error}", self.name);
                    (self.monitor, self.readable) = (None, false);
                }
            }
        }
        self.schedule.take_due(now)
    }

    /// Notes what was found and done. Returns what the administrator should hear of it, if that is
    /// anything new.
    pub(super) fn conclude(
        &mut self,
        now: Instant,
        found: Result<InterfaceState, String>,
    ) -> Option<String> {
        let name = &self.name;
        let was_usable = std::mem::replace(&mut self.was_usable, true);
        match found {
            Ok(InterfaceState::Whole) => None,
            Ok(InterfaceState::Mended { addresses, routes }) => {
                let pause = self.schedule.note_mending(now);
                Some(format!(
                    "somebody changed {name}: put back {addresses} addresses and {routes} routes \
                     and rules; will look again after {pause:.0?} at the soonest"
                ))
            }
            Ok(InterfaceState::Down) => {
                self.was_usable = false;
                was_usable.then(|| {
                    format!(
                        "somebody set {name} down, and nothing passes the tunnel until \
                         `ip link set {name} up`; addresses and routes are put back then"
                    )
                })
            }
            Ok(InterfaceState::Gone) => {
                self.was_usable = false;
                was_usable.then(|| {
                    format!(
                        "{name} is gone from this network namespace: if it was moved to another, \
                         addresses and routes there are up to you"
                    )
                })
            }
            Err(error) => {
                self.was_usable = was_usable;
                let pause = self.schedule.note_mending(now);
                self.schedule.note_change(now);
                Some(format!(
                    "{name} was changed and cannot be mended, next try in {pause:.0?}: {error}"
                ))
            }
        }
    }
}

/// When to look what is missing: shortly after a change, so that what belongs together is seen
/// together, but the sooner after the last mending the more often something had to be mended. So a
/// fight with somebody who keeps changing the interface costs both next to nothing.
#[derive(Debug, Default)]
struct Schedule {
    look_at: Option<Instant>,
    last: Option<Mending>,
}

#[derive(Clone, Copy, Debug)]
struct Mending {
    at: Instant,
    /// How long after it nothing is looked at.
    pause: Duration,
}

impl Schedule {
    fn note_change(&mut self, now: Instant) {
        let resting_until = self.last.map(|last| last.at + last.pause);
        let soon = now + INTERFACE_SETTLE;
        let due = resting_until.map_or(soon, |until| until.max(soon));
        self.look_at = self.look_at.or(Some(due));
    }

    fn take_due(&mut self, now: Instant) -> bool {
        self.look_at.take_if(|due| now >= *due).is_some()
    }

    /// Something was missing and put back, or could not be. Returns for how long to rest.
    fn note_mending(&mut self, now: Instant) -> Duration {
        let recent = self.last.filter(|last| now < last.at + last.pause + INTERFACE_MEND_PAUSE_MAX);
        let pause = recent.map_or(INTERFACE_MEND_PAUSE_FIRST, |last| {
            (2 * last.pause).min(INTERFACE_MEND_PAUSE_MAX)
        });
        self.last = Some(Mending { at: now, pause });
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::clock;

    const MENDED: Result<InterfaceState, String> =
        Ok(InterfaceState::Mended { addresses: 1, routes: 2 });

    fn interface() -> Interface {
        let poll = mio::Poll::new().unwrap();
        Interface::register("tun9".to_owned(), None, poll.registry(), Token(1)).unwrap()
    }

    #[test]
    fn changes_that_belong_together_are_looked_at_once() {
        let (start, mut schedule) = (clock::now(), Schedule::default());
        assert!(!schedule.take_due(start));
        for step in 0..5 {
            schedule.note_change(start + step * INTERFACE_SETTLE / 10);
        }
        assert!(!schedule.take_due(start + INTERFACE_SETTLE / 2));
        assert!(schedule.take_due(start + INTERFACE_SETTLE));
        assert!(!schedule.take_due(start + 2 * INTERFACE_SETTLE), "once");
    }

    #[test]
    fn a_fight_is_fought_ever_more_slowly_and_forgotten_when_it_is_over() {
        let (mut now, mut schedule) = (clock::now(), Schedule::default());
        let (mut mendings, mut waited) = (Vec::new(), now);
        let end = now + Duration::from_secs(600);
        while now < end {
            schedule.note_change(now);
            now += Duration::from_millis(10);
            if schedule.take_due(now) {
                mendings.push((now - waited).as_secs());
                schedule.note_mending(now);
                waited = now;
            }
        }
        assert_eq!(mendings[..8], [0, 1, 2, 4, 8, 16, 32, 60]);
        assert!(mendings.len() < 20, "{mendings:?}");

        now = end + 3 * INTERFACE_MEND_PAUSE_MAX;
        schedule.note_change(now);
        assert!(schedule.take_due(now + INTERFACE_SETTLE), "at once");
        assert_eq!(schedule.note_mending(now + INTERFACE_SETTLE), INTERFACE_MEND_PAUSE_FIRST);
    }

    #[test]
    fn what_does_not_change_is_told_once() {
        let (now, mut interface) = (clock::now(), interface());
        let mut told = |state| interface.conclude(now, state);
        assert_eq!(told(Ok(InterfaceState::Whole)), None);
        assert!(told(Ok(InterfaceState::Down)).unwrap().contains("`ip link set tun9 up`"));
        assert_eq!(told(Ok(InterfaceState::Down)), None);
        assert!(told(MENDED).unwrap().contains("put back 1 addresses and 2 routes"));
        assert!(told(Ok(InterfaceState::Down)).is_some(), "down again");
        assert_eq!(told(Ok(InterfaceState::Gone)), None, "it is not usable in any case");
    }

    #[test]
    fn what_cannot_be_mended_is_tried_again_by_itself() {
        let (now, mut interface) = (clock::now(), interface());
        for pause in [1, 2, 4] {
            let told = interface.conclude(now, Err("no memory".to_owned())).unwrap();
            assert!(told.ends_with("next try in 1s: no memory") || pause > 1, "{told}");
            assert_eq!(interface.poll_timeout(), Some(now + Duration::from_secs(pause)));
            assert!(interface.is_due(now + Duration::from_secs(pause)));
        }
    }
}
