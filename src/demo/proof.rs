//! Whether the payload can be seen on the wire.
//!
//! Datagrams with a random pattern cross the tunnel in both directions while the server's link and
//! its TUN device are watched. On the link, every UDP datagram must be a message of the protocol
//! and nothing may contain the pattern. On the TUN device, the same search must find the pattern:
//! otherwise the search proves nothing.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::thread;
use std::time::Duration;

use rand::TryRngCore;
use rand::rngs::OsRng;
use serde::{Deserialize, Serialize};

use super::error::DemoError;
use super::site::{CLIENT_INNER_V4, CLIENT_INNER_V6, SERVER_INNER_V4, SERVER_INNER_V6};
use crate::bench::StopFlag;
use crate::lab::{Host, LINK, TwoHosts};
use crate::packet::{Parsed, Transport};
use crate::sys::capture::{Capture, Captured};
use crate::sys::clock;
use crate::wire::MessageType;

const PATTERN_LEN: usize = 64;
/// Datagrams of each address family and direction. Each has the pattern at another offset.
const DATAGRAMS: usize = 32;
/// How long to wait for each datagram to arrive.
const ARRIVE_WITHIN: Duration = Duration::from_millis(500);
/// How long the captures must have been quiet at the end.
const QUIET: Duration = Duration::from_millis(200);
/// How long to wait for that.
const QUIET_WITHIN: Duration = Duration::from_secs(5);

/// What was seen on one interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sighting {
    /// Packets.
    pub packets: u64,
    /// UDP datagrams that begin as a handshake initiation (type 1).
    pub initiations: u64,
    /// UDP datagrams that begin as a handshake response (type 2).
    pub responses: u64,
    /// UDP datagrams that begin as a cookie reply (type 3).
    pub cookie_replies: u64,
    /// UDP datagrams that begin as a data message (type 4).
    pub data: u64,
    /// UDP datagrams that begin otherwise.
    pub other_datagrams: u64,
    /// Packets that are no UDP: ARP, neighbour discovery.
    pub other_packets: u64,
    /// Packets that contain the pattern.
    pub with_pattern: u64,
    /// Packets that the capture had no room for.
    pub missed: u64,
}

/// What the proof rests on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProofReport {
    /// Datagrams with the pattern that crossed the tunnel and arrived whole.
    pub delivered: u64,
    /// What was seen on the link between the hosts.
    pub outer: Sighting,
    /// What was seen on the TUN device.
    pub inner: Sighting,
}

impl ProofReport {
    /// Why this proves nothing, or the contrary; `None` if the payload is concealed.
    pub fn objection(&self) -> Option<String> {
        let Self { delivered, outer, inner } = self;
        if outer.with_pattern > 0 {
            return Some(format!(
                "{} packets on the link contain it in the clear",
                outer.with_pattern
            ));
        }
        if outer.other_datagrams > 0 {
            let count = outer.other_datagrams;
            return Some(format!("{count} datagrams on the link are no message of types 1 to 4"));
        }
        if *delivered == 0 {
            return Some("no datagram with the pattern crossed the tunnel".to_owned());
        }
        if inner.with_pattern < *delivered {
            let seen = inner.with_pattern;
            return Some(format!(
                "the search found only {seen} of {delivered} inside the tunnel, so it may have \
                 overlooked some outside"
            ));
        }
        if outer.data == 0 || outer.missed > 0 {
            let missed = outer.missed;
            return Some(format!("the capture of the link is not complete ({missed} missed)"));
        }
        None
    }
}

