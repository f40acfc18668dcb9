//! The end of SOCKS that is asked.
//!
//! [`Server`] is given the bytes that a client has sent and not yet been read. It says how many it
//! has used, and what comes of them. All that is left, a client's first data among it, stays where
//! it is. In what pieces the bytes come makes no difference.
//!
//! ```text
//! advance -> Answer         send it, go on
//!         -> Authenticate   ask the accounts; verdict() is the answer; go on if it was accepted
//!         -> Connect, Bind, Associate
//!                           do it, or not; accept() or refuse() is the answer
//!         -> an error       farewell() is the last that the client hears
//! ```

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::super::reader::{Reader, Stop};
use super::super::target::{Host, HostError, Target};
use super::address::{self, AddressError};
use super::reply::Reply;
use super::{
    ASSOCIATE, BIND, CONNECT, Credentials, METHOD_NONE, METHOD_PASSWORD, METHOD_REFUSED,
    PASSWORD_VERSION, VERSION_4, VERSION_5,
};
use crate::accounts::secret::Secret;
use crate::limits::{DOMAIN_NAME_LEN_MAX, SOCKS_USER_LEN_MAX};

/// The reply of SOCKS 4 that a request was granted.
const GRANTED_4: u8 = 90;
/// The reply of SOCKS 4 that a request was rejected or failed.
const REJECTED_4: u8 = 91;
const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// Whether clients have to say who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authentication {
    /// They are not asked, because there are no accounts or TLS has told.
    Off,
    /// They are asked if they offer a password.
    Optional,
    /// Nobody goes on without a password. SOCKS 4 has none, so it is refused.
    Required,
}

/// What comes of the bytes at hand.
#[derive(Debug)]
pub enum Step {
    /// The message is not whole. Nothing was used; call again when there is more. There never is
    /// more to wait for than [`crate::limits::SOCKS_MESSAGE_LEN_MAX`] bytes in all. Also said while
    /// [`Server`] waits for its caller.
    NeedMore,
    /// The client is to be sent something; then it goes on with the bytes that follow.
    Answer {
        /// Bytes of the input that were read.
        used: usize,
        /// What to send.
        send: &'static [u8],
    },
    /// The client wants something.
    Event {
        /// Bytes of the input that were read. Those of an [`Event::Authenticate`] hold the
        /// password: wipe them.
        used: usize,
        /// What it wants.
        event: Event,
    },
}

/// What a client wants.
#[derive(Debug)]
pub enum Event {
    /// To be known as a user. The answer is [`Server::verdict`].
    Authenticate(Credentials),
    /// To be connected. The answer, as to the next two, is [`Server::accept`] or
    /// [`Server::refuse`].
    Connect(Target),
    /// A port to which the host may connect, which may be 0.0.0.0 for anybody. There are two
    /// answers: the port that was opened, and who came.
    Bind(Target),
    /// To send datagrams from this address. It is all zero if the client does not know yet.
    Associate(SocketAddr),
}

/// How a client has misbehaved, or what it asked that is not to be had here. The connection is to
/// be closed after [`Server::farewell`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SocksError {
    /// The first byte of a connection is not 04 or 05, or that of a request not 05.
    #[error("there is no version {0} of SOCKS, or the client has changed it on the way")]
    Version(u8),
    /// The client offers no method of authentication that the server takes.
    #[error(
        "the client offers no method of authentication that is taken here; it has to offer a \
         password if one is required, and none otherwise"
    )]
    Method,
    /// The first byte of user and password is not 01.
    #[error("there is no version {0} of user and password")]
    PasswordVersion(u8),
    /// User or password are not UTF-8, so they are nobody's.
    #[error("the user or password is not UTF-8")]
    NotText,
    /// A password is required, and SOCKS 4 has none.
    #[error("SOCKS 4 has no passwords, and one is required; use SOCKS 5")]
    NoPassword,
    /// The command is unknown, or is BIND in SOCKS 4.
    #[error("there is no command {0}")]
    Command(u8),
    /// RSV is not zero, as RFC 1928 section 4 demands.
    #[error("the reserved byte is {0:#04x}, not zero")]
    Reserved(u8),
    /// The address is none.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// A connection to port 0.
    #[error("nothing listens on port 0")]
    PortZero,
    /// The user of a SOCKS 4 request is too long.
    #[error("the user has more than {SOCKS_USER_LEN_MAX} bytes")]
    UserTooLong,
}

