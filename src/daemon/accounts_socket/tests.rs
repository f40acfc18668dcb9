use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::accounts::service::AccountsOptions;

struct Server {
    socket: AccountsSocket,
    directory: TempDir,
}

impl Server {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let database = directory.path().join("accounts.db").to_str().unwrap().parse().unwrap();
        let spool = directory.path().join("spool");
        let options = AccountsOptions::new(database, spool, "here".parse().unwrap());
        let accounts = Accounts::open(options).unwrap();
        let socket = AccountsSocket::open(&directory.path().join("socket"), accounts).unwrap();
        Self { socket, directory }
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.socket.path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    }

    /// What comes back for `request`; nothing if the connection was closed without an answer.
    fn ask(&self, request: &[u8]) -> String {
        let mut stream = self.connect();
        let _ = stream.write_all(request);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = String::new();
        let _ = BufReader::new(stream).read_line(&mut answer);
        answer
    }
}

const ADD: &str = r#"{"operation":"user_add","name":"alice","groups":[],"password":"generate"}"#;

#[test]
fn operations_come_by_line_and_nobody_else_can_connect() {
    let server = Server::start();
    let mode = fs::metadata(&server.socket.path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let added = server.ask(format!("{ADD}\n").as_bytes());
    assert!(added.starts_with(r#"{"Ok":{"outcome":"password""#), "{added}");
    let again = server.ask(ADD.as_bytes());
    assert!(again.starts_with(r#"{"Err":{"kind":"exists""#), "{again}");
    let listed = server.ask(b"{\"operation\":\"user_list\"}\n");
    assert!(listed.contains("\"name\":\"alice\""), "{listed}");
    assert!(!listed.contains("argon2"), "{listed}");
}

#[test]
fn whatever_is_cut_or_changed_in_a_request_gets_an_answer_and_changes_nothing() {
    let server = Server::start();
    for len in 0..ADD.len() {
        let answer = server.ask(&ADD.as_bytes()[..len]);
        assert!(answer.starts_with(r#"{"Err""#), "{len}: {answer}");
    }
    let deep = "[".repeat(100_000);
    let doubled = ADD.replace("\"groups\":[]", "\"groups\":[],\"groups\":[]");
    let unknown = ADD.replace("\"groups\":[]", "\"groups\":[],\"more\":1");
    let injection = ADD.replace("alice", "a'; DROP TABLE users; --");
    let long_name = ADD.replace("alice", &"n".repeat(255));
    let not_utf8 = ADD.as_bytes().iter().map(|byte| byte | 0x80).collect::<Vec<_>>();
    for bad in [deep.as_bytes(), doubled.as_bytes(), unknown.as_bytes(), injection.as_bytes()] {
        let answer = server.ask(bad);
        assert!(answer.starts_with(r#"{"Err""#), "{answer}");
    }
    for bad in [long_name.as_bytes(), &not_utf8] {
        assert!(server.ask(bad).starts_with(r#"{"Err""#));
    }
    let endless = vec![b'x'; ACCOUNTS_REQUEST_LEN_MAX + 8192];
    let answer = server.ask(&endless);
    assert!(answer.is_empty() || answer.contains("too long"), "{answer}");
    let users = server.ask(b"{\"operation\":\"user_list\"}\n");
    assert_eq!(users, "{\"Ok\":{\"outcome\":\"users\",\"value\":[]}}\n");
}

#[test]
fn clients_that_say_nothing_do_not_keep_others_out_for_long() {
    let server = Server::start();
    let silent: Vec<_> = (0..2 * ACCOUNTS_CLIENTS_MAX).map(|_| server.connect()).collect();
    let start = crate::sys::clock::now();
    while server.ask(b"{\"operation\":\"user_list\"}\n").is_empty() {
        let waited = crate::sys::clock::now().duration_since(start);
        assert!(waited < 10 * ACCOUNTS_CLIENT_TIMEOUT, "nobody was let in");
        thread::sleep(Duration::from_millis(50));
    }
    drop(silent);
}

#[test]
fn the_file_goes_with_the_server_and_a_second_server_is_refused() {
    let Server { socket, directory } = Server::start();
    let path = socket.path.clone();
    let second = bind_private_socket(&path).map(drop);
    assert!(matches!(second, Err(StatusSocketError::InUse { .. })), "{second:?}");
    drop(socket);
    assert!(!path.exists());
    drop(directory);
}
