//! A UDP socket bound with all that the packet path relies on.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;

/// How to bind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UdpOptions {
    /// Join or found a reuseport group (`SO_REUSEPORT`); see [`UdpSocket::bind_group`].
    pub reuse_port: bool,
    /// Firewall mark on everything that is sent (`SO_MARK`).
    pub mark: Option<u32>,
    /// Receive buffer in bytes; `None` keeps `net.core.rmem_default`.
    pub receive_buffer: Option<usize>,
    /// Send buffer in bytes; `None` keeps `net.core.wmem_default`.
    pub send_buffer: Option<usize>,
    /// Receive aggregates (`UDP_GRO`), where the kernel can.
    pub gro: bool,
    /// Keep IPv4 out of an IPv6 socket, so that an IPv4 socket can have the same port.
    pub v6_only: bool,
    /// Do not tell at which of our addresses a datagram arrived, so that what answers it leaves
    /// from the address that the routes give: for a side that may move, and is the one to speak
    /// first.
    pub follow_routes: bool,
}

/// A bound UDP socket, non-blocking and closed on exec.
#[derive(Debug)]
pub struct UdpSocket {
    socket: Socket,
    local: SocketAddr,
    gso: bool,
    gro: bool,
}

/// Why a socket could not be bound.
#[derive(Debug, Error)]
pub enum UdpError {
    /// The port is taken.
    #[error(
        "UDP {address} is in use by another process: `ss -lunp sport = :{port}` shows which; \
         stop it or choose another port",
        port = address.port()
    )]
    AddressInUse {
        /// The address that was asked for.
        address: SocketAddr,
    },
    /// The address is not ours.
    #[error(
        "no interface of this host has the address {ip}: `ip address` lists those there are; \
         [::] stands for all",
        ip = address.ip()
    )]
    AddressNotAvailable {
        /// The address that was asked for.
        address: SocketAddr,
    },
    /// The port is a privileged one.
    #[error(
        "UDP port {port} is reserved for root: choose one from 1024 on, or \
         `setcap cap_net_bind_service,cap_net_admin+ep` the program",
        port = address.port()
    )]
    PortForbidden {
        /// The address that was asked for.
        address: SocketAddr,
    },
    /// This host has no IPv6 (or no IPv4).
    #[error(
        "this host cannot use {address}: the kernel has no such address family; for IPv6 see \
         `sysctl net.ipv6.conf.all.disable_ipv6` and the boot option ipv6.disable"
    )]
    FamilyNotSupported {
        /// The address that was asked for.
        address: SocketAddr,
    },
    /// This process, or the host, has too many files open.
    #[error(
        "no more files can be open ({source}), and every worker has a socket for each listening \
         address: raise the limit (`LimitNOFILE=` in the unit, `ulimit -Hn` in a shell), or have \
         fewer workers or addresses"
    )]
    TooManyFiles {
        /// The kernel's answer.
        source: io::Error,
    },
    /// `SO_MARK` needs a capability.
    #[error(
        "marking packets (SO_MARK) needs CAP_NET_ADMIN: run as root or `setcap cap_net_admin+ep`"
    )]
    MarkForbidden,
    /// Anything else the kernel refused.
    #[error("{operation} failed for the UDP socket {address}: {source}")]
    Refused {
        /// The address that was asked for.
        address: SocketAddr,
        /// What was attempted.
        operation: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl UdpSocket {
    /// Binds a socket. Port 0 lets the kernel choose.
    ///
    /// # Errors
    /// See [`UdpError`].
    pub fn bind(address: SocketAddr, options: &UdpOptions) -> Result<Self, UdpError> {
        let refused = |operation| move |source| UdpError::Refused { address, operation, source };
        let socket = Socket::new(
            Domain::for_address(address),
            Type::DGRAM.nonblocking().cloexec(),
            Some(Protocol::UDP),
        )
        .map_err(|source| match source.raw_os_error() {
            Some(libc::EAFNOSUPPORT) => UdpError::FamilyNotSupported { address },
            Some(libc::EMFILE | libc::ENFILE) => UdpError::TooManyFiles { source },
            _ => UdpError::Refused { address, operation: "socket", source },
        })?;
        if address.is_ipv6() {
            socket.set_only_v6(options.v6_only).map_err(refused("IPV6_V6ONLY"))?;
        }
        if options.reuse_port {
            socket.set_reuse_port(true).map_err(refused("SO_REUSEPORT"))?;
        }
        if let Some(mark) = options.mark {
            socket.set_mark(mark).map_err(|source| match source.raw_os_error() {
                Some(libc::EPERM) => UdpError::MarkForbidden,
                _ => UdpError::Refused { address, operation: "SO_MARK", source },
            })?;
        }
        set_buffers(&socket, options).map_err(refused("SO_RCVBUF or SO_SNDBUF"))?;
        set_packet_options(&socket, address, options).map_err(refused("setting packet options"))?;
        let gro = options.gro && set_option(&socket, libc::SOL_UDP, libc::UDP_GRO, 1).is_ok();

        socket.bind(&address.into()).map_err(|source| bind_error(address, source))?;
        let local = socket.local_addr().map_err(refused("getsockname"))?;
        let local = local.as_socket().unwrap_or(address);
        let gso = probe_gso(&socket);
        Ok(Self { socket, local, gso, gro })
    }

    /// Binds a reuseport group of `members` sockets to one port; the vector is in bind order,
    /// which is what a steering program's answer indexes. Port 0 lets the kernel choose one port
    /// for all.
    ///
    /// # Errors
    /// See [`UdpError`]; `AddressInUse` also if the port belongs to another group of the same
    /// user, which `SO_REUSEPORT` alone would silently join.
    pub fn bind_group(
        address: SocketAddr,
        members: usize,
        options: &UdpOptions,
    ) -> Result<Vec<Self>, UdpError> {
        let mut group: Vec<Self> = Vec::with_capacity(members);
        while group.len() < members {
            let member =
                match group.first() {
                    // The founder binds as a stranger, to be refused where somebody else is, and
                    // opens the group afterwards.
                    None => {
                        let founder =
                            Self::bind(address, &UdpOptions { reuse_port: false, ..*options })?;
                        founder.socket.set_reuse_port(true).map_err(|source| {
                            UdpError::Refused { address, operation: "SO_REUSEPORT", source }
                        })?;
                        founder
                    }
                    Some(founder) => {
                        Self::bind(founder.local, &UdpOptions { reuse_port: true, ..*options })?
                    }
                };
            group.push(member);
        }
        Ok(group)
    }

    /// Lets what is sent on this socket be fragmented where a link is too small for it: for
    /// messages that cannot be made smaller and are rare. Datagrams of a socket are never
    /// fragmented otherwise. An ICMP error may then lower the path MTU that the kernel assumes,
    /// which a forged one could do too; the worst that comes of it are small fragments.
    ///
    /// # Errors
    /// [`UdpError::Refused`].
    pub fn allow_fragments(&self) -> Result<(), UdpError> {
        let v6 = [(libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DONT), (libc::IPV6_DONTFRAG, 0)];
        let v4 = [(libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT)];
        set_options_of_family(&self.socket, self.local, &v4, &v6).map_err(|source| {
            UdpError::Refused { address: self.local, operation: "IP_MTU_DISCOVER", source }
        })
    }

    /// The address it is bound to, with the port the kernel chose.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Whether it is an IPv6 socket; IPv4 goes by mapped addresses then.
    #[must_use]
    pub const fn is_v6(&self) -> bool {
        self.local.is_ipv6()
    }

    /// Whether the kernel knows trains of datagrams (`UDP_SEGMENT`, Linux 4.18).
    #[must_use]
    pub const fn has_gso(&self) -> bool {
        self.gso
    }

    /// Whether aggregates are received on it (`UDP_GRO`, Linux 5.0).
    #[must_use]
    pub const fn has_gro(&self) -> bool {
        self.gro
    }

    /// Has the kernel keep up to `len` bytes that have not been read, as
    /// [`UdpOptions::receive_buffer`] does.
    ///
    /// # Errors
    /// [`UdpError::Refused`].
    pub fn set_receive_buffer(&self, len: usize) -> Result<(), UdpError> {
        let wishes = UdpOptions { receive_buffer: Some(len), ..UdpOptions::default() };
        set_buffers(&self.socket, &wishes).map_err(|source| UdpError::Refused {
            address: self.local,
            operation: "SO_RCVBUF",
            source,
        })
    }

    /// The receive buffer in force, in bytes of payload as asked for: the kernel reports twice
    /// that, half being its own overhead (socket(7)).
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn receive_buffer(&self) -> io::Result<usize> {
        Ok(self.socket.recv_buffer_size()? / 2)
    }

    /// The send buffer in force, as [`UdpSocket::receive_buffer`].
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn send_buffer(&self) -> io::Result<usize> {
        Ok(self.socket.send_buffer_size()? / 2)
    }

    /// Datagrams the kernel has dropped because the receive buffer was full or a checksum wrong
    /// (`SK_MEMINFO_DROPS`). Wraps around.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn receive_drops(&self) -> io::Result<u32> {
        const SO_MEMINFO: libc::c_int = 55;
        const SK_MEMINFO_DROPS: usize = 8;
        let mut meminfo = [0_u32; SK_MEMINFO_DROPS + 1];
        let mut len = size_of_val(&meminfo) as libc::socklen_t;
        // SAFETY: the kernel writes at most `len` bytes, which is the room `meminfo` has.
        let result = unsafe {
            libc::getsockopt(
                self.as_raw_fd(),
                libc::SOL_SOCKET,
                SO_MEMINFO,
                meminfo.as_mut_ptr().cast(),
                &raw mut len,
            )
        };
        if result == 0 { Ok(meminfo[SK_MEMINFO_DROPS]) } else { Err(io::Error::last_os_error()) }
    }
}

