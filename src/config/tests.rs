mod proxies;

use std::collections::BTreeMap;
use std::path::PathBuf;

use proptest::prelude::*;

use super::routes::{RuleSection, UpstreamSection};
use super::schema::{Entry, PeerSection, ProxySection, Reload, Section, Sections};
use super::*;

const KEY: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";
const OTHER_KEY: &str = "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=";

/// A server's file that nothing is wrong with, followed by `more`.
fn server(more: &str) -> String {
    format!(
        "[server]\nprivate_key_file = \"/k\"\n[tun]\naddresses = [\"10.0.0.1/8\"]\n\
         [[peer]]\npublic_key = \"{KEY}\"\nallowed_ips = [\"10.1.0.0/16\"]\n{more}"
    )
}

/// A client's file that nothing is wrong with, `more` of it in `[client]`.
fn client(more: &str) -> String {
    format!(
        "[client]\nserver = \"h:1\"\nserver_key = \"{KEY}\"\nprivate_key_file = \"/k\"\n{more}\n\
         [tun]\naddresses = [\"10.0.0.2/8\"]\n"
    )
}

fn report(text: &str) -> Report {
    match check_bytes("f", text.as_bytes()) {
        Ok((_, report)) => report,
        Err(ConfigError::Invalid(report)) => report,
        Err(other) => panic!("{other}"),
    }
}

/// The one-line form of everything wrong with `text`.
fn lines(text: &str) -> Vec<String> {
    report(text).lines().collect()
}

/// Asserts that exactly one thing is wrong with `text`, of `severity`, and that it says `what`.
#[track_caller]
fn assert_only(text: &str, severity: Severity, what: &str) {
    let report = report(text);
    let [problem] = report.problems() else { panic!("not one problem:\n{report}") };
    assert!(problem.severity == severity && problem.what.contains(what), "{report}");
}

#[test]
fn a_minimal_file_is_in_order() {
    assert_eq!(lines(&server("")), Vec::<String>::new());
    assert_eq!(lines(&client("")), Vec::<String>::new());
}

#[test]
fn a_public_key_of_low_order_is_refused_on_either_side() {
    let zero = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    for text in [server(""), client("")] {
        assert_only(&text.replace(KEY, zero), Severity::Error, "its order is low");
    }
}

#[test]
fn all_problems_are_reported_at_once_each_in_its_place() {
    let text = "[server]\nlisen = [\"[::]:1\"]\nlisten = [\"x\", 5, \"[::]:2\"]\n\n\
                [tun]\nmtu = 9\nname = 3\nadresses = []\n\n[wrokers]\ncount = 2\n\n\
                [[peer]]\nallowed_ips = \"10.0.0.0/8\"\n";
    let places: Vec<String> = lines(text)
        .iter()
        .map(|line| line.splitn(4, ':').take(3).collect::<Vec<_>>().join(":"))
        .collect();
    let expected = [
        "f:1:2", "f:2:1", "f:3:11", "f:3:16", "f:6:7", "f:7:8", "f:8:1", "f:10:2", "f:13:1",
        "f:14:15",
    ];
    assert_eq!(places[..10], expected, "{:#?}", lines(text));
}

#[test]
fn a_problem_names_what_is_right() {
    for (more, expected) in [
        ("[server.x]", "help: [server] has: listen, private_key_file"),
        ("nmae = 1", "help: did you mean `name`?"),
        ("mtu = 1300", "help: `mtu` is a key of [tun]"),
        ("private_key = \"hunter2\"", "help: secrets stay out of this file"),
        ("[tuning]\nudp_gso = 1", "`udp_gso` takes \"auto\", true or false, not 1"),
        ("[workers]\ncount = 129", "`count` takes \"auto\" or an integer from 1 to 128, not 129"),
        (
            "[log]\nlevel = \"infos\"",
            "`level` takes a level (off, error, warn, info, debug, trace)",
        ),
        ("[client]", "[client] has no meaning for `corelane serve`"),
        ("[stauts]", "help: did you mean `status`?"),
    ] {
        let report = report(&server(more)).to_string();
        assert!(report.contains(expected) && !report.contains("hunter2"), "{more}:\n{report}");
    }
    assert!(report("mtu = 3").to_string().contains("help: `mtu` is a key of [tun]"));
    assert!(report("[up]").to_string().contains("neither [server] nor [client] is there"));
}