impl From<SocksError> for Stop<SocksError> {
    fn from(error: SocksError) -> Self {
        Self::Wrong(error)
    }
}

/// A client's side of the conversation, as the server sees it.
#[derive(Debug)]
pub struct Server {
    authentication: Authentication,
    state: State,
    is_version_4: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Greeting,
    Password,
    /// The caller has to say whether the password is right.
    Verdict,
    Request,
    /// The caller has to do what was asked.
    Asked,
    /// The client has misbehaved or been refused.
    Over,
}

impl Server {
    /// At the first byte of a connection.
    pub fn new(authentication: Authentication) -> Self {
        Self { authentication, state: State::Greeting, is_version_4: false }
    }

    /// Whether the client speaks version 4, as far as it has spoken.
    pub fn is_version_4(&self) -> bool {
        self.is_version_4
    }

    /// Reads one message, if it is whole.
    pub fn advance(&mut self, input: &[u8]) -> Result<Step, SocksError> {
        let mut reader = Reader::new(input);
        let read = match self.state {
            State::Greeting => self.first(&mut reader),
            State::Password => credentials(&mut reader).map(|credentials| {
                self.state = State::Verdict;
                event(&reader, Event::Authenticate(credentials))
            }),
            State::Request => request(&mut reader).map(|wanted| {
                self.state = State::Asked;
                event(&reader, wanted)
            }),
            State::Verdict | State::Asked | State::Over => Err(Stop::Short),
        };
        match read {
            Ok(step) => Ok(step),
            Err(Stop::Short) => Ok(Step::NeedMore),
            Err(Stop::Wrong(error)) => Err(error),
        }
    }

    fn first(&mut self, reader: &mut Reader<'_>) -> Result<Step, Stop<SocksError>> {
        match reader.byte()? {
            VERSION_5 => self.greeting(reader),
            VERSION_4 => {
                self.is_version_4 = true;
                if self.authentication == Authentication::Required {
                    return Err(SocksError::NoPassword.into());
                }
                let target = request_4(reader)?;
                self.state = State::Asked;
                Ok(event(reader, Event::Connect(target)))
            }
            other => Err(SocksError::Version(other).into()),
        }
    }

    fn greeting(&mut self, reader: &mut Reader<'_>) -> Result<Step, Stop<SocksError>> {
        let offered = reader.counted()?;
        let takes_password = self.authentication != Authentication::Off;
        let takes_none = self.authentication != Authentication::Required;
        let (state, send): (_, &[u8]) = if takes_password && offered.contains(&METHOD_PASSWORD) {
            (State::Password, &[VERSION_5, METHOD_PASSWORD])
        } else if takes_none && offered.contains(&METHOD_NONE) {
            (State::Request, &[VERSION_5, METHOD_NONE])
        } else {
            return Err(SocksError::Method.into());
        };
        self.state = state;
        Ok(Step::Answer { used: reader.used(), send })
    }

