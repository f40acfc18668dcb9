//! A running gateway, and origins for it.

use std::fs::Permissions;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use corelane::handshake::keys::PrivateKey;
use corelane::lab::Host;
use corelane::sys::clock;
use corelane::sys::signal::terminate;
use corelane::telemetry::status::{ProxyStatus, StatusReport};
use tempfile::TempDir;

/// How long anything may take: only a test that fails waits for so long.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// A gateway on loopback, at a port that the kernel chose.
pub(crate) struct Gateway {
    pub(crate) address: SocketAddr,
    pub(crate) child: Child,
    directory: TempDir,
    log: Mutex<Receiver<String>>,
}

impl Gateway {
    /// One that reaches loopback, where the origins are, with more flags.
    pub(crate) fn start(flags: &[&str]) -> Self {
        let listen = ["--listen", "127.0.0.1:0", "--allow", "loopback"];
        Self::run(&[&listen, flags].concat(), None)
    }

    /// One that reads its configuration from a file, which is `config` at first.
    pub(crate) fn start_with_file(config: &str) -> Self {
        Self::run(&[], Some(config))
    }

    /// The same on a system whose certificate authorities are those in `roots`.
    pub(crate) fn start_with_roots(roots: &Path, config: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_corelane"));
        command.arg("proxy").env("SSL_CERT_FILE", roots).env_remove("SSL_CERT_DIR");
        Self::spawn(command, tempfile::tempdir().unwrap(), Some(config))
    }

    /// One that carries everything to another, by these flags.
    pub(crate) fn start_client(flags: &[String]) -> Self {
        Self::client(Command::new(env!("CARGO_BIN_EXE_corelane")), flags)
    }

    /// The same on a host.
    pub(crate) fn start_client_on(host: &Host, flags: &[String]) -> Self {
        Self::client(host.command(env!("CARGO_BIN_EXE_corelane")).unwrap(), flags)
    }

    fn client(mut command: Command, flags: &[String]) -> Self {
        command.arg("proxy-client").args(["--listen", "127.0.0.1:0"]).args(flags);
        Self::spawn(command, tempfile::tempdir().unwrap(), None)
    }

    /// One beside the tunnel of a server on `host`, whose file is `config` and which has a key.
    pub(crate) fn start_beside_a_tunnel(host: &Host, config: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let key = directory.path().join("key");
        std::fs::write(&key, PrivateKey::generate(&mut rand::rng()).to_base64()).unwrap();
        std::fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
        let mut command = host.command(env!("CARGO_BIN_EXE_corelane")).unwrap();
        command.arg("serve").arg("--private-key-file").arg(&key);
        Self::spawn(command, directory, Some(config))
    }

    /// One on a host, with the defaults and more flags.
    pub(crate) fn start_on(host: &Host, flags: &[&str]) -> Self {
        let mut command = host.command(env!("CARGO_BIN_EXE_corelane")).unwrap();
        command.args(["proxy", "--listen", "127.0.0.1:0"]).args(flags);
        Self::spawn(command, tempfile::tempdir().unwrap(), None)
    }

    /// The same, where names are looked up at `name_server`, which may take `within_s` to answer.
    pub(crate) fn start_resolving_at(
        host: &Host,
        (name_server, within_s): (IpAddr, u32),
        flags: &[&str],
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("resolv.conf");
        let text = format!("nameserver {name_server}\noptions timeout:{within_s} attempts:1\n");
        std::fs::write(&file, text).unwrap();
        let mut command = host.command("unshare").unwrap();
        let script = "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";
        command.args(["--mount", "sh", "-c", script]).arg(file);
        command.args([env!("CARGO_BIN_EXE_corelane"), "proxy", "--listen", "127.0.0.1:0"]);
        command.args(flags);
        Self::spawn(command, directory, None)
    }

    /// One of a server that people log in to, as `corelane init` makes it, on `host`, with more of
    /// a configuration.
    pub(crate) fn start_with_accounts(host: &Host, config: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let vpn = directory.path().join("vpn");
        let init = Command::new(env!("CARGO_BIN_EXE_corelane"))
            .args(["init", "vpn", "--address", "127.0.0.1", "--dir"])
            .arg(&vpn)
            .output()
            .unwrap();
        assert!(init.status.success(), "{init:?}");
        let made = std::fs::read_to_string(vpn.join("server.toml")).unwrap();
        // Nobody needs to get out of here.
        let config = made.replace("nat = \"masquerade\"\n", "") + config;
        let mut command = host.command(env!("CARGO_BIN_EXE_corelane")).unwrap();
        command.arg("serve");
        Self::spawn(command, directory, Some(&config))
    }

