//! The proxy gateway.

/// Bytes of a domain name as a client may ask for it. SOCKS5 has one byte for the length (RFC 1928
/// section 5); no name that exists is longer (RFC 1035 section 2.3.4).
pub const DOMAIN_NAME_LEN_MAX: usize = 255;

/// Bytes of the user of a SOCKS4 request, without its NUL. SOCKS5 has one byte for the length.
pub const SOCKS_USER_LEN_MAX: usize = 255;
/// Bytes of the longest message of SOCKS: a SOCKS4A request with a user and a name. Who has so many
/// bytes in hand never has to wait for more.
pub const SOCKS_MESSAGE_LEN_MAX: usize = 8 + SOCKS_USER_LEN_MAX + 1 + DOMAIN_NAME_LEN_MAX + 1;
/// Bytes of the longest header of a SOCKS5 datagram: RSV 2, FRAG, ATYP, length, name, port 2.
pub const SOCKS_DATAGRAM_HEADER_LEN_MAX: usize = 5 + DOMAIN_NAME_LEN_MAX + 2;
/// Hosts that may send to a client by way of its UDP association: the last ones that it sent to.
pub const ASSOCIATION_HOSTS_MAX: usize = 1024;

/// Bytes of a PROXY protocol header of version 1, the end of the line included (section 2.1).
pub const PROXY_PROTOCOL_LINE_LEN_MAX: usize = 107;
/// Bytes of a PROXY protocol header of version 2. Its length field has two bytes, but what load
/// balancers add to the addresses stays far below this.
pub const PROXY_PROTOCOL_LEN_MAX: usize = 4096;

const _: () = {
    assert!(DOMAIN_NAME_LEN_MAX <= u8::MAX as usize, "SOCKS5 has one byte for the length");
    assert!(SOCKS_MESSAGE_LEN_MAX >= 3 + 255 + 255, "user and password (RFC 1929 section 2)");
    assert!(SOCKS_MESSAGE_LEN_MAX >= 2 + 255, "the greeting (RFC 1928 section 3)");
    assert!(PROXY_PROTOCOL_LINE_LEN_MAX <= PROXY_PROTOCOL_LEN_MAX);
};
