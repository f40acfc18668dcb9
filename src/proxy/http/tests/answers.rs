//! What the proxy says itself: credentials, pages, and the client side of CONNECT.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;

use crate::limits::HTTP_CREDENTIALS_LEN_MAX;
use crate::proxy::target::{Host, Target};

use super::*;

/// The credentials of a request with these lines, as text.
fn credentials(lines: &str) -> Result<Option<String>, CredentialsError> {
    with_request(&get_with(lines), |head| {
        Credentials::of_proxy_request(head.unwrap().fields).map(|found| {
            found.map(|found| match found {
                Credentials::Basic { user, password } => format!("{user} {}", *password),
                Credentials::Bearer(token) => format!("token {}", *token),
            })
        })
    })
}

#[test]
fn credentials_are_read_strictly() {
    let field = |value: &str| credentials(&format!("Proxy-Authorization: {value}\r\n"));
    let basic = |plain: &[u8]| field(&format!("Basic {}", STANDARD.encode(plain)));
    let found = |text: &str| Ok(Some(String::from(text)));
    assert_eq!(credentials("A: b\r\n"), Ok(None));
    // Another field of a similar name is for the origin.
    assert_eq!(credentials("Authorization: Basic YTpi\r\n"), Ok(None));
    // RFC 7617 section 2.
    assert_eq!(basic(b"anna:secret"), found("anna secret"));
    assert_eq!(basic(b"anna:a:b"), found("anna a:b"));
    assert_eq!(basic(b"anna:"), found("anna "));
    assert_eq!(basic(b":secret"), found(" secret"));
    assert_eq!(basic("zo\u{eb}:\u{20ac}".as_bytes()), found("zo\u{eb} \u{20ac}"));
    assert_eq!(field("bAsIc   YTpi"), found("a b"));
    assert_eq!(field("Basic YTpiYw"), found("a bc"));
    assert_eq!(basic(b"anna"), Err(CredentialsError::Basic));
    assert_eq!(basic(b"an\xffna:x"), Err(CredentialsError::Basic));
    assert_eq!(basic(b"anna:x\n"), Err(CredentialsError::Basic));
    assert_eq!(basic(b"an\0na:x"), Err(CredentialsError::Basic));
    for value in ["Basic", "Basic ", "Basic YTpi*", "Basic YT pi", "Basic YTpi YTpi"] {
        assert_eq!(field(value), Err(CredentialsError::Basic), "{value}");
    }
    // RFC 6750 section 2.1.
    assert_eq!(field("bearer abc-._~+/123=="), found("token abc-._~+/123=="));
    for value in ["Bearer", "Bearer a b", "Bearer a,b", "Bearer \"a\""] {
        assert_eq!(field(value), Err(CredentialsError::Bearer), "{value}");
    }
    for value in ["", "Digest username=\"a\"", "Negotiate YII=", "BasicYTpi"] {
        assert_eq!(field(value), Err(CredentialsError::Scheme), "{value}");
    }
    let twice = "Proxy-Authorization: Basic YTpi\r\n".repeat(2);
    assert_eq!(credentials(&twice), Err(CredentialsError::Repeated));
    let long = format!("Bearer {}", "a".repeat(HTTP_CREDENTIALS_LEN_MAX));
    assert_eq!(field(&long), Err(CredentialsError::TooLong));
}

#[test]
fn credentials_are_not_printed() {
    let shown = with_request(&get_with("Proxy-Authorization: Basic YTpi\r\n"), |head| {
        format!("{:?}", Credentials::of_proxy_request(head.unwrap().fields))
    });
    assert_eq!(shown, "Ok(Some(Basic))");
    let authorization = ProxyAuthorization::basic("a", "b").unwrap();
    assert_eq!(format!("{authorization:?}"), "ProxyAuthorization");
}