#[test]
fn what_is_indispensable_is_missed_once() {
    assert_only(
        "[server]\n[tun]\naddresses = [\"10.0.0.1/8\"]\n[[peer]]\npublic_key = \
                 \"hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=\"\nallowed_ips=[\"10.0.0.2/32\"]",
        Severity::Error,
        "`private_key_file` is missing",
    );
    // What is there but wrong is not missing as well.
    let text = server("").replace("\"/k\"", "7");
    assert_only(&text, Severity::Error, "`private_key_file` takes a path, not 7");
    let text = server("").replace(KEY, "x");
    assert_only(&text, Severity::Error, "`public_key` takes a public key");
    let missing =
        lines("[client]\n").into_iter().filter(|line| line.contains("is missing")).count();
    assert_eq!(missing, 3);
}

#[test]
fn a_syntax_error_has_a_place_and_does_not_hide_the_rest() {
    let text = server("name = \n[tuning]\nudp_gso = 5\n");
    let lines = lines(&text);
    assert_eq!(lines.len(), 2, "{lines:#?}");
    assert!(lines[0].starts_with("f:8:") && lines[0].contains("not valid TOML"), "{lines:#?}");
    assert!(lines[1].starts_with("f:10:11: `udp_gso`"), "{lines:#?}");
    assert_only(&server("name = \"a\"\nname = \"b\"\n"), Severity::Error, "duplicate key");
}

#[test]
fn keys_that_contradict_each_other_are_errors() {
    let peer =
        |key: &str| format!("[[peer]]\npublic_key = \"{key}\"\nallowed_ips = [\"10.2.0.0/16\"]");
    for (more, what) in [
        (peer(KEY).as_str(), "two peers have the public key"),
        ("[workers]\ncount = 3\ncpus = \"0-1\"", "3 workers cannot be pinned to 2 CPUs"),
        ("[workers]\npin = false\ncpus = \"0-1\"", "`cpus` says where to pin workers"),
        ("[workers]\ncpus = \"0-200\"", "one worker per CPU would be more than 128"),
    ] {
        assert_only(&server(more), Severity::Error, what);
    }
    let port = |number: usize| format!("\"192.0.2.1:{number}\"");
    let many = |count: usize| (1..=count).map(port).collect::<Vec<_>>().join(", ");
    let too_many = many(257);
    for (listen, what) in [
        ("", "must listen somewhere"),
        ("\"[::]:0\"", "port that the kernel chooses"),
        ("\"[::]:1\", \"[::]:1\"", "`[::]:1` is there twice"),
        ("\"[::]:1\", \"0.0.0.0:1\"", "`[::]:1` takes `0.0.0.0:1` too"),
        ("\"192.0.2.1:1\", \"[::]:1\"", "`[::]:1` takes `192.0.2.1:1` too: leave one of them out"),
        ("\"[::]:1\", \"[2001:db8::1]:1\"", "`[::]:1` takes `[2001:db8::1]:1` too"),
        ("\"0.0.0.0:1\", \"192.0.2.1:1\"", "`0.0.0.0:1` takes `192.0.2.1:1` too"),
        ("\"192.0.2.1:1\", \"[::ffff:192.0.2.1]:1\"", "takes `[::ffff:192.0.2.1]:1` too"),
        (&too_many, "257 addresses are more than the 256 possible"),
    ] {
        let text = server("").replace("[tun]", &format!("listen = [{listen}]\n[tun]"));
        assert_only(&text, Severity::Error, what);
    }
    let apart = ["\"[::]:1\", \"192.0.2.1:2\"", "\"0.0.0.0:1\", \"[2001:db8::1]:1\"", &many(256)];
    for listen in apart {
        let text = server("").replace("[tun]", &format!("listen = [{listen}]\n[tun]"));
        assert_eq!(lines(&text), Vec::<String>::new(), "{listen}");
    }
    for (address, what) in [
        ("10.0.0.1/8\", \"10.0.0.1/24", "`10.0.0.1` is there twice"),
        ("10.0.0.1/0", "would draw all traffic"),
        ("10.0.0.1/8\", \"ff02::1/64", "cannot be the address of an interface"),
        ("10.0.0.1/8\", \"127.0.0.1/8", "cannot be the address of an interface"),
    ] {
        assert_only(&server("").replace("10.0.0.1/8", address), Severity::Error, what);
    }
}

