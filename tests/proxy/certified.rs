//! Client certificates as logins at the proxy: `corelane serve`, `corelane cert` and real curl.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use corelane::accounts::operations::{Actor, NewPassword, Operation};
use corelane::accounts::secret::Secret;
use corelane::accounts::service::{Accounts, AccountsOptions};
use corelane::lab::Host;
use corelane::login::pki::{Certificate, Purpose, Validity};
use corelane::sys::clock;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConnection, StreamOwned};
use tempfile::TempDir;

use crate::harness::{Gateway, await_that, connect, greeting_and_request};
use crate::secured::{Site, reach};

const PASSWORD: &str = "right horse";

/// A server with accounts for ada and bob, whose gateway takes certificates.
struct House {
    site: Site,
    gateway: Gateway,
    directory: TempDir,
    host: Host,
}

type Tls = StreamOwned<ClientConnection, TcpStream>;

impl House {
    fn new(require: &str) -> Self {
        let (site, directory) = (Site::new(), tempfile::tempdir().unwrap());
        let path = |name: &str| directory.path().join(name);
        let (database, spool) = (path("accounts.db"), path("spool"));
        let options = AccountsOptions::new(
            database.to_str().unwrap().parse().unwrap(),
            spool.clone(),
            "here".parse().unwrap(),
        );
        let accounts = Accounts::open(options).unwrap();
        for name in ["ada", "bob"] {
            let password = NewPassword::Given(Secret::new(PASSWORD.to_owned()));
            let name = name.parse().unwrap();
            let add = Operation::UserAdd { name, groups: [].into(), password };
            accounts.execute(&Actor::local(0), add).unwrap();
        }
        drop(accounts);
        let mutual = format!(
            "client_ca_file = {:?}\nclient_crl_file = {:?}\n",
            site.pki.certificate(),
            site.pki.revocation_list()
        );
        let own = format!(
            "certificate_file = {:?}\nkey_file = {:?}\n{mutual}",
            site.pki.server_certificate(),
            site.pki.server_key()
        );
        let config = format!(
            "[server]\nlisten = [\"127.0.0.1:20443\"]\n[tun]\naddresses = [\"10.77.0.1/24\"]\n\
             [workers]\ncount = 2\n\
             [login]\nlisten = [\"127.0.0.1:20443\"]\n{own}require = [{require}]\n\
             [accounts]\nserver_name = \"here\"\ndatabase = {database:?}\nspool_file = {spool:?}\n\
             socket = {:?}\n\
             [[proxy]]\nlisten = [\"tls://127.0.0.1:8443\"]\nallow = [\"loopback\"]\n\
             auth = \"required\"\n{mutual}certificate_required = false\n",
            path("socket")
        );
        let host = Host::create("server").unwrap();
        let gateway = Gateway::start_beside_a_tunnel(&host, &config);
        Self { site, gateway, directory, host }
    }

