//! Heads as they are forwarded: without what was meant for this proxy alone, and with what the next
//! recipient needs instead.
//!
//! What frames a message is never copied but written anew, as it was understood here. So a field
//! that some recipient would understand differently cannot pass.

use std::io::Write;
use std::net::IpAddr;
use std::sync::Arc;

use crate::limits::HTTP_CONNECTION_OPTIONS_MAX;

use super::super::target::{Host, Target};
use super::credentials::ProxyAuthorization;
use super::error::HttpError;
use super::fields::{FieldKind, Fields};
use super::framing::{Framing, Version};
use super::method::Method;
use super::request::{Absolute, RequestHead, Scheme};
use super::response::ResponseHead;

/// What a proxy says about itself and its clients in what it forwards.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Disclosure {
    /// The name by which `Via` tells of this proxy (RFC 9110 section 7.6.3); none means not at all.
    pub via: Option<Arc<str>>,
    /// What `Forwarded` (RFC 7239) tells of the client.
    pub forwarded: Mark,
    /// What `X-Forwarded-For` tells of the client.
    pub x_forwarded_for: Mark,
}

/// What becomes of a field that names clients.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mark {
    /// It passes as it came, if it did.
    #[default]
    Off,
    /// The client's address is added to it.
    Append,
    /// It has the client's address alone.
    Replace,
}

/// Who a request is sent to.
#[derive(Debug, Clone, Copy)]
pub enum Route<'a> {
    /// The origin.
    Direct,
    /// Another proxy, with what it demands. Only for `http`; for `https` a tunnel leads through it.
    Proxy(Option<&'a ProxyAuthorization>),
}

/// The options of `Connection`, of which each that names a field has that field removed.
struct Options<'b> {
    names: [&'b [u8]; HTTP_CONNECTION_OPTIONS_MAX],
    count: usize,
}

impl<'b> Options<'b> {
    /// Collects them; [`HttpError::Field`] if there are so many that nobody means it.
    fn of(fields: Fields<'_, 'b>) -> Result<Self, HttpError> {
        let mut options = Self { names: [b""; HTTP_CONNECTION_OPTIONS_MAX], count: 0 };
        let usual: [&[u8]; 3] = [b"close", b"keep-alive", b"upgrade"];
        for name in fields.list("connection") {
            if usual.iter().any(|usual| name.eq_ignore_ascii_case(usual)) {
                continue;
            }
            *options.names.get_mut(options.count).ok_or(HttpError::Field)? = name;
            options.count += 1;
        }
        Ok(options)
    }

    fn name(&self, field: &str) -> bool {
        let names = self.names.iter().take(self.count);
        names.into_iter().any(|name| name.eq_ignore_ascii_case(field.as_bytes()))
    }
}

/// What [`request`] needs besides the head.
pub(super) struct Onward<'a> {
    pub(super) to: &'a Absolute<'a>,
    pub(super) route: Route<'a>,
    pub(super) disclosure: &'a Disclosure,
    pub(super) client: IpAddr,
    pub(super) max_forwards: Option<u64>,
}

