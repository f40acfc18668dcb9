//! Names whose servers lie, change their minds, keep silent or say too much.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use corelane::lab::{Host, LabOptions, TwoHosts, addresses};
use corelane::limits::{
    PROXY_DATAGRAMS_WAITING_MAX, PROXY_LOOKUP_THREADS, PROXY_NAMES_WAITING_PER_ASKER_MAX,
};
use corelane::sys::clock;
use corelane::sys::process::{cpu_time, resident_bytes};

use crate::binding::connect_from;
use crate::datagrams::{header_by_name, udp_echo};
use crate::harness::{Gateway, LONG, await_that, read_exactly, read_to_end};

const NAME_SERVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 53);
/// The port of every origin.
const PORT: u16 = 8000;
const HEADER_LEN: usize = 12;
const A: u16 = 1;
const AAAA: u16 = 28;

/// What the name server says.
enum Says {
    Addresses(Vec<IpAddr>),
    NoSuchName,
    Nonsense,
    Nothing,
}

/// By name, and how often its IPv4 addresses have been asked for before.
type Zone = fn(&str, usize) -> Says;

/// How often the IPv4 addresses of each name were asked for.
type Asked = Arc<Mutex<HashMap<String, usize>>>;

/// The question of a query: name and type, and where it ends.
fn question(query: &[u8]) -> Option<(String, u16, usize)> {
    let mut at = HEADER_LEN;
    let mut labels = Vec::new();
    loop {
        let len = usize::from(*query.get(at)?);
        at += 1;
        if len == 0 {
            break;
        }
        labels.push(String::from_utf8(query.get(at..at + len)?.to_vec()).ok()?);
        at += len;
    }
    let kind = u16::from_be_bytes([*query.get(at)?, *query.get(at + 1)?]);
    Some((labels.join("."), kind, at + 4))
}

/// The answer to a query (RFC 1035 section 4), if there is one.
fn answer(query: &[u8], zone: Zone, asked: &Asked, over_udp: bool) -> Option<Vec<u8>> {
    let (name, kind, end) = question(query)?;
    let before = {
        let mut asked = asked.lock().unwrap();
        let count = asked.entry(name.clone()).or_default();
        // One that is cut short is asked again over TCP.
        *count += usize::from(kind == A && (over_udp || !name.starts_with("many")));
        count.saturating_sub(1)
    };
    let (found, code) = match zone(&name, before) {
        Says::Addresses(addresses) => (addresses, 0),
        Says::NoSuchName => (Vec::new(), 3),
        Says::Nonsense => return Some([&query[..2], &[0xff; 9]].concat()),
        Says::Nothing => return None,
    };
    let found: Vec<_> = found.into_iter().filter(|it| it.is_ipv4() == (kind == A)).collect();
    let found = if matches!(kind, A | AAAA) { found } else { Vec::new() };
    let is_cut = over_udp && found.len() > 20;
    let found = if is_cut { Vec::new() } else { found };
    let mut said = query[..2].to_vec();
    // An answer with recursion, cut or not.
    said.extend([0x81 | u8::from(is_cut) << 1, 0x80 | code, 0, 1]);
    said.extend((found.len() as u16).to_be_bytes());
    said.extend([0, 0, 0, 0]);
    said.extend_from_slice(&query[HEADER_LEN..end]);
    for address in found {
        // The name of the question again, its type, class IN, good for no time at all.
        said.extend([0xc0, HEADER_LEN as u8]);
        said.extend(kind.to_be_bytes());
        said.extend([0, 1, 0, 0, 0, 0]);
        let octets = match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        said.extend((octets.len() as u16).to_be_bytes());
        said.extend(octets);
    }
    Some(said)
}

