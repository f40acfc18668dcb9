//! `corelane init proxy`: the part of a server's file, and Traefik in front of it.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;
use toml::Value;

/// Keys of Traefik v3's file reference that may be used, and what they take; `*` is a name of ours.
/// <https://doc.traefik.io/traefik/reference/install-configuration/configuration-options/> and
/// <https://doc.traefik.io/traefik/reference/routing-configuration/other-providers/file/>
const KEYS: [(&str, &str); 26] = [
    ("global.checkNewVersion", "boolean"),
    ("global.sendAnonymousUsage", "boolean"),
    ("entryPoints.*.address", "string"),
    ("entryPoints.*.http.redirections.entryPoint.to", "string"),
    ("entryPoints.*.http.redirections.entryPoint.scheme", "string"),
    ("providers.file.filename", "string"),
    ("providers.file.watch", "boolean"),
    ("certificatesResolvers.*.acme.email", "string"),
    ("certificatesResolvers.*.acme.storage", "string"),
    ("tcp.routers.*.entryPoints", "array"),
    ("tcp.routers.*.rule", "string"),
    ("tcp.routers.*.service", "string"),
    ("tcp.routers.*.tls.passthrough", "boolean"),
    ("tcp.services.*.loadBalancer.serversTransport", "string"),
    ("tcp.services.*.loadBalancer.proxyProtocol.version", "integer"),
    ("tcp.services.*.loadBalancer.servers.address", "string"),
    ("tcp.serversTransports.*.terminationDelay", "string"),
    ("http.routers.*.entryPoints", "array"),
    ("http.routers.*.rule", "string"),
    ("http.routers.*.middlewares", "array"),
    ("http.routers.*.service", "string"),
    ("http.routers.*.tls.certResolver", "string"),
    ("http.middlewares.*.forwardAuth.address", "string"),
    ("http.middlewares.*.forwardAuth.trustForwardHeader", "boolean"),
    ("http.middlewares.*.headers.customRequestHeaders.*", "string"),
    ("http.services.*.loadBalancer.servers.url", "string"),
];
/// The same, where it is a list of texts or a table that may be empty.
const LISTS: [&str; 2] = [
    "http.middlewares.*.forwardAuth.authRequestHeaders",
    "http.middlewares.*.forwardAuth.authResponseHeaders",
];
const EMPTY: [&str; 2] = ["certificatesResolvers.*.acme.tlsChallenge", "http.routers.*.tls"];

fn corelane(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_corelane"));
    command.args(arguments).env_remove("RUST_LOG").output().unwrap()
}

