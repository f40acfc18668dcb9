//! Who may send through a UDP association (RFC 1928 section 7).
//!
//! An association belongs to a TCP connection and ends with it. Only the host at the other end of
//! that connection may send, and only from one port: the one that it has announced, or else the
//! first from which a sound datagram comes. What comes back is passed on only from hosts that the
//! client has sent to, so that nobody gets through who was not asked.
//!
//! The caller looks names up and judges every address before it says [`Association::sends_to`].

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use super::super::target::Target;
use super::datagram::{self, DatagramError, SourceHeader};
use crate::limits::ASSOCIATION_HOSTS_MAX;

/// Why a datagram is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AssociationDrop {
    /// It is not from the client's host and port.
    #[error("the datagram is not from the client of the association")]
    NotClient,
    /// It is from the client, but no datagram of SOCKS that can be passed on.
    #[error(transparent)]
    Datagram(#[from] DatagramError),
    /// It is from a host to which the client has sent nothing.
    #[error("the datagram is from a host that the client has not sent to")]
    Unasked,
}

/// A UDP association.
#[derive(Debug)]
pub struct Association {
    client: IpAddr,
    /// The port from which the client sends, once that is known.
    port: Option<u16>,
    /// Hosts that may answer, and when the client has last sent to each.
    hosts: HashMap<IpAddr, u64>,
    /// Counts what the client sends.
    sent: u64,
}

impl Association {
    /// The association of a client whose TCP connection comes from `peer` and who says that it will
    /// send from `announced`.
    ///
    /// That counts only where it names the very address that the connection comes from. Otherwise
    /// the client does not know its address, because it has said nothing or there is a NAT in
    /// between, and then it does not know the port either.
    pub fn new(peer: IpAddr, announced: SocketAddr) -> Self {
        let client = peer.to_canonical();
        let knows = announced.ip().to_canonical() == client && announced.port() != 0;
        let port = knows.then(|| announced.port());
        Self { client, port, hosts: HashMap::new(), sent: 0 }
    }

    /// The client's address and port, once a datagram may be sent there.
    pub fn client(&self) -> Option<SocketAddr> {
        self.port.map(|port| SocketAddr::new(self.client, port))
    }

