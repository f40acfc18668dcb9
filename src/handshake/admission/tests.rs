use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::*;
use crate::limits::{
    HANDSHAKES_READ_AGAIN_BURST, HANDSHAKES_READ_AGAIN_PPS, HANDSHAKES_READ_BURST,
    HANDSHAKES_READ_PPS,
};

const ALICE: SocketAddr = v4(0xc000_0201);
const BOB: SocketAddr = v4(0xc000_0202);

const fn v4(address: u32) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::from_bits(address)), 4000)
}

/// A host of the subnet number `subnet` of a /48.
fn v6(subnet: u16) -> SocketAddr {
    SocketAddr::from(([0x2001, 0xdb8, 1, subnet, 0, 0, 0, 1], 4000))
}

fn start() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "the one origin of this test's virtual time")]
    Instant::now()
}

/// Rates and bursts as the tests below spell them out.
#[test]
fn limits_are_those_the_tests_assume() {
    assert_eq!((HANDSHAKES_PER_SOURCE_PPS, HANDSHAKES_PER_SOURCE_BURST), (20, 5));
    assert_eq!((HANDSHAKES_UNPROVED_PPS, HANDSHAKES_UNPROVED_BURST), (256, 256));
    assert_eq!((HANDSHAKES_PER_NETWORK_PPS, HANDSHAKES_PER_NETWORK_BURST), (256, 128));
}

#[test]
fn admission_truth_table() {
    use Admission::{Admit, Challenge, Refuse};
    // (milliseconds, brings a valid mac2, judgement): one source.
    let table = [
        /*  1: within the burst, no cookie needed */ (0, false, Admit),
        /*  2: a cookie does no harm              */ (0, true, Admit),
        /*  3 */ (0, false, Admit),
        /*  4 */ (0, false, Admit),
        /*  5 */ (0, false, Admit),
        /*  6: outrun, prove the address          */ (0, false, Challenge),
        /*  7: proved, the second bucket          */ (0, true, Admit),
        /*  8: the challenge is for each message  */ (0, false, Challenge),
        /*  9 */ (0, true, Admit),
        /* 10 */ (0, true, Admit),
        /* 11 */ (0, true, Admit),
        /* 12 */ (0, true, Admit),
        /* 13: proved, and over that rate too     */ (0, true, Refuse),
        /* 14: without a cookie still challenged  */ (0, false, Challenge),
        /* 15: the first bucket refills by itself */ (50, false, Admit),
        /* 16: so does the second                 */ (50, true, Admit),
        /* 17 */ (50, true, Refuse),
        /* 18: forgotten                          */ (10_000, false, Admit),
    ];
    let origin = start();
    let mut limiter = SourceLimiter::new(origin);
    for (number, (at_ms, proved, judgement)) in (1..).zip(table) {
        let now = origin + Duration::from_millis(at_ms);
        assert_eq!(limiter.admit(now, ALICE, || proved), judgement, "row {number}");
    }
}

/// The source number `number` of many.
fn forged(number: u32) -> SocketAddr {
    v4(0x0a00_0000 + number)
}

#[test]
fn a_flood_from_one_source_is_not_felt_by_another() {
    let origin = start();
    let mut limiter = SourceLimiter::new(origin);
    for tick in 0..100 {
        let now = origin + Duration::from_millis(100) * tick;
        for _ in 0..1000 {
            limiter.admit(now, ALICE, || false);
        }
        assert_eq!(limiter.admit(now, ALICE, || false), Admission::Challenge);
        let others = limiter.admit(now, forged(tick), || panic!("nobody asks for a cookie"));
        assert_eq!(others, Admission::Admit);
        let spent = limiter.budget_full_at.saturating_duration_since(now);
        assert!(spent <= UNPROVED.token * (HANDSHAKES_PER_SOURCE_BURST + 1), "{spent:?}");
    }
}

