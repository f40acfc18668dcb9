//! What a proxy is warned of.

use super::{assert_only, lines, server};
use crate::config::problems::{Problems, Severity};
use crate::config::schema::Role;
use crate::config::{Override, build, document};

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

#[test]
fn what_nobody_uses_is_warned_of() {
    let table = "[[proxy]]\nlisten = [\"127.0.0.1:0\"]\n";
    let accounts = format!("[accounts]\nserver_name = \"here\"\n{table}");
    assert_only(&accounts, Severity::Warning, "these accounts are not opened");
    assert_eq!(lines(&format!("{accounts}auth = \"required\"\n")), [""; 0]);
    let upstream = "[[proxy.upstream]]\nname = \"far\"\nservers = [\"socks5://192.0.2.1:1\"]\n";
    let upstream = format!("{table}{upstream}");
    assert_only(&upstream, Severity::Warning, "no `[[proxy.rule]]` says `to = \"far\"`");
    let rule = "[[proxy.rule]]\ndomains = [\"example.org\"]\nto = \"far\"\n";
    assert_eq!(lines(&format!("{upstream}{rule}")), [""; 0]);
}

#[test]
fn a_proxy_that_is_written_wrongly_is_no_server_that_lacks_a_key() {
    for text in ["[proxy]\nlisten = [\"127.0.0.1:0\"]\n", "[[proxy.rule]]\nto = \"block\"\n"] {
        assert_only(text, Severity::Error, "write `[[proxy]]`");
    }
}

#[test]
fn an_entrance_of_flags_beside_a_file_that_knows_its_clients_is_warned_of() {
    let warned = |text: &str| {
        let mut problems = Problems::default();
        let mut sections = document::read(text, Role::Server, &mut problems);
        let listen = Override {
            flag: "--listen".to_owned(),
            section: "proxy".to_owned(),
            key: "listen".to_owned(),
            toml: "[\"127.0.0.1:1\"]".to_owned(),
        };
        document::apply(&listen, &mut sections, Role::Server, &mut problems);
        assert_eq!(build::proxy(&sections, &mut problems).unwrap().entrances.len(), 2);
        problems.into_report("f", text).to_string().contains("beside those of the file")
    };
    let table = "[[proxy]]\nlisten = [\"127.0.0.1:2\"]\n";
    assert!(!warned(table), "the file knows nobody either");
    assert!(warned(&format!("{table}auth = \"required\"\n")));
}

#[test]
fn who_has_to_say_who_it_is_has_to_be_known_to_somebody() {
    let required = "[[proxy]]\nlisten = [\"[::]:1\"]\nauth = \"required\"\n";
    let asked = "[[proxy]]\nlisten = [\"[::1]:1\"]\nauth_from = [\"192.0.2.1/32\"]\n";
    let login = "[login]\nlisten = [\"[::]:2\"]\ncertificate_file = \"/c\"\nkey_file = \"/k\"\n";
    for table in [required, asked] {
        // A gateway by itself has accounts for that, and a server those of its logins.
        assert_eq!(lines(table), [""; 0]);
        let missing = "no accounts";
        assert_only(&server(table), Severity::Error, missing);
        let with_logins = lines(&server(&format!("{login}{table}"))).join("\n");
        assert!(!with_logins.contains(missing), "{with_logins}");
        // Those of a server are not opened twice.
        for (text, has_accounts) in [(table.to_owned(), true), (server(table), false)] {
            let mut problems = Problems::default();
            let sections = document::read(&text, Role::Server, &mut problems);
            let proxy = build::proxy(&sections, &mut problems).unwrap();
            assert_eq!(proxy.accounts.is_some(), has_accounts);
            assert_eq!(problems.has_errors(), !has_accounts, "{text}");
        }
    }
    let mut problems = Problems::default();
    let sections = document::read(required, Role::Server, &mut problems);
    assert!(build::serve(&sections, &mut problems).is_none(), "a server has a key");
    let report = problems.into_report("f", required);
    assert_eq!(report.problems().len(), 1, "and nothing else is to be said: {report}");
    assert!(report.to_string().contains("corelane proxy -c"), "{report}");
    let nobody = "[accounts]\nserver_name = \"here\"\n[[proxy]]\nlisten = [\"[::1]:1\"]\n";
    let sections = document::read(nobody, Role::Server, &mut Problems::default());
    let proxy = build::proxy(&sections, &mut Problems::default()).unwrap();
    assert!(proxy.accounts.is_none(), "nobody is asked who he is");
}
