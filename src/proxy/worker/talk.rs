//! What is said to an upstream proxy that is connected.

use std::{fmt, io};

use zeroize::Zeroizing;

use crate::proxy::origins::server_name;
use crate::proxy::stream::{End, Moved, Stream, TlsStream};
use crate::proxy::upstream::Group;
use crate::proxy::upstream::group::ServerAddress;
use crate::proxy::upstream::handshake::{Handshake, HandshakeError, Scheme};

use super::connection::write_out;

/// A conversation with an upstream proxy, inside TLS if it speaks that.
pub(super) struct Talk {
    pub(super) origin: End,
    /// The number of its socket among those of the connection.
    pub(super) socket: usize,
    pub(super) handshake: Handshake,
    /// What it has said and nobody has dealt with.
    pub(super) input: Vec<u8>,
    output: Zeroizing<Vec<u8>>,
}

/// How far a talk has come.
pub(super) enum Progress {
    /// The server has to answer.
    Wait,
    /// It has done what it was asked.
    Done,
}

/// Without what is said: the credentials are among it.
impl fmt::Debug for Talk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Talk").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl Talk {
    /// Has `output`, with which `handshake` has begun, said to a server that is connected. TLS
    /// comes first where that is to be and nobody has spoken yet.
    ///
    /// # Errors
    /// TLS cannot begin.
    pub(super) fn begin(
        (group, server): (&Group, &ServerAddress),
        (mut origin, socket): (End, usize),
        handshake: Handshake,
        output: Zeroizing<Vec<u8>>,
    ) -> Result<Self, HandshakeError> {
        if server.scheme == Scheme::Https && matches!(origin.stream, Stream::Tcp(_)) {
            let failed = |why: &dyn fmt::Display| HandshakeError::Tls(why.to_string());
            let (tls, name) = (group.tls(), server_name(&server.target.host));
            let (tls, name) = tls.zip(name).ok_or_else(|| failed(&"TLS was not set up"))?;
            let wrapped = origin.wrap(|stream| match stream {
                Stream::Tcp(tcp) => TlsStream::client(tcp, tls, name).map(Stream::Tls),
                tls @ Stream::Tls(_) => Ok(tls),
            });
            origin = wrapped.map_err(|error| failed(&error))?;
        }
        Ok(Self { origin, socket, handshake, input: Vec::new(), output })
    }

    /// Whether the server knows what is asked for: it does not while TLS is being agreed on.
    pub(super) fn was_told(&self) -> bool {
        self.handshake.was_told() && !self.is_handshaking()
    }

    fn is_handshaking(&self) -> bool {
        matches!(self.origin.stream, Stream::Tls(_)) && !self.origin.stream.is_secured()
    }

    /// Goes on for as long as nothing has to happen first.
    ///
    /// # Errors
    /// The server does not do what it was asked.
    pub(super) fn go_on(&mut self) -> Result<Progress, HandshakeError> {
        loop {
            let was_handshaking = self.is_handshaking();
            let written: io::Result<bool> = match was_handshaking {
                true => self.origin.flush().map(|()| false),
                false => write_out(&mut self.origin, &mut self.output),
            };
            // What it has said before it broke may tell why.
            let broken = written.err();
            let mut buffer = [0; 2048];
            match (self.origin.read(&mut buffer), broken) {
                (Ok(Moved::Bytes(len)), _) => {
                    self.input.extend_from_slice(buffer.get(..len).unwrap_or_default());
                    if self.handshake.advance(&mut self.input, &mut self.output)? {
                        return Ok(Progress::Done);
                    }
                }
                (Ok(Moved::Blocked), Some(error)) | (Err(error), _) => {
                    return Err(HandshakeError::of_io(&error, self.was_told()));
                }
                (Ok(Moved::Blocked), None) if self.origin.is_readable() => {}
                (Ok(Moved::Blocked), None) if was_handshaking != self.is_handshaking() => {}
                (Ok(Moved::Blocked), None) => return Ok(Progress::Wait),
                (Ok(Moved::End), _) => {
                    return Err(HandshakeError::Closed { was_told: self.was_told() });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_not_shown() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let tcp = mio::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let server: ServerAddress = "http://192.0.2.1:8080".parse().unwrap();
        let mut output = Zeroizing::new(Vec::new());
        let handshake = Handshake::greet(&server, None, &mut output).unwrap();
        let origin = End::new(Stream::Tcp(tcp));
        let talk = Talk { origin, socket: 7, handshake, input: vec![42], output };
        assert_eq!(format!("{talk:?}"), "Talk { socket: 7, .. }");
    }
}
