//! One look at an inner packet: everything the data plane asks of its headers.
//!
//! IPv4 with options, IPv6 with a bounded chain of extension headers, and the TCP or UDP header
//! behind them. What is not TCP or UDP, is a fragment, or is too damaged above the IP layer to
//! tell, is still an IP packet and passes as one: its [`Parsed::transport`] is `None`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::error::PacketError;
use super::field::{get_u16, ipv4, ipv6, protocol, tcp, udp};
use super::flags::{FLAG_CONTINUES_RUN, FLAG_PARTIAL_CHECKSUM, FLAGS};
use crate::limits::PACKET_LEN_MAX;

/// Extension headers looked at before an IPv6 packet passes as opaque.
const EXTENSION_HEADERS_MAX: usize = 8;

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IpVersion {
    /// RFC 791.
    V4,
    /// RFC 8200.
    V6,
}

/// The transport protocols whose segmentation and checksums can be offloaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
}

impl Transport {
    /// Where the checksum stands, in bytes from the start of the transport header.
    #[inline]
    pub const fn checksum_offset(self) -> usize {
        match self {
            Self::Tcp => tcp::CHECKSUM,
            Self::Udp => udp::CHECKSUM,
        }
    }

    /// The IP protocol number.
    #[inline]
    pub const fn protocol(self) -> u8 {
        match self {
            Self::Tcp => protocol::TCP,
            Self::Udp => protocol::UDP,
        }
    }
}

/// What a packet's headers say. Every offset and length lies within the packet it was parsed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// The wire flags of the first byte ([`super::flags`]); 0 for a packet from a TUN device.
    pub flags: u8,
    /// IPv4 or IPv6.
    pub version: IpVersion,
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Bytes of the packet, by its own header. What lies behind is padding.
    pub total_len: usize,
    /// Protocol number of what follows the IP header and the known extension headers.
    pub protocol: u8,
    /// TCP or UDP, if the packet is whole and the header complete and consistent.
    pub transport: Option<Transport>,
    /// Where the header of [`Self::protocol`] starts, in bytes.
    pub transport_offset: usize,
    /// Where the payload of TCP or UDP starts, in bytes; without a transport, equal to
    /// [`Self::transport_offset`].
    pub payload_offset: usize,
    /// The ECN field (RFC 3168): 0 Not-ECT, 1 ECT(1), 2 ECT(0), 3 CE.
    pub ecn: u8,
    /// IPv4 type of service or IPv6 traffic class: DSCP and ECN.
    pub traffic_class: u8,
    /// Whether the packet is a fragment of a larger one. (An IPv6 "atomic fragment", RFC 6946, is
    /// not.)
    pub is_fragment: bool,
    /// Whether the packet is a fragment other than the first.
    pub is_later_fragment: bool,
    /// Whether routers must not fragment the packet: IPv4's DF bit; always so in IPv6.
    pub dont_fragment: bool,
    /// Whether there are IPv4 options or IPv6 extension headers.
    pub has_options: bool,
}

impl Parsed {
    /// Look at a plain packet, such as one from a TUN device. Bytes beyond its own length are
    /// allowed and ignored.
    ///
    /// # Errors
    ///
    /// [`PacketError`] if it is not a well-formed IP packet.
    #[inline]
    pub fn parse(packet: &[u8]) -> Result<Self, PacketError> {
        let first = first_byte(packet)?;
        Self::parse_as(packet, first, 0)
    }

    /// Look at the decrypted contents of a data message: a packet whose first byte may carry wire
    /// flags, which end up in [`Self::flags`], perhaps with padding behind it.
    ///
    /// # Errors
    ///
    /// [`PacketError`] if it is not a well-formed IP packet.
    #[inline]
    pub fn parse_plaintext(plaintext: &[u8]) -> Result<Self, PacketError> {
        let first = first_byte(plaintext)?;
        Self::parse_as(plaintext, first & !FLAGS, first & FLAGS)
    }

    /// Bytes of payload behind the transport header.
    #[inline]
    pub fn payload_len(&self) -> usize {
        self.total_len - self.payload_offset
    }

    /// Whether the wire flags say that the checksum is only begun.
    #[inline]
    pub fn has_partial_checksum(&self) -> bool {
        self.flags & FLAG_PARTIAL_CHECKSUM != 0
    }

    /// Whether the wire flags say that the packet continues the run of the one before.
    #[inline]
    pub fn continues_run(&self) -> bool {
        self.flags & FLAG_CONTINUES_RUN != 0
    }

    #[inline]
    fn parse_as(packet: &[u8], first: u8, flags: u8) -> Result<Self, PacketError> {
        match first >> 4 {
            4 => Self::parse_v4(packet, first, flags),
            6 => Self::parse_v6(packet, flags),
            version => Err(PacketError::Version(version)),
        }
    }

