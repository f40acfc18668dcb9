//! Both ends over loopback.

use std::time::Duration;

use crossbeam_channel::Receiver;
use mio::{Events, Interest, Poll, Token};

use crate::login::client::{ChannelError, LiveChannel, News, Refusal};
use crate::login::message::{RefusalCode, Secret};
use crate::login::testing::{Desk, SOON, Site, Told, connect, request};

use super::{LoginAttempt, LoginId};

mod certificates;
mod session;

fn heard(told: &Receiver<Told>) -> Told {
    told.recv_timeout(SOON).expect("the desk is told something")
}

fn heard_login(told: &Receiver<Told>) -> LoginAttempt {
    match heard(told) {
        Told::Login(attempt) => *attempt,
        other => panic!("{other:?}"),
    }
}

/// Waits until the server has said something, or the channel has failed.
fn news(channel: &mut LiveChannel) -> Result<Vec<News>, ChannelError> {
    let mut poll = Poll::new().unwrap();
    poll.registry().register(channel, Token(0), Interest::READABLE | Interest::WRITABLE).unwrap();
    let mut news = Vec::new();
    let mut outcome = Ok(());
    while news.is_empty() && outcome.is_ok() {
        while let Ok(true) = {
            let turn = channel.turn(&mut news);
            outcome = turn.as_ref().map(drop).map_err(|error| format!("{error}"));
            turn
        } {}
        if news.is_empty() && outcome.is_ok() {
            poll.poll(&mut Events::with_capacity(8), Some(SOON)).unwrap();
        }
    }
    poll.registry().deregister(channel).unwrap();
    match outcome {
        Err(_) if news.is_empty() => Err(ChannelError::Lost(None)),
        _ => Ok(news),
    }
}

fn refusal(error: ChannelError) -> Refusal {
    match error {
        ChannelError::Refused(refusal) => refusal,
        other => panic!("{other}"),
    }
}

#[test]
fn a_user_logs_in_and_both_ends_know_the_same_key() {
    let (site, (desk, told)) = (Site::new(), Desk::new());
    let thread = site.serve(&desk);
    let mut channel = connect(&thread, &site.client()).unwrap();
    assert_eq!(channel.load(SOON).unwrap().load_permille, 250);
    let request = request("correct");
    let granted = channel.login(&request, SOON).unwrap();
    assert_eq!(granted.terms.user.as_str(), "alice");
    let attempt = heard_login(&told);
    assert!(attempt.from.ip().is_loopback());
    assert_eq!(attempt.certificate, None);
    assert_eq!(attempt.device_key.to_string(), request.device_key);
    assert!(attempt.psk == granted.psk, "the ends derive one key");

    let mut again = connect(&thread, &site.client()).unwrap();
    let other = again.login(&request, SOON).unwrap();
    assert!(other.psk != granted.psk, "another connection has another key");
}

#[test]
fn a_wrong_password_is_refused_and_the_right_one_taken_on_the_same_connection() {
    let (site, (desk, _told)) = (Site::new(), Desk::new());
    let thread = site.serve(&desk);
    let mut channel = connect(&thread, &site.client()).unwrap();
    let refused = refusal(channel.login(&request("wrong"), SOON).unwrap_err());
    assert_eq!(refused.code, RefusalCode::Denied);
    assert!(channel.login(&request("correct"), SOON).is_ok());
}

#[test]
fn guesses_on_one_connection_are_counted() {
    let (site, (desk, _told)) = (Site::new(), Desk::new());
    let thread = site.serve(&desk);
    let mut channel = connect(&thread, &site.client()).unwrap();
    for _ in 0..crate::limits::LOGIN_TRIES_MAX {
        assert_eq!(
            refusal(channel.login(&request("wrong"), SOON).unwrap_err()).code,
            RefusalCode::Denied
        );
    }
    assert!(matches!(channel.login(&request("correct"), SOON), Err(ChannelError::Lost(_))));
}