#[test]
fn what_is_only_odd_is_a_warning() {
    let other = |prefix: &str| {
        server(&format!("[[peer]]\npublic_key = \"{OTHER_KEY}\"\nallowed_ips = [\"{prefix}\"]"))
    };
    assert_eq!(lines(&other("10.1.2.0/24")), Vec::<String>::new(), "longer prefixes are ordinary");
    for (text, what) in [
        (other("10.1.0.0/16"), "belongs to an earlier peer too"),
        (other("10.9.9.9/16"), "it is taken as 10.9.0.0/16"),
        (other("10.0.0.1/32"), "is this server's own address"),
        (other("172.16.0.0/12"), "the kernel needs a route"),
        (
            server("[[peer]]\npublic_key = \"3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=\""),
            "owns no address",
        ),
        (
            "[server]\nprivate_key_file=\"/k\"\ntun.addresses=[\"10.0.0.1/8\"]"
                .replace("tun.", "[tun]\n"),
            "no peer may connect",
        ),
    ] {
        assert_only(&text, Severity::Warning, what);
    }
}

#[test]
fn a_client_rekeys_neither_too_often_nor_too_late() {
    for seconds in [5, 120] {
        let text = client(&format!("rekey_after_s = {seconds}"));
        assert_eq!(lines(&text), Vec::<String>::new());
    }
    for seconds in [0, 4, 121] {
        let what = format!("`rekey_after_s` takes an integer from 5 to 120, not {seconds}");
        assert_only(&client(&format!("rekey_after_s = {seconds}")), Severity::Error, &what);
    }
}

#[test]
fn of_very_many_problems_the_log_shows_the_first_and_how_many_more_there_are() {
    let unknown: String = (0..1000).map(|number| format!("k{number} = 1\n")).collect();
    let lines = lines(&server(&unknown));
    assert_eq!(lines.len(), 51);
    assert!(lines[0].contains("`k0`"), "{}", lines[0]);
    assert_eq!(lines[50], "f: and 950 more problems");
}

#[test]
fn text_that_is_not_utf8_is_pointed_at() {
    let Err(ConfigError::Invalid(report)) = check_bytes("f", b"[server]\nlisten = \"\xff\"\n")
    else {
        panic!("accepted")
    };
    let lines: Vec<String> = report.lines().collect();
    assert_eq!(lines, ["f:2:11: not UTF-8 text from here on"]);
}

#[test]
fn the_effective_configuration_reads_back_as_itself() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("server.toml");
    std::fs::write(&file, server("name = \"a\\\"b\"\n[workers]\ncpus = \"0-3,7\"\n")).unwrap();
    let mtu = Override {
        flag: "--mtu".to_owned(),
        section: "tun".to_owned(),
        key: "mtu".to_owned(),
        toml: "1300".to_owned(),
    };
    let source = Source { file: Some(file), overrides: vec![mtu], peers: Vec::new() };
    let shown = source.show_effective(None).unwrap();
    for (line, origin) in [
        ("mtu = 1300", "--mtu"),
        ("cpus = \"0-3,7\"", "file, line 10"),
        ("count = \"auto\"", "default"),
        ("socket = \"/run/corelane/serve.sock\"", "default"),
    ] {
        let found = shown.lines().find(|shown| shown.starts_with(line));
        assert!(found.is_some_and(|shown| shown.ends_with(&format!(" # {origin}"))), "{shown}");
    }
    let again = directory.path().join("again.toml");
    std::fs::write(&again, &shown).unwrap();
    let again = Source { file: Some(again), ..Source::default() };
    let (before, after) = (source.load_serve().unwrap(), again.load_serve().unwrap());
    assert_eq!(format!("{:?}", before.config), format!("{:?}", after.config));
}

/// The comment above each key of an example, and the value beside it if it is not commented out.
fn documented(text: &str) -> BTreeMap<(String, String), (String, Option<String>)> {
    let mut found = BTreeMap::new();
    let (mut section, mut comment) = (String::new(), String::new());
    for line in text.lines() {
        let content = line.trim_start_matches('#');
        let key = content.split(" = ").next().unwrap_or("");
        let is_key =
            content.contains(" = ") && key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        if content.starts_with('[') {
            section = content.trim_matches(['[', ']']).to_owned();
            comment.clear();
        } else if is_key && !content.starts_with(' ') {
            let value = content.split_once(" = ").map(|(_, value)| value.to_owned());
            let value = value.filter(|_| !line.starts_with('#'));
            found.insert((section.clone(), key.to_owned()), (comment.clone(), value));
            comment.clear();
        } else if line.starts_with('#') {
            comment.push_str(content.trim());
            comment.push(' ');
        } else {
            comment.clear();
        }
    }
    found
}