    /// Whether the password is right: returns what to send. If it is not, the connection is to be
    /// closed (RFC 1929 section 2).
    pub fn verdict(&mut self, is_right: bool) -> &'static [u8] {
        self.state = if is_right { State::Request } else { State::Over };
        if is_right { &[PASSWORD_VERSION, 0] } else { &[PASSWORD_VERSION, 1] }
    }

    /// Appends to `out` that what was asked has been done. `bound` is the address from which the
    /// server is connected; for BIND, the one where it listens, and then who came; for a UDP
    /// association the one to send to.
    pub fn accept(&self, bound: SocketAddr, out: &mut Vec<u8>) {
        self.reply(Reply::Succeeded, bound, out);
    }

    /// Appends to `out` that what was asked has not been done. The connection is to be closed
    /// within ten seconds (RFC 1928 section 6).
    pub fn refuse(&mut self, why: Reply, out: &mut Vec<u8>) {
        self.state = State::Over;
        self.reply(why, NOWHERE, out);
    }

    /// Appends to `out` the last that a client hears of an error of [`Self::advance`]. That is
    /// nothing if it does not speak SOCKS. Whatever else it has sent is to be read before the
    /// connection is closed, or it may miss this.
    pub fn farewell(&mut self, error: SocksError, out: &mut Vec<u8>) {
        let reply = match error {
            SocksError::Version(_) => return,
            SocksError::Method => return out.extend_from_slice(&[VERSION_5, METHOD_REFUSED]),
            SocksError::PasswordVersion(_) | SocksError::NotText => {
                return out.extend_from_slice(self.verdict(false));
            }
            SocksError::Command(_) => Reply::CommandNotSupported,
            SocksError::Address(AddressError::Type(_)) => Reply::AddressTypeNotSupported,
            SocksError::Address(AddressError::Host(_)) => Reply::HostUnreachable,
            SocksError::NoPassword
            | SocksError::Reserved(_)
            | SocksError::PortZero
            | SocksError::UserTooLong => Reply::GeneralFailure,
        };
        self.refuse(reply, out);
    }

    fn reply(&self, reply: Reply, bound: SocketAddr, out: &mut Vec<u8>) {
        if !self.is_version_4 {
            out.extend_from_slice(&[VERSION_5, reply.code(), 0]);
            return address::write_socket(bound, out);
        }
        let code = if reply == Reply::Succeeded { GRANTED_4 } else { REJECTED_4 };
        out.extend_from_slice(&[0, code]);
        // There is no room for an IPv6 address, and no client of CONNECT looks at it.
        let (address, port) = match bound.ip().to_canonical() {
            IpAddr::V4(address) => (address, bound.port()),
            IpAddr::V6(_) => (Ipv4Addr::UNSPECIFIED, 0),
        };
        out.extend_from_slice(&port.to_be_bytes());
        out.extend_from_slice(&address.octets());
    }
}

fn event(reader: &Reader<'_>, event: Event) -> Step {
    Step::Event { used: reader.used(), event }
}

/// User and password (RFC 1929 section 2).
fn credentials(reader: &mut Reader<'_>) -> Result<Credentials, Stop<SocksError>> {
    match reader.byte()? {
        PASSWORD_VERSION => {}
        other => return Err(SocksError::PasswordVersion(other).into()),
    }
    let text = |bytes| str::from_utf8(bytes).map(str::to_owned).map_err(|_| SocksError::NotText);
    let user = reader.counted()?;
    let password = reader.counted()?;
    Ok(Credentials { user: text(user)?, password: Secret::new(text(password)?) })
}

/// A request (RFC 1928 section 4).
fn request(reader: &mut Reader<'_>) -> Result<Event, Stop<SocksError>> {
    match reader.byte()? {
        VERSION_5 => {}
        other => return Err(SocksError::Version(other).into()),
    }
    let command = reader.byte()?;
    if !matches!(command, CONNECT | BIND | ASSOCIATE) {
        return Err(SocksError::Command(command).into());
    }
    match reader.byte()? {
        0 => {}
        other => return Err(SocksError::Reserved(other).into()),
    }
    if command == ASSOCIATE {
        return Ok(Event::Associate(address::read_sender::<SocksError>(reader)?));
    }
    let target: Target = address::read::<SocksError>(reader)?;
    match command {
        BIND => Ok(Event::Bind(target)),
        _ if target.port == 0 => Err(SocksError::PortZero.into()),
        _ => Ok(Event::Connect(target)),
    }
}

/// A request of SOCKS 4 or 4A behind its first byte. The user is skipped: anybody can claim to be
/// one.
fn request_4(reader: &mut Reader<'_>) -> Result<Target, Stop<SocksError>> {
    match reader.byte()? {
        CONNECT => {}
        other => return Err(SocksError::Command(other).into()),
    }
    let port = reader.number()?;
    let address = reader.array::<4>()?;
    reader.until_nul(SOCKS_USER_LEN_MAX)?.ok_or(SocksError::UserTooLong)?;
    let host = match address {
        // SOCKS 4A: an address that cannot be says that a name follows.
        [0, 0, 0, 1..=255] => {
            let too_long = HostError::TooLong(DOMAIN_NAME_LEN_MAX + 1);
            let name = reader.until_nul(DOMAIN_NAME_LEN_MAX)?.ok_or(too_long);
            let host = name.and_then(Host::parse).map_err(AddressError::Host);
            host.map_err(SocksError::Address)?
        }
        address => Host::from_address(Ipv4Addr::from(address).into()),
    };
    if port == 0 {
        return Err(SocksError::PortZero.into());
    }
    Ok(Target { host, port })
}
