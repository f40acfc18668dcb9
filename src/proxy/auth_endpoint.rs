//! `/auth`: other proxies ask whether their clients are who they say they are.
//!
//! nginx asks for each request of its clients (`auth_request`), Traefik as well (`ForwardAuth`):
//! they send on what the client has shown in `Authorization`, and take 2xx for a yes. So each
//! request is about somebody else, whoever came before on the same connection, and nobody is let
//! into the gateway by it. Failures are charged to the client, which the asking proxy names in
//! `X-Forwarded-For`; so only addresses that are listed are heard at all.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};

use crate::accounts::names::Name;
use crate::accounts::refusal::Refusal;
use crate::accounts::secret::Secret;
use crate::accounts::service::PassProof;

use super::front::status_of_refusal;
use super::http::{Credentials, Fields, Framing, Method, Page, RequestHead, RequestTarget, Status};
use super::settings::Rules;

/// The path that is asked for.
pub const AUTH_PATH: &str = "/auth";
/// What a browser shows when it asks for a password.
const REALM: &str = "corelane";

/// A proxy asks about one of its clients.
#[derive(Debug)]
pub struct Inquiry {
    /// The client, to whom failures are charged; or why that is not known.
    pub client: Result<IpAddr, UnknownClient>,
    /// What it has shown; or what is wrong with that.
    pub proof: Result<PassProof, String>,
    /// How the answer is written.
    pub form: AnswerForm,
}

/// How an inquiry is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnswerForm {
    /// Whether it came by HEAD.
    to_head: bool,
    /// Whether the connection ends with it.
    closes: bool,
}

/// Why it is not known whom an inquiry is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnknownClient {
    /// Nobody is named.
    #[error(
        "the request names no client: have the proxy that asks send X-Forwarded-For (nginx: \
         proxy_set_header X-Forwarded-For $remote_addr)"
    )]
    Unnamed,
    /// What stands there is no address.
    #[error("X-Forwarded-For has something else than an address where the client stands")]
    Malformed,
}