fn done(arguments: &[&str]) -> String {
    let output = corelane(arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn read(path: &Path) -> Value {
    Value::Table(toml::from_str(&fs::read_to_string(path).unwrap()).unwrap())
}

/// Every key below `value` with what it is.
fn keys(value: &Value, path: &str, found: &mut Vec<(String, &'static str)>) {
    match value {
        Value::Table(table) if table.is_empty() => found.push((path.to_owned(), "nothing")),
        Value::Table(table) => {
            for (key, value) in table {
                let dot = if path.is_empty() { "" } else { "." };
                keys(value, &format!("{path}{dot}{key}"), found);
            }
        }
        Value::Array(tables) if tables.iter().all(Value::is_table) => {
            tables.iter().for_each(|table| keys(table, path, found));
        }
        value => found.push((path.to_owned(), value.type_str())),
    }
}

fn fits(path: &str, pattern: &str) -> bool {
    let (path, pattern): (Vec<_>, Vec<_>) =
        (path.split('.').collect(), pattern.split('.').collect());
    path.len() == pattern.len()
        && path.iter().zip(&pattern).all(|(part, wanted)| *wanted == "*" || part == wanted)
}

/// Asserts that a file has keys of Traefik alone.
fn assert_known(value: &Value) {
    let mut found = Vec::new();
    keys(value, "", &mut found);
    assert!(!found.is_empty());
    for (path, kind) in found {
        let is_known = KEYS.iter().any(|(pattern, takes)| *takes == kind && fits(&path, pattern))
            || kind == "array" && LISTS.iter().any(|pattern| fits(&path, pattern))
            || kind == "nothing" && EMPTY.iter().any(|pattern| fits(&path, pattern));
        assert!(is_known, "{path}: {kind}");
    }
}

/// A server's file with a part of it added is in order.
fn assert_fits_a_server(directory: &Path, part: &str) {
    let etc = directory.join("etc");
    let dir = etc.to_str().unwrap();
    done(&["init", "vpn", "--domain", "proxy.example.org", "--dir", dir]);
    let config = etc.join("server.toml");
    let text = fs::read_to_string(&config).unwrap() + part;
    fs::write(&config, &text).unwrap();
    let check = corelane(&["config", "check", config.to_str().unwrap()]);
    assert!(check.status.success() && check.stderr.is_empty(), "{check:?}\n{text}");
}

#[test]
fn the_part_of_a_server_that_makes_it_a_proxy_fits_its_file() {
    let directory = TempDir::new().unwrap();
    let part = done(&["init", "proxy", "--port", "3128"]);
    assert!(part.contains("listen = [\"tls://[::]:3128\"]") && !part.contains('@'), "{part}");
    assert_fits_a_server(directory.path(), &part);
}

#[test]
fn traefik_is_set_up_in_front_of_the_gateway() {
    let directory = TempDir::new().unwrap();
    let place = directory.path().join("traefik");
    let dir = place.to_str().unwrap();
    let init = ["init", "proxy", "--traefik", dir, "--domain", "Proxy.example.org"];
    let page = ["--page", "www.example.org", "--backend", "http://127.0.0.1:3000/a'b"];
    let said = done(&[&init[..], &page, &["--email", "ops@example.org"]].concat());
    let [fixed, dynamic, part] =
        ["traefik.toml", "corelane.toml", "proxy.toml"].map(|name| place.join(name));
    for (file, is_named) in [(&fixed, "configFile="), (&dynamic, ""), (&part, "cat ")] {
        assert!(said.contains(&format!("{is_named}{}", file.display())), "{said}");
    }
    let (fixed, dynamic) = (read(&fixed), read(&dynamic));
    assert_known(&fixed);
    assert_known(&dynamic);
    assert_eq!(
        fixed["providers"]["file"]["filename"].as_str(),
        place.join("corelane.toml").to_str()
    );
    // What refers to something refers to what is there.
    let entries = fixed["entryPoints"].as_table().unwrap();
    for kind in ["tcp", "http"] {
        for (_, router) in dynamic[kind]["routers"].as_table().unwrap() {
            assert!(entries.contains_key(router["entryPoints"][0].as_str().unwrap()));
            let service = router["service"].as_str().unwrap();
            assert!(dynamic[kind]["services"].get(service).is_some(), "{service}");
            for name in router.get("middlewares").and_then(Value::as_array).into_iter().flatten() {
                assert!(dynamic[kind]["middlewares"].get(name.as_str().unwrap()).is_some());
            }
        }
    }
    let gateway = &dynamic["tcp"]["routers"]["corelane-gateway"];
    assert_eq!(gateway["rule"].as_str(), Some("HostSNI(`proxy.example.org`)"));
    let balancer = &dynamic["tcp"]["services"]["corelane-gateway"]["loadBalancer"];
    let transport = balancer["serversTransport"].as_str().unwrap();
    assert!(dynamic["tcp"]["serversTransports"].get(transport).is_some());
    let at = balancer["servers"][0]["address"].as_str().unwrap();
    let resolver = dynamic["http"]["routers"]["page"]["tls"]["certResolver"].as_str().unwrap();
    assert!(fixed["certificatesResolvers"].get(resolver).is_some());
    // A page hears the user from the gateway, and by no other name from a client.
    let middlewares = &dynamic["http"]["middlewares"];
    let told = middlewares["corelane-auth"]["forwardAuth"]["authResponseHeaders"].as_array();
    assert!(told.is_some_and(|told| *told == [Value::from("Remote-User")]), "{told:?}");
    let cleared = &middlewares["corelane-keep-password"]["headers"]["customRequestHeaders"];
    for name in ["Authorization", "X-Corelane-User", "Remote_User", "X_Corelane_User"] {
        assert_eq!(cleared[name].as_str(), Some(""), "{name}");
    }
    let page = &dynamic["http"]["services"]["page"]["loadBalancer"]["servers"][0]["url"];
    assert_eq!(page.as_str(), Some("http://127.0.0.1:3000/a'b"));

    // The gateway is where Traefik looks for it, and takes what it sends.
    let text = fs::read_to_string(&part).unwrap();
    let part: Value = Value::Table(toml::from_str(&text).unwrap());
    let [inside, asked] = [0, 1].map(|entrance| &part["proxy"][entrance]);
    assert_eq!(inside["listen"][0].as_str(), Some(format!("tls://{at}").as_str()));
    assert_eq!(balancer["proxyProtocol"]["version"].as_integer(), Some(2));
    assert!(inside.get("proxy_protocol_from").is_some() && inside.get("auth_from").is_none());
    let auth = &dynamic["http"]["middlewares"]["corelane-auth"]["forwardAuth"]["address"];
    let asked_at = asked["listen"][0].as_str().unwrap().strip_prefix("tcp://").unwrap();
    assert_eq!(auth.as_str(), Some(format!("http://{asked_at}/auth").as_str()));
    assert!(asked.get("auth_from").is_some() && asked.get("proxy_protocol_from").is_none());
    assert_fits_a_server(directory.path(), &text);

    // Nothing is written over, not even a part of it.
    fs::remove_file(place.join("traefik.toml")).unwrap();
    let again = corelane(&init);
    let message = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(!again.status.success() && message.contains("is there already"), "{message}");
    assert!(!place.join("traefik.toml").exists());
}

#[test]
fn without_pages_and_certificates_traefik_is_in_order_as_well() {
    let directory = TempDir::new().unwrap();
    let dir = directory.path().to_str().unwrap();
    let init = ["init", "proxy", "--traefik", dir, "--domain", "proxy.example.org"];
    done(&init);
    let (fixed, dynamic) = (
        read(&directory.path().join("traefik.toml")),
        read(&directory.path().join("corelane.toml")),
    );
    assert_known(&fixed);
    assert_known(&dynamic);
    assert!(fixed.get("certificatesResolvers").is_none());
    assert!(dynamic["http"].get("routers").is_none(), "pages are added by hand");

    let page = ["--page", "www.example.org"];
    let other = directory.path().join("other");
    done(&[&["init", "proxy", "--traefik", other.to_str().unwrap()], &init[4..], &page].concat());
    assert_known(&read(&other.join("corelane.toml")));
    for (wrong, why) in [
        (["--domain", "a`) || HostSNI(`*"], "not a DNS name"),
        (["--domain", "192.0.2.1"], "not a DNS name"),
        (["--page", "www example"], "not a DNS name"),
        (["--backend", "ftp://a.example"], "not a URL"),
        (["--email", "nobody"], "not an address"),
    ] {
        let output = corelane(&[&["init", "proxy", "--traefik", dir], &wrong[..]].concat());
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
        assert!(message.contains(why), "{wrong:?}: {message}");
    }
}
