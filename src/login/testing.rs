//! For tests: a desk that decides as it is told, and a login thread with certificates of its own.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};
use tempfile::TempDir;

use crate::accounts::names::Name;
use crate::handshake::keys::PrivateKey;
use crate::sys::clock;

use super::client::{Channel, ChannelError, Destination};
use super::message::{Credentials, LeaseTerms, LoginRequest, RefusalCode, SCHEMA, Secret};
use super::pki::{Certificate, PkiDirectory, Purpose, Validity};
use super::server::{
    Answer, CarrierConnection, CarrierSink, LoginAttempt, LoginDesk, LoginId, LoginListeners,
    LoginOptions, LoginThread, Refused, Timeouts,
};
use super::tls::{ClientTls, Identity, TlsFiles, Trust};

/// How long a test waits for what must happen.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// The ticket that the desk takes for a carrier.
pub(crate) const TICKET: &str = "ticket";

/// What a desk was told.
#[derive(Debug)]
pub(crate) enum Told {
    Login(Box<LoginAttempt>),
    Renew(LoginId),
    Logout(LoginId),
    Gone(LoginId),
    Revoked(BTreeSet<String>),
    Carrier(Box<CarrierConnection>),
}

type Decide = dyn Fn(&LoginAttempt) -> Result<LeaseTerms, Refused> + Send + Sync;

/// A desk that decides by a function, at once or when it is told to, and passes on what it hears.
pub(crate) struct Desk {
    decide: Box<Decide>,
    told: Sender<Told>,
    /// Answers that are held back; `None` if none are.
    held: Mutex<Option<Vec<Answer>>>,
}

impl Desk {
    /// The desk, and what it hears. Its password is `correct`.
    pub(crate) fn new() -> (Arc<Self>, Receiver<Told>) {
        Self::deciding(|attempt| match &attempt.request.credentials.password {
            Some(password) if password.expose() == "correct" => Ok(terms()),
            _ if attempt.certificate.is_some() => Ok(terms()),
            _ => Err(denied()),
        })
    }

    pub(crate) fn deciding(
        decide: impl Fn(&LoginAttempt) -> Result<LeaseTerms, Refused> + Send + Sync + 'static,
    ) -> (Arc<Self>, Receiver<Told>) {
        let (told, heard) = unbounded();
        let held = Mutex::new(None);
        (Arc::new(Self { decide: Box::new(decide), told, held }), heard)
    }

    /// From now on answers are held back.
    pub(crate) fn hold(&self) {
        *self.held.lock().unwrap() = Some(Vec::new());
    }

    /// Grants what was held back.
    pub(crate) fn release(&self) {
        for answer in self.held.lock().unwrap().take().into_iter().flatten() {
            answer(Ok(terms()));
        }
    }

    fn answer(&self, answer: Answer, decision: Result<LeaseTerms, Refused>) {
        match &mut *self.held.lock().unwrap() {
            Some(held) => held.push(answer),
            None => answer(decision),
        }
    }
}

impl LoginDesk for Desk {
    fn login(&self, attempt: LoginAttempt, answer: Answer) {
        let decision = (self.decide)(&attempt);
        self.answer(answer, decision);
        drop(self.told.send(Told::Login(Box::new(attempt))));
    }

    fn renew(&self, id: LoginId, answer: Answer) {
        self.answer(answer, Ok(terms()));
        drop(self.told.send(Told::Renew(id)));
    }

    fn logout(&self, id: LoginId) {
        drop(self.told.send(Told::Logout(id)));
    }

    fn gone(&self, id: LoginId) {
        drop(self.told.send(Told::Gone(id)));
    }

    fn carrier(&self, ticket: &Secret) -> Option<LoginId> {
        (ticket.expose() == TICKET).then_some(LoginId(77))
    }

    fn revoked(&self, serials: &BTreeSet<String>) {
        drop(self.told.send(Told::Revoked(serials.clone())));
    }

    fn load_permille(&self) -> u16 {
        250
    }
}

impl CarrierSink for Desk {
    fn take(&self, connection: CarrierConnection) {
        drop(self.told.send(Told::Carrier(Box::new(connection))));
    }
}

