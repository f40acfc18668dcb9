//! A synchronous rtnetlink client (rtnetlink(7), RFC 3549).
//!
//! One request is in flight at a time. Every request carries a sequence number of its own and only
//! answers with that number, sent by the kernel, are looked at. Dumps are read to their end and
//! filtered as they arrive, so memory is bounded by what the caller keeps.
//!
//! A [`Netlink`] belongs to the network namespace of the thread that opened it, wherever it is used
//! afterwards: to work in another namespace, open it on a thread that has entered that namespace.

mod address;
mod firewall_monitor;
#[doc(hidden)]
pub mod fuzz;
mod link;
mod local;
mod monitor;
mod route;
mod rule;
#[cfg(test)]
mod tests;
mod ways;

pub use address::Address;
pub use firewall_monitor::{FirewallMonitor, FirewallNews};
pub use link::{Link, VethEnd};
pub use monitor::{InterfaceMonitor, InterfaceNews};
pub use route::{Route, RouteLookup, RouteScope, TABLE_MAIN};
pub use rule::Rule;
pub use ways::{Way, WayChange, WayMonitor};

use std::io;

use netlink_packet_core::{
    ErrorMessage, NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST,
    NetlinkBuffer, NetlinkHeader, NetlinkMessage, NetlinkPayload, NlasIterator,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// Bytes of the receive buffer. The kernel fills at most 32 KiB per read of a dump; a single object
/// larger than this does not exist outside of devices with hundreds of virtual functions.
const BUFFER_LEN: usize = 64 * 1024;
/// How often a dump is taken again because its table changed meanwhile.
const DUMP_ATTEMPTS_MAX: u32 = 5;
/// Bytes of a netlink message header.
const HEADER_LEN: usize = 16;
/// Attribute of an extended acknowledgement that holds the kernel's explanation
/// (`NLMSGERR_ATTR_MSG` in include/uapi/linux/netlink.h).
const ACK_ATTRIBUTE_MESSAGE: u16 = 1;

/// Which IP version a rule or lookup is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both families, IPv4 first.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of a prefix.
    pub fn of(prefix: &ipnet::IpNet) -> Self {
        match prefix {
            ipnet::IpNet::V4(_) => Self::V4,
            ipnet::IpNet::V6(_) => Self::V6,
        }
    }

    fn address_family(self) -> AddressFamily {
        match self {
            Self::V4 => AddressFamily::Inet,
            Self::V6 => AddressFamily::Inet6,
        }
    }
}

/// Why a request to the kernel's network configuration failed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// No rtnetlink socket could be opened.
    #[error("cannot open an rtnetlink socket: {0}")]
    Open(#[source] io::Error),
    /// The request could not be sent or its answer not be read.
    #[error("cannot {attempt}: {source}")]
    Transport {
        /// What was attempted, as a verb phrase.
        attempt: String,
        /// What the socket said.
        source: io::Error,
    },
    /// The kernel refused.
    #[error("cannot {attempt}: {source}{}{}", explained(.kernel_says), mending(.source))]
    Refused {
        /// What was attempted, as a verb phrase.
        attempt: String,
        /// The error number of the refusal.
        source: io::Error,
        /// The kernel's own explanation, if it gave one.
        kernel_says: Option<String>,
    },
    /// The kernel's answer made no sense.
    #[error("cannot {attempt}: unexpected answer from the kernel: {detail}")]
    Unexpected {
        /// What was attempted, as a verb phrase.
        attempt: String,
        /// What was wrong with the answer.
        detail: String,
    },
}

fn explained(kernel_says: &Option<String>) -> String {
    kernel_says.as_ref().map(|text| format!(": {text}")).unwrap_or_default()
}

fn mending(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            " (this needs CAP_NET_ADMIN: run as root, or `setcap cap_net_admin+ep` the program)"
        }
        _ => "",
    }
}

impl NetlinkError {
    /// The error number of a refusal by the kernel.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }

    /// Whether what was to be added exists already.
    pub fn is_exists(&self) -> bool {
        self.errno() == Some(libc::EEXIST)
    }

