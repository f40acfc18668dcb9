//! Servers with accounts, an authority that vouches for them, and clients that log in.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use corelane::accounts::operations::{Actor, NewPassword, Operation, Outcome};
use corelane::accounts::secret::Secret;
use corelane::accounts::service::{Accounts, AccountsOptions};
use corelane::lab::{Host, LabOptions, Routed, addresses};
use corelane::login::pki::{PkiDirectory, Purpose, ServerAddress, Validity};
use corelane::login::tls::Pin;
use corelane::sys::clock;
use serde_json::Value;
use tempfile::TempDir;

use crate::daemon::Daemon;
use crate::harness::PATIENCE;
use crate::tools;

/// Addresses of the server inside the tunnel.
pub(crate) const SERVER_V4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// The password of every user.
pub(crate) const PASSWORD: &str = "correct horse battery";
/// The UDP port, and the TCP port of logins.
pub(crate) const PORT: u16 = 20443;

/// A client's host, a server's, and a router between them that can be a second server.
pub(crate) struct Site {
    pub(crate) lab: Routed,
    pub(crate) directory: TempDir,
    pki: PkiDirectory,
}

/// A server of a site.
pub(crate) struct Server {
    pub(crate) daemon: Daemon,
    database: String,
    spool: PathBuf,
    name: String,
}

impl Site {
    pub(crate) fn new() -> Self {
        let lab = Routed::build(LabOptions::default()).unwrap();
        let directory = TempDir::new().unwrap();
        let now = clock::unix_time();
        let mut rng = rand::rng();
        let path = directory.path().join("pki");
        let pki = PkiDirectory::create(&path, "test", now, &mut rng).unwrap();
        let here = [addresses::SERVER_V4, addresses::ROUTER_CLIENT_SIDE_V4];
        let here = here.map(|address| ServerAddress::Address(address.into()));
        pki.issue_server(&here, Validity::days(now, 30), &mut rng).unwrap();
        Self { lab, directory, pki }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// By what its authority is known.
    pub(crate) fn pin(&self) -> Pin {
        self.pki.pin().unwrap()
    }

    /// A server that is not started; `more` is added to its configuration.
    pub(crate) fn server(&self, name: &str, more: &str) -> Server {
        let database = self.path(&format!("{name}.db"));
        self.server_with_database(name, database.to_str().unwrap(), more)
    }

    /// The same, whose accounts are in a database of others, too.
    pub(crate) fn server_with_database(&self, name: &str, database: &str, more: &str) -> Server {
        let (daemon, _) = Daemon::new(self.directory.path(), name, "serve");
        let spool = self.path(&format!("{name}.spool"));
        let socket = self.path(&format!("{name}.accounts"));
        let text = format!(
            "[server]\nlisten = [\"0.0.0.0:{PORT}\"]\nprivate_key_file = {:?}\n\
             [tun]\naddresses = [\"{SERVER_V4}/24\", \"fd77::1/64\"]\n\
             [login]\nlisten = [\"0.0.0.0:{PORT}\"]\ncertificate_file = {:?}\nkey_file = {:?}\n\
             client_ca_file = {:?}\nclient_crl_file = {:?}\n\
             [accounts]\nserver_name = \"{name}\"\ndatabase = {database:?}\n\
             spool_file = {spool:?}\nsocket = {socket:?}\n{more}\n",
            daemon.key_file(),
            self.pki.server_certificate(),
            self.pki.server_key(),
            self.pki.certificate(),
            self.pki.revocation_list(),
        );
        fs::write(daemon.config_file(), text).unwrap();
        Server { daemon, database: database.to_owned(), spool, name: name.to_owned() }
    }

    /// A client that is not started, of the user of that name.
    pub(crate) fn client(&self, user: &str, servers: &[Ipv4Addr]) -> Daemon {
        let servers: Vec<String> =
            servers.iter().map(|server| format!("\"{server}:{PORT}\"")).collect();
        self.client_of(user, user, &format!("servers = [{}]\n", servers.join(", ")))
    }

    /// The same, with a second server for when the first is not there.
    pub(crate) fn client_with_backup(
        &self,
        user: &str,
        server: Ipv4Addr,
        backup: Ipv4Addr,
    ) -> Daemon {
        let servers =
            format!("servers = [\"{server}:{PORT}\"]\nbackup_servers = [\"{backup}:{PORT}\"]\n");
        self.client_of(user, user, &servers)
    }

    /// A client that shows a certificate and nothing else, and the certificate's serial number.
    pub(crate) fn client_with_certificate(&self, user: &str) -> (Daemon, String) {
        let (daemon, _) = Daemon::new(self.directory.path(), user, "up");
        let purpose = Purpose::User(user.parse().unwrap());
        let validity = Validity::days(clock::unix_time(), 30);
        let issued = self.pki.issue(&purpose, validity, &mut rand::rng()).unwrap();
        let (certificate, key) = (self.path("user.crt"), self.path("user.key"));
        fs::write(&certificate, &issued.pem).unwrap();
        write_secret(&key, &issued.key_pem);
        let text = format!(
            "[login]\nservers = [\"{}:{PORT}\"]\nca_file = {:?}\ncertificate_file = \
             {certificate:?}\ncertificate_key_file = {key:?}\nstate_directory = {:?}\n",
            addresses::SERVER_V4,
            self.pki.certificate(),
            self.path(&format!("{user}.state")),
        );
        fs::write(daemon.config_file(), text).unwrap();
        (daemon, issued.serial)
    }

    /// Revokes a certificate.
    pub(crate) fn revoke(&self, serial: &str) {
        self.pki.revoke(serial, clock::unix_time()).unwrap();
    }

    /// A copy of a client, with all that it keeps.
    pub(crate) fn client_copy(&self, user: &str, name: &str, server: Ipv4Addr) -> Daemon {
        let state = |name: &str| self.path(&format!("{name}.state"));
        fs::create_dir(state(name)).unwrap();
        fs::set_permissions(state(name), fs::Permissions::from_mode(0o700)).unwrap();
        for file in fs::read_dir(state(user)).unwrap() {
            let file = file.unwrap().path();
            fs::copy(&file, state(name).join(file.file_name().unwrap())).unwrap();
        }
        self.client_of(name, user, &format!("servers = [\"{server}:{PORT}\"]\n"))
    }

    fn client_of(&self, name: &str, user: &str, servers: &str) -> Daemon {
        let (daemon, _) = Daemon::new(self.directory.path(), name, "up");
        let password = self.path(&format!("{user}.password"));
        write_secret(&password, PASSWORD);
        let text = format!(
            "[login]\n{servers}ca_file = {:?}\nuser = \"{user}\"\npassword_file = {password:?}\n\
             state_directory = {:?}\n",
            self.pki.certificate(),
            self.path(&format!("{name}.state")),
        );
        fs::write(daemon.config_file(), text).unwrap();
        daemon
    }
}

impl Server {
    /// Does what administrators do, while the server is stopped.
    pub(crate) fn administer(
        &self,
        operations: impl IntoIterator<Item = Operation>,
    ) -> Vec<Outcome> {
        assert!(!self.daemon.is_started());
        let database = self.database.parse().unwrap();
        let name = self.name.parse().unwrap();
        let options = AccountsOptions::new(database, self.spool.clone(), name);
        let accounts = Accounts::open(options).unwrap();
        let actor = Actor::local(0);
        operations.into_iter().map(|it| accounts.execute(&actor, it).unwrap()).collect()
    }

