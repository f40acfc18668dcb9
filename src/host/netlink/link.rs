//! Network interfaces.

use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVeth, LinkAttribute,
    LinkExtentMask, LinkFlags, LinkInfo, LinkMessage,
};

use super::{Netlink, NetlinkError};

/// A network interface, as far as this program cares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index, unique in its namespace and not soon used again.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Packets its queueing discipline holds by default.
    pub txqueuelen: u32,
    /// Whether it is administratively up.
    pub up: bool,
    /// Whether it has a carrier, up or down. A TUN device has one while a process holds a queue
    /// of it.
    pub carrier: bool,
    /// Whether the kernel has brought it into operation (RFC 2863 operational state), which it
    /// does some milliseconds after there is a carrier; what is sent before that is lost.
    pub running: bool,
    /// The kind of driver, such as `tun` or `veth`; none for hardware and loopback.
    pub kind: Option<String>,
}

/// One end of a veth pair to be made.
#[derive(Clone, Copy, Debug)]
pub struct VethEnd<'a> {
    /// The name it gets.
    pub name: &'a str,
    /// The network namespace it is made in.
    pub namespace: BorrowedFd<'a>,
}

impl VethEnd<'_> {
    fn attributes(&self) -> Vec<LinkAttribute> {
        vec![
            LinkAttribute::IfName(self.name.to_owned()),
            LinkAttribute::NetNsFd(self.namespace.as_raw_fd()),
        ]
    }
}

impl Netlink {
    /// The interface called `name`. Fails with `ENODEV` (see [`NetlinkError::is_not_found`]) if
    /// there is none.
    pub fn link(&mut self, name: &str) -> Result<Link, NetlinkError> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        self.find_link(&format!("find the interface {name}"), message)
    }

    /// The interface with this index.
    pub fn link_by_index(&mut self, index: u32) -> Result<Link, NetlinkError> {
        self.find_link(&format!("find the interface with index {index}"), of_index(index))
    }

    /// The index of the interface called `name`.
    pub fn link_index(&mut self, name: &str) -> Result<u32, NetlinkError> {
        self.link(name).map(|link| link.index)
    }

    /// Every interface of the namespace.
    pub fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let message = RouteNetlinkMessage::GetLink(message);
        self.dump("list the interfaces", &message, |object| match object {
            RouteNetlinkMessage::NewLink(link) => Some(parse(&link)),
            _ => None,
        })
    }

    /// Sets an interface administratively up.
    pub fn set_up(&mut self, index: u32) -> Result<(), NetlinkError> {
        self.set_up_or_down(index, true)
    }

    /// Sets an interface administratively down. The kernel drops its routes.
    pub fn set_down(&mut self, index: u32) -> Result<(), NetlinkError> {
        self.set_up_or_down(index, false)
    }

    /// Sets the MTU of an interface, in bytes.
    pub fn set_mtu(&mut self, index: u32, mtu: u32) -> Result<(), NetlinkError> {
        let attempt = format!("set the MTU of interface {index} to {mtu}");
        self.set_link(&attempt, index, LinkAttribute::Mtu(mtu))
    }

    /// Sets how many packets the queueing discipline of an interface holds by default.
    pub fn set_txqueuelen(&mut self, index: u32, packets: u32) -> Result<(), NetlinkError> {
        let attempt = format!("set the transmit queue length of interface {index} to {packets}");
        self.set_link(&attempt, index, LinkAttribute::TxQueueLen(packets))
    }

    /// Renames an interface. It must be down on kernels before 6.2.
    pub fn rename_link(&mut self, index: u32, name: &str) -> Result<(), NetlinkError> {
        let attempt = format!("rename interface {index} to {name}");
        self.set_link(&attempt, index, LinkAttribute::IfName(name.to_owned()))
    }

    /// Keeps the kernel from giving an interface a link-local IPv6 address of its own making, and
    /// so from soliciting routers on it (`IN6_ADDR_GEN_MODE_NONE`). Before it is brought up.
    pub fn disable_link_local_address(&mut self, index: u32) -> Result<(), NetlinkError> {
        let mode = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
        let attribute = LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![mode])]);
        let attempt = format!("switch off link-local addresses on interface {index}");
        self.set_link(&attempt, index, attribute)
    }

    /// Removes a virtual interface; the other end of a veth pair goes with it.
    pub fn delete_link(&mut self, index: u32) -> Result<(), NetlinkError> {
        let message = RouteNetlinkMessage::DelLink(of_index(index));
        self.execute(&format!("remove the interface with index {index}"), message, 0)
    }

    /// Makes a veth pair, each end in a namespace of its own, down, with the given MTU.
    pub fn create_veth(
        &mut self,
        near: VethEnd<'_>,
        far: VethEnd<'_>,
        mtu: u32,
    ) -> Result<(), NetlinkError> {
        let mut peer = LinkMessage::default();
        peer.attributes = far.attributes();
        peer.attributes.push(LinkAttribute::Mtu(mtu));
        let mut message = LinkMessage::default();
        message.attributes = near.attributes();
        message.attributes.push(LinkAttribute::Mtu(mtu));
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]));
        self.execute(
            &format!("create the veth pair {} and {}", near.name, far.name),
            RouteNetlinkMessage::NewLink(message),
            NLM_F_CREATE | NLM_F_EXCL,
        )
    }

    fn find_link(&mut self, attempt: &str, mut message: LinkMessage) -> Result<Link, NetlinkError> {
        message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        match self.query(attempt, RouteNetlinkMessage::GetLink(message))? {
            RouteNetlinkMessage::NewLink(link) => Ok(parse(&link)),
            other => Err(NetlinkError::Unexpected {
                attempt: attempt.to_owned(),
                detail: format!("{other:?}"),
            }),
        }
    }

    fn set_up_or_down(&mut self, index: u32, up: bool) -> Result<(), NetlinkError> {
        let mut message = of_index(index);
        message.header.change_mask = LinkFlags::Up;
        if up {
            message.header.flags = LinkFlags::Up;
        }
        let attempt = format!("set interface {index} {}", if up { "up" } else { "down" });
        self.execute(&attempt, RouteNetlinkMessage::SetLink(message), 0)
    }

    fn set_link(
        &mut self,
        attempt: &str,
        index: u32,
        attribute: LinkAttribute,
    ) -> Result<(), NetlinkError> {
        let mut message = of_index(index);
        message.attributes.push(attribute);
        self.execute(attempt, RouteNetlinkMessage::SetLink(message), 0)
    }
}

fn of_index(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message
}

pub(super) fn parse(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mtu: 0,
        txqueuelen: 0,
        up: message.header.flags.contains(LinkFlags::Up),
        carrier: false,
        running: message.header.flags.contains(LinkFlags::Running),
        kind: None,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::TxQueueLen(packets) => link.txqueuelen = *packets,
            LinkAttribute::Carrier(carrier) => link.carrier = *carrier != 0,
            LinkAttribute::LinkInfo(infos) => {
                link.kind = infos.iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    link
}
