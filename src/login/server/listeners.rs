//! The TCP sockets on which clients knock.

use std::io;
use std::net::SocketAddr;

use mio::net::TcpListener;
use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;

use crate::limits::LOGIN_BACKLOG;

/// Why the login port cannot be offered.
#[derive(Debug, Error)]
#[error("cannot listen for logins on {address}/tcp: {source}{}", advice(source))]
pub struct ListenError {
    /// The address.
    pub address: SocketAddr,
    /// What the kernel said.
    pub source: io::Error,
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "; another program has it (`ss -ltnp` shows which): stop that one, or choose another \
             port (`listen` in `[login]`)"
        }
        io::ErrorKind::AddrNotAvailable => {
            "; no interface has this address: `ip address` lists those there are"
        }
        io::ErrorKind::PermissionDenied => "; ports below 1024 need root or CAP_NET_BIND_SERVICE",
        _ => "",
    }
}

/// Sockets that listen. They are opened before privileges are given up.
#[derive(Debug)]
pub struct LoginListeners {
    pub(super) listeners: Vec<TcpListener>,
    addresses: Vec<SocketAddr>,
}

impl LoginListeners {
    /// Listens on every address. `[::]` takes IPv4 too.
    ///
    /// # Errors
    /// The kernel refuses one.
    pub fn bind(addresses: &[SocketAddr]) -> Result<Self, ListenError> {
        let mut listeners = Vec::with_capacity(addresses.len());
        let mut bound = Vec::with_capacity(addresses.len());
        for address in addresses {
            let error = |source| ListenError { address: *address, source };
            let listener = listen(*address).map_err(error)?;
            bound.push(listener.local_addr().map_err(error)?);
            listeners.push(listener);
        }
        Ok(Self { listeners, addresses: bound })
    }

    /// Where they listen, with the ports that the kernel chose for port 0.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // Connections of the server before this one may still be winding up.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(LOGIN_BACKLOG)?;
    Ok(TcpListener::from_std(socket.into()))
}
