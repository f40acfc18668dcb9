//! Listening sockets, and whoever knocks.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use mio::net::{TcpListener, TcpStream};
use socket2::{Domain, Protocol, Socket, Type};

use crate::limits::{PROXY_ACCEPT_RETRY, PROXY_ACCEPTS_PER_TURN, PROXY_BACKLOG};
use crate::proxy::counters::Refusal;
use crate::proxy::dial::Failure;
use crate::sys::terminal::wait_readable;

use super::ProxyWorker;

/// A listening socket of one worker, and what those who come there have come to.
#[derive(Debug)]
pub(in super::super) struct Post {
    pub(in super::super) listener: TcpListener,
    /// The number of the entrance.
    pub(in super::super) entrance: usize,
    /// Whether they speak TLS first.
    pub(in super::super) tls: bool,
}

/// A listening socket of one worker.
#[derive(Debug)]
pub(super) struct Door {
    post: Post,
    knocking: Knocking,
    /// One that has been accepted, and waits until other workers have made room.
    held: Option<Client>,
}

/// A client's connection, and where it comes from.
type Client = (TcpStream, SocketAddr);

/// Whether somebody may be waiting.
#[derive(Clone, Copy, Debug)]
enum Knocking {
    No,
    Perhaps,
    /// There was no room, or the kernel could not hand a connection over: it is asked again then.
    From(Instant),
}

impl Door {
    pub(super) fn new(post: Post) -> Self {
        Self { post, knocking: Knocking::Perhaps, held: None }
    }

    /// Whether the kernel has a connection to hand over. It does not say so itself where it has
    /// nothing to hand it over with.
    fn has_waiting(&self) -> bool {
        wait_readable(self.post.listener.as_fd(), Duration::ZERO).unwrap_or(true)
    }

    /// Somebody has come. Where the kernel has nothing to hand connections over with, that changes
    /// nothing.
    pub(super) fn knock(&mut self) {
        if let Knocking::No = self.knocking {
            self.knocking = Knocking::Perhaps;
        }
    }

    pub(super) fn is_busy(&self) -> bool {
        matches!(self.knocking, Knocking::Perhaps)
    }

    pub(super) fn due(&self) -> Option<Instant> {
        match self.knocking {
            Knocking::From(at) => Some(at),
            Knocking::No | Knocking::Perhaps => None,
        }
    }
}

impl ProxyWorker {
    /// Accepts a bounded number of clients at each door.
    pub(super) fn accept(&mut self) {
        for number in 0..self.doors.len() {
            for _ in 0..PROXY_ACCEPTS_PER_TURN {
                if !self.accept_one(number) {
                    break;
                }
            }
        }
    }