    /// One without a tunnel and without any privilege; it has accounts if `config` asks for them.
    pub(crate) fn start_alone_with_accounts(config: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let accounts = format!(
            "[accounts]\nserver_name = \"here\"\ndatabase = {:?}\nspool_file = {:?}\n\
             socket = {:?}\n",
            path("accounts.db"),
            path("spool"),
            path("accounts.sock")
        );
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]);
        command.args([env!("CARGO_BIN_EXE_corelane"), "proxy"]);
        Self::spawn(command, directory, Some(&(accounts + config)))
    }

    /// Where its configuration is.
    pub(crate) fn config_file(&self) -> PathBuf {
        self.directory.path().join("proxy.toml")
    }

    /// What `corelane` says to a command about the accounts, which must succeed.
    pub(crate) fn administer(&self, command: &[&str], stdin: &str) -> String {
        let mut child = Command::new(env!("CARGO_BIN_EXE_corelane"))
            .args(command)
            .arg("-c")
            .arg(self.config_file())
            .env_remove("RUST_LOG")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{command:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn run(flags: &[&str], config: Option<&str>) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_corelane"));
        command.arg("proxy").args(flags);
        Self::spawn(command, tempfile::tempdir().unwrap(), config)
    }

    fn spawn(mut command: Command, directory: TempDir, config: Option<&str>) -> Self {
        command.arg("--status-socket").arg(directory.path().join("status.sock"));
        if let Some(config) = config {
            let file = directory.path().join("proxy.toml");
            std::fs::write(&file, config).unwrap();
            command.arg("-c").arg(file);
        }
        command.env_remove("RUST_LOG").stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (sender, log) = channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut gateway = Self { address, child, directory, log: Mutex::new(log) };
        let line = gateway.await_log("serving proxy clients");
        let (_, address) = line.rsplit_once(" on ").unwrap();
        gateway.address = address.split(',').next().unwrap().parse().unwrap();
        gateway
    }

    /// Rewrites the file of the configuration.
    pub(crate) fn write_config(&self, config: &str) {
        std::fs::write(self.config_file(), config).unwrap();
    }

    /// The next line of the log that has `text` in it.
    pub(crate) fn await_log(&self, text: &str) -> String {
        loop {
            let line = self.log.lock().unwrap().recv_timeout(LONG);
            let line = line.unwrap_or_else(|error| panic!("no line with {text:?}: {error}"));
            if line.contains(text) {
                return line;
            }
        }
    }

    fn ask(&self, command: &[&str]) -> String {
        let output = Command::new(env!("CARGO_BIN_EXE_corelane"))
            .args(command)
            .arg("--status-socket")
            .arg(self.directory.path().join("status.sock"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// `corelane down`, which waits for the end.
    pub(crate) fn stop_by_command(&self) {
        self.ask(&["down"]);
    }

    pub(crate) fn reload(&self) {
        self.ask(&["reload"]);
    }

    pub(crate) fn report(&self) -> StatusReport {
        serde_json::from_str(&self.ask(&["status", "--json"])).unwrap()
    }

    pub(crate) fn status(&self) -> ProxyStatus {
        self.report().proxy.unwrap()
    }

    /// The status in the words that people read.
    pub(crate) fn status_text(&self) -> String {
        self.ask(&["status"])
    }

    /// Waits until the status is as it should be.
    pub(crate) fn await_status(&self, what: &str, is_so: impl Fn(&ProxyStatus) -> bool) {
        await_that(what, || {
            let status = self.status();
            is_so(&status).then_some(()).ok_or_else(|| format!("{status:?}"))
        });
    }

    pub(crate) fn terminate(&mut self) {
        terminate(&mut self.child).unwrap();
    }

    /// How the process ends, which somebody has told it to.
    pub(crate) fn await_end(&mut self) -> ExitStatus {
        let mut ended = None;
        await_that("the end of the process", || {
            ended = self.child.try_wait().unwrap();
            ended.map(drop).ok_or_else(String::new)
        });
        ended.unwrap()
    }

    /// A connection to the gateway.
    pub(crate) fn connect(&self) -> TcpStream {
        connect(self.address)
    }

    /// A connection through the gateway, by SOCKS5.
    pub(crate) fn reach(&self, origin: SocketAddr) -> TcpStream {
        let mut stream = self.connect();
        assert_eq!(ask_for(&mut stream, origin), 0);
        stream
    }

    /// What SOCKS5 replies to a request for an origin (REP of RFC 1928 section 6).
    pub(crate) fn reply_to(&self, origin: &str) -> u8 {
        let mut stream = self.connect();
        let (host, port) = origin.rsplit_once(':').unwrap();
        let mut request = vec![5, 1, 0, 5, 1, 0, 3, host.len() as u8];
        request.extend_from_slice(host.as_bytes());
        request.extend_from_slice(&port.parse::<u16>().unwrap().to_be_bytes());
        stream.write_all(&request).unwrap();
        assert_eq!(read_exactly(&mut stream, 2), [5, 0]);
        let reply = read_exactly(&mut stream, 2);
        reply[1]
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Waits until `look` finds what it looks for; it says what it sees instead.
pub(crate) fn await_that(what: &str, mut look: impl FnMut() -> Result<(), String>) {
    let until = clock::now() + LONG;
    while let Err(seen) = look() {
        assert!(clock::now() < until, "{what}: {seen}");
        thread::sleep(Duration::from_millis(10));
    }
}

pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream.set_write_timeout(Some(LONG)).unwrap();
    stream
}

/// A SOCKS5 client that says everything at once.
pub(crate) fn greeting_and_request(origin: SocketAddr) -> Vec<u8> {
    let SocketAddr::V4(origin) = origin else { panic!("{origin}") };
    let mut bytes = vec![5, 1, 0, 5, 1, 0, 1];
    bytes.extend_from_slice(&origin.ip().octets());
    bytes.extend_from_slice(&origin.port().to_be_bytes());
    bytes
}

/// Asks for an origin by SOCKS5; returns the reply (REP of RFC 1928 section 6).
pub(crate) fn ask_for(stream: &mut TcpStream, origin: SocketAddr) -> u8 {
    stream.write_all(&greeting_and_request(origin)).unwrap();
    assert_eq!(read_exactly(stream, 2), [5, 0]);
    read_exactly(stream, 10)[1]
}

pub(crate) fn read_exactly(stream: &mut TcpStream, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

pub(crate) fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}

/// Asserts that the far end says nothing any more: it has ended, in order or not. That it is silent
/// is not enough.
pub(crate) fn assert_ended(stream: &mut TcpStream) {
    match stream.read(&mut [0]) {
        Ok(0) => {}
        Ok(_) => panic!("it says something"),
        Err(error) => {
            let is_late = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
            assert!(!is_late, "it is still there");
        }
    }
}

/// A listener on loopback, and its address.
pub(crate) fn origin() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// An origin at which each connection is served by `serve` on a thread of its own.
pub(crate) fn serve(serve: impl Fn(TcpStream) + Clone + Send + 'static) -> SocketAddr {
    let (listener, address) = origin();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let serve = serve.clone();
            thread::spawn(move || serve(stream));
        }
    });
    address
}

/// An origin that sends back what it gets, and ends when the client has.
pub(crate) fn echo() -> SocketAddr {
    serve(|mut stream| {
        let mut reader = stream.try_clone().unwrap();
        drop(std::io::copy(&mut reader, &mut stream));
    })
}

/// An origin of HTTP that answers every request with `body` and closes.
pub(crate) fn http(body: &'static str) -> SocketAddr {
    serve(move |mut stream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut line = String::new();
        while reader.read_line(&mut line).is_ok_and(|len| len > 2) {
            line.clear();
        }
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        drop(stream.write_all(format!("{head}{body}").as_bytes()));
    })
}

