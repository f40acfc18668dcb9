//! One socket of a worker and what waits to leave by it.

use std::sync::Arc;
use std::time::Instant;

use crate::dataplane::forwarder::SendOutcome;
use crate::dataplane::trains::TrainBuilder;
use crate::limits::{DATA_OVERHEAD_LEN, GSO_RETRY_AFTER, SEND_TRAINS_MAX};
use crate::sys::udp::{SendBatch, SendFault, SendFaultKind, SendTarget, UdpSocket};
use crate::telemetry::counters::WorkerCounters;
use crate::telemetry::drops::DropReason;

/// A socket, and what is known about it.
pub(super) struct Link {
    pub(super) socket: UdpSocket,
    /// Datagrams may be waiting.
    pub(super) readable: bool,
    /// It takes no more until it is writable again.
    pub(super) blocked: bool,
    /// The poll tells when the socket has room again.
    pub(super) awaits_room: bool,
    batch: SendBatch,
    segmentation: Segmentation,
    counters: Arc<WorkerCounters>,
}

impl Link {
    /// With `gso` off every datagram leaves alone.
    pub(super) fn new(socket: UdpSocket, gso: bool, counters: Arc<WorkerCounters>) -> Self {
        Self {
            socket,
            readable: true,
            blocked: false,
            awaits_room: false,
            batch: SendBatch::new(SEND_TRAINS_MAX),
            segmentation: Segmentation { left_off: !gso, ..Segmentation::default() },
            counters,
        }
    }

    /// Sends what `trains` holds, as far as the kernel takes it, and clears them if all has left.
    /// `now` may be as old as the worker's last wake-up.
    pub(super) fn send(&mut self, now: Instant, trains: &mut TrainBuilder) -> SendOutcome {
        self.batch.set_gso(self.segmentation.is_on(now));
        for train in trains.hand_over() {
            let target = SendTarget { remote: train.endpoint.remote, local: train.endpoint.local };
            let segment_len = (train.datagrams > 1).then_some(train.segment_len as u16);
            if self.batch.push(train.range.clone(), &target, segment_len, train.tos).is_err() {
                self.counters.drops.add(DropReason::SendFailed, train.datagrams as u64);
            }
        }
        let mut outcome = SendOutcome::default();
        let Self { counters, segmentation, .. } = self;
        let report = self.batch.send(&self.socket, trains.arena(), |fault| {
            segmentation.note(&fault);
            counters.drops.add(DropReason::SendFailed, fault.datagrams as u64);
            note_fault(&fault, trains, &mut outcome);
        });
        segmentation.conclude(now, report.blocked);
        counters.udp_sends.add(report.calls as u64);
        if !segmentation.left_off {
            counters.gso_fallbacks.add(report.split_datagrams as u64);
        }
        self.blocked = report.blocked;
        if !report.blocked {
            trains.clear();
        }
        outcome
    }
}

/// Remembers what others should know of a fault.
fn note_fault(fault: &SendFault, trains: &TrainBuilder, outcome: &mut SendOutcome) {
    let Some(train) = trains.trains().get(fault.index) else { return };
    match fault.kind {
        SendFaultKind::SourceGone => {
            outcome.source_gone = train.endpoint.local.map(|source| (train.session, source));
        }
        SendFaultKind::TooBig { datagram_len } => {
            let plaintext_len = datagram_len.saturating_sub(DATA_OVERHEAD_LEN);
            outcome.too_big = Some((train.session, plaintext_len));
        }
        SendFaultKind::TrainRefused | SendFaultKind::Refused => {}
    }
}

/// Whether trains leave whole.
///
/// Where the kernel refuses a train and then takes its datagrams one by one, it will refuse the
/// next one too (a device without checksum offload, an IPsec route), and each refusal costs a
/// system call. So trains are sent singly from the start for [`GSO_RETRY_AFTER`]; then they are
/// tried again, since routes and devices change. Where the datagrams fare no better on their own,
/// the train was not at fault.
#[derive(Debug, Default)]
struct Segmentation {
    /// They never do: it is switched off, or the kernel does not know how.
    left_off: bool,
    off_until: Option<Instant>,
    /// The message of the current send that was refused as a train, not yet as datagrams.
    suspect: Option<usize>,
    /// A train of the current send was refused and its datagrams were not.
    at_fault: bool,
}

impl Segmentation {
    fn is_on(&mut self, now: Instant) -> bool {
        self.off_until.take_if(|until| now >= *until);
        !self.left_off && self.off_until.is_none()
    }