    /// Whether what was to be changed, removed or found does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(
            self.errno(),
            Some(libc::ENOENT | libc::ESRCH | libc::ENODEV | libc::ENXIO | libc::EADDRNOTAVAIL)
        )
    }

    /// Whether the kernel does not know the address family (IPv6 not built in or switched off at
    /// boot).
    pub fn is_family_missing(&self) -> bool {
        matches!(self.errno(), Some(libc::EAFNOSUPPORT | libc::EPFNOSUPPORT | libc::EOPNOTSUPP))
    }
}

/// An rtnetlink socket, bound to the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
    /// Whether the kernel looks at what a dump asks for.
    filters: bool,
}

/// What one message of an answer means.
enum Answer {
    /// An object.
    Object(Box<RouteNetlinkMessage>),
    /// An object that the decoder does not understand.
    Undecodable(String),
    /// Success, or the end of a dump.
    Done,
}

impl Netlink {
    /// Opens a socket in the calling thread's network namespace. Needs no privilege; most requests
    /// on it need `CAP_NET_ADMIN` over that namespace.
    pub fn open() -> Result<Self, NetlinkError> {
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(NetlinkError::Open)?;
        socket.bind_auto().map_err(NetlinkError::Open)?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(NetlinkError::Open)?;
        // Conveniences of Linux 4.12 and 4.20: explanations instead of bare numbers, refusals that
        // do not echo the request, and dumps filtered by the kernel. Nothing relies on them.
        let note = |option, outcome: io::Result<()>| {
            let refused = |error: &_| log::debug!("rtnetlink without {option}: {error}");
            outcome.inspect_err(refused).is_ok()
        };
        note("NETLINK_EXT_ACK", socket.set_ext_ack(true));
        note("NETLINK_CAP_ACK", socket.set_cap_ack(true));
        let filters = note("NETLINK_GET_STRICT_CHK", socket.set_netlink_get_strict_chk(true));
        Ok(Self { socket, sequence: 0, buffer: Vec::with_capacity(BUFFER_LEN), filters })
    }

    /// Sends a request that changes something and waits for its acknowledgement.
    fn execute(
        &mut self,
        attempt: &str,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<(), NetlinkError> {
        self.send(attempt, message, NLM_F_ACK | flags)?;
        self.collect(attempt, |_| {}).map(|_| ())
    }

    /// Asks for one object.
    fn query(
        &mut self,
        attempt: &str,
        message: RouteNetlinkMessage,
    ) -> Result<RouteNetlinkMessage, NetlinkError> {
        // With an acknowledgement the answer has a definite end: the object, then "done".
        self.send(attempt, message, NLM_F_ACK)?;
        let mut found = None;
        self.collect(attempt, |object| found = Some(object))?;
        found.ok_or_else(|| NetlinkError::Unexpected {
            attempt: attempt.to_owned(),
            detail: "acknowledged without an object".to_owned(),
        })
    }

    /// Lists objects, keeping what `select` makes of them. An object that cannot be decoded is
    /// passed over: whatever it is, this program did not make it.
    ///
    /// A table that changes while it is read is read again, a few times; on a host whose tables
    /// never rest the last reading is taken as it is.
    fn dump<T>(
        &mut self,
        attempt: &str,
        message: &RouteNetlinkMessage,
        mut select: impl FnMut(RouteNetlinkMessage) -> Option<T>,
    ) -> Result<Vec<T>, NetlinkError> {
        let mut selected = Vec::new();
        for _ in 0..DUMP_ATTEMPTS_MAX {
            selected.clear();
            self.send(attempt, message.clone(), NLM_F_DUMP)?;
            let consistent = self.collect(attempt, |object| selected.extend(select(object)))?;
            if consistent {
                break;
            }
        }
        Ok(selected)
    }

    fn send(
        &mut self,
        attempt: &str,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<(), NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        let sent = self.socket.send(&bytes, 0);
        sent.map(|_| ())
            .map_err(|source| NetlinkError::Transport { attempt: attempt.to_owned(), source })
    }

    /// Reads messages until the answer to the request in flight is complete. Returns whether it
    /// was consistent (`NLM_F_DUMP_INTR` not set).
    fn collect(
        &mut self,
        attempt: &str,
        mut each: impl FnMut(RouteNetlinkMessage),
    ) -> Result<bool, NetlinkError> {
        let mut consistent = true;
        loop {
            self.receive(attempt)?;
            let mut rest = self.buffer.as_slice();
            while !rest.is_empty() {
                let (message, remaining) = split_message(attempt, rest)?;
                rest = remaining;
                if message.sequence_number() != self.sequence {
                    continue;
                }
                consistent &= message.flags() & NLM_F_DUMP_INTR == 0;
                match interpret(attempt, &message)? {
                    Answer::Object(object) => each(*object),
                    Answer::Undecodable(why) => log::debug!("{attempt}: passed over: {why}"),
                    Answer::Done => return Ok(consistent),
                }
            }
        }
    }

    /// Fills the buffer with one datagram from the kernel.
    fn receive(&mut self, attempt: &str) -> Result<(), NetlinkError> {
        let transport = |source| NetlinkError::Transport { attempt: attempt.to_owned(), source };
        loop {
            self.buffer.clear();
            let (length, sender) = match self.socket.recv_from(&mut self.buffer, libc::MSG_TRUNC) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(transport(error)),
            };
            if length > self.buffer.len() {
                return Err(NetlinkError::Unexpected {
                    attempt: attempt.to_owned(),
                    detail: format!("{length} bytes, more than {BUFFER_LEN}"),
                });
            }
            // Port 0 is the kernel; nobody else has anything to tell us.
            if sender.port_number() == 0 {
                return Ok(());
            }
        }
    }
}