/// Asserts that the examples say of a key what the schema says.
fn assert_documented(section: &str, entry: &Entry, comment: &str, value: Option<&str>) {
    let key = format!("[{section}] {}", entry.key);
    let reload = match entry.reload {
        Reload::Live => "Reload: live ",
        Reload::Restart => "Reload: restart ",
    };
    let default = entry.toml.as_deref().unwrap_or("none");
    assert!(comment.contains(&format!("Takes: {} Default: {default}", entry.takes)), "{key}");
    assert!(comment.ends_with(reload), "{key}");
    // A default is shown as it is, but for lists, where an example says more.
    if let (Some(default), Some(value)) = (&entry.toml, value) {
        assert!(value == default || default == "[]", "{key}: {value} is not the default {default}");
    }
}

#[test]
fn the_annotated_examples_are_in_order_and_show_every_key_with_its_default() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("config");
    for (role, name) in [(Role::Server, "server.toml"), (Role::Client, "client.toml")] {
        let text = std::fs::read_to_string(root.join(name)).unwrap();
        assert_eq!(lines(&text), Vec::<String>::new(), "{name}");
        let mut documented = documented(&text);
        let mut tables = Sections::of(role).entries(role);
        if role == Role::Server {
            tables.push((PeerSection::NAME, PeerSection::default().entries()));
            tables.push((ProxySection::NAME, ProxySection::default().entries()));
            tables.push((RuleSection::NAME, RuleSection::default().entries()));
            tables.push((UpstreamSection::NAME, UpstreamSection::default().entries()));
        }
        for (section, entries) in &tables {
            for entry in entries {
                let place = ((*section).to_owned(), entry.key.to_owned());
                let (comment, value) =
                    documented.remove(&place).unwrap_or_else(|| panic!("{place:?}"));
                assert_documented(section, entry, &comment, value.as_deref());
            }
        }
        assert!(documented.is_empty(), "not in the schema: {:?}", documented.keys());
    }
}

#[test]
fn what_a_proxy_keeps_and_writes_is_checked() {
    let proxy = |keys: &str| format!("[[proxy]]\nlisten = [\"127.0.0.1:0\"]\n{keys}");
    // Nobody says who it is.
    for who in ["users = [\"alice\"]", "groups = [\"staff\"]"] {
        let rule = format!("[[proxy.rule]]\n{who}\nto = \"block\"\n");
        assert_only(&proxy(&rule), Severity::Warning, "this rule never matches");
    }
    let log = |format: &str| format!("access_log = \"/a\"\naccess_log_format = \"{format}\"\n");
    let two = |first: &str, second: &str| {
        let other = "[[proxy]]\nlisten = [\"127.0.0.1:0\"]\n";
        lines(&proxy(&format!("{}{other}{}", log(first), log(second)))).join("\n")
    };
    assert_eq!(two("json", "json"), "");
    assert!(two("json", "common").contains("the same access log in another format"));
    let none = "access_log_format = \"json\"\n";
    assert_only(&proxy(none), Severity::Error, "the format of an access log, and there is none");
    assert_only(&proxy("access_log = \"\"\n"), Severity::Error, "`access_log` takes");
    assert_only(
        &proxy("usage_by_destination = true\n"),
        Severity::Warning,
        "nothing is counted for users",
    );
}

