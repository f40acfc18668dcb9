//! Path messages: what the two ends of a session say to each other inside it.
//!
//! A path message is a whole plaintext: 16 bytes, then as many zero bytes as its sender likes. That
//! is how a probe measures the size of datagram that a path carries.

use super::WireError;
use super::fields::Fields;

/// Bytes of a path message, without the padding behind it.
pub const PATH_MESSAGE_LEN: usize = 16;

const PROBE: u8 = 1;
const PROBE_ACK: u8 = 2;
const CLOSE: u8 = 3;
const INQUIRY: u8 = 4;
const INQUIRY_ANSWER: u8 = 5;

/// A message about a path or a session, carried as a plaintext.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PathMessage {
    /// Asks for a [`PathMessage::ProbeAck`]. Confirms keys and addresses, measures the round-trip
    /// time and, when padded, whether a datagram of that size gets through.
    Probe {
        /// The path it is sent on.
        path: u8,
        /// Chosen by the sender, to recognise the answer.
        token: u64,
    },
    /// Answers a probe.
    ProbeAck {
        /// The path of the probe.
        path: u8,
        /// The token of the probe.
        token: u64,
        /// Bytes of plaintext the probe arrived with, padding included.
        plaintext_len: u16,
    },
    /// The sender has ended the session: forget it, reconnect if there is traffic.
    Close {
        /// Why; 0 is an ordinary end. Only shown to people.
        reason: u8,
    },
    /// Asks for a [`PathMessage::InquiryAnswer`] on a way that is not in use. Moves no address, and
    /// is answered to where it came from.
    Inquiry {
        /// The path it is sent on.
        path: u8,
        /// Chosen by the sender, to recognise the answer.
        token: u64,
    },
    /// Answers an inquiry. Moves no address either.
    InquiryAnswer {
        /// The path of the inquiry.
        path: u8,
        /// The token of the inquiry.
        token: u64,
    },
}

impl PathMessage {
    /// Reads the message that a plaintext begins with. What lies behind it is padding.
    ///
    /// # Errors
    /// If the plaintext is shorter than a message, of an unknown kind, or has reserved bytes that
    /// are not zero.
    pub fn parse(plaintext: &[u8]) -> Result<Self, WireError> {
        let mut fields = Fields::prefix::<PATH_MESSAGE_LEN>(plaintext)?;
        let kind = fields.byte()?;
        let argument = fields.byte()?;
        let plaintext_len = u16::from_be_bytes(*fields.take()?);
        fields.reserved::<4>()?;
        let token = u64::from_be_bytes(*fields.take()?);
        match kind {
            PROBE if plaintext_len == 0 => Ok(Self::Probe { path: argument, token }),
            PROBE_ACK => Ok(Self::ProbeAck { path: argument, token, plaintext_len }),
            CLOSE if plaintext_len == 0 && token == 0 => Ok(Self::Close { reason: argument }),
            INQUIRY if plaintext_len == 0 => Ok(Self::Inquiry { path: argument, token }),
            INQUIRY_ANSWER if plaintext_len == 0 => {
                Ok(Self::InquiryAnswer { path: argument, token })
            }
            PROBE | CLOSE | INQUIRY | INQUIRY_ANSWER => Err(WireError::ReservedNotZero),
            unknown => Err(WireError::UnknownType(unknown)),
        }
    }

    /// Whether a plaintext is of the kinds that are sent on a way that is not in use.
    #[inline]
    pub fn is_beside_the_way(plaintext: &[u8]) -> bool {
        matches!(plaintext.first(), Some(&(INQUIRY | INQUIRY_ANSWER)))
    }

    /// Writes the message.
    pub fn emit(&self, out: &mut [u8; PATH_MESSAGE_LEN]) {
        let (kind, argument, plaintext_len, token) = match *self {
            Self::Probe { path, token } => (PROBE, path, 0, token),
            Self::ProbeAck { path, token, plaintext_len } => {
                (PROBE_ACK, path, plaintext_len, token)
            }
            Self::Close { reason } => (CLOSE, reason, 0, 0),
            Self::Inquiry { path, token } => (INQUIRY, path, 0, token),
            Self::InquiryAnswer { path, token } => (INQUIRY_ANSWER, path, 0, token),
        };
        out[0] = kind;
        out[1] = argument;
        out[2..4].copy_from_slice(&u16::to_be_bytes(plaintext_len));
        out[4..8].fill(0);
        out[8..16].copy_from_slice(&u64::to_be_bytes(token));
    }
}
