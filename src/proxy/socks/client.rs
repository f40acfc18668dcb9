//! The end of SOCKS 5 that asks: for upstream proxies, and for the client of the project's own.
//!
//! [`Client::open`] is what to send first; then [`Client::advance`] is given what has come back and
//! not yet been read. What the far end of the tunnel has sent stays where it is.

use zeroize::Zeroizing;

use super::super::reader::{Reader, Stop};
use super::super::target::Target;
use super::address::{self, AddressError};
use super::reply::Reply;
use super::{
    ASSOCIATE, BIND, CONNECT, Credentials, METHOD_NONE, METHOD_PASSWORD, METHOD_REFUSED,
    PASSWORD_VERSION, VERSION_5,
};

/// What to ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// A connection to the target.
    Connect,
    /// A port to which the target may connect. There are two answers, both
    /// [`ClientStep::Done`]: where the proxy listens, and who came.
    Bind,
    /// To send datagrams from the target's address, all zero if it is not known.
    Associate,
}

/// What comes of the bytes at hand.
#[derive(Debug, PartialEq, Eq)]
pub enum ClientStep {
    /// The message is not whole. Nothing was used; call again when there is more.
    NeedMore,
    /// The proxy is to be sent something, which may be nothing; then it goes on with the bytes that
    /// follow.
    Send {
        /// Bytes of the input that were read.
        used: usize,
        /// What to send. It may hold the password.
        send: Zeroizing<Vec<u8>>,
    },
    /// It was done. What follows is the far end's.
    Done {
        /// Bytes of the input that were read.
        used: usize,
        /// What the proxy says is its address (BND.ADDR). It may be all zero.
        bound: Target,
    },
}

