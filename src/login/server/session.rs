//! What is said on one connection: a state machine that is given bytes and the time, and gives
//! bytes and [`Event`]s.
//!
//! The caller moves bytes with [`Session::read_tls`] and [`Session::write_tls`], then calls
//! [`Session::advance`] until it has no more events, and [`Session::handle_timeout`] once
//! [`Session::deadline`] has come. It drops the session when [`Session::is_over`].
//!
//! Memory is bounded, whatever the far end does: nothing more is read while an answer is awaited or
//! waits to be sent, and there is one frame at a time.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::{ServerConfig, ServerConnection};

use crate::handshake::keys::{PresharedKey, PublicKey};
use crate::limits::{
    CLIENT_MESSAGE_LEN_MAX, LOGIN_CLOSE_WITHIN, LOGIN_DECIDED_WITHIN, LOGIN_HANDSHAKE_WITHIN,
    LOGIN_IDLE_MAX, LOGIN_PINGS_BEFORE_MAX, LOGIN_TRIES_MAX, LOGIN_WITHIN, LOGIN_WRITE_WITHIN,
    SERVER_MESSAGE_LEN_MAX,
};
use crate::login::codec;
use crate::login::frame::{Frame, FrameKind, FrameReader, GREETING, frame};
use crate::login::message::{
    ClientMessage, LeaseTerms, LoginRequest, RefusalCode, SCHEMA, Secret, ServerMessage,
};
use crate::login::tls::{ALPN, ClientCertificate, server_lease_psk};

use super::{LoginId, Refused};

/// How long a client may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For the TLS handshake.
    pub handshake: Duration,
    /// To log in after that, and after each refusal.
    pub login: Duration,
    /// To say anything, once it has logged in.
    pub idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { handshake: LOGIN_HANDSHAKE_WITHIN, login: LOGIN_WITHIN, idle: LOGIN_IDLE_MAX }
    }
}

/// Where in its life a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// TLS is not established.
    Handshake,
    /// The client may log in.
    Login,
    /// It has, and the desk decides.
    Deciding(LoginId),
    /// It has its lease.
    LoggedIn(LoginId),
    /// It asked for more time, and the desk decides.
    Renewing(LoginId),
    /// It becomes a carrier as soon as everything is sent.
    Carrier(LoginId),
    /// Nothing more is understood; what is to be sent is sent.
    Closing,
}

/// What the client wants of the desk.
#[derive(Debug)]
pub(super) enum Event {
    /// A lease. To be answered by [`Session::decide`] with the same number.
    Login(Box<Login>),
    /// More time. Likewise.
    Renew(LoginId),
    /// To end its lease.
    Logout(LoginId),
    /// To be a carrier. To be answered by [`Session::become_carrier`] or [`Session::refuse`].
    Carrier(Secret),
    /// To know how busy the server is. To be answered by [`Session::pong`].
    Ping(u64),
}

/// A login as it was said.
#[derive(Debug)]
pub(super) struct Login {
    pub(super) id: LoginId,
    pub(super) request: LoginRequest,
    pub(super) device_key: PublicKey,
    pub(super) certificate: Option<ClientCertificate>,
    pub(super) psk: PresharedKey,
}

/// One connection.
pub(super) struct Session {
    tls: ServerConnection,
    phase: Phase,
    frames: FrameReader,
    certificate: Option<ClientCertificate>,
    /// The login that was granted and has not ended.
    granted: Option<LoginId>,
    /// The far end sends nothing more.
    has_left: bool,
    timeouts: Timeouts,
    tries: u32,
    pings: u32,
    /// When the session is given up in its phase.
    deadline: Instant,
    /// When it is given up because the far end does not read.
    write_deadline: Option<Instant>,
}

impl Session {
    pub(super) fn new(
        now: Instant,
        config: Arc<ServerConfig>,
        timeouts: Timeouts,
    ) -> Result<Self, rustls::Error> {
        let mut tls = ServerConnection::new(config)?;
        // No more than one answer waits to be sent, and it must fit.
        tls.set_buffer_limit(None);
        Ok(Self {
            tls,
            phase: Phase::Handshake,
            frames: FrameReader::new(CLIENT_MESSAGE_LEN_MAX),
            certificate: None,
            granted: None,
            has_left: false,
            timeouts,
            tries: 0,
            pings: 0,
            deadline: now + timeouts.handshake,
            write_deadline: None,
        })
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase
    }

