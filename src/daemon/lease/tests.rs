use super::*;
use crate::accounts::secret::Secret;

const KEY: &str = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=";

fn terms() -> LeaseTerms {
    LeaseTerms {
        user: "alice".parse().unwrap(),
        server: "vpn1".parse().unwrap(),
        server_key: KEY.to_owned(),
        endpoints: vec!["192.0.2.1:20443".to_owned()],
        ipv4: Some("10.77.0.2".parse().unwrap()),
        ipv6: Some("fd77::2".parse().unwrap()),
        routes: vec!["0.0.0.0/0".parse().unwrap(), "10.1.2.3/8".parse().unwrap()],
        dns_servers: vec!["10.77.0.1".parse().unwrap()],
        search_domains: vec!["corp.example.org".to_owned()],
        split_domains: Vec::new(),
        mtu: 1408,
        keepalive_s: Some(25),
        lasts_s: 60,
        carrier_ticket: Secret::new("ticket".to_owned()),
        device_token: None,
    }
}

fn lease(terms: LeaseTerms) -> Result<Lease, BadLease> {
    Lease::new(terms, PresharedKey::default())
}

#[test]
fn a_lease_is_taken_as_it_is_meant() {
    let lease = lease(terms()).unwrap();
    let texts = |nets: &[IpNet]| nets.iter().map(IpNet::to_string).collect::<Vec<_>>();
    assert_eq!(texts(&lease.addresses), ["10.77.0.2/32", "fd77::2/128"]);
    assert_eq!(texts(&lease.routes), ["0.0.0.0/0", "10.0.0.0/8"]);
    assert_eq!(lease.lasts, Duration::from_secs(60));
    assert_eq!(lease.keepalive, Some(Duration::from_secs(25)));
}

#[test]
fn what_makes_no_sense_is_refused() {
    type Spoil = fn(&mut LeaseTerms);
    let cases: [(&str, Spoil); 10] = [
        ("key", |terms| terms.server_key = "k".to_owned()),
        ("private key", |terms| {
            terms.server_key = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=".to_owned();
        }),
        ("MTU of 576", |terms| terms.mtu = 576),
        ("MTU of 65535", |terms| terms.mtu = 65535),
        ("over at once", |terms| terms.lasts_s = 0),
        ("no address", |terms| (terms.ipv4, terms.ipv6) = (None, None)),
        ("127.0.0.1", |terms| terms.ipv4 = Some("127.0.0.1".parse().unwrap())),
        ("ff02::1", |terms| terms.ipv6 = Some("ff02::1".parse().unwrap())),
        ("endpoint", |terms| terms.endpoints = vec!["192.0.2.1".to_owned()]),
        ("routes", |terms| {
            terms.routes = vec!["10.0.0.0/8".parse().unwrap(); LEASE_ROUTES_MAX + 1];
        }),
    ];
    for (expected, spoil) in cases {
        let mut terms = terms();
        spoil(&mut terms);
        let error = lease(terms).unwrap_err().to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

#[test]
fn endpoints_stand_for_what_they_say_or_for_the_login() {
    let login: SocketAddr = "198.51.100.1:443".parse().unwrap();
    for (endpoints, expected) in [
        (&[][..], vec!["198.51.100.1:443"]),
        (&["0.0.0.0:20443"][..], vec!["198.51.100.1:20443"]),
        (&["[::]:20443", "[2001:db8::1]:1"][..], vec!["198.51.100.1:20443", "[2001:db8::1]:1"]),
        (&["vpn.example.org:20443"][..], vec!["198.51.100.1:20443"]),
        (&["known.example.org:20443"][..], vec!["192.0.2.7:20443", "192.0.2.8:20443"]),
        (&["nobody.example.org:20443"][..], vec!["198.51.100.1:20443"]),
    ] {
        let endpoints = endpoints.iter().map(|&endpoint| endpoint.to_owned()).collect();
        let lease = lease(LeaseTerms { endpoints, ..terms() }).unwrap();
        let resolved = lease.resolve("vpn.example.org", login, |endpoint| {
            let at = |address: &str| (address.parse::<IpAddr>().unwrap(), endpoint.port()).into();
            match endpoint.host() {
                "known.example.org" => Ok(vec![at("192.0.2.7"), at("192.0.2.8")]),
                _ => Err(io::ErrorKind::NotFound.into()),
            }
        });
        let resolved: Vec<String> = resolved.iter().map(SocketAddr::to_string).collect();
        assert_eq!(resolved, expected);
    }
}