    /// A datagram has come where clients send to. Returns where it is to go, if that is allowed,
    /// and what is to go there.
    pub fn from_client<'a>(
        &mut self,
        from: SocketAddr,
        datagram: &'a [u8],
    ) -> Result<(Target, &'a [u8]), AssociationDrop> {
        let is_port = self.port.is_none_or(|port| port == from.port());
        if from.ip().to_canonical() != self.client || !is_port {
            return Err(AssociationDrop::NotClient);
        }
        let parsed = datagram::parse(datagram)?;
        self.port = Some(from.port());
        Ok(parsed)
    }

    /// The client's datagram goes to `host`, which may answer from now on. If there are too many,
    /// the one that the client has not sent to for the longest time may not any more.
    pub fn sends_to(&mut self, host: IpAddr) {
        let host = host.to_canonical();
        self.sent += 1;
        if self.hosts.len() >= ASSOCIATION_HOSTS_MAX && !self.hosts.contains_key(&host) {
            let oldest = self.hosts.iter().min_by_key(|(_, sent)| **sent).map(|(host, _)| *host);
            oldest.map(|oldest| self.hosts.remove(&oldest));
        }
        self.hosts.insert(host, self.sent);
    }

    /// A datagram has come from elsewhere. Returns the client's address, and the header that is to
    /// be put in front of it.
    pub fn to_client(
        &self,
        from: SocketAddr,
    ) -> Result<(SocketAddr, SourceHeader), AssociationDrop> {
        let may_answer = self.hosts.contains_key(&from.ip().to_canonical());
        let client = self.client().filter(|_| may_answer).ok_or(AssociationDrop::Unasked)?;
        Ok((client, SourceHeader::of(from)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    /// A datagram to 192.0.2.9:53 that says "hi".
    const DATAGRAM: &[u8] = b"\0\0\0\x01\xc0\0\x02\x09\0\x35hi";

    #[test]
    fn only_the_client_sends_and_from_one_port_only() {
        // Announced, then senders in order and whether each is taken.
        type Case = (&'static str, &'static [(&'static str, bool)]);
        let table: [Case; 5] = [
            ("0.0.0.0:0", &[("10.0.0.2:1", false), ("10.0.0.1:7", true), ("10.0.0.1:8", false)]),
            ("10.0.0.1:7", &[("10.0.0.1:8", false), ("10.0.0.1:7", true)]),
            // Behind a NAT: what it says is not what is seen.
            ("192.168.1.5:7", &[("192.168.1.5:7", false), ("10.0.0.1:9", true)]),
            ("0.0.0.0:7", &[("10.0.0.1:9", true), ("10.0.0.1:7", false)]),
            ("[::ffff:10.0.0.1]:7", &[("10.0.0.1:9", false), ("[::ffff:10.0.0.1]:7", true)]),
        ];
        for (announced, senders) in table {
            let peer = "::ffff:10.0.0.1".parse().unwrap();
            let mut association = Association::new(peer, socket(announced));
            for (sender, is_taken) in senders {
                let taken = association.from_client(socket(sender), DATAGRAM);
                let expected = if *is_taken {
                    Ok(("192.0.2.9:53".parse().unwrap(), &b"hi"[..]))
                } else {
                    Err(AssociationDrop::NotClient)
                };
                assert_eq!(taken, expected, "{announced}: {sender}");
            }
        }
    }

    #[test]
    fn a_bad_datagram_does_not_fix_the_port() {
        let mut association = Association::new([10, 0, 0, 1].into(), socket("0.0.0.0:0"));
        let taken =
            association.from_client(socket("10.0.0.1:1"), b"\0\0\x01\x01\xc0\0\x02\x09\0\x35");
        assert_eq!(taken, Err(DatagramError::Fragment(1).into()));
        assert_eq!(association.client(), None);
        association.from_client(socket("10.0.0.1:2"), DATAGRAM).unwrap();
        assert_eq!(association.client(), Some(socket("10.0.0.1:2")));
    }

    #[test]
    fn only_who_was_asked_answers_and_is_named() {
        let mut association = Association::new([10, 0, 0, 1].into(), socket("0.0.0.0:0"));
        let remote = socket("192.0.2.9:53");
        assert_eq!(association.to_client(remote), Err(AssociationDrop::Unasked));
        association.from_client(socket("10.0.0.1:2"), DATAGRAM).unwrap();
        assert_eq!(association.to_client(remote), Err(AssociationDrop::Unasked), "not judged yet");
        association.sends_to(remote.ip());
        let (client, header) = association.to_client(socket("[::ffff:192.0.2.9]:54")).unwrap();
        assert_eq!(client, socket("10.0.0.1:2"));
        assert_eq!(&header[..], b"\0\0\0\x01\xc0\0\x02\x09\0\x36", "another port, truly named");
        let other = association.to_client(socket("192.0.2.10:53"));
        assert_eq!(other, Err(AssociationDrop::Unasked));
    }

    #[test]
    fn hosts_are_bounded_and_the_oldest_goes() {
        let mut association = Association::new([10, 0, 0, 1].into(), socket("10.0.0.1:2"));
        let host = |number: usize| IpAddr::from(u32::try_from(number).unwrap().to_be_bytes());
        (0..ASSOCIATION_HOSTS_MAX).for_each(|number| association.sends_to(host(number)));
        association.sends_to(host(0));
        association.sends_to(host(ASSOCIATION_HOSTS_MAX));
        let answers = |number| association.to_client(SocketAddr::new(host(number), 1)).is_ok();
        assert!(answers(0) && answers(2) && answers(ASSOCIATION_HOSTS_MAX));
        assert!(!answers(1), "the client has not sent there for the longest time");
        assert_eq!(association.hosts.len(), ASSOCIATION_HOSTS_MAX);
    }
}