pub(crate) fn terms() -> LeaseTerms {
    LeaseTerms {
        user: name("alice"),
        server: name("server"),
        server_key: "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=".to_owned(),
        endpoints: vec!["192.0.2.1:20443".to_owned()],
        ipv4: Some([10, 77, 0, 2].into()),
        ipv6: None,
        routes: Vec::new(),
        dns_servers: Vec::new(),
        search_domains: Vec::new(),
        split_domains: Vec::new(),
        mtu: 1408,
        keepalive_s: None,
        lasts_s: 3600,
        carrier_ticket: Secret::new(TICKET.to_owned()),
        device_token: None,
    }
}

pub(crate) fn denied() -> Refused {
    let message = "the user or the password is wrong".to_owned();
    Refused { code: RefusalCode::Denied, message, retry_after_s: None }
}

pub(crate) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// A login with a password, from a new device.
pub(crate) fn request(password: &str) -> LoginRequest {
    let credentials = Credentials {
        user: Some("alice".to_owned()),
        password: Some(Secret::new(password.to_owned())),
        ..Credentials::default()
    };
    LoginRequest {
        schema: SCHEMA,
        version: "0.0.0".to_owned(),
        credentials,
        device_name: name("laptop"),
        device_key: PrivateKey::generate(&mut rand::rng()).public().to_string(),
    }
}

/// An authority in a directory that vanishes, with a certificate for `localhost` and 127.0.0.1.
pub(crate) struct Site {
    directory: TempDir,
    pub(crate) pki: PkiDirectory,
}

impl Site {
    pub(crate) fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let (now, mut rng) = (clock::unix_time(), rand::rng());
        let path = directory.path().join("pki");
        let pki = PkiDirectory::create(&path, "Test CA", now, &mut rng).unwrap();
        let addresses = ["localhost".parse().unwrap(), "127.0.0.1".parse().unwrap()];
        pki.issue_server(&addresses, Validity::days(now, 30), &mut rng).unwrap();
        Self { directory, pki }
    }

    /// A login thread on a port of its own.
    pub(crate) fn serve(&self, desk: &Arc<Desk>) -> LoginThread {
        self.serve_with(self.pki.tls_files(), Timeouts::default(), desk)
    }

    pub(crate) fn serve_with(
        &self,
        files: TlsFiles,
        timeouts: Timeouts,
        desk: &Arc<Desk>,
    ) -> LoginThread {
        let listeners = LoginListeners::bind(&[SocketAddr::from(([127, 0, 0, 1], 0))]).unwrap();
        let options = LoginOptions { listeners, files, timeouts };
        let carriers: Arc<dyn CarrierSink> = desk.clone();
        LoginThread::start(options, desk.clone(), carriers).unwrap()
    }

    /// A client that trusts the authority, and shows no certificate.
    pub(crate) fn client(&self) -> ClientTls {
        ClientTls::new(&Trust::Authority(self.pki.certificate()), None).unwrap()
    }

    /// A certificate for a user, and a client that shows it.
    pub(crate) fn client_as(&self, user: &str) -> (Certificate, ClientTls) {
        let certificate = self.certificate_of(user);
        let identity = self.identity(&certificate);
        let trust = Trust::Authority(self.pki.certificate());
        (certificate, ClientTls::new(&trust, Some(identity)).unwrap())
    }

    /// What a user shows.
    pub(crate) fn identity_of(&self, user: &str) -> Identity {
        self.identity(&self.certificate_of(user))
    }

    fn certificate_of(&self, user: &str) -> Certificate {
        let validity = Validity::days(clock::unix_time(), 30);
        self.pki.issue(&Purpose::User(name(user)), validity, &mut rand::rng()).unwrap()
    }

    fn identity(&self, certificate: &Certificate) -> Identity {
        use std::os::unix::fs::PermissionsExt as _;
        let path = |kind| self.directory.path().join(format!("{}.{kind}", certificate.serial));
        std::fs::write(path("pem"), &certificate.pem).unwrap();
        std::fs::write(path("key"), certificate.key_pem.as_bytes()).unwrap();
        let mode = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(path("key"), mode).unwrap();
        Identity::load(&path("pem"), &path("key")).unwrap()
    }
}

/// Connects to a login thread by the name `localhost`.
pub(crate) fn connect(thread: &LoginThread, tls: &ClientTls) -> Result<Channel, ChannelError> {
    let to = Destination { name: "localhost", address: thread.addresses()[0], mark: None };
    Channel::connect(to, tls, SOON)
}
