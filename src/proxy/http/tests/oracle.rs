//! Request smuggling, looked for by others than the machine: simple parsers, each with some of the
//! habits that real servers have had. They read what a client sends and what an origin gets. In
//! whatever the machine accepts, all of them must find the messages that it found, or else one
//! party could see a request that another has not seen.

use proptest::prelude::*;

use super::*;

/// A request as somebody has understood it: the path without the slash in front, and the content of
/// the body.
type Message = (String, Vec<u8>);

/// Habits of a parser, each of which has made a smuggled request possible somewhere.
#[derive(Debug, Clone, Copy)]
struct Habits {
    /// A line may end in a bare LF.
    bare_lf: bool,
    /// Content-Length counts even if there is a Transfer-Encoding.
    length_first: bool,
    /// Of several lengths the last counts, instead of the first.
    last_length: bool,
    /// Whatever Transfer-Encoding has `chunked` somewhere in it is chunked.
    loose_coding: bool,
    /// Blanks around a name do not matter, and a folded line is a field of its own.
    loose_names: bool,
    /// What is no number is taken as far as it is one, as by `strtol`.
    loose_numbers: bool,
}

impl Habits {
    fn all() -> impl Iterator<Item = Self> {
        (0..64u32).map(|bits| {
            let bit = |n: u32| bits >> n & 1 == 1;
            Self {
                bare_lf: bit(0),
                length_first: bit(1),
                last_length: bit(2),
                loose_coding: bit(3),
                loose_names: bit(4),
                loose_numbers: bit(5),
            }
        })
    }

    /// A line and what follows it.
    fn line<'a>(&self, bytes: &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
        let end: &[u8] = if self.bare_lf { b"\n" } else { b"\r\n" };
        let at = bytes.windows(end.len()).position(|window| window == end)?;
        let line = &bytes[..at];
        let line = if self.bare_lf { line.strip_suffix(b"\r").unwrap_or(line) } else { line };
        Some((line, &bytes[at + end.len()..]))
    }

    fn number(&self, text: &str, radix: u32) -> Option<usize> {
        let text = text.trim();
        let len = text.find(|c: char| !c.is_digit(radix)).unwrap_or(text.len());
        if len < text.len() && !self.loose_numbers {
            return None;
        }
        usize::from_str_radix(&text[..len], radix).ok()
    }

    /// The complete messages at the start of a stream.
    fn messages(&self, mut bytes: &[u8]) -> Vec<Message> {
        let mut found = Vec::new();
        while let Some((message, rest)) = self.message(bytes) {
            found.push(message);
            bytes = rest;
        }
        found
    }

    fn message<'a>(&self, bytes: &'a [u8]) -> Option<(Message, &'a [u8])> {
        let bytes = bytes.strip_prefix(b"\r\n").unwrap_or(bytes);
        let (start, mut rest) = self.line(bytes)?;
        let start = String::from_utf8_lossy(start).into_owned();
        let target = start.split(' ').nth(1)?;
        let path = target
            .split_once("://")
            .map_or(target, |(_, rest)| rest.find('/').map_or("", |path| &rest[path..]));
        let path = path.trim_start_matches('/').to_owned();
        let (mut lengths, mut codings) = (Vec::new(), Vec::new());
        loop {
            let (line, after) = self.line(rest)?;
            rest = after;
            if line.is_empty() {
                break;
            }
            let line = String::from_utf8_lossy(line).to_ascii_lowercase();
            let Some((name, value)) = line.split_once(':') else { continue };
            let name = if self.loose_names { name.trim() } else { name };
            match name {
                "content-length" => lengths.extend(self.number(value, 10)),
                "transfer-encoding" => codings.push(value.trim().to_owned()),
                _ => {}
            }
        }
        let is_chunked = codings.iter().any(|coding| {
            if self.loose_coding { coding.contains("chunked") } else { coding == "chunked" }
        });
        let length = if self.last_length { lengths.last() } else { lengths.first() };
        let (body, rest) = match length {
            Some(&length) if self.length_first || !is_chunked => {
                (rest.get(..length)?.to_vec(), &rest[length..])
            }
            _ if is_chunked => self.chunks(rest)?,
            _ => (Vec::new(), rest),
        };
        Some(((path, body), rest))
    }

    fn chunks<'a>(&self, mut rest: &'a [u8]) -> Option<(Vec<u8>, &'a [u8])> {
        let mut body = Vec::new();
        loop {
            let (line, after) = self.line(rest)?;
            let line = String::from_utf8_lossy(line).into_owned();
            let size = self.number(line.split(';').next().unwrap_or_default(), 16)?;
            rest = after;
            if size == 0 {
                break;
            }
            body.extend_from_slice(rest.get(..size)?);
            let (empty, after) = self.line(&rest[size..])?;
            if !empty.is_empty() {
                return None;
            }
            rest = after;
        }
        loop {
            let (line, after) = self.line(rest)?;
            rest = after;
            if line.is_empty() {
                return Some((body, rest));
            }
        }
    }
}

