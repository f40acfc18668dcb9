//! The gateway beside a tunnel.

use std::io::Write;
use std::net::TcpListener;

use corelane::lab::Host;

use crate::harness::{Gateway, ask_for, connect, read_exactly};

#[test]
fn a_server_serves_both_and_gives_relays_time_when_it_stops() {
    let host = Host::create("server").unwrap();
    let mut gateway = Gateway::start_beside_a_tunnel(
        &host,
        "[server]\nlisten = [\"127.0.0.1:20443\"]\n[tun]\naddresses = [\"10.77.0.1/24\"]\n\
         [workers]\ncount = 2\n\
         [[proxy]]\nlisten = [\"tcp://127.0.0.1:1080\"]\nallow = [\"loopback\", \"private\"]\n\
         [[proxy]]\nlisten = [\"tcp://[::1]:1080\"]\nprotocols = [\"http\"]\n",
    );
    let reach = || host.run(|| connect(gateway.address)).unwrap();
    let listener = host.run(|| TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
    let mut client = reach();
    assert_eq!(ask_for(&mut client, listener.local_addr().unwrap()), 0);
    let (mut origin, _) = listener.accept().unwrap();
    // The server's inner address is its own, even where private ones are allowed.
    assert_eq!(ask_for(&mut reach(), "10.77.0.1:1".parse().unwrap()), 2);

    let report = gateway.report();
    assert_eq!((report.role.as_str(), report.workers.len()), ("server", 2));
    let status = report.proxy.unwrap();
    assert_eq!((status.workers, status.reached, status.failed["denied"]), (2, 1, 1));
    assert_eq!(status.listening, ["127.0.0.1:1080", "[::1]:1080"]);

    gateway.terminate();
    gateway.await_log("stopping");
    client.write_all(b"a last word").unwrap();
    assert_eq!(read_exactly(&mut origin, 11), b"a last word");
    drop((client, origin));
    assert!(gateway.await_end().success());
}
