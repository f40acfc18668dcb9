//! Asks an upstream proxy for a connection, in whichever protocol it speaks. Without a socket.

use std::io;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::limits::PROXY_UPSTREAM_ANSWER_LEN_MAX;
use crate::proxy::dial::Failure;
use crate::proxy::http::{
    ConnectError, ConnectReply, OptionsReply, ProxyAuthorization, write_connect, write_options,
};
use crate::proxy::socks::client::{Client, ClientError, ClientStep, Command};
use crate::proxy::socks::reply::Reply;
use crate::proxy::target::Target;

use super::group::ServerAddress;
use super::proof::Proof;
use super::tls;

/// What an upstream proxy speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// SOCKS5.
    Socks5,
    /// HTTP/1.1, of which CONNECT is used.
    Http,
    /// The same inside TLS.
    Https,
}

impl Scheme {
    /// All of them, with the names that addresses begin with.
    pub const ALL: [(&'static str, Self); 3] =
        [("socks5", Self::Socks5), ("http", Self::Http), ("https", Self::Https)];

    /// Whether it is HTTP, inside TLS or not.
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Https)
    }
}

/// The conversation with an upstream proxy.
#[derive(Debug)]
pub enum Handshake {
    /// In SOCKS5.
    Socks {
        /// What is said.
        client: Box<Client>,
        /// Whether the proxy has answered anything.
        has_heard: bool,
    },
    /// In HTTP.
    Http(ConnectReply),
    /// In HTTP, to hear that the proxy is there and knows who asks; nothing else is asked for.
    Greeting {
        /// What it answers.
        reply: OptionsReply,
        /// What it has said about silences.
        keep_alive: Option<Duration>,
    },
}

/// Why an upstream proxy does not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// It said so in SOCKS.
    #[error(transparent)]
    Socks(#[from] ClientError),
    /// It said so in HTTP.
    #[error(transparent)]
    Http(#[from] ConnectError),
    /// The credentials cannot be sent in HTTP.
    #[error("the credentials have a character that HTTP cannot send")]
    Credentials,
    /// A token is shown by HTTP alone.
    #[error("SOCKS5 has no way to show a token alone: give user and token in `credentials_file`")]
    Token,
    /// TLS has failed, for this reason.
    #[error("{0}")]
    Tls(String),
    /// It has closed the connection instead of an answer.
    #[error("the upstream proxy has closed the connection instead of an answer")]
    Closed {
        /// Whether it had been told what is asked for.
        was_told: bool,
    },
    /// Its answer has no end.
    #[error("the upstream proxy's answer has more than {PROXY_UPSTREAM_ANSWER_LEN_MAX} bytes")]
    TooLong,
}

/// Whose fault a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The server's: it is held against it, and another one is asked.
    Server,
    /// Perhaps the server's, perhaps that of what it was asked for: another one is asked, but
    /// nothing is held against it, or clients could take servers out by what they ask for.
    Unclear,
    /// That of what was asked for: the client hears of it.
    Target,
}

impl Handshake {
    /// Begins to ask for a connection to `target`, and appends what to send.
    ///
    /// # Errors
    /// The credentials cannot be sent.
    pub fn begin(
        scheme: Scheme,
        target: &Target,
        proof: Option<&Proof>,
        out: &mut Vec<u8>,
    ) -> Result<Self, HandshakeError> {
        match scheme {
            Scheme::Socks5 => {
                let credentials = match proof {
                    Some(Proof::Password(credentials)) => Some(credentials.clone()),
                    Some(Proof::Token(_)) => return Err(HandshakeError::Token),
                    None => None,
                };
                let mut client = Client::new(Command::Connect, target.clone(), credentials)?;
                out.extend_from_slice(&client.open(false));
                Ok(Self::Socks { client: Box::new(client), has_heard: false })
            }
            Scheme::Http | Scheme::Https => {
                let authorization = proof.map(authorization).transpose()?;
                write_connect(target, authorization.as_ref(), out);
                Ok(Self::Http(ConnectReply::default()))
            }
        }
    }

    /// Begins to ask an HTTP proxy whether it is there and knows who asks, and appends what to
    /// send.
    ///
    /// # Errors
    /// The credentials cannot be sent.
    pub fn greet(
        server: &ServerAddress,
        proof: Option<&Proof>,
        out: &mut Vec<u8>,
    ) -> Result<Self, HandshakeError> {
        let authorization = proof.map(authorization).transpose()?;
        write_options(&server.target, authorization.as_ref(), out);
        Ok(Self::Greeting { reply: OptionsReply::default(), keep_alive: None })
    }

