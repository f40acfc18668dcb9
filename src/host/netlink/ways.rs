//! Hearing that the way to an address has changed: another network, another router, another address
//! of this host.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Instant;

use netlink_sys::{Socket, protocols::NETLINK_ROUTE};

use super::{BUFFER_LEN, Netlink, NetlinkError};
use crate::limits::{WAY_NEWS_PER_TURN, WAY_SETTLE};

/// What is listened to: whatever the kernel goes by when it chooses a way.
const GROUPS: [libc::c_uint; 7] = [
    libc::RTNLGRP_LINK,
    libc::RTNLGRP_IPV4_IFADDR,
    libc::RTNLGRP_IPV6_IFADDR,
    libc::RTNLGRP_IPV4_ROUTE,
    libc::RTNLGRP_IPV6_ROUTE,
    libc::RTNLGRP_IPV4_RULE,
    libc::RTNLGRP_IPV6_RULE,
];

/// How packets leave this host for an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// Index of the interface they leave by.
    pub device: u32,
    /// The router they are handed to, if not to the link itself.
    pub gateway: Option<IpAddr>,
    /// The source address they get.
    pub source: Option<IpAddr>,
}

/// An address to which the way is another one than before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WayChange {
    /// The address.
    pub to: IpAddr,
    /// How packets leave for it; `None` if they cannot.
    pub way: Option<Way>,
}

/// Looks after the ways to some addresses. Register it with a poll for reading, call
/// [`handle_readable`] when it is readable, and when [`poll_timeout`] has come [`poll_changes`].
///
/// Much that the kernel tells is of no consequence, so the ways themselves are looked up, a moment
/// after the news: what belongs together is then seen together. On a host whose routes never rest
/// that is done once in each such moment.
///
/// It belongs to the network namespace of the thread that opened it and needs no privilege.
///
/// [`handle_readable`]: Self::handle_readable
/// [`poll_timeout`]: Self::poll_timeout
/// [`poll_changes`]: Self::poll_changes
#[derive(Debug)]
pub struct WayMonitor {
    socket: Socket,
    netlink: Netlink,
    mark: Option<u32>,
    ways: BTreeMap<IpAddr, Option<Way>>,
    look_at: Option<Instant>,
    buffer: Vec<u8>,
}

impl WayMonitor {
    /// Listens from now on, for packets that carry `mark`. No address is watched yet.
    ///
    /// # Errors
    /// [`NetlinkError::Open`].
    pub fn open(mark: Option<u32>) -> Result<Self, NetlinkError> {
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(NetlinkError::Open)?;
        socket.bind_auto().map_err(NetlinkError::Open)?;
        socket.set_non_blocking(true).map_err(NetlinkError::Open)?;
        for group in GROUPS {
            socket.add_membership(group).map_err(NetlinkError::Open)?;
        }
        let netlink = Netlink::open()?;
        let (ways, buffer) = (BTreeMap::new(), Vec::with_capacity(BUFFER_LEN));
        Ok(Self { socket, netlink, mark, ways, look_at: None, buffer })
    }

    /// Watches these addresses and no others. The ways to those that are new are taken as they are
    /// now.
    pub fn watch(&mut self, addresses: impl IntoIterator<Item = IpAddr>) {
        let mut ways = BTreeMap::new();
        for address in addresses {
            let known = self.ways.get(&address).copied();
            ways.insert(address, known.unwrap_or_else(|| self.way_to(address)));
        }
        self.ways = ways;
    }

