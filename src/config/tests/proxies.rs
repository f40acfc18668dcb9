//! What a proxy is warned of.

use super::{assert_only, lines};
use crate::config::problems::Severity;

#[test]
fn a_proxy_that_believes_what_its_clients_may_come_from_is_warned_of() {
    let tables = |listed: &str, allow: &str| {
        format!(
            "[[proxy]]\nlisten = [\"127.0.0.1:0\"]\nproxy_protocol_from = [{listed}]\n\
             [[proxy]]\nlisten = [\"192.0.2.5:1080\"]\nallow_remote = true\nallow = [{allow}]\n"
        )
    };
    for (listed, allow) in [
        ("\"127.0.0.1/32\"", "\"loopback\""),
        ("\"127.0.0.0/8\"", "\"127.0.0.1\""),
        ("\"::1/128\"", "\"private\", \"::1\""),
        ("\"192.0.2.0/24\"", "\"own\""),
    ] {
        let text = tables(listed, allow);
        assert_only(&text, Severity::Warning, "as if they were a proxy in `proxy_protocol_from`");
    }
    for (listed, allow) in [
        ("\"127.0.0.1/32\"", ""),
        ("", "\"loopback\""),
        ("\"127.0.0.1/32\"", "\"10.0.0.0/8\""),
        ("\"10.0.0.5/32\"", "\"10.0.0.0/8\", \"loopback\""),
        ("\"192.0.2.0/24\"", "\"192.0.2.0/24\""),
    ] {
        assert_eq!(lines(&tables(listed, allow)), [""; 0], "{listed} {allow}");
    }
}

#[test]
fn certificates_of_a_proxy_without_tls_are_warned_of() {
    for key in ["certificate_file", "key_file", "client_ca_file"] {
        let text = |listen| format!("[[proxy]]\nlisten = [\"{listen}\"]\n{key} = \"/nope\"\n");
        let expected = format!("`{key}` has no effect without `tls://`");
        assert_only(&text("tcp://127.0.0.1:0"), Severity::Warning, &expected);
        let with_tls = lines(&text("tls://127.0.0.1:0")).join("\n");
        assert!(!with_tls.contains("no effect"), "{with_tls}");
    }
}