    /// For how long a proxy that was greeted bears a silence, as far as it has said.
    pub fn keep_alive(&self) -> Option<Duration> {
        match self {
            Self::Greeting { keep_alive, .. } => *keep_alive,
            Self::Socks { .. } | Self::Http(_) => None,
        }
    }

    /// Reads what has come, takes that away from `input`, and appends what to send. Returns whether
    /// the connection is there; `input` begins with what has come through it then.
    ///
    /// # Errors
    /// There will be none.
    pub fn advance(
        &mut self,
        input: &mut Vec<u8>,
        out: &mut Zeroizing<Vec<u8>>,
    ) -> Result<bool, HandshakeError> {
        match self {
            Self::Socks { client, has_heard } => loop {
                match client.advance(input)? {
                    ClientStep::NeedMore => break,
                    ClientStep::Send { used, send } => {
                        *has_heard = true;
                        input.drain(..used);
                        out.extend_from_slice(&send);
                    }
                    ClientStep::Done { used, .. } => {
                        input.drain(..used);
                        return Ok(true);
                    }
                }
            },
            Self::Http(reply) => {
                if let Some(used) = reply.read(input)? {
                    input.drain(..used);
                    return Ok(true);
                }
            }
            Self::Greeting { reply, keep_alive } => {
                if let Some(presence) = reply.read(input)? {
                    *keep_alive = presence.keep_alive;
                    input.drain(..presence.used);
                    return Ok(true);
                }
            }
        }
        match input.len() > PROXY_UPSTREAM_ANSWER_LEN_MAX {
            true => Err(HandshakeError::TooLong),
            false => Ok(false),
        }
    }

    /// Whether the proxy knows what is asked for: from then on a silence may be the target's.
    pub fn was_told(&self) -> bool {
        match self {
            Self::Socks { has_heard, .. } => *has_heard,
            Self::Http(_) | Self::Greeting { .. } => true,
        }
    }
}

/// How HTTP shows who asks.
fn authorization(proof: &Proof) -> Result<ProxyAuthorization, HandshakeError> {
    let written = match proof {
        Proof::Password(it) => ProxyAuthorization::basic(&it.user, it.password.expose()),
        Proof::Token(token) => ProxyAuthorization::bearer(token.expose()),
    };
    written.map_err(|_| HandshakeError::Credentials)
}