/// Sends the pattern through the tunnel and looks for it. `tun` is the server's TUN device.
pub(super) fn prove(lab: &TwoHosts, tun: &str, stop: &StopFlag) -> Result<ProofReport, DemoError> {
    let mut pattern = [0; PATTERN_LEN];
    OsRng
        .try_fill_bytes(&mut pattern)
        .map_err(|error| DemoError::io("read random bytes")(io::Error::other(error)))?;
    let open = |interface: &str| {
        lab.server
            .run(|| Capture::open(interface))?
            .map_err(DemoError::io(format!("capture the packets of {interface}")))
    };
    let (mut outer, mut inner) = (open(LINK)?, open(tun)?);
    let mut report = ProofReport::default();
    let families: [(IpAddr, IpAddr); 2] = [
        (SERVER_INNER_V4.into(), CLIENT_INNER_V4.into()),
        (SERVER_INNER_V6.into(), CLIENT_INNER_V6.into()),
    ];
    for (server, client) in families {
        let (server, client) = (bind(&lab.server, server)?, bind(&lab.client, client)?);
        for number in 0..DATAGRAMS {
            if stop.is_raised() {
                return Err(DemoError::Interrupted);
            }
            for (from, to) in [(&client, &server), (&server, &client)] {
                let crossed = cross(from, to, &pattern, number);
                report.delivered +=
                    u64::from(crossed.map_err(DemoError::io("send through the tunnel"))?);
                look(&mut outer, &pattern, &mut report.outer)?;
                look(&mut inner, &pattern, &mut report.inner)?;
            }
        }
    }
    look_until_quiet(
        &mut [(&mut outer, &mut report.outer), (&mut inner, &mut report.inner)],
        &pattern,
    )?;
    for (capture, sighting) in [(&outer, &mut report.outer), (&inner, &mut report.inner)] {
        let missed = capture.missed().map_err(DemoError::io("ask a capture what it missed"))?;
        sighting.missed = u64::from(missed);
    }
    Ok(report)
}

fn bind(host: &Host, address: IpAddr) -> Result<UdpSocket, DemoError> {
    let failed = || format!("open a socket on the {} at {address}", host.name());
    let socket = host
        .run(|| UdpSocket::bind(SocketAddr::new(address, 0)))?
        .map_err(DemoError::io(failed()))?;
    socket.set_read_timeout(Some(ARRIVE_WITHIN)).map_err(DemoError::io(failed()))?;
    Ok(socket)
}

