//! Looking at the packets of an interface, and adding some (packet(7)).

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use socket2::{Domain, Protocol, Socket, Type};

use crate::limits::VIRTIO_HEADER_LEN;

/// Link-layer header of an Ethernet frame, without a VLAN tag.
const ETHERNET_HEADER_LEN: usize = 14;
/// The kernel bounds the buffer by an `int` that it doubles.
const BUFFER_LEN: usize = 16 * 1024 * 1024;
/// The largest IP packet with all that may stand in front of it.
const FRAME_LEN_MAX: usize = VIRTIO_HEADER_LEN + ETHERNET_HEADER_LEN + 65536;

/// Sees every packet that enters or leaves one interface, from when it was opened.
///
/// Packets wait in a buffer of 16 MiB (less without `CAP_NET_ADMIN`); what does not fit is missing
/// and counted by [`Capture::missed`].
#[derive(Debug)]
pub struct Capture {
    socket: Socket,
    frame: Box<[u8]>,
}

/// A captured packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Captured<'a> {
    /// The packet from its IP header on, or whatever else the link carries.
    pub packet: &'a [u8],
    /// For a packet that stands for several (GSO or GRO): how many bytes of transport payload each
    /// of them has, but for the last, which may have fewer.
    pub segment_len: Option<usize>,
    /// Whether it left by the interface, rather than entered.
    pub outgoing: bool,
}

impl Capture {
    /// Watches `interface` of the network namespace the calling thread is in.
    ///
    /// # Errors
    /// `EPERM` without `CAP_NET_RAW`, `ENODEV` for an interface that does not exist.
    pub fn open(interface: &str) -> io::Result<Self> {
        let index = interface_index(interface)?;
        // Protocol 0 sees nothing: with another one, packets of all interfaces would come in
        // before the socket is bound to one.
        let kind = Type::RAW.nonblocking().cloexec();
        let socket = Socket::new(Domain::PACKET, kind, Some(Protocol::from(0)))?;
        set_option(&socket, libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1)?;
        let buffer_len = BUFFER_LEN as libc::c_int;
        set_option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, buffer_len)
            .or_else(|_| set_option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUF, buffer_len))?;
        let mut address = empty_address();
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = index;
        // SAFETY: `address` is a live sockaddr_ll whose size is given.
        check(unsafe {
            libc::bind(
                socket.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        })?;
        Ok(Self { socket, frame: vec![0; FRAME_LEN_MAX].into_boxed_slice() })
    }

    /// The next packet; `None` if none waits.
    ///
    /// # Errors
    /// `ENETDOWN` once the interface is gone.
    pub fn receive(&mut self) -> io::Result<Option<Captured<'_>>> {
        let mut address = empty_address();
        let mut address_len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: the kernel writes at most the given lengths into the frame and the address.
        let received = unsafe {
            libc::recvfrom(
                self.socket.as_raw_fd(),
                self.frame.as_mut_ptr().cast(),
                self.frame.len(),
                0,
                (&raw mut address).cast(),
                &raw mut address_len,
            )
        };
        let Ok(len) = usize::try_from(received) else {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(None),
                _ => Err(error),
            };
        };
        let frame = self.frame.get(..len).unwrap_or_default();
        let short = || io::Error::new(io::ErrorKind::InvalidData, "a frame without a header");
        let (vnet, frame) = frame.split_first_chunk::<VIRTIO_HEADER_LEN>().ok_or_else(short)?;
        let is_ethernet = matches!(address.sll_hatype, libc::ARPHRD_ETHER | libc::ARPHRD_LOOPBACK);
        let link_header_len = if is_ethernet { ETHERNET_HEADER_LEN } else { 0 };
        let packet = frame.get(link_header_len..).ok_or_else(short)?;
        let (gso_type, gso_size) = (vnet[1], u16::from_ne_bytes([vnet[4], vnet[5]]));
        Ok(Some(Captured {
            packet,
            segment_len: (gso_type != 0 && gso_size != 0).then_some(usize::from(gso_size)),
            outgoing: address.sll_pkttype == libc::PACKET_OUTGOING,
        }))
    }

    /// Sends `packet`, from its IP header on, out of the interface, whatever its addresses say. For
    /// interfaces without a link-layer header, such as TUN.
    ///
    /// # Errors
    /// `EMSGSIZE` if it is larger than the MTU, `ENETDOWN`, `ENOBUFS`.
    pub fn inject(&self, packet: &[u8]) -> io::Result<()> {
        let nothing_to_offload = [0; VIRTIO_HEADER_LEN];
        let pieces = [IoSlice::new(&nothing_to_offload), IoSlice::new(packet)];
        self.socket.send_vectored(&pieces).map(drop)
    }

    /// Packets that found the buffer full since this was last asked.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn missed(&self) -> io::Result<u32> {
        let mut statistics = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
        let mut len = size_of::<libc::tpacket_stats>() as libc::socklen_t;
        // SAFETY: the kernel writes at most `len` bytes, which is the size of `statistics`.
        check(unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut statistics).cast(),
                &raw mut len,
            )
        })?;
        Ok(statistics.tp_drops)
    }
}