impl HandshakeError {
    /// What a connection that has failed with `error` means, where the proxy knew what is asked for
    /// or not.
    pub fn of_io(error: &io::Error, was_told: bool) -> Self {
        tls::why(error).map_or(Self::Closed { was_told }, Self::Tls)
    }

    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Socks(ClientError::Refused(code)) => match Reply::of(*code) {
                Some(
                    Reply::NotAllowed
                    | Reply::NetworkUnreachable
                    | Reply::HostUnreachable
                    | Reply::ConnectionRefused
                    | Reply::TtlExpired,
                ) => Fault::Target,
                _ => Fault::Unclear,
            },
            Self::Http(ConnectError::Denied(_) | ConnectError::Unreachable(_)) => Fault::Target,
            Self::Http(ConnectError::Refused(_)) | Self::Closed { was_told: true } => {
                Fault::Unclear
            }
            Self::Socks(_) | Self::Http(_) | Self::Credentials | Self::Closed { .. } => {
                Fault::Server
            }
            Self::TooLong | Self::Token | Self::Tls(_) => Fault::Server,
        }
    }

    /// What the client hears if nobody else does it.
    pub fn failure(&self) -> Failure {
        match self {
            Self::Socks(ClientError::Refused(code)) => match Reply::of(*code) {
                Some(Reply::NotAllowed) => Failure::UpstreamDenied,
                Some(Reply::NetworkUnreachable) => Failure::NetworkUnreachable,
                Some(Reply::HostUnreachable) => Failure::HostUnreachable,
                Some(Reply::ConnectionRefused) => Failure::Refused,
                Some(Reply::TtlExpired) => Failure::TimedOut,
                _ => Failure::Upstream,
            },
            Self::Http(ConnectError::Denied(_)) => Failure::UpstreamDenied,
            Self::Http(ConnectError::Unreachable(504)) => Failure::TimedOut,
            Self::Http(ConnectError::Unreachable(_)) => Failure::HostUnreachable,
            _ => Failure::Upstream,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::secret::Secret;

    /// What comes of a handshake that is answered with `answer`, given byte by byte.
    fn outcome(scheme: Scheme, answer: &[u8]) -> Result<(bool, Vec<u8>), HandshakeError> {
        let target = "example.org:443".parse().unwrap();
        let (mut input, mut out) = (Vec::new(), Zeroizing::new(Vec::new()));
        let mut handshake = Handshake::begin(scheme, &target, None, &mut out)?;
        let mut is_done = false;
        for byte in answer {
            input.push(*byte);
            if !is_done {
                is_done = handshake.advance(&mut input, &mut out)?;
            }
        }
        Ok((is_done, input))
    }

    #[test]
    fn a_connection_is_asked_for_by_name_and_what_follows_is_kept() {
        let credentials = Proof::password("me", Secret::new("secret".to_owned())).unwrap();
        let target = "example.org:443".parse().unwrap();
        let mut out = Zeroizing::new(Vec::new());
        Handshake::begin(Scheme::Http, &target, Some(&credentials), &mut out).unwrap();
        assert_eq!(
            String::from_utf8_lossy(&out),
            "CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\
             Proxy-Authorization: Basic bWU6c2VjcmV0\r\n\r\n"
        );
        out.clear();
        let token = Proof::Token(Secret::new("abc".to_owned()));
        Handshake::begin(Scheme::Https, &target, Some(&token), &mut out).unwrap();
        let text = String::from_utf8_lossy(&out);
        assert!(text.ends_with("\r\nProxy-Authorization: Bearer abc\r\n\r\n"), "{text}");
        out.clear();
        let without = Handshake::begin(Scheme::Socks5, &target, Some(&token), &mut out);
        assert_eq!((without.unwrap_err(), out.len()), (HandshakeError::Token, 0));
        let mut socks =
            Handshake::begin(Scheme::Socks5, &target, Some(&credentials), &mut out).unwrap();
        assert_eq!(out[..], [5, 2, 0, 2]);
        assert!(!socks.was_told());
        let mut input = b"\x05\x02\x01\x00".to_vec();
        assert_eq!(socks.advance(&mut input, &mut out), Ok(false));
        assert!(socks.was_told());
        let said = b"\x05\x02\x00\x02\x01\x02me\x06secret\x05\x01\x00\x03\x0bexample.org\x01\xbb";
        assert_eq!(out[..], said[..]);
        let tunnel = b"HTTP/1.1 200 OK\r\n\r\nhello";
        assert_eq!(outcome(Scheme::Http, tunnel), Ok((true, b"hello".to_vec())));
        let tunnel = b"\x05\x00\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00hello";
        assert_eq!(outcome(Scheme::Socks5, tunnel), Ok((true, b"hello".to_vec())));
    }

    #[test]
    fn each_refusal_is_told_as_it_is_and_only_a_servers_own_is_held_against_it() {
        let (server, unclear, target) = (Fault::Server, Fault::Unclear, Fault::Target);
        for (answer, fault, failure) in [
            (&b"\x04"[..], server, Failure::Upstream),
            (b"\x05\xff", server, Failure::Upstream),
            (b"\x05\x02", server, Failure::Upstream),
            (b"\x05\x00\x05\x01", unclear, Failure::Upstream),
            (b"\x05\x00\x05\x02", target, Failure::UpstreamDenied),
            (b"\x05\x00\x05\x03", target, Failure::NetworkUnreachable),
            (b"\x05\x00\x05\x04", target, Failure::HostUnreachable),
            (b"\x05\x00\x05\x05", target, Failure::Refused),
            (b"\x05\x00\x05\x06", target, Failure::TimedOut),
            (b"\x05\x00\x05\x07", unclear, Failure::Upstream),
            (b"\x05\x00\x05\x63", unclear, Failure::Upstream),
        ] {
            let error = outcome(Scheme::Socks5, answer).unwrap_err();
            assert_eq!((error.fault(), error.failure()), (fault, failure), "{answer:?}");
        }
        for (status, fault, failure) in [
            ("407 No", server, Failure::Upstream),
            ("403 No", target, Failure::UpstreamDenied),
            ("502 No", target, Failure::HostUnreachable),
            ("504 No", target, Failure::TimedOut),
            ("500 No", unclear, Failure::Upstream),
            ("503 No", unclear, Failure::Upstream),
            ("abc", server, Failure::Upstream),
        ] {
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
            let error = outcome(Scheme::Http, answer.as_bytes()).unwrap_err();
            assert_eq!((error.fault(), error.failure()), (fault, failure), "{status}");
        }
    }

    #[test]
    fn an_answer_without_end_is_cut_off() {
        let endless = vec![b'a'; PROXY_UPSTREAM_ANSWER_LEN_MAX + 1];
        let answer = [b"HTTP/1.1 200 ", &endless[..]].concat();
        let error = outcome(Scheme::Http, &answer).unwrap_err();
        assert_eq!(error.fault(), Fault::Server);
    }
}
