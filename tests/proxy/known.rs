//! What people use where they have to say who they are: real clients, at the real server.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use corelane::lab::Host;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::Value;

use crate::harness::{echo, http};
use crate::served::Served;

const PROXY: &str = "127.0.0.1:1080";
const TLS_PROXY: &str = "https://localhost:8443";
const RIGHT: &str = "ada:right horse";
const WRONG: [&str; 2] = ["ada:wrong horse", "eve:right horse"];

/// A server that demands credentials at two addresses of its host, plain and inside TLS.
struct Site {
    host: Host,
    served: Served,
}

impl Site {
    fn new() -> Self {
        let host = Host::create("server").unwrap();
        let proxy = "[[proxy]]\nlisten = [\"tcp://127.0.0.1:1080\", \"tls://127.0.0.1:8443\"]\n\
                     auth = \"required\"\nallow = [\"loopback\"]\nrequest_within_s = 300\n";
        let served = Served::start(&host, proxy);
        Self { host, served }
    }

    /// Runs a program on the host.
    fn run(&self, program: &str, arguments: &[&str], input: &[u8]) -> Output {
        let mut command = self.host.command(program).unwrap();
        command.args(arguments).stdin(Stdio::piped());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // One that is refused may have gone before it has read.
        drop(child.stdin.take().unwrap().write_all(input));
        child.wait_with_output().unwrap()
    }

    fn curl(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let common = ["--silent", "--show-error", "--max-time", "60", "--noproxy", ""];
        let output = self.run("curl", &[&common, arguments].concat(), b"");
        (output.status.code(), text(&output.stdout) + &text(&output.stderr))
    }

    fn python(&self, script: &str, arguments: &[&str]) -> Output {
        self.run("/usr/bin/python3", &[&["-c", script], arguments].concat(), b"")
    }

    fn authority(&self) -> String {
        self.served.path("pki/ca.crt").to_str().unwrap().to_owned()
    }

    /// An origin of HTTP inside TLS, by the certificate of the server.
    fn https(&self, body: &'static str) -> SocketAddr {
        let certificates = CertificateDer::pem_file_iter(self.served.path("pki/server.crt"));
        let certificates = certificates.unwrap().map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_file(self.served.path("pki/server.key")).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(certificates, key)
            .unwrap();
        let config = Arc::new(config);
        let serve = || {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            std::thread::spawn(move || {
                for stream in listener.incoming().map_while(Result::ok) {
                    let config = Arc::clone(&config);
                    std::thread::spawn(move || drop(answer(stream, config, body)));
                }
            });
            address
        };
        self.host.run(serve).unwrap()
    }

    /// How many were told that they are not who they say.
    fn refused(&self) -> u64 {
        self.served.gateway.status().refused["login_refused"]
    }

    fn reached(&self) -> u64 {
        self.served.gateway.status().reached
    }
}

