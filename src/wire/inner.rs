//! The first byte of a decrypted plaintext.
//!
//! An IP packet begins with the version, 4 or 6, in the high nibble. Bit `0x40` is set in both, so
//! the bits `0x80` and `0x10` are free to carry flags, and a first byte without `0x40` is free to
//! mean something else: a path message.

/// The L4 checksum field holds only the pseudo-header sum.
pub const FLAG_PARTIAL_CHECKSUM: u8 = 0x80;
/// The packet continues the run of the packet before it on the lane: same flow, next sequence
/// number, same size (the last one may be shorter).
pub const FLAG_CONTINUES_RUN: u8 = 0x10;
/// All bits of the first byte that are not the packet's own.
pub const FLAGS: u8 = FLAG_PARTIAL_CHECKSUM | FLAG_CONTINUES_RUN;

/// Set in the first byte of every IP packet, clear in a path message's.
const IP_BIT: u8 = 0x40;
/// Where an IP packet's first byte, freed of flags, tells the version.
const VERSION_BITS: u8 = 0x60;

/// What a non-empty plaintext carries. An empty one is a keepalive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inner {
    /// An IPv4 packet, flags in its first byte.
    V4,
    /// An IPv6 packet, flags in its first byte.
    V6,
    /// A [`PathMessage`](super::PathMessage).
    PathMessage,
}

/// What the plaintext is that begins with the byte `first`.
#[inline]
pub const fn classify(first: u8) -> Inner {
    match first & VERSION_BITS {
        VERSION_BITS => Inner::V6,
        IP_BIT => Inner::V4,
        _ => Inner::PathMessage,
    }
}

const _: () = {
    assert!(FLAGS & VERSION_BITS == 0, "flags leave the version bits alone");
    assert!(0x40 & !FLAGS == 0x40 && 0x60 & !FLAGS == 0x60, "versions 4 and 6 survive");
};
