//! Which protocol a client speaks, by the first byte that it sends.
//!
//! One byte is enough. A PROXY protocol header is not looked for: who may send one is configured,
//! or anybody could claim to be somebody else.

/// What a client of the proxy may speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// SOCKS 5 (RFC 1928).
    Socks5,
    /// SOCKS 4 and 4A.
    Socks4,
    /// HTTP/1.
    Http,
    /// TLS, with one of the others inside.
    Tls,
}

impl Protocol {
    /// The protocol in which `byte` may come first. `None` if there is none.
    ///
    /// A request of HTTP begins with the letter of a method; an empty line may stand before it
    /// (RFC 9112 section 2.2). A TLS connection begins with a record that has a handshake message
    /// (RFC 8446 section 5.1).
    pub fn of(byte: u8) -> Option<Self> {
        match byte {
            4 => Some(Self::Socks4),
            5 => Some(Self::Socks5),
            22 => Some(Self::Tls),
            b'A'..=b'Z' | b'a'..=b'z' | b'\r' | b'\n' => Some(Self::Http),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_byte_tells_the_protocol() {
        let table: [(&[u8], Option<Protocol>); 11] = [
            (b"\x05\x01\x00", Some(Protocol::Socks5)),
            (b"\x04\x01\x00\x50", Some(Protocol::Socks4)),
            (b"\x16\x03\x01", Some(Protocol::Tls)),
            (b"CONNECT a:1 HTTP/1.1", Some(Protocol::Http)),
            (b"get http://a/ HTTP/1.1", Some(Protocol::Http)),
            (b"\r\nGET / HTTP/1.1", Some(Protocol::Http)),
            (b"\x00", None),
            (b"\x06", None),
            (b" GET /", None),
            (b"\x80\x2e\x01", None),
            (b"\xff", None),
        ];
        for (bytes, expected) in table {
            assert_eq!(Protocol::of(bytes[0]), expected, "{bytes:?}");
        }
    }
}
