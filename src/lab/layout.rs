//! How the hosts of a laboratory are joined.

use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;
use std::{fs, io};

use ipnet::IpNet;

use super::{Host, LabError, wait_until};
use crate::host::netlink::{Netlink, NetlinkError, Route, VethEnd};
use crate::sys::ethtool;

/// The name of the link on a host that has one.
pub const LINK: &str = "link0";
/// The names of the router's links.
const TO_SERVER: &str = "to-server";
const TO_CLIENT: &str = "to-client";
/// Who makes the routes of a laboratory (`RTPROT_STATIC`).
const STATIC_ROUTE: u8 = 4;
/// How long hosts may take to reach each other: the kernel brings links and IPv6 into operation
/// behind the scenes, within milliseconds.
const SETTLED_WITHIN: Duration = Duration::from_secs(10);
/// How long to wait for one datagram of the trial before the next is sent.
const TRIAL: Duration = Duration::from_millis(20);

/// The addresses of the hosts, from the ranges reserved for documentation (RFC 5737, RFC 3849).
pub mod addresses {
    use std::net::{Ipv4Addr, Ipv6Addr};

    /// The server.
    pub const SERVER_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
    /// The server.
    pub const SERVER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
    /// The client, on the server's link.
    pub const CLIENT_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
    /// The client, on the server's link.
    pub const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
    /// The router, on the server's link.
    pub const ROUTER_SERVER_SIDE_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 254);
    /// The router, on the server's link.
    pub const ROUTER_SERVER_SIDE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0xfe);
    /// The router, on the client's link.
    pub const ROUTER_CLIENT_SIDE_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 254);
    /// The router, on the client's link.
    pub const ROUTER_CLIENT_SIDE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0xfe);
    /// The client, behind the router.
    pub const ROUTED_CLIENT_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
    /// The client, behind the router.
    pub const ROUTED_CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 2);
}

/// What the links of a laboratory are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LabOptions {
    /// MTU of every link, in bytes.
    pub link_mtu: u32,
    /// Whether the hosts have IPv6.
    pub ipv6: bool,
    /// Whether super-packets cross a link whole, as veth lets them. Without, the links behave like
    /// wires: every packet is cut to the MTU, and the receiver aggregates by GRO.
    pub segmentation_offloads: bool,
}

impl Default for LabOptions {
    /// Links as the kernel makes them: 1500 bytes, IPv6, segmentation offloads.
    fn default() -> Self {
        Self { link_mtu: 1500, ipv6: true, segmentation_offloads: true }
    }
}

/// A server and a client on one link, called [`LINK`] on both: 192.0.2.1/24 and 192.0.2.2/24,
/// 2001:db8::1/64 and 2001:db8::2/64.
#[derive(Debug)]
pub struct TwoHosts {
    /// The server.
    pub server: Host,
    /// The client.
    pub client: Host,
}

impl TwoHosts {
    /// Makes both hosts; once this returns they reach each other.
    ///
    /// # Errors
    /// [`LabError`], most often for want of privileges: see [`super::ensure_privileges`].
    pub fn build(options: LabOptions) -> Result<Self, LabError> {
        let (server, client) = (Host::create("server")?, Host::create("client")?);
        join((&server, LINK), (&client, LINK), options)?;
        address(&server, LINK, addresses::SERVER_V4, addresses::SERVER_V6, options)?;
        address(&client, LINK, addresses::CLIENT_V4, addresses::CLIENT_V6, options)?;
        operate(&server, LINK, options)?;
        operate(&client, LINK, options)?;
        settle(&server, addresses::SERVER_V4, &client, addresses::CLIENT_V4)?;
        if options.ipv6 {
            settle(&server, addresses::SERVER_V6, &client, addresses::CLIENT_V6)?;
        }
        Ok(Self { server, client })
    }
}