    /// The certificate that the client has shown.
    pub(super) fn certificate(&self) -> Option<&ClientCertificate> {
        self.certificate.as_ref()
    }

    /// The login that was granted on this connection and has not ended.
    pub(super) fn login(&self) -> Option<LoginId> {
        self.granted
    }

    /// The login that is being decided about, or was granted and has not ended.
    pub(super) fn busy_with(&self) -> Option<LoginId> {
        match self.phase {
            Phase::Deciding(id) => Some(id),
            _ => self.granted,
        }
    }

    /// Whether the far end sends nothing more.
    pub(super) fn has_left(&self) -> bool {
        self.has_left
    }

    /// When [`Self::handle_timeout`] is to be called.
    pub(super) fn deadline(&self) -> Instant {
        self.write_deadline.map_or(self.deadline, |write| write.min(self.deadline))
    }

    /// Whether bytes are to be read.
    pub(super) fn wants_read(&self) -> bool {
        self.is_listening() && self.tls.wants_read()
    }

    /// Whether bytes are to be written.
    pub(super) fn wants_write(&self) -> bool {
        self.tls.wants_write()
    }

    /// Whether everything is said and sent.
    pub(super) fn is_over(&self) -> bool {
        self.phase == Phase::Closing && !self.wants_write()
    }

    fn is_listening(&self) -> bool {
        match self.phase {
            Phase::Handshake => true,
            Phase::Login | Phase::LoggedIn(_) => !self.wants_write(),
            _ => false,
        }
    }

    /// Reads what the far end has sent, some KiB at most.
    ///
    /// # Errors
    /// Those of `source`.
    pub(super) fn read_tls(&mut self, now: Instant, source: &mut dyn Read) -> io::Result<()> {
        let read = self.tls.read_tls(source)?;
        if read == 0 {
            self.has_left = true;
            self.phase_over(now);
        } else if let Err(error) = self.tls.process_new_packets() {
            log::debug!("login: {error}");
            self.phase_over(now);
        }
        if self.phase == Phase::Handshake && !self.tls.is_handshaking() {
            self.greet(now);
        }
        Ok(())
    }