impl AsRawFd for UdpSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Whether the kernel knows `UDP_SEGMENT`. Only asks: the option stays unset on the socket,
/// because each train carries its own size.
#[must_use]
pub fn probe_gso(socket: &impl AsFd) -> bool {
    get_option(socket, libc::SOL_UDP, libc::UDP_SEGMENT).is_ok()
}

/// Whether the kernel knows `UDP_GRO`. Only asks.
#[must_use]
pub fn probe_gro(socket: &impl AsFd) -> bool {
    get_option(socket, libc::SOL_UDP, libc::UDP_GRO).is_ok()
}

/// ECN and, unless switched off, local addresses on receipt, and datagrams that are never
/// fragmented whatever the cached path MTU says (`IP_PMTUDISC_PROBE`): paths are measured by us.
/// `IP_RECVERR` stays off, so an ICMP error, which anybody can send, never shows up on the socket.
fn set_packet_options(
    socket: &Socket,
    address: SocketAddr,
    options: &UdpOptions,
) -> io::Result<()> {
    let arrival = libc::c_int::from(!options.follow_routes);
    let v4 = [
        (libc::IP_PKTINFO, arrival),
        (libc::IP_RECVTOS, 1),
        (libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE),
    ];
    let v6 = [
        (libc::IPV6_RECVPKTINFO, arrival),
        (libc::IPV6_RECVTCLASS, 1),
        (libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE),
        (libc::IPV6_DONTFRAG, 1),
    ];
    set_options_of_family(socket, address, &v4, &v6)
}

