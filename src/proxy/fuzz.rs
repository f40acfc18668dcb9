//! What fuzz targets call, and `tests/corpora.rs` with every file of their corpora.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

use super::auth_endpoint::{AUTH_PATH, Inquiry, UnknownClient};
use super::header::{self, Parsed, Version};
use super::http::{RequestHead, Slots};
use super::settings::Rules;
use super::socks::Credentials;
use super::socks::client::{Client, ClientError, ClientStep, Command};
use super::socks::datagram;
use super::socks::server::{Authentication, Event, Server, SocksError, Step};
use super::target::{Host, Target};
use crate::accounts::secret::Secret;
use crate::limits::{PROXY_PROTOCOL_LEN_MAX, SOCKS_MESSAGE_LEN_MAX};

/// Reads what follows the first byte as what a client of SOCKS sends. That byte says what the
/// server wants, whether the password is right, and in what pieces the rest comes.
pub fn socks_server(data: &[u8]) {
    let Some((&choice, input)) = data.split_first() else { return };
    let authentication = match choice & 3 {
        0 => Authentication::Off,
        1 => Authentication::Optional,
        _ => Authentication::Required,
    };
    let is_right = choice & 4 == 0;
    let whole = server_hears(authentication, is_right, input, input.len());
    let pieces = server_hears(authentication, is_right, input, usize::from(choice >> 3) + 1);
    assert_eq!(whole, pieces, "the pieces in which bytes come make no difference");
}

/// What was sent, how many bytes were read, what was asked, and how it went wrong.
type Heard = (Vec<u8>, usize, Option<String>, Option<SocksError>);

fn server_hears(
    authentication: Authentication,
    is_right: bool,
    input: &[u8],
    piece: usize,
) -> Heard {
    let bound = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    let mut server = Server::new(authentication);
    let (mut sent, mut at, mut end) = (Vec::new(), 0, 0);
    loop {
        let rest = input.get(at..end).unwrap_or_default();
        match server.advance(rest) {
            Ok(Step::NeedMore) if end == input.len() => return (sent, at, None, None),
            Ok(Step::NeedMore) => {
                let is_refused = sent.ends_with(&[1, 1]);
                assert!(is_refused || rest.len() < SOCKS_MESSAGE_LEN_MAX);
                end = input.len().min(end + piece);
            }
            Ok(Step::Answer { used, send }) => {
                at += used;
                sent.extend_from_slice(send);
            }
            Ok(Step::Event { used, event: Event::Authenticate(_) }) => {
                at += used;
                sent.extend_from_slice(server.verdict(is_right));
            }
            Ok(Step::Event { used, event }) => {
                server.accept(bound, &mut sent);
                return (sent, at + used, Some(format!("{event:?}")), None);
            }
            Err(error) => {
                server.farewell(error, &mut sent);
                return (sent, at, None, Some(error));
            }
        }
    }
}

/// Reads what follows the first byte as what a proxy answers. That byte says what it was asked,
/// how, and in what pieces the rest comes.
pub fn socks_client(data: &[u8]) {
    let Some((&choice, input)) = data.split_first() else { return };
    let whole = client_hears(choice, input, input.len());
    let pieces = client_hears(choice, input, usize::from(choice >> 4) + 1);
    assert_eq!(whole, pieces, "the pieces in which bytes come make no difference");
}

fn client_hears(
    choice: u8,
    input: &[u8],
    piece: usize,
) -> Result<(Vec<u8>, Vec<Target>, usize), ClientError> {
    let command = match choice & 3 {
        0 | 1 => Command::Connect,
        2 => Command::Bind,
        _ => Command::Associate,
    };
    let credentials = Credentials { user: "u".into(), password: Secret::new("p".into()) };
    let credentials = (choice & 4 != 0).then_some(credentials);
    let to = Target::from_address((Ipv4Addr::LOCALHOST, 1).into());
    let mut client = Client::new(command, to, credentials)?;
    let mut sent = client.open(choice & 8 != 0).to_vec();
    let (mut done, mut at, mut end) = (Vec::new(), 0, 0);
    loop {
        let rest = input.get(at..end).unwrap_or_default();
        match client.advance(rest)? {
            ClientStep::NeedMore if end == input.len() => return Ok((sent, done, at)),
            ClientStep::NeedMore => {
                assert!(!done.is_empty() || rest.len() < SOCKS_MESSAGE_LEN_MAX);
                end = input.len().min(end + piece);
            }
            ClientStep::Send { used, send } => {
                at += used;
                sent.extend_from_slice(&send);
            }
            ClientStep::Done { used, bound } => {
                at += used;
                done.push(bound);
            }
        }
    }
}

/// Reads `data` as a datagram of a UDP association.
pub fn socks_datagram(data: &[u8]) {
    let Ok((target, payload)) = datagram::parse(data) else { return };
    let mut again = Vec::new();
    datagram::write(&target, &mut again);
    again.extend_from_slice(payload);
    assert_eq!(datagram::parse(&again), Ok((target, payload)));
}