/// Why a proxy does not do what it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// User or password are longer than SOCKS can say (RFC 1929 section 2).
    #[error("the {0} for the proxy has more than 255 bytes, which SOCKS cannot send")]
    TooLong(&'static str),
    /// An answer does not begin with 05.
    #[error("the proxy answers with version {0}; is it a SOCKS5 proxy?")]
    Version(u8),
    /// None of the methods of authentication that were offered is taken.
    #[error("the proxy takes none of the offered methods; it may want a user and a password")]
    MethodRefused,
    /// The proxy has chosen a method that was not offered.
    #[error("the proxy has chosen method {0:#04x}, which was not offered")]
    MethodNotOffered(u8),
    /// User or password are wrong.
    #[error("the proxy refuses the user or the password")]
    PasswordRefused,
    /// The proxy has not done it. The code is one of [`Reply`], or one that it has made up.
    #[error("the proxy says that it failed with code {0:#04x}")]
    Refused(u8),
    /// The address in the answer is none.
    #[error("the proxy's answer has a bad address: {0}")]
    Address(#[from] AddressError),
}

impl ClientError {
    /// What a client of one's own hears of it.
    pub fn reply(self) -> Reply {
        match self {
            Self::Refused(code) => match Reply::of(code) {
                Some(Reply::Succeeded) | None => Reply::GeneralFailure,
                Some(reply) => reply,
            },
            Self::TooLong(_)
            | Self::Version(_)
            | Self::MethodRefused
            | Self::MethodNotOffered(_)
            | Self::PasswordRefused
            | Self::Address(_) => Reply::GeneralFailure,
        }
    }
}

impl From<ClientError> for Stop<ClientError> {
    fn from(error: ClientError) -> Self {
        Self::Wrong(error)
    }
}

/// The conversation with a proxy.
#[derive(Debug)]
pub struct Client {
    command: Command,
    target: Target,
    credentials: Option<Credentials>,
    state: State,
    /// Everything has been sent already.
    is_eager: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Method,
    Password,
    Reply,
    /// The second answer to BIND.
    SecondReply,
    Done,
}

impl Client {
    /// A client that has sent nothing.
    pub fn new(
        command: Command,
        target: Target,
        credentials: Option<Credentials>,
    ) -> Result<Self, ClientError> {
        if let Some(Credentials { user, password }) = &credentials {
            u8::try_from(user.len()).map_err(|_| ClientError::TooLong("user"))?;
            u8::try_from(password.expose().len()).map_err(|_| ClientError::TooLong("password"))?;
        }
        Ok(Self { command, target, credentials, state: State::Method, is_eager: false })
    }

    /// What to send first.
    ///
    /// If it is known what the proxy will choose, `is_eager` saves two round trips: it sends
    /// everything at once. Then one method is offered: a password if there are credentials, none
    /// otherwise. If not, and there are credentials, both are, since the proxy may not want any.
    pub fn open(&mut self, is_eager: bool) -> Zeroizing<Vec<u8>> {
        self.is_eager = is_eager;
        let offer: &[u8] = match (&self.credentials, is_eager) {
            (None, _) => &[VERSION_5, 1, METHOD_NONE],
            (Some(_), true) => &[VERSION_5, 1, METHOD_PASSWORD],
            (Some(_), false) => &[VERSION_5, 2, METHOD_NONE, METHOD_PASSWORD],
        };
        let mut out = buffer();
        out.extend_from_slice(offer);
        if is_eager {
            self.put_password(&mut out);
            self.put_request(&mut out);
        }
        out
    }

    /// Reads one message, if it is whole.
    pub fn advance(&mut self, input: &[u8]) -> Result<ClientStep, ClientError> {
        let mut reader = Reader::new(input);
        let read = match self.state {
            State::Method => self.method(&mut reader),
            State::Password => self.password(&mut reader),
            State::Reply | State::SecondReply => self.reply(&mut reader),
            State::Done => Err(Stop::Short),
        };
        match read {
            Ok(step) => Ok(step),
            Err(Stop::Short) => Ok(ClientStep::NeedMore),
            Err(Stop::Wrong(error)) => Err(error),
        }
    }

    fn method(&mut self, reader: &mut Reader<'_>) -> Result<ClientStep, Stop<ClientError>> {
        version(reader)?;
        let mut send = buffer();
        match (reader.byte()?, &self.credentials) {
            (METHOD_REFUSED, _) => return Err(ClientError::MethodRefused.into()),
            (METHOD_PASSWORD, Some(_)) => {
                self.state = State::Password;
                if !self.is_eager {
                    self.put_password(&mut send);
                }
            }
            (METHOD_NONE, credentials) if credentials.is_none() || !self.is_eager => {
                self.state = State::Reply;
                if !self.is_eager {
                    self.put_request(&mut send);
                }
            }
            (other, _) => return Err(ClientError::MethodNotOffered(other).into()),
        }
        Ok(ClientStep::Send { used: reader.used(), send })
    }

    /// The version is not looked at: some proxies say 5 here, and curl takes that too.
    fn password(&mut self, reader: &mut Reader<'_>) -> Result<ClientStep, Stop<ClientError>> {
        let [_, status] = reader.array()?;
        if status != 0 {
            return Err(ClientError::PasswordRefused.into());
        }
        self.state = State::Reply;
        let mut send = buffer();
        if !self.is_eager {
            self.put_request(&mut send);
        }
        Ok(ClientStep::Send { used: reader.used(), send })
    }

    /// A reply (RFC 1928 section 6). One that is a refusal needs no address behind it.
    fn reply(&mut self, reader: &mut Reader<'_>) -> Result<ClientStep, Stop<ClientError>> {
        version(reader)?;
        let code = reader.byte()?;
        if code != Reply::Succeeded.code() {
            return Err(ClientError::Refused(code).into());
        }
        let _reserved = reader.byte()?;
        let bound = address::read::<ClientError>(reader)?;
        let is_second_due = self.command == Command::Bind && self.state == State::Reply;
        self.state = if is_second_due { State::SecondReply } else { State::Done };
        Ok(ClientStep::Done { used: reader.used(), bound })
    }

    fn put_password(&self, out: &mut Vec<u8>) {
        let Some(Credentials { user, password }) = &self.credentials else { return };
        out.push(PASSWORD_VERSION);
        for field in [user.as_str(), password.expose()] {
            // `new` has checked that the length is one byte.
            out.push(field.len().try_into().unwrap_or(u8::MAX));
            out.extend_from_slice(field.as_bytes());
        }
    }

    fn put_request(&self, out: &mut Vec<u8>) {
        let command = match self.command {
            Command::Connect => CONNECT,
            Command::Bind => BIND,
            Command::Associate => ASSOCIATE,
        };
        out.extend_from_slice(&[VERSION_5, command, 0]);
        address::write(&self.target, out);
    }
}

fn version(reader: &mut Reader<'_>) -> Result<(), Stop<ClientError>> {
    match reader.byte()? {
        VERSION_5 => Ok(()),
        other => Err(ClientError::Version(other).into()),
    }
}

/// A buffer that never has to grow, which would leave the password behind.
fn buffer() -> Zeroizing<Vec<u8>> {
    Zeroizing::new(Vec::with_capacity(MESSAGES_LEN_MAX))
}

/// Greeting, password and request.
const MESSAGES_LEN_MAX: usize = 4 + (3 + 2 * 255) + (3 + 2 + 255 + 2);