    /// What an administrator says.
    fn say(&self, command: &[&str]) -> Output {
        let output = Command::new(env!("CARGO_BIN_EXE_corelane"))
            .args(command)
            .arg("--accounts-socket")
            .arg(self.directory.path().join("socket"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{command:?}: {output:?}");
        output
    }

    /// What an administrator says of certificates.
    fn certify(&self, command: &[&str]) {
        let pki = self.site.pki.certificate();
        let pki = pki.parent().and_then(Path::to_str).unwrap();
        self.say(&[&["cert"], command, &["--dir", pki]].concat());
    }

    /// Issues a certificate and has the accounts list it.
    fn issue(&self, user: &str) -> Certificate {
        let out = tempfile::tempdir_in(self.directory.path()).unwrap().keep();
        self.certify(&["issue", user, "--out", out.to_str().unwrap()]);
        let pem = std::fs::read_to_string(out.join(format!("{user}.crt"))).unwrap();
        let key_pem = std::fs::read_to_string(out.join(format!("{user}.key"))).unwrap();
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let now_s = clock::unix_time().as_secs() as i64;
        let user = user.parse().unwrap();
        let mut listed = self.site.pki.list().unwrap();
        listed.retain(|issued| issued.is_for(&user) && issued.is_in_force(now_s));
        let serial = listed.pop().unwrap().serial;
        Certificate { serial, der, pem, key_pem: key_pem.into() }
    }

    /// What curl gets by CONNECT: its exit code and what it says.
    fn curl(&self, user: Option<&Certificate>, more: &[&str], url: &str) -> (Option<i32>, String) {
        let ca = self.site.pki.certificate();
        let mut command = self.host.command("curl").unwrap();
        command.args(["--silent", "--show-error", "--max-time", "60", "--noproxy", ""]);
        command.args(["--proxy", "https://localhost:8443", "--proxytunnel", "--proxy-cacert"]);
        command.arg(&ca).args(more).arg(url);
        if let Some(certificate) = user {
            let [pem, key] = self.files(certificate);
            command.arg("--proxy-cert").arg(pem).arg("--proxy-key").arg(key);
        }
        let output = command.output().unwrap();
        let texts = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&texts).into_owned())
    }

    fn files(&self, certificate: &Certificate) -> [PathBuf; 2] {
        let place = |kind| self.directory.path().join(format!("{}.{kind}", certificate.serial));
        let files = ["pem", "key"].map(place);
        std::fs::write(&files[0], &certificate.pem).unwrap();
        std::fs::write(&files[1], certificate.key_pem.as_bytes()).unwrap();
        files
    }

    fn connect(&self, user: Option<&Certificate>) -> Tls {
        let address = self.gateway.address;
        self.site.over(self.host.run(|| connect(address)).unwrap(), user)
    }
}

/// Whether that is an end that no one wanted.
fn has_ended(stream: &mut Tls) -> Result<(), String> {
    stream.sock.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    match stream.read(&mut [0; 16]) {
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            Err("it is still there".to_owned())
        }
        other => other.map_or(Ok(()), |len| Err(format!("{len} bytes, or an orderly end"))),
    }
}

