//! What people use.

use std::process::Command;

use crate::harness::{Gateway, http};

/// Runs curl through the gateway; returns its exit code and what it got.
fn curl(arguments: &[&str]) -> (Option<i32>, String) {
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
