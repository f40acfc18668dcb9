//! An address as SOCKS5 writes it: ATYP, the address, the port (RFC 1928 sections 4, 5 and 7).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::super::reader::{Reader, Stop};
use super::super::target::{Host, HostError, Target};

const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;

/// Bytes of the longest address that is no name: ATYP, 16, port 2.
pub(super) const SOCKET_LEN_MAX: usize = 19;

/// Why bytes are no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// ATYP is none of 01, 03 and 04.
    #[error("there is no type of address {0:#04x}")]
    Type(u8),
    /// The name is none.
    #[error(transparent)]
    Host(#[from] HostError),
}

/// Reads an address. A name that is an address as text is that address.
pub(super) fn read<E: From<AddressError>>(reader: &mut Reader<'_>) -> Result<Target, Stop<E>> {
    let host = match reader.byte()? {
        IPV4 => Host::from_address(Ipv4Addr::from(reader.array::<4>()?).into()),
        IPV6 => Host::from_address(Ipv6Addr::from(reader.array::<16>()?).into()),
        NAME => Host::parse(reader.counted()?)
            .map_err(|error| Stop::Wrong(AddressError::Host(error).into()))?,
        other => return Err(Stop::Wrong(AddressError::Type(other).into())),
    };
    Ok(Target { host, port: reader.number()? })
}

/// Reads the address from which a client says that it will send. A name is no address to send from,
/// and stands for one that is not known: PySocks writes "0".
pub(super) fn read_sender<E: From<AddressError>>(
    reader: &mut Reader<'_>,
) -> Result<SocketAddr, Stop<E>> {
    let ip: IpAddr = match reader.byte()? {
        IPV4 => reader.array::<4>()?.into(),
        IPV6 => reader.array::<16>()?.into(),
        NAME => {
            reader.counted()?;
            Ipv4Addr::UNSPECIFIED.into()
        }
        other => return Err(Stop::Wrong(AddressError::Type(other).into())),
    };
    Ok(SocketAddr::new(ip.to_canonical(), reader.number()?))
}

/// Writes a target.
pub(super) fn write(target: &Target, out: &mut Vec<u8>) {
    match &target.host {
        Host::Name(name) => {
            // A name is never longer than a byte can say.
            let len = name.as_str().len().try_into().unwrap_or(u8::MAX);
            out.extend_from_slice(&[NAME, len]);
            out.extend_from_slice(name.as_str().as_bytes());
            out.extend_from_slice(&target.port.to_be_bytes());
        }
        Host::Address(address) => write_socket(SocketAddr::new(*address, target.port), out),
    }
}

/// Writes an address that needs no name.
pub(super) fn write_socket(address: SocketAddr, out: &mut Vec<u8>) {
    let (bytes, len) = encode_socket(address);
    out.extend_from_slice(bytes.get(..len).unwrap_or_default());
}

/// An address that needs no name, and how many of the bytes it has. One of IPv4 that is mapped
/// into IPv6 is written as what it stands for.
pub(super) fn encode_socket(address: SocketAddr) -> ([u8; SOCKET_LEN_MAX], usize) {
    let mut bytes = [0; SOCKET_LEN_MAX];
    let port = address.port().to_be_bytes();
    match address.ip().to_canonical() {
        IpAddr::V4(address) => {
            bytes[0] = IPV4;
            bytes[1..5].copy_from_slice(&address.octets());
            bytes[5..7].copy_from_slice(&port);
            (bytes, 7)
        }
        IpAddr::V6(address) => {
            bytes[0] = IPV6;
            bytes[1..17].copy_from_slice(&address.octets());
            bytes[17..].copy_from_slice(&port);
            (bytes, SOCKET_LEN_MAX)
        }
    }
}
