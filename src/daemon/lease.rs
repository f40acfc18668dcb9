//! A lease as a client takes it: every field of what the server says, checked.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use thiserror::Error;

use crate::accounts::names::Name;
use crate::config::{HostPort, UpConfig};
use crate::daemon::agreement::Agreement;
use crate::handshake::keys::{PresharedKey, PublicKey};
use crate::host::resolver::DnsRequest;
use crate::limits::{LEASE_ENDPOINTS_MAX, LEASE_ROUTES_MAX, TUN_MTU_MAX, TUN_MTU_MIN};
use crate::login::message::{LeaseTerms, Secret};

/// What a server grants, in the types of those who use it.
#[derive(Clone, Debug)]
pub(super) struct Lease {
    /// As whom the server knows the user.
    pub(super) user: Name,
    /// What the server calls itself.
    pub(super) server: Name,
    /// The server's static key.
    pub(super) server_key: PublicKey,
    /// Where the server takes datagrams, best first; an unspecified address stands for that of the
    /// login.
    pub(super) endpoints: Vec<HostPort>,
    /// Inner addresses of this device.
    pub(super) addresses: Vec<IpNet>,
    /// Destinations that are reached through the tunnel.
    pub(super) routes: Vec<IpNet>,
    /// Name servers that the client's host may ask.
    pub(super) dns: DnsRequest,
    /// MTU inside the tunnel.
    pub(super) mtu: u16,
    /// Idle time after which an empty packet is sent.
    pub(super) keepalive: Option<Duration>,
    /// How long the lease lasts.
    pub(super) lasts: Duration,
    /// Mixed into handshakes.
    pub(super) preshared_key: PresharedKey,
    /// What a carrier connection of this login shows.
    pub(super) carrier_ticket: Secret,
}

/// Why a lease cannot be used.
#[derive(Debug, PartialEq, Eq, Error)]
#[error("the lease that the server grants makes no sense: {0}; is it another release?")]
pub struct BadLease(String);

impl Lease {
    /// Checks what a server says.
    pub(super) fn new(terms: LeaseTerms, preshared_key: PresharedKey) -> Result<Self, BadLease> {
        let server_key: PublicKey = terms
            .server_key
            .parse()
            .map_err(|error| BadLease(format!("the server's key: {error}")))?;
        if server_key.is_low_order() {
            return Err(BadLease("nobody can have the server's private key".to_owned()));
        }
        if !(TUN_MTU_MIN..=TUN_MTU_MAX).contains(&terms.mtu) {
            return Err(BadLease(format!("an MTU of {} bytes", terms.mtu)));
        }
        if terms.lasts_s == 0 {
            return Err(BadLease("it is over at once".to_owned()));
        }
        at_most(LEASE_ROUTES_MAX, terms.routes.len(), "routes")?;
        let dns = DnsRequest {
            servers: terms.dns_servers,
            search: terms.search_domains,
            split: terms.split_domains,
        };
        dns.check().map_err(|error| BadLease(error.to_string()))?;
        Ok(Self {
            user: terms.user,
            server: terms.server,
            server_key,
            endpoints: parse(&terms.endpoints, LEASE_ENDPOINTS_MAX, "endpoint")?,
            addresses: addresses([terms.ipv4.map(IpAddr::V4), terms.ipv6.map(IpAddr::V6)])?,
            routes: terms.routes.iter().map(IpNet::trunc).collect(),
            dns,
            mtu: terms.mtu,
            keepalive: terms.keepalive_s.map(|seconds| Duration::from_secs(seconds.into())),
            lasts: Duration::from_secs(terms.lasts_s.into()),
            preshared_key,
            carrier_ticket: terms.carrier_ticket,
        })
    }

    /// What the tunnel is to be like under this lease. The configuration comes first where it says
    /// something: an administrator may want less in the tunnel than the server offers.
    pub(super) fn agreement(&self, config: &UpConfig) -> Agreement {
        let or_configured = |configured: &[IpNet], leased: &[IpNet]| match configured {
            [] => leased.to_vec(),
            _ => configured.to_vec(),
        };
        let configured = config.keepalive_s.map(|seconds| Duration::from_secs(seconds.into()));
        Agreement {
            addresses: or_configured(&config.addresses, &self.addresses),
            routes: or_configured(&config.routes, &self.routes),
            dns: if config.dns.is_empty() { self.dns.clone() } else { config.dns.clone() },
            mtu: self.mtu,
            preshared_key: self.preshared_key.clone(),
            keepalive: configured.or(self.keepalive),
            rekey_after: Duration::from_secs(config.rekey_after_s.into()),
        }
    }

    /// Where to send datagrams, best first: what the endpoints stand for, or, if there are none,
    /// where `login` was. Names are given to `look_up`; one that it does not know stands for the
    /// host that has just answered.
    pub(super) fn resolve(
        &self,
        login_name: &str,
        login: SocketAddr,
        look_up: impl Fn(&HostPort) -> io::Result<Vec<SocketAddr>>,
    ) -> Vec<SocketAddr> {
        let mut found = Vec::new();
        for endpoint in &self.endpoints {
            let port = endpoint.port();
            match endpoint.host().parse::<IpAddr>() {
                Ok(address) if address.is_unspecified() => found.push((login.ip(), port).into()),
                Ok(address) => found.push((address, port).into()),
                // The address that has just answered is as good as any of that name.
                Err(_) if endpoint.host() == login_name => found.push((login.ip(), port).into()),
                Err(_) => {
                    let addresses = look_up(endpoint).unwrap_or_else(|error| {
                        log::warn!("no address found for {endpoint}: {error}");
                        vec![(login.ip(), port).into()]
                    });
                    found.extend(addresses);
                }
            }
        }
        if found.is_empty() {
            found.push(login);
        }
        found
    }
}

fn at_most(most: usize, count: usize, what: &str) -> Result<(), BadLease> {
    if count <= most { Ok(()) } else { Err(BadLease(format!("{count} {what}"))) }
}

fn parse<T: std::str::FromStr>(
    texts: &[String],
    most: usize,
    what: &str,
) -> Result<Vec<T>, BadLease> {
    at_most(most, texts.len(), what)?;
    let parse = |text: &String| text.parse().map_err(|_| BadLease(format!("a {what} {text:?}")));
    texts.iter().map(parse).collect()
}

fn addresses(leased: [Option<IpAddr>; 2]) -> Result<Vec<IpNet>, BadLease> {
    let leased: Vec<IpAddr> = leased.into_iter().flatten().collect();
    if leased.is_empty() {
        return Err(BadLease("no address".to_owned()));
    }
    let is_odd = |it: &&IpAddr| it.is_unspecified() || it.is_loopback() || it.is_multicast();
    match leased.iter().find(is_odd) {
        Some(odd) => Err(BadLease(format!("the address {odd}"))),
        None => Ok(leased.into_iter().map(IpNet::from).collect()),
    }
}

#[cfg(test)]
mod tests;