    /// Accepts one client. Returns whether there may be another.
    fn accept_one(&mut self, number: usize) -> bool {
        let now = self.cx.now;
        let Some(door) = self.doors.get_mut(number) else { return false };
        match door.knocking {
            Knocking::No => return false,
            Knocking::From(at) if now < at => return false,
            Knocking::From(_) | Knocking::Perhaps => {}
        }
        door.knocking = Knocking::Perhaps;
        let accepted = match door.held.take() {
            Some(client) => Ok(client),
            None => door.post.listener.accept(),
        };
        match accepted {
            Ok((stream, from)) => self.admit(number, (stream, unmapped(from))),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => {
                    door.knocking = Knocking::No;
                    false
                }
                // The client was gone before it was let in, or a signal came.
                io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => true,
                // Most likely the descriptors are used up, which the kernel says even if nobody is
                // waiting.
                _ if !door.has_waiting() => {
                    door.knocking = Knocking::No;
                    false
                }
                _ if Failure::from(&error) == Failure::Exhausted
                    && self.make_room_at_once(None) =>
                {
                    true
                }
                _ => {
                    log::debug!("proxy: a client has to wait: {error}");
                    self.cx.counters.accept_pauses.add(1);
                    self.pause(number, None);
                    false
                }
            },
        }
    }

    /// Lets a client in if it may, for which somebody may have to make room who has asked for
    /// nothing. Returns whether there may be another.
    fn admit(&mut self, number: usize, client: Client) -> bool {
        let Some(Door { post: Post { entrance, tls, .. }, .. }) = self.doors.get(number) else {
            return false;
        };
        let (entrance, tls) = (*entrance, *tls);
        loop {
            let (Some(crowd), Some(rules)) = (self.crowds.get(entrance), self.rules.get(entrance))
            else {
                return true;
            };
            let entered = crowd.enter(client.1.ip(), rules, self.cx.now);
            // Nobody is to make room where that would not be enough.
            let is_in_vain = crowd.is_served_out(rules);
            match entered {
                Ok(seat) => self.enter(client, seat, entrance, tls),
                Err(Refusal::Full) if is_in_vain => self.cx.counters.refuse(Refusal::Full),
                Err(Refusal::Full) if self.make_room(Some(entrance)) => continue,
                Err(Refusal::Full) if self.has_newcomers_anywhere(Some(entrance)) => {
                    if let Some(door) = self.doors.get_mut(number) {
                        door.held = Some(client);
                    }
                    self.pause(number, Some(entrance));
                    return false;
                }
                Err(refusal) => self.cx.counters.refuse(refusal),
            }
            return true;
        }
    }

    /// Nobody comes in at a door for a moment, in which other workers make room if they can.
    fn pause(&mut self, number: usize, at: Option<usize>) {
        if let Some(door) = self.doors.get_mut(number) {
            door.knocking = Knocking::From(self.cx.now + PROXY_ACCEPT_RETRY);
        }
        if self.has_newcomers_anywhere(at) {
            self.have_room_made(at);
        }
    }
}

/// A client's address as everybody else knows it: a socket for both families has IPv4 addresses
/// inside IPv6 ones.
fn unmapped(client: SocketAddr) -> SocketAddr {
    match client.ip().to_canonical() {
        ip @ IpAddr::V4(_) => SocketAddr::new(ip, client.port()),
        IpAddr::V6(_) => client,
    }
}

/// Listens on `address` with as many sockets as there are workers; the kernel gives each its share
/// of the clients (`SO_REUSEPORT`, socket(7)). Port 0 is one that the kernel chooses, the same for
/// all of them.
pub(in super::super) fn bind(address: SocketAddr, workers: usize) -> io::Result<Vec<TcpListener>> {
    // Sockets of another program of the same user would be let into the group, and clients shared
    // with it: one that wants no company finds out whether somebody is there.
    let first = socket(address)?;
    first.bind(&address.into())?;
    let address = first.local_addr()?.as_socket().unwrap_or(address);
    first.set_reuse_port(true)?;
    first.listen(PROXY_BACKLOG)?;
    let mut listeners = vec![TcpListener::from_std(first.into())];
    for _ in 1..workers {
        let socket = socket(address)?;
        socket.set_reuse_port(true)?;
        socket.bind(&address.into())?;
        socket.listen(PROXY_BACKLOG)?;
        listeners.push(TcpListener::from_std(socket.into()));
    }
    Ok(listeners)
}

fn socket(address: SocketAddr) -> io::Result<Socket> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // Connections of the gateway before this one may still be winding up.
    socket.set_reuse_address(true)?;
    // Accepted sockets inherit it: small answers do not wait for acknowledgements.
    socket.set_tcp_nodelay(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_of_ipv4_is_one_at_whichever_socket_it_has_come() {
        for (client, known_as) in [
            ("[::ffff:192.0.2.7]:5", "192.0.2.7:5"),
            ("192.0.2.7:5", "192.0.2.7:5"),
            ("[2001:db8::7]:5", "[2001:db8::7]:5"),
            ("[fe80::7%2]:5", "[fe80::7%2]:5"),
        ] {
            assert_eq!(unmapped(client.parse().unwrap()).to_string(), known_as);
        }
    }
}
