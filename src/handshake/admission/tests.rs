use super::*;

const ALICE: Source = Source::V4([192, 0, 2, 1]);
const BOB: Source = Source::V4([192, 0, 2, 2]);

fn start() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "the one origin of this test's virtual time")]
    Instant::now()
}

/// Rates and bursts as the table below spells them out.
#[test]
fn limits_are_those_the_tables_assume() {
    assert_eq!((HANDSHAKES_PER_SOURCE_PPS, HANDSHAKES_PER_SOURCE_BURST), (20, 5));
    assert_eq!(PER_SOURCE.token, Duration::from_millis(50));
    assert_eq!(PER_SOURCE.fill, Duration::from_millis(250));
    assert_eq!((HANDSHAKES_UNPROVED_PPS, HANDSHAKES_UNPROVED_BURST), (256, 256));
    assert_eq!(UNPROVED.fill, Duration::from_secs(1));
}

#[test]
fn bucket_truth_table() {
    // (milliseconds since the start, a token was there)
    let table = [
        /*  1 */ (0, true),
        /*  2 */ (0, true),
        /*  3 */ (0, true),
        /*  4 */ (0, true),
        /*  5: the burst      */ (0, true),
        /*  6: and no more    */ (0, false),
        /*  7: not yet        */ (49, false),
        /*  8: one came back  */ (50, true),
        /*  9 */ (50, false),
        /* 10: and another    */ (100, true),
        /* 11 */ (149, false),
        /* 12: two came back  */ (200, true),
        /* 13 */ (200, true),
        /* 14 */ (200, false),
        /* 15: clock went back*/ (100, false),
        /* 16: never over full*/ (60_000, true),
        /* 17 */ (60_000, true),
        /* 18 */ (60_000, true),
        /* 19 */ (60_000, true),
        /* 20 */ (60_000, true),
        /* 21 */ (60_000, false),
        /* 22 */ (60_249, true),
        /* 23 */ (60_249, true),
        /* 24 */ (60_249, true),
        /* 25 */ (60_249, true),
        /* 26: four in 249 ms */ (60_249, false),
    ];
    let origin = start();
    let mut buckets = BucketTable::new(16);
    for (number, (at_ms, granted)) in (1..).zip(table) {
        let now = origin + Duration::from_millis(at_ms);
        assert_eq!(buckets.take(now, ALICE), granted, "row {number}");
    }
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
fn forged(number: u32) -> Source {
    Source::V4((0x0a00_0000 + number).to_be_bytes())
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
    let source = |number| Source::V4([10, 0, 0, number]);
    for number in 0..3 {
        assert_eq!(limiter.admit(origin, source(number), || false), Admission::Admit);
    }
    assert_eq!(limiter.admit(origin, source(3), || false), Admission::Challenge);
    assert_eq!(limiter.admit(origin, source(3), || true), Admission::Admit);
    assert_eq!(limiter.admit(origin, source(0), || false), Admission::Admit, "known");

    // Entries lapse once their bucket is full; the table is searched for them once a second.
    let soon = origin + HANDSHAKE_SOURCES_SWEEP_EVERY - Duration::from_millis(1);
    assert_eq!(limiter.admit(soon, source(4), || false), Admission::Challenge);
    let later = origin + HANDSHAKE_SOURCES_SWEEP_EVERY;
    assert_eq!(limiter.admit(later, source(4), || false), Admission::Admit);
    assert_eq!(limiter.unproved.full_at.len(), 1);
}

#[test]
fn tables_never_outgrow_their_bound() {
    let origin = start();
    let mut limiter = SourceLimiter::with_room_for(8, origin);
    for number in 0..10_000u16 {
        let [high, low] = number.to_be_bytes();
        let now = origin + Duration::from_millis(u64::from(number));
        limiter.admit(now, Source::V4([10, 0, high, low]), || true);
        assert!(limiter.unproved.full_at.len() <= 8 && limiter.proved.full_at.len() <= 8);
    }
}

#[test]
fn a_source_is_an_ipv4_address_or_an_ipv6_slash_64() {
    let source = |text: &str| Source::from(text.parse::<IpAddr>().unwrap());
    assert_eq!(source("192.0.2.1"), ALICE);
    assert_eq!(source("::ffff:192.0.2.1"), ALICE, "IPv4 in IPv6 clothing");
    assert_ne!(source("192.0.2.2"), ALICE);
    assert_eq!(source("2001:db8:1:2::1"), source("2001:db8:1:2:ffff::9"));
    assert_ne!(source("2001:db8:1:2::1"), source("2001:db8:1:3::1"));
}
