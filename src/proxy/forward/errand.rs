//! A request that is to be forwarded.

use std::net::IpAddr;

use crate::proxy::http::{
    Absolute, Exchange, Fields, Method, NotForwarded, Passage, RequestHead, Route, Scheme,
};
use crate::proxy::settings::Rules;
use crate::proxy::target::Target;

/// A request that is to be forwarded.
#[derive(Debug)]
pub struct Errand {
    /// It and its response, as far as they have passed.
    pub(in crate::proxy) exchange: Exchange,
    /// How the origin is spoken to.
    pub scheme: Scheme,
    /// The origin.
    pub to: Target,
    /// The head as the origin gets it.
    pub(in crate::proxy) head: Vec<u8>,
    /// Whether a page in answer to it has no body.
    pub(in crate::proxy) to_head: bool,
    /// Whether it makes the connection to the origin the client's own: what NTLM and Negotiate
    /// authenticate is the connection and not the request (RFC 4559 section 6).
    pub(in crate::proxy) binds_origin: bool,
}

impl Errand {
    /// The request with this head, whose client has sent `behind` after it.
    ///
    /// # Errors
    /// It is not forwarded.
    pub fn begin(
        head: &RequestHead<'_, '_>,
        to: &Absolute<'_>,
        client: IpAddr,
        rules: &Rules,
        behind: &[u8],
    ) -> Result<Self, NotForwarded> {
        let disclosure = &rules.disclosure;
        let passage = Passage { route: Route::Direct, disclosure, client, is_reused: false };
        let mut bytes = Vec::with_capacity(1024);
        let exchange = Exchange::begin(head, to, passage, &mut bytes)?;
        // A body that is malformed is refused before anything has gone, as far as it is here.
        exchange.check_ahead(behind)?;
        Ok(Self {
            exchange,
            scheme: to.scheme,
            to: to.target.clone(),
            head: bytes,
            to_head: head.method == Method::Head,
            binds_origin: binds_origin(head.fields),
        })
    }
}

fn binds_origin(fields: Fields<'_, '_>) -> bool {
    let binds = |value: &[u8]| {
        let scheme = value.split(|byte| *byte == b' ').next().unwrap_or_default();
        scheme.eq_ignore_ascii_case(b"ntlm") || scheme.eq_ignore_ascii_case(b"negotiate")
    };
    fields.all("authorization").any(binds)
}