/// A client and a server on different links with a router between them that is the default gateway
/// of both, for roaming and address translation. The links of client and server are called
/// [`LINK`], the router's `to-client` (198.51.100.254/24, 2001:db8:1::fe/64) and `to-server`
/// (192.0.2.254/24, 2001:db8::fe/64).
#[derive(Debug)]
pub struct Routed {
    /// The server, 192.0.2.1 and 2001:db8::1.
    pub server: Host,
    /// The router, which forwards both families.
    pub router: Host,
    /// The client, 198.51.100.2 and 2001:db8:1::2.
    pub client: Host,
}

impl Routed {
    /// Makes the three hosts; once this returns client and server reach each other.
    ///
    /// # Errors
    /// As [`TwoHosts::build`].
    pub fn build(options: LabOptions) -> Result<Self, LabError> {
        use addresses::*;
        let server = Host::create("server")?;
        let router = Host::create("router")?;
        let client = Host::create("client")?;
        join((&server, LINK), (&router, TO_SERVER), options)?;
        join((&client, LINK), (&router, TO_CLIENT), options)?;
        address(&server, LINK, SERVER_V4, SERVER_V6, options)?;
        address(&router, TO_SERVER, ROUTER_SERVER_SIDE_V4, ROUTER_SERVER_SIDE_V6, options)?;
        address(&router, TO_CLIENT, ROUTER_CLIENT_SIDE_V4, ROUTER_CLIENT_SIDE_V6, options)?;
        address(&client, LINK, ROUTED_CLIENT_V4, ROUTED_CLIENT_V6, options)?;
        forward(&router, options)?;
        default_routes(&server, ROUTER_SERVER_SIDE_V4, ROUTER_SERVER_SIDE_V6, options)?;
        default_routes(&client, ROUTER_CLIENT_SIDE_V4, ROUTER_CLIENT_SIDE_V6, options)?;
        for (host, link) in
            [(&server, LINK), (&router, TO_SERVER), (&router, TO_CLIENT), (&client, LINK)]
        {
            operate(host, link, options)?;
        }
        settle(&server, SERVER_V4, &client, ROUTED_CLIENT_V4)?;
        if options.ipv6 {
            settle(&server, SERVER_V6, &client, ROUTED_CLIENT_V6)?;
        }
        Ok(Self { server, router, client })
    }
}

/// Joins two hosts by a link, both ends down and without addresses.
fn join(
    (near, near_name): (&Host, &str),
    (far, far_name): (&Host, &str),
    options: LabOptions,
) -> Result<(), LabError> {
    let near_end = VethEnd { name: near_name, namespace: near.namespace().as_fd() };
    let far_end = VethEnd { name: far_name, namespace: far.namespace().as_fd() };
    near.run(|| Netlink::open()?.create_veth(near_end, far_end, options.link_mtu))??;
    for (host, name) in [(near, near_name), (far, far_name)] {
        host.run(|| prepare(name, options))?
            .map_err(LabError::namespace(format!("prepare the link {name} of {}", host.name())))?;
    }
    Ok(())
}

/// Sets what must be set before a link comes up; runs on its host.
fn prepare(name: &str, options: LabOptions) -> io::Result<()> {
    let ipv6_settings = format!("/proc/sys/net/ipv6/conf/{name}");
    if fs::exists(&ipv6_settings)? {
        let disabled = if options.ipv6 { "0" } else { "1" };
        fs::write(format!("{ipv6_settings}/disable_ipv6"), disabled)?;
        // While the link-local address is checked for duplicates, for a second or two, a router
        // cannot solicit neighbours, and what it forwards is lost.
        fs::write(format!("{ipv6_settings}/accept_dad"), "0")?;
    }
    if !options.segmentation_offloads {
        ethtool::set_segmentation(name, false)?;
        ethtool::set_receive_aggregation(name, true)?;
    }
    Ok(())
}

