use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::accounts::model::{DESTINATION_DATAGRAMS, Id};
use crate::limits::{
    PROXY_LOG_COMPLAIN_EVERY, PROXY_LOG_STRANGERS_BURST, PROXY_LOG_STRANGERS_PER_S,
    PROXY_RECORD_PATH_LEN_MAX,
};
use crate::proxy::access::Member;
use crate::proxy::counters::{ProxyCounters, Refusal};
use crate::proxy::dial::Failure;
use crate::proxy::http::Scheme;
use crate::proxy::settings::{LogPlace, LogSettings};
use crate::proxy::target::Target;
use crate::sys::clock;

use super::files::{AccessFiles, LogFile, Written};
use super::*;

/// 2026-11-27, ten past ten in the morning, and 7 ms.
const ENDED: Duration = Duration::from_millis(1_795_774_200_007);

fn target(text: &str) -> Target {
    text.parse().unwrap()
}

fn tunnel() -> Record {
    let mut record = Record::new(clock::now(), "192.0.2.7:51234".parse().unwrap(), Means::Socks5)
        .for_target(&target("example.org:443"));
    record.user = Some("ada".parse().unwrap());
    record.via = Via::Address("[2001:db8::1]:443".parse().unwrap());
    record.outcome = Some(Outcome::Ok);
    (record.up_bytes, record.down_bytes) = (517, 1_048_576);
    (record.ended, record.took) = (ENDED, Duration::from_micros(1_234_567));
    record
}

fn request(scheme: Scheme, to: &str, head: &[u8]) -> Record {
    let client = "[2001:db8::7]:1".parse().unwrap();
    let mut record = Record::new(clock::now(), client, Means::Http)
        .for_target(&target(to))
        .for_request(scheme, head);
    (record.ended, record.status) = (ENDED, Some(404));
    record.outcome = Some(Outcome::Ok);
    record
}

