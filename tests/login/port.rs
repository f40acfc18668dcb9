//! A login port with a desk that grants everything, and a client that logs in at it.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use corelane::handshake::keys::PrivateKey;
use corelane::login::client::{Channel, Destination};
use corelane::login::message::{Credentials, LeaseTerms, LoginRequest, SCHEMA, Secret};
use corelane::login::pki::{PkiDirectory, Validity};
use corelane::login::server::{
    Answer, CarrierConnection, CarrierSink, LoginAttempt, LoginDesk, LoginId, LoginListeners,
    LoginOptions, LoginThread, Timeouts,
};
use corelane::login::tls::{ClientTls, Trust};
use corelane::sys::{clock, process};
use tempfile::TempDir;

/// How long a test waits for what must happen.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A desk that grants everything and counts.
#[derive(Default)]
pub(crate) struct Desk {
    logins: AtomicUsize,
}

impl LoginDesk for Desk {
    fn login(&self, _: LoginAttempt, answer: Answer) {
        self.logins.fetch_add(1, Ordering::SeqCst);
        answer(Ok(terms()));
    }

    fn renew(&self, _: LoginId, answer: Answer) {
        answer(Ok(terms()));
    }

    fn logout(&self, _: LoginId) {}

    fn gone(&self, _: LoginId) {}

    fn carrier(&self, _: &Secret) -> Option<LoginId> {
        None
    }

    fn revoked(&self, _: &BTreeSet<String>) {}

    fn load_permille(&self) -> u16 {
        0
    }
}

impl CarrierSink for Desk {
    fn take(&self, _: CarrierConnection) {}
}

fn terms() -> LeaseTerms {
    LeaseTerms {
        user: "alice".parse().unwrap(),
        server: "server".parse().unwrap(),
        server_key: String::new(),
        endpoints: Vec::new(),
        ipv4: None,
        ipv6: None,
        routes: Vec::new(),
        dns_servers: Vec::new(),
        search_domains: Vec::new(),
        split_domains: Vec::new(),
        mtu: 1408,
        keepalive_s: None,
        lasts_s: 60,
        carrier_ticket: Secret::new(String::new()),
        device_token: None,
    }
}

/// A login port with a certificate for `localhost`.
pub(crate) struct Port {
    pub(crate) directory: TempDir,
    desk: Arc<Desk>,
    thread: LoginThread,
    pub(crate) tls: ClientTls,
}

impl Port {
    pub(crate) fn open(timeouts: Timeouts) -> Self {
        process::raise_open_files_limit().unwrap();
        let directory = TempDir::new().unwrap();
        let (now, mut rng) = (clock::unix_time(), rand::rng());
        let path = directory.path().join("pki");
        let pki = PkiDirectory::create(&path, "Test CA", now, &mut rng).unwrap();
        let names = ["localhost".parse().unwrap()];
        pki.issue_server(&names, Validity::days(now, 30), &mut rng).unwrap();
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let listeners = LoginListeners::bind(&[any]).unwrap();
        let options = LoginOptions { listeners, files: pki.tls_files(), timeouts };
        let desk = Arc::new(Desk::default());
        let thread = LoginThread::start(options, desk.clone(), desk.clone()).unwrap();
        let tls = ClientTls::new(&Trust::Authority(pki.certificate()), None).unwrap();
        Self { directory, desk, thread, tls }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.thread.addresses()[0].port()).into()
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address()).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream
    }

    /// A whole login of somebody else. Returns how long it took.
    pub(crate) fn log_in(&self) -> Duration {
        log_in_at(self.address(), &self.tls)
    }

    pub(crate) fn logins(&self) -> usize {
        self.desk.logins.load(Ordering::SeqCst)
    }
}

pub(crate) fn log_in_at(address: SocketAddr, tls: &ClientTls) -> Duration {
    let began = clock::now();
    let to = Destination { name: "localhost", address, mark: None };
    let mut channel = Channel::connect(to, tls, SOON).unwrap();
    channel.login(&request(), SOON).unwrap();
    clock::now() - began
}

fn request() -> LoginRequest {
    LoginRequest {
        schema: SCHEMA,
        version: String::new(),
        credentials: Credentials::default(),
        device_name: "laptop".parse().unwrap(),
        device_key: PrivateKey::generate(&mut rand::rng()).public().to_string(),
    }
}
