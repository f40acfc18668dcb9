use super::*;

fn request(servers: &[&str], search: &[&str], split: &[&str]) -> DnsRequest {
    let owned = |texts: &[&str]| texts.iter().map(|it| (*it).to_owned()).collect();
    DnsRequest {
        servers: servers.iter().map(|it| it.parse().unwrap()).collect(),
        search: owned(search),
        split: owned(split),
    }
}

#[test]
fn what_no_resolver_takes_is_refused_before_anything_happens() {
    assert!(
        request(&["10.77.0.1", "fd77::1"], &["lan", "_x.example.org"], &["a-b"]).check().is_ok()
    );
    for domain in
        ["", ".", "a..b", "a b", "a\nnameserver 192.0.2.1", "~.", "-x", "é.org", &"a".repeat(64)]
    {
        assert!(request(&["10.77.0.1"], &[domain], &[]).check().is_err(), "{domain:?}");
        assert!(request(&["10.77.0.1"], &[], &[domain]).check().is_err(), "{domain:?}");
    }
    for server in ["0.0.0.0", "::", "224.0.0.1", "ff02::fb"] {
        assert!(request(&[server], &[], &[]).check().is_err(), "{server}");
    }
    assert!(request(&[], &[], &["example.org"]).check().is_err(), "nobody knows it");
    assert!(request(&["10.77.0.1"; DNS_SERVERS_MAX + 1], &[], &[]).check().is_err());
    assert!(request(&["10.77.0.1"], &["lan"; DNS_DOMAINS_MAX + 1], &[]).check().is_err());
}

#[test]
fn nothing_is_done_where_nothing_is_wanted() {
    let nothing = DnsRequest::default();
    assert!(Resolver::install("vpn0", DnsMode::Auto, &nothing).unwrap().is_none());
    let some = request(&["10.77.0.1"], &[], &[]);
    assert!(Resolver::install("vpn0", DnsMode::Off, &some).unwrap().is_none());
}

#[test]
fn a_host_of_resolved_is_known_by_the_file() {
    let directory = tempfile::TempDir::new().unwrap();
    let file = directory.path().join("resolv.conf");
    for (text, is_resolved) in [
        ("nameserver 127.0.0.53\noptions edns0\n", true),
        ("nameserver 127.0.0.1\n", false),
        ("# nameserver 127.0.0.53\nnameserver 192.0.2.53\n", false),
        ("", false),
    ] {
        fs::write(&file, text).unwrap();
        assert_eq!(leads_to_resolved(&file), is_resolved, "{text}");
    }
    assert!(!leads_to_resolved(&directory.path().join("none")));
}
