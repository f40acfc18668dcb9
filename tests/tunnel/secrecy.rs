//! However much daemons are asked to say, no secret key is in it.

use std::collections::{BTreeSet, HashSet};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use corelane::handshake::keys::PresharedKey;
use corelane::lab::wait_until;

use crate::daemon::Daemon;
use crate::harness::{Options, PATIENCE, Tunnel};

type Secret = [u8; 32];

/// Pieces of the ways in which a program might write a key: a cut key is a secret as well.
fn pieces(key: &Secret) -> HashSet<Vec<u8>> {
    let base64 = BASE64.encode(key);
    let written = |piece: &[u8], separator: &str, byte: fn(u8) -> String| -> Vec<u8> {
        let bytes: Vec<_> = piece.iter().map(|it| byte(*it)).collect();
        bytes.join(separator).into_bytes()
    };
    let of_eight = key.windows(8).flat_map(|piece| {
        let lower: fn(u8) -> String = |byte| format!("{byte:02x}");
        let upper: fn(u8) -> String = |byte| format!("{byte:02X}");
        let decimal: fn(u8) -> String = |byte| byte.to_string();
        let ways = [(lower, ""), (upper, ""), (lower, ":"), (lower, " "), (decimal, ", ")];
        let written = ways.map(|(byte, separator)| written(piece, separator, byte));
        written.into_iter().chain([piece.to_vec(), written_in_debug_lines(piece)])
    });
    let of_base64 = base64.as_bytes().windows(12).map(<[u8]>::to_vec);
    let url_safe = base64.replace('+', "-").replace('/', "_");
    let of_url_safe = url_safe.as_bytes().windows(12).map(<[u8]>::to_vec);
    of_eight.chain(of_base64).chain(of_url_safe).collect()
}

/// As `{:#?}` writes a list.
fn written_in_debug_lines(piece: &[u8]) -> Vec<u8> {
    format!("{piece:#?}").lines().skip(1).take(piece.len()).collect::<Vec<_>>().join("\n").into()
}

/// A piece of `key` that is in `text`.
fn found(key: &Secret, text: &[u8]) -> Option<String> {
    let pieces = pieces(key);
    let lens: BTreeSet<_> = pieces.iter().map(Vec::len).collect();
    let mut windows = lens.into_iter().flat_map(|len| text.windows(len));
    let piece = windows.find(|window| pieces.contains(*window))?;
    Some(String::from_utf8_lossy(piece).into_owned())
}

#[test]
fn the_search_finds_a_key_however_it_is_written() {
    let key: Secret = std::array::from_fn(|at| (at as u8).wrapping_mul(89) ^ 0xf5);
    let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    for text in [
        format!("key {} is", BASE64.encode(key)),
        format!("key {}...", &BASE64.encode(key)[..12]),
        format!("key={hex}"),
        hex.to_uppercase(),
        format!("..{}..", &hex[10..30]),
        format!("{key:?}"),
        format!("{key:#?}"),
        format!("{:02x?}", &key[3..20]).replace(", ", ":"),
    ] {
        assert!(found(&key, text.as_bytes()).is_some(), "{text}");
    }
    assert!(found(&key, &key).is_some());
    let mut other = key;
    other.iter_mut().for_each(|byte| *byte ^= 1);
    assert_eq!(found(&key, format!("{} {other:?}", BASE64.encode(other)).as_bytes()), None);
}

/// A pre-shared key in a file that only its owner reads.
fn write_preshared(path: &Path) -> Secret {
    let key = PresharedKey::generate(&mut rand::rng()).to_base64();
    fs::write(path, &*key).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    BASE64.decode(&*key).unwrap().try_into().unwrap()
}

fn private_key(daemon: &Daemon) -> Secret {
    let text = fs::read_to_string(daemon.key_file()).unwrap();
    BASE64.decode(text.trim()).unwrap().try_into().unwrap()
}

/// Has both configurations name a pre-shared key, the server's and the client's.
fn use_preshared(tunnel: &Tunnel, files: [&Path; 2]) {
    let edits =
        [("[[peer]]\n", &tunnel.server, files[0]), ("[client]\n", &tunnel.client, files[1])];
    for (table, daemon, file) in edits {
        let text = fs::read_to_string(daemon.config_file()).unwrap();
        let with_key = format!("{table}preshared_key_file = {file:?}\n");
        fs::write(daemon.config_file(), text.replacen(table, &with_key, 1)).unwrap();
    }
}

/// What both daemons and the commands that ask them have said.
fn said(tunnel: &Tunnel) -> Vec<u8> {
    let mut said = Vec::new();
    for daemon in [&tunnel.server, &tunnel.client] {
        let file = daemon.config_file();
        let commands: [&[&str]; 3] = [
            &["status", "--json"],
            &["status"],
            &["config", "show", "--effective", "-c", file.to_str().unwrap()],
        ];
        for command in commands {
            let output = match command[0] {
                "status" => daemon.ask(command),
                _ => daemon.ask_nobody(command),
            };
            assert!(output.status.success(), "{output:?}");
            said.extend([output.stdout, output.stderr].concat());
        }
    }
    said
}

