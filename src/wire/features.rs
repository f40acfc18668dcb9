//! What one end is able to take from the other.

/// A set of features, one bit each, announced by each end in its handshake message.
///
/// A bit says what the *sender of the set* takes, so the two directions of a session may differ.
/// Unknown bits are ignored, which lets a later version announce more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Features(u32);

impl Features {
    /// This end's TUN device takes half-done checksums, so packets with
    /// [`FLAG_PARTIAL_CHECKSUM`](super::FLAG_PARTIAL_CHECKSUM) may be sent to it.
    pub const CHECKSUM_OFFLOAD: Self = Self(1 << 0);

    const NAMED: &'static [(Self, &'static str)] = &[(Self::CHECKSUM_OFFLOAD, "checksum_offload")];

    /// No feature.
    pub const fn empty() -> Self {
        Self(0)
    }

    /// Every feature that this version knows.
    pub const fn all() -> Self {
        Self(Self::CHECKSUM_OFFLOAD.0)
    }

    /// The set as it goes over the wire.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// The known features among `bits`.
    pub const fn from_bits_truncate(bits: u32) -> Self {
        Self(bits & Self::all().0)
    }

    /// Whether every feature of `other` is in this set.
    #[inline]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The features in either set.
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The features in both sets.
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The names of the features, as `status --json` prints them.
    pub fn names(self) -> Vec<&'static str> {
        Self::NAMED
            .iter()
            .filter(|(feature, _)| self.contains(*feature))
            .map(|(_, name)| *name)
            .collect()
    }
}