    pub(crate) fn start(&mut self, host: &Host) {
        self.daemon.start(host);
        self.daemon.await_status(PATIENCE, "the server to serve", |status| status.state == "up");
    }
}

/// Adds a user with [`PASSWORD`].
pub(crate) fn add_user(name: &str) -> Operation {
    Operation::UserAdd {
        name: name.parse().unwrap(),
        groups: Default::default(),
        password: NewPassword::Given(Secret::new(PASSWORD.to_owned())),
    }
}

fn write_secret(path: &Path, secret: &str) {
    fs::write(path, secret).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// Waits until a client is connected.
pub(crate) fn await_online(client: &mut Daemon) {
    client.await_status(PATIENCE, "the client to be connected", |status| status.state == "up");
}

/// The address that a host has inside the tunnel.
pub(crate) fn inner_address(host: &Host) -> Ipv4Addr {
    let said = tools::run(host, "ip -4 -o addr show dev corelane0");
    let mut words = said.split_whitespace().skip_while(|word| *word != "inet").skip(1);
    words.next().unwrap().split('/').next().unwrap().parse().unwrap()
}

/// What a command of an administrator says.
#[track_caller]
pub(crate) fn ask(server: &Server, command: &[&str]) -> Value {
    let mut command = command.to_vec();
    let config = server.daemon.config_file();
    command.extend(["--json", "-c", config.to_str().unwrap()]);
    let output = server.daemon.ask_nobody(&command);
    assert!(output.status.success(), "{command:?}: {output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}