    /// Writes what the far end is to read.
    ///
    /// # Errors
    /// Those of `sink`.
    pub(super) fn write_tls(&mut self, now: Instant, sink: &mut dyn Write) -> io::Result<()> {
        while self.tls.wants_write() {
            // The time begins with the first write that does not succeed.
            self.write_deadline.get_or_insert(now + LOGIN_WRITE_WITHIN);
            if self.tls.write_tls(sink)? == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        self.write_deadline = None;
        Ok(())
    }

    fn greet(&mut self, now: Instant) {
        if self.tls.alpn_protocol() != Some(ALPN) {
            // Somebody who is looking around. The handshake has shown the certificate; that is all.
            self.close(now);
            return;
        }
        if let Some(certificate) = self.tls.peer_certificates().and_then(<[_]>::first) {
            self.certificate = ClientCertificate::read(certificate);
        }
        let greeting = format!("{GREETING} {}", env!("CARGO_PKG_VERSION"));
        self.send(now, &frame(FrameKind::Greeting, greeting.as_bytes()));
        self.set_phase(now, Phase::Login);
    }

    /// Understands what was read, up to what the desk has to do next. `next_id` is what a login is
    /// called.
    pub(super) fn advance(
        &mut self,
        now: Instant,
        mut next_id: impl FnMut() -> LoginId,
    ) -> Option<Event> {
        while self.is_listening() && self.phase != Phase::Handshake {
            let frame = match self.next_frame(now)? {
                Frame { kind: FrameKind::Message, body } => body,
                Frame { kind, .. } => {
                    self.malformed(now, &format!("a {kind:?} frame makes no sense here"));
                    return None;
                }
            };
            match codec::decode(&frame) {
                Ok(message) => {
                    if let Some(event) = self.handle(now, message, &mut next_id) {
                        return Some(event);
                    }
                }
                Err(error) => self.malformed(now, &error.to_string()),
            }
        }
        None
    }

    fn next_frame(&mut self, now: Instant) -> Option<Frame> {
        use std::io::BufRead as _;
        loop {
            let mut reader = self.tls.reader();
            let chunk = match reader.fill_buf() {
                Ok(&[]) => {
                    self.phase_over(now);
                    return None;
                }
                Ok(chunk) => chunk,
                Err(error) => {
                    if error.kind() != io::ErrorKind::WouldBlock {
                        self.phase_over(now);
                    }
                    return None;
                }
            };
            let mut rest = chunk;
            let read = self.frames.read(&mut rest);
            let used = chunk.len() - rest.len();
            reader.consume(used);
            match read {
                Ok(Some(frame)) => return Some(frame),
                Ok(None) => {}
                Err(error) => {
                    self.malformed(now, &error.to_string());
                    return None;
                }
            }
        }
    }

    fn handle(
        &mut self,
        now: Instant,
        message: ClientMessage,
        next_id: &mut impl FnMut() -> LoginId,
    ) -> Option<Event> {
        match (self.phase, message) {
            (Phase::Login, ClientMessage::Login(request)) => {
                let login = self.begin_login(now, *request, next_id())?;
                self.set_phase(now, Phase::Deciding(login.id));
                Some(Event::Login(Box::new(login)))
            }
            (Phase::Login, ClientMessage::Carrier { ticket }) => Some(Event::Carrier(ticket)),
            (Phase::Login, ClientMessage::Ping { nonce })
                if self.pings < LOGIN_PINGS_BEFORE_MAX =>
            {
                self.pings += 1;
                Some(Event::Ping(nonce))
            }
            (Phase::LoggedIn(_), ClientMessage::Ping { nonce }) => {
                self.deadline = now + self.timeouts.idle;
                Some(Event::Ping(nonce))
            }
            (Phase::LoggedIn(id), ClientMessage::Renew {}) => {
                self.set_phase(now, Phase::Renewing(id));
                Some(Event::Renew(id))
            }
            (Phase::LoggedIn(id), ClientMessage::Logout {}) => {
                self.granted = None;
                self.close(now);
                Some(Event::Logout(id))
            }
            _ => {
                self.malformed(now, "this message makes no sense at this point");
                None
            }
        }
    }

    fn begin_login(&mut self, now: Instant, request: LoginRequest, id: LoginId) -> Option<Login> {
        if request.schema != SCHEMA {
            let (ours, theirs) = (SCHEMA, request.schema);
            let message = format!(
                "the server speaks version {ours} of the login messages and the client version \
                 {theirs}: install the same release on both"
            );
            self.refuse_and_close(now, RefusalCode::Incompatible, message);
            return None;
        }
        let device_key = request.device_key.parse::<PublicKey>();
        let Some(device_key) = device_key.ok().filter(|key| !key.is_low_order()) else {
            self.malformed(now, "the device's key is no X25519 public key");
            return None;
        };
        let Ok(psk) = server_lease_psk(&self.tls, &device_key) else {
            self.malformed(now, "TLS gives no key for the lease");
            return None;
        };
        Some(Login { id, request, device_key, certificate: self.certificate.clone(), psk })
    }

    /// The desk has decided about the login or renewal `id`.
    pub(super) fn decide(
        &mut self,
        now: Instant,
        id: LoginId,
        decision: Result<LeaseTerms, Refused>,
    ) {
        let is_renewal = match self.phase {
            Phase::Deciding(awaited) if awaited == id => false,
            Phase::Renewing(awaited) if awaited == id => true,
            _ => return,
        };
        match decision {
            Ok(terms) => {
                self.granted = Some(id);
                self.set_phase(now, Phase::LoggedIn(id));
                self.say(now, &ServerMessage::Lease(Box::new(terms)));
            }
            Err(refused) if is_renewal => {
                self.set_phase(now, Phase::LoggedIn(id));
                self.say(now, &refused.into_message());
            }
            Err(refused) => self.refuse(now, refused),
        }
    }

    /// Refuses a login or a ticket; the client may try again a few times.
    pub(super) fn refuse(&mut self, now: Instant, refused: Refused) {
        self.tries += 1;
        self.set_phase(now, Phase::Login);
        self.say(now, &refused.into_message());
        if self.tries >= LOGIN_TRIES_MAX {
            self.close(now);
        }
    }

    /// Answers [`Event::Ping`].
    pub(super) fn pong(&mut self, now: Instant, nonce: u64, load_permille: u16) {
        self.say(now, &ServerMessage::Pong { nonce, load_permille });
    }

    /// Answers [`Event::Carrier`]: once everything is written, the connection is a carrier.
    pub(super) fn become_carrier(&mut self, now: Instant, login: LoginId) {
        self.set_phase(now, Phase::Carrier(login));
        self.say(now, &ServerMessage::CarrierReady {});
    }

    /// The login this connection carries datagrams for, once that is all there is left to do.
    pub(super) fn carrier(&self) -> Option<LoginId> {
        match self.phase {
            Phase::Carrier(login) if !self.wants_write() => Some(login),
            _ => None,
        }
    }

    /// The TLS session of what has become a carrier.
    pub(super) fn into_tls(self) -> ServerConnection {
        self.tls
    }

    /// Tells the client that its lease has ended, and closes.
    pub(super) fn end(&mut self, now: Instant, code: RefusalCode, message: String) {
        match self.phase {
            Phase::Deciding(_) => self.refuse_and_close(now, code, message),
            _ if self.granted.take().is_some() => {
                self.say(now, &ServerMessage::Ended { code, message });
                self.close(now);
            }
            _ => self.close(now),
        }
    }

    /// The deadline has come. Returns whether there is any more to do.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> bool {
        if now < self.deadline() {
            return true;
        }
        let is_stuck = self.write_deadline.is_some_and(|deadline| now >= deadline);
        match self.phase {
            Phase::Handshake | Phase::Carrier(_) | Phase::Closing => return false,
            _ if is_stuck => return false,
            Phase::Deciding(_) => {
                self.refuse_and_close(now, RefusalCode::Busy, "the accounts do not answer".into());
            }
            Phase::Renewing(id) => {
                self.set_phase(now, Phase::LoggedIn(id));
                let message = "the accounts do not answer".to_owned();
                let code = RefusalCode::Busy;
                self.say(now, &Refused { code, message, retry_after_s: None }.into_message());
            }
            Phase::Login | Phase::LoggedIn(_) => self.close(now),
        }
        true
    }

