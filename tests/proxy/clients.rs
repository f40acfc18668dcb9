//! What people use.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::harness::{Gateway, echo, http};
use crate::oracle::Oracle;

/// Runs curl through the gateway; returns its exit code and what it got.
pub(crate) fn curl(arguments: &[&str]) -> (Option<i32>, String) {
    let common = ["--silent", "--show-error", "--max-time", "60", "--noproxy", ""];
    let output = Command::new("curl").args(common).args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), text + &errors)
}

#[test]
fn curl_reaches_an_origin_by_each_protocol_at_one_port() {
    let gateway = Gateway::start(&[]);
    let origin = http("the page");
    let proxy = gateway.address.to_string();
    let by_address = format!("http://{origin}/");
    let by_name = format!("http://localhost:{}/", origin.port());
    for (flags, url) in [
        (vec!["--socks5", &proxy], &by_address),
        (vec!["--socks5-hostname", &proxy], &by_name),
        (vec!["--socks4", &proxy], &by_address),
        (vec!["--socks4a", &proxy], &by_name),
        (vec!["--proxy", &proxy, "--proxytunnel"], &by_address),
        (vec!["--proxy", &proxy, "--proxytunnel"], &by_name),
        (vec!["--proxy1.0", &proxy, "--proxytunnel"], &by_name),
    ] {
        let arguments = [&flags[..], &[url.as_str()]].concat();
        let (code, text) = curl(&arguments);
        assert_eq!((code, text.as_str()), (Some(0), "the page"), "{flags:?} {url}");
    }
    let status = gateway.status();
    assert_eq!((status.accepted, status.reached), (7, 7), "{status:?}");
    assert_eq!(status.down_bytes % 7, 0);
    assert!(status.refused.values().chain(status.failed.values()).all(|count| *count == 0));
    let text = gateway.status_text();
    assert!(text.contains("reached") && text.contains(&proxy), "{text}");
}

#[test]
fn a_protocol_that_is_not_spoken_is_refused() {
    let gateway = Gateway::start(&["--protocols", "socks5"]);
    let origin = http("the page");
    let (proxy, url) = (gateway.address.to_string(), format!("http://{origin}/"));
    assert_eq!(curl(&["--socks5", &proxy, &url]), (Some(0), "the page".to_owned()));
    for flags in [&["--socks4", &proxy][..], &["--proxy", &proxy, "--proxytunnel"]] {
        let (code, _) = curl(&[flags, &[url.as_str()]].concat());
        assert_ne!(code, Some(0), "{flags:?}");
    }
    gateway.await_status("both are refused", |status| status.refused["malformed"] == 2);
}

