use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

const TUN: &str = "no-such-vpn0";

fn request() -> DnsRequest {
    DnsRequest {
        servers: ["10.77.0.1", "fd77::1", "10.77.0.2", "10.77.0.3"]
            .map(|it| it.parse().unwrap())
            .to_vec(),
        search: vec!["example.org".to_owned(), "lan".to_owned()],
        split: Vec::new(),
    }
}

fn directory() -> (TempDir, ResolvConf) {
    let directory = TempDir::new().unwrap();
    let file = ResolvConf::at(directory.path().join("resolv.conf"));
    (directory, file)
}

fn text(file: &ResolvConf) -> String {
    fs::read_to_string(&file.path).unwrap()
}

/// No other file stands beside it.
#[track_caller]
fn assert_alone(directory: &TempDir, files: usize) {
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), files);
}

#[test]
fn name_servers_are_written_and_what_was_there_comes_back() {
    for before in [
        "nameserver 192.0.2.53\noptions edns0 timeout:1\n",
        "nameserver 192.0.2.53",
        "",
        "\n\n",
        "#before: nameserver 192.0.2.1\n#before-nothing\n",
    ] {
        let (directory, file) = directory();
        fs::write(&file.path, before).unwrap();
        assert!(file.install(TUN, &request()).unwrap());
        let written = text(&file);
        assert!(written.contains("\nnameserver 10.77.0.1\nnameserver fd77::1\n"), "{written}");
        assert!(!written.contains("10.77.0.3"), "no resolver reads a fourth");
        assert!(written.contains("\nsearch example.org lan\n"), "{written}");
        assert_eq!(written.contains("\noptions edns0 timeout:1\n"), before.contains("options"));
        assert!(!file.install(TUN, &request()).unwrap(), "it is so already");
        assert_eq!(String::from_utf8(file.outside().unwrap()).unwrap(), before);
        assert!(file.restore(TUN).unwrap());
        assert_eq!(text(&file), before);
        assert!(!file.restore(TUN).unwrap(), "it is so already");
        assert_alone(&directory, 1);
    }
}

#[test]
fn a_file_that_was_not_there_goes_again() {
    let (directory, file) = directory();
    file.install(TUN, &request()).unwrap();
    assert_eq!(file.path.metadata().unwrap().permissions().mode() & 0o777, MODE);
    assert!(file.outside().unwrap().is_empty());
    assert!(file.restore(TUN).unwrap());
    assert_alone(&directory, 0);
}

#[test]
fn a_link_is_replaced_and_comes_back_wherever_it_led() {
    for is_dangling in [false, true] {
        let (directory, file) = directory();
        let target = directory.path().join("run");
        symlink("run", &file.path).unwrap();
        if !is_dangling {
            fs::write(&target, "nameserver 192.0.2.53\n").unwrap();
        }
        file.install(TUN, &request()).unwrap();
        assert!(!file.path.symlink_metadata().unwrap().is_symlink());
        assert_eq!(file.outside().is_ok(), !is_dangling);
        if !is_dangling {
            assert_eq!(fs::read_to_string(&target).unwrap(), "nameserver 192.0.2.53\n");
        }
        assert!(file.restore(TUN).unwrap());
        assert_eq!(fs::read_link(&file.path).unwrap(), Path::new("run"));
    }
}

#[test]
fn a_run_that_was_killed_is_followed_by_one_that_knows_what_was_before() {
    let (_directory, file) = directory();
    fs::write(&file.path, "nameserver 192.0.2.53\n").unwrap();
    file.install(TUN, &request()).unwrap();
    let others = DnsRequest { servers: vec!["10.1.1.1".parse().unwrap()], ..Default::default() };
    // The next run of the same tunnel, then one of another whose predecessor is gone.
    assert!(file.install(TUN, &others).unwrap());
    assert!(file.install("no-such-vpn1", &request()).unwrap());
    assert!(!file.restore(TUN).unwrap(), "it is another's by now");
    assert!(file.restore("no-such-vpn1").unwrap());
    assert_eq!(text(&file), "nameserver 192.0.2.53\n");
}

#[test]
fn the_file_of_a_tunnel_that_runs_is_refused() {
    let (_directory, file) = directory();
    // Every host has this interface.
    file.install("lo", &request()).unwrap();
    let refused = file.install(TUN, &request()).unwrap_err();
    assert!(matches!(&refused, ResolverError::Taken { tun, .. } if tun == "lo"), "{refused}");
}

#[test]
fn what_another_program_writes_counts_as_what_was_before() {
    let (_directory, file) = directory();
    fs::write(&file.path, "nameserver 192.0.2.53\n").unwrap();
    file.install(TUN, &request()).unwrap();
    fs::write(&file.path, "nameserver 198.51.100.53\n").unwrap();
    assert!(!file.restore(TUN).unwrap());
    assert_eq!(text(&file), "nameserver 198.51.100.53\n");
    file.install(TUN, &request()).unwrap();
    assert!(file.restore(TUN).unwrap());
    assert_eq!(text(&file), "nameserver 198.51.100.53\n");
}

#[test]
fn what_a_killed_run_left_half_done_is_no_matter_and_what_is_too_large_is_refused() {
    let (directory, file) = directory();
    fs::write(&file.path, "nameserver 192.0.2.53\n").unwrap();
    fs::write(directory.path().join("resolv.conf.corelane"), "half").unwrap();
    file.install(TUN, &request()).unwrap();
    file.restore(TUN).unwrap();
    assert_alone(&directory, 1);
    fs::write(&file.path, vec![b'#'; RESOLV_CONF_LEN_MAX as usize + 1]).unwrap();
    let refused = file.install(TUN, &request()).unwrap_err();
    assert!(matches!(refused, ResolverError::File { attempt: "read", .. }), "{refused}");
}

proptest! {
    #[test]
    fn whatever_was_there_comes_back_to_the_last_byte(
        contents in proptest::collection::vec(
            prop_oneof![Just(b'\n'), Just(b'#'), any::<u8>()], 0..200),
        target in "[a-z/. #:-]{1,40}",
    ) {
        for before in [
            Before::Contents(contents.clone()),
            Before::Link(PathBuf::from(&target)),
            Before::Nothing,
        ] {
            let rendered = render(TUN, &request(), &before);
            prop_assert_eq!(parse(&rendered), Some((TUN.to_owned(), before)));
        }
    }

    #[test]
    fn whatever_the_file_says_is_read(contents in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&[format!("{HEAD}vpn0{HEAD_END}\n").into_bytes(), contents].concat());
    }
}