/// What the machine makes of a stream of requests.
struct Forwarded {
    /// The messages that have passed as a whole.
    messages: Vec<Message>,
    /// All that an origin gets, as if there were one connection for all.
    sent: Vec<u8>,
    /// Why it stopped, if not for want of more.
    error: Option<HttpError>,
    /// Whether a message is still on its way.
    is_within: bool,
}

fn forward(mut bytes: &[u8]) -> Forwarded {
    let mut all =
        Forwarded { messages: Vec::new(), sent: Vec::new(), error: None, is_within: false };
    loop {
        match forward_one(&mut bytes, &mut all) {
            Ok(true) => {}
            Ok(false) => return all,
            Err(error) => {
                all.error = Some(error);
                return all;
            }
        }
    }
}

/// Forwards the next message; `false` if it is not there as a whole.
fn forward_one(bytes: &mut &[u8], all: &mut Forwarded) -> Result<bool, HttpError> {
    let Some(range) = scan(bytes)? else { return Ok(false) };
    let end = range.end;
    let mut slots = Slots::new();
    let head = RequestHead::parse(&bytes[range], &mut slots)?;
    let RequestTarget::Absolute(to) = &head.target else { return Err(HttpError::Target) };
    let disclosure = Disclosure::default();
    let client = std::net::Ipv4Addr::LOCALHOST.into();
    let passage =
        Passage { route: Route::Direct, disclosure: &disclosure, client, is_reused: false };
    let mut exchange = match Exchange::begin(&head, to, passage, &mut all.sent) {
        Ok(exchange) => exchange,
        Err(NotForwarded::Malformed(error)) => return Err(error),
        Err(_) => return Err(HttpError::Target),
    };
    let mut content = Body::without_chunks(head.framing);
    let (path, mut body) = (to.path.trim_start_matches('/').to_owned(), Vec::new());
    *bytes = &bytes[end..];
    all.is_within = true;
    let mut rest = *bytes;
    while let Ok(run @ Run { forward, .. }) = content.advance(rest) {
        if run.used() == 0 {
            break;
        }
        body.extend_from_slice(&rest[..forward]);
        rest = &rest[run.used()..];
    }
    while !exchange.is_sent() {
        let run = exchange.from_client(bytes)?;
        if run.used() == 0 {
            return Ok(false);
        }
        all.sent.extend_from_slice(&bytes[..run.forward]);
        *bytes = &bytes[run.used()..];
    }
    assert_eq!(bytes.len(), rest.len(), "both ways of reading a body end at the same place");
    all.is_within = false;
    all.messages.push((path, body));
    Ok(true)
}

/// Nobody sees other messages than the machine, and it sees the same in whatever pieces they come.
fn assert_agreed(input: &[u8], forwarded: &Forwarded) {
    fuzz::requests(input);
    for habits in Habits::all() {
        let shown = || format!("{habits:?}\n{}\n", input.escape_ascii());
        let got = habits.messages(&forwarded.sent);
        assert_eq!(got, forwarded.messages, "as the origin sees it: {}", shown());
        let count = forwarded.messages.len();
        let sent = habits.messages(input);
        assert_eq!(sent.get(..count), Some(&forwarded.messages[..]), "in front: {}", shown());
        if forwarded.error.is_none() && !forwarded.is_within {
            assert_eq!(sent.len(), count, "as sent: {}", shown());
        }
    }
}

/// A proper request with its content.
fn proper() -> impl Strategy<Value = (String, Message)> {
    let content = "[a-z0-9\r\n:]{0,20}";
    let names =
        prop::collection::vec("(X-[a-z]{1,5}|Accept|TE|Connection): ?[a-z, ]{0,9}\r\n", 0..4);
    ("[a-z]{0,5}", names, 0..3u8, content, prop::collection::vec(1..9usize, 0..4), any::<bool>())
        .prop_map(|(path, fields, kind, content, sizes, extra)| {
            let fields = fields.concat();
            let head =
                format!("POST http://a.example/{path} HTTP/1.1\r\nHost: a.example\r\n{fields}");
            let text = match kind {
                0 => return (format!("{head}\r\n"), (path, Vec::new())),
                1 => format!("{head}Content-Length: {}\r\n\r\n{content}", content.len()),
                _ => {
                    let mut chunks = String::new();
                    let mut rest = &content[..];
                    for size in sizes.into_iter().chain([usize::MAX]) {
                        let (chunk, after) = rest.split_at(size.min(rest.len()));
                        rest = after;
                        if !chunk.is_empty() {
                            let extension = if extra { ";a=b" } else { "" };
                            chunks += &format!("{:X}{extension}\r\n{chunk}\r\n", chunk.len());
                        }
                    }
                    let trailer = if extra { "X-Sum: 1\r\nHost: b\r\n" } else { "" };
                    let coding = if extra { "chunked" } else { "Chunked" };
                    format!("{head}Transfer-Encoding: {coding}\r\n\r\n{chunks}0\r\n{trailer}\r\n")
                }
            };
            (text, (path, content.into_bytes()))
        })
}