#[test]
fn many_unproved_sources_share_a_budget_that_proved_ones_do_not_need() {
    use Admission::{Admit, Challenge, Refuse};
    let origin = start();
    let mut limiter = SourceLimiter::new(origin);
    let at = |seconds: u64| origin + Duration::from_secs(seconds);
    let admitted = |limiter: &mut SourceLimiter, now, sources: std::ops::Range<u32>| {
        let judged = sources.map(|number| limiter.admit(now, forged(number), || false));
        judged.filter(|judgement| *judgement == Admit).count() as u32
    };
    assert_eq!(admitted(&mut limiter, at(0), 0..10_000), HANDSHAKES_UNPROVED_BURST);
    assert_eq!(limiter.unproved.full_at.len(), 256, "the others leave no trace");
    for _ in 0..5 {
        assert_eq!(limiter.admit(at(0), BOB, || false), Challenge);
        assert_eq!(limiter.admit(at(0), BOB, || true), Admit);
    }
    assert_eq!(limiter.admit(at(0), BOB, || true), Refuse, "its own rate");
    let one_more = origin + UNPROVED.token;
    assert_eq!(admitted(&mut limiter, one_more, 20_000..30_000), 1);
    assert_eq!(admitted(&mut limiter, at(60), 30_000..40_000), HANDSHAKES_UNPROVED_BURST);
}

#[test]
fn a_full_table_demands_a_cookie_of_sources_it_does_not_know() {
    let origin = start();
    let mut limiter = SourceLimiter::with_room_for(3, origin);
    for number in 0..3 {
        assert_eq!(limiter.admit(origin, forged(number), || false), Admission::Admit);
    }
    assert_eq!(limiter.admit(origin, forged(3), || false), Admission::Challenge);
    assert_eq!(limiter.admit(origin, forged(3), || true), Admission::Admit);
    assert_eq!(limiter.admit(origin, forged(0), || false), Admission::Admit, "known");

    // Room comes back as fast as tokens do.
    let soon = origin + PER_SOURCE.token - Duration::from_nanos(1);
    assert_eq!(limiter.admit(soon, forged(4), || false), Admission::Challenge);
    let later = origin + PER_SOURCE.token;
    assert_eq!(limiter.admit(later, forged(4), || false), Admission::Admit);
    assert_eq!(limiter.unproved.full_at.len(), 2, "the one that came twice, and the new one");
}

#[test]
fn tables_never_outgrow_their_bound() {
    let origin = start();
    let mut limiter = SourceLimiter::with_room_for(8, origin);
    for number in 0..10_000 {
        let now = origin + Duration::from_millis(number.into());
        limiter.admit(now, forged(number * 256), || true);
        let sizes = [limiter.unproved.sizes(), limiter.proved.sizes(), limiter.networks.sizes()];
        for (keys, lapses) in sizes {
            assert!(keys <= 8 && lapses == keys, "{keys} keys and {lapses} lapses");
        }
    }
    let later = origin + Duration::from_secs(20);
    limiter.admit(later, ALICE, || true);
    assert_eq!(limiter.unproved.sizes(), (1, 1), "what has lapsed is forgotten");
}

impl<K> BucketTable<K> {
    fn sizes(&self) -> (usize, usize) {
        (self.full_at.len(), self.lapses.len())
    }
}

/// As many as the gate lets in, from sources that prove their address and are all different.
#[test]
fn as_many_as_are_read_do_not_fill_the_tables() {
    const PER_MS: u32 = (HANDSHAKES_READ_PPS + HANDSHAKES_READ_AGAIN_PPS) / 1000;
    let origin = start();
    let mut limiter = SourceLimiter::new(origin);
    let mut number = 0;
    let burst = HANDSHAKES_READ_BURST + HANDSHAKES_READ_AGAIN_BURST;
    for ms in 0..1000 {
        let now = origin + Duration::from_millis(ms);
        for _ in 0..if ms == 500 { PER_MS + burst } else { PER_MS } {
            number += 256;
            assert_eq!(limiter.admit(now, forged(number), || true), Admission::Admit);
        }
        assert!(limiter.proved.sizes().0 < HANDSHAKE_SOURCES_MAX);
    }
}

