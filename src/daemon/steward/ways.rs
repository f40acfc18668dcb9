//! Whether the network around this client has become another one.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::time::Instant;

use mio::unix::SourceFd;
use mio::{Events, Interest, Registry, Token};

use crate::host::link::LinkError;
use crate::host::netlink::WayMonitor;

/// The ways to the servers, watched for as long as the kernel tells of them.
pub(super) struct Ways {
    monitor: Option<WayMonitor>,
    token: Token,
    /// More may be waiting than was read.
    unread: bool,
}

impl Ways {
    /// Listens from now on for how packets with this mark leave.
    pub(super) fn open(mark: u32) -> Result<Self, LinkError> {
        Ok(Self { monitor: Some(WayMonitor::open(Some(mark))?), token: Token(0), unread: false })
    }

    /// Has the kernel's news wake a poll.
    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        self.token = token;
        let Some(monitor) = &self.monitor else { return Ok(()) };
        registry.register(&mut SourceFd(&monitor.as_raw_fd()), token, Interest::READABLE)
    }

    /// Watches these servers and no others.
    pub(super) fn watch(&mut self, servers: &[SocketAddr]) {
        if let Some(monitor) = &mut self.monitor {
            monitor.watch(servers.iter().map(SocketAddr::ip));
        }
    }

    /// When to call [`Self::have_changed`], if no event comes before.
    pub(super) fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        if self.unread {
            return Some(now);
        }
        self.monitor.as_ref().and_then(WayMonitor::poll_timeout)
    }

    /// Whether there is a way to a server now that is another one than before. That there is none
    /// any more is no reason to do anything: it may come back as it was.
    pub(super) fn have_changed(&mut self, events: &Events, now: Instant) -> bool {
        let Some(monitor) = &mut self.monitor else { return false };
        if self.unread || events.iter().any(|event| event.token() == self.token) {
            match monitor.handle_readable(now) {
                Ok(more) => self.unread = more,
                Err(error) => {
                    log::error!("changes of the network are not noticed any more: {error}");
                    (self.monitor, self.unread) = (None, false);
                    return false;
                }
            }
        }
        let mut changes = monitor.poll_changes(now).into_iter();
        let Some((to, way)) = changes.find_map(|change| Some((change.to, change.way?))) else {
            return false;
        };
        let source = way.source.map_or_else(String::new, |source| format!(" from {source}"));
        log::info!("the network has changed: {to} is reached{source} another way");
        true
    }
}
