//! Addresses of interfaces.

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope,
};

use super::{Family, Netlink, NetlinkError};

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// Index of the interface.
    pub device: u32,
    /// The address and the length of its on-link prefix; host bits are kept.
    pub address: IpNet,
    /// Whether it is still being checked for duplicates and not usable yet (`IFA_F_TENTATIVE`).
    pub tentative: bool,
}

impl Netlink {
    /// Gives an interface an address; the kernel adds the route of its prefix. An IPv6 address is
    /// usable at once: duplicate address detection is off (`IFA_F_NODAD`), since a point-to-point
    /// tunnel has nobody to ask. Fails with `EEXIST` if the interface has it already.
    pub fn add_address(&mut self, device: u32, address: IpNet) -> Result<(), NetlinkError> {
        self.execute(
            &format!("add the address {address} to interface {device}"),
            RouteNetlinkMessage::NewAddress(message(device, address)),
            NLM_F_CREATE | NLM_F_EXCL,
        )
    }

    /// Takes an address from an interface.
    pub fn delete_address(&mut self, device: u32, address: IpNet) -> Result<(), NetlinkError> {
        self.execute(
            &format!("remove the address {address} from interface {device}"),
            RouteNetlinkMessage::DelAddress(message(device, address)),
            0,
        )
    }

    /// The addresses of an interface, link-local ones included.
    pub fn addresses(&mut self, device: u32) -> Result<Vec<Address>, NetlinkError> {
        let mut message = AddressMessage::default();
        message.header.index = device;
        let message = RouteNetlinkMessage::GetAddress(message);
        let attempt = format!("list the addresses of interface {device}");
        self.dump(&attempt, &message, |object| match object {
            RouteNetlinkMessage::NewAddress(found) => {
                parse(&found).filter(|address| address.device == device)
            }
            _ => None,
        })
    }
}

fn message(device: u32, address: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = device;
    message.header.family = Family::of(&address).address_family();
    message.header.prefix_len = address.prefix_len();
    message.header.scope = AddressScope::Universe;
    message.attributes.push(AddressAttribute::Local(address.addr()));
    message.attributes.push(AddressAttribute::Address(address.addr()));
    if Family::of(&address) == Family::V6 {
        message.header.flags = AddressHeaderFlags::Nodad;
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    message
}

pub(super) fn parse(message: &AddressMessage) -> Option<Address> {
    // IPv4 carries the own address in IFA_LOCAL (IFA_ADDRESS is the far end of a point-to-point
    // link); IPv6 has IFA_LOCAL only where a far end was given.
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let only = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(address) => Some(*address),
        _ => None,
    });
    let address = IpNet::new(local.or(only)?, message.header.prefix_len).ok()?;
    let tentative = message.header.flags.contains(AddressHeaderFlags::Tentative);
    Some(Address { device: message.header.index, address, tentative })
}