/// A name server on a host, over UDP and TCP.
fn start_name_server(host: &Host, zone: Zone) -> Asked {
    let asked = Asked::default();
    let (over_udp, over_tcp) = (Arc::clone(&asked), Arc::clone(&asked));
    host.run(|| {
        let udp = UdpSocket::bind((NAME_SERVER, 53)).unwrap();
        let tcp = TcpListener::bind((NAME_SERVER, 53)).unwrap();
        std::thread::spawn(move || {
            let mut query = [0; 1500];
            while let Ok((len, from)) = udp.recv_from(&mut query) {
                if let Some(said) = answer(&query[..len], zone, &over_udp, true) {
                    drop(udp.send_to(&said, from));
                }
            }
        });
        std::thread::spawn(move || {
            for mut stream in tcp.incoming().map_while(Result::ok) {
                let asked = Arc::clone(&over_tcp);
                std::thread::spawn(move || {
                    let mut len = [0; 2];
                    while stream.read_exact(&mut len).is_ok() {
                        let mut query = vec![0; usize::from(u16::from_be_bytes(len))];
                        if stream.read_exact(&mut query).is_err() {
                            break;
                        }
                        let Some(said) = answer(&query, zone, &asked, false) else { break };
                        let len = (said.len() as u16).to_be_bytes();
                        drop(stream.write_all(&[&len[..], &said].concat()));
                    }
                });
            }
        });
    })
    .unwrap();
    asked
}

/// A gateway, an origin elsewhere, and one on the gateway's own host that nobody is to reach. Both
/// count who comes.
struct Site {
    lab: TwoHosts,
    gateway: Gateway,
    asked: Asked,
    far: Visits,
    near: Visits,
}

type Visits = Arc<Mutex<usize>>;

fn count_visits(host: &Host) -> Visits {
    let visits = Visits::default();
    let counted = Arc::clone(&visits);
    host.run(|| {
        let any = TcpListener::bind(("::", PORT)).unwrap();
        std::thread::spawn(move || {
            for stream in any.incoming().map_while(Result::ok) {
                *counted.lock().unwrap() += 1;
                drop(stream);
            }
        });
    })
    .unwrap();
    visits
}

impl Site {
    fn new(zone: Zone, flags: &[&str]) -> Self {
        Self::patient(1, zone, flags)
    }

    /// One that gives its name server `within_s` to answer.
    fn patient(within_s: u32, zone: Zone, flags: &[&str]) -> Self {
        let lab = TwoHosts::build(LabOptions::default()).unwrap();
        let asked = start_name_server(&lab.server, zone);
        let (far, near) = (count_visits(&lab.client), count_visits(&lab.server));
        let gateway =
            Gateway::start_resolving_at(&lab.server, (NAME_SERVER.into(), within_s), flags);
        Self { lab, gateway, asked, far, near }
    }

    /// What SOCKS5 replies to a request for a name.
    fn reply(&self, name: &str) -> u8 {
        let ask = || self.gateway.reply_to(&format!("{name}:{PORT}"));
        self.lab.server.run(ask).unwrap()
    }

    /// What a client at `source` is told that asks for a name by HTTP: the status.
    fn status_for(&self, source: &str, name: &str) -> String {
        let mut stream = self.connect_for(source, name);
        String::from_utf8(read_exactly(&mut stream, 12)).unwrap().split_off(9)
    }

