//! The lines of the access log.
//!
//! What clients have said is escaped in all of them: no byte of theirs ends a line, a word or a
//! quotation, or reaches a terminal as anything but a printable character of ASCII.

use std::fmt::{self, Display, Write as _};
use std::net::IpAddr;
use std::str::FromStr;

use jiff::Timestamp;
use serde::Serialize;

use crate::proxy::counters::Refusal;
use crate::proxy::front::status_of;
use crate::proxy::http::Status;
use crate::proxy::target::Host;

use super::record::{Means, Outcome, Record, Via};

/// How lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Words with blanks between them: time, client, user, protocol, method, target, where it went,
    /// status, outcome, bytes up, bytes down, milliseconds.
    #[default]
    Text,
    /// A JSON object in each line.
    Json,
    /// The common log format of web servers.
    Common,
}

impl Format {
    /// All of them, with what the configuration calls them.
    pub const ALL: [(&'static str, Self); 3] =
        [("text", Self::Text), ("json", Self::Json), ("common", Self::Common)];

    /// Appends the line of a record.
    pub(super) fn write(self, record: &Record, out: &mut Vec<u8>) {
        match self {
            Self::Text => text(record, out),
            Self::Json => json(record, out),
            Self::Common => common(record, out),
        }
        out.push(b'\n');
    }
}

/// A name that is no format of the access log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected \"text\", \"json\" or \"common\"")]
pub struct UnknownFormat;

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(text: &str) -> Result<Self, UnknownFormat> {
        let found = Self::ALL.into_iter().find(|(name, _)| *name == text);
        found.map(|(_, format)| format).ok_or(UnknownFormat)
    }
}

impl Display for Format {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = Self::ALL.into_iter().find(|(_, format)| format == self);
        out.write_str(found.map_or("", |(name, _)| name))
    }
}

fn text(record: &Record, out: &mut Vec<u8>) {
    let user = record.user.as_ref().map_or("-", |user| user.as_str());
    let (client, means) = (record.client, record.means.name());
    let (method, outcome) = (Word(method(record)), outcome(record).name());
    let moved = format!("{} {}", record.up_bytes, record.down_bytes);
    let ms = milliseconds(record);
    let line = format!(
        "{time} {client} {user} {means} {method} {target} {via} {status} {outcome} {moved} {ms}",
        time = Time(record),
        target = Word(&target(record).unwrap_or_else(|| "-".to_owned())),
        via = Optional(via(record)),
        status = Optional(record.status),
    );
    out.extend_from_slice(line.as_bytes());
}

/// A line of JSON. Whatever is not known is null.
#[derive(Serialize)]
struct JsonLine<'r> {
    time: String,
    client: String,
    user: Option<&'r str>,
    protocol: Option<&'r str>,
    tls: bool,
    method: Option<&'r str>,
    target: Option<String>,
    via: Option<String>,
    status: Option<u16>,
    outcome: &'static str,
    up_bytes: u64,
    down_bytes: u64,
    duration_ms: u64,
}

fn json(record: &Record, out: &mut Vec<u8>) {
    let known = |word: &'static str| (word != "-").then_some(word);
    let line = JsonLine {
        time: Time(record).to_string(),
        client: record.client.to_string(),
        user: record.user.as_ref().map(|user| user.as_str()),
        protocol: known(record.means.name()),
        tls: record.tls,
        method: record.method.as_deref().or_else(|| known(record.means.method())),
        target: target(record),
        via: via(record),
        status: record.status,
        outcome: outcome(record).name(),
        up_bytes: record.up_bytes,
        down_bytes: record.down_bytes,
        duration_ms: milliseconds(record),
    };
    // What is serialised has no map with odd keys, which is all that could fail.
    if let Ok(mut line) = serde_json::to_string(&line) {
        escape_beyond_ascii(&mut line);
        out.extend_from_slice(line.as_bytes());
    }
}

/// Writes what lies beyond ASCII, and DEL, as JSON can write it as well (RFC 8259 section 7):
/// terminals take some of that for commands.
fn escape_beyond_ascii(line: &mut String) {
    if line.bytes().all(|byte| byte.is_ascii() && byte != 0x7f) {
        return;
    }
    let mut escaped = String::with_capacity(line.len() + 16);
    for c in line.chars() {
        if c.is_ascii() && c != '\x7f' {
            escaped.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            // Writing to a string does not fail.
            let _ = write!(escaped, "\\u{unit:04x}");
        }
    }
    *line = escaped;
}

