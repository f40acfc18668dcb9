//! What a client says and hears on one connection: a state machine that is given bytes and gives
//! bytes and messages.

use std::io::{self, BufRead as _, Read, Write};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use crate::handshake::keys::{PresharedKey, PublicKey};
use crate::limits::{CLIENT_MESSAGE_LEN_MAX, SERVER_MESSAGE_LEN_MAX};
use crate::login::codec;
use crate::login::frame::{FrameKind, FrameReader, GREETING};
use crate::login::message::{ClientMessage, ServerMessage};
use crate::login::tls::client_lease_psk;

use super::ChannelError;

/// One connection, as its client sees it.
pub(super) struct Dialogue {
    tls: ClientConnection,
    frames: FrameReader,
    is_greeted: bool,
}

impl Dialogue {
    pub(super) fn new(
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<Self, rustls::Error> {
        let tls = ClientConnection::new(config, name)?;
        Ok(Self { tls, frames: FrameReader::new(SERVER_MESSAGE_LEN_MAX), is_greeted: false })
    }

    /// Whether the server has greeted: it may be asked for things.
    pub(super) fn is_greeted(&self) -> bool {
        self.is_greeted
    }

    pub(super) fn wants_write(&self) -> bool {
        self.tls.wants_write()
    }

    /// Reads what the server has sent, some KiB at most.
    pub(super) fn read_tls(&mut self, source: &mut dyn Read) -> Result<(), ChannelError> {
        if self.tls.read_tls(source)? == 0 {
            return Err(ChannelError::Lost(None));
        }
        self.tls.process_new_packets()?;
        Ok(())
    }

    /// Writes what the server is to read.
    pub(super) fn write_tls(&mut self, sink: &mut dyn Write) -> io::Result<()> {
        while self.tls.wants_write() {
            if self.tls.write_tls(sink)? == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        Ok(())
    }

    /// Says something; it is written by [`Self::write_tls`].
    pub(super) fn say(&mut self, message: &ClientMessage) -> Result<(), ChannelError> {
        let frame = codec::encode(message, CLIENT_MESSAGE_LEN_MAX)?;
        self.tls.writer().write_all(&frame)?;
        Ok(())
    }

    /// Says goodbye at the level of TLS.
    pub(super) fn close(&mut self) {
        self.tls.send_close_notify();
    }

    /// The next thing that the server has said; `None` if nothing more has arrived.
    pub(super) fn hear(&mut self) -> Result<Option<ServerMessage>, ChannelError> {
        loop {
            let mut reader = self.tls.reader();
            let chunk = match reader.fill_buf() {
                Ok(&[]) => return Err(ChannelError::Lost(None)),
                Ok(chunk) => chunk,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(ChannelError::Lost(Some(error))),
            };
            let mut rest = chunk;
            let read = self.frames.read(&mut rest);
            let used = chunk.len() - rest.len();
            reader.consume(used);
            let Some(frame) = read? else { continue };
            match frame.kind {
                FrameKind::Greeting if !self.is_greeted => {
                    if !frame.body.starts_with(GREETING.as_bytes()) {
                        return Err(ChannelError::Nonsense("its greeting is another".to_owned()));
                    }
                    self.is_greeted = true;
                    return Ok(None);
                }
                FrameKind::Message if self.is_greeted => {
                    return Ok(Some(codec::decode(&frame.body)?));
                }
                kind => {
                    return Err(ChannelError::Nonsense(format!("a {kind:?} frame out of place")));
                }
            }
        }
    }

    /// The pre-shared key of a lease for the device with this key.
    pub(super) fn lease_psk(&self, device_key: &PublicKey) -> Result<PresharedKey, ChannelError> {
        Ok(client_lease_psk(&self.tls, device_key)?)
    }

    /// The TLS session of what has become a carrier.
    pub(super) fn into_tls(self) -> ClientConnection {
        self.tls
    }
}
