//! What each worker counts, and why clients are refused.

use crate::accounts::refusal::RefusalCode;
use crate::telemetry::counters::Counter;

use super::dial::Failure;
use super::socks::association::AssociationDrop;
use super::socks::datagram::DatagramError;

/// Why a client was sent away other than for its origin's sake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The entrance has as many clients as it takes.
    Full,
    /// Its source has.
    SourceFull,
    /// Its source opens connections faster than it may.
    SourceTooFast,
    /// It made room for a newer one, having asked for nothing.
    MadeRoom,
    /// It has not asked for anything in time.
    TooSlow,
    /// What it said is malformed, or in no protocol that is served.
    Malformed,
    /// TLS with it has not come about: its certificate is missing or not good, it does not believe
    /// the gateway's, or it speaks no TLS that is spoken here.
    TlsFailed,
    /// It asked for something that is not served.
    NotServed,
    /// The gateway stops.
    Stopping,
    /// It has not said who it is, where that is required.
    NoLogin,
    /// It is not who it says, or may not come in now.
    LoginRefused,
    /// What its user may move in a day or a month is used up.
    QuotaUsedUp,
}

impl Refusal {
    /// All of them, in the order in which they are counted.
    pub const ALL: [Self; 12] = [
        Self::Full,
        Self::SourceFull,
        Self::SourceTooFast,
        Self::MadeRoom,
        Self::TooSlow,
        Self::Malformed,
        Self::TlsFailed,
        Self::NotServed,
        Self::Stopping,
        Self::NoLogin,
        Self::LoginRefused,
        Self::QuotaUsedUp,
    ];

    /// The name under which it is counted.
    pub fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::SourceFull => "source_full",
            Self::SourceTooFast => "source_too_fast",
            Self::MadeRoom => "made_room",
            Self::TooSlow => "too_slow",
            Self::Malformed => "malformed",
            Self::TlsFailed => "tls_failed",
            Self::NotServed => "not_served",
            Self::Stopping => "stopping",
            Self::NoLogin => "no_login",
            Self::LoginRefused => "login_refused",
            Self::QuotaUsedUp => "quota_used_up",
        }
    }

    /// As what it counts that the accounts do not let somebody in.
    pub fn by_accounts(code: RefusalCode) -> Self {
        match code {
            RefusalCode::QuotaExceeded => Self::QuotaUsedUp,
            _ => Self::LoginRefused,
        }
    }
}

/// Why a datagram of an association went nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatagramDrop {
    /// It came to the client's side from somebody else.
    NotClient,
    /// It is a fragment.
    Fragment,
    /// It is no datagram of SOCKS otherwise.
    Malformed,
    /// It came from a host that the client has not sent to.
    Unasked,
    /// The client may not send there, or not hear from there any more.
    Denied,
    /// It is more than its user may have now.
    Limited,
    /// Its name was not found, or nobody could tell.
    NameUnknown,
    /// Too many wait for names already.
    NamesWaiting,
    /// The kernel had no room for it.
    Blocked,
    /// It does not fit the way that it has to go.
    TooBig,
    /// The kernel does not send it for another reason: there is no route, say.
    Refused,
}

impl DatagramDrop {
    /// The names under which they are counted.
    pub const NAMES: [&'static str; 11] = [
        "not_client",
        "fragment",
        "malformed",
        "unasked",
        "denied",
        "limited",
        "name_unknown",
        "names_waiting",
        "blocked",
        "too_big",
        "refused",
    ];
}

impl From<AssociationDrop> for DatagramDrop {
    fn from(why: AssociationDrop) -> Self {
        match why {
            AssociationDrop::NotClient => Self::NotClient,
            AssociationDrop::Datagram(DatagramError::Fragment(_)) => Self::Fragment,
            AssociationDrop::Datagram(_) => Self::Malformed,
            AssociationDrop::Unasked => Self::Unasked,
        }
    }
}

/// The counters of one worker, which is the only one to write them.
#[derive(Debug, Default)]
pub struct ProxyCounters {
    /// Clients that were let in.
    pub accepted: Counter,
    /// Those of them that are gone.
    pub closed: Counter,
    /// Origins that were reached.
    pub reached: Counter,
    /// Requests of HTTP that were forwarded, or were to be.
    pub requests: Counter,
    /// Those of them for which a connection to the origin was there already.
    pub reused: Counter,
    /// Clients of other proxies that are who they say they are.
    pub vouched: Counter,
    /// Bytes from clients to origins.
    pub up_bytes: Counter,
    /// Bytes from origins to clients.
    pub down_bytes: Counter,
    /// Relays that ended because nothing moved any more, or because their time was over.
    pub timed_out: Counter,
    /// Relays that ended because their user may not have them any more.
    pub revoked: Counter,
    /// Relays that ended because a connection broke.
    pub broken: Counter,
    /// Times that the kernel could not hand over a connection, for want of descriptors mostly.
    pub accept_pauses: Counter,
    /// Connections to ports that were opened for clients (BIND), from hosts that were not expected.
    pub strangers: Counter,
    /// UDP associations that were opened.
    pub associations: Counter,
    /// Datagrams that were sent on for clients.
    pub up_datagrams: Counter,
    /// Datagrams that were sent to clients.
    pub down_datagrams: Counter,
    /// Records for the access log that there was no room for.
    pub records_dropped: Counter,
    datagram_drops: [Counter; DatagramDrop::NAMES.len()],
    refusals: [Counter; Refusal::ALL.len()],
    failures: [Counter; Failure::NAMES.len()],
}

impl ProxyCounters {
    /// Counts a client that is sent away.
    pub fn refuse(&self, refusal: Refusal) {
        if let Some(counter) = self.refusals.get(refusal as usize) {
            counter.add(1);
        }
    }

    /// Counts an origin that was not reached.
    pub fn fail(&self, failure: Failure) {
        if let Some(counter) = self.failures.get(failure.index()) {
            counter.add(1);
        }
    }

    /// Counts a datagram of an association that goes nowhere.
    pub fn drop_datagram(&self, why: DatagramDrop) {
        if let Some(counter) = self.datagram_drops.get(why as usize) {
            counter.add(1);
        }
    }

    /// How many datagrams went nowhere, by reason.
    pub fn datagrams_dropped(&self) -> impl Iterator<Item = (&'static str, u64)> {
        DatagramDrop::NAMES.into_iter().zip(self.datagram_drops.iter().map(Counter::get))
    }

    /// How many were sent away, by reason.
    pub fn refused(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Refusal::ALL.into_iter().map(Refusal::name).zip(self.refusals.iter().map(Counter::get))
    }

    /// How many origins were not reached, by reason.
    pub fn failed(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Failure::NAMES.into_iter().zip(self.failures.iter().map(Counter::get))
    }
}
