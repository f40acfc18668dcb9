//! Upstream proxies inside TLS: whom they are taken for, and who they take this one for.

use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::harness::{Gateway, echo, greeting_and_request, http, read_exactly};
use crate::routes::{chained, fetch};
use crate::secured::Site;

/// The server of a group that `gateway` is, by name.
fn by_name(gateway: &Gateway) -> String {
    format!("\"https://localhost:{}\"", gateway.address.port())
}

#[test]
fn everything_passes_through_a_chain_inside_tls() {
    let site = Site::new();
    let (page, origin) = (http("from afar"), echo());
    let end = site.gateway("");
    let ca = format!("ca_file = {:?}", site.authority());
    let near = chained(page.port(), &by_name(&end), &ca);
    let url = format!("http://localhost:{}/", page.port());
    for proxy in ["socks5h", "socks4a", "http"] {
        let proxy = format!("{proxy}://{}", near.address);
        assert_eq!(fetch(&["--proxytunnel", "--proxy", &proxy, &url]), "from afar");
    }
    let proxy = format!("http://{}", near.address);
    assert_eq!(fetch(&["--proxy", &proxy, &url]), "from afar", "a request that is forwarded");
    assert_eq!(end.status().reached, 4, "all came through it");
    let server = &near.status().upstreams[0];
    assert_eq!((server.reached, server.failed), (4, 0));
    // Much at once, in both directions, and each ends on its own.
    let near = chained(origin.port(), &by_name(&end), &ca);
    let mut stream = near.reach(origin);
    let mut writer = stream.try_clone().unwrap();
    let sent: Vec<u8> = (0..8_000_000_u32).map(|it| (it % 251) as u8).collect();
    let expected = sent.clone();
    let writing = std::thread::spawn(move || {
        writer.write_all(&sent).unwrap();
        writer.shutdown(std::net::Shutdown::Write).unwrap();
    });
    assert_eq!(crate::harness::read_to_end(&mut stream), expected);
    writing.join().unwrap();
}

#[test]
fn a_server_with_a_wrong_certificate_gets_nothing_and_the_right_one_does() {
    let (site, other) = (Site::new(), Site::new());
    let origin = echo();
    let end = site.gateway("");
    let by_address = format!("\"https://127.0.0.1:{}\"", end.address.port());
    // Not one of the addresses that its certificate has.
    let config = site.config("").replace("127.0.0.1:0", "127.0.0.2:0");
    let elsewhere = Gateway::start_with_file(&config);
    let by_other_address = format!("\"https://{}\"", elsewhere.address);
    let ca = |site: &Site| format!("ca_file = {:?}", site.authority());
    let pin = |site: &Site| format!("ca_pin = \"{}\"", site.pin());
    for (servers, trust, expected) in [
        (&by_name(&end), ca(&site), None),
        (&by_address, ca(&site), None),
        (&by_name(&end), pin(&site), None),
        (&by_other_address, ca(&site), Some("not for 127.0.0.2")),
        (&by_name(&end), ca(&other), Some("name its CA by `ca_file` or `ca_pin`")),
        (&by_name(&end), pin(&other), Some("name its CA by `ca_file` or `ca_pin`")),
    ] {
        let near = chained(origin.port(), servers, &trust);
        let before = end.status().reached;
        for _ in 0..3 {
            let reply = near.reply_to(&origin.to_string());
            assert_eq!(reply, u8::from(expected.is_some()), "{servers} {trust}");
        }
        match expected {
            None => assert_eq!(end.status().reached - before, 3),
            Some(why) => {
                near.await_log(why);
                let server = &near.status().upstreams[0];
                assert!((server.failed, server.out_for_s.is_some()) == (3, true), "{server:?}");
                let reached = (end.status().reached, elsewhere.status().reached);
                assert_eq!(reached, (before, 0), "it was told nothing");
            }
        }
    }
    // Nor is a server taken that speaks no TLS, and it says so.
    let plain = Gateway::start(&[]);
    let near = chained(origin.port(), &by_name(&plain), &ca(&site));
    for _ in 0..3 {
        assert_eq!(near.reply_to(&origin.to_string()), 1);
    }
    near.await_log("left out");
}

#[test]
fn a_check_speaks_tls_as_well() {
    let (site, other) = (Site::new(), Site::new());
    let (page, end) = (http("the page"), site.gateway(""));
    for check in ["", &format!("check = \"{page}\"")] {
        for (trusted, is_well) in [(&site, true), (&other, false)] {
            let more = format!("ca_file = {:?}\ncheck_every_s = 1\n{check}", trusted.authority());
            let near = chained(page.port(), &by_name(&end), &more);
            match is_well {
                true => near.await_status("it is well", |it| {
                    end.status().accepted > 1 && it.upstreams[0].failed == 0
                }),
                false => near.await_status("it is out", |it| it.upstreams[0].out_for_s.is_some()),
            }
        }
    }
}

#[test]
fn a_server_that_wants_a_certificate_is_shown_one() {
    let site = Site::new();
    let origin = echo();
    let end = site.gateway(&site.mutual());
    let user = site.user("ada");
    let [certificate, key] = site.files(&user);
    std::fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    let ca = format!("ca_file = {:?}", site.authority());
    let shown = |certificate: &Path, key: &Path| {
        format!("{ca}\ncertificate_file = {certificate:?}\nkey_file = {key:?}")
    };
    let with = chained(origin.port(), &by_name(&end), &shown(&certificate, &key));
    let without = chained(origin.port(), &by_name(&end), &ca);
    assert_eq!(with.reply_to(&origin.to_string()), 0);
    for _ in 0..3 {
        assert_eq!(without.reply_to(&origin.to_string()), 1);
    }
    without.await_log("`certificate_file` and `key_file`");
}

#[test]
fn a_token_alone_is_shown_as_bearer() {
    let origin = echo();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    std::fs::write(&file, "abc.def\n").unwrap();
    std::fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    let upstream = crate::harness::serve(|mut stream| {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.extend(read_exactly(&mut stream, 1));
        }
        let shown = String::from_utf8(head).unwrap();
        let is_good = shown.contains("\r\nProxy-Authorization: Bearer abc.def\r\n");
        let status = if is_good { "200 OK" } else { "407 Who?" };
        drop(stream.write_all(format!("HTTP/1.1 {status}\r\n\r\n").as_bytes()));
    });
    let servers = format!("\"http://{upstream}\"");
    let with = chained(origin.port(), &servers, &format!("token_file = {file:?}"));
    let without = chained(origin.port(), &servers, "");
    assert_eq!(with.reply_to(&origin.to_string()), 0);
    assert_eq!(without.reply_to(&origin.to_string()), 1);
    let mut stream = with.connect();
    stream.write_all(&greeting_and_request(origin)).unwrap();
    assert_eq!(read_exactly(&mut stream, 4), [5, 0, 5, 0]);
}
