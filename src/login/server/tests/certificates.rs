//! Who believes whom, and why not.

use std::time::Duration;

use crate::accounts::names::Name;
use crate::login::client::{Channel, ChannelError, Destination, News};
use crate::login::message::RefusalCode;
use crate::login::pki::Validity;
use crate::login::server::LoginThread;
use crate::login::testing::{Desk, SOON, Site, Told, connect, request};
use crate::login::tls::{ClientTls, Pin, Trust};
use crate::sys::clock;

use super::{heard, heard_login, news};

/// What a client says when it does not get as far as the greeting.
fn reason(connected: Result<Channel, ChannelError>) -> String {
    match connected {
        Ok(_) => panic!("it is connected"),
        Err(error) => error.to_string(),
    }
}

fn connect_as(name: &str, thread: &LoginThread, tls: &ClientTls) -> Result<Channel, ChannelError> {
    let to = Destination { name, address: thread.addresses()[0], mark: None };
    Channel::connect(to, tls, SOON)
}

#[test]
fn a_server_is_believed_by_its_ca_or_its_pin_and_under_its_names() {
    let (site, (desk, _told)) = (Site::new(), Desk::new());
    let thread = site.serve(&desk);
    let pinned = ClientTls::new(&Trust::Pin(site.pki.pin().unwrap()), None).unwrap();
    for tls in [site.client(), pinned] {
        for name in ["localhost", "LocalHost", "127.0.0.1"] {
            connect_as(name, &thread, &tls).map(drop).unwrap();
        }
        let reason = reason(connect_as("vpn.example.org", &thread, &tls));
        assert!(reason.contains("not for vpn.example.org, but for"), "{reason}");
        assert!(reason.contains("localhost"), "{reason}");
    }
}

#[test]
fn a_server_of_another_ca_is_refused() {
    let (site, other, (desk, _told)) = (Site::new(), Site::new(), Desk::new());
    let thread = site.serve(&desk);
    let pin = Trust::Pin(other.pki.pin().unwrap());
    let leaf = Trust::Pin(Pin([7; 32]));
    for tls in
        [other.client(), ClientTls::new(&pin, None).unwrap(), ClientTls::new(&leaf, None).unwrap()]
    {
        let reason = reason(connect(&thread, &tls));
        assert!(reason.contains("a CA that is not trusted here"), "{reason}");
    }
}

#[test]
fn a_certificate_out_of_its_time_is_refused() {
    let (site, (desk, _told)) = (Site::new(), Desk::new());
    let day = Duration::from_secs(24 * 3600);
    let names = ["localhost".parse().unwrap()];
    for (from, expected) in [
        (clock::unix_time() - 40 * day, "has expired"),
        (clock::unix_time() + 2 * day, "not valid yet"),
    ] {
        site.pki.issue_server(&names, Validity::days(from, 30), &mut rand::rng()).unwrap();
        let thread = site.serve(&desk);
        let pinned = ClientTls::new(&Trust::Pin(site.pki.pin().unwrap()), None).unwrap();
        for tls in [site.client(), pinned] {
            let reason = reason(connect(&thread, &tls));
            assert!(reason.contains(expected), "{reason}");
        }
    }
}

#[test]
fn something_that_is_no_login_port_is_told_as_such() {
    let site = Site::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let to = Destination { name: "localhost", address: listener.local_addr().unwrap(), mark: None };
    let answer = std::thread::spawn(move || {
        use std::io::Write as _;
        let mut stream = listener.accept().unwrap().0;
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
        stream
    });
    let reason = reason(Channel::connect(to, &site.client(), SOON));
    assert!(reason.contains("does not speak TLS"), "{reason}");
    drop(answer.join().unwrap());
    let error = Channel::connect(to, &site.client(), SOON).map(drop).unwrap_err();
    assert!(error.to_string().contains("does the server run"), "{error}");
}