fn answer(stream: TcpStream, config: Arc<ServerConfig>, body: &str) -> std::io::Result<()> {
    let connection = ServerConnection::new(config).map_err(std::io::Error::other)?;
    let mut stream = BufReader::new(StreamOwned::new(connection, stream));
    let mut line = String::new();
    while stream.read_line(&mut line)? > 2 {
        line.clear();
    }
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n";
    let answer = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
    let tls = stream.get_mut();
    tls.write_all(answer.as_bytes())?;
    tls.conn.send_close_notify();
    tls.flush()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// `USER:PASSWORD` as it stands in a URL.
fn in_url(credentials: &str) -> String {
    credentials.replace(' ', "%20")
}

#[test]
fn curl_shows_credentials_in_each_of_its_ways() {
    let site = Site::new();
    let origin = site.host.run(|| http("the page")).unwrap();
    let (plain, secure) = (format!("http://{origin}/"), site.https("the page"));
    let (secure, authority) = (format!("https://localhost:{}/", secure.port()), site.authority());
    let ways = [
        vec!["--socks5", PROXY, &plain],
        vec!["--socks5-hostname", PROXY, "--cacert", &authority, &secure],
        vec!["--proxy", PROXY, "--proxytunnel", &plain],
        vec!["--proxy", PROXY, "--cacert", &authority, &secure],
        vec!["--proxy", PROXY, "--proxy-anyauth", "--cacert", &authority, &secure],
        vec!["--proxy", TLS_PROXY, "--proxy-cacert", &authority, "--proxytunnel", &plain],
        vec!["--proxy", TLS_PROXY, "--proxy-cacert", &authority, "--cacert", &authority, &secure],
    ];
    let token = site.served.token();
    for way in &ways {
        for right in [RIGHT, &format!("ada:{token}")] {
            let (code, text) = site.curl(&[&way[..], &["--proxy-user", right]].concat());
            assert_eq!((code, text.as_str()), (Some(0), "the page"), "{way:?}");
        }
    }
    assert_eq!(site.reached(), 2 * ways.len() as u64);
    for way in ways.iter().skip(2) {
        let bearer = format!("Proxy-Authorization: Bearer {token}");
        let (code, text) = site.curl(&[&way[..], &["--proxy-header", &bearer]].concat());
        assert_eq!((code, text.as_str()), (Some(0), "the page"), "{way:?}");
    }
    let (reached, refused) = (site.reached(), site.refused());
    // Few enough that nobody has to wait for having failed.
    for way in [&ways[0], &ways[3], &ways[6]] {
        let (code, text) = site.curl(&[&way[..], &["--proxy-user", WRONG[0]]].concat());
        assert!(code != Some(0) && !text.contains("the page"), "{way:?}: {code:?} {text}");
    }
    let (code, text) = site.curl(&["--proxy", PROXY, "--cacert", &authority, &secure]);
    assert!(code != Some(0) && text.contains("407"), "{code:?} {text}");
    assert_eq!((site.reached(), site.refused()), (reached, refused + 3));
}

#[test]
fn requests_shows_credentials_in_the_url_of_the_proxy() {
    const SCRIPT: &str = "\
import sys, requests
session = requests.Session()
session.trust_env = False
proxy, url, authority = sys.argv[1:]
proxies = {'http': proxy, 'https': proxy}
print(session.get(url, proxies=proxies, verify=authority, timeout=60).text, end='')
";
    let site = Site::new();
    let origin = site.host.run(|| http("the page")).unwrap();
    let plain = format!("http://localhost:{}/", origin.port());
    let secure = format!("https://localhost:{}/", site.https("the page").port());
    let authority = site.authority();
    let right = in_url(RIGHT);
    for (scheme, at, url) in [
        ("socks5", PROXY, &plain),
        ("socks5h", PROXY, &secure),
        ("http", PROXY, &secure),
        ("https", "localhost:8443", &secure),
    ] {
        let before = site.reached();
        let proxy = format!("{scheme}://{right}@{at}");
        let output = site.python(SCRIPT, &[&proxy, url, &authority]);
        assert_eq!(text(&output.stdout), "the page", "{scheme}: {}", text(&output.stderr));
        assert_eq!(site.reached(), before + 1, "{scheme}");
        let proxy = format!("{scheme}://{}@{at}", in_url(WRONG[0]));
        let output = site.python(SCRIPT, &[&proxy, url, &authority]);
        assert!(!output.status.success() && output.stdout.is_empty(), "{scheme}");
        let why = text(&output.stderr);
        assert!(why.contains("407") || why.contains("authentication failed"), "{scheme}: {why}");
        assert_eq!(site.reached(), before + 1, "{scheme}");
    }
}

#[test]
fn pysocks_and_ncat_show_credentials() {
    const SCRIPT: &str = "\
import sys, socks
kind, origin, credentials = sys.argv[1], int(sys.argv[2]), sys.argv[3].split(':')
stream = socks.socksocket()
kind = {'socks5': socks.SOCKS5, 'http': socks.HTTP}[kind]
stream.set_proxy(kind, '127.0.0.1', 1080, True, *credentials)
stream.settimeout(60)
stream.connect(('localhost', origin))
stream.sendall(sys.stdin.buffer.read())
print(stream.recv(100).decode(), end='')
";
    let site = Site::new();
    let origin = site.host.run(echo).unwrap();
    let port = origin.port().to_string();
    let said = b"there and back";
    for kind in ["socks5", "http"] {
        let by_ncat = |credentials: &str| {
            let flags = ["--proxy", PROXY, "--proxy-type", kind, "--proxy-auth", credentials];
            let to = ["-w", "60", "127.0.0.1", &port];
            site.run("ncat", &[&flags[..], &to].concat(), said)
        };
        let by_pysocks = |credentials: &str| {
            let arguments = ["-c", SCRIPT, kind, &port, credentials];
            site.run("/usr/bin/python3", &arguments, said)
        };
        let before = site.reached();
        for output in [by_ncat(RIGHT), by_pysocks(RIGHT)] {
            assert_eq!(text(&output.stdout), "there and back", "{kind}: {output:?}");
        }
        assert_eq!(site.reached(), before + 2, "{kind}");
        let refused = site.refused();
        for output in [by_ncat(WRONG[0]), by_pysocks(WRONG[1])] {
            assert!(!output.status.success() && output.stdout.is_empty(), "{kind}: {output:?}");
        }
        assert_eq!((site.reached(), site.refused()), (before + 2, refused + 2), "{kind}");
    }
}

/// How Chromium is told which key a certificate has to have.
fn key_hash(site: &Site) -> String {
    let certificate = std::fs::read(site.served.path("pki/server.crt")).unwrap();
    let openssl = |arguments: &[&str], input: &[u8]| {
        let mut command = Command::new("openssl");
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        child.wait_with_output().unwrap().stdout
    };
    let key = openssl(&["x509", "-noout", "-pubkey"], &certificate);
    let key = openssl(&["pkey", "-pubin", "-outform", "der"], &key);
    STANDARD.encode(openssl(&["dgst", "-sha256", "-binary"], &key))
}

/// What Chromium makes of a page, once it has shown `credentials` to whoever asks.
fn browse(site: &Site, url: &str, credentials: &str) -> Value {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/proxy/browser.py");
    let (user, password) = credentials.split_once(':').unwrap();
    let shot = std::env::var("CORELANE_TEST_SCREENSHOT").ok();
    let key = key_hash(site);
    let mut arguments = vec![script, TLS_PROXY, url, &key, user, password];
    arguments.extend(shot.as_deref());
    let output = site.run("/usr/bin/python3", &arguments, b"");
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_browser_logs_in_at_a_proxy_inside_tls_and_shows_the_page() {
    let site = Site::new();
    let page = "<h1>the page</h1><p>through the gateway</p>";
    let url = format!("https://localhost:{}/", site.https(page).port());
    let seen = browse(&site, &url, RIGHT);
    let text = seen["text"].as_str().unwrap();
    assert!(text.starts_with("the page") && text.contains("through the gateway"), "{seen}");
    assert_eq!((&seen["status"], &seen["error"]), (&200.into(), &Value::Null), "{seen}");
    assert_eq!(seen["asked"], serde_json::json!(["Proxy"]), "once, by the proxy");
    assert!(site.reached() > 0);

    let (reached, refused) = (site.reached(), site.refused());
    let seen = browse(&site, &url, WRONG[0]);
    assert!(!seen["text"].as_str().unwrap().contains("the page"), "{seen}");
    assert_eq!(seen["asked"], serde_json::json!(["Proxy", "Proxy"]), "it is asked again: {seen}");
    assert_eq!(site.reached(), reached, "{seen}");
    assert!(site.refused() > refused, "{seen}");
}