fn page(page: Page<'_>) -> String {
    let mut out = Vec::new();
    page.write(&mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn a_page_is_a_response_of_its_own_strictness() {
    let text = "the target is denied\r\nX-Evil: 1\r\n\r\n<script>";
    let closing = Page::closing(Status::Forbidden, text);
    for found in [closing, Page { closes: false, ..closing }] {
        let closes = found.closes;
        let found = page(found).into_bytes();
        let end = scan(&found).unwrap().unwrap().end;
        let mut slots = Slots::new();
        let head = ResponseHead::parse(&found[..end], &mut slots).unwrap();
        assert_eq!((head.status, head.reason), (403, "Forbidden"));
        assert_eq!(head.keeps_connection(), !closes);
        assert_eq!(head.framing(false), Framing::Length((found.len() - end) as u64));
        assert!(head.fields.lists("x-content-type-options", "nosniff"));
        assert!(head.fields.lists("content-type", "text/plain; charset=utf-8"));
        assert_eq!(head.fields.all("x-evil").count(), 0);
        let body = str::from_utf8(&found[end..]).unwrap();
        assert_eq!(body, "403 Forbidden\nthe target is deniedX-Evil: 1<script>\n");
    }
    let to_head = page(Page { to_head: true, ..closing });
    assert!(to_head.ends_with("\r\n\r\n") && to_head.contains("Content-Length: 5"), "{to_head}");
    let limited = Page { retry_after_s: Some(7), ..Page::closing(Status::TooManyRequests, "") };
    assert!(page(limited).contains("\r\nRetry-After: 7\r\n"));
}

#[test]
fn a_407_makes_browsers_ask() {
    let asks = Page {
        realm: "our \"proxy\"\r\n",
        closes: false,
        ..Page::closing(Status::ProxyAuthenticationRequired, "log in")
    };
    let found = page(asks);
    assert!(found.starts_with("HTTP/1.1 407 Proxy Authentication Required\r\n"), "{found}");
    let basic = "\r\nProxy-Authenticate: Basic realm=\"our proxy\", charset=\"UTF-8\"\r\n";
    assert!(found.contains(basic), "{found}");
    assert!(found.contains("\r\nProxy-Authenticate: Bearer realm=\"our proxy\"\r\n"), "{found}");
    assert!(!found.contains("Connection: close"), "{found}");
    let asks = page(Page { status: Status::Unauthorized, ..asks });
    assert!(asks.contains("\r\nWWW-Authenticate: Basic realm="), "{asks}");
}

#[test]
fn a_tunnel_is_granted_without_a_body() {
    let granted = page(Page::closing(Status::Established, "ignored"));
    assert_eq!(granted, "HTTP/1.1 200 Connection established\r\n\r\n");
}

fn target(host: &str, port: u16) -> Target {
    Target { host: Host::parse(host.as_bytes()).unwrap(), port }
}

#[test]
fn a_tunnel_is_asked_for_as_this_proxy_would_have_it() {
    let authorization = ProxyAuthorization::basic("anna", "se:cret").unwrap();
    for (host, expected) in [("a.example", "a.example:443"), ("2001:db8::1", "[2001:db8::1]:443")] {
        let target = target(host, 443);
        let mut out = Vec::new();
        write_connect(&target, Some(&authorization), &mut out);
        with_request(&out, |head| {
            let head = head.unwrap();
            assert_eq!(head.target, RequestTarget::Authority(target));
            assert_eq!(head.fields.one("host"), Ok(Some(expected.as_bytes())));
            let Ok(Some(Credentials::Basic { user, password })) =
                Credentials::of_proxy_request(head.fields)
            else {
                panic!("no credentials")
            };
            assert_eq!((&*user, &**password), ("anna", "se:cret"));
        });
    }
    assert!(ProxyAuthorization::basic("an:na", "x").is_err());
    assert!(ProxyAuthorization::basic("anna", "x\r\nEvil: 1").is_err());
}

#[test]
fn the_answer_to_connect_tells_whether_the_tunnel_stands() {
    // RFC 9110 section 9.3.6: any 2xx, and no body whatever the fields say.
    let table: &[(&str, Result<Option<usize>, ConnectError>)] = &[
        ("HTTP/1.1 200 OK\r\n\r\nSSH-2.0", Ok(Some(19))),
        ("HTTP/1.0 200 Connection established\r\n\r\n", Ok(Some(39))),
        ("HTTP/1.1 299\r\nContent-Length: 5\r\n\r\nabc", Ok(Some(35))),
        ("HTTP/1.1 200\r\nTransfer-Encoding: x\r\nContent-Length: y\r\n\r\n", Ok(Some(57))),
        ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", Ok(Some(44))),
        ("HTTP/1.1 200 OK\r\n", Ok(None)),
        ("", Ok(None)),
        ("HTTP/1.1 407 Who\r\n\r\n", Err(ConnectError::Credentials)),
        ("HTTP/1.1 403 No\r\n\r\n", Err(ConnectError::Denied(403))),
        ("HTTP/1.1 502 No\r\n\r\n", Err(ConnectError::Unreachable(502))),
        ("HTTP/1.1 504 No\r\n\r\n", Err(ConnectError::Unreachable(504))),
        ("HTTP/1.1 500 No\r\n\r\n", Err(ConnectError::Refused(500))),
        ("HTTP/1.1 302 There\r\n\r\n", Err(ConnectError::Refused(302))),
        ("HTTP/1.1 101 X\r\n\r\n", Err(ConnectError::Malformed(HttpError::Switched))),
        ("SSH-2.0-x\r\n\r\n", Err(ConnectError::Malformed(HttpError::Version))),
        ("HTTP/1.1 200 OK\n\n", Err(ConnectError::Malformed(HttpError::BareLf))),
    ];
    for (text, expected) in table {
        let bytes = text.as_bytes();
        assert_eq!(ConnectReply::default().read(bytes), *expected, "{}", text.escape_debug());
        let mut reply = ConnectReply::default();
        let found = (0..=bytes.len()).map(|end| reply.read(&bytes[..end]));
        let found = found.into_iter().find(|found| *found != Ok(None)).unwrap_or(Ok(None));
        assert_eq!(found, *expected, "byte by byte: {}", text.escape_debug());
    }
    let endless = "HTTP/1.1 100 Continue\r\n\r\n".repeat(100);
    let error = ConnectError::Malformed(HttpError::TooManyInterim);
    assert_eq!(ConnectReply::default().read(endless.as_bytes()), Err(error));
}

proptest! {
    #[test]
    fn credentials_that_are_written_are_read(user in "[^:\\pC]{0,20}", password in "\\PC{0,20}") {
        let authorization = ProxyAuthorization::basic(&user, &password).unwrap();
        let value = str::from_utf8(authorization.expose()).unwrap().to_owned();
        let found = credentials(&format!("Proxy-Authorization: {value}\r\n"));
        prop_assert_eq!(found, Ok(Some(format!("{user} {password}"))));
    }
}
