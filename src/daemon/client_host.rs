//! What a client changes on its host: addresses of the TUN device and routes into it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use ipnet::IpNet;

use crate::host::routes::{ClientRoutes, RouteRequest, RoutesError};
use crate::host::upkeep::{InterfaceState, Upkeep};

/// The host of a client. The control thread looks after it; whoever takes a new lease changes it.
pub(super) struct ClientHost {
    tun: String,
    upkeep: Upkeep,
    request: RouteRequest,
    routes: Option<ClientRoutes>,
}

impl ClientHost {
    /// A host whose TUN device is up, and which is to have these routes: for the control thread and
    /// the one that looks after the lease.
    pub(super) fn shared(tun: String, upkeep: Upkeep, request: RouteRequest) -> Arc<Mutex<Self>> {
        let host = Self { tun, upkeep, request, routes: None };
        Arc::new(Mutex::new(host))
    }

    /// Puts the routes in place.
    pub(super) fn install(&mut self) -> Result<(), RoutesError> {
        self.routes = Some(ClientRoutes::install(&self.tun, &self.request)?);
        Ok(())
    }

    /// Gives the TUN device other addresses.
    pub(super) fn set_addresses(&mut self, addresses: Vec<IpNet>) -> Result<(), RoutesError> {
        Ok(self.upkeep.set_addresses(addresses)?)
    }

    /// Gives the TUN device another MTU, in bytes.
    pub(super) fn set_mtu(&mut self, mtu: u16) -> Result<(), RoutesError> {
        Ok(self.upkeep.set_mtu(mtu.into())?)
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
        if let Some(routes) = self.routes.take()
            && let Err(error) = routes.remove()
        {
            log::error!("routes are left behind, the next start mends that: {error}");
        }
    }
}
