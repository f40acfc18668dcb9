//! The two bits of an inner packet's first byte that carry meaning across the tunnel.
//!
//! An IP version nibble is 4 or 6, so bits `0x80` and `0x10` of the first byte are free on the
//! wire. They are set after the packet is complete and cleared before anything else looks at it.

/// The checksum field of the packet's TCP or UDP header holds only the folded sum of its
/// pseudo-header, not complemented, as Linux keeps it under `CHECKSUM_PARTIAL`.
pub const FLAG_PARTIAL_CHECKSUM: u8 = 0x80;

/// The packet continues the run of the packet before it on the same lane: same flow, next in
/// sequence, of the same size or shorter and last.
pub const FLAG_CONTINUES_RUN: u8 = 0x10;

/// Both flags.
pub const FLAGS: u8 = FLAG_PARTIAL_CHECKSUM | FLAG_CONTINUES_RUN;

const _: () = {
    assert!(0x40 & FLAGS == 0, "IPv4's version nibble leaves both bits free");
    assert!(0x60 & FLAGS == 0, "IPv6's version nibble leaves both bits free");
};