/// A /48 has 65,536 /64s, which all prove their addresses: what they have together is bounded, and
/// others have what they had.
#[test]
fn a_network_of_many_proved_sources_has_a_rate() {
    use Admission::{Admit, Refuse};
    let origin = start();
    let mut limiter = SourceLimiter::new(origin);
    let mut admitted = 0;
    for ms in 0..4000_u32 {
        let now = origin + Duration::from_millis(ms.into());
        for number in 0..4 {
            let subnet = v6((ms * 4 + number) as u16);
            admitted += u32::from(limiter.admit(now, subnet, || true) == Admit);
        }
        let other = forged(ms * 256);
        assert_eq!(limiter.admit(now, other, || true), Admit, "{ms} ms");
    }
    // The unproved budget is shared by all, so some of it went to the network, too.
    let share = 4 * HANDSHAKES_PER_NETWORK_PPS + HANDSHAKES_PER_NETWORK_BURST;
    let unproved = 4 * HANDSHAKES_UNPROVED_PPS + HANDSHAKES_UNPROVED_BURST;
    assert!((share..=share + unproved).contains(&admitted), "{admitted}");
    let now = origin + Duration::from_millis(3999);
    assert_eq!(limiter.admit(now, v6(60_000), || true), Refuse);
    let mut v4_neighbours =
        (0..=255).map(|host| limiter.admit(now, v4(0xc612_0000 + host), || true));
    assert!(v4_neighbours.any(|judgement| judgement == Refuse), "a /24 is a network, too");
}

/// One source that outruns its own rate takes nothing from its network.
#[test]
fn a_source_does_not_use_up_what_its_network_has() {
    let origin = start();
    let mut limiter = SourceLimiter::new(origin);
    for ms in 0..1000 {
        let now = origin + Duration::from_millis(ms);
        for _ in 0..10 {
            limiter.admit(now, ALICE, || true);
        }
        if ms % 100 == 99 {
            assert_eq!(limiter.admit(now, BOB, || true), Admission::Admit, "{ms} ms");
        }
    }
}

/// A peer that asks from where it got its session is served whatever its neighbours do, behind the
/// same address even, as long as it proves that address; and not more often than others.
#[test]
fn neighbours_do_not_lock_a_peer_out() {
    use Admission::{Admit, Challenge, Refuse};
    let origin = start();
    let mut limiter = SourceLimiter::new(origin);
    let neighbour = SocketAddr::new(ALICE.ip(), 5000);
    limiter.add_regular(origin, ALICE.into());
    for ms in 0..2000_u32 {
        let now = origin + Duration::from_millis(ms.into());
        for host in 0..4 {
            limiter.admit(now, v4(0xc000_0210 + (ms * 4 + host) % 200), || true);
        }
        for _ in 0..3 {
            limiter.admit(now, neighbour, || true);
        }
        if ms % 100 == 99 {
            assert_eq!(limiter.admit(now, ALICE, || true), Admit, "{ms} ms");
        }
    }
    let now = origin + Duration::from_secs(3);
    let refused = (0..100).filter(|_| limiter.admit(now, neighbour, || true) == Refuse).count();
    assert!(refused > 80, "{refused}");
    assert_eq!(limiter.admit(now, ALICE, || false), Challenge);
    let admitted = (0..100).filter(|_| limiter.admit(now, ALICE, || true) == Admit).count();
    assert_eq!(admitted as u32, HANDSHAKES_PER_SOURCE_BURST);

    limiter.remove_regular(ALICE.into());
    assert_eq!(limiter.admit(now, ALICE, || true), Refuse, "it is no peer's any more");
}

#[test]
fn a_place_that_two_peers_have_asked_from_is_kept_for_the_second() {
    let origin = start();
    let mut limiter = SourceLimiter::new(origin);
    limiter.add_regular(origin, ALICE.into());
    limiter.add_regular(origin, ALICE.into());
    limiter.remove_regular(ALICE.into());
    assert!(limiter.regulars.take(origin, ALICE.into()));
    limiter.remove_regular(ALICE.into());
    assert!(!limiter.regulars.take(origin, ALICE.into()));
    limiter.remove_regular(ALICE.into());
    assert!(limiter.regulars.0.is_empty());
}
