//! The server's end of the control channel.
//!
//! `session` is what is said on one connection, as a state machine without sockets or clocks.
//! `thread` is the event loop around many of them. Who may log in, and what a lease is, decides
//! the [`LoginDesk`] behind it; the thread never waits for its answer.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use mio::net::TcpStream;
use rustls::ServerConnection;

use crate::handshake::keys::{PresharedKey, PublicKey};
use crate::login::message::{LeaseTerms, LoginRequest, RefusalCode, Secret};
use crate::login::tls::ClientCertificate;

mod connections;
mod crowd;
mod listeners;
mod session;
mod thread;

#[cfg(test)]
mod tests;

pub use listeners::{ListenError, LoginListeners};
pub use session::Timeouts;
pub use thread::{LoginHandle, LoginOptions, LoginStartError, LoginThread};

/// One login, from the attempt to its end. Never used twice while the process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LoginId(pub u64);

/// Somebody wants a lease.
#[derive(Debug)]
pub struct LoginAttempt {
    /// What the login is called from now on.
    pub id: LoginId,
    /// Where it comes from.
    pub from: SocketAddr,
    /// What was said.
    pub request: LoginRequest,
    /// The key in the request: one that a handshake can be made with.
    pub device_key: PublicKey,
    /// The certificate that the client has shown, if it did; whether it is revoked was looked at.
    pub certificate: Option<ClientCertificate>,
    /// What the two ends alone know of this connection: the UDP handshakes of the lease mix it in.
    pub psk: PresharedKey,
}

/// Why there is no lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Why, for programs.
    pub code: RefusalCode,
    /// Why, for people, and what mends it.
    pub message: String,
    /// Seconds after which another try makes sense.
    pub retry_after_s: Option<u32>,
}

/// Takes the decision about a login or a renewal, from any thread, once.
pub type Answer = Box<dyn FnOnce(Result<LeaseTerms, Refused>) + Send>;

/// Decides about logins. Every method is called by the login thread, which serves nobody else
/// meanwhile: none may block.
///
/// A login that was granted ends in one of three ways: by [`Self::logout`], by [`Self::gone`], or
/// by [`LoginHandle::end`], of which the desk knows by itself.
pub trait LoginDesk: Send + Sync {
    /// Decides about a login, now or later.
    fn login(&self, attempt: LoginAttempt, answer: Answer);
    /// Decides whether a lease may last longer, now or later.
    fn renew(&self, id: LoginId, answer: Answer);
    /// The client gives its lease back.
    fn logout(&self, id: LoginId);
    /// The connection of a login that was granted is lost. Its lease goes on until it runs out.
    fn gone(&self, id: LoginId);
    /// Whose ticket this is, if that login is good: the connection becomes a carrier.
    fn carrier(&self, ticket: &Secret) -> Option<LoginId>;
    /// The revocation list has changed and names these serial numbers: logins that showed one of
    /// them are over, those whose connection is lost included.
    fn revoked(&self, serials: &BTreeSet<String>);
    /// How busy the server is, in thousandths of what it can do.
    fn load_permille(&self) -> u16;
}

/// A connection that carries datagrams from now on. The client knows it already.
#[derive(Debug)]
pub struct CarrierConnection {
    /// The login that it belongs to.
    pub login: LoginId,
    /// Where the client is.
    pub from: SocketAddr,
    /// The connection, registered nowhere.
    pub stream: TcpStream,
    /// Its TLS session. Frames that have arrived already are in its reader; read that first.
    pub tls: ServerConnection,
}

/// Takes carrier connections over. It is called by the login thread and must not block.
pub trait CarrierSink: Send + Sync {
    /// Takes one over. Dropping it closes it.
    fn take(&self, connection: CarrierConnection);
}