/// Appends the head of a request to `out` as the next server gets it.
pub(super) fn request(
    head: &RequestHead<'_, '_>,
    onward: &Onward<'_>,
    out: &mut Vec<u8>,
) -> Result<(), HttpError> {
    let Onward { to, disclosure, .. } = onward;
    let options = Options::of(head.fields)?;
    request_line(head.method, to, onward.route, out);
    field(out, b"Host", |out| authority(to, out));
    for (name, value) in head.fields.iter().filter(|(name, _)| !options.name(name)) {
        let passes = match FieldKind::of(name) {
            FieldKind::EndToEnd => true,
            FieldKind::Via => disclosure.via.is_none(),
            FieldKind::Forwarded => disclosure.forwarded == Mark::Off,
            FieldKind::XForwardedFor => disclosure.x_forwarded_for == Mark::Off,
            FieldKind::MaxForwards => onward.max_forwards.is_none(),
            FieldKind::Expect => head.expects_continue(),
            FieldKind::Framing | FieldKind::HopByHop | FieldKind::Host => false,
        };
        if passes {
            field(out, name.as_bytes(), |out| out.extend_from_slice(value));
        }
    }
    framing(head.framing, out);
    if let Some(left) = onward.max_forwards {
        field(out, b"Max-Forwards", |out| write!(out, "{left}").unwrap_or_default());
    }
    let kept = |name: &'static str, mark: Mark| {
        let kept = mark == Mark::Append && !options.name(name);
        head.fields.all(name).filter(move |_| kept)
    };
    via(kept("via", Mark::Append), head.version, disclosure, out);
    if disclosure.forwarded != Mark::Off {
        list(out, "Forwarded", kept("forwarded", disclosure.forwarded), |out| {
            let result = match onward.client.to_canonical() {
                IpAddr::V4(client) => write!(out, "for={client}"),
                IpAddr::V6(client) => write!(out, "for=\"[{client}]\""),
            };
            result.and_then(|()| write!(out, ";proto={}", to.scheme.as_str())).unwrap_or_default();
        });
    }
    if disclosure.x_forwarded_for != Mark::Off {
        let before = kept("x-forwarded-for", disclosure.x_forwarded_for);
        list(out, "X-Forwarded-For", before, |out| {
            write!(out, "{}", onward.client.to_canonical()).unwrap_or_default();
        });
    }
    if let Route::Proxy(Some(authorization)) = onward.route {
        field(out, b"Proxy-Authorization", |out| out.extend_from_slice(authorization.expose()));
    }
    if head.asks_for_websocket() {
        out.extend_from_slice(b"Connection: Upgrade\r\nUpgrade: websocket\r\n");
    }
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// The origin is asked by path, another proxy by the whole URI (RFC 9112 section 3.2).
fn request_line(method: Method<'_>, to: &Absolute<'_>, route: Route<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(method.as_str().as_bytes());
    out.push(b' ');
    let is_direct = matches!(route, Route::Direct);
    if !is_direct {
        out.extend_from_slice(to.scheme.as_str().as_bytes());
        out.extend_from_slice(b"://");
        authority(to, out);
    }
    // "If the OPTIONS request has an empty path and no query, the last proxy sends *" (section
    // 3.2.4); for all others an empty path is `/` (section 3.2.1).
    if method == Method::Options && to.path.is_empty() {
        out.extend_from_slice(if is_direct { b"*" } else { b"" });
    } else if !to.path.starts_with('/') {
        out.push(b'/');
    }
    out.extend_from_slice(to.path.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
}

/// The authority of what is asked for, without the port that its scheme implies.
fn authority(to: &Absolute<'_>, out: &mut Vec<u8>) {
    host(&to.target, to.scheme, out).unwrap_or_default();
}

fn host(target: &Target, scheme: Scheme, out: &mut Vec<u8>) -> std::io::Result<()> {
    if target.port != scheme.default_port() {
        return write!(out, "{target}");
    }
    match &target.host {
        Host::Address(IpAddr::V6(address)) => write!(out, "[{address}]"),
        host => write!(out, "{host}"),
    }
}

/// Appends the head of a response to `out` as the client gets it.
pub(super) fn response(
    head: &ResponseHead<'_, '_>,
    to: &Recipient<'_>,
    out: &mut Vec<u8>,
) -> Result<(), HttpError> {
    let options = Options::of(head.fields)?;
    write!(out, "HTTP/1.1 {:03} {}\r\n", head.status, head.reason).unwrap_or_default();
    for (name, value) in head.fields.iter().filter(|(name, _)| !options.name(name)) {
        let passes = match FieldKind::of(name) {
            FieldKind::Framing | FieldKind::HopByHop => false,
            FieldKind::Via => to.disclosure.via.is_none(),
            _ => true,
        };
        if passes {
            field(out, name.as_bytes(), |out| out.extend_from_slice(value));
        }
    }
    match head.declared {
        // RFC 9110 section 8.6 and RFC 9112 section 6.1 forbid both.
        Some(_) if matches!(head.status, 100..200 | 204) => {}
        Some(Framing::Chunked) if to.version == Version::Http10 => {}
        declared => framing(declared.unwrap_or(Framing::None), out),
    }
    let before = head.fields.all("via").filter(|_| !options.name("via"));
    via(before, head.version, to.disclosure, out);
    match to.connection {
        ClientConnection::Kept => {}
        ClientConnection::Closed => out.extend_from_slice(b"Connection: close\r\n"),
        ClientConnection::Switched => {
            out.extend_from_slice(b"Connection: Upgrade\r\nUpgrade: websocket\r\n");
        }
    }
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// Who a response is sent to.
pub(super) struct Recipient<'a> {
    pub(super) version: Version,
    pub(super) connection: ClientConnection,
    pub(super) disclosure: &'a Disclosure,
}

/// What becomes of the connection to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClientConnection {
    Kept,
    Closed,
    Switched,
}

fn framing(framing: Framing, out: &mut Vec<u8>) {
    match framing {
        Framing::None | Framing::UntilClose => {}
        Framing::Length(len) => {
            field(out, b"Content-Length", |out| write!(out, "{len}").unwrap_or_default());
        }
        Framing::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
    }
}

fn via<'b>(
    before: impl Iterator<Item = &'b [u8]>,
    version: Version,
    disclosure: &Disclosure,
    out: &mut Vec<u8>,
) {
    let Some(name) = &disclosure.via else { return };
    list(out, "Via", before, |out| {
        out.extend_from_slice(if version == Version::Http10 { b"1.0 " } else { b"1.1 " });
        out.extend_from_slice(name.as_bytes());
    });
}

/// Writes one field with the members that it had and one more.
fn list<'b>(
    out: &mut Vec<u8>,
    name: &str,
    before: impl Iterator<Item = &'b [u8]>,
    last: impl FnOnce(&mut Vec<u8>),
) {
    field(out, name.as_bytes(), |out| {
        for value in before.filter(|value| !value.is_empty()) {
            out.extend_from_slice(value);
            out.extend_from_slice(b", ");
        }
        last(out);
    });
}

fn field(out: &mut Vec<u8>, name: &[u8], value: impl FnOnce(&mut Vec<u8>)) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    value(out);
    out.extend_from_slice(b"\r\n");
}