/// Cuts the first message off `bytes`.
fn split_message<'a>(
    attempt: &str,
    bytes: &'a [u8],
) -> Result<(NetlinkBuffer<&'a [u8]>, &'a [u8]), NetlinkError> {
    let message = NetlinkBuffer::new_checked(bytes).map_err(|error| NetlinkError::Unexpected {
        attempt: attempt.to_owned(),
        detail: error.to_string(),
    })?;
    let length = message.length() as usize;
    let (own, _) = bytes.split_at(length);
    let rest = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Ok((NetlinkBuffer::new(own), rest))
}

fn interpret(attempt: &str, message: &NetlinkBuffer<&[u8]>) -> Result<Answer, NetlinkError> {
    let bytes = message.clone().into_inner();
    let decoded = match NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes) {
        Ok(decoded) => decoded,
        Err(error) => return Ok(Answer::Undecodable(error.to_string())),
    };
    match decoded.payload {
        NetlinkPayload::InnerMessage(object) => Ok(Answer::Object(Box::new(object))),
        NetlinkPayload::Error(error) if error.code.is_none() => Ok(Answer::Done),
        NetlinkPayload::Error(error) => Err(NetlinkError::Refused {
            attempt: attempt.to_owned(),
            source: errno(error.raw_code()),
            kernel_says: explanation(message.flags(), &error),
        }),
        NetlinkPayload::Done(done) if done.code >= 0 => Ok(Answer::Done),
        NetlinkPayload::Done(done) => Err(NetlinkError::Refused {
            attempt: attempt.to_owned(),
            source: errno(done.code),
            kernel_says: None,
        }),
        NetlinkPayload::Noop => Ok(Answer::Undecodable("no operation".to_owned())),
        _ => Err(NetlinkError::Unexpected {
            attempt: attempt.to_owned(),
            detail: format!("message type {}", message.message_type()),
        }),
    }
}

/// The error that a message carries as a negative number.
fn errno(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code.saturating_neg())
}

/// The kernel's words in an extended acknowledgement: attributes behind the capped echo of the
/// request's header.
fn explanation(flags: u16, error: &ErrorMessage) -> Option<String> {
    if flags & NLM_F_ACK_TLVS == 0 {
        return None;
    }
    let attributes = error.header.get(HEADER_LEN..)?;
    NlasIterator::new(attributes)
        .filter_map(Result::ok)
        .find(|attribute| attribute.kind() == ACK_ATTRIBUTE_MESSAGE)
        .map(|attribute| {
            let text = attribute.value();
            let text = text.strip_suffix(&[0]).unwrap_or(text);
            String::from_utf8_lossy(text).into_owned()
        })
}
