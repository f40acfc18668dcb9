//! The desk of a server that has accounts: joins those who decide (accounts), those who listen (the
//! login thread) and those who move packets (the control thread and its workers).
//!
//! A login goes from the login thread to the accounts; what they grant becomes an order to the
//! control thread, and only when that is carried out the client hears of its lease. The other way
//! round, a thread of the desk takes the accounts' notices: a session that has ended is dismissed
//! by the control thread, its carriers are closed, and its connection is told. The accounts learn
//! when the last worker has let go.

mod load;
mod register;
mod residents;
mod rounds;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ipnet::IpNet;
use rand::rngs::OsRng;
use rand::{RngCore as _, TryRngCore as _};

use crate::accounts::model::{Id, SessionEnd};
use crate::accounts::names::Name;
use crate::accounts::refusal::{Refusal, RefusalCode};
use crate::accounts::secret::Secret;
use crate::accounts::service::LoginAttempt as AccountsAttempt;
use crate::accounts::service::{Accounts, Acknowledgement, Grant, ShownCertificate, refusal_of};
use crate::config::{HostPort, LeaseConfig};
use crate::control::engine::{AdmitError, PeerSetup};
use crate::control::runtime::ControlHandle;
use crate::daemon::accounts;
use crate::dataplane::messages::Receipt;
use crate::handshake::keys::{PresharedKey, PublicKey};
use crate::login::carrier::{CarrierHandle, CarrierStream};
use crate::login::message::LeaseTerms;
use crate::login::server::{
    Answer, CarrierConnection, CarrierSink, LoginAttempt, LoginDesk, LoginHandle, LoginId, Refused,
};
use crate::policy::Defaults;
use crate::proxy::access::AccessOptions;
use crate::sys::clock;
use crate::telemetry::counters::Carried;
use crate::telemetry::status::AccountsStatus;

use load::Load;
use register::Register;
use residents::Resident;

pub(super) use rounds::Rounds;

/// What every lease says, whoever gets it.
#[derive(Clone, Debug)]
pub(super) struct House {
    /// What the server calls itself.
    pub(super) name: Name,
    /// Its static key.
    pub(super) key: PublicKey,
    /// The port of its first listener, for clients that are told no endpoint.
    pub(super) port: u16,
    /// What the configuration says.
    pub(super) lease: LeaseConfig,
}

/// The desk. Cheap to clone.
#[derive(Clone)]
pub(super) struct Desk {
    inner: Arc<Inner>,
}

struct Inner {
    accounts: Accounts,
    control: ControlHandle,
    carriers: CarrierHandle,
    house: Mutex<Arc<House>>,
    register: Mutex<Register>,
    load: Mutex<Load>,
    /// Set once the login thread runs.
    logins: OnceLock<LoginHandle>,
    defaults: Defaults,
}

impl Desk {
    pub(super) fn new(
        accounts: Accounts,
        control: ControlHandle,
        carriers: CarrierHandle,
        house: House,
        defaults: Defaults,
    ) -> Self {
        let inner = Inner {
            accounts,
            control,
            carriers,
            house: Mutex::new(Arc::new(house)),
            register: Mutex::default(),
            load: Mutex::default(),
            logins: OnceLock::new(),
            defaults,
        };
        Self { inner: Arc::new(inner) }
    }

    /// The login thread runs, and can be told of ends from now on.
    pub(super) fn connect(&self, logins: LoginHandle) {
        // It is called once.
        let _ = self.inner.logins.set(logins);
    }

    /// What the proxy gateway needs of it: the same accounts, and the rates that a user has in the
    /// tunnel. `pools` are the inner addresses of clients.
    pub(super) fn proxy_access(&self, pools: &[IpNet]) -> AccessOptions {
        AccessOptions {
            accounts: self.inner.accounts.clone(),
            policies: self.inner.register().policies.clone(),
            defaults: self.inner.defaults,
            pools: pools.to_vec(),
        }
    }

    /// What leases say from now on.
    pub(super) fn set_lease(&self, lease: LeaseConfig) {
        let mut house = self.inner.house.lock().unwrap_or_else(PoisonError::into_inner);
        *house = Arc::new(House { lease, ..House::clone(&house) });
    }

    /// Tells the accounts what devices have moved.
    pub(super) fn add_usage(&self, usage: Vec<(PublicKey, Carried)>) {
        self.inner.add_usage(usage);
    }

    /// How it stands with the accounts.
    pub(super) fn accounts_status(&self) -> AccountsStatus {
        accounts::status(&self.inner.accounts)
    }