    fn malformed(&mut self, now: Instant, reason: &str) {
        self.refuse_and_close(now, RefusalCode::Malformed, reason.to_owned());
    }

    fn refuse_and_close(&mut self, now: Instant, code: RefusalCode, message: String) {
        log::debug!("login refused as {code:?}: {message}");
        self.say(now, &Refused { code, message, retry_after_s: None }.into_message());
        self.close(now);
    }

    /// Says goodbye at the level of TLS; what was said before is sent first.
    fn close(&mut self, now: Instant) {
        self.tls.send_close_notify();
        self.phase_over(now);
    }

    fn phase_over(&mut self, now: Instant) {
        if self.phase != Phase::Closing {
            self.set_phase(now, Phase::Closing);
        }
    }

    fn set_phase(&mut self, now: Instant, phase: Phase) {
        self.phase = phase;
        self.deadline = now
            + match phase {
                Phase::Handshake => self.timeouts.handshake,
                Phase::Login => self.timeouts.login,
                Phase::Deciding(_) | Phase::Renewing(_) => LOGIN_DECIDED_WITHIN,
                Phase::LoggedIn(_) => self.timeouts.idle,
                Phase::Carrier(_) => LOGIN_WRITE_WITHIN,
                Phase::Closing => LOGIN_CLOSE_WITHIN,
            };
    }

    fn say(&mut self, now: Instant, message: &ServerMessage) {
        match codec::encode(message, SERVER_MESSAGE_LEN_MAX) {
            Ok(frame) => self.send(now, &frame),
            Err(error) => {
                // A lease with more routes than fit: an admin's mistake.
                log::error!("a client cannot be told its lease: {error}");
                self.close(now);
            }
        }
    }

    fn send(&mut self, now: Instant, frame: &[u8]) {
        if let Err(error) = self.tls.writer().write_all(frame) {
            log::debug!("login: {error}");
            self.phase_over(now);
        }
    }
}

impl Refused {
    fn into_message(self) -> ServerMessage {
        let Self { code, message, retry_after_s } = self;
        ServerMessage::Refused { code, message, retry_after_s }
    }
}