impl Inquiry {
    /// Reads a request that came from `peer`; `None` if it is no inquiry, or one of somebody who
    /// may not ask.
    pub fn hear(head: &RequestHead<'_, '_>, peer: IpAddr, rules: &Rules) -> Option<Self> {
        let RequestTarget::Origin(target) = head.target else { return None };
        let path = target.split_once('?').map_or(target, |(path, _)| path);
        if path != AUTH_PATH || !rules.hears_inquiries_from(peer) {
            return None;
        }
        let proof = match Credentials::of_request(head.fields) {
            Ok(Some(Credentials::Basic { user, password })) => {
                let password = Secret::new(password.to_string());
                Ok(PassProof::Password { user, password })
            }
            Ok(Some(Credentials::Bearer(token))) => {
                Ok(PassProof::Token(Secret::new(token.to_string())))
            }
            Ok(None) => Err("a user and a password, or a token, are needed here".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        // Nobody reads a body here, so that nobody knows where the next request would begin.
        let has_body = !matches!(head.framing, Framing::None | Framing::Length(0));
        let form = AnswerForm {
            to_head: head.method == Method::Head,
            closes: has_body || !head.keeps_connection(),
        };
        Some(Self { client: client_of(head.fields, rules), proof, form })
    }
}

/// The client that `X-Forwarded-For` names: the last that is no proxy which may ask, since what
/// stands in front of that is the word of the client itself; the first if all of them may.
fn client_of(fields: Fields<'_, '_>, rules: &Rules) -> Result<IpAddr, UnknownClient> {
    let mut client = Err(UnknownClient::Unnamed);
    for named in fields.list("x-forwarded-for") {
        match address_of(named) {
            Some(address) if rules.hears_inquiries_from(address) => {
                if client == Err(UnknownClient::Unnamed) {
                    client = Ok(address);
                }
            }
            Some(address) => client = Ok(address),
            None => client = Err(UnknownClient::Malformed),
        }
    }
    client
}

/// An address as proxies write it: with a port or without, in brackets or without.
fn address_of(text: &[u8]) -> Option<IpAddr> {
    let text = str::from_utf8(text).ok()?;
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().or_else(|_| text.parse().map(|it: SocketAddr| it.ip()));
    address.ok().map(|address: IpAddr| address.to_canonical())
}

impl AnswerForm {
    /// Whether the connection ends with the answer.
    pub fn closes(self) -> bool {
        self.closes
    }

    /// The client is that user.
    pub fn vouch(self, user: &Name, out: &mut Vec<u8>) {
        let mut line = |text: std::fmt::Arguments<'_>| out.write_fmt(text).unwrap_or_default();
        line(format_args!("HTTP/1.1 204 No Content\r\nCache-Control: no-store\r\n"));
        let user = user.as_str();
        line(format_args!("Remote-User: {user}\r\nX-Corelane-User: {user}\r\n"));
        line(format_args!("{}\r\n", if self.closes { "Connection: close\r\n" } else { "" }));
    }

    /// The client has shown nothing that could be looked at.
    pub fn demand(self, why: &str, out: &mut Vec<u8>) {
        self.write(Status::Unauthorized, why, None, out);
    }

    /// The client is not who it says, or may not come in now.
    pub fn turn_down(self, refusal: &Refusal, out: &mut Vec<u8>) {
        let status = status_of_refusal(refusal.code, Status::Unauthorized);
        let retry_after_s = refusal.retry_after.map(|wait| wait.as_secs().max(1));
        self.write(status, &refusal.message, retry_after_s, out);
    }

    /// It is not known who the client is.
    pub fn reject(self, why: UnknownClient, out: &mut Vec<u8>) {
        self.write(Status::BadRequest, &why.to_string(), None, out);
    }

    fn write(self, status: Status, text: &str, retry_after_s: Option<u64>, out: &mut Vec<u8>) {
        let Self { to_head, closes } = self;
        let page = Page::closing(status, text);
        Page { realm: REALM, retry_after_s, to_head, closes, ..page }.write(out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::refusal::RefusalCode;
    use crate::proxy::http::Slots;

    fn rules() -> Rules {
        let auth_from = ["127.0.0.1/32", "10.0.0.0/8"].map(|prefix| prefix.parse().unwrap());
        Rules { auth_from: auth_from.into(), ..Rules::default() }
    }

    fn hear(peer: &str, request: &str) -> Option<Inquiry> {
        let mut slots = Slots::new();
        let head = RequestHead::parse(request.as_bytes(), &mut slots).unwrap();
        Inquiry::hear(&head, peer.parse().unwrap(), &rules())
    }

    fn ask(fields: &str) -> Inquiry {
        let request = format!("GET /auth HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n");
        hear("127.0.0.1", &request).unwrap()
    }

    #[test]
    fn whoever_is_listed_is_heard_and_nobody_else() {
        let to = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: a.example\r\n\r\n");
        for peer in ["127.0.0.1", "10.1.2.3", "::ffff:10.1.2.3"] {
            assert!(hear(peer, &to("/auth")).is_some(), "{peer}");
        }
        assert!(hear("192.0.2.1", &to("/auth")).is_none());
        assert!(hear("127.0.0.1", &to("/auth?x=y")).is_some());
        for other in ["/", "/authority", "/auth/", "//auth", "http://a.example/auth"] {
            assert!(hear("127.0.0.1", &to(other)).is_none(), "{other}");
        }
    }

    #[test]
    fn the_client_is_the_last_who_is_named_by_somebody_listed() {
        for (named, client) in [
            ("X-Forwarded-For: 192.0.2.7\r\n", Ok("192.0.2.7")),
            ("X-Forwarded-For: 203.0.113.9, 192.0.2.7\r\n", Ok("192.0.2.7")),
            ("X-Forwarded-For: 203.0.113.9\r\nX-Forwarded-For: 192.0.2.7\r\n", Ok("192.0.2.7")),
            ("X-Forwarded-For: 192.0.2.7, 10.0.0.4\r\n", Ok("192.0.2.7")),
            ("X-Forwarded-For: 10.0.0.5, 10.0.0.4\r\n", Ok("10.0.0.5")),
            ("X-Forwarded-For: nonsense, 192.0.2.7:4711\r\n", Ok("192.0.2.7")),
            ("X-Forwarded-For: [2001:db8::7]:4711\r\n", Ok("2001:db8::7")),
            ("X-Forwarded-For: [2001:db8::7]\r\n", Ok("2001:db8::7")),
            ("X-Forwarded-For: ::ffff:192.0.2.7\r\n", Ok("192.0.2.7")),
            ("X-Forwarded-For: 192.0.2.7, unknown\r\n", Err(UnknownClient::Malformed)),
            ("X-Forwarded-For: nonsense, 10.0.0.4\r\n", Err(UnknownClient::Malformed)),
            ("X-Real-IP: 192.0.2.7\r\n", Err(UnknownClient::Unnamed)),
            ("", Err(UnknownClient::Unnamed)),
        ] {
            let client = client.map(|client| client.parse().unwrap());
            assert_eq!(ask(named).client, client, "{named}");
        }
    }

    #[test]
    fn what_is_meant_for_a_proxy_proves_nothing_here() {
        let basic = "Basic YWRhOnJpZ2h0IGhvcnNl\r\n";
        let Ok(PassProof::Password { user, password }) =
            ask(&format!("Authorization: {basic}")).proof
        else {
            panic!()
        };
        assert_eq!((user.as_str(), password.expose()), ("ada", "right horse"));
        let Ok(PassProof::Token(token)) = ask("Authorization: Bearer abc\r\n").proof else {
            panic!()
        };
        assert_eq!(token.expose(), "abc");
        for fields in [
            format!("Proxy-Authorization: {basic}"),
            format!("Authorization: {basic}Authorization: {basic}"),
            "Authorization: Negotiate abc\r\n".to_owned(),
        ] {
            assert!(ask(&fields).proof.is_err(), "{fields}");
        }
    }

    #[test]
    fn a_connection_is_kept_unless_its_next_request_could_not_be_found() {
        assert!(!ask("").form.closes());
        assert!(!ask("Content-Length: 0\r\n").form.closes());
        for fields in
            ["Connection: close\r\n", "Content-Length: 1\r\n", "Transfer-Encoding: chunked\r\n"]
        {
            assert!(ask(fields).form.closes(), "{fields}");
        }
        let old = "GET /auth HTTP/1.0\r\n\r\n";
        assert!(hear("127.0.0.1", old).unwrap().form.closes());
    }

    #[test]
    fn answers_are_those_of_a_server_and_not_of_a_proxy() {
        let said = |say: &dyn Fn(AnswerForm, &mut Vec<u8>)| {
            let mut out = Vec::new();
            say(AnswerForm { to_head: false, closes: false }, &mut out);
            String::from_utf8(out).unwrap()
        };
        let yes = said(&|form, out| form.vouch(&"ada".parse().unwrap(), out));
        assert_eq!(
            yes,
            "HTTP/1.1 204 No Content\r\nCache-Control: no-store\r\nRemote-User: ada\r\n\
             X-Corelane-User: ada\r\n\r\n"
        );
        let no = said(&|form, out| form.demand("why", out));
        assert!(no.starts_with("HTTP/1.1 401 ") && !no.contains("close"), "{no}");
        assert!(no.contains("WWW-Authenticate: Basic realm=\"corelane\""), "{no}");
        for (code, status) in [
            (RefusalCode::Denied, "401"),
            (RefusalCode::QuotaExceeded, "403"),
            (RefusalCode::TooManyFailures, "429"),
            (RefusalCode::Busy, "503"),
        ] {
            let wait = std::time::Duration::from_millis(1500);
            let refusal = Refusal::for_now(code, "later", wait);
            let no = said(&|form, out| form.turn_down(&refusal, out));
            assert!(no.starts_with(&format!("HTTP/1.1 {status} ")), "{no}");
            assert!(no.contains("Retry-After: 1\r\n"), "{no}");
        }
    }
}
