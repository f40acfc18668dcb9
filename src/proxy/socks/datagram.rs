//! The header of a datagram of a UDP association (RFC 1928 section 7): RSV 2, FRAG, an address.

use std::net::SocketAddr;
use std::ops::Deref;

use super::super::reader::{Reader, Stop};
use super::super::target::Target;
use super::address::{self, AddressError, SOCKET_LEN_MAX};

/// Bytes of RSV and FRAG.
const PREFIX_LEN: usize = 3;
/// Bytes of the longest header that has an address, not a name.
pub const SOURCE_HEADER_LEN_MAX: usize = PREFIX_LEN + SOCKET_LEN_MAX;

/// Why a datagram of a client goes nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DatagramError {
    /// It ends in the middle of its header.
    #[error("the datagram ends in its header")]
    Short,
    /// RSV is not zero.
    #[error("the reserved bytes are not zero")]
    Reserved,
    /// It is a fragment. Section 7 leaves reassembly open, and demands that who does not offer it
    /// drops them.
    #[error("the datagram is a fragment ({0:#04x})")]
    Fragment(u8),
    /// The address is none.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// It goes to port 0.
    #[error("nothing listens on port 0")]
    PortZero,
}

impl From<DatagramError> for Stop<DatagramError> {
    fn from(error: DatagramError) -> Self {
        Self::Wrong(error)
    }
}

/// Where a client's datagram is to go, and what is to go there, which may be no byte at all.
pub fn parse(datagram: &[u8]) -> Result<(Target, &[u8]), DatagramError> {
    let mut reader = Reader::new(datagram);
    match header(&mut reader) {
        Ok(target) => Ok((target, reader.rest())),
        Err(Stop::Short) => Err(DatagramError::Short),
        Err(Stop::Wrong(error)) => Err(error),
    }
}

fn header(reader: &mut Reader<'_>) -> Result<Target, Stop<DatagramError>> {
    if reader.number()? != 0 {
        return Err(DatagramError::Reserved.into());
    }
    match reader.byte()? {
        0 => {}
        fragment => return Err(DatagramError::Fragment(fragment).into()),
    }
    let target = address::read::<DatagramError>(reader)?;
    if target.port == 0 {
        return Err(DatagramError::PortZero.into());
    }
    Ok(target)
}

/// Appends to `out` the header of a datagram to `target`.
pub fn write(target: &Target, out: &mut Vec<u8>) {
    out.extend_from_slice(&[0; PREFIX_LEN]);
    address::write(target, out);
}

/// The header of a datagram that comes from an address, to be put in front of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceHeader {
    bytes: [u8; SOURCE_HEADER_LEN_MAX],
    len: usize,
}

impl SourceHeader {
    /// The header that names `source`. An IPv4 address that is mapped into IPv6 is named as what
    /// it stands for.
    pub fn of(source: SocketAddr) -> Self {
        let (address, len) = address::encode_socket(source);
        let mut bytes = [0; SOURCE_HEADER_LEN_MAX];
        bytes[PREFIX_LEN..].copy_from_slice(&address);
        Self { bytes, len: PREFIX_LEN + len }
    }
}

impl Deref for SourceHeader {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}