    /// Reads what waits, but no more than a helping. Returns whether more may be waiting.
    ///
    /// # Errors
    /// What the kernel says if it cannot be read; it will not be better next time.
    pub fn handle_readable(&mut self, now: Instant) -> io::Result<bool> {
        for _ in 0..WAY_NEWS_PER_TURN {
            self.buffer.clear();
            match self.socket.recv_from(&mut self.buffer, 0) {
                // Port 0 is the kernel; nobody else has anything to tell us.
                Ok((_, sender)) if sender.port_number() != 0 => {}
                Ok(_) => self.note_news(now),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // News was lost for want of room, and that is news.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => self.note_news(now),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// When the ways are to be looked up, if there was news.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.look_at
    }

    /// The addresses to which the way has changed since they were looked up last. Empty before
    /// [`WayMonitor::poll_timeout`].
    pub fn poll_changes(&mut self, now: Instant) -> Vec<WayChange> {
        if self.look_at.take_if(|due| now >= *due).is_none() {
            return Vec::new();
        }
        let mut changes = Vec::new();
        let addresses: Vec<IpAddr> = self.ways.keys().copied().collect();
        for to in addresses {
            let way = self.way_to(to);
            if self.ways.insert(to, way) != Some(way) {
                changes.push(WayChange { to, way });
            }
        }
        changes
    }

    fn note_news(&mut self, now: Instant) {
        self.look_at = self.look_at.or(Some(now + WAY_SETTLE));
    }

    fn way_to(&mut self, address: IpAddr) -> Option<Way> {
        let found = self.netlink.route_to(address, self.mark);
        let found = found.inspect_err(|error| log::debug!("{error}")).ok()?;
        Some(Way { device: found.device, gateway: found.gateway, source: found.source })
    }
}

impl AsRawFd for WayMonitor {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::lab::addresses::{CLIENT_V4, ROUTED_CLIENT_V4, SERVER_V4, SERVER_V6};
    use crate::lab::{Host, LINK, LabOptions, Routed};
    use crate::sys::clock;
    use crate::sys::testing::wait_readable;

    /// What `command` on a host changes about the ways.
    fn after(host: &Host, monitor: &mut WayMonitor, command: &str) -> Vec<WayChange> {
        let mut words = command.split(' ');
        let mut program = host.command(words.next().unwrap()).unwrap();
        assert!(program.args(words).status().unwrap().success(), "{command}");
        let now = clock::now();
        assert!(!monitor.handle_readable(now).unwrap());
        let Some(due) = monitor.poll_timeout() else { return Vec::new() };
        assert_eq!(monitor.poll_changes(now), [], "not before it is due");
        assert!(due > now && due <= now + WAY_SETTLE);
        let changes = monitor.poll_changes(due);
        assert_eq!(monitor.poll_timeout(), None);
        changes
    }

    fn monitor(host: &Host) -> WayMonitor {
        host.run(|| WayMonitor::open(Some(193)).unwrap()).unwrap()
    }

    #[test]
    fn another_route_or_address_is_noticed_and_what_leads_elsewhere_is_not() {
        let lab = Routed::build(LabOptions::default()).unwrap();
        let (client, servers) = (&lab.client, [IpAddr::V4(SERVER_V4), IpAddr::V6(SERVER_V6)]);
        let mut monitor = monitor(client);
        monitor.watch(servers);
        let mut after = |command: &str| after(client, &mut monitor, command);
        assert_eq!(after("ip route add 203.0.113.0/24 dev lo"), []);
        assert_eq!(after("ip link set lo mtu 1400"), []);

        let [lost] = after("ip route delete default")[..] else { panic!("IPv4 is lost") };
        assert_eq!(lost, WayChange { to: servers[0], way: None });
        let [found] = after("ip route add default via 198.51.100.254")[..] else { panic!() };
        let way = found.way.unwrap();
        assert_eq!((found.to, way.source), (servers[0], Some(ROUTED_CLIENT_V4.into())));

        // Another address, as on another network.
        let moved = format!("ip address add {CLIENT_V4}/24 dev {LINK}");
        let [moved] = after(&moved)[..] else { panic!("the server is on the link now") };
        let way = moved.way.unwrap();
        assert_eq!((way.gateway, way.source), (None, Some(CLIENT_V4.into())));

        let gone = after(&format!("ip link set {LINK} down"));
        assert_eq!(gone, servers.map(|to| WayChange { to, way: None }));
    }

    #[test]
    fn marked_packets_are_meant_and_others_do_not_matter() {
        let lab = Routed::build(LabOptions::default()).unwrap();
        let mut monitor = monitor(&lab.client);
        monitor.watch([SERVER_V4.into()]);
        let mut after = |command: &str| after(&lab.client, &mut monitor, command);
        assert_eq!(after("ip route add 0.0.0.0/1 dev lo table 7"), []);
        assert_eq!(after("ip route add 128.0.0.0/1 dev lo table 7"), []);
        assert_eq!(after("ip rule add not fwmark 193 lookup 7"), []);
        assert_eq!(after("ip rule add fwmark 193 lookup 7").len(), 1);
    }

    #[test]
    fn a_change_wakes_a_poll_and_one_that_is_forgotten_is_not_told() {
        let lab = Routed::build(LabOptions::default()).unwrap();
        let mut monitor = monitor(&lab.client);
        monitor.watch([SERVER_V4.into(), SERVER_V6.into()]);
        monitor.watch([SERVER_V6.into()]);
        let mut command = lab.client.command("ip").unwrap();
        assert!(command.args(["route", "delete", "default"]).status().unwrap().success());
        assert!(wait_readable(&monitor.socket));
        let now = clock::now();
        monitor.handle_readable(now).unwrap();
        assert_eq!(monitor.poll_changes(now + WAY_SETTLE), []);
    }
}