impl AsFd for Capture {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn interface_index(name: &str) -> io::Result<libc::c_int> {
    let name = std::ffi::CString::new(name)?;
    // SAFETY: `name` is a live C string.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if index == 0 {
        return Err(io::Error::last_os_error());
    }
    libc::c_int::try_from(index).map_err(io::Error::other)
}

fn empty_address() -> libc::sockaddr_ll {
    // SAFETY: sockaddr_ll is a C structure of integers, for which zero is valid.
    unsafe { std::mem::zeroed() }
}

fn set_option(
    socket: &Socket,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the kernel reads an int from `value`, whose size is given.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, UdpSocket};

    use super::Capture;
    use crate::limits::VIRTIO_HEADER_LEN;
    use crate::sys::tun::{TunDevice, TunOffloadWish};
    use crate::sys::{link, testing};

    #[test]
    fn what_crosses_the_loopback_is_seen_in_both_directions() {
        testing::in_namespace(|| {
            let mut capture = Capture::open("lo").unwrap();
            assert!(capture.receive().unwrap().is_none());
            let receiver = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            sender.send_to(b"seen by all", receiver.local_addr().unwrap()).unwrap();
            for outgoing in [true, false] {
                assert!(testing::wait_readable(&capture));
                let captured = capture.receive().unwrap().unwrap();
                assert_eq!(captured.outgoing, outgoing);
                assert_eq!(captured.packet.first(), Some(&0x45), "from the IP header on");
                assert_eq!(captured.packet.get(28..), Some(&b"seen by all"[..]));
                assert_eq!(captured.segment_len, None);
            }
            assert!(capture.receive().unwrap().is_none());
            assert_eq!(capture.missed().unwrap(), 0);
        });
    }

    #[test]
    fn an_injected_packet_leaves_as_it_is() {
        testing::in_namespace(|| {
            let device = TunDevice::open("bare0", 1, TunOffloadWish::NONE).unwrap();
            link::bring_up("bare0").unwrap();
            let capture = Capture::open("bare0").unwrap();
            // An IPv4 header with addresses that no host would send from or to.
            let mut packet = [0; 20];
            (packet[0], packet[3]) = (0x45, 20);
            capture.inject(&packet).unwrap();
            let mut frame = [0; 2048];
            let found = (0..100).any(|_| {
                assert!(testing::wait_readable(&device.queues[0]), "it never came");
                let len = device.queues[0].read(&mut frame).unwrap();
                // IPv6 announces itself on the device, too.
                frame[VIRTIO_HEADER_LEN..len] == packet
            });
            assert!(found);
        });
    }

    #[test]
    fn an_interface_that_does_not_exist_is_an_error() {
        testing::in_namespace(|| {
            let error = Capture::open("nothing0").unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
            assert!(Capture::open("a\0b").is_err());
        });
    }
}