    /// A client at `source` that has asked for a name by HTTP.
    fn connect_for(&self, source: &str, name: &str) -> TcpStream {
        let mut stream = self.from(source);
        let request = format!("CONNECT {name}:{PORT} HTTP/1.1\r\nHost: {name}\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        stream
    }

    /// A connection to the gateway from `source`.
    fn from(&self, source: &str) -> TcpStream {
        let connect = || connect_from(&format!("{source}:0"), self.gateway.address);
        self.lab.server.run(connect).unwrap()
    }

    /// An association of a client at `source`: its connection, and a socket that sends there.
    fn associate(&self, source: &str) -> (TcpStream, UdpSocket) {
        let mut tcp = self.from(source);
        tcp.write_all(&[5, 1, 0, 5, 3, 0, 1, 0, 0, 0, 0, 0, 0]).unwrap();
        let reply = read_exactly(&mut tcp, 12);
        assert_eq!(reply[3], 0);
        let port = u16::from_be_bytes([reply[10], reply[11]]);
        let udp = self.lab.server.run(|| UdpSocket::bind((source, 0))).unwrap().unwrap();
        udp.connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        (tcp, udp)
    }

    /// How many names that nobody answers for were asked for.
    fn slow_asked(&self) -> usize {
        self.asked.lock().unwrap().keys().filter(|name| name.ends_with(SLOW)).count()
    }

    fn visits(&self) -> (usize, usize) {
        (*self.far.lock().unwrap(), *self.near.lock().unwrap())
    }

    /// Who has come; an origin may count a visitor later than the kernel lets it in.
    fn await_visits(&self, expected: (usize, usize)) {
        await_that("visitors", || {
            let seen = self.visits();
            if seen == expected { Ok(()) } else { Err(format!("{seen:?}, not {expected:?}")) }
        });
    }

    fn times_asked(&self, name: &str) -> usize {
        self.asked.lock().unwrap().get(name).copied().unwrap_or_default()
    }
}

fn there() -> IpAddr {
    addresses::CLIENT_V4.into()
}

/// Where nobody is to come who was not there already.
fn inward(name: &str) -> Option<Vec<IpAddr>> {
    let here = IpAddr::from(addresses::SERVER_V4);
    let parse = |text: &str| vec![text.parse().unwrap()];
    Some(match name {
        "loopback.example" => parse("127.0.0.1"),
        "loopback6.example" => parse("::1"),
        "mapped.example" => parse("::ffff:127.0.0.1"),
        "nowhere.example" => parse("0.0.0.0"),
        "metadata.example" => parse("169.254.169.254"),
        "own.example" => vec![here],
        "own6.example" => vec![addresses::SERVER_V6.into()],
        "mixed.example" => vec![there(), "127.0.0.1".parse().unwrap()],
        "mixed6.example" => vec![there(), "::1".parse().unwrap()],
        _ => return None,
    })
}

const INWARD: [&str; 9] = [
    "loopback.example",
    "loopback6.example",
    "mapped.example",
    "nowhere.example",
    "metadata.example",
    "own.example",
    "own6.example",
    "mixed.example",
    "mixed6.example",
];

#[test]
fn a_name_that_leads_inward_is_denied() {
    let zone: Zone = |name, _| Says::Addresses(inward(name).unwrap_or_else(|| vec![there()]));
    let site = Site::new(zone, &[]);
    assert_eq!(site.reply("good.example"), 0);
    for name in INWARD {
        assert_eq!(site.reply(name), 2, "{name}");
        assert_eq!(site.times_asked(name), 1, "{name}");
    }
    site.await_visits((1, 0));
    assert_eq!(site.gateway.status().failed["denied"], INWARD.len() as u64);

    // The same names where they may: somebody is there.
    let site = Site::new(zone, &["--allow", "loopback,own,reserved"]);
    for name in ["loopback.example", "loopback6.example", "own.example", "own6.example"] {
        assert_eq!(site.reply(name), 0, "{name}");
    }
    site.await_visits((0, 4));
}

#[test]
fn a_name_that_changes_its_mind_is_dialled_as_it_was_judged() {
    // Whoever asks a second time is led inward.
    let site = Site::new(
        |_, before| match before {
            0 => Says::Addresses(vec![there()]),
            _ => Says::Addresses(vec!["127.0.0.1".parse().unwrap()]),
        },
        &[],
    );
    let names: Vec<_> = (0..20).map(|number| format!("changing{number}.example")).collect();
    for name in &names {
        assert_eq!((site.reply(name), site.times_asked(name)), (0, 1), "{name}");
    }
    site.await_visits((20, 0));
    // While it is remembered that holds for the next client, too.
    assert_eq!((site.reply(&names[19]), site.times_asked(&names[19])), (0, 1));
    // An attacker waits until it is forgotten: what it says then is judged anew.
    await_that("a second question", || {
        let (reply, times) = (site.reply(&names[0]), site.times_asked(&names[0]));
        assert_eq!(reply == 0, times == 1, "{reply} after {times}");
        if (reply, times) == (2, 2) { Ok(()) } else { Err(format!("{reply}, {times}")) }
    });
    assert_eq!(site.visits().1, 0);
}

#[test]
fn names_that_nobody_answers_for_hold_up_no_others_for_long() {
    let site = Site::new(
        |name, _| match name.split_once('.').unwrap().0.trim_end_matches(char::is_numeric) {
            "silent" => Says::Nothing,
            "nonsense" => Says::Nonsense,
            "missing" => Says::NoSuchName,
            _ => Says::Addresses(vec![there()]),
        },
        &[],
    );
    assert_eq!((site.reply("known.example"), site.reply("missing.example")), (0, 4));
    let (reply, others) = (|name: &str| site.reply(name), 40);
    std::thread::scope(|scope| {
        let silent: Vec<_> = (0..others)
            .map(|number| scope.spawn(move || reply(&format!("silent{number}.example"))))
            .collect();
        // What is known is served at once; what is not, when a thread is free.
        let before = clock::now();
        assert_eq!(reply("known.example"), 0);
        assert!(clock::now() - before < Duration::from_secs(1));
        assert_eq!(reply("new.example"), 0);
        for one in silent {
            assert_eq!(one.join().unwrap(), 4, "the name cannot be looked up");
        }
    });
    assert_eq!(site.reply("nonsense.example"), 4);
    assert_eq!(site.reply("later.example"), 0);
    site.await_visits((4, 0));
    let failed = site.gateway.status().failed;
    assert_eq!(
        (failed["name_unavailable"], failed["name_not_found"]),
        (others + 1, 1),
        "{failed:?}"
    );
}

#[test]
fn a_name_with_thousands_of_addresses_costs_little() {
    // 1,000 of them, or as many as fit into an answer.
    let site = Site::new(
        |name, _| {
            let count = if name.starts_with("many-more") { 4000 } else { 1000 };
            let mut found: Vec<IpAddr> =
                (0..count).map(|it: u16| [192, 0, 2, 2 + (it % 250) as u8].into()).collect();
            match name.split_once('.').unwrap().0 {
                "many" | "many-more" => found.fill(there()),
                // All of them dead.
                "many-dead" => found.retain(|it| *it != there()),
                "many-inward" => found = vec!["127.0.0.1".parse().unwrap(); 1000],
                _ => {
                    found = (0..1000_u16)
                        .map(|it| [192, 0, 2 + (it >> 8) as u8, it as u8].into())
                        .collect();
                    found.retain(|it| *it != IpAddr::from(addresses::SERVER_V4));
                    found.insert(0, there());
                }
            }
            Says::Addresses(found)
        },
        &["--workers", "1"],
    );
    assert_eq!((site.reply("many.example"), site.reply("many-more.example")), (0, 0));
    assert_eq!(site.reply("many-inward.example"), 2);
    site.await_visits((2, 0));
    let pid = site.gateway.child.id();
    let (before, spent) = (resident_bytes(pid).unwrap(), cpu_time(pid).unwrap());
    let reply = site.reply("many-dead.example");
    assert!(matches!(reply, 4 | 6), "unreachable, or nobody answers: {reply}");
    let spent = cpu_time(pid).unwrap() - spent;
    assert!(spent < Duration::from_secs(2), "{spent:?} for a dead name");
    // Each is remembered.
    for number in 0..50 {
        assert_eq!(site.reply(&format!("many{number}.example")), 0, "{number}");
    }
    let grown = resident_bytes(pid).unwrap().saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} bytes for 50 names of 1,000 addresses");
    let to: SocketAddr = (there(), PORT).into();
    let direct = site.lab.server.run(|| TcpStream::connect(to).is_ok()).unwrap();
    assert!(direct, "the origin is there");
}