/// Runs a Python script through the gateway; what it printed. The distribution's Python is the one
/// that has its packages.
pub(crate) fn python(script: &str, arguments: &[&str]) -> String {
    let output =
        Command::new("/usr/bin/python3").args(["-c", script]).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn requests_reaches_an_origin_by_each_protocol() {
    // The environment's proxies are not the ones to test.
    const SCRIPT: &str = "\
import sys, requests
session = requests.Session()
session.trust_env = False
proxy, url = sys.argv[1:]
print(session.get(url, proxies={'http': proxy}, timeout=60).text, end='')
";
    let gateway = Gateway::start(&[]);
    let origin = http("the page");
    let by_address = format!("http://{origin}/");
    let by_name = format!("http://localhost:{}/", origin.port());
    for (scheme, url) in [
        ("socks5", &by_address),
        ("socks5h", &by_name),
        ("socks4", &by_address),
        ("socks4a", &by_name),
        ("http", &by_name),
    ] {
        let proxy = format!("{scheme}://{}", gateway.address);
        assert_eq!(python(SCRIPT, &[&proxy, url]), "the page", "{scheme}");
    }
    assert_eq!(gateway.status().reached, 5);
}

#[test]
fn pysocks_makes_a_tunnel_by_connect() {
    const SCRIPT: &str = "\
import sys, socks
port, origin = int(sys.argv[1]), int(sys.argv[2])
stream = socks.socksocket()
stream.set_proxy(socks.HTTP, '127.0.0.1', port)
stream.settimeout(60)
stream.connect(('localhost', origin))
stream.sendall(b'there and back')
print(stream.recv(100).decode(), end='')
";
    let gateway = Gateway::start(&[]);
    let ports = [gateway.address.port(), echo().port()].map(|port| port.to_string());
    assert_eq!(python(SCRIPT, &[&ports[0], &ports[1]]), "there and back");
    assert_eq!(gateway.status().reached, 1);
}

#[test]
fn ncat_is_echoed_by_each_protocol_and_ends_with_its_input() {
    let gateway = Gateway::start(&[]);
    let (proxy, port) = (gateway.address.to_string(), echo().port().to_string());
    for (kind, host) in [
        ("socks5", "127.0.0.1"),
        ("socks4", "127.0.0.1"),
        ("http", "127.0.0.1"),
        ("http", "localhost"),
    ] {
        let mut child = Command::new("ncat")
            .args(["--proxy", &proxy, "--proxy-type", kind, "-w", "60", host, &port])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // Dropping it ends the input, which the echo sees and ends, too.
        child.stdin.take().unwrap().write_all(b"there and back").unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{kind} {host}");
        assert_eq!(output.stdout, b"there and back", "{kind} {host}");
    }
    assert_eq!(gateway.status().reached, 4);
}

#[test]
fn a_browser_shows_a_page_through_socks5_and_by_http() {
    for scheme in ["socks5", "http"] {
        let gateway = Gateway::start(&[]);
        let url = format!("http://localhost:{}/", http("<p>the page</p>").port());
        let proxy = format!("{scheme}://{}", gateway.address);
        let (text, errors) = browse(&proxy, &url);
        assert!(text.contains("<p>the page</p>"), "{scheme}: {text}{errors}");
        assert!(gateway.status().reached > 0, "{scheme}");
    }
}

/// What Chromium makes of a page, and what it complains of.
fn browse(proxy: &str, url: &str) -> (String, String) {
    let profile = tempfile::tempdir().unwrap();
    let output = Command::new("timeout")
        .args(["60", "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-dev-shm-usage"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("--proxy-server={proxy}"))
        // Otherwise loopback is reached without the proxy.
        .args(["--proxy-bypass-list=<-loopback>", "--dump-dom", url])
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

#[test]
fn curl_has_its_requests_forwarded() {
    let gateway = Gateway::start(&[]);
    let (oracle, other) = (Oracle::parrot(), Oracle::parrot());
    let proxy = format!("http://{}", gateway.address);
    let upload = tempfile::NamedTempFile::new().unwrap();
    let content = "0123456789".repeat(30_000);
    std::fs::write(upload.path(), &content).unwrap();
    let file = format!("@{}", upload.path().display());
    let path = upload.path().to_str().unwrap();
    let url = oracle.url("/a?b=c");
    let posted = format!("POST /a?b=c|{content}");
    for (flags, expected) in [
        (vec![], "GET /a?b=c|"),
        (vec!["--data", "some=thing"], "POST /a?b=c|some=thing"),
        (vec!["--data-binary", &file], posted.as_str()),
        (vec!["--data-binary", &file, "-H", "Transfer-Encoding: chunked"], posted.as_str()),
        (vec!["--data-binary", &file, "-H", "Expect: 100-continue"], posted.as_str()),
        (
            vec!["-X", "PUT", "--data-binary", &file, "--proxy1.0", &proxy],
            posted.replace("POST", "PUT").as_str(),
        ),
        (vec!["-X", "DELETE"], "DELETE /a?b=c|"),
        (vec!["--http1.0"], "GET /a?b=c|"),
    ] {
        let arguments = [&["-x", &proxy][..], &flags, &[url.as_str()]].concat();
        let (code, text) = curl(&arguments);
        assert!(code == Some(0) && text == expected, "{flags:?}: {code:?} {text:.300}");
    }
    let (code, text) = curl(&["-x", &proxy, "-T", path, &url]);
    assert!(code == Some(0) && text == posted.replace("POST", "PUT"), "{code:?} {text:.300}");
    let (code, text) = curl(&["-x", &proxy, "--head", &url]);
    assert!(code == Some(0) && text.contains("Content-Length: "), "{code:?} {text}");
    // Several on one connection, to two origins.
    let before = gateway.status();
    let (first, second) = (oracle.url("/1"), other.url("/2"));
    let (code, text) = curl(&["-x", &proxy, &first, &second, &first, &second]);
    assert_eq!((code, text.as_str()), (Some(0), "GET /1|GET /2|GET /1|GET /2|"));
    let after = gateway.status();
    assert_eq!(after.accepted - before.accepted, 1);
    assert_eq!(after.requests - before.requests, 4);
    assert_eq!(other.visits().len(), 1);
}

#[test]
fn python_has_its_requests_forwarded() {
    let gateway = Gateway::start(&[]);
    let oracle = Oracle::parrot();
    let program = "import sys, requests\n\
        s = requests.Session()\n\
        s.trust_env = False\n\
        s.proxies = {'http': sys.argv[1]}\n\
        print(s.get(sys.argv[2]).text)\n\
        print(s.post(sys.argv[2], data=b'x' * 100000).text == 'POST /|' + 'x' * 100000)\n\
        print(s.post(sys.argv[2], data=iter([b'ab', b'cd'])).text)\n";
    let (proxy, url) = (format!("http://{}", gateway.address), oracle.url("/"));
    assert_eq!(python(program, &[&proxy, &url]), "GET /|\nTrue\nPOST /|abcd\n");
    assert_eq!((gateway.status().accepted, oracle.visits().len()), (1, 1));
}