#[test]
fn a_client_certificate_names_its_user() {
    let (site, (desk, told)) = (Site::new(), Desk::new());
    let thread = site.serve(&desk);
    let (certificate, tls) = site.client_as("bob");
    connect(&thread, &tls).unwrap().login(&request("none"), SOON).unwrap();
    let shown = heard_login(&told).certificate.unwrap();
    assert_eq!(shown.serial, certificate.serial);
    assert_eq!(Pin(shown.fingerprint), Pin::of(&certificate.der));
    let left = shown.not_after.0 / 1000 - clock::unix_time().as_secs() as i64;
    assert!((30 * 86_400 - 60..=30 * 86_400).contains(&left), "{left} s are left of 30 days");
    assert_eq!(shown.user, "bob".parse::<Name>().unwrap());
}

#[test]
fn a_client_certificate_of_another_ca_is_refused() {
    let (site, other, (desk, _told)) = (Site::new(), Site::new(), Desk::new());
    let thread = site.serve(&desk);
    let foreign = other.identity_of("bob");
    let trust = Trust::Authority(site.pki.certificate());
    let tls = ClientTls::new(&trust, Some(foreign)).unwrap();
    let reason = reason(connect(&thread, &tls));
    assert!(reason.contains("refuses this client's certificate"), "{reason}");
}

#[test]
fn a_revoked_certificate_ends_its_sessions_within_a_second_and_opens_no_more() {
    let (site, (desk, told)) = (Site::new(), Desk::new());
    let thread = site.serve(&desk);
    let (certificate, tls) = site.client_as("bob");
    let (_, other) = site.client_as("carol");
    let mut channel = connect(&thread, &tls).unwrap();
    channel.login(&request("none"), SOON).unwrap();
    heard_login(&told);
    let mut channel = channel.into_live().unwrap();

    let began = clock::now();
    site.pki.revoke(&certificate.serial, clock::unix_time()).unwrap();
    let news = news(&mut channel).unwrap();
    let took = clock::now() - began;
    assert!(matches!(news[..], [News::Ended { code: RefusalCode::Revoked, .. }]));
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert!(
        matches!(heard(&told), Told::Revoked(serials) if serials.contains(&certificate.serial))
    );

    let reason = reason(connect(&thread, &tls));
    assert!(reason.contains("it was revoked"), "{reason}");
    assert!(connect(&thread, &other).unwrap().login(&request("none"), SOON).is_ok());
}

#[test]
fn the_desk_hears_of_a_revocation_that_is_taken_back() {
    let (site, (desk, told)) = (Site::new(), Desk::new());
    let _thread = site.serve(&desk);
    let (certificate, _) = site.client_as("bob");
    let before = std::fs::read(site.pki.revocation_list()).unwrap();
    site.pki.revoke(&certificate.serial, clock::unix_time()).unwrap();
    assert!(
        matches!(heard(&told), Told::Revoked(serials) if serials.contains(&certificate.serial))
    );
    std::fs::write(site.pki.revocation_list(), before).unwrap();
    assert!(matches!(heard(&told), Told::Revoked(serials) if serials.is_empty()));
}

#[test]
fn a_damaged_revocation_list_leaves_the_one_before_in_force() {
    let (site, (desk, _told)) = (Site::new(), Desk::new());
    let thread = site.serve(&desk);
    let (certificate, tls) = site.client_as("bob");
    site.pki.revoke(&certificate.serial, clock::unix_time()).unwrap();
    let is_refused = || connect(&thread, &tls).is_err().then_some(());
    crate::lab::wait_until(SOON, "the revocation to be in force", is_refused).unwrap();
    std::fs::write(site.pki.revocation_list(), "nonsense").unwrap();
    std::thread::sleep(2 * crate::limits::LOGIN_FILES_LOOK_EVERY);
    assert!(connect(&thread, &tls).is_err());
}

#[test]
fn a_renewed_server_certificate_is_in_force_at_once() {
    let (site, (desk, _told)) = (Site::new(), Desk::new());
    let thread = site.serve(&desk);
    let tls = site.client();
    assert!(connect_as("vpn.example.org", &thread, &tls).is_err());
    let names = ["vpn.example.org".parse().unwrap()];
    let validity = Validity::days(clock::unix_time(), 30);
    site.pki.issue_server(&names, validity, &mut rand::rng()).unwrap();
    let is_renewed = || connect_as("vpn.example.org", &thread, &tls).ok().map(drop);
    crate::lab::wait_until(SOON, "the certificate to be in force", is_renewed).unwrap();
}