/// Sets options of IPv4 and, on an IPv6 socket, of IPv6. An IPv6 socket takes the IPv4 options,
/// too, for the IPv4 traffic of a dual-stack one.
fn set_options_of_family(
    socket: &Socket,
    address: SocketAddr,
    v4: &[(libc::c_int, libc::c_int)],
    v6: &[(libc::c_int, libc::c_int)],
) -> io::Result<()> {
    if address.is_ipv6() {
        for (option, value) in v6 {
            set_option(socket, libc::IPPROTO_IPV6, *option, *value)?;
        }
    }
    for (option, value) in v4 {
        set_option(socket, libc::IPPROTO_IP, *option, *value)?;
    }
    Ok(())
}

/// The `FORCE` variants go beyond `net.core.rmem_max` and need `CAP_NET_ADMIN`; the plain ones
/// give what they can.
fn set_buffers(socket: &Socket, options: &UdpOptions) -> io::Result<()> {
    let wishes = [
        (options.receive_buffer, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF),
        (options.send_buffer, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF),
    ];
    for (wish, force, plain) in wishes {
        let Some(wish) = wish else { continue };
        // The kernel doubles the value into an int.
        let len = libc::c_int::try_from(wish).unwrap_or(libc::c_int::MAX).min(libc::c_int::MAX / 2);
        set_option(socket, libc::SOL_SOCKET, force, len)
            .or_else(|_| set_option(socket, libc::SOL_SOCKET, plain, len))?;
    }
    Ok(())
}

fn bind_error(address: SocketAddr, source: io::Error) -> UdpError {
    match source.raw_os_error() {
        Some(libc::EADDRINUSE) => UdpError::AddressInUse { address },
        Some(libc::EADDRNOTAVAIL) => UdpError::AddressNotAvailable { address },
        Some(libc::EACCES) => UdpError::PortForbidden { address },
        _ => UdpError::Refused { address, operation: "bind", source },
    }
}

fn set_option(
    socket: &impl AsFd,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the kernel reads an int from `value`, whose size is given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn get_option(
    socket: &impl AsFd,
    level: libc::c_int,
    option: libc::c_int,
) -> io::Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes, which is the size of `value`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            option,
            (&raw mut value).cast(),
            &raw mut len,
        )
    };
    if result == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}
