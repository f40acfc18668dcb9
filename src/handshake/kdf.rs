//! HKDF-SHA256 (RFC 5869) to one 32-byte key.

use ring::hkdf::{HKDF_SHA256, Salt};
use zeroize::Zeroizing;

use crate::limits::KEY_LEN;

/// `HKDF-Expand(HKDF-Extract(salt, secret), info, 32)`, `info` given in pieces.
pub(super) fn hkdf(salt: &[u8], secret: &[u8], info: &[&[u8]]) -> Zeroizing<[u8; KEY_LEN]> {
    let mut key = Zeroizing::new([0; KEY_LEN]);
    let extracted = Salt::new(HKDF_SHA256, salt).extract(secret);
    #[expect(clippy::expect_used, reason = "HKDF-SHA256 yields up to 8160 bytes")]
    extracted
        .expand(info, HKDF_SHA256)
        .and_then(|expanded| expanded.fill(&mut *key))
        .expect("one key of 32 bytes");
    key
}

#[cfg(test)]
mod tests {
    use super::hkdf;

    /// RFC 5869 appendix A.1, first 32 of its 42 bytes.
    #[test]
    fn derives_what_rfc_5869_says() {
        let salt: Vec<u8> = (0x00..=0x0c).collect();
        let info: Vec<u8> = (0xf0..=0xf9).collect();
        let (info_start, info_end) = info.split_at(4);
        let expected = [
            0x3c, 0xb2, 0x5f, 0x25, 0xfa, 0xac, 0xd5, 0x7a, 0x90, 0x43, 0x4f, 0x64, 0xd0, 0x36,
            0x2f, 0x2a, 0x2d, 0x2d, 0x0a, 0x90, 0xcf, 0x1a, 0x5a, 0x4c, 0x5d, 0xb0, 0x2d, 0x56,
            0xec, 0xc4, 0xc5, 0xbf,
        ];
        assert_eq!(*hkdf(&salt, &[0x0b; 22], &[info_start, info_end]), expected);
    }
}