fn line(format: Format, record: &Record) -> String {
    let mut out = Vec::new();
    format.write(record, &mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn lines_of_each_format() {
    let tunnel = tunnel();
    assert_eq!(
        line(Format::Text, &tunnel),
        "2026-11-27T10:10:00.007Z 192.0.2.7:51234 ada socks5 CONNECT example.org:443 \
         [2001:db8::1]:443 - ok 517 1048576 1234\n"
    );
    assert_eq!(
        line(Format::Json, &tunnel),
        "{\"time\":\"2026-11-27T10:10:00.007Z\",\"client\":\"192.0.2.7:51234\",\"user\":\"ada\",\
         \"protocol\":\"socks5\",\"tls\":false,\"method\":\"CONNECT\",\
         \"target\":\"example.org:443\",\"via\":\"[2001:db8::1]:443\",\"status\":null,\
         \"outcome\":\"ok\",\"up_bytes\":517,\"down_bytes\":1048576,\"duration_ms\":1234}\n"
    );
    assert_eq!(
        line(Format::Common, &tunnel),
        "192.0.2.7 - ada [27/Nov/2026:10:10:00 +0000] \"CONNECT example.org:443 SOCKS5\" 200 \
         1048576\n"
    );
    let head = b"GET /a/b?token=secret HTTP/1.1\r\nHost: www.example.org\r\n\r\n";
    let request = request(Scheme::Http, "www.example.org:80", head);
    assert_eq!(
        line(Format::Text, &request),
        "2026-11-27T10:10:00.007Z [2001:db8::7]:1 - http GET http://www.example.org/a/b - 404 ok \
         0 0 0\n"
    );
    assert_eq!(
        line(Format::Common, &request),
        "2001:db8::7 - - [27/Nov/2026:10:10:00 +0000] \"GET http://www.example.org/a/b HTTP/1.1\" \
         404 0\n"
    );
    // Refused before it has said what it wants.
    let mut refused = Record::new(clock::now(), "192.0.2.7:5".parse().unwrap(), Means::Unknown);
    (refused.ended, refused.outcome) = (ENDED, Some(Outcome::Refused(Refusal::Malformed)));
    assert_eq!(
        line(Format::Text, &refused),
        "2026-11-27T10:10:00.007Z 192.0.2.7:5 - - - - - - malformed 0 0 0\n"
    );
    assert_eq!(
        line(Format::Common, &refused),
        "192.0.2.7 - - [27/Nov/2026:10:10:00 +0000] \"-\" 400 0\n"
    );
    let json: Value = serde_json::from_str(&line(Format::Json, &refused)).unwrap();
    for unknown in ["user", "protocol", "method", "target", "via", "status"] {
        assert_eq!(json[unknown], Value::Null, "{unknown}");
    }
}

#[test]
fn what_stands_for_a_status_where_a_client_was_told_none() {
    let table = [
        (Outcome::Ok, "200"),
        (Outcome::Failed(Failure::Refused), "502"),
        (Outcome::Failed(Failure::Blocked), "403"),
        (Outcome::Refused(Refusal::LoginRefused), "407"),
        (Outcome::ClientGone, "499"),
    ];
    for (outcome, status) in table {
        let record = Record { outcome: Some(outcome), ..tunnel() };
        let line = line(Format::Common, &record);
        assert_eq!(line.split(' ').nth_back(1), Some(status), "{line}");
    }
}

#[test]
fn a_url_is_told_without_its_query_and_in_bounds() {
    let table: [(Scheme, &str, &[u8], &str); 8] = [
        (Scheme::Http, "h.example:80", b"GET / HTTP/1.1\r\n", "http://h.example/"),
        (Scheme::Http, "h.example:8080", b"GET /a HTTP/1.1\r\n", "http://h.example:8080/a"),
        (Scheme::Https, "h.example:443", b"GET /a#b HTTP/1.1\r\n", "https://h.example/a"),
        (Scheme::Http, "h.example:443", b"GET /a HTTP/1.1\r\n", "http://h.example:443/a"),
        (Scheme::Http, "[::1]:80", b"GET /?p=http://x/y HTTP/1.1\r\n", "http://[::1]/"),
        (Scheme::Http, "192.0.2.1:80", b"OPTIONS * HTTP/1.1\r\n", "http://192.0.2.1"),
        (
            Scheme::Http,
            "h.example:80",
            b"GET http://h.example/q?r HTTP/1.1\r\n",
            "http://h.example/q",
        ),
        (Scheme::Http, "h.example:80", b"", "http://h.example"),
    ];
    for (scheme, to, head, expected) in table {
        let json = line(Format::Json, &request(scheme, to, head));
        let json: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["target"], expected);
    }
    let long = format!("GET /{} HTTP/1.1\r\n", "a".repeat(60_000));
    let line = line(Format::Text, &request(Scheme::Http, "h.example:80", long.as_bytes()));
    assert!(line.len() < PROXY_RECORD_PATH_LEN_MAX + 200, "{}", line.len());
    assert!(line.contains("aaa... - 404 ok"), "it shows that it is cut");
}

#[test]
fn nothing_that_a_client_says_forges_a_line_a_word_or_a_command_of_a_terminal() {
    let heads: [&[u8]; 5] = [
        b"GE\nT /\x1b[2J\x07\"\\ HTTP/1.1\r\n",
        "GET /\u{9b}31m\u{202e}\u{2028}\u{7f}x HTTP/1.1\r\n".as_bytes(),
        b"GET /\xff\xfe\x00\x80 HTTP/1.1\r\n",
        b"\"x\" /a\",\"user\":\"root HTTP/1.1\r\n",
        b"GET /a\tb\x0b\x0c HTTP/1.1\r\n",
    ];
    for head in heads {
        let record = request(Scheme::Http, "h.example:80", head);
        for format in [Format::Text, Format::Json, Format::Common] {
            let line = line(format, &record);
            let text = line.strip_suffix('\n').unwrap();
            let is_printable = |byte: u8| byte == b' ' || byte.is_ascii_graphic();
            assert!(text.bytes().all(is_printable), "{format}: {line:?}");
        }
        assert_eq!(line(Format::Text, &record).split(' ').count(), 12, "{record:?}");
        let common = line(Format::Common, &record);
        let quotes = common.replace("\\\\", "").replace("\\\"", "").matches('"').count();
        assert_eq!(quotes, 2, "{common}");
        // JSON brings back what was said, and nothing is between the lines.
        let json: Value = serde_json::from_str(&line(Format::Json, &record)).unwrap();
        assert_eq!(json["user"], Value::Null);
        let (_, path) = record.url.as_ref().unwrap();
        assert_eq!(json["target"], format!("http://h.example{path}"));
    }
}

#[test]
fn a_ledger_that_nobody_wants_notes_nothing() {
    let mut ledger = Ledger::default();
    ledger.open(|| panic!("it is not wanted"));
    ledger.count(1, 2);
    ledger.note(Outcome::Ok);
    assert!(!ledger.is_open());
    ledger.close(clock::now(), (None, false), None, &ProxyCounters::default());
}

#[test]
fn the_first_outcome_counts_and_a_wish_has_one_line() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let (writer, log) = start(&path, Format::Text);
    let mut ledger = Ledger::new(Some(0), false);
    let (begin, counters) = (clock::now(), ProxyCounters::default());
    let client = "192.0.2.7:5".parse().unwrap();
    ledger.open(|| Record::new(begin, client, Means::Bind));
    ledger.reach(|| Via::Upstream("far".parse().unwrap()));
    ledger.count(1, 10);
    ledger.count(2, 20);
    ledger.note(Outcome::Broken);
    ledger.note(Outcome::Stopped);
    let ada = Arc::new(Member::new(Id(1), "ada".parse().unwrap()));
    let who = (Some(&ada), true);
    ledger.close(begin + Duration::from_millis(70), who, Some(&log), &counters);
    ledger.close(begin + Duration::from_millis(90), who, Some(&log), &counters);
    ledger.open(|| Record::new(begin, client, Means::Udp));
    ledger.close(begin, (None, false), Some(&log), &counters);
    drop(writer);
    let text = fs::read_to_string(&path).unwrap();
    let words = |line: &str| line.split(' ').skip(1).map(str::to_owned).collect::<Vec<_>>();
    let lines: Vec<_> = text.lines().map(words).collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert_eq!(lines[0].join(" "), "192.0.2.7:5 ada bind BIND - far - broken 3 30 70");
    assert_eq!(lines[1].join(" "), "192.0.2.7:5 - udp ASSOCIATE - - - client_gone 0 0 0");
    assert_eq!(counters.records_dropped.get(), 0);
}

