//! Hearing that another program changes what this one has set up on the host.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use super::netlink::FirewallMonitor;
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

    /// Reads what waits, but no more than a helping.
    ///
    /// # Errors
    /// What the kernel says if one of them cannot be read; it is given up.
    pub fn read(&mut self) -> io::Result<HostNews> {
        let mut news = HostNews::default();
        if let Some(firewall) = &mut self.firewall {
            let heard = firewall.read().inspect_err(|_| self.firewall = None)?;
            news = HostNews { changed: heard.changed, more: heard.more };
        }
        if let Some(files) = &mut self.files {
            news.changed |= files.has_news().inspect_err(|_| self.files = None)?;
        }
        Ok(news)
    }
}