/// A request that is put together from good and bad parts.
fn odd() -> impl Strategy<Value = String> {
    let line = prop::sample::select(vec![
        "Content-Length: 0\r\n",
        "Content-Length: 5\r\n",
        "Content-Length: 50\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length: +5\r\n",
        "Content-Length : 5\r\n",
        "Content-Length: 5x\r\n",
        " Content-Length: 5\r\n",
        "Content-Length:\r\n 5\r\n",
        "X: y\nContent-Length: 5\r\n",
        "X: y\rContent-Length: 5\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding: CHUNKED\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding:\u{b}chunked\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Transfer-Encoding:\r\n chunked\r\n",
        "Transfer-Encoding\0: chunked\r\n",
        "Connection: transfer-encoding\r\n",
        "Connection: content-length, close\r\n",
        "Expect: 100-continue\r\n",
        "X: y\r\n",
    ]);
    let body = prop::sample::select(vec![
        "",
        "hello",
        "5\r\nhello\r\n0\r\n\r\n",
        "5;a\nb\r\nhello\r\n0\r\n\r\n",
        "5 \r\nhello\r\n0\r\n\r\n",
        "05\r\nhello\r\n0\r\nContent-Length: 5\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\nhello\n0\n\n",
        "0\r\n\r\nGET http://a.example/smuggled HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "GET http://a.example/next HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "\r\n",
    ]);
    let version = prop_oneof![6 => Just("1.1"), 1 => Just("1.0"), 1 => Just("1.2")];
    (version, prop::collection::vec(line, 0..4), body).prop_map(|(version, lines, body)| {
        let lines = lines.concat();
        format!("POST http://a.example/x HTTP/{version}\r\nHost: a.example\r\n{lines}\r\n{body}")
    })
}

/// A byte that matters somewhere.
fn damage() -> impl Strategy<Value = u8> {
    prop::sample::select(b" \t\r\n\0:,;0f\x0bG".to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn all_see_the_same_in_proper_requests(requests in prop::collection::vec(proper(), 1..4)) {
        let (texts, messages): (Vec<_>, Vec<_>) = requests.into_iter().unzip();
        let input = texts.concat().into_bytes();
        let forwarded = forward(&input);
        prop_assert_eq!(forwarded.error, None);
        prop_assert_eq!(&forwarded.messages, &messages);
        assert_agreed(&input, &forwarded);
    }

    #[test]
    fn all_see_the_same_in_odd_requests_or_they_are_refused(
        requests in prop::collection::vec(odd(), 1..4),
    ) {
        let input = requests.concat().into_bytes();
        assert_agreed(&input, &forward(&input));
    }

    #[test]
    fn all_see_the_same_in_damaged_requests_or_they_are_refused(
        requests in prop::collection::vec(proper(), 1..4),
        damages in prop::collection::vec(
            (any::<prop::sample::Index>(), 0..3u8, damage()),
            1..4,
        ),
    ) {
        let mut input = requests.into_iter().map(|(text, _)| text).collect::<String>().into_bytes();
        for (index, kind, byte) in damages {
            let at = index.index(input.len());
            match kind {
                0 => input[at] = byte,
                1 => input.insert(at, byte),
                _ => drop(input.remove(at)),
            }
        }
        assert_agreed(&input, &forward(&input));
    }
}

#[test]
fn known_tricks_are_refused() {
    let head = "POST http://a.example/ HTTP/1.1\r\nHost: a.example\r\n";
    let inner = "GET http://a.example/admin HTTP/1.1\r\nHost: a.example\r\n\r\n";
    let tricks = [
        // CL.TE, TE.CL and TE.TE.
        format!("Content-Length: 60\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{inner}"),
        format!(
            "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n1\r\na\r\n0\r\n\r\n{inner}"
        ),
        format!("Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n{inner}"),
        format!("Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n{inner}"),
        // CL.CL, and a length that only some can read.
        format!("Content-Length: 0\r\nContent-Length: 60\r\n\r\n{inner}"),
        format!("Content-Length: 0, 60\r\n\r\n{inner}"),
        // A line that ends for some only.
        format!("X: y\nContent-Length: 60\r\n\r\n{inner}"),
        format!("X: y\rContent-Length: 60\r\n\r\n{inner}"),
        // The end of a chunk's line for some only, and an extension that holds another.
        format!("Transfer-Encoding: chunked\r\n\r\n1;\nab\r\n0\r\n\r\n{inner}"),
        format!("Transfer-Encoding: chunked\r\n\r\n1\nab\r\n0\r\n\r\n{inner}"),
        // A size beyond what fits.
        format!("Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\n\r\n{inner}"),
        format!("Transfer-Encoding: chunked\r\n\r\n7fffffffffffffff\r\n\r\n{inner}"),
    ];
    for trick in tricks {
        let input = format!("{head}{trick}").into_bytes();
        let forwarded = forward(&input);
        assert!(forwarded.error.is_some(), "{}", trick.escape_debug());
        assert_eq!(forwarded.messages, [], "{}", trick.escape_debug());
        assert_eq!(forwarded.error.map(|e| e.request_status().code()), Some(400));
    }
}
