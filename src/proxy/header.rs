//! The PROXY protocol, versions 1 and 2, read and written.
//!
//! A load balancer puts such a header in front of a connection to say whose it is. The
//! specification is `proxy-protocol.txt` of HAProxy; sections are its. Whoever may send one can
//! claim to be anybody, so it is configured from where it is read, and then it has to be there.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::reader::{Reader, Short, Stop};
use crate::limits::{PROXY_PROTOCOL_LEN_MAX, PROXY_PROTOCOL_LINE_LEN_MAX};

/// How version 1 begins (section 2.1).
const LINE_START: &[u8] = b"PROXY ";
/// How version 2 begins (section 2.2).
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Bytes of version 2 in front of the addresses.
const FIXED_LEN: usize = 16;
/// Version 2, and its commands.
const LOCAL: u8 = 0x20;
const PROXIED: u8 = 0x21;
/// Address families and transports of version 2.
const TCP_IPV4: u8 = 0x11;
const TCP_IPV6: u8 = 0x21;
/// The extra field with a checksum (section 2.2.3).
const CHECKSUM: u8 = 3;

/// The two ends of a connection. An IPv4 address that is mapped into IPv6 is what it stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// Who connected.
    pub source: SocketAddr,
    /// To where.
    pub destination: SocketAddr,
}

/// A version of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Version {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// What is known from the bytes at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed {
    /// The header is not whole. Nothing was used; there never is more to wait for than
    /// [`PROXY_PROTOCOL_LEN_MAX`] bytes in all.
    NeedMore,
    /// It is whole.
    Whole {
        /// Bytes that it has. The connection proper begins behind them.
        used: usize,
        /// Whose connection it is. `None` if it is the sender's own, such as a health check, or of
        /// a kind other than TCP: then the ends are those of the real connection.
        ends: Option<Ends>,
    },
}

/// Why bytes are no header. The connection is to be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// There is none.
    #[error(
        "the connection does not begin with a PROXY header; the listener expects one from this \
         source, so either the load balancer has to send it or the source is not one"
    )]
    Missing,
    /// The line of version 1 has no end where it has to.
    #[error(
        "the PROXY line has no end within {PROXY_PROTOCOL_LINE_LEN_MAX} bytes, or one that is not \
         CRLF"
    )]
    LineEnd,
    /// The line of version 1 is not what section 2.1 says.
    #[error("the PROXY line is malformed")]
    Line,
    /// The command of version 2 is none.
    #[error("there is no version and command {0:#04x} of the PROXY header")]
    Command(u8),
    /// The address family or transport of version 2 is none.
    #[error("there is no address family and transport {0:#04x} of the PROXY header")]
    Family(u8),
    /// Version 2 is longer than anybody needs.
    #[error("the PROXY header has {0} bytes; at most {PROXY_PROTOCOL_LEN_MAX} are taken")]
    TooLong(usize),
    /// Version 2 is too short for its addresses, or for an extra field.
    #[error("the PROXY header is shorter than what is in it")]
    TooShort,
    /// The checksum in version 2 is wrong.
    #[error("the checksum of the PROXY header is wrong")]
    Checksum,
}

/// Reads a header of either version.
pub fn parse(input: &[u8]) -> Result<Parsed, HeaderError> {
    if begins(input, LINE_START) {
        return parse_line(input);
    }
    if !begins(input, SIGNATURE) {
        return Err(HeaderError::Missing);
    }
    let mut reader = Reader::new(input);
    match parse_binary(&mut reader) {
        Ok(ends) => Ok(Parsed::Whole { used: reader.used(), ends }),
        Err(Stop::Short) => Ok(Parsed::NeedMore),
        Err(Stop::Wrong(error)) => Err(error),
    }
}

/// Whether `input` begins with `start`, as far as it has come.
fn begins(input: &[u8], start: &[u8]) -> bool {
    input.iter().zip(start).all(|(have, want)| have == want)
}

