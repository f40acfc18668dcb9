//! What a client changes on its host: addresses of the TUN device, routes into it, name servers.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use ipnet::IpNet;

use crate::daemon::DaemonError;
use crate::daemon::name_servers::NameServers;
use crate::host::resolver::DnsRequest;
use crate::host::routes::{ClientRoutes, RouteRequest, RoutesError};
use crate::host::upkeep::{InterfaceState, Upkeep};

/// The host of a client. The control thread looks after it; whoever takes a new lease changes it.
pub(super) struct ClientHost {
    tun: String,
    upkeep: Upkeep,
    request: RouteRequest,
    routes: Option<ClientRoutes>,
    name_servers: NameServers,
}

impl ClientHost {
    /// A host whose TUN device is up, and which is to have these routes and ask these name servers:
    /// for the control thread and the one that looks after the lease.
    pub(super) fn shared(
        tun: String,
        upkeep: Upkeep,
        request: RouteRequest,
        name_servers: NameServers,
    ) -> Arc<Mutex<Self>> {
        let host = Self { tun, upkeep, request, routes: None, name_servers };
        Arc::new(Mutex::new(host))
    }

    /// Puts the routes in place, and has the name servers asked that they lead to.
    pub(super) fn install(&mut self) -> Result<(), DaemonError> {
        self.routes = Some(ClientRoutes::install(&self.tun, &self.request)?);
        self.name_servers.install()
    }

    /// Has other name servers asked.
    pub(super) fn set_name_servers(&mut self, request: &DnsRequest) -> Result<(), DaemonError> {
        self.name_servers.set(request)
    }

    /// Puts back what another program has made of the name servers. Returns how much that was.
    pub(super) fn mend_name_servers(&mut self) -> Result<usize, String> {
        self.name_servers.repair()
    }

    /// Gives the TUN device other addresses.
    pub(super) fn set_addresses(&mut self, addresses: Vec<IpNet>) -> Result<(), RoutesError> {
        Ok(self.upkeep.set_addresses(addresses)?)
    }

    /// Goes over to other destinations.
    pub(super) fn set_destinations(&mut self, prefixes: Vec<IpNet>) -> Result<(), RoutesError> {
        self.change(RouteRequest { prefixes, ..self.request.clone() })
    }

    /// The tunnel leads to these addresses from now on: packets to them stay out of it.
    pub(super) fn set_servers(&mut self, outside: Vec<SocketAddr>) -> Result<(), RoutesError> {
        self.change(RouteRequest { outside, ..self.request.clone() })
    }

    fn change(&mut self, request: RouteRequest) -> Result<(), RoutesError> {
        if let Some(routes) = &mut self.routes {
            routes.update(&request)?;
        }
        self.request = request;
        Ok(())
    }

    /// Puts back what somebody has changed.
    pub(super) fn mend(&mut self) -> Result<InterfaceState, RoutesError> {
        let routes = &mut self.routes;
        self.upkeep.mend(|| routes.as_mut().map_or(Ok(0), ClientRoutes::restore))
    }

    /// Takes everything away.
    pub(super) fn remove(&mut self) {
        self.name_servers.remove();
        if let Some(routes) = self.routes.take()
            && let Err(error) = routes.remove()
        {
            log::error!("routes are left behind, the next start mends that: {error}");
        }
    }
}
