//! The proxy gateway.

/// Bytes of a domain name as a client may ask for it. SOCKS5 has one byte for the length (RFC 1928
/// section 5); no name that exists is longer (RFC 1035 section 2.3.4).
pub const DOMAIN_NAME_LEN_MAX: usize = 255;
