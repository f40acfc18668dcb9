//! For tests: packets built field by field, and checksums verified the slow and obvious way.

use std::net::IpAddr;

use super::parse::{IpVersion, Transport};

/// What stands above the IP layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Upper {
    Tcp,
    Udp,
    Raw(u8),
}

/// What stands in the checksum field of TCP or UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Checksum {
    Whole,
    Partial,
    Zero,
}

/// A packet to build.
#[derive(Clone, Debug)]
pub(super) struct Build {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) tos: u8,
    pub(super) ttl: u8,
    pub(super) id: u16,
    pub(super) dont_fragment: bool,
    pub(super) ip_options: Vec<u8>,
    pub(super) flow_label: u32,
    /// Extension headers: type and bytes, the first of which is filled in.
    pub(super) extensions: Vec<(u8, Vec<u8>)>,
    pub(super) upper: Upper,
    pub(super) ports: (u16, u16),
    pub(super) sequence: u32,
    pub(super) acknowledgement: u32,
    pub(super) tcp_flags: u8,
    pub(super) window: u16,
    pub(super) urgent: u16,
    pub(super) tcp_options: Vec<u8>,
    pub(super) checksum: Checksum,
    pub(super) payload: Vec<u8>,
}

impl Build {
    fn new(source: &str, destination: &str, upper: Upper) -> Self {
        Self {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            tos: 0,
            ttl: 64,
            id: 0x1234,
            dont_fragment: true,
            ip_options: vec![],
            flow_label: 0,
            extensions: vec![],
            upper,
            ports: (40000, 5201),
            sequence: 0x0102_0304,
            acknowledgement: 0x0506_0708,
            tcp_flags: 0x10,
            window: 501,
            urgent: 0,
            tcp_options: vec![],
            checksum: Checksum::Whole,
            payload: vec![1, 2, 3, 4, 5],
        }
    }

    pub(super) fn tcp_v4() -> Self {
        Self::new("10.0.0.2", "10.0.0.1", Upper::Tcp)
    }

    pub(super) fn tcp_v6() -> Self {
        Self::new("fd00::2", "fd00::1", Upper::Tcp)
    }

    pub(super) fn udp_v4() -> Self {
        Self::new("10.0.0.2", "10.0.0.1", Upper::Udp)
    }

    pub(super) fn udp_v6() -> Self {
        Self::new("fd00::2", "fd00::1", Upper::Udp)
    }

    pub(super) fn raw_v4(protocol: u8, payload: &[u8]) -> Self {
        Self { upper: Upper::Raw(protocol), payload: payload.to_vec(), ..Self::udp_v4() }
    }

    pub(super) fn raw_v6(protocol: u8, payload: &[u8]) -> Self {
        Self { upper: Upper::Raw(protocol), payload: payload.to_vec(), ..Self::udp_v6() }
    }

    pub(super) fn partial(self) -> Self {
        Self { checksum: Checksum::Partial, ..self }
    }

    pub(super) fn version(&self) -> IpVersion {
        if self.source.is_ipv4() { IpVersion::V4 } else { IpVersion::V6 }
    }

    pub(super) fn transport(&self) -> Option<Transport> {
        match self.upper {
            Upper::Tcp => Some(Transport::Tcp),
            Upper::Udp => Some(Transport::Udp),
            Upper::Raw(_) => None,
        }
    }

    pub(super) fn transport_offset(&self) -> usize {
        match self.version() {
            IpVersion::V4 => 20 + self.ip_options.len(),
            IpVersion::V6 => {
                40 + self.extensions.iter().map(|(_, bytes)| bytes.len()).sum::<usize>()
            }
        }
    }

    pub(super) fn headers_len(&self) -> usize {
        let upper_header_len = match self.upper {
            Upper::Tcp => 20 + self.tcp_options.len(),
            Upper::Udp => 8,
            Upper::Raw(_) => 0,
        };
        self.transport_offset() + upper_header_len
    }

    pub(super) fn packet(&self) -> Vec<u8> {
        let upper = self.upper_bytes();
        let mut packet = match self.version() {
            IpVersion::V4 => self.v4_header(upper.len()),
            IpVersion::V6 => self.v6_headers(upper.len()),
        };
        packet.extend_from_slice(&upper);
        packet
    }

    fn protocol(&self) -> u8 {
        match self.upper {
            Upper::Tcp => 6,
            Upper::Udp => 17,
            Upper::Raw(protocol) => protocol,
        }
    }

    fn v4_header(&self, upper_len: usize) -> Vec<u8> {
        let header_len = 20 + self.ip_options.len();
        let mut header = vec![0x40 | (header_len / 4) as u8, self.tos];
        header.extend_from_slice(&((header_len + upper_len) as u16).to_be_bytes());
        header.extend_from_slice(&self.id.to_be_bytes());
        header.extend_from_slice(if self.dont_fragment { &[0x40, 0] } else { &[0, 0] });
        header.extend_from_slice(&[self.ttl, self.protocol(), 0, 0]);
        header.extend_from_slice(&octets(self.source));
        header.extend_from_slice(&octets(self.destination));
        header.extend_from_slice(&self.ip_options);
        let checksum = !reference_sum(&header);
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
        header
    }

