//! Hearing that another program changes what this one has set up on the host.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use super::netlink::{FirewallMonitor, FirewallNews};
use crate::sys::inotify::FileWatch;

/// Listens to changes of tables of the packet filter and of files, each if it is given.
#[derive(Debug, Default)]
pub struct HostMonitor {
    /// Tells of tables.
    pub firewall: Option<FirewallMonitor>,
    /// Tells of files.
    pub files: Option<FileWatch>,
}

/// What was heard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostNews {
    /// Something changed, perhaps by this program.
    pub changed: bool,
    /// More may be waiting to be read.
    pub more: bool,
}

impl HostMonitor {
    /// Whether it listens to anything.
    pub fn listens(&self) -> bool {
        self.firewall.is_some() || self.files.is_some()
    }

    /// The descriptors that become readable when there is news.
    pub fn descriptors(&self) -> impl Iterator<Item = RawFd> {
        let firewall = self.firewall.iter().map(AsRawFd::as_raw_fd);
        firewall.chain(self.files.iter().map(AsRawFd::as_raw_fd))
    }

    /// Reads what waits, but no more than a helping. One that cannot be read is given up, and
    /// whatever it would have told may have happened: what the other has told is not lost by it.
    pub fn read(&mut self) -> HostNews {
        let firewall = self.firewall.as_mut().map(FirewallMonitor::read);
        let firewall = firewall.transpose().unwrap_or_else(|error| {
            self.firewall = None;
            Some(given_up("tables of the packet filter", &error))
        });
        let files = self.files.as_mut().map(FileWatch::has_news);
        let files = files.transpose().unwrap_or_else(|error| {
            self.files = None;
            Some(given_up("files of name servers", &error).changed)
        });
        let FirewallNews { changed, more } = firewall.unwrap_or_default();
        HostNews { changed: changed || files.unwrap_or_default(), more }
    }
}

/// News of a monitor that cannot be read: it will not be better next time.
fn given_up(of: &str, error: &io::Error) -> FirewallNews {
    log::error!("nobody tells of changes to {of} any more: {error}");
    FirewallNews { changed: true, more: false }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::sys::testing::in_namespace;

    #[test]
    fn what_one_has_told_outlives_the_other() {
        in_namespace(|| {
            let firewall = Some(FirewallMonitor::open(vec!["own".to_owned()]).unwrap());
            let files = Some(FileWatch::that_cannot_be_read());
            let mut monitor = HostMonitor { firewall, files };
            let added = Command::new("nft").args(["add", "table", "inet", "own"]).status();
            assert!(added.unwrap().success());
            assert!(monitor.read().changed, "the news of the table is not lost");
            assert!(monitor.files.is_none(), "it is given up");
            assert_eq!(monitor.read(), HostNews::default());
            assert!(monitor.listens(), "the other is still heard");
        });
    }

    #[test]
    fn one_that_cannot_be_read_may_have_had_something_to_tell() {
        let files = Some(FileWatch::that_cannot_be_read());
        assert!(HostMonitor { firewall: None, files }.read().changed);
    }
}