fn common(record: &Record, out: &mut Vec<u8>) {
    let user = record.user.as_ref().map_or("-", |user| user.as_str());
    let time = at(record).strftime("%d/%b/%Y:%H:%M:%S +0000");
    let request = match target(record) {
        Some(target) => {
            let version = match record.means {
                Means::Socks4 => "SOCKS4",
                Means::Socks5 | Means::Udp | Means::Bind => "SOCKS5",
                Means::Connect | Means::Http | Means::Unknown => "HTTP/1.1",
            };
            format!("{} {} {version}", Word(method(record)), Word(&target))
        }
        None => "-".to_owned(),
    };
    let (client, status, down) = (record.client.ip(), status(record), record.down_bytes);
    let line = format!("{client} - {user} [{time}] \"{request}\" {status} {down}");
    out.extend_from_slice(line.as_bytes());
}

fn method(record: &Record) -> &str {
    record.method.as_deref().unwrap_or_else(|| record.means.method())
}

/// What was asked for: host and port, or a URL without its query.
fn target(record: &Record) -> Option<String> {
    let target = record.target.as_ref()?;
    let Some((scheme, path)) = &record.url else { return Some(target.to_string()) };
    let scheme_text = scheme.as_str();
    Some(match (&target.host, target.port == scheme.default_port()) {
        (Host::Name(name), true) => format!("{scheme_text}://{name}{path}"),
        (Host::Address(IpAddr::V4(ip)), true) => format!("{scheme_text}://{ip}{path}"),
        (Host::Address(IpAddr::V6(ip)), true) => format!("{scheme_text}://[{ip}]{path}"),
        (_, false) => format!("{scheme_text}://{target}{path}"),
    })
}

/// Where it went.
fn via(record: &Record) -> Option<String> {
    match &record.via {
        Via::Nowhere => None,
        Via::Address(address) => Some(address.to_string()),
        Via::Upstream(name) => Some(name.as_str().to_owned()),
    }
}

fn outcome(record: &Record) -> Outcome {
    record.outcome.unwrap_or(Outcome::Ok)
}

/// The status that a client was told, or that one of HTTP would have been.
fn status(record: &Record) -> u16 {
    record.status.unwrap_or_else(|| match outcome(record) {
        Outcome::Failed(failure) => status_of(failure).code(),
        Outcome::Refused(refusal) => refusal_status(refusal).code(),
        // Known from web servers: the client has closed the connection.
        Outcome::ClientGone => 499,
        _ => 200,
    })
}

/// What a client of HTTP is told of a refusal, most often.
fn refusal_status(refusal: Refusal) -> Status {
    match refusal {
        Refusal::Malformed | Refusal::TlsFailed => Status::BadRequest,
        Refusal::NotServed => Status::NotImplemented,
        Refusal::TooSlow => Status::RequestTimeout,
        Refusal::NoLogin | Refusal::LoginRefused => Status::ProxyAuthenticationRequired,
        Refusal::QuotaUsedUp => Status::Forbidden,
        Refusal::SourceFull | Refusal::SourceTooFast => Status::TooManyRequests,
        Refusal::Full | Refusal::MadeRoom | Refusal::Stopping => Status::ServiceUnavailable,
    }
}

fn milliseconds(record: &Record) -> u64 {
    u64::try_from(record.took.as_millis()).unwrap_or(u64::MAX)
}

fn at(record: &Record) -> Timestamp {
    let milliseconds = i64::try_from(record.ended.as_millis()).unwrap_or(i64::MAX);
    Timestamp::from_millisecond(milliseconds).unwrap_or(Timestamp::MAX)
}

/// When it was over (RFC 3339, UTC, with milliseconds).
struct Time<'r>(&'r Record);

impl Display for Time<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:.3}", at(self.0))
    }
}

struct Optional<T>(Option<T>);

impl<T: Display> Display for Optional<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(value) => value.fmt(out),
            None => out.write_str("-"),
        }
    }
}

/// Text as one word in printable ASCII, that does not end a quotation; `\xNN` stands for any other
/// byte.
struct Word<'t>(&'t str);

impl Display for Word<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return out.write_str("-");
        }
        for byte in self.0.bytes() {
            match byte {
                b'"' | b'\\' => write!(out, "\\{}", char::from(byte))?,
                _ if byte.is_ascii_graphic() => out.write_char(byte.into())?,
                _ => write!(out, "\\x{byte:02x}")?,
            }
        }
        Ok(())
    }
}
