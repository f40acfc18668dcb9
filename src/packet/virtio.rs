//! The virtio-net header that stands in front of every packet a TUN device reads or writes.
//!
//! Ten bytes in the machine's own byte order (`struct virtio_net_hdr`, linux/virtio_net.h), as a
//! TUN device with `IFF_VNET_HDR` uses it unless told otherwise.

use crate::limits::VIRTIO_HEADER_LEN;

/// The checksum field holds a pseudo-header sum; the checksum is still to be completed.
pub const NEEDS_CSUM: u8 = 1;
/// The checksum has been verified. Only ever read, never written.
pub const DATA_VALID: u8 = 2;

/// Not a super-packet.
pub const GSO_NONE: u8 = 0;
/// TCP over IPv4.
pub const GSO_TCPV4: u8 = 1;
/// TCP over IPv6.
pub const GSO_TCPV6: u8 = 4;
/// UDP datagrams of one size, over IPv4 or IPv6.
pub const GSO_UDP_L4: u8 = 5;
/// A bit on top of a TCP type: the first segment carries CWR.
pub const GSO_ECN: u8 = 0x80;

/// One virtio-net header. The default is all zeros: an ordinary packet, checksums complete.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VirtioHeader {
    /// [`NEEDS_CSUM`] and [`DATA_VALID`].
    pub flags: u8,
    /// One of the `GSO_` values, perhaps with [`GSO_ECN`].
    pub gso_type: u8,
    /// Bytes of headers, as a hint. What the kernel hands over here is the length of its linear
    /// buffer, not of the headers.
    pub hdr_len: u16,
    /// Bytes of payload per segment of a super-packet.
    pub gso_size: u16,
    /// Where checksumming starts, in bytes from the start of the packet.
    pub csum_start: u16,
    /// Where the checksum is stored, in bytes from `csum_start`.
    pub csum_offset: u16,
}

impl VirtioHeader {
    /// Read a header.
    #[inline]
    pub fn parse(bytes: &[u8; VIRTIO_HEADER_LEN]) -> Self {
        let [flags, gso_type, h0, h1, g0, g1, s0, s1, o0, o1] = *bytes;
        Self {
            flags,
            gso_type,
            hdr_len: u16::from_ne_bytes([h0, h1]),
            gso_size: u16::from_ne_bytes([g0, g1]),
            csum_start: u16::from_ne_bytes([s0, s1]),
            csum_offset: u16::from_ne_bytes([o0, o1]),
        }
    }

    /// Write the header.
    #[inline]
    pub fn emit(&self, out: &mut [u8; VIRTIO_HEADER_LEN]) {
        let [h0, h1] = self.hdr_len.to_ne_bytes();
        let [g0, g1] = self.gso_size.to_ne_bytes();
        let [s0, s1] = self.csum_start.to_ne_bytes();
        let [o0, o1] = self.csum_offset.to_ne_bytes();
        *out = [self.flags, self.gso_type, h0, h1, g0, g1, s0, s1, o0, o1];
    }

    /// Whether the packet's checksum is still to be completed.
    #[inline]
    pub fn needs_checksum(&self) -> bool {
        self.flags & NEEDS_CSUM != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_is_that_of_struct_virtio_net_hdr() {
        let header = VirtioHeader {
            flags: NEEDS_CSUM,
            gso_type: GSO_TCPV6 | GSO_ECN,
            hdr_len: 0x0102,
            gso_size: 0x0304,
            csum_start: 0x0506,
            csum_offset: 0x0708,
        };
        let mut bytes = [0; VIRTIO_HEADER_LEN];
        header.emit(&mut bytes);
        assert_eq!(bytes[..2], [1, 0x84]);
        assert_eq!(bytes[2..4], 0x0102u16.to_ne_bytes());
        assert_eq!(bytes[4..6], 0x0304u16.to_ne_bytes());
        assert_eq!(bytes[6..8], 0x0506u16.to_ne_bytes());
        assert_eq!(bytes[8..], 0x0708u16.to_ne_bytes());
        assert_eq!(VirtioHeader::parse(&bytes), header);
    }
}
