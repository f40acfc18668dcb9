//! Why a packet is refused.

use thiserror::Error;

/// Why a packet, or what was claimed about it, is refused. The packet is dropped and counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PacketError {
    /// The packet ends before its headers or the length they state.
    #[error("packet of {have} bytes ends before byte {need}")]
    Truncated {
        /// Bytes that the headers require.
        need: usize,
        /// Bytes there are.
        have: usize,
    },
    /// The version nibble is neither 4 nor 6.
    #[error("IP version {0} is neither 4 nor 6")]
    Version(u8),
    /// The IPv4 header length is below 20 bytes or beyond the total length.
    #[error("IPv4 header length {0} does not fit the packet")]
    HeaderLength(usize),
    /// The packet is longer than an IP packet may be.
    #[error("packet of {0} bytes is longer than an IP packet may be")]
    TooLong(usize),
    /// The virtio header names a kind of segmentation that is not asked of the kernel.
    #[error("virtio segmentation type {0:#04x} is not supported")]
    SegmentationType(u8),
    /// The virtio header asks for segments without a size.
    #[error("super-packet without a segment size")]
    SegmentSize,
    /// The virtio header asks for a segmentation that does not match the packet's own headers.
    #[error("super-packet headers do not match virtio segmentation type {0:#04x}")]
    SegmentationMismatch(u8),
    /// The place given for the checksum lies outside the packet or is not where the packet's own
    /// headers put it.
    #[error("checksum start {start}, offset {offset} does not match the packet")]
    ChecksumPlace {
        /// `csum_start`, bytes from the start of the packet.
        start: usize,
        /// `csum_offset`, bytes from `csum_start`.
        offset: usize,
    },
    /// A packet claims a partial checksum but is a fragment, or neither TCP nor UDP.
    #[error("partial checksum on a packet that has none to complete")]
    PartialChecksum,
    /// There is no room in front of the packet for a virtio header, or the packet reaches beyond
    /// its buffer.
    #[error("packet does not lie in its buffer with room for a virtio header in front")]
    Room,
}
