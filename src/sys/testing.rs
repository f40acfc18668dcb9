//! What tests beside the kernel need: a namespace each, interfaces set up in it by ioctl
//! (netdevice(7)), so that no tool need be installed, and waiting with a limit.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use super::link;
use super::netns::NetNamespace;

/// How long a test waits for something that happens at once.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Runs a test in a network namespace of its own.
pub(crate) fn in_namespace<T: Send>(test: impl FnOnce() -> T + Send) -> T {
    let namespace = NetNamespace::create()
        .expect("this test makes network namespaces: run it as root or under `unshare -Ur`");
    namespace.run_in(test).unwrap()
}

/// As [`in_namespace`], on a thread that has no capability left.
pub(crate) fn in_namespace_without_capabilities<T: Send>(test: impl FnOnce() -> T + Send) -> T {
    in_namespace(|| {
        caps::clear(None, caps::CapSet::Effective).unwrap();
        test()
    })
}

/// Waits until the descriptor is readable; false if it does not become so.
pub(crate) fn wait_readable(fd: &impl AsFd) -> bool {
    wait(fd, libc::POLLIN, PATIENCE)
}

/// Waits until the descriptor is writable; false if it does not become so.
pub(crate) fn wait_writable(fd: &impl AsFd) -> bool {
    wait(fd, libc::POLLOUT, PATIENCE)
}

/// Whether the descriptor is readable now.
pub(crate) fn is_readable(fd: &impl AsFd) -> bool {
    wait(fd, libc::POLLIN, Duration::ZERO)
}

fn wait(fd: &impl AsFd, events: libc::c_short, limit: Duration) -> bool {
    let mut poll = libc::pollfd { fd: fd.as_fd().as_raw_fd(), events, revents: 0 };
    let limit_ms = i32::try_from(limit.as_millis()).unwrap();
    // SAFETY: one live pollfd is given, and the count says one.
    let ready = unsafe { libc::poll(&raw mut poll, 1, limit_ms) };
    ready == 1 && poll.revents & events != 0
}

/// Gives an interface an IPv4 address and brings it up.
pub(crate) fn configure(name: &str, address: Ipv4Addr, netmask: Ipv4Addr) {
    for (code, address) in [(libc::SIOCSIFADDR, address), (libc::SIOCSIFNETMASK, netmask)] {
        let mut request = link::request(name);
        request.ifr_ifru.ifru_addr = sockaddr(address);
        ioctl(code, &raw mut request).unwrap();
    }
    link::bring_up(name).unwrap();
}

/// Takes an interface down.
pub(crate) fn take_down(name: &str) {
    let mut request = link::request(name);
    let flags = link::flags(name).unwrap() & !libc::IFF_UP;
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    ioctl(libc::SIOCSIFFLAGS, &raw mut request).unwrap();
}

/// Sets the MTU of an interface.
pub(crate) fn set_mtu(name: &str, mtu: u16) {
    let mut request = link::request(name);
    request.ifr_ifru.ifru_mtu = i32::from(mtu);
    ioctl(libc::SIOCSIFMTU, &raw mut request).unwrap();
}

/// The address an interface has; `None` if it has none.
pub(crate) fn address_of(name: &str) -> Option<IpAddr> {
    let mut request = link::request(name);
    ioctl(libc::SIOCGIFADDR, &raw mut request).ok()?;
    // SAFETY: SIOCGIFADDR has written a socket address, which consists of integers.
    let address = unsafe { request.ifr_ifru.ifru_addr };
    let octets = [2, 3, 4, 5].map(|at: usize| address.sa_data[at] as u8);
    Some(IpAddr::from(octets))
}

/// Enters a permanent neighbour into the ARP table (arp(7)).
pub(crate) fn add_neighbour(device: &str, address: Ipv4Addr, hardware: [u8; 6]) {
    // SAFETY: arpreq is a C structure of integers, for which zero is valid.
    let mut request: libc::arpreq = unsafe { std::mem::zeroed() };
    request.arp_pa = sockaddr(address);
    for (slot, byte) in request.arp_ha.sa_data.iter_mut().zip(hardware) {
        *slot = byte as libc::c_char;
    }
    request.arp_flags = libc::ATF_COM | libc::ATF_PERM;
    for (slot, byte) in request.arp_dev.iter_mut().zip(device.bytes()) {
        *slot = byte as libc::c_char;
    }
    ioctl(libc::SIOCSARP, &raw mut request).unwrap();
}

fn sockaddr(address: Ipv4Addr) -> libc::sockaddr {
    let mut sa_data = [0; 14];
    for (slot, byte) in sa_data[2..6].iter_mut().zip(address.octets()) {
        *slot = byte as libc::c_char;
    }
    libc::sockaddr { sa_family: libc::AF_INET as libc::sa_family_t, sa_data }
}

/// An ioctl on a socket of this namespace; `request` points to a live structure of its kind.
fn ioctl<T>(code: libc::Ioctl, request: *mut T) -> io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    // SAFETY: every caller in this module passes the structure that the code is defined on.
    match unsafe { libc::ioctl(socket.as_raw_fd(), code, request) } {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