/// Version 1. The line is not looked into before it is whole.
fn parse_line(input: &[u8]) -> Result<Parsed, HeaderError> {
    let within = input.get(..PROXY_PROTOCOL_LINE_LEN_MAX).unwrap_or(input);
    let Some(end) = within.iter().position(|byte| *byte == b'\n') else {
        let is_full = within.len() == PROXY_PROTOCOL_LINE_LEN_MAX;
        return if is_full { Err(HeaderError::LineEnd) } else { Ok(Parsed::NeedMore) };
    };
    let line = within.get(..end).and_then(|line| line.strip_suffix(b"\r"));
    let line = line.filter(|line| !line.contains(&b'\r')).ok_or(HeaderError::LineEnd)?;
    let fields = line.strip_prefix(LINE_START).ok_or(HeaderError::Line)?;
    // Section 2.1: whatever stands behind UNKNOWN is ignored.
    if fields == b"UNKNOWN" || fields.starts_with(b"UNKNOWN ") {
        return Ok(Parsed::Whole { used: end + 1, ends: None });
    }
    let ends = str::from_utf8(fields).ok().and_then(line_ends).ok_or(HeaderError::Line)?;
    Ok(Parsed::Whole { used: end + 1, ends: Some(ends) })
}

fn line_ends(fields: &str) -> Option<Ends> {
    let mut fields = fields.split(' ');
    let family = fields.next()?;
    let address = |text: &str| -> Option<IpAddr> {
        match family {
            "TCP4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::from),
            "TCP6" => text.parse::<Ipv6Addr>().ok().map(IpAddr::from),
            _ => None,
        }
    };
    let (source, destination) = (address(fields.next()?)?, address(fields.next()?)?);
    let (source_port, destination_port) = (port(fields.next()?)?, port(fields.next()?)?);
    let ends = Ends::new((source, source_port), (destination, destination_port));
    fields.next().is_none().then_some(ends)
}

/// A port without a sign or a zero in front (section 2.1).
fn port(text: &str) -> Option<u16> {
    let is_plain = text == "0" || !text.starts_with(['0', '+']);
    text.parse().ok().filter(|_| is_plain)
}

/// Version 2.
fn parse_binary(reader: &mut Reader<'_>) -> Result<Option<Ends>, Stop<HeaderError>> {
    let whole = reader.rest();
    reader.take(SIGNATURE.len())?;
    let command = reader.byte()?;
    if !matches!(command, LOCAL | PROXIED) {
        return Err(HeaderError::Command(command).into());
    }
    let family = reader.byte()?;
    let len = usize::from(reader.number()?);
    if FIXED_LEN + len > PROXY_PROTOCOL_LEN_MAX {
        return Err(HeaderError::TooLong(FIXED_LEN + len).into());
    }
    let mut block = Reader::new(reader.take(len)?);
    if command == LOCAL {
        // "Discard the protocol block including the family which is ignored."
        return Ok(None);
    }
    let ends = match (family >> 4, family & 0xf) {
        (1, 1 | 2) => Some(ends_of::<4>(&mut block).map_err(too_short)?),
        (2, 1 | 2) => Some(ends_of::<16>(&mut block).map_err(too_short)?),
        (3, 1 | 2) => block.take(2 * 108).map(|_| None).map_err(too_short)?,
        // What is unspecified says nothing about the length of addresses.
        (0, 0..=2) | (1..=3, 0) => return Ok(None),
        _ => return Err(HeaderError::Family(family).into()),
    };
    let header = whole.get(..FIXED_LEN + len).unwrap_or_default();
    check_extra_fields(header, len - block.rest().len(), &mut block)?;
    // Datagrams do not come by a connection; section 2.2 lets them count as unspecified.
    Ok(ends.filter(|_| matches!(family, TCP_IPV4 | TCP_IPV6)))
}

fn too_short(_: Short) -> Stop<HeaderError> {
    HeaderError::TooShort.into()
}