/// What names end in that nobody answers for.
const SLOW: &str = ".slow.example";
/// One who floods the gateway, and others.
const FLOODER: &str = "127.0.0.2";
const OTHER: &str = "127.0.0.3";
/// How many names at most are looked up for one who has others wait as well.
const SHARE: usize = PROXY_LOOKUP_THREADS / 2;

fn slow_or_there(name: &str, _: usize) -> Says {
    if name.ends_with(SLOW) { Says::Nothing } else { Says::Addresses(vec![there()]) }
}

#[test]
fn datagrams_to_names_that_nobody_answers_for_hold_up_nobody_else() {
    // Nothing that the flooder asks for is over before the test is.
    let site = Site::patient(30, slow_or_there, &["--workers", "1"]);
    let echo = site.lab.client.run(|| udp_echo(there())).unwrap();
    let (_tcp, udp) = site.associate(FLOODER);
    let send = |name: &str, port| {
        udp.send(&header_by_name(name, port)).unwrap();
    };
    send("alone.example", echo.address.port());
    echo.seen.recv_timeout(LONG).unwrap();
    let (total, step) = (2000, 50);
    for sent in (0..total).step_by(step) {
        (sent..sent + step).for_each(|number| send(&format!("n{number}{SLOW}"), 53));
        let dropped = (sent + step).saturating_sub(PROXY_DATAGRAMS_WAITING_MAX) as u64;
        site.gateway.await_status("those that do not wait", |status| {
            status.datagrams_dropped["names_waiting"] == dropped
        });
    }
    // What is known goes where nothing more may wait.
    send("alone.example", echo.address.port());
    echo.seen.recv_timeout(LONG).unwrap();
    for name in ["one.example", "two.example", "three.example"] {
        assert_eq!(site.status_for(OTHER, name), "200", "{name}");
    }
    let asked = site.slow_asked();
    assert!(
        asked <= PROXY_DATAGRAMS_WAITING_MAX,
        "{asked} lookups for datagrams that were dropped"
    );
}

