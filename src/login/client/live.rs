//! A channel that is logged in: one source of events among others.

use std::io;

use mio::event::Source;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

use crate::limits::LOGIN_STEPS_PER_TURN;
use crate::login::message::{ClientMessage, LeaseTerms, RefusalCode, ServerMessage};

use super::dialogue::Dialogue;
use super::{ChannelError, Refusal};

/// What the server says to a client that has logged in.
#[derive(Debug)]
pub enum News {
    /// It is there.
    Pong {
        /// From the question.
        nonce: u64,
        /// How busy it is, in thousandths of what it can do.
        load_permille: u16,
    },
    /// The lease lasts longer. These are its terms from now on.
    Renewed(Box<LeaseTerms>),
    /// The lease does not last longer than was granted.
    NotRenewed(Refusal),
    /// The lease has ended, and all paths with it.
    Ended {
        /// Why, for programs.
        code: RefusalCode,
        /// Why, for people.
        message: String,
    },
}

/// A connection of a client that has logged in. Nothing here blocks.
///
/// It is registered like any source of mio. After an event of its token, and after
/// [`Self::ping`], [`Self::renew`] or [`Self::logout`], [`Self::turn`] is to be called.
pub struct LiveChannel {
    stream: TcpStream,
    dialogue: Dialogue,
}

impl LiveChannel {
    pub(super) fn new(stream: TcpStream, dialogue: Dialogue) -> Self {
        Self { stream, dialogue }
    }

    /// Asks whether the server is there.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn ping(&mut self, nonce: u64) -> Result<(), ChannelError> {
        self.dialogue.say(&ClientMessage::Ping { nonce })
    }

    /// Asks for the lease to last longer.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn renew(&mut self) -> Result<(), ChannelError> {
        self.dialogue.say(&ClientMessage::Renew {})
    }

    /// Gives the lease back and says goodbye.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn logout(&mut self) -> Result<(), ChannelError> {
        self.dialogue.say(&ClientMessage::Logout {})?;
        self.dialogue.close();
        Ok(())
    }

    /// Sends and receives as much as there is; appends what the server has said to `news`. Returns
    /// whether it is to be called again although there is no event.
    ///
    /// # Errors
    /// The connection is gone: the lease goes on, but another login is needed to renew it.
    pub fn turn(&mut self, news: &mut Vec<News>) -> Result<bool, ChannelError> {
        self.write()?;
        for _ in 0..LOGIN_STEPS_PER_TURN {
            while let Some(message) = self.dialogue.hear()? {
                news.push(understand(message)?);
            }
            match self.dialogue.read_tls(&mut self.stream) {
                Ok(()) => self.write()?,
                // Nothing more for now.
                Err(ChannelError::Timeout) => return Ok(false),
                Err(ChannelError::Lost(Some(error)))
                    if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Sends what there is, if the socket takes it; the rest follows when it does.
    fn write(&mut self) -> Result<(), ChannelError> {
        loop {
            match self.dialogue.write_tls(&mut self.stream) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ChannelError::Lost(Some(error))),
            }
        }
    }
}

fn understand(message: ServerMessage) -> Result<News, ChannelError> {
    Ok(match message {
        ServerMessage::Pong { nonce, load_permille } => News::Pong { nonce, load_permille },
        ServerMessage::Lease(terms) => News::Renewed(terms),
        ServerMessage::Refused { code, message, retry_after_s } => {
            News::NotRenewed(Refusal { code, message, retry_after_s })
        }
        ServerMessage::Ended { code, message } => News::Ended { code, message },
        ServerMessage::CarrierReady {} => {
            return Err(ChannelError::Nonsense("a carrier that nobody asked for".to_owned()));
        }
    })
}

impl Source for LiveChannel {
    fn register(
        &mut self,
        registry: &Registry,
        token: Token,
        interests: Interest,
    ) -> io::Result<()> {
        self.stream.register(registry, token, interests)
    }

    fn reregister(
        &mut self,
        registry: &Registry,
        token: Token,
        interests: Interest,
    ) -> io::Result<()> {
        self.stream.reregister(registry, token, interests)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.stream.deregister(registry)
    }
}
