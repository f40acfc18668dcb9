//! HTTP/1.1 as a proxy speaks it (RFC 9110, RFC 9112), without a socket and without a clock.
//!
//! A [`HeadScanner`] finds the end of a head in a growing buffer, [`RequestHead`] and
//! [`ResponseHead`] read it, and a [`Body`] goes through what follows without copying it. All of
//! them refuse what two recipients might understand differently; who refuses answers with a
//! [`Page`] and closes. An [`Exchange`] forwards one request and its response;
//! [`ConnectReply`] is the other side, a tunnel through another proxy, which [`OptionsReply`] asks
//! beforehand.

mod body;
mod credentials;
mod error;
mod exchange;
mod fields;
mod framing;
#[doc(hidden)]
pub mod fuzz;
mod method;
mod options;
mod page;
mod request;
mod response;
mod rewrite;
mod scan;
mod upstream;

pub use body::{Body, Run};
pub use credentials::{Credentials, CredentialsError, ProxyAuthorization};
pub use error::HttpError;
pub use exchange::{Exchange, Fate, NotForwarded, Passage};
pub use fields::{Fields, Slots};
pub use framing::{Framing, Version};
pub use method::Method;
pub use options::{OptionsReply, Presence, write_options};
pub use page::{Page, Status};
pub use request::{Absolute, RequestHead, RequestTarget, Scheme};
pub use response::ResponseHead;
pub use rewrite::{Disclosure, Mark, Route};
pub use scan::HeadScanner;
pub use upstream::{ConnectError, ConnectReply, write_connect};

#[cfg(test)]
mod tests;