#[test]
fn rules_of_a_proxy_are_checked() {
    let proxy = |rules: &str| format!("[[proxy]]\nlisten = [\"127.0.0.1:0\"]\n{rules}");
    let upstream = "[[proxy.upstream]]\nname = \"far\"\nservers = [\"socks5://a:1\"]\n\
                    [[proxy.rule]]\nto = \"far\"\n";
    let wrong = |rules: &str| lines(&proxy(rules)).join("\n");
    let good = "[[proxy.rule]]\ndomains = [\"example.org\"]\nports = [443, \"8000-8999\"]\n\
                to = \"direct\"\n[[proxy.rule]]\nto = \"block\"\n";
    assert_eq!(wrong(good), "");
    assert_eq!(wrong(upstream), "");
    let twice =
        format!("{upstream}[[proxy.upstream]]\nname = \"far\"\nservers = [\"http://b:1\"]\n");
    assert!(wrong(&twice).contains("two upstreams `far`"));
    for (rules, expected) in [
        ("[[proxy.rule]]\nports = [1]\n", "a rule has to say where to"),
        ("[[proxy.rule]]\nto = \"nowhere\"\n", "there is no upstream `nowhere`"),
        ("[[proxy.rule]]\nto = \"no where\"\n", "`to` takes"),
        ("[[proxy.upstream]]\nservers = [\"http://a:1\"]\n", "an upstream has no name"),
        ("[[proxy.upstream]]\nname = \"a\"\n", "an upstream has no servers"),
        ("[[proxy.upstream]]\nname = \"a\"\nservers = [\"ftp://a:1\"]\n", "`servers` takes"),
        ("[[proxy.upstream]]\nname = \"block\"\nservers = [\"http://a:1\"]\n", "a meaning"),
        ("[[proxy.upstream]]\nname = \"a\"\nbalance = \"best\"\n", "`balance` takes"),
        ("[[proxy.upstream]]\nservers = [\"http://a:1\"]\nca_file = \"/a\"\n", "speak TLS"),
        ("[[proxy.upstream]]\nservers = [\"socks5://a:1\"]\nready = 1\n", "kept ready"),
        ("[[proxy.upstream]]\nservers = [\"socks5://a:1\"]\ntoken_file = \"/t\"\n", "a token"),
        ("[[proxy.upstream]]\nservers = [\"https://a:1\"]\nkey_file = \"/k\"\n", "together"),
        (
            "[[proxy.upstream]]\nservers = [\"http://a:1\"]\ntoken_file = \"/t\"\n\
             credentials_file = \"/c\"\n",
            "said twice",
        ),
        (
            "[[proxy.upstream]]\nservers = [\"https://a:1\"]\nca_file = \"/a\"\n\
             ca_pin = \"47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU\"\n",
            "whom to trust is said twice",
        ),
        (
            "[[proxy.upstream]]\nname = \"a\"\nservers = [\"http://a:1\"]\ncheck = \"a:1\"\n",
            "never",
        ),
        ("[[proxy.rule]]\nto = \"block\"\ndomains = [\"*.a.test\"]\n", "`domains` takes"),
        ("[[proxy.rule]]\nto = \"block\"\nports = [0]\n", "`ports` takes"),
        ("[[proxy.rule]]\nto = \"block\"\ndomain = [\"a.test\"]\n", "unknown key `domain`"),
        ("[proxy.rule]\nto = \"block\"\n", "rules are a list of tables"),
        (
            "[[proxy.rule]]\nto = \"block\"\n[[proxy.rule]]\nto = \"direct\"\nports = [1]\n",
            "never reached",
        ),
    ] {
        let said = wrong(rules);
        assert!(said.contains(expected), "{rules}: {said}");
    }
}

#[test]
fn the_fuzzing_corpus_brings_no_panic() {
    let corpus = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/config_text");
    let files: Vec<_> =
        std::fs::read_dir(corpus).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() >= 5);
    for file in files {
        match check_bytes("f", &std::fs::read(&file).unwrap()) {
            Ok((_, report)) => assert!(report.to_string().lines().count() < 1000, "{file:?}"),
            Err(error) => assert!(!error.to_string().contains("hunter2"), "{file:?}"),
        }
    }
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        if let Err(error) = check_bytes("f", &bytes) {
            error.to_string();
        }
    }

    #[test]
    fn no_arrangement_of_plausible_pieces_makes_the_reader_panic(
        pieces in prop::collection::vec(prop::sample::select(PIECES), 0..40),
    ) {
        let text = pieces.concat();
        match check_bytes("f", text.as_bytes()) {
            Ok((_, report)) => { report.to_string(); }
            Err(error) => { error.to_string(); }
        }
    }
}

const PIECES: &[&str] = &[
    "[server]\n",
    "[client]\n",
    "[tun]\n",
    "[[peer]]\n",
    "[[proxy]]\n",
    "[[proxy.rule]]\n",
    "[peer]\n",
    "[workers]\n",
    "[",
    "]",
    "\n",
    " = ",
    "\"",
    "'''",
    "{",
    "}",
    ",",
    ".",
    "#",
    "é",
    "\u{0}",
    "\t",
    "listen",
    "server",
    "public_key",
    "allowed_ips",
    "private_key = \"x\"\n",
    "count = 0x80\n",
    "mtu = -1\n",
    "1e400",
    "99999999999999999999999999",
    "2020-01-01",
    "[\"10.0.0.0/8\", \"::/0\"]",
    "cpus = \"0-1023\"\n",
    "\"[::]:0\"",
    "inf",
    "true",
    "\"auto\"",
    "\r\n",
    "\u{feff}",
];

