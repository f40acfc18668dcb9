//! The few interface ioctls that device set-up needs before any netlink socket exists
//! (netdevice(7)).

use std::ffi::CString;
use std::io;
use std::os::fd::AsRawFd;

use socket2::{Domain, Socket, Type};

/// `ETHTOOL_GLINK` of linux/ethtool.h: does the interface have a carrier?
const ETHTOOL_GLINK: u32 = 0x0a;

/// `struct ethtool_value` of linux/ethtool.h.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

/// A zeroed request about the interface `name`, which is cut to the 15 bytes that fit.
pub(super) fn request(name: &str) -> libc::ifreq {
    // SAFETY: ifreq is a C structure of integers and pointers, for which zero is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let room = request.ifr_name.len() - 1;
    for (slot, byte) in request.ifr_name[..room].iter_mut().zip(name.bytes()) {
        *slot = byte as libc::c_char;
    }
    request
}

/// Whether this network namespace has an interface of that name.
pub(super) fn exists(name: &str) -> bool {
    let Ok(name) = CString::new(name) else { return false };
    // SAFETY: `name` is a live string that ends with a zero.
    unsafe { libc::if_nametoindex(name.as_ptr()) != 0 }
}

/// Whether the interface is up and has a carrier; for a TUN device: somebody has it open. Reads
/// the carrier itself, because `IFF_RUNNING` lags behind it by up to a second.
pub(super) fn has_carrier(name: &str) -> bool {
    let mut value = EthtoolValue { command: ETHTOOL_GLINK, data: 0 };
    let mut request = request(name);
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    let Ok(socket) = control_socket() else { return false };
    // SAFETY: SIOCETHTOOL reads the request and fills in the ethtool_value that it points to; both
    // live across the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    result == 0 && value.data != 0
}

/// Brings the interface up.
pub(super) fn bring_up(name: &str) -> io::Result<()> {
    let socket = control_socket()?;
    let mut request = request(name);
    // SAFETY: SIOCGIFFLAGS fills in the flags of the ifreq it is given.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: SIOCGIFFLAGS has set the flags; any bit pattern is a valid integer.
    unsafe { request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short };
    // SAFETY: SIOCSIFFLAGS reads an ifreq, which `request` is.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// A socket to address interface requests to; it belongs to the caller's network namespace.
fn control_socket() -> io::Result<Socket> {
    Socket::new(Domain::IPV4, Type::DGRAM, None)
}