#[test]
fn connections_to_names_that_nobody_answers_for_hold_up_nobody_else() {
    let site = Site::patient(30, slow_or_there, &["--workers", "1"]);
    assert_eq!(site.status_for(FLOODER, "alone.example"), "200");
    let total = 300;
    for number in 0..total {
        drop(site.connect_for(FLOODER, &format!("t{number}{SLOW}")));
    }
    assert_eq!(site.status_for(FLOODER, "more.example"), "503", "its share is full");
    // Nobody can tell whether a client that has said everything waits for an answer.
    let wait = SHARE + PROXY_NAMES_WAITING_PER_ASKER_MAX;
    site.gateway.await_status("those that do not wait", |status| {
        status.failed["name_unavailable"] == (1 + total - wait) as u64
    });
    for name in ["one.example", "two.example", "three.example"] {
        assert_eq!(site.status_for(OTHER, name), "200", "{name}");
    }
    // The same name for both: one lookup, and not after all that the flooder waits for.
    let shared = format!("t{}{SLOW}", SHARE + 3);
    let _waits = site.connect_for(OTHER, &shared);
    await_that("a lookup", || match site.times_asked(&shared) {
        1 => Ok(()),
        times => Err(format!("{times}")),
    });
    assert_eq!(site.slow_asked(), SHARE + 1);
}

#[test]
fn a_name_is_not_looked_up_for_who_has_gone() {
    let site = Site::patient(8, slow_or_there, &["--workers", "1"]);
    let flood = |round: usize| {
        let (tcp, udp) = site.associate(FLOODER);
        for number in 0..PROXY_DATAGRAMS_WAITING_MAX {
            udp.send(&header_by_name(&format!("n{round}-{number}{SLOW}"), 53)).unwrap();
        }
        tcp
    };
    let held: Vec<_> = (0..4).map(flood).collect();
    let first = await_slow(&site, SHARE);
    assert_eq!(first, SHARE);
    for mut tcp in held {
        tcp.shutdown(std::net::Shutdown::Write).unwrap();
        read_to_end(&mut tcp);
    }
    // The next of the flooder's names has its turn when the first ones are over.
    assert_eq!(site.status_for(FLOODER, "alone.example"), "200");
    assert_eq!(site.slow_asked(), SHARE, "of those that have gone");
}

/// Waits until so many names were asked for that nobody answers for.
fn await_slow(site: &Site, count: usize) -> usize {
    await_that("lookups", || match site.slow_asked() {
        asked if asked >= count => Ok(()),
        asked => Err(format!("{asked}")),
    });
    site.slow_asked()
}