    #[inline]
    fn parse_v4(packet: &[u8], first: u8, flags: u8) -> Result<Self, PacketError> {
        require(packet, ipv4::HEADER_LEN)?;
        let header_len = usize::from(first & 0x0f) * 4;
        let total_len = usize::from(get_u16(packet, ipv4::TOTAL_LEN));
        if header_len < ipv4::HEADER_LEN || header_len > total_len {
            return Err(PacketError::HeaderLength(header_len));
        }
        require(packet, total_len)?;
        let fragment = get_u16(packet, ipv4::FRAGMENT);
        let is_fragment = fragment & (ipv4::MORE_FRAGMENTS | ipv4::OFFSET_MASK) != 0;
        let protocol = packet[ipv4::PROTOCOL];
        let (transport, payload_offset) =
            transport(&packet[..total_len], protocol, header_len, is_fragment);
        Ok(Self {
            flags,
            version: IpVersion::V4,
            source: v4_address(packet, ipv4::SOURCE),
            destination: v4_address(packet, ipv4::DESTINATION),
            total_len,
            protocol,
            transport,
            transport_offset: header_len,
            payload_offset,
            ecn: packet[ipv4::TOS] & 3,
            traffic_class: packet[ipv4::TOS],
            is_fragment,
            is_later_fragment: fragment & ipv4::OFFSET_MASK != 0,
            dont_fragment: fragment & ipv4::DONT_FRAGMENT != 0,
            has_options: header_len > ipv4::HEADER_LEN,
        })
    }

    #[inline]
    fn parse_v6(packet: &[u8], flags: u8) -> Result<Self, PacketError> {
        require(packet, ipv6::HEADER_LEN)?;
        let total_len = ipv6::HEADER_LEN + usize::from(get_u16(packet, ipv6::PAYLOAD_LEN));
        if total_len > PACKET_LEN_MAX {
            return Err(PacketError::TooLong(total_len));
        }
        require(packet, total_len)?;
        let chain = ExtensionChain::walk(&packet[..total_len]);
        let (transport, payload_offset) =
            transport(&packet[..total_len], chain.protocol, chain.end, chain.is_fragment);
        Ok(Self {
            flags,
            version: IpVersion::V6,
            source: v6_address(packet, ipv6::SOURCE),
            destination: v6_address(packet, ipv6::DESTINATION),
            total_len,
            protocol: chain.protocol,
            transport,
            transport_offset: chain.end,
            payload_offset,
            ecn: (packet[1] >> 4) & 3,
            traffic_class: packet[0] << 4 | packet[1] >> 4,
            is_fragment: chain.is_fragment,
            is_later_fragment: chain.is_later_fragment,
            dont_fragment: true,
            has_options: chain.end > ipv6::HEADER_LEN,
        })
    }
}

/// Where a chain of IPv6 extension headers ends (RFC 8200 section 4).
struct ExtensionChain {
    protocol: u8,
    end: usize,
    is_fragment: bool,
    is_later_fragment: bool,
}

impl ExtensionChain {
    /// Walk the chain as far as it is known, whole and not too long; what follows is opaque.
    #[inline]
    fn walk(packet: &[u8]) -> Self {
        let mut chain = Self {
            protocol: packet[ipv6::NEXT_HEADER],
            end: ipv6::HEADER_LEN,
            is_fragment: false,
            is_later_fragment: false,
        };
        for _ in 0..EXTENSION_HEADERS_MAX {
            if !chain.step(packet) {
                break;
            }
        }
        chain
    }

    /// Step over one extension header; `false` if there is none to step over.
    #[inline]
    fn step(&mut self, packet: &[u8]) -> bool {
        // Behind the fragment header of a later fragment stands payload, whatever it says.
        if self.is_later_fragment {
            return false;
        }
        let is_fragment_header = match self.protocol {
            protocol::HOP_BY_HOP | protocol::ROUTING | protocol::DESTINATION_OPTIONS => false,
            protocol::FRAGMENT => true,
            _ => return false,
        };
        let Some(&[next, len, fragment_0, fragment_1]) = packet[self.end..].first_chunk::<4>()
        else {
            return false;
        };
        let len = if is_fragment_header { 8 } else { (usize::from(len) + 1) * 8 };
        if self.end + len > packet.len() {
            return false;
        }
        if is_fragment_header {
            let fragment = u16::from_be_bytes([fragment_0, fragment_1]);
            self.is_later_fragment = fragment & 0xfff8 != 0;
            self.is_fragment |= fragment & 0xfff9 != 0;
        }
        self.protocol = next;
        self.end += len;
        true
    }
}

/// The transport of a packet cut to its own length, and where its payload starts.
#[inline]
fn transport(
    packet: &[u8],
    protocol: u8,
    offset: usize,
    is_fragment: bool,
) -> (Option<Transport>, usize) {
    let upper = &packet[offset..];
    let opaque = (None, offset);
    match protocol {
        _ if is_fragment => opaque,
        protocol::TCP if upper.len() >= tcp::HEADER_LEN => {
            let header_len = usize::from(upper[tcp::DATA_OFFSET] >> 4) * 4;
            if header_len < tcp::HEADER_LEN || header_len > upper.len() {
                return opaque;
            }
            (Some(Transport::Tcp), offset + header_len)
        }
        protocol::UDP if upper.len() >= udp::HEADER_LEN => {
            if usize::from(get_u16(upper, udp::LEN)) != upper.len() {
                return opaque;
            }
            (Some(Transport::Udp), offset + udp::HEADER_LEN)
        }
        _ => opaque,
    }
}

#[inline]
fn first_byte(packet: &[u8]) -> Result<u8, PacketError> {
    packet.first().copied().ok_or(PacketError::Truncated { need: 1, have: 0 })
}

#[inline]
fn require(packet: &[u8], need: usize) -> Result<(), PacketError> {
    if packet.len() < need {
        return Err(PacketError::Truncated { need, have: packet.len() });
    }
    Ok(())
}

#[inline]
fn v4_address(packet: &[u8], at: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from_bits(super::field::get_u32(packet, at)))
}

#[inline]
fn v6_address(packet: &[u8], at: usize) -> IpAddr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&packet[at..at + 16]);
    IpAddr::V6(Ipv6Addr::from(octets))
}