/// Brings a link up with its addresses, usable at once.
fn address(
    host: &Host,
    link: &str,
    v4: impl Into<IpAddr>,
    v6: impl Into<IpAddr>,
    options: LabOptions,
) -> Result<(), LabError> {
    let mut prefixes = vec![IpNet::new_assert(v4.into(), 24)];
    if options.ipv6 {
        prefixes.push(IpNet::new_assert(v6.into(), 64));
    }
    let configured = host.run(|| -> Result<(), NetlinkError> {
        let mut netlink = Netlink::open()?;
        let index = netlink.link_index(link)?;
        for prefix in prefixes {
            netlink.add_address(index, prefix)?;
        }
        netlink.set_up(index)
    })?;
    Ok(configured?)
}

fn forward(router: &Host, options: LabOptions) -> Result<(), LabError> {
    let mut switches = vec!["/proc/sys/net/ipv4/ip_forward"];
    if options.ipv6 {
        switches.push("/proc/sys/net/ipv6/conf/all/forwarding");
    }
    router
        .run(|| switches.iter().try_for_each(|switch| fs::write(switch, "1")))?
        .map_err(LabError::namespace("switch IP forwarding on"))
}

fn default_routes(
    host: &Host,
    v4: impl Into<IpAddr>,
    v6: impl Into<IpAddr>,
    options: LabOptions,
) -> Result<(), LabError> {
    let mut gateways = vec![v4.into()];
    if options.ipv6 {
        gateways.push(v6.into());
    }
    let routed = host.run(|| -> Result<(), NetlinkError> {
        let mut netlink = Netlink::open()?;
        let index = netlink.link_index(LINK)?;
        for gateway in gateways {
            let everywhere = IpNet::new_assert(gateway, 0);
            netlink.add_route(&Route::through(index, everywhere, STATIC_ROUTE).via(gateway))?;
        }
        Ok(())
    })?;
    Ok(routed?)
}

/// Waits until the kernel has brought a link and its IPv6 into operation.
fn operate(host: &Host, link: &str, options: LabOptions) -> Result<(), LabError> {
    let mut netlink = host.run(Netlink::open)??;
    let index = netlink.link_index(link)?;
    let link_local = |address: &IpNet| match address.addr() {
        IpAddr::V4(_) => false,
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    let mut is_ready = || -> Result<bool, NetlinkError> {
        let addresses = netlink.addresses(index)?;
        let has_ipv6 = addresses.iter().any(|found| link_local(&found.address))
            && !addresses.iter().any(|found| found.tentative);
        Ok(netlink.link_by_index(index)?.running && (has_ipv6 || !options.ipv6))
    };
    let what = format!("the link {link} of {} to come into operation", host.name());
    wait_until(SETTLED_WITHIN, &what, || match is_ready() {
        Ok(false) => None,
        outcome => Some(outcome),
    })??;
    Ok(())
}

/// Waits until datagrams pass between two hosts, both ways.
fn settle(
    one: &Host,
    one_address: impl Into<IpAddr>,
    other: &Host,
    other_address: impl Into<IpAddr>,
) -> Result<(), LabError> {
    let bind = |host: &Host, address: IpAddr| -> Result<UdpSocket, LabError> {
        let attempt = || format!("open a socket on {}", host.name());
        let socket = host.run(|| UdpSocket::bind((address, 0)))?;
        let socket = socket.map_err(LabError::namespace(attempt()))?;
        socket.set_read_timeout(Some(TRIAL)).map_err(LabError::namespace(attempt()))?;
        Ok(socket)
    };
    let one_socket = bind(one, one_address.into())?;
    let other_socket = bind(other, other_address.into())?;
    for (from, to) in [(&one_socket, &other_socket), (&other_socket, &one_socket)] {
        let what = format!("{} and {} to reach each other", one.name(), other.name());
        wait_until(SETTLED_WITHIN, &what, || {
            let address = to.local_addr().ok()?;
            from.send_to(b"trial", address).ok()?;
            to.recv(&mut [0; 8]).ok()
        })?;
    }
    Ok(())
}