fn ends_of<const LEN: usize>(block: &mut Reader<'_>) -> Result<Ends, Short>
where
    IpAddr: From<[u8; LEN]>,
{
    let (source, destination) = (block.array::<LEN>()?, block.array::<LEN>()?);
    let (source_port, destination_port) = (block.number()?, block.number()?);
    Ok(Ends::new((source.into(), source_port), (destination.into(), destination_port)))
}

/// Extra fields are skipped, but for the checksum; `at` is where `fields` begin behind the fixed
/// part of the whole `header`.
fn check_extra_fields(
    header: &[u8],
    at: usize,
    fields: &mut Reader<'_>,
) -> Result<(), Stop<HeaderError>> {
    let begin = fields.used();
    while !fields.rest().is_empty() {
        let kind = fields.byte().map_err(too_short)?;
        let len = fields.number().map_err(too_short)?;
        let value = fields.take(len.into()).map_err(too_short)?;
        if kind != CHECKSUM {
            continue;
        }
        let Ok(expected) = <[u8; 4]>::try_from(value) else {
            return Err(HeaderError::Checksum.into());
        };
        let value_at = FIXED_LEN + at + (fields.used() - begin) - value.len();
        let zeroed = header.iter().enumerate().map(|(position, byte)| {
            let is_value = (value_at..value_at + value.len()).contains(&position);
            if is_value { 0 } else { *byte }
        });
        if crc32c(zeroed) != u32::from_be_bytes(expected) {
            return Err(HeaderError::Checksum.into());
        }
    }
    Ok(())
}

/// CRC32c (RFC 4960 appendix B). Bit by bit, since it comes once in a connection if at all.
fn crc32c(bytes: impl Iterator<Item = u8>) -> u32 {
    !bytes.fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            let polynomial = if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
            (crc >> 1) ^ polynomial
        })
    })
}

impl From<HeaderError> for Stop<HeaderError> {
    fn from(error: HeaderError) -> Self {
        Self::Wrong(error)
    }
}

impl Ends {
    fn new(source: (IpAddr, u16), destination: (IpAddr, u16)) -> Self {
        let socket = |(address, port): (IpAddr, u16)| SocketAddr::new(address.to_canonical(), port);
        Self { source: socket(source), destination: socket(destination) }
    }
}

/// Appends to `out` a header for a connection from and to these `ends`; `None` for one that the
/// sender makes on its own account.
pub fn write(version: Version, ends: Option<Ends>, out: &mut Vec<u8>) {
    match version {
        Version::V1 => write_line(ends, out),
        Version::V2 => write_binary(ends, out),
    }
}

/// Both addresses have to be of one family: if they are not, the one of IPv4 is mapped.
fn family(Ends { source, destination }: Ends) -> Family {
    match (source.ip().to_canonical(), destination.ip().to_canonical()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => Family::Ipv4(source, destination),
        (source, destination) => Family::Ipv6(mapped(source), mapped(destination)),
    }
}

enum Family {
    Ipv4(Ipv4Addr, Ipv4Addr),
    Ipv6(Ipv6Addr, Ipv6Addr),
}

fn mapped(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

fn write_line(ends: Option<Ends>, out: &mut Vec<u8>) {
    // Writing to memory does not fail.
    let _ = match ends.map(|ends| (family(ends), ends.source.port(), ends.destination.port())) {
        None => write!(out, "PROXY UNKNOWN\r\n"),
        Some((Family::Ipv4(source, destination), from, to)) => {
            write!(out, "PROXY TCP4 {source} {destination} {from} {to}\r\n")
        }
        Some((Family::Ipv6(source, destination), from, to)) => {
            write!(out, "PROXY TCP6 {source} {destination} {from} {to}\r\n")
        }
    };
}

fn write_binary(ends: Option<Ends>, out: &mut Vec<u8>) {
    out.extend_from_slice(SIGNATURE);
    let Some(ends) = ends else {
        return out.extend_from_slice(&[LOCAL, 0, 0, 0]);
    };
    match family(ends) {
        Family::Ipv4(source, destination) => {
            out.extend_from_slice(&[PROXIED, TCP_IPV4, 0, 2 * 4 + 2 * 2]);
            out.extend_from_slice(&source.octets());
            out.extend_from_slice(&destination.octets());
        }
        Family::Ipv6(source, destination) => {
            out.extend_from_slice(&[PROXIED, TCP_IPV6, 0, 2 * 16 + 2 * 2]);
            out.extend_from_slice(&source.octets());
            out.extend_from_slice(&destination.octets());
        }
    }
    out.extend_from_slice(&ends.source.port().to_be_bytes());
    out.extend_from_slice(&ends.destination.port().to_be_bytes());
}

#[cfg(test)]
mod tests;