    fn v6_headers(&self, upper_len: usize) -> Vec<u8> {
        let extensions_len = self.transport_offset() - 40;
        let first = 0x6000_0000 | u32::from(self.tos) << 20 | self.flow_label;
        let mut headers = first.to_be_bytes().to_vec();
        headers.extend_from_slice(&((extensions_len + upper_len) as u16).to_be_bytes());
        let kinds: Vec<u8> = self.extensions.iter().map(|(kind, _)| *kind).collect();
        let mut next = kinds.into_iter().chain([self.protocol()]);
        headers.push(next.next().unwrap());
        headers.push(self.ttl);
        headers.extend_from_slice(&octets(self.source));
        headers.extend_from_slice(&octets(self.destination));
        for (_, bytes) in &self.extensions {
            headers.push(next.next().unwrap());
            headers.extend_from_slice(&bytes[1..]);
        }
        headers
    }

    fn upper_bytes(&self) -> Vec<u8> {
        let mut upper = Vec::new();
        match self.upper {
            Upper::Raw(_) => {}
            Upper::Tcp => {
                upper.extend_from_slice(&self.ports.0.to_be_bytes());
                upper.extend_from_slice(&self.ports.1.to_be_bytes());
                upper.extend_from_slice(&self.sequence.to_be_bytes());
                upper.extend_from_slice(&self.acknowledgement.to_be_bytes());
                upper.push((((20 + self.tcp_options.len()) / 4) << 4) as u8);
                upper.push(self.tcp_flags);
                upper.extend_from_slice(&self.window.to_be_bytes());
                upper.extend_from_slice(&[0, 0]);
                upper.extend_from_slice(&self.urgent.to_be_bytes());
                upper.extend_from_slice(&self.tcp_options);
            }
            Upper::Udp => {
                upper.extend_from_slice(&self.ports.0.to_be_bytes());
                upper.extend_from_slice(&self.ports.1.to_be_bytes());
                upper.extend_from_slice(&((8 + self.payload.len()) as u16).to_be_bytes());
                upper.extend_from_slice(&[0, 0]);
            }
        }
        upper.extend_from_slice(&self.payload);
        if let Some(transport) = self.transport() {
            let pseudo = self.pseudo_header(upper.len());
            let value = match self.checksum {
                Checksum::Zero => 0,
                Checksum::Partial => reference_sum(&pseudo),
                Checksum::Whole => match !reference_sum(&[&pseudo[..], &upper].concat()) {
                    0 => 0xffff,
                    checksum => checksum,
                },
            };
            let at = transport.checksum_offset();
            upper[at..at + 2].copy_from_slice(&value.to_be_bytes());
        }
        upper
    }

    fn pseudo_header(&self, upper_len: usize) -> Vec<u8> {
        pseudo_header(&octets(self.source), &octets(self.destination), self.protocol(), upper_len)
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn pseudo_header(source: &[u8], destination: &[u8], protocol: u8, upper_len: usize) -> Vec<u8> {
    let mut pseudo = [source, destination].concat();
    pseudo.extend_from_slice(&(upper_len as u32).to_be_bytes());
    pseudo.extend_from_slice(&[0, 0, 0, protocol]);
    pseudo
}

/// RFC 1071, word by word.
pub(super) fn reference_sum(data: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    for pair in data.chunks(2) {
        sum += u32::from(pair[0]) * 256 + u32::from(*pair.get(1).unwrap_or(&0));
        if sum > 0xffff {
            sum -= 0xffff;
        }
    }
    sum as u16
}

/// Whether an IPv4 header's checksum verifies; IPv6 has none.
pub(super) fn ip_checksum_is_right(packet: &[u8]) -> bool {
    packet[0] >> 4 == 6 || reference_sum(&packet[..usize::from(packet[0] & 15) * 4]) == 0xffff
}

/// Whether a TCP or UDP checksum verifies, in a packet without IPv6 extension headers.
pub(super) fn transport_checksum_is_right(packet: &[u8]) -> bool {
    let at = if packet[0] >> 4 == 6 { 40 } else { usize::from(packet[0] & 15) * 4 };
    transport_checksum_is_right_at(packet, at)
}

/// Whether the checksum of the TCP or UDP header at `at` verifies.
pub(super) fn transport_checksum_is_right_at(packet: &[u8], at: usize) -> bool {
    let (addresses, protocol) = match packet[0] >> 4 {
        4 => (12..20, packet[9]),
        // No extension header type is a transport's, and TCP's data offset and UDP's length tell.
        _ if at == 40 => (8..40, packet[6]),
        _ if usize::from(packet[at + 4]) * 256 + usize::from(packet[at + 5])
            == packet.len() - at =>
        {
            (8..40, 17)
        }
        _ => (8..40, 6),
    };
    let (source, destination) = packet[addresses.clone()].split_at(addresses.len() / 2);
    let pseudo = pseudo_header(source, destination, protocol, packet.len() - at);
    let field_is_set = protocol != 17 || packet[at + 6..at + 8] != [0, 0];
    field_is_set && reference_sum(&[&pseudo[..], &packet[at..]].concat()) == 0xffff
}