#[test]
fn a_user_is_charged_with_what_has_reached_a_host_by_the_name_that_was_asked_for() {
    let ada = Arc::new(Member::new(Id(1), "ada".parse().unwrap()));
    let mut ledger = Ledger::new(None, true);
    let (now, counters) = (clock::now(), ProxyCounters::default());
    let mut wish = |to: &str, means, via, bytes| {
        ledger.open(|| {
            let record = Record::new(now, "192.0.2.7:5".parse().unwrap(), means);
            if to.is_empty() { record } else { record.for_target(&target(to)) }
        });
        ledger.reach(|| via);
        ledger.count(bytes, 2 * bytes);
        ledger.close(now, (Some(&ada), false), None, &counters);
    };
    let there = || Via::Address("192.0.2.1:443".parse().unwrap());
    wish("A.example.:443", Means::Socks5, there(), 1);
    wish("a.example:80", Means::Http, there(), 10);
    wish("[2001:db8::1]:80", Means::Bind, Via::Upstream("far".parse().unwrap()), 5);
    wish("b.example:80", Means::Connect, Via::Nowhere, 0);
    wish("", Means::Udp, Via::Nowhere, 7);
    wish("", Means::Udp, Via::Nowhere, 0);
    let mut moved: Vec<_> = ada.take_destinations().into_iter().collect();
    moved.sort_by(|one, other| one.destination.cmp(&other.destination));
    let told =
        moved.iter().map(|it| (&*it.destination, it.connections, it.received_bytes, it.sent_bytes));
    let expected =
        [(DESTINATION_DATAGRAMS, 1, 7, 14), ("2001:db8::1", 1, 5, 10), ("a.example", 2, 11, 22)];
    assert_eq!(told.collect::<Vec<_>>(), expected);
}

fn settings(path: &Path, format: Format) -> LogSettings {
    LogSettings { place: LogPlace::File(path.to_owned()), format }
}

fn start(path: &Path, format: Format) -> (Writer, AccessLog) {
    let files = vec![LogFile::open(settings(path, format)).unwrap()];
    let writer = Writer::start(AccessFiles { by_entrance: vec![None, Some(0)], files });
    let writer = writer.unwrap().unwrap();
    let log = writer.log();
    assert_eq!((log.file_of(0), log.file_of(1), log.file_of(2)), (None, Some(0), None));
    (writer, log)
}

