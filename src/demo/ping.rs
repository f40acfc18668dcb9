//! ICMP echo (RFC 792), as `ping` does it.

use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::bench::{LatencyReport, StopFlag};
use crate::limits::BENCH_TICK;
use crate::packet::checksum;
use crate::sys::clock;

const ECHO_REPLY: u8 = 0;
const ECHO_REQUEST: u8 = 8;
const HEADER_LEN: usize = 8;
/// Bytes behind the ICMP header, as many as `ping` sends.
const PAYLOAD_LEN: usize = 56;
/// How long to wait for the last answers.
const STRAGGLERS_WITHIN: Duration = Duration::from_secs(1);

/// What to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) to: Ipv4Addr,
    pub(super) count: u16,
    pub(super) interval: Duration,
}

impl Request {
    /// A hundred echoes, 10 ms apart.
    pub(super) fn to(to: Ipv4Addr) -> Self {
        Self { to, count: 100, interval: Duration::from_millis(10) }
    }
}

/// Sends echo requests from the network namespace the calling thread is in. `PermissionDenied`
/// without `CAP_NET_RAW`. Ends early, with what it has, when `stop` is raised.
pub(super) fn ping(request: &Request, stop: &StopFlag) -> io::Result<LatencyReport> {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))?;
    // Only this address's packets come in then.
    socket.connect(&SocketAddr::from((request.to, 0)).into())?;
    let id = std::process::id() as u16;
    let mut pinger = Pinger { socket, id, sent: Vec::new(), round_trips_ms: Vec::new() };
    let start = clock::now();
    for sequence in 0..request.count {
        pinger.collect_until(start + request.interval * u32::from(sequence), stop, false)?;
        if stop.is_raised() {
            break;
        }
        let message = echo_request(id, sequence);
        pinger.sent.push(Some(clock::now()));
        pinger.socket.send(&message)?;
    }
    pinger.collect_until(clock::now() + STRAGGLERS_WITHIN, stop, true)?;
    let sent = pinger.sent.len() as u64;
    let length = PAYLOAD_LEN as u32;
    Ok(LatencyReport::new(request.to.to_string(), length, sent, &pinger.round_trips_ms))
}

struct Pinger {
    socket: Socket,
    id: u16,
    /// When each request was sent; none once it has been answered.
    sent: Vec<Option<Instant>>,
    round_trips_ms: Vec<f64>,
}

impl Pinger {
    /// Takes answers until `until` or, if `until_answered`, until none is missing.
    fn collect_until(
        &mut self,
        until: Instant,
        stop: &StopFlag,
        until_answered: bool,
    ) -> io::Result<()> {
        let mut packet = [0; 2048];
        while !stop.is_raised() {
            let left = until.saturating_duration_since(clock::now());
            if left.is_zero() || (until_answered && self.sent.iter().all(Option::is_none)) {
                break;
            }
            self.socket.set_read_timeout(Some(left.clamp(Duration::from_millis(1), BENCH_TICK)))?;
            match (&self.socket).read(&mut packet) {
                Ok(len) => self.take_answer(packet.get(..len).unwrap_or_default(), clock::now()),
                Err(error) if is_transient(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn take_answer(&mut self, packet: &[u8], now: Instant) {
        let Some(sequence) = echo_reply(packet, self.id) else { return };
        let sent = self.sent.get_mut(usize::from(sequence)).and_then(Option::take);
        if let Some(sent) = sent {
            self.round_trips_ms.push(now.duration_since(sent).as_secs_f64() * 1000.0);
        }
    }
}

/// A timeout, an interruption, or an ICMP error about an earlier request: keep waiting.
fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock
            | io::ErrorKind::TimedOut
            | io::ErrorKind::Interrupted
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
    )
}

fn echo_request(id: u16, sequence: u16) -> [u8; HEADER_LEN + PAYLOAD_LEN] {
    let mut message = [0x5a; HEADER_LEN + PAYLOAD_LEN];
    message[..4].copy_from_slice(&[ECHO_REQUEST, 0, 0, 0]);
    message[4..6].copy_from_slice(&id.to_be_bytes());
    message[6..8].copy_from_slice(&sequence.to_be_bytes());
    let sum = !checksum::sum(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

/// The sequence number of an echo reply to `id`; a raw socket delivers the IP header as well.
fn echo_reply(packet: &[u8], id: u16) -> Option<u16> {
    let header_len = usize::from(packet.first()? & 0x0f) * 4;
    let (header, _) = packet.get(header_len..)?.split_first_chunk::<HEADER_LEN>()?;
    let [kind, code, _, _, id_high, id_low, high, low] = *header;
    let ours = kind == ECHO_REPLY && code == 0 && [id_high, id_low] == id.to_be_bytes();
    ours.then(|| u16::from_be_bytes([high, low]))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use super::{Request, echo_reply, echo_request, ping};
    use crate::bench::StopFlag;
    use crate::packet::checksum;
    use crate::sys::netns::NetNamespace;

    #[test]
    fn only_replies_to_this_process_count() {
        let request = echo_request(0x1234, 0x0102);
        assert_eq!(checksum::sum(&request), 0xffff, "a message with its checksum sums to all ones");
        let mut packet = vec![0x45; 20];
        packet.extend(request);
        assert_eq!(echo_reply(&packet, 0x1234), None, "a request");
        packet[20] = 0;
        assert_eq!(echo_reply(&packet, 0x1234), Some(0x0102));
        assert_eq!(echo_reply(&packet, 0x1235), None, "another process's");
        for len in 0..28 {
            assert_eq!(echo_reply(&packet[..len], 0x1234), None, "cut to {len}");
        }
    }

    #[test]
    fn the_loopback_answers_and_a_raised_flag_ends_the_wait() {
        let namespace = NetNamespace::create().expect("this test needs root or `unshare -Ur`");
        let request = Request {
            count: 5,
            interval: Duration::from_millis(1),
            ..Request::to(Ipv4Addr::LOCALHOST)
        };
        let stop = StopFlag::new();
        let report = namespace.run_in(|| ping(&request, &stop)).unwrap().unwrap();
        assert_eq!((report.sent, report.received), (5, 5));
        stop.raise();
        let report = namespace.run_in(|| ping(&request, &stop)).unwrap().unwrap();
        assert_eq!(report.sent, 0);
    }
}
