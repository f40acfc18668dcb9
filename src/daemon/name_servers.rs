//! The name servers of a client, from the moment its tunnel is there to its end.

use std::path::Path;

use crate::daemon::DaemonError;
use crate::host::resolver::{DnsMode, DnsRequest, RESOLV_CONF, Resolver};
use crate::sys::inotify::FileWatch;

/// What the host asks, as the configuration or a lease wants it.
pub(super) struct NameServers {
    tun: String,
    mode: DnsMode,
    wanted: DnsRequest,
    resolver: Option<Resolver>,
}

impl NameServers {
    /// Nothing is set up yet; what a run that was killed has left behind is undone.
    pub(super) fn new(tun: &str, mode: DnsMode, wanted: DnsRequest) -> Self {
        if let Err(error) = Resolver::remove_leftovers(tun) {
            log::warn!("name servers of an earlier run may be left: {error}");
        }
        Self { tun: tun.to_owned(), mode, wanted, resolver: None }
    }

    /// Sets them up; the tunnel leads to them by now. Where the host knows no way and none was
    /// insisted on, it asks whom it asked before.
    pub(super) fn install(&mut self) -> Result<(), DaemonError> {
        match self.set(&self.wanted.clone()) {
            Err(error) if self.mode == DnsMode::Auto => {
                log::error!("this host goes on asking its own name servers: {error}");
                Ok(())
            }
            outcome => outcome,
        }
    }

    /// Sets these up instead of those before.
    pub(super) fn set(&mut self, request: &DnsRequest) -> Result<(), DaemonError> {
        match self.resolver.take() {
            Some(resolver) if request.is_empty() => resolver.remove()?,
            Some(mut resolver) => {
                let updated = resolver.update(request);
                self.resolver = Some(resolver);
                updated?;
            }
            None => self.resolver = Resolver::install(&self.tun, self.mode, request)?,
        }
        self.wanted = request.clone();
        Ok(())
    }

    /// Sets them up again if another program has changed them. Returns how much that was.
    pub(super) fn repair(&mut self) -> Result<usize, String> {
        let repaired = self.resolver.as_mut().map_or(Ok(false), Resolver::repair);
        repaired.map(usize::from).map_err(|error| error.to_string())
    }

    /// Sets everything back.
    pub(super) fn remove(&mut self) {
        if let Some(resolver) = self.resolver.take()
            && let Err(error) = resolver.remove()
        {
            log::error!("{error}; the next start mends that");
        }
    }
}

/// Hears when another program writes the file of name servers, wherever that is.
pub(super) fn watch_file() -> Option<FileWatch> {
    let file = Path::new(RESOLV_CONF);
    let watched = FileWatch::open().and_then(|watch| {
        file.parent().map_or(Ok(()), |directory| watch.watch(directory))?;
        if file.exists() {
            watch.watch(file)?;
        }
        Ok(watch)
    });
    let told = |error: &std::io::Error| {
        log::warn!("nobody tells when another program changes {RESOLV_CONF}: {error}");
    };
    watched.inspect_err(told).ok()
}