#[test]
fn a_lease_is_renewed_asked_after_and_given_back() {
    let (site, (desk, told)) = (Site::new(), Desk::new());
    let thread = site.serve(&desk);
    let mut channel = connect(&thread, &site.client()).unwrap();
    channel.login(&request("correct"), SOON).unwrap();
    let id = heard_login(&told).id;
    let mut channel = channel.into_live().unwrap();
    channel.ping(7).unwrap();
    assert!(matches!(
        news(&mut channel).unwrap()[..],
        [News::Pong { nonce: 7, load_permille: 250 }]
    ));
    channel.renew().unwrap();
    assert!(matches!(news(&mut channel).unwrap()[..], [News::Renewed(_)]));
    assert!(matches!(heard(&told), Told::Renew(renewed) if renewed == id));
    channel.logout().unwrap();
    assert!(news(&mut channel).is_err(), "the server closes");
    assert!(matches!(heard(&told), Told::Logout(over) if over == id));
    drop(channel);
    drop(thread);
    assert!(told.try_recv().is_err(), "what was given back is not lost on top");
}

#[test]
fn a_lost_connection_is_told_to_the_desk_once() {
    let (site, (desk, told)) = (Site::new(), Desk::new());
    let thread = site.serve(&desk);
    let mut channel = connect(&thread, &site.client()).unwrap();
    channel.login(&request("correct"), SOON).unwrap();
    let id = heard_login(&told).id;
    drop(channel);
    assert!(matches!(heard(&told), Told::Gone(gone) if gone == id));
    drop(thread);
    assert!(told.try_recv().is_err());
}

#[test]
fn a_login_that_is_granted_to_somebody_who_has_left_is_lost() {
    let (site, (desk, told)) = (Site::new(), Desk::new());
    let thread = site.serve(&desk);
    desk.hold();
    let mut channel = connect(&thread, &site.client()).unwrap();
    let error = channel.login(&request("correct"), Duration::from_millis(50)).unwrap_err();
    assert!(matches!(error, ChannelError::Timeout), "{error}");
    let id = heard_login(&told).id;
    drop(channel);
    desk.release();
    assert!(matches!(heard(&told), Told::Gone(gone) if gone == id));
}

#[test]
fn a_session_is_ended_from_outside() {
    let (site, (desk, told)) = (Site::new(), Desk::new());
    let thread = site.serve(&desk);
    let mut channel = connect(&thread, &site.client()).unwrap();
    channel.login(&request("correct"), SOON).unwrap();
    let mut channel = channel.into_live().unwrap();
    thread.handle().end(heard_login(&told).id, RefusalCode::Kicked, "out".to_owned());
    let news = news(&mut channel).unwrap();
    let [News::Ended { code: RefusalCode::Kicked, message }] = &news[..] else { panic!() };
    assert_eq!(message, "out");
    thread.handle().end(LoginId(999), RefusalCode::Kicked, String::new());
    drop(channel);
    drop(thread);
    assert!(told.try_recv().is_err(), "the desk knows of it already");
}

#[test]
fn clients_are_told_that_the_server_stops() {
    let (site, (desk, _told)) = (Site::new(), Desk::new());
    let thread = site.serve(&desk);
    let mut channel = connect(&thread, &site.client()).unwrap();
    channel.login(&request("correct"), SOON).unwrap();
    let mut channel = channel.into_live().unwrap();
    let stopping = std::thread::spawn(move || drop(thread));
    let news = news(&mut channel).unwrap();
    assert!(matches!(news[..], [News::Ended { code: RefusalCode::Stopping, .. }]));
    drop(channel);
    stopping.join().unwrap();
}

#[test]
fn a_connection_becomes_a_carrier_by_its_ticket() {
    use std::io::Write as _;
    let (site, (desk, told)) = (Site::new(), Desk::new());
    let thread = site.serve(&desk);
    let refused = connect(&thread, &site.client()).unwrap();
    let refused = refused.into_carrier(&Secret::new("guess".to_owned()), SOON).unwrap_err();
    assert_eq!(refusal(refused).code, RefusalCode::Denied);

    let channel = connect(&thread, &site.client()).unwrap();
    let mut client = channel.into_carrier(&Secret::new("ticket".to_owned()), SOON).unwrap();
    let Told::Carrier(server) = heard(&told) else { panic!() };
    let mut server = *server;
    assert_eq!(server.login, LoginId(77));
    // The server's half works on, in whosever hands it is.
    client.tls.writer().write_all(b"datagram").unwrap();
    client.tls.write_tls(&mut client.stream).unwrap();
    let mut poll = Poll::new().unwrap();
    poll.registry().register(&mut server.stream, Token(0), Interest::READABLE).unwrap();
    poll.poll(&mut Events::with_capacity(8), Some(SOON)).unwrap();
    server.tls.read_tls(&mut server.stream).unwrap();
    assert_eq!(server.tls.process_new_packets().unwrap().plaintext_bytes_to_read(), 8);
}