    /// Faults come in the order of the messages: the next message's clears up the last.
    fn note(&mut self, fault: &SendFault) {
        match fault.kind {
            SendFaultKind::TrainRefused => {
                self.at_fault |= self.suspect.replace(fault.index).is_some();
            }
            SendFaultKind::SourceGone | SendFaultKind::TooBig { .. } | SendFaultKind::Refused => {
                self.suspect.take_if(|suspect| *suspect == fault.index);
            }
        }
    }

    /// A send has ended; if it was `blocked` nothing is known of the last suspect.
    fn conclude(&mut self, now: Instant, blocked: bool) {
        let suspect = self.suspect.take();
        if std::mem::take(&mut self.at_fault) || (suspect.is_some() && !blocked) {
            self.off_until = Some(now + GSO_RETRY_AFTER);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, SocketAddr};
    use std::time::Duration;

    use super::*;
    use crate::dataplane::messages::Endpoint;
    use crate::host::netlink::Netlink;
    use crate::lab::Host;
    use crate::sys::clock;
    use crate::sys::udp::{RecvBatch, UdpOptions};
    use crate::wire::SessionIndex;

    const SESSION: SessionIndex = SessionIndex(1);
    const LINK_MTU: u32 = 1500;
    /// A datagram that does not fit the link.
    const LARGE: usize = 2000;

    /// A link whose datagrams come back to it through a small loopback interface.
    struct Looped {
        link: Link,
        address: SocketAddr,
        counters: Arc<WorkerCounters>,
        now: Instant,
    }

    impl Looped {
        fn new() -> Self {
            let host = Host::create("looped").unwrap();
            let socket = host.run(|| {
                let mut netlink = Netlink::open().unwrap();
                let loopback = netlink.link_index("lo").unwrap();
                netlink.set_mtu(loopback, LINK_MTU).unwrap();
                let any_port = (Ipv4Addr::LOCALHOST, 0).into();
                UdpSocket::bind(any_port, &UdpOptions::default()).unwrap()
            });
            let socket = socket.unwrap();
            let (address, counters) = (socket.local_addr(), Arc::<WorkerCounters>::default());
            let link = Link::new(socket, true, Arc::clone(&counters));
            Self { link, address, counters, now: clock::now() }
        }

        /// Sends datagrams of `len` bytes as one train, from `source`; returns the calls it took.
        fn send(
            &mut self,
            datagrams: usize,
            len: usize,
            source: Option<IpAddr>,
        ) -> (u64, SendOutcome) {
            self.send_train(&vec![len; datagrams], source)
        }

        fn send_train(&mut self, lens: &[usize], source: Option<IpAddr>) -> (u64, SendOutcome) {
            let mut trains = TrainBuilder::new();
            let endpoint = Endpoint { remote: self.address, local: source, listener: 0 };
            for &len in lens {
                trains.slot(len).unwrap().fill(7);
                trains.commit(len, SESSION, &endpoint, 0);
            }
            assert_eq!(trains.trains().len(), 1);
            let before = self.counters.udp_sends.get();
            let outcome = self.link.send(self.now, &mut trains);
            assert!(trains.is_empty() && !self.link.blocked);
            (self.counters.udp_sends.get() - before, outcome)
        }

        /// The lengths of all datagrams that have come back: over loopback they are there at once.
        fn received(&self) -> Vec<usize> {
            let mut batch = RecvBatch::new(8, 4096);
            let mut lengths = Vec::new();
            while batch.receive(&self.link.socket).is_ok() {
                lengths.extend(batch.split().0.iter().map(|meta| meta.range.len()));
            }
            lengths
        }

        fn fallbacks(&self) -> u64 {
            self.counters.gso_fallbacks.get()
        }
    }

    #[test]
    fn after_a_refusal_trains_leave_singly_for_a_while_and_are_then_tried_again() {
        let mut looped = Looped::new();
        // The kernel cuts no train into datagrams that it would have to fragment, but sends those.
        looped.link.socket.allow_fragments().unwrap();
        assert_eq!(looped.send(3, LARGE, None).0, 2, "one refused, one for the datagrams");
        assert_eq!(looped.fallbacks(), 3);
        assert_eq!(looped.send(4, LARGE, None).0, 1, "not tried again");
        assert_eq!(looped.fallbacks(), 7);
        assert_eq!(looped.send(1, LARGE, None).0, 1);
        assert_eq!(looped.fallbacks(), 7, "a single datagram falls back from nothing");
        looped.now += GSO_RETRY_AFTER - Duration::from_millis(1);
        assert_eq!(looped.send(2, LARGE, None).0, 1, "not yet");
        looped.now += Duration::from_millis(1);
        assert_eq!(looped.send(2, LARGE, None).0, 2, "tried again");
        assert_eq!(looped.send(2, LARGE, None).0, 1, "and given up again");
        looped.now += GSO_RETRY_AFTER;
        assert_eq!(looped.send(2, 1000, None).0, 1, "tried again");
        assert_eq!(looped.fallbacks(), 13, "and taken");
        assert_eq!(looped.received(), [vec![LARGE; 14], vec![1000; 2]].concat());
        assert_eq!(looped.counters.drops.get(DropReason::SendFailed), 0);
    }

    #[test]
    fn datagrams_that_are_too_big_do_not_tell_against_trains() {
        let mut looped = Looped::new();
        let (_, outcome) = looped.send(3, LARGE, None);
        assert_eq!(outcome.too_big, Some((SESSION, LARGE - DATA_OVERHEAD_LEN)));
        assert_eq!(looped.counters.drops.get(DropReason::SendFailed), 3);
        assert_eq!(looped.send(3, 1000, None), (1, SendOutcome::default()));
        assert_eq!(looped.fallbacks(), 0);
        assert_eq!(looped.received(), [1000; 3]);
    }

    #[test]
    fn a_probe_that_does_not_fit_takes_no_data_along() {
        let mut looped = Looped::new();
        let (_, outcome) = looped.send_train(&[LARGE, 1000], None);
        assert_eq!(outcome.too_big, Some((SESSION, LARGE - DATA_OVERHEAD_LEN)));
        assert_eq!(looped.counters.drops.get(DropReason::SendFailed), 1, "the probe alone");
        assert_eq!(looped.received(), [1000]);
        assert_eq!(looped.send(2, 1000, None), (1, SendOutcome::default()), "trains go on");
    }

    #[test]
    fn a_source_that_is_gone_is_told_and_does_not_tell_against_trains() {
        let mut looped = Looped::new();
        let gone = IpAddr::from([198, 51, 100, 7]);
        let (_, outcome) = looped.send(3, 1000, Some(gone));
        assert_eq!(outcome.source_gone, Some((SESSION, gone)));
        let fallbacks = looped.fallbacks();
        assert_eq!(looped.send(3, 1000, None), (1, SendOutcome::default()));
        assert_eq!(looped.fallbacks(), fallbacks);
        assert_eq!(looped.received(), [1000; 6]);
    }

    #[test]
    fn a_train_is_at_fault_only_if_its_datagrams_are_taken() {
        use SendFaultKind::{Refused, SourceGone, TooBig, TrainRefused};
        type Faults = &'static [(usize, SendFaultKind)];
        // (faults by message, blocked, trains go on)
        let table: &[(Faults, bool, bool)] = &[
            /*  1 */ (&[], false, true),
            /*  2 */ (&[(0, TrainRefused)], false, false),
            /*  3 */ (&[(0, TrainRefused), (0, TooBig { datagram_len: 1 })], false, true),
            /*  4 */ (&[(0, TrainRefused), (0, SourceGone)], false, true),
            /*  5 */ (&[(0, TrainRefused), (0, Refused)], false, true),
            /*  6: of another message */
            (&[(0, TrainRefused), (1, TooBig { datagram_len: 1 })], false, false),
            /*  7: both at fault      */
            (&[(0, TrainRefused), (1, TrainRefused)], false, false),
            /*  8: the first is       */
            (&[(0, TrainRefused), (1, TrainRefused), (1, Refused)], false, false),
            /*  9: neither is         */
            (
                &[
                    (0, TrainRefused),
                    (0, TooBig { datagram_len: 1 }),
                    (1, TrainRefused),
                    (1, TooBig { datagram_len: 1 }),
                ],
                false,
                true,
            ),
            /* 10: not known yet      */ (&[(0, TrainRefused)], true, true),
            /* 11: known of the first */
            (&[(0, TrainRefused), (1, TrainRefused)], true, false),
            /* 12: only singles       */
            (&[(0, Refused), (1, TooBig { datagram_len: 1 })], false, true),
        ];
        let now = clock::now();
        for (number, (faults, blocked, goes_on)) in (1..).zip(table) {
            let mut segmentation = Segmentation::default();
            for (index, kind) in *faults {
                segmentation.note(&SendFault {
                    index: *index,
                    kind: *kind,
                    errno: 0,
                    datagrams: 0,
                });
            }
            segmentation.conclude(now, *blocked);
            assert_eq!(segmentation.is_on(now), *goes_on, "row {number}");
            assert!(segmentation.is_on(now + GSO_RETRY_AFTER), "row {number}");
        }
    }
}
