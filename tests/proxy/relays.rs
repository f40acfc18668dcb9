//! Bytes through a relay: all of them, in order, to the end of each direction.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::thread;

use socket2::SockRef;

use crate::harness::{Gateway, await_that, descriptors, echo, origin, read_exactly, read_to_end};

/// Bytes that do not repeat soon.
fn bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    (0..len).map(|_| next()).collect()
}

#[test]
fn much_in_both_directions_at_once_arrives_as_it_was_sent() {
    let gateway = Gateway::start(&[]);
    let mut client = gateway.reach(echo());
    let sent = bytes(16 << 20, 1);
    let mut writer = client.try_clone().unwrap();
    let writing = thread::spawn({
        let sent = sent.clone();
        move || {
            writer.write_all(&sent).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        }
    });
    assert!(read_to_end(&mut client) == sent);
    writing.join().unwrap();
    gateway.await_status("all is counted", |status| {
        let len = sent.len() as u64;
        (status.up_bytes, status.down_bytes, status.connections) == (len, len, 0)
    });
}

#[test]
fn the_client_ends_first_and_still_gets_the_answer() {
    let gateway = Gateway::start(&[]);
    let (listener, address) = origin();
    let mut client = gateway.reach(address);
    let (mut served, _) = listener.accept().unwrap();
    client.write_all(b"question").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut served), b"question");
    served.write_all(b"answer").unwrap();
    drop(served);
    assert_eq!(read_to_end(&mut client), b"answer");
    gateway.await_status("it is over", |status| status.connections == 0 && status.broken == 0);
}

#[test]
fn the_origin_ends_first_and_still_gets_the_rest() {
    let gateway = Gateway::start(&[]);
    let (listener, address) = origin();
    let mut client = gateway.reach(address);
    let (mut served, _) = listener.accept().unwrap();
    served.write_all(b"all there is").unwrap();
    served.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut client), b"all there is");
    client.write_all(b"thanks").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut served), b"thanks");
    gateway.await_status("it is over", |status| status.connections == 0 && status.broken == 0);
}

#[test]
fn what_is_sent_with_the_request_and_ended_at_once_arrives() {
    let gateway = Gateway::start(&[]);
    let (listener, address) = origin();
    let mut client = gateway.connect();
    let request = crate::harness::greeting_and_request(address);
    client.write_all(&[&request[..], b"at once"].concat()).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let (mut served, _) = listener.accept().unwrap();
    assert_eq!(read_to_end(&mut served), b"at once");
    served.write_all(b"good").unwrap();
    drop(served);
    assert!(read_to_end(&mut client).ends_with(b"good"));
    let status = gateway.status();
    assert_eq!((status.up_bytes, status.down_bytes), (7, 4), "without the proxy's own words");
}

#[test]
fn a_connection_that_breaks_is_no_end() {
    let gateway = Gateway::start(&[]);
    for is_origin in [true, false] {
        let (listener, address) = origin();
        let client = gateway.reach(address);
        let (served, _) = listener.accept().unwrap();
        let (breaking, mut reading) = if is_origin { (served, client) } else { (client, served) };
        SockRef::from(&breaking).set_linger(Some(std::time::Duration::ZERO)).unwrap();
        drop(breaking);
        reading.set_read_timeout(Some(crate::harness::LONG)).unwrap();
        let error = reading.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "origin: {is_origin}");
    }
    gateway.await_status("both are over", |status| status.connections == 0 && status.broken == 2);
}

#[test]
fn what_was_said_before_a_break_is_passed_on() {
    let gateway = Gateway::start(&[]);
    let (listener, address) = origin();
    let mut client = gateway.reach(address);
    let (mut served, _) = listener.accept().unwrap();
    // The origin answers early and closes with bytes unread, which the kernel makes a reset.
    client.write_all(&[1; 1000]).unwrap();
    read_exactly(&mut served, 1);
    served.write_all(b"early answer").unwrap();
    drop(served);
    assert_eq!(read_exactly(&mut client, 12), b"early answer");
}

#[test]
fn clients_that_vanish_leave_nothing_behind() {
    let gateway = Gateway::start(&[]);
    let (listener, address) = origin();
    let open_before = descriptors(&gateway).len();
    let held: Vec<_> = (0..50).map(|_| gateway.reach(address)).collect();
    let served: Vec<_> = (0..50).map(|_| listener.accept().unwrap().0).collect();
    gateway.await_status("they are there", |status| status.connections == 50);
    drop(held);
    for mut stream in served {
        assert_eq!(read_to_end(&mut stream), b"");
    }
    gateway.await_status("they are gone", |status| status.connections == 0);
    await_that("as many descriptors as before", || match descriptors(&gateway).len() {
        open if open == open_before => Ok(()),
        open => Err(format!("{open}, not {open_before}")),
    });
}
