//! Start, reload, stop.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;

use crate::forwarding::read_response;
use crate::harness::{Gateway, await_that, echo, http, read_exactly};

#[test]
fn a_reload_keeps_what_runs_and_holds_for_those_who_come() {
    let config =
        |allow: &str| format!("[[proxy]]\nlisten = [\"tcp://127.0.0.1:0\"]\nallow = [{allow}]\n");
    let gateway = Gateway::start_with_file(&config("\"loopback\""));
    let origin = echo();
    let mut running = gateway.reach(origin);
    let page = format!("GET http://{}/ HTTP/1.1\r\nHost: a\r\n\r\n", http("the page"));
    let mut keeping = gateway.connect();
    keeping.write_all(page.as_bytes()).unwrap();
    assert_eq!(read_response(&mut keeping).1, b"the page");
    gateway.write_config(&config(""));
    gateway.reload();
    gateway.await_status("the rules are new", |_| gateway.reply_to(&origin.to_string()) == 2);
    assert_eq!(keeping.read(&mut [0]).unwrap(), 0, "it asks again by the new rules");
    running.write_all(b"still here").unwrap();
    assert_eq!(read_exactly(&mut running, 10), b"still here");
    // What is wrong is not taken over.
    gateway.write_config("[[proxy]]\nlisten = 7\n");
    let output = Command::new("kill").arg("-HUP").arg(gateway.child.id().to_string()).status();
    assert!(output.unwrap().success());
    gateway.await_log("configuration not applied");
    running.write_all(b"and here").unwrap();
    assert_eq!(read_exactly(&mut running, 8), b"and here");
}

#[test]
fn a_stop_lets_relays_end_and_takes_nobody_new() {
    let mut gateway = Gateway::start(&[]);
    let mut running = gateway.reach(echo());
    let mut silent = gateway.connect();
    gateway.await_status("both are there", |status| status.connections == 2);
    gateway.terminate();
    gateway.await_log("stopping");
    assert_eq!(silent.read(&mut [0]).unwrap(), 0, "it has asked for nothing");
    await_that("a port that is shut", || match TcpStream::connect(gateway.address) {
        Err(_) => Ok(()),
        Ok(_) => Err("it is open".to_owned()),
    });
    running.write_all(b"the last of it").unwrap();
    assert_eq!(read_exactly(&mut running, 14), b"the last of it");
    assert!(gateway.child.try_wait().unwrap().is_none(), "a relay is still there");
    drop(running);
    assert!(gateway.await_end().success());
}

#[test]
fn a_second_request_to_stop_is_heeded_at_once() {
    let mut gateway = Gateway::start(&[]);
    let mut running = gateway.reach(echo());
    gateway.terminate();
    gateway.await_log("stopping");
    gateway.terminate();
    assert!(gateway.await_end().success());
    assert!(running.read(&mut [0]).is_err(), "it is reset");
}

#[test]
fn a_port_that_is_taken_is_named_whoever_has_it() {
    let plain = TcpListener::bind("127.0.0.1:0").unwrap();
    let gateway = Gateway::start(&[]);
    for taken in [plain.local_addr().unwrap(), gateway.address] {
        let output = Command::new(env!("CARGO_BIN_EXE_corelane"))
            .args(["proxy", "--listen", &taken.to_string()])
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success());
        assert!(errors.contains(&taken.to_string()) && errors.contains("ss -ltnp"), "{errors}");
    }
}