    /// Who a device is, for the log.
    pub(super) fn user_of(&self, device: &PublicKey) -> Option<Name> {
        self.inner.register().residents.user_of(device).cloned()
    }
}

impl Inner {
    fn register(&self) -> MutexGuard<'_, Register> {
        self.register.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn house(&self) -> Arc<House> {
        Arc::clone(&self.house.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The accounts have granted a login: has its peer admitted, and then tells the client.
    fn move_in(
        self: &Arc<Self>,
        login: LoginId,
        grant: Grant,
        certificate: Option<String>,
        psk: PresharedKey,
        answer: Answer,
    ) {
        let (session, device_key) = (grant.session, grant.device_key);
        let resident = Resident {
            login,
            session,
            user: grant.user.clone(),
            device_key,
            ipv4: grant.ipv4,
            ipv6: grant.ipv6,
            certificate,
            ticket: new_ticket(),
        };
        let mut terms = self.house().terms(&resident, grant.expires);
        terms.device_token = grant.device_token;
        let mut register = self.register();
        if !register.move_in(resident) {
            drop(register);
            // It may have ended already; then there is nothing to do for the accounts.
            self.accounts.end(session, SessionEnd::Revoked);
            return answer(Err(refused(refusal_of(SessionEnd::Revoked))));
        }
        let now = clock::now();
        let (bounds, acl) = register.take_change(session).unwrap_or((grant.bounds, grant.acl));
        let policies = &register.policies;
        let policy = policies.compile(now, &grant.user, &bounds, &acl, self.defaults);
        let addresses = [grant.ipv4.map(IpAddr::V4), grant.ipv6.map(IpAddr::V6)];
        let peer = PeerSetup {
            public_key: device_key,
            preshared_key: psk,
            allowed: addresses.into_iter().flatten().map(IpNet::from).collect(),
            policy: Some(policy),
        };
        let inner = Arc::clone(self);
        self.control.admit(peer, move |outcome| match outcome {
            Ok(()) => answer(Ok(terms)),
            Err(error) => {
                log::error!("device {device_key} was granted a login but not let in: {error}");
                inner.accounts.end(session, SessionEnd::Kicked);
                answer(Err(refused(not_admitted(&error))));
            }
        });
    }

    /// A session has ended: closes every path of it, and drops `done` when they are closed.
    fn move_out(&self, session: Id, device: PublicKey, end: SessionEnd, done: Acknowledgement) {
        let mut register = self.register();
        let Some(moved_out) = register.move_out(session, device, clock::now()) else {
            // The end of what was to take its place is the end of what the device still has.
            if end != SessionEnd::Replaced && register.take_returning(&device) {
                self.control.dismiss(device, Receipt::new(done));
            }
            return;
        };
        if moved_out.is_last {
            match end {
                // What the device is about to get takes the place of what it has.
                SessionEnd::Replaced => register.await_return(device, clock::now()),
                _ => self.control.dismiss(device, Receipt::new(done.clone())),
            }
        }
        drop(register);
        self.carriers.close(session, done);
        if let Some(logins) = self.logins.get() {
            let Refusal { code, message, .. } = refusal_of(end);
            logins.end(moved_out.login, code, message);
        }
    }
}

impl House {
    /// What a lease says.
    fn terms(&self, resident: &Resident, expires: Instant) -> LeaseTerms {
        let lease = &self.lease;
        let here = || vec![format!("0.0.0.0:{}", self.port)];
        let endpoints: Vec<String> = lease.endpoints.iter().map(HostPort::to_string).collect();
        let lasts = expires.saturating_duration_since(clock::now());
        LeaseTerms {
            user: resident.user.clone(),
            server: self.name.clone(),
            server_key: self.key.to_string(),
            endpoints: if endpoints.is_empty() { here() } else { endpoints },
            ipv4: resident.ipv4,
            ipv6: resident.ipv6,
            routes: lease.routes.clone(),
            dns_servers: lease.dns_servers.clone(),
            search_domains: lease.search_domains.clone(),
            split_domains: lease.split_domains.clone(),
            mtu: lease.mtu,
            keepalive_s: lease.keepalive_s,
            lasts_s: u32::try_from(lasts.as_secs()).unwrap_or(u32::MAX).max(1),
            carrier_ticket: resident.ticket.clone(),
            device_token: None,
        }
    }
}

impl LoginDesk for Desk {
    fn login(&self, attempt: LoginAttempt, answer: Answer) {
        let LoginAttempt { id, from, request, device_key, certificate, psk } = attempt;
        let serial = certificate.as_ref().map(|shown| shown.serial.clone());
        // Its handshake went by the revocation list of the moment in which it connected.
        if serial.as_ref().is_some_and(|serial| self.inner.register().is_revoked(serial)) {
            return answer(Err(refused(refusal_of(SessionEnd::Revoked))));
        }
        let credentials = request.credentials;
        let attempt = AccountsAttempt {
            from,
            user: credentials.user,
            password: credentials.password,
            code: credentials.code,
            token: credentials.token,
            certificate: certificate.map(|shown| ShownCertificate {
                serial: shown.serial,
                fingerprint: shown.fingerprint,
                user: shown.user.into(),
                not_after: shown.not_after,
            }),
            device_name: request.device_name,
            device_key,
            version: request.version,
        };
        let inner = Arc::clone(&self.inner);
        let decided = move |outcome| match outcome {
            Ok(grant) => inner.move_in(id, grant, serial, psk, answer),
            Err(refusal) => answer(Err(refused(refusal))),
        };
        self.inner.accounts.login(attempt, Box::new(decided));
    }

    fn renew(&self, id: LoginId, answer: Answer) {
        let resident = self.inner.register().residents.get(id).cloned();
        let Some(resident) = resident else {
            return answer(Err(refused(refusal_of(SessionEnd::Expired))));
        };
        let (session, house) = (resident.session, self.inner.house());
        let decided = move |outcome: Result<Instant, Refusal>| {
            answer(match outcome {
                Ok(expires) => Ok(house.terms(&resident, expires)),
                Err(refusal) => Err(refused(refusal)),
            });
        };
        self.inner.accounts.renew(session, Box::new(decided));
    }

    fn logout(&self, id: LoginId) {
        let session = self.inner.register().residents.get(id).map(|resident| resident.session);
        if let Some(session) = session {
            self.inner.accounts.end(session, SessionEnd::LoggedOut);
        }
    }

    fn gone(&self, id: LoginId) {
        log::debug!("the connection of login {} is lost; its lease goes on", id.0);
    }

    fn carrier(&self, ticket: &Secret) -> Option<LoginId> {
        self.inner.register().residents.with_ticket(ticket)
    }

    fn revoked(&self, serials: &BTreeSet<String>) {
        let sessions = self.inner.register().revoke(serials);
        for session in sessions {
            self.inner.accounts.end(session, SessionEnd::Revoked);
        }
    }

    fn load_permille(&self) -> u16 {
        let mut load = self.inner.load.lock().unwrap_or_else(PoisonError::into_inner);
        load.permille(clock::now())
    }
}

impl CarrierSink for Desk {
    fn take(&self, connection: CarrierConnection) {
        let CarrierConnection { login, from, stream, tls } = connection;
        // Whoever has moved out meanwhile has no use for it.
        let register = self.inner.register();
        let Some(resident) = register.residents.get(login) else { return };
        let carrier = CarrierStream { stream, tls: tls.into() };
        match self.inner.carriers.adopt(carrier, resident.session) {
            Ok(()) => log::info!("{} sends datagrams over TLS from {from}", resident.user),
            Err(error) => log::warn!("{}: {error}", resident.user),
        }
    }
}

fn refused(refusal: Refusal) -> Refused {
    let Refusal { code, message, retry_after, user: _ } = refusal;
    let retry_after_s =
        retry_after.map(|it| u32::try_from(it.as_secs().max(1)).unwrap_or(u32::MAX));
    Refused { code, message, retry_after_s }
}

/// What a client is told whose login is good, but whom the engine does not let in.
fn not_admitted(error: &AdmitError) -> Refusal {
    match error {
        AdmitError::KeyConfigured => {
            Refusal::new(RefusalCode::DeviceTaken, "the device's key is that of a configured peer")
        }
        AdmitError::PrefixTaken(_) | AdmitError::NoServer => Refusal::new(
            RefusalCode::PoolExhausted,
            "the address for this device is in use (the server's log says by whom)",
        ),
    }
}

/// What nobody can guess.
fn new_ticket() -> Secret {
    let mut bytes = zeroize::Zeroizing::new([0; TICKET_LEN]);
    OsRng.unwrap_err().fill_bytes(bytes.as_mut_slice());
    Secret::new(URL_SAFE_NO_PAD.encode(bytes.as_slice()))
}

/// Random bytes of a carrier ticket.
const TICKET_LEN: usize = 32;