#[test]
fn a_file_is_appended_to_and_read_by_few_and_followed_when_it_moves() {
    let directory = tempfile::tempdir().unwrap();
    let (path, moved) = (directory.path().join("log"), directory.path().join("log.1"));
    let now = clock::now();
    let mut file = LogFile::open(settings(&path, Format::Common)).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o137, 0);
    let add = |file: &mut LogFile| {
        assert_eq!(file.add(&tunnel(), now), Written::default(), "it waits for more");
        assert_eq!(file.flush(now), Written { lines: 1, lost: 0 });
    };
    let lines = |path: &Path| fs::read_to_string(path).unwrap().lines().count();
    add(&mut file);
    drop(file);
    let mut file = LogFile::open(settings(&path, Format::Common)).unwrap();
    add(&mut file);
    file.follow(false);
    fs::rename(&path, &moved).unwrap();
    add(&mut file);
    assert_eq!(lines(&moved), 3);
    file.follow(false);
    add(&mut file);
    assert_eq!((lines(&moved), lines(&path)), (3, 1));
    // Where no other can be opened it goes on.
    fs::rename(&path, &moved).unwrap();
    fs::create_dir(&path).unwrap();
    file.follow(true);
    add(&mut file);
    assert_eq!(lines(&moved), 2);
    fs::remove_dir(&path).unwrap();
    file.follow(false);
    add(&mut file);
    assert_eq!((lines(&moved), lines(&path)), (2, 1));
}

#[test]
fn strangers_get_so_many_lines_and_others_all_of_theirs() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let mut file = LogFile::open(settings(&path, Format::Text)).unwrap();
    let now = clock::now();
    let mut knock = Record::new(now, "192.0.2.9:5".parse().unwrap(), Means::Unknown).of(None);
    knock.outcome = Some(Outcome::Refused(Refusal::TooSlow));
    let mut written = |record: &Record, now, count: u32| {
        let mut written = Written::default();
        for _ in 0..count {
            written += file.add(record, now);
        }
        written += file.flush(now);
        (written.lines, written.lost)
    };
    let burst = u64::from(PROXY_LOG_STRANGERS_BURST);
    assert_eq!(written(&knock, now, PROXY_LOG_STRANGERS_BURST + 7), (burst, 7));
    let a_second_later = now + Duration::from_secs(1);
    let each_second = u64::from(PROXY_LOG_STRANGERS_PER_S);
    assert_eq!(written(&knock, a_second_later, 500), (each_second, 500 - each_second));
    // Those of whom somebody is known, or who have come to something, are not among them.
    let known = Record { user: tunnel().user, ..knock.clone() };
    let anonymous = Record { user: None, ..tunnel() };
    let failed = Record { outcome: Some(Outcome::Failed(Failure::Refused)), ..knock.clone() };
    for record in [known, anonymous, failed] {
        assert_eq!(written(&record, a_second_later, 500), (500, 0), "{record:?}");
    }
    assert_eq!(written(&knock, a_second_later, 1), (0, 1));
}

#[test]
fn a_full_disk_loses_lines_and_tells_so_seldom() {
    // Writes to it fail as on a disk that is full (full(4)).
    let mut file = LogFile::open(settings(Path::new("/dev/full"), Format::Text)).unwrap();
    let now = clock::now();
    let lose = |file: &mut LogFile, now: Instant| {
        file.add(&tunnel(), now);
        file.add(&tunnel(), now);
        assert_eq!(file.flush(now), Written { lines: 0, lost: 2 });
    };
    assert!(file.complained().is_none());
    lose(&mut file, now);
    assert_eq!(file.complained(), Some(now));
    let later = now + PROXY_LOG_COMPLAIN_EVERY / 2;
    lose(&mut file, later);
    assert_eq!(file.complained(), Some(now), "told already");
    let later = now + PROXY_LOG_COMPLAIN_EVERY;
    lose(&mut file, later);
    assert_eq!(file.complained(), Some(later));
}

#[test]
fn a_line_that_was_torn_is_not_joined_with_the_next() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let now = clock::now();
    let mut file = LogFile::open(settings(&path, Format::Text)).unwrap();
    let whole = line(Format::Text, &tunnel());
    file.tear(b"half a li");
    file.add(&tunnel(), now);
    assert_eq!(file.flush(now), Written { lines: 1, lost: 0 });
    file.add(&tunnel(), now);
    assert_eq!(file.flush(now), Written { lines: 1, lost: 0 });
    assert_eq!(fs::read_to_string(&path).unwrap(), format!("half a li\n{whole}{whole}"));
}
