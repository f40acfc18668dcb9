//! The fields of a head, and what kind each is of.

use std::mem::MaybeUninit;

use crate::limits::HTTP_FIELDS_MAX;

use super::error::HttpError;

/// Room for the fields of one head, which a parser fills.
pub struct Slots<'b>(pub(super) [MaybeUninit<httparse::Header<'b>>; HTTP_FIELDS_MAX]);

impl Slots<'_> {
    /// Empty room.
    pub fn new() -> Self {
        Self([const { MaybeUninit::uninit() }; HTTP_FIELDS_MAX])
    }
}

impl Default for Slots<'_> {
    fn default() -> Self {
        Self::new()
    }
}

/// The fields of a head in the order in which they came.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'h, 'b>(pub(super) &'h [httparse::Header<'b>]);

impl<'h, 'b> Fields<'h, 'b> {
    /// Every field line: its name as it was written, and its value without the blanks around it.
    pub fn iter(self) -> impl Iterator<Item = (&'b str, &'b [u8])> + use<'h, 'b> {
        self.0.iter().map(|field| (field.name, field.value.trim_ascii()))
    }

    /// The values of all field lines of a name.
    pub fn all(self, name: &str) -> impl Iterator<Item = &'b [u8]> {
        self.iter().filter(move |field| field.0.eq_ignore_ascii_case(name)).map(|field| field.1)
    }

    /// The value of the only field line of a name; [`HttpError::Field`] if there are several.
    pub fn one(self, name: &str) -> Result<Option<&'b [u8]>, HttpError> {
        let mut all = self.all(name);
        let first = all.next();
        if all.next().is_some() { Err(HttpError::Field) } else { Ok(first) }
    }

    /// The members of a comma-separated list, over all field lines of its name (RFC 9110 section
    /// 5.6.1).
    pub fn list(self, name: &str) -> impl Iterator<Item = &'b [u8]> {
        let members = self.all(name).flat_map(|value| value.split(|&byte| byte == b','));
        members.map(<[u8]>::trim_ascii).filter(|member| !member.is_empty())
    }

    /// Whether a list has a member, in whatever case.
    pub fn lists(self, name: &str, member: &str) -> bool {
        self.list(name).any(|found| found.eq_ignore_ascii_case(member.as_bytes()))
    }
}

/// What a proxy does with a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FieldKind {
    /// Says where the message ends; written anew from what was understood.
    Framing,
    /// Meant for the next recipient alone, and not forwarded (RFC 9110 section 7.6.1).
    HopByHop,
    /// Written anew from the request target.
    Host,
    /// Has a rule of its own.
    Expect,
    /// Has a rule of its own.
    MaxForwards,
    /// Names the proxies on the way.
    Via,
    /// Names the client (RFC 7239).
    Forwarded,
    /// Names the client.
    XForwardedFor,
    /// For the far end.
    EndToEnd,
}

impl FieldKind {
    pub(super) fn of(name: &str) -> Self {
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        match name.len() {
            2 if is("te") => Self::HopByHop,
            3 if is("via") => Self::Via,
            4 if is("host") => Self::Host,
            6 if is("expect") => Self::Expect,
            7 if is("trailer") || is("upgrade") => Self::HopByHop,
            9 if is("forwarded") => Self::Forwarded,
            10 if is("connection") || is("keep-alive") => Self::HopByHop,
            12 if is("max-forwards") => Self::MaxForwards,
            14 if is("content-length") => Self::Framing,
            14 if is("http2-settings") => Self::HopByHop,
            15 if is("x-forwarded-for") => Self::XForwardedFor,
            17 if is("transfer-encoding") => Self::Framing,
            // What one proxy tells another about a response (RFC 9209).
            12 if is("proxy-status") => Self::EndToEnd,
            6.. if name.get(..6).is_some_and(|start| start.eq_ignore_ascii_case("proxy-")) => {
                Self::HopByHop
            }
            _ => Self::EndToEnd,
        }
    }
}

/// Whether a byte may stand in a token (RFC 9110 section 5.6.2).
pub(super) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