/// Reads `data` as a PROXY protocol header, and writes what it says.
pub fn proxy_header(data: &[u8]) {
    let whole = header::parse(data);
    for len in [data.len() / 2, data.len().saturating_sub(1)] {
        let part = header::parse(data.get(..len).unwrap_or_default());
        assert!(part == Ok(Parsed::NeedMore) || part == whole);
    }
    match whole {
        Ok(Parsed::NeedMore) => assert!(data.len() < PROXY_PROTOCOL_LEN_MAX),
        Ok(Parsed::Whole { used, ends }) => {
            assert!(used <= data.len());
            for version in [Version::V1, Version::V2] {
                let mut again = Vec::new();
                header::write(version, ends, &mut again);
                let used = again.len();
                assert_eq!(header::parse(&again), Ok(Parsed::Whole { used, ends }));
            }
        }
        Err(_) => {}
    }
}

/// Reads `data` as a host, and as a host with a port.
pub fn proxy_target(data: &[u8]) {
    if let Ok(host) = Host::parse(data) {
        assert_eq!(Host::parse(host.to_string().as_bytes()), Ok(host));
    }
    let text = String::from_utf8_lossy(data);
    if let Ok(target) = text.parse::<Target>() {
        assert_eq!(target.to_string().parse(), Ok(target));
    }
}

/// Reads each line of what follows the first byte as a field line of `X-Forwarded-For`. That byte
/// says which proxies may ask.
pub fn forwarded_for(data: &[u8]) {
    let Some((&choice, input)) = data.split_first() else { return };
    let rules = rules_of_inquiries(choice);
    let lines: Vec<&[u8]> = input.split(|&byte| byte == b'\n').collect();
    let Some(client) = client_named(&lines, &rules) else { return };
    let members = lines.iter().flat_map(|line| line.split(|&byte| byte == b','));
    let members: Vec<&[u8]> =
        members.map(<[u8]>::trim_ascii).filter(|member| !member.is_empty()).collect();
    let alone = |member: &[u8]| client_named(&[member], &rules);
    let is_proxy = |member: &[u8]| {
        alone(member).is_some_and(|named| named.is_ok_and(|it| rules.hears_inquiries_from(it)))
    };

    // Whoever stands in front of the last that is no proxy could be invented, and only proxies
    // stand behind it.
    let decisive =
        members.iter().rev().find(|member| !is_proxy(member)).or_else(|| members.first());
    let expected = decisive.map_or(Some(Err(UnknownClient::Unnamed)), |member| alone(member));
    assert_eq!(Some(client), expected);
    if client.is_ok_and(|address| rules.hears_inquiries_from(address)) {
        assert!(members.iter().all(|member| is_proxy(member)), "a proxy, but not all are");
    }
    assert_eq!(client == Err(UnknownClient::Unnamed), members.is_empty());

    // A proxy may add to the line that came or write one of its own, which makes no difference.
    let joined = members.join(&b", "[..]);
    assert_eq!(client_named(&[&joined], &rules), Some(client));
    if let Some(apart) = client_named(&members, &rules) {
        assert_eq!(apart, client);
    }

    // Failures are charged to one address, in whatever way it is written.
    if let Ok(address) = client {
        assert_eq!(address, address.to_canonical());
        let mapped = match address {
            IpAddr::V4(address) => IpAddr::V6(address.to_ipv6_mapped()),
            IpAddr::V6(_) => address,
        };
        for address in [address, mapped] {
            let ways = [
                address.to_string(),
                format!("[{address}]"),
                SocketAddr::new(address, u16::MAX).to_string(),
            ];
            for way in ways {
                assert_eq!(alone(way.as_bytes()), Some(client), "{way}");
            }
        }
    }
}

/// What goes for inquiries: a proxy on the same machine may ask, and others by choice.
fn rules_of_inquiries(choice: u8) -> Rules {
    let v4 = |a, len| IpNet::new(IpAddr::V4(Ipv4Addr::new(a, 0, 0, 0)), len);
    let v6 = |a, len| IpNet::new(IpAddr::V6(Ipv6Addr::new(a, 0, 0, 0, 0, 0, 0, 0)), len);
    let others = [v4(10, 8), v6(0xfd00, 8), v4(0, 0), v6(0, 0)].into_iter().enumerate();
    let chosen = others.filter(|(bit, _)| choice & (1 << bit) != 0);
    let mut auth_from = vec![IpNet::from(IpAddr::V4(Ipv4Addr::LOCALHOST))];
    auth_from.extend(chosen.filter_map(|(_, prefix)| prefix.ok()));
    Rules { auth_from, ..Rules::default() }
}

/// The client whom an inquiry with these lines of `X-Forwarded-For` is about; `None` if it is no
/// request at all.
fn client_named(lines: &[&[u8]], rules: &Rules) -> Option<Result<IpAddr, UnknownClient>> {
    let mut request = format!("GET {AUTH_PATH} HTTP/1.1\r\nHost: a\r\n").into_bytes();
    for line in lines {
        request.extend_from_slice(b"X-Forwarded-For: ");
        request.extend_from_slice(line);
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    let mut slots = Slots::new();
    let head = RequestHead::parse(&request, &mut slots).ok()?;
    let inquiry = Inquiry::hear(&head, IpAddr::V4(Ipv4Addr::LOCALHOST), rules);
    assert!(inquiry.is_some(), "who is listed may ask");
    inquiry.map(|inquiry| inquiry.client)
}
