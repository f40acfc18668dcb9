//! The little about interfaces that has to be known before the host is set up: who has a TUN
//! device open, and bringing a fresh namespace's loopback up.

use std::io;
use std::os::fd::AsRawFd;

use netlink_packet_core::{NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload, Nla};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoData, LinkAttribute, LinkInfo, LinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use socket2::{Domain, Socket, Type};

/// Attributes of a TUN device in `IFLA_INFO_DATA` (linux/if_link.h), which the netlink crate hands
/// out raw.
const IFLA_TUN_MULTI_QUEUE: u16 = 7;
const IFLA_TUN_NUM_QUEUES: u16 = 8;
const IFLA_TUN_NUM_DISABLED_QUEUES: u16 = 9;

/// What stands behind an interface name in this network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Occupant {
    /// Nothing: the name is free.
    Nobody,
    /// An interface that is no TUN or TAP device.
    Foreign,
    /// A TUN or TAP device.
    Tun {
        /// It can have more than one queue.
        multi_queue: bool,
        /// File descriptors that are open on it, attached or not.
        open_queues: u32,
    },
}

/// What stands behind `name`.
pub(super) fn occupant(name: &str) -> io::Result<Occupant> {
    let mut query = LinkMessage::default();
    query.attributes.push(LinkAttribute::IfName(name.to_owned()));
    let Some(link) = ask(RouteNetlinkMessage::GetLink(query))? else { return Ok(Occupant::Nobody) };
    let info = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(info) => Some(info),
        _ => None,
    });
    let data = info.into_iter().flatten().find_map(|info| match info {
        LinkInfo::Data(InfoData::Tun(data)) => Some(data),
        _ => None,
    });
    let Some(data) = data else { return Ok(Occupant::Foreign) };
    let number = |kind| data.iter().find(|nla| nla.kind() == kind).map_or(0, number_of);
    Ok(Occupant::Tun {
        multi_queue: number(IFLA_TUN_MULTI_QUEUE) != 0,
        open_queues: number(IFLA_TUN_NUM_QUEUES) + number(IFLA_TUN_NUM_DISABLED_QUEUES),
    })
}

/// The value of an attribute of one byte or four.
fn number_of(attribute: &impl Nla) -> u32 {
    let mut value = vec![0; attribute.value_len()];
    attribute.emit_value(&mut value);
    match value[..] {
        [byte] => u32::from(byte),
        [a, b, c, d] => u32::from_ne_bytes([a, b, c, d]),
        _ => 0,
    }
}

/// One question about one link; `None` if there is no such link.
fn ask(question: RouteNetlinkMessage) -> io::Result<Option<LinkMessage>> {
    let mut message = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::from(question));
    message.header.flags = NLM_F_REQUEST;
    message.finalize();
    let mut request = vec![0; message.buffer_len()];
    message.serialize(&mut request);

    let socket = netlink_sys::Socket::new(NETLINK_ROUTE)?;
    socket.connect(&netlink_sys::SocketAddr::new(0, 0))?;
    socket.send(&request, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    match answer.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => Ok(Some(link)),
        NetlinkPayload::Error(error) if error.raw_code() == -libc::ENODEV => Ok(None),
        NetlinkPayload::Error(error) => Err(error.to_io()),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "not an answer about a link")),
    }
}

/// A zeroed ioctl request about the interface `name` (netdevice(7)), which is cut to the 15 bytes
/// that fit.
pub(super) fn request(name: &str) -> libc::ifreq {
    // SAFETY: ifreq is a C structure of integers and pointers, for which zero is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let room = request.ifr_name.len() - 1;
    for (slot, byte) in request.ifr_name[..room].iter_mut().zip(name.bytes()) {
        *slot = byte as libc::c_char;
    }
    request
}

/// The flags of an interface (`IFF_UP` and so on).
pub(super) fn flags(name: &str) -> io::Result<libc::c_int> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    let mut request = request(name);
    // SAFETY: SIOCGIFFLAGS fills in the flags of the ifreq it is given.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: SIOCGIFFLAGS has set the flags; any bit pattern is a valid integer.
    Ok(libc::c_int::from(unsafe { request.ifr_ifru.ifru_flags }))
}

/// Brings an interface up.
pub(super) fn bring_up(name: &str) -> io::Result<()> {
    let flags = flags(name)?;
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    let mut request = request(name);
    request.ifr_ifru.ifru_flags = (flags | libc::IFF_UP) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads an ifreq, which `request` is.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