/// The descriptors that the gateway has open, by number.
pub(crate) fn descriptors(gateway: &Gateway) -> Vec<usize> {
    let entries = std::fs::read_dir(format!("/proc/{}/fd", gateway.child.id())).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name());
    let mut numbers: Vec<usize> =
        names.map(|name| name.to_str().unwrap().parse().unwrap()).collect();
    numbers.sort_unstable();
    numbers
}

/// Leaves the gateway so many descriptors beyond those that it has.
pub(crate) fn leave_descriptors(gateway: &Gateway, count: usize) {
    // Its first answer shows that it has opened what it opens at start.
    assert_eq!(gateway.status().accepted, 0);
    let mut open = descriptors(gateway);
    await_that("descriptors that stay", || {
        thread::sleep(Duration::from_millis(50));
        let before = std::mem::replace(&mut open, descriptors(gateway));
        if before == open { Ok(()) } else { Err(format!("{before:?}, then {open:?}")) }
    });
    // The limit is on the numbers of descriptors, of which some may be free in between, and some
    // beyond.
    let free_below = |limit: usize| limit - open.iter().filter(|fd| **fd < limit).count();
    let limit = (0..).find(|limit| free_below(*limit) == count).unwrap();
    let set = Command::new("prlimit")
        .args([format!("--pid={}", gateway.child.id()), format!("--nofile={limit}")])
        .status()
        .unwrap();
    assert!(set.success());
}
