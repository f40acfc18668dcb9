//! Big-endian fields of a header by offset, and the names of the offsets.
//!
//! The accessors panic beyond the end of the slice: callers have checked the length once.

/// IPv4 header (RFC 791 section 3.1).
pub(super) mod ipv4 {
    pub(in crate::packet) const TOS: usize = 1;
    pub(in crate::packet) const TOTAL_LEN: usize = 2;
    pub(in crate::packet) const ID: usize = 4;
    /// Flags and fragment offset.
    pub(in crate::packet) const FRAGMENT: usize = 6;
    pub(in crate::packet) const TTL: usize = 8;
    pub(in crate::packet) const PROTOCOL: usize = 9;
    pub(in crate::packet) const CHECKSUM: usize = 10;
    pub(in crate::packet) const SOURCE: usize = 12;
    pub(in crate::packet) const DESTINATION: usize = 16;
    /// Bytes of a header without options.
    pub(in crate::packet) const HEADER_LEN: usize = 20;
    pub(in crate::packet) const DONT_FRAGMENT: u16 = 0x4000;
    pub(in crate::packet) const MORE_FRAGMENTS: u16 = 0x2000;
    /// The fragment offset, in units of 8 bytes.
    pub(in crate::packet) const OFFSET_MASK: u16 = 0x1fff;
}

/// IPv6 header (RFC 8200 section 3).
pub(super) mod ipv6 {
    pub(in crate::packet) const PAYLOAD_LEN: usize = 4;
    pub(in crate::packet) const NEXT_HEADER: usize = 6;
    pub(in crate::packet) const HOP_LIMIT: usize = 7;
    pub(in crate::packet) const SOURCE: usize = 8;
    pub(in crate::packet) const DESTINATION: usize = 24;
    pub(in crate::packet) const HEADER_LEN: usize = 40;
}

/// TCP header (RFC 9293 section 3.1).
pub(super) mod tcp {
    pub(in crate::packet) const SEQUENCE: usize = 4;
    pub(in crate::packet) const ACKNOWLEDGEMENT: usize = 8;
    /// Data offset in the upper nibble, reserved bits and AE in the lower.
    pub(in crate::packet) const DATA_OFFSET: usize = 12;
    pub(in crate::packet) const FLAGS: usize = 13;
    pub(in crate::packet) const WINDOW: usize = 14;
    pub(in crate::packet) const CHECKSUM: usize = 16;
    pub(in crate::packet) const URGENT: usize = 18;
    /// Bytes of a header without options.
    pub(in crate::packet) const HEADER_LEN: usize = 20;
    /// Bytes of the longest header.
    pub(in crate::packet) const HEADER_LEN_MAX: usize = 60;
    pub(in crate::packet) const FIN: u8 = 0x01;
    pub(in crate::packet) const SYN: u8 = 0x02;
    pub(in crate::packet) const RST: u8 = 0x04;
    pub(in crate::packet) const PSH: u8 = 0x08;
    pub(in crate::packet) const URG: u8 = 0x20;
    pub(in crate::packet) const CWR: u8 = 0x80;
}

/// UDP header (RFC 768).
pub(super) mod udp {
    pub(in crate::packet) const LEN: usize = 4;
    pub(in crate::packet) const CHECKSUM: usize = 6;
    pub(in crate::packet) const HEADER_LEN: usize = 8;
}

/// Protocol numbers (IANA "Protocol Numbers").
pub(super) mod protocol {
    pub(in crate::packet) const HOP_BY_HOP: u8 = 0;
    pub(in crate::packet) const ICMP: u8 = 1;
    pub(in crate::packet) const TCP: u8 = 6;
    pub(in crate::packet) const UDP: u8 = 17;
    pub(in crate::packet) const ROUTING: u8 = 43;
    pub(in crate::packet) const FRAGMENT: u8 = 44;
    pub(in crate::packet) const AUTHENTICATION: u8 = 51;
    pub(in crate::packet) const ICMPV6: u8 = 58;
    pub(in crate::packet) const DESTINATION_OPTIONS: u8 = 60;
}

#[inline]
pub(super) fn get_u16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

#[inline]
pub(super) fn get_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[inline]
pub(super) fn put_u16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

#[inline]
pub(super) fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

/// A length known to be that of an IP packet at most, as its header field.
#[inline]
pub(super) fn len_u16(len: usize) -> u16 {
    debug_assert!(len <= usize::from(u16::MAX));
    len as u16
}