/// Sends one datagram and waits for it; whether it arrived whole.
fn cross(from: &UdpSocket, to: &UdpSocket, pattern: &[u8], number: usize) -> io::Result<bool> {
    let mut datagram = vec![number as u8; number];
    datagram.extend_from_slice(pattern);
    from.send_to(&datagram, to.local_addr()?)?;
    let mut received = [0; 2 * PATTERN_LEN + DATAGRAMS];
    match to.recv(&mut received) {
        Ok(len) => Ok(received.get(..len) == Some(&datagram)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}

/// Looks at everything captured so far; whether there was anything.
fn look(capture: &mut Capture, pattern: &[u8], sighting: &mut Sighting) -> Result<bool, DemoError> {
    let mut any = false;
    while let Some(captured) = capture.receive().map_err(DemoError::io("read a captured packet"))? {
        sighting.note(&captured, pattern);
        any = true;
    }
    Ok(any)
}

fn look_until_quiet(
    captures: &mut [(&mut Capture, &mut Sighting)],
    pattern: &[u8],
) -> Result<(), DemoError> {
    let end = clock::now() + QUIET_WITHIN;
    let mut quiet_since = clock::now();
    while clock::now() < end && clock::now().duration_since(quiet_since) < QUIET {
        for (capture, sighting) in captures.iter_mut() {
            if look(capture, pattern, sighting)? {
                quiet_since = clock::now();
            }
        }
        thread::sleep(QUIET / 20);
    }
    Ok(())
}

impl Sighting {
    /// Takes one packet into account.
    fn note(&mut self, captured: &Captured<'_>, pattern: &[u8]) {
        self.packets += 1;
        let packet = captured.packet;
        self.with_pattern += u64::from(packet.windows(pattern.len()).any(|piece| piece == pattern));
        let parsed = Parsed::parse(packet).ok().filter(|p| p.transport == Some(Transport::Udp));
        let payload = parsed.and_then(|parsed| packet.get(parsed.payload_offset..parsed.total_len));
        let Some(payload) = payload else {
            self.other_packets += 1;
            return;
        };
        let segment_len = captured.segment_len.unwrap_or(payload.len()).max(1);
        for datagram in payload.chunks(segment_len) {
            *match MessageType::of(datagram) {
                Some(MessageType::Initiation) => &mut self.initiations,
                Some(MessageType::Response) => &mut self.responses,
                Some(MessageType::CookieReply) => &mut self.cookie_replies,
                Some(MessageType::Data) => &mut self.data,
                None => &mut self.other_datagrams,
            } += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{ProofReport, Sighting};
    use crate::sys::capture::Captured;

    /// An IPv4 packet with a UDP datagram of `payload`.
    fn udp_packet(payload: &[u8]) -> Vec<u8> {
        let total_len = (28 + payload.len()) as u16;
        let mut packet = vec![0x45, 0];
        packet.extend(total_len.to_be_bytes());
        packet.extend([0, 0, 0x40, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
        packet.extend([0x4f, 0xdb, 0x4f, 0xdb]);
        packet.extend(((8 + payload.len()) as u16).to_be_bytes());
        packet.extend([0, 0]);
        packet.extend(payload);
        packet
    }

    fn note(packets: &[(&[u8], Option<usize>)]) -> Sighting {
        let mut sighting = Sighting::default();
        for (packet, segment_len) in packets {
            let captured = Captured { packet, segment_len: *segment_len, outgoing: false };
            sighting.note(&captured, b"pattern");
        }
        sighting
    }

    #[test]
    fn every_datagram_of_a_train_is_judged_by_its_own_first_byte() {
        let train = udp_packet(&[4, 0, 0, 4, 0, 0, 9, 0]);
        let seen = note(&[(&train, Some(3)), (&udp_packet(&[1]), None), (&udp_packet(&[]), None)]);
        assert_eq!((seen.packets, seen.data, seen.initiations), (3, 2, 1));
        assert_eq!(seen.other_datagrams, 1, "the last datagram of the train");
        let seen = note(&[(&[0; 28], None), (&[], None)]);
        assert_eq!((seen.other_packets, seen.other_datagrams), (2, 0));
    }

    #[test]
    fn the_pattern_is_found_anywhere_in_a_packet() {
        let seen = note(&[
            (&udp_packet(b"\x04...pattern"), None),
            (b"pattern, not even IP", None),
            (&udp_packet(b"\x04patter"), None),
        ]);
        assert_eq!(seen.with_pattern, 2);
    }

    #[test]
    fn what_counts_as_proof() {
        let outer = Sighting { packets: 5, data: 5, ..Sighting::default() };
        let inner = Sighting { packets: 4, with_pattern: 4, ..Sighting::default() };
        let good = ProofReport { delivered: 4, outer, inner };
        assert_eq!(good.objection(), None);
        let objection = |report: ProofReport| report.objection().unwrap();
        let seen = Sighting { with_pattern: 1, ..outer };
        assert!(objection(ProofReport { outer: seen, ..good }).contains("in the clear"));
        let strange = Sighting { other_datagrams: 1, ..outer };
        assert!(objection(ProofReport { outer: strange, ..good }).contains("types 1 to 4"));
        assert!(objection(ProofReport { delivered: 0, ..good }).contains("crossed"));
        assert!(objection(ProofReport { delivered: 5, ..good }).contains("only 4 of 5"));
        let blind = Sighting { data: 0, ..outer };
        assert!(objection(ProofReport { outer: blind, ..good }).contains("not complete"));
        let missed = Sighting { missed: 2, ..outer };
        assert!(objection(ProofReport { outer: missed, ..good }).contains("2 missed"));
    }
}