/// Handshakes, rekeys, reloads, a pre-shared key that differs and one that is cut.
#[test]
fn nothing_that_is_said_has_a_secret_key_in_it() {
    for format in ["text", "json"] {
        let log = ["--log-level", "trace", "--set", &format!("log.format={format}")];
        let log = log.map(str::to_owned).to_vec();
        let rekeys = ["--set", "client.rekey_after_s=5"].map(str::to_owned).to_vec();
        let (server_flags, client_flags) = (log.clone(), [log, rekeys].concat());
        let options = Options { server_flags, client_flags, ..Options::default() };
        let mut tunnel = Tunnel::prepare(options);
        let [at_server, at_client] =
            ["server.psk", "client.psk"].map(|name| tunnel.directory.path().join(name));
        let first = write_preshared(&at_server);
        fs::copy(&at_server, &at_client).unwrap();
        use_preshared(&tunnel, [&at_server, &at_client]);
        tunnel.start_server();
        tunnel.start_client();
        tunnel.await_echoes();

        let second = write_preshared(&at_server);
        assert!(tunnel.server.ask(&["reload"]).status.success());
        tunnel.client.await_log("a response of the server was refused");
        let cut = fs::read_to_string(&at_client).unwrap().replace('=', "");
        fs::write(&at_client, &cut[..cut.len() - 1]).unwrap();
        let refused = tunnel.client.ask(&["reload"]);
        assert!(!refused.status.success());
        fs::copy(&at_server, &at_client).unwrap();
        assert!(tunnel.client.ask(&["reload"]).status.success());
        let renewed = || (tunnel.client_session().rekeys > 0).then_some(());
        wait_until(PATIENCE, "a session with the new key", renewed).unwrap();
        tunnel.await_echoes();

        let mut said = [said(&tunnel), refused.stdout, refused.stderr].concat();
        for daemon in [&mut tunnel.client, &mut tunnel.server] {
            assert_eq!(daemon.terminate().code(), Some(0));
            said.extend(daemon.log().into_bytes());
        }
        assert!(String::from_utf8_lossy(&said).contains(" renewed"), "they say what they can");
        for key in [private_key(&tunnel.server), private_key(&tunnel.client), first, second] {
            assert_eq!(found(&key, &said), None, "{format}");
        }
        for key in [tunnel.server_key, tunnel.peers[0].key] {
            let key = BASE64.decode(key.to_string()).unwrap().try_into().unwrap();
            assert!(found(&key, &said).is_some(), "what is no secret is there to be found");
        }
    }
}

/// Where `needle` lies in the memory that a daemon may write to (proc(5), `maps` and `mem`).
fn places_in_memory(daemon: &Daemon, needle: &[u8]) -> Vec<String> {
    let maps = fs::read_to_string(format!("/proc/{}/maps", daemon.pid())).unwrap();
    let memory = File::open(format!("/proc/{}/mem", daemon.pid())).unwrap();
    let mut places = Vec::new();
    for map in maps.lines().filter(|map| map.contains(" rw")) {
        let (range, rest) = map.split_once(' ').unwrap();
        let (start, end) = range.split_once('-').unwrap();
        let [start, end] = [start, end].map(|it| u64::from_str_radix(it, 16).unwrap());
        let mut bytes = vec![0; (end - start) as usize];
        // Some mappings of the kernel cannot be read.
        if memory.read_exact_at(&mut bytes, start).is_err() {
            continue;
        }
        let found = bytes.windows(needle.len()).enumerate().filter(|(_, it)| *it == needle);
        places.extend(found.map(|(at, _)| format!("{:x} in {rest}", start + at as u64)));
    }
    places
}

/// How often `key` lies there, as it is or as its file has it.
fn copies_in_memory(daemon: &Daemon, key: &Secret) -> Vec<String> {
    let text = BASE64.encode(key);
    let as_text = text.trim_end_matches('=').as_bytes();
    [places_in_memory(daemon, key), places_in_memory(daemon, as_text)].concat()
}

#[test]
fn a_preshared_key_that_was_replaced_is_nowhere_in_memory() {
    let mut tunnel = Tunnel::prepare(Options::default());
    let [at_server, at_client] =
        ["server.psk", "client.psk"].map(|name| tunnel.directory.path().join(name));
    let first = write_preshared(&at_server);
    fs::copy(&at_server, &at_client).unwrap();
    use_preshared(&tunnel, [&at_server, &at_client]);
    tunnel.start_server();
    tunnel.start_client();
    tunnel.await_echoes();
    let second = write_preshared(&at_server);
    fs::copy(&at_server, &at_client).unwrap();
    for daemon in [&tunnel.server, &tunnel.client] {
        assert_ne!(copies_in_memory(daemon, &first), [""; 0], "one that is in use is found");
        assert!(daemon.ask(&["reload"]).status.success());
        // What the thread does next, so that a reload is over when it is answered.
        assert!(daemon.ask(&["status"]).status.success());
        assert_eq!(copies_in_memory(daemon, &first), [""; 0]);
        assert_ne!(copies_in_memory(daemon, &second), [""; 0]);
    }
}