#[test]
fn a_listed_certificate_is_a_login_until_it_is_revoked() {
    let house = House::new("\"certificate\", \"password\"");
    let (page, echo) =
        house.host.run(|| (crate::harness::http("the page"), crate::harness::echo())).unwrap();
    let url = format!("http://{page}/");
    let (ada, bob) = (house.issue("ada"), house.issue("bob"));
    // Of the same authority, but nobody has told the accounts of it.
    let unlisted = house.site.pki.issue(
        &Purpose::User("ada".parse().unwrap()),
        Validity::days(clock::unix_time(), 30),
        &mut rand::rng(),
    );
    let unlisted = unlisted.unwrap();
    let served = (Some(0), "the page".to_owned());
    assert_eq!(house.curl(Some(&ada), &[], &url), served);
    assert_eq!(house.curl(Some(&bob), &[], &url), served);
    let credentials = ["--proxy-user", "ada:right horse"];
    for (what, user, more, is_served) in [
        ("nothing", None, &[][..], false),
        ("one that is not listed", Some(&unlisted), &[][..], false),
        ("that, and a password", Some(&unlisted), &credentials[..], true),
        ("a password", None, &credentials[..], true),
        ("both", Some(&ada), &credentials[..], true),
        ("proofs of two", Some(&bob), &credentials[..], false),
    ] {
        let (code, text) = house.curl(user, more, &url);
        assert_eq!(code == Some(0), is_served, "{what}: {text}");
        assert!(is_served || text.contains("407"), "{what}: {text}");
    }
    // SOCKS without a password, of either version.
    for (user, is_served) in [(Some(&ada), true), (None, false)] {
        let mut tls = house.connect(user);
        tls.write_all(&greeting_and_request(echo)).unwrap();
        let mut answer = [0; 2];
        tls.read_exact(&mut answer).unwrap();
        assert_eq!(answer, if is_served { [5, 0] } else { [5, 0xff] });
        let mut tls = house.connect(user);
        let [high, low] = echo.port().to_be_bytes();
        tls.write_all(&[4, 1, high, low, 127, 0, 0, 1, 0]).unwrap();
        let mut answer = [0; 8];
        tls.read_exact(&mut answer).unwrap();
        assert_eq!(answer[1], if is_served { 90 } else { 91 }, "SOCKS4");
    }
    // By the accounts, by the list of what was revoked alone, and with the user.
    let mut relays: Vec<Tls> = [&ada, &bob].map(|user| house.connect(Some(user))).into();
    relays.iter_mut().for_each(|relay| reach(relay, echo).unwrap());
    house.certify(&["revoke", &ada.serial]);
    let begun = clock::now();
    await_that("the end of what rests on it", || has_ended(&mut relays[0]));
    let took = clock::now() - begun;
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert!(has_ended(&mut relays[1]).is_err(), "bob's was not revoked");
    assert_ne!(house.curl(Some(&ada), &[], &url).0, Some(0));
    assert_eq!(house.curl(Some(&bob), &[], &url), served);
    let begun = clock::now();
    house.site.pki.revoke(&bob.serial, clock::unix_time()).unwrap();
    await_that("the end of what rests on it", || has_ended(&mut relays[1]));
    let took = clock::now() - begun;
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert_ne!(house.curl(Some(&bob), &[], &url).0, Some(0));
    assert_eq!(house.curl(None, &credentials, &url), served, "her password is still good");
    let again = house.issue("ada");
    assert_eq!(house.curl(Some(&again), &[], &url), served);
    let mut relay = house.connect(Some(&again));
    reach(&mut relay, echo).unwrap();
    house.say(&["user", "disable", "ada"]);
    await_that("the end of what is hers", || has_ended(&mut relay));
    assert_ne!(house.curl(Some(&again), &[], &url).0, Some(0));
}

#[test]
fn where_a_password_is_wanted_as_well_both_are_shown() {
    let house = House::new("\"certificate+password\"");
    let page = house.host.run(|| crate::harness::http("the page")).unwrap();
    let url = format!("http://{page}/");
    let (ada, bob) = (house.issue("ada"), house.issue("bob"));
    let right = ["--proxy-user", "ada:right horse"];
    for (what, user, more, is_served) in [
        ("a certificate alone", Some(&ada), &[][..], false),
        ("a password alone", None, &right[..], false),
        ("both", Some(&ada), &right[..], true),
        ("a wrong password", Some(&ada), &["--proxy-user", "ada:wrong"][..], false),
        ("proofs of two", Some(&bob), &right[..], false),
    ] {
        let (code, text) = house.curl(user, more, &url);
        assert_eq!(code == Some(0), is_served, "{what}: {text}");
        assert!(is_served || text.contains("407"), "{what}: {text}");
    }
}

#[test]
fn whoever_has_used_a_quota_up_is_told_so_and_not_asked_for_more_than_a_certificate() {
    let house = House::new("\"certificate\", \"password\"");
    let page = house.host.run(|| crate::harness::http("the page")).unwrap();
    let url = format!("http://{page}/");
    let ada = house.issue("ada");
    assert_eq!(house.curl(Some(&ada), &[], &url), (Some(0), "the page".to_owned()));
    house.say(&["user", "set", "ada", "--day-bytes", "100"]);
    await_that("the end of what she may move", || {
        let (_, text) = house.curl(Some(&ada), &[], &url);
        text.contains("response 403").then_some(()).ok_or(text)
    });
    let refused = house.gateway.status().refused;
    assert_eq!((refused["no_login"], refused["login_refused"]), (0, 0), "{refused:?}");
    assert!(refused["quota_used_up"] > 0, "{refused:?}");
}
