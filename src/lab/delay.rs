//! A long way for datagrams, where the kernel has no `netem`.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use socket2::SockRef;

use super::{Host, LabError};
use crate::sys::clock;

/// Datagrams that are on their way in one direction. One more is lost, as on a real link.
const QUEUE_MAX: usize = 8192;
/// What the kernel keeps until a thread of this has its turn, in bytes.
const BUFFER_LEN: usize = 4 << 20;
/// How soon the threads notice that they are to end.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A relay that takes UDP datagrams from either of two ends to the other, each a fixed time after
/// it came and in order. What it does not have room for is lost and counted. To each end the other
/// is at an address of the relay's. It ends when it is dropped.
#[derive(Debug)]
pub struct Delay {
    sides: [SocketAddr; 2],
    lost: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// A datagram, and when it arrives.
type OnItsWay = (Instant, Box<[u8]>);

impl Delay {
    /// Relays between the sockets at `ends`, from `address` of `host`; each way takes `one_way`.
    ///
    /// # Errors
    /// [`LabError::Namespace`] if the sockets or threads cannot be made.
    pub fn between(
        host: &Host,
        address: IpAddr,
        ends: [SocketAddr; 2],
        one_way: Duration,
    ) -> Result<Self, LabError> {
        let failed = || LabError::namespace(format!("relay datagrams on {}", host.name()));
        let bind = || -> std::io::Result<Arc<UdpSocket>> {
            let socket = UdpSocket::bind((address, 0))?;
            SockRef::from(&socket).set_recv_buffer_size(BUFFER_LEN)?;
            socket.set_read_timeout(Some(LOOK_EVERY))?;
            Ok(Arc::new(socket))
        };
        let [one, other] = ends;
        let near = host.run(bind)?.map_err(failed())?;
        let far = host.run(bind)?.map_err(failed())?;
        let sides = [near.local_addr().map_err(failed())?, far.local_addr().map_err(failed())?];
        let mut delay =
            Self { sides, lost: Arc::default(), stop: Arc::default(), threads: Vec::new() };
        for (from, via, to, source) in [(&near, &far, other, one), (&far, &near, one, other)] {
            let (queue, queued) = bounded(QUEUE_MAX);
            let (from, via) = (Arc::clone(from), Arc::clone(via));
            let (stop, lost) = (Arc::clone(&delay.stop), Arc::clone(&delay.lost));
            delay
                .spawn(move || take_in(&from, source, one_way, &queue, &stop, &lost))
                .map_err(failed())?;
            delay.spawn(move || hand_on(&via, to, &queued)).map_err(failed())?;
        }
        Ok(delay)
    }

    /// Where the first end, and where the second end finds the other.
    pub const fn sides(&self) -> [SocketAddr; 2] {
        self.sides
    }

    /// Datagrams that found no room.
    pub fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }

    fn spawn(&mut self, work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
        self.threads.push(thread::Builder::new().name("delay".to_owned()).spawn(work)?);
        Ok(())
    }
}

impl Drop for Delay {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            // A panic has been told.
            let _ = thread.join();
        }
    }
}

/// Puts what comes from `source` on its way.
fn take_in(
    socket: &UdpSocket,
    source: SocketAddr,
    one_way: Duration,
    queue: &Sender<OnItsWay>,
    stop: &AtomicBool,
    lost: &AtomicU64,
) {
    let mut bytes = vec![0; usize::from(u16::MAX)];
    while !stop.load(Relaxed) {
        match socket.recv_from(&mut bytes) {
            Ok((len, from)) if from == source => {
                let datagram = (clock::now() + one_way, bytes[..len].into());
                if queue.try_send(datagram).is_err() {
                    lost.fetch_add(1, Relaxed);
                }
            }
            // Of a stranger, or what an earlier datagram came to at the other end.
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => {
                log::warn!("the relay of the laboratory ends: {error}");
                return;
            }
        }
    }
}

/// Hands datagrams on when they are due, until there will be no more.
fn hand_on(socket: &UdpSocket, to: SocketAddr, queued: &Receiver<OnItsWay>) {
    for (due, datagram) in queued {
        let wait = due.saturating_duration_since(clock::now());
        if !wait.is_zero() {
            thread::sleep(wait);
        }
        // An end that is not there, or full, loses it.
        let _ = socket.send_to(&datagram, to);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::sys::testing::PATIENCE;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const ONE_WAY: Duration = Duration::from_millis(30);

    fn end() -> (UdpSocket, SocketAddr) {
        let socket = UdpSocket::bind((HERE, 0)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let address = socket.local_addr().unwrap();
        (socket, address)
    }

    #[test]
    fn datagrams_take_their_time_both_ways_and_stay_in_order() {
        let host = Host::create("host").unwrap();
        let [(one, one_at), (other, other_at)] = host.run(|| [end(), end()]).unwrap();
        let delay = Delay::between(&host, HERE, [one_at, other_at], ONE_WAY).unwrap();
        let [to_other, to_one] = delay.sides();
        let (stranger, _) = host.run(end).unwrap();
        stranger.send_to(b"?", to_other).unwrap();
        for (from, relay, to) in [(&one, to_other, &other), (&other, to_one, &one)] {
            let began = clock::now();
            for number in 0..50_u8 {
                from.send_to(&[number; 500], relay).unwrap();
            }
            for number in 0..50_u8 {
                let mut bytes = [0; 2000];
                let (len, source) = to.recv_from(&mut bytes).unwrap();
                assert!(clock::now() - began >= ONE_WAY, "too soon");
                assert_eq!((len, bytes[0], bytes[len - 1]), (500, number, number));
                assert!(delay.sides().contains(&source), "{source}");
            }
        }
        assert_eq!(delay.lost(), 0);
    }
}