#[test]
fn a_client_that_logs_in_needs_no_more_than_a_server() {
    let load = |text: &str| {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("client.toml");
        std::fs::write(&file, text).unwrap();
        Source { file: Some(file), ..Source::default() }.load_up().unwrap()
    };
    let text = "[login]\nservers = [\"vpn.example.org:20443\"]\n";
    assert_eq!(lines(text), Vec::<String>::new());
    let config = load(text).config;
    let FarSide::Login(login) = config.far_side else { panic!("{:?}", config.far_side) };
    assert_eq!(login.state_directory, PathBuf::from("/var/lib/corelane/vpn.example.org"));
    assert_eq!(config.private_key_file, None);
    let config = load(&format!("{text}user = \"alice\"\n")).config;
    let FarSide::Login(login) = config.far_side else { panic!("{:?}", config.far_side) };
    assert_eq!(login.state_directory, PathBuf::from("/var/lib/corelane/alice@vpn.example.org"));
    for (more, severity, what) in [
        ("certificate_file = \"/c\"", Severity::Error, "`certificate_key_file` is missing"),
        ("certificate_key_file = \"/k\"", Severity::Error, "`certificate_file` is missing"),
        ("ca_pin = \"x\"", Severity::Error, "`ca_pin` takes a pin"),
        ("user = \"a b\"", Severity::Error, "`user` takes a name"),
        ("[client]\nserver = \"h:1\"", Severity::Warning, "`server` is not used"),
        ("[lease]", Severity::Error, "[lease] has no meaning for `corelane up`"),
    ] {
        assert_only(&format!("{text}{more}\n"), severity, what);
    }
    let pin = "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU";
    let both = format!("{text}ca_pin = \"{pin}\"\nca_file = \"/c\"\n");
    assert_only(&both, Severity::Error, "say both whom to trust");
    let text = client("[login]\nbackup_servers = [\"h:1\"]\n");
    assert_only(&text, Severity::Error, "`backup_servers` are for when");
}

#[test]
fn a_file_with_proxies_alone_is_one_for_the_proxy() {
    let proxies = "[[proxy]]\nlisten = [\"tcp://127.0.0.1:1080\"]\n";
    let (command, report) = check_bytes("f", proxies.as_bytes()).unwrap();
    assert_eq!((command, report.is_empty()), ("corelane proxy", true));
    let (command, _) = check_bytes("f", server(proxies).as_bytes()).unwrap();
    assert_eq!(command, "corelane serve");
    for (proxies, what) in [
        ("[[proxy]]\n", "nowhere to listen"),
        ("[[proxy]]\nlisten = [\"[::]:1\"]\n", "an open one"),
        ("[[proxy]]\nlisten = [\"[::1]:1\"]\nprotocols = []\n", "no protocol is left"),
        ("[[proxy]]\nlisten = [\"[::1]:1\", \"[::1]:1\"]\n", "twice"),
        ("[proxy]\nlisten = [\"[::1]:1\"]\n", "write `[[proxy]]`"),
        ("[[proxy]]\nallow = [\"10.0.0.0/99\"]\n", "a prefix such as"),
    ] {
        let lines = lines(proxies);
        assert!(lines.iter().any(|line| line.contains(what)), "{proxies}: {lines:?}");
    }
}

#[test]
fn a_lease_is_what_the_tunnel_is_unless_the_configuration_says_more() {
    let load = |more: &str| {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("server.toml");
        std::fs::write(&file, server(more)).unwrap();
        Source { file: Some(file), ..Source::default() }.load_serve().unwrap().config.lease
    };
    let lease = load("");
    assert_eq!(lease.pools, ["10.0.0.0/8".parse().unwrap()]);
    assert_eq!(lease.routes, lease.pools);
    assert_eq!((lease.mtu, lease.keepalive_s, lease.lasts_s), (1408, Some(25), 3600));
    let outside = server("[lease]\npools = [\"10.9.0.0/16\", \"11.0.0.0/16\"]\n");
    assert_only(&outside, Severity::Error, "`11.0.0.0/16` is in no network of `addresses`");
    let lease = load("[lease]\npools = [\"10.9.0.0/16\"]\nroutes = [\"0.0.0.0/0\"]\nmtu = 1300\n");
    assert_eq!(lease.pools, ["10.9.0.0/16".parse().unwrap()]);
    assert_eq!(lease.routes, ["0.0.0.0/0".parse().unwrap()]);
    assert_eq!(lease.mtu, 1300);
    let domains = format!("search_domains = [{}]", vec!["\"a\""; 33].join(", "));
    assert_only(&server(&format!("[lease]\n{domains}\n")), Severity::Error, "33 `search_domains`");
}
