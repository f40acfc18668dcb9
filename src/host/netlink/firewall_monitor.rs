//! Hearing of changes to tables of the packet filter.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use netlink_packet_core::NlasIterator;
use netlink_sys::{Socket, protocols::NETLINK_NETFILTER};

use super::{BUFFER_LEN, HEADER_LEN, NetlinkError, split_message};
use crate::limits::FIREWALL_NEWS_PER_TURN;

/// Bytes of a netfilter header behind that of netlink (`struct nfgenmsg`).
const NETFILTER_HEADER_LEN: usize = 4;
/// The attribute that holds the name of the table, in messages about tables, chains, rules, sets
/// and elements alike (`NFTA_TABLE_NAME`, `NFTA_CHAIN_TABLE` and so on in
/// include/uapi/linux/netfilter/nf_tables.h).
const ATTRIBUTE_TABLE: u16 = 1;

/// Listens to what the kernel tells of some tables of nftables, whoever changes them. It belongs to
/// the network namespace of the thread that opened it, which needs `CAP_NET_ADMIN` for that, and
/// never waits.
#[derive(Debug)]
pub struct FirewallMonitor {
    socket: Socket,
    tables: Vec<String>,
    buffer: Vec<u8>,
}

/// What was heard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FirewallNews {
    /// One of the tables changed, perhaps by this program.
    pub changed: bool,
    /// More may be waiting to be read.
    pub more: bool,
}

impl FirewallMonitor {
    /// Listens from now on to news about tables with these names.
    ///
    /// # Errors
    /// [`NetlinkError::Open`].
    pub fn open(tables: Vec<String>) -> Result<Self, NetlinkError> {
        let mut socket = Socket::new(NETLINK_NETFILTER).map_err(NetlinkError::Open)?;
        socket.bind_auto().map_err(NetlinkError::Open)?;
        socket.set_non_blocking(true).map_err(NetlinkError::Open)?;
        let group = libc::NFNLGRP_NFTABLES as u32;
        socket.add_membership(group).map_err(NetlinkError::Open)?;
        Ok(Self { socket, tables, buffer: Vec::with_capacity(BUFFER_LEN) })
    }

    /// Reads what waits, but no more than a helping.
    ///
    /// # Errors
    /// What the kernel says if it cannot be read; it will not be better next time.
    pub fn read(&mut self) -> io::Result<FirewallNews> {
        let mut changed = false;
        for _ in 0..FIREWALL_NEWS_PER_TURN {
            self.buffer.clear();
            match self.socket.recv_from(&mut self.buffer, 0) {
                // Port 0 is the kernel; nobody else has anything to tell us.
                Ok((_, sender)) if sender.port_number() != 0 => {}
                Ok(_) => changed |= concerns(&self.buffer, &self.tables),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(FirewallNews { changed, more: false });
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // News was lost for want of room: anything may have changed.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => changed = true,
                Err(error) => return Err(error),
            }
        }
        Ok(FirewallNews { changed, more: true })
    }
}

impl AsRawFd for FirewallMonitor {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// Whether one of the messages in `bytes` is about one of `tables`. One that cannot be read may be.
pub(super) fn concerns(bytes: &[u8], tables: &[String]) -> bool {
    let mut rest = bytes;
    while !rest.is_empty() {
        let Ok((message, remaining)) = split_message("hear of the packet filter", rest) else {
            return true;
        };
        rest = remaining;
        let message = message.into_inner();
        let Some(attributes) = message.get(HEADER_LEN + NETFILTER_HEADER_LEN..) else {
            return true;
        };
        let mut attributes = NlasIterator::new(attributes).filter_map(Result::ok);
        let table = attributes.find(|attribute| attribute.kind() == ATTRIBUTE_TABLE);
        // What tells of the end of a transaction names no table.
        let is_ours = table.is_some_and(|it| {
            let value = it.value();
            let name = value.strip_suffix(&[0]).unwrap_or(value);
            tables.iter().any(|table| table.as_bytes() == name)
        });
        if is_ours {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    use crate::sys::testing::in_namespace;

    #[test]
    fn news_of_the_named_tables_is_told_apart() {
        in_namespace(|| {
            let mut monitor = FirewallMonitor::open(vec!["own".to_owned()]).unwrap();
            let mut after = |command: &str| {
                let words = command.split(' ');
                assert!(Command::new("nft").args(words).status().unwrap().success(), "{command}");
                let news = monitor.read().unwrap();
                assert!(!news.more);
                news.changed
            };
            assert!(!after("add table inet other"));
            assert!(after("add table inet own"));
            assert!(!after("add chain inet other some"));
            assert!(after("add chain inet own some"));
            assert!(!after("add rule inet other some accept"));
            assert!(after("add rule inet own some accept"));
            assert!(after("flush chain inet own some"));
            assert!(after("flush ruleset"));
            assert!(!after("flush ruleset"));
        });
    }

    #[test]
    fn what_cannot_be_read_may_be_about_anything() {
        assert!(concerns(&[0; 7], &[]));
        assert!(!concerns(&[], &[]));
    }
}
