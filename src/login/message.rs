//! The messages of the control channel: JSON bodies of its frames.
//!
//! Each has a `type`. A receiver refuses types and keys that it does not know, and keys that come
//! twice. [`SCHEMA`] is raised when a message changes so that an older end would misread it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::accounts::names::Name;
pub use crate::accounts::refusal::RefusalCode;
pub use crate::accounts::secret::Secret;

/// The number of this set of messages.
pub const SCHEMA: u16 = 1;

/// What a client says.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum ClientMessage {
    /// Asks for a lease. Answered by [`ServerMessage::Lease`] or [`ServerMessage::Refused`].
    Login(Box<LoginRequest>),
    /// Asks for the lease to last longer. Answered in the same way.
    Renew {},
    /// Asks whether the server is there. Answered by [`ServerMessage::Pong`].
    Ping {
        /// Comes back in the answer.
        nonce: u64,
    },
    /// Makes this connection a carrier of datagrams. Answered by
    /// [`ServerMessage::CarrierReady`] or [`ServerMessage::Refused`].
    Carrier {
        /// The [`LeaseTerms::carrier_ticket`] of the login that it belongs to.
        ticket: Secret,
    },
    /// Gives the lease back.
    Logout {},
}

/// Who wants a lease, from which device.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoginRequest {
    /// [`SCHEMA`] of the client.
    pub schema: u16,
    /// Version of the client's program, for the log.
    pub version: String,
    /// Proofs of identity, beside the certificate that TLS may have shown.
    pub credentials: Credentials,
    /// What the device is called.
    pub device_name: Name,
    /// The device's static key in base64.
    pub device_key: String,
}

/// Proofs of identity; the server's policy says which are needed.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Credentials {
    /// Who logs in; a token or a certificate says it by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The user's password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
    /// A time-based one-time password, or a recovery code in its place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<Secret>,
    /// An API token, the token of an invite, or a device's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<Secret>,
}

/// What a server says.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum ServerMessage {
    /// The login or renewal has succeeded.
    Lease(Box<LeaseTerms>),
    /// It has not.
    Refused {
        /// Why, for programs.
        code: RefusalCode,
        /// Why, for people, and what mends it.
        message: String,
        /// Seconds after which another try makes sense.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_after_s: Option<u32>,
    },
    /// The server is there.
    Pong {
        /// From the question.
        nonce: u64,
        /// How busy the server is, in thousandths of what it can do.
        load_permille: u16,
    },
    /// The connection carries datagrams from now on.
    CarrierReady {},
    /// The lease has ended, and all paths with it.
    Ended {
        /// Why, for programs.
        code: RefusalCode,
        /// Why, for people.
        message: String,
    },
}

/// A lease: everything a client needs to be online.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaseTerms {
    /// The user that was recognised.
    pub user: Name,
    /// What the server calls itself.
    pub server: Name,
    /// The server's static key in base64.
    pub server_key: String,
    /// Where the server takes datagrams, best first: an address, or a name, and a port.
    pub endpoints: Vec<String>,
    /// Inner IPv4 address of the device.
    pub ipv4: Option<Ipv4Addr>,
    /// Inner IPv6 address of the device.
    pub ipv6: Option<Ipv6Addr>,
    /// Destinations that are reached through the tunnel.
    pub routes: Vec<IpNet>,
    /// Name servers.
    pub dns_servers: Vec<IpAddr>,
    /// Domains that are appended to short names.
    pub search_domains: Vec<String>,
    /// Domains whose names these name servers resolve; all names if there are none.
    pub split_domains: Vec<String>,
    /// MTU inside the tunnel.
    pub mtu: u16,
    /// Seconds of silence after which an empty packet keeps address translators open.
    pub keepalive_s: Option<u16>,
    /// Seconds that the lease lasts. It is to be renewed when half of them are over.
    pub lasts_s: u32,
    /// What a carrier connection of this login shows.
    pub carrier_ticket: Secret,
    /// The token by which this device logs in from now on; sent once, when an invite is redeemed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_token: Option<Secret>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_survives_json_and_hides_its_secrets() {
        let credentials = Credentials {
            user: Some("alice".to_owned()),
            password: Some(Secret::new("correct horse".to_owned())),
            ..Credentials::default()
        };
        let login = ClientMessage::Login(Box::new(LoginRequest {
            schema: SCHEMA,
            version: "0.1.0".to_owned(),
            credentials,
            device_name: "laptop".parse().unwrap(),
            device_key: "k".to_owned(),
        }));
        assert!(!format!("{login:?}").contains("horse"));
        let json = serde_json::to_string(&login).unwrap();
        let ClientMessage::Login(read) = serde_json::from_str(&json).unwrap() else {
            panic!("{json}");
        };
        assert_eq!(read.credentials.password.unwrap().expose(), "correct horse");
    }

    #[test]
    fn unknown_and_doubled_keys_are_refused() {
        let read = serde_json::from_str::<ClientMessage>;
        assert!(read(r#"{"type":"ping","nonce":1}"#).is_ok());
        assert!(read(r#"{"type":"ping","nonce":1,"more":2}"#).is_err());
        assert!(read(r#"{"type":"ping","nonce":1,"nonce":2}"#).is_err());
        assert!(read(r#"{"type":"renew","more":2}"#).is_err());
        assert!(read(r#"{"type":"sing"}"#).is_err());
        assert!(read(r#"{"type":"ping","type":"ping","nonce":1}"#).is_err());
    }
}
