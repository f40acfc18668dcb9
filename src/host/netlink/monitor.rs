//! Hearing of changes to one network interface.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};

use super::{BUFFER_LEN, NetlinkError, split_message};
use crate::limits::INTERFACE_NEWS_PER_TURN;

/// What is listened to. Not routes: a host with a full routing table speaks of them all day.
const GROUPS: [libc::c_uint; 5] = [
    libc::RTNLGRP_LINK,
    libc::RTNLGRP_IPV4_IFADDR,
    libc::RTNLGRP_IPV6_IFADDR,
    libc::RTNLGRP_IPV4_RULE,
    libc::RTNLGRP_IPV6_RULE,
];

/// Listens to what the kernel tells of one interface, its addresses, and policy rules that are
/// removed (rtnetlink(7), multicast groups). It belongs to the network namespace of the thread that
/// opened it, needs no privilege and never waits.
#[derive(Debug)]
pub struct InterfaceMonitor {
    socket: Socket,
    device: u32,
    buffer: Vec<u8>,
}

/// What was heard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InterfaceNews {
    /// Something changed, perhaps by this program.
    pub changed: bool,
    /// More may be waiting to be read.
    pub more: bool,
}

impl InterfaceMonitor {
    /// Listens from now on to news about the interface with the index `device`.
    ///
    /// # Errors
    /// [`NetlinkError::Open`].
    pub fn open(device: u32) -> Result<Self, NetlinkError> {
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(NetlinkError::Open)?;
        socket.bind_auto().map_err(NetlinkError::Open)?;
        socket.set_non_blocking(true).map_err(NetlinkError::Open)?;
        for group in GROUPS {
            socket.add_membership(group).map_err(NetlinkError::Open)?;
        }
        Ok(Self { socket, device, buffer: Vec::with_capacity(BUFFER_LEN) })
    }

    /// Reads what waits, but no more than a helping.
    ///
    /// # Errors
    /// What the kernel says if it cannot be read; it will not be better next time.
    pub fn read(&mut self) -> io::Result<InterfaceNews> {
        let mut changed = false;
        for _ in 0..INTERFACE_NEWS_PER_TURN {
            self.buffer.clear();
            match self.socket.recv_from(&mut self.buffer, 0) {
                // Port 0 is the kernel; nobody else has anything to tell us.
                Ok((_, sender)) if sender.port_number() != 0 => {}
                Ok(_) => changed |= concerns(&self.buffer, self.device),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(InterfaceNews { changed, more: false });
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // News was lost for want of room: anything may have changed.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => changed = true,
                Err(error) => return Err(error),
            }
        }
        Ok(InterfaceNews { changed, more: true })
    }
}

impl AsRawFd for InterfaceMonitor {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// Whether one of the messages in `bytes` is about `device`. One that cannot be read may be.
fn concerns(bytes: &[u8], device: u32) -> bool {
    let mut rest = bytes;
    while !rest.is_empty() {
        let Ok((message, remaining)) = split_message("hear of interfaces", rest) else {
            return true;
        };
        rest = remaining;
        let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(message.into_inner());
        let about = match message.map(|message| message.payload) {
            Ok(NetlinkPayload::InnerMessage(object)) => match object {
                RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link) => {
                    link.header.index == device
                }
                RouteNetlinkMessage::NewAddress(address)
                | RouteNetlinkMessage::DelAddress(address) => address.header.index == device,
                RouteNetlinkMessage::DelRule(_) => true,
                _ => false,
            },
            Ok(_) => false,
            Err(_) => true,
        };
        if about {
            return true;
        }
    }
    false
}
